"""`load_sana()`: a Sana pipeline in the precision you ask for, loaded as chapter 5 loads it by hand."""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError

from . import float8_folders, float8_layers
from .checkpoints import PRECISIONS, Source, resolve, variant_of
from .isolated import without_collecting
from .layers import contiguous_inputs_
from .libraries import DTYPES, dtype_argument, quiet
from .weights import COMPONENTS, finite, fit, whole

if TYPE_CHECKING:
    from diffusers import SanaPipeline


def load_sana(
    model: str | Path | Source,
    precision: str,
    device: str | torch.device | None = None,
    *,
    slim: bool | Collection[str] = False,
    activations: int = 8,
) -> SanaPipeline:
    """Load a Sana pipeline, ready to call.

    `int8` and `nf4` quantize the text encoder and the transformer while they load, each with its own library's
    configuration, and leave the autoencoder in 16 bits. `fp8` quantizes the same layers with this package's own code
    (`sana_lab.float8_layers`, chapter 8). What is not quantized keeps the type below. The text encoder and the
    autoencoder never use fp16, in which they overflow (diffusers, sana.md: both "must stay in" bf16 or fp32).

    | precision      | transformer                     | text encoder, autoencoder |
    |----------------|---------------------------------|---------------------------|
    | fp32, bf16     | as asked                        | as asked                  |
    | fp16           | fp16                            | bf16                      |
    | int8, fp8, nf4 | the type that it was trained in | bf16                      |

    A checkpoint trained in fp16 leans on the clamp at 65504 that only fp16 has, and draws garbage in other types
    (diffusers issue 10336): a precision that does not fit the checkpoint is a `UserWarning`.

    Args:
        model: `"shapes"`, a key of `sana_lab.checkpoints.CHECKPOINTS` or its Hub name, a folder in diffusers' pipeline
            format, or what `sana_lab.checkpoints.resolve` made of one of these. For `"fp8"` also a folder that
            `save_pretrained` of a pipeline in FP8 wrote (its own `slim` then counts). Where a folder has files such as
            `diffusion_pytorch_model.fp16.safetensors`, these are used and tell the trained type, which is bf16
            otherwise. Only safetensors files are read.
        precision: one of `PRECISIONS`.
        device: where to put it: by default `"cuda"` where there is a GPU, real or virtual, else `"cpu"`.
        slim: quantize also what the recipe leaves in 16 bits: `"pointwise"`, the 1x1 convolutions of the transformer's
            feed-forward, and `"embedding"`, the text encoder's, which is in 8 bits for nf4 as well. `True` means both,
            a set of names some. `sana_lab.slim` does it and `sana_lab.slim.savings` says what each saves. Chapter 8.
        activations: for fp8: 8 rounds the inputs of the layers as well and multiplies FP8 codes, which a GPU does from
            compute capability 8.9 on; 16 keeps the weights alone in FP8, on any GPU. Chapter 8.

    Returns:
        A `SanaPipeline`, or `SanaSprintPipeline` for Sprint.

    Raises:
        ValueError: unknown model, precision, device or part to slim, or a folder that holds no Sana pipeline; `slim`
            with a precision that does not quantize; `activations` that do not fit the precision.
        RuntimeError: a quantized precision without a GPU (diffusers 0.42.1 refuses it, quantizers/bitsandbytes); FP8
            products on a GPU that has no units for them.
        OSError: files are missing or damaged, or the Hub does not give them.

    Example:
        >>> from sana_lab import load_sana, use_accelerator
        >>> with use_accelerator(virtual=True):
        ...     pipe = load_sana("shapes", "int8")
        >>> type(pipe.transformer.transformer_blocks[0].attn1.to_q).__name__
        'Linear8bitLt'

    Chapter 5.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is unknown: choose from {', '.join(PRECISIONS)}.")
    if slim and precision in DTYPES:
        raise ValueError(f"slim is for int8, fp8 and nf4; {precision} quantizes nothing: leave slim out.")
    if activations != 8 and precision != "fp8":
        raise ValueError(f"activations={activations!r} is for fp8, not for {precision}: leave it out.")
    source = resolve(model)
    device = _device_for(device, quantized=precision not in DTYPES)
    if precision == "fp8":
        float8_layers.able(activations, device)
    folder = source.folder
    if float8_folders.saved(folder):
        if precision != "fp8":
            raise ValueError(f"{folder} is in FP8: give precision 'fp8', or the checkpoint that it was made from.")
        if slim:
            raise ValueError(f"{folder} was made slim, or not, when it was saved: leave slim out.")
    with quiet():
        parts = _parts(slim)
        source.check()
        with without_collecting():  # the first time it imports the libraries
            pipeline_class = source.pipeline_class
    trained = source.trained
    if precision in DTYPES and trained and (precision == "fp16") != (trained == "fp16"):
        advice = (
            f"{source} was trained in {trained} and does not draw well in {precision}: use {trained}, int8, fp8 or nf4."
        )
        warnings.warn(f"{advice} (diffusers issue 10336)", stacklevel=2)
    try:
        with quiet():
            kind = DTYPES[trained or "bf16"]
            return _load(pipeline_class, folder, source.variant, precision, kind, device, parts, activations)
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        how = "get the folder again"
        if source.checkpoint:
            how = f"download it again: `hf download {source.checkpoint.repo}`"
        raise OSError(f"{folder}: files are missing or damaged ({_first_line(error)}); {how}.") from error


def _parts(slim: bool | Collection[str]) -> tuple[str, ...]:
    if not slim:
        return ()
    from .slim import parts_of

    return parts_of(slim)


def _load(
    pipeline_class: type,
    folder: Path,
    variant: str | None,
    precision: str,
    trained: torch.dtype,
    device: torch.device,
    parts: Collection[str],
    activations: int,
) -> SanaPipeline:
    """The recipe, line by line as in chapter 5, with contiguous inputs, and what makes it slim (chapter 8).

    In FP8 both models are loaded in 16 bits on the CPU, and go to the GPU layer by layer, quantized there (chapter 8).

    The transformer comes first: what it needs while it loads and gives back when slimmed, the text encoder then fills,
    so that loading never takes more than the pipeline holds in the end.
    """
    import diffusers
    import transformers

    if parts:
        from . import slim

    quantized = precision not in DTYPES
    transformer_dtype = DTYPES.get(precision, trained)
    other_dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    files = {"variant": variant, "use_safetensors": True}

    def options(library, dtype):
        given = {**files, dtype_argument(library): dtype}
        if precision == "int8":
            given["quantization_config"] = library.BitsAndBytesConfig(load_in_8bit=True)
        elif precision == "nf4":
            given["quantization_config"] = library.BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
            )
        return given

    wanted = {"transformer": transformer_dtype, "text_encoder": other_dtype, "vae": other_dtype}
    coded = float8_folders.saved(folder)
    plain = ("vae",) if coded else COMPONENTS
    kept = {name: fit(folder, name, variant if name != "vae" else variant_of(folder, "vae")) for name in plain}

    def load(kind, name, **options):
        # Before it quantizes, bitsandbytes casts what becomes 8 bits to float16 (0.50.2, nn/modules.py, `Int8Params`).
        cast = torch.float16 if precision == "int8" and name != "vae" else wanted[name]
        finite(name, kept[name], torch.finfo(cast).max)
        with _in_words():
            return whole(name, kind.from_pretrained(folder, subfolder=name, output_loading_info=True, **options))

    def slimmed(model, part, by_slim):
        if precision == "fp8":
            float8_layers.quantize_float8_(model, activations, device=device, **{part: part in parts})
        elif part in parts:
            by_slim()

    with torch.cuda.device(device) if quantized else nullcontext():  # quantized weights go to the current device
        if coded:
            transformer, text_encoder = (
                float8_folders.load_component(folder, name, activations, device)
                for name in ("transformer", "text_encoder")
            )
        else:
            kind = diffusers.SanaTransformer2DModel
            transformer = load(kind, "transformer", **options(diffusers, wanted["transformer"]))
            slimmed(transformer, "pointwise", lambda: slim.quantize_pointwise_(transformer, precision))
            kind = transformers.AutoModel
            text_encoder = load(kind, "text_encoder", **options(transformers, wanted["text_encoder"]))
            slimmed(text_encoder, "embedding", lambda: slim.quantize_embedding_(text_encoder))
    for model in (transformer, text_encoder):
        contiguous_inputs_(model)
    of_16_bits = files | {"variant": variant_of(folder, "vae"), dtype_argument(diffusers): other_dtype}
    vae = load(diffusers.AutoencoderDC, "vae", **of_16_bits)
    models = {"text_encoder": text_encoder, "transformer": transformer, "vae": vae}
    with _in_words(ValueError):
        pipe = pipeline_class.from_pretrained(folder, **models)
    (pipe.vae if quantized else pipe).to(device)  # the quantized parts are there already; some versions refuse to move
    return pipe


@contextmanager
def _in_words(*more: type[Exception]) -> Iterator[None]:
    """What a library stumbles over in a file that it takes for sound, as a damaged file.

    Args:
        more: classes of errors that mean the same here.

    Raises:
        OSError: it has stumbled.
    """
    try:
        yield
    except (AttributeError, KeyError, IndexError, TypeError, AssertionError, *more) as error:
        told = f"{type(error).__name__}: {_first_line(error)[:150]}"
        raise OSError(f"a library cannot read one of the small files, {told}") from error


def _device_for(device: str | torch.device | None, quantized: bool) -> torch.device:
    """The device to load on.

    Raises:
        ValueError: `device` is no device.
        RuntimeError: a quantized model cannot live there.
    """
    gpu = torch.cuda.is_available()
    try:
        found = torch.device(device or ("cuda" if gpu else "cpu"))
    except (RuntimeError, TypeError):
        raise ValueError(f"device {device!r} is unknown: give 'cuda', 'cuda:1' or 'cpu', or leave it out.") from None
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {str(found)!r}: GPUs on this machine: {torch.cuda.device_count()}.")
    if quantized and found.type != "cuda":
        way_out = "leave out device=" if gpu else "call sana_lab.use_accelerator() first, which gives this process one"
        raise RuntimeError(f"int8, fp8 and nf4 need a GPU, real or virtual: {way_out}.")
    return found


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")
