"""`load_sana()`: a Sana pipeline in the precision you ask for, loaded as chapter 5 loads it by hand."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError

from .layers import contiguous_inputs_
from .shapes import SHAPES_FOLDER, manifest
from .weights import COMPONENTS, finite, fit, regular, whole

if TYPE_CHECKING:
    from diffusers import SanaPipeline

PRECISIONS = ("fp32", "bf16", "fp16", "int8", "nf4")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Checkpoint:
    """A pipeline on the Hugging Face Hub.

    Args:
        repo: its name there.
        trained: the 16-bit type its transformer was trained in, `"fp16"` or `"bf16"`, and works in.
        variants: whether the repository keeps 16-bit files beside 32-bit ones (`variant="fp16"`). Where it does not,
            asking for a variant is an error (NVlabs/Sana issue 203).
    """

    repo: str
    trained: str
    variants: bool


# Names and types: NVlabs/Sana, asset/docs/model_zoo.md; huggingface/diffusers, docs/source/en/api/pipelines/sana.md and
# sana_sprint.md ("recommended dtype"). Variants: the same pages, for 1.5 and Sprint NVlabs/Sana issue 203.
CHECKPOINTS = {
    "600M-512": Checkpoint("Efficient-Large-Model/Sana_600M_512px_diffusers", "fp16", True),
    "600M-1024": Checkpoint("Efficient-Large-Model/Sana_600M_1024px_diffusers", "fp16", True),
    "1600M-512": Checkpoint("Efficient-Large-Model/Sana_1600M_512px_diffusers", "fp16", True),
    "1600M-1024": Checkpoint("Efficient-Large-Model/Sana_1600M_1024px_diffusers", "fp16", True),
    "1600M-1024-bf16": Checkpoint("Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers", "bf16", True),
    "1600M-2K": Checkpoint("Efficient-Large-Model/Sana_1600M_2Kpx_BF16_diffusers", "bf16", True),
    "1600M-4K": Checkpoint("Efficient-Large-Model/Sana_1600M_4Kpx_BF16_diffusers", "bf16", True),
    "1.5-1.6B-1024": Checkpoint("Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers", "bf16", False),
    "1.5-4.8B-1024": Checkpoint("Efficient-Large-Model/SANA1.5_4.8B_1024px_diffusers", "bf16", False),
    "sprint-0.6B-1024": Checkpoint("Efficient-Large-Model/Sana_Sprint_0.6B_1024px_diffusers", "bf16", False),
    "sprint-1.6B-1024": Checkpoint("Efficient-Large-Model/Sana_Sprint_1.6B_1024px_diffusers", "bf16", False),
}


def load_sana(
    model: str | Path,
    precision: str,
    device: str | torch.device | None = None,
    *,
    slim: bool | Collection[str] = False,
) -> SanaPipeline:
    """Load a Sana pipeline, ready to call.

    `int8` and `nf4` quantize the text encoder and the transformer while they load, each with its own library's
    configuration, and leave the autoencoder in 16 bits. What is not quantized keeps the type below. The text encoder
    and the autoencoder never use fp16, in which they overflow (diffusers, sana.md: both "must stay in" bf16 or fp32).

    | precision  | transformer                     | text encoder, autoencoder |
    |------------|---------------------------------|---------------------------|
    | fp32, bf16 | as asked                        | as asked                  |
    | fp16       | fp16                            | bf16                      |
    | int8, nf4  | the type that it was trained in | bf16                      |

    A checkpoint trained in fp16 leans on the clamp at 65504 that only fp16 has, and draws garbage in other types
    (diffusers issue 10336): a precision that does not fit the checkpoint is a `UserWarning`.

    Args:
        model: `"shapes"`, a key of `CHECKPOINTS` or its Hub name, or a folder in diffusers' pipeline format. Where a
            folder has files such as `diffusion_pytorch_model.fp16.safetensors`, these are used and tell the trained
            type, which is bf16 otherwise. Only safetensors files are read.
        precision: one of `PRECISIONS`.
        device: where to put it: by default `"cuda"` where there is a GPU, real or virtual, else `"cpu"`.
        slim: quantize also what the recipe leaves in 16 bits: `"pointwise"`, the 1x1 convolutions of the transformer's
            feed-forward, and `"embedding"`, the text encoder's, which is in 8 bits for nf4 as well. `True` means both,
            a set of names some. `sana_lab.slim` does it and `sana_lab.slim.savings` says what each saves. Chapter 7.

    Returns:
        A `SanaPipeline`, or `SanaSprintPipeline` for Sprint.

    Raises:
        ValueError: unknown model, precision, device or part to slim, or a folder that holds no Sana pipeline; `slim`
            with a precision that does not quantize.
        RuntimeError: a quantized precision without a GPU (diffusers 0.42.1 refuses it, quantizers/bitsandbytes).
        OSError: files are missing or damaged, or cannot be had from the Hub.

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
        raise ValueError(f"slim is for int8 and nf4; {precision} quantizes nothing: leave slim out, or ask for those.")
    checkpoint = checkpoint_of(model)
    device = _place(device, quantized=precision not in DTYPES)
    with quiet():
        parts = _parts(slim)
        folder = download(model, checkpoint) if checkpoint else SHAPES_FOLDER if model == "shapes" else Path(model)
        if model == "shapes" or (folder / manifest.NAME).exists():
            manifest.check(folder)
        pipeline_class = pipeline_class_of(folder)
    variant = variant_of(folder)
    trained = checkpoint.trained if checkpoint else variant
    if precision in DTYPES and trained and (precision == "fp16") != (trained == "fp16"):
        advice = f"{model} was trained in {trained} and does not draw well in {precision}: use {trained}, int8 or nf4."
        warnings.warn(f"{advice} (diffusers issue 10336)", stacklevel=2)
    try:
        with quiet():
            return _load(pipeline_class, folder, variant, precision, DTYPES[trained or "bf16"], device, parts)
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        how = f"download it again: `hf download {checkpoint.repo}`" if checkpoint else "get the folder again"
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
) -> SanaPipeline:
    """The recipe, line by line as in chapter 5, with contiguous inputs, and what makes it slim (chapter 7).

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
    kept = {name: fit(folder, name, variant if name != "vae" else variant_of(folder, "vae")) for name in COMPONENTS}

    def load(kind, name, **options):
        # Before it quantizes, bitsandbytes casts what becomes 8 bits to float16 (0.50.2, nn/modules.py, `Int8Params`).
        cast = torch.float16 if precision == "int8" and name != "vae" else wanted[name]
        finite(name, kept[name], torch.finfo(cast).max)
        return whole(name, kind.from_pretrained(folder, subfolder=name, output_loading_info=True, **options))

    with torch.cuda.device(device) if quantized else nullcontext():  # quantized weights go to the current device
        transformer = load(
            diffusers.SanaTransformer2DModel, "transformer", **options(diffusers, wanted["transformer"])
        )
        if "pointwise" in parts:
            slim.quantize_pointwise_(transformer, precision)
        text_encoder = load(transformers.AutoModel, "text_encoder", **options(transformers, wanted["text_encoder"]))
        if "embedding" in parts:
            slim.quantize_embedding_(text_encoder)
    for model in (transformer, text_encoder):
        contiguous_inputs_(model)
    of_16_bits = files | {"variant": variant_of(folder, "vae"), dtype_argument(diffusers): other_dtype}
    vae = load(diffusers.AutoencoderDC, "vae", **of_16_bits)
    pipe = pipeline_class.from_pretrained(folder, text_encoder=text_encoder, transformer=transformer, vae=vae)
    (pipe.vae if quantized else pipe).to(device)  # the quantized parts are there already; some versions refuse to move
    return pipe


def checkpoint_of(model: str | Path) -> Checkpoint | None:
    """The checkpoint that `model` names; None for "shapes" and folders.

    Raises:
        ValueError: it names nothing.
    """
    named = {**CHECKPOINTS, **{c.repo: c for c in CHECKPOINTS.values()}}
    if isinstance(model, str) and model in named:
        return named[model]
    if not isinstance(model, str | Path) or model == "" or (model != "shapes" and not Path(model).is_dir()):
        raise ValueError(f"model {model!r} is unknown: choose from shapes, {', '.join(CHECKPOINTS)}, or give a folder.")
    return None


def _place(device: str | torch.device | None, quantized: bool) -> torch.device:
    """The device to load on.

    Raises:
        ValueError: `device` is none.
        RuntimeError: a quantized model cannot live there.
    """
    gpu = torch.cuda.is_available()
    try:
        place = torch.device(device or ("cuda" if gpu else "cpu"))
    except (RuntimeError, TypeError):
        raise ValueError(f"device {device!r} is unknown: give 'cuda', 'cuda:1' or 'cpu', or leave it out.") from None
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {str(place)!r}: GPUs on this machine: {torch.cuda.device_count()}.")
    if quantized and place.type != "cuda":
        way_out = "leave out device=" if gpu else "call sana_lab.use_accelerator() first, which gives this process one"
        raise RuntimeError(f"int8 and nf4 need a GPU, real or virtual: {way_out}.")
    return place


def download(model: str | Path, checkpoint: Checkpoint) -> Path:
    """The folder of a Hub checkpoint in the local cache, downloaded if need be.

    Raises:
        OSError: neither cached nor within reach.
    """
    from diffusers import DiffusionPipeline

    variant = checkpoint.trained if checkpoint.variants else None
    try:
        return Path(DiffusionPipeline.download(checkpoint.repo, variant=variant, use_safetensors=True))
    except (OSError, ValueError) as error:
        raise OSError(
            f"{model} is {checkpoint.repo} on the Hugging Face Hub, which is not in this machine's cache and cannot be "
            "had now: connect to a network, unset HF_HUB_OFFLINE if it is set, and run "
            f'`hf download {checkpoint.repo}`; or use model="shapes", which needs no network.'
        ) from error


def pipeline_class_of(folder: Path) -> type:
    """The class of pipeline that `folder` holds.

    Raises:
        ValueError: it holds none, another than Sana's, or one that the installed diffusers does not have.
        OSError: there is something in it that is no file.
    """
    import diffusers

    regular(folder)
    index = folder / "model_index.json"
    try:
        parts = json.loads(index.read_text(encoding="utf-8"))
        name = parts["_class_name"]
        sound = all(isinstance(of, list) and len(of) == 2 for part, of in parts.items() if not part.startswith("_"))
    except FileNotFoundError:
        raise ValueError(f"{folder} is no pipeline: it has no model_index.json. Give a folder that has.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{index} is damaged: it names no pipeline. Get the folder again.") from None
    if name not in ("SanaPipeline", "SanaSprintPipeline"):
        raise ValueError(f"{folder} holds a {name}, not a SanaPipeline or SanaSprintPipeline.")
    if not sound:
        raise ValueError(f"{index} is damaged: a component is a library and a class. Get the folder again.")
    if not hasattr(diffusers, name):
        raise ValueError(f"{name} needs a newer diffusers than {diffusers.__version__}: pip install -U diffusers.")
    return getattr(diffusers, name)


def variant_of(folder: Path, component: str = "transformer") -> str | None:
    """Which 16-bit files of a component there are beside, or in place of, the plain ones."""
    for variant in ("fp16", "bf16"):
        if any((folder / component).glob(f"*.{variant}*.safetensors")):
            return variant
    return None


def dtype_argument(library: ModuleType) -> str:
    """What `from_pretrained` calls the type of the weights: `torch_dtype` until diffusers 0.40 and transformers 5.

    Args:
        library: the module `diffusers` or `transformers`.
    """
    version = tuple(int(part) for part in library.__version__.split(".")[:2])
    renamed = {"diffusers": (0, 40), "transformers": (5, 0)}[library.__name__]
    return "dtype" if version >= renamed else "torch_dtype"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back loading bars and log lines, for the length of the block. Errors are exceptions; download bars stay."""
    with hushed("bitsandbytes", "accelerate"):
        # bitsandbytes, imported with diffusers' classes, logs that it lacks `kernels` (0.50.2, backends/cpu/ops.py)
        import diffusers.utils.logging
        import transformers.utils.logging

        # Not transformers' disable_progress_bar(), which also turns off download bars (5.23.0, utils/logging.py).
        bars = (diffusers.utils.logging, transformers.utils.logging)
        before = [bar._tqdm_active for bar in bars]
        try:
            for bar in bars:
                bar._tqdm_active = False
            with hushed("diffusers", "transformers", "huggingface_hub"):  # these set their levels while imported
                yield
        finally:
            for bar, active in zip(bars, before, strict=True):
                bar._tqdm_active = active


@contextmanager
def hushed(*names: str) -> Iterator[None]:
    """Switch the loggers of these libraries off, for the length of the block."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
