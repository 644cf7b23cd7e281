"""What `make book` computed is what the chapters store.

`make chapters` runs them with one thread and AVX2 (nbval); the book was built with whatever this machine has. Both must
print what is stored: a reader's most frequent complaint about such books is "my numbers differ".
"""

from __future__ import annotations

import re

import nbformat
from nbformat import from_dict

from chapters import ROOT, canonical, comparable, compared_cells, stored


def without_glue(cell):
    """A code cell without its glued values, which MyST-NB moves to another file while it builds."""
    outputs = [output for output in cell.outputs if not any("papermill" in kind for kind in output.get("data", {}))]
    return from_dict({**cell, "outputs": outputs})


def test_the_built_pages_show_the_stored_numbers(built):
    differing, looked_at = [], 0
    for path, notebook in stored().items():
        run = nbformat.read(ROOT / "_build" / "jupyter_execute" / "notebooks" / path.name, as_version=4)
        ran, kept = ([c.source for c in chapter.cells if c.cell_type == "code"] for chapter in (run, notebook))
        assert ran == kept, f"{path.name} is newer: make book"  # prose is read into roles first: tools/prose.py
        tested = {cell.id for cell in compared_cells(notebook)}
        for now, then in zip(canonical(run).cells, notebook.cells, strict=True):
            if then.id not in tested:
                continue
            shown = [comparable(without_glue(cell)) for cell in (then, now)]
            looked_at += len(shown[0])
            if shown[0] != shown[1]:
                differing.append((path.name, then.id, *shown))
    assert looked_at > 0
    assert differing == []


def test_no_page_names_a_folder_of_the_builder(built):
    pages = [*(ROOT / "_build" / "html" / "notebooks").glob("*.html")]
    texts = {page.name: re.sub("<[^>]+>", "", page.read_text(encoding="utf-8")) for page in pages}
    assert any("site-packages" in text for text in texts.values()), "no traceback is left to look at"
    assert [name for name, text in texts.items() if str(ROOT) in text or "/site-packages" in text] == []
