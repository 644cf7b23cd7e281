"""The record of all measurements: one JSON file, `evidence/version_matrix.json`, which grows stack by stack.

`results` holds `stacks`: name -> what it was made of (`key`), whether it could be built, the versions found inside,
what `pip check` said, the outcome of each probe; `bisections`, see `bisect`; and `checks`: name -> when a stack was
measured from scratch a second time, how many outcomes were compared, and what differed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import evidence
from ..evidence import journal
from .probes import PROBES
from .stacks import STACKS, Stack

NAME = "version_matrix"
WHAT = "What each probe does on each stack of library versions, on the virtual GPU, each in an environment of its own."
COMMAND = "sana-lab versions run"
OUTCOMES = {"runs": {"value": str}, "raises": {"error": str, "words": str}}
"""Kind of an outcome -> what else it must have, if anything."""


def wrong(outcome: Any) -> str | None:
    """What is wrong with an outcome, in a few words."""
    kind = outcome.get("kind") if isinstance(outcome, dict) else None
    if not isinstance(kind, str):
        return "is no outcome of a probe"
    lacks = journal.complaint(outcome, OUTCOMES.get(kind, {}))
    return f"is no outcome that {kind}: {lacks}" if lacks else None


def _wrong_stack(entry: Any) -> str | None:
    shape = {"key": object, "date": str, "commands": [str], "built": bool, "check": str, "outcomes": {str: wrong}}
    if isinstance(entry, dict) and entry.get("built") is True:
        shape |= {"resolved": {str: (str, type(None))}}
    lacks = journal.complaint(entry, shape)
    return f"is no stack: {lacks}" if lacks else None


SHAPE = {"stacks": {str: _wrong_stack}, "bisections": [{"probe": str, "library": str}]}
"""What `results` must look like, see `journal.Shape`."""


def load(folder: Path = evidence.FOLDER) -> dict[str, Any]:
    """The results, empty where nothing was measured yet.

    Raises:
        ValueError: the file is damaged.
    """
    if NAME not in evidence.names(folder):
        return {"stacks": {}, "bisections": []}
    return evidence.load(NAME, folder=folder, results=SHAPE)["results"]


def save(results: dict[str, Any], folder: Path = evidence.FOLDER) -> None:
    """Write the results, whole or not at all, the stacks in their order."""
    order = {stack.name: i for i, stack in enumerate(STACKS)}
    stacks = dict(sorted(results["stacks"].items(), key=lambda item: order.get(item[0], len(order))))
    for measured in stacks.values():
        outcomes = measured["outcomes"]
        measured["outcomes"] = {id: outcomes[id] for id in PROBES if id in outcomes}
    import platform

    evidence.save(
        NAME,
        what=WHAT,
        command=COMMAND,
        results={**results, "stacks": stacks},
        seed=0,
        versions={"python": platform.python_version()},
        folder=folder,
    )


def missing(results: dict[str, Any], stack: Stack, probes: list[str], trained: bool) -> list[str]:
    """Which of these probes have no outcome on this stack, or one of another stack or probe of the same name."""
    measured = results["stacks"].get(stack.name)
    if measured is None or measured["key"] != stack.key():
        return list(probes)
    if not measured["built"]:
        return []
    return [id for id in probes if _is_missing(measured["outcomes"].get(id), id, trained)]


def _is_missing(outcome: dict[str, Any] | None, id: str, trained: bool) -> bool:
    if outcome is None:
        return True
    return trained if outcome["kind"] == "skipped" else outcome["digest"] != PROBES[id].digest
