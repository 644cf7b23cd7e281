"""A pipeline in FP8, saved and loaded again: the libraries write it, and `load_sana(folder, "fp8")` reads it.

`pipe.save_pretrained(folder)` writes codes, scales and biases under the names of their layers, and the mark that
`quantize_float8_` leaves in the configuration. Neither library knows the mark: diffusers refuses the transformer
("Unknown quantization type, got sana_lab_float8", 0.42.1, quantizers/auto.py), so nobody gets random weights there.

Chapter 8.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .accounting import default_dtype
from .float8 import DTYPE
from .float8_layers import LINEAR, METHOD, POINTWISE, Float8, Float8Embedding, has_product, mark_

if TYPE_CHECKING:
    from diffusers import SanaTransformer2DModel
    from transformers import PreTrainedModel


def saved(folder: Path) -> bool:
    """Whether a folder holds a pipeline in FP8, by the mark on its transformer. Chapter 8."""
    file = folder / "transformer" / "config.json"
    if not file.is_file():  # a pipe, from which reading would wait for ever, is refused where files are checked
        return False
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        return config["quantization_config"]["quant_method"] == METHOD
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def load_component(
    folder: Path, component: str, activations: int, device: torch.device | str
) -> SanaTransformer2DModel | PreTrainedModel:
    """The transformer or the text encoder of a pipeline that was saved in FP8.

    Args:
        folder: of the pipeline.
        component: "transformer" or "text_encoder".
        activations: as in `quantize_float8_`; the folder holds the codes, and not how they are multiplied.
        device: where to put it.

    Raises:
        OSError: tensors are missing, too many, of another shape or type, or not finite; files are missing or damaged.
            One that was saved after `speed_up_` has other tensors than the configuration says.

    Chapter 8.
    """
    tensors: dict[str, Tensor] = {}
    for file in sorted((folder / component).glob("*.safetensors")):
        tensors |= load_file(file)
    if not tensors:
        raise OSError(f"{component}: there is no file of weights")
    model = _built(folder, component, _kind(tensors))
    layers = [name.removesuffix(".codes") for name in tensors if name.endswith(".codes")]
    for name in layers:
        codes, scale = tensors[f"{name}.codes"], tensors.get(f"{name}.scale")
        wrong = _fault(codes, scale)
        if wrong:
            raise OSError(f"{component}: {wrong} in {name}")
        try:
            before = model.get_submodule(name)
        except AttributeError:
            raise OSError(
                f"{component}: config.json knows no layer {name} (save a pipeline before speed_up_)"
            ) from None
        model.set_submodule(name, _layer(before, codes, scale, tensors.get(f"{name}.bias"), activations))
    wanted = model.state_dict()
    for what, names in (("missing", wanted.keys() - tensors.keys()), ("unexpected", tensors.keys() - wanted.keys())):
        if names:
            raise OSError(
                f"{component}: {min(names)} is {what}, one of {len(names)} (save a pipeline before speed_up_)"
            )
    for name, tensor in wanted.items():
        if tensor.shape != tensors[name].shape:
            raise OSError(f"{component}: {name} is {list(tensors[name].shape)} and should be {list(tensor.shape)}")
    model.load_state_dict(tensors, assign=True)
    return mark_(model.requires_grad_(False).eval().to(device))


def _layer(before: nn.Module, codes: Tensor, scale: Tensor, bias: Tensor | None, activations: int) -> nn.Module:
    """The layer on these codes that stands for `before`, which has no data; shapes are checked when all is loaded."""
    if isinstance(before, nn.Embedding):
        factor = getattr(before, "embed_scale", None)
        kind = torch.get_default_dtype() if factor is None else factor.dtype
        return Float8Embedding(codes, scale, kind, 1.0 if factor is None else float(factor))
    kinds: dict[int, type[Float8]] = POINTWISE if isinstance(before, nn.Conv2d) else LINEAR
    if codes.shape != before.weight.shape[:2]:
        raise OSError(f"codes of {list(codes.shape)} where {list(before.weight.shape[:2])} should be")
    return kinds[activations if has_product(*codes.shape) else 16](codes, scale, bias)


def _kind(tensors: dict[str, Tensor]) -> torch.dtype:
    """The type of what is not quantized."""
    kinds = [
        t.dtype for name, t in tensors.items() if not name.endswith((".codes", ".scale")) and t.is_floating_point()
    ]
    return max(kinds, key=kinds.count) if kinds else torch.bfloat16


def _fault(codes: Tensor, scale: Tensor | None) -> str:
    """What is wrong with codes and scales of a file, in words; empty where nothing is."""
    if codes.dtype != DTYPE or codes.ndim != 2:
        return f"{codes.dtype} of {codes.ndim} dimensions where FP8 codes should be"
    if scale is None or scale.shape != codes.shape[:1] or scale.dtype != torch.float32:
        return "no float32 scale for each row"
    if not (torch.isfinite(scale).all() and (scale > 0).all() and torch.isfinite(codes.float()).all()):
        return "NaN, infinity or a scale that is not above zero"
    return ""


def _built(folder: Path, component: str, kind: torch.dtype) -> nn.Module:
    """The model of a configuration without weights; its buffers have their data, as the constructor makes it."""
    import diffusers
    import transformers
    from accelerate import init_empty_weights

    with default_dtype(kind), init_empty_weights(include_buffers=False):
        if component == "transformer":
            known = diffusers.SanaTransformer2DModel
            config = known.load_config(folder / component)
            return known.from_config({key: value for key, value in config.items() if key != "quantization_config"})
        config = transformers.AutoConfig.from_pretrained(folder / component)
        del config.quantization_config
        return transformers.AutoModel.from_config(config)
