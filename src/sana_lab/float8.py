"""Eight bits with a floating point: codes in e4m3, a scale a row, and the product of two such, in plain PyTorch.

Read top to bottom: numbers to codes (`quantize_rows`) and back (`dequantize_rows`), the product of codes (`product`),
and where a card or a shape forbids it (`check_card`, `check_shape`). Nothing here imports another room.

A code of e4m3 is a sign, four bits of exponent and three of mantissa: 448 at most, a step of an eighth of its power of
two, 2**-6 the smallest with all its bits and 2**-9 the smallest of all; there is no infinity (Micikevicius et al. 2022,
arXiv 2209.05433, table 1; PyTorch calls it `float8_e4m3fn`). A step is relative: in a row that holds an outlier, the
other numbers keep their three bits as long as they are no more than 28,000 times smaller. In int8 the step is that of
the outlier for all.
"""

from __future__ import annotations

import torch
from torch import Tensor

DTYPE = torch.float8_e4m3fn
HIGHEST = torch.finfo(DTYPE).max
"""448: what the largest magnitude of a row becomes."""

SMALLEST_SCALE = torch.finfo(torch.float32).tiny
"""The smallest normal float32. A row of zeros gets this scale, so that nothing is divided by zero."""

UNITS = (8, 9)
"""The first compute capability whose tensor cores multiply FP8: Ada (GeForce 40, L4, L40), then Hopper and later."""

MULTIPLE = 16
"""What both sides of a weight must be a multiple of: `torch._scaled_mm` (torch 2.13, native/cuda/ScaledBlas.cpp)."""

WAY_OUT = "give activations=16, which keeps the weights alone in FP8"


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row to e4m3 codes of 448 at most, computed in float32: ``x ≈ codes.float() * scale``.

    No number moves by more than a sixteenth of itself, or by 2**-10 of a scale where its code is below 2**-6. Rounding
    is to the nearest code, ties to the even one, as PyTorch casts. The clamp is for the quotient that rounds up to more
    than 448. A number that is not finite becomes NaN, and so do all products of its row: nothing is hidden.

    torchao 0.18.0 does the same for `PerRow()` (quantization/quant_primitives.py, `_choose_scale_float8`,
    `_quantize_affine_float8`), except for two things: it divides by 448 in the type of the input, which rounds the
    scale of a bfloat16 row to 8 bits, and a row of zeros becomes NaN there.

    Args:
        x: (..., columns), floating point.

    Returns:
        Codes, `float8_e4m3fn`, in the shape of `x`; scales, float32, (..., 1).

    Raises:
        TypeError: `x` holds no floating-point numbers.

    Example:
        >>> codes, scale = quantize_rows(torch.tensor([[448.0, -20.0, 0.3]]))
        >>> (codes.float() * scale).tolist()
        [[448.0, -20.0, 0.3125]]

    Chapter 8.
    """
    if not x.is_floating_point():
        raise TypeError(f"quantize_rows takes floating-point numbers, got {x.dtype}: convert them with .float()")
    values = x.float()
    scale = (values.abs().amax(dim=-1, keepdim=True) / HIGHEST).clamp_min(SMALLEST_SCALE)
    return (values / scale).clamp(-HIGHEST, HIGHEST).to(DTYPE), scale


def dequantize_rows(codes: Tensor, scale: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The numbers that codes and scales stand for: multiplied in float32, rounded once.

    Args:
        codes: (..., columns) `float8_e4m3fn`.
        scale: (..., 1) float32.
        dtype: of the result.

    Chapter 8.
    """
    return (codes.float() * scale).to(dtype)


def product(
    codes: Tensor,
    scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    made: torch.dtype | None = None,
) -> Tensor:
    """(codes * scale) @ (weight * weight_scale)ᵀ + bias, of FP8 codes with a scale a row on both sides.

    On a GPU by `torch._scaled_mm`, which sums the products of codes on the FP8 tensor cores and scales at the end. A
    processor, which has none, multiplies the codes in float32: there every product of two codes is exact, too.

    Args:
        codes: (rows, in) `float8_e4m3fn`.
        scale: (rows, 1) float32.
        weight: (out, in) `float8_e4m3fn`.
        weight_scale: (out,) float32.
        bias: (out,) or None.
        dtype: of the result.
        made: what the kernel is to write, before that is cast to `dtype`; by default what `made_as` says.

    Returns:
        (rows, out).

    Raises:
        RuntimeError: the kernel does not take it, in PyTorch's words: the card is older than `UNITS`, or a side of the
            weight is no multiple of 16. `check_card` and `check_shape` say so beforehand.

    Chapter 8.
    """
    if not codes.is_cuda:
        out = codes.float() @ weight.float().t() * scale * weight_scale
        return (out if bias is None else out + bias.float()).to(dtype)
    made = made or made_as(dtype)
    beside = None if bias is None or made == torch.float32 else bias.to(made)  # none beside float32: it is added below
    out = torch._scaled_mm(
        codes.contiguous(),
        weight.t(),
        scale_a=scale,
        scale_b=weight_scale[None],
        bias=beside,
        out_dtype=made,
        use_fast_accum=True,
    )
    if bias is not None and beside is None:
        out = out + bias
    return out.to(dtype)


def check_card(device: torch.device | str | int | None = None) -> None:
    """Refuse a GPU that cannot multiply FP8 codes.

    Args:
        device: a GPU; the current one by default.

    Raises:
        RuntimeError: its compute capability is below `UNITS`.

    Chapter 8.
    """
    has = torch.cuda.get_device_capability(device)
    if has < UNITS:
        raise RuntimeError(
            f"FP8 products need compute capability 8.9 or later (GeForce 40, L4, H100), and "
            f"{torch.cuda.get_device_name(device)} has {has[0]}.{has[1]}: {WAY_OUT}."
        )


def check_shape(out_features: int, in_features: int) -> None:
    """Refuse a weight that `torch._scaled_mm` has no kernel for.

    Raises:
        ValueError: a side is no multiple of 16.

    Chapter 8.
    """
    if out_features % MULTIPLE or in_features % MULTIPLE:
        raise ValueError(
            f"a weight of {out_features} x {in_features} has no FP8 product, whose sides are multiples of {MULTIPLE}: "
            f"{WAY_OUT}."
        )


def check_finite(weight: Tensor) -> None:
    """Refuse NaN and infinity, which codes would hide or spread.

    Raises:
        ValueError: there are such numbers.

    Chapter 8.
    """
    if not torch.isfinite(weight).all():
        raise ValueError(
            "NaN or infinity among the numbers to quantize: load the weights in the type that they were trained in, or "
            "get the file again."
        )


def made_as(dtype: torch.dtype) -> torch.dtype:
    """The type that this card's kernel can write: `dtype` where cuBLAS does it, else bfloat16.

    cuBLAS has row-wise scales from CUDA 12.9 on, for Hopper; elsewhere PyTorch takes a kernel of CUTLASS, which wrote
    bfloat16 alone for long (torch 2.9: "Only bf16 high precision output types are supported for row-wise scaling").

    Chapter 8.
    """
    toolkit = tuple(int(part) for part in (torch.version.cuda or "12.9").split(".")[:2])
    cublas = toolkit >= (12, 9) and torch.cuda.get_device_capability()[0] == 9
    return dtype if cublas else torch.bfloat16
