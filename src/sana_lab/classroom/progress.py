"""What learners have passed, as their stored notebooks say. For a quick look at a class; `grading` is for marks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .tasks import chapters, read_notebook, tasks

PASSED, REFUSED, OPEN = "passed", "not yet", "not tried"


@dataclass(frozen=True)
class Progress:
    """How an exercise stands.

    Attributes:
        learner: name of the folder; empty where there is one learner alone.
        chapter: file name of the notebook.
        number: of the exercise.
        title: of the exercise.
        state: `PASSED`, `REFUSED` or `OPEN`, or why the notebook says nothing.
    """

    learner: str
    chapter: str
    number: int
    title: str
    state: str


def learners(folder: Path, names: set[str]) -> dict[str, dict[str, Path]]:
    """Notebooks with these names, by learner and name.

    Args:
        folder: of one learner, or with a folder for each, in which the notebooks may lie deeper.
        names: file names of the chapters.

    Raises:
        ValueError: there is no such notebook.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: give one with notebooks, or with a folder for each learner.")
    found: dict[str, dict[str, Path]] = {}
    if any((folder / name).is_file() for name in names):
        found[""] = {name: folder / name for name in sorted(names) if (folder / name).is_file()}
    else:
        for home in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
            for path in sorted(home.rglob("[0-9][0-9]_*.ipynb")):
                if path.name in names and not any(part.startswith(".") for part in path.relative_to(home).parts):
                    found.setdefault(home.name, {}).setdefault(path.name, path)
    if not found:
        raise ValueError(f"{folder} holds no notebook of the book: their names are as in `sana-lab learner`.")
    return found


def progress(folder: Path, book: Path) -> list[Progress]:
    """How each exercise stands in each learner's notebooks, as they are stored.

    Args:
        folder: see `learners`.
        book: folder of the published chapters.

    Raises:
        ValueError: there are no notebooks of the book in one of them.
    """
    published = {name: tasks(notebook) for name, notebook in chapters(book).items()}
    lines = []
    for learner, notebooks in learners(folder, set(published)).items():
        for name, path in notebooks.items():
            try:
                notebook = read_notebook(path)
            except (ValueError, OSError):
                lines += [Progress(learner, name, task.number, task.title, "damaged") for task in published[name]]
                continue
            for task in published[name]:
                said = list(_said(notebook, task.check))
                state = PASSED if any(text.startswith("Right:") for text in said) else REFUSED if said else OPEN
                lines.append(Progress(learner, name, task.number, task.title, state))
    return lines


def _said(notebook: Any, check: str) -> Iterator[str]:
    """What the cells that call a check have shown."""
    for cell in notebook.cells:
        if cell.cell_type == "code" and f"{check}(" in cell.source:
            for output in cell.get("outputs", []):
                text = output.get("data", {}).get("text/plain", output.get("text", ""))
                if text.startswith(("Right:", "Not yet:")):
                    yield text
