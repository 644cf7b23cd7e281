"""Chapter 7's exercises: the stored solutions pass, and each named wrong answer is refused with its own hint."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from sana_lab.exercises.ch07 import check_fits, check_pointwise

CHAPTER = Path(__file__).resolve().parent.parent / "notebooks" / "07_what_it_costs.ipynb"


def linear(weight, bias, hidden):
    return F.linear(hidden.permute(0, 2, 3, 1), weight.flatten(1), bias)


def pointwise(weight, bias, hidden):
    return linear(weight, bias, hidden).permute(0, 3, 1, 2)


def by_einsum(weight, bias, hidden):
    product = (weight[:, :, 0, 0] @ hidden.flatten(2)).unflatten(2, hidden.shape[2:])
    return product if bias is None else product + bias[:, None, None]


def twice(weight, bias, hidden):
    out = pointwise(weight, bias, hidden)
    return out if bias is None else out + bias[:, None, None]


def reshaped(weight, bias, hidden):
    b, c, h, w = hidden.shape
    return F.linear(hidden.reshape(b, h * w, c), weight.flatten(1), bias).reshape(b, -1, h, w)


def reshaped_back(weight, bias, hidden):
    b, _, h, w = hidden.shape
    return linear(weight, bias, hidden).reshape(b, -1, h, w)


def transposed(weight, bias, hidden):
    square = weight.shape[0] == weight.shape[1]
    return pointwise(weight.transpose(0, 1) if square else weight, bias, hidden)


def on_its_side(weight, bias, hidden):
    out = pointwise(weight, bias, hidden)
    return out.transpose(2, 3) if out.shape[2] == out.shape[3] else out


def in_place(weight, bias, hidden):
    hidden *= 1.0
    hidden += 1.0
    return pointwise(weight, bias, hidden - 1.0)


def squeezed(weight, bias, hidden):
    product = (weight.squeeze() @ hidden.flatten(2)).unflatten(-1, hidden.shape[2:])
    return product if bias is None else product + bias[:, None, None]


def by_operator(weight, bias, hidden):
    return torch.ops.aten.convolution(hidden, weight, bias, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)


def by_module(weight, bias, hidden):
    layer = torch.nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=bias is not None, dtype=weight.dtype)
    layer.weight.data = weight
    if bias is not None:
        layer.bias.data = bias
    return layer(hidden)


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


P, FITS = check_pointwise, check_fits
WRONG = {
    "pointwise: stub": (P, lambda w, b, h: h, "gives .*, yours is"),
    "pointwise: nothing": (P, lambda w, b, h: None, "return a tensor"),
    "pointwise: convolution": (P, lambda w, b, h: F.conv2d(h, w, b), "called a convolution"),
    "pointwise: channels last": (P, linear, "permute back"),
    "pointwise: tokens": (P, lambda w, b, h: linear(w, b, h).flatten(1, 2), "these are tokens"),
    "pointwise: no bias": (P, lambda w, b, h: pointwise(w, None, h), "bias is missing"),
    "pointwise: bias twice": (P, twice, "added twice"),
    "pointwise: reshape": (P, reshaped, "moves no number"),
    "pointwise: reshape back": (P, reshaped_back, "moves no number"),
    "pointwise: transposed weight": (P, transposed, "do not transpose"),
    "pointwise: on its side": (P, on_its_side, "lies on its side"),
    "pointwise: float32": (P, lambda w, b, h: pointwise(w, b, h).float().double(), "largest difference"),
    "pointwise: needs a bias": (P, lambda w, b, h: pointwise(w, b * 1, h), "raised TypeError"),
    "pointwise: in place": (P, in_place, "changes `hidden`"),
    "pointwise: squeezed": (P, squeezed, "raised|gives|largest"),
    "pointwise: the operator below": (P, by_operator, "called a convolution"),
    "pointwise: a layer": (P, by_module, "called a convolution"),
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
}


@pytest.mark.parametrize(("check", "answer", "hint"), WRONG.values(), ids=WRONG)
def test_a_wrong_answer_gets_its_own_hint(check, answer, hint):
    verdict = check(answer)
    assert not verdict.passed
    assert re.search(hint, verdict.text), verdict.text


RIGHT = {
    "pointwise": (P, pointwise),
    "pointwise: a product": (P, by_einsum),
    "pointwise: an array": (P, lambda w, b, h: pointwise(w, b, h).numpy()),
    "pointwise: not contiguous": (P, lambda w, b, h: linear(w, b, h).movedim(-1, 1)),
    "fits": (FITS, fits),
    "fits: a tuple": (FITS, lambda r, g: tuple(fits(r, g))),
    "fits: a generator": (FITS, lambda r, g: (name for name in fits(r, g))),
    "fits: a column": (FITS, lambda r, g: pd.Series(fits(r, g), dtype=object)),
    "fits: an array": (FITS, lambda r, g: np.array(fits(r, g), dtype=str)),
    "fits: keys": (FITS, lambda r, g: dict.fromkeys(fits(r, g)).keys()),
}


@pytest.mark.parametrize(("check", "answer"), RIGHT.values(), ids=RIGHT)
def test_a_right_answer_passes(check, answer):
    verdict = check(answer)
    assert verdict.passed, verdict.text


def test_the_stored_solutions_pass_and_the_stubs_do_not():
    cells = [cell for cell in json.loads(CHAPTER.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    for check in (P, FITS):
        function = check.__name__.removeprefix("check_")
        sources = ["".join(c["source"]) for c in cells if "".join(c["source"]).startswith(f"def {function}(")]
        stub, solution = (source.split("\n\n\n")[0] for source in sources)
        for source, passes in ((stub, False), (solution, True)):
            names = {"F": F}
            exec(source, names)
            assert check(names[function]).passed == passes, function
