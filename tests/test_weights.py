"""Nothing is drawn from weights that are not there: each way to break a checkpoint is refused in one line."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_sana import build_folder

from sana_lab import load_sana, use_accelerator, weights
from sana_lab.generate import many

FILES = {
    "text_encoder": "text_encoder/model.safetensors",
    "transformer": "transformer/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
}
TENSORS = {
    "text_encoder": "layers.0.mlp.up_proj.weight",
    "transformer": "transformer_blocks.1.attn1.to_q.weight",
    "vae": "decoder.conv_in.weight",
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return build_folder(tmp_path_factory.mktemp("weights") / "pipeline")


@pytest.fixture
def folder(source, tmp_path):
    return shutil.copytree(source, tmp_path / "copy")


@pytest.fixture(scope="module", autouse=True)
def gpu():
    with use_accelerator(virtual=True) as accelerator:
        yield accelerator


def edited(file, edit):
    tensors = load_file(file)
    tensors = edit(tensors) or tensors
    save_file({name: value.contiguous() for name, value in tensors.items()}, file, metadata={"format": "pt"})


def configured(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def refusal(folder, precision="bf16", error=OSError):
    with pytest.raises(error) as refused:
        load_sana(folder, precision)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(str(folder)) and "get the folder again" in str(refused.value).lower()
    return str(refused.value).removeprefix(str(folder))


def put(value):
    """A way to put one number among the weights of a tensor."""

    def edit(tensors, name):
        tensors[name].view(-1)[3] = value

    return edit


def drop(tensors, name):
    del tensors[name]


def add(tensors, name):
    tensors["another.weight"] = torch.zeros(3)


def cut(tensors, name):
    tensors[name] = tensors[name][:-1].clone()


def turn(tensors, name):
    tensors[name] = tensors[name].flatten()[None]


def whole_numbers(tensors, name):
    tensors[name] = tensors[name].to(torch.int8)


def widen(tensors, name):
    tensors[name] = tensors[name].double() * 0 + 1e39


EDITS = {  # what was done to one tensor → how, words of the refusal
    "missing": (drop, "{name} is missing"),
    "unexpected": (add, "no place for another.weight"),
    "a row less": (cut, "{name} is ["),
    "flattened": (turn, "{name} is [1, "),
    "in whole numbers": (whole_numbers, "{name} holds I8"),
    "NaN": (put(float("nan")), "NaN or infinity in {name}"),
    "infinity": (put(float("inf")), "NaN or infinity in {name}"),
    "minus infinity": (put(float("-inf")), "NaN or infinity in {name}"),
    "beyond bfloat16": (widen, "beyond 3.3895e+38, the largest of the type, in {name}"),
}


@pytest.mark.parametrize("component", FILES)
@pytest.mark.parametrize("how", EDITS)
def test_a_broken_tensor_is_named_with_its_component(folder, component, how):
    edit, words = EDITS[how]
    name = TENSORS[component]
    edited(folder / FILES[component], lambda tensors: edit(tensors, name))
    for precision in ("bf16", "int8", "nf4") if how in ("missing", "NaN", "a row less") else ("int8",):
        told = refusal(folder, precision)
        expected = words.format(name=name)
        if component != "vae":  # is not cast to float16 on its way to 8 bits
            expected = expected.replace("3.3895e+38", "65504")
        assert f"({component}: " in told and expected in told, precision


def test_8_bits_are_made_in_float16_which_a_weight_must_fit(folder):
    name = TENSORS["transformer"]
    edited(folder / FILES["transformer"], lambda tensors: put(7e4)(tensors, name))
    load_sana(folder, "bf16")
    assert f"(transformer: numbers beyond 65504, the largest of the type, in {name})" in refusal(folder, "int8")
    assert "65504" in refusal(folder, "fp16")


def test_the_embedding_of_the_text_encoder_is_not_made_up(folder):
    edited(folder / FILES["text_encoder"], lambda tensors: drop(tensors, "embed_tokens.weight"))
    for precision in ("bf16", "int8"):
        assert "text_encoder: model.safetensors and config.json do not fit, embed_tokens.weight is missing" in refusal(
            folder, precision
        )


def test_many_missing_tensors_are_counted(folder):
    count = len(load_file(folder / FILES["transformer"]))
    edited(folder / FILES["transformer"], lambda tensors: {"proj_out.bias": tensors["proj_out.bias"]})
    assert f" and {count - 2} more are missing" in refusal(folder) and len(refusal(folder)) < 200


CONFIGURATIONS = {  # component, changes → words of the refusal
    "fewer layers": ("transformer", {"num_layers": 1}, "no place for transformer_blocks.1."),
    "more layers": ("transformer", {"num_layers": 3}, "transformer_blocks.2."),
    "a norm more": ("transformer", {"qk_norm": "rms_norm_across_heads"}, "norm_"),
    "wider": ("transformer", {"caption_channels": 96}, "caption_projection"),
    "another model": ("text_encoder", {"model_type": "bert"}, "missing"),
    "a cousin": ("text_encoder", {"model_type": "gemma"}, "no place for layers.0."),
    "no model": ("text_encoder", {"model_type": "gemma99"}, "no model that can be built"),
    "no layers": ("text_encoder", {"num_hidden_layers": 0, "layer_types": []}, "no place for layers.0."),
    "a word for a number": ("transformer", {"num_layers": "two"}, "no model that can be built"),
    "another autoencoder": ("vae", {"latent_channels": 4}, "should be ["),
}


@pytest.mark.parametrize("how", CONFIGURATIONS)
def test_a_configuration_that_does_not_fit_its_file_is_refused(folder, how):
    component, changes, words = CONFIGURATIONS[how]
    configured(folder / component / "config.json", **changes)
    for precision in ("bf16", "int8"):
        told = refusal(folder, precision)
        assert f"({component}: " in told and words in told


@pytest.mark.parametrize("text", ["", "[]", "3", "null", '{"num', '"quantization"'])
@pytest.mark.parametrize("component", FILES)
def test_a_configuration_that_is_none(folder, component, text):
    (folder / component / "config.json").write_text(text)
    assert f"({component}: config.json " in refusal(folder)


@pytest.mark.parametrize("component", FILES)
def test_a_component_that_is_quantized_already_says_so(folder, component):
    config = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    configured(folder / component / "config.json", quantization_config=config)
    for precision in ("bf16", "int8"):
        with pytest.raises(ValueError, match=f"the {component} is quantized already.*or load this one with") as refused:
            load_sana(folder, precision)
        assert "\n" not in str(refused.value)


# ---- files ------------------------------------------------------------------------------------------------------


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"


@pytest.mark.parametrize("component", FILES)
@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "is damaged"), (POINTER, "is a Git LFS pointer"), (b"\0" * 4096, "is damaged"), (None, "is missing")],
)
def test_a_file_that_is_none(folder, component, content, words):
    file = folder / FILES[component]
    file.unlink() if content is None else file.write_bytes(content)
    assert f"({component}: {file.name} {words}" in refusal(folder)


@pytest.mark.parametrize(
    "name", [*FILES.values(), "model_index.json", "transformer/config.json", "tokenizer/tokenizer.json"]
)
def test_a_named_pipe_is_refused_and_not_waited_for(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert f"{name} is no regular file" in refusal(folder)
    with pytest.raises(OSError, match="is no regular file"):
        many._settings(str(folder), "bf16", None, 4.5, None, 1)


def test_a_folder_in_the_place_of_a_file(folder):
    (folder / FILES["vae"]).unlink()
    (folder / FILES["vae"]).mkdir()
    assert "(vae: diffusion_pytorch_model.safetensors is missing)" in refusal(folder)


def test_a_model_index_with_a_number_for_a_component(folder):
    configured(folder / "model_index.json", scheduler=3)
    assert "a component is a library and a class" in refusal(folder, error=ValueError)


@pytest.fixture
def sharded(folder):
    """The same weights in several files each."""
    from diffusers import AutoencoderDC, SanaTransformer2DModel
    from transformers import AutoModel

    kinds = {"transformer": SanaTransformer2DModel, "vae": AutoencoderDC, "text_encoder": AutoModel}
    for component, kind in kinds.items():
        model = kind.from_pretrained(folder / component)
        (folder / FILES[component]).unlink()
        model.save_pretrained(folder / component, max_shard_size="40KB")
        assert len(list((folder / component).glob("*.safetensors"))) > 2
    return folder


def test_shards_load(source, sharded):
    ours, whole = load_sana(sharded, "int8"), load_sana(source, "int8")
    for component in FILES:
        for name, value in getattr(whole, component).state_dict().items():
            assert torch.equal(getattr(ours, component).state_dict()[name].cpu(), value.cpu()), name


@pytest.mark.parametrize("component", FILES)
def test_a_broken_shard_is_named(sharded, component):
    (index,) = (sharded / component).glob("*.index.json")
    before = index.read_text()
    places = json.loads(before)
    name, shard = next(iter(places["weight_map"].items()))

    index.write_text(json.dumps(places | {"weight_map": places["weight_map"] | {name: "absent.safetensors"}}))
    assert f"({component}: absent.safetensors is missing, which {index.name} names" in refusal(sharded)
    index.write_text(json.dumps(places | {"weight_map": places["weight_map"] | {"more.weight": shard}}))
    assert f"({component}: {shard} lacks what {index.name} says, more.weight is missing" in refusal(sharded)
    outside = f"../{component}/{shard}"
    index.write_text(json.dumps(places | {"weight_map": places["weight_map"] | {name: outside}}))
    assert "names a file in another folder" in refusal(sharded)
    for text in ("", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', '{"weight_map": {}}'):
        index.write_text(text)
        assert f"({component}: {index.name} is damaged" in refusal(sharded)

    index.write_text(before)
    edited(sharded / component / shard, lambda tensors: put(float("nan"))(tensors, name))
    assert f"({component}: NaN or infinity in {name})" in refusal(sharded)
    edited(sharded / component / shard, lambda tensors: drop(tensors, name))
    assert f"({component}: {shard} lacks what {index.name} says, {name} is missing" in refusal(sharded)
    (sharded / component / shard).unlink()
    assert f"({component}: {shard} is missing" in refusal(sharded)


# ---- what stands on load_sana -----------------------------------------------------------------------------------


def test_whatever_loads_a_pipeline_refuses_it_too(folder, tmp_path):
    from typer.testing import CliRunner

    from sana_lab import cli
    from sana_lab.evaluate import conditions
    from sana_lab.measure import worker
    from sana_lab.measure.methods import find
    from sana_lab.outliers import measure
    from sana_lab.planted import copy_with_outliers
    from sana_lab.shapes import sample_scenes

    name = TENSORS["transformer"]
    edited(folder / FILES["transformer"], lambda tensors: put(float("nan"))(tensors, name))
    ways = {
        "evaluate": lambda: conditions.load(folder, conditions.CONDITIONS["int8-transformer"], "cuda"),
        "evaluate, simulated": lambda: conditions.load(folder, conditions.CONDITIONS["w4"], "cuda"),
        "measure": lambda: worker.load(folder, find("int8-slim")),
        "outliers": lambda: measure(folder, sample_scenes(1, 1, seed=0)),
        "planted": lambda: copy_with_outliers(folder, tmp_path / "planted", 10.0),
    }
    for way, call in ways.items():
        with pytest.raises(OSError, match=f"NaN or infinity in {name}"):
            call()
        assert way and not (tmp_path / "planted").exists()
    asked = ["generate", "a red star", "--model", str(folder), "--out", str(tmp_path / "x.png")]
    run = CliRunner().invoke(cli.app, asked)
    assert run.exit_code and not (tmp_path / "x.png").exists()


# ---- what is fine -----------------------------------------------------------------------------------------------


def test_what_a_released_text_encoder_may_hold_besides_is_no_fault(folder):
    """Names as a language model with a head saves them, its head, and what older versions of transformers wrote."""

    def as_language_model(tensors):
        named = {f"model.{name}": value for name, value in tensors.items()}
        named["lm_head.weight"] = tensors["embed_tokens.weight"].clone()
        named["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(16)
        return named

    before = load_sana(folder, "bf16").text_encoder.state_dict()
    edited(folder / FILES["text_encoder"], as_language_model)
    for precision in ("bf16", "int8"):
        after = load_sana(folder, precision).text_encoder.state_dict()
        assert torch.equal(after["embed_tokens.weight"].cpu(), before["embed_tokens.weight"].cpu())


@pytest.mark.parametrize("variant", [None, "fp16", "bf16"])
@pytest.mark.parametrize("precision", ["bf16", "int8", "fp32"])
@pytest.mark.filterwarnings("ignore:.*was trained in fp16")
def test_variants_load(tmp_path, variant, precision):
    load_sana(build_folder(tmp_path / "made", variant=variant), precision)


def test_the_libraries_report_is_believed_too():
    from torch import nn

    info = {"missing_keys": {"b.weight", "a.weight"}, "unexpected_keys": set(), "mismatched_keys": set()}
    with pytest.raises(OSError, match=r"vae: a\.weight and 1 more are missing"):
        weights.whole("vae", (nn.Identity(), info))
    info = {"missing_keys": [], "unexpected_keys": ["lm_head.weight"], "mismatched_keys": [("c", (1,), (2,))]}
    with pytest.raises(OSError, match="vae: c is of another shape"):
        weights.whole("vae", (nn.Identity(), info))
    model = nn.Identity()
    assert weights.whole("vae", (model, info | {"mismatched_keys": []})) is model
