"""One pass over the rows between two products: as diffusers' block does it, and our layers one by one."""

import types

import pytest
import torch
from torch import nn

from sana_lab import kernel_times, use_accelerator
from sana_lab.attention import rewrite_
from sana_lab.blocks import Block, rewrite_blocks_
from sana_lab.fast import FusedFeedForward, FusedLinear8bit, WeightOnly8bit
from sana_lab.float8 import quantize_rows
from sana_lab.float8_layers import Float8Linear
from sana_lab.row_kernels import between, int8_rows, rounded


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def in_int8(layer, kind):
    step = layer.weight.detach().float().abs().amax(1) / 127
    return kind((layer.weight.detach().float() / step[:, None]).round().to(torch.int8), step, layer.bias)


KINDS = {
    "16 bits": lambda layer: layer,
    "float8": Float8Linear.of,
    "int8": lambda layer: in_int8(layer, FusedLinear8bit),
    "weights alone": lambda layer: in_int8(layer, WeightOnly8bit),
}


class Blocks(nn.Module):
    """A transformer's worth of one block."""

    def __init__(self, kind, dtype):
        from diffusers.models.transformers.sana_transformer import SanaTransformerBlock

        super().__init__()
        torch.manual_seed(1)
        block = SanaTransformerBlock(64, 4, 16, 0.0, 4, 16, 64, attention_bias=False, mlp_ratio=2.0)
        expand, contract = (nn.Linear(*size) for size in ((64, 256), (128, 64)))
        expand.weight.data, contract.weight.data = (
            layer.weight.data.flatten(1) for layer in (block.ff.conv_inverted, block.ff.conv_point)
        )
        expand.bias, contract.bias = block.ff.conv_inverted.bias, None
        self.plain = block.requires_grad_(False).to(dtype)
        feed = FusedFeedForward(expand.to(dtype), block.ff.conv_depth, contract.to(dtype))
        block.ff = feed
        for name, layer in list(block.named_modules()):
            if isinstance(layer, nn.Linear):
                block.set_submodule(name, KINDS[kind](layer))
        self.transformer_blocks = nn.ModuleList([block])


def given(dtype, seed=3):
    return {
        "hidden_states": random(2, 12, 64, seed=seed).to(dtype),
        "encoder_hidden_states": random(2, 5, 64, seed=seed + 1).to(dtype),
        "encoder_attention_mask": torch.zeros(2, 1, 5, dtype=dtype),
        "timestep": random(2, 6 * 64, seed=seed + 2).to(dtype),
        "height": 3,
        "width": 4,
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_block_does_what_its_layers_do_one_by_one(kind, dtype):
    model, x = Blocks(kind, dtype), given(dtype)
    rewrite_(model)
    exact = model.transformer_blocks[0](**x).float()  # diffusers' own forward
    rewrite_blocks_(model)
    assert isinstance(model.transformer_blocks[0], Block)
    found = model.transformer_blocks[0](**x).float()
    assert (found - exact).abs().max() <= 2 ** {torch.float32: -20, torch.bfloat16: -6, torch.float16: -9}[dtype] * 4


def test_what_float16_cannot_hold_is_clipped_before_it_is_added():
    hidden, update = torch.zeros(1, 2, 16, dtype=torch.float16), torch.full((1, 2, 16), float("inf")).half()
    gates = torch.full((1, 6, 16), 0.5).half()
    clipped, _, _ = between(hidden, update, gates, 2, -1, 0.0, True, "float8")
    assert torch.equal(clipped, torch.full_like(hidden, 32752.0))
    plain, _, _ = between(hidden, update, gates, 2, -1, 0.0, False, "float8")
    assert plain.isinf().all()


@pytest.mark.parametrize(("codes", "reference"), [("float8", quantize_rows), ("int8", int8_rows)])
def test_rows_are_rounded_as_their_formulas_say(codes, reference):
    rows = random(7, 48)
    rows[2], rows[3, 5] = 0, 1000
    made, step = rounded(rows, codes)
    exact, steps = reference(rows)
    assert torch.equal(made.float(), exact.float()) and torch.equal(step, steps) and step.shape == (7, 1)
    back = made.float() * step
    largest = rows.abs().amax(1, keepdim=True)
    allowed = torch.maximum(rows.abs() / 16, step * 2**-10) if codes == "float8" else largest / 254 * 1.0001
    assert ((back - rows).abs() <= allowed + 1e-30).all()


@pytest.mark.parametrize("codes", ["float8", "int8", ""])
def test_a_compiler_is_told_the_shapes(codes):
    from torch._subclasses.fake_tensor import FakeTensorMode

    hidden, update, parts = random(2, 3, 16), random(2, 3, 16), random(2, 6, 16)
    for more, gate, shift in ((None, -1, 0), (update, 2, 3)):
        real = between(hidden, more, parts, gate, shift, 1e-6, False, codes)
        with FakeTensorMode(allow_non_fake_inputs=False) as mode:
            told = between(
                *(None if x is None else mode.from_tensor(x) for x in (hidden, more, parts)),
                gate,
                shift,
                1e-6,
                False,
                codes,
            )
        assert [(x.shape, x.dtype) for x in told] == [(x.shape, x.dtype) for x in real]


def test_blocks_that_were_not_rewritten_stay():
    from diffusers.models.transformers.sana_transformer import SanaTransformerBlock

    block = SanaTransformerBlock(64, 4, 16, 0.0, 4, 16, 64)
    model = nn.Module()
    model.transformer_blocks = nn.ModuleList([block])
    assert rewrite_blocks_(model).transformer_blocks[0] is block


# ---- choosing between a kernel's forms ------------------------------------------------------------------------------


@pytest.mark.parametrize("l2, most", [(2**20, kernel_times.LEAST), (3 * 2**24, 3 * 2**24)])
def test_choosing_takes_no_more_than_the_l2_cache_has(l2, most, monkeypatch):
    properties = types.SimpleNamespace(L2_cache_size=l2)
    with use_accelerator(virtual=True):
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
        monkeypatch.setattr(kernel_times, "AHEAD", 2)
        x, calls = torch.ones(8, device="cuda"), []
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        found = kernel_times.milliseconds(lambda: calls.append(x + 1))
        calls.clear()
        assert most <= torch.cuda.max_memory_allocated() - before < most + 2**17
        assert torch.cuda.memory_allocated() == before
    assert found[1] <= found[0] <= found[2]


def test_the_median_comes_first_and_then_the_quintiles(monkeypatch):
    class Mark:
        made = 0

        def __init__(self, enable_timing):
            self.number = Mark.made = Mark.made + 1

        def record(self):
            pass

        def elapsed_time(self, after):
            assert after.number == self.number + 1
            return float(after.number // 2)  # 1, 2, 3, ... milliseconds

    with use_accelerator(virtual=True):
        monkeypatch.setattr(torch.cuda, "Event", Mark)
        monkeypatch.setattr(kernel_times, "AHEAD", 0)
        median, low, high = kernel_times.milliseconds(lambda: None)
    assert median == pytest.approx((kernel_times.CALLS + 1) / 2)
    assert low == pytest.approx(0.2 * (kernel_times.CALLS + 1)) and high == pytest.approx(
        0.8 * (kernel_times.CALLS + 1)
    )
