"""Records of `sana-lab confirm` that readers have sent in, each checked for the format before anything is shown of it.

A record is what `sana-lab confirm` writes as `confirmed.json`, here under a name of its own. `load` reads any such
file, `load_all` those that are part of the book. Imports no torch.

Chapter 14.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from . import FOLDER as ALL
from . import journal, must_be_a_name
from . import load as load_record

FORMAT = 1
"""The format that this code reads."""

NAME = "confirmed"
"""Of the record that the command writes."""

FOLDER = ALL / "contributed"
"""Where contributed records lie in the package."""

STATES = ("holds", "does not hold", "could not be checked")


def _one_of(*values: Any) -> Any:
    return lambda value: (
        None if value in values else f"is {str(value)[:40]!r}, not one of {', '.join(map(str, values))}"
    )


def _amount(value: Any) -> str | None:
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**50
    return None if good else f"is {str(value)[:40]!r}, not a number of bytes"


def _decibels(value: Any) -> str | None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return None if good else f"is {str(value)[:40]!r}, not a number"


def _short(value: Any) -> str | None:
    good = isinstance(value, str) and len(value) <= 600
    return None if good else "is not a text of up to 600 characters"


def _way(value: Any) -> str | None:
    """What a way holds: nothing, why it failed, or what was found."""
    if value == {}:
        return None
    if isinstance(value, dict) and "failed" in value:
        return journal.complaint(value["failed"], {"error": _short, "text": _short})
    return journal.complaint(
        value,
        {
            "load": {"seconds": (int, float, type(None)), "peak": _amount},
            "held": {str: _amount},
            "allocated": _amount,
            "stages": {str: {"allocated": _amount, "weights": _amount, "rest": _amount}},
            "pictures": {"drawn": int, "seconds": (int, float, type(None)), "wrong": {str: _short}},
        },
    )


SHAPE = {
    "format": _one_of(FORMAT),
    "model": {"name": _short, "released": (str, type(None)), "weights": _short, "random": bool},
    "settings": {
        "gpu": _one_of("real", "virtual", "none"),
        "prompts": [_short],
        "seed": int,
        "steps": int,
        "pixels": int,
    },
    "files": {"class": _short, "parts": {str: {"dtypes": {str: _amount}}}, "predicted": {str: {str: _amount}}},
    "ways": {str: _way},
    "pairs": {str: _decibels},
    "off": {str: _decibels},
    "scores": dict,
    "failures": {str: {"state": _short, "words": _short}},
    "claims": [{"id": _short, "chapter": int, "claim": _short, "state": _one_of(*STATES), "why": _short}],
}
"""What `results` of a record must look like, see `journal.Shape`."""


def load(path: str | Path) -> dict[str, Any]:
    """Read one record.

    Args:
        path: of the file, as the command wrote it or under another name that ends in `.json`.

    Raises:
        ValueError: there is no such file, it is damaged, or it is of another format; one line.

    Chapter 14.
    """
    path = Path(path)
    if path.suffix != ".json":
        raise ValueError(f"{path} is no record: give the file confirmed.json that `sana-lab confirm` wrote.")
    return load_record(path.stem, folder=path.parent, results=SHAPE)


def load_all(folder: Path = FOLDER) -> dict[str, dict[str, Any]]:
    """Every contributed record by its name, sorted; empty where there is none.

    Args:
        folder: where they lie.

    Raises:
        ValueError: one is damaged, of another format, or badly named.

    Chapter 14.
    """
    if not folder.is_dir():
        return {}
    return {must_be_a_name(path.stem): load(path) for path in sorted(folder.glob("*.json"))}
