"""Outliers planted in Sana's transformer, without changing what it computes.

Where a linear layer reads what another linear map wrote, channel by channel, one channel may be made larger there and
its column smaller here. Three inputs of a block are such: the attention's output projections, which read a mixture of
values that keeps channels apart, and the last layer of the feed-forward, whose gate multiplies channel by channel.
In chapter 3 the same is done to the text encoder's norms.

Chapter 7.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from diffusers import SanaTransformer2DModel

CHANNEL = 5


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

    Source: SmoothQuant (arXiv 2211.10438, equation 3), run backwards. Chapter 7.
    """
    channels = list(channels)
    width = transformer.transformer_blocks[0].attn1.to_v.out_features
    if not channels or any(not isinstance(c, int) or not 0 <= c < width for c in channels):
        raise ValueError(f"channels={channels}: name some from 0 to {width - 1}")
    if not (math.isfinite(factor) and factor > 0):
        raise ValueError(f"factor={factor} must be a finite number above 0")
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
    source: str | Path, folder: str | Path, factor: float, channels: Sequence[int] = (CHANNEL,)
) -> Path:
    """Write a copy of a checkpoint whose transformer has outliers. Its other parts are links to those of `source`.

    Args:
        source: a folder in diffusers' pipeline format.
        folder: where to write; must not exist yet.
        factor: as in `plant_in_transformer_`.
        channels: likewise.

    Returns:
        `folder`.

    Raises:
        FileExistsError: it exists already.
        ValueError: as `plant_in_transformer_`.

    Chapter 7.
    """
    import shutil
    import tempfile

    from diffusers import SanaTransformer2DModel

    from .random_checkpoint import _link
    from .sana import _dtype_argument, _quiet, variant_of

    source, folder = Path(source), Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists already: give another folder, or remove that one first.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    variant = variant_of(source)
    import diffusers

    with tempfile.TemporaryDirectory(prefix=".sana-lab-", dir=folder.parent) as scratch, _quiet():
        partial = Path(scratch) / folder.name
        # Hashes, where there are any, are those of the original.
        ignored = shutil.ignore_patterns("transformer", "manifest.json")
        shutil.copytree(source, partial, copy_function=_link, ignore=ignored)
        dtype = {"fp16": torch.float16}.get(variant, torch.bfloat16)
        transformer = SanaTransformer2DModel.from_pretrained(
            source, subfolder="transformer", variant=variant, **{_dtype_argument(diffusers): dtype}
        )
        plant_in_transformer_(transformer, channels, factor).save_pretrained(partial / "transformer", variant=variant)
        partial.rename(folder)
    return folder
