"""`sana-lab plan`: which ways of drawing fit a card, with the code to paste."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ..commandline import SIZE, whole


def mount(parent: typer.Typer) -> None:
    """Add `plan` to a command line."""
    parent.command("plan")(_command)


def _command(
    vram: Annotated[
        str | None, typer.Option(help='The card\'s memory, "8GiB", or its name.  [default: what is free on this GPU]')
    ] = None,
    model: Annotated[str, typer.Option(help='"shapes", a Hub name such as "600M-512", or a folder.')] = "1600M-1024",
    pixels: Annotated[
        int | None, typer.Option(help="Width and height in pixels.  [default: the model's own]", callback=SIZE)
    ] = None,
    pictures: Annotated[int, typer.Option(help="Pictures drawn at once.", callback=whole(1, 1024))] = 1,
    have_ram: Annotated[str | None, typer.Option(help='Memory of the host, such as "16GiB".')] = None,
    way: Annotated[str | None, typer.Option(help="Print the code of this way alone.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False,
) -> None:
    """The ways to draw with a model that fit a card, fastest first, each with its peak and how well that is known.

    A second table has each way's peak on the GPU by stage, and the host's memory while loading. The code of the first
    way follows; --way NAME prints that of another. Nothing is downloaded and nothing is drawn.
    The exit status is 1 if nothing fits.
    """
    from .planner import plan
    from .ways import find

    asked = None if way is None else find(way)
    found = plan(model, vram, pixels=pixels, pictures=pictures, have_ram=have_ram)
    if asked is not None:
        choice = next(choice for choice in found.choices if choice.way == asked.name)
        typer.echo(f"# {choice.title}: {choice.peak / 2**30:.2f} GiB, {choice.known}\n{choice.code}")
    else:
        typer.echo(json.dumps(found.to_json(), indent=1) if as_json else found.whole())
    if not found.fits:
        raise typer.Exit(1)
