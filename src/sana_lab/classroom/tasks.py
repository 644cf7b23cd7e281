"""The exercises of a chapter, found in its notebook: what is to be written, its check, its solution."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHECKS = "sana_lab.exercises.ch"
"""How the names of the modules begin that hold checks."""

_TITLE = re.compile(r"^\*\*(\d+)\. (.+?)\*\*", re.MULTILINE)


@dataclass(frozen=True)
class Task:
    """An exercise that a check can judge.

    Attributes:
        number: as the chapter counts.
        title: as the chapter calls it, without markup.
        module: that holds the check.
        check: name of the check.
        answers: names that the reader defines and the check is given.
        stub: cell in which they are to be written.
        tried: cell that calls the check.
        solved: cells that hold the solution and the words before it.
    """

    number: int
    title: str
    module: str
    check: str
    answers: tuple[str, ...]
    stub: int
    tried: int
    solved: tuple[int, ...]


def read_notebook(path: Path) -> Any:
    """A notebook from a file.

    Raises:
        ValueError: it is no notebook; one line that names the file.
        OSError: it cannot be read.
    """
    import nbformat

    if not path.is_file():
        raise ValueError(f"{path} is not a file: give a notebook, or a folder of them.")
    try:
        return nbformat.read(path, as_version=4)
    except OSError:
        raise
    except Exception as reason:  # nbformat has a dozen ways to say it
        raise ValueError(f"{path} is no notebook ({' '.join(str(reason).split())[:200]}).") from None


def chapters(folder: Path) -> dict[str, Any]:
    """The notebooks of the book by file name, in their order.

    Raises:
        ValueError: there is none in the folder, or one is damaged.
    """
    found = {path.name: read_notebook(path) for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))}
    if not found:
        raise ValueError(f"{folder} holds no chapters (NN_name.ipynb): give the book's folder with --book.")
    return found


def tasks(notebook: Any) -> list[Task]:
    """The exercises of a chapter that have a check, in their order.

    Args:
        notebook: as it is published, with its solutions.

    Example:
        >>> from pathlib import Path
        >>> chapter = read_notebook(next(Path("notebooks").glob("02_*.ipynb")))
        >>> [task.check for task in tasks(chapter)][:2]
        ['check_absmax_rows', 'check_affine']
    """
    found, title = [], (0, "")
    cells = notebook.cells
    for at, cell in enumerate(cells):
        if cell.cell_type == "markdown":
            for number, text in _TITLE.findall(cell.source):
                title = (int(number), text.strip().rstrip(".").replace("`", ""))
            continue
        if call := _called(cell.source):
            module, check, answers = call
            solved = _solution(cells, at, check)
            found.append(Task(*title, module, check, answers, at - 1, at, solved))
    return found


def _called(source: str) -> tuple[str, str, tuple[str, ...]] | None:
    """Module, name and arguments of the check that a cell imports and calls."""
    try:
        body = ast.parse(source).body
    except SyntaxError:  # a magic
        return None
    imports = {
        name.name: node.module
        for node in body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(CHECKS)
        for name in node.names
    }
    for node in body:
        call = node.value if isinstance(node, ast.Expr) else None
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in imports:
            names = tuple(argument.id for argument in call.args if isinstance(argument, ast.Name))
            return imports[call.func.id], call.func.id, names
    return None


def _solution(cells: list[Any], tried: int, check: str) -> tuple[int, ...]:
    """Cells after the check that hold its solution: the next code cell, where it calls the check, and prose before."""
    for at in range(tried + 1, len(cells)):
        if cells[at].cell_type == "code":
            hidden = "hide-cell" in cells[at].metadata.get("tags", [])
            return tuple(range(tried + 1, at + 1)) if hidden and f"{check}(" in cells[at].source else ()
        if _TITLE.search(cells[at].source):
            return ()
    return ()
