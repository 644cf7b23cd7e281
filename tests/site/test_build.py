"""`make book` on a book of one chapter: what must fail does fail, and it builds where there is no npm."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from docutils import nodes
from docutils.core import publish_doctree
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from sphinx.application import builtin_extensions

import book_site
from chapter_runs import execution_key
from chapters import ROOT
from sana_lab import isolated
from sana_lab.failures.catalogue import catalogue

EXTENSIONS = (
    "myst_nb", "sphinx_book_theme", "sphinx_comments", "sphinx_copybutton", "sphinx_design", "sphinx_external_toc",
    "sphinx_external_toc.events", "sphinx_jupyterbook_latex", "sphinx_multitoc_numbering", "sphinx_thebe",
    "sphinx_togglebutton", "sphinxcontrib.bibtex",
)  # fmt: skip
OURS = str(ROOT / "tools")


@pytest.fixture(scope="module")
def jupyter_book():
    """The program `jupyter-book`; what it and `book_site` import takes 5 of the 7 s of a build of one chapter."""
    for name in (*EXTENSIONS, *builtin_extensions, "sphinx.cmd.build", "sqlalchemy.dialects.sqlite"):
        importlib.import_module(name)
    catalogue()  # each page has its messages to search in
    return importlib.import_module("jupyter_book.cli.main").main


def in_a_fork(main, folder, arguments):
    """Run `main` with arguments in a folder, in a fork of this process: exit status and all that it said."""
    own = [name for name, module in sys.modules.items() if str(getattr(module, "__file__", "")).startswith(OURS)]

    def build():
        for name in own:  # the copies in the folder are imported instead
            del sys.modules[name]
        sys.path[:] = [place for place in sys.path if not place.startswith(OURS)]
        sys.argv[:] = ["jupyter-book", *arguments]
        os.environ["PATH"] = str(folder)  # no npm
        os.chdir(folder)
        sys.stdout, sys.stderr = (open(fd, "w", buffering=1, encoding="utf-8", closefd=False) for fd in (1, 2))
        try:
            main()
        except SystemExit as end:
            return end.code or 0
        except BaseException:
            traceback.print_exc()
            return 1
        return 0

    ((_, ended),) = isolated.run_each([("build", build)], limit=600, one_file=True)
    assert ended.how == isolated.DONE, ended
    return ended.value, ended.stdout


@pytest.fixture
def book(tmp_path, jupyter_book):
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
        status, said = in_a_fork(jupyter_book, tmp_path, arguments.split())
        page = tmp_path / "_build" / "html" / "chapter.html"
        return status, said, page.read_text(encoding="utf-8") if page.exists() else ""

    build.folder = tmp_path
    return build


TABLE = """
from IPython.display import HTML
from myst_nb import glue

glue("loss", -0.2, display=False)

HTML(
    '<table class="dataframe"><thead><tr><th></th><th>loss</th></tr><tr><th>kind</th><th></th></tr></thead>'
    "<tbody><tr><th>slim</th><td>-0.2</td></tr></tbody></table>"
)
"""
GLOSSARY = "It loses {glue:text}`loss`.\n\n```{glossary}\n:sorted:\n\nabsmax\n  The largest.\n\n8-bit\n  A byte.\n```"


def test_a_good_chapter_builds_and_runs_again_when_the_package_changes(book):
    cell = new_code_cell("from pathlib import Path\nprint('saw', Path('src/value').read_text())")
    (book.folder / "src" / "value").write_text("one")
    code, log, page = book(cell, new_code_cell(TABLE), new_markdown_cell(GLOSSARY))
    assert code == 0 and "saw one" in page, log
    assert "load MathJax and the widget manager from their CDNs: npm is not installed" in log
    assert "built without npm" in page and "cdn.jsdelivr.net/npm/mathjax@3.2.2/" in page
    assert '<tr><th class="of-rows">kind</th><th>loss</th></tr>' in page and "<td>−0.2</td>" in page
    assert re.search(r'class="pasted-text">−0\.2<', page)
    kept = (book.folder / "_build" / "jupyter_execute" / "chapter.ipynb").read_text(encoding="utf-8")
    assert "<td>-0.2</td>" in kept and "<th>kind</th><th></th>" in kept
    letters = re.search(r'<p class="letters">.*?</p>', page, re.DOTALL)[0]
    assert re.findall(r'href="#([\w-]+)">(.+?)</a>', letters) == [("term-8-bit", "0–9"), ("term-absmax", "A")]
    (book.folder / "src" / "value").write_text("two")
    code, log, page = book(cell)
    assert code == 0 and "saw two" in page, log
    assert len(list((book.folder / ".cache").glob("exec-*"))) == 1


def test_tables_say_where_they_want_room():
    wide, told = "|".join("x" * 9), "word " * 20
    page = publish_doctree(
        f".. csv-table::\n   :delim: |\n\n   {wide}\n\n"
        f".. csv-table::\n   :delim: |\n\n   a|b|{told}\n\n.. csv-table::\n   :delim: |\n\n   a|{told}\n"
    )
    book_site.mark_tables(None, page)
    assert [table["classes"] for table in page.findall(nodes.table)] == [["many-columns"], [], []]
    assert [entry.astext() for entry in page.findall(nodes.entry) if entry["classes"]] == [told.strip()]


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


MARKDOWN = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  name: python3
---

# Title

```{{code-cell}} ipython3
{code}
```
"""


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="chapters run at once on two cores or more")
def test_chapters_run_at_once_and_each_of_them_once(book):
    """A chapter and a page in Markdown each wait for a sign of the other: in turns, neither would meet it."""
    (book.folder / "_toc.yml").write_text("format: jb-book\nroot: chapter\nchapters:\n- file: a\n- file: b\n")
    a, b = (WAIT.format(me=f"{me}.ran", other=f"{other}.ran") for me, other in ("ab", "ba"))
    nbformat.write(new_notebook(cells=[new_markdown_cell("# Title"), new_code_cell(a)]), book.folder / "a.ipynb")
    (book.folder / "b.md").write_text(MARKDOWN.format(code=b), encoding="utf-8")
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


def test_the_execution_key_follows_the_package_and_nothing_else(tmp_path, monkeypatch):
    source = tmp_path / "src" / "package" / "module.py"
    source.parent.mkdir(parents=True)
    source.write_text("a = 1")
    first = execution_key(tmp_path)
    (source.parent / "__pycache__").mkdir()
    (source.parent / "__pycache__" / "module.pyc").write_text("x")
    (tmp_path / "README.md").write_text("x")
    (tmp_path / "elsewhere-1.0.dist-info").mkdir()
    (tmp_path / "elsewhere-1.0.dist-info" / "METADATA").write_text("Name: elsewhere\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)  # as setuptools does when it is imported, and torch.compile imports it
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
