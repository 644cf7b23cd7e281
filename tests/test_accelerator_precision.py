"""16-bit products on a virtual GPU: float32 sums, one rounding, and nothing else changed."""

from __future__ import annotations

import weakref

import bitsandbytes  # noqa: F401  its kernels are looked up by name
import pytest
import torch
import torch.nn.functional as F

from sana_lab import use_accelerator
from sana_lab.accelerator import int8_products, raw_memory

G = torch.Generator().manual_seed(0)


def numbers(*shape):
    return torch.randn(*shape, generator=G)


PRODUCTS = {
    "linear": (F.linear, (numbers(5, 64), numbers(7, 64), numbers(7))),
    "matmul": (torch.matmul, (numbers(3, 5, 64), numbers(64, 6))),
    "operator": (lambda a, b: a @ b, (numbers(5, 64), numbers(64, 6))),
    "bmm": (torch.bmm, (numbers(2, 5, 64), numbers(2, 64, 3))),
    "addmm": (torch.addmm, (numbers(6), numbers(5, 64), numbers(64, 6))),
    "einsum": (lambda a, b: torch.einsum("ik,jk->ij", a, b), (numbers(5, 64), numbers(6, 64))),
    "convolution": (F.conv2d, (numbers(1, 8, 9, 9), numbers(4, 8, 3, 3), numbers(4))),
    "depthwise": (lambda x, w: F.conv2d(x, w, groups=8), (numbers(1, 8, 9, 9), numbers(8, 1, 3, 3))),
    "attention": (F.scaled_dot_product_attention, (numbers(1, 2, 5, 16), numbers(1, 2, 7, 16), numbers(1, 2, 7, 16))),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_within_half_a_spacing_of_the_exact_ones(name, dtype):
    product, tensors = PRODUCTS[name]
    tensors = [t.to(dtype) for t in tensors]
    exact = product(*(t.double() for t in tensors))
    with use_accelerator(virtual=True):
        result = product(*(t.cuda() for t in tensors))
        assert result.dtype == dtype and result.device.type == "cuda"
        result = result.cpu().double()
    # One rounding of a sum in float32; a sum kept in 16 bits strays by many spacings.
    spacing = torch.finfo(dtype).eps * exact.abs() + 64 * torch.finfo(torch.float32).eps * exact.abs().max()
    assert ((result - exact).abs() <= 0.5 * spacing + 64 * torch.finfo(torch.float32).eps * exact.abs().max()).all()


def test_a_sum_beyond_the_range_of_float16_is_infinite():
    with use_accelerator(virtual=True):
        assert F.linear(torch.full((1, 4), 200.0).half().cuda(), torch.full((1, 4), 200.0).half().cuda()).isinf().all()


def test_gradients_pass_and_have_the_type_of_their_parameter():
    with use_accelerator(virtual=True):
        layer = torch.nn.Linear(4, 3, dtype=torch.bfloat16).cuda()
        layer(torch.ones(2, 4, dtype=torch.bfloat16, device="cuda")).sum().backward()
        assert layer.weight.grad.dtype == torch.bfloat16
        assert torch.equal(layer.weight.grad.cpu(), torch.full((3, 4), 2.0, dtype=torch.bfloat16))


def test_mixed_types_are_refused_as_before():
    with use_accelerator(virtual=True), pytest.raises(RuntimeError, match="dtype"):
        F.linear(torch.ones(2, 4, dtype=torch.bfloat16).cuda(), torch.ones(3, 4).cuda())


def test_tensors_on_the_processor_are_left_alone():
    a, b = (numbers(16, 64).bfloat16() for _ in range(2))
    alone = F.linear(a, b)
    with use_accelerator(virtual=True):
        assert torch.equal(F.linear(a, b), alone)


def test_no_virtual_memory_is_taken_for_the_wider_copies():
    with use_accelerator(virtual=True):
        a = torch.ones(256, 256, dtype=torch.bfloat16, device="cuda")
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        a @ a
        assert torch.cuda.max_memory_allocated() - before == 256 * 256 * 2


def activations(draw, dtype):
    """Rows with outliers or without, wide and narrow ranges, zeros, one row, one column: what a quantizer may meet."""
    generator = torch.Generator().manual_seed(draw)
    rows, width = (int(torch.randint(1, 70, (), generator=generator)) for _ in range(2))
    values = torch.randn(rows, width, generator=generator) * 10 ** float(torch.randn((), generator=generator))
    values[torch.rand(rows, width, generator=generator) < 0.02] *= 40
    values[torch.rand(rows, generator=generator) < 0.1] = 0
    return values.to(dtype)


@pytest.mark.parametrize("threshold", [0.0, 6.0])
def test_codes_and_scales_are_those_of_bitsandbytes_bit_by_bit(threshold):
    import bitsandbytes.functional

    given = [activations(draw, torch.float16) for draw in range(120)]
    right = [bitsandbytes.functional.int8_vectorwise_quant(values.clone(), threshold) for values in given]
    with use_accelerator(virtual=True):
        for values, expected in zip(given, right, strict=True):
            there = values.cuda()
            found = bitsandbytes.functional.int8_vectorwise_quant(there, threshold)
            assert torch.equal(there.cpu(), values), "the activations are only read"
            for a, b in zip(found, expected, strict=True):
                assert (a is None and b is None) or (a.dtype == b.dtype and torch.equal(a.cpu(), b))
                assert a is None or a.device.type == "cuda"
    split = sum(columns is not None and columns.numel() > 0 for _, _, columns in right)
    assert (split > 40) == (threshold > 0), "many draws must have outliers"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_split_product_is_that_of_bitsandbytes_up_to_one_rounding(dtype):
    import bitsandbytes.functional

    ops, cases, split = torch.ops.bitsandbytes, [], 0
    for draw in range(100):
        values = activations(draw, dtype)
        codes, absmax, columns = bitsandbytes.functional.int8_vectorwise_quant(values.half(), 6.0)
        codes_b, absmax_b, _ = bitsandbytes.functional.int8_vectorwise_quant(numbers(5, values.shape[1]).half())
        given = (values, codes, codes_b, absmax, absmax_b, columns, numbers(5).to(dtype) if draw % 2 else None)
        cases.append((given, *ops.int8_mixed_scaled_mm(*given)))
        split += columns.numel() > 0
    assert split > 30
    with use_accelerator(virtual=True):
        for given, right, chosen in cases:
            product, found = ops.int8_mixed_scaled_mm(*(part if part is None else part.cuda() for part in given))
            assert product.device.type == "cuda" and product.dtype == dtype and torch.equal(found.cpu(), chosen)
            # Two roundings of sums as large as the outliers' part; a weight is absmax at most.
            size = right.float().abs() + chosen.float().abs().sum(-1, keepdim=True) * given[4]
            assert ((product.cpu().float() - right.float()).abs() <= torch.finfo(dtype).eps * size + 1e-30).all()


def test_int8_sums_are_exact_integers():
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.randint(-127, 128, (9, 1024), generator=generator, dtype=torch.int8) for _ in range(2))
    with use_accelerator(virtual=True):
        sums = torch.ops.bitsandbytes.int8_linear_matmul(a.cuda(), b.cuda()).cpu()
    assert torch.equal(sums, a.long() @ b.long().T)


def test_codes_of_a_weight_are_unpacked_once_and_again_when_they_change():
    codes = torch.randint(-127, 128, (8, 16), dtype=torch.int8)
    first = int8_products.unpacked(codes)
    assert torch.equal(first, codes.float()) and int8_products.unpacked(codes) is first
    codes[0, 0] = 5 if codes[0, 0] != 5 else 6
    assert torch.equal(int8_products.unpacked(codes), codes.float())
    wide = torch.ones(int8_products.MOST + 1, dtype=torch.int8)
    assert int8_products.unpacked(wide) is not int8_products.unpacked(wide), (
        "a large weight would cost a laptop its memory"
    )


@pytest.mark.parametrize("k", [16, 1024, 1040])
@pytest.mark.parametrize("bias", [False, True])
def test_the_shorter_way_of_a_product_has_the_bits_of_bitsandbytes(k, bias):
    generator = torch.Generator().manual_seed(k)
    weight = torch.randint(-127, 128, (24, k), generator=generator, dtype=torch.int8)
    hidden = torch.randn(5, k, generator=generator).half()
    hidden[3] = 0
    codes, largest, _ = int8_products.of_activations(hidden, 6.0)
    theirs = torch.ops.bitsandbytes.int8_vectorwise_quant.default(hidden.float(), 6.0)
    assert torch.equal(codes, theirs[0]) and torch.equal(largest, theirs[1])
    added = torch.randn(24, generator=generator).half() if bias else None
    scales = torch.rand(24, generator=generator)
    ours, _ = int8_products.split_product(
        hidden, codes, weight, largest, scales, torch.empty(0, dtype=torch.long), added
    )
    exact = torch.ops.bitsandbytes.int8_scaled_mm.default(
        codes, weight, largest, scales, bias=added, dtype=torch.float16
    )
    assert torch.equal(ours, exact)


# ---- one operator at a time, beside bitsandbytes' own


def same_bits(a, b):
    """Equal to the last bit, the sign of a zero too; NaN is NaN."""
    if a.is_floating_point():
        same = (a == b) & (a.signbit() == b.signbit()) | (a.isnan() & b.isnan())
        return a.shape == b.shape and a.dtype == b.dtype and bool(same.all())
    return a.dtype == b.dtype and torch.equal(a, b)


def by_their_operators(hidden, weight, scales, bias, threshold):
    """What bitsandbytes' operators for processors give, but for the product of outlier columns, as in `precision`."""
    ops = torch.ops.bitsandbytes
    codes, absmax, columns = ops.int8_vectorwise_quant.default(hidden.half(), threshold)
    product = ops.int8_scaled_mm.default(codes, weight, absmax, scales, bias=bias, dtype=hidden.dtype)
    return codes, absmax, columns, *raw_memory.with_outliers(product, hidden, weight, scales, columns)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("threshold", [6.0, 2.0, 0.5, 1e-3, 1e-9, 6.01, 70000.0, float("inf")])
def test_operators_have_the_bits_of_bitsandbytes(dtype, threshold):
    split = 0
    for draw in range(60):
        hidden = activations(draw, dtype)
        if draw % 4 == 0:
            hidden.view(-1)[draw % hidden.numel()] = (float("inf"), float("nan"), 3e4, -float("inf"))[draw // 4 % 4]
        features = 1 + draw % 7
        weight = torch.randint(-127, 128, (features, hidden.shape[1]), generator=G, dtype=torch.int8)
        scales, bias = numbers(features).abs(), numbers(features).to(dtype) if draw % 2 else None
        right = by_their_operators(hidden, weight, scales, bias, threshold)
        with use_accelerator(virtual=True), torch.no_grad():
            ops, there = torch.ops.bitsandbytes, [hidden.cuda(), weight.cuda(), scales.cuda()]
            codes, absmax, columns = ops.int8_vectorwise_quant.default(there[0].to(torch.float16), threshold)
            bias = None if bias is None else bias.cuda()
            found = (codes, absmax, columns)
            for _ in range(2):  # once with the codes as they were kept, once with the codes alone
                products = ops.int8_mixed_scaled_mm(there[0], codes, there[1], absmax, there[2], columns, bias)
                for a, b in zip((*found, *products), right, strict=True):
                    assert a.device.type == "cuda" and same_bits(a.cpu(), b)
        split += columns.numel() > 0
    assert (split > 8) == (threshold < 70000)


@pytest.mark.parametrize("many", [0, 1, 3, 20, 64])
@pytest.mark.parametrize("threshold", [6.0, 6.0000001, 5.9999999])
def test_a_number_at_the_threshold_and_columns_few_or_many_are_those_of_bitsandbytes(many, threshold):
    values = numbers(5, 64).clamp(-5, 5).half()
    values[2, :many] = 6.0
    values[4, many // 2 : many] = -float("inf")
    right = torch.ops.bitsandbytes.int8_vectorwise_quant.default(values.clone(), threshold)
    found = int8_products.of_activations(values, threshold)
    assert len(found[2]) == many and all(same_bits(a, b) for a, b in zip(found, right, strict=True))


@pytest.mark.parametrize("scale", [1e-9, 1e-7, 1e-6, 7.6e-6, 1e-4, 2e-3, 1.0, 300.0, 3e4, 1e6, 1e38])
def test_numbers_that_float16_cannot_hold_are_those_of_the_recipe(scale):
    values = (numbers(24, 40) * scale).bfloat16()
    values[3] = values[3] * 2.0**-16  # beside numbers of the usual size
    values[5, ::2] *= 2.0**-14
    with use_accelerator(virtual=True), torch.no_grad():
        layer = bitsandbytes.nn.Linear8bitLt(40, 8, has_fp16_weights=False, threshold=6.0).bfloat16().cuda().eval()
        found = layer(values.cuda()).cpu()
        given = layer.state.CB.cpu(), layer.state.SCB.cpu(), layer.bias.detach().cpu()
    assert same_bits(found, by_their_operators(values, *given, 6.0)[3])


def test_outlier_columns_are_read_back_once_and_again_when_codes_or_scales_change():
    held, scales = [torch.randint(-127, 128, (8, 16), dtype=torch.int8)], torch.rand(8)

    def right():
        return torch.ops.bitsandbytes.int8_vectorwise_dequant.default(held[0], scales).bfloat16().float()

    first = int8_products._read_back(held[0], scales, torch.bfloat16)
    assert torch.equal(first, right()) and int8_products._read_back(held[0], scales, torch.bfloat16) is first
    scales.mul_(2)
    assert torch.equal(int8_products._read_back(held[0], scales, torch.bfloat16), right())
    scales = torch.rand(8)
    assert torch.equal(int8_products._read_back(held[0], scales, torch.bfloat16), right())
    held[0][0, 0] = 5 if held[0][0, 0] != 5 else 6
    assert torch.equal(int8_products._read_back(held[0], scales, torch.bfloat16), right())
    before = len(int8_products._kept)
    held.clear()
    assert len(int8_products._kept) == before - 1, "nothing is kept of a weight that is gone"
    wide = torch.ones(2, int8_products.MOST, dtype=torch.int8)
    assert int8_products._read_back(wide, torch.ones(2), torch.bfloat16) is None


def test_codes_of_activations_are_kept_for_one_product_and_not_when_they_change():
    codes, absmax, columns = int8_products.of_activations(numbers(6, 16).half(), 6.0)
    floats = weakref.ref(int8_products._last.codes.floats)
    assert torch.equal(floats(), codes.float())
    codes[0, 0] = 5 if codes[0, 0] != 5 else 6
    assert torch.equal(int8_products._remembered(codes), codes.float()), "written to in between"
    assert int8_products._remembered(torch.ones(2, 2, dtype=torch.int8)).equal(torch.ones(2, 2)), "of another tensor"
    del codes
    assert floats() is None, "nothing is kept of codes that are gone"
    codes, absmax, columns = int8_products.of_activations(numbers(6, 16).half(), 6.0)
    kept = int8_products._last.codes.floats
    assert int8_products._remembered(codes) is kept, "for the product, which may write to it"
    assert int8_products._remembered(codes) is not kept
    int8_products.of_activations(torch.ones(2, int8_products.MOST).half(), 6.0)
    assert int8_products._last.codes is None, "a large one would cost a laptop its memory"
    with use_accelerator(virtual=True):
        codes, *_ = torch.ops.bitsandbytes.int8_vectorwise_quant.default(numbers(6, 16).half().cuda(), 6.0)
        assert int8_products._last.codes() is codes, "the operator hands on the very tensor"


# ---- casts


EVERY = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16)
"""All numbers of bfloat16."""


@pytest.mark.parametrize("cast", [lambda t: t.to(torch.float16), torch.Tensor.half, lambda t: t.type(torch.float16)])
def test_every_bfloat16_is_the_same_float16_on_a_gpu(cast):
    for values in (EVERY, EVERY.view(256, 256).t(), EVERY.view(256, 256)[::3, 1::2], EVERY[5:12], EVERY[:1], EVERY[:0]):
        right = values.to(torch.float16)
        with use_accelerator(virtual=True):
            there = EVERY.cuda().as_strided(values.shape, values.stride(), values.storage_offset())
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            found = cast(there)
            assert found.device.type == "cuda" and found.stride() == right.stride()
            room = (2 * values.numel() + 511) // 512 * 512
            assert torch.cuda.max_memory_allocated() - before == room, "nothing is counted for the way there"
            assert same_bits(found.cpu(), right)


def test_a_cast_that_wants_a_gradient_is_one_cast():
    with use_accelerator(virtual=True):
        leaf = torch.ones(4, dtype=torch.bfloat16, device="cuda", requires_grad=True)
        half = leaf.to(torch.float16)
        assert half.grad_fn.next_functions[0][0].name() == "torch::autograd::AccumulateGrad"
        half.sum().backward()
        assert leaf.grad.dtype == torch.bfloat16
        assert leaf.detach().to(dtype=torch.float16).equal(half.detach())
