"""16-bit products on a virtual GPU: float32 sums, one rounding, and nothing else changed."""

from __future__ import annotations

import bitsandbytes  # noqa: F401  its kernels are looked up by name
import pytest
import torch
import torch.nn.functional as F

from sana_lab import use_accelerator
from sana_lab.accelerator import precision

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
    first = precision._unpacked(codes)
    assert torch.equal(first, codes.float()) and precision._unpacked(codes) is first
    codes[0, 0] = 5 if codes[0, 0] != 5 else 6
    assert torch.equal(precision._unpacked(codes), codes.float())
    wide = torch.ones(precision.MOST + 1, dtype=torch.int8)
    assert precision._unpacked(wide) is not precision._unpacked(wide), "a large weight would cost a laptop its memory"


@pytest.mark.parametrize("k", [16, 1024, 1040])
@pytest.mark.parametrize("bias", [False, True])
def test_the_shorter_way_of_a_product_has_the_bits_of_bitsandbytes(k, bias):
    generator = torch.Generator().manual_seed(k)
    weight = torch.randint(-127, 128, (24, k), generator=generator, dtype=torch.int8)
    hidden = torch.randn(5, k, generator=generator).half()
    hidden[3] = 0
    codes, largest, _ = precision._vectorwise_quant(hidden, 6.0)
    theirs = torch.ops.bitsandbytes.int8_vectorwise_quant.default(hidden.float(), 6.0)
    assert torch.equal(codes, theirs[0]) and torch.equal(largest, theirs[1])
    added = torch.randn(24, generator=generator).half() if bias else None
    scales = torch.rand(24, generator=generator)
    ours, _ = precision._mixed_scaled_mm(
        hidden, codes, weight, largest, scales, torch.empty(0, dtype=torch.long), added
    )
    exact = torch.ops.bitsandbytes.int8_scaled_mm.default(
        codes, weight, largest, scales, bias=added, dtype=torch.float16
    )
    assert torch.equal(ours, exact)
