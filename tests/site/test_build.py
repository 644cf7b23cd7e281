"""`make book` on a book of one chapter: what must fail does fail, and it builds where there is no npm."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import book_site
from chapter_runs import execution_key
from chapters import ROOT


@pytest.fixture
def book(tmp_path):
    """A copy of the book's settings around one chapter; call it with the chapter's cells to build."""
    for part in ("tools", "book/_static"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("_config.yml", "book/references.bib"):
        shutil.copy(ROOT / part, tmp_path / part)
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: chapter\n", encoding="utf-8")
    (tmp_path / "src").mkdir()

    def build(*cells):
        nbformat.write(new_notebook(cells=[new_markdown_cell("# Title\n\n$x^2$"), *cells]), tmp_path / "chapter.ipynb")
        arguments = re.search(r"jupyter-book (build .*)", (ROOT / "Makefile").read_text(encoding="utf-8")).group(1)
        command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", *arguments.split()]
        without_npm = {**os.environ, "PATH": str(tmp_path)}
        run = subprocess.run(command, cwd=tmp_path, env=without_npm, capture_output=True, text=True)
        page = tmp_path / "_build" / "html" / "chapter.html"
        return run.returncode, run.stdout + run.stderr, page.read_text(encoding="utf-8") if page.exists() else ""

    build.folder = tmp_path
    return build


def test_a_good_chapter_builds_and_runs_again_when_the_package_changes(book):
    cell = new_code_cell("from pathlib import Path\nprint('saw', Path('src/value').read_text())")
    (book.folder / "src" / "value").write_text("one")
    code, log, page = book(cell)
    assert code == 0 and "saw one" in page, log
    assert "load MathJax and the widget manager from their CDNs: npm is not installed" in log
    assert "built without npm" in page and "cdn.jsdelivr.net/npm/mathjax@3.2.2/" in page
    (book.folder / "src" / "value").write_text("two")
    code, log, page = book(cell)
    assert code == 0 and "saw two" in page, log
    assert len(list((book.folder / ".cache").glob("exec-*"))) == 1


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (new_code_cell("raise ValueError('broken')"), "broken"),
        (new_code_cell("import sys; print('noise', file=sys.stderr)"), "stderr"),
        (new_markdown_cell("[nowhere](nowhere.md)"), "nowhere"),
        (new_markdown_cell("{term}`unheard of`"), "unheard of"),
        (new_markdown_cell("{cite}`nobody1999`"), "nobody1999"),
    ],
)
def test_a_bad_chapter_fails_the_build(book, cell, said):
    code, log, _ = book(cell)
    assert code != 0
    assert said in log


WAIT = """
import time
from pathlib import Path

with open("{me}", "a") as file:
    file.write("ran ")
for _ in range(600):
    if Path("{other}").exists():
        print("met", "{other}")
        break
    time.sleep(0.1)
"""


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="chapters run at once on two cores or more")
def test_chapters_run_at_once_and_each_of_them_once(book):
    """Each of two chapters waits for a sign of the other: one after the other, neither would meet it."""
    (book.folder / "_toc.yml").write_text("format: jb-book\nroot: chapter\nchapters:\n- file: a\n- file: b\n")
    for me, other in ("ab", "ba"):
        cells = [new_markdown_cell("# Title"), new_code_cell(WAIT.format(me=f"{me}.ran", other=f"{other}.ran"))]
        nbformat.write(new_notebook(cells=cells), book.folder / f"{me}.ipynb")
    code, log, _ = book(new_code_cell("print(1 + 1)"))
    assert code == 0, log
    for me, other in ("ab", "ba"):
        assert f"met {other}.ran" in (book.folder / "_build" / "html" / f"{me}.html").read_text(encoding="utf-8")
        assert (book.folder / f"{me}.ran").read_text() == "ran "


def test_a_bad_chapter_among_others_fails_the_build(book):
    (book.folder / "_toc.yml").write_text("format: jb-book\nroot: chapter\nchapters:\n- file: a\n- file: b\n")
    for name in "ab":
        cells = [new_markdown_cell("# Title"), new_code_cell("print(2)")]
        nbformat.write(new_notebook(cells=cells), book.folder / f"{name}.ipynb")
    code, log, _ = book(new_code_cell("raise ValueError('broken')"))
    assert code != 0 and "broken" in log


def test_the_execution_key_follows_the_package_and_nothing_else(tmp_path):
    source = tmp_path / "src" / "package" / "module.py"
    source.parent.mkdir(parents=True)
    source.write_text("a = 1")
    first = execution_key(tmp_path)
    (source.parent / "__pycache__").mkdir()
    (source.parent / "__pycache__" / "module.pyc").write_text("x")
    (tmp_path / "README.md").write_text("x")
    assert execution_key(tmp_path) == first
    source.write_text("a = 2")
    changed = execution_key(tmp_path)
    source.rename(source.with_name("other.py"))
    assert len({first, changed, execution_key(tmp_path)}) == 3


def test_a_tarball_with_another_hash_is_refused_and_nothing_stays(tmp_path, monkeypatch):
    def npm(command, cwd, **options):
        (Path(cwd) / "package.tgz").write_bytes(b"something else")
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(book_site.shutil, "which", lambda name: name)
    monkeypatch.setattr(book_site.subprocess, "run", npm)
    with pytest.raises(ValueError, match="expected 1b9c0a1c"):
        book_site.fetch(book_site.MATHJAX, tmp_path)
    assert not (tmp_path / book_site.MATHJAX.folder).exists()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
