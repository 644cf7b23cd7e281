"""What everything that draws shares: the check of options, the pipeline, one batch from the noise of its seeds."""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import SanaPipeline

    from ..checkpoints import Source

_END_OF_PNG = b"\0\0\0\0IEND\xaeB`\x82"


def check(steps: int | None, guidance: float, seed: int, size: int | None) -> None:
    """Check that the numbers are in their range.

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


def warn_of_unknown_words(source: Source, prompts: Sequence[str], say: Callable[[str], None]) -> None:
    """Name the words that the Shapes model never saw."""
    from ..shapes import describe_unknown_words

    unknown = dict.fromkeys(w for p in prompts for w in describe_unknown_words(p)) if source.model == "shapes" else ()
    if unknown:
        say(f"warning: the Shapes model never saw these words and will guess: {', '.join(unknown)}")


def load(
    model: str | Path | Source, precision: str, say: Callable[[str], None], device: str | None = None
) -> SanaPipeline:
    """A pipeline, its warnings said in a line each. Draw with it in `hushed`.

    Raises:
        ValueError, RuntimeError, OSError: what `load_sana` raises.
    """
    from ..sana import load_sana

    with warnings.catch_warnings(record=True) as caught:
        pipe = load_sana(model, precision, device)
    for warning in caught:
        if warning.category is UserWarning:
            say(f"warning: {warning.message}")
    return pipe


@contextmanager
def hushed() -> Iterator[None]:
    """Silence what bitsandbytes says of a cast to fp16 at every 8-bit product: a log line in 0.50, a warning before."""
    log = logging.getLogger("bitsandbytes")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="MatMul8bitLt")
            yield
    finally:
        log.setLevel(level)


def own_size(pipe: SanaPipeline) -> int:
    """Width and height that the model was trained for, in pixels."""
    return pipe.transformer.config.sample_size * pipe.vae_scale_factor


def draw(
    pipe: SanaPipeline,
    prompts: Sequence[str] | Mapping[str, Any],
    seeds: Sequence[int],
    *,
    steps: int | None = None,
    guidance: float | None = None,
    size: int | None = None,
    output: str = "pil",
) -> Any:
    """Draw prompts in one batch, the picture of each from the noise of its seed alone.

    Args:
        pipe: draws.
        prompts: one a picture; or arguments of the pipeline's call in their place, such as embeddings.
        seeds: likewise.
        steps: of denoising.
        guidance: strength of the prompt.
        size: width and height in pixels. For this as for the two above, None is the pipeline's default.
        output: "pil" or "pt", as for the pipeline.

    Returns:
        PIL pictures; or a tensor (n, 3, height, width) of numbers from 0 to 1 on the pipeline's device.
    """
    import torch

    given = {"num_inference_steps": steps, "guidance_scale": guidance, "height": size, "width": size}
    # On the CPU, where the same seed is the same noise whatever the GPU.
    noise = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    given = {name: value for name, value in given.items() if value is not None}
    if isinstance(prompts, Mapping):
        return pipe(**prompts, generator=noise, output_type=output, **given).images
    return pipe(list(prompts), generator=noise, output_type=output, **given).images


def read_png(path: Path) -> tuple[bool, dict[str, Any]] | None:
    """Whether a PNG file is whole, and the texts that it keeps about itself; None if there is no file.

    Only its ends are read: the last bytes say that nothing was cut off.

    Raises:
        OSError: it cannot be read.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - len(_END_OF_PNG)))
            whole = file.read() == _END_OF_PNG
        with Image.open(path) as picture:
            return whole, dict(picture.info)  # info, not text, which would decode the picture
    except FileNotFoundError:
        return None
    except (UnidentifiedImageError, SyntaxError):
        return False, {}


def not_from_here(path: Path) -> ValueError:
    """The refusal of a picture that somebody else put where one of a run belongs."""
    return ValueError(f"{path} is not from here: it does not say how it was drawn. Move it, or give another --out.")
