"""What `sana-lab train` does: the numbers of a run, each checked for its range. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from dataclasses import field as dataclass_field
from typing import Any


def _number(default: Any, least: float, most: float, help: str) -> Any:
    return dataclass_field(default=default, metadata={"least": least, "most": most, "help": help})


@dataclass
class Plan:
    """What a run does; every number that shapes the result is here and is written beside the weights.

    Batches count pictures on one device. The two step counts fix the learning-rate schedules.

    Raises:
        ValueError: a number is out of its range; the text says what would do.
    """

    seed: int = _number(0, 0, 2**32 - 1, "Of weights, scenes and noise.")
    autoencoder_steps: int = _number(2200, 1, 10**9, "Of the autoencoder's training.")
    autoencoder_batch: int = _number(32, 1, 10**5, "Pictures on one device.")
    autoencoder_lr: float = _number(1.2e-3, 1e-12, 10, "Peak of its learning rate.")
    latent_noise: float = _number(
        0.3, 0, 100, "Up to so much noise, in units of the latent's spread, the decoder learns to live with."
    )
    latent_penalty: float = _number(1e-4, 0, 100, "Keeps the latent small, so that the noise counts.")
    probe_weight: float = _number(
        0.5, 0, 100, "A linear map of each latent cell must give that patch at 4 x 4 pixels: smooth latents."
    )
    bank: int = _number(80_000, 1, 10**8, "Encoded pictures on one device.")
    sentences: int = _number(6, 1, 1000, "Ways to ask for each of them.")
    transformer_steps: int = _number(12_000, 1, 10**9, "Of the training of transformer and text encoder.")
    transformer_batch: int = _number(512, 1, 10**5, "Pictures on one device.")
    transformer_lr: float = _number(1e-3, 1e-12, 10, "Peak of their learning rate.")
    text_tokens: int = _number(
        27, 1, 298, "Prompt tokens kept in training; the longest sentence of the grammar has 25."
    )
    two_objects: float = _number(0.65, 0.01, 1, "Share of pictures with two objects.")
    no_text: float = _number(0.1, 0, 1, "Share of empty prompts, for classifier-free guidance.")
    with_instruction: float = _number(0.7, 0, 1, "Share of batches with the pipeline's instruction before the prompt.")
    flow_shift: float = _number(3.0, 0.01, 100, "How much of the training is at high noise.")
    ema: float = _number(0.999, 0, 0.999_999_999, "Decay of the averaged weights.")
    save_every: int = _number(1000, 1, 10**9, "Steps between checkpoints.")

    def __post_init__(self) -> None:
        """Check that every number is in its range."""
        for field in fields(self):
            value, least, most = getattr(self, field.name), field.metadata["least"], field.metadata["most"]
            if not least <= value <= most:
                kind = "a whole number" if isinstance(field.default, int) else "a number"
                raise ValueError(f"{field.name} = {value}: give {kind} from {least:,.15g} to {most:,.15g}")
