"""Runs the check of a piece of advice and computes the verdict from what it found."""

from __future__ import annotations

import contextlib
import gc
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import use_accelerator
from ..libraries import quiet
from ..versions.matrix import matrix
from ..versions.stacks import BOOK
from .entry import Advice, Once
from .records import RECORDS


@dataclass(frozen=True)
class Found:
    """What a check found.

    Attributes:
        holds: whether the advice does, as it is given.
        facts: values for the fields of the text.
        printed: output of a script.
        record: name of the record that was read, `""` for a script.
    """

    holds: bool
    facts: Mapping[str, Any] = field(default_factory=dict)
    printed: str = ""
    record: str = ""


def check(advice: Advice) -> Found | None:
    """Run its script on virtual GPUs in this process, or read its record; None where it has neither.

    Raises:
        ValueError: the script sets no `holds`, or not all the facts that the text wants.
    """
    if not advice.check:
        return None
    found = _script(advice) if advice.check == "script" else _record(advice)
    if not isinstance(found.holds, bool):
        raise ValueError(f"{advice.id}: the check must say whether it holds, True or False, not {found.holds!r}")
    if advice.fields - set(found.facts):
        raise ValueError(f"{advice.id}: the check does not say {', '.join(sorted(advice.fields - set(found.facts)))}")
    return found


def judge(advice: Advice, found: Found | None) -> str:
    """The verdict that follows from what was found.

    What holds is confirmed. What does not is outdated if the version matrix has a stack on which it was otherwise, and
    corrected if not.

    Raises:
        ValueError: it is another one than the row says.
    """
    if found is None:
        verdict = "not checked"
    elif found.holds:
        verdict = "confirmed"
    else:
        verdict = "outdated" if advice.once and was_otherwise(advice.once) else "corrected"
    if verdict != advice.verdict:
        raise ValueError(f"{advice.id}: the row says {advice.verdict!r}, the check says {verdict!r}")
    return verdict


def was_otherwise(once: Once) -> bool:
    """Whether the probe has another outcome on that stack than on the book's."""
    measured = matrix()
    here, there = (measured.outcome(stack, once.probe) for stack in (BOOK, once.stack))
    kinds = [(outcome["kind"], bool(outcome.get("warns"))) for outcome in (here, there)]
    return kinds[0] != kinds[1]


def _script(advice: Advice) -> Found:
    output: io.StringIO = io.StringIO()
    namespace: dict[str, Any] = {"__name__": "__main__"}
    from . import recipe  # noqa: F401  # what scripts share, and with it the libraries, before the freeze

    gc.freeze()  # the libraries' own objects need not be searched each time
    try:
        # Loading bars and log lines are no part of what a script shows.
        with use_accelerator(gpus=advice.gpus, virtual=True), quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(io.StringIO()):
                exec(compile(advice.path.read_text(encoding="utf-8"), advice.path.name, "exec"), namespace)
            found = Found(namespace.pop("holds", None), namespace.pop("facts", {}), output.getvalue())
            namespace.clear()
            gc.collect()  # models in cycles would stay on the GPU of the next script
    finally:
        gc.unfreeze()
    return found


def _record(advice: Advice) -> Found:
    record, holds, facts = RECORDS[advice.id]()
    return Found(holds, facts, record=record)
