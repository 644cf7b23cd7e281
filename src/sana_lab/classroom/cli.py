"""`sana-lab learner`, `sana-lab progress` and `sana-lab grade`. `mount(app)` adds them to a typer app."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..commandline import PROCESSES, SECONDS, goes_on, integers
from ..messages import counted
from . import edition, grading
from . import progress as seen

BOOK = Path(__file__).resolve().parents[3] / "notebooks"
"""Where the chapters lie in a checkout."""

_Book = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Folder of the published chapters.  [default: this checkout's]")
]


def mount(parent: typer.Typer) -> None:
    """Add the three commands to a command line."""
    parent.command("learner")(learner)
    parent.command("progress")(progress)
    parent.command("grade", options_metavar="--out FOLDER [OPTIONS]")(grade)


def learner(
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to write to.")],
    book: _Book = None,
    nbgrader: Annotated[
        bool, typer.Option("--nbgrader", help="Write nbgrader's source, with solutions between its marks.")
    ] = False,
) -> None:
    """Write the chapters for learners: without solutions and outputs, with the checks.

    Again on the same folder, it renews chapters that nobody has touched and leaves the others alone.
    """
    written = edition.write(_book(book), out, nbgrader=nbgrader)
    typer.echo(f"{out}: {counted(len(written), 'chapter')} written")


def progress(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="One learner's folder, or one with all learners' folders.")
    ] = Path("."),
    book: _Book = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every exercise as JSON, for other programs.")] = False,
) -> None:
    """Show which exercises are passed, as the notebooks were saved. Nothing is run."""
    lines = seen.progress(folder, _book(book))
    if as_json:
        typer.echo(json.dumps([asdict(line) for line in lines], indent=1))
        return
    for name in dict.fromkeys(line.learner for line in lines):
        mine = [line for line in lines if line.learner == name]
        done = sum(line.state == seen.PASSED for line in mine)
        typer.echo(f"{name or folder}: {done} of {len(mine)} passed")
        for chapter in dict.fromkeys(line.chapter for line in mine):
            states = [line for line in mine if line.chapter == chapter]
            marks = {seen.PASSED: "+", seen.REFUSED: "-", seen.OPEN: "."}
            row = " ".join(f"{line.number}{marks.get(line.state, '?')}" for line in states)
            typer.echo(f"  {chapter:36} {row}")
    typer.echo("+ passed, - not yet, . not tried, ? damaged")


def grade(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder with all learners' folders.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for marks.csv and for what was found.")],
    book: _Book = None,
    only: Annotated[str | None, typer.Option(metavar="1,2", help="Numbers of chapters.  [default: all]")] = None,
    cell: Annotated[float, typer.Option(help="Seconds for a cell.", callback=SECONDS)] = grading.CELL,
    limit: Annotated[float, typer.Option(help="Seconds for a notebook.", callback=SECONDS)] = grading.NOTEBOOK,
    jobs: Annotated[int, typer.Option(help="Notebooks at a time.", callback=PROCESSES)] = 1,
) -> None:
    """Run what learners handed in and mark it: each notebook in a process of its own, by the book's own checks.

    What a notebook stores counts for nothing. Cells run with your rights: grade strangers' work in a container.
    A stopped run goes on where it stood.
    """
    with goes_on():
        chosen = () if only is None else integers("--only", only)
        found = grading.grade(folder, out, book=_book(book), only=chosen, cell=cell, limit=limit, jobs=jobs)
    for name in dict.fromkeys(each.learner for each in found):
        mine = [each for each in found if each.learner == name]
        typer.echo(f"{name or folder}: {sum(each.passed for each in mine)} of {len(mine)}")
    typer.echo(str(out / grading.MARKS))


def _book(given: Path | None) -> Path:
    book = given or BOOK
    if not book.is_dir():
        raise ValueError(f"{book} is not there: give the folder of the published chapters with --book.")
    return book
