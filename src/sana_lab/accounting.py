"""Where a Sana keeps its bytes: by component, kind of layer and precision, counted and not typed in.

`plan` and `predict` build the models of a checkpoint on the meta device, where tensors have a shape and no data, and
say what loading would hold. `components` and `count` look at models that are really there.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from . import checkpoints
from .checkpoints import PRECISIONS, Source, resolve
from .layers import holding
from .libraries import DTYPES

if TYPE_CHECKING:
    import pandas as pd

COMPONENTS = ("text_encoder", "transformer", "vae")

CHECKPOINTS: dict[str, Mapping[str, Any]] = {
    c.name: c.transformer for c in checkpoints.CHECKPOINTS.values() if c.like == c.name
}
"""What the released transformers differ in, as arguments of `SanaTransformer2DModel`: one name for each that differs,
where `sana_lab.checkpoints` has them all. Chapter 4."""

_TRANSFORMER = {
    "in_channels": 32,
    "out_channels": 32,
    "caption_channels": 2304,
    "mlp_ratio": 2.5,
    "attention_bias": False,
    "patch_size": 1,
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "interpolation_scale": None,
}

# Gemma-2-2b, the encoder of every checkpoint: the released configuration, which is also the default in transformers.
_TEXT_ENCODER = {
    "vocab_size": 256_000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
}

# DC-AE f32c32: scripts/convert_dcae_to_diffusers.py of diffusers at commit 58eb52c0, "dc-ae-f32c32-sana-1.0".
_VAE = {
    "latent_channels": 32,
    "encoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
    "decoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
    "encoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
    "decoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
    "encoder_layers_per_block": (2, 2, 2, 3, 3, 3),
    "decoder_layers_per_block": (3, 3, 3, 3, 3, 3),
    "encoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
    "decoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
    "downsample_block_type": "conv",
    "upsample_block_type": "interpolate",
    "decoder_norm_types": "rms_norm",
    "decoder_act_fns": "silu",
    "scaling_factor": 0.41407,
}


@dataclass(frozen=True)
class Stored:
    """One tensor in memory.

    Attributes:
        layer: Name of the module that owns it, as in `named_modules`.
        kind: "Linear", "Conv2d", "Embedding", "norm", "other" (parameters of no such layer) or "buffer".
        tensor: Its name in the module: "weight", "bias"; for what bitsandbytes keeps beside a weight "SCB" (8 bits)
            or "absmax" and "code" (4 bits).
        dtype: Of the stored numbers, without "torch.".
        parameters: How many of the model's parameters it holds; 0 for statistics and buffers.
        bytes: Of the tensor itself, without an allocator's rounding.

    Chapter 4.
    """

    layer: str
    kind: str
    tensor: str
    dtype: str
    parameters: int
    bytes: int


def held(module: nn.Module) -> Iterator[Stored]:
    """Every tensor that a model keeps in memory, once each, what bitsandbytes keeps outside of parameters included.

    An 8-bit layer has the codes as its weight, and one float32 a row, `SCB`, as an attribute of the weight until the
    first call and of `layer.state` after it. A 4-bit weight has a `quant_state` with a float32 `absmax` for each 64
    values and the 16 numbers of its `code`, a copy a layer. Neither shows in `parameters()` or `buffers()`. Source:
    bitsandbytes 0.50.2, nn/modules.py (`Int8Params`, `init_8bit_state`), functional.py (`QuantState`).

    Chapter 4.
    """
    seen = set()
    for layer, owner in module.named_modules():
        for name, tensor, kind, parameters in tensors_of(owner):
            key = tensor.data_ptr() or id(tensor)  # shared data counts once; on the meta device there is none
            if key not in seen:
                seen.add(key)
                yield _stored(layer, kind, name, tensor.dtype, tensor.numel(), parameters)


def tensors_of(owner: nn.Module) -> Iterator[tuple[str, Tensor, str, int]]:
    """Tensors that one module keeps itself: name, tensor, layer kind and number of weights for each.

    In a layer of `sana_lab.fast` the buffers are the weights of the layer that it replaced.

    Chapter 4.
    """
    kind, found = _kind(owner), holding(owner)
    for name, parameter in owner.named_parameters(recurse=False):
        yield name, parameter, kind, (name == "weight" and found.weights) or parameter.numel()  # 4-bit codes are packed
        if name == "weight":
            for statistic, tensor in found.beside:  # CB is the weight's own data again, and counts where it is a copy
                yield statistic, tensor, kind, 0
    stands_for = getattr(type(owner), "stands_for", None)
    for name, buffer in owner.named_buffers(recurse=False):
        if stands_for is None:
            yield name, buffer, "buffer", 0
        else:
            yield name, buffer, stands_for, 0 if buffer is found.scales else buffer.numel()


def _kind(owner: nn.Module) -> str:
    for kind, layer_type in (("Linear", nn.Linear), ("Conv2d", nn.Conv2d), ("Embedding", nn.Embedding)):
        if isinstance(owner, layer_type):  # bitsandbytes' layers are Linear as well
            return kind
    return "norm" if "norm" in type(owner).__name__.lower() else "other"


def _stored(layer: str, kind: str, tensor: str, dtype: torch.dtype, elements: int, parameters: int) -> Stored:
    return Stored(layer, kind, tensor, str(dtype).removeprefix("torch."), parameters, elements * dtype.itemsize)


def quantized(tensors: Iterator[Stored], module: nn.Module, precision: str) -> Iterator[Stored]:
    """What `tensors` of a 16-bit `module` become when its `nn.Linear` layers are replaced: by bitsandbytes, or in FP8.

    In 8 bits a weight takes a byte a value and four bytes a row (`SCB`; `scale` in FP8). In 4 bits (nf4 or fp4, blocks
    of 64, no double quantization, as both libraries do unless told) it takes half a byte a value, four bytes a block
    (`absmax`) and 64 bytes a layer (`code`). Biases and all other layers stay. Nothing is left out by default:
    diffusers 0.42.1 has no list of its own (quantizers/bitsandbytes/bnb_quantizer.py), and the one of transformers
    5.23.0 (quantizers/base.py, `get_keys_to_not_convert`: tied weights, the output layer, the last parameter) holds no
    Linear of a `Gemma2Model`.

    Chapter 4.
    """
    for stored in tensors:
        if stored.kind != "Linear" or stored.tensor != "weight":
            yield stored
            continue
        weight = module.get_parameter(f"{stored.layer}.weight")
        beside = (stored.layer, "Linear")
        if precision == "int8":
            yield _stored(*beside, "weight", torch.int8, weight.numel(), weight.numel())
            yield _stored(*beside, "SCB", torch.float32, weight.shape[0], 0)
        elif precision == "fp8":
            yield _stored(*beside, "codes", torch.float8_e4m3fn, weight.numel(), weight.numel())
            yield _stored(*beside, "scale", torch.float32, weight.shape[0], 0)
        else:
            yield _stored(*beside, "weight", torch.uint8, -(-weight.numel() // 2), weight.numel())
            yield _stored(*beside, "absmax", torch.float32, -(-weight.numel() // 64), 0)
            yield _stored(*beside, "code", torch.float32, 16, 0)


class _Undrawn(TorchFunctionMode):
    """Draws no random numbers into tensors that have no data: half of the time of building a model of them."""

    DRAWS = frozenset(
        {torch.Tensor.uniform_, torch.Tensor.normal_}
        | {getattr(nn.init, f"{name}_") for name in ("uniform", "normal", "trunc_normal", "kaiming_uniform")}
    )

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """PyTorch calls this in place of `func`."""
        kwargs = kwargs or {}
        if func in self.DRAWS and (tensor := args[0] if args else kwargs["tensor"]).is_meta:
            return tensor
        return func(*args, **kwargs)


def build(checkpoint: str | Path | Source, dtype: torch.dtype = torch.bfloat16) -> dict[str, nn.Module]:
    """The components of a checkpoint on the meta device: real classes, real shapes, no data and no download.

    Args:
        checkpoint: What `load_sana` takes: a name, a folder in diffusers' pipeline format, or a `Source`. Of a released
            one nothing is downloaded.
        dtype: As in `from_pretrained`, which builds a model with `dtype` for torch's default. Buffers that ask for
            float32 keep it: the position embedding of the 2K and 4K checkpoints, the encoder's rotary frequencies.

    Returns:
        Models by the names that a pipeline gives them: "text_encoder", "transformer", "vae".

    Raises:
        ValueError: if there is no such checkpoint; the text names the choices.

    Chapter 4.
    """
    from diffusers import AutoencoderDC, SanaTransformer2DModel
    from transformers import Gemma2Config, Gemma2Model

    source = resolve(checkpoint)
    if source.checkpoint:
        transformer, vae = _TRANSFORMER | source.checkpoint.transformer, _VAE
        text_encoder = Gemma2Config(**_TEXT_ENCODER)
    elif all((source.folder / component / "config.json").is_file() for component in COMPONENTS):
        transformer = SanaTransformer2DModel.load_config(source.folder / "transformer")
        vae = AutoencoderDC.load_config(source.folder / "vae")
        text_encoder = Gemma2Config.from_pretrained(source.folder / "text_encoder")
    else:
        raise ValueError(
            f"{source.folder} is no pipeline: choose from {', '.join(checkpoints.CHECKPOINTS)}, or give a folder that "
            "holds text_encoder, transformer and vae, each with its config.json"
        )
    with default_dtype(dtype), torch.device("meta"), _Undrawn():
        return {
            "text_encoder": Gemma2Model(text_encoder),
            "transformer": SanaTransformer2DModel.from_config(transformer),
            "vae": AutoencoderDC.from_config(vae),
        }


@cache
def _build_once(checkpoint: str, dtype: torch.dtype) -> dict[str, nn.Module]:
    """`build`, for reading only: the same models each time. Making one takes most of a second."""
    return build(checkpoint, dtype)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make new tensors of this floating-point type, for the length of the block, also where it ends by an error."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def plan(checkpoint: str | Path | Source, precision: str | Mapping[str, str] = "bf16") -> "pd.DataFrame":
    """Every tensor that loading a checkpoint will hold, a row each: `component` and the fields of `Stored`.

    Args:
        checkpoint: As in `build`.
        precision: One of `PRECISIONS` for all, as the recipe of chapter 5 has it: "int8" and "nf4" mean text encoder
            and transformer in bitsandbytes' format, "fp8" in this package's, all else and the autoencoder in 16 bits.
            Or a precision for each component, ``{"text_encoder": "bf16", "transformer": "int8", "vae": "bf16"}``.

    Raises:
        ValueError: for an unknown checkpoint, component or precision.

    Chapter 4.
    """
    import pandas as pd

    by_component = _by_component(precision)
    source = resolve(checkpoint)
    known = partial(_build_once, source.checkpoint.like) if source.checkpoint else partial(build, source)
    built = {dtype: known(dtype) for dtype in {*map(_dtype, by_component.values())}}
    rows = []
    for component, chosen in by_component.items():
        module = built[_dtype(chosen)][component]
        tensors = held(module)
        if chosen not in DTYPES:
            tensors = quantized(tensors, module, chosen)
        rows += [{"component": component} | vars(stored) for stored in tensors]
    return pd.DataFrame(rows)


def _by_component(precision: str | Mapping[str, str]) -> dict[str, str]:
    if isinstance(precision, str):
        precision = {c: "bf16" if c == "vae" and precision in ("int8", "fp8", "nf4") else precision for c in COMPONENTS}
    if set(precision) != set(COMPONENTS):
        raise ValueError(f"precision names {', '.join(precision)}: give one each for {', '.join(COMPONENTS)}")
    for component, chosen in precision.items():
        if chosen not in PRECISIONS:
            raise ValueError(f"unknown precision {chosen!r} for {component}: choose from {', '.join(PRECISIONS)}")
    return {component: precision[component] for component in COMPONENTS}


def _dtype(precision: str) -> torch.dtype:
    return DTYPES.get(precision, torch.bfloat16)


def predict(
    checkpoint: str | Path | Source, precision: str | Mapping[str, str] = "bf16", *, granule: int = 1
) -> dict[str, int]:
    """Bytes that each component of a checkpoint will hold once loaded: weights and buffers, no activations.

    Args:
        checkpoint: As in `build`.
        precision: As in `plan`.
        granule: Round each tensor up to a multiple of this many bytes. CUDA's caching allocator counts in 512.

    Raises:
        ValueError: as in `plan`.

    Example:
        >>> {component: f"{size / 2**30:.1f} GiB" for component, size in predict("600M-512", "int8").items()}
        {'text_encoder': '3.0 GiB', 'transformer': '0.8 GiB', 'vae': '0.6 GiB'}

    Chapter 4.
    """
    table = plan(checkpoint, precision)
    size = -(-table["bytes"] // granule) * granule
    return {component: int(size[table["component"] == component].sum()) for component in COMPONENTS}


def components(pipeline: Any, *, granule: int = 1) -> dict[str, int]:
    """Bytes that each model of a loaded pipeline really holds, wherever it is, quantized or not.

    Args:
        pipeline: A diffusers pipeline, or models by name. Parts that are no models (tokenizer, scheduler) are left out.
        granule: As in `predict`.

    Raises:
        TypeError: if there are no models in it.

    Chapter 4.
    """
    parts = pipeline if isinstance(pipeline, Mapping) else getattr(pipeline, "components", {})
    models = {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
    if not models:
        raise TypeError(f"{type(pipeline).__name__} holds no models: pass a diffusers pipeline, or models by name")
    return {
        name: sum(-(-stored.bytes // granule) * granule for stored in held(model)) for name, model in models.items()
    }


def count(module: nn.Module) -> "pd.DataFrame":
    """Layers, parameters and bytes of a model by kind of layer, and each kind's share of all bytes.

    Raises:
        TypeError: if it is no `nn.Module`.

    Example:
        >>> count(nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8)))["bytes"].to_dict()
        {'Linear': 160, 'norm': 64}

    Chapter 4.
    """
    import pandas as pd

    if not isinstance(module, nn.Module):
        raise TypeError(f"count needs an nn.Module, got {type(module).__name__}: pass pipe.transformer, for example")
    table = pd.DataFrame([vars(stored) for stored in held(module)], columns=list(Stored.__dataclass_fields__))
    by_kind = table.groupby("kind").agg(
        layers=("layer", "nunique"), parameters=("parameters", "sum"), bytes=("bytes", "sum")
    )
    return by_kind.assign(share=by_kind["bytes"] / by_kind["bytes"].sum()).sort_values("bytes", ascending=False)
