"""Editions for a class, progress and marks: no solution is left over, and no notebook talks itself into marks."""

import csv
import importlib
import json
import pkgutil
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from processes import start_by_fork

from sana_lab import exercises
from sana_lab.classroom import edition, grading
from sana_lab.classroom.progress import OPEN, PASSED, REFUSED, learners, progress
from sana_lab.classroom.tasks import chapters, read_notebook, tasks

BOOK = Path(__file__).resolve().parent.parent / "notebooks"
NAME = "02_small.ipynb"
STUB = "def bits_per_value(values, bits, block):\n    return bits"
RIGHT = "def bits_per_value(values, bits, block):\n    return bits + 32 * -(-values // block) / values"
TRY = "from sana_lab.exercises.ch02 import check_bits_per_value\n\ncheck_bits_per_value(bits_per_value)"


@pytest.fixture(scope="module")
def published():
    return chapters(BOOK)


def small(*, stub=STUB, extra=(), tried=TRY, outputs=()):
    """A learner's notebook with one exercise."""
    cells = [new_markdown_cell("**3. What do blocks cost?** Write."), new_code_cell(stub)]
    return new_notebook(cells=[*map(new_code_cell, extra), *cells, new_code_cell(tried, outputs=list(outputs))])


@pytest.fixture
def book(tmp_path):
    """A book with one chapter with one exercise."""
    notebook = small()
    solved = new_code_cell(f"{RIGHT}\n\n\ncheck_bits_per_value(bits_per_value)", metadata={"tags": ["hide-cell"]})
    notebook.cells += [new_markdown_cell("A solution:"), solved, new_markdown_cell("## Further reading")]
    (tmp_path / "book").mkdir()
    nbformat.write(notebook, tmp_path / "book" / NAME)
    return tmp_path / "book"


def hand_in(folder, **learners_notebooks):
    for learner, notebook in learners_notebooks.items():
        (folder / learner).mkdir(parents=True)
        text = notebook if isinstance(notebook, str) else nbformat.writes(notebook)
        (folder / learner / NAME).write_text(text, encoding="utf-8")
    return folder


# ---- editions ------------------------------------------------------------------------------------------------------


def test_every_check_of_the_package_is_an_exercise_of_its_chapter(published):
    found = {(task.module, task.check) for notebook in published.values() for task in tasks(notebook)}
    modules = [name for _, name, _ in pkgutil.iter_modules(exercises.__path__) if name.startswith("ch")]
    there = {
        (f"sana_lab.exercises.{name}", check)
        for name in modules
        for check in vars(importlib.import_module(f"sana_lab.exercises.{name}"))
        if check.startswith("check_")
    }
    assert found == there


def test_exercises_have_a_number_a_stub_and_a_solution(published):
    for name, notebook in published.items():
        for task in tasks(notebook):
            assert task.number and task.title, (name, task)
            assert all(f"def {answer}(" in notebook.cells[task.stub].source for answer in task.answers), (name, task)
            assert task.solved, (name, task)


def test_no_solution_is_left_for_learners_and_nothing_else_is_gone(published):
    for name, notebook in published.items():
        made = edition.for_learners(notebook)
        solutions = [notebook.cells[task.solved[-1]].source for task in tasks(notebook)]
        sources = [cell.source for cell in made.cells]
        assert not set(solutions) & set(sources), name
        assert [task.check for task in tasks(made)] == [task.check for task in tasks(notebook)]
        gone = sum(len(task.solved) for task in tasks(notebook))
        assert len(made.cells) == len(notebook.cells) - gone
        assert not any(cell.get("outputs") for cell in made.cells)
        nbformat.validate(made)


def test_work_is_never_overwritten_and_untouched_chapters_are_renewed(book, tmp_path):
    out = tmp_path / "home"
    assert [path.name for path in edition.write(book, out)] == [NAME]
    assert edition.write(book, out) == []
    changed = read_notebook(book / NAME)
    changed.cells.append(new_markdown_cell("New."))
    nbformat.write(changed, book / NAME)
    assert edition.write(book, out) == [out / NAME]  # nobody had touched it
    (out / NAME).write_text((out / NAME).read_text().replace("New.", "Mine."))
    changed.cells.append(new_markdown_cell("Newer."))
    nbformat.write(changed, book / NAME)
    assert edition.write(book, out) == []
    assert "Mine." in (out / NAME).read_text()
    (out / NAME).unlink()
    assert edition.write(book, out) == [out / NAME]  # deleted by its owner: there again


def test_a_chapter_that_a_stopped_run_did_not_note_is_nobodys_work(book, tmp_path, monkeypatch):
    out = tmp_path / "home"
    with monkeypatch.context() as patched:
        patched.setattr(edition.journal, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            edition.write(book, out)
    assert (out / NAME).is_file() and edition.write(book, out) == []
    changed = read_notebook(book / NAME)
    changed.cells.append(new_markdown_cell("New."))
    nbformat.write(changed, book / NAME)
    assert edition.write(book, out) == [out / NAME]


def test_the_book_itself_is_no_place_to_write_to(book):
    with pytest.raises(ValueError, match="the folder of the book itself"):
        edition.write(book, book)


def test_nbgrader_gets_solutions_between_its_marks_and_checks_that_raise(published):
    for name, notebook in published.items():
        made = edition.for_nbgrader(notebook)
        graded = [cell for cell in made.cells if cell.metadata.get("nbgrader", {}).get("grade")]
        solved = [cell for cell in made.cells if cell.metadata.get("nbgrader", {}).get("solution")]
        assert len(graded) == len(solved) == len(tasks(notebook)), name
        assert all(cell.source.endswith("assert verdict.passed, verdict.text") for cell in graded)
        stubs = [notebook.cells[task.stub].source for task in tasks(notebook)]
        kept = [cell.source.partition(edition.BEGIN)[0].rstrip() for cell in solved]  # as nbgrader clears them
        assert kept == stubs, name
        assert all(
            cell.source.endswith(f"\n{edition.END}") and cell.source.count(edition.BEGIN) == 1 for cell in solved
        )
        ids = [cell.metadata.nbgrader.grade_id for cell in graded + solved]
        assert len(set(ids)) == len(ids)


# ---- progress ------------------------------------------------------------------------------------------------------


def said(text):
    return [new_output("execute_result", data={"text/plain": text}, execution_count=1)]


def test_progress_reads_what_is_stored(book, tmp_path):
    folder = hand_in(
        tmp_path / "class",
        ada=small(outputs=said("Right: every block brings a scale.")),
        bo=small(outputs=said("Not yet: every block brings a scale.")),
        cy=small(),
        di="{",
    )
    states = {line.learner: line.state for line in progress(folder, book)}
    assert states == {"ada": PASSED, "bo": REFUSED, "cy": OPEN, "di": "damaged"}
    assert list(learners(folder / "ada", {NAME})) == [""]


def test_a_folder_without_notebooks_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="holds no notebook of the book"):
        learners(tmp_path, {NAME})
    with pytest.raises(ValueError, match="is not a folder"):
        learners(tmp_path / "nowhere", {NAME})


# ---- marks ---------------------------------------------------------------------------------------------------------

FORGED = """
import json, os
line = {"check": "check_bits_per_value", "passed": True, "text": "Right"}
for fd in range(3, 40):
    try:
        os.write(fd, (json.dumps({"line": line, "signature": "0" * 64}) + "\\n").encode())
    except OSError:
        pass
"""
PATCHED = """
import sana_lab.exercises.answers as answers
answers.number = lambda *a, **k: 12.0
import sana_lab.exercises.ch02 as m
from sana_lab.exercises import Verdict
m.check_bits_per_value = lambda answer: Verdict(True, "fine")
"""
DELETED = "import pathlib\nfor p in pathlib.Path('.').rglob('*.ipynb'):\n    p.unlink()"
STUBBORN = "while True:\n    try:\n        while True:\n            pass\n    except BaseException:\n        pass"


def test_marks_come_from_what_runs(book, tmp_path, monkeypatch):
    start_by_fork(monkeypatch, "IPython.core.interactiveshell", "sana_lab.exercises.ch02", fresh=2)
    redefined = TRY + "\ndef check_bits_per_value(answer):\n    return 'Right: indeed'\ncheck_bits_per_value(0)"
    folder = hand_in(
        tmp_path / "class",
        right=small(stub=RIGHT),
        stored=small(outputs=said("Right: every block brings a scale.")),
        redefined=small(tried=redefined),
        patched=small(extra=[PATCHED]),
        forged=small(extra=[FORGED]),
        slow_answer=small(stub="def bits_per_value(*a):\n    while True:\n        pass"),
        killed=small(stub=RIGHT, extra=["import os\nos._exit(0)"]),
        awkward=small(stub=RIGHT, extra=[DELETED, "import sys\nsys.exit()", "1 / 0", "while True:\n    pass"]),
        damaged="{",
        empty=new_notebook(),
    )
    found = {
        each.learner: each for each in grading.grade(folder, tmp_path / "out", book=book, cell=2, limit=60, jobs=2,
                                                      progress=False)
    }  # fmt: skip
    assert {name for name, each in found.items() if each.passed} == {"right", "awkward"}
    assert "changed the book's checks" in found["patched"].text
    assert "ended the process (status 0)" in found["killed"].text
    assert "within 2 s" in found["slow_answer"].text
    assert "is no notebook" in found["damaged"].text
    assert found["empty"].text == "bits_per_value is not defined"
    assert "every block brings a scale" in found["stored"].text
    assert (folder / "awkward" / NAME).is_file()
    rows = list(csv.DictReader((tmp_path / "out" / grading.MARKS).open(encoding="utf-8")))
    assert {row["learner"]: row["passed"] for row in rows} == {n: str(int(e.passed)) for n, e in found.items()}


def test_a_notebook_that_will_not_end_is_ended(book, tmp_path):
    folder = hand_in(tmp_path / "class", stubborn=small(stub=RIGHT, extra=[STUBBORN]))
    (only,) = grading.grade(folder, tmp_path / "out", book=book, cell=1, limit=8, progress=False)
    assert (only.passed, only.text) == (False, "the notebook took longer than 8 s")


def test_a_run_goes_on_and_a_changed_notebook_is_run_again(book, tmp_path, monkeypatch):
    folder = hand_in(tmp_path / "class", ada=small(), bo=small())
    runs = []

    def graded(learner, name, path, published, cell, limit):
        runs.append(learner)
        return [grading.Grade(learner, name, 3, "t", "-(-" in path.read_text(), "=1+1")]

    monkeypatch.setattr(grading, "_graded", graded)
    options = {"book": book, "progress": False}
    grading.grade(folder, tmp_path / "out", **options)
    nbformat.write(small(stub=RIGHT), folder / "bo" / NAME)
    found = grading.grade(folder, tmp_path / "out", **options)
    assert sorted(runs) == ["ada", "bo", "bo"]
    assert [each.passed for each in found] == [False, True]
    assert "'=1+1" in (tmp_path / "out" / grading.MARKS).read_text()  # no formula for a spreadsheet
    with pytest.raises(ValueError, match="cell 60.0, not 5"):
        grading.grade(folder, tmp_path / "out", cell=5, **options)
    with pytest.raises(ValueError, match="no such chapter"):
        grading.grade(folder, tmp_path / "other", only=[9], **options)
    kept = json.loads((tmp_path / "out" / grading.JOURNAL).read_text())
    assert set(kept["found"]) == {f"ada/{NAME}", f"bo/{NAME}"}


def test_a_name_that_the_chapter_had_before_is_no_answer(tmp_path):
    """Chapter 2 defines `affine` long before exercise 2 asks for it: who deletes the answer must not pass by that."""
    earlier = new_code_cell(RIGHT)
    notebook = small()
    notebook.cells.insert(0, earlier)
    (tmp_path / "book").mkdir()
    nbformat.write(notebook, tmp_path / "book" / NAME)
    given = small(stub="")
    given.cells.insert(0, earlier)
    folder = hand_in(tmp_path / "class", gone=given)
    (only,) = grading.grade(folder, tmp_path / "out", book=tmp_path / "book", progress=False)
    assert not only.passed
    assert "from before the exercise" in only.text
