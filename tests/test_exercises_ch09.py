"""Chapter 9's exercises: the stored solutions pass, and each named wrong answer is refused with its own hint."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import stored_answers

from sana_lab.exercises.ch09 import check_fits, check_peak, check_tiles

CHAPTER = Path(__file__).resolve().parent.parent / "notebooks" / "09_what_fits_my_card.ipynb"


def sorts_what_it_got(rows, gib):
    rows.sort(key=lambda row: row["picture_s"])
    return fits(rows, gib, order=None)


BY_HEART = {8: ["plain", "metric", "edge", "small", "slim"], 6: ["metric", "small", "slim"], 2.5: ["small"], 1: []}


def fits(rows, gib, *, key=("peak", "load_peak"), unit=2**30, less=False, unseen=False, order=lambda r: r["picture_s"]):
    """The right answer of exercise 2, with one thing changed at a time."""
    found = []
    for row in rows:
        if row["peak"] is None and not unseen:
            continue
        size = max(row[k] or 0 for k in key)
        if size < gib * unit or (size == gib * unit and not less):
            found.append(row)
    return [row["method"] for row in (sorted(found, key=order) if order else found)]


def by_name(rows, method):
    """All bytes of a method added up, as if loading and drawing happened at once."""
    return next(row["peak"] + row["load_peak"] - row["resident"] for row in rows if row["method"] == method)


def peak(parts, offload):
    everything = sum(weights for weights, _ in parts)
    return max((weights if offload else everything) + on_top for weights, on_top in parts)


def drains(parts, offload):
    right = peak(parts, offload)
    parts.clear()
    return right


def all_on_top(parts, offload):
    return peak(parts, offload) if offload else sum(map(sum, parts))


def tiles(pixels, tile, stride):
    return len(range(0, pixels, stride)) ** 2 if pixels > tile else 1


FITS, PEAK, TILES = check_fits, check_peak, check_tiles
WRONG = {
    "fits: stub": (FITS, lambda rows, gib: [], "list is empty"),
    "fits: nothing": (FITS, lambda rows, gib: None, "return a list of names"),
    "fits: rows": (FITS, lambda rows, gib: rows, "return a list of names"),
    "fits: resident": (FITS, lambda r, g: fits(r, g, key=("resident",)), "'hasty' .*`load_peak`|'hungry' .*`peak`"),
    "fits: drawing alone": (FITS, lambda r, g: fits(r, g, key=("peak",)), "'hasty' .*`load_peak`"),
    "fits: loading alone": (FITS, lambda r, g: fits(r, g, key=("load_peak",)), "'hungry' .*activations"),
    "fits: never drawn": (FITS, lambda r, g: fits(r, g, unseen=True), "'unseen' .*leave it out"),
    "fits: GB": (FITS, lambda r, g: fits(r, g, unit=10**9), r"2\*\*30"),
    "fits: less": (FITS, lambda r, g: fits(r, g, less=True), "exactly what there is"),
    "fits: not sorted": (FITS, lambda r, g: fits(r, g, order=None), "another order"),
    "fits: slowest first": (FITS, lambda r, g: fits(r, g, order=lambda x: -x["picture_s"]), "another order"),
    "fits: smallest first": (FITS, lambda r, g: fits(r, g, order=lambda x: x["peak"]), "another order"),
    "fits: by heart": (FITS, lambda r, g: BY_HEART.get(g, []), "fits, for one|lacks it|more than there is"),
    "fits: a set": (FITS, lambda r, g: set(fits(r, g)), "the fastest first"),
    "fits: a dictionary": (FITS, lambda r, g: dict.fromkeys(fits(r, g)), "return a list of names"),
    "fits: one name": (FITS, lambda r, g: "small", "return a list of names"),
    "fits: sorts what it got": (FITS, sorts_what_it_got, "changes .*of `rows`"),
    "fits: two peaks together": (
        FITS,
        lambda r, g: [x for x in fits(r, g) if by_name(r, x) <= g * 2**30],
        "exactly what there is|lacks it",
    ),
    "fits: all": (FITS, lambda r, g: fits(r, 1e9), "'hungry'|'hasty'"),
    "peak: stub": (PEAK, lambda parts, offload: 0, "bytes are in use"),
    "peak: nothing": (PEAK, lambda parts, offload: None, "number of bytes"),
    "peak: all on top": (PEAK, all_on_top, "given back"),
    "peak: weights": (PEAK, lambda parts, offload: sum(w for w, _ in parts), "weights alone|other parts"),
    "peak: on top": (PEAK, lambda parts, offload: max(t for _, t in parts), "weights are there as well"),
    "peak: never offloaded": (PEAK, lambda parts, offload: peak(parts, False), "other parts are on the CPU"),
    "peak: always offloaded": (PEAK, lambda parts, offload: peak(parts, True), "all parts are there"),
    "peak: exchanged": (PEAK, lambda parts, offload: peak(parts, not offload), "all parts are there"),
    "peak: largest of each": (
        PEAK,
        lambda p, o: max(w for w, _ in p) + max(t for _, t in p) if o else peak(p, o),
        "need not be the same",
    ),
    "peak: largest part": (PEAK, lambda p, o: max(w for w, _ in p) if o else peak(p, o), "largest part's weights"),
    "peak: MiB": (PEAK, lambda parts, offload: peak(parts, offload) / 2**20, "not MiB"),
    "peak: empties its list": (PEAK, drains, "changes `parts`"),
    "tiles: stub": (TILES, lambda p, t, s: 0, "left at the edge"),
    "tiles: one row": (TILES, lambda p, t, s: -(-p // s), "one row"),
    "tiles: always": (TILES, lambda p, t, s: (-(-p // s)) ** 2, "decoded whole"),
    "tiles: rounded down": (TILES, lambda p, t, s: (p // s) ** 2 if p > t else 1, "left at the edge"),
    "tiles: without overlap": (TILES, lambda p, t, s: (-(-p // t)) ** 2, "left at the edge"),
    "tiles: only as needed": (
        TILES,
        lambda p, t, s: (max(-(-(p - t) // s), 0) + 1) ** 2,
        "left at the edge|wherever the tile",
    ),
}
RIGHT = {
    "tiles": (TILES, tiles),
    "tiles: counted": (TILES, lambda p, t, s: len([1 for _ in range(0, p, s) for _ in range(0, p, s)]) if p > t else 1),
    "fits": (FITS, fits),
    "fits: a tuple": (FITS, lambda r, g: tuple(fits(r, g))),
    "fits: a generator": (FITS, lambda r, g: (name for name in fits(r, g))),
    "fits: a column": (FITS, lambda r, g: pd.Series(fits(r, g), dtype=object)),
    "fits: an array": (FITS, lambda r, g: np.array(fits(r, g), dtype=str)),
    "fits: keys": (FITS, lambda r, g: dict.fromkeys(fits(r, g)).keys()),
    "peak": (PEAK, peak),
    "peak: an array": (PEAK, lambda parts, offload: np.int64(peak(parts, offload))),
    "peak: a float": (PEAK, lambda parts, offload: float(peak(parts, offload))),
}


@pytest.mark.parametrize(("check", "answer", "hint"), WRONG.values(), ids=WRONG)
def test_a_wrong_answer_gets_its_own_hint(check, answer, hint):
    verdict = check(answer)
    assert not verdict.passed
    assert re.search(hint, verdict.text), verdict.text


@pytest.mark.parametrize(("check", "answer"), RIGHT.values(), ids=RIGHT)
def test_a_right_answer_passes(check, answer):
    verdict = check(answer)
    assert verdict.passed, verdict.text


def test_the_stored_solutions_pass_and_the_stubs_do_not():
    stored_answers.hold(CHAPTER, FITS, PEAK, TILES)
