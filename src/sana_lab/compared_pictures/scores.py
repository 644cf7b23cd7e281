"""`scores()`: how far pictures of one way are from those of another, in four measures, each with its interval.

Pairs of pictures, not two heaps: picture i of both is of one prompt and one noise, so what differs is the way, and each
pair gives one value. PSNR and SSIM are `sana_lab.evaluate.distance`; LPIPS and the CLIP score are in `learned`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import stats

from ..evaluate.distance import WINDOW, psnr, ssim
from ..messages import counted
from . import learned

METRICS = {
    "psnr": "PSNR (dB), equal is 99",
    "ssim": "SSIM, equal is 1",
    "lpips": "LPIPS, equal is 0",
    "clip": "CLIP score, second less first",
}
"""Every measure, and what it is in a table. The first three are of the two pictures of a pair. CLIP's is of picture and
prompt, 100 times a cosine, and its value is a difference: above 0 the second way's picture fits its prompt better."""

LEARNED = ("lpips", "clip")
"""Measures that are networks: their weights are not in this package."""

EQUAL_DB = 99.0
"""Stands for the infinite PSNR of pictures that are equal, as in the record of `sana-lab evaluate`."""

CONFIDENCE = 0.95


def scores(
    a: Sequence[Image.Image],
    b: Sequence[Image.Image],
    prompts: Sequence[str] | None = None,
    *,
    metrics: Collection[str] | None = None,
    clip: str = learned.CLIP,
) -> dict[str, dict[str, Any]]:
    """How far the pictures of one way are from those of another.

    A measure whose weights are not here and cannot be downloaded is left out and says why. `out_of_reach` tells so
    before, and `learned.downloads` what would be fetched: ask them before anything takes long.

    Args:
        a: pictures of the first way, (n,), a list or what opens them one by one; what is not RGB is turned into it.
        b: those of the second, pair by pair of the same size.
        prompts: of each pair. CLIP's score needs them, the others do not.
        metrics: some of `METRICS`; by default all, CLIP's only with prompts.
        clip: a CLIP model for `transformers.CLIPModel`: its name on the Hub, or a folder.

    Returns:
        For each measure `values` (n numbers, one a pair), their `mean`, the 95 % interval of that mean from `low` to
        `high` (both None for a single pair), and `n`. PSNR has `equal` besides, the number of pairs without any
        difference, and CLIP `first` and `second`, the mean score of each way. Or `{"left_out": why}`.

    Raises:
        ValueError: no picture, not as many of both or of prompts, a pair of two sizes, or an unknown measure.
    """
    chosen = check_metrics(metrics, prompts)
    first, second = _pairs(a, b)
    if prompts is not None and len(prompts) != len(first):
        raise ValueError(
            f"{counted(len(prompts), 'prompt')} for {counted(len(first), 'pair')} of pictures: give one for each pair."
        )
    found: dict[str, dict[str, Any]] = {}
    away = out_of_reach(chosen, clip)
    for metric in chosen:
        if metric in away:
            found[metric] = {"left_out": away[metric]}
        elif metric == "psnr":
            values = [psnr(x, y) for x, y in zip(map(_tensor, first), map(_tensor, second), strict=True)]
            found[metric] = summary([min(v, EQUAL_DB) for v in values]) | {"equal": sum(map(math.isinf, values))}
        elif metric == "ssim":
            if min(side for picture in first for side in picture.size) < WINDOW:
                found[metric] = {"left_out": f"a picture is narrower than SSIM's window of {WINDOW} pixels"}
            else:
                found[metric] = summary([ssim(_tensor(x), _tensor(y)) for x, y in zip(first, second, strict=True)])
        else:
            try:
                found[metric] = _learned(metric, first, second, prompts, clip)
            except learned.NotHere as error:
                found[metric] = {"left_out": str(error)}
    return found


def check_metrics(metrics: Collection[str] | None, prompts: Sequence[str] | None) -> tuple[str, ...]:
    """The measures asked for, in the order of `METRICS`.

    Raises:
        ValueError: one is unknown, none is asked for, or CLIP's is without prompts.
    """
    if metrics is None:
        return tuple(name for name in METRICS if name != "clip" or prompts is not None)
    if isinstance(metrics, str) or not metrics:
        raise ValueError(f"metrics: give one or more of {', '.join(METRICS)}.")
    if unknown := [name for name in metrics if name not in METRICS]:
        raise ValueError(f"metric {str(unknown[0])[:40]!r} is unknown: choose from {', '.join(METRICS)}.")
    if "clip" in metrics and prompts is None:
        raise ValueError("metric 'clip' compares a picture with its prompt: give the prompts.")
    return tuple(name for name in METRICS if name in metrics)


def out_of_reach(metrics: Collection[str], clip: str = learned.CLIP) -> dict[str, str]:
    """The measures among these that cannot be taken here and now, with the reason. It may ask the network.

    Args:
        metrics: some of `METRICS`.
        clip: as in `scores`.
    """
    away = {metric: learned.missing(metric, clip) for metric in metrics if metric in LEARNED}
    return {metric: why for metric, why in away.items() if why}


def summary(values: Sequence[float]) -> dict[str, Any]:
    """The values of pairs, their mean, and the interval of the mean at 95 %.

    Student's t on the values of pairs (a paired comparison: what both ways share, prompt and noise, is in no value).
    One pair has no interval.
    """
    numbers = np.asarray(values, dtype=float)
    n, mean = len(numbers), float(numbers.mean())
    low = high = None
    if n > 1:
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * numbers.std(ddof=1) / math.sqrt(n))
        low, high = mean - half, mean + half
    return {"values": numbers.tolist(), "mean": mean, "low": low, "high": high, "n": n}


def in_words(metric: str, found: dict[str, Any]) -> str:
    """One line about one measure: mean, interval, number of pairs; or why it is left out."""
    if "left_out" in found:
        return f"{METRICS[metric]}: left out, {found['left_out']}"
    digits = {"psnr": 2, "ssim": 4, "lpips": 4, "clip": 2}[metric]
    text = f"{METRICS[metric]}: {found['mean']:.{digits}f}"
    if found["low"] is not None:
        text += f" [{found['low']:.{digits}f}, {found['high']:.{digits}f}]"
    text += f", {counted(found['n'], 'pair')}"
    if found.get("equal"):
        text += f", {found['equal']} of them equal"
    if metric == "clip":
        text += f" (first {found['first']:.{digits}f}, second {found['second']:.{digits}f})"
    return text


class _Rgb(Sequence[Image.Image]):
    """Pictures turned into RGB as they are taken: many of them need not be in memory at once."""

    def __init__(self, pictures: Sequence[Image.Image]):
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, which: Any) -> Any:
        if isinstance(which, slice):
            return [self[i] for i in range(*which.indices(len(self)))]
        return self.pictures[which].convert("RGB")


def _pairs(a: Sequence[Image.Image], b: Sequence[Image.Image]) -> tuple[_Rgb, _Rgb]:
    if len(a) != len(b) or not len(a):
        raise ValueError(
            f"{counted(len(a), 'picture')} of the first way and {len(b)} of the second: give as many of both."
        )
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        for picture in (x, y):
            if not isinstance(picture, Image.Image):
                raise ValueError(f"pair {i} has a {type(picture).__name__}: give PIL pictures.")
        if x.size != y.size:
            sizes = " and ".join(f"{width} x {height}" for width, height in (x.size, y.size))
            raise ValueError(f"pair {i} has two sizes, {sizes} pixels: draw both ways in one size.")
    return _Rgb(a), _Rgb(b)


def _tensor(picture: Image.Image) -> torch.Tensor:
    """A picture as uint8, (height, width, 3)."""
    return torch.from_numpy(np.array(picture))


def _learned(
    metric: str, a: Sequence[Image.Image], b: Sequence[Image.Image], prompts: Sequence[str] | None, clip: str
) -> dict[str, Any]:
    if metric == "lpips":
        return summary(learned.lpips(a, b))
    first, second = learned.clip_scores((a, b), list(prompts or ()), clip)
    means = {"first": float(np.mean(first)), "second": float(np.mean(second))}
    return summary(np.subtract(second, first)) | means
