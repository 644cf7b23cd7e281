"""16-bit products on virtual GPUs: computed in float32 and rounded once, as a GPU's tensor cores do.

A processor without 16-bit arithmetic (AVX2 and older) takes more than two hundred times as long for a convolution in
bfloat16 as for one in float32 (torch 2.13, oneDNN's reference kernels), and processors that have it round in other
places. Factors of 16 bits are exact in float32, sums of float32 are what a GPU keeps, and the result is rounded to 16
bits: the same numbers, up to the order of the sums, on every processor.

bitsandbytes' 8-bit kernels are written in PyTorch on a processor (0.50.2, backends/default/ops.py) and slow there for
the same reason. Two places in them where 16-bit arithmetic hides are done in float32: see `wrap_kernel`. Before them
they cast bfloat16 to float16, for which a processor has no instruction either: see `wrap_cast`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

from . import int8_products, raw_memory
from .autocast import LOWER
from .ledger import Ledger, tensors_in, with_tensors

PRODUCTS = frozenset(LOWER) - {"prelu"}
"""Names of the functions that sum products: matrix products, convolutions, attention."""

CASTS = ("to", "half")
"""Names of the casts of `wrap_cast`."""

NARROW = (torch.bfloat16, torch.float16)


def wrap(ledger: Ledger, handler: Callable) -> Callable:
    """`handler`, with the function computed in float32 where all its floating tensors are 16-bit and on one GPU."""

    def product(func: Callable, args: tuple, kwargs: dict) -> Any:
        dtype = None if "out" in kwargs else _narrow(ledger, (args, kwargs))
        return handler(func if dtype is None else _in_float32(func, dtype), args, kwargs)

    return product


def wrap_kernel(ledger: Ledger, name: str, handler: Callable) -> Callable:
    """`handler` of a bitsandbytes kernel, without 16-bit arithmetic where all its tensors are on a GPU.

    The quantizer compares, masks and takes maxima, which is exact, and scales in float32: from the same numbers in
    float32 it makes the same codes and scales, bit by bit. The product of outlier columns is as in `wrap`. Views are
    read as a kernel reads them that knows no strides, see `raw_memory`.
    """

    def kernel(func: Callable, args: tuple, kwargs: dict) -> Any:
        if ledger.home((args, kwargs)) >= 0:
            func = raw_memory.as_on_cuda(name, func, _kernel(name, func, args), args, kwargs)
        return handler(func, args, kwargs)

    return kernel


def wrap_cast(ledger: Ledger, name: str, handler: Callable) -> Callable:
    """`handler` of `to` or `half`, with bfloat16 on a GPU cast to float16 by way of float32, which holds both types.

    The numbers are the same, all 65,536 of them, and it takes a processor half the time (torch 2.13). A call that says
    more than the type is left alone, and one of which a gradient is wanted: that would pass through two casts.
    """

    def cast(func: Callable, args: tuple, kwargs: dict) -> Any:
        tensor = args[0] if args else None
        if (
            type(tensor) is torch.Tensor
            and tensor.dtype is torch.bfloat16
            and not kwargs
            and (len(args) == 1 if name == "half" else len(args) == 2 and args[1] is torch.float16)
            and tensor.layout is torch.strided
            and not (tensor.requires_grad and torch.is_grad_enabled())
            and ledger.index_of(tensor) >= 0
        ):
            func = _to_float16
        return handler(func, args, kwargs)

    return cast


def _to_float16(tensor: torch.Tensor, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    return tensor.float().to(dtype)


def _kernel(name: str, func: Callable, args: tuple) -> Callable:
    if name == "int8_vectorwise_quant":
        return int8_products.of_activations
    if name == "int8_mixed_scaled_mm" and args and args[0].dtype in NARROW:
        return int8_products.split_product
    return func


def _narrow(ledger: Ledger, values: Any) -> torch.dtype | None:
    """The 16-bit type that all floating tensors share, if they share one and a GPU; anything else is left alone."""
    given = [tensor for tensor in tensors_in(values) if tensor.is_floating_point()]
    kinds = {(tensor.dtype, ledger.index_of(tensor)) for tensor in given}
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
    return with_tensors(value, lambda tensor: tensor.float() if tensor.is_floating_point() else tensor)
