"""How far two records of PyTorch's table of operators agree: one of a real GPU, one of the virtual GPU.

The cases and the command that runs them are in tests/conformance (`operators`). An entry holds what a call did on
the GPU, `gpu`, and on the CPU, `cpu` ("same" where only the device's name differs): `{"returns": ...}` with device,
type and shape of each tensor, or `{"raises": type, "words": leading words}`.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from typing import Any

NOT_COMPARED = ("NotRun", "ProcessDied", "TimeLimit")
"""Outcomes that say nothing of PyTorch."""

FORMS = {"call": "called", "in-place": "in place", "out": "with `out=`", "grad": "with its gradient", "": "plain lines"}

ABOUT_DEVICES = re.compile(
    r"same device|at least two devices|different device|on (the )?cpu|is on cuda|not on CUDA|on CUDA|device type|"
    r"should be the same|expected device|must be on|CUDA tensor|cuda tensor|on the GPU",
)
"""In the words with which CUDA refuses tensors of several devices."""


@dataclasses.dataclass(frozen=True)
class Name:
    """The parts of a case's id."""

    operator: str
    dtype: str
    sample: int
    form: str
    where: str


def parse(name: str) -> Name:
    """`addmm/float32/0/call/cpu:1` in its parts; a plain line has its own name, no type and no form."""
    parts = name.split("/")
    if parts[0] == "plain":
        return Name(parts[1], "", 0, "", "plain")
    operator, dtype, sample, form, where = parts
    return Name(operator, dtype, int(sample), form, where)


def fold(name: str) -> int:
    """0 or 1: which half of the sample inputs a case belongs to. Plain lines are divided by their name's length."""
    parts = parse(name)
    return (len(parts.operator) if parts.where == "plain" else parts.sample) % 2


def verdict(real: dict[str, Any], virtual: dict[str, Any]) -> str:
    """`same`, or what differs: `kind` (returns or raises), `error` (its type or words), `value` (what is returned).

    `skipped` if either did not run.
    """
    if real.get("raises") in NOT_COMPARED or virtual.get("raises") in NOT_COMPARED:
        return "skipped"
    if ("raises" in real) != ("raises" in virtual):
        return "kind"
    if "raises" in real:
        return "same" if (real["raises"], real["words"]) == (virtual["raises"], virtual["words"]) else "error"
    return "same" if real == virtual else "value"


def refuses_devices(entry: dict[str, Any], name: str) -> bool:
    """Whether a real GPU refuses a call because one of its tensors is on the CPU."""
    outcome = entry["gpu"]
    if "raises" not in outcome or not (":" in name or name.startswith("plain/")):
        return False
    return bool(ABOUT_DEVICES.search(outcome.get("message", outcome["words"])))


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Figures of a comparison. Shares are None where there is nothing to compare."""

    cases: int
    same_kind: int
    both_raise: int
    same_error: int
    both_return: int
    same_value: int
    refused: int
    accepted: int
    """Cases that CUDA refuses because of devices, and those of them that the virtual GPU lets through."""
    verdicts: dict[str, str]

    @property
    def shares(self) -> dict[str, float | None]:
        """Same kind of outcome, same error where both raise, same value where both return."""
        pairs = {
            "same kind": (self.same_kind, self.cases),
            "same error": (self.same_error, self.both_raise),
            "same value": (self.same_value, self.both_return),
        }
        return {name: part / whole if whole else None for name, (part, whole) in pairs.items()}


def compare(real: dict[str, Any], virtual: dict[str, Any], only: Any = None) -> Agreement:
    """Compare the results of two records, in the cases that both have and that `only(id)` picks."""
    verdicts, counts = {}, collections.Counter()
    for name, entry in real.items():
        if name not in virtual or (only is not None and not only(name)):
            continue
        found = verdict(entry["gpu"], virtual[name]["gpu"])
        if found == "skipped":
            continue
        verdicts[name] = found
        counts["cases"] += 1
        counts["kind"] += found != "kind"
        raises = "raises" in entry["gpu"], "raises" in virtual[name]["gpu"]
        if raises == (True, True):
            counts["both_raise"] += 1
            counts["same_error"] += found == "same"
        elif raises == (False, False):
            counts["both_return"] += 1
            counts["same_value"] += found == "same"
        if raises[0] and refuses_devices(entry, name):
            counts["refused"] += 1
            counts["accepted"] += not raises[1]
    return Agreement(
        counts["cases"],
        counts["kind"],
        counts["both_raise"],
        counts["same_error"],
        counts["both_return"],
        counts["same_value"],
        counts["refused"],
        counts["accepted"],
        verdicts,
    )
