"""16-bit products on virtual GPUs: computed in float32 and rounded once, as a GPU's tensor cores do.

A processor without 16-bit arithmetic (AVX2 and older) takes more than two hundred times as long for a convolution in
bfloat16 as for one in float32 (torch 2.13, oneDNN's reference kernels), and processors that have it round in other
places. Factors of 16 bits are exact in float32, sums of float32 are what a GPU keeps, and the result is rounded to 16
bits: the same numbers, up to the order of the sums, on every processor.

bitsandbytes' 8-bit kernels are written in PyTorch on a processor (0.50.2, backends/default/ops.py) and slow there for
the same reason. Two places in them where 16-bit arithmetic hides are done in float32: see `wrap_kernel`.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from functools import wraps
from typing import Any

import torch
from torch.utils.weak import WeakIdKeyDictionary

from . import raw_memory
from .autocast import LOWER
from .ledger import Ledger, rebuilt

PRODUCTS = frozenset(LOWER) - {"prelu"}
"""Names of the functions that sum products: matrix products, convolutions, attention."""

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


def _kernel(name: str, func: Callable, args: tuple) -> Callable:
    if name == "int8_vectorwise_quant":
        return _vectorwise_quant
    if name == "int8_mixed_scaled_mm" and args and args[0].dtype in NARROW:
        return _mixed_scaled_mm
    return func


def _vectorwise_quant(
    A: torch.Tensor, threshold: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Codes and scales as bitsandbytes' own kernel makes them, of a float32 copy from which outliers are taken out.

    It takes them out of the tensor itself, keeps them, and writes them back, which costs as much as all the rest.

    Args:
        A: activations, (rows, k).
        threshold: magnitude from which an entry is an outlier, 0 for none.

    Returns:
        Codes, int8, (rows, k); the largest magnitude in each row, float32; numbers of the outlier columns, None if
        the threshold is 0.
    """
    values = A.float()
    if threshold <= 0:
        return *_codes(values, values.abs()), None
    magnitudes = values.abs()
    if magnitudes.numel() and magnitudes.amax() < threshold:  # a NaN is no less
        return *_codes(values, magnitudes), torch.empty(0, dtype=torch.int64)
    outliers = magnitudes >= threshold
    columns = outliers.any(dim=0).nonzero().view(-1)
    if not columns.numel():
        return *_codes(values, magnitudes), columns
    codes, absmax = _codes(values.masked_fill(outliers, 0), magnitudes.masked_fill_(outliers, 0))
    if A.numel() > A.shape[-1]:  # of a single row bitsandbytes keeps the codes (0.50.2, backends/default/ops.py)
        codes[:, columns] = 0
    return codes, absmax, columns


def _codes(values: torch.Tensor, magnitudes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and the largest magnitude of each row, by bitsandbytes' own arithmetic (0.50.2, backends/default/ops.py).

    It takes the magnitudes anew and asks where the largest is, which costs twice as much.
    """
    absmax = magnitudes.amax(dim=1)
    return (values * (127.0 / absmax.unsqueeze(-1))).round_().to(torch.int8), absmax


def _mixed_scaled_mm(
    A: torch.Tensor,
    CA: torch.Tensor,
    CB: torch.Tensor,
    SCA: torch.Tensor,
    SCB: torch.Tensor,
    outlier_cols: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The steps of bitsandbytes (0.50.2, backends/default/ops.py), but for the outlier columns' product in float32.

    Args:
        A: activations, 16-bit, (rows, k).
        CA: their codes, int8.
        CB: codes of the weight, int8, (n, k).
        SCA: largest magnitude of each row of `A`, float32.
        SCB: the same of the weight.
        outlier_cols: columns of `A` to be multiplied in 16 bits.
        bias: (n).

    Returns:
        The product, (rows, n), and the outlier columns of `A`.
    """
    if CB.shape[-1] > EXACT or not CA.numel():
        product = torch.ops.bitsandbytes.int8_scaled_mm.default(CA, CB, SCA, SCB, bias=bias, dtype=A.dtype)
        return raw_memory.with_outliers(product, A, CB, SCB, outlier_cols)
    # the same numbers: in float32 the sums are integers without a rounding, so nothing is changed on the way to int32
    product = CA.float() @ _unpacked(CB).t()
    product *= SCA.reshape(-1, 1) * SCB.reshape(1, -1)
    product *= 6.200124e-05
    if bias is not None:
        product += bias
    product = product.to(A.dtype)
    return raw_memory.with_outliers(product, A, CB, SCB, outlier_cols)


EXACT = 1024
"""So many products of two codes float32 adds without rounding: 1024 times 127 squared is below 2**24."""

MOST = 2**20
"""Codes of a weight that are kept as float32 as well; more would cost a laptop its memory."""

_floats: MutableMapping[torch.Tensor, tuple[int, int, torch.Tensor]] = WeakIdKeyDictionary()


def _unpacked(codes: torch.Tensor) -> torch.Tensor:
    """Codes of a weight as float32, unpacked once: again after they were written to or moved."""
    if codes.numel() > MOST or codes.is_inference():
        return codes.float()
    state = codes.data_ptr(), codes._version
    known = _floats.get(codes)
    if known is None or known[:2] != state or known[2].shape != codes.shape:
        known = _floats[codes] = (*state, codes.float())
    return known[2]


def _narrow(ledger: Ledger, values: Any) -> torch.dtype | None:
    """The 16-bit type that all floating tensors share, if they share one and a GPU; anything else is left alone."""
    tensors = list(_floating(values))
    kinds = {(tensor.dtype, ledger.index_of(tensor)) for tensor in tensors}
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
        return rebuilt(value, (_widened(item) for item in value))
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
