"""What a layer holds, asked in one place: how many bits, codes, scales, and whether any view will do as its input.

A quantized layer keeps its numbers where its library likes to: bitsandbytes' 8-bit layer has them on its weight until
the first call and in its `state` after it, the 4-bit one in a `quant_state`, the layers of `sana_lab.fast` and
`sana_lab.float8_layers` in buffers. `holding` knows these places, and imports none of the libraries.
`contiguous_inputs_` mends the one thing that a layer of bitsandbytes does not do for itself.

Chapters 5 and 10.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

M = TypeVar("M", bound=nn.Module)

LINEAR_8BIT = "Linear8bitLt"
_BITSANDBYTES = {LINEAR_8BIT: 8, "Embedding8bit": 8, "Linear4bit": 4, "Embedding4bit": 4}


class OnCodes(nn.Module):
    """A layer of this package's on 8-bit codes; how it multiplies is up to the class.

    Codes and scales stay what they are when the model is cast, `.half()` included: they are no weights to round.

    Args:
        codes: (out, in), rows of the weight: int8 that bitsandbytes made, or `float8_e4m3fn`.
        scale: (out,) float32, what a code of 1 is worth in each row.
        bias: (out,) or None.
    """

    stands_for = "Linear"
    """The kind of layer that it replaces, and whose weights its buffers are."""

    def __init__(self, codes: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        """Keep codes, scale and bias as buffers, without a copy."""
        super().__init__()
        self.out_features, self.in_features = codes.shape
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = {"codes": self.codes, "scale": self.scale}
        super()._apply(fn, recurse)
        for name, tensor in before.items():
            now = getattr(self, name)
            if now.dtype != tensor.dtype:
                setattr(self, name, tensor.to(now.device))
        return self


@dataclass(frozen=True)
class Holding:
    """What one layer holds. The tensors are the layer's own, not copies.

    Attributes:
        bits: 8 or 4 where the layer is quantized, or is to be; 0 for any other module.
        maker: "bitsandbytes", "sana_lab" (`sana_lab.fast`, `sana_lab.float8_layers`) or "torchao"; "" with 0 bits.
        kind: "Linear" or "Embedding"; "" with 0 bits.
        codes: what it multiplies with: (out, in) int8 or `float8_e4m3fn`, or 4-bit codes packed in bytes. None where it
            is quantized in name only: bitsandbytes makes the codes on the weight's way to a device.
        scales: of the codes: (out,) float32 in 8 bits, one a block in 4. None where they are lost, or there never were.
        weights: numbers that the codes stand for; 0 without codes.
        beside: names and tensors of what is kept where neither `parameters()` nor `buffers()` looks, copies included.
        guarded: whether any view will do as its input. True for all but bitsandbytes' 8-bit linear layer as it is made:
            see `contiguous_inputs_`.

    Chapter 10.
    """

    bits: int = 0
    maker: str = ""
    kind: str = ""
    codes: Tensor | None = None
    scales: Tensor | None = None
    weights: int = 0
    beside: tuple[tuple[str, Tensor], ...] = ()
    guarded: bool = True

    @property
    def format(self) -> str:
        """What the codes are: "int8", "float8" or "4 bits"; "" where there are none."""
        if self.codes is None:
            return ""
        return "4 bits" if self.bits == 4 else "float8" if self.codes.is_floating_point() else "int8"

    @property
    def devices(self) -> frozenset[torch.device]:
        """Where codes and scales live: one device, or several where some stayed behind in a move."""
        return frozenset(tensor.device for tensor in (self.codes, self.scales) if tensor is not None)


def holding(module: nn.Module) -> Holding:
    """What a module holds itself; `Holding()` for one that is not quantized.

    Places, by bitsandbytes 0.50.2: nn/modules.py (`Int8Params`, `Linear8bitLt.init_8bit_state`, `Params4bit`),
    functional.py (`QuantState`). Before the first call codes and scales of an 8-bit layer are `weight.CB` and
    `weight.SCB`, after it `state.CB` and `state.SCB`; `weight.data` shares the memory of the codes, unless a move took
    only one of them along.

    Chapter 10.
    """
    if isinstance(module, OnCodes):
        kind = "Embedding" if module.stands_for == "Embedding" else "Linear"
        return Holding(8, "sana_lab", kind, module.codes, module.scale, module.codes.numel())
    name = _class_of_bitsandbytes(module)
    if name is None:
        return _of_torchao(module)
    kind = "Embedding" if name.startswith("Embedding") else "Linear"
    return _eight(module, name, kind) if _BITSANDBYTES[name] == 8 else _four(module, kind)


def quantized(model: nn.Module) -> Iterator[tuple[str, nn.Module, Holding]]:
    """Name, module and holding of every quantized layer of a model, in the order of `named_modules`. Chapter 10."""
    for name, module in model.named_modules():
        if (found := holding(module)).bits:
            yield name, module, found


def is_linear_8bit(module: nn.Module) -> bool:
    """Whether it is bitsandbytes' `Linear8bitLt`, or a subclass of it. Chapter 10."""
    return _class_of_bitsandbytes(module) == LINEAR_8BIT


def contiguous_inputs_(model: M) -> M:
    """Let every `Linear8bitLt` of a model, subclasses included, see its input laid out in memory as it is read.

    The CUDA kernel that rounds inputs to 8 bits reads memory from the input's first number on, row after row, whatever
    the strides say (bitsandbytes 0.43 to 0.50.2, `int8_vectorwise_quant` in backends/cuda/ops.py hands on
    `A.data_ptr()`). `MatMul8bitLt.forward` reshapes an input of three dimensions, which copies a transposed view where
    the batch is two or more and hands on the view where it is one. So a transposed input of batch one gives nonsense,
    without a word. Sana's transformer makes such inputs wherever it draws without guidance.

    A forward pre-hook takes care of it, in place. An input that is contiguous already costs the question. The hook
    stays with the layer through `.to()`, `copy.deepcopy` and `torch.save` of the whole model; the hooks of accelerate
    and the layers of PEFT call the layer as before. What makes new layers loses it: `from_pretrained`, `dequantize()`.

    Args:
        model: a model, such as ``pipe.transformer``; without such layers nothing is done. Twice is the same as once.

    Returns:
        The same model.

    Raises:
        TypeError: it is no model.

    Example:
        >>> import bitsandbytes
        >>> layer = bitsandbytes.nn.Linear8bitLt(16, 32, has_fp16_weights=False)
        >>> holding(layer).guarded, holding(contiguous_inputs_(layer)).guarded
        (False, True)

    Chapter 5.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"contiguous_inputs_ takes a model, got {type(model).__name__}: give pipe.transformer")
    for module in model.modules():
        if is_linear_8bit(module) and not _guarded(module):
            module.register_forward_pre_hook(contiguous, with_kwargs=True)
    return model


def contiguous(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The hook of `contiguous_inputs_`: inputs without gaps, in order of their rows; None where they are so already."""
    given = (*args, *kwargs.values())
    if all(value.is_contiguous() for value in given if isinstance(value, Tensor)):
        return None
    return tree_map(lambda value: value.contiguous() if isinstance(value, Tensor) else value, (args, kwargs))


def _guarded(module: nn.Module) -> bool:
    """Whether the hook is there, or the class takes care of its input itself (`sana_lab.slim.Pointwise8bit`)."""
    own = getattr(type(module), "makes_input_contiguous", False)
    return own or contiguous in module._forward_pre_hooks.values()


def _class_of_bitsandbytes(module: nn.Module) -> str | None:
    """Which of bitsandbytes' quantized layers it is, or inherits from."""
    for kind in type(module).__mro__:
        if kind.__name__ in _BITSANDBYTES and kind.__module__.startswith("bitsandbytes."):
            return kind.__name__
    return None


def _eight(module: nn.Module, name: str, kind: str) -> Holding:
    keepers = (module.weight, getattr(module, "state", None))
    kept = [{part: getattr(keeper, part, None) for part in ("CB", "SCB")} for keeper in keepers]
    beside = tuple((part, value) for parts in kept for part, value in parts.items() if isinstance(value, Tensor))
    codes = scales = None
    if module.weight.dtype == torch.int8:
        codes = next((parts["CB"] for parts in kept if parts["CB"] is not None), module.weight.data)
        scales = next((parts["SCB"] for parts in kept if parts["SCB"] is not None), None)
    weights = 0 if codes is None else codes.numel()
    guarded = name != LINEAR_8BIT or _guarded(module)
    return Holding(8, "bitsandbytes", kind, codes, scales, weights, beside, guarded)


def _four(module: nn.Module, kind: str) -> Holding:
    state = getattr(module.weight, "quant_state", None)
    if state is None:
        return Holding(4, "bitsandbytes", kind)
    weights, scales, beside = state.shape.numel(), state.absmax, []
    while state is not None:  # a second one where the statistics are quantized too, "double quantization"
        parts = ((part, getattr(state, part, None)) for part in ("absmax", "code", "offset"))
        beside += [(part, value) for part, value in parts if isinstance(value, Tensor)]
        state = getattr(state, "state2", None)
    return Holding(4, "bitsandbytes", kind, module.weight.data, scales, weights, tuple(beside))


def _of_torchao(module: nn.Module) -> Holding:
    """An `nn.Linear` or `nn.Embedding` whose weight is a tensor subclass of torchao's; `Holding()` for all others.

    By torchao 0.17: `qdata` and `scale` of `Int8Tensor` and its like; `tensor_impl` with `int_data` and `scale` of
    `AffineQuantizedTensor`, which `LinearActivationQuantizedTensor` wraps.
    """
    weight = module._parameters.get("weight")
    if weight is None or not type(weight).__module__.startswith("torchao."):
        return Holding()
    weight = getattr(weight, "original_weight_tensor", weight)
    inside = getattr(weight, "tensor_impl", weight)
    codes = getattr(inside, "qdata", getattr(inside, "int_data", None))
    kind = "Embedding" if isinstance(module, nn.Embedding) else "Linear"
    bits = 8 if codes is not None and codes.numel() == weight.numel() else 4
    weights = 0 if codes is None else weight.numel()
    return Holding(bits, "torchao", kind, codes, getattr(inside, "scale", None), weights)
