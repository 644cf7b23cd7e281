"""The fast mode: the same products on the same codes, and a check that refuses where they are not enough."""

import copy
import logging

import bitsandbytes
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sana_lab import fast, load_sana, planted, slim, use_accelerator
from sana_lab.fast import FusedLinear8bit, Kept, WeightOnly8bit, fuse_, rounding, speed_up_, weights_only_
from sana_lab.kernels import dequantize, gated_depthwise, int8_linear
from sana_lab.shapes import SHAPES_FOLDER

PROMPT = "a small red star above a large blue ring on a white background"


@pytest.fixture(scope="module", autouse=True)
def gpu():
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    with use_accelerator(virtual=True) as accelerator:
        yield accelerator


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def codes(*shape, seed=0):
    return torch.randint(-127, 128, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int8)


# ---- the two kernels, here in plain PyTorch ----------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 16, 17, 40])  # PyTorch's product wants more than 16 rows on CUDA: padded
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("silu", [True, False])
def test_int8_linear_is_the_scaled_product(rows, bias, silu):
    left, right, step, scale = codes(rows, 72), codes(48, 72, seed=1), random(rows, 1).abs(), random(48).abs()
    added = random(48, seed=2) if bias else None
    out = int8_linear(left, step, right, scale, added, silu, torch.float32)
    exact = (left.double() * step.double()) @ (right.double() * scale.double()[:, None]).T
    exact = exact if added is None else exact + added.double()
    torch.testing.assert_close(out.double(), F.silu(exact) if silu else exact, rtol=1e-5, atol=1e-3)


def test_int8_linear_sums_in_integers():
    """9,000 products of 127 x 127 are beyond what float32 adds exactly, and beyond float16 at once."""
    left, right = torch.full((1, 9000), 127, dtype=torch.int8), torch.full((8, 9000), 127, dtype=torch.int8)
    left[0, 0] = 126
    out = int8_linear(left, torch.ones(1, 1), right, torch.ones(8), None, False, torch.float64)
    assert out.unique().tolist() == [float(torch.tensor(127 * 127 * 9000 - 127, dtype=torch.float32))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dequantize_is_what_bitsandbytes_reads_from_its_codes(dtype):
    weight = random(48, 72).half()
    made, largest, _ = bitsandbytes.functional.int8_vectorwise_quant(weight)
    theirs = bitsandbytes.functional.int8_vectorwise_dequant(made, largest)
    ours = dequantize(made, largest.float() / 127, dtype)
    # bitsandbytes 0.50.2 writes 1/127 with seven digits (functional.py), and we round once more, to `dtype`
    torch.testing.assert_close(ours.float(), theirs.float(), rtol=torch.finfo(dtype).eps + 1e-6, atol=0)


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 3), (7, 6)])
def test_gated_depthwise_is_the_convolution_of_each_channel_and_the_gate(size, silu):
    hidden = random(2, *size, 10)
    convolution = nn.Conv2d(10, 10, 3, padding=1, groups=10).double()
    with torch.no_grad():
        read = F.silu(hidden.double()) if silu else hidden.double()
        value, gate = convolution(read.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).chunk(2, -1)
        taps = convolution.weight.squeeze(1).permute(1, 2, 0).float()
        out = gated_depthwise(hidden, taps, convolution.bias.float(), silu)
    torch.testing.assert_close(out.double(), value * F.silu(gate), rtol=1e-5, atol=1e-5)


def test_the_kernels_say_their_shapes_to_a_compiler():
    torch.library.opcheck(
        int8_linear, (codes(20, 16), random(20, 1), codes(8, 16), random(8), None, True, torch.float32),
        test_utils=("test_schema", "test_faketensor"),
    )  # fmt: skip
    torch.library.opcheck(
        dequantize, (codes(8, 16), random(8), torch.bfloat16), test_utils=("test_schema", "test_faketensor")
    )
    torch.library.opcheck(
        gated_depthwise, (random(1, 4, 4, 6), random(3, 3, 6), random(6)), test_utils=("test_schema", "test_faketensor")
    )


# ---- layers ------------------------------------------------------------------------------------------------------


def quantized(threshold=0.0, bias=True, width=(64, 48), seed=0):
    """One of bitsandbytes' layers on the GPU, called once or not yet."""
    linear = nn.Linear(*width, bias=bias)
    with torch.no_grad():
        linear.weight.copy_(random(*linear.weight.shape, seed=seed))
    layer = bitsandbytes.nn.Linear8bitLt(*width, bias, has_fp16_weights=False, threshold=threshold)
    layer.load_state_dict(linear.state_dict())
    return layer.to("cuda").half()


@pytest.mark.parametrize("called", [False, True])
@pytest.mark.parametrize("bias", [True, False])
def test_a_fused_layer_computes_what_bitsandbytes_computes_at_threshold_0(called, bias):
    layer = quantized(bias=bias)
    hidden = random(2, 20, 64, seed=1).to("cuda", torch.float16)
    if called:
        layer(hidden)
    fused = FusedLinear8bit.of(layer)
    theirs = layer(hidden).float()
    error = (fused(hidden).float() - theirs).norm() / theirs.norm()
    assert error < 2e-3, "more than float16 rounds"
    assert fused.codes.data_ptr() == layer.weight.data.data_ptr(), "the codes were copied"


@pytest.mark.parametrize("kind", [FusedLinear8bit, WeightOnly8bit])
def test_a_fused_layer_takes_inputs_that_float16_cannot_hold(kind):
    layer = quantized()
    hidden = (random(4, 64) * 1e5).to("cuda", torch.bfloat16)
    assert not layer(hidden).isfinite().all()
    assert kind.of(layer)(hidden).isfinite().all()


@pytest.mark.parametrize("bias", [True, False])
def test_with_weights_alone_in_8_bits_the_input_is_not_rounded(bias):
    layer = quantized(bias=bias)
    weights = WeightOnly8bit.of(layer)
    hidden = random(2, 20, 64, seed=1).cuda()
    hidden[..., 3] = 1e4  # an outlier, which would leave nothing of the others in 8 bits
    weight = bitsandbytes.functional.int8_vectorwise_dequant(weights.codes, weights.scale * 127).double()
    exact = F.linear(hidden.double(), weight, layer.bias.double() if bias else None)
    error = (weights(hidden).double() - exact).norm() / exact.norm()
    assert error < 2e-6, "float32 rounds the sum, and bitsandbytes writes 1/127 with seven digits"
    assert weights.codes.data_ptr() == layer.weight.data.data_ptr(), "the codes were copied"
    alone = torch.zeros_like(hidden)
    alone[..., 3] = 1e4
    assert (weights(hidden) - weights(alone)).norm() > 100, "the other columns count"
    plain = FusedLinear8bit.of(layer)
    assert torch.equal(plain(hidden), plain(alone)), "with the input in 8 bits nothing is left of them"


def test_a_row_of_zeros_stays_zero():
    out = FusedLinear8bit.of(quantized(bias=False))(torch.zeros(3, 64, device="cuda"))
    assert out.tolist() == torch.zeros(3, 48).tolist()


def test_a_layer_without_codes_is_refused():
    with pytest.raises(TypeError, match="holds no 8-bit codes: load the model in 8 bits"):
        FusedLinear8bit.of(nn.Linear(4, 4))


# ---- the transformer ---------------------------------------------------------------------------------------------


def step(transformer):
    """One prediction of the transformer, always for the same input."""
    like = next(parameter for parameter in transformer.parameters() if parameter.is_floating_point())
    latents, text = (x.to(like.device, like.dtype) for x in (random(2, 32, 4, 6, seed=5), random(2, 7, 128)))
    with torch.no_grad():
        return transformer(latents, text, timestep=torch.tensor([500, 20], device=like.device)).sample.double().cpu()


def exact_transformer():
    from diffusers import SanaTransformer2DModel

    return SanaTransformer2DModel.from_pretrained(SHAPES_FOLDER, subfolder="transformer").float().eval()


def test_without_8_bit_layers_the_function_stays_the_same():
    transformer = exact_transformer()
    before = step(transformer)
    after = step(fuse_(transformer))
    assert (after - before).norm() / before.norm() < 1e-5


@pytest.mark.parametrize("slimmed", [False, True])
def test_fused_is_as_near_to_16_bits_as_threshold_0(slimmed):
    exact = step(exact_transformer())
    transformer = load_sana("shapes", "int8", slim=slimmed).transformer
    for layer in transformer.modules():
        if isinstance(layer, bitsandbytes.nn.Linear8bitLt):
            layer.state.threshold = 0.0
    theirs = (step(transformer) - exact).norm() / exact.norm()
    fuse_(transformer)
    assert not any(isinstance(layer, bitsandbytes.nn.Linear8bitLt) for layer in transformer.modules())
    ours = (step(transformer) - exact).norm() / exact.norm()
    assert ours < 1.2 * theirs
    assert ours > theirs / 10, "suspiciously near: is anything in 8 bits?"


@pytest.mark.parametrize("factor", [1.0, 1000.0])
def test_with_weights_alone_in_8_bits_a_step_is_no_worse_than_the_recipe_outliers_or_not(factor, tmp_path):
    folder = SHAPES_FOLDER if factor == 1 else planted.copy_with_outliers(SHAPES_FOLDER, tmp_path / "x", factor)
    exact = step(load_sana(folder, "fp32", "cpu").transformer)
    recipe = load_sana(folder, "int8", slim=True).transformer
    weights, plain = copy.deepcopy(recipe), copy.deepcopy(recipe)
    held = {n: p.data.clone() for n, p in weights.named_parameters() if p.dtype == torch.int8}
    places = {p.data_ptr() for p in weights.parameters() if p.dtype == torch.int8}
    fuse_(weights, activations=16)
    codes_now = {n: b for n, b in weights.named_buffers() if b.dtype == torch.int8}
    for name, found in codes_now.items():
        if "to_qkv" in name:  # a copy of three
            parts = [held[name.replace("to_qkv.codes", f"to_{part}.weight")] for part in "qkv"]
            assert torch.equal(found, torch.cat(parts))
        else:
            assert found.data_ptr() in places, f"{name}: not its codes"
    assert sum(map(torch.Tensor.numel, codes_now.values())) == sum(map(torch.Tensor.numel, held.values()))
    recipe, weights, plain = ((step(model) - exact).norm().item() for model in (recipe, weights, fuse_(plain)))
    assert 0 < weights < recipe * (0.9 if factor == 1 else 1.02), "with outliers both keep the error of the weights"
    if factor > 1:
        assert weights < plain / 10, "an outlier must spoil integer products"


def test_a_text_encoder_with_weights_alone_in_8_bits_is_nearer_to_16_bits_than_the_recipe():
    exact = load_sana("shapes", "fp32", "cpu").encode_prompt(PROMPT)[0].double()
    pipe = load_sana("shapes", "int8")
    recipe = (pipe.encode_prompt(PROMPT)[0].cpu().double() - exact).norm()
    weights_only_(pipe.text_encoder)
    assert not any(isinstance(layer, bitsandbytes.nn.Linear8bitLt) for layer in pipe.text_encoder.modules())
    ours = (pipe.encode_prompt(PROMPT)[0].cpu().double() - exact).norm()
    assert 0 < ours < 0.9 * recipe


def test_bits_that_nobody_multiplies_with_are_refused():
    transformer = exact_transformer()
    with pytest.raises(ValueError, match="activations=4: give 8 for integer products, or 16 for weights alone"):
        fuse_(transformer, activations=4)
    fuse_(transformer)  # nothing was changed: it can still be fused


def test_fusing_twice_or_something_else_is_refused():
    transformer = fuse_(exact_transformer())
    with pytest.raises(TypeError, match="has no Sana feed-forward: give pipe.transformer, not fused yet"):
        fuse_(transformer)
    with pytest.raises(TypeError, match="Linear has no Sana feed-forward"):
        fuse_(nn.Linear(2, 2))


def test_4_bit_layers_are_refused():
    pipe = load_sana("shapes", "nf4", slim=True)
    with pytest.raises(TypeError, match="neither in 16 nor in 8 bits"):
        fuse_(pipe.transformer)


def test_recording_needs_a_real_gpu():
    with pytest.raises(RuntimeError, match="need a real GPU: leave capture_ out"):
        fast.Captured(lambda x: x + 1)(torch.ones(2, device="cuda"))


# ---- the check ---------------------------------------------------------------------------------------------------


def few(pipe, keep=4):
    """The pipeline with fewer layers to look at: the others are watched in the same way, and cost time."""
    layers = [n for n, m in pipe.transformer.named_modules() if isinstance(m, bitsandbytes.nn.Linear8bitLt)]
    chosen = {n for n in layers if n.startswith("transformer_blocks.2.") and n.endswith(("to_out.0", "conv_point"))}
    assert len(chosen) <= keep
    return chosen


@pytest.fixture
def watched(monkeypatch):
    """`rounding` over few layers and one step, at 64 pixels."""

    def look(pipe):
        chosen = few(pipe)
        named = pipe.transformer.named_modules
        some = lambda **options: (pair for pair in named(**options) if pair[0] in chosen)  # noqa: E731
        monkeypatch.setattr(pipe.transformer, "named_modules", some)
        call = type(pipe).__call__
        monkeypatch.setattr(
            type(pipe), "__call__",
            lambda self, *a, **k: call(self, *a, **k, height=64, width=64, use_resolution_binning=False),
        )  # fmt: skip
        pipe.set_progress_bar_config(disable=True)
        try:
            return rounding(pipe, [PROMPT], steps=1)
        finally:
            monkeypatch.undo()

    return look


def test_outliers_in_the_transformer_change_the_fast_product_and_not_the_recipe(watched, tmp_path):
    plain = watched(load_sana("shapes", "int8", slim=True))
    folder = planted.copy_with_outliers(SHAPES_FOLDER, tmp_path / "planted", 1000.0)
    spoiled = watched(load_sana(folder, "int8", slim=True))
    assert len(plain) == len(spoiled) == 3
    for name in plain:
        assert spoiled[name].plain < plain[name].plain - 10, f"{name}: an outlier of 1,000 must cost the other columns"
        assert spoiled[name].recipe > spoiled[name].plain + 6, f"{name}: the split must save them"
    assert any(kept.spoiled() for kept in spoiled.values())


def test_a_layer_is_spoiled_if_it_keeps_little_and_the_split_would_keep_more():
    assert Kept(recipe=40, plain=10).spoiled()
    assert not Kept(recipe=40, plain=25).spoiled(), "25 dB are enough, whatever the recipe keeps"
    assert not Kept(recipe=12, plain=10).spoiled(), "the recipe is no better here"
    assert Kept(recipe=40, plain=25).spoiled(enough=30)
    assert Kept(recipe=40, plain=float("-inf")).spoiled(), "NaN in the product"


def test_the_fast_mode_refuses_in_one_line_and_changes_nothing(monkeypatch):
    pipe = load_sana("shapes", "int8", slim=True)
    before = {name: type(module) for name, module in pipe.transformer.named_modules()}
    found = {"a.to_out.0": Kept(41.0, 9.5), "b.to_q": Kept(45.0, 33.0)}
    monkeypatch.setattr(fast, "rounding", lambda *_: found)
    with pytest.raises(ValueError, match=r"spoil 1 of 2 layers, a.to_out.0 worst: it keeps 41.0 dB .* 9.5 dB") as error:
        speed_up_(pipe, [PROMPT])
    assert "\n" not in str(error.value)
    assert {name: type(module) for name, module in pipe.transformer.named_modules()} == before
    with pytest.raises(ValueError, match="give a few prompts to check with, or activations=16"):
        speed_up_(pipe)
    found.pop("a.to_out.0")
    assert isinstance(speed_up_(pipe, [PROMPT]).transformer.get_submodule("proj_out"), FusedLinear8bit)
    kinds = {type(layer) for layer in pipe.text_encoder.modules()}
    assert WeightOnly8bit in kinds, "the text encoder multiplies in 16 bits in any case"
    assert kinds.isdisjoint({FusedLinear8bit, bitsandbytes.nn.Linear8bitLt})


@pytest.mark.parametrize("precision", ["bf16", "nf4"])
def test_what_is_not_in_8_bits_is_not_made_fast(precision):
    with pytest.raises(TypeError, match="no layer of the transformer is in 8 bits"):
        speed_up_(load_sana("shapes", precision), activations=16)


def test_more_sizes_may_be_compiled_than_pytorch_allows(monkeypatch):
    from torch._dynamo import config

    monkeypatch.setattr(config, "recompile_limit", 8)
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **_: compiled.append(self))
    transformer = exact_transformer()
    assert fast.compile_(transformer) is transformer
    assert compiled == list(transformer.transformer_blocks) and config.recompile_limit == fast.SIZES > 8
    monkeypatch.setattr(config, "recompile_limit", 999)
    fast.compile_(transformer)
    assert config.recompile_limit == 999, "lowered what somebody had raised"


def test_with_16_bit_activations_nothing_is_looked_at(monkeypatch):
    monkeypatch.setattr(fast, "rounding", lambda *_: pytest.fail("looked"))
    pipe = load_sana("shapes", "int8", slim=True)
    slim.drop_text_encoder_(pipe)
    assert isinstance(speed_up_(pipe, activations=16).transformer.get_submodule("proj_out"), WeightOnly8bit)


def test_nothing_in_8_bits_cannot_be_looked_at():
    with pytest.raises(TypeError, match="no layer of the transformer is in 8 bits"):
        rounding(load_sana("shapes", "bf16"), [PROMPT])


# ---- planted outliers --------------------------------------------------------------------------------------------


def test_planting_keeps_the_function_and_makes_outliers():
    transformer = exact_transformer().double()
    before, largest = step(transformer), []
    layer = transformer.transformer_blocks[1].ff.conv_point
    layer.register_forward_pre_hook(lambda _, inputs: largest.append(inputs[0][:, planted.CHANNEL].abs().max().item()))
    step(transformer)
    planted.plant_in_transformer_(transformer, factor=1000.0)
    after = step(transformer)
    assert (after - before).norm() / before.norm() < 1e-7, "the linear attention computes in float32"
    assert largest[1] == pytest.approx(1000 * largest[0])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"channels": []}, "name at least one channel"),
        ({"channels": [100_000]}, "do not exist: there are channels 0 to"),
        ({"channels": [5, 5]}, "each once"),
        ({"factor": 0.0}, "factor=0.0 must be a finite number above 0"),
        ({"factor": float("nan")}, "factor=nan must be"),
    ],
)
def test_planting_nonsense_changes_nothing(arguments, words):
    transformer = exact_transformer()
    before = step(transformer)
    with pytest.raises(ValueError, match=words):
        planted.plant_in_transformer_(transformer, **arguments)
    assert torch.equal(step(transformer), before)


def test_planting_into_codes_is_refused():
    with pytest.raises(TypeError, match="plant outliers first, quantize afterwards"):
        planted.plant_in_transformer_(load_sana("shapes", "int8").transformer)


def test_a_copy_with_outliers_is_a_checkpoint_and_never_replaces_one(tmp_path):
    folder = planted.copy_with_outliers(SHAPES_FOLDER, tmp_path / "copy", 10.0)
    with pytest.raises(FileExistsError, match="exists already"):
        planted.copy_with_outliers(SHAPES_FOLDER, folder, 10.0)
    ours, theirs = load_sana(folder, "fp32").transformer, load_sana("shapes", "fp32").transformer
    ratio = ours.transformer_blocks[0].attn1.to_v.weight / theirs.transformer_blocks[0].attn1.to_v.weight
    assert ratio[planted.CHANNEL].median().item() == pytest.approx(10, rel=0.01)
    assert ratio[0].median().item() == 1
    assert [p.name for p in tmp_path.iterdir()] == ["copy"]


def test_slim_names_what_fast_expects():
    assert issubclass(slim.Pointwise8bit, bitsandbytes.nn.Linear8bitLt)
