"""Checks for the exercises of chapter 2, Eight bits from scratch."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from .. import int8
from . import NotYet, exercise
from .answers import ask, near, number, tensors

HALF = 0.5 + 1e-3  # half a step, and what float32 division and multiplication may add to it

# Values, bits, block: even blocks, last blocks of more and of less than half, one that is all there is, single values.
CASES = ((4096, 4, 64), (4096, 8, 64), (4096, 4, 4096), (4096, 2, 1), (1000, 4, 64), (1040, 4, 64), (30, 4, 64))
CASES += ((65, 3, 16), (7, 8, 5))


@exercise
def check_absmax_rows(answer: Callable[[Tensor], tuple[Tensor, Tensor]]) -> str:
    """Check `answer(x) -> (codes, step)`: absmax quantization with one step a row.

    Args:
        answer: From float32 (rows, columns) to codes, int8 (rows, columns), and steps, floating point (rows, 1).

    Chapter 2, exercise 1.
    """
    generator = torch.Generator().manual_seed(2)
    for sizes, columns in (((1e-3, 0.1, 1.0, 7.0, 300.0), 40), ((2.0,), 1), ((5e4, 1e-30, 0.3), 17)):
        x = (torch.rand(len(sizes), columns, generator=generator) * 2 - 1) * torch.tensor(sizes)[:, None]
        codes, step = tensors(ask(answer, x), "codes, step")
        _int8(codes, x)
        if step.shape != (len(sizes), 1):
            raise NotYet(
                f"{len(sizes)} rows need as many steps in a column, shape ({len(sizes)}, 1), so that they broadcast; "
                f"yours is {tuple(step.shape)}. `amax(dim=1, keepdim=True)` keeps the column"
            )
        absmax = x.abs().amax(dim=1, keepdim=True).double()
        if near(step / absmax, torch.ones_like(absmax)):
            raise NotYet(
                "the second result is absmax; the step is absmax / 127, the distance between neighboring codes"
            )
        if near(step / absmax, torch.full_like(absmax, 1 / 128)):
            raise NotYet(
                "a step of absmax / 128 gives the largest value code 128, which int8 does not have: divide by 127"
            )
        moved = (x - codes * step.double()).abs() / (absmax / 127)
        if moved.max() > HALF:
            if _half(step):
                raise NotYet(
                    f"steps in {step.dtype} are themselves rounded, to three digits or fewer, and a code of 127 "
                    "multiplies that error: keep the steps in float32"
                )
            worst = absmax[moved.amax(dim=1).argmax()].item()
            if (codes == 0).all(dim=1).any() and (step != step[0]).any():
                raise NotYet(
                    f"a row whose largest number is {worst:.0e} reads back as zeros: its step is far too wide. Only a "
                    "row of zeros needs a step from elsewhere, and the smallest positive one will do"
                )
            raise NotYet(
                f"a round trip may lose at most half a step of the row: yours lost {moved.max().item():.2f}. "
                "Round to the nearest code (`.to(torch.int8)` alone cuts off), with each row's own absmax"
            )
    codes, step = tensors(ask(answer, torch.tensor([[0.5, 1.5, 2.5, -3.5, 127.0]])), "codes, step")
    if codes.tolist() != [[0, 2, 2, -4, 127]]:
        raise NotYet(
            f"with step 1 the ties 0.5, 1.5, 2.5, -3.5 go to the even code, 0, 2, 2, -4: yours are "
            f"{codes.flatten()[:4].tolist()}. `torch.round` does that"
        )
    for at in (0, 1, 2):
        x = torch.tensor([[1.0, -2.0], [3.0, 0.5], [-1.0, 0.0]])
        x[at] = 0.0
        codes, step = tensors(ask(answer, x), "codes, step")
        if not (step[at] > 0).all() or not step.isfinite().all() or (codes[at] != 0).any():
            raise NotYet(
                "a row of zeros has absmax 0, and 0 / 0 is NaN; which integer NaN becomes is left to the processor. "
                f"`clamp` the step to a tiny positive number; yours is {step[at].flatten()[0].item():g}"
            )
    return "each row has its own step, loses at most half of it, and a row of zeros survives."


@exercise
def check_affine(answer: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]) -> str:
    """Check `answer(x) -> (codes, step, zero_point)`: affine quantization of a whole tensor to int8.

    Args:
        answer: From float32 of any shape to codes, int8 of that shape, and two tensors of one element each.

    Chapter 2, exercise 2.
    """
    generator = torch.Generator().manual_seed(3)
    spread = torch.rand(200, generator=generator)
    cases = {
        "from 0 to 6": spread * 6,
        "from -1 to 3": spread * 4 - 1,
        "from 3 to 4": spread + 3,
        "below 0": -spread - 2,
    }
    for name, x in cases.items():
        x[0] = 0.0 if name in ("from 0 to 6", "from -1 to 3") else x[0]
        codes, step, zero_point = tensors(ask(answer, x), "codes, step, zero_point")
        _int8(codes, x)
        if step.numel() != 1 or zero_point.numel() != 1:
            raise NotYet("the whole tensor shares one step and one zero point")
        if (zero_point != zero_point.round()).any():
            raise NotYet(
                f"values {name}: the zero point is {zero_point.item():.2f}, which is no code, so no code stands for "
                "exactly 0. Round it"
            )
        if not -128 <= zero_point <= 127:
            raise NotYet(
                f"values {name}: the zero point {zero_point.item():.0f} is outside -128 … 127, so 0 has no code. "
                "Widen the range to hold 0 before you divide it into steps"
            )
        back = ((codes.double() - zero_point) * step.double()).reshape(x.shape)
        if (back[x == 0] != 0).any():
            raise NotYet(f"values {name}: 0 reads back as {back[x == 0][0].item():.3f}. Zero must stay exactly zero")
        span = (x.max().clamp(min=0) - x.min().clamp(max=0)).item()
        if step > 1.01 * span / 255:
            raise NotYet(
                f"values {name}: your step is {step.item() * 255 / span:.2f} times as large as it has to be. "
                "256 codes have 255 steps between them, and the range need not be symmetric"
            )
        moved = ((x - back).abs() / (span / 255)).max().item()
        if moved > HALF and _half(step):
            raise NotYet(f"values {name}: a step in {step.dtype} is itself rounded, to three digits or fewer: float32")
        if moved > HALF:
            raise NotYet(
                f"values {name}: a round trip may lose at most half a step, yours lost {moved:.2f}. The lowest value "
                "should get code -128 and the highest 127: zero_point = round(-128 - low / step)"
            )
    return "zero stays exactly zero, and one-sided data use all 256 codes."


@exercise
def check_bits_per_value(answer: Callable[..., float]) -> str:
    """Check `answer(values, bits, block)`: bits that a value costs in block-wise absmax with float32 scales.

    Chapter 2, exercise 3.
    """
    for values, bits, block in CASES:
        right = bits + 32 * math.ceil(values / block) / values
        given = ask(answer, values, bits, block)
        got = number(given, "a number of bits")
        if near(given, right):
            continue
        case = f"{values:,} values of {bits} bits in blocks of {block}"
        if near(given, bits):
            raise NotYet(f"{case}: every block brings a scale of 32 bits, and its values share that cost")
        if near(got * 8, right):
            raise NotYet(f"{case}: that is bytes; a byte has 8 bits")
        if near(got, right * values):
            raise NotYet(f"{case}: that is the whole tensor; divide by the number of values")
        if near(got, bits + 4 * math.ceil(values / block) / values):
            raise NotYet(f"{case}: a float32 scale has 4 bytes, which are 32 bits")
        if near(got, bits + 16 * math.ceil(values / block) / values):
            raise NotYet(f"{case}: the scales are float32, 32 bits each")
        if near(got, bits + 32 / block):
            raise NotYet(f"{case}: a short last block brings a whole scale; count the blocks instead")
        if near(got, bits + 32 * (values // block) / values):
            raise NotYet(f"{case}: the last block is shorter and needs a scale too: round the number of blocks up")
        if near(got, bits + 32 * round(values / block) / values):
            raise NotYet(f"{case}: a last block is a block however short it is: round their number up, not to nearest")
        raise NotYet(f"{case} cost {right:g} bits each, you say {got:g}. Count codes and scales, divide by the values")
    return "4 bits in blocks of 64 are really 4.5, and blocks of one value save nothing."


@exercise
def check_best_range(answer: Callable[[Tensor, int], float]) -> str:
    """Check `answer(x, bits)`: the part of the absmax that codes should cover for the best signal-to-noise ratio.

    Within 0.3 dB of the best of a hundred ranges: which codes a few large numbers get moves the ratio by less.

    Chapter 2, exercise 4.
    """
    for name, x, bits, most in _ranges():
        given = ask(answer, x, bits)
        got = number(given, "a part of the absmax, a number above 0 and up to 1")
        case = f"{name} at {bits} bits"
        if not 0 < got <= 1 + 1e-6:
            raise NotYet(f"{case}: {got:g} is no part of the absmax, which is above 0 and at most 1")
        yours = _kept(x, bits, min(got, 1.0))
        if yours >= most - 0.3:
            continue
        if got > 0.999:
            raise NotYet(f"{case}: the whole range keeps {yours:.1f} dB, a smaller one up to {most:.1f}. Try some")
        raise NotYet(f"{case}: a range of {got:.2f} keeps {yours:.1f} dB, another one up to {most:.1f}")
    return (
        "fewer bits want a smaller range. An outlier shrinks it, unless it is so large that it is most of the signal."
    )


@cache
def _ranges() -> list[tuple[str, Tensor, int, float]]:
    """What the numbers are, the numbers, the width in bits, and the decibels that the best range keeps."""
    generator = torch.Generator().manual_seed(7)
    normal = torch.randn(1000, generator=generator)
    many = torch.randn(4000, generator=generator)
    many[17], huge = -15.0, normal.clone()
    huge[17] = -60.0
    uniform = torch.rand(1000, generator=generator) * 2 - 1
    cases = (
        ("normal numbers", normal, 4),
        ("uniform numbers", uniform, 3),
        ("small normal numbers", normal * 1e-3, 2),
        ("normal numbers", normal, 8),
        ("4,000 normal numbers with an outlier of 15", many, 3),
        ("1,000 normal numbers with an outlier of 60", huge, 4),
        ("large uniform numbers", uniform * 50, 8),
    )
    return [(name, x, bits, max(_kept(x, bits, i / 100) for i in range(1, 101))) for name, x, bits in cases]


def _kept(x: Tensor, bits: int, part: float) -> float:
    """Decibels that are left when codes cover this part of the absmax."""
    return int8.sqnr_db(x, int8.quantize(x, bits, clip=part).dequantize())


def _half(x: Tensor) -> bool:
    return x.is_floating_point() and torch.finfo(x.dtype).bits < 32


def _int8(codes: Tensor, x: Tensor) -> None:
    if codes.dtype != torch.int8 or codes.shape != x.shape:
        raise NotYet(
            f"codes must be torch.int8 of shape {tuple(x.shape)}, yours are {codes.dtype} of shape "
            f"{tuple(codes.shape)}. Round first, then `.to(torch.int8)`"
        )
