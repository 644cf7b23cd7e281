"""Hold chapters to the run that the book's build made of them, in place of running them once more.

`make book` runs every chapter into `.cache/exec-KEY`, and `make test` comes after it. nbval starts a kernel for each
chapter, sends it the cells, and compares what comes back with what is stored. Where the build ran the very same cells
with the very same package and libraries, it gets what came back then: `Replay` stands in for the kernel, and all
else is nbval's, its comparing included. A chapter that the build has not run as it is now is run.

    pytest -o chapter_runs= notebooks      runs all of them, whatever lies in the cache (`make chapters`)
"""

from __future__ import annotations

import hashlib
import sysconfig
from importlib.metadata import distributions
from pathlib import Path
from queue import Empty
from typing import Any

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent


def execution_key(root: Path = ROOT) -> str:
    """Hash of everything outside a chapter's own cells that its outputs depend on.

    Args:
        root: the repository.

    Returns:
        Sixteen hexadecimal digits over `src/` (file names and bytes, caches left out) and the installed distributions.
    """
    digest = hashlib.sha256()
    for path in sorted((root / "src").rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and ".egg-info" not in str(path):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    here = [sysconfig.get_path("purelib")]  # not sys.path: importing setuptools adds its own libraries
    digest.update("\n".join(sorted({f"{d.name}=={d.version}" for d in distributions(path=here)})).encode())
    return digest.hexdigest()[:16]


def cache_folder(caches: Path, root: Path = ROOT) -> Path:
    """Where the build keeps the runs of today's package, below the folder of all such caches."""
    return caches / f"exec-{execution_key(root)}"


def run_of(notebook: NotebookNode, cache: Path) -> list[NotebookNode] | None:
    """The code cells of a chapter as the build ran them, with their outputs.

    Args:
        notebook: the chapter as it is stored; its outputs do not matter.
        cache: the build's cache, see `cache_folder`.

    Returns:
        One cell for each code cell; None if the build has not run these very cells, or one of them did not end.
    """
    if not cache.is_dir():
        return None
    from jupyter_cache import get_cache

    runs = get_cache(cache)
    try:
        found = runs.get_cache_bundle(runs.match_cache_notebook(notebook).pk).nb
    except KeyError:
        return None
    ran = [cell for cell in found.cells if cell.cell_type == "code"]
    asked = [cell for cell in notebook.cells if cell.cell_type == "code"]
    same = [cell.source for cell in ran] == [cell.source for cell in asked]
    return ran if same and all(cell.execution_count is not None for cell in ran if cell.source.strip()) else None


class Replay:
    """Answers nbval as its kernel did when the build ran the chapter: stands in for `nbval.kernel.RunningKernel`.

    As of nbval 0.11: `plugin.py` calls these methods and reads `msg_type`, `content` and `parent_header` of a message.

    Args:
        ran: code cells with the outputs of the run, in order; cells that nbval skips are skipped here.
    """

    def __init__(self, ran: list[NotebookNode]):
        self._to_come, self._sent, self._alive, self._messages = list(ran), 0, True, []

    def execute_cell_input(self, cell_input: str, allow_stdin: bool | None = None) -> str:
        """Look up what a cell gave; returns the id by which the messages go.

        Raises:
            RuntimeError: the build has not run such a cell after the one before.
        """
        while self._to_come:
            cell = self._to_come.pop(0)
            if cell.source == cell_input:
                self._sent += 1
                self._messages = [*map(_message, cell.outputs), ("status", {"execution_state": "idle"})]
                return str(self._sent)
        raise RuntimeError("the book's build has not run this cell: make book")

    def get_message(self, stream: str, timeout: float | None = None) -> dict[str, Any]:
        """The next message of the cell.

        Raises:
            queue.Empty: there is none.
        """
        if stream != "iopub" or not self._messages:
            raise Empty
        kind, content = self._messages.pop(0)
        return {"msg_type": kind, "content": content, "parent_header": {"msg_id": str(self._sent)}}

    def await_reply(self, msg_id: str, timeout: float | None = None) -> None:
        """The cell has ended long ago."""

    def await_idle(self, parent_id: str, timeout: float | None = None) -> None:
        """Leave out what is still to come of the cell."""
        self._messages = []

    def is_alive(self) -> bool:
        """Until it is stopped."""
        return self._alive

    def interrupt(self) -> None:
        """Nothing runs."""

    def stop(self) -> None:
        """As after a kernel's end."""
        self._alive = False


def _message(output: NotebookNode) -> tuple[str, dict[str, Any]]:
    """An output as the message that it came by."""
    return output.output_type, {key: value for key, value in output.items() if key != "output_type"}


def replay(path: Path, cache: Path) -> Replay | None:
    """What stands in for the kernel of a chapter; None if it must be run."""
    ran = run_of(nbformat.read(path, as_version=4), cache)
    return None if ran is None else Replay(ran)
