"""What stands between two products of a block, in one pass over the rows, as a Triton kernel or in plain PyTorch.

A row is a token with all its channels. `between` adds what a layer gave to what went around it, normalizes, modulates,
and rounds the row to codes for the next product: each row is read once and kept in registers meanwhile. A compiler that
knows of no such row reads it once to sum it, again for the largest number, and a third time to round it.

Chapter 8.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .float8 import DTYPE, HIGHEST, SMALLEST_SCALE, quantize_rows
from .kernel_times import milliseconds

try:
    import triton
    import triton.language as tl
except ImportError:  # PyTorch's builds for CPUs come without
    triton = None

STEPS = 127
"""Of int8, on either side of 0."""

SMALLEST_STEP = 1e-30
"""Of int8, so that a row of zeros is divided by something."""

LIMIT = torch.finfo(torch.float16).max
"""65504: to this diffusers clips what its self-attention gives, in float16."""

CODES = {"": None, "int8": torch.int8, "float8": DTYPE}
"""What rows can be rounded to, and the type of the codes; the empty one leaves them in 16 bits."""


@torch.library.custom_op("sana_lab::between", mutates_args=())
def between(
    hidden: Tensor,
    update: Tensor | None,
    modulation: Tensor | None,
    gate: int,
    shift: int,
    eps: float,
    clip: bool,
    codes: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Add gate * update to the rows; normalize, scale and shift them where asked; round them to codes where asked.

    As diffusers' `SanaTransformerBlock` has it (0.42.1, models/transformers/sana_transformer.py); on CUDA everything is
    computed in float32, and the sum is rounded to the type of `hidden` before it is normalized.

    Args:
        hidden: (pictures, tokens, channels).
        update: likewise, or None to add nothing.
        modulation: (pictures, rows, channels), from which gate, shift and scale come; None if neither is asked for.
        gate: row of `modulation` that multiplies `update`; -1 for none.
        shift: row of `modulation` that is added after the norm, and 1 plus the row behind it multiplies; -1: no norm.
        eps: of the norm.
        clip: cut `update` to what float16 can hold, first.
        codes: key of `CODES`.

    Returns:
        The sum, in the shape of `hidden` (empty where nothing is added); the rows, likewise, in codes or the type of
        `hidden`; what a step of each row is worth, (pictures * tokens, 1) float32 (empty where there are no codes).

    Chapter 8.
    """
    total = hidden
    if update is not None:
        update = update.clip(-LIMIT, LIMIT) if clip else update
        total = hidden + (update if gate < 0 else modulation[:, gate, None] * update)
    rows = total
    if shift >= 0:
        rows = F.layer_norm(total, total.shape[-1:], eps=eps)
        rows = rows * (1 + modulation[:, shift + 1, None]) + modulation[:, shift, None]
    added = hidden.new_empty(0) if update is None else total
    if not codes:
        rows = rows.clone() if rows is total else rows
        return added, rows, hidden.new_empty(0, dtype=torch.float32)
    rows, step = quantize_rows(rows) if codes == "float8" else int8_rows(rows)
    return added, rows, step.reshape(-1, 1)


def int8_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row to 127 steps of its largest magnitude, ties to the even one: ``rows ≈ codes * step``.

    Args:
        rows: (..., columns), floating point.

    Returns:
        Codes, int8, in the shape of `rows`; float32 steps, (..., 1).

    Chapter 8.
    """
    step = rows.abs().amax(dim=-1, keepdim=True).float() / STEPS
    return (rows.float() / step.clamp_min(SMALLEST_STEP)).round().to(torch.int8), step


@between.register_fake
def _(hidden, update, modulation, gate, shift, eps, clip, codes):
    added = hidden.new_empty(0 if update is None else hidden.shape)
    rows = hidden.new_empty(hidden.shape, dtype=CODES[codes] or hidden.dtype)
    count = hidden.numel() // hidden.shape[-1]
    return added, rows, hidden.new_empty((count, 1) if codes else 0, dtype=torch.float32)


def rounded(rows: Tensor, codes: str) -> tuple[Tensor, Tensor]:
    """Rows rounded to codes, and what a step of each is worth: `quantize_rows` or `int8_rows`, in one pass on CUDA.

    Args:
        rows: (rows, columns), floating point.
        codes: ``float8`` or ``int8``.

    Returns:
        Codes, (rows, columns); float32 steps, (rows, 1).

    Chapter 8.
    """
    _, made, step = between(rows[None], None, None, -1, -1, 0.0, False, codes)
    return made[0], step


if triton is not None:

    @triton.jit
    def _cut(value, highest: tl.constexpr):
        # without hiding NaN, which a minimum would
        return tl.where(value > highest, highest, tl.where(value < -highest, -highest, value))

    @triton.autotune(
        configs=[triton.Config({}, num_warps=warps) for warps in (2, 4, 8)],
        key=["count", "columns", "ADD", "GATE", "SHIFT", "KIND"],
        do_bench=milliseconds,
        cache_results=True,
    )
    @triton.jit
    def _between(
        hidden, update, modulation, total, rows, steps, count, columns, tokens, parts, eps,
        ADD: tl.constexpr, GATE: tl.constexpr, SHIFT: tl.constexpr, CLIP: tl.constexpr, KIND: tl.constexpr,
        LARGEST: tl.constexpr, SMALLEST: tl.constexpr, BOUND: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        # One program: one row.
        row = tl.program_id(0).to(tl.int64)
        column = tl.arange(0, BLOCK)
        known = column < columns
        place = row * columns + column
        modulation += row // tokens * parts * columns
        value = tl.load(hidden + place, mask=known, other=0.0).to(tl.float32)
        if ADD:
            more = tl.load(update + place, mask=known, other=0.0).to(tl.float32)
            if CLIP:
                more = _cut(more, BOUND)
            if GATE >= 0:
                more *= tl.load(modulation + GATE * columns + column, mask=known, other=0.0).to(tl.float32)
            value = (value + more).to(total.dtype.element_ty)
            tl.store(total + place, value, mask=known)
            value = value.to(tl.float32)
        if SHIFT >= 0:
            value -= tl.sum(value, axis=0) / columns
            value = tl.where(known, value, 0.0)
            value *= 1 / tl.sqrt(tl.sum(value * value, axis=0) / columns + eps)
            value *= 1 + tl.load(modulation + (SHIFT + 1) * columns + column, mask=known, other=0.0).to(tl.float32)
            value += tl.load(modulation + SHIFT * columns + column, mask=known, other=0.0).to(tl.float32)
        if KIND != "":
            # NaN counts as infinity: all products of the row become NaN, as they do of PyTorch's own largest number
            largest = tl.max(tl.where(value != value, float("inf"), tl.abs(value)), axis=0)  # noqa: PLR0124
            step = tl.math.div_rn(largest, LARGEST)
            if KIND == "float8":
                step = tl.maximum(step, SMALLEST)
                # One division a row, not one a number: of 10,000 codes about one falls on the other side of a tie.
                value = _cut(value * (1 / step), LARGEST)
            else:
                value *= 1 / tl.maximum(step, SMALLEST)
                value = (value + 12582912.0) - 12582912.0  # 1.5 * 2**23 leaves no bits below 1: ties go to even
            tl.store(steps + row, step)
        tl.store(rows + place, value.to(rows.dtype.element_ty), mask=known)

    @between.register_kernel("cuda")
    def launch_between(hidden, update, modulation, gate, shift, eps, clip, codes):
        """`between` by Triton, of any views."""
        hidden = hidden.contiguous()
        pictures, tokens, columns = hidden.shape
        total = hidden.new_empty(0 if update is None else hidden.shape)
        rows = torch.empty_like(hidden, dtype=CODES[codes] or hidden.dtype)
        steps = hidden.new_empty((pictures * tokens, 1) if codes else 0, dtype=torch.float32)
        if not hidden.numel():
            return total, rows, steps
        _between[(pictures * tokens,)](
            hidden,
            hidden if update is None else update.contiguous(),
            hidden if modulation is None else modulation.contiguous(),
            *(total, rows, steps, pictures * tokens, columns, tokens),
            1 if modulation is None else modulation.shape[1],
            eps,
            ADD=update is not None,
            GATE=gate,
            SHIFT=shift,
            CLIP=clip,
            KIND=codes,
            LARGEST=HIGHEST if codes == "float8" else float(STEPS),
            SMALLEST=SMALLEST_SCALE if codes == "float8" else SMALLEST_STEP,
            BOUND=LIMIT,
            BLOCK=triton.next_power_of_2(columns),
        )
        return total, rows, steps
