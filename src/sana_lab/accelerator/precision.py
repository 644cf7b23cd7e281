"""16-bit products on virtual GPUs: computed in float32 and rounded once, as a GPU's tensor cores do.

A processor without 16-bit arithmetic (AVX2 and older) takes more than two hundred times as long for a convolution in
bfloat16 as for one in float32 (torch 2.13, oneDNN's reference kernels), and processors that have it round in other
places. Factors of 16 bits are exact in float32, sums of float32 are what a GPU keeps, and the result is rounded to 16
bits: the same numbers, up to the order of the sums, on every processor.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

from .autocast import LOWER

PRODUCTS = frozenset(LOWER) - {"prelu"}
"""Names of the functions that sum products: matrix products, convolutions, attention."""

NARROW = (torch.bfloat16, torch.float16)


def wrap(mode, handler: Callable) -> Callable:
    """`handler`, with the function computed in float32 where all its floating tensors are 16-bit and on one GPU."""

    def product(func: Callable, args: tuple, kwargs: dict) -> Any:
        dtype = None if "out" in kwargs else _narrow(mode, (args, kwargs))
        return handler(func if dtype is None else _in_float32(func, dtype), args, kwargs)

    return product


def _narrow(mode, values: Any) -> torch.dtype | None:
    """The 16-bit type that all floating tensors share, if they share one and a GPU; anything else is left alone."""
    tensors = list(_floating(values))
    kinds = {(tensor.dtype, mode.index_of(tensor)) for tensor in tensors}
    if len(kinds) != 1:
        return None
    ((dtype, index),) = kinds
    return dtype if index >= 0 and dtype in NARROW else None


def _in_float32(func: Callable, dtype: torch.dtype) -> Callable:
    @wraps(func)
    def product(*args: Any, **kwargs: Any) -> torch.Tensor:
        return func(*_widened(args), **_widened(kwargs)).to(dtype)

    return product


def _widened(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, (list, tuple)):
        return type(value)(_widened(item) for item in value)
    if isinstance(value, dict):
        return {key: _widened(item) for key, item in value.items()}
    return value


def _floating(value: Any):
    if isinstance(value, torch.Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _floating(item)
