"""Sana's transformer block with one pass over the rows between two products, where diffusers' has three to seven.

Chapter 8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .attention import CrossAttention, SelfAttention
from .row_kernels import LIMIT, between

if TYPE_CHECKING:
    from diffusers import SanaTransformer2DModel

SHIFT_MSA, GATE_MSA, SHIFT_MLP, GATE_MLP = 0, 2, 3, 5
"""Rows of the modulation: shift, scale and gate of the self-attention, then those of the feed-forward."""


class Block(nn.Module):
    """A block whose sums, norms, modulations and roundings are done by `sana_lab.row_kernels.between`.

    Does what diffusers' `SanaTransformerBlock` does (0.42.1, models/transformers/sana_transformer.py).

    Args:
        block: diffusers' own, whose layers it takes over under their names, after `sana_lab.attention.rewrite_` and
            with a `sana_lab.fast.FusedFeedForward`.

    Shape: hidden states (batch, tokens, channels) to the same.

    Chapter 8.
    """

    def __init__(self, block: nn.Module) -> None:
        """Take over the layers."""
        super().__init__()
        self.norm1, self.attn1, self.norm2, self.attn2 = block.norm1, block.attn1, block.norm2, block.attn2
        self.ff, self.scale_shift_table = block.ff, block.scale_shift_table

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        timestep: Tensor | None = None,
        height: int | None = None,
        width: int | None = None,
    ) -> Tensor:
        """Attend to the picture, to the prompt, and feed forward."""
        clip = hidden_states.dtype == torch.float16
        parts = self.scale_shift_table[None] + timestep.reshape(len(hidden_states), 6, -1)
        _, query = _through(self.attn1.to_qkv, hidden_states, None, parts, -1, SHIFT_MSA, self.norm1)
        update = self.attn1.attend(query)
        hidden_states, query = _through(self.attn2.to_q, hidden_states, update, parts, GATE_MSA, -1, None, clip)
        update = self.attn2.attend(query, hidden_states, encoder_hidden_states, encoder_attention_mask)
        given = {"silu": True} if self.ff.activated else {}
        hidden_states, wide = _through(self.ff.expand, hidden_states, update, parts, -1, SHIFT_MLP, self.norm2, **given)
        narrow = self.ff.narrow(wide.unflatten(1, (height, width)))
        return hidden_states + parts[:, GATE_MLP, None] * narrow.flatten(1, 2)


def _through(
    layer: nn.Module,
    hidden: Tensor,
    update: Tensor | None,
    parts: Tensor,
    gate: int,
    shift: int,
    norm: nn.LayerNorm | None,
    clip: bool = False,
    **given: bool,
) -> tuple[Tensor, Tensor]:
    """The sum that `between` gives, and what `layer` makes of its rows; `given` is for a layer's `of_codes`."""
    codes = getattr(layer, "rounds", "")
    eps = 0.0 if norm is None else norm.eps
    if update is not None and shift < 0 and not codes:  # a sum alone, which any compiler joins
        hidden = hidden + parts[:, gate, None] * (update.clip(-LIMIT, LIMIT) if clip else update)
        return hidden, layer(hidden)
    total, rows, steps = between(hidden, update, parts, gate, shift, eps, clip, codes)
    if not codes:
        return total, layer(rows)
    made = layer.of_codes(rows.flatten(0, 1), steps, hidden.dtype, **given)
    return total, made.unflatten(0, hidden.shape[:2])


def rewrite_blocks_(transformer: SanaTransformer2DModel) -> SanaTransformer2DModel:
    """Put a `Block` in the place of every block that has been rewritten inside, in place; the others stay.

    Chapter 8.
    """
    for number, block in enumerate(transformer.transformer_blocks):
        fits = isinstance(block.attn1, SelfAttention) and isinstance(block.attn2, CrossAttention)
        if fits and hasattr(block.ff, "narrow") and block.norm1.weight is None and block.norm2.weight is None:
            transformer.transformer_blocks[number] = Block(block).train(block.training)
    return transformer
