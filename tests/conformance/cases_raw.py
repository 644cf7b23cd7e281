"""What bitsandbytes' kernels make of views: memory read as it lies, or not. The probes of `layouts`, by kernel.

"right" means that the result is as good as from a contiguous argument; otherwise the decibels say how wrong it is, and
a wrong number is as much of an agreement as a right one.
"""

from __future__ import annotations

import hashlib

import torch

from .layouts import LOSS_DB, PROBES, RISKY, laid, ops
from .registry import Outcome, case

ENOUGH_DB = 15
"""A contiguous argument keeps more: 4 bits keep 20 dB."""


def probed(*names: str) -> Outcome:
    """Layout -> "right" or decibels, for each probe; without the layout that may end CUDA in this process."""
    return {name: _layouts(PROBES[name]) for name in names if PROBES[name].there()}


def of(kernel: str) -> Outcome:
    """The same for all arguments of a kernel."""
    return probed(*(name for name, probe in PROBES.items() if probe.kernel == kernel))


def _layouts(probe) -> Outcome:
    risky = {RISKY, "offset"} if probe.argument == "B" else {RISKY}  # packed weights are loaded 16 bytes at a time
    found = {layout: probe.decibels(layout) for layout in probe.layouts if layout not in risky}
    best = found["contiguous"]
    enough = max(ENOUGH_DB, best - LOSS_DB)
    return {layout: "right" if value >= enough else round(value) for layout, value in found.items()}


@case()
def raw_vectorwise_quant():
    """`int8_vectorwise_quant` of views, with and without outliers."""
    return {**of("int8_vectorwise_quant"), **of("int8_vectorwise_quant at threshold 6")}


@case()
def raw_vectorwise_quant_codes():
    """The codes and scales themselves, of whole numbers that need no rounding."""
    table = torch.tensor([0, 1, -1, 5, -5, 31, -31, 127, -127, 127, -127], dtype=torch.float16)
    values = table[torch.arange(24 * 64) ** 2 % 97 % 11].view(24, 64)
    found = {}
    for layout in ("contiguous", "transposed", "rows", "columns", "steps", "offset", "odd offset", "expanded"):
        codes, absmax, _ = ops().int8_vectorwise_quant.default(laid(values, layout), 0.0)
        content = codes.cpu().numpy().tobytes() + absmax.cpu().numpy().tobytes()
        found[layout] = hashlib.sha256(content).hexdigest()[:12]
    return found


@case()
def raw_double_quant():
    """`int8_double_quant` of views: rows by address, columns by PyTorch."""
    return {**of("int8_double_quant, its rows"), **of("int8_double_quant, its columns")}


@case()
def raw_linear_matmul():
    """`int8_linear_matmul` of views, and into a view."""
    return of("int8_linear_matmul")


@case()
def raw_linear_matmul_of_odd_width():
    """`int8_linear_matmul` where the width is no multiple of 4: PyTorch multiplies."""
    return of("int8_linear_matmul of width 30")


@case()
def raw_mm_dequant():
    """`int8_mm_dequant` of views."""
    return {**of("int8_mm_dequant"), **of("int8_mm_dequant in bfloat16")}


@case()
def raw_scaled_mm():
    """`int8_scaled_mm` of views."""
    return of("int8_scaled_mm")


@case()
def raw_mixed_scaled_mm():
    """`int8_mixed_scaled_mm` of views: the outlier columns are copied, the codes are not."""
    return of("int8_mixed_scaled_mm")


@case()
def raw_vectorwise_dequant():
    """`int8_vectorwise_dequant` of views."""
    return of("int8_vectorwise_dequant")


@case()
def raw_quantize_blockwise():
    """`quantize_blockwise` copies its input, not its map."""
    return of("quantize_blockwise")


@case()
def raw_dequantize_blockwise():
    """`dequantize_blockwise` of views, and into a view: transposed codes come back scrambled."""
    return of("dequantize_blockwise")


@case()
def raw_quantize_4bit():
    """`quantize_4bit` copies its input."""
    return of("quantize_4bit")


@case()
def raw_dequantize_4bit():
    """`dequantize_4bit` copies its codes, not its scales, and writes a view by address."""
    return of("dequantize_4bit")


@case()
def raw_gemv_4bit():
    """`gemv_4bit` copies nothing."""
    return of("gemv_4bit")


@case()
def raw_gemm_4bit():
    """`gemm_4bit` with few rows: the input is copied, bias and scales are not."""
    return {**of("gemm_4bit, 3 rows"), **of("gemm_4bit, nested scales")}


@case()
def raw_gemm_4bit_of_many_rows():
    """`gemm_4bit` with many rows dequantizes first."""
    return of("gemm_4bit, 2000 rows")


@case()
def raw_linear_8bit_float16():
    """`Linear8bitLt` with float16 views, flat and with a leading dimension of 1 or 2."""
    parts = ("float16", "float16, a leading dimension of 1", "float16, a leading dimension of 2")
    return probed(*(f"Linear8bitLt at threshold {t}, {part}, x" for t in (0, 6) for part in parts))


@case()
def raw_linear_8bit_bfloat16():
    """`Linear8bitLt` with bfloat16 views: the cast to float16 closes gaps and keeps a transposition."""
    parts = ("bfloat16", "bfloat16, a leading dimension of 1", "bfloat16, a leading dimension of 2")
    return probed(*(f"Linear8bitLt at threshold {t}, {part}, x" for t in (0, 6) for part in parts))


@case()
def raw_linear_8bit_with_a_16_bit_weight():
    """A weight that is quantized at each call: a transposed one is copied, a slice is not."""
    return of("Linear8bitLt with a weight in 16 bits")


@case()
def raw_matmul():
    """`bitsandbytes.matmul` of two views."""
    return of("bitsandbytes.matmul")


@case()
def raw_linear_4bit():
    """`Linear4bit` is right for every view."""
    kinds = [f"Linear4bit, {dtype}, {rows} rows" for dtype in ("float16", "bfloat16") for rows in (1, 3, 192)]
    return probed(*(f"{kind}, x" for kind in kinds))


@case()
def raw_adam_8bit():
    """`Adam8bit` copies what is not contiguous."""
    return of("Adam8bit")


@case()
def raw_optimizer_update():
    """The functions below the optimizers do not copy."""
    return {**of("optimizer_update_32bit"), **of("optimizer_update_8bit_blockwise")}
