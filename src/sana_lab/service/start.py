"""The check before a service begins: what would fail later is refused now, with all reasons at once."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

from ..generate import drawing
from ..guard import NotReady, checked
from ..placements import placement
from ..versions.doctor import of_versions
from .pictures import wrong_with

P = TypeVar("P")

PROMPT = "a red star on a white background"
STEPS = 2
"""Steps enough to see that something is no picture: a NaN is there after the first."""


def start_up(
    pipe: P,
    *,
    pixels: int | None = None,
    eight_bit: tuple[str, ...] | None = None,
    versions: bool = True,
    prompt: str = PROMPT,
) -> P:
    """Return a pipeline that is fit to begin, or say everything that is wrong with it.

    In this order, the cheap first: library versions are compared with what was measured; places, 8-bit layers and types
    of all parts are looked at (`checked`); a small piece is decoded to know what decoding a whole picture takes, and
    that must be free; one picture is drawn in two steps and must be one.

    Args:
        pipe: a Sana pipeline.
        pixels: width and height of the pictures of the service; by default the model's own.
        eight_bit: as for `checked`.
        versions: look at the versions, too.
        prompt: of the picture.

    Raises:
        NotReady: something is wrong; the text has a line for each thing.
        TypeError: it is no pipeline.

    Chapter 13.
    """
    problems = []
    if versions:
        problems += [f"{one.name}: {one.text}. {one.fix}" for one in of_versions() if one.status == "FAIL"]
    try:
        checked(pipe, eight_bit=eight_bit, types=True)
    except NotReady as reason:
        raise NotReady([*problems, *reason.problems]) from None
    size = pixels or drawing.own_size(pipe)
    try:
        checked(pipe, room=decode_room(pipe, size))
    except NotReady as reason:
        problems += reason.problems
    except torch.cuda.OutOfMemoryError as error:
        problems.append(f"vae: not even a small piece can be decoded: {_first_line(error)}")
    if not problems:
        problems += look(pipe, size, prompt)
    if problems:
        raise NotReady(problems)
    return pipe


def look(pipe: Any, pixels: int, prompt: str = PROMPT) -> list[str]:
    """Draw one picture in two steps and look at it: what is wrong, a sentence each."""
    try:
        picture = draw(pipe, prompt, seed=0, pixels=pixels, steps=STEPS)
    except Exception as error:
        return [f"the first picture raises {type(error).__name__}: {_first_line(error)}"]
    wrong = wrong_with(picture)
    return [f"the first picture: {wrong}; types that overflow or damaged weights make such"] * bool(wrong)


def draw(pipe: Any, prompt: str, *, seed: int, pixels: int, steps: int | None, **more: Any) -> torch.Tensor:
    """A picture as a tensor (3, height, width) of numbers from 0 to 1, NaN included, from the noise of its seed."""
    if steps is not None:
        more["num_inference_steps"] = steps
    noise = torch.Generator("cpu").manual_seed(seed)
    size = {"height": pixels, "width": pixels, "use_resolution_binning": False}
    return pipe(prompt, generator=noise, output_type="pt", **size, **more).images[0]


def decode_room(pipe: Any, pixels: int, pictures: int = 1) -> int:
    """Bytes beside the weights that decoding takes, found by decoding a piece and not the whole.

    The autoencoder is made of convolutions and linear attention, whose memory grows with the area. A sixteenth of it is
    decoded and multiplied. In tiles, the tile is the whole.

    Args:
        pipe: a Sana pipeline.
        pixels: width and height.
        pictures: at once.

    Returns:
        Bytes; 0 where the autoencoder is not on a GPU.

    Raises:
        torch.cuda.OutOfMemoryError: there is no room for the piece.
        TypeError: it is no Sana pipeline.

    Chapter 13.
    """
    vae = getattr(pipe, "vae", None)
    if not isinstance(vae, nn.Module) or not hasattr(pipe, "vae_scale_factor"):
        raise TypeError(f"decode_room needs a pipeline with an autoencoder, got {type(pipe).__name__}")
    where = placement(pipe).inputs
    if torch.device(where).type != "cuda":
        return 0
    tile = getattr(vae, "tile_sample_min_height", pixels) if getattr(vae, "use_tiling", False) else pixels
    side = min(pixels, tile) // pipe.vae_scale_factor
    small = max(1, side // 4)
    weights = 0 if any(t.is_cuda for t in vae.parameters()) else sum(t.nbytes for t in vae.parameters())
    latents = torch.zeros(1, vae.config.latent_channels, small, small, device=where, dtype=pipe.vae.dtype)
    before = torch.cuda.memory_allocated(where)
    torch.cuda.reset_peak_memory_stats(where)
    with torch.no_grad():
        vae.decode(latents, return_dict=False)
    extra = max(0, torch.cuda.max_memory_allocated(where) - before - weights)
    finished = 2 * 3 * pixels**2 * 4 * pictures  # as it comes, and made floats from 0 to 1
    return weights + int(extra * (side / small) ** 2 * (pictures if tile == pixels else 1)) + finished


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200]
