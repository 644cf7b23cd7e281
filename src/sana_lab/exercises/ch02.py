"""Checks for the exercises of chapter 2, Eight bits from scratch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import NotYet, exercise

HALF = 0.5 + 1e-3  # half a step, and what float32 division and multiplication may add to it


@exercise
def check_absmax_rows(answer: Callable[[Tensor], tuple[Tensor, Tensor]]) -> str:
    """Check `answer(x) -> (codes, step)`: absmax quantization with one step a row.

    Args:
        answer: From float32 (rows, columns) to codes, int8 (rows, columns), and steps, floating point (rows, 1).

    Chapter 2, exercise 1.
    """
    generator = torch.Generator().manual_seed(2)
    x = (torch.rand(5, 40, generator=generator) * 2 - 1) * torch.tensor([[1e-3], [0.1], [1.0], [7.0], [300.0]])
    codes, step = _tensors(answer(x.clone()), "codes, step")
    _int8(codes, x)
    if step.shape != (5, 1):
        raise NotYet(
            f"five rows need five steps in a column, shape (5, 1), so that they broadcast; yours is "
            f"{tuple(step.shape)}. `amax(dim=1, keepdim=True)` keeps the column"
        )
    absmax = x.abs().amax(dim=1, keepdim=True)
    if torch.allclose(step, absmax):
        raise NotYet("the second result is absmax; the step is absmax / 127, the distance between neighboring codes")
    if torch.allclose(step, absmax / 128):
        raise NotYet("a step of absmax / 128 gives the largest value code 128, which int8 does not have: divide by 127")
    moved = ((x - codes * step).abs() / (absmax / 127)).max().item()
    if moved > HALF:
        raise NotYet(
            f"a round trip may lose at most half a step of the row: yours lost {moved:.2f}. "
            "Round to the nearest code (`.to(torch.int8)` alone cuts off), with each row's own absmax"
        )
    codes, step = _tensors(answer(torch.tensor([[0.5, 1.5, 2.5, -3.5, 127.0]])), "codes, step")
    if codes.tolist() != [[0, 2, 2, -4, 127]]:
        raise NotYet(
            f"with step 1 the ties 0.5, 1.5, 2.5, -3.5 go to the even code, 0, 2, 2, -4: yours are "
            f"{codes[0, :4].tolist()}. `torch.round` does that"
        )
    codes, step = _tensors(answer(torch.tensor([[0.0, 0.0], [1.0, -2.0]])), "codes, step")
    if not (step[0] > 0).all() or (codes[0] != 0).any():
        raise NotYet(
            "a row of zeros has absmax 0, and 0 / 0 is NaN; which integer NaN becomes is left to the processor. "
            "`clamp` the step to a tiny positive number"
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
        codes, step, zero_point = _tensors(answer(x.clone()), "codes, step, zero_point")
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
        back = (codes.float() - zero_point) * step
        if (back[x == 0] != 0).any():
            raise NotYet(f"values {name}: 0 reads back as {back[x == 0][0].item():.3f}. Zero must stay exactly zero")
        span = (x.max().clamp(min=0) - x.min().clamp(max=0)).item()
        if step > 1.01 * span / 255:
            raise NotYet(
                f"values {name}: your step is {step.item() * 255 / span:.2f} times as large as it has to be. "
                "256 codes have 255 steps between them, and the range need not be symmetric"
            )
        moved = ((x - back).abs() / (span / 255)).max().item()
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
    for values, bits, block in ((4096, 4, 64), (4096, 8, 64), (4096, 4, 4096), (4096, 2, 1), (1000, 4, 64)):
        right = bits + 32 * math.ceil(values / block) / values
        got = answer(values, bits, block)
        if not isinstance(got, int | float):
            raise NotYet(f"return a number of bits; this is {type(got).__name__}")
        if math.isclose(got, right, rel_tol=1e-9):
            continue
        case = f"{values:,} values of {bits} bits in blocks of {block}"
        if math.isclose(got, bits):
            raise NotYet(f"{case}: every block brings a scale of 32 bits, and its values share that cost")
        if math.isclose(got * 8, right):
            raise NotYet(f"{case}: that is bytes; a byte has 8 bits")
        if math.isclose(got, right * values):
            raise NotYet(f"{case}: that is the whole tensor; divide by the number of values")
        if math.isclose(got, bits + 4 * math.ceil(values / block) / values):
            raise NotYet(f"{case}: a float32 scale has 4 bytes, which are 32 bits")
        if values % block and math.isclose(got, bits + 32 * (values // block) / values):
            raise NotYet(f"{case}: the last block is shorter and needs a scale too: round the number of blocks up")
        if values % block and math.isclose(got, bits + 32 / block):
            raise NotYet(f"{case}: a short last block brings a whole scale; count the blocks instead")
        raise NotYet(f"{case} cost {right:g} bits each, you say {got:g}. Count codes and scales, divide by the values")
    return "4 bits in blocks of 64 are really 4.5, and blocks of one value save nothing."


def _tensors(result: Any, names: str) -> tuple[Tensor, ...]:
    count = names.count(",") + 1
    if not isinstance(result, tuple | list) or len(result) != count:
        raise NotYet(f"return {count} things: `return {names}`")
    return tuple(torch.as_tensor(thing) for thing in result)


def _int8(codes: Tensor, x: Tensor) -> None:
    if codes.dtype != torch.int8 or codes.shape != x.shape:
        raise NotYet(
            f"codes must be torch.int8 of shape {tuple(x.shape)}, yours are {codes.dtype} of shape "
            f"{tuple(codes.shape)}. Round first, then `.to(torch.int8)`"
        )
