"""`torch._scaled_mm` on virtual GPUs: what the kernel refuses, in its words, and its numbers by float32 arithmetic.

A product of two FP8 codes is exact in float32, so codes are multiplied there, scaled, and rounded once, to the type
that was asked for. A real card's FP8 units sum with fewer bits than float32 has ("fast accumulation"), so the two agree
in decibels and not in bits. Refusals and their order: torch 2.13, aten/src/ATen/native/cuda/ScaledBlas.cpp,
`_scaled_mm_out_cuda`; the layout: `_scaled_gemm`, for a card of compute capability 9.0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .kernel_checks import CPP_NAMES
from .ledger import MIXED, Ledger

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
NO_KERNEL = (
    "CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `cublasLtMatmulAlgoGetHeuristic( ltHandle, "
    "computeDesc.descriptor(), Adesc.descriptor(), Bdesc.descriptor(), Cdesc.descriptor(), Ddesc.descriptor(), "
    "preference.descriptor(), 1, &heuristicResult, &returnedResult)`"
)
"""What cuBLAS says to a scale a row and a result in FP8 (torch 2.11, CUDA 13.0, seen on an H200)."""
_NAMES = CPP_NAMES | {torch.float8_e5m2: "Float8_e5m2"}


def wrap(ledger: Ledger, handler: Callable) -> Callable:
    """`handler` of `_scaled_mm`, whose function is the emulation wherever the first tensor is on a GPU."""

    def scaled_mm(func: Callable, args: tuple, kwargs: dict) -> Any:
        first = args[0] if args else kwargs.get("input")
        index = ledger.index_of(first) if isinstance(first, Tensor) else -1
        if index < 0 or ledger.home((args, kwargs)) == MIXED:  # which the table of operators knows words for
            return handler(func, args, kwargs)

        def emulated(*args: Any, **kwargs: Any) -> Tensor:
            return _scaled_mm(ledger.devices.capability, *args, **kwargs)

        emulated.__name__ = emulated.__qualname__ = func.__name__
        return handler(emulated, args, kwargs)

    return scaled_mm


def _scaled_mm(
    capability: tuple[int, int],
    input: Tensor,
    mat2: Tensor,
    scale_a: Tensor,
    scale_b: Tensor,
    bias: Tensor | None = None,
    scale_result: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    use_fast_accum: bool = False,
    *,
    out: Tensor | None = None,
) -> Tensor:
    dtype = out_dtype or (input if out is None else out).dtype
    _refuse(capability, input, mat2, scale_a, scale_b, bias, scale_result, dtype, out)
    found = input.float() @ mat2.float() * scale_a * scale_b
    if bias is not None:
        found = found + bias.float()
    if dtype in FLOAT8:
        highest = torch.finfo(dtype).max
        found = (found if scale_result is None else found * scale_result).clamp(-highest, highest)
    found = found.to(dtype)
    return found if out is None else out.resize_(found.shape).copy_(found)


def _refuse(
    capability: tuple[int, int],
    a: Tensor,
    b: Tensor,
    scale_a: Tensor,
    scale_b: Tensor,
    bias: Tensor | None,
    scale_result: Tensor | None,
    dtype: torch.dtype,
    out: Tensor | None,
) -> None:
    """What the kernel says, in the order in which it asks.

    Raises:
        RuntimeError, ValueError: in the kernel's words.
    """
    if capability < (8, 9):
        raise RuntimeError(
            "torch._scaled_mm is only supported on CUDA devices with compute capability >= 9.0 or 8.9, or ROCm MI300+"
        )
    for name, tensor in (("mat1", a), ("mat2", b)):
        _hold(tensor.dim() == 2, f"{name} must be a matrix")
    (m, k), (k2, n) = a.shape, b.shape
    _hold(k == k2, f"mat1 and mat2 shapes cannot be multiplied ({m}x{k} and {k2}x{n})")
    _hold(_tensorwise(a, b, scale_a, scale_b) or _rowwise(a, b, scale_a, scale_b), _scaling(a, b, scale_a, scale_b))
    sound = scale_result is None or (scale_result.numel() == 1 and scale_result.dtype == torch.float32)
    _hold(sound, "scale_result must be a float scalar")
    if bias is not None:
        _hold(bias.numel() == n, f"Bias must be size {n} but got {bias.numel()}")
    _hold(k % 16 == 0, f"Expected trailing dimension of mat1 to be divisible by 16 but got mat1 shape: ({m}x{k}).")
    _hold(n % 16 == 0, f"mat2 shape ({k}x{n}) must be divisible by 16")
    _hold(out is None or out.dtype == dtype, "out_dtype must match output matrix type")
    if a.dtype == b.dtype == torch.float8_e5m2:
        raise ValueError("Multiplication of two Float8_e5m2 matrices is not supported")
    if bias is not None:
        _refuse_bias(bias, dtype)
    if capability[0] == 9 and 0 not in (m, n, k):
        ordered = a.is_contiguous() and b.t().is_contiguous()
        _hold(ordered, "Only multiplication of row-major and column-major matrices is supported by cuBLASLt")
        _hold(dtype not in FLOAT8 or _tensorwise(a, b, scale_a, scale_b), NO_KERNEL)


def _refuse_bias(bias: Tensor, dtype: torch.dtype) -> None:
    """Its type, beside the type of the result.

    Raises:
        RuntimeError: they do not fit.
    """
    _hold(dtype != torch.float32, "Bias is not supported when out_dtype is set to Float32")
    half, brain = torch.float16, torch.bfloat16
    found, asked = (_NAMES.get(kind, str(kind)) for kind in (bias.dtype, dtype))
    _hold(bias.dtype in (half, brain), f"Bias must be BFloat16 or Half, but got {found}")
    fits = dtype != brain or bias.dtype == brain
    _hold(fits, f"Bias must be BFloat16 to compute {asked} output, but got {found}")
    _hold(dtype != half or bias.dtype == half, f"Bias must be Float16 to compute {asked} output, but got {found}")


def _tensorwise(a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor) -> bool:
    pairs = ((a, scale_a), (b, scale_b))
    return all(x.dtype in FLOAT8 and s.dtype == torch.float32 and s.numel() == 1 for x, s in pairs)


def _rowwise(a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor) -> bool:
    pairs = ((a, scale_a), (b.t(), scale_b.t() if scale_b.dim() <= 2 else scale_b))
    return all(
        x.dtype in FLOAT8 and s.dtype == torch.float32 and s.shape == (len(x), 1) and s.is_contiguous()
        for x, s in pairs
    )


def _scaling(a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor) -> str:
    """What the kernel says where scales fit none of the ways that it knows; `get_joint_scaling`."""
    (m, k), n = a.shape, b.shape[1]
    blocks = -(-k // 128)
    rows, columns = (-(-size // 128) * 128 for size in (m, n))
    fine, finer = (-(-size // (4 * step)) * 4 for size, step in ((k, 32), (2 * k, 16)))
    names = {torch.float32: "Float"} | _NAMES
    kinds = [names.get(tensor.dtype, str(tensor.dtype)) for tensor in (a, scale_a, b, scale_b)]
    return (
        "Invalid scaling configuration.\n"
        "- For TensorWise scaling, a and b should be float8, scales should be float and singletons.\n"
        f"- For RowWise scaling, a and b should be float8, scales should be float, scale_a should be ({m}, 1) and "
        f"scale_b should be (1, {n}), and both should be contiguous.\n"
        f"- For BlockWise 1x128 scaling, a and b should be float8, scales should be float, scale_a should be ({m}, "
        f"{blocks}) and scale_b should be ({blocks}, {n}), and both should be outer-dim-major.\n"
        f"- For BlockWise 128x128 scaling, a and b should be float8, scales should be float, scale_a should be "
        f"({-(-m // 128)}, {blocks}) and scale_b should be ({blocks}, {-(-n // 128)}), and both should be "
        "near-inner-dim-major (with 16-byte aligned strides).\n"
        "- For Blockwise 1x32 scaling, a and b should be float8, scales should be float8_e8m0fnu, scale_a should have "
        f"{rows * fine} elements and scale_b should have {columns * fine} elements, and both should be contiguous.\n"
        "- For Blockwise 1x16 scaling, a and b should be float4 (packed 2x), scales should be float8_e4m3fn, scale_a "
        f"should have {rows * finer} elements and scale_b should have {columns * finer} elements, and both should be "
        "contiguous.\n"
        f"Got a.dtype()={kinds[0]}, scale_a.dtype()={kinds[1]}, scale_a.size()={list(scale_a.shape)}, "
        f"scale_a.stride()={list(scale_a.stride())}, b.dtype()={kinds[2]}, scale_b.dtype()={kinds[3]}, "
        f"scale_b.size()={list(scale_b.shape)} and scale_b.stride()={list(scale_b.stride())}"
    )


def _hold(sound: bool, words: str) -> None:
    if not sound:
        raise RuntimeError(words)
