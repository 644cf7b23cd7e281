"""A reader's own script or folder: run it, and find the pipeline that it makes."""

from __future__ import annotations

import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from .ways import Way, ways_of

NAMES = ("WAYS", "load", "pipe", "pipeline")
"""What a script may define, in this order: a list of `Way`, a function without arguments that gives a pipeline, or the
pipeline itself, under these names or any other."""


def ways_in(place: str | Path) -> tuple[Way, ...]:
    """The ways to a pipeline that a script defines, or those to draw with a folder or a name.

    Args:
        place: a file of Python, a folder in diffusers' format, or a name that `load_sana` takes.

    Raises:
        ValueError: there is no such thing, or no pipeline in the script.
        Exception: what the script raises.

    Chapter 13.
    """
    path = Path(place)
    if path.suffix != ".py":
        return ways_of(str(place))
    if not path.is_file():
        raise ValueError(f"{path} is no file: give a script, a folder with a pipeline, or a model's name.")
    defined = runpy.run_path(str(path), run_name="pipeline")
    ways = defined.get("WAYS")
    if isinstance(ways, Sequence) and ways and all(isinstance(way, Way) for way in ways):
        return tuple(ways)
    if callable(load := defined.get("load")) and getattr(load, "__module__", "") == "pipeline":
        return (Way("load()", load),)
    for name in (*NAMES, *defined):
        if is_pipeline(pipe := defined.get(name)):
            return (Way(name, lambda: pipe),)
    raise ValueError(
        f"{path} defines no pipeline: name it `pipe`, or define a function load() that returns it, or a list WAYS."
    )


def is_pipeline(thing: Any) -> bool:
    """Whether it is a diffusers pipeline with models, by what it has."""
    components = getattr(thing, "components", None)
    return isinstance(components, dict) and any(isinstance(part, nn.Module) for part in components.values())
