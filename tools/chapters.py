"""Run the chapters and store them; check how they are stored; count what their tests compare.

    python tools/chapters.py refresh [notebook ...]     execute, then store in canonical form
    python tools/chapters.py prose [notebook ...]       write prose and folding of cells anew, execute nothing
    python tools/chapters.py check [notebook ...]       say what is wrong with the stored form, change nothing
    python tools/chapters.py sources [notebook ...]     print prose and code without outputs, for the spelling checker

Canonical means: the same cells that print the same things give the same bytes, whoever runs them and whenever.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import yaml
from nbformat import NotebookNode
from nbval.plugin import find_comment_markers, find_metadata_tags

import loose_numbers
import prose
from sana_lab.evidence import journal

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
SETUP_CELL = "from sana_lab import use_accelerator\nuse_accelerator()"
SETUP_CELLS = (SETUP_CELL, SETUP_CELL.replace("()", "(virtual=True)"))  # the second where GPUs come and go
ALONE = "alone"
"""Id of the cell before the setup cell, which helps a notebook that was opened without its book."""

# What nbval must not compare, beyond its own list: streams and formats that are not numbers or words.
SKIP_COMPARE = ("stderr", "text/html", "image/svg+xml", "image/webp")
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
KEPT_NOTEBOOK_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
KEPT_CELL_METADATA = ("mystnb", "slideshow", "tags")
FOLDED = {  # what JupyterLab keeps closed of a cell, by the tag that folds it on the page
    "hide-input": ("source_hidden",),
    "hide-output": ("outputs_hidden",),
    "hide-cell": ("outputs_hidden", "source_hidden"),
    "remove-cell": ("source_hidden",),
}
ANSWER = {"code_prompt_show": "Show the answer", "code_prompt_hide": "Hide the answer"}
_ASKS = re.compile(
    r"\b(?:Before|before) you (?:look|open|read)|(?:^|[.:?] |\b[Nn]ow )[Gg]uess\b|\b[Ff]irst guess\b|do you expect\b"
)

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_FOLDERS = re.compile(r"(?:[A-Za-z]:)?[^\s\"'()]*[\\/](?=(?:site|dist)-packages[\\/])")
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]{6,}")
_HOME = re.compile(r"(?:/home/|/root/|/Users/|/tmp/|[A-Z]:\\Users\\)")
_PROGRESS = re.compile(r"\d+%\|")  # tqdm's bar, as text or as a widget's plain text
_REPR = re.compile(r"<.*>|\w+\(children=.*", re.DOTALL)  # <Figure size …>, <PIL.Image …>: says nothing to compare


_KERNEL_FILES = {  # below IPython's profile_default
    "startup/00-quiet.py": """\
# Written by tools/chapters.py: kernels that make pages draw no progress bars; people who run a chapter see them.
import logging

from tqdm.notebook import tqdm_notebook

# Only CPUs with AVX512-BF16 hear that an optional package is missing (bitsandbytes 0.50.2, backends/cpu/ops.py).
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

def quiet(self, *args, _init=tqdm_notebook.__init__, **kwargs):
    _init(self, *args, **{**kwargs, "disable": True})

tqdm_notebook.__init__ = quiet
del logging, quiet, tqdm_notebook
""",
    "ipython_kernel_config.py": """\
c.IPKernelApp.log_level = "ERROR"  # ipykernel 7.4 warns at every start that local TCP is not encrypted
""",
}


def quiet_kernels() -> None:
    """Let every kernel that this process starts run without network and without progress bars.

    `TQDM_DISABLE` does not reach bars drawn as widgets (tqdm 4.70, `tqdm.notebook`), so kernels get an IPython
    startup file. People's own IPython settings stay out of the pages in the same way.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # a chapter that needs the network must fail here, not at a reader's
    os.environ["TQDM_DISABLE"] = "1"
    home = ROOT / ".cache" / "ipython"
    for name, text in _KERNEL_FILES.items():
        path = home / "profile_default" / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            journal.write_text(path, text, sync=False)  # several test workers may come here at once
    os.environ["IPYTHONDIR"] = str(home)


# --- a notebook opened alone -----------------------------------------------------------------------------------


def alone_cell() -> NotebookNode:
    """The cell that installs what is missing: `tools/alone_cell.py`, with the repository that `_config.yml` names."""
    settings = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    url = (settings.get("repository") or {}).get("url") or ""
    source = (ROOT / "tools" / "alone_cell.py").read_text(encoding="utf-8").strip()
    source = source.replace('get_the_package(repository="")', f"get_the_package(repository={json.dumps(url)})")
    cell = nbformat.v4.new_code_cell(source, id=ALONE, execution_count=1, metadata={"tags": ["remove-cell"]})
    _fold(cell)
    return cell


def with_alone_cell(notebook: NotebookNode) -> NotebookNode:
    """Put the cell for notebooks opened alone before the setup cell, in place of an older one; changes the notebook."""
    notebook.cells = [cell for cell in notebook.cells if cell.get("id") != ALONE]
    first = next((i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"), None)
    if first is not None and notebook.cells[first].source.strip() in SETUP_CELLS:
        notebook.cells.insert(first, alone_cell())
    return notebook


# --- questions and folded cells ---------------------------------------------------------------------------------


def asks(source: str) -> bool:
    """Does prose end in a question that the reader is to answer before the next cell does? Exercises begin in bold."""
    last = source.rstrip().rpartition("\n\n")[2]
    return "?" in last and not last.startswith("**") and bool(_ASKS.search(last))


def answers(notebook: NotebookNode) -> list[NotebookNode]:
    """The code cells that answer a question to guess at: the one after the question, or tagged `guess` by hand."""
    found = []
    for before, cell in zip([None, *notebook.cells], notebook.cells, strict=False):
        asked = before is not None and before.cell_type == "markdown" and asks(before.source)
        if cell.cell_type == "code" and (asked or "guess" in cell.metadata.get("tags", [])):
            found.append(cell)
    return found


def _fold(cell: NotebookNode) -> None:
    """Close in JupyterLab what the page folds (nbformat 4.5, cell metadata `jupyter`)."""
    hidden = sorted({key for tag in cell.metadata.get("tags", []) for key in FOLDED.get(tag, ())})
    if hidden:
        cell.metadata["jupyter"] = NotebookNode(dict.fromkeys(hidden, True))


# --- the canonical form ------------------------------------------------------------------------------------------


def _overwrite(text: str) -> str:
    """What a terminal shows after carriage returns."""
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))


def without_folders(text: str) -> str:
    """A traceback's text with files of libraries named from `site-packages` on; colors stay."""
    return _FOLDERS.sub(lambda found: "".join(_ANSI.findall(found.group())), text)


def _tidy_output(output: NotebookNode, count: int) -> NotebookNode | None:
    """One output in canonical form, or None where nothing is worth keeping."""
    if output.output_type == "stream":
        output.text = _overwrite(output.text)
        return output
    if output.output_type == "error":
        output.traceback = [_ANSI.sub("", without_folders(line)) for line in output.traceback]
        return output
    output.data.pop(WIDGET_VIEW, None)  # names a widget in a kernel that is gone; pages get theirs when they are built
    text = output.data.get("text/plain", "")
    if not output.data or _PROGRESS.search(text):
        return None
    if output.output_type == "execute_result":
        output.execution_count = count
    output.metadata = NotebookNode({k: v for k, v in output.metadata.items() if k in ("scrapbook", "image/png")})
    return output


def _merged(outputs: list[NotebookNode]) -> Iterator[NotebookNode]:
    """Outputs with neighboring pieces of one stream joined: where a stream is cut depends on timing."""
    last = None
    for output in outputs:
        if last is not None and last.output_type == output.output_type == "stream" and last.name == output.name:
            last.text += output.text
            continue
        last = output
        yield output


def canonical(notebook: NotebookNode) -> NotebookNode:
    """A notebook with everything removed or renumbered that differs from run to run.

    Args:
        notebook: an executed notebook of format 4.5; not changed.

    Returns:
        A copy. Applying this twice changes nothing more.
    """
    notebook = with_alone_cell(copy.deepcopy(notebook))
    notebook.metadata = nbformat.from_dict(KEPT_NOTEBOOK_METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    count, answered = 0, answers(notebook)
    for position, cell in enumerate(notebook.cells):
        cell.id = cell.get("id") or f"cell-{position}"
        cell.source = "\n".join(line.rstrip() for line in cell.source.strip("\n").split("\n"))
        cell.metadata = NotebookNode({k: v for k, v in cell.metadata.items() if k in KEPT_CELL_METADATA and v})
        if cell.cell_type != "code":
            continue
        if any(cell is answer for answer in answered):
            tags = [tag for tag in cell.metadata.get("tags", []) if tag not in ("guess", "hide-output")]
            cell.metadata["tags"] = sorted([*tags, "guess", *(["hide-output"] if "hide-cell" not in tags else [])])
            cell.metadata["mystnb"] = NotebookNode({**cell.metadata.get("mystnb", {}), **ANSWER})
        _fold(cell)
        if cell.execution_count is not None:
            count += 1
            cell.execution_count = count
        tidied = (_tidy_output(output, count) for output in _merged(cell.outputs))
        cell.outputs = [output for output in tidied if output is not None]
    return notebook


def as_text(notebook: NotebookNode) -> str:
    """The bytes to store: sorted keys, one-space indent, one final newline."""
    nbformat.validate(notebook)
    return nbformat.writes(notebook).rstrip("\n") + "\n"


# --- what is wrong, what is compared -----------------------------------------------------------------------------


def _options(cell: NotebookNode) -> dict[str, bool]:
    """What nbval reads from a cell's tags and comments: keys `check`, `skip`, `check_exception`."""
    return {**dict(find_metadata_tags(cell.metadata)), **dict(find_comment_markers(cell.source))}


def comparable(cell: NotebookNode) -> list[str]:
    """The pieces of a cell's outputs that nbval compares and that say something.

    Args:
        cell: a code cell.

    Returns:
        Texts of stdout, errors, plain-text results and glued values. Pictures, HTML, stderr and bare object
        representations such as `<Figure size 640x480 with 1 Axes>` are left out.
    """
    found = []
    for output in cell.outputs:
        if output.output_type == "stream":
            if output.name == "stdout":
                found.append(output.text)
        elif output.output_type == "error":
            found.append(f"{output.ename}: {output.evalue}")
        else:
            found += [
                value
                for kind, value in sorted(output.data.items())
                if kind.endswith("text/plain") and not _REPR.fullmatch(value.strip())
            ]
    return [text for text in found if text.strip()]


@dataclass(frozen=True)
class Counts:
    """How much of a chapter its test looks at, in code cells."""

    code: int
    executed: int  # with an execution count, and not skipped
    compared: int  # of those, tagged to be compared and with something to compare
    skipped: int  # never run by nbval

    def problems(self) -> list[str]:
        """What makes the test vacuous, one line each; empty when it is not."""
        found = []
        if self.code == 0:
            found.append("has no code cell")
        if unrun := self.code - self.executed - self.skipped:
            found.append(f"{unrun} code cells have no execution count, so nbval never compares them: make refresh")
        if 3 * self.compared < self.code:
            found.append(
                f"compares {self.compared} of {self.code} code cells, fewer than a third: tag cells nbval-check-output"
            )
        return found


def compared_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The code cells whose outputs nbval (in `--nbval-lax` mode) really compares."""
    return [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code"
        and cell.execution_count is not None
        and _options(cell).get("check")
        and not _options(cell).get("skip")
        and comparable(cell)
    ]


def chapters_own(notebook: NotebookNode) -> list[NotebookNode]:
    """The code cells, without the one that is the same everywhere and does nothing inside the book."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.get("id") != ALONE]


def counts(notebook: NotebookNode) -> Counts:
    """Count the code cells of a stored chapter by what its test does with them."""
    code = chapters_own(notebook)
    skipped = sum(bool(_options(cell).get("skip")) for cell in code)
    executed = sum(cell.execution_count is not None and not _options(cell).get("skip") for cell in code)
    return Counts(len(code), executed, len(compared_cells(notebook)), skipped)


def table(notebooks: dict[str, NotebookNode]) -> str:
    """The counts of several chapters as a text table."""
    lines = [f"{'chapter':<32}{'code cells':>12}{'executed':>10}{'compared':>10}{'skipped':>9}"]
    for name, notebook in notebooks.items():
        n = counts(notebook)
        lines.append(f"{name:<32}{n.code:>12}{n.executed:>10}{n.compared:>10}{n.skipped:>9}")
    return "\n".join(lines)


def problems(notebook: NotebookNode, text: str | None = None) -> list[str]:
    """What is wrong with a stored chapter, one line each.

    Args:
        notebook: the chapter.
        text: its file's text; when given, it must be the canonical form's very text.

    Returns:
        Empty when the chapter is fit to be committed.
    """
    found = counts(notebook).problems()
    code = chapters_own(notebook)
    if len(code) == sum(cell.cell_type == "code" for cell in notebook.cells) > 0:
        found.append("has no cell for a notebook opened alone: make refresh, or python tools/chapters.py prose")
    if code and code[0].source.strip() not in SETUP_CELLS:
        found.append(f"the first code cell is not the common setup cell: {SETUP_CELL!r}")
    found += [
        f"cell {cell.id} answers a question to guess at and shows its output at once: make refresh folds it"
        for cell in answers(notebook)
        if not cell.metadata.get("jupyter", {}).get("outputs_hidden")
        or not {"hide-output", "hide-cell"} & set(cell.metadata.get("tags", []))
    ]
    for number, cell in enumerate(code):
        say = f"code cell {number} ({cell.id})"
        if not cell.source.strip():
            found.append(f"{say} is empty")
        images = 0
        for output in cell.outputs:
            if output.output_type == "stream":
                shown = output.text
                if output.name == "stderr":
                    found.append(f"{say} stored stderr: {shown.strip()[:80]!r}")
                    continue
            elif output.output_type == "error":
                shown = output.evalue
                if not _options(cell).get("check_exception"):
                    found.append(f"{say} stored an error, {output.ename}, and has no raises-exception tag")
            else:
                shown = output.data.get("text/plain", "")
                images += any(kind.startswith("image/") for kind in output.data)
            if _ADDRESS.search(shown):
                found.append(f"{say} stored a memory address, which changes with every run")
            if _HOME.search(shown):
                found.append(f"{say} stored a folder of one machine: {_HOME.search(shown).group()!r}")
        if images and not cell.metadata.get("mystnb", {}).get("image", {}).get("alt"):
            found.append(f"{say} shows a picture without alt text: set metadata mystnb.image.alt")
    if text is not None and not found and as_text(canonical(notebook)) != text:
        found.append("is not in canonical form: make refresh")
    return found


def prose_problems(notebook: NotebookNode, path: Path) -> list[str]:
    """What is wrong with the prose of a stored chapter, one line each.

    A number that its cells no longer give, or that nothing gave; a citation or a figure's number that is out of date, a
    name that stands for nothing, a link to a file that is not there or to another chapter than it says, a title with
    another number than the file has.
    """
    anew = copy.deepcopy(notebook)
    found = [*prose.stored(anew, path.name), *prose.differences(notebook, anew)]
    astray = [*prose.title_astray(notebook, path.name), *prose.links_astray(notebook, path.parent)]
    return [*found, *astray, *loose_numbers.problems(notebook)]


# --- commands ----------------------------------------------------------------------------------------------------


def stored(paths: list[Path] | None = None) -> dict[Path, NotebookNode]:
    """The chapters on disk, by path.

    Raises:
        SystemExit: there is none, or one is not readable.
    """
    paths = paths or sorted(NOTEBOOKS.glob("*.ipynb"))
    if not paths:
        raise SystemExit(f"no chapter found in {NOTEBOOKS}")
    try:
        return {path: nbformat.read(path, as_version=4) for path in paths}
    except (OSError, ValueError) as reason:
        raise SystemExit(f"cannot read a chapter: {reason}") from None


def execute(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Run all cells in a fresh kernel of this environment, in `folder`."""
    from nbclient import NotebookClient

    notebook = copy.deepcopy(notebook)
    quiet_kernels()
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where, store_widget_state=False).execute()
    return notebook


def refresh(path: Path, notebook: NotebookNode) -> list[str]:
    """Execute one chapter and store it; a chapter with a failing cell is left as it was.

    Returns:
        What is wrong with what was stored, or with the run, one line each.
    """
    from nbclient.exceptions import CellExecutionError

    try:
        executed = canonical(execute(notebook, path.parent))
    except CellExecutionError as failure:
        return [f"not stored, a cell failed: {failure.ename}: {failure.evalue}"]
    prose.stored(executed, path.name)
    journal.write_text(path, as_text(executed))
    return problems(executed) + prose_problems(executed, path)


def rewrite(path: Path, notebook: NotebookNode) -> list[str]:
    """Write the prose of one chapter anew, with the values of its stored outputs, and fold its cells.

    Returns:
        What is wrong with it then, one line each.
    """
    anew = canonical(notebook)
    prose.stored(anew, path.name)
    if as_text(anew) != path.read_text(encoding="utf-8"):
        journal.write_text(path, as_text(anew))
    return prose_problems(anew, path)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit status is 0 only when every chapter is fine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["refresh", "prose", "check", "sources"])
    parser.add_argument("notebooks", nargs="*", type=Path)
    asked = parser.parse_args(arguments)
    chapters = stored(asked.notebooks)
    if asked.command == "sources":
        print("\n".join(cell.source for notebook in chapters.values() for cell in notebook.cells))
        return 0
    failed = False
    for path, notebook in chapters.items():
        if asked.command == "refresh":
            found = refresh(path, notebook)
        elif asked.command == "prose":
            found = rewrite(path, notebook)
        else:
            found = problems(notebook, path.read_text(encoding="utf-8")) + prose_problems(notebook, path)
        failed |= bool(found)
        print("\n".join(f"{path.name}: {line}" for line in found) or f"{path.name}: ok")
    if asked.command == "check":
        print(table({path.name: notebook for path, notebook in chapters.items()}))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
