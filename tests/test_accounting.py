"""Predicted bytes against bytes of models that the libraries really loaded, and counts against closed forms."""

import gc
import logging

import pytest
import torch
from diffusers import AutoencoderDC, SanaTransformer2DModel
from diffusers import BitsAndBytesConfig as DiffusersBitsAndBytesConfig
from diffusers.quantizers.bitsandbytes import bnb_quantizer
from torch import nn
from transformers import AutoModel, BitsAndBytesConfig, Gemma2Config, Gemma2Model

from sana_lab import accounting, use_accelerator
from sana_lab.float8_layers import quantize_float8_

# Small, and with sizes that are no multiples of 64 or 2, so that a block or a byte is left half full.
TRANSFORMERS = {
    "plain": {},
    "2K or 4K": {"interpolation_scale": 2.0},
    "1.5": {"qk_norm": "rms_norm_across_heads"},
    "Sprint": {"qk_norm": "rms_norm_across_heads", "guidance_embeds": True},
}
QUANTIZED = {
    "int8": {"load_in_8bit": True},
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("pipeline"), "plain")


def make_folder(folder, kind):
    SanaTransformer2DModel(
        num_attention_heads=3,
        attention_head_dim=12,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=18,
        cross_attention_dim=36,
        caption_channels=45,
        sample_size=8,
        **{"interpolation_scale": None} | TRANSFORMERS[kind],
    ).save_pretrained(folder / "transformer")
    text_encoder = Gemma2Config(
        vocab_size=99,
        hidden_size=45,
        intermediate_size=33,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=10,
    )
    Gemma2Model(text_encoder).save_pretrained(folder / "text_encoder")
    AutoencoderDC(
        latent_channels=4,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 16),
        decoder_block_out_channels=(8, 16),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        attention_head_dim=4,
    ).save_pretrained(folder / "vae")
    return folder


def load(folder, precision, monkeypatch):
    """The three models by their libraries' own loaders, as a pipeline would hold them."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns at every cast of activations
    dtype = DTYPES.get(precision, torch.bfloat16)
    if precision not in QUANTIZED:
        theirs = ours = None
    else:
        # diffusers 0.42.1 refuses to quantize without a GPU. All that happens after these two methods needs none.
        for quantizer in (bnb_quantizer.BnB8BitDiffusersQuantizer, bnb_quantizer.BnB4BitDiffusersQuantizer):
            monkeypatch.setattr(quantizer, "validate_environment", lambda *_, **__: None)
            monkeypatch.setattr(quantizer, "update_device_map", lambda *_: {"": "cpu"})
        theirs = BitsAndBytesConfig(**QUANTIZED[precision])
        ours = DiffusersBitsAndBytesConfig(**QUANTIZED[precision])
    return {
        "text_encoder": AutoModel.from_pretrained(
            folder / "text_encoder", torch_dtype=dtype, quantization_config=theirs
        ),
        "transformer": SanaTransformer2DModel.from_pretrained(
            folder / "transformer", torch_dtype=dtype, quantization_config=ours
        ),
        "vae": AutoencoderDC.from_pretrained(folder / "vae", torch_dtype=dtype),
    }


@pytest.mark.parametrize("kind", TRANSFORMERS)
@pytest.mark.parametrize("precision", accounting.PRECISIONS)
def test_the_prediction_is_what_loading_holds_to_the_byte(tmp_path, precision, kind, monkeypatch):
    folder = make_folder(tmp_path, kind)
    models = load(folder, "bf16" if precision == "fp8" else precision, monkeypatch)
    if precision == "fp8":
        for part in ("text_encoder", "transformer"):
            quantize_float8_(models[part], 16)
    assert accounting.components(models) == accounting.predict(folder, precision)
    assert accounting.components(models, granule=512) == accounting.predict(folder, precision, granule=512)
    plan = accounting.plan(folder, precision)
    for component, model in models.items():
        planned = plan[plan.component == component].drop(columns="component")
        held = {(s.layer, s.tensor): s for s in accounting.held(model)}
        assert {(row.layer, row.tensor) for row in planned.itertuples()} == set(held)
        for row in planned.itertuples(index=False):
            assert accounting.Stored(*row) == held[row.layer, row.tensor]
        if precision not in QUANTIZED:
            tensors = [*model.parameters(), *model.buffers()]
            assert accounting.components(models)[component] == sum(t.numel() * t.element_size() for t in tensors)


@pytest.mark.parametrize("precision", ["bf16", "int8", "nf4"])
def test_the_prediction_is_what_the_virtual_gpu_counts(folder, precision):
    classes = {"text_encoder": AutoModel, "transformer": SanaTransformer2DModel, "vae": AutoencoderDC}
    configs = {"text_encoder": BitsAndBytesConfig, "transformer": DiffusersBitsAndBytesConfig}
    predicted = accounting.predict(folder, precision, granule=512)
    with use_accelerator(virtual=True):
        loaded = []
        for component, cls in classes.items():
            before = torch.cuda.memory_allocated()
            if precision in QUANTIZED and component in configs:
                config = configs[component](**QUANTIZED[precision])
                model = cls.from_pretrained(folder / component, torch_dtype=torch.bfloat16, quantization_config=config)
            else:
                model = cls.from_pretrained(folder / component, torch_dtype=torch.bfloat16).to("cuda")
            gc.collect()
            assert torch.cuda.memory_allocated() - before == predicted[component]
            loaded.append(model)


def test_the_first_call_of_an_8_bit_model_moves_its_statistics_and_adds_no_bytes(folder, monkeypatch):
    encoder = load(folder, "int8", monkeypatch)["text_encoder"].eval()
    layer = encoder.layers[0].mlp.up_proj
    before = sorted(accounting.held(encoder), key=str)
    assert layer.weight.SCB is not None and layer.state.SCB is None
    encoder(input_ids=torch.arange(9)[None])
    assert layer.weight.SCB is None and layer.state.SCB is not None
    assert sorted(accounting.held(encoder), key=str) == before


@pytest.mark.parametrize("precision", ["int8", "nf4", "double"])
def test_held_agrees_with_what_bitsandbytes_saves(folder, precision, monkeypatch):
    """A state dict has every tensor, and besides them only descriptions of the format."""
    if precision == "double":
        monkeypatch.setitem(QUANTIZED, "double", QUANTIZED["nf4"] | {"bnb_4bit_use_double_quant": True})
    encoder = load(folder, precision, monkeypatch)["text_encoder"]
    saved = {name: t for name, t in encoder.state_dict().items() if "weight_format" not in name and "__" not in name}
    unsaved = sum(b.numel() * b.element_size() for b in encoder.buffers())
    if precision == "double":
        unsaved += 4 * sum("nested_absmax" in name for name in saved)  # the offset is saved as text
    expected = unsaved + sum(t.numel() * t.element_size() for t in saved.values())
    assert accounting.components({"text_encoder": encoder}) == {"text_encoder": expected}
    assert accounting.count(encoder).parameters.sum() == sum(
        p.numel() for p in accounting.build(folder)["text_encoder"].parameters()
    )


def test_the_transformer_is_its_closed_form():
    """8 d² of Linear and 7.5 d² of convolution a block: the reason why 8 bits on Linear save so little."""
    table = accounting.count(accounting.build("600M-512")["transformer"])
    d, layers, caption, time, latent = 1152, 28, 2304, 256, 32
    self_attention, cross_attention = 4 * d * d + d, 4 * (d * d + d)
    hidden = int(2.5 * d)
    feed_forward = (d * 2 * hidden + 2 * hidden) + (9 * 2 * hidden + 2 * hidden) + hidden * d
    embedders = (caption * d + d + d * d + d) + (time * d + d + d * d + d) + (6 * d * d + 6 * d) + (d * latent + latent)
    assert table.parameters["Linear"] == layers * (self_attention + cross_attention) + embedders
    assert table.parameters["Conv2d"] == layers * feed_forward + latent * d + d
    assert table.parameters["other"] == layers * 6 * d + 2 * d
    assert table.parameters["norm"] == d
    assert table.layers.to_dict() == {
        "Linear": layers * 8 + 6,
        "Conv2d": layers * 3 + 1,
        "other": layers + 1,
        "norm": 1,
    }
    assert table.share.sum() == pytest.approx(1) and table.share["Linear"] == pytest.approx(0.526, abs=5e-4)
    assert (table.bytes == 2 * table.parameters).all()
    int8 = accounting.predict("600M-512", "int8")["transformer"]
    weights = table.parameters["Linear"] - layers * 5 * d - (10 * d + latent)  # all but the biases
    rows = layers * 8 * d + 10 * d + latent
    assert table.bytes.sum() - int8 == weights - 4 * rows


def test_the_text_encoder_is_gemma_2_2b():
    table = accounting.count(accounting.build("1600M-1024")["text_encoder"])
    assert table.parameters.sum() == 2_614_341_888
    assert table.parameters["Embedding"] == 256_000 * 2304
    assert table.parameters["buffer"] == 0 and table.bytes["buffer"] > 0


@pytest.mark.parametrize("checkpoint", accounting.CHECKPOINTS)
def test_every_checkpoint_has_the_size_that_its_name_says(checkpoint):
    billions = {"600M": 0.6, "1600M": 1.6, "1.5": 1.6, "sprint": 1.6}[checkpoint.split("-")[0]]
    billions = {"1.5-4.8B": 4.8, "sprint-0.6B": 0.6}.get(checkpoint, billions)
    models = accounting.build(checkpoint)
    parameters = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    assert parameters["transformer"] == pytest.approx(billions * 1e9, rel=0.02)
    assert parameters["vae"] == pytest.approx(312e6, rel=0.002)
    assert all(t.is_meta for model in models.values() for t in [*model.parameters(), *model.buffers()])
    buffers = sum(b.numel() * b.element_size() for b in models["transformer"].buffers())
    assert buffers == {"1600M-2K": 64**2 * 2240 * 4, "1600M-4K": 128**2 * 2240 * 4}.get(checkpoint, 0)


def test_configurations_agree_with_the_defaults_of_the_libraries():
    """Both libraries chose a released model for their defaults."""
    with torch.device("meta"):
        theirs = {
            "transformer": SanaTransformer2DModel(interpolation_scale=None),
            "text_encoder": Gemma2Model(Gemma2Config()),
        }
    ours = accounting.build("1600M-1024")
    for component, model in theirs.items():
        shapes = {name: p.shape for name, p in model.named_parameters()}
        assert shapes == {name: p.shape for name, p in ours[component].named_parameters()}


def test_each_component_can_have_its_own_precision():
    mixed = {"text_encoder": "int8", "transformer": "nf4", "vae": "fp32"}
    predicted = accounting.predict("600M-512", mixed)
    assert predicted == {c: accounting.predict("600M-512", p)[c] for c, p in mixed.items() if c != "vae"} | {
        "vae": accounting.predict("600M-512", "fp32")["vae"]
    }
    assert list(predicted) == list(accounting.COMPONENTS)
    for precision in ("int8", "nf4"):
        assert accounting.predict("600M-512", precision)["vae"] == accounting.predict("600M-512", "bf16")["vae"]


def test_a_plan_lists_every_tensor_in_the_order_of_the_models():
    plan = accounting.plan("600M-512", {"vae": "fp16", "transformer": "nf4", "text_encoder": "int8"})
    assert list(plan.component.unique()) == list(accounting.COMPONENTS) and list(plan.index) == list(range(len(plan)))
    dtypes = plan.groupby("component").dtype.unique().map(set).to_dict()
    assert dtypes == {
        "text_encoder": {"bfloat16", "int8", "float32"},
        "transformer": {"bfloat16", "uint8", "float32"},
        "vae": {"float16"},
    }
    encoder = plan[plan.component == "text_encoder"].set_index(["layer", "tensor"])
    assert encoder.kind["rotary_emb", "inv_freq"] == "buffer" and encoder.bytes["rotary_emb", "inv_freq"] == 4 * 128
    assert encoder.kind["embed_tokens", "weight"] == "Embedding" and encoder.kind["norm", "weight"] == "norm"
    layer = encoder.loc["layers.0.mlp.up_proj"]
    assert layer.bytes.to_dict() == {"weight": 9216 * 2304, "SCB": 4 * 9216} and set(layer.kind) == {"Linear"}
    assert layer.parameters.to_dict() == {"weight": 9216 * 2304, "SCB": 0}
    layer = plan[plan.layer == "transformer_blocks.0.attn1.to_q"].set_index("tensor")
    assert layer.bytes.to_dict() == {"weight": 1152**2 // 2, "absmax": 4 * 1152**2 // 64, "code": 64}


def test_16_bits_in_bfloat16_are_the_default():
    assert set(accounting.plan("600M-512").dtype) == {"bfloat16", "float32"}
    assert accounting.predict("600M-512") == accounting.predict("600M-512", "bf16")
    assert next(accounting.build("600M-512")["vae"].parameters()).dtype == torch.bfloat16
    assert accounting.count(nn.Identity()).empty


def test_shared_tensors_count_once_and_other_parts_of_a_pipeline_not_at_all():
    embedding, output = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
    output.weight = embedding.weight
    model = nn.ModuleList([embedding, output, nn.LayerNorm(4)])
    assert accounting.components({"model": model, "tokenizer": object(), "scheduler": None}) == {"model": 4 * (40 + 8)}
    table = accounting.count(model)
    assert table.parameters.to_dict() == {"Embedding": 40, "norm": 8} and list(table.index) == ["Embedding", "norm"]

    class Pipeline:
        components = {"model": model, "tokenizer": object()}

    assert accounting.components(Pipeline()) == {"model": 192}
    assert accounting.components({"model": model}, granule=512) == {"model": 512 * 3}


def test_a_copy_of_8_bit_codes_left_behind_is_counted(folder, monkeypatch):
    """As bitsandbytes before 0.48 left one, when a model was moved after its first call."""
    encoder = load(folder, "int8", monkeypatch)["text_encoder"]
    before = accounting.components({"encoder": encoder})["encoder"]
    layer = encoder.layers[0].mlp.up_proj
    layer.state.CB = layer.weight.data.clone()
    assert accounting.components({"encoder": encoder})["encoder"] == before + layer.weight.numel()


ODD = {"vae": "bf16", "q": "bf16"}
MIXED = {"text_encoder": "bf16", "transformer": "bf16", "vae": "q"}
BAD = {
    "checkpoint": (ValueError, "'2B' is unknown: choose from shapes, 600M-512, .*-4", lambda: accounting.predict("2B")),
    "empty folder": (ValueError, " holds .* each with its config.json$", lambda: accounting.build("/")),
    "precision": (ValueError, "'int4' for text_encoder: .* fp32, bf16", lambda: accounting.plan("600M-512", "int4")),
    "one unknown": (ValueError, "'q' for vae", lambda: accounting.plan("600M-512", MIXED)),
    "one missing": (ValueError, "names vae, q: .* for text_encoder", lambda: accounting.plan("600M-512", ODD)),
    "no pipeline": (TypeError, "list holds no models", lambda: accounting.components([])),
    "no models": (TypeError, "dict holds no models", lambda: accounting.components({"tokenizer": object()})),
    "no module": (TypeError, "got dict: pass pipe.transformer", lambda: accounting.count({})),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_with_the_way_out(case):
    error, text, call = BAD[case]
    with pytest.raises(error, match=text):
        call()


def test_building_restores_the_default_dtype_also_after_an_error(monkeypatch):
    before = torch.get_default_dtype()
    accounting.build("600M-512", torch.float16)
    assert torch.get_default_dtype() == before
    monkeypatch.setitem(accounting.CHECKPOINTS["600M-512"], "patch_size", 0)
    with pytest.raises(ZeroDivisionError):
        accounting.build("600M-512")
    assert torch.get_default_dtype() == before
