"""Chapters for a class: without solutions, and with nbgrader's marks.

The published chapter is the one source. What is left out is found by `tasks`, so a new exercise is left out, too.
"""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

from ..evidence import journal
from .tasks import Task, chapters, tasks

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
"""What is between these lines, nbgrader takes out (nbgrader 0.9.6, `preprocessors/clearsolutions.py`)."""
NBGRADER_SCHEMA = 3
"""Of the metadata of a cell (nbgrader 0.9.6, `nbgraderformat/v3.py`)."""


def for_learners(notebook: Any) -> Any:
    """A copy of a chapter without its solutions and without outputs.

    Stubs and checks stay. Nothing else changes, so a chapter reads on as it did.

    Args:
        notebook: as it is published.
    """
    found = tasks(notebook)
    made = copy.deepcopy(notebook)
    gone = {at for task in found for at in task.solved}
    made.cells = [cell for at, cell in enumerate(made.cells) if at not in gone]
    _clear(made)
    return made


def for_nbgrader(notebook: Any, points: int = 1) -> Any:
    """A copy of a chapter as nbgrader's source: `nbgrader generate_assignment` takes the solutions out.

    A cell to write in holds the stub, which stays, and the solution between nbgrader's marks, which does not; a check
    must come out right, or raises.

    Args:
        notebook: as it is published.
        points: for each exercise.
    """
    found = tasks(notebook)
    made = copy.deepcopy(notebook)
    for task in found:
        stub, tried = made.cells[task.stub], made.cells[task.tried]
        solution = made.cells[task.solved[-1]].source if task.solved else stub.source
        stub.source += f"\n\n\n{BEGIN}\n{_without_call(solution, task)}\n{END}"
        tried.source = (
            f"from {task.module} import {task.check}\n\n"
            f"verdict = {task.check}({', '.join(task.answers)})\n"
            "assert verdict.passed, verdict.text"
        )
        stub.metadata["nbgrader"] = _marks(task, "answer", solution=True)
        tried.metadata["nbgrader"] = _marks(task, "check", grade=True, locked=True, points=points)
        for cell in (stub, tried):
            cell.metadata.pop("tags", None)
    gone = {at for task in found for at in task.solved}
    made.cells = [cell for at, cell in enumerate(made.cells) if at not in gone]
    _clear(made)
    return made


def write(book: Path, out: Path, *, nbgrader: bool = False) -> list[Path]:
    """Write all chapters for learners into a folder. What is there and was worked on is left alone.

    Args:
        book: folder of the published chapters.
        out: folder to write to, made where it is missing.
        nbgrader: as nbgrader's source, in its folders: `source/NN_name/NN_name.ipynb`.

    Returns:
        The files that were written: those that were not there, and those of an earlier edition that nobody changed.

    Raises:
        ValueError: there are no chapters in `book`, or `out` is `book` itself.
        OSError: `out` cannot be written.
    """
    import nbformat

    if out.resolve() == book.resolve():
        raise ValueError(f"{out} is the folder of the book itself: give another place.")
    published = chapters(book)
    journal.must_be_writable(out, out)
    out.mkdir(parents=True, exist_ok=True)
    noted = out / ".edition.json"
    was = journal.read(noted, {str: str}, way_out="delete it") if noted.exists() else {}
    written = []
    for name, notebook in published.items():
        place = out / "source" / Path(name).stem / name if nbgrader else out / name
        key = place.relative_to(out).as_posix()
        text = nbformat.writes((for_nbgrader if nbgrader else for_learners)(notebook)) + "\n"
        there = _digest(place.read_bytes()) if place.exists() else None
        if there not in (None, was.get(key), _digest(text.encode())):
            continue  # somebody's work
        if there != _digest(text.encode()):  # where a run was stopped it is, and was not noted
            place.parent.mkdir(parents=True, exist_ok=True)
            journal.write_text(place, text)
            written.append(place)
        was[key] = _digest(text.encode())
    journal.write_json(noted, was)
    return written


def _clear(notebook: Any) -> None:
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None


def _without_call(source: str, task: Task) -> str:
    """A solution without the line that calls the check, which nbgrader's cell below it does."""
    return "\n".join(line for line in source.splitlines() if not line.startswith(f"{task.check}(")).rstrip()


def _marks(task: Task, kind: str, **more: Any) -> dict[str, Any]:
    chapter = task.module.rpartition(".")[2]
    usual = {"grade": False, "locked": False, "solution": False, "task": False, "schema_version": NBGRADER_SCHEMA}
    return {**usual, "grade_id": f"{chapter}-{task.number}-{kind}", **more}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
