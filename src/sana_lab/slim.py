"""What saves more than the recipe of chapter 5, each part by itself.

The recipe quantizes `nn.Linear` layers. In Sana's transformer these hold about half of the weights: the feed-forward
(`GLUMBConv`) is three convolutions, two of them 1x1. A 1x1 convolution is a linear layer over channels, and written as
one it can be quantized like one ("pointwise"). In the text encoder the embedding stays in 16 bits; bitsandbytes has an
8-bit one ("embedding"). And the text encoder, the largest part, is done once the prompts are encoded (`encode`,
`drop_text_encoder_`). `load_sana(..., slim=True)` does the first two, `savings` says what each is worth.

The autoencoder is left as the recipe leaves it, in 16 bits, its 1x1 convolutions included.
"""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bitsandbytes
import torch
from torch import Tensor, nn

from . import accounting
from .checkpoints import Source

if TYPE_CHECKING:
    import pandas as pd
    from diffusers import SanaPipeline, SanaTransformer2DModel
    from transformers import Gemma2Model

PARTS = ("pointwise", "embedding")
"""What `slim` may name: the 1x1 convolutions of the feed-forward, the text encoder's embedding."""

ROWS = 8192
"""Rows of an embedding that are quantized at a time: no more of them are in 16 bits beside the codes."""


class _OverChannels:
    """What makes a linear layer a 1x1 convolution: pixels become tokens, and a weight may come as a convolution's.

    Shape: (batch, in, height, width) to (batch, out, height, width). The pixels become tokens without a copy.
    """

    makes_input_contiguous = False

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Apply the linear layer to each pixel."""
        size = hidden_states.shape[-2:]
        tokens = hidden_states.permute(0, 2, 3, 1).flatten(1, 2)  # bitsandbytes wants (batch, tokens, channels)
        if self.makes_input_contiguous:
            tokens = tokens.contiguous()
        return super().forward(tokens).unflatten(1, size).permute(0, 3, 1, 2)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        weight = state_dict.get(f"{prefix}weight")
        if weight is not None and weight.shape[2:] == (1, 1):
            state_dict[f"{prefix}weight"] = weight.flatten(1)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class Pointwise(_OverChannels, nn.Linear):
    """A 1x1 convolution computed as a linear layer: the same function, to float rounding.

    Its state dict has the convolution's shape, (out, in, 1, 1), and loads either shape. Chapter 8.
    """

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = destination[f"{prefix}weight"][:, :, None, None]


class Pointwise8bit(_OverChannels, bitsandbytes.nn.Linear8bitLt):
    """A 1x1 convolution as a linear layer in LLM.int8(); state dict as bitsandbytes writes it. Chapter 8."""

    # bitsandbytes' kernel reads memory as it lies, and turning the channels makes views. The hook of
    # `contiguous_inputs_` would come too early, before they are turned.
    makes_input_contiguous = True


class Pointwise4bit(_OverChannels, bitsandbytes.nn.Linear4bit):
    """A 1x1 convolution as a linear layer in 4 bits; state dict as bitsandbytes writes it. Chapter 8."""


class ScaledEmbedding8bit(bitsandbytes.nn.Embedding8bit):
    """An embedding in 8 bits, one scale a row, with the factor that Gemma multiplies its embedding with.

    In transformers 5.23.0 the embedding itself multiplies with the root of the width, `embed_scale` (models/gemma2/
    modeling_gemma2.py, `Gemma2TextScaledWordEmbedding`); in 4 the model does, and `embed_scale` is None. It cannot be
    saved: bitsandbytes 0.50.2 has no format for it (nn/modules.py, `Embedding8bit`).

    Args:
        codes: (rows, width) int8.
        scales: (rows,) float32, the largest magnitude of each row.
        dtype: of what it returns.
        embed_scale: the factor, a tensor without dimensions, or None.

    Chapter 8.
    """

    def __init__(self, codes: Tensor, scales: Tensor, dtype: torch.dtype, embed_scale: Tensor | None = None) -> None:
        """Keep codes and scales as bitsandbytes does, without a copy."""
        super().__init__(*codes.shape, device="meta", dtype=dtype)
        self.weight = bitsandbytes.nn.Int8Params(
            codes, requires_grad=False, has_fp16_weights=False, CB=codes, SCB=scales
        )
        self.register_buffer("embed_scale", embed_scale, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """(...) token numbers to (..., width) in `dtype`."""
        rows = super().forward(input)
        return rows if self.embed_scale is None else rows * self.embed_scale.to(rows.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ScaledEmbedding8bit:
        super()._apply(fn, recurse)  # moves the codes and leaves behind what is beside them (bitsandbytes 0.50.2)
        self.weight.CB, self.weight.SCB = self.weight.data, self.weight.SCB.to(self.weight.device)
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        raise NotImplementedError(
            "an embedding in 8 bits cannot be saved (bitsandbytes has no format for it): save the 16-bit model, and "
            "load that with slim=True."
        )


def parts_of(slim: bool | Collection[str]) -> tuple[str, ...]:
    """The parts that a `slim` argument names: all for True, none for False.

    Raises:
        ValueError: a part is unknown.
    """
    named = () if slim is False else PARTS if slim is True else (slim,) if isinstance(slim, str) else tuple(slim)
    if unknown := [part for part in named if part not in PARTS]:
        raise ValueError(f"slim names {unknown[0]!r}: choose from {', '.join(PARTS)}, or give True for both.")
    return tuple(part for part in PARTS if part in named)


def pointwise_as_linear_(transformer: SanaTransformer2DModel) -> SanaTransformer2DModel:
    """Replace the 1x1 convolutions of the feed-forward by `Pointwise` layers with the same weights, in place.

    Raises:
        TypeError: there is no such feed-forward in it.

    Chapter 8.
    """
    for block, name in _pointwise(transformer):
        convolution = getattr(block, name)
        layer = Pointwise(*_channels(convolution), convolution.bias is not None, device="meta")
        layer.weight = nn.Parameter(convolution.weight.data.flatten(1), convolution.weight.requires_grad)
        layer.bias = convolution.bias
        setattr(block, name, layer.train(convolution.training))
    return transformer


def quantize_pointwise_(
    transformer: SanaTransformer2DModel, precision: str = "int8", threshold: float = 6.0
) -> SanaTransformer2DModel:
    """Replace the 1x1 convolutions of the feed-forward by quantized layers, in place.

    One after the other, so that no more than one is in memory twice.

    Args:
        transformer: on a GPU, as the recipe loads it.
        precision: "int8" (`Pointwise8bit`) or "nf4" (`Pointwise4bit`, blocks of 64, no double quantization, products in
            the type of the convolution: what the recipe asks for).
        threshold: of LLM.int8(), for int8.

    Raises:
        ValueError: unknown precision.
        TypeError: there is no such feed-forward in it, or nothing left to quantize.

    Chapter 8.
    """
    if precision not in ("int8", "nf4"):
        raise ValueError(f"precision {precision!r} is unknown: choose from int8, nf4.")
    for block, name in _pointwise(transformer):
        convolution = getattr(block, name)
        weight, bias = convolution.weight.data, convolution.bias
        device, dtype = weight.device, weight.dtype
        shape = (*_channels(convolution), bias is not None)
        weight = weight.flatten(1).cpu()  # bitsandbytes quantizes what comes from the CPU to a GPU
        if precision == "int8":
            layer = Pointwise8bit(*shape, has_fp16_weights=False, threshold=threshold, device="meta")
            layer.weight = bitsandbytes.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
        else:
            options = {"compress_statistics": False, "quant_type": "nf4"}
            layer = Pointwise4bit(*shape, compute_dtype=dtype, device="meta", **options)
            layer.weight = bitsandbytes.nn.Params4bit(weight, requires_grad=False, module=layer, **options)
        layer.bias = bias
        setattr(block, name, None)
        del convolution  # its bytes are given back before the codes are made
        setattr(block, name, layer.to(device).eval())
    return transformer


def quantize_embedding_(text_encoder: Gemma2Model) -> Gemma2Model:
    """Replace the token embedding by one in 8 bits, in place.

    The 16-bit rows go to the CPU first and come back in portions, so that the GPU never holds more than it did.

    Raises:
        TypeError: the embedding is no 16-bit or 32-bit one.

    Chapter 8.
    """
    embedding = text_encoder.get_input_embeddings()
    if not isinstance(embedding, nn.Embedding) or not embedding.weight.is_floating_point():
        raise TypeError(
            f"the token embedding is a {type(embedding).__name__}: give a text encoder that has it in 16 bits"
        )
    device, dtype = embedding.weight.device, embedding.weight.dtype
    scale = getattr(embedding, "embed_scale", None)
    rows = embedding.weight.data.cpu()
    text_encoder.set_input_embeddings(None)
    del embedding
    codes = torch.empty(rows.shape, dtype=torch.int8, device=device)
    scales = torch.empty(len(rows), dtype=torch.float32, device=device)
    for some, some_codes, some_scales in zip(rows.split(ROWS), codes.split(ROWS), scales.split(ROWS), strict=True):
        made = bitsandbytes.functional.int8_vectorwise_quant(some.to(device, torch.float16).contiguous())
        some_codes.copy_(made[0])
        some_scales.copy_(made[1])
    text_encoder.set_input_embeddings(ScaledEmbedding8bit(codes, scales, dtype, scale).eval())
    return text_encoder


def _pointwise(transformer: nn.Module) -> list[tuple[nn.Module, str]]:
    """The 1x1 convolutions of every feed-forward: the block, and their name in it.

    Raises:
        TypeError: there are none.
    """
    from diffusers.models.transformers.sana_transformer import GLUMBConv

    blocks = [block for block in transformer.modules() if isinstance(block, GLUMBConv)]
    names = ("conv_inverted", "conv_point")
    found = [(block, name) for block in blocks for name in names if isinstance(getattr(block, name), nn.Conv2d)]
    if not found:
        raise TypeError(
            f"{type(transformer).__name__} has no 1x1 convolutions in a Sana feed-forward: give pipe.transformer, as "
            "load_sana() returns it without slim"
        )
    return found


def _channels(convolution: nn.Conv2d) -> tuple[int, int]:
    return convolution.in_channels, convolution.out_channels


@dataclass(frozen=True)
class PromptEmbeddings:
    """What a pipeline draws from, on the CPU: the text encoder's part of the work, done.

    Attributes:
        prompt_embeds: (batch, tokens, channels).
        prompt_attention_mask: (batch, tokens), 1 for tokens and 0 for padding.
        negative_prompt_embeds: the same of the negative prompts; None for Sprint, which has no guidance of this kind.
        negative_prompt_attention_mask: likewise.

    Chapter 8.
    """

    prompt_embeds: Tensor
    prompt_attention_mask: Tensor
    negative_prompt_embeds: Tensor | None = None
    negative_prompt_attention_mask: Tensor | None = None

    def arguments(self, device: str | torch.device = "cuda") -> dict[str, Any]:
        """Arguments of the pipeline's call in place of prompts: ``pipe(**embeddings.arguments())``."""
        given = {name: value.to(device) for name, value in self._tensors().items()}
        return given | ({"negative_prompt": None} if self.negative_prompt_embeds is not None else {})

    def save(self, file: str | Path) -> None:
        """Write a safetensors file."""
        from safetensors.torch import save_file

        save_file({name: value.contiguous() for name, value in self._tensors().items()}, file)

    @classmethod
    def load(cls, file: str | Path) -> PromptEmbeddings:
        """Read what `save` wrote.

        Raises:
            ValueError: the file holds something else.
            OSError: it cannot be read.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return cls(**load_file(file))
        except (SafetensorError, TypeError):
            raise ValueError(
                f"{file} holds no prompt embeddings: give a file that PromptEmbeddings.save wrote."
            ) from None

    def _tensors(self) -> dict[str, Tensor]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


@torch.no_grad()
def encode(pipe: SanaPipeline, prompts: str | list[str], negative_prompt: str | list[str] = "") -> PromptEmbeddings:
    """Encode prompts as the pipeline's call does by default, with its instruction before each; keep them on the CPU.

    Drawing from them gives exactly the pictures of drawing from the prompts, if the batch is the same. (With a
    quantized encoder not quite if it is not: LLM.int8() decides by all rows of a batch which columns are outliers.)

    Raises:
        ValueError: the text encoder was dropped already, or there is no prompt.

    Chapter 8.
    """
    if pipe.text_encoder is None:
        raise ValueError("the text encoder was dropped: encode first, or load the pipeline again.")
    if not prompts:
        raise ValueError("there is no prompt: give one or several.")
    default = inspect.signature(type(pipe).__call__).parameters
    options = {
        name: default[name].default for name in ("clean_caption", "max_sequence_length", "complex_human_instruction")
    }
    if "negative_prompt" in inspect.signature(pipe.encode_prompt).parameters:
        options["negative_prompt"] = negative_prompt
    return PromptEmbeddings(*(tensor.cpu() for tensor in pipe.encode_prompt(prompts, **options)))


def drop_text_encoder_(pipe: SanaPipeline) -> int:
    """Take the text encoder out of a pipeline, in place. From then on it draws from `PromptEmbeddings` only.

    Returns:
        Bytes that it held.

    Raises:
        ValueError: it was dropped already.

    Chapter 8.
    """
    if pipe.text_encoder is None:
        raise ValueError("the text encoder was dropped already.")
    held = accounting.components({"text_encoder": pipe.text_encoder})["text_encoder"]
    pipe.text_encoder = None
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return held


def predict(
    checkpoint: str | Path | Source, precision: str = "int8", slim: bool | Collection[str] = True, *, granule: int = 1
) -> dict[str, int]:
    """Bytes that each component will hold after `load_sana(..., precision, slim=slim)`: weights, no activations.

    Args:
        checkpoint: As in `accounting.build`.
        precision: "int8", "fp8" or "nf4".
        slim: As in `load_sana`.
        granule: As in `accounting.predict`.

    Raises:
        ValueError: unknown checkpoint, precision or part.

    Chapter 8.
    """
    if precision not in ("int8", "fp8", "nf4"):
        raise ValueError(f"precision {precision!r} is unknown here: choose from int8, fp8, nf4.")
    models, parts = accounting.build(checkpoint), parts_of(slim)
    if "pointwise" in parts:
        pointwise_as_linear_(models["transformer"])
    sizes = {}
    for name, model in models.items():
        tensors = accounting.held(model)
        if name != "vae":
            tensors = accounting.quantized(tensors, model, precision)
        if name == "text_encoder" and "embedding" in parts:
            tensors = _with_embedding_quantized(tensors, model, precision)
        sizes[name] = sum(-(-stored.bytes // granule) * granule for stored in tensors)
    return sizes


def _with_embedding_quantized(
    tensors: Iterator[accounting.Stored], model: Gemma2Model, precision: str
) -> Iterator[accounting.Stored]:
    """Tensors as `accounting` lists them, with the embedding in 8 bits as `quantize_embedding_` or FP8 keeps it."""
    names = ("codes", "float8_e4m3fn", "scale") if precision == "fp8" else ("weight", "int8", "SCB")
    for stored in tensors:
        if precision == "fp8" and stored.tensor == "embed_scale":
            continue  # a number of the layer's own there (`Float8Embedding.factor`)
        if stored.kind != "Embedding" or stored.tensor != "weight":
            yield stored
            continue
        yield replace(stored, tensor=names[0], dtype=names[1], bytes=stored.parameters)
        rows = model.get_input_embeddings().num_embeddings
        yield replace(stored, tensor=names[2], dtype="float32", parameters=0, bytes=4 * rows)


def savings(checkpoint: str | Path | Source, precision: str = "int8") -> pd.DataFrame:
    """What each part saves, one after the other, counted on the meta device.

    Args:
        checkpoint: As in `predict`.
        precision: "int8", "fp8" or "nf4".

    Returns:
        A row for "bf16", "recipe", "+ pointwise", "+ embedding" and "+ text encoder dropped"; columns: bytes of
        "text_encoder", "transformer", "vae" and "total", "saved" (by this step) and "ratio" (of the total to bf16).

    Raises:
        ValueError: as in `predict`.

    Chapter 8.
    """
    import pandas as pd

    slimmest = predict(checkpoint, precision)
    table = pd.DataFrame.from_dict(
        {
            "bf16": accounting.predict(checkpoint, "bf16"),
            "recipe": predict(checkpoint, precision, slim=False),
            "+ pointwise": predict(checkpoint, precision, {"pointwise"}),
            "+ embedding": slimmest,
            "+ text encoder dropped": slimmest | {"text_encoder": 0},
        },
        orient="index",
    )
    table["total"] = table.sum(axis=1)
    return table.assign(
        saved=-table["total"].diff().fillna(0).astype(int), ratio=table["total"] / table["total"].iloc[0]
    )
