"""What saves more than the recipe: the same function, the predicted bytes, the same pictures."""

import functools
import gc
import logging

import bitsandbytes
import numpy as np
import pytest
import torch
from torch import nn

from sana_lab import accounting, slim, use_accelerator
from sana_lab.evaluate import conditions
from sana_lab.libraries import DTYPES
from sana_lab.sana import load_sana
from sana_lab.shapes import SHAPES_FOLDER
from sana_lab.slim import Pointwise, Pointwise4bit, Pointwise8bit, ScaledEmbedding8bit


@pytest.fixture(scope="module", autouse=True)
def gpu():
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    with use_accelerator(virtual=True) as accelerator:
        yield accelerator


@pytest.fixture(scope="module")
def slimmed():
    return load_sana("shapes", "int8", slim=True)


@pytest.fixture(scope="module")
def exact():
    """The Shapes transformer in float64 on the CPU, where two ways to sum differ by 1e-13 at most."""
    from diffusers import SanaTransformer2DModel

    return SanaTransformer2DModel.from_pretrained(SHAPES_FOLDER, subfolder="transformer").double().eval()


def step(transformer):
    """One prediction of the transformer, always for the same input."""
    like = next(parameter for parameter in transformer.parameters() if parameter.is_floating_point())
    draw = torch.Generator("cpu").manual_seed(5)
    latents, text = torch.randn(2, 32, 8, 8, generator=draw), torch.randn(2, 7, 128, generator=draw)
    inputs = [value.to(like.device, like.dtype) for value in (latents, text)]
    with torch.no_grad():
        return transformer(*inputs, timestep=torch.tensor([500, 20], device=like.device)).sample.double().cpu()


def draw(pipe, prompts="a large red star", steps=1, **options):
    pipe.set_progress_bar_config(disable=True)
    noise = torch.Generator("cpu").manual_seed(3)
    options = {"height": 128, "width": 128, "use_resolution_binning": False, **options}
    given = {} if "prompt_embeds" in options else {"prompt": prompts}
    return pipe(**given, num_inference_steps=steps, generator=noise, output_type="np", **options).images


# ---- 1x1 convolutions as linear layers ---------------------------------------------------------------------------


def convolution(bias=True, channels=(6, 10)):
    torch.manual_seed(2)
    return nn.Conv2d(*channels, 1, bias=bias).double()


def as_pointwise(conv):
    layer = Pointwise(conv.in_channels, conv.out_channels, conv.bias is not None).double()
    layer.load_state_dict(conv.state_dict())
    return layer


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(1, 6, 1, 1), (2, 6, 5, 3), (3, 6, 1, 7)])
def test_pointwise_is_the_convolution(bias, layout, shape):
    conv = convolution(bias)
    inputs = torch.randn(shape, dtype=torch.float64).contiguous(memory_format=layout)
    torch.testing.assert_close(as_pointwise(conv)(inputs), conv(inputs), rtol=0, atol=1e-13)


def test_wrong_layers_are_told_apart():
    """The bound above refuses the slips that one makes here."""
    conv = convolution(channels=(6, 6))
    right, inputs = as_pointwise(conv), torch.randn(2, 6, 5, 5, dtype=torch.float64)

    def loses_bias(layer):
        layer.bias = None

    def transposes_weight(layer):
        layer.weight = nn.Parameter(layer.weight.T)

    def transposes_picture(layer):
        layer.forward = lambda x: right(x.transpose(2, 3))

    def forgets_to_permute(layer):
        layer.forward = lambda x: nn.functional.linear(x.flatten(2).reshape(2, 25, 6), layer.weight, layer.bias).view(
            2, 6, 5, 5
        )

    for slip in (loses_bias, transposes_weight, transposes_picture, forgets_to_permute):
        wrong = as_pointwise(conv)
        slip(wrong)
        assert (wrong(inputs) - conv(inputs)).abs().max() > 0.01, slip.__name__


def test_no_copy_where_channels_lie_innermost():
    inputs = torch.randn(2, 5, 3, 6).permute(0, 3, 1, 2)
    seen = []
    layer = Pointwise(6, 10)
    layer.register_forward_pre_hook(lambda module, args: seen.append(args[0].data_ptr()))
    linear = nn.functional.linear
    tokens = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.functional, "linear", lambda x, *rest: tokens.append(x) or linear(x, *rest))
        result = layer(inputs)
    assert tokens[0].shape == (2, 15, 6) and tokens[0].data_ptr() == inputs.data_ptr() == seen[0]
    assert result.permute(0, 2, 3, 1).is_contiguous()


@pytest.mark.parametrize("threshold", [0.0, 6.0])
def test_in_8_bits_the_channels_are_turned_before_the_copy(threshold):
    """With channels first and one picture, turning makes a view, which the kernel would read as memory lies."""
    torch.manual_seed(4)
    layer = Pointwise8bit(64, 48, has_fp16_weights=False, threshold=threshold).to("cuda").eval()
    inputs = torch.randn(1, 64, 5, 3, device="cuda", dtype=torch.bfloat16)
    last = inputs.contiguous(memory_format=torch.channels_last)
    assert torch.equal(layer(inputs), layer(last))


def test_state_dicts_load_both_ways():
    conv = convolution()
    layer = as_pointwise(conv)
    assert {name: value.shape for name, value in layer.state_dict().items()} == {
        "weight": (10, 6, 1, 1),
        "bias": (10,),
    }
    back = convolution()
    nn.init.zeros_(back.weight)
    back.load_state_dict(layer.state_dict())
    assert torch.equal(back.weight, conv.weight)
    two_dimensional = {"weight": conv.weight.flatten(1) + 1, "bias": conv.bias}
    given = dict(two_dimensional)
    layer.load_state_dict(given)
    assert torch.equal(layer.weight, conv.weight.flatten(1) + 1)
    assert given["weight"] is two_dimensional["weight"]
    with pytest.raises(RuntimeError, match="size mismatch"):
        layer.load_state_dict({"weight": torch.zeros(10, 6, 3, 3), "bias": conv.bias})
    with pytest.raises(RuntimeError, match="Missing key"):
        layer.load_state_dict({"bias": conv.bias})


def test_transformer_computes_the_same(exact):
    before, names = step(exact), exact.state_dict()
    pointers = {value.data_ptr() for value in exact.parameters()}
    converted = slim.pointwise_as_linear_(exact)
    assert converted is exact
    kinds = [type(module) for module in exact.modules()]
    assert kinds.count(Pointwise) == 2 * len(exact.transformer_blocks)
    assert {value.data_ptr() for value in exact.parameters()} == pointers  # the same bytes, not copies
    torch.testing.assert_close(step(exact), before, rtol=0, atol=1e-11)
    after = exact.state_dict()
    assert after.keys() == names.keys() and all(torch.equal(after[name], names[name]) for name in names)
    from diffusers import SanaTransformer2DModel

    original = SanaTransformer2DModel.from_config(exact.config).double().eval()
    original.load_state_dict(after)
    torch.testing.assert_close(step(original), before, rtol=0, atol=1e-11)
    with pytest.raises(TypeError, match="give pipe.transformer, as load_sana"):
        slim.pointwise_as_linear_(exact)  # nothing left to do


# ---- 1x1 convolutions in 8 and 4 bits ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "threshold", "kind", "base", "noise"),
    [
        ("int8", 6.0, Pointwise8bit, bitsandbytes.nn.Linear8bitLt, 0.02),
        ("int8", 0.0, Pointwise8bit, bitsandbytes.nn.Linear8bitLt, 0.02),
        ("nf4", 6.0, Pointwise4bit, bitsandbytes.nn.Linear4bit, 0.2),
    ],
)
def test_quantized_pointwise_is_bitsandbytes_layer_over_channels(precision, threshold, kind, base, noise):
    transformer = load_sana("shapes", "bf16").transformer
    convolution = transformer.transformer_blocks[3].ff.conv_inverted
    slim.quantize_pointwise_(transformer, precision, threshold)
    found = [module for module in transformer.modules() if isinstance(module, kind)]
    assert len(found) == 16 and all(isinstance(module, base) and not module.training for module in found)
    if precision == "int8":
        assert {module.state.threshold for module in found} == {threshold}
        assert all(not module.state.has_fp16_weights and module.weight.dtype == torch.int8 for module in found)
        assert all(torch.equal(module.weight.CB, module.weight.data) for module in found)
    else:
        states = [module.weight.quant_state for module in found]
        assert {(s.quant_type, s.blocksize, s.nested) for s in states} == {("nf4", 64, False)}
    layer = transformer.transformer_blocks[3].ff.conv_inverted
    inputs = torch.randn(2, 256, 4, 3, device="cuda", dtype=torch.bfloat16)
    expected, got = convolution(inputs).float().cpu(), layer(inputs)
    assert got.dtype == torch.bfloat16 and got.shape == expected.shape
    assert 0 < (got.float().cpu() - expected).norm() / expected.norm() < noise
    tokens = inputs.permute(0, 2, 3, 1).reshape(2, 12, 256)
    by_hand = base.forward(layer, tokens).view(2, 4, 3, -1).permute(0, 3, 1, 2)
    assert torch.equal(by_hand, got)


def test_a_quantized_layer_keeps_its_state_dict():
    layer, other = (
        block.ff.conv_point
        for block in load_sana("shapes", "int8", slim={"pointwise"}).transformer.transformer_blocks[:2]
    )
    state = layer.state_dict()
    assert state["weight"].dtype == torch.int8 and state["weight"].ndim == 2 and state["SCB"].shape == (256,)
    assert not torch.equal(other.weight.data, layer.weight.data)
    other.load_state_dict(state)
    assert torch.equal(other.weight.data, layer.weight.data)


# ---- the embedding -----------------------------------------------------------------------------------------------


def test_embedding_in_8_bits_keeps_the_scale():
    text_encoder = load_sana("shapes", "bf16").text_encoder
    before = text_encoder.get_input_embeddings()
    tokens = torch.arange(before.num_embeddings, device="cuda").view(2, -1)
    expected = before(tokens).float().cpu()
    slim.quantize_embedding_(text_encoder)
    after = text_encoder.get_input_embeddings()
    assert isinstance(after, ScaledEmbedding8bit) and text_encoder.embed_tokens is after
    assert after.weight.dtype == torch.int8 and text_encoder.dtype == torch.bfloat16
    got = after(tokens)
    assert got.dtype == torch.bfloat16 and got.shape == expected.shape
    got = got.float().cpu()
    rows = expected.abs().amax(-1, keepdim=True)
    bound = rows / 254 + rows * 2**-7  # half a step, and three roundings to bf16
    assert ((got - expected).abs() <= bound + 1e-6).all()
    lost = got / after.embed_scale.float().cpu()
    assert not ((lost - expected).abs() <= bound + 1e-6).all()  # without the scale: refused
    twice = got * after.embed_scale.float().cpu()
    assert not ((twice - expected).abs() <= bound + 1e-6).all()


def test_portions_make_no_difference(monkeypatch):
    text_encoder = load_sana("shapes", "bf16").text_encoder
    weight = text_encoder.get_input_embeddings().weight.data.clone()
    monkeypatch.setattr(slim, "ROWS", 100)  # 616 rows: the last portion is smaller
    embedding = slim.quantize_embedding_(text_encoder).get_input_embeddings()
    codes, scales, _ = bitsandbytes.functional.int8_vectorwise_quant(weight.half())
    assert torch.equal(embedding.weight.data, codes) and torch.equal(embedding.weight.SCB, scales)
    upstream = bitsandbytes.nn.Embedding8bit(*weight.shape, dtype=torch.bfloat16)
    upstream.weight = bitsandbytes.nn.Int8Params(weight.cpu(), requires_grad=False, has_fp16_weights=False)
    upstream = upstream.to("cuda")
    tokens = torch.arange(30, device="cuda")
    assert torch.equal(embedding(tokens), upstream(tokens) * embedding.embed_scale.to(torch.bfloat16))


def test_an_embedding_without_scale_stays_without():
    """In transformers 4 the model multiplies, and its embedding is a plain one."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed_tokens = nn.Embedding(20, 8, device="cuda")

        def get_input_embeddings(self):
            return self.embed_tokens

        def set_input_embeddings(self, value):
            self.embed_tokens = value

    model = Model()
    expected = model.embed_tokens(torch.arange(20, device="cuda"))
    got = slim.quantize_embedding_(model).embed_tokens(torch.arange(20, device="cuda"))
    assert got.dtype == torch.float32
    assert (got - expected).abs().max() <= expected.abs().max() / 253
    with pytest.raises(
        TypeError, match="the token embedding is a ScaledEmbedding8bit: give a text encoder that has it"
    ):
        slim.quantize_embedding_(model)


def test_embedding_moves_as_a_whole_and_says_that_it_cannot_be_saved(slimmed):
    embedding = slim.quantize_embedding_(load_sana("shapes", "bf16").text_encoder).get_input_embeddings()
    before = embedding(torch.arange(9, device="cuda")).cpu()
    embedding.to("cpu")
    assert torch.equal(embedding(torch.arange(9)), before)
    assert embedding.weight.SCB.device.type == embedding.weight.CB.device.type == "cpu"
    with pytest.raises(NotImplementedError, match="cannot be saved .* save the 16-bit model, and load that"):
        embedding.state_dict()


# ---- bytes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["int8", "nf4"])
@pytest.mark.parametrize("parts", [True, {"pointwise"}, ["embedding"], False])
def test_prediction_is_what_the_gpu_counts(precision, parts):
    predicted = slim.predict(SHAPES_FOLDER, precision, parts, granule=512)
    gc.collect()  # pipelines of earlier tests hold themselves in circles
    before = torch.cuda.memory_allocated()
    pipe = load_sana("shapes", precision, slim=parts)
    assert accounting.components(pipe, granule=512) == predicted
    assert torch.cuda.memory_allocated() - before == sum(predicted.values())
    if parts is True:
        draw(pipe, steps=1)  # bitsandbytes moves its statistics at the first call
        assert accounting.components(pipe, granule=512) == predicted
    elif not parts:
        assert predicted == accounting.predict(SHAPES_FOLDER, precision, granule=512)


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_loading_takes_no_more_than_it_holds(precision):
    gc.collect()  # pipelines of earlier tests hold themselves in circles
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    pipe = load_sana("shapes", precision, slim=True)
    resident = torch.cuda.memory_allocated() - before
    assert torch.cuda.max_memory_allocated() - before <= 1.02 * resident
    del pipe


def test_goals_for_the_released_sizes():
    small, large = slim.savings("600M-512"), slim.savings("1600M-1024")
    assert list(small.index) == ["bf16", "recipe", "+ pointwise", "+ embedding", "+ text encoder dropped"]
    assert small.ratio["recipe"] == pytest.approx(0.67, abs=0.005) and small.ratio["+ embedding"] <= 0.56
    assert small.transformer["+ embedding"] / small.transformer["bf16"] <= 0.54
    assert large.transformer["+ embedding"] / large.transformer["bf16"] <= 0.51
    for table in (small, large):
        assert (table.saved.iloc[1:] > 0).all() and table.saved.iloc[0] == 0
        assert (table.total == table.text_encoder + table.transformer + table.vae).all()
        assert table.total.iloc[0] - table.saved.sum() == table.total.iloc[-1]
        assert table.vae.nunique() == 1  # the autoencoder is left alone
    assert 590e6 > small.saved["+ embedding"] > 0.99 * 256_000 * 2304  # a byte a weight, less the scales


def test_the_autoencoder_is_left_alone(slimmed):
    assert not any(isinstance(m, Pointwise8bit | bitsandbytes.nn.Linear8bitLt) for m in slimmed.vae.modules())
    assert {value.dtype for value in slimmed.vae.parameters()} == {torch.bfloat16}
    assert any(isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) for m in slimmed.vae.modules())


# ---- load_sana ---------------------------------------------------------------------------------------------------


def test_load_sana_slims_what_is_named():
    kinds = {}
    for parts in ({"pointwise"}, "embedding", ("embedding", "pointwise"), ()):
        pipe = load_sana("shapes", "int8", slim=parts)
        modules = [*pipe.transformer.modules(), *pipe.text_encoder.modules()]
        kinds[str(parts)] = [
            any(isinstance(module, kind) for module in modules) for kind in (Pointwise8bit, ScaledEmbedding8bit)
        ]
    assert list(kinds.values()) == [[True, False], [False, True], [True, True], [False, False]]


@pytest.mark.parametrize("precision", DTYPES)
def test_16_bits_cannot_be_slim(precision):
    with pytest.raises(ValueError, match=f"slim is for int8, fp8 and nf4; {precision} quantizes nothing: leave"):
        load_sana("shapes", precision, slim=True)


def test_unknown_parts_are_named():
    with pytest.raises(ValueError, match="slim names 'vae': choose from pointwise, embedding, or give True for both"):
        load_sana("shapes", "int8", slim={"vae"})
    with pytest.raises(ValueError, match="precision 'int4' is unknown: choose from int8, nf4"):
        slim.quantize_pointwise_(nn.Identity(), "int4")
    with pytest.raises(ValueError, match="precision 'bf16' is unknown here"):
        slim.predict(SHAPES_FOLDER, "bf16")
    with pytest.raises(TypeError, match="Linear has no 1x1 convolutions in a Sana feed-forward"):
        slim.quantize_pointwise_(nn.Linear(2, 2))


@functools.cache
def outputs(condition):
    """A step's prediction and an encoded prompt under a condition of the evaluation."""
    pipe = conditions.load("shapes", conditions.CONDITIONS[condition], "cuda")
    return step(pipe.transformer), slim.encode(pipe, "a large red star").prompt_embeds.double()


@pytest.mark.parametrize(("precision", "bound"), [("int8", 0.05), ("nf4", 0.4)])
def test_what_slimming_adds_is_of_the_size_of_what_quantizing_does(precision, bound):
    """Errors against bf16 of one step and of an encoded prompt. What pictures lose, `sana-lab evaluate` counts."""

    exact, recipe, slimmed = (outputs(name) for name in ("bf16", precision, f"{precision}-slim"))
    for reference, before, after in zip(exact, recipe, slimmed, strict=True):
        error, more = ((value - reference).norm() / reference.norm() for value in (before, after))
        assert 0 < error < bound and error / 2 < more < 2 * error + 0.01 and not torch.equal(before, after)


# ---- without the text encoder ------------------------------------------------------------------------------------


def test_embeddings_draw_the_same_pictures(tmp_path):
    prompts = ["a large red star", "a small blue circle left of a large green square"]
    pipe = load_sana("shapes", "int8", slim=True)
    expected, negative = draw(pipe, prompts), draw(pipe, prompts, negative_prompt="a red star")
    embeddings = slim.encode(pipe, prompts)
    with_negative = slim.encode(pipe, prompts, "a red star")
    assert embeddings.prompt_embeds.device.type == "cpu" and embeddings.prompt_embeds.shape[:2] == (2, 300)
    gc.collect()
    before, held = torch.cuda.memory_allocated(), accounting.components(pipe, granule=512)["text_encoder"]
    assert slim.drop_text_encoder_(pipe) == pytest.approx(held, rel=0.05)
    assert held <= before - torch.cuda.memory_allocated() <= held + 4096  # and what calls left in the layers
    assert np.array_equal(draw(pipe, **embeddings.arguments()), expected)
    assert np.array_equal(draw(pipe, **with_negative.arguments("cuda")), negative)
    assert not np.array_equal(negative, expected)
    embeddings.save(tmp_path / "prompts.safetensors")
    again = slim.PromptEmbeddings.load(tmp_path / "prompts.safetensors")
    assert np.array_equal(draw(pipe, **again.arguments()), expected)
    without_guidance = draw(pipe, **again.arguments(), guidance_scale=1.0, steps=1)
    assert np.isfinite(without_guidance).all() and not np.array_equal(without_guidance, expected)
    with pytest.raises(ValueError, match="was dropped: encode first"):
        slim.encode(pipe, prompts)
    with pytest.raises(ValueError, match="was dropped already"):
        slim.drop_text_encoder_(pipe)


def test_bad_embeddings_are_told(slimmed, tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(ValueError, match="there is no prompt"):
        slim.encode(slimmed, [])
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"nothing of the kind")
    for name in ("other", "damaged"):
        with pytest.raises(
            ValueError, match="holds no prompt embeddings: give a file that PromptEmbeddings.save wrote"
        ):
            slim.PromptEmbeddings.load(tmp_path / f"{name}.safetensors")
    with pytest.raises(OSError, match="missing"):
        slim.PromptEmbeddings.load(tmp_path / "missing.safetensors")


def test_sprint_has_no_negative_prompts(tmp_path):
    from small_sana import build_folder

    folder = build_folder(
        tmp_path / "p", "SanaSprintPipeline", sample_size=32, guidance_embeds=True, qk_norm="rms_norm_across_heads"
    )
    pipe = load_sana(folder, "int8", slim=True)
    expected = draw(pipe, steps=2)
    embeddings = slim.encode(pipe, "a large red star")
    assert embeddings.negative_prompt_embeds is None and "negative_prompt" not in embeddings.arguments()
    slim.drop_text_encoder_(pipe)
    assert np.array_equal(draw(pipe, steps=2, **embeddings.arguments()), expected)
