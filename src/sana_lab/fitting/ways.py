"""The ways to put a Sana on a card, as functions whose bodies are the code to paste: what is shown is what runs.

A way loads and gives the pipeline with the arguments of its call, which are the prompts, or what became of them where
the text encoder is gone by then. The names in capitals are filled in by `code`. Chapter 9.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..checkpoints import Source

Made = tuple[Any, dict[str, Any]]


@dataclass(frozen=True)
class Way:
    """One way to load a pipeline and keep it somewhere.

    Args:
        name: for commands and records.
        title: for tables.
        make: the code; takes MODEL, VARIANT, DTYPE and prompts, and gives the pipeline and the arguments of its call.
        encoder: form of the text encoder, a key of `sana_lab.fitting.dry.FORMS`.
        transformer: form of the transformer.
        keeps: what is on the GPU: "all" of it all the time; "drop", the encoder first and then the rest; "model",
            the component that runs; "leaf", the layer that runs; "stream", that one and the next.
        disk: whether weights that wait do so on the disk.
        quantizes: whether the weights pass through the GPU while they load.
    """

    name: str
    title: str
    make: Callable[..., Made]
    encoder: str = "16"
    transformer: str = "16"
    keeps: str = "all"
    disk: bool = False
    quantizes: bool = False

    @property
    def takes_source(self) -> bool:
        """Whether the code calls `load_sana`, which takes all that is known of a model, and not a folder alone."""
        return "load_sana" in self.make.__code__.co_names


DECODES = {
    "whole": "",
    "slices": "pipe.vae.enable_slicing()",
    "tiles": "pipe.vae.enable_slicing()\npipe.vae.enable_tiling()",
}
"""Ways to decode: all pictures at once, one after the other, and each in tiles of 512 pixels. Value: the code."""


def _all_16(MODEL, VARIANT, DTYPE, prompts):
    import torch
    from diffusers import DiffusionPipeline

    dtypes = {"transformer": DTYPE, "default": torch.bfloat16}
    pipe = DiffusionPipeline.from_pretrained(MODEL, variant=VARIANT, dtype=dtypes)
    pipe.to("cuda")
    return pipe, {"prompt": prompts}


def _drop(MODEL, VARIANT, DTYPE, prompts):
    import torch
    from diffusers import DiffusionPipeline

    from sana_lab.slim import drop_text_encoder_, encode

    dtypes = {"transformer": DTYPE, "default": torch.bfloat16}
    pipe = DiffusionPipeline.from_pretrained(MODEL, variant=VARIANT, dtype=dtypes)
    pipe.text_encoder.to("cuda")
    embeddings = encode(pipe, prompts)  # of all prompts that are to come
    drop_text_encoder_(pipe)
    pipe.to("cuda")
    return pipe, embeddings.arguments()


def _drop_cast(MODEL, VARIANT, DTYPE, prompts):
    import torch
    from diffusers import DiffusionPipeline

    from sana_lab.slim import drop_text_encoder_, encode

    dtypes = {"transformer": DTYPE, "default": torch.bfloat16}
    pipe = DiffusionPipeline.from_pretrained(MODEL, variant=VARIANT, dtype=dtypes)
    pipe.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=DTYPE)
    pipe.text_encoder.to("cuda")
    embeddings = encode(pipe, prompts)  # of all prompts that are to come
    drop_text_encoder_(pipe)
    pipe.to("cuda")
    return pipe, embeddings.arguments()


def _encoder_8(MODEL, VARIANT, DTYPE, prompts):
    import torch
    from diffusers import DiffusionPipeline
    from transformers import AutoModel, BitsAndBytesConfig

    encoder = AutoModel.from_pretrained(
        MODEL,
        subfolder="text_encoder",
        variant=VARIANT,
        dtype=torch.bfloat16,
        quantization_config=BitsAndBytesConfig(load_in_8bit=True),
    )
    dtypes = {"transformer": DTYPE, "default": torch.bfloat16}
    pipe = DiffusionPipeline.from_pretrained(MODEL, text_encoder=encoder, variant=VARIANT, dtype=dtypes)
    pipe.transformer.to("cuda")
    pipe.vae.to("cuda")
    return pipe, {"prompt": prompts}


def _encoder_8_drop(MODEL, VARIANT, DTYPE, prompts):
    import torch
    from diffusers import DiffusionPipeline
    from transformers import AutoModel, BitsAndBytesConfig

    from sana_lab.slim import drop_text_encoder_, encode

    encoder = AutoModel.from_pretrained(
        MODEL,
        subfolder="text_encoder",
        variant=VARIANT,
        dtype=torch.bfloat16,
        quantization_config=BitsAndBytesConfig(load_in_8bit=True),
    )
    dtypes = {"transformer": DTYPE, "default": torch.bfloat16}
    pipe = DiffusionPipeline.from_pretrained(MODEL, text_encoder=encoder, variant=VARIANT, dtype=dtypes)
    embeddings = encode(pipe, prompts)  # of all prompts that are to come
    del encoder  # or else the next line frees nothing
    drop_text_encoder_(pipe)
    pipe.to("cuda")
    return pipe, embeddings.arguments()


def _int8(MODEL, VARIANT, DTYPE, prompts):
    from sana_lab import load_sana

    pipe = load_sana(MODEL, "int8")
    return pipe, {"prompt": prompts}


def _int8_slim(MODEL, VARIANT, DTYPE, prompts):
    from sana_lab import load_sana

    pipe = load_sana(MODEL, "int8", slim=True)
    return pipe, {"prompt": prompts}


def _fp8_slim(MODEL, VARIANT, DTYPE, prompts):
    from sana_lab import load_sana

    pipe = load_sana(MODEL, "fp8", slim=True)  # counted with Triton; steps take more without it
    return pipe, {"prompt": prompts}


def _nf4(MODEL, VARIANT, DTYPE, prompts):
    from sana_lab import load_sana

    pipe = load_sana(MODEL, "nf4")
    return pipe, {"prompt": prompts}


def _nf4_slim(MODEL, VARIANT, DTYPE, prompts):
    from sana_lab import load_sana

    pipe = load_sana(MODEL, "nf4", slim=True)
    return pipe, {"prompt": prompts}


def _int8_slim_drop(MODEL, VARIANT, DTYPE, prompts):
    import diffusers
    import torch
    from transformers import AutoModel, BitsAndBytesConfig

    from sana_lab import contiguous_inputs_
    from sana_lab.slim import drop_text_encoder_, encode, quantize_embedding_, quantize_pointwise_

    encoder = AutoModel.from_pretrained(
        MODEL,
        subfolder="text_encoder",
        variant=VARIANT,
        dtype=torch.bfloat16,
        quantization_config=BitsAndBytesConfig(load_in_8bit=True),
    )
    pipe = diffusers.DiffusionPipeline.from_pretrained(
        MODEL, text_encoder=quantize_embedding_(encoder), transformer=None, vae=None
    )
    embeddings = encode(pipe, prompts)  # of all prompts that are to come
    del encoder  # or else the next line frees nothing
    drop_text_encoder_(pipe)
    transformer = diffusers.SanaTransformer2DModel.from_pretrained(
        MODEL,
        subfolder="transformer",
        variant=VARIANT,
        dtype=DTYPE,
        quantization_config=diffusers.BitsAndBytesConfig(load_in_8bit=True),
    )
    pipe.transformer = contiguous_inputs_(quantize_pointwise_(transformer, "int8"))
    vae = diffusers.AutoencoderDC.from_pretrained(MODEL, subfolder="vae", variant=VARIANT, dtype=torch.bfloat16)
    pipe.vae = vae.to("cuda")
    return pipe, embeddings.arguments()


def _model_offload(MODEL, VARIANT, DTYPE, prompts):
    import torch
    from diffusers import DiffusionPipeline

    dtypes = {"transformer": DTYPE, "default": torch.bfloat16}
    pipe = DiffusionPipeline.from_pretrained(MODEL, variant=VARIANT, dtype=dtypes)
    pipe.enable_model_cpu_offload()
    return pipe, {"prompt": prompts}


def _model_offload_8(MODEL, VARIANT, DTYPE, prompts):
    import diffusers
    import torch
    from transformers import AutoModel, BitsAndBytesConfig

    from sana_lab import contiguous_inputs_
    from sana_lab.fitting.moving import moves_whole_

    encoder = AutoModel.from_pretrained(
        MODEL,
        subfolder="text_encoder",
        variant=VARIANT,
        dtype=torch.bfloat16,
        quantization_config=BitsAndBytesConfig(load_in_8bit=True),
    )
    moves_whole_(encoder).to("cpu")  # before the next one comes
    transformer = diffusers.SanaTransformer2DModel.from_pretrained(
        MODEL,
        subfolder="transformer",
        variant=VARIANT,
        dtype=DTYPE,
        quantization_config=diffusers.BitsAndBytesConfig(load_in_8bit=True),
    )
    moves_whole_(contiguous_inputs_(transformer)).to("cpu")
    vae = diffusers.AutoencoderDC.from_pretrained(MODEL, subfolder="vae", variant=VARIANT, dtype=torch.bfloat16)
    pipe = diffusers.DiffusionPipeline.from_pretrained(MODEL, text_encoder=encoder, transformer=transformer, vae=vae)
    pipe.enable_model_cpu_offload()
    return pipe, {"prompt": prompts}


def _group_offload(MODEL, VARIANT, DTYPE, prompts):
    import torch
    from diffusers import DiffusionPipeline

    dtypes = {"transformer": DTYPE, "default": torch.bfloat16}
    pipe = DiffusionPipeline.from_pretrained(MODEL, variant=VARIANT, dtype=dtypes)
    pipe.enable_group_offload(torch.device("cuda"), offload_type="leaf_level", use_stream=True, low_cpu_mem_usage=True)
    return pipe, {"prompt": prompts}


def _group_offload_disk(MODEL, VARIANT, DTYPE, prompts):
    import tempfile

    import torch
    from diffusers import DiffusionPipeline
    from diffusers.hooks import apply_group_offloading

    dtypes = {"transformer": DTYPE, "default": torch.bfloat16}
    pipe = DiffusionPipeline.from_pretrained(MODEL, variant=VARIANT, dtype=dtypes)
    for model in (pipe.text_encoder, pipe.transformer, pipe.vae):
        folder = tempfile.mkdtemp(prefix="offloaded-")  # the weights once more, on the disk: delete it afterwards
        apply_group_offloading(model, torch.device("cuda"), offload_type="leaf_level", offload_to_disk_path=folder)
    return pipe, {"prompt": prompts}


def _sequential_offload(MODEL, VARIANT, DTYPE, prompts):
    import torch
    from diffusers import DiffusionPipeline

    dtypes = {"transformer": DTYPE, "default": torch.bfloat16}
    pipe = DiffusionPipeline.from_pretrained(MODEL, variant=VARIANT, dtype=dtypes)
    pipe.enable_sequential_cpu_offload()
    return pipe, {"prompt": prompts}


_ALL = (
    Way("16-bit", "16 bits", _all_16),
    Way("16-bit-drop", "16 bits, encoder dropped", _drop, keeps="drop"),
    Way("encoder-8bit", "encoder in 8 bits", _encoder_8, "int8", quantizes=True),
    Way("encoder-8bit-drop", "encoder in 8 bits, dropped", _encoder_8_drop, "int8", keeps="drop", quantizes=True),
    Way("int8", "8 bits, the recipe", _int8, "int8", "int8", quantizes=True),
    Way("int8-slim", "8 bits, slim", _int8_slim, "int8-slim", "int8-slim", quantizes=True),
    Way(
        "int8-slim-drop", "8 bits, slim, encoder dropped", _int8_slim_drop, "int8-slim", "int8-slim", "drop",
        quantizes=True,
    ),
    Way("fp8-slim", "FP8, slim", _fp8_slim, "fp8-slim", "fp8-slim", quantizes=True),
    Way("nf4", "nf4", _nf4, "nf4", "nf4", quantizes=True),
    Way("nf4-slim", "nf4, slim", _nf4_slim, "nf4-slim", "nf4-slim", quantizes=True),
    Way("cast-drop", "stored in FP8, encoder dropped", _drop_cast, transformer="cast", keeps="drop"),
    Way("model-offload", "16 bits, model offload", _model_offload, keeps="model"),
    Way(
        "model-offload-8bit", "8 bits, model offload, codes too", _model_offload_8, "int8", "int8", "model",
        quantizes=True,
    ),
    Way("group-offload", "16 bits, group offload, stream", _group_offload, keeps="stream"),
    Way("group-offload-disk", "16 bits, group offload to disk", _group_offload_disk, keeps="leaf", disk=True),
    Way("sequential-offload", "16 bits, sequential offload", _sequential_offload, keeps="leaf"),
)  # fmt: skip

WAYS = {way.name: way for way in _ALL}
"""Every way by its name."""


def find(name: str) -> Way:
    """The way of this name.

    Raises:
        ValueError: there is none.
    """
    if name not in WAYS:
        raise ValueError(f"way {name!r} is unknown: choose from {', '.join(WAYS)}.")
    return WAYS[name]


def load(way: Way, source: Source, prompts: list[str], decode: str = "whole") -> Made:
    """Load as the pasted code does: the pipeline, and the arguments of its call for these prompts.

    Args:
        way: how.
        source: of the model, whose weights are here.
        prompts: all that are to come, where the way reads them as it loads.
        decode: a key of `DECODES`.

    Raises:
        ValueError, RuntimeError, OSError: what `load_sana` and the libraries raise.
    """
    import torch

    from ..libraries import DTYPES, quiet

    model = source if way.takes_source else str(source.folder)
    with quiet(), torch.no_grad():
        pipe, given = way.make(model, source.variant, DTYPES[source.trained or "bf16"], prompts)
    if decode != "whole":
        pipe.vae.enable_slicing()
    if decode == "tiles":
        pipe.vae.enable_tiling()
    return pipe, given


def body(way: Way) -> str:
    """What a way does, as its function has it, without the last line, `return pipe, ARGUMENTS`."""
    source = textwrap.dedent(inspect.getsource(way.make))
    (definition,) = ast.parse(source).body
    *_, last = definition.body
    lines = source.splitlines()[definition.body[0].lineno - 1 : last.lineno - 1]
    return textwrap.dedent("\n".join(lines))


def call(way: Way) -> str:
    """The arguments of the pipeline's call, in the words of a way's last line: `{"prompt": prompts}`."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(way.make))).body
    return ast.unparse(definition.body[-1].value.elts[1]).replace("'", '"')


def code(way: Way, values: Mapping[str, str], decode: str = "whole", *, pixels: int, steps: int) -> str:
    """A program to paste: load, draw, and keep the pictures.

    Args:
        way: how.
        values: of MODEL, VARIANT, DTYPE and prompts, as Python writes them.
        decode: a key of `DECODES`.
        pixels: a side.
        steps: of denoising.
    """
    used = body(way)
    heads = ["import torch"] * ("torch." in values["DTYPE"] and "DTYPE" in used)
    heads += [f"{name} = {value}" for name, value in values.items() if name in used or name == "prompts"]
    draw = (
        f"images = pipe(\n    **{call(way)},\n    height={pixels},\n    width={pixels},\n"
        f"    num_inference_steps={steps},\n).images"
    )
    lines = ["\n".join(heads), used.strip(), DECODES[decode], draw]
    return "\n\n".join(line for line in lines if line) + "\n"
