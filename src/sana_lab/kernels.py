"""Triton kernels for `sana_lab.fast`, each with the same thing in plain PyTorch for machines without CUDA.

`int8_linear` writes the scaled result of an int8 product where PyTorch's own product would write 32-bit integers for
another kernel to read. `dequantize` makes a weight from its codes in one pass. `gated_depthwise` activates, convolves
each channel and gates in one pass over the picture. `linear_attention` is Sana's attention over pixels in one pass.

Chapter 8.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .kernel_times import milliseconds

try:
    import triton
    import triton.language as tl
except ImportError:  # PyTorch's builds for CPUs come without
    triton = None

SMALLEST = 32
"""Rows that a product is padded to: `torch._int_mm` wants more than 16 on CUDA (torch 2.13, native/cuda/Blas.cpp)."""

FAR = 2**31
"""The first place in a tensor that 32 bits with a sign cannot name."""

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

    Chapter 8.
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

    Chapter 8.
    """
    return (codes.contiguous().float() * scale[:, None]).to(dtype)


@dequantize.register_fake
def _(codes, scale, dtype):
    return codes.new_empty(codes.shape, dtype=dtype)


@torch.library.custom_op("sana_lab::linear_attention", mutates_args=())
def linear_attention(query: Tensor, key: Tensor, value: Tensor, heads: int, tf32: bool) -> Tensor:
    """Sana's attention over pixels: every output is a mean of values, weighted with relu(key) · relu(query).

    With k and q for the rectified keys and queries, S = Σₙ vₙ kₙᵀ and s = Σₙ kₙ over all tokens n, the output at a
    query is S q / (s · q + 1e-15), all in float32 as diffusers has it (0.42.1, models/attention_processor.py,
    `SanaLinearAttnProcessor2_0`).

    What `tf32` may change. The matrix units read float32 numbers as TF32, whose mantissa has 10 bits below the leading
    one, as float16's has; bfloat16's has 7. So numbers of 16 bits and their products are exact there, and S and s,
    summed in float32, are the same either way. The second product reads S, a float32 sum: each of its numbers moves by
    less than 2⁻¹⁰ of itself, |δS| < 2⁻¹⁰ Σₙ |vₙ| kₙᵀ. The divisor is computed without the matrix units and stays. So
    an output moves by less than

        |δS q| / (s · q)  <  2⁻¹⁰ Σₙ |vₙ| (kₙ · q) / Σₙ kₙ · q,

    2⁻¹⁰ of the mean of |values| with the output's own weights. Rounding an output to float16 moves it by up to 2⁻¹¹ of
    itself, to bfloat16 by 2⁻⁹: the change is of the order of the rounding that comes next. (bfloat16 reaches below
    float16's smallest numbers, with the exponents of float32, which TF32 has too.) Inputs of 32 bits are never rounded.

    Args:
        query: (batch, tokens, channels); any strides.
        key: likewise.
        value: likewise.
        heads: that share the channels.
        tf32: on CUDA let the second product read TF32, for inputs of 16 bits.

    Returns:
        (batch, tokens, channels) in the type of `query`.

    Chapter 8.
    """
    return _attention(query, key, value, heads)


def _attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """`linear_attention` in PyTorch's own operations, as diffusers writes it."""
    query, key, value = (x.transpose(1, 2).unflatten(1, (heads, -1)) for x in (query, key, value))
    dtype = query.dtype
    query, key, value = F.relu(query).float(), F.relu(key).transpose(2, 3).float(), value.float()
    found = torch.matmul(torch.matmul(F.pad(value, (0, 0, 0, 1), value=1.0), key), query)
    found = found[:, :, :-1] / (found[:, :, -1:] + 1e-15)
    return found.flatten(1, 2).transpose(1, 2).to(dtype).contiguous()


@linear_attention.register_fake
def _(query, key, value, heads, tf32):
    return query.new_empty(query.shape)


@torch.library.custom_op("sana_lab::gated_depthwise", mutates_args=())
def gated_depthwise(hidden: Tensor, taps: Tensor, bias: Tensor, silu: bool = False) -> Tensor:
    """A 3 x 3 convolution of each channel with zeros around, then the first half times SiLU of the second.

    Args:
        hidden: (batch, height, width, 2 * channels).
        taps: (3, 3, 2 * channels).
        bias: (2 * channels,).
        silu: whether to apply SiLU to each number of `hidden` first; its result is not rounded.

    Returns:
        (batch, height, width, channels), summed in float32.

    Chapter 8.
    """
    return _gated(hidden, taps, bias, silu)


def _gated(hidden: Tensor, taps: Tensor, bias: Tensor, silu: bool) -> Tensor:
    """`gated_depthwise` in PyTorch's own operations."""
    weight = taps.permute(2, 0, 1).unsqueeze(1).float()
    exact = hidden.permute(0, 3, 1, 2).float()
    out = F.conv2d(F.silu(exact) if silu else exact, weight, bias.float(), padding=1, groups=len(weight))
    value, gate = out.permute(0, 2, 3, 1).chunk(2, dim=-1)
    return (value * F.silu(gate)).to(hidden.dtype).contiguous()


@gated_depthwise.register_fake
def _(hidden, taps, bias, silu=False):
    return hidden.new_empty(*hidden.shape[:-1], hidden.shape[-1] // 2)


if triton is not None:
    _TILES = [
        triton.Config({"ROWS": rows, "COLUMNS": columns, "DEPTH": depth}, num_warps=warps, num_stages=stages)
        for rows, columns, depth, warps, stages in [
            (128, 256, 128, 8, 3),
            (256, 128, 128, 8, 3),
            (128, 128, 128, 8, 3),
            (128, 64, 128, 4, 4),
            (64, 128, 128, 4, 4),
            (64, 64, 128, 4, 4),
        ]
    ]
    """Of a product, in rows and columns of the result and in numbers added at a time."""

    def _fitting(tiles, arguments, **_):
        """The tiles worth trying: few rows want small ones, of which all processors of the GPU get one."""
        few = arguments["m"] <= 1024
        return [t for t in tiles if (t.kwargs["ROWS"] * t.kwargs["COLUMNS"] <= 8192) == few or len(tiles) == 1]

    @triton.autotune(
        configs=_TILES,
        key=["m", "n", "k"],
        prune_configs_by={"early_config_prune": _fitting},
        do_bench=milliseconds,
        cache_results=True,
    )
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

    _STRIPS = [
        triton.Config({"STRIP": strip, "CHANNELS": channels}, num_warps=warps, num_stages=1)
        for strip, channels, warps in [(32, 128, 2), (16, 256, 4), (16, 64, 1), (4, 64, 1), (8, 128, 2), (8, 64, 1)]
    ]
    """Of the depthwise convolution: neighbors in a line, channels of each half."""

    @triton.jit
    def _taps_of(taps, column: tl.constexpr, both, channel, known):
        # three taps below each other, as float32
        above = tl.load(taps + column * both + channel, mask=known, other=0.0)
        level = tl.load(taps + (3 + column) * both + channel, mask=known, other=0.0)
        below = tl.load(taps + (6 + column) * both + channel, mask=known, other=0.0)
        return above.to(tl.float32), level.to(tl.float32), below.to(tl.float32)

    @triton.jit
    def _both_halves(source, channels, mask):
        return tl.load(source, mask=mask, other=0.0), tl.load(source + channels, mask=mask, other=0.0)

    @triton.jit
    def _six_pixels(source, line, channels, across, k0, k1, k2, k3, k4, k5):
        # of both halves: the line above, the four of the program, and the one below
        a0, b0 = _both_halves(source - line, channels, across & k0)
        a1, b1 = _both_halves(source, channels, across & k1)
        a2, b2 = _both_halves(source + line, channels, across & k2)
        a3, b3 = _both_halves(source + 2 * line, channels, across & k3)
        a4, b4 = _both_halves(source + 3 * line, channels, across & k4)
        a5, b5 = _both_halves(source + 4 * line, channels, across & k5)
        return a0, a1, a2, a3, a4, a5, b0, b1, b2, b3, b4, b5

    @triton.jit
    def _sigmoid(x):
        # Two instructions of the unit for functions, where Triton's own division takes eight more for its last bit.
        root = tl.rsqrt(1.0 + tl.exp2(x * -1.4426950408889634))
        return root * root

    @triton.jit
    def _read(raw, SILU: tl.constexpr):
        x = raw.to(tl.float32)
        if SILU:
            x *= _sigmoid(x)
        return x

    @triton.jit
    def _add_three(total, above, level, below, up, on, down):
        total += above * up
        total += level * on
        total += below * down
        return total

    @triton.jit
    def _store_gated(place, value, gate, mask):
        tl.store(place, (value * gate * _sigmoid(gate)).to(place.dtype.element_ty), mask=mask)

    @triton.autotune(
        configs=_STRIPS,
        key=["pictures", "height", "width", "channels", "SILU"],
        do_bench=milliseconds,
        cache_results=True,
    )
    @triton.jit
    def _gated_depthwise(
        hidden, taps, bias, out, pictures, height, width, channels,
        SILU: tl.constexpr, STRIP: tl.constexpr, CHANNELS: tl.constexpr,
    ):  # fmt: skip
        # One program: four lines of one picture, STRIP neighbors in each, CHANNELS channels of both halves. A thread
        # has its channels of all of them, with the taps in registers, and goes from left to right. At each column it
        # adds six pixels to four sums of the left neighbors, which are then complete (`l`), of its own column, and of
        # the right one, which begin (`v`); `m` and `h` are those of the gate. The next six are on their way meanwhile.
        channel_tiles = tl.cdiv(channels, CHANNELS)
        strips = tl.cdiv(width, STRIP)
        program = tl.program_id(0)
        channel = program % channel_tiles * CHANNELS + tl.arange(0, CHANNELS)
        program = program // channel_tiles
        start = program % strips * STRIP
        program = program // strips
        y = program % tl.cdiv(height, 4) * 4
        picture = (program // tl.cdiv(height, 4)).to(tl.int64) * height * width
        both, known = 2 * channels, channel < channels
        zero = tl.zeros((CHANNELS,), tl.int32)  # Triton 3.9's interpreter refuses masks of scalars
        hidden += (picture + y * width) * both + channel
        out += (picture + y * width) * channels + channel
        up0, on0, down0 = _taps_of(taps, 0, both, channel, known)
        up1, on1, down1 = _taps_of(taps, 1, both, channel, known)
        up2, on2, down2 = _taps_of(taps, 2, both, channel, known)
        gup0, gon0, gdown0 = _taps_of(taps + channels, 0, both, channel, known)
        gup1, gon1, gdown1 = _taps_of(taps + channels, 1, both, channel, known)
        gup2, gon2, gdown2 = _taps_of(taps + channels, 2, both, channel, known)
        first = tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)
        second = tl.load(bias + channels + channel, mask=known, other=0.0).to(tl.float32)
        l0, l1, l2, l3, m0, m1, m2, m3 = first, first, first, first, second, second, second, second
        v0, v1, v2, v3, h0, h1, h2, h3 = first, first, first, first, second, second, second, second
        last = height - y + zero
        k0, k1, k2 = known & (last < height), known & (last > 0), known & (last > 1)
        k3, k4, k5 = known & (last > 2), known & (last > 3), known & (last > 4)
        line = width * both
        n0, n1, n2, n3, n4, n5, p0, p1, p2, p3, p4, p5 = _six_pixels(
            hidden + (start - 1) * both, line, channels, known & (start + zero >= 1), k0, k1, k2, k3, k4, k5
        )
        for x in range(start - 1, start + STRIP + 1):  # written out, it takes a compiler minutes
            a0, a1, a2 = _read(n0, SILU), _read(n1, SILU), _read(n2, SILU)
            a3, a4, a5 = _read(n3, SILU), _read(n4, SILU), _read(n5, SILU)
            b0, b1, b2 = _read(p0, SILU), _read(p1, SILU), _read(p2, SILU)
            b3, b4, b5 = _read(p3, SILU), _read(p4, SILU), _read(p5, SILU)
            right = x + 1 + zero
            n0, n1, n2, n3, n4, n5, p0, p1, p2, p3, p4, p5 = _six_pixels(
                hidden + (x + 1) * both, line, channels, known & (right < width), k0, k1, k2, k3, k4, k5
            )
            place = out + (x - 1) * channels
            there = known & (right > start + 1) & (right < width + 2)
            l0 = _add_three(l0, a0, a1, a2, up2, on2, down2)
            m0 = _add_three(m0, b0, b1, b2, gup2, gon2, gdown2)
            _store_gated(place, l0, m0, there & k1)
            l1 = _add_three(l1, a1, a2, a3, up2, on2, down2)
            m1 = _add_three(m1, b1, b2, b3, gup2, gon2, gdown2)
            _store_gated(place + width * channels, l1, m1, there & k2)
            l2 = _add_three(l2, a2, a3, a4, up2, on2, down2)
            m2 = _add_three(m2, b2, b3, b4, gup2, gon2, gdown2)
            _store_gated(place + 2 * width * channels, l2, m2, there & k3)
            l3 = _add_three(l3, a3, a4, a5, up2, on2, down2)
            m3 = _add_three(m3, b3, b4, b5, gup2, gon2, gdown2)
            _store_gated(place + 3 * width * channels, l3, m3, there & k4)
            l0 = _add_three(v0, a0, a1, a2, up1, on1, down1)
            m0 = _add_three(h0, b0, b1, b2, gup1, gon1, gdown1)
            l1 = _add_three(v1, a1, a2, a3, up1, on1, down1)
            m1 = _add_three(h1, b1, b2, b3, gup1, gon1, gdown1)
            l2 = _add_three(v2, a2, a3, a4, up1, on1, down1)
            m2 = _add_three(h2, b2, b3, b4, gup1, gon1, gdown1)
            l3 = _add_three(v3, a3, a4, a5, up1, on1, down1)
            m3 = _add_three(h3, b3, b4, b5, gup1, gon1, gdown1)
            v0 = _add_three(first, a0, a1, a2, up0, on0, down0)
            h0 = _add_three(second, b0, b1, b2, gup0, gon0, gdown0)
            v1 = _add_three(first, a1, a2, a3, up0, on0, down0)
            h1 = _add_three(second, b1, b2, b3, gup0, gon0, gdown0)
            v2 = _add_three(first, a2, a3, a4, up0, on0, down0)
            h2 = _add_three(second, b2, b3, b4, gup0, gon0, gdown0)
            v3 = _add_three(first, a3, a4, a5, up0, on0, down0)
            h3 = _add_three(second, b3, b4, b5, gup0, gon0, gdown0)

    @gated_depthwise.register_kernel("cuda")
    def launch_gated_depthwise(hidden, taps, bias, silu=False):
        """`gated_depthwise` by Triton, of any views; by PyTorch where a picture has 2**31 numbers and more."""
        pictures, height, width, both = hidden.shape
        if height * width * both >= FAR:
            return _gated(hidden, taps, bias, silu)
        hidden, taps, bias = hidden.contiguous(), taps.contiguous(), bias.contiguous()
        out = hidden.new_empty(pictures, height, width, both // 2)
        grid = lambda tile: (  # noqa: E731  one axis, since the others take 65535 programs at most
            pictures
            * triton.cdiv(height, 4)
            * triton.cdiv(width, tile["STRIP"])
            * triton.cdiv(both // 2, tile["CHANNELS"]),
        )
        _gated_depthwise[grid](hidden, taps, bias, out, pictures, height, width, both // 2, SILU=silu)
        return out

    _BLOCKS = [
        triton.Config({"TOKENS": tokens}, num_warps=warps, num_stages=stages)
        for tokens, warps, stages in [(64, 2, 3), (64, 4, 4), (128, 4, 3), (256, 4, 2)]
    ]
    """Of the linear attention: tokens at a time."""

    @triton.autotune(configs=_BLOCKS, key=["pictures", "tokens", "heads"], do_bench=milliseconds, cache_results=True)
    @triton.jit
    def _linear_attention(
        query, key, value, out, pictures, tokens, heads,
        query_picture, query_row, key_picture, key_row, value_picture, value_row,
        PRECISION: tl.constexpr, WIDTH: tl.constexpr, TOKENS: tl.constexpr,
    ):  # fmt: skip
        # One program: one head of one picture. Two passes, over keys and values and then over queries.
        picture, head = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
        row, channel = tl.arange(0, TOKENS), tl.arange(0, WIDTH)
        query += picture * query_picture + head * WIDTH
        key += picture * key_picture + head * WIDTH
        value += picture * value_picture + head * WIDTH
        out += (picture * tokens * heads + head) * WIDTH
        scores = tl.zeros((WIDTH, WIDTH), tl.float32)
        total = tl.zeros((WIDTH,), tl.float32)
        for start in range(0, tokens, TOKENS):
            token = (start + row)[:, None].to(tl.int64)
            k = tl.load(key + token * key_row + channel[None, :], mask=token < tokens, other=0.0)
            v = tl.load(value + token * value_row + channel[None, :], mask=token < tokens, other=0.0)
            k = tl.where(k < 0, 0.0, k).to(k.dtype)  # a maximum would hide NaN
            scores = tl.dot(tl.trans(v), k, scores, input_precision=PRECISION)
            total += tl.sum(k.to(tl.float32), axis=0)
        scores = tl.trans(scores)
        for start in range(0, tokens, TOKENS):
            token = (start + row)[:, None].to(tl.int64)
            q = tl.load(query + token * query_row + channel[None, :], mask=token < tokens, other=0.0).to(tl.float32)
            q = tl.where(q < 0, 0.0, q)
            result = tl.dot(q, scores, input_precision=PRECISION)
            result = result / (tl.sum(q * total[None, :], axis=1)[:, None] + 1e-15)
            place = out + token * (heads * WIDTH) + channel[None, :]
            tl.store(place, result.to(out.dtype.element_ty), mask=token < tokens)

    @linear_attention.register_kernel("cuda")
    def launch_linear_attention(query, key, value, heads, tf32):
        """`linear_attention` by Triton; by PyTorch where a head is no power of two from 16 to 128 channels wide."""
        pictures, tokens, channels = query.shape
        width = channels // heads
        if width not in (16, 32, 64, 128):
            return _attention(query, key, value, heads)
        query, key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value))
        out = query.new_empty(pictures, tokens, channels)
        strides = [stride for x in (query, key, value) for stride in x.stride()[:2]]
        precision = "tf32" if tf32 and query.element_size() == 2 else "ieee"
        _linear_attention[(pictures * heads,)](
            query, key, value, out, pictures, tokens, heads, *strides, PRECISION=precision, WIDTH=width
        )
        return out
