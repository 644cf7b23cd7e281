"""How often pictures show what was asked: a rate for each attribute, with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sized
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from ..messages import counted
from .reader import Reading, read_picture
from .scenes import Scene

ATTRIBUTES = ("shape", "size", "color", "where", "background", "number of objects")
ALL_RIGHT = "all right"
Z_95 = 1.959963984540054
"""Standard normal quantile of 0.975."""


@dataclass(frozen=True)
class Rate:
    """`right` successes of `n`.

    Example:
        >>> print(Rate(39, 40))
        97.5 % (87.1 to 99.6)
    """

    right: int
    n: int

    @property
    def rate(self) -> float:
        """The share, 0 to 1."""
        return self.right / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % score interval of Wilson (1927), J. Am. Stat. Assoc. 22, 209-212: sensible at 0 and 1 too."""
        share, weight = self.rate, Z_95**2 / self.n
        middle = (share + weight / 2) / (1 + weight)
        half = math.sqrt(share * (1 - share) * weight + weight**2 / 4) / (1 + weight)
        return max(0.0, middle - half), min(1.0, middle + half)

    def __str__(self) -> str:
        """E.g. ``97.5 % (96.2 to 98.4)``."""
        low, high = self.interval
        return f"{100 * self.rate:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


@dataclass(frozen=True, eq=False)
class Adherence:
    """What `adherence` found. It prints as a table, in a notebook too.

    `matches` has one boolean array, (pictures,), for each of `ATTRIBUTES` and for "all right"; `readings` has what was
    read, picture by picture.
    """

    matches: dict[str, np.ndarray]
    readings: tuple[Reading, ...]

    @property
    def n(self) -> int:
        """How many pictures."""
        return len(self.readings)

    @property
    def right(self) -> np.ndarray:
        """Which pictures are all right: a boolean array, (pictures,), for comparing two models picture by picture."""
        return self.matches[ALL_RIGHT]

    @property
    def rates(self) -> dict[str, Rate]:
        """A `Rate` for each of `ATTRIBUTES` and for "all right"."""
        return {name: Rate(int(match.sum()), self.n) for name, match in self.matches.items()}

    def _rows(self) -> list[tuple[str, str, str, str]]:
        rows = [("attribute", "right", "rate", "95 % interval")]
        for name, rate in self.rates.items():
            low, high = rate.interval
            interval = f"{100 * low:.1f} to {100 * high:.1f} %"
            rows.append((name, f"{rate.right} of {rate.n}", f"{100 * rate.rate:.1f} %", interval))
        return rows

    def __repr__(self) -> str:
        """A table in plain text."""
        rows = self._rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The same table for a notebook."""
        head, *body = ([escape(cell) for cell in row] for row in self._rows())
        lines = ["<tr><th>" + "</th><th>".join(head) + "</th></tr>"]
        lines = ["<thead>", *lines, "</thead>", "<tbody>"]
        lines += [f"<tr><th>{name}</th><td>" + "</td><td>".join(cells) + "</td></tr>" for name, *cells in body]
        return "\n".join(["<table>", *lines, "</tbody>", "</table>"])


def adherence(pictures: Iterable[Any], scenes: Iterable[Scene]) -> Adherence:
    """Read pictures and count how often they show the scenes asked for.

    Both are compared in canonical form. Two objects are told apart by where they stand: the left or upper one of the
    picture is compared with the left or upper one of the scene, and an attribute is right if it is right in both. In a
    picture with the wrong number of objects shape, size, color and place are wrong.

    Args:
        pictures: whatever `read_scene` takes, one for each scene; a generator of them or a batch as one array, too.
        scenes: the scenes asked for, in the same order.

    Raises:
        ValueError: if there are none, or not as many pictures as scenes.
        TypeError: if a scene is no `Scene` (`read_scene` says what it raises for a picture).

    Example:
        >>> from sana_lab import adherence, render, sample_scenes
        >>> scenes = sample_scenes(3, 2, seed=0)
        >>> str(adherence(map(render, scenes), scenes).rates["all right"])
        '100.0 % (43.9 to 100.0)'

    Chapter 1.
    """
    if not isinstance(pictures, Iterable) or not isinstance(scenes, Iterable):
        raise TypeError("adherence takes a list of pictures and a list of scenes: put a single one in brackets")
    scenes = list(scenes)
    for scene in scenes:
        if not isinstance(scene, Scene):
            raise TypeError(f"scenes must be Scene objects, not {type(scene).__name__}: see sample_scenes")
    # Counted before reading where possible: a thousand pictures take a while.
    mismatch = isinstance(pictures, Sized) and len(pictures) != len(scenes)
    readings = () if mismatch else tuple(map(read_picture, pictures))
    n = len(pictures) if isinstance(pictures, Sized) else len(readings)
    if n != len(scenes):
        raise ValueError(
            f"{counted(n, 'picture')} for {counted(len(scenes), 'scene')}: give one picture for each scene"
        )
    if not scenes:
        raise ValueError("nothing to count: give at least one picture and its scene")
    rows = [_match(reading, scene.canonical) for reading, scene in zip(readings, scenes, strict=True)]
    return Adherence({name: np.array([row[name] for row in rows]) for name in (*ATTRIBUTES, ALL_RIGHT)}, readings)


def _match(reading: Reading, scene: Scene) -> dict[str, bool]:
    """Which attributes of a canonical scene a reading has."""
    same_number = len(reading.things) == len(scene.things)
    match = {
        name: same_number
        and all(getattr(a, name) == getattr(b, name) for a, b in zip(reading.things, scene.things, strict=True))
        for name in ("shape", "size", "color")
    }
    match["where"] = same_number and reading.where == scene.where
    match["background"] = reading.background == scene.background
    match["number of objects"] = same_number
    match[ALL_RIGHT] = reading.scene == scene
    return match
