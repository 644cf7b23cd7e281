"""What a checkpoint's files hold, and what loading it will take: found out without a GPU, and without loading it.

Chapters 4, 5 and 14.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from .. import accounting, float8_folders, slim, weights
from ..checkpoints import CHECKPOINTS, Source, variant_of
from ..random_checkpoint import NAME as RANDOM
from .plan import WAYS

GRANULE = 512
"""Bytes in which CUDA's caching allocator counts."""

_ALL_KEYS = sorted({key for checkpoint in CHECKPOINTS.values() for key in checkpoint.transformer})


def look(source: Source) -> dict[str, Any]:
    """Compare every tensor with the configuration, refuse NaN and infinity, and say what there is.

    Args:
        source: of a checkpoint or a folder; its files are read once from end to end.

    Returns:
        `class` of the pipeline; `variant` and `trained` type of the transformer; `parts`, for each component `dtypes`
        (bytes of each type as stored), `files`, `tensors`, `variant` and `plain` (whether there are files without a
        variant in their names); `layers`, counts by the configurations; `like`, the released checkpoint with this
        transformer, or None; `shapes`, whether each component has that one's shapes; `linear`, the share of the
        transformer's parameters in `nn.Linear`; `predicted`, bytes by component for each way.

    Raises:
        ValueError: it is quantized already.
        OSError: files are missing or damaged.

    Chapter 14.
    """
    folder = source.folder
    if float8_folders.saved(folder):
        raise ValueError(f"{folder} is in FP8 already: give the checkpoint that it was made from.")
    try:
        parts = {name: _part(folder, name, _variant(source, name)) for name in weights.COMPONENTS}
    except (OSError, SafetensorError) as error:
        how = f"download it again: `hf download {source.checkpoint.repo}`" if source.checkpoint else "get it again"
        first = str(error).strip().partition("\n")[0].rstrip(".")
        raise OSError(f"{folder}: files are missing or damaged ({first}); {how}.") from error
    built = accounting.build(folder)
    known = like(source)
    of_table = accounting.build(CHECKPOINTS[known].name) if known else {}
    transformer = accounting.count(built["transformer"])
    return {
        "class": source.pipeline_class.__name__,
        "variant": source.variant,
        "trained": source.trained,
        "side": source.side,
        "steps": source.steps,
        "random": (folder / RANDOM).is_file(),
        "parts": parts,
        "layers": _layers(folder),
        "like": known,
        "shapes": {name: _shapes(of_table[name]) == _shapes(built[name]) for name in of_table},
        "guidance_embeds": bool(built["transformer"].config.get("guidance_embeds")),
        "parameters": int(transformer["parameters"].sum()),
        "linear": float(transformer["parameters"].get("Linear", 0) / transformer["parameters"].sum()),
        "predicted": predicted(source),
    }


def predicted(source: Source) -> dict[str, dict[str, int]]:
    """Bytes that each component will hold after loading, for every way."""
    trained = source.trained or "bf16"
    wide = {"text_encoder": "bf16", "transformer": trained, "vae": "bf16"}
    recipe = slim.predict(source, "int8", False, granule=GRANULE)
    narrow = slim.predict(source, "int8", granule=GRANULE)
    each = {
        "16-bit": accounting.predict(source, wide, granule=GRANULE),
        "recipe": recipe,
        "guard": recipe,
        "slim": narrow,
        "fast": narrow,
        "fp8": slim.predict(source, "fp8", granule=GRANULE),
    }
    return {way: each[way] for way in WAYS}


def like(source: Source) -> str | None:
    """The first released checkpoint of the table whose transformer a configuration describes; None if there is none."""
    try:
        config = json.loads((source.folder / "transformer/config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    for checkpoint in CHECKPOINTS.values():
        if all((config.get(key) or None) == (checkpoint.transformer.get(key) or None) for key in _ALL_KEYS):
            return checkpoint.name
    return None


def _variant(source: Source, component: str) -> str | None:
    """As `load_sana` looks for files."""
    return variant_of(source.folder, "vae") if component == "vae" else source.variant


def _part(folder: Path, component: str, variant: str | None) -> dict[str, Any]:
    """What a component's files hold; see `look`."""
    files = weights.fit(folder, component, variant)
    weights.finite(component, files)
    dtypes: dict[str, int] = {}
    tensors = 0
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118  (it is no mapping)
                tensor = opened.get_slice(name)
                size = 1
                for side in tensor.get_shape():
                    size *= side
                kind = tensor.get_dtype()
                dtypes[kind] = dtypes.get(kind, 0) + size * _BYTES.get(kind, 1)
                tensors += 1
    stem = weights.COMPONENTS[component]
    plain = [*(folder / component).glob(f"{stem}.safetensors"), *(folder / component).glob(f"{stem}-*.safetensors")]
    return {"dtypes": dtypes, "files": len(files), "tensors": tensors, "variant": variant, "plain": bool(plain)}


_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}


def _layers(folder: Path) -> dict[str, int]:
    counted = {"transformer": "num_layers", "text_encoder": "num_hidden_layers"}
    return {
        part: json.loads((folder / part / "config.json").read_text(encoding="utf-8"))[key]
        for part, key in counted.items()
    }


def _shapes(model: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def plain_names(folder: Path, scratch: Path) -> Path:
    """A folder in which files of a variant have plain names as well, for code that asks for no variant.

    Args:
        folder: of a pipeline.
        scratch: where to put links, if any are needed.

    Returns:
        `folder` itself where every component has plain files.
    """
    if all(any((folder / part).glob(f"{stem}.safetensors*")) for part, stem in weights.COMPONENTS.items()):
        return folder
    from ..random_checkpoint import link_or_copy

    for file in folder.rglob("*"):
        place = scratch / file.relative_to(folder)
        if file.is_dir():
            place.mkdir(parents=True, exist_ok=True)
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        for name in {place.name, place.name.replace(".fp16", "").replace(".bf16", "")}:
            target = place.with_name(name)
            if target.exists():
                continue
            try:
                target.symlink_to(file.resolve())
            except OSError:
                link_or_copy(file.resolve(), target)
    return scratch
