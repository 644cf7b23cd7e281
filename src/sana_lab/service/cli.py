"""`sana-lab check`: ten lines about a script or a folder. `sana-lab serve`: deliver pictures, and survive."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .. import isolated
from ..commandline import EITHER_GPU, GUIDANCE, SECONDS, SEED_OF_NOISE, SIZE, STEPS, goes_on, say

LIMIT = 600.0
"""Seconds for the checklist."""


def mount(parent: typer.Typer) -> None:
    """Add `check` and `serve` to a command line."""
    parent.command("check")(_check)
    parent.command("serve")(_serve)


def check(
    place: str, *, pixels: int | None = None, limit: float = LIMIT, vram: str = "16GiB", virtual: bool | None = None
) -> list[dict]:
    """The ten lines about a script or a folder, asked in a process of its own.

    Args:
        place: a script, a folder, or a model's name.
        pixels: width and height of the pictures; by default the model's own.
        limit: seconds for all.
        vram: of a virtual GPU.
        virtual: what `use_accelerator` takes.

    Returns:
        Each line as `name`, `ok` and `why`.

    Raises:
        ValueError: it does not run, takes too long, or makes no pipeline.

    Chapter 13.
    """
    path = Path(place)
    if path.suffix == ".py" and not path.is_file():
        raise ValueError(f"{path} is no file: give a script, a folder with a pipeline, or a model's name.")
    if path.suffix != ".py":
        from ..checkpoints import resolve

        resolve(place)
    request = {"place": place, "pixels": pixels, "vram": vram, "virtual": virtual}
    with isolated.Worker(isolated.module(f"{__package__}.examine"), request, limit=limit) as worker:
        found = list(worker)
    if found and "refused" in found[0]:
        raise ValueError(found[0]["refused"])
    at = f"at line {len(found) + 1} of the list" if found else "before it had made a pipeline"
    if worker.late:
        raise ValueError(f"{place} took longer than {limit:g} seconds, {at}: it hangs, or give --limit more.")
    if worker.status:
        last = worker.words.strip().rpartition("\n")[2][:200]
        raise ValueError(f"{place} ended its process with status {worker.status}, {at}: {last or 'without a word'}")
    return found


def _check(
    place: Annotated[
        str, typer.Argument(metavar="SCRIPT", help="A script, a folder of a pipeline, or a model's name.")
    ],
    size: Annotated[
        int | None, typer.Option(help="Width and height of the pictures.  [default: the model's own]", callback=SIZE)
    ] = None,
    limit: Annotated[float, typer.Option(help="Seconds for all ten lines.", callback=SECONDS)] = LIMIT,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    vram: Annotated[str, typer.Option(help="Memory of a virtual GPU.")] = "16GiB",
    virtual: Annotated[bool | None, EITHER_GPU] = None,
) -> int:
    """Ask ten things of a pipeline before it goes into service. Exit status 1 if one of them is not so.

    A script makes a pipeline named `pipe`, or has a function load() that returns it, or a list WAYS of several.
    It runs in a process of its own.
    """
    from ..accelerator.session import parse_size
    from .lines import Line

    parse_size(vram)
    found = check(place, pixels=size, limit=limit, vram=vram, virtual=virtual)
    if as_json:
        typer.echo(json.dumps(found))
    else:
        for line in found:
            typer.echo(str(Line(**line)))
    return 0 if all(line["ok"] for line in found) else 1


def _serve(
    place: Annotated[
        str, typer.Argument(metavar="SCRIPT", help="A script, a folder of a pipeline, or a model's name.")
    ],
    prompts: Annotated[Path, typer.Option(help="A file of prompts: one a line, or JSON lines.")],
    out: Annotated[Path, typer.Option(help="Folder for pictures and log.")],
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps.  [default: the pipeline's own]", callback=STEPS)
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Strength of the prompt.  [default: the pipeline's own]", callback=GUIDANCE)
    ] = None,
    seed: Annotated[int, SEED_OF_NOISE] = 0,
    size: Annotated[
        int | None, typer.Option(help="Width and height in pixels.  [default: the model's own]", callback=SIZE)
    ] = None,
    patience: Annotated[
        float, typer.Option(help="Seconds without a step after which a process counts as hanging.", callback=SECONDS)
    ] = 120.0,
    vram: Annotated[str, typer.Option(help="Memory of a virtual GPU.")] = "16GiB",
    virtual: Annotated[bool | None, EITHER_GPU] = None,
) -> int:
    """Deliver a file of prompts and survive: too little memory, black pictures, processes that hang or die.

    The same command goes on where it was stopped. Exit status 1 if a picture had to be given up.
    """
    from ..accelerator.session import parse_size
    from ..generate.prompts import read
    from .supervisor import supervise

    parse_size(vram)
    wanted, warnings = read(prompts, seed)
    for warning in warnings:
        say(f"warning: {warning}")
    if Path(place).suffix != ".py":
        from ..checkpoints import resolve

        resolve(place)
    with goes_on():
        report = supervise(
            place, wanted, out, patience=patience, virtual=virtual, vram=vram, say=say, pixels=size, steps=steps,
            guidance=guidance,
        )  # fmt: skip
    typer.echo(f"{out}: {report}")
    return 1 if report.given_up else 0
