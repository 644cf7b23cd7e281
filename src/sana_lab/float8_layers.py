"""Layers on FP8 codes, and how a model comes by them: multiplied as FP8, or turned back into 16-bit weights.

`Float8Linear` rounds its input to FP8 too and multiplies codes, on a card that has units for it. `Float8Weights` makes
the 16-bit weight from its codes just before it multiplies, on any card. Both keep the same codes: a byte a weight and
four bytes a row. `quantize_float8_` puts them into a model, `multiply_` changes the way of all of them,
`sana_lab.float8_folders` saves and loads them.

Chapter 8.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .float8 import MULTIPLE, check_card, check_finite, check_shape, dequantize_rows, made_as, product, quantize_rows
from .layers import OnCodes, holding
from .row_kernels import rounded

M = TypeVar("M", bound=nn.Module)

ROWS = 8192
"""Rows of an embedding that are quantized at a time: no more of them are in 16 bits beside the codes."""

METHOD = "sana_lab_float8"
"""What a model in FP8 has as `quant_method` in its configuration, and in the file of it."""

KEYS_AND_VALUES = ("attn2.to_k", "attn2.to_v")
"""Of the cross-attention: what Sana's own 8-bit engine keeps in full precision (arXiv 2410.10629, section 4)."""


class Float8(OnCodes):
    """What the linear layers on FP8 codes share.

    Args:
        codes: (out, in) `float8_e4m3fn`.
        scale: (out,) float32.
        bias: (out,) or None.

    Chapter 8.
    """

    @classmethod
    def of(cls, layer: nn.Module, device: torch.device | str | None = None) -> Self:
        """A layer for a linear layer or a 1x1 convolution in 16 or 32 bits, or on the codes of another of this kind.

        Codes are not copied, weights are rounded (`quantize_rows`).

        Args:
            layer: to replace.
            device: where to quantize and to keep; by default where the weight is.

        Raises:
            TypeError: it is none of these.
            ValueError: NaN or infinity in the weight.
        """
        if isinstance(layer, Float8):
            return cls(layer.codes, layer.scale, layer.bias)
        shape = _rows_of(layer)
        weight = layer.weight.detach().reshape(shape).to(device)
        check_finite(weight)
        codes, scale = quantize_rows(weight)
        bias = None if layer.bias is None else layer.bias.detach().to(device)
        return cls(codes, scale.flatten(), bias)

    def extra_repr(self) -> str:
        """As `nn.Linear` prints itself."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Float8Linear(Float8):
    """A linear layer whose input is rounded to FP8, a scale a row, and multiplied with the codes of the weight.

    The same as torchao's `Float8DynamicActivationFloat8WeightConfig(granularity=PerRow())` (0.18.0, quantization/
    quant_api.py), for inputs of any floating-point type.

    Made by `of`. Shape: (..., in) to (..., out), in the input's type.

    Raises:
        ValueError: a side of the weight is no multiple of 16.
        RuntimeError: at a call, in PyTorch's words, on a card before compute capability 8.9.

    Chapter 8.
    """

    def __init__(self, codes: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        """Keep the tensors, and find out what types the kernel of this machine's card can write."""
        check_shape(*codes.shape)
        super().__init__(codes, scale, bias)
        self.writes_all = not torch.cuda.is_available() or made_as(torch.float16) == torch.float16

    rounds = "float8"
    """What `of_codes` takes, see `sana_lab.row_kernels.CODES`."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Quantize, multiply."""
        rows = rounded(hidden.reshape(-1, self.in_features), self.rounds)
        return self.of_codes(*rows, hidden.dtype).reshape(*hidden.shape[:-1], self.out_features)

    def of_codes(self, codes: Tensor, step: Tensor, dtype: torch.dtype) -> Tensor:
        """(rows, in) `float8_e4m3fn` and (rows, 1) float32 to (rows, out) in `dtype`."""
        made = dtype if self.writes_all else torch.bfloat16
        return product(codes, step, self.codes, self.scale, self.bias, dtype, made)


class Float8Weights(Float8):
    """A linear layer that keeps its weight in FP8 and multiplies in the type of its input, on any card.

    The weight is made anew at each call, one layer's at a time; no input is rounded. Of sizes that have no FP8 product,
    too.

    Made by `of`. Shape: (..., in) to (..., out), in the input's type.

    Chapter 8.
    """

    def forward(self, hidden: Tensor) -> Tensor:
        """Make the weight, multiply."""
        bias = None if self.bias is None else self.bias.to(hidden.dtype)
        return F.linear(hidden, dequantize_rows(self.codes, self.scale[:, None], hidden.dtype), bias)


class _OverChannels:
    """What makes a linear layer a 1x1 convolution.

    Shape: (batch, in, height, width) to (batch, out, height, width). The pixels become rows without a copy.
    """

    def forward(self, hidden: Tensor) -> Tensor:
        """Apply the linear layer to each pixel."""
        return super().forward(hidden.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Float8Pointwise(_OverChannels, Float8Linear):
    """A 1x1 convolution by FP8 products. Chapter 8."""


class Float8PointwiseWeights(_OverChannels, Float8Weights):
    """A 1x1 convolution with the weight alone in FP8. Chapter 8."""


class Float8Embedding(OnCodes):
    """An embedding in FP8, a scale a row, with the factor that Gemma multiplies its embedding with.

    Args:
        codes: (rows, width) `float8_e4m3fn`.
        scale: (rows,) float32.
        dtype: of what it returns.
        factor: `embed_scale` of the embedding that it replaces (transformers 5.23.0, models/gemma2/modeling_gemma2.py),
            as that type holds it; 1 where it has none.

    Chapter 8.
    """

    stands_for = "Embedding"

    def __init__(self, codes: Tensor, scale: Tensor, dtype: torch.dtype, factor: float = 1.0) -> None:
        """Keep codes and scales as buffers, without a copy."""
        super().__init__(codes, scale, None)
        self.dtype, self.factor = dtype, factor

    @classmethod
    def of(cls, embedding: nn.Module, device: torch.device | str | None = None) -> Self:
        """An embedding on FP8 codes for one in 16 or 32 bits, quantized in portions.

        Raises:
            TypeError: it is no embedding in 16 or 32 bits.
            ValueError: NaN or infinity in it.
        """
        if not isinstance(embedding, nn.Embedding) or not embedding.weight.is_floating_point():
            raise TypeError(f"the embedding is a {type(embedding).__name__}: give one in 16 bits")
        weight = embedding.weight.detach()
        made = [quantize_rows(rows.to(device)) for rows in weight.split(ROWS) if check_finite(rows) is None]
        codes, scale = (torch.cat(parts) for parts in zip(*made, strict=True))
        factor = getattr(embedding, "embed_scale", None)
        return cls(codes, scale.flatten(), weight.dtype, 1.0 if factor is None else float(factor.to(weight.dtype)))

    def forward(self, input: Tensor) -> Tensor:
        """(...) token numbers to (..., width) in `dtype`."""
        codes = self.codes.view(torch.uint8)[input].view(self.codes.dtype)  # bytes can be indexed on any device
        rows = dequantize_rows(codes, self.scale[input][..., None], self.dtype)
        return rows if self.factor == 1 else rows * self.factor


LINEAR: dict[int, type[Float8]] = {8: Float8Linear, 16: Float8Weights}
POINTWISE: dict[int, type[Float8]] = {8: Float8Pointwise, 16: Float8PointwiseWeights}
"""Bits of what is multiplied with the codes, and the layer that does it: for tokens, and for pixels."""


def quantize_float8_(
    model: M,
    activations: int = 8,
    *,
    pointwise: bool = False,
    embedding: bool = False,
    skip: Collection[str] = (),
    device: torch.device | str | None = None,
) -> M:
    """Replace the linear layers of a model by layers on FP8 codes, in place, one after the other.

    Layers that have no FP8 product, because a side of theirs is no multiple of 16, get their weights alone in FP8.

    Args:
        model: in 16 or 32 bits, such as ``pipe.transformer``.
        activations: 8 for FP8 products (`Float8Linear`), 16 for weights alone (`Float8Weights`).
        pointwise: the 1x1 convolutions of Sana's feed-forward, too.
        embedding: the token embedding, too.
        skip: ends of names of layers to leave as they are, such as `KEYS_AND_VALUES`.
        device: where to put the model, quantized on its way; by default it stays where it is.

    Returns:
        The same model.

    Raises:
        ValueError: `activations` is neither; NaN or infinity in a weight.
        RuntimeError: products are asked for, and the card has no FP8 units.
        TypeError: nothing is there to quantize.

    Chapter 8.
    """
    able(activations, device)
    found = [*_layers(model, pointwise, tuple(skip))]
    if not found:
        raise TypeError(f"{type(model).__name__} has no linear layer in 16 bits: give pipe.transformer, for example")
    for name, layer in found:
        kinds = LINEAR if isinstance(layer, nn.Linear) else POINTWISE
        kind = kinds[activations if has_product(*_rows_of(layer)) else 16]
        model.set_submodule(name, kind.of(layer, device).train(layer.training))
    if embedding:
        model.set_input_embeddings(Float8Embedding.of(model.get_input_embeddings(), device))
    return mark_(model) if device is None else mark_(model).to(device)


def mark_(model: M) -> M:
    """Note in a model's configuration, where it has one, that it is in FP8: `save_pretrained` writes it. Chapter 8."""
    mark = {"quant_method": METHOD, "codes": "float8_e4m3fn", "read_with": "sana_lab.load_sana(folder, 'fp8')"}
    if hasattr(model, "register_to_config"):  # diffusers'
        model.register_to_config(quantization_config=mark)
    elif hasattr(model, "config"):
        model.config.quantization_config = mark
    return model


def multiply_(model: M, activations: int) -> M:
    """Let all layers on FP8 codes of a model multiply in this way, in place; the codes stay the very same tensors.

    Args:
        model: what `quantize_float8_` has been at.
        activations: 8 or 16, as there.

    Raises:
        ValueError, RuntimeError, TypeError: as there.

    Chapter 8.
    """
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, Float8)]
    able(activations, layers[0][1].codes.device if layers else None)
    if not layers:
        raise TypeError(f"{type(model).__name__} has no layer in FP8: load the pipeline with precision fp8")
    for name, layer in layers:
        kinds = POINTWISE if isinstance(layer, _OverChannels) else LINEAR
        kind = kinds[activations if has_product(layer.out_features, layer.in_features) else 16]
        if type(layer) is not kind:
            model.set_submodule(name, kind.of(layer).train(layer.training))
    return model


def is_float8(layer: nn.Module) -> bool:
    """Whether it is a linear layer, or a 1x1 convolution, on FP8 codes. Chapter 8."""
    return isinstance(layer, Float8)


def over_tokens(layer: Float8, activations: int) -> Float8:
    """The linear layer on the same codes that has channels last, whatever `layer` has. Chapter 8."""
    return LINEAR[activations if has_product(layer.out_features, layer.in_features) else 16].of(layer)


def has_product(out_features: int, in_features: int) -> bool:
    """Whether a weight of this size has an FP8 product: both sides are multiples of 16. Chapter 8."""
    return not (out_features % MULTIPLE or in_features % MULTIPLE)


def able(activations: int, device: torch.device | str | None = None) -> None:
    """Refuse a way to multiply that does not exist, or not on this card.

    Args:
        activations: 8 or 16.
        device: where the layers are going to be; None for the GPU in use, if there is one.

    Raises:
        ValueError: `activations` is neither.
        RuntimeError: products are asked for, and the card has no FP8 units.
    """
    if activations not in LINEAR:
        raise ValueError(f"activations={activations!r}: give 8 for FP8 products, or 16 for weights alone in FP8")
    place = torch.device("cuda" if device is None and torch.cuda.is_available() else device or "cpu")
    if activations == 8 and place.type == "cuda":
        check_card(place)


def _layers(model: nn.Module, pointwise: bool, skip: tuple[str, ...]) -> Iterator[tuple[str, nn.Module]]:
    """Name and layer of what is to be quantized."""
    inside = ()
    if pointwise:
        from diffusers.models.transformers.sana_transformer import GLUMBConv

        blocks = [block for block in model.modules() if isinstance(block, GLUMBConv)]
        inside = [layer for block in blocks for layer in (block.conv_inverted, block.conv_point)]
    for name, layer in model.named_modules():
        wanted = isinstance(layer, nn.Linear) or any(layer is convolution for convolution in inside)
        if wanted and not holding(layer).bits and not (skip and name.endswith(skip)):
            yield name, layer


def _rows_of(layer: nn.Module) -> tuple[int, int]:
    """(out, in) of a linear layer or a 1x1 convolution in floating point.

    Raises:
        TypeError: it is neither.
    """
    weight = getattr(layer, "weight", None)
    linear = isinstance(layer, nn.Linear)
    pointwise = isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1
    if not (linear or pointwise) or holding(layer).bits or not weight.is_floating_point():
        raise TypeError(f"{type(layer).__name__} is no linear layer in 16 bits: only such become FP8 codes")
    return weight.shape[0], weight.shape[1]
