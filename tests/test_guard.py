"""`checked` refuses every pipeline that chapters 10 and 11 break, and none of those that draw."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sana_lab import checked, contiguous_inputs_
from sana_lab.guard import NotReady
from sana_lab.shapes.untrained import untrained_shapes

PARTS = ("text_encoder", "transformer")
CALL = {
    "num_inference_steps": 1, "use_resolution_binning": False, "complex_human_instruction": None, "height": 64,
    "width": 64, "max_sequence_length": 8, "output_type": "pt",
}  # fmt: skip


def configuration(*names, **width):
    from diffusers import BitsAndBytesConfig, PipelineQuantizationConfig
    from transformers import BitsAndBytesConfig as TransformersConfig

    kinds = {"text_encoder": TransformersConfig}
    width = width or {"load_in_8bit": True}
    return PipelineQuantizationConfig(
        quant_mapping={name: kinds.get(name, BitsAndBytesConfig)(**width) for name in names}
    )


def load(folder, *names, width=None, **kwargs):
    """A pipeline with these components in 8 bits, quantized while the pipeline loads."""
    from diffusers import SanaPipeline

    if names:
        kwargs["quantization_config"] = configuration(*names, **(width or {}))
    pipe = SanaPipeline.from_pretrained(folder, dtype=torch.bfloat16, **kwargs)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def guarded(folder, *names, **kwargs):
    """The same, with contiguous inputs for the transformer's 8-bit layers."""
    pipe = load(folder, *names, **kwargs)
    contiguous_inputs_(pipe.transformer)
    return pipe


def text_encoder(folder):
    from transformers import AutoModel

    return AutoModel.from_pretrained(folder, subfolder="text_encoder", dtype=torch.bfloat16)


def after(pipe, *steps):
    for step in steps:
        step(pipe)
    return pipe


BROKEN = {  # what was done → how, the component that is named
    "8 bits, autoencoder left behind": (lambda f: load(f, *PARTS), "vae"),
    "passed in, and a map": (lambda f: load(f, text_encoder=text_encoder(f), device_map="cuda"), "text_encoder"),
    "passed in, and a balanced map": (
        lambda f: load(f, text_encoder=text_encoder(f), device_map="balanced"), "text_encoder"
    ),
    "a component on the second GPU": (lambda f: after(load(f).to("cuda"), lambda p: p.vae.to("cuda:1")), "vae"),
    "8 bits moved to the second GPU": (lambda f: load(f, *PARTS).to("cuda:1"), "text_encoder"),
    "moved behind the map's back": (
        lambda f: after(load(f, device_map="balanced"), lambda p: p.vae.to("cpu")), "vae"
    ),
    "8 bits after reset_device_map": (
        lambda f: after(load(f, *PARTS, device_map="balanced"), lambda p: p.reset_device_map()), "text_encoder"
    ),
    "a component missing from the map": (
        lambda f: load(untrained_shapes(), device_map="balanced", max_memory={0: "4MiB", "cpu": "1GiB"}), "transformer"
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", BROKEN)
def test_what_would_raise_in_a_component_is_refused_with_its_name(folder, two_gpus, how):
    build, component = BROKEN[how]
    pipe = build(folder)
    with pytest.raises(NotReady, match=rf"not ready.*\n  - {component}: ") as refused:
        checked(pipe)
    assert refused.value.problems[0].startswith(f"{component}: ")
    with pytest.raises(RuntimeError) as happened:  # it would have
        pipe("a red star", **CALL)
    assert not isinstance(happened.value, NotReady)


def test_a_forgotten_buffer_is_refused(two_gpus):
    pipe = load(untrained_shapes()).to("cuda")
    pipe.transformer.patch_embed.pos_embed = pipe.transformer.patch_embed.pos_embed.to("cpu")
    with pytest.raises(NotReady, match=r"patch_embed\.pos_embed"):
        checked(pipe)


def test_a_map_of_one_entry_that_went_to_the_cpu_is_refused(folder, two_gpus):
    pipe = load(folder, device_map="balanced", transformer=None, vae=None)
    assert checked(pipe, device="cuda") is pipe
    pipe.to("cpu")
    with pytest.raises(NotReady, match="text_encoder: all of it is on cpu"):
        checked(pipe)


HEALTHY = {
    "16 bits": lambda f: load(f).to("cuda"),
    "on the CPU": lambda f: load(f),
    "8 bits, autoencoder moved": lambda f: after(guarded(f, *PARTS), lambda p: p.vae.to("cuda")),
    "8 bits, moved": lambda f: guarded(f, *PARTS).to("cuda"),
    "8 bits, map": lambda f: guarded(f, *PARTS, device_map="cuda"),
    "8 bits, balanced": lambda f: guarded(f, *PARTS, device_map="balanced"),
    "8 bits to the CPU and back": lambda f: guarded(f, *PARTS).to("cuda").to("cpu").to("cuda"),
    "8 bits, offloaded": lambda f: after(guarded(f, *PARTS), lambda p: p.enable_model_cpu_offload()),
    "layer by layer": lambda f: after(load(f), lambda p: p.enable_sequential_cpu_offload()),
    "dequantized": lambda f: after(load(f, *PARTS).to("cuda"), lambda p: p.transformer.dequantize()),
    "the encoder in 8 bits": lambda f: load(f, "text_encoder").to("cuda"),
    "4 bits": lambda f: load(f, *PARTS, width={"load_in_4bit": True}).to("cuda"),
}


@pytest.mark.parametrize("how", HEALTHY)
def test_what_draws_is_not_refused(folder, two_gpus, how):
    pipe = HEALTHY[how](folder)
    assert checked(pipe) is pipe
    pipe("a red star", **CALL)
    assert checked(pipe) is pipe, "8-bit layers keep other tensors after the first call"
    computes = "cpu" if how == "on the CPU" else "cuda"
    assert checked(pipe, device=computes) is pipe
    with pytest.raises(NotReady, match=f"computes on {computes}"):
        checked(pipe, device="cpu" if computes == "cuda" else "cuda")


# ---- what was meant ---------------------------------------------------------------------------------------------


def problems(pipe, **kwargs):
    with pytest.raises(NotReady) as refused:
        checked(pipe, **kwargs)
    return refused.value.problems


def test_the_widths_must_be_those_that_were_meant(folder, two_gpus):
    pipe = guarded(folder, *PARTS, device_map="cuda")
    assert checked(pipe, eight_bit=PARTS) is pipe
    assert checked(pipe, eight_bit=list(PARTS)) is pipe
    assert [p.partition(",")[0] for p in problems(pipe, eight_bit=())] == [f"{name}: in 8 bits" for name in PARTS]
    (problem,) = problems(pipe, eight_bit=("transformer",))
    assert problem.startswith("text_encoder: in 8 bits, and was not to be")
    (problem,) = problems(pipe, eight_bit=(*PARTS, "vae"))
    assert problem.startswith("vae: not in 8 bits")


def test_a_misspelled_component_in_the_configuration_is_found(folder, two_gpus):
    from diffusers import BitsAndBytesConfig, PipelineQuantizationConfig

    config = PipelineQuantizationConfig(quant_mapping={"transformers": BitsAndBytesConfig(load_in_8bit=True)})
    pipe = load(folder, quantization_config=config, device_map="cuda")
    assert checked(pipe) is pipe  # it draws
    (problem,) = problems(pipe, eight_bit=("transformer",))
    assert "'transformer' in a quant_mapping" in problem


def test_four_bits_by_an_empty_configuration_are_found(folder, two_gpus):
    from diffusers import BitsAndBytesConfig, PipelineQuantizationConfig

    config = PipelineQuantizationConfig(quant_mapping={"transformer": BitsAndBytesConfig()})
    pipe = load(folder, quantization_config=config, device_map="cuda")
    (problem,) = problems(pipe, eight_bit=("transformer",))
    assert problem.startswith("transformer: in 4 bits, not in 8")
    (problem,) = problems(pipe, eight_bit=())
    assert problem.startswith("transformer: in 4 bits, and was not to be")


def test_all_problems_are_told_at_once(folder, two_gpus):
    found = problems(load(folder, "transformer"), eight_bit=PARTS)
    assert [problem.partition(":")[0] for problem in found] == ["text_encoder", "vae", "text_encoder", "transformer"]


# ---- inputs as they lie in memory -------------------------------------------------------------------------------


def test_8_bit_layers_that_nothing_guards_are_refused_until_something_does(folder, two_gpus):
    pipe = load(folder, *PARTS, device_map="cuda")
    (problem,) = problems(pipe, eight_bit=PARTS)  # and not for the encoder, whose inputs are never views
    layers = sum(type(module).__name__ == "Linear8bitLt" for module in pipe.transformer.modules())
    assert problem.startswith(f"transformer: {layers} 8-bit layers take their inputs as they lie")
    assert problem.endswith("sana_lab.contiguous_inputs_(pipe.transformer)"), "the way out"
    contiguous_inputs_(pipe.transformer)
    assert checked(pipe, eight_bit=PARTS) is pipe


def test_one_layer_put_in_later_is_seen(folder, two_gpus):
    from bitsandbytes.nn import Linear8bitLt

    pipe = guarded(folder, *PARTS, device_map="cuda")
    old = pipe.transformer.proj_out
    pipe.transformer.proj_out = Linear8bitLt(old.in_features, old.out_features, has_fp16_weights=False).to("cuda")
    (problem,) = problems(pipe)
    assert problem.startswith("transformer: one 8-bit layer takes its inputs as they lie")


def test_a_transformer_inside_of_another_module_is_still_sanas(folder, two_gpus):
    pipe = load(folder, "transformer", device_map="cuda")
    held = SimpleNamespace(components={"part": nn.Sequential(pipe.transformer)}, _execution_device=pipe.device)
    (problem,) = problems(held)
    assert "contiguous_inputs_(pipe.part)" in problem


def pipe_of(layer):
    return SimpleNamespace(components={"part": nn.Sequential(layer)}, _execution_device=torch.device("cpu"))


def test_layers_without_integers_or_scales_are_refused():
    from bitsandbytes.nn import Linear8bitLt

    layer = Linear8bitLt(8, 8, has_fp16_weights=False)
    (problem,) = problems(pipe_of(layer))
    assert problem.startswith("part: 0 is 8-bit in name only")
    layer.to("cpu")
    assert checked(pipe_of(layer), eight_bit=["part"])
    layer.weight.SCB = None
    (problem,) = problems(pipe_of(layer))
    assert "without the scales" in problem
    layer.state.SCB = torch.ones(8)  # where a layer that was called keeps them
    assert checked(pipe_of(layer))


# ---- what it says, whole ----------------------------------------------------------------------------------------

LOAD = "load it with BitsAndBytesConfig(load_in_8bit=True), under the name 'part' in a quant_mapping"


def eight(moved=True):
    from bitsandbytes.nn import Linear8bitLt

    layer = Linear8bitLt(8, 8, has_fp16_weights=False)
    return layer.to("cpu") if moved else layer


def four():
    from bitsandbytes.nn import Linear4bit

    return Linear4bit(8, 8).to("cpu")


def pipe_with(*layers, inside=nn.Sequential, computes="cpu"):
    return SimpleNamespace(components={"part": inside(*layers)}, _execution_device=torch.device(computes))


def test_the_message_has_a_line_for_each_thing():
    end = "\nplacement(pipe) shows where its parts are."
    assert str(NotReady(["a: b"])) == f"this pipeline is not ready, one thing is wrong:\n  - a: b{end}"
    two = NotReady(["a: b", "c: d"])
    assert str(two) == f"this pipeline is not ready, 2 things are wrong:\n  - a: b\n  - c: d{end}"
    assert two.problems == ("a: b", "c: d")


@pytest.mark.parametrize(
    ("n", "named"), [(1, "0 is"), (2, "2 layers (0, 1) are"), (3, "3 layers (0, 1, …) are")], ids=str
)
def test_damaged_layers_are_named_or_counted(n, named):
    floats = [eight(moved=False) for _ in range(n)]
    assert problems(pipe_with(*floats)) == (
        f"part: {named} 8-bit in name only, with weights in floating point: weights are quantized on their way to a "
        "device, so load it with from_pretrained, or move it once",
    )
    integers = [eight() for _ in range(n)]
    for layer in integers:
        layer.weight.SCB = None
    unscaled = f"part: {named} integers without the scales of the rows: load it again"
    assert problems(pipe_with(*integers)) == (unscaled,)
    both = problems(pipe_with(*integers, *floats, eight(), four()))
    assert len(both) == 2 and "in name only" in both[0] and both[1] == unscaled


def test_what_is_not_in_8_bits_may_hold_what_it_likes():
    from bitsandbytes.nn import Linear4bit

    pipe = pipe_with(nn.Linear(8, 8), Linear4bit(8, 8))
    assert checked(pipe) is pipe


def test_a_layer_whose_weight_is_brought_later_is_not_damaged():
    from bitsandbytes.nn import Linear8bitLt

    pipe = pipe_with(Linear8bitLt(8, 8, has_fp16_weights=False, device="meta"))
    assert "in name only" not in problems(pipe)[0], "that it has no data is what is wrong"
    pipe.components["part"]._hf_hook = SimpleNamespace(execution_device="cpu", offload=True)
    assert checked(pipe) is pipe


def test_layers_of_this_package_need_no_weight():
    from sana_lab.layers import OnCodes

    pipe = pipe_with(OnCodes(torch.zeros(4, 8, dtype=torch.int8), torch.ones(4), None))
    assert checked(pipe, eight_bit=("part",)) is pipe


def sanas(*layers, name="SanaSomething", home="diffusers.models.somewhere"):
    model = type(name, (nn.Module,), {"__module__": home})()
    model.layers = nn.ModuleList(layers)
    return model


def test_inputs_as_they_lie_matter_in_sanas_transformers_only():
    def inside(**how):
        return lambda *layers: sanas(*layers, **how)

    rest = (
        "inputs as they lie in memory; without guidance some are views, of which a real GPU makes nonsense: "
        "sana_lab.contiguous_inputs_(pipe.part)"
    )
    pipe = pipe_with(eight(), inside=sanas)
    assert problems(pipe) == (f"part: one 8-bit layer takes its {rest}",)
    assert problems(pipe_with(eight(), eight(), inside=sanas)) == (f"part: 2 8-bit layers take their {rest}",)
    contiguous_inputs_(pipe.components["part"])
    for healthy in (
        pipe,
        pipe_with(inside=sanas),
        pipe_with(nn.Linear(8, 8), four(), inside=sanas),
        pipe_with(eight(), inside=inside(home="mine.diffusers")),
        pipe_with(eight(), inside=inside(name="Flux")),
    ):
        assert checked(healthy) is healthy


@pytest.mark.parametrize(
    ("layers", "wanted", "said"),
    [
        ([eight], True, None),
        ([nn.Identity], False, None),
        ([nn.Identity], True, f"not in 8 bits, it has no layer of bitsandbytes: {LOAD}"),
        ([four], True, f"in 4 bits, not in 8: {LOAD}"),
        ([eight, four], True, f"in 4 bits, not in 8: {LOAD}"),
        ([eight], False, "in 8 bits, and was not to be: name the components to quantize, in quant_mapping or "
                         "components_to_quantize"),
        ([eight, four], False, "in 4 bits, and was not to be: name the components to quantize, in quant_mapping or "
                               "components_to_quantize"),
    ],
)  # fmt: skip
def test_the_width_of_a_part(layers, wanted, said):
    pipe = pipe_with(*(make() for make in layers))
    meant = ("part",) if wanted else ()
    assert checked(pipe) is pipe, "any width will do where none is asked for"
    if said is None:
        assert checked(pipe, eight_bit=meant) is pipe
    else:
        assert problems(pipe, eight_bit=meant) == (f"part: {said}",)


def test_where_it_computes():
    pipe = pipe_with(nn.Linear(2, 2))
    assert checked(pipe, device="cpu") is pipe
    assert problems(pipe, device="cuda") == ('the pipeline computes on cpu, not on cuda: pipe.to("cuda")',)
    pipe = pipe_with(nn.Linear(2, 2), computes="cuda:0")
    pipe.components["part"]._hf_hook = SimpleNamespace(execution_device="cuda:0", offload=True)
    assert checked(pipe) is checked(pipe, device="cuda") is checked(pipe, device="cuda:0") is pipe
    for elsewhere in ("cuda:1", "cpu"):
        (problem,) = problems(pipe, device=elsewhere)
        assert problem == f'the pipeline computes on cuda:0, not on {elsewhere}: pipe.to("{elsewhere}")'


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"eight_bit": "part"}, TypeError, "eight_bit takes several names: write ('part',)"),
        ({"eight_bit": ("parts",)}, ValueError,
         "eight_bit names 'parts', which is no model of this pipeline: did you mean 'part'?"),
        ({"eight_bit": ("part", "qqq")}, ValueError,
         "eight_bit names 'qqq', which is no model of this pipeline: there are part, vae."),
        ({"device": "gpu"}, ValueError, "device='gpu': give \"cuda\", \"cuda:1\" or \"cpu\"."),
    ],
)  # fmt: skip
def test_bad_arguments_are_told_with_what_would_do(given, error, words):
    pipe = pipe_with(nn.Linear(2, 2))
    pipe.components["vae"] = nn.Linear(2, 2)
    with pytest.raises(error) as refused:
        checked(pipe, **given)
    assert str(refused.value) == words


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"eight_bit": "transformer"}, TypeError, r"\('transformer',\)"),
        ({"eight_bit": ("transformers",)}, ValueError, "did you mean 'transformer'"),
        ({"eight_bit": ("qqq",)}, ValueError, "there are text_encoder, transformer, vae"),
        ({"device": "gpu"}, ValueError, "device='gpu'"),
    ],
)
def test_bad_arguments(folder, kwargs, error, words):
    with pytest.raises(error, match=words):
        checked(load(folder), **kwargs)


def test_what_is_no_pipeline_is_refused():
    with pytest.raises(TypeError, match="diffusers pipeline"):
        checked(nn.Linear(2, 2))


def test_both_names_are_exported_as_functions():
    import sana_lab.placements

    assert callable(sana_lab.placement) and callable(sana_lab.checked)
    assert sana_lab.placements.placement is sana_lab.placement  # the module is there under its own name
