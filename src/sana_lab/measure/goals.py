"""The record of `sana-lab measure` as a table, and the goals of chapters 7 and 8 held against it. Runs nothing.

Chapter 8.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

COMPONENTS = ("text_encoder", "transformer", "vae")
COLUMNS = (
    *("checkpoint", "method", "way", "pixels", "batch", *COMPONENTS, "resident", "load_s", "load_peak", "peak"),
    *("step_ms", "step_q1", "step_q3", "picture_s", "first_s", "encode_ms", "decode_ms", "started", "busy_ms"),
    *("clock_mhz", "error"),
)


def table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A line for each way, size and batch that was measured; one without a way where only bytes were, or it failed.

    Args:
        rows: ``load("measured")["results"]["rows"]``; what a row lacks is missing in its lines.

    Returns:
        Columns `COLUMNS`: bytes (`resident` is all that the allocator had given out after loading, `peak` the most
        while drawing), milliseconds (medians; `encode_ms` and `decode_ms` for the whole batch), seconds (`picture_s`
        is the median of whole calls, and missing where other methods kept the processor busy meanwhile), kernels,
        `clock_mhz` (of the GPU's processors, the lowest seen during the steps). `error` is what a way or a whole
        method failed with.

    Chapter 8.
    """
    import pandas as pd

    lines = []
    for row in rows:
        resident, load = row.get("resident", {}), row.get("load", {})
        line: dict[str, Any] = {"checkpoint": row["checkpoint"], "method": row["method"]}
        line |= {name: resident.get(name) for name in COMPONENTS} | {"resident": resident.get("allocated")}
        line |= {"load_s": load.get("seconds"), "load_peak": load.get("peak"), "error": _error(row)}
        found = []
        for way, sizes in row.get("ways", {}).items():
            if "error" in sizes:
                found.append(line | {"way": way, "error": _error(sizes)})
            else:
                found += [line | {"way": way} | _size(size, row.get("alone", True)) for size in sizes]
        lines += found or [line]
    numbers = [name for name in COLUMNS if name not in ("checkpoint", "method", "way", "error")]
    return pd.DataFrame(lines, columns=list(COLUMNS)).astype(dict.fromkeys(numbers, float))


def _error(found: Mapping[str, Any]) -> str | None:
    return f"{found['error']}: {found.get('text', '')}" if "error" in found else None


def _size(size: Mapping[str, Any], alone: bool) -> dict[str, Any]:
    step, kernels, whole = size.get("step_ms", {}), size.get("kernels", {}), sorted(size.get("picture_s", []))
    return {
        **{name: size.get(name) for name in ("pixels", "batch", "peak", "first_s")},
        **{"step_ms": step.get("median"), "step_q1": step.get("q1"), "step_q3": step.get("q3")},
        **{name: size.get(name, {}).get("median") for name in ("encode_ms", "decode_ms")},
        **{name: kernels.get(name) for name in ("started", "busy_ms")},
        "clock_mhz": (size.get("clocks") or [None])[0],
        "picture_s": whole[len(whole) // 2] if whole and alone else None,
    }


def value(
    measured: pd.DataFrame,
    column: str,
    checkpoint: str,
    methods: str | Sequence[str],
    way: str | None = None,
    pixels: int | None = None,
    batch: int | None = None,
) -> float | None:
    """The least number of a column among the lines that fit; None where nothing was measured.

    Args:
        measured: what `table` gives.
        column: one of `COLUMNS`.
        checkpoint: its label.
        methods: a method or several; the least of all counts.
        way: any where None.
        pixels: a side, any where None.
        batch: pictures at once, any where None.

    Chapter 8.
    """
    lines = measured[measured.checkpoint == checkpoint]
    lines = lines[lines.method.isin([methods] if isinstance(methods, str) else list(methods))]
    for name, wanted in (("way", way), ("pixels", pixels), ("batch", batch)):
        if wanted is not None:
            lines = lines[lines[name] == wanted]
    found = lines[column].dropna()
    return None if found.empty else float(found.min())


@dataclass(frozen=True)
class Goal:
    """One line of the goals table.

    Attributes:
        name: what is compared with what.
        recipe: the same number for the recipe, None where it has none or was not measured.
        limit: the goal is to stay at or below.
        reached: None where it was not measured.
        unit: of the numbers; a ratio where empty.

    Chapter 8.
    """

    name: str
    recipe: float | None
    limit: float
    reached: float | None
    unit: str = ""

    @property
    def verdict(self) -> str:
        """``met``, ``missed`` or ``not measured``."""
        return "not measured" if self.reached is None else "met" if self.reached <= self.limit else "missed"


EIGHT_BIT = ("int8-fast", "int8-weights", "fp8", "fp8-weights", "fp8-tuned")
SIXTEEN_BIT = ("16-bit", "16-bit-fused", "16-bit-tuned")
SLIM = ("int8-slim", *EIGHT_BIT)
FASTER = (
    ("1600M-1024", 1024, 4, 0.70),
    ("1600M-1024", 1024, 1, 0.85),
    ("600M-512", 512, 1, 0.95),
    ("600M-512", 512, 4, 0.90),
)
"""Checkpoint, pixels, pictures, and what part of the fastest 16-bit step the fastest 8-bit one may take."""


def faster(measured: pd.DataFrame) -> list[Goal]:
    """What part of the fastest 16-bit step and picture the fastest 8-bit one was to take, and takes.

    Args:
        measured: what `table` gives.

    Chapter 8.
    """
    found = []
    for checkpoint, pixels, batch, limit in FASTER:
        size = (
            f"{checkpoint.partition('-')[0].replace('1600M', '1.6B')} at {pixels} px, {batch} picture{'s'[: batch > 1]}"
        )
        where = (checkpoint, pixels, batch)
        recipe, reached = (_slower(measured, "step_ms", *where, methods) for methods in ("int8", EIGHT_BIT))
        found.append(Goal(f"step, best 8-bit ÷ best 16-bit, {size}", recipe, limit, reached))
    where = ("1600M-1024", 1024, 1)
    recipe, reached = (_slower(measured, "picture_s", *where, methods) for methods in ("int8", EIGHT_BIT))
    label = "whole picture, prompt and decoding too, best 8-bit ÷ best 16-bit, 1.6B at 1024 px, 1 picture"
    return [*found, Goal(label, recipe, 0.88, reached)]


def depthwise(rows: Sequence[Mapping[str, Any]]) -> list[Goal]:
    """How much longer than a copy of its bytes the depthwise kernel takes, at the worst size: alone, and with SiLU.

    Args:
        rows: ``load("depthwise")["results"]["rows"]``.

    Chapter 8.
    """
    found = []
    for silu, label in ((False, "and gate"), (True, "and gate, and the SiLU that was a pass of its own before")):
        ratios = [row["ms"] / row["copy_ms"] for row in rows if row["silu"] == silu]
        limit, reached = 2.0, max(ratios) if ratios else None
        found.append(Goal(f"depthwise convolution {label} ÷ a copy of as many bytes", None, limit, reached))
    return found


def goals(
    rows: Sequence[Mapping[str, Any]],
    factors: Mapping[str, Mapping[str, Any]] | None = None,
    kernel: Sequence[Mapping[str, Any]] | None = None,
) -> list[Goal]:
    """What was to be reached, and what was.

    Args:
        rows: as in `table`.
        factors: ``load("fast_quality")["results"]["factors"]``, where there is such a record.
        kernel: what `depthwise` takes, where there is such a record.

    Chapter 8.
    """
    measured = table(rows)

    def bytes_left(column: str, checkpoint: str, methods: Sequence[str]) -> float | None:
        return _ratio(
            value(measured, column, checkpoint, methods), value(measured, column, checkpoint, "16-bit", "eager")
        )

    found = []
    for label, column, checkpoint, limit in (
        ("resident weights, 600M pipeline, 8-bit ÷ 16-bit", "resident", "600M-512", 0.56),
        ("transformer alone, 600M, 8-bit ÷ 16-bit", "transformer", "600M-512", 0.54),
        ("transformer alone, 1.6B, 8-bit ÷ 16-bit", "transformer", "1600M-1024", 0.51),
    ):
        recipe = bytes_left(column, checkpoint, ("int8",))
        found.append(Goal(label, recipe, limit, bytes_left(column, checkpoint, SLIM)))
    label = "step, 8-bit fused ÷ eager 16-bit, 600M at 512 px, 1 picture"
    where = ("600M-512", 512, 1)
    recipe = _slower(measured, "step_ms", *where, "int8", "eager", "eager")
    found.append(Goal(label, recipe, 0.3, _slower(measured, "step_ms", *where, EIGHT_BIT, "fused", "eager")))
    found += faster(measured)
    entries = list((factors or {}).values())
    for label, lost in (
        (
            "integer products where they are not refused",
            [points_lost(entry) for entry in entries if not entry.get("refused", False)],
        ),
        (
            "8 bits in the weights alone",
            [points_lost(entry, "weights") for entry in entries if "weights" in entry],
        ),
    ):
        found.append(
            Goal(
                f"adherence lost to the recipe at the worst factor, {label}",
                None,
                1.0,
                max(lost) if lost else None,
                "points",
            )
        )
    lost = [points_lost(entry, "fp8", "bf16") for entry in entries if {"fp8", "bf16"} <= set(entry)]
    label = "adherence lost to 16 bits at the worst factor, FP8 products"
    found.append(Goal(label, None, 0.5, max(lost) if lost else None, "points"))
    peaks = measured[measured.resident > 0].assign(ratio=lambda lines: lines.load_peak / lines.resident)
    for_recipe, for_slim = (peaks[peaks.method.isin(m)].ratio.max() for m in (("int8",), SLIM))
    found.append(Goal("load peak ÷ resident, 8-bit (worst checkpoint)", _known(for_recipe), 1.15, _known(for_slim)))
    return found + (depthwise(kernel) if kernel else [])


def _slower(
    measured: pd.DataFrame, column: str, checkpoint: str, pixels: int, batch: int, methods: str | Sequence[str],
    way: str | None = None, against: str | None = None,
) -> float | None:  # fmt: skip
    """The least of some 8-bit methods, in some way, divided by the least of 16 bits, or of one way of theirs."""
    where = {"pixels": pixels, "batch": batch}
    ours = value(measured, column, checkpoint, methods, way, **where)
    fair = "16-bit" if against else SIXTEEN_BIT
    return _ratio(ours, value(measured, column, checkpoint, fair, against, **where))


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or not theirs else ours / theirs


def _known(number: float) -> float | None:
    return None if math.isnan(number) else float(number)


def points_lost(entry: Mapping[str, Any], way: str = "fast", reference: str = "recipe") -> float:
    """Pictures in a hundred that `reference` drew right and `way` did not, on balance; negative where it gained.

    Args:
        entry: of one factor in the record `fast_quality`: a text of 0 and 1, one a scene, for each way.
        way: what is judged.
        reference: what it is held against.

    Raises:
        ValueError: not the same scenes.

    Chapter 8.
    """
    if len(entry[way]) != len(entry[reference]) or not entry[way]:
        raise ValueError(f"{len(entry[way])} pictures by {way}, {len(entry[reference])} by {reference}: not pairs.")
    return 100 * (entry[reference].count("1") - entry[way].count("1")) / len(entry[way])


def as_table(found: Sequence[Goal]) -> pd.DataFrame:
    """The goals as a table of texts, one line each.

    Chapter 8.
    """
    import pandas as pd

    def text(number: float | None, unit: str) -> str:
        return "–" if number is None else f"{number:.2f}{' ' * bool(unit)}{unit}"

    lines = {
        goal.name: {
            "the recipe": text(goal.recipe, goal.unit),
            "goal": f"≤ {text(goal.limit, goal.unit)}",
            "reached": text(goal.reached, goal.unit),
            "": goal.verdict,
        }
        for goal in found
    }
    return pd.DataFrame(lines).T
