"""Ways to have a pipeline, for a service that must go on with less memory when the first one does not fit."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..checkpoints import Source, resolve
from ..fitting import ways as planned
from ..float8 import UNITS
from ..libraries import DTYPES

_NO_ROOM = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""Words of an exception that means too little memory, whatever its class."""


@dataclass(frozen=True)
class Way:
    """A pipeline that can be loaded.

    Args:
        name: for logs and the pictures' metadata.
        load: gives the pipeline, ready to call.

    Chapter 13.
    """

    name: str
    load: Callable[[], Any]


def ways_of(
    model: str | Path | Source, first: str = "int8", *, pixels: int | None = None, pictures: int = 1
) -> tuple[Way, ...]:
    """The way asked for, then from one to the next those of `sana_lab.plan` that need less memory, down to the least.

    Each is the fastest of those that need less than the one before; decoding in tiles is tried first where decoding is
    the peak. Left out are ways that read the prompts as they load, which a service does not know then, and products of
    FP8 where the GPU has none.

    Args:
        model: what `load_sana` takes.
        first: a precision, or the name of one of the plan's ways, such as "int8-slim".
        pixels: a side of the pictures that are to come; by default the model's own.
        pictures: drawn at once.

    Raises:
        ValueError: there is no such model or way.
        OSError: the model's files are missing or damaged.
    """
    from ..fitting import planner
    from ..sana import load_sana

    source = resolve(model)
    if source.checkpoint is None:
        source.check()
    trained = source.trained or "bf16"
    begin = {trained: "16-bit", "fp8": "fp8-slim"}.get(first, first)
    found = []
    if begin in DTYPES:  # another type than it was trained in, which no plan has
        found, begin = [Way(first, partial(load_sana, source, first))], "16-bit"
    chain = planner.downwards(source, begin, pixels or planner.own_pixels(source), pictures)
    for way, decode in chain:
        if way.name == begin or way.transformer != "fp8-slim" or _multiplies_float8():
            name = f"{way.name}, {decode}" if decode != "whole" else way.name
            found.append(Way(name, partial(_pipeline, way, source, decode)))
    return tuple(found)


def _pipeline(way: planned.Way, source: Source, decode: str) -> Any:
    pipe, _ = planned.load(way, source, [], decode)
    return pipe


def _multiplies_float8() -> bool:
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= UNITS


def no_room(error: BaseException) -> bool:
    """Whether an exception means that memory ran out.

    Sana's pipeline turns one into another: it catches what the decoding raises, warns, and then has no picture to go on
    with (diffusers 0.42.1, pipelines/sana/pipeline_sana.py; NVlabs/Sana issue 197).
    """
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, UnboundLocalError):
        return "'image'" in str(error)
    return any(words in str(error) for words in _NO_ROOM)


def poisoned(error: BaseException) -> bool:
    """Whether CUDA cannot be used any more in this process: after such an error every call raises it again."""
    kind = getattr(torch, "AcceleratorError", ())
    return not no_room(error) and (isinstance(error, kind) or "CUDA error" in str(error))


def let_go() -> None:
    """Give back what nobody holds any more: pipelines are full of circles that only the collector finds."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def must_be_ways(ways: Any) -> tuple[Way, ...]:
    """The ways as they are.

    Raises:
        TypeError: it is not a sequence of `Way`, or there is none.
    """
    if not isinstance(ways, Sequence) or not ways or not all(isinstance(way, Way) for way in ways):
        raise TypeError("ways: give a list of sana_lab.service.Way, the first to try first")
    if len({way.name for way in ways}) < len(ways):
        raise TypeError("ways: two have one name, and the log could not tell them apart")
    return tuple(ways)
