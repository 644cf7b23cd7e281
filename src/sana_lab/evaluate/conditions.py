"""What is changed from one condition to the next, and the pipelines that have it changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..checkpoints import Source, resolve
from ..int8 import fake_quantize_, quantize, sqnr_db
from ..layers import contiguous_inputs_
from ..libraries import DTYPES, dtype_argument, quiet
from ..sana import load_sana

if TYPE_CHECKING:
    from diffusers import SanaPipeline

COMPONENTS = ("text_encoder", "transformer")
"""What the official recipe quantizes; the autoencoder stays in 16 bits."""

BOTH = (nn.Linear, nn.Conv2d)
"""What holds nearly all weights of the transformer; all but the embedding of the text encoder's are Linear."""


@dataclass(frozen=True)
class Condition:
    """One way to draw.

    Args:
        title: for tables and figures.
        precision: what `load_sana` takes.
        components: which parts are in 8 bits, for int8.
        threshold: outlier threshold of LLM.int8(), for int8.
        slim: quantize also what the recipe leaves (chapter 8), for int8 and nf4.
        bits: simulated bits of the weights of every layer of `kinds` in both components, or None.
        kinds: which layers `bits` rounds, one scale for each output (channel). Norms, biases, the embedding and the
            autoencoder are never rounded.
        other_noise: start from the noise of another picture.
    """

    title: str
    precision: str = "bf16"
    components: tuple[str, ...] = COMPONENTS
    threshold: float = 6.0
    slim: bool = False
    bits: int | None = None
    kinds: tuple[type[nn.Module], ...] = (nn.Linear,)
    other_noise: bool = False


BITS = (8, 6, 5, 4, 3, 2)
"""The rungs of the ladder."""

CONDITIONS = {
    "bf16": Condition("bf16"),
    "fp32": Condition("fp32", "fp32"),
    "other-noise": Condition("bf16, other noise", other_noise=True),
    "int8": Condition("int8, recipe", "int8"),
    "int8-t0": Condition("int8, threshold 0", "int8", threshold=0.0),
    "int8-transformer": Condition("int8, transformer only", "int8", ("transformer",)),
    "int8-encoder": Condition("int8, text encoder only", "int8", ("text_encoder",)),
    "int8-slim": Condition("int8, slim", "int8", slim=True),
    "nf4": Condition("nf4", "nf4"),
    "nf4-slim": Condition("nf4, slim", "nf4", slim=True),
    **{f"w{bits}": Condition(f"{bits}-bit Linear, simulated", bits=bits) for bits in BITS},
    **{f"c{bits}": Condition(f"{bits}-bit Conv2d, simulated", bits=bits, kinds=(nn.Conv2d,)) for bits in BITS},
    **{f"wc{bits}": Condition(f"{bits}-bit Linear and Conv2d, simulated", bits=bits, kinds=BOTH) for bits in BITS},
}
"""Every condition by its name. The first is what the others are compared with."""

REFERENCE = "bf16"


def load(model: str | Path | Source, condition: Condition, device: str) -> SanaPipeline:
    """A pipeline under a condition, on a device, silent.

    Raises:
        ValueError, RuntimeError, OSError: what `load_sana` raises.

    Chapter 6.
    """
    if condition.precision == "int8" and (condition.components, condition.threshold) != (COMPONENTS, 6.0):
        pipe = _partly_int8(model, condition, device)
    else:
        pipe = load_sana(model, condition.precision, device, slim=condition.slim)
    if condition.bits is not None:
        for component in COMPONENTS:
            model = getattr(pipe, component)
            if any(isinstance(layer, condition.kinds) for layer in model.modules()):  # the encoder has no convolution
                fake_quantize_(model, condition.bits, kinds=condition.kinds)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _partly_int8(model: str | Path | Source, condition: Condition, device: str) -> SanaPipeline:
    """The bf16 pipeline with some of its components loaded again in 8 bits, as chapter 5 loads them."""
    import diffusers
    import transformers

    source = resolve(model)
    pipe = load_sana(source, "bf16", device)
    classes = {
        "text_encoder": (transformers, transformers.AutoModel, torch.bfloat16),
        "transformer": (diffusers, diffusers.SanaTransformer2DModel, DTYPES[source.trained or "bf16"]),
    }
    with quiet(), torch.cuda.device(device):  # quantized weights go to the current device
        for component in condition.components:
            library, loader, dtype = classes[component]
            quantized = loader.from_pretrained(
                source.folder,
                subfolder=component,
                variant=source.variant,
                quantization_config=library.BitsAndBytesConfig(
                    load_in_8bit=True, llm_int8_threshold=condition.threshold
                ),
                use_safetensors=True,
                **{dtype_argument(library): dtype},
            )
            setattr(pipe, component, contiguous_inputs_(quantized.eval()))
        if condition.slim:
            from ..slim import quantize_embedding_, quantize_pointwise_  # imports bitsandbytes, which takes seconds

            if "transformer" in condition.components:
                quantize_pointwise_(pipe.transformer, "int8", condition.threshold)
            if "text_encoder" in condition.components:
                quantize_embedding_(pipe.text_encoder)
    return pipe


@dataclass(frozen=True)
class Layer:
    """A layer of the sensitivity sweep: which component, its name there, its class, how many weights it has."""

    component: str
    name: str
    kind: str
    weights: int

    @property
    def path(self) -> str:
        """E.g. ``transformer.proj_out``."""
        return f"{self.component}.{self.name}"


def layers(pipe: SanaPipeline) -> list[Layer]:
    """Every Linear and Conv2d of the text encoder and the transformer, in the order of `named_modules`. Chapter 6."""
    return [
        Layer(component, name, type(module).__name__, module.weight.numel())
        for component in COMPONENTS
        for name, module in getattr(pipe, component).named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]


@contextmanager
def one_layer_quantized(pipe: SanaPipeline, layer: Layer, bits: int) -> Iterator[float]:
    """For the length of the block round one layer's weight to `bits` bits, one scale for each output; then restore it.

    Yields:
        The signal-to-quantization-noise ratio of the weight, in decibels.

    Chapter 6.
    """
    weight = getattr(pipe, layer.component).get_submodule(layer.name).weight
    before = weight.detach().clone()
    after = quantize(before, bits, axis=0).dequantize()
    weight.data.copy_(after)
    try:
        yield sqnr_db(before, after)
    finally:
        weight.data.copy_(before)
