"""The record of `sana-lab measure` as chapters show it: numbers for the text, tables, a list to choose from.

Runs nothing. Every function takes the lines of `goals.table` and shows what is in them, so that a record renewed with
other methods or sizes changes the page and no code. `pictures` has the figures. Chapters 7, 8 and 9.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from .. import accounting, evidence, slim
from .goals import depthwise, table, value
from .methods import METHODS

if TYPE_CHECKING:
    from ipywidgets import VBox

RECORD = "measured"
SMALL, LARGE = "600M-512", "1600M-1024"
SIZES = {SMALL: "600M", LARGE: "1.6B"}
PANELS = {"600M at 512 px": (SMALL, 512), "1.6B at 1024 px": (LARGE, 1024)}
"""Title -> checkpoint and side of its pictures, for figures of two panels."""

MIB, GIB = 2**20, 2**30
CARDS = (6, 8, 12, 16, 24)
"""Memory of the cards that are asked about, in GiB."""

ROOM = 1.0
"""GiB left for the CUDA context, the desktop and fragmentation: an assumption, not a measurement."""

KINDS = ("16 bits", "8 bits, integers", "8 bits, floats", "4 bits")
_COLUMNS = {"eager": "eager", "compiled-eager": "compiled alone", "graph": "graph", "compiled": "compiled, graph"}
_WAYS = {way: f", {column}" for way, column in _COLUMNS.items()}


def measured() -> pd.DataFrame:
    """The lines of the record (`goals.table`).

    Raises:
        ValueError: the record is missing or damaged.

    Chapter 7.
    """
    return table(evidence.load(RECORD)["results"]["rows"])


def gpu() -> str:
    """The GPU of the record in one word, as the data sheets call it: ``H100``.

    Raises:
        ValueError: the record is missing or damaged.

    Chapter 7.
    """
    device = str(evidence.load(RECORD)["machine"].get("device"))
    found = re.search(r"\b(?:[A-Z]{1,2}\d{2,4}|RTX \d{4}\w*)\b", device)
    return found[0] if found else device


def tried(method: str) -> list[dict[str, Any]]:
    """The products of the larger model that a compiler tuned for a method, see `sana_lab.measure.tuned.products`.

    Raises:
        ValueError: the record is missing or damaged.

    Chapter 8.
    """
    rows = evidence.load(RECORD)["results"]["rows"]
    return [
        product
        for row in rows
        if (row["checkpoint"], row["method"]) == (LARGE, method)
        for product in row.get("tried", [])
    ]


def alone(silu: bool) -> float | None:
    """How much longer than a copy of its bytes the depthwise kernel takes at its worst size (`goals.depthwise`).

    Args:
        silu: with SiLU applied to what it reads.

    Raises:
        ValueError: the record is missing or damaged.

    Chapter 8.
    """
    return depthwise(evidence.load("depthwise")["results"]["rows"])[silu].reached


def cpu() -> str:
    """The processor of the record, or that it is not on record.

    Raises:
        ValueError: the record is missing or damaged.

    Chapter 7.
    """
    machine = evidence.load(RECORD)["machine"]
    found = machine.get("processor") or machine.get("cpu")
    return str(found) if found else "a processor that the record does not name"


def kind(method: str) -> str:
    """Which of `KINDS` a method's weights are."""
    if method.startswith("nf4"):
        return "4 bits"
    if "fp8" in method or "float8" in method:
        return "8 bits, floats"
    return "16 bits" if METHODS[method].precision == "16-bit" and not METHODS[method].torchao else "8 bits, integers"


def ours(*kinds: str) -> list[str]:
    """Names of the methods of these kinds, all but torchao's, which no codes of bitsandbytes go into."""
    return [name for name, method in METHODS.items() if kind(name) in kinds and not method.torchao]


def title(method: str, way: str) -> str:
    """A method and a way of running it, for tables and figures."""
    return METHODS[method].title + _WAYS.get(way, "")


def step(
    lines: pd.DataFrame,
    checkpoint: str,
    methods: str | Sequence[str],
    way: str | None = None,
    pixels: int | None = None,
    batch: int = 1,
) -> float | None:
    """Milliseconds of one step, the least of what fits; None where nothing was measured.

    Args:
        lines: what `measured` gives.
        checkpoint: its label.
        methods: a method or several.
        way: any where None.
        pixels: a side; where None that of the checkpoint, which its label ends in.
        batch: pictures at once. With guidance the transformer sees two for each.

    Chapter 7.
    """
    pixels = int(re.findall(r"-(\d+)", checkpoint)[0]) if pixels is None else pixels
    return value(lines, "step_ms", checkpoint, methods, way, pixels, batch)


def over(a: float | None, b: float | None) -> float | None:
    """A ratio; None where one of its numbers is missing."""
    return a / b if a is not None and b else None


def text(number: float | None, form: str = "{:.1f}") -> str:
    """A number for prose; a dash where it was not measured."""
    return "–" if number is None or pd.isna(number) else form.format(number)


def cost_table(lines: pd.DataFrame, chosen: Mapping[str, tuple[str, str]], checkpoint: str = SMALL) -> pd.DataFrame:
    """MiB in memory and milliseconds of a step for one picture; a line is left out where one of them is missing.

    Args:
        lines: what `measured` gives.
        chosen: label -> method and way.
        checkpoint: its label.

    Chapter 7.
    """
    rows = {}
    for label, (method, way) in chosen.items():
        held = value(lines, "resident", checkpoint, method)
        took = step(lines, checkpoint, method, way)
        if held is not None and took is not None:
            rows[label] = {"in memory (MiB)": f"{held / MIB:,.0f}", "a step (ms)": f"{took:.1f}"}
    return pd.DataFrame(rows, index=["in memory (MiB)", "a step (ms)"]).T


DOES = {
    "s8": "int8 product",
    "kInt8VectorQuant": "quantize the rows",
    "kdequant": "rescale to float16",
    "ReduceOp<bool": "any outlier?",
    "AbsFunctor": "magnitudes, for outliers",
    "compare_scalar": "compare with the threshold",
    "Memcpy DtoH": "copy an answer to the CPU",
    "gemm": "product in floats",
    "direct_co": "change of type or layout",
    "elementwise": "sums and products element by element",
}
"""Part of a kernel's name -> what it does in a step of the recipe; the first that fits counts."""


def profile_table(checkpoint: str = SMALL, method: str = "int8", way: str = "eager") -> pd.DataFrame:
    """The longest kernels of a profiled step by what they do (`DOES`): how often, and milliseconds together.

    Chapter 7.
    """
    longest: list[Any] = []
    for row in evidence.load(RECORD)["results"]["rows"]:
        if (row["checkpoint"], row["method"]) == (checkpoint, method) and isinstance(
            row.get("ways", {}).get(way), list
        ):
            longest = row["ways"][way][0]["kernels"]["longest"]
    profile = pd.DataFrame(longest, columns=["kernel", "times", "ms"])
    profile["what it does"] = [
        next((does for part, does in DOES.items() if part in kernel), "other") for kernel in profile.kernel
    ]
    return profile.groupby("what it does")[["times", "ms"]].sum().sort_values("ms", ascending=False).round(2)


def kernels_table(
    lines: pd.DataFrame, layers: Mapping[str, int], methods: Sequence[str] = ("int8", "int8-t0")
) -> pd.DataFrame:
    """Kernels of an eager step of one picture beside those of 16 bits, and what that is for each 8-bit layer.

    Args:
        lines: what `measured` gives.
        layers: checkpoint -> number of its layers in 8 bits.
        methods: what to hold against 16 bits.

    Chapter 7.
    """
    rows: dict[str, dict[str, float | None]] = {}
    for checkpoint, count in layers.items():
        pixels = int(re.findall(r"-(\d+)", checkpoint)[0])
        plain = value(lines, "started", checkpoint, "16-bit", "eager", pixels, 1)
        for method in ("16-bit", *methods):
            started = value(lines, "started", checkpoint, method, "eager", pixels, 1)
            took = step(lines, checkpoint, method, "eager")
            if plain is None or started is None:
                continue
            rows[f"{checkpoint}, {METHODS[method].title}"] = {
                "kernels": started,
                "more for each 8-bit layer": None if method == "16-bit" else (started - plain) / count,
                "a step (ms)": took,
                "µs a kernel": over(took, started / 1e3),
            }
    forms = {
        "kernels": "{:,.0f}",
        "more for each 8-bit layer": "{:.1f}",
        "a step (ms)": "{:.1f}",
        "µs a kernel": "{:.0f}",
    }
    found = pd.DataFrame(rows, index=list(forms)).T
    return pd.DataFrame(
        {name: [text(number, form) for number in found[name]] for name, form in forms.items()}, found.index
    )


def ways_table(lines: pd.DataFrame, methods: Sequence[str], pixels: Mapping[str, int] | None = None) -> pd.DataFrame:
    """Milliseconds of a step for one picture by the way of running it; a dash where it was not timed, or failed.

    Args:
        lines: what `measured` gives.
        methods: names, in the order of the lines.
        pixels: checkpoint -> side of the picture; by default those of `PANELS`.

    Chapter 7.
    """
    sizes = pixels if pixels is not None else {SMALL: 512, LARGE: 1024}
    rows = {
        (SIZES[checkpoint], METHODS[method].title): {
            column: text(step(lines, checkpoint, method, way, side)) for way, column in _COLUMNS.items()
        }
        for checkpoint, side in sizes.items()
        for method in methods
    }
    return pd.DataFrame(rows).T.rename_axis(["a step (ms)", ""])


def planted_table(lines: pd.DataFrame) -> pd.DataFrame:
    """One picture of 600M at 512 px with random weights, and with outliers planted in them.

    Chapter 7.
    """
    asked = {
        "the recipe, eager: kernels": ("started", "int8", "eager"),
        "the recipe, eager: GPU busy (ms)": ("busy_ms", "int8", "eager"),
        "the recipe, eager: a step (ms)": ("step_ms", "int8", "eager"),
        "threshold 0, eager: a step (ms)": ("step_ms", "int8-t0", "eager"),
        "threshold 0, in a graph: a step (ms)": ("step_ms", "int8-t0", "graph"),
    }
    rows = {}
    for label, (column, method, way) in asked.items():
        found = [value(lines, column, name, method, way, 512, 1) for name in (SMALL, f"{SMALL}-outliers")]
        rows[label] = [text(number, "{:,.0f}" if column == "started" else "{:.1f}") for number in found]
    return pd.DataFrame(rows, index=["random weights", "outliers planted"]).T


def failed(lines: pd.DataFrame) -> dict[str, str]:
    """Checkpoint and way -> what it failed with, for all that did."""
    return {
        f"{line.checkpoint}, {title(line.method, line.way)}": line.error.split(" Search")[0][:200]
        for line in lines[lines.error.notna()].itertuples()
    }


def duel_table(lines: pd.DataFrame) -> pd.DataFrame:
    """The fastest 16-bit step against the fastest of each kind of eight bits, for one picture and for four.

    Beside them the libraries' own kernels, in the fastest way of each: bitsandbytes' (the recipe, or threshold 0) and
    torchao's (integers, weights alone, or FP8).

    Chapter 8.
    """
    rows, torchaos = {}, [name for name, method in METHODS.items() if method.torchao]
    for checkpoint, pixels in PANELS.values():
        for batch in (1, 4):
            where = (None, pixels, batch)
            best = step(lines, checkpoint, ours("16 bits"), *where)
            eights = {
                name: step(lines, checkpoint, ours(name), *where) for name in ("8 bits, integers", "8 bits, floats")
            }
            if best is None or set(eights.values()) == {None}:
                continue
            fastest = min(ms for ms in eights.values() if ms is not None)
            rows[f"{SIZES[checkpoint]} {pixels} px × {batch}"] = {
                "best 16 bits (ms)": best,
                **{f"{name} (ms)": ms for name, ms in eights.items() if _known(lines, name)},
                "best 8 ÷ best 16": fastest / best,
                "bitsandbytes ÷ best 16": over(step(lines, checkpoint, ("int8", "int8-t0"), *where), best),
                "torchao ÷ best 16": over(step(lines, checkpoint, torchaos, *where), best),
            }
    return pd.DataFrame(rows).T.astype(float).dropna(axis=1, how="all")


def _known(lines: pd.DataFrame, of_kind: str) -> bool:
    """Whether any step of this kind was timed."""
    return bool(lines[lines.method.isin(ours(of_kind))].step_ms.notna().any())


def making_table(lines: pd.DataFrame) -> pd.DataFrame:
    """Integer products, weights alone and 16 bits, all fused alike: what making the weights costs a step.

    Chapter 8.
    """
    rows = {}
    for checkpoint, pixels in PANELS.values():
        for batch in (1, 4):
            integers, floats, plain = (
                step(lines, checkpoint, method, "fused", pixels, batch)
                for method in ("int8-fast", "int8-weights", "16-bit-fused")
            )
            rows[f"{SIZES[checkpoint]} {pixels} px × {batch}"] = {
                "integer products (ms)": integers,
                "weights alone (ms)": floats,
                "16 bits, fused alike (ms)": plain,
                "making weights (ms)": None if floats is None or plain is None else floats - plain,
            }
    return pd.DataFrame(rows).T.astype(float)


def best_picture(lines: pd.DataFrame, checkpoint: str, method: str, pixels: int) -> Any:
    """The line of a method's fastest way to draw one picture; None where it drew none.

    Chapter 9.
    """
    found = lines[(lines.checkpoint == checkpoint) & (lines.method == method)]
    found = found[(found.pixels == pixels) & (found.batch == 1)].dropna(subset=["picture_s"])
    return None if found.empty else found.sort_values("picture_s").iloc[0]


def spent_table(lines: pd.DataFrame, checkpoint: str = SMALL, pixels: int = 512) -> pd.DataFrame:
    """Where the time of one picture goes, and its peak, each method in its fastest way; fastest first.

    Chapter 9.
    """
    rows = {}
    for method in METHODS:
        point = best_picture(lines, checkpoint, method, pixels)
        if point is None:
            continue
        at = (checkpoint, method, point.way, pixels, 1)
        rows[METHODS[method].title] = {
            "way": point.way,
            "encode (ms)": value(lines, "encode_ms", *at),
            "20 steps (ms)": 20 * point.step_ms,
            "decode (ms)": value(lines, "decode_ms", *at),
            "picture (ms)": 1e3 * point.picture_s,
            "peak (GiB)": point.peak / GIB,
        }
    spent = pd.DataFrame(rows).T.sort_values("picture (ms)")
    for column in spent.columns.drop("way"):
        form = "{:.1f}" if "GiB" in column else "{:,.0f}"
        spent[column] = [text(number, form) for number in spent[column]]
    return spent


def predicted(checkpoint: str, method: str) -> dict[str, int]:
    """Bytes of each component by a method, counted on the meta device in blocks of 512 as the allocator gives them.

    Args:
        checkpoint: a name that `accounting` knows.
        method: one of `METHODS` that is loaded as it stays (neither fused nor torchao's).

    Chapter 9.
    """
    chosen = METHODS[method]
    precision = chosen.precision.replace("16-bit", "bf16")
    count = slim.predict if chosen.slim else accounting.predict
    return count(checkpoint, precision, granule=512)


def loaded_table(lines: pd.DataFrame) -> pd.DataFrame:
    """What stayed on the GPU after loading, beside the prediction, and the highest mark on the way.

    Chapter 9.
    """
    rows = {}
    counted: dict[tuple[str, str, bool], dict[str, int]] = {}
    for line in lines.drop_duplicates(["checkpoint", "method"]).itertuples():
        chosen = METHODS[line.method]
        if line.checkpoint not in accounting.CHECKPOINTS or not line.resident > 0 or not _as_loaded(line.method):
            continue
        key = (line.checkpoint, chosen.precision, chosen.slim)
        parts = counted.setdefault(key, predicted(line.checkpoint, line.method))
        held = {name: getattr(line, name) for name in parts}
        rows[line.checkpoint, chosen.title] = {
            "in memory (MiB)": round(line.resident / MIB),
            "measured − predicted (B)": int(sum(held[name] - size for name, size in parts.items())),
            "allocator's rounding (MiB)": round((line.resident - sum(held.values())) / MIB),
            "load peak ÷ resident": f"{line.load_peak / line.resident:.3f}",
        }
    return pd.DataFrame(rows).T


def _as_loaded(method: str) -> bool:
    """Whether its weights stay as they were loaded, so that counting on the meta device predicts them."""
    chosen = METHODS[method]
    return not (chosen.torchao or chosen.offload or "fused" in chosen.ways or kind(method) == "8 bits, floats")


def needed(lines: pd.DataFrame, checkpoint: str, method: str, pixels: int, batch: int) -> float | None:
    """Bytes of the larger of load peak and peak while drawing, of the way that needs least; None if not measured.

    Chapter 9.
    """
    drawing = value(lines, "peak", checkpoint, method, None, pixels, batch)
    loading = value(lines, "load_peak", checkpoint, method)
    return None if drawing is None else max(drawing, loading or 0)


def _needed_for_4_8b(lines: pd.DataFrame, method: str) -> float | None:
    """An estimate for one picture of 1024 px: its own weights, and activations of 1.6B, whose blocks are as wide."""
    like, weights = needed(lines, LARGE, method, 1024, 1), value(lines, "resident", LARGE, method)
    if not like or not weights or not _as_loaded(method):
        return None
    return like - weights + sum(predicted("1.5-4.8B", method).values())


def _card(size: float | None) -> str:
    """The least card that holds so many bytes and `ROOM`, and the GiB."""
    if size is None:
        return "–"
    fits = [card for card in CARDS if size / GIB + ROOM <= card]
    return f"{fits[0] if fits else 'more'} ({size / GIB:.1f})"


def cards_table(lines: pd.DataFrame) -> pd.DataFrame:
    """For each method the least of `CARDS` that holds what loading and drawing need, and the GiB of it.

    Chapter 9.
    """
    cases = {
        "600M 512 px": (SMALL, 512, 1), "600M 512 px × 4": (SMALL, 512, 4),
        "1.6B 1024 px": (LARGE, 1024, 1), "1.6B 1024 px × 4": (LARGE, 1024, 4),
    }  # fmt: skip
    rows = {}
    for method, chosen in METHODS.items():
        row = {case: _card(needed(lines, at, method, *size)) for case, (at, *size) in cases.items()}
        huge = _needed_for_4_8b(lines, method)
        row["4.8B 1024 px"] = "–" if huge is None else f"~ {_card(huge)}"
        if set(row.values()) != {"–"}:
            rows[chosen.title] = row
    return pd.DataFrame(rows).T.rename_axis("least card in GiB (peak)")


def cards_widget(lines: pd.DataFrame) -> VBox:
    """Choose a memory and a size: which methods fit, the fastest first. Works on a page without a kernel.

    Chapter 9.
    """
    from ipywidgets import HTML, Dropdown, Stack, VBox, jslink

    cases = {
        f"{SIZES[checkpoint]}, {pixels} px, {batch} at once": (checkpoint, pixels, batch)
        for checkpoint, pixels in PANELS.values()
        for batch in (1, 4)
    }

    def answer(found: pd.DataFrame, gib: float) -> HTML:
        right = "style='text-align:right'"
        body = ""
        for line in found.itertuples():
            size = max(line.peak, line.load_peak) / GIB
            if size + ROOM <= gib:
                took = text(line.step_ms) if line.step_ms == line.step_ms else "not timed"
                called = title(line.method, line.way)
                body += f"<tr><td>{called}</td><td {right}>{size:.1f}</td><td {right}>{took}</td></tr>"
        if not body:
            return HTML("<p>Nothing that was measured fits.</p>")
        head = "<th style='text-align:left'>method</th><th>peak (GiB)</th><th>a step (ms)</th>"
        return HTML(f"<table style='width:min(34rem,80vw);border-spacing:0.6rem 0.1rem'><tr>{head}</tr>{body}</table>")

    memory = Dropdown(options=[f"{card} GiB" for card in CARDS], index=1, description="my GPU has")
    size = Dropdown(options=list(cases), index=0, description="I draw")
    pages = []
    for checkpoint, pixels, batch in cases.values():
        there = lines[(lines.checkpoint == checkpoint) & (lines.pixels == pixels) & (lines.batch == batch)]
        inner = Stack([answer(there.sort_values("step_ms"), card) for card in CARDS], selected_index=1)
        jslink((memory, "index"), (inner, "selected_index"))
        pages.append(inner)
    outer = Stack(pages, selected_index=0)
    jslink((size, "index"), (outer, "selected_index"))
    return VBox([memory, size, outer])
