"""Run the chapters as they are stored on a machine with real GPUs, and record which cells come out as stored.

    python tools/real_chapters.py --out FOLDER                 all chapters, with one GPU visible, then with two
    python tools/real_chapters.py --out FOLDER --gpus 1 03 10  these chapters, with one

Each chapter runs in a process of its own (`pytest notebooks/NN_slug.ipynb`, the options of pyproject.toml), several at
once. Then the code blocks in the prose that only CUDA can run are taken from the notebooks and run as printed, each in
a new process. FOLDER gets `notebooks_real.json`, the record for `sana_lab.evidence`, and a log for each chapter; the
record is written again after each chapter, so a run that is stopped leaves what it had.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from chapters import NOTEBOOKS, ROOT, comparable

SRC = ROOT / "src"
sys.path.insert(0, str(SRC))  # the package beside this file, also where another one is installed
from sana_lab import evidence, isolated, machine  # noqa: E402
from sana_lab.accelerator.chapters import RECORD, digests  # noqa: E402

WHAT = (
    "Every chapter run cell by cell on real GPUs, outputs compared with those stored from the virtual GPU; "
    "the code blocks in the prose run as printed"
)
OUTCOMES = "SANA_LAB_CELL_OUTCOMES"
"""Environment variable: the file to which the plugin below writes a line for each cell."""
LONGEST = 400
"""Characters of a difference that the record keeps."""
_BLOCK = re.compile(r"^(`{3,})python *\n(.*?)^\1 *$", re.DOTALL | re.MULTILINE)


# --- a pytest plugin, for the processes that run a chapter ---------------------------------------------------------


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Write what became of a cell, with what differs, as one line of JSON."""
    report = (yield).get_result()
    target = os.environ.get(OUTCOMES)
    if target is None or not hasattr(item, "cell") or (report.when != "call" and not report.failed):
        return
    line: dict[str, Any] = {"cell": item.cell_num, "id": item.cell.get("id", ""), "outcome": report.outcome}
    if report.failed:
        raised = getattr(call.excinfo.value, "inner_traceback", None)
        found = item.test_outputs or []
        errors = [output for output in found if output.output_type == "error"]
        if errors and not item.options["check_exception"]:
            line["raised"] = _short(f"{errors[-1].ename}: {errors[-1].evalue}")
        else:
            line["difference"] = difference(item.cell, found) or _short(str(raised or call.excinfo.value))
    with open(target, "a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


def difference(cell: nbformat.NotebookNode, outputs: list[nbformat.NotebookNode]) -> str:
    """The lines that a cell printed otherwise than stored: "- stored", "+ found"."""
    found = nbformat.v4.new_code_cell()
    found.outputs = outputs
    before, after = ("\n".join(comparable(one)).splitlines() for one in (cell, found))
    lines = difflib.unified_diff(before, after, lineterm="", n=0)
    return _short("\n".join(line for line in lines if not line.startswith(("---", "+++", "@@"))))


def _short(text: str) -> str:
    """A text without terminal colors, cut to `LONGEST` characters."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text).strip()
    return text if len(text) <= LONGEST else text[: LONGEST - 2] + " …"


# --- running -------------------------------------------------------------------------------------------------------


def environment(gpus: int | None) -> dict[str, str]:
    """The environment of a process that sees this many GPUs (None: those that this one sees)."""
    found = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SRC), str(ROOT / "tools"), *_inherited()])}
    found |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1", "PYTHONUTF8": "1"}
    if gpus is not None:
        shown = machine.entries() or [str(i) for i in range(gpus)]
        found[machine.VARIABLE] = ",".join(shown[:gpus])
    return found


def _inherited() -> list[str]:
    return [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]


def run_chapter(path: Path, gpus: int | None, logs: Path, limit: float) -> dict[str, Any]:
    """Run one chapter in a new process.

    Args:
        path: the stored chapter; not changed.
        gpus: how many GPUs its process sees.
        logs: folder for what pytest printed.
        limit: seconds after which the process is ended.

    Returns:
        `cells` (those that were run), `failed` (number, id, and what differs or was raised), `seconds`, `digests`, and
        `error` where pytest itself ended otherwise.
    """
    notebook = nbformat.read(path, as_version=4)
    command = isolated.module("pytest", str(path), "-q", "--color=no", "-p", "no:cacheprovider", "-p", "real_chapters")
    with tempfile.TemporaryDirectory() as scratch:
        outcomes = Path(scratch) / "outcomes"
        began = time.monotonic()
        with (logs / f"{path.stem}_{gpus or 'all'}.log").open("w+", encoding="utf-8") as log:
            environ = {**environment(gpus), OUTCOMES: str(outcomes)}
            code = _ended(command, limit, cwd=ROOT, environ=environ, stdout=log, stderr=subprocess.STDOUT)
            log.seek(0)
            said = log.read()
        seconds = round(time.monotonic() - began, 1)
        lines = outcomes.read_text(encoding="utf-8").splitlines() if outcomes.is_file() else []
    cells = [json.loads(line) for line in lines]
    failed = [{key: value for key, value in cell.items() if key != "outcome"} for cell in cells]
    failed = [short for short, cell in zip(failed, cells, strict=True) if cell["outcome"] == "failed"]
    found = {"cells": len(cells), "failed": failed, "seconds": seconds, "digests": digests(notebook)}
    wanted = sum(cell.cell_type == "code" for cell in notebook.cells)
    if code not in (0, 1) or len(cells) < wanted:
        ended = "stopped at its time limit" if code is None else f"pytest ended with {code}"
        found["error"] = f"{ended} after {len(cells)} of {wanted} cells: {_short(said[-LONGEST:])}"
    return found


def _ended(command: list[str], limit: float, **options: Any) -> int | None:
    """Exit status of a process that may take `limit` seconds; None if it took longer."""
    process = isolated.start(command, **options)
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        isolated.end(process)


def blocks(notebook: nbformat.NotebookNode) -> Iterator[tuple[str, str]]:
    """The Python code in a chapter's prose, which no build runs: (id of the cell, number in it) and the lines."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for number, match in enumerate(_BLOCK.finditer(cell.source)):
                yield f"{cell.id}/{number}", match[2]


def run_block(source: str, gpus: int | None, limit: float) -> dict[str, Any]:
    """Run a block of code as printed, in a new process; what it came to, and seconds."""
    began = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        options = {"cwd": NOTEBOOKS, "environ": environment(gpus), "stdout": subprocess.DEVNULL, "stderr": said}
        begin = "from sana_lab import isolated\nisolated.end_with_parent()\ndel isolated\n"
        code = _ended([sys.executable, "-c", begin + source], limit, **options)
        said.seek(0)
        last = said.read().strip().splitlines()[-1:] or [f"ended with {code}"]
    found = {"outcome": "ran"} if code == 0 else {"outcome": "raised", "raised": _short(last[0])}
    if code is None:
        found = {"outcome": "stopped at its time limit"}
    return {**found, "first line": source.split("\n", 1)[0], "seconds": round(time.monotonic() - began, 1)}


def main(arguments: list[str] | None = None) -> int:
    """Run, record, print a summary; the exit status is 0 if every cell came out as stored and every block ran."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chapters", nargs="*", help="beginnings of names; all by default")
    parser.add_argument("--out", type=Path, required=True, help="folder for the record and the logs")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2], help="how many are visible, a pass for each")
    parser.add_argument("--at-once", type=int, default=10, help="chapters that run at a time")
    parser.add_argument("--limit", type=float, default=280, help="seconds for a chapter or a block")
    asked = parser.parse_args(arguments)
    paths = [
        path
        for path in sorted(NOTEBOOKS.glob("*.ipynb"))
        if not asked.chapters or any(path.stem.startswith(begin) for begin in asked.chapters)
    ]
    if not paths:
        parser.error(f"no chapter's name begins with {' or '.join(asked.chapters)}")
    here = len(machine.gpus())
    passes: list[int | None] = [gpus for gpus in asked.gpus if gpus <= here]
    if left_out := [gpus for gpus in asked.gpus if gpus > here]:
        print(f"not run, this machine has {here} GPUs: passes with {', '.join(map(str, left_out))}")
    if not here:
        print("no real GPU here: one pass with whatever use_accelerator() finds, to try the program; not a record")
        passes = [None]
    logs = asked.out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"gpus": {str(gpus or 0): {} for gpus in passes}, "blocks": {}}

    def keep() -> None:
        evidence.save(
            RECORD,
            what=WHAT,
            command="python tools/real_chapters.py --out FOLDER",
            results=results,
            versions=evidence.installed_versions("triton", "pandas"),
            folder=asked.out,
        )

    lock = threading.Lock()

    def chapter(which: tuple[int | None, Path]) -> None:
        gpus, path = which
        found = run_chapter(path, gpus, logs, asked.limit)
        with lock:
            results["gpus"][str(gpus or 0)][path.stem] = found
            keep()

    def block(which: tuple[str, str, str]) -> None:
        name, place, source = which
        found = run_block(source, 1, asked.limit)
        with lock:
            results["blocks"].setdefault(name, {})[place] = found
            keep()

    isolated.at_once(chapter, [(gpus, path) for gpus in passes for path in paths], asked.at_once)
    if here:
        printed = [(path.stem, *each) for path in paths for each in blocks(nbformat.read(path, as_version=4))]
        isolated.at_once(block, printed, asked.at_once)
    for chapters in (*results["gpus"].values(), results["blocks"]):
        for name in sorted(chapters):
            chapters[name] = chapters.pop(name)
    keep()
    print(summary(results))
    return int(any(found.get("error") or found["failed"] for found in _chapters(results)) or _broken(results))


def summary(results: dict[str, Any]) -> str:
    """The record in words: a line for each chapter, each differing cell and each block."""
    lines = []
    for gpus, chapters in results["gpus"].items():
        for name, found in chapters.items():
            as_stored = found["cells"] - len(found["failed"])
            lines.append(f"{gpus} GPUs  {name:<28} {as_stored:>3} of {found['cells']:>3}  {found['seconds']:>6} s")
            if "error" in found:
                lines.append(f"    {found['error']}")
            for cell in found["failed"]:
                told = cell.get("raised") or cell.get("difference", "")
                lines.append(f"    cell {cell['cell']} ({cell['id']})\n" + _indented(told))
    for name, printed in results["blocks"].items():
        for place, found in printed.items():
            lines.append(f"block   {name} {place}: {found['outcome']} {found.get('raised', '')} {found['seconds']} s")
    return "\n".join(lines)


def _indented(text: str) -> str:
    return "\n".join(f"        {line}" for line in text.splitlines())


def _chapters(results: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for chapters in results["gpus"].values():
        yield from chapters.values()


def _broken(results: dict[str, Any]) -> bool:
    return any(found["outcome"] != "ran" for printed in results["blocks"].values() for found in printed.values())


if __name__ == "__main__":
    sys.exit(main())
