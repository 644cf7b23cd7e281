"""8-bit Sana without the waiting: the codes of the recipe, multiplied in ways that a compiler and a graph can take.

A step of the recipe spends most of its time between products: each of bitsandbytes' layers launches a kernel that finds
outliers, one that quantizes, one that multiplies, one that rescales. `fuse_` writes the layers anew, on the very codes
that bitsandbytes made, in one of two ways. `FusedLinear8bit` rounds the input to 8 bits too and multiplies integers,
without a look for outliers (threshold 0). `WeightOnly8bit` turns the codes back into 16-bit weights just before it
multiplies: no input is rounded, so outliers do no harm. `compile_` lets the compiler join what stands around the
products, and `capture_` records a whole model as one CUDA graph. What has nothing to do with bits, and serves 16 of
them as well, is in `sana_lab.attention`.

Chapter 8.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from . import float8_layers
from .accelerator import on_real_gpu
from .attention import PromptOnce, cast_once_, prompt_once_, rewrite_
from .blocks import rewrite_blocks_
from .kernels import dequantize, gated_depthwise, int8_linear
from .layers import OnCodes, holding, is_linear_8bit
from .row_kernels import rounded

if TYPE_CHECKING:
    from diffusers import AutoencoderDC, SanaPipeline, SanaTransformer2DModel

ENOUGH_DB = 20.0
"""Decibels that every layer must keep without the split for outliers, unless the split keeps hardly more. Chapter 8."""


NOT_8_BIT = "no layer of the transformer is in 8 bits: load the pipeline with precision int8 or fp8, not fused"
SIZES = 64
"""So many sizes and batches of pictures may be compiled in one process."""


class _OnCodes(OnCodes):
    """What both ways to multiply share: they are made from a layer of bitsandbytes'."""

    @classmethod
    def of(cls, layer: nn.Module) -> Self:
        """A layer on the codes of bitsandbytes' `layer`, which are not copied.

        Raises:
            TypeError: the layer has no 8-bit codes.
        """
        held = holding(layer)
        if held.bits != 8 or held.codes is None or held.scales is None:
            raise TypeError(f"{type(layer).__name__} holds no 8-bit codes: load the model in 8 bits, on the GPU, first")
        bias = None if layer.bias is None else layer.bias.detach()
        return cls(held.codes.detach(), held.scales.detach().float() / 127, bias)


class FusedLinear8bit(_OnCodes):
    """A linear layer in vector-wise int8, as LLM.int8() computes it at threshold 0.

    A row of the input is rounded to 127 steps of its largest magnitude, the product of the codes is exact in int32, and
    each number of it is scaled back by its row's step times its column's. Other than bitsandbytes 0.50.2 (autograd/
    _functions.py, `MatMul8bitLt`) it does not cast the input to float16 first, which overflows beyond 65504.

    Made by `of`. Shape: (..., in) to (..., out), in the input's type.

    Chapter 8.
    """

    rounds = "int8"
    """What `of_codes` takes, see `sana_lab.row_kernels.CODES`."""

    def forward(self, hidden: Tensor, silu: bool = False) -> Tensor:
        """Quantize, multiply, scale back; apply SiLU to the result where asked."""
        rows = rounded(hidden.reshape(-1, self.in_features), self.rounds)
        return self.of_codes(*rows, hidden.dtype, silu).reshape(*hidden.shape[:-1], self.out_features)

    def of_codes(self, codes: Tensor, step: Tensor, dtype: torch.dtype, silu: bool = False) -> Tensor:
        """(rows, in) int8 and (rows, 1) float32 to (rows, out) in `dtype`."""
        return int8_linear(codes, step, self.codes, self.scale, self.bias, silu, dtype)


class WeightOnly8bit(_OnCodes):
    """A linear layer that keeps its weight in 8 bits and multiplies in the type of its input.

    The weight is made anew from its codes at each call, one layer's at a time. What is rounded is the weight alone, so
    it stands no farther from 16 bits than LLM.int8() does, whatever the input: outliers need no care. It saves the same
    bytes and none of the arithmetic. ("W8A16" in the literature: weights in 8 bits, activations in 16.)

    Made by `of`. Shape: (..., in) to (..., out), in the input's type.

    Chapter 8.
    """

    def forward(self, hidden: Tensor) -> Tensor:
        """Make the weight, multiply."""
        bias = None if self.bias is None else self.bias.to(hidden.dtype)
        return F.linear(hidden, dequantize(self.codes, self.scale, hidden.dtype), bias)


class FusedFeedForward(nn.Module):
    """Sana's feed-forward with channels last: two linear layers, and between them a 3 x 3 convolution of each channel.

    diffusers' `GLUMBConv` (0.42.1, sana_transformer.py) keeps channels first, so each 8-bit layer would start with a
    transposition. The convolution and the gate after it are one kernel, `sana_lab.kernels.gated_depthwise`. The SiLU
    before it costs no pass of its own: `FusedLinear8bit` applies it to what it writes, and behind any other layer the
    convolution does to what it reads.

    Args:
        expand: (..., in) to (..., 2 * hidden).
        depthwise: the `nn.Conv2d` of 2 * hidden channels with a group each.
        contract: (..., hidden) to (..., out).

    Shape: (batch, in, height, width) to (batch, out, height, width).

    Chapter 8.
    """

    stands_for = "Conv2d"
    """The layer whose weights its own buffers are."""

    def __init__(self, expand: nn.Module, depthwise: nn.Conv2d, contract: nn.Module) -> None:
        """Keep the layers, and the convolution's weight as (3, 3, channels)."""
        super().__init__()
        self.expand, self.contract = expand, contract
        self.activated = isinstance(expand, FusedLinear8bit)  # what comes from `expand`, by SiLU
        self.register_buffer("taps", depthwise.weight.detach().squeeze(1).permute(1, 2, 0).contiguous())
        self.register_buffer("bias", depthwise.bias.detach())

    def forward(self, hidden: Tensor) -> Tensor:
        """Expand, convolve, gate, contract."""
        hidden = hidden.permute(0, 2, 3, 1)
        wide = self.expand(hidden, silu=True) if self.activated else self.expand(hidden)
        return self.narrow(wide).permute(0, 3, 1, 2)

    def narrow(self, wide: Tensor) -> Tensor:
        """(batch, height, width, 2 * hidden) to (batch, height, width, out): SiLU if due, convolve, gate, contract."""
        return self.contract(gated_depthwise(wide, self.taps, self.bias, not self.activated))


ACTIVATIONS: dict[int, type[_OnCodes]] = {8: FusedLinear8bit, 16: WeightOnly8bit}
"""Bits of what is multiplied with the codes, and the layer that does it."""


def fuse_(transformer: SanaTransformer2DModel, activations: int = 8, *, tf32: bool = True) -> SanaTransformer2DModel:
    """Replace feed-forward, attentions and every 8-bit layer by what a compiler can fuse, in place.

    Weights stay the very same tensors, but for queries, keys and values of the self-attention, which become one (see
    `sana_lab.attention`). A transformer in 16 bits gets feed-forward and attentions alone. One in FP8 keeps its layers,
    which need no rewriting; `activations` says how they multiply (`sana_lab.float8_layers.multiply_`).

    Args:
        transformer: not fused yet.
        activations: 8 for products of 8-bit codes (`FusedLinear8bit`, `Float8Linear`), 16 for weights alone in 8 bits
            (`WeightOnly8bit`, `Float8Weights`).
        tf32: see `sana_lab.kernels.linear_attention`; off, all sums of the self-attention are of float32 numbers.

    Raises:
        TypeError: there is no feed-forward of Sana's in it, or it is fused already.
        ValueError: `activations` is neither.

    Chapter 8.
    """
    layer_type = _layer_type(activations)
    from diffusers.models.transformers.sana_transformer import GLUMBConv

    blocks = [(name, block) for name, block in transformer.named_modules() if isinstance(block, GLUMBConv)]
    if not blocks:
        raise TypeError(f"{type(transformer).__name__} has no Sana feed-forward: give pipe.transformer, not fused yet")
    for name, block in blocks:
        if block.norm is not None or block.residual_connection:
            raise TypeError(f"{name} has a norm or a residual of its own, which no released Sana transformer has")
        ends = (block.conv_inverted, block.conv_point)
        expand, contract = (_over_tokens(layer, layer_type, activations) for layer in ends)
        transformer.set_submodule(name, FusedFeedForward(expand, block.conv_depth, contract))
    if any(map(float8_layers.is_float8, transformer.modules())):
        float8_layers.multiply_(transformer, activations)
    return rewrite_blocks_(rewrite_(_on_codes_(transformer, layer_type), tf32))


def weights_only_(model: nn.Module) -> nn.Module:
    """Replace every 8-bit layer of a model by a `WeightOnly8bit` on the same codes, in place.

    For the text encoder, whose inputs have the largest outliers of all, and which is called once a prompt.

    Chapter 8.
    """
    return _on_codes_(model, WeightOnly8bit)


def _layer_type(activations: int) -> type[_OnCodes]:
    if activations not in ACTIVATIONS:
        raise ValueError(f"activations={activations!r}: give 8 for integer products, or 16 for weights alone in 8 bits")
    return ACTIVATIONS[activations]


def _on_codes_(model: nn.Module, layer_type: type[_OnCodes]) -> nn.Module:
    for name, layer in list(model.named_modules()):
        if is_linear_8bit(layer):
            model.set_submodule(name, layer_type.of(layer))
    return model


def _over_tokens(layer: nn.Module, layer_type: type[_OnCodes], activations: int) -> nn.Module:
    """The same function with channels last: of a 1 x 1 convolution, or of one of the layers that are slim or in FP8."""
    if is_linear_8bit(layer):
        return layer_type.of(layer)
    if isinstance(layer, float8_layers.Float8):
        return float8_layers.over_tokens(layer, activations)
    if holding(layer).bits:
        raise TypeError(f"{type(layer).__name__} is neither in 16 nor in 8 bits: fuse_ is for those")
    out_channels, in_channels = layer.weight.shape[:2]
    linear = nn.Linear(in_channels, out_channels, layer.bias is not None, device="meta")
    linear.weight = nn.Parameter(layer.weight.data.reshape(out_channels, in_channels), requires_grad=False)
    linear.bias = layer.bias
    return linear


def compile_(transformer: SanaTransformer2DModel, **options: Any) -> SanaTransformer2DModel:
    """Compile each block in place; all blocks are alike, so one compilation serves them all.

    Args:
        transformer: real CUDA or CPU; the virtual GPU does not compile.
        options: for `torch.compile`, such as ``mode="max-autotune-no-cudagraphs"``.

    Each size and batch of pictures is compiled at its first use. PyTorch by itself gives up at the ninth (torch 2.13,
    _dynamo/config.py, `recompile_limit`); here, and from then on in this process, it takes `SIZES`.

    Chapter 8.
    """
    from torch._dynamo import config

    config.recompile_limit = max(config.recompile_limit, SIZES)
    for block in transformer.transformer_blocks:
        block.compile(fullgraph=True, dynamic=False, **options)
    return transformer


RECORDINGS = 32
"""How many CUDA graphs a `Captured` keeps: one for each set of shapes and of plain values."""

PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.memory_format)
"""Values besides tensors that a recording may be given: what they are is all there is to them."""


class Captured:
    """A function of tensors, recorded as a CUDA graph at its first call with each set of shapes and replayed after.

    Replaying launches all kernels of the recording at once, on the tensors that it was recorded with: inputs are copied
    there and outputs from there. What the function does besides, such as asking whether there are outliers, is not
    repeated; a function that must wait for the GPU to know what to do next cannot be recorded, and CUDA says so.

    Each other value that is given, a number or a flag, is in the recording, too: another one is recorded anew. Of more
    than `RECORDINGS` the one that was used least recently is dropped with its memory.

    Args:
        function: takes and gives tensors, in any nesting; of other values, plain ones: see `PLAIN`.
        warm_up: calls before recording, in which compilers and libraries make up their mind.

    Source: the CUDA graph pages of PyTorch's documentation (whole-network capture). Chapter 8.
    """

    def __init__(self, function: Callable[..., Any], warm_up: int = 3) -> None:
        """Record nothing yet."""
        self.function, self.warm_up = function, warm_up
        self.recordings: OrderedDict[Any, tuple[torch.cuda.CUDAGraph, list[Tensor], Any]] = OrderedDict()

    @torch.no_grad()
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Replay, after recording where need be.

        Raises:
            TypeError: something that is neither a tensor nor plain, and may change without being another.
            RuntimeError: the function cannot be recorded, or there is no real GPU.
        """
        leaves, form = tree_flatten((args, kwargs))
        if (key := (tuple(map(_told_apart, leaves)), str(form))) not in self.recordings:
            self.recordings[key] = self._record(leaves, form)
            if len(self.recordings) > RECORDINGS:
                self.recordings.popitem(last=False)
        self.recordings.move_to_end(key)
        graph, places, output = self.recordings[key]
        for place, value in zip(places, [x for x in leaves if isinstance(x, Tensor)], strict=True):
            place.copy_(value)
        graph.replay()
        return tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, output)

    def _record(self, leaves: list[Any], form: Any) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Any]:
        if not on_real_gpu():
            raise RuntimeError("CUDA graphs need a real GPU: leave capture_ out on this machine.")
        leaves = [x.clone() if isinstance(x, Tensor) else x for x in leaves]
        args, kwargs = tree_unflatten(leaves, form)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(self.warm_up):
                self.function(*args, **kwargs)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = self.function(*args, **kwargs)
        return graph, [x for x in leaves if isinstance(x, Tensor)], output


def _told_apart(value: Any) -> Any:
    """What a recording of this argument is known by."""
    if isinstance(value, Tensor):
        return value.shape, value.dtype, value.device
    if not isinstance(value, PLAIN):
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise TypeError(f"a CUDA graph is recorded for tensors and plain values, got {kind}: leave capture_ out for it")
    return type(value), repr(value)  # 1, 1.0 and True are equal, 0.0 and -0.0 too, and NaN is not equal to itself


def capture_(model: nn.Module) -> nn.Module:
    """Let a transformer or a text encoder replay its whole work as one CUDA graph, in place. See `Captured`.

    Chapter 8.
    """
    from transformers import PreTrainedModel

    forward = model.forward
    if isinstance(forward, PromptOnce):  # keys and values are made outside of the recording, which reads them
        if not isinstance(forward.step, Captured):
            forward.places.clear()
            forward.fixed, forward.step = True, Captured(forward.step)
        return model
    if isinstance(model, PreTrainedModel):  # its keys and values would stay in the recording, and nobody reads them
        forward = partial(forward, use_cache=False)
    model.forward = Captured(forward)
    return model


def capture_decoder_(vae: AutoencoderDC) -> AutoencoderDC:
    """Let an autoencoder replay its decoding as one CUDA graph, in place. See `Captured`.

    The recording keeps what decoding needs while it runs, for each size and batch of pictures.

    Chapter 8.
    """
    if not isinstance(vae.decode, Captured):
        vae.decode = Captured(vae.decode)
    return vae


@dataclass(frozen=True)
class Kept:
    """What an 8-bit layer keeps of its signal, in decibels against the noise of rounding its input; of the worst step.

    Attributes:
        recipe: as bitsandbytes computes it, outliers set apart.
        plain: at threshold 0, every column in 8 bits.

    Chapter 8.
    """

    recipe: float
    plain: float

    def spoiled(self, enough: float = ENOUGH_DB) -> bool:
        """Whether the layer needs its outliers set apart: it keeps too little without, and a bit (6 dB) more with."""
        return self.plain < enough and self.recipe - self.plain > 6


@torch.no_grad()
def rounding(pipe: SanaPipeline, prompts: Sequence[str], steps: int = 4, seed: int = 0) -> dict[str, Kept]:
    """What rounding their input does to the 8-bit layers of the transformer, while a pipeline draws.

    Each product is held against the one with the input as it is, both with the weight as its codes have it. An outlier
    in one channel makes the step of its rows large, and the other channels vanish in it.

    Args:
        pipe: loaded in 8 bits and not fused.
        prompts: to draw, one batch.
        steps: of denoising.
        seed: of the noise.

    Returns:
        Layer name to `Kept`; of some 512 rows of each input.

    Raises:
        TypeError: no layer is in 8 bits.

    Chapter 8.
    """
    import bitsandbytes

    layers = {name: layer for name, layer in pipe.transformer.named_modules() if is_linear_8bit(layer)}
    if not layers:
        raise TypeError(NOT_8_BIT)
    found: dict[str, Kept] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            hidden = inputs[0].movedim(1, -1) if inputs[0].ndim == 4 else inputs[0]  # a 1 x 1 convolution's, or tokens
            rows = hidden.reshape(-1, hidden.shape[-1])
            rows = rows[:: max(1, len(rows) // 512)].contiguous()  # a view would be misread, see `raw_memory`
            fused = FusedLinear8bit.of(layer)
            bias = None if fused.bias is None else fused.bias.float()
            exact = F.linear(rows.float(), fused.codes.float() * fused.scale[:, None])
            recipe = bitsandbytes.nn.Linear8bitLt.forward(layer, rows).float() - (0 if bias is None else bias)
            plain = fused(rows.float()) - (0 if bias is None else bias)
            now = Kept(_decibels(exact, recipe), _decibels(exact, plain))
            before = found.get(name, now)
            found[name] = now if now.plain < before.plain else before

        return hook

    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    try:
        noise = [torch.Generator().manual_seed(seed + i) for i in range(len(prompts))]
        pipe(list(prompts), num_inference_steps=steps, generator=noise, output_type="latent")
    finally:
        for handle in handles:
            handle.remove()
    return found


def _decibels(exact: Tensor, found: Tensor) -> float:
    ratio = 10 * (exact.square().sum() / (found - exact).square().sum()).log10().item()
    return float("-inf") if math.isnan(ratio) else ratio


def speed_up_(
    pipe: SanaPipeline,
    prompts: Sequence[str] = (),
    *,
    activations: int = 8,
    check: bool = True,
    enough_db: float = ENOUGH_DB,
    graphs: bool | None = None,
) -> SanaPipeline:
    """Make an 8-bit pipeline fast, in place, if its activations allow it: fuse, compile, record.

    The text encoder, whose inputs are full of outliers, gets `WeightOnly8bit` layers in any case. A pipeline in FP8
    needs no check, because a step of FP8 is relative: outliers do its other numbers no harm; its encoder multiplies as
    it was loaded. Keys and values of a prompt are made once, see `sana_lab.attention.prompt_once_`.

    Args:
        pipe: as `load_sana(..., "int8")` or `load_sana(..., "fp8")` returns it, slim or not.
        prompts: a few to draw with, such as will come; what they do to the layers decides.
        activations: of the transformer's layers, as in `fuse_`. With 16 nothing needs to be checked.
        check: whether to look for outliers first; without, they do what they do.
        enough_db: what a layer must keep where outliers are no longer set apart, see `Kept.spoiled`.
        graphs: compile and record as well; by default on a real GPU.

    Returns:
        `pipe`. The first picture of each size and batch then takes a minute, in which all is compiled.

    Raises:
        ValueError: a layer has outliers that the fast mode would not survive, or there are no prompts to check with.
            The pipeline is left as it was.
        TypeError: as `rounding`.

    Example:
        >>> from sana_lab import load_sana, use_accelerator
        >>> with use_accelerator(virtual=True):
        ...     pipe = speed_up_(load_sana("shapes", "int8"), activations=16)
        >>> type(pipe.transformer.transformer_blocks[0].attn1.to_qkv).__name__
        'WeightOnly8bit'

    Chapter 8.
    """
    _layer_type(activations)
    floats = any(map(float8_layers.is_float8, pipe.transformer.modules()))
    if not floats and not any(map(is_linear_8bit, pipe.transformer.modules())):
        raise TypeError(NOT_8_BIT)
    if floats:
        float8_layers.able(activations, pipe.transformer.device)
    elif activations == 8 and check:
        _check(pipe, prompts, enough_db)
    prompt_once_(fuse_(pipe.transformer, activations))
    cast_once_(pipe)
    if pipe.text_encoder is not None:
        weights_only_(pipe.text_encoder)
    if on_real_gpu() if graphs is None else graphs:
        record_(pipe)
    return pipe


def record_(pipe: SanaPipeline, **options: Any) -> SanaPipeline:
    """Compile the transformer of a pipeline in any precision, and capture all of its parts, in place.

    Args:
        pipe: in the state that is to be recorded.
        options: for `compile_`.

    Chapter 8.
    """
    capture_(compile_(pipe.transformer, **options))
    if pipe.text_encoder is not None:
        capture_(pipe.text_encoder)
    capture_decoder_(pipe.vae)
    return pipe


def _check(pipe: SanaPipeline, prompts: Sequence[str], enough_db: float) -> None:
    """Refuse where integer products would spoil a layer."""
    if not prompts:
        raise ValueError("give a few prompts to check with, or activations=16, which needs no check.")
    kept = rounding(pipe, prompts)
    spoiled = [name for name in kept if kept[name].spoiled(enough_db)]
    if spoiled:
        worst = min(spoiled, key=lambda name: kept[name].plain)
        raise ValueError(
            f"the fast mode would spoil {len(spoiled)} of {len(kept)} layers, {worst} worst: it keeps "
            f"{kept[worst].recipe:.1f} dB of its signal with outliers set apart, {kept[worst].plain:.1f} dB without. "
            "Give activations=16, which keeps the weights alone in 8 bits, or stay with the recipe."
        )
