"""From pictures to rates and p-values, and the record that keeps every picture's outcome in little space."""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .. import evidence
from ..checkpoints import Source, resolve
from ..messages import counted
from ..shapes import SHAPES_FOLDER, caption, sample_scenes
from ..shapes.scenes import Scene
from ..shapes.scoring import ALL_RIGHT, ATTRIBUTES, Z_95, Rate, adherence
from .plan import RECORD, SCENES

FORMAT = 1
"""Of the record and of the partial results; raise it when either changes its meaning."""

NAMES = (*ATTRIBUTES, ALL_RIGHT)

PSNR_STEP, PSNR_EQUAL = 0.25, 255
"""A PSNR is kept as a byte, in quarters of a decibel; 255 says that both pictures are equal."""
SSIM_STEP = 0.005


def paired_scenes(n: int, objects: int, seed: int = 0) -> list[Scene]:
    """The first `n` scenes of the experiment: scene i is the same whatever `n` is.

    Raises:
        ValueError: `n` is not 1 to 1000, or `objects` not 1 or 2.

    Chapter 6.
    """
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= SCENES:
        raise ValueError(f"n must be a whole number from 1 to {SCENES} scenes, not {n!r}")
    return sample_scenes(SCENES, objects, seed)[:n]


# ---- two conditions on the same scenes ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Paired:
    """How `n` scenes came out under two conditions: a 2 x 2 table.

    `both` and `neither` agree; `only_first` and `only_second` are right under one condition alone.
    """

    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def n(self) -> int:
        """How many scenes."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def p(self) -> float:
        """McNemar's exact test, two-sided: how surprising so uneven a split of the discordant pairs would be.

        If neither condition is better, a scene right under one alone is as likely the first's as the second's: a coin
        is thrown `only_first + only_second` times. McNemar 1947 (doi 10.1007/BF02295996).
        """
        from scipy import stats  # takes a second, and few ask

        discordant = self.only_first + self.only_second
        return stats.binomtest(self.only_second, discordant).pvalue if discordant else 1.0

    @property
    def difference(self) -> float:
        """Rate of the second condition minus rate of the first, -1 to 1."""
        return (self.only_second - self.only_first) / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the difference for paired rates.

        Wald's, with one more pair in each discordant cell, which keeps it honest where these are few: Bonett and
        Price 2012 (doi 10.3102/1076998611411915).
        """
        first, second = (self.only_first + 1) / (self.n + 2), (self.only_second + 1) / (self.n + 2)
        middle = second - first
        half = Z_95 * math.sqrt((first + second - middle**2) / (self.n + 2))
        return max(-1.0, middle - half), min(1.0, middle + half)


def compare(first: Sequence[bool], second: Sequence[bool]) -> Paired:
    """Count how the same scenes came out under two conditions.

    Args:
        first: whether picture i is right, (n,).
        second: the same scenes in the same order, (n,).

    Raises:
        ValueError: not the same number, or none.

    Example:
        >>> compare([True, True, False], [True, False, False])
        Paired(both=1, only_first=1, only_second=0, neither=1)

    Chapter 6.
    """
    first, second = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if first.shape != second.shape or first.ndim != 1 or not first.size:
        raise ValueError(f"give two lists of one length, not of shapes {first.shape} and {second.shape}")
    return Paired(
        int((first & second).sum()),
        int((first & ~second).sum()),
        int((~first & second).sum()),
        int((~first & ~second).sum()),
    )


# ---- every picture's outcome in little space ---------------------------------------------------------------------


def pack(outcomes: Sequence[bool]) -> str:
    """Booleans as hexadecimal digits, four to a digit, the first one highest."""
    return np.packbits(np.asarray(outcomes, dtype=bool)).tobytes().hex()


def unpack(digits: str, n: int) -> np.ndarray:
    """Undo `pack`: boolean (n,)."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(digits), dtype=np.uint8), count=n).astype(bool)


def _pack_bytes(values: Sequence[float]) -> str:
    return base64.b64encode(np.asarray(values).clip(0, 255).round().astype(np.uint8).tobytes()).decode()


def _unpack_bytes(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype=np.uint8)


def pack_psnr(values: Sequence[float]) -> str:
    """PSNR in decibels as one byte each, base64: 0 to 63.5 in quarters; infinity has its own code."""
    quarters = np.minimum(np.asarray(values, dtype=float) / PSNR_STEP, PSNR_EQUAL - 1)
    return _pack_bytes(np.where(np.isinf(values), PSNR_EQUAL, quarters))


def unpack_psnr(text: str) -> np.ndarray:
    """Undo `pack_psnr`: float (n,), infinite where the pictures are equal."""
    codes = _unpack_bytes(text)
    return np.where(codes == PSNR_EQUAL, np.inf, codes * PSNR_STEP)


def pack_picture(picture: Image.Image) -> str:
    """A small picture as base64 of lossless WebP.

    More effort takes forty times as long and saves a fiftieth.
    """
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", lossless=True, quality=80, method=4)
    return base64.b64encode(buffer.getvalue()).decode()


def unpack_picture(text: str) -> Image.Image:
    """Undo `pack_picture`."""
    return Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")


# ---- the record --------------------------------------------------------------------------------------------------


def summarize(
    right: Mapping[str, Sequence[bool]], reference: Mapping[str, Sequence[bool]], psnr: list[float], ssim: list[float]
) -> dict[str, Any]:
    """What the record keeps of one condition on scenes with one number of objects.

    Args:
        right: for each of `NAMES` whether picture i is right, (n,).
        reference: the same of the condition compared with, on at least these scenes in the same order.
        psnr: of each picture to the reference's, in decibels.
        ssim: the same.
    """
    n = len(psnr)
    finite = np.minimum(psnr, 99.0)  # a median and a mean need a number for pictures that are equal
    rates = {}
    for name in NAMES:
        rate = Rate(int(np.sum(right[name])), n)
        low, high = rate.interval
        rates[name] = {"right": rate.right, "rate": round(rate.rate, 4), "low": round(low, 4), "high": round(high, 4)}
    table = compare(reference[ALL_RIGHT][:n], right[ALL_RIGHT])  # of the attributes it follows from `outcomes`
    low, high = table.interval
    paired = {
        "both": table.both,
        "only_reference": table.only_first,
        "only_this": table.only_second,
        "neither": table.neither,
        "p": float(f"{table.p:.4g}"),
        "difference": round(table.difference, 4),
        "low": round(low, 4),
        "high": round(high, 4),
    }
    return {
        "n": n,
        "rates": rates,
        "paired": paired,
        "psnr_median": round(float(np.median(finite)), 2),
        "ssim_median": round(float(np.median(ssim)), 3),
        "outcomes": {name: pack(right[name]) for name in NAMES},
        "psnr": pack_psnr(psnr),
        "ssim": _pack_bytes(np.asarray(ssim) / SSIM_STEP),
    }


@dataclass(frozen=True)
class Outcomes:
    """What the record says of one condition: every picture, in the order of `paired_scenes`.

    `right` has a boolean array, (n,), for each attribute and for "all right"; `psnr` (decibels, infinite where equal)
    and `ssim` are float, (n,).
    """

    right: dict[str, np.ndarray]
    psnr: np.ndarray
    ssim: np.ndarray

    @property
    def n(self) -> int:
        """How many pictures."""
        return len(self.psnr)

    @property
    def rates(self) -> dict[str, Rate]:
        """A `Rate` for each attribute and for "all right"."""
        return {name: Rate(int(right.sum()), self.n) for name, right in self.right.items()}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A record of `sana-lab evaluate`, unpacked. `record` is the whole of it, as `evidence.load` gives it."""

    record: dict[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """What all conditions had in common."""
        return self.record["results"]["settings"]

    @property
    def conditions(self) -> dict[str, str]:
        """Name of each condition and its title."""
        return {name: entry["title"] for name, entry in self.record["results"]["conditions"].items()}

    @property
    def sweep(self) -> dict[str, Any] | None:
        """The sensitivity sweep: `bits`, `objects`, `n`, and for each of `layers` what it did; None without one."""
        return self.record["results"]["sweep"]

    def outcomes(self, condition: str, objects: int | None = None) -> Outcomes:
        """Every picture of a condition, of scenes with one or two objects, or of both, one after the other.

        Raises:
            ValueError: the record does not have it; the text says what it has.
        """
        entries = self.record["results"]["conditions"]
        if condition not in entries:
            raise ValueError(f"no condition {condition!r} in this record; it has {', '.join(entries)}")
        drawn = entries[condition]["objects"]
        wanted = list(drawn) if objects is None else [str(objects)]
        if wanted[0] not in drawn:
            raise ValueError(f"no scenes with {counted(objects, 'object')} in this record; it has {', '.join(drawn)}")
        chosen = [drawn[number] for number in wanted]
        return Outcomes(
            {name: np.concatenate([unpack(e["outcomes"][name], e["n"]) for e in chosen]) for name in NAMES},
            np.concatenate([unpack_psnr(e["psnr"]) for e in chosen]),
            np.concatenate([_unpack_bytes(e["ssim"]) * SSIM_STEP for e in chosen]),
        )

    def compare(self, first: str, second: str, objects: int | None = None, attribute: str = ALL_RIGHT) -> Paired:
        """The 2 x 2 table of two conditions on the scenes that both drew.

        Raises:
            ValueError: as `outcomes`, or an unknown attribute.
        """
        if attribute not in NAMES:
            raise ValueError(f"no attribute {attribute!r}; there are {', '.join(NAMES)}")
        numbers = self.settings["objects"] if objects is None else [objects]
        pairs = [(self.outcomes(first, k).right[attribute], self.outcomes(second, k).right[attribute]) for k in numbers]
        shared = [min(len(a), len(b)) for a, b in pairs]
        return compare(
            np.concatenate([a[:n] for (a, _), n in zip(pairs, shared, strict=True)]),
            np.concatenate([b[:n] for (_, b), n in zip(pairs, shared, strict=True)]),
        )


def load_evaluation(
    name: str = RECORD, *, model: str | Path | Source = SHAPES_FOLDER, folder: Path = evidence.FOLDER
) -> Evaluation:
    """Read a record of `sana-lab evaluate`, if it belongs to today's scenes, reader and weights.

    Args:
        name: of the record.
        model: whose weights it should be of: what `load_sana` takes.
        folder: where records lie.

    Raises:
        ValueError: there is no such record, or it was made with other code or other weights; the text says which, and
            what to run.

    Chapter 6.
    """
    record = evidence.load(name, folder=folder)
    settings = record["results"].get("settings", {}) if isinstance(record["results"], dict) else {}
    again = f"record it again: {record['command']}"
    if settings.get("format") != FORMAT:
        raise ValueError(f"record {name!r} has format {settings.get('format')}, this code reads {FORMAT}; {again}")
    if settings["scenes"] != scenes_digest(settings["seed"]):
        raise ValueError(f"record {name!r} is of other scenes than this code draws; {again}")
    if settings["weights"] != (found := resolve(model).digest):
        raise ValueError(f"record {name!r} is of weights {settings['weights']}, the model here has {found}; {again}")
    for example in record["results"]["examples"]:
        scene = paired_scenes(example["i"] + 1, example["objects"], settings["seed"])[-1]
        for picture in example["pictures"].values():
            if rights(unpack_picture(picture["webp"]), scene) != picture["right"]:
                raise ValueError(f"record {name!r} is of another reader: its pictures read otherwise now; {again}")
    return Evaluation(record)


def rights(picture: Image.Image, scene: Scene) -> list[int]:
    """1 for each of `NAMES` that the picture shows as the scene asks, else 0."""
    return [int(match[0]) for match in adherence([picture], [scene]).matches.values()]


def scenes_digest(seed: int) -> str:
    """Sixteen hexadecimal digits that change when any of the paired scenes does."""
    captions = [caption(scene) for objects in (1, 2) for scene in paired_scenes(SCENES, objects, seed)]
    return hashlib.sha256("\n".join(captions).encode()).hexdigest()[:16]
