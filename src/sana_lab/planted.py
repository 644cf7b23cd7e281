"""Outliers planted in the text encoder and in Sana's transformer, without changing what they compute.

In the text encoder, a norm multiplies a channel by a factor, and the columns of the layers that read it are divided by
the same. In the transformer, where a linear layer reads what another linear map wrote, channel by channel, one channel
may be made larger there and its column smaller here. Three inputs of a block are such: the attention's output
projections, which read a mixture of values that keeps channels apart, and the last layer of the feed-forward, whose
gate multiplies channel by channel.

Chapters 3 and 8.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from .checkpoints import Source, resolve

if TYPE_CHECKING:
    from diffusers import SanaTransformer2DModel
    from transformers import Gemma2Model

CHANNEL = 5
"""Of the transformer, where nothing else is said: any would do."""

READERS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "pre_feedforward_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}
"""In a layer of Gemma 2: the norms whose output goes to linear layers and nowhere else, and those layers
(transformers 5.23.0, models/gemma2/modeling_gemma2.py)."""


def plant_in_encoder_(encoder: Gemma2Model, channels: Sequence[int], factor: float) -> Gemma2Model:
    """Make channels `factor` times as large between norm and linear layers, in place; the output stays as it was.

    Gemma's norm multiplies by ``1 + weight``, so its weight becomes ``factor * (1 + weight) - 1``; the columns of the
    layers that read it are divided by `factor`. This is SmoothQuant (arXiv 2211.10438, equation 3) run backwards.
    What changes is rounding: none beyond float32's in float32, that of one norm weight a layer in bfloat16.

    Args:
        encoder: Gemma 2 with floating-point weights, before quantization.
        channels: Of the hidden state, 0 up to its width, each once.
        factor: Above 0; below 1 it makes channels smaller.

    Returns:
        The same encoder.

    Raises:
        TypeError: if it has no such norms, or its weights are integers.
        ValueError: if a channel or the factor is out of range. Nothing is changed then.

    Chapter 3.
    """
    pairs = [pair for layer in _layers(encoder) for pair in _norms(layer)]
    channels = _checked(channels, pairs[0][0].weight.numel(), factor)
    with torch.no_grad():
        for norm, linears in pairs:
            norm.weight[channels] = (factor * (1 + norm.weight[channels].float()) - 1).to(norm.weight.dtype)
            for linear in linears:
                linear.weight[:, channels] /= factor
    return encoder


def plant_in_transformer_(
    transformer: SanaTransformer2DModel, channels: Sequence[int] = (CHANNEL,), factor: float = 100.0
) -> SanaTransformer2DModel:
    """Make `channels` of three inputs of every block `factor` times as large, in place; the function stays the same.

    Args:
        transformer: with floating-point weights, before quantization.
        channels: of the width of the attention, and of half the width of the feed-forward.
        factor: above 0; 1 changes nothing.

    Returns:
        The same transformer. What changes is rounding.

    Raises:
        ValueError: a channel or the factor is out of range. Nothing is changed then.
        TypeError: the weights are integers.

    Source: SmoothQuant (arXiv 2211.10438, equation 3), run backwards. Chapter 8.
    """
    channels = _checked(channels, transformer.transformer_blocks[0].attn1.to_v.out_features, factor)
    pairs: list[tuple[nn.Module, nn.Module]] = []
    for block in transformer.transformer_blocks:
        pairs += [(attention.to_v, attention.to_out[0]) for attention in (block.attn1, block.attn2)]
        pairs += [(block.ff.conv_depth, block.ff.conv_point)]
    if any(not layer.weight.is_floating_point() for pair in pairs for layer in pair):
        raise TypeError("the transformer's weights are integers: plant outliers first, quantize afterwards")
    with torch.no_grad():
        for writer, reader in pairs:
            writer.weight[channels] *= factor
            if writer.bias is not None:
                writer.bias[channels] *= factor
            reader.weight[:, channels] /= factor
    return transformer


def copy_with_outliers(
    source: str | Path | Source, folder: str | Path, factor: float, channels: Sequence[int] = (CHANNEL,)
) -> Path:
    """Write a copy of a checkpoint whose transformer has outliers. Its other parts are links to those of `source`.

    Args:
        source: what `load_sana` takes.
        folder: where to write; must not exist yet.
        factor: as in `plant_in_transformer_`.
        channels: likewise.

    Returns:
        `folder`.

    Raises:
        FileExistsError: it exists already.
        ValueError: as `plant_in_transformer_`, or `source` names nothing.
        OSError: weights of the transformer are missing: a copy would have random ones in their place.

    Chapter 8.
    """
    import shutil
    import tempfile

    from diffusers import SanaTransformer2DModel

    from .libraries import DTYPES, dtype_argument, quiet
    from .random_checkpoint import link_or_copy
    from .weights import finite, fit

    found, folder = resolve(source), Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists already: give another folder, or remove that one first.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    variant = found.variant
    finite("transformer", fit(found.folder, "transformer", variant))
    import diffusers

    with tempfile.TemporaryDirectory(prefix=".sana-lab-", dir=folder.parent) as scratch, quiet():
        partial = Path(scratch) / folder.name
        # Hashes, where there are any, are those of the original.
        ignored = shutil.ignore_patterns("transformer", "manifest.json")
        shutil.copytree(found.folder, partial, copy_function=link_or_copy, ignore=ignored)
        dtype = DTYPES[found.trained or "bf16"]
        transformer = SanaTransformer2DModel.from_pretrained(
            found.folder, subfolder="transformer", variant=variant, **{dtype_argument(diffusers): dtype}
        )
        plant_in_transformer_(transformer, channels, factor).save_pretrained(partial / "transformer", variant=variant)
        partial.rename(folder)
    return folder


def _checked(channels: Sequence[int], width: int, factor: float) -> list[int]:
    """The channels as a list.

    Raises:
        ValueError: one does not exist or is named twice, or the factor is out of range.
    """
    channels = list(channels)
    if not channels or len(set(channels)) < len(channels):
        raise ValueError(f"channels={channels}: name at least one channel, and each once")
    if bad := [c for c in channels if not isinstance(c, int) or not 0 <= c < width]:
        raise ValueError(f"channels {bad} do not exist: there are channels 0 to {width - 1}")
    if not (math.isfinite(factor) and factor > 0):
        raise ValueError(f"factor={factor} must be a finite number above 0; 1 changes nothing")
    return channels


def _layers(encoder: Gemma2Model) -> Sequence[nn.Module]:
    layers = getattr(encoder, "layers", None)
    if not layers or not all(hasattr(layer, norm) for layer in layers for norm in READERS):
        raise TypeError(f"{type(encoder).__name__} has no layers with Gemma 2's norms: pass the text encoder itself")
    return layers


def _norms(layer: nn.Module) -> Iterator[tuple[nn.Module, list[nn.Module]]]:
    for norm, readers in READERS.items():
        linears = [layer.get_submodule(name) for name in readers]
        if any(not linear.weight.is_floating_point() for linear in linears):
            raise TypeError("the encoder's weights are integers: plant outliers first, quantize afterwards")
        yield layer.get_submodule(norm), linears
