"""The released checkpoints, one name each, and `resolve()`: from a name or a folder to all that is known of a model.

What loads, draws, counts or measures a model takes a name, a folder, or the `Source` that `resolve` makes of either.

Importing this imports no torch: `sana-lab doctor` needs the names where torch is broken.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from .digests import weights_digest
from .shapes import SHAPES_FOLDER, manifest

PRECISIONS = ("fp32", "bf16", "fp16", "int8", "fp8", "nf4")

# Transformers: scripts/convert_sana_to_diffusers.py of diffusers at commit 58eb52c0 (model_kwargs, transformer_kwargs).
_600M = {
    "num_layers": 28,
    "num_attention_heads": 36,
    "attention_head_dim": 32,
    "num_cross_attention_heads": 16,
    "cross_attention_head_dim": 72,
    "cross_attention_dim": 1152,
}
_1600M = {
    "num_layers": 20,
    "num_attention_heads": 70,
    "attention_head_dim": 32,
    "num_cross_attention_heads": 20,
    "cross_attention_head_dim": 112,
    "cross_attention_dim": 2240,
}
_V15 = {"qk_norm": "rms_norm_across_heads"}
_SPRINT = {"qk_norm": "rms_norm_across_heads", "guidance_embeds": True}


@dataclass(frozen=True)
class Checkpoint:
    """A pipeline on the Hugging Face Hub.

    Args:
        name: what this package calls it.
        repo: its name on the Hub.
        trained: the 16-bit type its transformer was trained in, `"fp16"` or `"bf16"`, and works in.
        variants: whether the repository keeps 16-bit files beside 32-bit ones (`variant="fp16"`). Where it does not,
            asking for a variant is an error (NVlabs/Sana issue 203).
        transformer: what its transformer differs in from others, as arguments of `SanaTransformer2DModel`.
    """

    name: str
    repo: str
    trained: str
    variants: bool
    transformer: Mapping[str, Any] = field(hash=False, repr=False)

    @property
    def like(self) -> str:
        """The first checkpoint of the table with this transformer: its sizes are those of this one."""
        return next(c.name for c in CHECKPOINTS.values() if c.transformer == self.transformer)


# Names and types: NVlabs/Sana, asset/docs/model_zoo.md; huggingface/diffusers, docs/source/en/api/pipelines/sana.md and
# sana_sprint.md ("recommended dtype"). Variants: the same pages, for 1.5 and Sprint NVlabs/Sana issue 203.
_OWNER = "Efficient-Large-Model"
_AT_1024 = {"sample_size": 32}
_RELEASED = (
    ("600M-512", "Sana_600M_512px", "fp16", True, _600M | {"sample_size": 16}),
    ("600M-1024", "Sana_600M_1024px", "fp16", True, _600M | _AT_1024),
    ("1600M-512", "Sana_1600M_512px", "fp16", True, _1600M | {"sample_size": 16}),
    ("1600M-1024", "Sana_1600M_1024px", "fp16", True, _1600M | _AT_1024),
    ("1600M-1024-bf16", "Sana_1600M_1024px_BF16", "bf16", True, _1600M | _AT_1024),
    ("1600M-2K", "Sana_1600M_2Kpx_BF16", "bf16", True, _1600M | {"sample_size": 64, "interpolation_scale": 1.0}),
    ("1600M-4K", "Sana_1600M_4Kpx_BF16", "bf16", True, _1600M | {"sample_size": 128, "interpolation_scale": 2.0}),
    ("1.5-1.6B", "SANA1.5_1.6B_1024px", "bf16", False, _1600M | _V15 | _AT_1024),
    ("1.5-4.8B", "SANA1.5_4.8B_1024px", "bf16", False, _1600M | _V15 | _AT_1024 | {"num_layers": 60}),
    ("sprint-0.6B", "Sana_Sprint_0.6B_1024px", "bf16", False, _600M | _SPRINT | _AT_1024),
    ("sprint-1.6B", "Sana_Sprint_1.6B_1024px", "bf16", False, _1600M | _SPRINT | _AT_1024),
)

CHECKPOINTS = {name: Checkpoint(name, f"{_OWNER}/{repo}_diffusers", *rest) for name, repo, *rest in _RELEASED}
"""Every released checkpoint by its name."""

_SPELLINGS = {c.repo: c for c in CHECKPOINTS.values()} | {
    f"{name}-1024": c for name, c in CHECKPOINTS.items() if name.startswith(("1.5-", "sprint-"))
}
"""Other words for them: Hub names, and names with the size where there is only one."""


@dataclass(frozen=True)
class Source:
    """A model that can be loaded. What costs something is found out when it is asked for, and once.

    Args:
        model: what was asked for: `"shapes"`, a name of a checkpoint, or a folder.
        checkpoint: the released one that this is; None for `"shapes"` and folders.

    Chapter 5.
    """

    model: str | Path
    checkpoint: Checkpoint | None = None

    def __str__(self) -> str:
        """As it was asked for."""
        return str(self.model)

    @property
    def name(self) -> str:
        """`"shapes"`, the checkpoint's name, or the last part of the folder's."""
        if self.checkpoint:
            return self.checkpoint.name
        return "shapes" if self.model == "shapes" else Path(self.model).resolve().name

    @cached_property
    def folder(self) -> Path:
        """The folder, in the local cache for a checkpoint of the Hub, downloaded if need be.

        Raises:
            OSError: it is not in the cache, and the Hub does not give it.
        """
        if self.checkpoint:
            return _download(self)
        return SHAPES_FOLDER if self.model == "shapes" else Path(self.model)

    def check(self) -> None:
        """Compare the files with their manifest, which the Shapes model must have; to be called before files are read.

        Raises:
            OSError: one is missing or damaged, there is something that is no file, or JSON of another shape, or the
                Hub does not give it.
        """
        from .weights import objects, regular

        regular(self.folder)
        if self.model == "shapes" or (self.folder / manifest.NAME).exists():
            manifest.check(self.folder)
        objects(self.folder)

    @cached_property
    def pipeline_class(self) -> type:
        """The class of pipeline that the folder holds.

        Raises:
            ValueError: it holds none, another than Sana's, or one that the installed diffusers does not have.
            OSError: there is something in it that is no file, or the Hub does not give it.
        """
        return _pipeline_class(self.folder)

    @cached_property
    def variant(self) -> str | None:
        """The 16-bit files of the transformer, `"fp16"` or `"bf16"`; None where there are plain ones only."""
        return variant_of(self.folder)

    @property
    def trained(self) -> str | None:
        """The type that the transformer was trained in, as the table or the files' names tell it, or None."""
        return self.checkpoint.trained if self.checkpoint else self.variant

    @cached_property
    def steps(self) -> int:
        """Denoising steps, unless one asks for others: the default of the pipeline."""
        return inspect.signature(self.pipeline_class.__call__).parameters["num_inference_steps"].default

    @cached_property
    def side(self) -> int:
        """Width and height of its pictures in pixels, unless one asks for others.

        Raises:
            OSError: configurations are missing or damaged.
        """
        try:
            latent = json.loads((self.folder / "transformer/config.json").read_text(encoding="utf-8"))["sample_size"]
            vae = json.loads((self.folder / "vae/config.json").read_text(encoding="utf-8"))
            return latent * 2 ** (len(vae["encoder_block_out_channels"]) - 1)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            text = f"{self.folder}: files are missing or damaged ({error}); get the folder again."
            raise OSError(text) from None

    @cached_property
    def digest(self) -> str:
        """What changes when the weights do: the commit of a checkpoint of the Hub, else `weights_digest`.

        Raises:
            ValueError: there are no weights.
        """
        if self.checkpoint:
            return self.folder.name  # the cache names it by the commit
        if not any(self.folder.glob("*/*.safetensors")):
            raise ValueError(f"{self.folder} holds no weights (*.safetensors): give the folder of a pipeline")
        return weights_digest(self.folder)


def find(model: str | Path) -> Checkpoint | None:
    """The released checkpoint that `model` names; None for "shapes" and folders, a `Path` of any name among them.

    Raises:
        ValueError: it names nothing.
    """
    if isinstance(model, str) and (known := CHECKPOINTS.get(model) or _SPELLINGS.get(model)):
        return known
    if not isinstance(model, str | Path) or model == "" or (model != "shapes" and not Path(model).is_dir()):
        raise ValueError(f"model {model!r} is unknown: choose from shapes, {', '.join(CHECKPOINTS)}, or give a folder.")
    return None


def resolve(model: str | Path | Source) -> Source:
    """What a name or a folder means, without a look into files or at the Hub. A `Source` is returned as it is.

    Args:
        model: `"shapes"`, a key of `CHECKPOINTS` or its Hub name, or a folder in diffusers' pipeline format.

    Raises:
        ValueError: it names nothing.

    Example:
        >>> source = resolve("600M-1024")
        >>> source.trained
        'fp16'

    Chapter 5.
    """
    return model if isinstance(model, Source) else Source(model, find(model))


def variant_of(folder: Path, component: str = "transformer") -> str | None:
    """Which 16-bit files of a component there are beside, or in place of, the plain ones."""
    for variant in ("fp16", "bf16"):
        if any((folder / component).glob(f"*.{variant}*.safetensors")):
            return variant
    return None


def _download(source: Source) -> Path:
    from .libraries import quiet

    repo = source.checkpoint.repo
    variant = source.checkpoint.trained if source.checkpoint.variants else None
    with quiet():
        from diffusers import DiffusionPipeline

        try:
            return Path(DiffusionPipeline.download(repo, variant=variant, use_safetensors=True))
        except (OSError, ValueError) as error:
            raise OSError(
                f"{source} is {repo} on the Hugging Face Hub, which is not in this machine's cache and cannot be "
                "downloaded now: connect to a network, unset HF_HUB_OFFLINE if it is set, and run "
                f'`hf download {repo}`; or use model="shapes", which needs no network.'
            ) from error


def _pipeline_class(folder: Path) -> type:
    from .libraries import quiet
    from .weights import regular

    regular(folder)
    index = folder / "model_index.json"
    try:
        parts = json.loads(index.read_text(encoding="utf-8"))
        name = parts["_class_name"]
        sound = all(isinstance(of, list) and len(of) == 2 for part, of in parts.items() if not part.startswith("_"))
    except FileNotFoundError:
        raise ValueError(f"{folder} is no pipeline: it has no model_index.json. Give a folder that has.") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{index} is damaged: it names no pipeline. Get the folder again.") from None
    if name not in ("SanaPipeline", "SanaSprintPipeline"):
        raise ValueError(f"{folder} holds a {name}, not a SanaPipeline or SanaSprintPipeline.")
    if not sound:
        raise ValueError(f"{index} is damaged: a component is a library and a class. Get the folder again.")
    with quiet():
        import diffusers

        if not hasattr(diffusers, name):  # which imports the module that has it
            raise ValueError(f"{name} needs a newer diffusers than {diffusers.__version__}: pip install -U diffusers.")
        return getattr(diffusers, name)
