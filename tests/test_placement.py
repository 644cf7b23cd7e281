"""`placement` says beforehand what the libraries then do, for many placements of one small pipeline."""

import itertools
import os

os.environ["HF_HUB_OFFLINE"] = "1"

import logging
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sana_lab import use_accelerator
from sana_lab.accounting import components
from sana_lab.placements import Placement, placement, placement_figure

NAMES = ("text_encoder", "transformer", "vae")
CALL = {
    "num_inference_steps": 1, "use_resolution_binning": False, "complex_human_instruction": None,
    "max_sequence_length": 8, "output_type": "pt",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder():
    from sana_lab.shapes.untrained import untrained_shapes

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    return untrained_shapes()


@pytest.fixture
def two_gpus():
    accelerator = use_accelerator(gpus=2, virtual=True)
    yield accelerator
    accelerator.leave()


def load(folder, *, eight_bits=False, **kwargs):
    from diffusers import BitsAndBytesConfig, SanaPipeline, SanaTransformer2DModel
    from transformers import AutoModel
    from transformers import BitsAndBytesConfig as TransformersConfig

    if eight_bits:
        kwargs["text_encoder"] = AutoModel.from_pretrained(
            folder, subfolder="text_encoder", dtype=torch.bfloat16,
            quantization_config=TransformersConfig(load_in_8bit=True),
        )  # fmt: skip
        kwargs["transformer"] = SanaTransformer2DModel.from_pretrained(
            folder, subfolder="transformer", torch_dtype=torch.bfloat16,
            quantization_config=BitsAndBytesConfig(load_in_8bit=True),
        )  # fmt: skip
    pipe = SanaPipeline.from_pretrained(folder, torch_dtype=torch.bfloat16, **kwargs)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def failing_component(pipe, pixels=128):
    """Component in whose code a call raised, found in the traceback; None if it did not raise."""
    owners = {id(module): name for name in NAMES for module in getattr(pipe, name).modules()}
    try:
        pipe("a red star", height=pixels, width=pixels, **CALL)
    except RuntimeError as error:
        traceback, found = error.__traceback__, None
        while traceback is not None:
            found = owners.get(id(traceback.tb_frame.f_locals.get("self")), found)
            traceback = traceback.tb_next
        assert found, f"raised outside of every component: {error}"
        return found
    return None


def foretold(pipe):
    return next((problem.partition(":")[0] for problem in placement(pipe).problems), None)


def test_the_first_problem_is_what_happens_in_all_placements_by_hand(folder, two_gpus):
    pipe, outcomes = load(folder), set()
    for devices in itertools.product(("cpu", "cuda:0", "cuda:1"), repeat=3):
        for name, device in zip(NAMES, devices, strict=True):
            getattr(pipe, name).to(device)
        assert placement(pipe).devices == dict(zip(NAMES, devices, strict=True))
        happened = failing_component(pipe)
        assert foretold(pipe) == happened, (devices, placement(pipe))
        outcomes.add(happened)
    assert outcomes == {None, *NAMES}


def moved(folder, how):
    """A pipeline placed by the libraries in one of their ways, and then perhaps spoilt."""
    if how.startswith("offload"):
        pipe = load(folder, eight_bits="8" in how)
        pipe.enable_sequential_cpu_offload() if "sequential" in how else pipe.enable_model_cpu_offload()
    elif how == "group":
        pipe = load(folder)
        pipe.enable_group_offload(onload_device=torch.device("cuda"), offload_type="leaf_level")
    elif how.startswith("balanced"):
        pipe = load(folder, eight_bits="8" in how, device_map="balanced")
        if "then" in how:
            pipe.vae.to("cpu")  # its hooks go on moving its inputs to the GPU
    elif how == "8 bits with a second GPU":
        pipe = load(folder, eight_bits=True).to("cuda:1")
    elif how == "8 bits in the context of the second GPU":
        with torch.cuda.device(1):
            pipe = load(folder, eight_bits=True).to("cuda")
    elif how == "8 bits to the CPU and back":
        pipe = load(folder, eight_bits=True).to("cpu").to("cuda")
    elif how == "buffer":
        pipe = load(folder).to("cuda")
        pipe.transformer.patch_embed.pos_embed = pipe.transformer.patch_embed.pos_embed.to("cpu")
    elif how == "one parameter":
        pipe = load(folder).to("cuda")
        layer = pipe.text_encoder.layers[1].mlp.up_proj
        layer.weight.data = layer.weight.data.to("cpu")
    elif how == "cuda":
        pipe = load(folder, eight_bits=True, device_map="cuda")
    else:
        pipe = load(folder, eight_bits=True)
    return pipe


WAYS = {  # how → the component that fails, the hooks of the autoencoder
    "recipe": ("vae", ""),
    "cuda": (None, ""),
    "balanced": (None, "moves inputs"),
    "balanced in 8 bits": (None, "moves inputs"),
    "balanced then autoencoder to the CPU": ("vae", "moves inputs"),
    "offload": (None, "model offload"),
    "offload in 8 bits": (None, "model offload"),
    "offload sequential": (None, "sequential offload"),
    "offload sequential in 8 bits": (None, "sequential offload"),
    "group": (None, "group offload"),
    "8 bits with a second GPU": ("text_encoder", ""),
    "8 bits in the context of the second GPU": (None, ""),
    "8 bits to the CPU and back": (None, ""),
    "buffer": ("transformer", ""),
    "one parameter": ("text_encoder", ""),
}


@pytest.mark.parametrize(("how", "fails", "hooks"), [(how, *right) for how, right in WAYS.items()], ids=list(WAYS))
def test_the_first_problem_is_what_happens_in_the_libraries_ways(folder, two_gpus, how, fails, hooks):
    pipe = moved(folder, how)
    assert placement(pipe).parts[-1].hooks == hooks
    pixels = 512 if how == "buffer" else 128  # at any other size a position embedding is made on the spot
    for _ in ("before the first call", "after it"):  # 8-bit layers move their scales at the first call
        assert (foretold(pipe), failing_component(pipe, pixels)) == (fails, fails), placement(pipe)


def test_a_forgotten_buffer_is_named(folder, two_gpus):
    (problem,) = placement(moved(folder, "buffer")).problems
    assert "patch_embed.pos_embed" in problem and "on cpu" in problem and "cuda:0" in problem
    (problem,) = placement(load(folder, eight_bits=True)).problems
    assert 'pipe.vae.to("cuda:0")' in problem


def test_a_layer_without_a_hook_gets_what_its_parent_got():
    """Rotary embeddings get no hook of their own; their data arrives where their parent's hook sends it."""
    parent = nn.Sequential(nn.Module())
    parent._hf_hook = SimpleNamespace(execution_device="meta", offload=False)
    pipe = SimpleNamespace(components={"part": parent}, _execution_device=torch.device("cpu"))
    parent[0].register_buffer("table", torch.ones(2, device="meta"), persistent=False)
    assert placement(pipe).problems == ()
    parent[0].table = torch.ones(2)
    assert len(placement(pipe).problems) == 1


def test_bytes_agree_with_the_accounting(folder, two_gpus):
    for how in ("recipe", "balanced", "offload in 8 bits"):
        pipe = moved(folder, how)
        assert {part.component: sum(part.bytes.values()) for part in placement(pipe).parts} == components(pipe)


def test_the_plan_is_not_believed(folder, two_gpus):
    pipe = load(folder, eight_bits=True, device_map="balanced")
    assert len(set(pipe.hf_device_map.values())) == 2
    before = placement(pipe)
    pipe.hf_device_map = {name: 7 for name in NAMES}
    assert placement(pipe) == before
    assert before.devices["text_encoder"] == before.devices["transformer"] == "cuda:0"


def test_it_shows_as_text_and_as_a_page(folder, two_gpus):
    found = placement(load(folder, eight_bits=True))
    assert list(found.table.index) == list(NAMES)  # the order of calls, not that of the alphabet
    assert repr(found).splitlines()[-1].startswith("PROBLEM vae: all of it is on cpu")
    assert "<table" in found._repr_html_() and "PROBLEM vae" in found._repr_html_()
    assert repr(placement(moved(folder, "cuda"))).endswith("no problem found")


@pytest.mark.parametrize("thing", [None, "pipe", nn.Linear(2, 2), {}])
def test_what_is_no_pipeline_is_refused(thing):
    with pytest.raises(TypeError, match="diffusers pipeline"):
        placement(thing)


def test_the_figure_draws_devices_and_crosses(folder, two_gpus):
    found = placement(load(folder, eight_bits=True))
    figure = placement_figure({"as loaded": found, "empty": Placement((), "cpu", ())})
    labels = [text.get_text() for text in figure.axes[0].texts]
    assert {"as loaded", "cuda:0", "cpu", *NAMES} <= set(labels)
    assert len(figure.axes[0].lines) == len(found.problems) == 1
    with pytest.raises(ValueError, match="at least one placement"):
        placement_figure({})
