"""Ways to have a pipeline, for a service that must go on with less memory when the first one does not fit."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

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


def ways_of(model: str | Path, first: str = "int8") -> tuple[Way, ...]:
    """Three ways to draw with a model, each with less memory than the one before.

    The whole pipeline on the GPU; the same with a decoding in tiles, where decoding is the peak; and 16 bits brought to
    the GPU layer by layer, which is slow and takes the least. 8 bits and an offload do not go together: the codes stay
    on the GPU (chapters 10 and 11).

    Args:
        model: what `load_sana` takes.
        first: precision of the first two.
    """
    from ..sana import load_sana

    def whole() -> Any:
        return load_sana(model, first)

    def tiled() -> Any:
        pipe = load_sana(model, first)
        pipe.vae.enable_tiling()
        return pipe

    def by_layer() -> Any:
        pipe = load_sana(model, "bf16", "cpu")
        pipe.vae.enable_tiling()
        pipe.enable_sequential_cpu_offload()
        return pipe

    return (Way(first, whole), Way(f"{first}, tiles", tiled), Way("bf16, layer by layer, tiles", by_layer))


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
