"""Checks that read a record: what was measured on real GPUs, on other versions, or is counted in the catalogue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from ..evidence import load
from ..failures.catalogue import catalogue
from ..measure.goals import table, value
from ..versions.matrix import matrix
from ..versions.stacks import BOOK

Check = Callable[[], tuple[str, bool, dict[str, Any]]]
"""Returns the name of a record (`""` for the catalogue of failures), whether the advice holds, and the facts."""

RECORDS: dict[str, Check] = {}
"""Id of the advice -> its check."""

_STEP = {"checkpoint": "600M-512", "pixels": 512, "batch": 1}


def _for(id: str) -> Callable[[Check], Check]:
    def keep(function: Check) -> Check:
        RECORDS[id] = function
        return function

    return keep


@_for("compute-cost")
def _() -> tuple[str, bool, dict[str, Any]]:
    measured = table(load("measured")["results"]["rows"])
    plain, recipe = (value(measured, "step_ms", methods=m, way="eager", **_STEP) for m in ("16-bit", "int8"))
    best = {
        bits: value(measured, "step_ms", methods=methods, **_STEP)
        for bits, methods in (("16", ("16-bit", "16-bit-fused")), ("8", ("int8", "int8-fast", "int8-weights")))
    }
    if plain is None or recipe is None or best["16"] is None or best["8"] is None:
        raise ValueError("the record has no steps of 600M in 16 bits and in 8")
    facts = {"slower": f"{recipe / plain:.1f}", "best": f"{best['8'] / best['16']:.2f}"}
    return "measured", recipe <= plain, facts


@_for("card-sizes")
def _() -> tuple[str, bool, dict[str, Any]]:
    measured = table(load("measured")["results"]["rows"])
    pixels, asked = 1024, {"600M-512": 9.0, "1600M-1024": 12.0}
    peaks = {c: value(measured, "peak", c, "16-bit", "eager", pixels, 1) for c in asked}
    needed = {checkpoint: (peak or float("inf")) / 1e9 for checkpoint, peak in peaks.items()}
    facts = {"small": f"{needed['600M-512']:.1f}", "large": f"{needed['1600M-1024']:.1f}", "pixels": pixels}
    return "measured", all(needed[checkpoint] <= size for checkpoint, size in asked.items()), facts


@_for("outliers-apart")
def _() -> tuple[str, bool, dict[str, Any]]:
    ways = load("outlier_adherence")["results"]["ways"]
    names = ("8 bits, plain", "8 bits, split", "16 bits")
    plain, split, full = (ways[name]["1000"]["right"].count("1") for name in names)
    facts = {"plain": plain, "split": split, "full": full, "n": len(ways["16 bits"]["1000"]["right"])}
    return "outlier_adherence", plain < split and split > 0.98 * full, facts


@_for("newest-together")
def _() -> tuple[str, bool, dict[str, Any]]:
    measured = matrix()
    built = {name: stack for name, stack in measured.stacks.items() if stack["built"]}
    alone = [name for name, stack in built.items() if len(stack["commands"]) > 1]
    refused = [name for name in alone if measured.verdict(name, "load-recipe") == "fails"]
    fails = {name: int(measured.stack_table.loc[name, "fails"]) for name in built}
    holds = measured.verdict(BOOK, "load-recipe") == "same" and fails[BOOK] == min(fails.values())
    facts = {"stacks": len(built) - len(alone), "alone": len(alone), "refused": len(refused)}
    return "version_matrix", holds, facts


@_for("error-handling")
def _() -> tuple[str, bool, dict[str, Any]]:
    ways = Counter(failure.shows for failure in catalogue())
    facts = {"all": ways.total(), "silent": ways["output"], "log": ways["warning"]}
    return "", ways["error"] == ways.total(), facts
