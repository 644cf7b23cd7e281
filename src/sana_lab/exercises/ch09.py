"""Checks for the exercises of chapter 9, What fits my card."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from . import NotYet, exercise
from .answers import ask, names, near, number

_ROWS: tuple[dict[str, Any], ...] = (
    {"method": "plain", "resident": 6.0, "load_peak": 6.1, "peak": 7.5, "picture_s": 0.7},
    {"method": "slim", "resident": 3.5, "load_peak": 3.6, "peak": 4.0, "picture_s": 2.5},
    {"method": "hasty", "resident": 3.5, "load_peak": 8.5, "peak": 4.2, "picture_s": 0.2},  # loads whole, then shrinks
    {"method": "hungry", "resident": 3.6, "load_peak": 3.7, "peak": 9.0, "picture_s": 0.3},  # few weights, many
    {"method": "small", "resident": 2.0, "load_peak": 2.1, "peak": 2.5, "picture_s": 1.5},
    {"method": "unseen", "resident": 1.0, "load_peak": 1.1, "peak": None, "picture_s": 0.1},
    {"method": "edge", "resident": 7.6, "load_peak": 7.8, "peak": 8.0, "picture_s": 1.0},
    {"method": "metric", "resident": 4.2, "load_peak": 4.2, "peak": 5.8, "picture_s": 0.9},  # more than 6e9 bytes
)


_SIZED = ("resident", "load_peak", "peak")


def fitting(rows: Iterable[Mapping[str, Any]], gib: float) -> list[str]:
    """The answer that `check_fits` asks for."""
    there = [row for row in rows if row["peak"] is not None and max(row["peak"], row["load_peak"]) <= gib * 2**30]
    return [row["method"] for row in sorted(there, key=lambda row: row["picture_s"])]


def _in_bytes(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, **{k: row[k] if row[k] is None else round(row[k] * 2**30) for k in _SIZED}} for row in rows]


def _made_up(draw: random.Random) -> list[dict[str, Any]]:
    """Rows of methods that nobody measured: no answer knows them by heart, and no two columns go together."""
    made = []
    for i, seconds in enumerate(draw.sample(range(1, 100), 7)):
        resident = draw.uniform(1, 9)
        load, peak = resident + draw.uniform(0, 6), resident + draw.uniform(0, 6)
        made.append({"method": f"m{i}", "resident": resident, "load_peak": load, "peak": peak, "picture_s": seconds})
    made[draw.randrange(7)]["peak"] = None
    return _in_bytes(made)


@exercise
def check_fits(answer: Callable[[Sequence[Mapping[str, Any]], float], Iterable[str]]) -> str:
    """Check `answer(rows, gib)`: names of the methods that fit a card, fastest first.

    Chapter 9, exercise 1.
    """
    hints = {
        "hasty": "it must be loaded before it draws, and loading takes more than drawing: look at `load_peak` too",
        "hungry": "its weights fit and its activations do not: look at `peak`",
        "unseen": "it was never drawn with, so nobody knows whether it fits: leave it out",
    }
    draw = random.Random(7)
    cases = [(_in_bytes(_ROWS), gib) for gib in (8, 6, 2.5, 1)]
    cases += [(_made_up(draw), draw.choice((4, 6, 8, 12))) for _ in range(20)]
    for rows, gib in cases:
        right = fitting(rows, gib)
        got = names(ask(answer, rows, gib), "a list of names, the fastest first")
        if got == right:
            continue
        if not got:
            raise NotYet(f"{gib} GiB: your list is empty, and {right[-1]!r} fits, for one")
        for name in got:
            if name in hints and name not in right:
                raise NotYet(f"{gib} GiB: {name!r} does not belong there; {hints[name]}")
        if sorted(got) == sorted(right):
            raise NotYet(f"{gib} GiB: the right names in another order; the fastest, least seconds, comes first")
        missing, extra = sorted(set(right) - set(got)), sorted(set(got) - set(right))
        sizes = {row["method"]: max(row["peak"] or 0, row["load_peak"]) for row in rows}
        if set(got) == {name for name in right if sizes[name] <= gib * 10**9}:
            raise NotYet(f"{gib} GiB: {missing[0]!r} fits. A GiB is 2**30 bytes, 7 % more than 10**9")
        if missing and sizes[missing[0]] == gib * 2**30:
            raise NotYet(f"{gib} GiB: {missing[0]!r} takes exactly what there is, and that fits: use <=")
        if missing:
            raise NotYet(f"{gib} GiB: {missing[0]!r} fits, and your list lacks it")
        if extra:
            raise NotYet(f"{gib} GiB: {extra[0]!r} needs more than there is, or is not known to fit")
        raise NotYet(f"{gib} GiB: each method once; {', '.join(right)}, yours is {', '.join(got)}")
    return "the larger peak decides whether, seconds decide which."


@exercise
def check_peak(answer: Callable[[Sequence[tuple[int, int]], bool], int]) -> str:
    """Check `answer(parts, offload)`: most bytes at any time while the parts are called one after the other.

    Chapter 9, exercise 2.
    """
    draw = random.Random(9)
    cases = [[(5000, 100), (1200, 300), (600, 2000)], [(5000, 100), (1200, 300), (600, 9000)], [(700, 50)]]
    cases += [
        [(draw.randrange(1, 9999), draw.randrange(1, 9999)) for _ in range(draw.randint(1, 5))] for _ in range(20)
    ]
    for parts in cases:
        weights, on_top = [part[0] for part in parts], [part[1] for part in parts]
        for offload in (False, True):
            right = max(map(sum, parts)) if offload else sum(weights) + max(on_top)
            got = number(ask(answer, [*parts], offload), "a number of bytes")
            if near(got, right):
                continue
            case = f"{parts}, offload={offload}"
            for wrong, hint in (
                (
                    sum(weights) + sum(on_top),
                    "what one call needs on top is given back before the next: take the largest",
                ),
                (sum(weights), "weights alone: each call needs bytes on top of them"),
                (max(on_top), "only what calls need on top: the weights are there as well"),
                (max(weights), "the largest part's weights: its call needs bytes on top, and another's may need more"),
                (max(weights) + max(on_top), "the largest weights and the largest call need not be the same part's"),
                (max(map(sum, parts)), "without offloading, the weights of all parts are there during every call"),
                (sum(weights) + max(on_top), "with offload=True, the other parts are on the CPU during a call"),
                (right / 2**20, "return bytes, not MiB"),
            ):
                if near(got, wrong) and not near(wrong, right):
                    raise NotYet(f"{case}: {hint}")
            raise NotYet(f"{case}: at most {right:,} bytes are in use at a time, you say {got:,.0f}")
    return "weights stay, and what a call needs on top does not: the peak belongs to one of the calls."


@exercise
def check_tiles(answer: Callable[[int, int, int], int]) -> str:
    """Check `answer(pixels, tile, stride)`: how many tiles a square picture is decoded in.

    diffusers 0.42.1, autoencoder_dc.py, `tiled_decode`: a tile begins at every multiple of the stride.

    Chapter 9, exercise 3.
    """
    cases = [(1024, 512, 448), (512, 512, 448), (1024, 512, 512), (2048, 512, 448), (896, 512, 448), (960, 512, 448)]
    says = {
        (1024, 512, 448): "tiles begin at 0, 448 and 896 in each direction: what is left at the edge gets one as well",
        (2048, 512, 448): "tiles overlap: the next one begins a stride further, not a tile further",
        (960, 512, 448): "the loop is `range(0, pixels, stride)`, wherever the tile before ends",
    }
    draw = random.Random(3)
    for _ in range(20):
        stride = 32 * draw.randint(4, 16)
        cases.append((32 * draw.randint(8, 64), stride + 32 * draw.randint(0, 3), stride))
    for pixels, tile, stride in cases:
        aside = -(-pixels // stride)
        right = aside**2 if pixels > tile else 1
        got = number(ask(answer, pixels, tile, stride), "a number of tiles")
        if near(got, right):
            continue
        case = f"{pixels} pixels, tiles of {tile} every {stride}"
        for wrong, hint in (
            (aside, "that is one row of tiles: there are as many rows as columns"),
            (aside**2, "a picture that is no larger than one tile is decoded whole"),
        ):
            if near(got, wrong):
                raise NotYet(f"{case}: {hint}")
        hint = says.get((pixels, tile, stride), f"there are {right}")
        raise NotYet(f"{case}: {hint}; you say {got:g}")
    return "every stride begins a tile, in both directions, and each is a call of the decoder."
