"""Every way to have a pipeline that the book has a name for: precisions, the ways of `sana_lab.plan`, the fast mode."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..fitting.ways import WAYS as PLANNED
from ..fitting.ways import load as load_planned

if TYPE_CHECKING:
    from ..checkpoints import Source

CHECK_PROMPTS = 8
"""How many prompts the fast mode's check draws before it says yes or no."""


@dataclass(frozen=True)
class Loaded:
    """How `load_sana` loads a way, and what `speed_up_` then does to it.

    Args:
        title: for tables.
        precision: what `load_sana` takes.
        options: of `load_sana`.
        fast: options of `speed_up_`, or None where nothing is sped up.
    """

    title: str
    precision: str
    options: Mapping[str, Any] = field(default_factory=dict)
    fast: Mapping[str, Any] | None = None


SLIM = {"slim": True}
OURS = {
    "fp32": Loaded("32 bits", "fp32"),
    "bf16": Loaded("bfloat16", "bf16"),
    "fp16": Loaded("float16", "fp16"),
    "int8": Loaded("8 bits, the recipe", "int8"),
    "int8-slim": Loaded("8 bits, slim", "int8", SLIM),
    "fast": Loaded("8 bits, slim and fast", "int8", SLIM, {}),
    "fast-weights": Loaded("8 bits, slim and fast, weights alone", "int8", SLIM, {"activations": 16}),
    "fp8": Loaded("FP8", "fp8"),
    "fp8-slim": Loaded("FP8, slim", "fp8", SLIM),
    "fp8-fast": Loaded("FP8, slim and fast", "fp8", SLIM, {}),
    "fp8-weights": Loaded("FP8, weights alone", "fp8", {"activations": 16}),
    "nf4": Loaded("nf4", "nf4"),
    "nf4-slim": Loaded("nf4, slim", "nf4", SLIM),
}
"""What `load_sana` and `speed_up_` make. Other names are those of `sana_lab.plan`."""

SAME = {"recipe": "int8", "slim": "int8-slim", "16-bits": "16-bit"}
"""Other words for some of them."""

NAMES = tuple(dict.fromkeys([*OURS, *PLANNED]))


def known(name: str) -> str:
    """The name of a way, by which folders and records call it.

    Raises:
        ValueError: there is no such way.
    """
    found = SAME.get(name, name)
    if found not in NAMES:
        raise ValueError(
            f"way {name[:60]!r} is unknown: choose from {', '.join([*NAMES, *SAME])}, or give two folders of pictures."
        )
    return found


def title(name: str) -> str:
    """A way in words, for a table."""
    return OURS[name].title if name in OURS else PLANNED[name].title


def load(name: str, source: Source, prompts: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    """A pipeline, silent, and the arguments of its call for all prompts: these, or their embeddings.

    Args:
        name: of the way, see `known`.
        source: of the model.
        prompts: all that are to come.

    Raises:
        ValueError, RuntimeError, OSError: what `load_sana` raises, and `speed_up_` where the fast mode would spoil
            pictures.
    """
    from ..fast import speed_up_
    from ..sana import load_sana

    given: dict[str, Any] = {"prompt": list(prompts)}
    if name in OURS:
        way = OURS[name]
        pipe = load_sana(source, way.precision, **way.options)
        pipe.set_progress_bar_config(disable=True)
        if way.fast is not None:
            speed_up_(pipe, list(prompts[:CHECK_PROMPTS]), **way.fast)
    else:
        pipe, given = load_planned(PLANNED[name], source, list(prompts))
        pipe.set_progress_bar_config(disable=True)
    return pipe, given


def of_one(given: Mapping[str, Any], i: int) -> dict[str, Any]:
    """The arguments of a call that draws the picture of prompt i alone."""
    import torch

    return {
        name: value[i : i + 1] if isinstance(value, torch.Tensor | list) else value for name, value in given.items()
    }


@contextmanager
def scratch() -> Iterator[None]:
    """Delete in the end what a way keeps on the disk, which is the weights once more where it offloads to it."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="sana-lab-") as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before
