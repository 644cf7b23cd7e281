"""Checkpoints with random weights: the Hub's format, what is shared, and that nothing half-written stays."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sana_lab import accounting, random_checkpoint, sana, use_accelerator
from sana_lab.checkpoints import resolve, variant_of
from sana_lab.random_checkpoint import make
from sana_lab.shapes import SHAPES_FOLDER

PARTS = ("text_encoder", "transformer", "vae")


@pytest.fixture(scope="module")
def sizes(tmp_path_factory):
    """Configurations alone, with two layers of each part of the Shapes model: all that `make` needs."""
    folder = tmp_path_factory.mktemp("sizes")
    changes = {
        "text_encoder": {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]},
        "transformer": {"num_layers": 2},
        "vae": {"decoder_layers_per_block": [1] * 6},
    }
    for part, change in changes.items():
        config = json.loads((SHAPES_FOLDER / part / "config.json").read_text())
        (folder / part).mkdir()
        (folder / part / "config.json").write_text(json.dumps(config | change))
    return folder


@pytest.fixture(scope="module")
def folder(sizes, tmp_path_factory):
    return make(sizes, tmp_path_factory.mktemp("random") / "bf16")


def tensors(folder):
    found = {}
    for part in PARTS:
        for file in (folder / part).glob("*.safetensors"):
            found |= {f"{part}.{name}": value for name, value in load_file(file).items()}
    return found


def draw(pipe):
    pipe.set_progress_bar_config(disable=True)
    noise = torch.Generator("cpu").manual_seed(3)
    size = {"height": 128, "width": 128, "use_resolution_binning": False}
    return pipe("a red star", num_inference_steps=2, generator=noise, output_type="np", **size).images


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_it_loads_as_any_folder_and_draws_finite_pictures(folder, precision):
    with use_accelerator(virtual=True):
        picture = draw(sana.load_sana(folder, precision))
    assert np.isfinite(picture).all() and picture.std() > 0.01


def test_fp16_tells_its_type_and_loads_with_and_without_the_variant(sizes, tmp_path):
    from diffusers import SanaPipeline

    folder = make(sizes, tmp_path / "fp16", dtype="fp16")
    assert {value.dtype for value in tensors(folder).values()} == {torch.float16}
    with use_accelerator(virtual=True):
        pipe = sana.load_sana(folder, "int8")
        assert pipe.transformer.dtype == torch.float16  # the trained type, which the variant tells
        assert np.isfinite(draw(sana.load_sana(folder, "fp16"))).all()
    for variant in (None, "fp16"):
        SanaPipeline.from_pretrained(folder, variant=variant, dtype=torch.float16)
    for file in folder.rglob("*.fp16.safetensors"):
        assert file.with_name(file.name.replace(".fp16", "")).samefile(file)


def test_a_seed_is_a_checkpoint(sizes, folder, tmp_path):
    torch.manual_seed(11)
    before = torch.get_rng_state()
    again, other = make(sizes, tmp_path / "again"), make(sizes, tmp_path / "other", seed=1)
    assert torch.equal(before, torch.get_rng_state())
    first, second, third = tensors(folder), tensors(again), tensors(other)
    assert first.keys() == second.keys() == third.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    drawn = [name for name, value in first.items() if value.unique().numel() > 2]  # not the ones of a norm
    assert len(drawn) > 0.5 * len(first)
    assert not any(torch.equal(first[name], third[name]) for name in drawn)


def test_weights_have_the_scale_of_the_libraries_own_initialization(folder):
    weights = tensors(folder)
    linear = weights["transformer.transformer_blocks.0.attn1.to_q.weight"].float()
    assert linear.abs().max() <= 1.01 * linear.shape[1] ** -0.5  # torch: uniform within one over the root of the inputs
    assert linear.std() == pytest.approx((3 * linear.shape[1]) ** -0.5, rel=0.02)
    encoder = weights["text_encoder.layers.0.self_attn.q_proj.weight"].float()
    assert encoder.std() == pytest.approx(0.02, rel=0.05)  # initializer_range
    assert (weights["text_encoder.norm.weight"] == 0).all()  # Gemma's norm multiplies with 1 + weight
    assert all(torch.isfinite(value).all() and value.dtype == torch.bfloat16 for value in weights.values())


@pytest.mark.parametrize("name", accounting.CHECKPOINTS)
def test_every_released_configuration_has_a_pipeline_class(name, tmp_path):
    sprint = accounting.CHECKPOINTS[name].get("guidance_embeds", False)
    random_checkpoint._write_small_files(tmp_path / "p", sprint=sprint)
    assert resolve(tmp_path / "p").pipeline_class.__name__ == ("SanaSprintPipeline" if sprint else "SanaPipeline")


def test_sprint_draws(sizes, tmp_path):
    configs = shutil.copytree(sizes, tmp_path / "configs")
    config = json.loads((configs / "transformer/config.json").read_text())
    config |= {"guidance_embeds": True, "qk_norm": "rms_norm_across_heads"}
    (configs / "transformer/config.json").write_text(json.dumps(config))
    with use_accelerator(virtual=True):
        pipe = sana.load_sana(make(configs, tmp_path / "sprint"), "bf16")
        assert type(pipe).__name__ == "SanaSprintPipeline" and np.isfinite(draw(pipe)).all()


def test_the_folder_says_what_it_is(sizes, folder):
    mark = json.loads((folder / "RANDOM.json").read_text())
    assert "random weights" in mark["what"] and mark["checkpoint"] == sizes.name
    assert mark["parts"].keys() == set(PARTS)
    assert mark["parts"]["transformer"] == {"seed": 0, "dtype": "bf16", "drawn_on": "cpu"}


def test_shards(sizes, folder, tmp_path, monkeypatch):
    from diffusers import AutoencoderDC, SanaTransformer2DModel
    from transformers import Gemma2Model

    for kind in (AutoencoderDC, SanaTransformer2DModel, Gemma2Model):
        save = kind.save_pretrained
        monkeypatch.setattr(
            kind, "save_pretrained", lambda s, f, save=save, **given: save(s, f, **given | {"max_shard_size": "500KB"})
        )
    for dtype in ("bf16", "fp16"):
        sharded = make(sizes, tmp_path / dtype, dtype=dtype)
        assert len(list((sharded / "transformer").glob("*-of-*"))) > 1
        with use_accelerator(virtual=True):
            for variant in {None, variant_of(sharded)}:
                options = {"subfolder": "transformer", "variant": variant}
                loaded = SanaTransformer2DModel.from_pretrained(sharded, **options).state_dict()
                encoder = Gemma2Model.from_pretrained(sharded, **options | {"subfolder": "text_encoder"})
        if dtype == "bf16":
            whole = tensors(folder)
            assert all(torch.equal(v.bfloat16(), whole[f"transformer.{n}"]) for n, v in loaded.items())
            assert torch.equal(encoder.norm.weight.bfloat16(), whole["text_encoder.norm.weight"])


def test_the_large_parts_can_be_shared(sizes, folder, tmp_path):
    configs = shutil.copytree(sizes, tmp_path / "configs")
    config = json.loads((configs / "transformer/config.json").read_text())
    (configs / "transformer/config.json").write_text(json.dumps(config | {"num_layers": 1}))
    second = make(configs, tmp_path / "second", seed=5, parts_from=folder)
    for part in ("text_encoder", "vae"):
        for file in (folder / part).iterdir():
            assert (second / part / file.name).samefile(file)
    parts = json.loads((second / "RANDOM.json").read_text())["parts"]
    assert [parts[name]["seed"] for name in ("text_encoder", "transformer", "vae")] == [0, 5, 0]
    assert len(sana.load_sana(second, "fp32").transformer.transformer_blocks) == 1


def test_parts_that_do_not_fit_are_refused(sizes, folder, tmp_path):
    with pytest.raises(ValueError, match="in bf16: ask for that dtype"):
        make(sizes, tmp_path / "no", dtype="fp16", parts_from=folder)
    with pytest.raises(ValueError, match="has other sizes"):
        make("600M-512", tmp_path / "no", parts_from=folder)
    with pytest.raises(ValueError, match="has no usable RANDOM.json: give a folder that `sana-lab make-random` made"):
        make(sizes, tmp_path / "no", parts_from=SHAPES_FOLDER)
    assert not (tmp_path / "no").exists()


def test_bad_input_is_one_line_with_the_way_out(sizes, folder, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="model '700M' is unknown: choose from shapes, 600M-512"):
        make("700M", tmp_path / "no")
    with pytest.raises(ValueError, match="dtype 'int8' is unknown: choose from bf16, fp16"):
        make(sizes, tmp_path / "no", dtype="int8")
    with pytest.raises(ValueError, match="seed -1: give a whole number"):
        make(sizes, tmp_path / "no", seed=-1)
    with pytest.raises(OSError, match="exists already: give another FOLDER"):
        make(sizes, folder)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=3 * 10**9))
    with pytest.raises(
        OSError, match=r"600M-512 takes 7\.\d GB and .* has 3.0 GB free: give a FOLDER on a larger disk"
    ):
        make("600M-512", tmp_path / "no")
    assert not any(tmp_path.iterdir())


def test_what_was_stopped_leaves_nothing(sizes, tmp_path, monkeypatch):
    from diffusers import SanaTransformer2DModel

    def stopped(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(SanaTransformer2DModel, "save_pretrained", stopped)
    with pytest.raises(KeyboardInterrupt):
        make(sizes, tmp_path / "folder")
    assert not any(tmp_path.iterdir())


def test_command(sizes, tmp_path):
    from typer.testing import CliRunner

    from sana_lab.cli import app

    done = CliRunner().invoke(app, ["make-random", str(sizes), str(tmp_path / "made"), "--seed", "3"])
    assert done.exit_code == 0, done.output
    assert str(tmp_path / "made") in done.output
    assert json.loads((tmp_path / "made" / "RANDOM.json").read_text())["parts"]["vae"]["seed"] == 3
