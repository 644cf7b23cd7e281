"""The program that runs chapters on real GPUs, the record that it made, and what the book shows of it."""

from __future__ import annotations

import ast
import builtins
import copy
import json
import shutil
import tempfile
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import real_chapters
from chapters import NOTEBOOKS, ROOT, stored
from real_chapters import blocks, difference, environment, run_block, run_chapter
from sana_lab import evidence
from sana_lab.accelerator.chapters import RECORD, RENAMED, WHY, blocks_table, changed, chapters_table, digests

CHECK = {"tags": ["nbval-check-output"]}


def printed(source, text, tags=CHECK):
    return new_code_cell(
        source, outputs=[new_output("stream", name="stdout", text=text)], execution_count=1, metadata=tags
    )


# --- digests ---------------------------------------------------------------------------------------------------------


def chapter():
    cells = [new_markdown_cell("prose"), printed("print(1)", "1\n"), printed("print(2)", "2\n", {})]
    cells[1].outputs.append(
        new_output("display_data", data={"text/plain": "'x'", "image/png": "eA==", "text/html": "x"})
    )
    return new_notebook(cells=cells)


def change(where, what):
    def changed_chapter():
        notebook = chapter()
        what(notebook.cells[where])
        return notebook

    return changed_chapter


@pytest.mark.parametrize(
    ("other", "parts"),
    [
        (change(0, lambda cell: cell.update(source="other prose")), set()),
        (change(1, lambda cell: cell.update(source="print(1) ")), {"code"}),
        (change(1, lambda cell: cell.update(metadata={"tags": ["nbval-check-output", "hide-input"]})), set()),
        (change(1, lambda cell: cell.update(metadata={"tags": ["nbval-check-output", "nbval-skip"]})), {"code"}),
        (change(1, lambda cell: cell.update(metadata={})), {"code", "outputs"}),
        (change(1, lambda cell: cell.outputs[0].update(text="3\n")), {"outputs"}),
        (change(1, lambda cell: cell.outputs[1].data.update({"text/plain": "'y'"})), {"outputs"}),
        (change(1, lambda cell: cell.outputs[1].data.update({"image/png": "eQ==", "text/html": "y"})), set()),
        (change(2, lambda cell: cell.outputs[0].update(text="3\n")), set()),  # not compared by any test
        (change(2, lambda cell: cell.update(source="print(3)")), {"code"}),
    ],
)
def test_a_digest_sees_what_a_run_depends_on_and_no_more(other, parts):
    before, after = digests(chapter()), digests(other())
    assert {part for part in before if before[part] != after[part]} == parts


def test_a_stored_chapter_and_the_same_one_read_have_one_digest():
    for path, notebook in stored().items():
        assert digests(notebook) == digests(json.loads(path.read_text(encoding="utf-8"))), path.name


def test_what_has_changed_since_is_said(tmp_path):
    path = tmp_path / "x.ipynb"
    nbformat.write(chapter(), path)
    run = digests(chapter())
    assert changed(run, path) == ""
    assert changed({**run, "code": "0"}, path) == "code changed"
    assert changed({"code": "0", "outputs": "0"}, path) == "code changed and outputs changed"
    assert changed(run, tmp_path / "y.ipynb") == "gone"


# --- running ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def inside():
    """A folder below the repository's root, where pytest finds our options."""
    (ROOT / ".cache").mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=ROOT / ".cache"))
    yield folder
    shutil.rmtree(folder)


def test_a_run_names_the_cells_that_differ_or_raise(inside, tmp_path):
    cells = [
        printed("print(1)", "1\n"),
        printed("print('same')\nprint(3)", "same\n2\n"),
        printed("print(3)", "2\n", {}),
        printed("raise ValueError('no')", ""),
        printed("print(5)", "5\n"),
    ]
    nbformat.write(new_notebook(cells=cells), inside / "00_x.ipynb")
    found = run_chapter(inside / "00_x.ipynb", None, tmp_path, 100)
    assert found["cells"] == 5 and "error" not in found
    differs, raises = found["failed"]
    assert (differs["cell"], differs["id"], differs["difference"]) == (1, cells[1].id, "-2\n+3")
    assert (raises["cell"], raises["raised"]) == (3, "ValueError: no")
    assert found["digests"] == digests(new_notebook(cells=cells))
    assert "Cell outputs differ" in (tmp_path / "00_x_all.log").read_text(encoding="utf-8")


def test_a_chapter_that_is_stopped_is_no_success(inside, tmp_path):
    nbformat.write(new_notebook(cells=[printed("import time; time.sleep(60)", "")]), inside / "00_x.ipynb")
    found = run_chapter(inside / "00_x.ipynb", None, tmp_path, 1)
    assert found["error"].startswith("stopped at its time limit after 0 of 1 cells")


def test_a_difference_is_short_and_without_colors():
    text = new_code_cell(outputs=[new_output("stream", name="stdout", text="\x1b[31ma\x1b[0m\n" * 1000)])
    cut = difference(text, [])
    assert len(cut) <= real_chapters.LONGEST and cut.endswith(" …") and "\x1b" not in cut


@pytest.mark.parametrize(
    ("visible", "gpus", "seen"),
    [(None, 1, "0"), (None, 2, "0,1"), ("3,5", 1, "3"), ("3,5", 2, "3,5"), ("GPU-a,GPU-b", 1, "GPU-a")],
)
def test_a_process_sees_as_many_gpus_as_it_shall(monkeypatch, visible, gpus, seen):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert environment(gpus)["CUDA_VISIBLE_DEVICES"] == seen
    assert environment(None).get("CUDA_VISIBLE_DEVICES") == visible


def test_a_block_says_what_it_came_to():
    assert run_block("a = 1\nprint(a)", None, 60)["outcome"] == "ran"
    raised = run_block("a = 1\nraise ValueError('no')", None, 60)
    assert (raised["outcome"], raised["raised"], raised["first line"]) == ("raised", "ValueError: no", "a = 1")


# --- code in the prose -----------------------------------------------------------------------------------------------


def unknown_names(source):
    """Names that a piece of code reads and neither makes nor imports."""
    tree = ast.parse(source)
    made = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    made |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            made |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            made.add(node.name)
    read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return read - made - set(dir(builtins))


def test_names_that_come_from_nowhere_are_found():
    assert unknown_names("inputs = step_inputs(pipe)") == {"step_inputs", "pipe"}
    assert unknown_names("import a.b as c\nfrom d import e\n[f for f in c(e)]\ndef g(h): return h") == set()


def test_code_in_the_prose_can_be_pasted_as_it_stands():
    printed_blocks = [(path.name, *block) for path, notebook in stored().items() for block in blocks(notebook)]
    assert len(printed_blocks) >= 3
    wanting = {(name, place): unknown_names(source) for name, place, source in printed_blocks}
    assert {where: names for where, names in wanting.items() if names} == {}


def test_blocks_of_other_languages_are_left_alone():
    text = "```sh\nls\n```\n\n```python\na = 1\n```\n\nand\n\n````python\nb = '''\n```python\n'''\n````"
    assert [source for _, source in blocks(new_notebook(cells=[new_markdown_cell(text)]))] == [
        "a = 1\n",
        "b = '''\n```python\n'''\n",
    ]


# --- the record ------------------------------------------------------------------------------------------------------


def test_every_cell_that_differs_is_explained_or_its_chapter_has_changed():
    table = chapters_table(NOTEBOOKS)
    assert {name for name, _ in table.index} >= {path.stem for path in NOTEBOOKS.glob("*.ipynb")}
    assert not table[table["why not all"].str.contains("Not explained") & (table["since then"] == "")].index.tolist()


def test_a_chapter_renamed_since_is_shown_by_the_name_it_has_now():
    recorded = {name for run in evidence.load(RECORD)["results"]["gpus"].values() for name in run}
    now = {path.stem for path in NOTEBOOKS.glob("*.ipynb")}
    assert all(old in recorded and old not in now and new in now for old, new in RENAMED.items())


def test_every_explanation_belongs_to_a_cell_that_differs():
    results = evidence.load(RECORD)["results"]["gpus"]
    differ = {(name, cell["id"]) for run in results.values() for name, found in run.items() for cell in found["failed"]}
    assert {(name, cell) for name, cells in WHY.items() for cell in cells} <= differ


def test_no_chapter_of_the_record_ended_early_and_every_block_ran():
    results = evidence.load(RECORD)["results"]
    assert not [found["error"] for run in results["gpus"].values() for found in run.values() if "error" in found]
    table = blocks_table(NOTEBOOKS)
    assert len(table[table["since then"] == ""]) >= 3
    assert set(table[table["since then"] == ""]["it"]) == {"ran"}


def test_a_cell_without_a_reason_says_so_on_the_page(monkeypatch, tmp_path):
    record = copy.deepcopy(evidence.load(RECORD))
    nbformat.write(chapter(), tmp_path / "00_x.ipynb")
    failed = [{"cell": 3, "id": "a"}, {"cell": 5, "id": "b"}, {"cell": 6, "id": "c"}]
    run = {"cells": 9, "failed": failed, "seconds": 1.0, "digests": digests(chapter())}
    record["results"] = {"gpus": {"1": {"00_x": run}, "2": {"00_x": {**run, "failed": []}}}, "blocks": {}}
    monkeypatch.setattr(evidence, "load", lambda name: record)
    monkeypatch.setitem(WHY, "00_x", {"a": "Because.", "b": "Because."})
    table = chapters_table(tmp_path)
    assert table.loc[("00_x", "1")].tolist() == [9, 6, "Cells 3, 5: Because. Cell 6: Not explained.", ""]
    assert table.loc[("00_x", "2")].tolist() == [9, 9, "", ""]


def test_a_chapter_that_was_never_run_says_so_and_one_that_is_gone(monkeypatch, tmp_path):
    record = copy.deepcopy(evidence.load(RECORD))
    run = {"cells": 9, "failed": [], "seconds": 1.0, "digests": digests(chapter())}
    block = {"first line": "import torch", "outcome": "ran"}
    record["results"] = {"gpus": {"1": {"00_gone": run}}, "blocks": {"00_gone": {"a/0": block}}}
    nbformat.write(chapter(), tmp_path / "01_new.ipynb")
    monkeypatch.setattr(evidence, "load", lambda name: record)
    table = chapters_table(tmp_path)
    assert table["since then"].to_dict() == {("00_gone", "1"): "gone", ("01_new", "–"): "not run yet"}
    assert blocks_table(tmp_path)["since then"].tolist() == ["gone"]
