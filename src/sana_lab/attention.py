"""Sana's two attentions with less to do, and the same results.

The self-attention reads one input three times, for queries, keys and values: `SelfAttention` has one product for all
three, on 16-bit weights and on 8-bit codes alike. The cross-attention makes keys and values of the prompt, which is the
same at every step of a picture: `prompt_once_` makes them once a prompt.

Chapter 8.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .kernels import linear_attention
from .layers import OnCodes
from .row_kernels import LIMIT

if TYPE_CHECKING:
    from diffusers import SanaPipeline, SanaTransformer2DModel
    from diffusers.models.attention_processor import Attention


def joined(layers: Sequence[nn.Module]) -> nn.Module | None:
    """One linear layer that gives the results of several side by side, on a copy of their weights, or codes and scales.

    No row of a weight has to do with another: every number of the result is the same sum as before, of the same
    numbers. Integers are added exactly, so there the results are equal to the last bit. In 16 bits the library may cut
    a wider product into other tiles and add in another order: a result then moves by less than 2⁻²⁴ in · Σ |x| |w|, of
    float32's sum of `in` products, before it is rounded to 16 bits.

    Args:
        layers: of one input.

    Returns:
        None where they are of several kinds, or of one that holds neither 16-bit weights nor our codes.

    Chapter 8.
    """
    if len({type(layer) for layer in layers}) > 1 or len({layer.in_features for layer in layers}) > 1:
        return None
    first = layers[0]
    if type(first) is nn.Linear:
        if len({(layer.weight.dtype, layer.weight.device) for layer in layers}) > 1:
            return None
        width = sum(layer.out_features for layer in layers)
        layer = nn.Linear(first.in_features, width, device="meta")
        layer.weight = nn.Parameter(torch.cat([layer.weight.detach() for layer in layers]), requires_grad=False)
        bias = _side_by_side([layer.bias for layer in layers], layers)
        layer.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        return layer.train(first.training)
    if isinstance(first, OnCodes):
        codes = torch.cat([layer.codes.view(torch.uint8) for layer in layers]).view(first.codes.dtype)
        bias = _side_by_side([layer.bias for layer in layers], layers)
        return type(first)(codes, torch.cat([layer.scale for layer in layers]), bias).train(first.training)
    return None


def _side_by_side(biases: Sequence[Tensor | None], layers: Sequence[nn.Module]) -> Tensor | None:
    """One bias, with zeros for layers that have none; None if no layer has one."""
    like = next((bias for bias in biases if bias is not None), None)
    if like is None:
        return None
    parts = [
        like.new_zeros(layer.out_features) if bias is None else bias.detach()
        for bias, layer in zip(biases, layers, strict=True)
    ]
    return torch.cat(parts)


class SelfAttention(nn.Module):
    """Sana's linear attention with one product for queries, keys and values, and one kernel for the rest.

    Does what diffusers' `Attention` with `SanaLinearAttnProcessor2_0` does (0.42.1, models/attention_processor.py).

    Args:
        attention: diffusers' own, whose layers it takes over.
        to_qkv: `joined` of its three.
        tf32: see `sana_lab.kernels.linear_attention`.

    Shape: (batch, tokens, channels) to the same.

    Chapter 8.
    """

    def __init__(self, attention: Attention, to_qkv: nn.Module, tf32: bool = True) -> None:
        """Take over the layers."""
        super().__init__()
        self.to_qkv, self.to_out = to_qkv, attention.to_out
        self.norm_q, self.norm_k = attention.norm_q, attention.norm_k
        self.heads, self.tf32 = attention.heads, tf32

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Attend to all pixels; of a prompt and a mask, which Sana does not give here, nothing is read."""
        out = self.attend(self.to_qkv(hidden_states))
        return out.clip(-LIMIT, LIMIT) if hidden_states.dtype == torch.float16 else out

    def attend(self, queries_keys_values: Tensor) -> Tensor:
        """(batch, tokens, 3 * channels), side by side, to (batch, tokens, channels); not clipped yet."""
        query, key, value = queries_keys_values.chunk(3, dim=-1)
        query = query if self.norm_q is None else self.norm_q(query)
        key = key if self.norm_k is None else self.norm_k(key)
        out = linear_attention(query, key, value, self.heads, self.tf32)
        for layer in self.to_out:
            out = layer(out)
        return out


class CrossAttention(nn.Module):
    """Sana's attention to the prompt, which can be given keys and values that are made already.

    Does what diffusers' `Attention` with `SanaAttnProcessor2_0` does (0.42.1, models/transformers/
    sana_transformer.py), without writing the mask anew for every head.

    Args:
        attention: diffusers' own, whose layers it takes over under their names.

    Attributes:
        kept: key and value, each (batch, tokens, channels); None where they are to be made of the prompt at each call.

    Shape: (batch, pixels, channels) to the same.

    Chapter 8.
    """

    def __init__(self, attention: Attention) -> None:
        """Take over the layers."""
        super().__init__()
        self.to_q, self.to_k, self.to_v = attention.to_q, attention.to_k, attention.to_v
        self.to_out = attention.to_out
        self.norm_q, self.norm_k = attention.norm_q, attention.norm_k
        self.heads, self.rescale_output_factor = attention.heads, attention.rescale_output_factor
        self.kept: tuple[Tensor, Tensor] | None = None

    def of_prompt(self, prompt: Tensor) -> tuple[Tensor, Tensor]:
        """Key and value of (batch, tokens, channels)."""
        key, value = self.to_k(prompt), self.to_v(prompt)
        return key if self.norm_k is None else self.norm_k(key), value

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Attend to the prompt, or to what is kept of it; the mask, (batch, 1, tokens), is added to the scores."""
        return self.attend(self.to_q(hidden_states), hidden_states, encoder_hidden_states, attention_mask)

    def attend(
        self, query: Tensor, hidden_states: Tensor, encoder_hidden_states: Tensor | None, attention_mask: Tensor | None
    ) -> Tensor:
        """As `forward`, with `query` made of the hidden states already."""
        kept = self.kept
        if kept is None:
            prompt = hidden_states if encoder_hidden_states is None else encoder_hidden_states
            kept = self.of_prompt(prompt)
        query = query if self.norm_q is None else self.norm_q(query)
        query, key, value = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (query, *kept))
        mask = None if attention_mask is None else attention_mask.unsqueeze(1)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        out = out.transpose(1, 2).flatten(2).to(query.dtype)
        for layer in self.to_out:
            out = layer(out)
        return out / self.rescale_output_factor


def rewrite_(transformer: SanaTransformer2DModel, tf32: bool = True) -> SanaTransformer2DModel:
    """Put a `SelfAttention` and a `CrossAttention` into every block, in place, where its layers allow it.

    Layers of bitsandbytes and torchao are not joined: there the self-attention stays as it is.

    Chapter 8.
    """
    for block in transformer.transformer_blocks:
        found = block.attn1
        if not isinstance(found, SelfAttention):
            to_qkv = joined([found.to_q, found.to_k, found.to_v])
            if to_qkv is not None:
                block.attn1 = SelfAttention(found, to_qkv, tf32).train(found.training)
    return _crossing_(transformer)


def _crossing_(transformer: nn.Module) -> Any:
    for block in transformer.transformer_blocks:
        if block.attn2 is not None and not isinstance(block.attn2, CrossAttention):
            block.attn2 = CrossAttention(block.attn2).train(block.attn2.training)
    return transformer


class PromptOnce:
    """A transformer's `forward` that makes keys and values of a prompt once, and again when the prompt changes.

    The prompt is the same if it is the same tensor and nobody wrote into it: PyTorch counts in-place operations, on
    views too (`Tensor._version`). It does not count what is written through ``.data``, NumPy or a replayed CUDA graph;
    `forget` is for those. Tensors of `torch.inference_mode` are not counted, so there every call makes them anew. So
    does a call with weights that were changed, moved or replaced. With gradients on nothing is kept.

    Args:
        transformer: with a `CrossAttention` in every block.
        step: what does the rest of the work: the transformer's own `forward`, or a recording of it.

    Attributes:
        made: how often keys and values were made.
        fixed: keep the tensors of every shape where they are, for recordings that read them there.

    Chapter 8.
    """

    def __init__(self, transformer: SanaTransformer2DModel, step: Callable[..., Any]) -> None:
        """Keep nothing yet."""
        self.transformer, self.step = transformer, step
        self.attentions = [layer for layer in transformer.modules() if isinstance(layer, CrossAttention)]
        parts = [transformer.caption_projection, transformer.caption_norm]
        parts += [part for a in self.attentions for part in (a.to_k, a.to_v, a.norm_k) if part is not None]
        self.parts = parts
        self.places: dict[Any, list[tuple[Tensor, Tensor]]] = {}
        self.known: tuple[Any, ...] | None = None
        self.prompt: Tensor | None = None
        self.made, self.fixed = 0, False

    def forget(self) -> None:
        """Make keys and values anew at the next call, whatever it is given."""
        self.known = self.prompt = None

    def __call__(self, hidden_states: Tensor, encoder_hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """One step, on keys and values of `encoder_hidden_states`."""
        if torch.is_grad_enabled() and not self.fixed:
            return self.step(hidden_states, encoder_hidden_states, *args, **kwargs)
        with torch.no_grad():
            places = self._places(encoder_hidden_states)
        # as many tokens as the prompt has, so that a recording knows one length from another
        stub = hidden_states.new_zeros(*encoder_hidden_states.shape[:2], 1)
        with self._kept(places):
            return self.step(hidden_states, stub, *args, **kwargs)

    def _places(self, prompt: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of a prompt for each block: those that are kept, or new ones, where the old ones were."""
        shape = (prompt.shape, prompt.dtype, prompt.device)
        now = None if self.known is None or self.prompt is not prompt else self._state(prompt)
        if now is not None and now == self.known and shape in self.places:
            return self.places[shape]
        made = self._values_of(prompt)
        self.made += 1
        old = self.places.get(shape)
        if old is not None and all(a.shape == b.shape and a.dtype == b.dtype for a, b in _pairs(old, made)):
            for place, value in _pairs(old, made):
                place.copy_(value)
        else:
            if not self.fixed:
                self.places.clear()
            self.places[shape] = [(key.contiguous(), value.contiguous()) for key, value in made]
        self.known, self.prompt = self._state(prompt), prompt  # asked last: a first call may move codes
        return self.places[shape]

    def _values_of(self, prompt: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Keys and values for every block, as the transformer makes them (diffusers 0.42.1, `forward`)."""
        hidden = self.transformer.caption_projection(prompt)
        hidden = self.transformer.caption_norm(hidden.view(len(prompt), -1, hidden.shape[-1]))
        return [attention.of_prompt(hidden) for attention in self.attentions]

    def _state(self, prompt: Tensor) -> tuple[Any, ...] | None:
        """What changes when the prompt or a weight does; None where that cannot be told."""
        tensors = [prompt]
        for part in self.parts:  # `parameters()` of a leaf walks down a tree, too: in all a millisecond at each step
            for leaf in part.modules() if part._modules else (part,):
                tensors += [tensor for held in (leaf._parameters, leaf._buffers) for tensor in held.values()]
        tensors = [tensor for tensor in tensors if tensor is not None]
        if any(tensor.is_inference() for tensor in tensors):
            return None
        return tuple((id(tensor), tensor.data_ptr(), tensor._version) for tensor in tensors)

    @contextmanager
    def _kept(self, places: list[tuple[Tensor, Tensor]]) -> Iterator[None]:
        """Let the blocks read what is kept, and the two layers before them do nothing."""
        projection, norm = self.transformer.caption_projection, self.transformer.caption_norm
        width = places[0][0].shape[-1]
        before = [(layer, layer.__dict__.get("forward")) for layer in (projection, norm)]
        projection.forward = lambda stub: stub[:, :1].expand(-1, -1, width)
        norm.forward = lambda stub: stub
        for attention, kept in zip(self.attentions, places, strict=True):
            attention.kept = kept
        try:
            yield
        finally:
            for attention in self.attentions:
                attention.kept = None
            for layer, forward in before:
                del layer.forward
                if forward is not None:
                    layer.forward = forward


def _pairs(
    old: Sequence[tuple[Tensor, Tensor]], new: Sequence[tuple[Tensor, Tensor]]
) -> Iterator[tuple[Tensor, Tensor]]:
    for places, values in zip(old, new, strict=True):
        yield from zip(places, values, strict=True)


def prompt_once_(transformer: SanaTransformer2DModel) -> SanaTransformer2DModel:
    """Let a transformer make keys and values of a prompt once, in place: with the same results, to the last bit.

    For a transformer as it was loaded, in any precision, as for one that `fuse_` rewrote. The kept tensors take two
    numbers for each token and channel of every block: for one picture of the 1.6B transformer (20 blocks, 2240
    channels, 2 x 300 tokens with guidance) 102 MiB in 16 bits.

    Raises:
        TypeError: it is no transformer of Sana's; or it is recorded or offloaded, which both must come afterwards.

    Chapter 8.
    """
    blocks = getattr(transformer, "transformer_blocks", ())
    if not blocks or any(getattr(block, "attn2", None) is None for block in blocks):
        raise TypeError(f"{type(transformer).__name__} has no cross-attention of Sana's: give pipe.transformer")
    if hasattr(transformer, "_hf_hook"):
        raise TypeError("the transformer is offloaded already: call prompt_once_ before enabling offload")
    if isinstance(transformer.forward, PromptOnce):
        return transformer
    if hasattr(transformer.forward, "recordings"):
        raise TypeError("the transformer is recorded already: call prompt_once_ before capture_")
    _crossing_(transformer)
    transformer.forward = PromptOnce(transformer, transformer.forward)
    return transformer


class _CastingOnce:
    """A pipeline's `encode_prompt` that gives embeddings in the transformer's type. A copied pipeline has its own."""

    def __init__(self, pipe: SanaPipeline) -> None:
        self._pipe = weakref.ref(pipe)  # or else the pipeline would keep itself, and its memory
        self.__signature__ = inspect.signature(type(pipe).encode_prompt.__get__(pipe))

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Tensor | None, ...]:
        pipe = self._pipe()
        assert pipe is not None, "the pipeline is gone"
        dtype = pipe.transformer.dtype
        embeds, mask, negative, negative_mask = type(pipe).encode_prompt(pipe, *args, **kwargs)
        return embeds.to(dtype), mask, None if negative is None else negative.to(dtype), negative_mask

    def __deepcopy__(self, memo: dict[int, Any]) -> _CastingOnce:
        pipe = self._pipe()
        return _CastingOnce(memo.get(id(pipe), pipe))


def cast_once_(pipe: SanaPipeline) -> SanaPipeline:
    """Let a pipeline cast its prompt to the transformer's type where it encodes it, in place; results stay the same.

    By itself it casts at each step (diffusers 0.42.1, pipelines/sana/pipeline_sana.py, `__call__`:
    ``prompt_embeds.to(dtype=transformer_dtype)``). With a text encoder in bfloat16 and a transformer in float16, as the
    float16 checkpoints of Sana 600M and 1.6B want them, every step then has a new tensor, and `prompt_once_` makes keys
    and values of it every time.

    Sprint's pipeline is left alone: it gives its guidance the prompt's type, and was released in one type.

    Chapter 8.
    """
    if not isinstance(pipe.encode_prompt, _CastingOnce) and not pipe.transformer.config.get("guidance_embeds"):
        pipe.__dict__["encode_prompt"] = _CastingOnce(pipe)
    return pipe
