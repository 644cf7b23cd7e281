"""Products of FP8 codes with a scale a row: decibels against the same codes in float64, and what the kernel refuses.

Sums on FP8 units are kept with fewer bits than float32 has, so that two devices agree in decibels and not in bits.
"""

from __future__ import annotations

import math

import torch

from .registry import case, seen


def codes(rows=32, columns=256, seed=0, outlier=1.0):
    """Codes (rows, columns) on the GPU and scales (rows, 1); one channel larger by a factor."""
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    x[:, 5] *= outlier
    scale = x.abs().amax(1, keepdim=True) / 448
    return (x / scale).clamp(-448, 448).to(torch.float8_e4m3fn).to("cuda"), scale.to("cuda")


def multiplied(dtype=torch.bfloat16, bias=None, columns=256, outlier=1.0, **options):
    """Whether the product keeps 40 decibels, where it lives and its type."""
    a, scale_a = codes(columns=columns, outlier=outlier)
    b, scale_b = codes(48, columns, seed=1)
    exact = (a.cpu().double() * scale_a.cpu()) @ (b.cpu().double() * scale_b.cpu()).t()
    out = torch._scaled_mm(a, b.t(), scale_a, scale_b.t(), bias=bias, out_dtype=dtype, **options)
    exact = exact if bias is None else exact + bias.cpu().double()
    error = (out.cpu().double() - exact).square().sum().item()
    decibels = math.inf if error == 0 else 10 * math.log10(exact.square().sum().item() / error)
    return {**seen(out), "keeps 40 dB": decibels > 40}


def ones(size, dtype):
    """A bias."""
    return torch.ones(size, dtype=dtype, device="cuda")


@case()
def float8_bfloat16():
    """A product with a scale a row, written as bfloat16."""
    return multiplied()


@case()
def float8_float16():
    """A product with a scale a row, written as float16."""
    return multiplied(torch.float16)


@case()
def float8_float32():
    """A product with a scale a row, written as float32."""
    return multiplied(torch.float32)


@case()
def float8_fast_sums():
    """A product that may sum with fewer bits."""
    return multiplied(use_fast_accum=True)


@case()
def float8_fast_sums_of_many():
    """A product over 11,200 channels that may sum with fewer bits."""
    return multiplied(torch.float16, columns=11200, use_fast_accum=True)


@case()
def float8_with_an_outlier():
    """One channel a thousand times as large as the others."""
    return multiplied(outlier=1000.0, use_fast_accum=True)


@case()
def float8_bias():
    """With a bias, in bfloat16."""
    return multiplied(bias=ones(48, torch.bfloat16), use_fast_accum=True)


@case()
def float8_bias_float16():
    """With a bias, in float16."""
    return multiplied(torch.float16, bias=ones(48, torch.float16), use_fast_accum=True)


@case()
def float8_one_row():
    """A single row."""
    (a, scale_a), (b, scale_b) = codes(1), codes(48, seed=1)
    return seen(torch._scaled_mm(a, b.t(), scale_a, scale_b.t(), out_dtype=torch.bfloat16))


@case()
def float8_no_row():
    """No row at all."""
    (a, scale_a), (b, scale_b) = codes(4), codes(48, seed=1)
    return seen(torch._scaled_mm(a[:0], b.t(), scale_a[:0], scale_b.t(), out_dtype=torch.bfloat16))


@case()
def float8_not_a_number():
    """NaN in one row stays there."""
    (a, scale_a), (b, scale_b) = codes(4), codes(48, seed=1)
    scale_a[1] = float("nan")
    out = torch._scaled_mm(a, b.t(), scale_a, scale_b.t(), out_dtype=torch.bfloat16)
    return {"rows": out.isnan().all(1).tolist(), "any": out.isnan().any(1).tolist()}


@case()
def float8_cast_saturates():
    """Numbers beyond 448 cast to FP8, without a clamp."""
    x = torch.tensor([448.0, 460.0, 465.0, 500.0, -1e9, float("inf"), float("nan")], device="cuda")
    return {"numbers": [str(number) for number in x.to(torch.float8_e4m3fn).float().tolist()]}


@case()
def float8_columns_no_multiple_of_16():
    """40 columns."""
    (a, scale_a), (b, scale_b) = codes(32, 40), codes(48, 40, seed=1)
    return seen(torch._scaled_mm(a, b.t(), scale_a, scale_b.t(), out_dtype=torch.bfloat16))


@case()
def float8_outputs_no_multiple_of_16():
    """40 rows of a weight."""
    (a, scale_a), (b, scale_b) = codes(32), codes(40, seed=1)
    return seen(torch._scaled_mm(a, b.t(), scale_a, scale_b.t(), out_dtype=torch.bfloat16))


@case()
def float8_weight_row_major():
    """The weight laid out row by row."""
    (a, scale_a), (b, scale_b) = codes(), codes(48, seed=1)
    return seen(torch._scaled_mm(a, b.t().contiguous(), scale_a, scale_b.t(), out_dtype=torch.bfloat16))


@case()
def float8_scales_of_the_wrong_shape():
    """Scales without their second dimension."""
    (a, scale_a), (b, scale_b) = codes(), codes(48, seed=1)
    return seen(torch._scaled_mm(a, b.t(), scale_a[:, 0], scale_b.t(), out_dtype=torch.bfloat16))


@case()
def float8_bias_float32():
    """A bias in float32."""
    return multiplied(bias=ones(48, torch.float32))


@case()
def float8_bias_of_another_type():
    """A float16 bias where the result is bfloat16."""
    return multiplied(bias=ones(48, torch.float16))


@case()
def float8_bias_beside_float32():
    """A bias where the result is float32."""
    return multiplied(torch.float32, bias=ones(48, torch.bfloat16))


@case()
def float8_other_sizes():
    """Sides that do not fit."""
    (a, scale_a), (b, scale_b) = codes(), codes(48, 128, seed=1)
    return seen(torch._scaled_mm(a, b.t(), scale_a, scale_b.t(), out_dtype=torch.bfloat16))


@case()
def float8_weight_on_the_cpu():
    """The weight on the CPU."""
    (a, scale_a), (b, scale_b) = codes(), codes(48, seed=1)
    return seen(torch._scaled_mm(a, b.cpu().t(), scale_a, scale_b.t(), out_dtype=torch.bfloat16))


@case()
def float8_scale_on_the_cpu():
    """The scales of the weight on the CPU."""
    (a, scale_a), (b, scale_b) = codes(), codes(48, seed=1)
    return seen(torch._scaled_mm(a, b.t(), scale_a, scale_b.cpu().t(), out_dtype=torch.bfloat16))


@case()
def float8_written_as_float8():
    """A scale a row, and the result in FP8."""
    (a, scale_a), (b, scale_b) = codes(), codes(48, seed=1)
    return seen(torch._scaled_mm(a, b.t(), scale_a, scale_b.t(), out_dtype=torch.float8_e4m3fn))
