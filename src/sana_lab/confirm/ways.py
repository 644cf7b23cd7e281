"""Six ways to have the pipeline of a checkpoint, as chapters 5 and 8 load it.

Chapter 14.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..checkpoints import Source, variant_of
from ..libraries import DTYPES, dtype_argument, quiet

if TYPE_CHECKING:
    from diffusers import SanaPipeline

FEW = 2
"""How many prompts the check of the fast mode looks at."""


def load(name: str, source: Source, prompts: Sequence[str]) -> tuple[SanaPipeline, dict[str, Any]]:
    """A pipeline on the GPU, loaded in a way, and what was found out while it was.

    Args:
        name: key of `sana_lab.confirm.plan.WAYS`.
        source: the checkpoint.
        prompts: for the fast mode's check.

    Raises:
        ValueError, RuntimeError, OSError: as the libraries and `load_sana` do.
    """
    return LOADERS[name](source, prompts)


def _wide(source: Source, prompts: Sequence[str]) -> tuple[SanaPipeline, dict[str, Any]]:
    from ..sana import load_sana

    return load_sana(source, source.trained or "bf16", "cuda"), {}


def recipe(source: Source) -> SanaPipeline:
    """The recipe of chapter 5, in the libraries' own lines: its 8-bit layers take their inputs as they lie."""
    import diffusers
    import torch
    import transformers

    folder, variant = source.folder, source.variant
    trained = DTYPES[source.trained or "bf16"]
    with quiet():
        text_encoder = transformers.AutoModel.from_pretrained(
            folder,
            subfolder="text_encoder",
            variant=variant,
            quantization_config=transformers.BitsAndBytesConfig(load_in_8bit=True),
            **{dtype_argument(transformers): torch.bfloat16},
        )
        transformer = diffusers.SanaTransformer2DModel.from_pretrained(
            folder,
            subfolder="transformer",
            variant=variant,
            quantization_config=diffusers.BitsAndBytesConfig(load_in_8bit=True),
            **{dtype_argument(diffusers): trained},
        )
        vae = diffusers.AutoencoderDC.from_pretrained(
            folder,
            subfolder="vae",
            variant=variant_of(folder, "vae"),
            **{dtype_argument(diffusers): torch.bfloat16},
        )
        parts = {"text_encoder": text_encoder, "transformer": transformer, "vae": vae.to("cuda")}
        return source.pipeline_class.from_pretrained(folder, **parts)


def _recipe(source: Source, prompts: Sequence[str]) -> tuple[SanaPipeline, dict[str, Any]]:
    return recipe(source), {}


def _guarded(source: Source, prompts: Sequence[str]) -> tuple[SanaPipeline, dict[str, Any]]:
    from ..guard import NotReady, checked
    from ..sana import load_sana

    pipe = load_sana(source, "int8", "cuda")
    try:
        checked(pipe, eight_bit=("text_encoder", "transformer"), device="cuda", types=True)
    except NotReady as reason:
        return pipe, {"problems": list(reason.problems)}
    return pipe, {"problems": []}


def _slim(source: Source, prompts: Sequence[str]) -> tuple[SanaPipeline, dict[str, Any]]:
    from ..sana import load_sana

    return load_sana(source, "int8", "cuda", slim=True), {}


def _fast(source: Source, prompts: Sequence[str]) -> tuple[SanaPipeline, dict[str, Any]]:
    """Slim, and fast by integers if the check lets it, by weights alone if not: `speed_up_`, with its check told."""
    import math

    from ..fast import ENOUGH_DB, rounding, speed_up_

    pipe, _ = _slim(source, prompts)
    pipe.set_progress_bar_config(disable=True)
    try:
        kept = rounding(pipe, list(prompts)[:FEW], steps=min(4, source.steps))
        spoiled = [name for name in kept if kept[name].spoiled()]
        worst = min(kept, key=lambda name: kept[name].plain)
        numbers = {"recipe": kept[worst].recipe, "plain": kept[worst].plain}
        check: dict[str, Any] = {
            "layers": len(kept),
            "spoiled": len(spoiled),
            "worst": worst,
            "enough": ENOUGH_DB,
            **{name: round(value, 2) if math.isfinite(value) else None for name, value in numbers.items()},
        }
    except Exception as error:  # what the check cannot look at, it cannot let through
        spoiled, check = ["?"], {"raised": f"{type(error).__name__}: {_first_line(error)}"}
    activations = 16 if spoiled else 8
    speed_up_(pipe, activations=activations, check=False)
    return pipe, {"check": check, "activations": activations}


def _fp8(source: Source, prompts: Sequence[str]) -> tuple[SanaPipeline, dict[str, Any]]:
    from .. import float8_layers
    from ..sana import load_sana

    try:
        float8_layers.able(8, "cuda")
        activations = 8
    except RuntimeError:
        activations = 16
    return load_sana(source, "fp8", "cuda", slim=True, activations=activations), {"activations": activations}


LOADERS: dict[str, Callable[[Source, Sequence[str]], tuple[Any, dict[str, Any]]]] = {
    "16-bit": _wide,
    "recipe": _recipe,
    "guard": _guarded,
    "slim": _slim,
    "fast": _fast,
    "fp8": _fp8,
}


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).strip().partition("\n")[0].split())[:200]
