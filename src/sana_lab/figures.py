"""The one figure style of the book, and the four kinds of figure that chapters share.

A page is read on white and on near-black, printed in grey, and read by people who see fewer colors. So the ground is
transparent, text and axes are one mid grey that has contrast on both, the five colors differ in lightness as well as
in hue, and fills carry a hatch as a second channel. Figures are SVG without a date or random identifiers: the same
figure gives the same bytes.
"""

from __future__ import annotations

import io
import sys
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # not pyplot's: a notebook would show a returned figure twice
from matplotlib.patches import FancyBboxPatch
from PIL import Image

INK = "#6f7680"
"""Text, axes and outlines: contrast 4.6 to 1 on white (WCAG 2.2 formula), 4 to 1 on the dark pages.

No single grey has 4.5 on both: 4.5 on white takes a luminance below 0.183, on the dark pages one above 0.202. So dark
pages show figures brighter by a third (`theme.css`), which makes it 6.5 there and lifts the palette's blue above 3.
"""

PALETTE = {"blue": "#354baf", "plum": "#a14784", "rust": "#c75d2b", "green": "#2ea476", "amber": "#de9e0d"}
"""Five colors, dark to light: at least 8 apart in CIE L*, 25 in CIE76 under each simulated color blindness."""

COLORS = tuple(PALETTE[name] for name in ("blue", "amber", "plum", "green", "rust"))  # neighbors far apart in lightness
HATCHES = ("", "///", "...", "xx", "\\\\\\")
COMPONENTS = {"text_encoder": "blue", "transformer": "amber", "vae": "green"}
"""The color of each of Sana's three models, in every figure."""

_SAME = {"text encoder": "text_encoder", "autoencoder": "vae"}  # as pages call them

MARKERS = ("o", "s", "^", "D", "v")
GRID_BYTES = 200 * 1024
"""What the pictures of one grid may take as PNG; base64 inside the SVG makes it a third more."""

_STYLE = {
    "figure.facecolor": "none",
    "figure.figsize": (7.0, 3.4),
    "axes.facecolor": "none",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": "medium",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.axisbelow": True,
    "axes.prop_cycle": mpl.cycler(color=COLORS, marker=MARKERS),
    "grid.color": INK,
    "grid.alpha": 0.25,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "patch.edgecolor": INK,
    "patch.force_edgecolor": True,
    "hatch.color": "#ffffff90",
    "hatch.linewidth": 0.7,
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that a figure looks the same everywhere
    "font.size": 10,
    "svg.fonttype": "path",
    "svg.hashsalt": "8-bit Sana",  # fixed identifiers inside the file: same figure, same bytes
}


def use_style() -> None:
    """Make every later figure of this process follow the book's style; in a notebook figures become SVG.

    Calling it twice is harmless. It changes matplotlib's settings and nothing else.
    """
    mpl.rcParams.update(_STYLE)
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if shell is not None and getattr(shell, "kernel", None) is not None:
        from matplotlib_inline.config import InlineBackend

        backend = InlineBackend.instance(parent=shell)
        backend.print_figure_kwargs = {"bbox_inches": "tight", "metadata": {"Date": None}}
        backend.figure_formats = {"svg"}


def picture_grid(
    rows: Mapping[str, Sequence[Image.Image]], captions: Sequence[str] | None = None, *, width: float = 7.0
) -> Figure:
    """Draw rows of pictures with a label for each row and a caption over each column.

    Args:
        rows: row label → pictures. Every row has the same number of pictures; a label may hold line breaks.
        captions: one for each column, or None. Long ones are wrapped.
        width: of the figure, in inches.

    Returns:
        The figure. Pictures are made smaller until all together take at most `GRID_BYTES` as PNG files.

    Raises:
        ValueError: no picture, rows of different length, or captions that do not match the columns.
    """
    lengths = {len(pictures) for pictures in rows.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"rows need the same number of pictures, at least one each; these have {sorted(lengths)}")
    columns = lengths.pop()
    if captions is not None and len(captions) != columns:
        raise ValueError(f"{len(captions)} captions for {columns} columns: give one for each column")
    small = _fit([picture for pictures in rows.values() for picture in pictures])
    label = 1.0  # inches for the row labels
    side = (width - label) / columns
    lines = [_wrapped(caption, side) for caption in captions or ()]
    head = 0.13 * max((line.count("\n") + 1 for line in lines), default=0) + 0.05
    figure = Figure(figsize=(width, side * len(rows) + head))
    height = figure.get_figheight()
    for index, picture in enumerate(small):
        row, column = divmod(index, columns)
        bottom = height - head - side * (row + 1)
        gap = 0.04
        axes = figure.add_axes(
            ((label + side * column + gap) / width, (bottom + gap) / height)
            + ((side - 2 * gap) / width, (side - 2 * gap) / height)
        )
        axes.imshow(picture, interpolation="none")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, linewidth=0.6)
        if row == 0 and captions is not None:
            axes.set_title(lines[column], fontsize=7.5, pad=3)
        if column == 0:
            name = list(rows)[row]
            figure.text(0, (bottom + side / 2) / height, name, va="center", ha="left", fontsize=9.5)
    return figure


def bars_with_intervals(
    series: Mapping[str, Sequence[tuple[float, float, float]]], labels: Sequence[str], *, xlabel: str
) -> Figure:
    """Draw horizontal bars with their intervals, one group for each label, one bar for each series.

    Args:
        series: name → (value, low, high) for each label, in the units of `xlabel`.
        labels: names of the groups, top to bottom.
        xlabel: what the axis measures, with its unit.

    Returns:
        The figure.

    Raises:
        ValueError: a series of another length, or an interval that does not hold its value.
    """
    for name, values in series.items():
        if len(values) != len(labels):
            raise ValueError(f"series {name!r} has {len(values)} values for {len(labels)} labels")
        for value, low, high in values:
            if not low <= value <= high:
                raise ValueError(f"series {name!r}: the interval [{low}, {high}] does not hold its value {value}")
    thickness = 0.8 / len(series)
    figure = Figure(figsize=(7.0, 0.9 + 0.3 * len(labels) * len(series)), layout="constrained")
    axes = figure.subplots()
    for position, (name, values) in enumerate(series.items()):
        value, low, high = np.array(values, dtype=float).T
        where = np.arange(len(labels)) + (position - (len(series) - 1) / 2) * thickness
        style = {"color": COLORS[position % len(COLORS)], "hatch": HATCHES[position % len(HATCHES)], "ec": INK}
        axes.barh(where, value, thickness * 0.92, label=name, linewidth=0.8, **style)
        # A white line inside a mid-grey one: seen on the bar, on a white page and on a dark one.
        axes.hlines(where, low, high, color=INK, linewidth=4.5)
        axes.hlines(where, low, high, color="white", linewidth=1.8)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlabel(xlabel)
    axes.tick_params(axis="y", length=0)
    _legend(axes, len(series))
    return figure


def stacked_bytes(parts: Mapping[str, Mapping[str, int]]) -> Figure:
    """Draw bytes by component as one stacked bar for each row, with each row's total at its end.

    Args:
        parts: row label (for example a precision) → component → bytes. Sana's models have their `COMPONENTS` color, by
            their names in code or on pages; others get what is left.

    Returns:
        The figure; its axis is in MiB, or in GiB where the largest total exceeds four of them.

    Raises:
        ValueError: no row, or a negative number of bytes.
    """
    if not parts or any(size < 0 for sizes in parts.values() for size in sizes.values()):
        raise ValueError("give at least one row, and no negative number of bytes")
    totals = {row: sum(sizes.values()) for row, sizes in parts.items()}
    unit, scale = ("GiB", 2**30) if max(totals.values()) > 4 * 2**30 else ("MiB", 2**20)
    components = list(dict.fromkeys(component for sizes in parts.values() for component in sizes))
    styles = _styles(components)
    figure = Figure(figsize=(7.0, 0.95 + 0.42 * len(parts)), layout="constrained")
    axes = figure.subplots()
    start = np.zeros(len(parts))
    for component in components:
        size = np.array([sizes.get(component, 0) / scale for sizes in parts.values()])
        style = {"color": COLORS[styles[component]], "hatch": HATCHES[styles[component]], "ec": INK}
        axes.barh(range(len(parts)), size, 0.62, left=start, label=component, linewidth=0.8, **style)
        start += size
    for position, total in enumerate(totals.values()):
        axes.annotate(
            f"{total / scale:.1f} {unit}", (total / scale, position), (5, 0), textcoords="offset points", va="center"
        )
    axes.set_yticks(range(len(parts)), list(parts))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.14 * max(totals.values()) / scale or 1)
    axes.set_xlabel(f"weights in memory ({unit})")
    axes.tick_params(axis="y", length=0)
    _legend(axes, len(components))
    return figure


def flow(
    boxes: Sequence[tuple[str, str, str]], arrows: Sequence[str], *, again: tuple[int, str, str] | None = None
) -> Figure:
    """Draw boxes from left to right with an arrow into the first, between them, and out of the last.

    Args:
        boxes: title, what it does (may hold line breaks) and color name in `PALETTE` of each.
        arrows: a label for each arrow, one more than boxes; may hold line breaks.
        again: index of a box that is called several times, the words at its loop, and what comes in from below it.

    Returns:
        The figure.

    Raises:
        ValueError: the number of arrows does not fit the boxes.
    """
    if len(arrows) != len(boxes) + 1:
        raise ValueError(f"{len(boxes)} boxes have {len(boxes) + 1} arrows, got {len(arrows)}")
    wide, gap = 1.24, 0.82  # inches
    width, height = len(boxes) * wide + len(arrows) * gap, 2.1
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    arrow = {"arrowstyle": "-|>", "color": INK, "lw": 1.6}
    small = {"ha": "center", "fontsize": 8}
    for position, label in enumerate(arrows):
        left = position * (wide + gap)
        axes.annotate("", (left + gap - 0.05, 1.05), (left + 0.05, 1.05), arrowprops=arrow)
        axes.text(left + gap / 2, 1.16, label, va="bottom", **small)
    for position, (title, does, color) in enumerate(boxes):
        left = gap + position * (wide + gap)
        edge = {"fc": "none", "ec": PALETTE[color], "lw": 2.4}
        axes.add_patch(FancyBboxPatch((left, 0.7), wide, 0.7, "round,pad=0,rounding_size=0.1", **edge))
        axes.text(left + wide / 2, 1.28, title, va="top", ha="center", fontsize=10, weight="bold")
        axes.text(left + wide / 2, 0.94, does, va="center", **small)
    if again is not None:
        index, times, below = again
        middle = gap + index * (wide + gap) + wide / 2
        loop = arrow | {"connectionstyle": "arc3,rad=-0.9"}
        axes.annotate("", (middle + 0.25, 1.44), (middle - 0.25, 1.44), arrowprops=loop)
        axes.text(middle, 1.72, times, va="bottom", **small)
        axes.annotate("", (middle, 0.66), (middle, 0.32), arrowprops=arrow)
        axes.text(middle, 0.28, below, va="top", **small)
    return figure


def number_points(figure: Figure, labels: Sequence[tuple[Axes, str, tuple[float, float]]]) -> None:
    """Write a number beside each point, on the side that is farthest from other points and from numbers before it.

    Args:
        figure: complete except for the numbers; its axes have their limits and scales.
        labels: axes, number and place of each point, in the axes' own coordinates.
    """
    figure.draw_without_rendering()  # axes have their final size only then
    points = [tuple(axes.transData.transform(where)) for axes, _, where in labels]
    taken = list(points)
    unit = figure.dpi / 72
    sides = [(9, 0), (-9, 0), (0, 10), (0, -10), (8, 8), (-8, 8), (8, -8), (-8, -8)]
    for (axes, number, where), here in zip(labels, points, strict=True):

        def free(side: tuple[int, int], here=here) -> float:
            x, y = here[0] + unit * side[0], here[1] + unit * side[1]
            nearest = min(((x - a) ** 2 + (y - b) ** 2) ** 0.5 for a, b in taken if (a, b) != here)
            return min(nearest, 14 * unit)  # far enough is far enough: then the first side of the list

        side = max(sides, key=free)
        taken.append((here[0] + unit * side[0], here[1] + unit * side[1]))
        axes.annotate(number, where, side, textcoords="offset points", ha="center", va="center", fontsize=9)


def _styles(components: Sequence[str]) -> dict[str, int]:
    """Which color and hatch each component has: its own if it is one of Sana's models, else the first that is left."""
    own = {name: COMPONENTS.get(_SAME.get(name, name)) for name in components}
    styles = {name: COLORS.index(PALETTE[hue]) for name, hue in own.items() if hue is not None}
    left = [index for index in range(len(COLORS)) if index not in styles.values()] or range(len(COLORS))
    others = [name for name in components if name not in styles]
    return styles | {name: left[position % len(left)] for position, name in enumerate(others)}


def _legend(axes: Axes, entries: int) -> None:
    """A legend in one row above the axes, where it hides nothing."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=entries, borderaxespad=0.2, handlelength=1.6)


def _fit(pictures: list[Image.Image]) -> list[Image.Image]:
    """The pictures at the largest common size at which their PNG files take at most `GRID_BYTES` together."""
    for side in (192, 160, 128, 96, 64, 48, 32):
        small = [picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS) for picture in pictures]
        if sum(_png_bytes(picture) for picture in small) <= GRID_BYTES:
            return small
    raise ValueError(f"{len(pictures)} pictures are too many for one grid: split it")


def _png_bytes(picture: Image.Image) -> int:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.tell()


def _wrapped(caption: str, inches: float) -> str:
    """A caption broken into lines that fit `inches` at 7.5 points (a letter is about 0.062 inches wide)."""
    return "\n".join(textwrap.wrap(caption, max(8, int(inches / 0.062)))) or " "
