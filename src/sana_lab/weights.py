"""Are the weights of a checkpoint there? Files against configurations, and every number against infinity.

The libraries fill what a file lacks with random numbers, leave out what they have no place for, load NaN, and say so in
log lines at most. `fit` compares names, shapes and types in the headers of a component's files with the model that its
config.json describes, before anything is loaded; `finite` reads the numbers; `whole` asks the library what it did.

Chapter 5.
"""

from __future__ import annotations

import json
import math
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from .digests import once_a_file

COMPONENTS = {
    "transformer": "diffusion_pytorch_model",
    "text_encoder": "model",
    "vae": "diffusion_pytorch_model",
}
"""The models of a Sana pipeline, and what their libraries call the files of weights."""

FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
"""Types that weights come in, as safetensors spells them. Codes of a quantized model would pass for numbers."""

OF_THE_HEAD = r"^lm_head\.|rotary_emb\.inv_freq$|(^|\.)position_ids$"
"""Tensors that a text encoder's file may hold beyond what the encoder needs: the head of the language model that it
was cut from, and what older versions of transformers saved though it follows from the configuration (5.23.0,
modeling_utils.py, `_adjust_missing_and_unexpected_keys`)."""

COUNTERS = r"(^|\.)(num_batches_tracked|position_ids)$"
"""Tensors that are integers by nature."""


def regular(folder: Path) -> None:
    """Refuse what cannot be read to its end, such as a named pipe, in a pipeline's folder and those of its parts.

    Raises:
        OSError: there is something else than files and folders.
    """
    inside = list(folder.iterdir()) if folder.is_dir() else []
    for path in [*inside, *(file for part in inside if part.is_dir() for file in part.iterdir())]:
        try:
            kind = path.stat().st_mode
        except OSError:  # a link to nowhere is a missing file, and whoever needs it says so
            continue
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            raise OSError(f"{path} is no regular file: get the folder again.")


def objects(folder: Path) -> None:
    """Refuse JSON of another shape than the libraries take for granted, beside the models: scheduler and tokenizer.

    They index what they read: a list where an object should be is an AttributeError from deep inside. The models'
    configurations are checked by `fit`.

    Raises:
        OSError: a file is no JSON, or holds something else than an object; a tokenizer has no vocabulary.
    """
    for file in sorted(file for file in folder.glob("*/*.json") if file.parent.name not in COMPONENTS):
        wrong = "it does not hold what its name says"
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            found, wrong = None, str(error).strip().partition("\n")[0]
        sound = isinstance(found, dict)
        if sound and file.name == "tokenizer.json":
            sound = isinstance(found.get("added_tokens"), list) and isinstance(found.get("model"), dict)
        if not sound:
            name = file.relative_to(folder).as_posix()
            raise OSError(f"{folder}: files are missing or damaged ({name}: {wrong}); get the folder again.")


def fit(folder: Path, component: str, variant: str | None = None) -> list[Path]:
    """Compare the files of a component with its configuration: every tensor that the model needs, and no other.

    Args:
        folder: of a pipeline.
        component: a key of `COMPONENTS`.
        variant: "fp16" or "bf16" in the names of the files, or None.

    Returns:
        The files that its library reads.

    Raises:
        ValueError: the component is quantized already.
        OSError: a file is missing or damaged, tensors are missing, or do not fit the configuration. The text names
            the component and the tensors.
    """
    needed, ignored = _described(folder, component)
    files = _files(folder, component, variant)
    found = dict(_headers(component, files))
    if component == "text_encoder" and not any(name.startswith("model.") for name in needed):
        found = {name.removeprefix("model."): value for name, value in found.items()}  # saved with its head
    patterns = [*ignored, *([OF_THE_HEAD] if component == "text_encoder" else [])]
    of = f"{component}: {files[0].name}" if len(files) == 1 else f"{component}: its {len(files)} files of weights"
    if missing := [name for name in needed if name not in found]:
        raise OSError(f"{of} and config.json do not fit, {_some(missing)} missing")
    if extra := [name for name in found if name not in needed and not any(re.search(p, name) for p in patterns)]:
        raise OSError(f"{of} and config.json do not fit, the model has no place for {_some(extra, verb=False)}")
    for name, shape in needed.items():
        if found[name][0] != shape:
            raise OSError(f"{of} and config.json do not fit, {name} is {found[name][0]} and should be {shape}")
        if found[name][1] not in FLOATS and not re.search(COUNTERS, name):
            raise OSError(f"{of}: {name} holds {found[name][1]}, no floating-point numbers")
    return files


def finite(component: str, files: Collection[Path], limit: float = float("inf")) -> None:
    """Refuse NaN, infinity and numbers that will become infinite: quantized, they would hide in whole numbers.

    Every number is read once, some gigabytes a second and processor; loading then finds the files in memory.

    Args:
        component: for the message.
        files: what `fit` returned.
        limit: the largest number of the type that the weights are going to have.

    Raises:
        OSError: there are such numbers. The text names component and tensors.
    """
    wrong, beyond = [], []
    for file in files:
        for name, (low, high) in _extremes(file).items():
            if not (math.isfinite(low) and math.isfinite(high)):  # both are NaN where one number is
                wrong.append(name)
            elif max(-low, high) > limit:
                beyond.append(name)
    if wrong:
        raise OSError(f"{component}: NaN or infinity in {_some(wrong, verb=False)}")
    if beyond:
        names = _some(beyond, verb=False)
        raise OSError(f"{component}: numbers beyond {limit:.5g}, the largest of the type, in {names}")


@once_a_file
def _extremes(file: Path) -> dict[str, tuple[float, float]]:
    """The smallest and the largest number of each tensor of floating-point numbers that has any."""
    found = {}
    with safe_open(file, framework="pt") as opened:
        for name in opened.keys():  # noqa: SIM118  (it is no mapping)
            tensor = opened.get_tensor(name)
            if tensor.is_floating_point() and tensor.numel():
                low, high = torch.aminmax(tensor.float() if tensor.itemsize == 1 else tensor)
                found[name] = low.item(), high.item()
    return found


def whole(component: str, loaded: tuple[nn.Module, Mapping[str, Any]]) -> nn.Module:
    """The model out of what `from_pretrained(..., output_loading_info=True)` returns, if its library used every tensor.

    Raises:
        OSError: it did not. The text names component and tensors.
    """
    model, info = loaded
    unexpected = [name for name in info["unexpected_keys"] if not re.search(OF_THE_HEAD, name)]
    mismatched = [entry[0] for entry in info["mismatched_keys"]]  # name, shape in the file, shape in the model
    found = {"missing": info["missing_keys"], "unexpected": unexpected, "of another shape": mismatched}
    for what, names in found.items():
        if names:
            raise OSError(f"{component}: {_some(sorted(names))} {what}")
    return model


def _described(folder: Path, component: str) -> tuple[dict[str, list[int]], tuple[str, ...]]:
    """Tensors of the model that a config.json describes, with their shapes; names that its library ignores in files.

    Raises:
        ValueError: it describes a quantized one.
        OSError: it is missing or describes none.
    """
    file = folder / component / "config.json"
    if not file.is_file():
        raise OSError(f"{component}: config.json is missing")
    try:
        text = file.read_text(encoding="utf-8")
        config = json.loads(text)
        quantized = "quantization_config" in config
        kind = None if quantized else config.get("_class_name", config.get("model_type"))
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise OSError(f"{component}: config.json is damaged") from None
    if quantized:
        raise ValueError(
            f"{folder}: the {component} is quantized already (quantization_config in its config.json): give the "
            "checkpoint that it was made from, or load this one with from_pretrained."
        )
    try:
        return _tensors(folder, component, text)
    except Exception as error:  # whatever a constructor makes of wrong numbers
        text = str(error).strip().partition("\n")[0][:200]
        raise OSError(f"{component}: config.json describes no model that can be built ({kind}: {text})") from error


@lru_cache(maxsize=16)
def _tensors(folder: Path, component: str, config: str) -> tuple[dict[str, list[int]], tuple[str, ...]]:
    """See `_described`. `config` is the text of config.json; building a model takes a while, on the meta device too."""
    with torch.device("meta"):
        model = _build(folder, component)
    ignored = getattr(type(model), "_keys_to_ignore_on_load_unexpected", None) or ()
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}, tuple(ignored)


def _build(folder: Path, component: str) -> nn.Module:
    if component == "text_encoder":
        from transformers import AutoConfig, AutoModel

        return AutoModel.from_config(AutoConfig.from_pretrained(folder / component))
    import diffusers

    kind = diffusers.SanaTransformer2DModel if component == "transformer" else diffusers.AutoencoderDC
    return kind.from_config(kind.load_config(folder / component))


def _files(folder: Path, component: str, variant: str | None) -> list[Path]:
    """The files of weights, in the names that the libraries look for; all shards where there is an index.

    Raises:
        OSError: one is missing, or none.
    """
    stem, place = COMPONENTS[component], folder / component
    mark = f".{variant}" if variant else ""
    single, index = place / f"{stem}{mark}.safetensors", place / f"{stem}.safetensors.index{mark}.json"
    if variant and not index.is_file():
        older = index.with_name(f"{stem}.safetensors{mark}.index.json")  # diffusers once named it so and still finds it
        index = older if older.is_file() and component != "text_encoder" else index
    # Where there are both, transformers reads the single file (5.23.0, modeling_utils.py, `_get_resolved_checkpoint_
    # files`) and diffusers what the index says (0.42.1, models/modeling_utils.py, `from_pretrained`).
    if single.is_file() and (component == "text_encoder" or not index.is_file()):
        return [single]
    if not index.is_file():
        raise OSError(f"{component}: {single.name} is missing")
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = {shard: {name for name, where in places.items() if where == shard} for shard in places.values()}
        paths = [place / shard for shard in sorted(shards)] or places[""]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise OSError(f"{component}: {index.name} is damaged") from None
    for path in paths:
        if path.parent != place or path.name == "..":
            raise OSError(f"{component}: {index.name} names a file in another folder, {path.name}")
        if not path.is_file():
            raise OSError(f"{component}: {path.name} is missing, which {index.name} names")
        if absent := shards[path.name] - {name for name, _ in _headers(component, [path])}:
            raise OSError(f"{component}: {path.name} lacks what {index.name} says, {_some(sorted(absent))} missing")
    return paths


def _headers(component: str, files: Collection[Path]) -> Iterator[tuple[str, tuple[list[int], str]]]:
    """Name, shape and type of each tensor.

    Raises:
        OSError: a file is damaged.
    """
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118
                    part = opened.get_slice(name)
                    yield name, (part.get_shape(), part.get_dtype())
        except SafetensorError as error:
            pointer = file.stat().st_size < 1024 and file.read_bytes().startswith(b"version https://git-lfs")
            what = "is a Git LFS pointer, not the file: `git lfs pull` gets it" if pointer else f"is damaged: {error}"
            raise OSError(f"{component}: {file.name} {what}") from error


def _some(names: Collection[str], verb: bool = True) -> str:
    """A few names for a message, with "is" or "are" behind them where asked."""
    names = list(names)
    shown = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    return shown + (f" {'is' if len(names) == 1 else 'are'}" if verb else "")
