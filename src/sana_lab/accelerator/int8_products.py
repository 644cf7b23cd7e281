"""bitsandbytes' 8-bit operators on virtual GPUs: the bits of its own, with few passes over the numbers.

bitsandbytes (0.50.2, backends/default/ops.py) writes them in PyTorch for processors, in 16-bit arithmetic that AVX2
lacks, and goes through the activations fifteen times. Each function here is one of its operators, no more; which
operators are called, and with what, is left to bitsandbytes. Two things make them cheap, and change no bit:

- Arithmetic is in float32. Outliers, where there are any, are left out of a row's maximum by a shift of their bits.
- Codes stay float32 from the quantizer to the product, those of weights from call to call.
"""

from __future__ import annotations

import functools
import threading
import weakref
from typing import Any

import torch
from torch import Tensor

from . import raw_memory

EXACT = 1024
"""How many products of two codes float32 adds without rounding: 1024 times 127 squared is below 2**24."""

MOST = 2**20
"""Codes of a tensor that are kept as float32 as well; more would cost a laptop its memory."""


# ---- the quantizer --------------------------------------------------------------------------------------------------


def of_activations(A: Tensor, threshold: float = 0.0) -> tuple[Tensor, Tensor, Tensor | None]:
    """`int8_vectorwise_quant`: codes and scales as bitsandbytes' own kernel makes them; `A` is only read.

    Args:
        A: activations, (rows, k).
        threshold: magnitude from which an entry is an outlier, 0 for none.

    Returns:
        Codes, int8, (rows, k); the largest magnitude in each row, float32; numbers of the outlier columns, None if
        the threshold is 0.
    """
    if A.requires_grad:
        A = A.detach()
    found = _codes(A, threshold) if A.dtype == torch.float16 else None
    if found is not None:
        floats, absmax, columns = found
        codes = floats.to(torch.int8)
        _remember(codes, floats)
        return codes, absmax, columns
    values = A.float()
    magnitudes = values.abs()
    if threshold <= 0:
        return *_scaled(values, magnitudes), None
    if magnitudes.numel() and magnitudes.amax() < threshold:  # a NaN is no less
        return *_scaled(values, magnitudes), torch.empty(0, dtype=torch.int64)
    outliers = magnitudes >= threshold
    columns = outliers.any(dim=0).nonzero().view(-1)
    if not columns.numel():
        return *_scaled(values, magnitudes), columns
    codes, absmax = _scaled(values.masked_fill(outliers, 0), magnitudes.masked_fill_(outliers, 0))
    if A.numel() > A.shape[-1]:  # of a single row bitsandbytes keeps the codes (0.50.2, backends/default/ops.py)
        codes[:, columns] = 0
    return codes, absmax, columns


def _scaled(values: Tensor, magnitudes: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and the largest magnitude of each row, by bitsandbytes' own arithmetic (0.50.2, backends/default/ops.py).

    It takes the magnitudes anew and asks where the largest is, which costs twice as much.
    """
    absmax = magnitudes.amax(dim=1)
    return (values * (127.0 / absmax.unsqueeze(-1))).round_().to(torch.int8), absmax


def _codes(A: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """As `of_activations` of float16, with codes as float32; magnitudes are compared by their bits, in the same order.

    None where a row has nothing but zeros or outliers, a number that counts is not finite, or a single row has
    outliers.
    """
    if not A.numel() or not threshold >= 0:
        return None
    columns = A.new_empty(0, dtype=torch.int64) if threshold else None
    bits = A.abs().view(torch.int16)
    tops = bits.amax(dim=1)
    least, most = _bounds(tops)
    largest = most
    if threshold and most >= _smallest(threshold):
        if len(A) == 1 or most > INFINITE:
            return None
        columns, tops = _split(bits, _smallest(threshold))
        least, most = _bounds(tops)
    if not 0 < least <= most < INFINITE:
        return None
    absmax = tops.view(A.dtype).float()
    floats = A.float().mul_(absmax.reciprocal().mul_(127.0).unsqueeze(-1)).round_()  # PyTorch's `127 / absmax` is that
    if columns is not None and columns.numel():
        if columns.numel() <= A.shape[1] // MANY or largest == INFINITE:
            floats.index_fill_(1, columns, 0)
        else:
            floats.mul_(floats.new_ones(A.shape[1]).index_fill_(0, columns, 0))
    return floats, absmax, columns


INFINITE = 0x7C00
"""Bits of an infinite float16. Those of a NaN are more."""

MANY = 32
"""If one column in this many, or more, becomes zero, a product with zeros and ones is faster than a loop over them."""


def _bounds(bits: Tensor) -> tuple[int, int]:
    least, most = bits.aminmax()
    return int(least), int(most)


def _split(bits: Tensor, outlier: int) -> tuple[Tensor, Tensor]:
    """Numbers of the columns with outliers, and bits of the largest of all else in each row (-1 if that is nothing).

    Args:
        bits: of the magnitudes of activations, float16, (rows, k), none of them NaN; they are written to.
        outlier: bits of the smallest outlier.
    """
    columns = (bits.amax(dim=0) >= outlier).nonzero().view(-1)
    shift = 2**15 - outlier  # by so much outliers wrap around to below 0, and all others stay in their order
    tops = bits.add_(shift).amax(dim=1)
    return columns, tops.sub_(shift) if tops.amin() >= 0 else tops.fill_(-1)


@functools.lru_cache(maxsize=64)
def _smallest(threshold: float) -> int:
    """Bits of the smallest float16 that float32 does not call less than `threshold`, which is above 0."""
    wanted = torch.tensor(threshold, dtype=torch.float32)
    near = wanted.half()
    return int(near.view(torch.int16)) + bool(near.float() < wanted)


# ---- the product ----------------------------------------------------------------------------------------------------


def split_product(
    A: Tensor,
    CA: Tensor,
    CB: Tensor,
    SCA: Tensor,
    SCB: Tensor,
    outlier_cols: Tensor | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`int8_mixed_scaled_mm`, except for the outlier columns' product, in float32 (0.50.2, backends/default/ops.py).

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
    floats = _remembered(CA)
    product = floats @ unpacked(CB).t()
    # where the sizes agree, in memory that the processor still has at hand
    free = floats if product.shape == floats.shape else torch.empty_like(product)
    torch.mul(SCA.reshape(-1, 1), SCB.reshape(1, -1), out=free)
    wide = product.mul_(free).mul_(6.200124e-05)
    if bias is not None:
        wide.add_(bias)
    product = wide.to(A.dtype)
    weight = None if outlier_cols is None or not outlier_cols.numel() else _read_back(CB, SCB, A.dtype)
    if weight is None:
        return raw_memory.with_outliers(product, A, CB, SCB, outlier_cols)
    chosen = A.index_select(1, outlier_cols)
    weight = weight.index_select(1, outlier_cols)
    return wide.copy_(product).addmm_(chosen.float(), weight.t()).to(A.dtype), chosen


# ---- what is kept of activations ------------------------------------------------------------------------------------


class _Codes(weakref.ref):
    """A weak reference to codes that knows them as float32 too, until they are asked for or the codes are gone."""

    __slots__ = ("floats", "state")


_last = threading.local()
"""`codes`: those that this thread has quantized last. More would cost memory, and bitsandbytes multiplies at once."""


def _remember(codes: Tensor, floats: Tensor) -> None:
    if codes.is_inference() or codes.numel() > MOST:
        return
    kept = _last.codes = _Codes(codes, _forget)
    kept.floats, kept.state = floats, _state(codes)


def _remembered(codes: Tensor) -> Tensor:
    """`codes` as float32, for the caller to write to."""
    kept = getattr(_last, "codes", None)
    if kept is None or kept() is not codes or kept.state != _state(codes):
        return codes.float()
    _last.codes = None
    return kept.floats


def _forget(kept: _Codes) -> None:
    kept.floats = None


def _state(codes: Tensor) -> tuple[Any, ...]:
    """What changes when codes are written to or moved."""
    return codes.data_ptr(), codes._version, codes.shape


# ---- what is kept of weights ----------------------------------------------------------------------------------------


class _Weight:
    """What is kept of a weight's codes, by name, as long as the codes stay as they are."""

    __slots__ = ("codes", "made", "state")

    def __init__(self, codes: Tensor):
        """Nothing yet; the codes are not kept."""
        key = id(codes)
        self.codes = weakref.ref(codes, lambda _: _kept.pop(key, None))
        self.state = _state(codes)
        self.made: dict[Any, Any] = {}


_kept: dict[int, _Weight] = {}


def _weight(codes: Tensor) -> _Weight | None:
    """What is kept of these codes; None where nothing is to be kept."""
    if codes.is_inference() or codes.numel() > MOST:
        return None
    kept = _kept.get(id(codes))
    if kept is None or kept.codes() is not codes or kept.state != _state(codes):
        kept = _kept[id(codes)] = _Weight(codes)
    return kept


def unpacked(codes: Tensor) -> Tensor:
    """Codes of a weight as float32, (n, k), unpacked once: again after they were written to or moved."""
    kept = _weight(codes)
    if kept is None:
        return codes.float()
    if "codes" not in kept.made:
        kept.made["codes"] = codes.float()
    return kept.made["codes"]


def _read_back(codes: Tensor, absmax: Tensor, dtype: torch.dtype) -> Tensor | None:
    """The weight that codes stand for, (n, k): rounded to `dtype`, as float32; read back once, as in `unpacked`.

    None where nothing is to be kept: a few of the columns are cheaper then.
    """
    kept = None if absmax.is_inference() else _weight(codes)
    if kept is None:
        return None
    known = kept.made.get(dtype)
    if known is None or known[0]() is not absmax or known[1] != (absmax.data_ptr(), absmax._version):
        weight = torch.ops.bitsandbytes.int8_vectorwise_dequant.default(codes, absmax).to(dtype).float()
        known = kept.made[dtype] = (weakref.ref(absmax), (absmax.data_ptr(), absmax._version), weight)
    return known[2]
