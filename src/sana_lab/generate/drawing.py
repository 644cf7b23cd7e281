"""What drawing a few and drawing many have in common: options held to their range, the pipeline, one batch."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusers import SanaPipeline
    from PIL.Image import Image


def check(steps: int | None, guidance: float, seed: int, size: int | None) -> None:
    """Hold the numbers to their range.

    Raises:
        ValueError: one is out of it.
    """
    if steps is not None and steps < 1:
        raise ValueError(f"--steps {steps}: give 1 or more; 20 is usual.")
    if not (math.isfinite(guidance) and guidance >= 0):
        raise ValueError(f"--guidance {guidance}: give a number from 0 up; 4.5 is usual.")
    if not 0 <= seed < 2**63:
        raise ValueError(f"--seed {seed}: give a whole number from 0 up to 2**63 - 1.")
    if size is not None and (size < 32 or size % 32):
        raise ValueError(f"--size {size}: give a multiple of 32, such as 512.")


def warn_of_unknown_words(model: str, prompts: Sequence[str], say: Callable[[str], None]) -> None:
    """Name the words that the Shapes model never saw."""
    from ..shapes import describe_unknown_words

    unknown = dict.fromkeys(w for p in prompts for w in describe_unknown_words(p)) if model == "shapes" else ()
    if unknown:
        say(f"warning: the Shapes model never saw these words and will guess: {', '.join(unknown)}")


def load(model: str, precision: str, say: Callable[[str], None], device: str | None = None) -> SanaPipeline:
    """A pipeline, its warnings said in a line each, and silent from then on but for its progress bar.

    Raises:
        ValueError, RuntimeError, OSError: what `load_sana` raises.
    """
    from ..sana import load_sana

    with warnings.catch_warnings(record=True) as caught:
        pipe = load_sana(model, precision, device)
    for warning in caught:
        if warning.category is UserWarning:
            say(f"warning: {warning.message}")
    # bitsandbytes tells of a cast to fp16 at every 8-bit product: a log line in 0.50, a warning before.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="MatMul8bitLt")
    return pipe


def draw(
    pipe: SanaPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int | None,
    guidance: float,
    size: int | None,
) -> list[Image]:
    """Draw prompts in one batch, each from the noise of its own seed."""
    import torch

    size = size or pipe.transformer.config.sample_size * pipe.vae_scale_factor
    return pipe(
        list(prompts),
        **({} if steps is None else {"num_inference_steps": steps}),
        guidance_scale=guidance,
        height=size,
        width=size,
        # On the CPU, where the same seed is the same noise whatever the GPU.
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
    ).images
