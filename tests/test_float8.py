"""FP8 codes, products and layers, against references that are not ours: PyTorch's own product and codes, float64."""

import copy
import json
import logging
import shutil
import sys
from collections import Counter

import pytest
import torch
from torch import nn

from sana_lab import accounting, checked, float8, float8_layers, load_sana, placement, slim, use_accelerator
from sana_lab.fast import fuse_, speed_up_
from sana_lab.float8_layers import (
    Float8Embedding,
    Float8Linear,
    Float8Pointwise,
    Float8PointwiseWeights,
    Float8Weights,
    multiply_,
    quantize_float8_,
)
from sana_lab.layers import holding, quantized
from sana_lab.measure import torchao_float8

PARTS = ("text_encoder", "transformer")
SMALL = {"height": 256, "width": 256, "use_resolution_binning": False}
"""A picture of a quarter of the model's own tokens."""


@pytest.fixture(scope="module")
def gpu():
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    with use_accelerator(virtual=True) as accelerator:
        yield accelerator


@pytest.fixture(scope="module")
def pipe(gpu):
    return load_sana("shapes", "fp8", slim=True)


@pytest.fixture(scope="module")
def plain(gpu, tmp_path_factory):
    """A pipeline in FP8 that is not slim, and the folder where it was saved."""
    folder = tmp_path_factory.mktemp("plain")
    pipe = load_sana("shapes", "fp8")
    pipe.save_pretrained(folder)
    return pipe, folder


def rows(count=24, columns=64, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, columns, generator=generator) * scale


def decibels(exact, found):
    exact, found = exact.double().cpu(), found.double().cpu()
    return (10 * (exact.square().sum() / (found - exact).square().sum()).log10()).item()


def draw(pipe, **options):
    pipe.set_progress_bar_config(disable=True)
    noise = torch.Generator().manual_seed(0)
    given = {"num_inference_steps": 1, "generator": noise, "output_type": "latent", **SMALL} | options
    return pipe("a small red star above a large blue ring on a white background", **given).images.float().cpu()


# ---- codes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e4, 1e30])
def test_no_number_moves_by_more_than_a_sixteenth_of_itself_or_the_last_step(scale):
    x = rows(50, 400, scale=scale)
    codes, steps = float8.quantize_rows(x)
    assert codes.dtype == torch.float8_e4m3fn and steps.shape == (50, 1) and steps.dtype == torch.float32
    moved = (float8.dequantize_rows(codes, steps).double() - x.double()).abs()
    bound = torch.maximum(x.double().abs() / 16, steps.double() * 2**-10)
    assert (moved <= bound * (1 + 1e-6)).all()
    assert (codes.float().abs().amax(1) == 448).all()


def test_codes_are_the_nearest_there_are():
    """Against all 256 codes, in float64: no other is nearer."""
    every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).double()
    every = every[~every.isnan()]
    assert every.max() == float8.HIGHEST == 448
    x = rows(20, 50)
    codes, steps = float8.quantize_rows(x)
    scaled = (x / steps).double()
    best = (scaled[..., None] - every).abs().amin(-1)
    assert torch.equal((codes.double() - scaled).abs(), best)


def test_an_outlier_leaves_the_others_their_bits():
    x = rows(8, 256)
    x[:, 3] *= 1000
    codes, steps = float8.quantize_rows(x)
    others = torch.ones(256, dtype=torch.bool)
    others[3] = False
    kept = decibels(x[:, others], float8.dequantize_rows(codes, steps)[:, others])
    whole = (x / (x.abs().amax(1, keepdim=True) / 127)).round() * (x.abs().amax(1, keepdim=True) / 127)
    assert kept > 25 and decibels(x[:, others], whole[:, others]) < 5


def test_rows_of_zeros_and_of_tiny_numbers():
    x = torch.zeros(3, 16)
    x[1] = 1e-44
    codes, steps = float8.quantize_rows(x)
    assert (steps >= float8.SMALLEST_SCALE).all() and not codes.float().isnan().any()
    assert (float8.dequantize_rows(codes, steps)[0] == 0).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_spoils_its_row_and_no_other(bad):
    x = rows(4, 32).half()
    x[1, 5] = bad
    codes, steps = float8.quantize_rows(x)
    weight, scale = float8.quantize_rows(rows(16, 32, seed=1))
    out = float8.product(codes, steps, weight, scale[:, 0], None, torch.float16)
    assert out[1].isnan().all() and torch.isfinite(out[[0, 2, 3]]).all()


def test_integers_are_refused():
    with pytest.raises(TypeError, match=r"got torch.int64: convert them with .float\(\)"):
        float8.quantize_rows(torch.ones(2, 2, dtype=torch.int64))


# ---- products ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["cpu", "cuda"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("biased", [False, True])
def test_products_are_those_of_the_codes_in_float64(gpu, where, dtype, biased):
    codes, steps = float8.quantize_rows(rows(40, 96).to(where))
    weight, scale = float8.quantize_rows(rows(48, 96, seed=1).to(where))
    bias = rows(1, 48, seed=2)[0].to(where, torch.float16) if biased else None
    exact = (codes.double() * steps) @ (weight.double() * scale).t() + (bias.double() if biased else 0)
    out = float8.product(codes, steps, weight, scale[:, 0], bias, dtype)
    assert out.dtype == dtype and out.device.type == where
    assert decibels(exact, out) > {torch.bfloat16: 48, torch.float16: 65, torch.float32: 120}[dtype]


def test_the_virtual_kernel_agrees_with_pytorchs_own_on_a_processor(gpu):
    codes, steps = float8.quantize_rows(rows(40, 96))
    weight, scale = float8.quantize_rows(rows(48, 96, seed=1))
    theirs = torch._scaled_mm(codes, weight.t(), steps, scale.t(), out_dtype=torch.float32)
    given = [tensor.cuda() for tensor in (codes, weight, steps, scale)]
    ours = torch._scaled_mm(given[0], given[1].t(), given[2], given[3].t(), out_dtype=torch.float32)
    assert decibels(theirs, ours) > 120


SCALED = {
    "rows": ({"rows": 40}, r"Expected trailing dimension of mat1 to be divisible by 16 but got mat1 shape: \(24x40\)"),
    "columns": ({"out": 40}, r"mat2 shape \(64x40\) must be divisible by 16"),
    "layout": ({"ordered": True}, "Only multiplication of row-major and column-major matrices is supported"),
    "scales": ({"scales": (24,)}, "Invalid scaling configuration"),
    "two devices": ({"where": "cpu"}, "Expected all tensors to be on the same device"),
    "sizes": ({"inner": 48}, r"mat1 and mat2 shapes cannot be multiplied \(24x64 and 48x32\)"),
    "bias": ({"bias": torch.float32}, "Bias must be BFloat16 or Half, but got Float"),
    "another bias": ({"bias": torch.float16}, "Bias must be BFloat16 to compute BFloat16 output, but got Half"),
}


@pytest.mark.parametrize("case", SCALED)
def test_the_virtual_kernel_refuses_in_the_kernels_words(gpu, case):
    given, said = SCALED[case]
    columns = given.get("rows", 64)
    a = float8.quantize_rows(rows(24, columns))[0].cuda()
    b = float8.quantize_rows(rows(given.get("out", 32), given.get("inner", columns)))[0].to(given.get("where", "cuda"))
    b = b.t().contiguous() if given.get("ordered") else b.t()
    steps = torch.ones(given.get("scales", (24, 1)), device="cuda")
    bias = torch.ones(len(b[0]), device="cuda", dtype=given["bias"]) if "bias" in given else None
    with pytest.raises(RuntimeError, match=said):
        torch._scaled_mm(a, b, steps, torch.ones(1, b.shape[1], device="cuda"), bias, out_dtype=torch.bfloat16)


def test_a_card_before_8_9_refuses_in_pytorchs_words_and_ours_beforehand(gpu):
    codes, steps = float8.quantize_rows(rows(16, 32).cuda())
    with use_accelerator(virtual=True, capability=(8, 6)):
        assert torch.cuda.get_device_capability() == (8, 6) and torch.cuda.get_device_properties(0).major == 8
        with pytest.raises(RuntimeError, match="only supported on CUDA devices with compute capability >= 9.0 or 8.9"):
            torch._scaled_mm(codes, codes.t(), steps, steps.t(), out_dtype=torch.bfloat16)
        with pytest.raises(RuntimeError, match=r"compute capability 8.9 or later .* has 8.6: give activations=16"):
            load_sana("shapes", "fp8")
        pipe = load_sana("shapes", "fp8", activations=16)
        with pytest.raises(RuntimeError, match="give activations=16"):
            speed_up_(pipe)
        assert torch.isfinite(draw(speed_up_(pipe, activations=16))).all()
    assert torch.cuda.get_device_capability() == (9, 0)
    with use_accelerator(virtual=True, capability=(8, 9)):
        assert torch._scaled_mm(codes, codes.t(), steps, steps.t(), out_dtype=torch.bfloat16).shape == (16, 16)


@pytest.mark.parametrize("capability", [8, "8.6", (8,), (8, "6"), [8, 6]])
def test_a_capability_is_two_numbers(capability):
    with pytest.raises(ValueError, match="give two numbers"):
        use_accelerator(virtual=True, capability=capability)


# ---- layers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_layers_keep_their_signal(gpu, dtype):
    layer = nn.Linear(64, 48).cuda().requires_grad_(False)
    hidden = rows(30, 64, seed=3).cuda().view(2, 15, 64)
    exact = layer(hidden)
    layer, hidden = layer.to(dtype), hidden.to(dtype)
    products, weights = Float8Linear.of(layer), Float8Weights.of(layer)
    assert products.codes.dtype == torch.float8_e4m3fn and torch.equal(products.codes.float(), weights.codes.float())
    for made, least in ((products, 26), (weights, 29)):
        out = made(hidden)
        assert out.dtype == dtype and out.shape == (2, 15, 48)
        assert decibels(exact, out) > least


def test_pixels_are_multiplied_as_tokens_are(gpu):
    convolution = nn.Conv2d(32, 48, 1).cuda().requires_grad_(False)
    pixels = torch.randn(2, 32, 5, 7, generator=torch.Generator().manual_seed(0)).cuda()
    for kind, plain in ((Float8Pointwise, Float8Linear), (Float8PointwiseWeights, Float8Weights)):
        out = kind.of(convolution)(pixels)
        tokens = plain.of(convolution)(pixels.permute(0, 2, 3, 1))
        assert torch.equal(out, tokens.permute(0, 3, 1, 2)) and decibels(convolution(pixels), out) > 26
    with pytest.raises(TypeError, match="no linear layer in 16 bits"):
        Float8Pointwise.of(nn.Conv2d(32, 32, 3))


def test_embeddings_look_up_rows_and_multiply_by_gemmas_factor(gpu):
    from transformers.models.gemma2.modeling_gemma2 import Gemma2TextScaledWordEmbedding

    embedding = Gemma2TextScaledWordEmbedding(90, 64, 0, embed_scale=8.1).to("cuda", torch.bfloat16)
    made = Float8Embedding.of(embedding.requires_grad_(False))
    ids = torch.arange(12).view(3, 4).cuda()
    out = made(ids)
    assert out.dtype == torch.bfloat16 and out.shape == (3, 4, 64) and decibels(embedding(ids), out) > 29
    assert holding(made).kind == "Embedding"
    with pytest.raises(TypeError, match="the embedding is a Linear"):
        Float8Embedding.of(nn.Linear(2, 2))


def test_casting_a_model_leaves_its_codes_alone(gpu):
    layer = Float8Linear.of(nn.Linear(32, 32))
    codes, scale = layer.codes.clone(), layer.scale.clone()
    to = (lambda m: m.half(), lambda m: m.to(torch.bfloat16), lambda m: m.to("cuda", torch.float16), copy.deepcopy)
    for cast in to:
        moved = cast(layer)
        assert moved.codes.dtype == torch.float8_e4m3fn and torch.equal(moved.codes.float().cpu(), codes.float())
        assert moved.scale.dtype == torch.float32 and torch.equal(moved.scale.cpu(), scale)
    assert layer.codes.is_cuda and layer.bias.dtype == torch.float16


def test_sizes_that_no_kernel_takes(gpu):
    odd = nn.Linear(40, 24)
    with pytest.raises(ValueError, match=r"24 x 40 has no FP8 product, .* multiples of 16: give activations=16"):
        Float8Linear.of(odd)
    model = nn.Sequential(odd, nn.Linear(24, 32), nn.Linear(32, 16))
    quantize_float8_(model, device="cuda")
    assert [type(layer) for layer in model] == [Float8Weights, Float8Weights, Float8Linear]
    assert model(rows(3, 40).cuda()).shape == (3, 16)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(bad):
    layer = nn.Linear(32, 32)
    layer.weight.data[3, 4] = bad
    with pytest.raises(ValueError, match="NaN or infinity among the numbers to quantize"):
        quantize_float8_(nn.Sequential(layer), 16)


@pytest.mark.parametrize("activations", [0, 4, 8.5, "8", None])
def test_there_are_two_ways_to_multiply(activations):
    with pytest.raises(ValueError, match="give 8 for FP8 products, or 16 for weights alone"):
        quantize_float8_(nn.Sequential(nn.Linear(32, 32)), activations)


def test_nothing_to_quantize_and_nothing_to_change():
    with pytest.raises(TypeError, match="Identity has no linear layer in 16 bits"):
        quantize_float8_(nn.Identity(), 16)
    with pytest.raises(TypeError, match="Linear has no layer in FP8: load the pipeline with precision fp8"):
        multiply_(nn.Linear(2, 2), 16)


# ---- pipelines --------------------------------------------------------------------------------------------------


def test_a_pipeline_in_fp8_is_known_everywhere(pipe, plain):
    checked(pipe, eight_bit=PARTS, device="cuda")
    assert not placement(pipe).problems
    formats = {held.format for part in PARTS for _, _, held in quantized(getattr(pipe, part))}
    assert formats == {"float8"}
    assert accounting.components(pipe) == slim.predict("shapes", "fp8")
    assert accounting.components(plain[0]) == accounting.predict("shapes", "fp8")
    kinds = {type(layer) for layer in pipe.transformer.modules()}
    assert {Float8Linear, Float8Pointwise} < kinds and nn.Linear not in kinds


def test_it_draws_nearly_what_16_bits_draw_with_guidance_and_without(pipe):
    exact = load_sana("shapes", "bf16")
    for options in ({}, {"guidance_scale": 1.0}):
        assert decibels(draw(exact, **options), draw(pipe, **options)) > 18
    multiply_(pipe.transformer, 16)
    multiply_(pipe.text_encoder, 16)
    assert decibels(draw(exact), draw(pipe)) > 25
    multiply_(pipe.transformer, 8)
    multiply_(pipe.text_encoder, 8)


def rows_of_codes(model):
    """Every row of codes of a model, with how often it is there."""
    rows = (row for _, _, held in quantized(model) for row in held.codes.cpu().view(torch.uint8).flatten(1))
    return Counter(row.numpy().tobytes() for row in rows)


@pytest.mark.parametrize("activations", [8, 16])
def test_the_fast_mode_has_the_same_codes(gpu, activations):
    pipe = load_sana("shapes", "fp8", slim=True, activations=activations)
    before = rows_of_codes(pipe.transformer)
    exact = draw(pipe)
    speed_up_(pipe, activations=activations)
    assert rows_of_codes(pipe.transformer) == before  # those of queries, keys and values stand in one weight now
    assert decibels(exact, draw(pipe)) > (15 if activations == 8 else 25)  # inputs are rounded anew, a hair apart
    with pytest.raises(TypeError, match="not fused yet"):
        fuse_(pipe.transformer)


def test_keys_and_values_may_be_left_out(gpu):
    pipe = load_sana("shapes", "bf16")
    quantize_float8_(pipe.transformer, skip=float8_layers.KEYS_AND_VALUES)
    attention = pipe.transformer.transformer_blocks[0].attn2
    assert type(attention.to_k) is type(attention.to_v) is nn.Linear and type(attention.to_q) is Float8Linear


@pytest.mark.parametrize("slimmed", [False, True])
def test_saved_and_loaded_it_draws_the_very_same(plain, tmp_path, slimmed):
    pipe, folder = (load_sana("shapes", "fp8", slim=True), tmp_path) if slimmed else plain
    pipe.save_pretrained(folder)
    again = load_sana(folder, "fp8")
    assert torch.equal(draw(pipe), draw(again))
    assert accounting.components(pipe) == accounting.components(again)
    checked(again, eight_bit=PARTS)
    weights = load_sana(folder, "fp8", activations=16)
    assert {type(m) for m in weights.transformer.modules()}.isdisjoint({Float8Linear, Float8Pointwise})
    for given in ({"precision": "int8"}, {"precision": "bf16"}):
        with pytest.raises(ValueError, match="is in FP8: give precision 'fp8'"):
            load_sana(folder, **given)
    with pytest.raises(ValueError, match="leave slim out"):
        load_sana(folder, "fp8", slim=True)


def test_diffusers_refuses_what_it_cannot_read(plain):
    from diffusers import SanaTransformer2DModel

    with pytest.raises(ValueError, match="Unknown quantization type, got sana_lab_float8"):
        SanaTransformer2DModel.from_pretrained(plain[1], subfolder="transformer")


def drop(tensors):
    del tensors["proj_out.scale"]


def spoil(tensors):
    tensors["proj_out.codes"].view(torch.uint8)[0, 0] = 0x7F


def cut(tensors):
    tensors["proj_out.codes"] = tensors["proj_out.codes"][:, :16].contiguous()


def add(tensors):
    tensors["proj_out.taps"] = torch.ones(3)


@pytest.mark.parametrize("damage", [drop, spoil, cut, add])
def test_damaged_folders_are_refused_in_a_line(plain, tmp_path, damage):
    from safetensors.torch import load_file, save_file

    shutil.copytree(plain[1], tmp_path, dirs_exist_ok=True)
    file = next((tmp_path / "transformer").glob("*.safetensors"))
    tensors = load_file(file)
    damage(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(OSError, match="transformer: .*proj_out|codes of") as said:
        load_sana(tmp_path, "fp8")
    assert "\n" not in str(said.value)


def test_the_mark_is_in_the_configuration(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    for part in PARTS:
        config = json.loads((tmp_path / part / "config.json").read_text())
        assert config["quantization_config"]["quant_method"] == float8_layers.METHOD


def test_activations_are_for_fp8():
    with pytest.raises(ValueError, match="activations=16 is for fp8, not for int8: leave it out"):
        load_sana("shapes", "int8", activations=16)


def test_it_moves_to_the_cpu_and_back(pipe):
    before = draw(pipe)
    pipe.to("cpu")
    assert {str(t.device) for t in pipe.transformer.buffers()} == {"cpu"}
    pipe.to("cuda")
    assert torch.equal(before, draw(pipe))


# ---- torchao's own way ------------------------------------------------------------------------------------------


def test_torchao_missing_is_said_in_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ImportError, match=r"torchao is missing or too old: pip install 'torchao>=0.15', or use fp8"):
        torchao_float8.record(folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_way_of_torchaos_that_takes_too_long_or_dies_is_a_result(tmp_path, monkeypatch):
    late = torchao_float8._of_a_process(tmp_path, "config", 0.1)
    assert late == {"error": "TimeoutExpired", "text": "no result within 0.1 seconds"}
    told = {"layers": {}, "db": 30.0}
    begun = json.dumps(told | {"compiled": torchao_float8.NOT_DONE})
    for ending, what, limit in (
        ("time.sleep(60)", "TimeoutExpired", 5),
        ("raise SystemError('torchao died')", "SystemError", 60),
    ):
        script = f"import time; print({begun!r}, flush=True); {ending}"
        monkeypatch.setattr(torchao_float8.isolated, "module", lambda *_, script=script: [sys.executable, "-c", script])
        found = torchao_float8._of_a_process(tmp_path, "config", limit)
        assert told.items() <= found.items() and found["compiled"]["error"] == what, "what was known is kept"
    with pytest.raises(ValueError, match="route 'magic' is unknown: choose from config, quantize_, pointwise"):
        torchao_float8.transformer(tmp_path, "magic")
