"""Three Triton kernels for `sana_lab.fast`, each with the same thing in plain PyTorch for machines without CUDA.

`int8_linear` writes the scaled result of an int8 product where PyTorch's own product would write 32-bit integers for
another kernel to read. `dequantize` makes a weight from its codes in one pass. `gated_depthwise` convolves each channel
and gates in one pass over the picture.

Chapter 7.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # PyTorch's builds for CPUs come without
    triton = None

SMALLEST = 32
"""Rows that a product is padded to: `torch._int_mm` wants more than 16 on CUDA (torch 2.13, native/cuda/Blas.cpp)."""

EXACT = 1024
"""So many products of two codes float32 adds without rounding: 1024 times 127 squared is below 2**24."""


@torch.library.custom_op("sana_lab::int8_linear", mutates_args=())
def int8_linear(
    codes: Tensor, step: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, silu: bool, dtype: torch.dtype
) -> Tensor:
    """(codes * step) @ (weight * scale)ᵀ + bias, the product exact in int32, then SiLU where asked.

    Args:
        codes: (rows, in) int8.
        step: (rows, 1) float32, what one step of each row is worth.
        weight: (out, in) int8.
        scale: (out,) float32.
        bias: (out,) or None.
        silu: whether to apply SiLU.
        dtype: of the result; everything before is float32.

    Returns:
        (rows, out).

    Chapter 7.
    """
    out = _product(codes, weight).float() * step * scale
    if bias is not None:
        out = out + bias.float()
    return (F.silu(out) if silu else out).to(dtype)


def _product(codes: Tensor, weight: Tensor) -> Tensor:
    """The product codes @ weightᵀ, exact in int32.

    On a processor not by `torch._int_mm`: there it misreads views of stride 0, and all numbers where oneDNN is held to
    fewer instructions than the processor has (torch 2.13, ONEDNN_MAX_CPU_ISA=AVX2 on one with AVX-512 VNNI).
    """
    if codes.is_cuda:
        rows = len(codes)
        codes = F.pad(codes, (0, 0, 0, max(0, SMALLEST - rows)))
        return torch._int_mm(codes.contiguous(), weight.contiguous().t())[:rows]
    out = torch.zeros(len(codes), len(weight), dtype=torch.int32)
    for start in range(0, codes.shape[1], EXACT):
        part = slice(start, start + EXACT)
        out += (codes[:, part].float() @ weight[:, part].float().t()).to(torch.int32)
    return out


@int8_linear.register_fake
def _(codes, step, weight, scale, bias, silu, dtype):
    return codes.new_empty(codes.shape[0], weight.shape[0], dtype=dtype)


@torch.library.custom_op("sana_lab::dequantize", mutates_args=())
def dequantize(codes: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight that codes and scales stand for: multiplied in float32, rounded once.

    Args:
        codes: (out, in) int8.
        scale: (out,) float32, what one step of each row is worth.
        dtype: of the result.

    Returns:
        (out, in).

    Chapter 7.
    """
    return (codes.contiguous().float() * scale[:, None]).to(dtype)


@dequantize.register_fake
def _(codes, scale, dtype):
    return codes.new_empty(codes.shape, dtype=dtype)


@torch.library.custom_op("sana_lab::gated_depthwise", mutates_args=())
def gated_depthwise(hidden: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
    """A 3 x 3 convolution of each channel with zeros around, then the first half times SiLU of the second.

    Args:
        hidden: (batch, height, width, 2 * channels).
        taps: (3, 3, 2 * channels).
        bias: (2 * channels,).

    Returns:
        (batch, height, width, channels), summed in float32.

    Chapter 7.
    """
    weight = taps.permute(2, 0, 1).unsqueeze(1).float()
    out = F.conv2d(hidden.permute(0, 3, 1, 2).float(), weight, bias.float(), padding=1, groups=len(weight))
    value, gate = out.permute(0, 2, 3, 1).chunk(2, dim=-1)
    return (value * F.silu(gate)).to(hidden.dtype).contiguous()


@gated_depthwise.register_fake
def _(hidden, taps, bias):
    return hidden.new_empty(*hidden.shape[:-1], hidden.shape[-1] // 2)


if triton is not None:
    _TILES = [
        triton.Config({"ROWS": rows, "COLUMNS": columns, "DEPTH": depth}, num_warps=warps, num_stages=stages)
        for rows, columns, depth, warps, stages in [
            (128, 256, 128, 8, 3),
            (128, 256, 128, 8, 4),
            (256, 128, 128, 8, 3),
            (128, 128, 128, 4, 4),
            (128, 128, 128, 8, 3),
            (64, 256, 128, 4, 4),
            (64, 128, 128, 4, 4),
            (64, 64, 128, 4, 4),
        ]
    ]

    @triton.autotune(configs=_TILES, key=["m", "n", "k"])
    @triton.jit
    def _int8_linear(
        codes, step, weight, scale, bias, out, m, n, k,
        HAS_BIAS: tl.constexpr, SILU: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
    ):  # fmt: skip
        # Programs that share rows of `codes` run beside each other, eight tiles of rows at a time, for the L2 cache.
        program, row_tiles, column_tiles = tl.program_id(0), tl.cdiv(m, ROWS), tl.cdiv(n, COLUMNS)
        first = program // (8 * column_tiles) * 8
        group = min(row_tiles - first, 8)
        row = (first + program % (8 * column_tiles) % group) * ROWS + tl.arange(0, ROWS)
        column = program % (8 * column_tiles) // group * COLUMNS + tl.arange(0, COLUMNS)
        depth = tl.arange(0, DEPTH)
        left = codes + (row % m).to(tl.int64)[:, None] * k + depth[None, :]  # rows times k may pass 2**31
        right = weight + (column % n).to(tl.int64)[None, :] * k + depth[:, None]
        total = tl.zeros((ROWS, COLUMNS), tl.int32)
        for done in range(0, k, DEPTH):
            a = tl.load(left, mask=depth[None, :] < k - done, other=0)
            b = tl.load(right, mask=depth[:, None] < k - done, other=0)
            total = tl.dot(a, b, total, out_dtype=tl.int32)
            left += DEPTH
            right += DEPTH
        rows, columns = row < m, column < n
        result = total.to(tl.float32) * tl.load(step + row, mask=rows, other=0.0)[:, None]
        result = result * tl.load(scale + column, mask=columns, other=0.0)[None, :]
        if HAS_BIAS:
            result += tl.load(bias + column, mask=columns, other=0.0).to(tl.float32)[None, :]
        if SILU:
            result = result * tl.sigmoid(result)
        place = out + row.to(tl.int64)[:, None] * n + column[None, :]
        tl.store(place, result.to(out.dtype.element_ty), mask=rows[:, None] & columns[None, :])

    @int8_linear.register_kernel("cuda")
    def launch_int8_linear(codes, step, weight, scale, bias, silu, dtype):
        """`int8_linear` by Triton, of any views."""
        codes, step, weight, scale = (tensor.contiguous() for tensor in (codes, step, weight, scale))
        bias = None if bias is None else bias.contiguous()
        (m, k), n = codes.shape, len(weight)
        out = codes.new_empty(m, n, dtype=dtype)
        grid = lambda tile: (triton.cdiv(m, tile["ROWS"]) * triton.cdiv(n, tile["COLUMNS"]),)  # noqa: E731
        _int8_linear[grid](codes, step, weight, scale, bias, out, m, n, k, HAS_BIAS=bias is not None, SILU=silu)
        return out

    @triton.jit
    def _dequantize(codes, scale, out, columns, numbers, BLOCK: tl.constexpr):
        place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        known = place < numbers
        value = tl.load(codes + place, mask=known, other=0).to(tl.float32)
        value *= tl.load(scale + place // columns, mask=known, other=0.0)
        tl.store(out + place, value.to(out.dtype.element_ty), mask=known)

    @dequantize.register_kernel("cuda")
    def launch_dequantize(codes, scale, dtype):
        """`dequantize` by Triton, of any views."""
        codes, scale = codes.contiguous(), scale.contiguous()
        out = torch.empty_like(codes, dtype=dtype)
        block = 4096  # 16 codes a thread
        grid = (triton.cdiv(codes.numel(), block),)
        _dequantize[grid](codes, scale, out, codes.shape[1], codes.numel(), BLOCK=block, num_warps=8)
        return out

    @triton.jit
    def _gated_depthwise(hidden, taps, bias, out, height, width, channels, WIDTH: tl.constexpr, CHANNELS: tl.constexpr):
        # One program: WIDTH neighbors in a row of one picture, CHANNELS channels of both halves.
        line, x = tl.program_id(0), tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
        y = line % height + tl.zeros((WIDTH,), tl.int32)  # Triton 3.9's interpreter refuses the mask of a scalar
        channel = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
        known = channel < channels
        value = tl.zeros((WIDTH, CHANNELS), tl.float32) + tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)
        gate = tl.zeros((WIDTH, CHANNELS), tl.float32)
        gate += tl.load(bias + channels + channel, mask=known, other=0.0).to(tl.float32)
        for down in tl.static_range(-1, 2):
            for right in tl.static_range(-1, 2):
                inside = (x + right >= 0) & (x + right < width) & (y + down >= 0) & (y + down < height)
                inside = inside[:, None] & known[None, :]
                pixel = (line + down).to(tl.int64) * width + x + right
                source = hidden + pixel[:, None] * (2 * channels) + channel[None, :]
                tap = taps + ((down + 1) * 3 + right + 1) * (2 * channels) + channel
                first = tl.load(tap, mask=known, other=0.0).to(tl.float32)
                second = tl.load(tap + channels, mask=known, other=0.0).to(tl.float32)
                value += tl.load(source, mask=inside, other=0.0).to(tl.float32) * first[None, :]
                gate += tl.load(source + channels, mask=inside, other=0.0).to(tl.float32) * second[None, :]
        result = value * gate * tl.sigmoid(gate)
        place = out + (line.to(tl.int64) * width + x)[:, None] * channels + channel[None, :]
        tl.store(place, result.to(out.dtype.element_ty), mask=(x < width)[:, None] & known[None, :])

    @gated_depthwise.register_kernel("cuda")
    def launch_gated_depthwise(hidden, taps, bias):
        """`gated_depthwise` by Triton, of any views."""
        hidden, taps, bias = hidden.contiguous(), taps.contiguous(), bias.contiguous()
        batch, height, width, both = hidden.shape
        out = hidden.new_empty(batch, height, width, both // 2)
        # the lines are what there may be most of, and only the first axis takes more than 65535 programs
        grid = (batch * height, triton.cdiv(width, 16), triton.cdiv(both // 2, 64))
        _gated_depthwise[grid](hidden, taps, bias, out, height, width, both // 2, WIDTH=16, CHANNELS=64, num_warps=4)
        return out
