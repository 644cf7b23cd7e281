"""The record of `python -m sana_lab.measure.quality` as a table: what each fast way draws right, outliers planted.

Runs nothing.

Chapter 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .. import evidence
from ..evaluate.statistics import compare
from ..shapes import Rate
from .goals import points_lost
from .quality import RECORD
from .quality import WAYS as WAYS_DRAWN

if TYPE_CHECKING:
    import pandas as pd

WAYS = {name: way.title for name, way in WAYS_DRAWN.items() if way.title}
"""Name of a way in the record -> what the page calls it."""

HARMED = 1.0
"""Points lost from which on a way counts as having spoiled pictures."""


def factors() -> dict[str, Mapping[str, Any]]:
    """Factor of the planted outliers -> its entry, where the record has the recipe, integers and weights alone.

    Raises:
        ValueError: the record is missing or damaged.

    Chapter 8.
    """
    found = evidence.load(RECORD)["results"]["factors"]
    whole = {factor: entry for factor, entry in found.items() if {"recipe", "fast", "weights"} <= set(entry)}
    return dict(sorted(whole.items(), key=lambda item: float(item[0])))


def right(outcomes: str) -> list[bool]:
    """A text of 0 and 1, one a scene, as truth values."""
    return [digit == "1" for digit in outcomes]


def quality_table() -> pd.DataFrame:
    """Rates with intervals for each factor and way, paired differences to the recipe, and the check held against them.

    Raises:
        ValueError: the record is missing or damaged.

    Chapter 8.
    """
    import pandas as pd

    judged = {}
    for factor, entry in factors().items():
        lines = {name: str(Rate(sum(right(entry[way])), len(entry[way]))) for way, name in WAYS.items() if way in entry}
        for way in ("fast", "weights", "fp8", "fp8-weights"):
            if way in entry:
                pair = compare(right(entry["recipe"]), right(entry[way]))
                low, high = (100 * end for end in pair.interval)
                text = f"{100 * pair.difference:+.1f} ({low:+.1f} to {high:+.1f})"
                lines[f"{WAYS[way]} − recipe (points)"] = text
        refused, hurt = bool(entry["refused"]), points_lost(entry, "fast") > HARMED
        lines["integers: the check says"] = "refuse" if refused else "go"
        lines["and is"] = "right" if refused == hurt else "in vain" if refused else "missed"
        judged[f"× {factor}"] = lines
    return pd.DataFrame(judged).fillna("–").rename_axis(f"{evidence.load(RECORD)['results']['n']} scenes", axis=1)


def unguided_table() -> pd.DataFrame:
    """Rates with intervals where no guidance was given, for each factor that was drawn so; empty if none was.

    Raises:
        ValueError: the record is missing or damaged.

    Chapter 8.
    """
    import pandas as pd

    results = evidence.load(RECORD)["results"]
    drawn = {}
    for factor, entry in sorted(results.get("unguided", {}).items(), key=lambda item: float(item[0])):
        lines = {name: str(Rate(sum(right(entry[way])), len(entry[way]))) for way, name in WAYS.items() if way in entry}
        drawn[f"× {factor}, no guidance"] = lines
    return pd.DataFrame(drawn).rename_axis(f"{results['n']} scenes", axis=1)


def worst(way: str, reference: str = "recipe") -> float | None:
    """The most points that a way lost to another at any factor; None where it was not drawn.

    Raises:
        ValueError: the record is missing or damaged.

    Chapter 8.
    """
    both = (entry for entry in factors().values() if {way, reference} <= set(entry))
    return max((points_lost(entry, way, reference) for entry in both), default=None)
