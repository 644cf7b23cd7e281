"""A few prompts, one batch, one process."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from ..checkpoints import Source, resolve
from ..evidence.journal import must_be_writable
from . import drawing
from .prompts import slug

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def run(
    prompts: list[str],
    *,
    model: str | Path | Source,
    precision: str,
    steps: int | None,
    guidance: float,
    seed: int,
    size: int | None,
    out: Path,
    gpus: int,
    vram: str,
    virtual: bool | None,
    say: Callable[[str], None],
) -> list[Path]:
    """Draw the prompts in one batch and write the pictures: all or none.

    Args:
        prompts: what to draw; picture i starts from the noise of `seed` + i.
        model: what `load_sana` takes, as `precision`.
        precision: see there.
        steps: denoising steps, or the pipeline's own.
        guidance: strength of the prompt.
        seed: of the first picture.
        size: width and height in pixels, or the model's own.
        out: a folder, or one file.
        gpus: what `use_accelerator` takes, as `vram` and `virtual`.
        vram: see there.
        virtual: see there.
        say: takes a line of warning.

    Returns:
        The files.

    Raises:
        ValueError: bad input.
        OSError: nothing can be written, or the model's files are missing.
        RuntimeError: what `use_accelerator` and `load_sana` raise, or too little memory.

    Chapter 1.
    """
    if any(not prompt.strip() for prompt in prompts):
        raise ValueError('the prompt is empty: say what to draw, as in "a small red star on a white background".')
    drawing.check(steps, guidance, seed, size)
    places = files(out, prompts, seed)

    from .. import use_accelerator

    use_accelerator(gpus=gpus, vram=vram, virtual=virtual)
    source = resolve(model)
    pipe = drawing.load(source, precision, say)
    drawing.warn_of_unknown_words(source, prompts, say)
    pipe.set_progress_bar_config(desc="drawing", unit="step", leave=False)
    seeds = range(seed, seed + len(prompts))
    with drawing.hushed():
        size = size or drawing.own_size(pipe)
        pictures = drawing.draw(pipe, prompts, seeds, steps=steps, guidance=guidance, size=size)
    write(pictures, places)
    return places


def files(out: Path, prompts: list[str], seed: int) -> list[Path]:
    """Where to write the picture of each prompt.

    Raises:
        ValueError: `out` does not fit the number of prompts.
        OSError: nothing can be written there.
    """
    if out.is_dir() or not out.suffix:
        places = [out / f"{seed + i}-{slug(prompt)}.png" for i, prompt in enumerate(prompts)]
    elif out.suffix.lower() not in SUFFIXES:
        raise ValueError(f"--out {out}: a picture's name ends in {', '.join(SUFFIXES)}; a folder's has no dot.")
    elif len(prompts) > 1:
        raise ValueError(f"--out {out} is one file for {len(prompts)} prompts: give a folder.")
    else:
        places = [out]
    must_be_writable(out, places[0].parent)
    return places


def write(pictures: list, places: list[Path]) -> None:
    """Write all pictures or none: into a scratch folder beside their places, then each to its place in one step."""
    folder = places[0].parent
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".sana-lab-", dir=folder) as scratch:
        for picture, file in zip(pictures, places, strict=True):
            picture.save(Path(scratch) / file.name)
        for file in places:
            (Path(scratch) / file.name).replace(file)
