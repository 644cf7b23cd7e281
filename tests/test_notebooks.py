"""The chapters as they are stored, and the checks on them tried with chapters that are wrong."""

from __future__ import annotations

import copy
import subprocess
import sys
from queue import Empty
from xml.etree import ElementTree

import nbformat
import pytest
import yaml
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from chapter_runs import Replay, cache_folder, replay
from chapters import (
    NOTEBOOKS,
    ROOT,
    SETUP_CELL,
    alone_cell,
    answers,
    as_text,
    asks,
    canonical,
    comparable,
    counts,
    main,
    problems,
    prose_problems,
    stored,
    table,
    without_folders,
)

CHECK = {"tags": ["nbval-check-output"]}


def cell(source="1 + 1", text="2\n", *, count=1, metadata=None, outputs=None):
    """An executed code cell that printed `text`."""
    outputs = outputs if outputs is not None else [new_output("stream", name="stdout", text=text)]
    return new_code_cell(source, outputs=outputs, execution_count=count, metadata=metadata or {})


def chapter(*cells):
    """A chapter in canonical form with the common setup cell in front."""
    return canonical(new_notebook(cells=[new_markdown_cell("# Title"), cell(SETUP_CELL, outputs=[]), *cells]))


def result(data, **metadata):
    return new_output("execute_result", data=data, execution_count=7, metadata=metadata)


# --- the chapters themselves -------------------------------------------------------------------------------------


def test_the_book_lists_every_chapter_and_there_is_one():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    listed = {entry["file"] for part in toc["parts"] for entry in part["chapters"] if "notebooks/" in entry["file"]}
    assert listed == {f"notebooks/{path.stem}" for path in NOTEBOOKS.glob("*.ipynb")}
    assert listed


def test_no_chapter_is_vacuous_or_stored_with_leftovers():
    chapters = stored()
    print(table({path.name: notebook for path, notebook in chapters.items()}))
    wrong = {
        path.name: problems(notebook, path.read_text(encoding="utf-8")) + prose_problems(notebook, path)
        for path, notebook in chapters.items()
    }
    assert {name: found for name, found in wrong.items() if found} == {}


# --- wrong chapters must be refused --------------------------------------------------------------------------------


def test_a_good_chapter_passes():
    good = chapter(cell(metadata=CHECK), cell())
    assert problems(good, as_text(good)) == []
    assert vars(counts(good)) == {"code": 3, "executed": 3, "compared": 1, "skipped": 0}


def test_a_chapter_may_say_that_its_gpus_are_virtual():
    virtual = SETUP_CELL.replace("()", "(virtual=True)")
    cells = [cell(virtual, outputs=[]), cell(metadata=CHECK), cell()]
    assert problems(canonical(new_notebook(cells=cells))) == []
    cells[0] = cell(SETUP_CELL.replace("()", "(gpus=2)"), outputs=[])
    assert any("common setup cell" in line for line in problems(canonical(new_notebook(cells=cells))))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (chapter(cell(metadata=CHECK), cell(count=None, outputs=[])), "no execution count"),
        (chapter(cell(), cell()), "fewer than a third"),
        (chapter(cell(text="", metadata=CHECK)), "fewer than a third"),
        (chapter(cell(outputs=[result({"text/plain": "<Figure size 1x1>"})], metadata=CHECK)), "fewer than a third"),
        (chapter(cell(outputs=[result({"text/html": "<b>2</b>"})], metadata=CHECK)), "fewer than a third"),
        (chapter(cell(metadata={"tags": ["nbval-check-output", "nbval-skip"]})), "fewer than a third"),
        (chapter(cell("# NBVAL_IGNORE_OUTPUT\n1", metadata=CHECK)), "fewer than a third"),
        (chapter(cell(outputs=[new_output("stream", name="stderr", text="oh")]), cell(metadata=CHECK)), "stderr"),
        (chapter(cell(outputs=[new_output("error", ename="E", evalue="")]), cell(metadata=CHECK)), "stored an error"),
        (chapter(cell(text="<object at 0x7f12ab34cd>", metadata=CHECK)), "memory address"),
        (chapter(cell(text="/home/someone/x", metadata=CHECK)), "folder of one machine"),
        (chapter(cell(outputs=[result({"image/png": "eA=="})]), cell(metadata=CHECK)), "alt text"),
        (chapter(cell("", outputs=[]), cell(metadata=CHECK)), "is empty"),
        (canonical(new_notebook(cells=[cell(metadata=CHECK)])), "common setup cell"),
        (new_notebook(cells=[new_markdown_cell("prose")]), "no code cell"),
    ],
)
def test_a_wrong_chapter_is_refused(wrong, said):
    assert any(said in line for line in problems(wrong)), problems(wrong)


def test_another_form_of_the_same_chapter_is_refused():
    good = chapter(cell(metadata=CHECK))
    assert problems(good, as_text(good).replace('"cells"', '"cells" ')) == ["is not in canonical form: make refresh"]


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """Runs the cell for notebooks opened alone in an empty folder, as if nothing were installed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").mkdir()
    asked = []

    def run(*, missing=True, pip=(0, ""), repository=""):
        def find_spec(name):
            return None if missing else object()

        def ask_pip(command, **_):
            asked.append(command[-1])
            return subprocess.CompletedProcess(command, pip[0], "", pip[1])

        monkeypatch.setattr("importlib.util.find_spec", find_spec)
        monkeypatch.setattr("subprocess.run", ask_pip)
        exec(alone_cell().source.replace('repository=""', f"repository={repository!r}"), {})
        return asked

    return run


def test_inside_the_book_the_cell_for_notebooks_opened_alone_does_nothing(alone):
    assert alone(missing=False) == []


def test_a_notebook_opened_alone_says_what_is_missing(alone):
    with pytest.raises(ModuleNotFoundError, match="opened without its book. Get the book's folder, run `pip install"):
        alone()


def test_a_notebook_opened_alone_installs_from_what_there_is(alone, tmp_path, monkeypatch, capsys):
    assert alone(repository="https://example.org/book") == ["sana-lab[book] @ git+https://example.org/book"]
    (tmp_path / "src" / "sana_lab").mkdir(parents=True)
    assert alone()[-1] == f"{tmp_path}[book]"
    (tmp_path / "sana_lab-1-py3-none-any.whl").touch()
    assert alone()[-1] == f"{tmp_path / 'sana_lab-1-py3-none-any.whl'}[book]"
    monkeypatch.chdir(tmp_path / "deep")
    assert alone()[-1] == f"{tmp_path}[book]"
    assert "takes minutes" in capsys.readouterr().out


def test_a_notebook_opened_alone_without_a_network_says_so(alone):
    with pytest.raises(ModuleNotFoundError, match=r"could not be installed \(ERROR: no network\). Get"):
        alone(repository="https://example.org/book", pip=(1, "warning\nERROR: no network\n"))


def test_every_chapter_has_the_same_cell_for_being_opened_alone():
    good = chapter(cell(metadata=CHECK))
    assert good.cells[1] == alone_cell() and canonical(good) == good
    older = copy.deepcopy(good)
    older.cells[1].source = "import os"
    assert canonical(older) == good
    older.cells = [c for c in older.cells if c.id != "alone"]
    assert any("opened alone" in line for line in problems(older))


ASKED = "Some text.\n\nBefore you look: how many bits are left?"


@pytest.mark.parametrize(
    ("source", "is_question"),
    [
        (ASKED, True),
        ("Guess the ratio first. Is it two?", True),
        ("So what do you expect for the last line?", True),
        ("Now guess: which of the following work?", True),
        ("Before you look: it is seven.", False),
        (ASKED + "\n\nHere is the answer.", False),
        ("That is a guess. Or is it?", False),
        ("**3.** First guess it. Which is best? Then write a function.", False),
    ],
)
def test_a_question_to_guess_at(source, is_question):
    assert asks(source) == is_question


def test_the_answer_to_a_guess_is_folded_on_the_page_and_in_jupyterlab():
    open_ = new_notebook(cells=[cell(SETUP_CELL, outputs=[]), new_markdown_cell(ASKED), cell(metadata=CHECK), cell()])
    assert any("shows its output at once" in line for line in problems(open_))
    folded = canonical(open_)
    assert problems(folded, as_text(folded)) == []
    assert canonical(folded) == folded
    assert [c.id for c in answers(folded)] == [folded.cells[3].id]
    assert folded.cells[3].metadata["tags"] == ["guess", "hide-output", "nbval-check-output"]
    assert folded.cells[3].metadata["jupyter"] == {"outputs_hidden": True}
    assert folded.cells[3].metadata["mystnb"]["code_prompt_show"] == "Show the answer"
    assert "jupyter" not in folded.cells[4].metadata
    folded.cells[3].metadata["jupyter"] = {}
    assert any("shows its output at once" in line for line in problems(folded))


@pytest.mark.parametrize(
    ("tag", "closed"),
    [
        ("hide-cell", {"outputs_hidden": True, "source_hidden": True}),
        ("hide-input", {"source_hidden": True}),
        ("remove-cell", {"source_hidden": True}),
        ("raises-exception", None),
    ],
)
def test_what_the_page_folds_is_closed_in_jupyterlab(tag, closed):
    assert chapter(cell(metadata={"tags": [tag]})).cells[3].metadata.get("jupyter") == closed


def test_what_is_shown_counts_only_when_it_says_something():
    outputs = [
        new_output("stream", name="stdout", text="seven\n"),
        new_output("stream", name="stderr", text="warning\n"),
        result({"text/plain": "<Figure size 640x480 with 1 Axes>", "image/png": "eA=="}),
        result({"text/plain": "IntSlider(value=1)\nVBox(children=(IntSlider(value=0),))"}),
        result({"text/plain": "VBox(children=(IntSlider(value=0),))"}),
        new_output("display_data", data={"application/papermill.record/text/plain": "'0.97'"}),
    ]
    assert len(comparable(cell(outputs=outputs))) == 3


# --- canonical form ----------------------------------------------------------------------------------------------


def test_canonical_form_forgets_when_and_where_it_was_made():
    noisy = new_notebook(
        metadata={"kernelspec": {"name": "my-env", "display_name": "mine"}, "widgets": {"state": 1}, "colab": {}},
        cells=[
            cell("x = 1  \n\n", count=12, metadata={"execution": {"busy": "2026"}, "tags": ["a"]}, outputs=[]),
            cell(
                count=99,
                outputs=[
                    new_output("stream", name="stdout", text="10%\r20%\rdone\n"),
                    new_output("stream", name="stdout", text="more\n"),
                    new_output("display_data", data={"text/plain": "  0%|          | 0/3"}),
                    result({"application/vnd.jupyter.widget-view+json": {"model_id": "f00"}, "text/plain": "Box()"}),
                    new_output("error", ename="E", evalue="v", traceback=["\x1b[31m/x/lib/site-packages/a.py\x1b[0m"]),
                ],
            ),
        ],
    )
    tidy = canonical(noisy)
    assert "widgets" not in tidy.metadata and tidy.metadata.kernelspec.name == "python3"
    first, second = tidy.cells
    assert (first.source, first.metadata, first.execution_count) == ("x = 1", {"tags": ["a"]}, 1)
    assert [o.output_type for o in second.outputs] == ["stream", "execute_result", "error"]
    assert second.outputs[0].text == "done\nmore\n"
    assert second.outputs[1].execution_count == second.execution_count == 2
    assert second.outputs[1].data == {"text/plain": "Box()"}
    assert second.outputs[2].traceback == ["site-packages/a.py"]
    assert canonical(tidy) == tidy
    assert noisy.cells[1].execution_count == 99  # the argument is left alone


@pytest.fixture
def file(tmp_path):
    """A chapter that was never run, on disk."""
    path = tmp_path / "chapter.ipynb"
    cells = [new_code_cell(SETUP_CELL, id="a"), new_code_cell("print(2)", id="b", metadata=CHECK)]
    nbformat.write(new_notebook(cells=cells), path)
    return path


def test_refreshing_twice_gives_the_same_bytes(file, capsys):
    assert main(["refresh", str(file)]) == 0
    once = file.read_bytes()
    assert main(["refresh", str(file)]) == 0
    assert file.read_bytes() == once
    assert main(["check", str(file)]) == 0
    assert "ok" in capsys.readouterr().out


def test_a_failing_cell_leaves_the_stored_chapter_alone(file, capsys):
    notebook = nbformat.read(file, as_version=4)
    notebook.cells.append(new_code_cell("raise ValueError('no')"))
    nbformat.write(notebook, file)
    before = file.read_bytes()
    assert main(["refresh", str(file)]) == 1
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]
    assert "ValueError: no" in capsys.readouterr().out


def test_no_chapter_and_damaged_chapters_are_errors(tmp_path):
    damaged = tmp_path / "damaged.ipynb"
    damaged.write_text("{", encoding="utf-8")
    for path in (damaged, tmp_path / "missing.ipynb"):
        with pytest.raises(SystemExit, match="cannot read a chapter"):
            main(["check", str(path)])


# --- nbval, as we run it -------------------------------------------------------------------------------------------


TRIED = [
    (cell("print(2)", "2\n", metadata=CHECK), True),
    (cell("print(3)", "2\n", metadata=CHECK), False),
    (cell("print(3)", "2\n"), True),  # not tagged: run, not compared
    (cell("import sys; print(2); print('x', file=sys.stderr)", "2\n", metadata=CHECK), True),
    (cell("raise ValueError('a')", outputs=[]), False),
    (
        cell(
            "raise ValueError('a')",
            outputs=[new_output("error", ename="ValueError", evalue="b")],
            metadata={"tags": ["raises-exception", "nbval-check-output"]},
        ),
        False,
    ),
]


GAVE = [  # what a kernel sends for these cells
    [new_output("stream", name="stdout", text="2\n")],
    [new_output("stream", name="stdout", text="3\n")],
    [new_output("stream", name="stdout", text="3\n")],
    [new_output("stream", name="stdout", text="2\n"), new_output("stream", name="stderr", text="x\n")],
    [new_output("error", ename="ValueError", evalue="a", traceback=["ValueError: a"])],
    [new_output("error", ename="ValueError", evalue="a", traceback=["ValueError: a"])],
]


def keep(caches, notebook, gave):
    """A run of a notebook in the cache of the book's build."""
    ran = copy.deepcopy(notebook)
    for count, (ran_cell, outputs) in enumerate(zip(ran.cells, gave, strict=True), 1):
        ran_cell.outputs, ran_cell.execution_count = copy.deepcopy(outputs), count
    bundle = CacheBundleIn(ran, "chapter.ipynb")
    get_cache(cache_folder(caches)).cache_notebook_bundle(bundle, check_validity=False, overwrite=True)


@pytest.fixture(scope="module", params=["executed", "replayed"])
def nbval(request, tmp_path_factory):
    """The outcome of each cell of a chapter, run at once: number -> "passed" or "failure"; and what was said."""
    folder = tmp_path_factory.mktemp("nbval")
    notebook = new_notebook(cells=[stored_cell for stored_cell, _ in TRIED])
    nbformat.write(notebook, folder / "chapter.ipynb")
    if request.param == "replayed":
        keep(folder / "caches", nbformat.read(folder / "chapter.ipynb", as_version=4), GAVE)
    command = [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    command += ["--rootdir", str(ROOT), "--confcutdir", str(ROOT), "-p", "conftest", f"--junit-xml={folder / 'x.xml'}"]
    command += ["-o", f"chapter_runs={folder / 'caches'}", str(folder / "chapter.ipynb")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode in (0, 1), run.stdout + run.stderr
    said = run.stdout + run.stderr
    assert {"executed": "executed, 1:", "replayed": "held to what the book's build gave, 1:"}[request.param] in said
    cases = [case for case in ElementTree.parse(folder / "x.xml").iter("testcase")]
    outcomes = {case.get("name"): "passed" if case.find("failure") is None else "failure" for case in cases}
    return outcomes, said


@pytest.mark.parametrize("number", range(len(TRIED)))
def test_nbval_compares_what_is_tagged(number, nbval):
    """In the same way whether a chapter is executed or the book's build has executed it."""
    outcomes, said = nbval
    assert len(outcomes) == len(TRIED), said
    assert outcomes[f"Cell {number}"] == ("passed" if TRIED[number][1] else "failure"), said


def test_a_chapter_that_the_build_has_not_run_as_it_is_now_is_executed(tmp_path):
    notebook = new_notebook(cells=[cell("a = 1"), new_markdown_cell("prose"), cell("print(a)")])
    path, cache = tmp_path / "chapter.ipynb", cache_folder(tmp_path)
    nbformat.write(notebook, path)
    assert replay(path, cache) is None and not cache.exists()
    keep(tmp_path, new_notebook(cells=[notebook.cells[0], notebook.cells[2]]), [[], GAVE[0]])
    assert replay(path, cache) is not None
    for cells in ([cell("a = 2"), cell("print(a)")], [cell("print(a)"), cell("a = 1")], [cell("a = 1")]):
        nbformat.write(new_notebook(cells=cells), path)
        assert replay(path, cache) is None
    nbformat.write(notebook, path)
    assert replay(path, tmp_path / "exec-of-other-code") is None


def test_a_replay_gives_each_cell_its_own_outputs_and_skips_with_nbval():
    ran = [cell(f"print({number})", f"{number}\n") for number in range(4)]
    kernel = Replay(ran)
    for number in (0, 2):
        sent = kernel.execute_cell_input(f"print({number})")
        message = kernel.get_message("iopub")
        assert message["parent_header"]["msg_id"] == sent
        assert (message["msg_type"], message["content"]["text"]) == ("stream", f"{number}\n")
        assert kernel.get_message("iopub")["content"] == {"execution_state": "idle"}
        with pytest.raises(Empty):
            kernel.get_message("iopub")
    for other in ("print(1)", "print(4)"):
        with pytest.raises(RuntimeError, match="has not run this cell: make book"):
            Replay(ran[2:] if other == "print(1)" else ran).execute_cell_input(other)


def test_pages_name_no_folders_and_keep_their_colors():
    line = "File \x1b[32m/home/a/.venv/lib/python3.11/site-packages/x/y.py:7\x1b[39m, in f; /home/a/own.py stays"
    assert without_folders(line) == "File \x1b[32msite-packages/x/y.py:7\x1b[39m, in f; /home/a/own.py stays"
