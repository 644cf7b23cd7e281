"""`sana-lab compare`: two ways of drawing the same prompts, or two folders of pictures, held side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..commandline import EITHER_GPU, GUIDANCE, SEED, SIZE, STEPS, goes_on, names, say

ALONE = ("model", "steps", "guidance", "seed", "pixels", "vram", "virtual")
"""Options that say how to draw, which two folders do not take."""


def mount(parent: typer.Typer) -> None:
    """Add `compare` to a command line."""
    parent.command("compare", options_metavar="--prompts FILE [OPTIONS]")(_command)


def _command(
    first: Annotated[str, typer.Argument(metavar="A", help='A way, such as "16-bit" or "int8"; or a folder.')],
    second: Annotated[str, typer.Argument(metavar="B", help="The other way, or the other folder.")],
    prompts: Annotated[Path | None, typer.Option(help="A file of prompts: one a line, or JSON lines.")] = None,
    model: Annotated[
        str | None, typer.Option(help='A Hub name such as "600M-512", or a folder.  [default: shapes]')
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder for all that is written.  [default: A-and-B]"),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.  [default: the model's]", callback=STEPS)] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Strength of the prompt.  [default: 4.5]", callback=GUIDANCE)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Picture i starts from the noise of seed + i.  [default: 0]", callback=SEED)
    ] = None,
    pixels: Annotated[
        int | None, typer.Option(help="Width and height in pixels.  [default: the model's own]", callback=SIZE)
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help="Some of psnr,ssim,lpips,clip.  [default: all that are available]")
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(help="Model of the CLIP score, Hub name or folder.  [default: openai/clip-vit-large-patch14]"),
    ] = None,
    vram: Annotated[str | None, typer.Option(help="Memory of the virtual GPU.  [default: 16GiB]")] = None,
    virtual: Annotated[bool | None, EITHER_GPU] = None,
) -> None:
    """Hold two ways of drawing side by side: PSNR, SSIM, LPIPS and CLIP score of pairs, a contact sheet, a page.

    A and B are ways to have a pipeline, as `load_sana` and `sana-lab plan` name them: 16-bit, recipe, slim, fast, fp8,
    nf4, 16-bit-drop, ... Both draw every prompt from the same noise. Stopped, the same command goes on.

    Or A and B are two folders of pictures with the same names; --prompts is then for the CLIP score and the captions,
    and is read from the pictures where `sana-lab generate --prompts` drew them.

    LPIPS and the CLIP score need weights that are downloaded once. What is downloaded is said before; without a network
    they are left out. Every pair tells how far two ways are apart, and no measure tells which of them is better, but
    CLIP's, which sees how a picture fits its prompt.
    """
    from .run import between, folders

    chosen = None if metrics is None else names("--metrics", metrics)
    drawing: dict[str, Any] = {
        "model": model, "steps": steps, "guidance": guidance, "seed": seed, "pixels": pixels, "vram": vram,
        "virtual": virtual,
    }  # fmt: skip
    common: dict[str, Any] = {"metrics": chosen, "say": say} | ({} if clip is None else {"clip": clip})
    if _is_folder(first) and _is_folder(second):
        given = [f"--{name}" for name in ALONE if drawing[name] is not None]
        if given:
            raise ValueError(f"{given[0]} says how to draw, and {first} and {second} are drawn already: leave it out.")
        lines = folders(Path(first), Path(second), prompts, out=out or _place(first, second), **common)
    else:
        given = {name: value for name, value in drawing.items() if value is not None}
        with goes_on():
            lines = between(first, second, prompts, out=out or _place(first, second), **common, **given)
    for line in lines:
        typer.echo(line)


def _is_folder(word: str) -> bool:
    """Whether a word means a folder: there is one, and it is no way's name, which `./` before it makes clear."""
    from .ways import NAMES, SAME

    return word not in (*NAMES, *SAME) and Path(word).is_dir()


def _place(first: str, second: str) -> Path:
    return Path(f"{Path(first).name or 'a'}-and-{Path(second).name or 'b'}")
