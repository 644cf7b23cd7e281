"""Probes: a few lines each, whose outcome on a stack is recorded: a value, or an exception and its words.

The body of a probe is plain library code that imports what it needs, so that it says what a reader's script would say.
`FOLDER` is the Shapes pipeline, `AS_WRITTEN` the same as transformers 5 wrote it (see `folder.py`). The functions at
the head are the loading lines that several probes share. Nothing here imports torch before a probe runs.

What a layer holds is asked of `sana_lab.layers` everywhere else. `layers`, `device` and `product` ask the libraries'
own classes instead: their lines are shown on the page, a reader can paste them, and they run with the libraries of
another environment, whose outcomes become out of date when a line changes. `tests/test_layers.py` holds their answers
to those of `sana_lab.layers`.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

GROUPS = {
    "import": "Imports",
    "load": "Loading in 8 bits",
    "words": "Spelling of arguments",
    "types": "Number formats nobody asked for",
    "maps": "Device maps",
    "move": "Moving and casting",
    "offload": "Offloading",
    "save": "Saving and reloading",
    "compute": "Computing and drawing",
}
"""Name of a group -> its heading."""


@dataclass(frozen=True)
class Probe:
    """One question to a stack.

    Args:
        id: words and hyphens.
        title: the question's answer in a heading, such as `encoder.to("cpu")`.
        group: one of `GROUPS`.
        function: the lines; takes `FOLDER` or `AS_WRITTEN` or nothing, and returns the value to record.
        watch: regular expression of a log line that counts as a warning worth seeing.
        trained: whether it needs trained weights.
        limit: seconds of computing, after which it counts as hanging.
    """

    id: str
    title: str
    group: str
    function: Callable[..., Any]
    watch: str = ""
    trained: bool = False
    limit: float = 90

    @property
    def code(self) -> str:
        """Its lines, without decorator and docstring."""
        return _lines(self.function)

    @property
    def digest(self) -> str:
        """Eight digits that change when the probe, or what it shares, does: then its outcomes are out of date."""
        shared = "".join(_lines(function) for function in (*SHARED, *((_drawn,) if "_drawn(" in self.code else ())))
        return hashlib.sha256(f"{self.code}{self.watch}{shared}".encode()).hexdigest()[:8]


@cache
def _lines(function: Callable[..., Any]) -> str:
    (definition,) = ast.parse(inspect.getsource(function)).body
    body = definition.body[1:] if ast.get_docstring(definition) else definition.body
    return "\n".join(ast.unparse(statement) for statement in body)


PROBES: dict[str, Probe] = {}
"""All probes by id, in the order of the page."""


def probe(group: str, title: str, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: add a function to `PROBES`, its name with hyphens being the id."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        id = function.__name__.strip("_").replace("_", "-")
        if group not in GROUPS or id in PROBES:
            raise ValueError(f"probe {id!r}: twice, or in no group.")
        PROBES[id] = Probe(id, title, group, function, **options)
        return function

    return register


def get(id: str) -> Probe:
    """The probe with this id.

    Raises:
        ValueError: there is none; the text names the nearest.
    """
    import difflib

    if id in PROBES:
        return PROBES[id]
    near = difflib.get_close_matches(str(id), PROBES, 3, 0.4)
    advice = f"did you mean {' or '.join(near)}?" if near else "`sana-lab versions show --probes` lists them."
    raise ValueError(f"there is no probe {id!r}: {advice}")


# ---- lines that several probes share ----------------------------------------------------------------------------


def spelling(library) -> str:
    """The argument for the number format, as this version of diffusers or transformers calls it."""
    renamed = {"diffusers": (0, 40), "transformers": (5, 0)}[library.__name__]
    return "dtype" if tuple(map(int, library.__version__.split(".")[:2])) >= renamed else "torch_dtype"


def transformer_8bit(FOLDER, **options):
    """Sana's transformer in 8 bits, by diffusers."""
    import diffusers
    import torch

    options = {spelling(diffusers): torch.bfloat16, **options}
    return diffusers.SanaTransformer2DModel.from_pretrained(
        FOLDER,
        subfolder="transformer",
        quantization_config=diffusers.BitsAndBytesConfig(load_in_8bit=True),
        **options,
    )


def encoder_8bit(FOLDER, **options):
    """Sana's text encoder in 8 bits, by transformers."""
    import torch
    import transformers

    options = {spelling(transformers): torch.bfloat16, **options}
    options.setdefault("quantization_config", transformers.BitsAndBytesConfig(load_in_8bit=True))
    return transformers.AutoModel.from_pretrained(FOLDER, subfolder="text_encoder", **options)


def pipeline_8bit(FOLDER, **options):
    """The recipe: both networks in 8 bits, passed to the pipeline."""
    parts = {"transformer": transformer_8bit(FOLDER), "text_encoder": encoder_8bit(FOLDER)}
    return pipeline(FOLDER, **parts, **options)


def pipeline(FOLDER, **options):
    """The pipeline, in 16 bits but for what is passed."""
    import diffusers
    import torch

    return diffusers.SanaPipeline.from_pretrained(FOLDER, **{spelling(diffusers): torch.bfloat16}, **options)


def layers(model) -> str:
    """How many layers of a model are 8-bit, such as `71 of 100 linear layers in 8 bits`; see `sana_lab.layers`."""
    import bitsandbytes
    import torch

    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    eight = [m for m in linear if isinstance(m, bitsandbytes.nn.Linear8bitLt) and m.weight.dtype == torch.int8]
    return f"{len(eight)} of {len(linear)} linear layers in 8 bits"


def device(model) -> str:
    """Where the weights of a model are: `cuda:0`, or several. Codes that a move leaves behind are no weights."""
    return " and ".join(sorted({str(parameter.device) for parameter in model.parameters()}))


def devices(pipe) -> str:
    """Where the three networks of a pipeline are."""
    return ", ".join(f"{name} {device(getattr(pipe, name))}" for name in ("text_encoder", "transformer", "vae"))


def small(pipe) -> str:
    """One step at 256 pixels (below that diffusers 0.32 takes a path in the autoencoder that fails in bf16)."""
    pipe.set_progress_bar_config(disable=True)
    (picture,) = pipe("a red star", num_inference_steps=1, height=256, width=256, use_resolution_binning=False).images
    return f"a picture of {picture.width} × {picture.height}"


def product(layer_device: str) -> str:
    """An 8-bit layer of bitsandbytes against the layer it was made from."""
    import bitsandbytes
    import torch

    torch.manual_seed(0)
    plain = torch.nn.Linear(64, 128)
    layer = bitsandbytes.nn.Linear8bitLt(64, 128, has_fp16_weights=False, threshold=6.0)
    layer.load_state_dict(plain.state_dict())
    layer = layer.to(layer_device).eval()
    x = torch.randn(4, 64)
    y = layer(x.half().to(layer_device)).float().cpu()
    error = ((y - plain(x)).norm() / plain(x).norm()).item()
    kind = "int8" if layer.weight.dtype == torch.int8 else "not quantized"
    return f"{kind}, within 2 % of float: {error < 0.02}"


SHARED = (
    spelling, transformer_8bit, encoder_8bit, pipeline_8bit, pipeline, layers, device, devices, small, product,
)  # fmt: skip


# ---- imports ----------------------------------------------------------------------------------------------------


@probe("import", "`from diffusers import SanaPipeline`")
def import_sana_pipeline():
    """Does the pipeline's module import?"""
    from diffusers import SanaPipeline

    return SanaPipeline.__name__


@probe("import", "`from transformers import AutoModel`")
def import_transformers():
    """Do the text encoder's classes import?"""
    from transformers import AutoModel, Gemma2Model

    return f"{AutoModel.__name__}, {Gemma2Model.__name__}"


@probe("import", "`import bitsandbytes`", watch="without GPU support|Could not load|not available")
def import_bitsandbytes():
    """Does it import, and find a library?"""
    import bitsandbytes

    return bitsandbytes.nn.Linear8bitLt.__name__


@probe("import", "`from diffusers import PipelineQuantizationConfig`")
def import_pipeline_config():
    """One configuration for a whole pipeline."""
    from diffusers import PipelineQuantizationConfig

    return PipelineQuantizationConfig.__name__


# ---- loading ----------------------------------------------------------------------------------------------------


@probe("load", "16-bit pipeline from a folder that transformers 5 wrote")
def load_folder_of_today(AS_WRITTEN):
    """Can this stack read a folder saved by today's?"""
    return devices(pipeline(AS_WRITTEN))


@probe("load", "8-bit transformer")
def load_transformer_8bit(FOLDER):
    """The half that diffusers loads."""
    model = transformer_8bit(FOLDER)
    return f"{layers(model)}, {device(model)}"


@probe("load", "8-bit text encoder")
def load_encoder_8bit(FOLDER):
    """The half that transformers loads."""
    model = encoder_8bit(FOLDER)
    return f"{layers(model)}, {device(model)}"


@probe("load", "the recipe: both passed to the pipeline")
def load_recipe(FOLDER):
    """Where is what afterwards?"""
    return devices(pipeline_8bit(FOLDER))


@probe("load", "`PipelineQuantizationConfig(quant_mapping=…)`")
def load_quant_mapping(FOLDER):
    """Both networks by one configuration with two entries."""
    import diffusers
    import transformers

    both = diffusers.PipelineQuantizationConfig(
        quant_mapping={
            "transformer": diffusers.BitsAndBytesConfig(load_in_8bit=True),
            "text_encoder": transformers.BitsAndBytesConfig(load_in_8bit=True),
        }
    )
    pipe = pipeline(FOLDER, quantization_config=both)
    return f"transformer {layers(pipe.transformer)}; text_encoder {layers(pipe.text_encoder)}"


@probe("load", '`PipelineQuantizationConfig(quant_backend="bitsandbytes_8bit")`')
def load_quant_backend(FOLDER):
    """Both networks by the name of a backend."""
    import diffusers

    both = diffusers.PipelineQuantizationConfig(
        quant_backend="bitsandbytes_8bit",
        quant_kwargs={"load_in_8bit": True},
        components_to_quantize=["transformer", "text_encoder"],
    )
    pipe = pipeline(FOLDER, quantization_config=both)
    return f"transformer {layers(pipe.transformer)}; text_encoder {layers(pipe.text_encoder)}"


@probe("load", "diffusers' config for the text encoder")
def load_encoder_wrong_config(FOLDER):
    """The configuration class of the other library."""
    import diffusers

    return layers(encoder_8bit(FOLDER, quantization_config=diffusers.BitsAndBytesConfig(load_in_8bit=True)))


@probe("load", "transformers' config for the transformer")
def load_transformer_wrong_config(FOLDER):
    """The configuration class of the other library."""
    import diffusers
    import torch
    import transformers

    model = diffusers.SanaTransformer2DModel.from_pretrained(
        FOLDER,
        subfolder="transformer",
        quantization_config=transformers.BitsAndBytesConfig(load_in_8bit=True),
        **{spelling(diffusers): torch.bfloat16},
    )
    return layers(model)


# ---- spelling ---------------------------------------------------------------------------------------------------


@probe("words", "encoder: `load_in_8bit=True`", watch="load_in_8bit")
def load_in_8bit_keyword(FOLDER):
    """The shorthand of transformers 4."""
    from transformers import AutoModel

    return layers(AutoModel.from_pretrained(FOLDER, subfolder="text_encoder", load_in_8bit=True))


@probe("words", "encoder: `dtype=`", watch="dtype")
def encoder_dtype(FOLDER):
    """Today's spelling, transformers."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(FOLDER, subfolder="text_encoder", dtype=torch.float16)
    return str(model.dtype).removeprefix("torch.")


@probe("words", "encoder: `torch_dtype=`", watch="torch_dtype")
def encoder_torch_dtype(FOLDER):
    """The old spelling, transformers."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(FOLDER, subfolder="text_encoder", torch_dtype=torch.float16)
    return str(model.dtype).removeprefix("torch.")


@probe("words", "transformer: `dtype=`", watch="dtype")
def transformer_dtype(FOLDER):
    """Today's spelling, a model of diffusers."""
    import torch
    from diffusers import SanaTransformer2DModel

    model = SanaTransformer2DModel.from_pretrained(FOLDER, subfolder="transformer", dtype=torch.float16)
    return str(model.dtype).removeprefix("torch.")


@probe("words", "pipeline: `dtype=`", watch="dtype")
def pipeline_dtype(FOLDER):
    """Today's spelling, a pipeline of diffusers."""
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16)
    return ", ".join(f"{name} {getattr(pipe, name).dtype}".replace("torch.", "") for name in ("transformer", "vae"))


@probe("words", "pipeline: `torch_dtype=`", watch="torch_dtype")
def pipeline_torch_dtype(FOLDER):
    """The old spelling, a pipeline of diffusers."""
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, torch_dtype=torch.bfloat16)
    return ", ".join(f"{name} {getattr(pipe, name).dtype}".replace("torch.", "") for name in ("transformer", "vae"))


# ---- defaults ---------------------------------------------------------------------------------------------------


@probe("types", "8-bit encoder without `dtype`")
def default_dtype_encoder(FOLDER):
    """In which format is what is not quantized?"""
    from transformers import AutoModel, BitsAndBytesConfig

    model = AutoModel.from_pretrained(
        FOLDER, subfolder="text_encoder", quantization_config=BitsAndBytesConfig(load_in_8bit=True)
    )
    return str(model.embed_tokens.weight.dtype).removeprefix("torch.")


@probe("types", "8-bit transformer without `dtype`")
def default_dtype_transformer(FOLDER):
    """In which format is what is not quantized?"""
    from diffusers import BitsAndBytesConfig, SanaTransformer2DModel

    model = SanaTransformer2DModel.from_pretrained(
        FOLDER, subfolder="transformer", quantization_config=BitsAndBytesConfig(load_in_8bit=True)
    )
    return str(model.patch_embed.proj.weight.dtype).removeprefix("torch.")


@probe("types", "16-bit encoder without `dtype`")
def default_dtype_encoder_plain(FOLDER):
    """The format of the files, or float32?"""
    from transformers import AutoModel

    return str(AutoModel.from_pretrained(FOLDER, subfolder="text_encoder").dtype).removeprefix("torch.")


# ---- device maps ------------------------------------------------------------------------------------------------


@probe("maps", 'recipe with `device_map="balanced"`')
def map_balanced(FOLDER):
    """The map of the published recipe."""
    return devices(pipeline_8bit(FOLDER, device_map="balanced"))


@probe("maps", 'recipe with `device_map="cuda"`')
def map_cuda(FOLDER):
    """The simplest map."""
    return devices(pipeline_8bit(FOLDER, device_map="cuda"))


@probe("maps", 'pipeline with `device_map="auto"`')
def map_auto(FOLDER):
    """What diffusers' own guide says, and what pipelines never took."""
    return devices(pipeline(FOLDER, device_map="auto"))


@probe("maps", '8-bit transformer with `device_map="auto"`')
def map_auto_transformer(FOLDER):
    """Models take it; did they in 8 bits?"""
    return device(transformer_8bit(FOLDER, device_map="auto"))


@probe("maps", "`encoder.hf_device_map`")
def map_of_encoder(FOLDER):
    """Scripts read it."""
    return str(encoder_8bit(FOLDER).hf_device_map)


# ---- moving -----------------------------------------------------------------------------------------------------


@probe("move", '8-bit `transformer.to("cpu")`', watch="not recommended|not supported")
def move_transformer(FOLDER):
    """Could not, then could."""
    return device(transformer_8bit(FOLDER).to("cpu"))


@probe("move", '8-bit `encoder.to("cpu")`', watch="not recommended|not supported")
def move_encoder(FOLDER):
    """Could not, then could."""
    return device(encoder_8bit(FOLDER).to("cpu"))


@probe("move", "8-bit `encoder.cuda()`")
def move_encoder_cuda(FOLDER):
    """The other way to say it."""
    return device(encoder_8bit(FOLDER).cuda())


@probe("move", "8-bit `transformer.to(torch.bfloat16)`")
def cast_transformer(FOLDER):
    """A cast of an 8-bit model."""
    import torch

    return device(transformer_8bit(FOLDER).to(torch.bfloat16))


@probe("move", "8-bit `encoder.to(torch.bfloat16)`")
def cast_encoder(FOLDER):
    """The line of Sana's page, on an 8-bit encoder."""
    import torch

    return device(encoder_8bit(FOLDER).to(torch.bfloat16))


_LEFT = "cannot be done|not recommended|should not be converted|not possible"


@probe("move", 'recipe, then `pipe.to("cuda")`', watch=_LEFT)
def move_pipeline(FOLDER):
    """Without a device map: does the autoencoder follow?"""
    return devices(pipeline_8bit(FOLDER).to("cuda"))


@probe("move", 'recipe, then `pipe.to("cpu")`', watch=_LEFT)
def move_pipeline_cpu(FOLDER):
    """All the way back."""
    return devices(pipeline_8bit(FOLDER).to("cpu"))


@probe("move", '`device_map="balanced"`, then `pipe.to("cuda")`')
def move_mapped(FOLDER):
    """The line that NVlabs' page has."""
    return devices(pipeline_8bit(FOLDER, device_map="balanced").to("cuda"))


@probe("move", '`device_map="balanced"`, then `reset_device_map()`')
def reset_map(FOLDER):
    """What the message of the probe before recommends."""
    pipe = pipeline_8bit(FOLDER, device_map="balanced")
    pipe.reset_device_map()
    return f"{devices(pipe)}; map {pipe.hf_device_map}"


@probe("move", "`pipe.device`, only the transformer in 8 bits")
def device_of_pipeline(FOLDER):
    """The first network of the list, or the one on the GPU? Latents are made there."""
    return str(pipeline(FOLDER, transformer=transformer_8bit(FOLDER)).device)


@probe("move", "are a pipeline's parts in a fixed order?")
def order_of_parts():
    """`pipe.device` is the first part's. Python orders a set of texts anew in every process."""
    from diffusers import SanaPipeline

    parts = SanaPipeline._get_signature_keys(SanaPipeline)[0]
    return "no" if isinstance(parts, set) else "yes"


# ---- offloading -------------------------------------------------------------------------------------------------


@probe("offload", "recipe, `enable_model_cpu_offload()`, a call")
def offload_model(FOLDER):
    """8 bits and offloading."""
    pipe = pipeline_8bit(FOLDER)
    pipe.enable_model_cpu_offload()
    return small(pipe)


@probe("offload", "16 bits, `enable_sequential_cpu_offload()`, a call")
def offload_layers(FOLDER):
    """Layer by layer, without quantization."""
    pipe = pipeline(FOLDER)
    pipe.enable_sequential_cpu_offload()
    return small(pipe)


@probe("offload", "recipe, `enable_sequential_cpu_offload()`, a call")
def offload_layers_8bit(FOLDER):
    """Layer by layer, in 8 bits."""
    pipe = pipeline_8bit(FOLDER)
    pipe.enable_sequential_cpu_offload()
    return small(pipe)


@probe("offload", "8-bit encoder with half of its layers on the CPU")
def offload_map(FOLDER):
    """A map that spills, with the flag that allows it."""
    import transformers

    place = {"embed_tokens": 0, "rotary_emb": 0, "norm": 0} | {f"layers.{i}": 0 if i < 2 else "cpu" for i in range(4)}
    config = transformers.BitsAndBytesConfig(load_in_8bit=True, llm_int8_enable_fp32_cpu_offload=True)
    return layers(encoder_8bit(FOLDER, quantization_config=config, device_map=place))


# ---- saving -----------------------------------------------------------------------------------------------------


def _reloaded(save, load) -> str:
    import tempfile

    import torch

    with tempfile.TemporaryDirectory() as folder:
        save(folder)
        model = load(folder)
        same = all(torch.isfinite(p).all() for p in model.parameters() if p.is_floating_point())
        return f"{layers(model)}, finite: {same}"


@probe("save", "8-bit transformer: `save_pretrained`, reload")
def save_transformer(FOLDER):
    """Are the 8-bit weights kept?"""
    import diffusers

    model = transformer_8bit(FOLDER)
    return _reloaded(model.save_pretrained, diffusers.SanaTransformer2DModel.from_pretrained)


@probe("save", "8-bit encoder: `save_pretrained`, reload")
def save_encoder(FOLDER):
    """Are the 8-bit weights kept?"""
    import transformers

    return _reloaded(encoder_8bit(FOLDER).save_pretrained, transformers.AutoModel.from_pretrained)


@probe("save", "8-bit pipeline: `save_pretrained`, reload")
def save_pipeline(FOLDER):
    """All of it in one folder."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        pipeline_8bit(FOLDER).save_pretrained(folder)
        pipe = pipeline(folder)
        return f"transformer {layers(pipe.transformer)}; text_encoder {layers(pipe.text_encoder)}"


# ---- computing --------------------------------------------------------------------------------------------------


@probe("compute", "an 8-bit layer on the CPU")
def layer_on_cpu():
    """Without any GPU."""
    return product("cpu")


@probe("compute", "an 8-bit layer on the GPU")
def layer_on_gpu():
    """With one."""
    return product("cuda")


@probe("compute", "recipe, then a call")
def call_recipe(FOLDER):
    """The recipe as published, without a device map."""
    return small(pipeline_8bit(FOLDER))


@probe("compute", 'recipe, `pipe.vae.to("cuda")`, a call')
def call_recipe_with_vae(FOLDER):
    """The autoencoder placed by hand."""
    pipe = pipeline_8bit(FOLDER)
    pipe.vae.to("cuda")
    return small(pipe)


@probe("compute", 'recipe with `device_map="balanced"`, a call')
def call_balanced(FOLDER):
    """As published, map and all."""
    return small(pipeline_8bit(FOLDER, device_map="balanced"))


@probe("compute", "ten steps in 8 bits: scenes drawn as asked", trained=True, limit=240)
def draw_8bit(FOLDER):
    """Does this stack draw the same scenes?"""
    return _drawn(pipeline_8bit(FOLDER))


@probe("compute", "ten steps in 16 bits: scenes drawn as asked", trained=True, limit=240)
def draw_16bit(FOLDER):
    """And without quantization?"""
    return _drawn(pipeline(FOLDER))


def _drawn(pipe) -> str:
    import torch

    from sana_lab.shapes import adherence, caption, sample_scenes

    for name in ("transformer", "text_encoder", "vae"):
        if device(getattr(pipe, name)) == "cpu":
            getattr(pipe, name).to("cuda")
    pipe.set_progress_bar_config(disable=True)
    scenes = sample_scenes(4, objects=1, seed=0)
    noise = [torch.Generator("cpu").manual_seed(i) for i in range(len(scenes))]
    pictures = pipe([caption(scene) for scene in scenes], num_inference_steps=10, generator=noise).images
    return f"{adherence(pictures, scenes).rates['all right'].right} of {len(scenes)}"
