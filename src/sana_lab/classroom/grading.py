"""Marks for a class, from what is executed and not from what is stored.

Each notebook runs in a process of its own, in an empty folder, with a limit for a cell and for all of it; see `worker`
for what that holds against. What is found is kept notebook by notebook, so a stopped run goes on, and a notebook that
has changed is run again.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import secrets
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import isolated
from ..evidence import journal
from .progress import learners
from .tasks import Task, chapters, read_notebook, tasks
from .worker import signed

CELL, NOTEBOOK = 60.0, 600.0
"""Seconds that a cell, and a notebook, may take."""

JOURNAL, MARKS = "graded.json", "marks.csv"
_KEPT = {str: {"digest": str, "grades": [dict]}}


@dataclass(frozen=True)
class Grade:
    """What became of an exercise.

    Attributes:
        learner: name of the folder.
        chapter: file name of the notebook.
        number: of the exercise.
        title: of the exercise.
        passed: whether the answer is right.
        text: what the check said, or why it could say nothing.
    """

    learner: str
    chapter: str
    number: int
    title: str
    passed: bool
    text: str


def grade(
    folder: Path,
    out: Path,
    *,
    book: Path,
    only: Sequence[int] = (),
    cell: float = CELL,
    limit: float = NOTEBOOK,
    jobs: int = 1,
    progress: bool = True,
) -> list[Grade]:
    """Run what learners handed in, and write `marks.csv`.

    Args:
        folder: with a folder for each learner, or of one.
        out: folder for what is found; the same again goes on.
        book: folder of the published chapters.
        only: numbers of chapters; all by default.
        cell: seconds for a cell.
        limit: seconds for a notebook.
        jobs: notebooks at a time.
        progress: show a bar.

    Raises:
        ValueError: there are no notebooks of the book; or `out` holds marks by another edition or other limits.
        OSError: `out` cannot be written.
    """
    from tqdm import tqdm

    published = {name: notebook for name, notebook in chapters(book).items() if not only or int(name[:2]) in only}
    if not published:
        raise ValueError(f"--only {','.join(map(str, only))}: no such chapter in {book}.")
    handed_in = [
        (learner, name, path)
        for learner, notebooks in learners(folder, set(published)).items()
        for name, path in notebooks.items()
    ]
    journal.must_be_writable(out, out)
    kept = journal.Journal(out / JOURNAL, {"book": _digest_of(published), "cell": cell, "limit": limit}, _KEPT)

    with tqdm(total=len(handed_in), unit="notebook", disable=not progress) as bar:

        def one(item: tuple[str, str, Path]) -> list[Grade]:
            learner, name, path = item
            digest = _digest_of_file(path)
            key = f"{learner}/{name}"
            if kept.found.get(key, {}).get("digest") != digest:
                grades = _graded(learner, name, path, published[name], cell, limit)
                kept.found[key] = {"digest": digest, "grades": [asdict(each) for each in grades]}
                kept.keep()
            bar.update()
            return [Grade(**each) for each in kept.found[key]["grades"]]

        found = [each for part in isolated.at_once(one, handed_in, jobs) for each in part]
    journal.write_text(out / MARKS, _table(found))
    return found


def _graded(learner: str, name: str, path: Path, published: Any, cell: float, limit: float) -> list[Grade]:
    """Run one notebook in a process of its own."""
    expected = tasks(published)

    def all_of(text: str) -> list[Grade]:
        return [Grade(learner, name, task.number, task.title, False, text) for task in expected]

    try:
        notebook = read_notebook(path)
    except (ValueError, OSError) as error:
        return all_of(str(error))
    if not expected:
        return []
    answers = {at for task in expected for at in (task.stub, *task.solved)}
    key = secrets.token_bytes(32)
    with tempfile.TemporaryDirectory(prefix="sana-lab-grade-") as place:
        request = {
            "code": _code(notebook, range(len(notebook.cells))),
            "own": _code(published, set(range(len(published.cells))) - answers),
            "tasks": [asdict(task) for task in expected],
            "key": key.hex(),
            "cell": cell,
            "folder": place,
        }
        environ = {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE", "IPYTHONDIR": os.path.join(place, ".ipython")}
        with isolated.Worker(
            isolated.module("sana_lab.classroom.worker"), request, environ=environ, limit=limit
        ) as worker:
            lines = list(_believed(worker, key))
    verdicts = {line["check"]: line for line in lines if "check" in line}
    last = next((line for line in lines if "end" in line), None)
    if last is not None and not last["sealed"]:
        return all_of("the notebook changed the book's checks while it ran: look at it yourself")
    lost = f"took longer than {limit:g} s" if worker.late else f"ended the process (status {worker.status})"
    return [_grade_of(learner, name, task, verdicts.get(task.check), f"the notebook {lost}") for task in expected]


def _code(notebook: Any, places: Collection[int]) -> list[str]:
    return [cell.source for at, cell in enumerate(notebook.cells) if cell.cell_type == "code" and at in places]


def _grade_of(learner: str, name: str, task: Task, line: dict[str, Any] | None, lost: str) -> Grade:
    passed, text = (line["passed"], line["text"]) if line else (False, lost)
    return Grade(learner, name, task.number, task.title, passed, text)


def _believed(worker: isolated.Worker, key: bytes) -> Any:
    """Lines that are signed; what a notebook wrote in between is passed over."""
    lines = iter(worker)
    while True:
        try:
            answer = next(lines)
        except StopIteration:
            return
        except ValueError:
            return
        if not isinstance(answer, dict) or set(answer) != {"line", "signature"}:
            continue
        if secrets.compare_digest(str(answer["signature"]), signed(key, answer["line"])):
            yield answer["line"]


def _table(grades: Sequence[Grade]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["learner", "chapter", "exercise", "title", "passed", "said"])
    for each in grades:
        row = [each.learner, each.chapter, each.number, each.title, int(each.passed), " ".join(each.text.split())]
        writer.writerow([f"'{value}" if str(value)[:1] in "=+-@" and value else value for value in row])
    return text.getvalue()


def _digest_of(published: dict[str, Any]) -> str:
    sources = {name: [cell.source for cell in notebook.cells] for name, notebook in published.items()}
    return hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()


def _digest_of_file(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        return str(error)
