"""`load_sana` against the recipe written by hand, on a folder with the Shapes model's format and a smaller inside."""

import json
import logging
import os
import shutil
import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_sana import build_folder
from torch import nn

from sana_lab import checkpoints, digests, libraries, use_accelerator
from sana_lab.checkpoints import CHECKPOINTS, PRECISIONS
from sana_lab.sana import load_sana
from sana_lab.shapes import manifest

PARTS = ("text_encoder", "transformer", "vae")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return build_folder(tmp_path_factory.mktemp("sana") / "pipeline")


@pytest.fixture
def gpu():
    with use_accelerator(virtual=True) as accelerator:
        yield accelerator


def draw(pipe, **options):
    """One small picture as numbers, always from the same noise."""
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(3)
    options = {"num_inference_steps": 2, "height": 512, "width": 512, "output_type": "np", **options}
    return pipe("a small red star", generator=generator, **options).images


def storages(pipe):
    """Bytes of every parameter and buffer by name, and what bitsandbytes keeps beside them."""
    found = {}
    for part in PARTS:
        for name, value in getattr(pipe, part).state_dict().items():
            found[f"{part}.{name}"] = value.detach().cpu().clone()
    return found


def classes(pipe):
    return {f"{part}.{name}": type(m).__name__ for part in PARTS for name, m in getattr(pipe, part).named_modules()}


def recipe(folder, precision):
    """The recipe of the diffusers documentation, with bf16 where the Shapes model has it."""
    from diffusers import BitsAndBytesConfig as DiffusersBitsAndBytesConfig
    from diffusers import SanaPipeline, SanaTransformer2DModel
    from transformers import AutoModel, BitsAndBytesConfig

    if precision == "int8":
        options = {"load_in_8bit": True}
    else:
        options = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16}
    text_encoder = AutoModel.from_pretrained(
        folder, subfolder="text_encoder", quantization_config=BitsAndBytesConfig(**options), dtype=torch.bfloat16
    )
    transformer = SanaTransformer2DModel.from_pretrained(
        folder,
        subfolder="transformer",
        quantization_config=DiffusersBitsAndBytesConfig(**options),
        dtype=torch.bfloat16,
    )
    pipe = SanaPipeline.from_pretrained(
        folder, text_encoder=text_encoder, transformer=transformer, dtype=torch.bfloat16
    )
    pipe.vae.to("cuda")
    return pipe


@pytest.mark.parametrize(("precision", "linear"), [("int8", "Linear8bitLt"), ("nf4", "Linear4bit")])
def test_quantized_pipeline_is_the_recipe_by_hand(folder, gpu, precision, linear):
    ours, by_hand = load_sana(folder, precision), recipe(folder, precision)
    assert classes(ours) == classes(by_hand)
    kinds = classes(ours)
    plain = {name for name, kind in kinds.items() if kind == "Linear"}
    assert all(name.startswith("vae.") for name in plain), plain  # every other Linear is quantized
    assert sum(kind == linear for kind in kinds.values()) > 20
    assert all(not kind.startswith("Linear8") for name, kind in kinds.items() if name.startswith("vae."))
    for part in ("text_encoder", "transformer"):
        configs = [getattr(pipe, part).config.quantization_config.to_dict() for pipe in (ours, by_hand)]
        assert configs[0] == configs[1]
    mine, theirs = storages(ours), storages(by_hand)
    assert mine.keys() == theirs.keys()
    for name in mine:
        assert mine[name].dtype == theirs[name].dtype and torch.equal(mine[name], theirs[name]), name
    assert any(value.dtype in (torch.int8, torch.uint8) for value in mine.values())
    picture = draw(ours)
    assert np.isfinite(picture).all() and picture.std() > 0.01  # not one color, and no NaN
    assert np.array_equal(picture, draw(by_hand))


def test_quantized_picture_differs_from_bf16_a_little(folder, gpu):
    exact, quantized = draw(load_sana(folder, "bf16")), draw(load_sana(folder, "int8"))
    difference = np.abs(exact - quantized).mean()
    assert 0 < difference < exact.std() / 2


def test_quantized_parts_are_not_moved_after_loading(folder, gpu, monkeypatch):
    from diffusers import DiffusionPipeline

    monkeypatch.setattr(DiffusionPipeline, "to", lambda *_: pytest.fail("older stacks refuse this"))
    load_sana(folder, "int8")
    with pytest.raises(pytest.fail.Exception):
        load_sana(folder, "bf16")


DTYPES = {
    "fp32": (torch.float32, torch.float32, torch.float32),
    "bf16": (torch.bfloat16, torch.bfloat16, torch.bfloat16),
    "fp16": (torch.bfloat16, torch.float16, torch.bfloat16),
    "int8": (torch.bfloat16, torch.bfloat16, torch.bfloat16),
    "fp8": (torch.bfloat16, torch.bfloat16, torch.bfloat16),
    "nf4": (torch.bfloat16, torch.bfloat16, torch.bfloat16),
}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_types_and_places(folder, gpu, precision):
    pipe = load_sana(folder, precision)
    assert tuple(getattr(pipe, part).dtype for part in PARTS) == DTYPES[precision]
    convolutions = {m.weight.dtype for m in pipe.transformer.modules() if isinstance(m, nn.Conv2d)}
    assert convolutions == {DTYPES[precision][1]}
    for part in PARTS:
        tensors = [*getattr(pipe, part).parameters(), *getattr(pipe, part).buffers()]
        assert {t.device.type for t in tensors} == {"cuda"}, part
        assert not getattr(pipe, part).training
    assert np.isfinite(draw(pipe, num_inference_steps=1)).all()


def test_without_a_gpu_it_goes_to_the_cpu(folder):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    pipe = load_sana(folder, "bf16")
    assert {p.device.type for part in PARTS for p in getattr(pipe, part).parameters()} == {"cpu"}
    for precision in ("int8", "fp8", "nf4"):
        with pytest.raises(RuntimeError, match=r"use_accelerator\(\)"):
            load_sana(folder, precision)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_second_gpu(folder, precision):
    with use_accelerator(gpus=2, virtual=True):
        pipe = load_sana(folder, precision, device="cuda:1")
        assert {str(p.device) for part in PARTS for p in getattr(pipe, part).parameters()} == {"cuda:1"}
        assert torch.cuda.current_device() == 0
        assert np.isfinite(draw(pipe, num_inference_steps=1)).all()


def test_on_a_gpu_the_cpu_may_be_asked_for(folder, gpu):
    pipe = load_sana(folder, "bf16", device="cpu")
    assert {p.device.type for part in PARTS for p in getattr(pipe, part).parameters()} == {"cpu"}
    with pytest.raises(RuntimeError, match="leave out device="):
        load_sana(folder, "int8", device="cpu")
    with pytest.raises(ValueError, match="GPUs on this machine: 1"):
        load_sana(folder, "bf16", device="cuda:1")
    with pytest.raises(ValueError, match="'gpu' is unknown"):
        load_sana(folder, "bf16", device="gpu")


# ---- the Hub


@pytest.fixture
def hub(folder, monkeypatch):
    """Puts a folder where the Hub's cache would have a repository; says what was asked of the Hub."""
    import diffusers

    asked = []

    def install(source):
        def download(cls, name, **options):
            asked.append((name, options))
            return str(source)

        monkeypatch.setattr(diffusers.DiffusionPipeline, "download", classmethod(download))
        return asked

    return install


def test_hub_checkpoint_keeps_the_type_it_was_trained_in(tmp_path, gpu, hub):
    asked = hub(build_folder(tmp_path / "fp16", variant="fp16"))
    pipe = load_sana("600M-512", "int8")
    assert asked == [(CHECKPOINTS["600M-512"].repo, {"variant": "fp16", "use_safetensors": True})]
    assert pipe.transformer.dtype == torch.float16
    assert pipe.text_encoder.dtype == pipe.vae.dtype == torch.bfloat16
    assert classes(pipe)["transformer.proj_out"] == "Linear8bitLt"
    assert np.isfinite(draw(pipe)).all()


def test_hub_name_in_full_is_the_same_checkpoint(folder, gpu, hub):
    asked = hub(folder)
    load_sana("Efficient-Large-Model/SANA1.5_4.8B_1024px_diffusers", "bf16")
    assert asked[0][1]["variant"] is None  # SANA-1.5 has no variants


def test_type_that_does_not_fit_the_checkpoint_warns(folder, gpu, hub):
    hub(folder)
    # checkpoint (trained in fp16 and bf16), precision, whether it warns
    cases = [
        ("600M-512", "bf16", True), ("600M-512", "fp32", True), ("600M-512", "fp16", False),
        ("600M-512", "int8", False), ("1600M-4K", "bf16", False), ("1600M-4K", "fp32", False),
        ("1600M-4K", "fp16", True), ("1600M-4K", "nf4", False),
    ]  # fmt: skip
    for name, precision, expected in cases:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            load_sana(name, precision)
        said = [str(w.message) for w in caught if w.category is UserWarning]
        assert bool(said) == expected, (name, precision, said)
        assert all(f"trained in {CHECKPOINTS[name].trained}" in line for line in said)


def test_sprint_is_a_sprint_pipeline(tmp_path, gpu, hub):
    options = {"qk_norm": "rms_norm_across_heads", "guidance_embeds": True, "sample_size": 32}  # no other size binned
    hub(build_folder(tmp_path / "sprint", pipeline="SanaSprintPipeline", **options))
    pipe = load_sana("sprint-0.6B-1024", "int8")
    assert type(pipe).__name__ == "SanaSprintPipeline"
    assert np.isfinite(draw(pipe)).all()


@pytest.fixture(scope="module")
def fresh(folder, tmp_path_factory):
    """What a process of its own says, with warnings on: a first load, two from a cache without network, its own logs.

    The cache is laid out as huggingface_hub lays it out; it reads its constants at import.
    """
    cache = tmp_path_factory.mktemp("hub")
    repo = cache / "models--Efficient-Large-Model--SANA1.5_1.6B_1024px_diffusers"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder, repo / "snapshots" / ("0" * 40))
    program = (
        "from sana_lab import load_sana, use_accelerator\n"
        "use_accelerator(virtual=True)\n"
        f"load_sana({str(folder)!r}, 'int8')\n"
        "print(type(load_sana('1.5-1.6B-1024', 'bf16')).__name__)\n"
        "try: load_sana('600M-512', 'bf16')\n"
        "except OSError as error: print(error)\n"
        "import logging, diffusers\n"
        "logging.getLogger('bitsandbytes').warning('heard')\n"
        "diffusers.utils.logging.get_logger('diffusers.x').warning('heard too')\n"
    )
    environment = {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "0"}
    run = subprocess.run(
        [sys.executable, "-W", "always", "-c", program],
        capture_output=True, text=True, timeout=300, env={**os.environ, **environment}, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run


def test_a_real_cache_without_network(fresh):
    found, missing = fresh.stdout.splitlines()
    assert found == "SanaPipeline"
    for words in ("Sana_600M_512px_diffusers", "HF_HUB_OFFLINE", "hf download", 'model="shapes"'):
        assert words in missing


def test_hub_names_are_whole():
    for name, checkpoint in CHECKPOINTS.items():
        owner, _, repo = checkpoint.repo.partition("/")
        assert owner == "Efficient-Large-Model" and repo.endswith("_diffusers")
        assert checkpoint.trained == ("bf16" if "BF16" in repo or "1.5" in repo or "Sprint" in repo else "fp16"), name
    assert len({c.repo for c in CHECKPOINTS.values()}) == len(CHECKPOINTS)


# ---- bad input


def test_unknown_names_list_the_choices(folder, tmp_path):
    for wrong in ("600m", "", "shapes2", str(tmp_path / "nowhere"), 7, None):
        with pytest.raises(ValueError, match="600M-512") as error:
            load_sana(wrong, "bf16")
        assert "shapes" in str(error.value) and "\n" not in str(error.value)
    for wrong in ("int4", "INT8", "", None, torch.float16):
        with pytest.raises(ValueError, match="fp32, bf16, fp16, int8, fp8, nf4"):
            load_sana(folder, wrong)


def test_folder_that_is_no_sana(folder, tmp_path):
    with pytest.raises(ValueError, match="no model_index.json"):
        load_sana(tmp_path, "bf16")
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(ValueError, match="FluxPipeline"):
        load_sana(tmp_path, "bf16")
    (tmp_path / "model_index.json").write_text('{"_class_na')
    with pytest.raises(ValueError, match="damaged"):
        load_sana(tmp_path, "bf16")


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


WEIGHTS = [
    "text_encoder/model.safetensors",
    "transformer/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
]


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("kept", [None, 0, 0.5])
def test_damaged_folder(copy, name, kept, capfd):
    """Without a manifest the libraries find it, each in its own way; the error is ours."""
    damage(copy / name, kept)
    with pytest.raises(OSError, match="missing or damaged") as error:
        load_sana(copy, "bf16", "cpu")
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def damage(file, kept):
    if kept is None:
        file.unlink()
    else:
        data = file.read_bytes()
        file.write_bytes(data[: int(len(data) * kept)])


# ---- the manifest


@pytest.fixture
def shapes(copy, monkeypatch):
    """A copy in the place of the trained model."""
    manifest.write_manifest(copy)
    monkeypatch.setattr(checkpoints, "SHAPES_FOLDER", copy)
    return copy


def test_whole_model_passes(shapes):
    manifest.check(shapes)
    listed = json.loads((shapes / "manifest.json").read_text())["files"]
    there = {p.relative_to(shapes).as_posix() for p in shapes.rglob("*") if p.is_file()}
    assert listed.keys() == there - {"manifest.json"}
    assert type(load_sana("shapes", "bf16", "cpu")).__name__ == "SanaPipeline"
    before = (shapes / "manifest.json").read_bytes()
    manifest.write_manifest(shapes)
    assert (shapes / "manifest.json").read_bytes() == before  # it does not list itself


@pytest.mark.parametrize("name", [*WEIGHTS, "tokenizer/tokenizer.json", "model_index.json", "manifest.json"])
@pytest.mark.parametrize("kept", [None, 0, 0.99])
def test_damaged_model_is_refused_with_the_way_back(shapes, name, kept):
    damage(shapes / name, kept)
    with pytest.raises(OSError) as error:
        load_sana("shapes", "bf16", "cpu")
    wrong = "missing" if kept is None else "damaged"
    for words in (str(shapes / name), wrong, "git checkout -- ", "pip install --force-reinstall"):
        assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_one_flipped_bit_is_refused(shapes):
    for name in WEIGHTS:
        data = bytearray((shapes / name).read_bytes())
        data[-1] ^= 1
        (shapes / name).write_bytes(data)
        with pytest.raises(OSError, match="SHA-256"):
            load_sana("shapes", "bf16", "cpu")
        data[-1] ^= 1
        (shapes / name).write_bytes(data)
    manifest.check(shapes)


def test_a_folder_that_has_a_manifest_is_held_to_it(shapes):
    damage(shapes / "scheduler/scheduler_config.json", 0)
    with pytest.raises(OSError, match="git checkout"):
        load_sana(shapes, "bf16", "cpu")


def test_sha256_is_the_published_one(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert digests.sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# ---- quiet


def test_loading_says_nothing_and_leaves_logging_alone(folder, capfd):
    import bitsandbytes  # noqa: F401  (so that its logger exists)
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    modules = (diffusers_logging, transformers_logging)
    for module in modules:
        module.enable_progress_bar()
    before = [m.get_verbosity() for m in modules], [True, True]
    loggers = logging.root.manager.loggerDict.items()
    levels = {name: logger.level for name, logger in loggers if isinstance(logger, logging.Logger)}
    with use_accelerator(virtual=True):
        load_sana(folder, "int8")
        with pytest.raises(ValueError, match="int3"):
            load_sana(folder, "int3")
    assert capfd.readouterr() == ("", "")
    assert before == ([m.get_verbosity() for m in modules], [m.is_progress_bar_enabled() for m in modules])
    for name, level in levels.items():
        assert logging.getLogger(name).level == level, name


def test_first_load_of_a_process_says_nothing(fresh):
    assert fresh.stderr.splitlines() == ["heard", "heard too"]


@pytest.mark.parametrize(
    ("library", "version", "expected"),
    [
        ("diffusers", "0.32.2", "torch_dtype"), ("diffusers", "0.39.0", "torch_dtype"),
        ("diffusers", "0.40.0", "dtype"), ("diffusers", "0.40.0.dev0", "dtype"), ("diffusers", "1.0", "dtype"),
        ("transformers", "4.57.6", "torch_dtype"), ("transformers", "5.0.0rc1", "dtype"),
        ("transformers", "5.23.0", "dtype"),
    ],
)  # fmt: skip
def test_name_of_the_type_by_version(library, version, expected):
    assert libraries.dtype_argument(SimpleNamespace(__name__=library, __version__=version)) == expected


def test_without_any_weights_the_way_out_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SHAPES_FOLDER", tmp_path / "weights")
    with pytest.raises(OSError, match="git checkout.*sana-lab train"):
        load_sana("shapes", "bf16")
