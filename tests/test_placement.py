"""`placement` says beforehand what the libraries then do, for many placements of one small pipeline."""

import itertools
import os

os.environ["HF_HUB_OFFLINE"] = "1"

from dataclasses import FrozenInstanceError
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sana_lab.accounting import components
from sana_lab.placements import Placement, placement, placement_figure
from sana_lab.shapes.untrained import untrained_shapes

NAMES = ("text_encoder", "transformer", "vae")
CALL = {
    "num_inference_steps": 1, "use_resolution_binning": False, "complex_human_instruction": None,
    "max_sequence_length": 8, "output_type": "pt",
}  # fmt: skip


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
        pipe = load(untrained_shapes()).to("cuda")  # the small one has none
        pipe.transformer.patch_embed.pos_embed = pipe.transformer.patch_embed.pos_embed.to("cpu")
    elif how == "one parameter":
        pipe = load(folder).to("cuda")
        layer = pipe.text_encoder.layers[0].mlp.up_proj
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


# ---- parts that a few layers make up -----------------------------------------------------------------------------


def pipe_of(computes="cpu", **parts):
    return SimpleNamespace(components=parts, _execution_device=torch.device(computes))


def hooked(module, hook):
    module._hf_hook = hook
    return module


def linear(device="cpu", **kwargs):
    return nn.Linear(2, 2, device=device, **kwargs)


def group_offloaded(module, kind="group_offloading"):
    module._diffusers_hook = SimpleNamespace(hooks={kind: None})
    return module


def with_a_buffer():
    model = nn.Sequential(linear("meta"))
    model.register_buffer("seen", torch.ones(1))
    return model


class CpuOffload:
    """Accelerate's class of this name is told by its name."""

    execution_device = "cuda:0"


MOVES = {"execution_device": "cuda:0", "offload": False}


@pytest.mark.parametrize(
    ("computes", "model", "said"),
    [
        ("cpu", lambda: linear("meta"),
         "2 of its 2 tensors are on the meta device, which holds no data, and no hook brings it: load the component "
         "again"),
        ("cpu", lambda: nn.Sequential(linear(), linear("meta", bias=False)),
         "1 of its 3 tensors are on the meta device, which holds no data, and no hook brings it: load the component "
         "again"),
        ("cuda:0", linear,
         'all of it is on cpu, and it will be handed tensors on cuda:0: pipe.part.to("cuda:0")'),
        ("meta", lambda: nn.Sequential(linear(bias=False), linear("meta")),
         "1 of its 3 tensors are on cpu, where the data will be on meta: 0.weight"),
        ("meta", with_a_buffer, "1 of its 3 tensors are on cpu, where the data will be on meta: seen"),
        ("meta", lambda: nn.Sequential(linear(), linear("meta")),
         "2 of its 4 tensors are on cpu, where the data will be on meta: 0.weight, 0.bias"),
        ("meta", lambda: nn.Sequential(linear("meta"), nn.Sequential(linear(), linear(bias=False))),
         "3 of its 5 tensors are on cpu, where the data will be on meta: 1.0.weight, 1.0.bias, …"),
    ],
)  # fmt: skip
def test_the_sentence_on_what_is_elsewhere(computes, model, said):
    assert placement(pipe_of(computes, part=model())).problems == (f"part: {said}",)


@pytest.mark.parametrize(
    ("hook", "named", "trusted"),
    [
        (None, "", False),
        (SimpleNamespace(), "", False),
        (SimpleNamespace(execution_device=None, offload=False), "", False),
        (SimpleNamespace(**MOVES), "moves inputs", False),
        (SimpleNamespace(execution_device=0), "moves inputs", False),
        (SimpleNamespace(**MOVES | {"offload": True}), "sequential offload", True),
        (CpuOffload(), "model offload", True),
        (SimpleNamespace(hooks=(SimpleNamespace(), CpuOffload())), "model offload", True),
        (SimpleNamespace(hooks=(SimpleNamespace(**MOVES | {"offload": True}), CpuOffload())), "model offload", True),
    ],
)  # fmt: skip
def test_what_a_hook_says_and_whether_it_brings_all(hook, named, trusted):
    found = placement(pipe_of("cuda:0", part=hooked(nn.Sequential(linear()), hook)))
    assert (found.parts[0].hooks, found.problems == ()) == (named, trusted)
    inside = placement(pipe_of("cuda:0", part=nn.Sequential(nn.Sequential(hooked(linear(), hook)))))
    assert (inside.parts[0].hooks, inside.problems == ()) == (named, trusted)


@pytest.mark.parametrize(("device", "there"), [(0, "cuda:0"), (1, "cuda:1"), ("cuda:1", "cuda:1"), ("meta", "meta")])
def test_inputs_are_moved_where_the_hook_says(device, there):
    (problem,) = placement(pipe_of(part=hooked(linear(), SimpleNamespace(execution_device=device)))).problems
    assert problem == f'part: all of it is on cpu, and it will be handed tensors on {there}: pipe.part.to("{there}")'


def test_a_layer_gets_what_the_part_around_it_was_sent():
    inner = hooked(nn.Sequential(linear()), SimpleNamespace(execution_device="cuda:0", offload=False))
    assert len(placement(pipe_of("cpu", part=nn.Sequential(inner))).problems) == 1
    assert placement(pipe_of("cuda:0", part=nn.Sequential(inner, nn.Sequential(linear())))).problems == (
        'part: all of it is on cpu, and it will be handed tensors on cuda:0: pipe.part.to("cuda:0")',
    )
    assert placement(pipe_of("cpu", part=nn.Sequential(inner, nn.Sequential(linear())))).problems == (
        "part: 2 of its 4 tensors are on cpu, where the data will be on cuda:0: 0.0.weight, 0.0.bias",
    )


def test_group_offloading_brings_its_own_and_nothing_else():
    found = placement(pipe_of("cuda:0", part=group_offloaded(nn.Sequential(nn.Sequential(linear())))))
    assert found.parts[0].hooks == "group offload" and found.problems == ()
    found = placement(pipe_of("cuda:0", part=nn.Sequential(group_offloaded(linear()), linear())))
    assert found.parts[0].hooks == "group offload"
    assert found.problems == (
        "part: 2 of its 4 tensors are on cpu, where the data will be on cuda:0: 1.weight, 1.bias",
    )
    found = placement(pipe_of("cuda:0", part=group_offloaded(linear(), "layerwise_casting")))
    assert found.parts[0].hooks == "" and len(found.problems) == 1


def test_a_tensor_held_twice_counts_once_and_the_largest_comes_first():
    part = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False), nn.Linear(9, 9, bias=False).half())
    part[1].weight = part[0].weight
    part.register_buffer("seen", torch.ones(1, dtype=torch.int64))
    part.append(nn.Linear(3, 3, device="meta"))  # two tensors without memory are two
    part.append(nn.Linear(5, 50, bias=False, device="meta").bfloat16())
    (found,) = placement(pipe_of(part=part)).parts
    assert list(found.bytes.items()) == [("meta", 4 * 12 + 2 * 250), ("cpu", 4 * 16 + 2 * 81 + 8)]
    assert found.dtypes == ("bfloat16", "float16", "float32"), "a buffer is no weight"
    assert found.device == "meta + cpu"
    (alone,) = placement(pipe_of(part=nn.Sequential(nn.Linear(1, 1), nn.Linear(3, 3).half()))).parts
    assert alone.dtypes == ("float16", "float32")


def test_parts_come_in_the_order_of_calls():
    parts = {name: linear() for name in ("c", "a", "d", "b")}
    pipe = pipe_of(**parts, tokenizer=object())
    assert list(placement(pipe).devices) == ["c", "a", "d", "b"]
    pipe.model_cpu_offload_seq = None
    assert list(placement(pipe).devices) == ["c", "a", "d", "b"]
    pipe.model_cpu_offload_seq = "b->a->d"
    assert list(placement(pipe).devices) == ["b", "a", "d", "c"]


def test_the_device_of_a_pipeline_that_does_not_say_where_it_computes():
    pipe = SimpleNamespace(components={"part": linear()}, device=torch.device("meta"))
    assert placement(pipe).inputs == "meta"
    pipe._execution_device = None
    assert placement(pipe).inputs == "meta"
    pipe._execution_device = torch.device("cpu")
    assert placement(pipe).inputs == "cpu"


def test_cuda_is_the_current_gpu(two_gpus):
    pipe = pipe_of("cuda", part=linear("cuda"))
    assert placement(pipe).inputs == "cuda:0"
    with torch.cuda.device(1):
        assert placement(pipe).inputs == "cuda:1"


def test_the_table_and_the_page_of_small_parts():
    part = nn.Sequential(nn.Linear(500, 500, bias=False), nn.Linear(500, 500, bias=False).half())
    found = placement(pipe_of(part=part, bare=nn.Identity(), other=hooked(linear("meta"), SimpleNamespace(**MOVES))))
    table = found.table
    assert table.loc["part"].tolist() == ["cpu", "float32, float16", 1.4, "–"]
    assert table.loc["bare"].tolist() == ["none", "", 0.0, "–"]
    assert table.loc["other"].tolist() == ["meta", "float32", 0.0, "moves inputs"]
    assert list(table.columns) == ["device", "dtypes", "MiB", "hooks"]
    (problem,) = found.problems
    assert repr(found) == f"{table.to_string()}\ninputs are made on cpu\nPROBLEM {problem}"
    healthy = Placement(found.parts[:1], "cpu", ())
    page = "<p>inputs are made on <code>cpu</code></p><ul><li>no problem found</li></ul>"
    assert healthy._repr_html_() == healthy.table.to_html() + page
    odd = Placement(found.parts, "cpu", ("a < b", "c"))
    for counted, name in ((odd, "inputs"), (odd.parts[0], "hooks")):
        with pytest.raises(FrozenInstanceError):
            setattr(counted, name, "")
    assert odd._repr_html_().endswith("<ul><li>PROBLEM a &lt; b</li><li>PROBLEM c</li></ul>")


def test_what_it_got_is_named():
    with pytest.raises(TypeError) as refused:
        placement(SimpleNamespace(components={"tokenizer": object()}))
    assert str(refused.value) == "placement needs a diffusers pipeline with models in it, got SimpleNamespace"


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
