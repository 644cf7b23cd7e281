"""`sana-lab failures` and `sana-lab explain`. `mount(app)` adds both to a typer app."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..commandline import EITHER_GPU, say, whole
from ..commandline import app as new_app

app = new_app("The catalogue of known failures.", no_args_is_help=True)


def mount(parent: typer.Typer) -> None:
    """Add `failures` and `explain` to a command line."""
    parent.add_typer(app, name="failures")
    parent.command()(explain)


@app.command("list")
def list_(
    family: Annotated[str | None, typer.Option(help="List only this family.")] = None,
    live: Annotated[bool, typer.Option("--live", help="List only those that can be run here.")] = False,
) -> None:
    """All failures by family, with what each needs."""
    from . import FAMILIES

    names = [known.name for known in FAMILIES]
    if family is not None and family not in names:
        raise ValueError(f"there is no family {family!r}: choose from {', '.join(names)}.")
    for known in FAMILIES:
        chosen = [failure for failure in known.failures if failure.evidence == "live" or not live]
        if chosen and family in (None, known.name):
            typer.echo(f"{known.title} ({known.name})")
            for failure in chosen:
                mark = "run" if failure.evidence == "live" else "   "
                typer.echo(f"  {mark}  {failure.id:42}  {failure.title}")
            typer.echo("")


@app.command()
def show(id: Annotated[str, typer.Argument(metavar="ID", help="As `list` prints it.")]) -> None:
    """All about one failure: messages, cause, versions, reproduction, fixes, references."""
    from . import get
    from .search import describe

    typer.echo(describe(get(id)))


@app.command()
def run(
    id: Annotated[str, typer.Argument(metavar="ID", help="As `list` prints it.")],
    fix: Annotated[bool, typer.Option("--fix", help="Run the fix instead of the failure.")] = False,
    number: Annotated[int, typer.Option(help="Which fix, where there are several.", callback=whole(1, 100))] = 1,
    virtual: Annotated[bool | None, EITHER_GPU] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The whole outcome as JSON.")] = False,
) -> None:
    """Make a failure happen, or run its fix, in a process of its own.

    The exit status is 0 if what was to be shown was shown: the failure as described, or a fix that runs to its end.
    """
    from . import get
    from . import run as run_one

    failure = get(id)
    outcome = run_one(id, number if fix else None, virtual=virtual)
    typer.echo(json.dumps(outcome.to_json(), indent=1) if as_json else str(outcome))
    if not (failure.cured_in(outcome) if fix else failure.shown_in(outcome)):
        say("this is not what the catalogue says; see `sana-lab failures show`.")
        raise typer.Exit(1)


def explain(
    message: Annotated[
        str | None,
        typer.Argument(metavar="[MESSAGE|FILE]", help="What was printed, or a file of it. Left out, or -: from stdin."),
    ] = None,
) -> None:
    """Paste an error message or a whole traceback: cause, versions, and the fix as code.

    For example `python script.py 2>&1 | sana-lab explain`, or `sana-lab explain error.txt`. The answer is about the
    last error. The exit status is 1 if that is not known, whatever else is known of the text.
    """
    from . import explain as explain_text
    from .paste import decode, is_binary

    if message in (None, "-"):
        if sys.stdin.isatty():
            typer.echo("Paste the message or the traceback, then press Ctrl-D.", err=True)
        data = sys.stdin.buffer.read()
        if is_binary(data):
            typer.echo("No entry: what came in is binary, not text.")
            raise typer.Exit(1)
        message = decode(data)
    else:
        message = _file(message) or message
    found = explain_text(message)
    typer.echo(str(found))
    if not found:
        raise typer.Exit(1)


def _file(name: str) -> str:
    """What is in the file of this name, `""` if it is a message and no name.

    Raises:
        ValueError: the file cannot be explained, or there is none and the name cannot be anything else.
    """
    from .paste import decode, is_binary

    if len(name) > 4096 or "\n" in name or "\0" in name:
        return ""
    path = Path(name).expanduser()
    try:
        there, folder = path.is_file(), path.is_dir()
        data = path.read_bytes() if there else b""
    except OSError as error:
        raise ValueError(f"{name} cannot be read ({error.strerror}).") from None
    if there and not data.strip():
        raise ValueError(f"{name} is empty: give a file with the message in it, or the message itself.")
    if there and is_binary(data):
        raise ValueError(f"{name} is binary, not text: give the log or the traceback that the program printed.")
    if there:
        return decode(data)
    if folder and ("/" in name or "\\" in name):
        raise ValueError(f"{name} is a folder: give a file of it, or the message itself.")
    if re.fullmatch(r"\S+\.(?:txt|log|out|err|md|json|ipynb|html?)", name):
        raise ValueError(f"there is no file {name} here: give the path of one, or the message itself.")
    return ""
