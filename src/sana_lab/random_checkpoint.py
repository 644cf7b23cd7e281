"""Checkpoints of the released sizes with seeded random weights, for measuring bytes and times without a download.

What a model weighs and how long a step takes depends on its shapes and types, not on what it has learned. Its pictures
do, and so do outliers: random weights have none.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .checkpoints import Source, resolve
from .commandline import SEED

if TYPE_CHECKING:
    import torch
    from torch import nn

NAME = "RANDOM.json"
"""The file that marks such a folder, and says what is in it."""

OF_FILES = ("bf16", "fp16")
"""The types that such files may have."""
SHARED = ("text_encoder", "vae")
"""What is the same in every checkpoint, and can be shared."""


def make(
    checkpoint: str | Path | Source,
    folder: str | Path,
    *,
    seed: int = 0,
    dtype: str = "bf16",
    parts_from: str | Path | None = None,
    device: str | None = None,
    progress: bool = False,
) -> Path:
    """Write a Sana pipeline with random weights in diffusers' folder format, as the Hub has it.

    Every model is built by its own library, which initializes it as for training: activations stay finite through all
    layers. Each starts from `seed` anew, so that text encoder and autoencoder of one seed are the same in all
    checkpoints. A GPU and a CPU draw different numbers from one seed; each draws the same in every run on one version
    of PyTorch. Tokenizer and scheduler are those of the Shapes model, with its small vocabulary (Sprint has the
    scheduler of its class).

    With `dtype="fp16"` the files carry the variant fp16 in their names, as those of the checkpoints that were trained
    in it do, and a second name without it.

    Args:
        checkpoint: A name of a released one or a folder, whose configurations to take, or a `Source`.
        folder: Where to write; must not exist yet.
        seed: Of the weights.
        dtype: "bf16" or "fp16", of all weights.
        parts_from: A folder that this function made, whose text encoder and autoencoder (some 5.7 GB) to share as hard
            links, or copies on another disk.
        device: What to draw the numbers on: by default a real GPU if there is one, else "cpu".
        progress: Show a bar.

    Returns:
        `folder`.

    Raises:
        ValueError: unknown checkpoint, dtype or seed; `parts_from` does not fit.
        OSError: `folder` exists or cannot be written, or the disk has no room. Nothing half-written is left.

    Chapter 7.
    """
    from tqdm import tqdm

    from .accounting import build, components
    from .libraries import DTYPES, quiet

    folder = Path(folder)
    if dtype not in OF_FILES:
        raise ValueError(f"dtype {dtype!r} is unknown: choose from {', '.join(OF_FILES)}.")
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise ValueError(f"seed {seed!r}: give a whole number from 0 up to 2**63 - 1.")
    if os.path.lexists(folder):
        raise FileExistsError(f"{folder} exists already: give another FOLDER, or remove that one first.")
    with quiet():
        source = resolve(checkpoint)
        sized = build(source, DTYPES[dtype])
        shared = _shared(Path(parts_from), sized, dtype) if parts_from is not None else {}
    sizes = {name: size for name, size in components(sized).items() if name not in shared}
    _check_room(folder, sum(sizes.values()), source)

    where = device or _device()
    parts = {name: {"seed": seed, "dtype": dtype, "drawn_on": where} for name in sizes} | shared
    with tempfile.TemporaryDirectory(prefix=".sana-lab-", dir=folder.parent) as scratch:
        partial = Path(scratch) / folder.name
        _write_small_files(partial, sprint=sized["transformer"].config["guidance_embeds"])
        for name in shared:
            _link_tree(Path(parts_from) / name, partial / name)
        with (
            tqdm(total=sum(sizes.values()), unit="B", unit_scale=True, leave=False, disable=not progress) as bar,
            quiet(),
        ):
            for name, size in sizes.items():
                bar.set_description(name)
                model = _drawn(sized[name], seed, where)
                model.save_pretrained(partial / name, max_shard_size="5GB", variant="fp16" if dtype == "fp16" else None)
                del model  # one at a time, so that memory holds one
                if dtype == "fp16":
                    _name_without_variant(partial / name)
                bar.update(size)
        (partial / NAME).write_text(json.dumps(_mark(source, parts), indent=1) + "\n", encoding="utf-8")
        partial.rename(folder)
    return folder


def _mark(source: Source, parts: Mapping[str, dict]) -> dict:
    import torch

    return {
        "what": "Seeded random weights: the sizes of a checkpoint, and nothing learned.",
        "made_by": "sana-lab make-random",
        "checkpoint": source.name,
        "torch": torch.__version__,
        "parts": dict(sorted(parts.items())),
    }


def _shared(source: Path, sized: Mapping[str, nn.Module], dtype: str) -> dict[str, dict]:
    """What `source` says about the parts to share.

    Raises:
        ValueError: it is not ours, or has other shapes or another type.
    """
    from .accounting import build

    try:
        parts = json.loads((source / NAME).read_text(encoding="utf-8"))["parts"]
        parts = {name: parts[name] for name in SHARED}
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"{source} has no usable {NAME}: give a folder that `sana-lab make-random` made.") from None
    theirs = build(source)
    for name in SHARED:
        if parts[name].get("dtype") != dtype:
            raise ValueError(f"the {name} in {source} is in {parts[name].get('dtype')}: ask for that dtype.")
        if _shapes(theirs[name]) != _shapes(sized[name]):
            raise ValueError(f"the {name} in {source} has other sizes: leave parts_from out.")
    return parts


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}


def _check_room(folder: Path, needed: int, source: Source) -> None:
    """Make the parent folder, and raise OSError if `needed` bytes and a little more do not fit there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    needed += 16 * 2**20  # configurations, headers, tokenizer
    free = shutil.disk_usage(folder.parent).free
    if free < needed:
        raise OSError(
            f"{source} takes {needed / 1e9:.1f} GB and {folder.parent} has {free / 1e9:.1f} GB free: give a FOLDER "
            "on a larger disk, or share the large parts of another such checkpoint (--parts-from)."
        )


def _device() -> str:
    """Of the two, "cuda" if there is a real GPU: on a virtual one, weights would only count against its memory."""
    from .accelerator.devices import on_real_gpu

    return "cuda" if on_real_gpu() else "cpu"


def _drawn(sized: nn.Module, seed: int, device: str) -> nn.Module:
    """The model of which `sized` is the copy on the meta device, with the weights of its library's initialization."""
    import torch

    from .accounting import default_dtype

    dtype = next(sized.parameters()).dtype
    place = torch.device(device)
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []), default_dtype(dtype), place:
        torch.manual_seed(seed)
        build = getattr(type(sized), "from_config", type(sized))  # diffusers' models, transformers'
        return build(sized.config).eval()


def _write_small_files(folder: Path, sprint: bool) -> None:
    """Everything but the models."""
    import diffusers

    from .shapes import SHAPES_FOLDER

    index = json.loads((SHAPES_FOLDER / "model_index.json").read_text(encoding="utf-8"))
    shutil.copytree(SHAPES_FOLDER / "tokenizer", folder / "tokenizer")
    if sprint:
        diffusers.SCMScheduler().save_pretrained(folder / "scheduler")
        index |= {"_class_name": "SanaSprintPipeline", "scheduler": ["diffusers", "SCMScheduler"]}
    else:
        shutil.copytree(SHAPES_FOLDER / "scheduler", folder / "scheduler")
    index["_diffusers_version"] = diffusers.__version__
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _name_without_variant(folder: Path) -> None:
    """A second name without ".fp16" for each file that a reader opens. Shards are found by the index of either."""
    for file in sorted(folder.iterdir()):
        if file.name.endswith((".fp16.safetensors", ".index.fp16.json")):
            link_or_copy(file, folder / file.name.replace(".fp16", ""))


def _link_tree(source: Path, target: Path) -> None:
    shutil.copytree(source, target, copy_function=link_or_copy)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """A hard link, or a copy where the disk is another or knows no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def mount(parent: typer.Typer) -> None:
    """Add `make-random` to a command line."""
    parent.command("make-random")(_command)


def _command(
    name: Annotated[str, typer.Argument(metavar="NAME", help='A released one, such as "600M-512" or "1.5-4.8B".')],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write; must not exist yet.")],
    seed: Annotated[int, typer.Option(help="Seed of the random weights.", callback=SEED)] = 0,
    dtype: Annotated[str, typer.Option(help="bf16 or fp16, of all weights.")] = "bf16",
    parts_from: Annotated[
        Path | None, typer.Option(metavar="FOLDER2", help="Share the text encoder and autoencoder of such a folder.")
    ] = None,
) -> None:
    """Write a checkpoint of a released size with random weights: for bytes and times, not for pictures."""
    typer.echo(make(name, folder, seed=seed, dtype=dtype, parts_from=parts_from, progress=True))
