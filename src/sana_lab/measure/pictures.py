"""The record of `sana-lab measure` as figures: busy against waiting, every step, memory against time.

Runs nothing. Every function takes the lines of `goals.table`. Chapters 7, 8 and 9.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..figures import COLORS, INK, MARKERS, PALETTE, number_points
from .methods import METHODS
from .pages import GIB, KINDS, PANELS, SMALL, best_picture, kind, step, title

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def busy_figure(lines: pd.DataFrame, checkpoint: str = SMALL, pixels: int = 512) -> Figure:
    """Time of a step, outlined, and the part of it in which the GPU computes, filled, with the kernels started.

    Chapter 7.
    """
    known = lines.dropna(subset=["busy_ms", "step_ms"])
    known = known[(known.checkpoint == checkpoint) & (known.pixels == pixels) & (known.batch == 1)]
    known = known.sort_values("step_ms", ascending=False)
    figure = Figure(figsize=(7.0, 0.8 + 0.34 * len(known)), layout="constrained")
    axes = figure.subplots()
    places = range(len(known))
    axes.barh(places, known.step_ms, 0.62, fc="none", ec=INK, label="a step: waiting, where it is empty")
    axes.barh(places, known.busy_ms, 0.62, fc=PALETTE["blue"], ec=INK, label="GPU busy")
    for place, line in zip(places, known.itertuples(), strict=True):
        axes.annotate(
            f"{line.started:,.0f} kernels", (line.step_ms, place), (4, 0),
            textcoords="offset points", va="center", fontsize=8.5,
        )  # fmt: skip
    axes.set_yticks(places, [title(line.method, line.way) for line in known.itertuples()])
    axes.set_xlim(0, 1.17 * known.step_ms.max())
    axes.set_xlabel("one step of the transformer (ms)")
    axes.tick_params(axis="y", length=0)
    axes.legend(loc="upper right")
    return figure


def steps_figure(lines: pd.DataFrame) -> Figure:
    """Every method and way as a line, milliseconds of a step on a logarithmic axis, a panel for each of `PANELS`.

    Chapter 8.
    """
    timed = lines.dropna(subset=["step_ms"])
    there = [
        (name, way)
        for name, method in METHODS.items()
        for way in method.ways
        if ((timed.method == name) & (timed.way == way)).any()
    ]
    figure = Figure(figsize=(7.2, 1.1 + 0.27 * len(there)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (heading, (checkpoint, pixels)) in zip(panels, PANELS.items(), strict=True):
        for place, (method, way) in enumerate(there):
            color = COLORS[KINDS.index(kind(method))]
            for batch, marker in ((1, "o"), (4, "s")):
                ms = step(lines, checkpoint, method, way, pixels, batch)
                if ms is not None:
                    fill = color if batch == 1 else "none"
                    axes.plot(ms, place, marker=marker, color=color, mfc=fill, mew=1.6, ms=6)
        axes.set(title=heading, xscale="log", xlabel="a step (ms)")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xticks([5, 10, 20, 50, 100, 200])
        axes.minorticks_off()
        axes.grid(axis="both")
    panels[0].set_yticks(range(len(there)), [title(*pair) for pair in there])
    panels[0].invert_yaxis()
    key = _kinds_key(there, "o")
    key += [Line2D([], [], ls="", marker="o", color=INK, mfc=INK, label="1 picture")]
    key += [Line2D([], [], ls="", marker="s", color=INK, mfc="none", label="4 pictures")]
    figure.legend(handles=key, loc="outside upper center", ncols=3, fontsize=8.5)
    return figure


def _kinds_key(there: Sequence[tuple[str, str]], marker: str | None) -> list[Line2D]:
    """Handles for the kinds that are there, with one marker or with each kind's own."""
    used = {kind(method) for method, _ in there}
    return [
        Line2D([], [], ls="", marker=marker or MARKERS[i], color=COLORS[i], label=name)
        for i, name in enumerate(KINDS)
        if name in used
    ]


def plane_figure(lines: pd.DataFrame) -> Figure:
    """Each method in its fastest way: the most memory while drawing against the seconds of one picture.

    Filled points are compiled or in a graph, empty ones eager.

    Chapter 9.
    """
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    numbers = {method: str(i) for i, method in enumerate(METHODS, 1)}
    labels: list[tuple[Axes, str, tuple[float, float]]] = []
    used = []
    for axes, (heading, (checkpoint, pixels)) in zip(panels, PANELS.items(), strict=True):
        for method in METHODS:
            point = best_picture(lines, checkpoint, method, pixels)
            if point is None:
                continue
            used.append(method)
            group = KINDS.index(kind(method))
            where = point.peak / GIB, point.picture_s
            fill = "none" if point.way == "eager" else COLORS[group]
            axes.plot(*where, marker=MARKERS[group], color=COLORS[group], mfc=fill, mew=1.6, ms=7)
            labels.append((axes, numbers[method], where))
        axes.set(title=heading, yscale="log", xlabel="most memory while drawing (GiB)")
        axes.set_yticks([0.2, 0.5, 1, 2, 5])
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.grid(axis="both")
        axes.margins(x=0.1, y=0.15)
        axes.set_xlim(left=0)
    panels[0].set_ylabel("one picture, 20 steps (s)")
    key = _kinds_key([(method, "") for method in used], None)
    for fill, label in ((INK, "compiled or in a graph"), ("none", "eager")):
        key.append(Line2D([], [], ls="", marker="o", color=INK, mfc=fill, label=label))
    names = [
        Line2D([], [], ls="", label=f"{numbers[method]}  {METHODS[method].title}")
        for method in METHODS
        if method in used
    ]
    figure.legend(handles=key, loc="outside upper center", ncols=3, fontsize=8.5)
    small = {"ncols": 3, "fontsize": 8.5, "handlelength": 0, "handletextpad": 0}
    figure.legend(handles=names, loc="outside lower center", **small)
    number_points(figure, labels)
    return figure
