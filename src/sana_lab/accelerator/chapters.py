"""The chapters on real GPUs as the book shows them: which cells came out as stored, which not and why, what changed.

`tools/real_chapters.py` runs the chapters on a machine with GPUs and writes the record. This module only shows.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import evidence

if TYPE_CHECKING:
    import pandas

RECORD = "notebooks_real"
"""Name of the record in `sana_lab.evidence`."""

WHY: dict[str, dict[str, str]] = {}
"""Chapter -> id of a code cell -> why a real GPU gives something else than what is stored. The test refuses a cell of
the record that differs and is not listed, unless its chapter has changed since, and a listed cell that agrees."""

RENAMED = {
    "08_tensors_on_two_devices": "10_tensors_on_two_devices",
    "09_device_maps_and_to": "11_device_maps_and_to",
    "10_version_pitfalls": "12_version_pitfalls",
}
"""A chapter's name when the record was made -> its name now: a record stays as it was written."""

_READ_BY_THE_TEST = ("nbval-check-output", "nbval-skip", "nbval-ignore-output", "raises-exception")


def digests(notebook: dict[str, Any]) -> dict[str, str]:
    """What a run of a chapter was a run of: its code, and the outputs that it was compared with.

    Args:
        notebook: a chapter as JSON (or as nbformat read it); lines may be lists.

    Returns:
        `code`: of the code cells' sources with the tags that tests read. `outputs`: of the stored words and numbers in
        the cells that tests compare; pictures and HTML do not count.
    """
    code, outputs = [], []
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code" or cell.get("id") == "alone":  # the same everywhere, does nothing in the book
            continue
        tags = sorted(set(cell["metadata"].get("tags", ())) & set(_READ_BY_THE_TEST))
        code.append([_joined(cell["source"]), tags])
        if "nbval-check-output" in tags:
            outputs.append([_words(output) for output in cell["outputs"]])
    return {"code": _short_hash(code), "outputs": _short_hash(outputs)}


def chapters_table(notebooks: Path | str) -> pandas.DataFrame:
    """The record of the chapters on real GPUs beside the chapters as they are now.

    Args:
        notebooks: the folder of the chapters.

    Returns:
        A row for each chapter and number of GPUs: `cells`, `as stored`, `why not all` (from `WHY`), and `since then`:
        what of the chapter is no longer what was run. A chapter that the record lacks has one row, without numbers.

    Raises:
        ValueError: the record is missing or damaged.
    """
    import pandas

    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for gpus, chapters in evidence.load(RECORD)["results"]["gpus"].items():
        for recorded, found in chapters.items():
            name = RENAMED.get(recorded, recorded)
            rows[name, gpus] = {
                "cells": found["cells"],
                "as stored": found["cells"] - len(found["failed"]),
                "why not all": " ".join(reasons(name, found["failed"])),
                "since then": changed(found["digests"], Path(notebooks) / f"{name}.ipynb"),
            }
    run = {name for name, _ in rows}
    for path in Path(notebooks).glob("[0-9]*.ipynb"):
        if path.stem not in run:
            rows[path.stem, "–"] = {"cells": "–", "as stored": "–", "why not all": "", "since then": "not run yet"}
    table = pandas.DataFrame.from_dict(rows, orient="index")
    table.index = pandas.MultiIndex.from_tuples(table.index, names=["chapter", "GPUs"])
    return table.sort_index()


def blocks_table(notebooks: Path | str) -> pandas.DataFrame:
    """What became of the code in the prose: a row for each block, with its first line and what it came to.

    Args:
        notebooks: the folder of the chapters.

    Returns:
        `begins`, `it`, and `since then`: "gone" where no chapter prints such a block any more to be run by itself.

    Raises:
        ValueError: the record is missing or damaged.
    """
    import pandas

    prose = {path.stem: _prose(path) for path in sorted(Path(notebooks).glob("[0-9]*.ipynb"))}
    rows = []
    for recorded, blocks in evidence.load(RECORD)["results"]["blocks"].items():
        name = RENAMED.get(recorded, recorded)
        for found in blocks.values():
            begins = f"```python\n{found['first line']}\n"
            there = [chapter for chapter, text in prose.items() if begins in text]  # a chapter may have been split
            now = name if name in there or not there else there[0]
            gone = "" if there else "gone"
            came = found.get("raised", found["outcome"])
            rows.append({"chapter": now, "begins": found["first line"], "it": came, "since then": gone})
    return pandas.DataFrame(rows, columns=["chapter", "begins", "it", "since then"]).set_index("chapter")


def _prose(chapter: Path) -> str:
    cells = json.loads(chapter.read_text(encoding="utf-8"))["cells"]
    return "\n".join(_joined(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def reasons(chapter: str, failed: list[dict[str, Any]]) -> list[str]:
    """One sentence for each reason of a chapter's differing cells, with the cells' numbers."""
    cells: dict[str, list[str]] = {}
    for cell in failed:
        reason = WHY.get(chapter, {}).get(cell["id"], "Not explained.")
        cells.setdefault(reason, []).append(str(cell["cell"]))
    return [f"Cell{'s' * (len(numbers) > 1)} {', '.join(numbers)}: {reason}" for reason, numbers in cells.items()]


def changed(recorded: dict[str, str], chapter: Path) -> str:
    """What of a chapter is no longer what was run: "code", "outputs", both, "gone", or nothing."""
    if not chapter.is_file():
        return "gone"
    now = digests(json.loads(chapter.read_text(encoding="utf-8")))
    return " and ".join(f"{part} changed" for part in now if now[part] != recorded[part])


def _words(output: dict[str, Any]) -> list[str]:
    """The words and numbers of one stored output."""
    if output["output_type"] == "stream":
        return [output["name"], _joined(output["text"])] if output["name"] == "stdout" else []
    if output["output_type"] == "error":
        return [output["ename"], _joined(output["evalue"])]
    return [_joined(value) for kind, value in sorted(output["data"].items()) if kind.endswith("text/plain")]


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def _short_hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()[:16]
