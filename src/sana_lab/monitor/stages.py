"""What the monitor has seen: a row for each stage and device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

GIB = 2**30


@dataclass(frozen=True)
class Peak:
    """What ran when memory was at its highest, as a deep watch finds it.

    Attributes:
        component: such as "vae".
        module: the innermost module during which the peak came about, such as "decoder.up_blocks.5.2".
        kind: its class.
        tensors: its inputs and outputs, the largest first: (shape, dtype, bytes).

    Chapter 13.
    """

    component: str
    module: str
    kind: str
    tensors: tuple[tuple[tuple[int, ...], str, int], ...]

    def __str__(self) -> str:
        """In one line."""
        largest = f", largest tensor {'×'.join(map(str, self.tensors[0][0]))} {self.tensors[0][1]}" * bool(self.tensors)
        return f"{self.component}.{self.module} ({self.kind}{largest})".replace(". (", " (")


@dataclass(frozen=True)
class Stage:
    """One stage of one call on one device. All amounts in bytes.

    Attributes:
        call: which call of the pipeline, from 1; 0 before the first.
        stage: "load", "before", "encode", "steps", "decode", or the name of another component.
        device: such as "cuda:0"; "cpu" where there is no GPU, with the numbers of the process's own memory.
        seconds: how long it took, until the GPU had done all of it.
        steps: calls of the component.
        allocated: the most that tensors held.
        reserved: the most that PyTorch had from the driver. What is reserved and not allocated is its cache.
        driver: what the driver counts as used at the end of the stage, by everyone: other processes and CUDA too.
        total: of the device.
        left: what could still have been allocated at the peak: free for the driver, or in PyTorch's own cache.
        weights: of the pipeline's models on this device as the stage began.
        peak: what ran at the peak; None unless the watch is deep.

    Chapter 13.
    """

    call: int
    stage: str
    device: str
    seconds: float
    steps: int
    allocated: int
    reserved: int
    driver: int
    total: int
    left: int
    weights: int
    peak: Peak | None = None

    @property
    def rest(self) -> int:
        """What was no weight at the peak: activations, latents, workspaces."""
        return max(0, self.allocated - self.weights)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def table(stages: list[Stage]) -> pd.DataFrame:
    """A row for each stage and device in MiB, the highest of all calls; in the order in which they came."""
    import pandas as pd

    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for one in stages:
        row = rows.setdefault(
            (one.stage, one.device), {"calls": 0, "seconds": 0.0, "allocated": 0, "reserved": 0, "driver": 0}
        )
        row["calls"] += 1
        row["seconds"] += one.seconds
        if one.allocated >= row["allocated"]:
            row |= {"weights": one.weights, "rest": one.rest}
        for name in ("allocated", "reserved", "driver"):
            row[name] = max(row[name], getattr(one, name))
        row["left"] = min(row.get("left", one.left), one.left)
    frame = pd.DataFrame.from_dict(rows, orient="index")
    if rows:
        frame.index = pd.MultiIndex.from_tuples(rows, names=["stage", "device"])
        amounts = ["allocated", "weights", "rest", "reserved", "driver", "left"]
        frame[amounts] = (frame[amounts] / 2**20).round(1)
        frame = frame[["calls", "seconds", *amounts]].round({"seconds": 2})
    return frame


def in_words(size: float) -> str:
    """Bytes as people say them, "3.2 GiB" or "81 MiB"."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.1f} MiB"


def most(stages: list[Stage]) -> Stage | None:
    """The stage in which the most was allocated; None if there is none."""
    return max(stages, key=lambda one: one.allocated, default=None)


def sentence(stages: list[Stage], error: str = "") -> str:
    """Where the peak was and what was left, in one or two sentences."""
    top = most(stages)
    if top is None:
        return "nothing was watched yet"
    where = f" in {top.peak}" if top.peak else ""
    held = f"{in_words(top.allocated)} of {in_words(top.total)} on {top.device}"
    said = f"the peak was in {top.stage}{where}: {held}, {in_words(top.weights)} of them weights"
    said += f"; {in_words(top.left)} were left"
    return said + (f". It ended in {stages[-1].stage} with {error}" if error else "")


def labels(one: Stage) -> Mapping[str, str]:
    """How Prometheus tells rows apart."""
    return {"stage": one.stage, "device": one.device}
