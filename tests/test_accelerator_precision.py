"""16-bit products on a virtual GPU: float32 sums, one rounding, and nothing else changed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sana_lab import use_accelerator

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
