"""Chapter 3's exercises: the stored solutions pass, and each named wrong answer is refused with its own hint."""

import json
import re
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from sana_lab import int8
from sana_lab.exercises.ch03 import check_llm_int8, check_share, check_smooth

CHAPTER = Path(__file__).resolve().parent.parent / "notebooks" / "03_one_outlier.ipynb"


def split(
    x,
    w_codes,
    w_absmax,
    threshold=6.0,
    *,
    large=lambda x, t: x.abs() >= t,
    hide=True,
    clear=True,
    add=True,
    square=127**2,
    fixed=None,
    by_row=False,
    off=True,
):
    """The right answer of exercise 1, with one thing changed at a time."""
    mask = large(x, fixed or threshold) & (threshold > 0 or not off)
    if by_row:
        rows = mask.any(dim=1)
        y = split(x, w_codes, w_absmax, threshold=1e9)
        y[rows] = x[rows] @ (w_codes * (w_absmax[:, None] / 127)).T
        return y
    columns = mask.any(dim=0)
    codes, absmax, _ = int8.int8_vectorwise_quant(x.masked_fill(mask, 0) if hide else x)
    if clear:
        codes[:, columns] = 0
    y = int8.int8_matmul(codes, w_codes) * (absmax[:, None] * w_absmax) / square
    return y + x[:, columns] @ (w_codes[:, columns] * (w_absmax[:, None] / 127)).T if add else y


def in_type(x, w_codes, w_absmax, threshold=6.0, *, dtype, handed=None):
    """The right answer with activations and outliers' weights in another type."""
    x = x.to(dtype)
    large = (x.abs() >= threshold) & (threshold > 0)
    columns = large.any(dim=0)
    codes, absmax, _ = int8.int8_vectorwise_quant(x.masked_fill(large, 0))
    codes[:, columns] = 0
    y = (int8.int8_matmul(codes, w_codes) * (absmax[:, None] * w_absmax) / 127**2).to(dtype)
    return (y + x[:, columns] @ (w_codes[:, columns] * (w_absmax[:, None] / 127)).to(dtype).T).to(handed or dtype)


def values_alone(x, w_codes, w_absmax, threshold=6.0):
    """Only the large values leave, not their columns: one sparse product, as exact."""
    large = (x.abs() >= threshold) & (threshold > 0)
    rest = int8.llm_int8_linear(x.masked_fill(large, 0), w_codes, w_absmax, threshold=0.0)
    return rest + x.masked_fill(~large, 0) @ (w_codes * (w_absmax[:, None] / 127)).T


def hides_in_place(x, w_codes, w_absmax, threshold=6.0):
    y = split(x, w_codes, w_absmax, threshold)
    x[x.abs() >= 6] = 0
    return y


def clears_the_weight(x, w_codes, w_absmax, threshold=6.0):
    y = split(x, w_codes, w_absmax, threshold)
    w_codes[:, (x.abs() >= 6).any(dim=0)] = 0
    return y


def seen(answer, known):
    """Hard-coded: right for the first of the check's cases, and a guess after it."""
    calls = []

    def function(*given, **named):
        calls.append(given)
        return answer(*given, **named) if len(calls) == 1 else known(*given, **named)

    return function


def in_place(x, norm, weight):
    s = (x.abs().amax(dim=0) / weight.abs().amax(dim=0)).sqrt()
    weight *= s
    return norm.add_(1).div_(s).sub_(1), weight


def plain(x, w_codes, w_absmax, threshold=6.0):
    return int8.llm_int8_linear(x, w_codes, w_absmax, threshold=0.0)


def smooth(x, norm, weight, *, factor=lambda x, w: (x / w).sqrt(), one=1, columns=True, dim=0):
    """The right answer of exercise 2, with one thing changed at a time."""
    s = factor(x.abs().amax(dim=dim), weight.abs().amax(dim=0))
    return (one + norm) / s - one, weight * s if columns else weight / s


def share(x, threshold, *, dim=0, size=torch.abs, compare=torch.ge):
    return compare(size(x), threshold).any(dim=dim).float().mean().item()


def part(**changed):
    return lambda *given, **more: split(*given, **more, **changed)


def smoothed(**changed):
    return lambda *given: smooth(*given, **changed)


WRONG = {
    "split: stub": (check_llm_int8, lambda x, p, m, threshold=6.0: None, "shape \\(16, 24\\)"),
    "split: transposed": (check_llm_int8, lambda *a, **k: split(*a, **k).T, "shape \\(16, 24\\); this is"),
    "split: plain 8 bits": (check_llm_int8, plain, "plain 8 bits"),
    "split: 127": (check_llm_int8, part(square=127), "127 · 127"),
    "split: not divided": (check_llm_int8, part(square=1), "127 · 127"),
    "split: another product": (check_llm_int8, lambda x, p, m, threshold=6.0: x @ p.float().T, "product of chapter 2"),
    "split: never added": (check_llm_int8, part(add=False), "never came back"),
    "split: absmax sees outliers": (check_llm_int8, part(hide=False), "still sees the large values"),
    "split: counted twice": (check_llm_int8, part(hide=False, clear=False), "counted twice: in the integer"),
    "split: column half cleared": (check_llm_int8, part(clear=False), "ordinary numbers in an outlier column"),
    "split: sign forgotten": (check_llm_int8, part(large=lambda x, t: x >= t), "-90 is an outlier too"),
    "split: by row": (check_llm_int8, part(by_row=True), "by column, not by row"),
    "split: above only": (check_llm_int8, part(large=lambda x, t: x.abs() > t), "exactly 6"),
    "split: threshold fixed": (check_llm_int8, part(fixed=6.0), "threshold is an argument"),
    "split: only the last column": (
        check_llm_int8,
        part(large=lambda x, t: (x.abs() >= t) & (torch.arange(40) > 15)),
        "off by .* %",
    ),
    "split: threshold 0 marks all": (check_llm_int8, part(off=False), "threshold 0 turns the search off"),
    "split: all in 16 bits": (
        check_llm_int8,
        lambda x, p, m, threshold=6.0: plain(x, p, m) if x.max() < 6 else x @ (p * (m[:, None] / 127)).T,
        "all in 16 bits",
    ),
    "split: hides in place": (check_llm_int8, hides_in_place, "your function changes `x`"),
    "split: clears the weight": (check_llm_int8, clears_the_weight, "your function changes `w_codes`"),
    "split: scales in place": (
        check_llm_int8,
        lambda x, p, m, threshold=6.0: split(x, p, m.div_(127).mul_(64), threshold),
        "your function changes `m`",
    ),
    "split: hard-coded": (check_llm_int8, seen(split, lambda *a, **k: torch.ones(16, 24)), "off by"),
    "split: one shape": (
        check_llm_int8,
        lambda x, p, m, threshold=6.0: split(x, p, m, threshold) if len(x) == 16 else x @ p.float().T,
        "product of chapter 2",
    ),
    "split: NaN": (check_llm_int8, lambda x, p, m, threshold=6.0: split(x, p, m) * torch.nan, "product of chapter 2"),
    "split: NaN beside outliers": (
        check_llm_int8,
        lambda x, p, m, threshold=6.0: split(x, p, m) * (1 if x.max() < 6 else torch.nan),
        "off by nan",
    ),
    "split: a list": (check_llm_int8, lambda x, p, m, threshold=6.0: split(x, p, m).tolist(), "this is list"),
    "split: raises": (check_llm_int8, lambda x, p, m, threshold=6.0: x @ p.T, "raised RuntimeError"),
    "smooth: stub": (check_smooth, lambda x, norm, weight: (norm, weight), "nothing has changed"),
    "smooth: one thing": (check_smooth, lambda x, norm, weight: weight, "return 2 things"),
    "smooth: rows": (check_smooth, lambda x, n, w: (n.expand(12, 20), w), "shapes must stay"),
    "smooth: one plus forgotten": (check_smooth, smoothed(one=0), "multiplies by 1 \\+ weight"),
    "smooth: columns divided": (check_smooth, smoothed(columns=False), "columns must be multiplied"),
    "smooth: upside down": (check_smooth, smoothed(factor=lambda x, w: (w / x).sqrt()), "upside down"),
    "smooth: no root": (check_smooth, smoothed(factor=lambda x, w: x / w), "square root"),
    "smooth: alpha 1": (check_smooth, smoothed(factor=lambda x, w: x), "α = 1"),
    "smooth: activations alone": (check_smooth, smoothed(factor=lambda x, w: x.sqrt()), "belongs under the root"),
    "smooth: one factor": (
        check_smooth,
        smoothed(factor=lambda x, w: (x.max() / w.max()).sqrt().expand(20)),
        "one factor for all",
    ),
    "smooth: something else": (check_smooth, smoothed(factor=lambda x, w: 1 / w), "is not sqrt"),
    "smooth: in place": (check_smooth, in_place, "your function changes `norm`"),
    "smooth: the weight in place": (
        check_smooth,
        lambda x, norm, weight: (smooth(x, norm, weight)[0], weight.copy_(smooth(x, norm, weight)[1])),
        "your function changes `weight`",
    ),
    "smooth: hard-coded": (
        check_smooth,
        seen(smooth, lambda *given: (torch.ones(20), torch.ones(12, 20))),
        "\\(33,\\)",
    ),
    "smooth: mean": (
        check_smooth,
        lambda x, n, w: ((1 + n) / x.abs().mean(dim=0).sqrt() - 1, w * x.abs().mean(dim=0).sqrt()),
        "is not sqrt",
    ),
    "share: stub": (check_share, lambda x, t: (x >= t).float().mean().item(), "takes its whole column along"),
    "share: None": (check_share, lambda x, t: None, "return a number"),
    "share: values": (check_share, lambda x, t: (x.abs() >= t).float().mean().item(), "count columns, not values"),
    "share: rows": (check_share, lambda x, t: share(x, t, dim=1), "by column, not by row"),
    "share: signs": (check_share, lambda x, t: share(x, t, size=torch.clone), "-30 is an outlier"),
    "share: the rest": (check_share, lambda x, t: 1 - share(x, t), "stays in 8 bits"),
    "share: count": (check_share, lambda x, t: 16 * share(x, t), "number of columns"),
    "share: percent": (check_share, lambda x, t: 100 * share(x, t), "percentage"),
    "share: strictly above": (check_share, lambda x, t: share(x, t, compare=torch.gt), "exactly 6"),
    "share: threshold fixed": (check_share, lambda x, t: share(x, 6.0), "threshold is an argument"),
    "share: half": (check_share, lambda x, t: 0.45, "3 of 16 columns"),
    "share: sixteen": (
        check_share,
        lambda x, t: (x.abs() >= t).any(dim=0).sum().item() / 16,
        "number of columns that this x has",
    ),
    "share: by rows' number": (
        check_share,
        lambda x, t: (x.abs() >= t).any(dim=0).sum().item() / len(x),
        "not of rows",
    ),
    "share: hard-coded": (check_share, lambda x, t: 3 / 16, "columns that this x has"),
    "share: zeroed": (check_share, lambda x, t: (share(x, t), x.zero_())[0], "your function changes `x`"),
    "share: at least one": (check_share, lambda x, t: max(share(x, t), 1 / x.shape[1]), "the share is 0"),
    "share: a list": (check_share, lambda x, t: [share(x, t)], "this is list"),
    "share: a mask": (check_share, lambda x, t: (x.abs() >= t).any(dim=0), "a tensor of shape \\(16,\\)"),
}


@pytest.mark.parametrize(("check", "answer", "hint"), WRONG.values(), ids=WRONG)
def test_a_wrong_answer_gets_its_own_hint(check, answer, hint):
    verdict = check(answer)
    assert not verdict.passed
    assert len(repr(verdict)) < 260
    assert re.search(hint, verdict.text), verdict.text


RIGHT = {
    "split": (check_llm_int8, split),
    "split: float64": (check_llm_int8, partial(in_type, dtype=torch.float64)),
    "split: float16": (check_llm_int8, partial(in_type, dtype=torch.float16)),
    "split: bfloat16": (check_llm_int8, partial(in_type, dtype=torch.bfloat16)),
    "split: in float16, handed over in float32": (
        check_llm_int8,
        partial(in_type, dtype=torch.float16, handed=torch.float32),
    ),
    "split: large values alone": (check_llm_int8, values_alone),
    "split: with a gradient": (check_llm_int8, lambda *a, **k: split(*a, **k).requires_grad_()),
    "smooth": (check_smooth, smooth),
    "smooth: float64": (check_smooth, lambda x, n, w: smooth(x.double(), n.double(), w.double())),
    "smooth: float16": (check_smooth, lambda x, n, w: smooth(x.half(), n.half(), w.half())),
    "smooth: a list": (check_smooth, lambda *given: list(smooth(*given))),
    "smooth: copies changed": (check_smooth, lambda *given: in_place(*(one.clone() for one in given))),
    "share": (check_share, share),
    "share: np.float32": (check_share, lambda x, t: np.float32(share(x, t))),
    "share: a tensor": (check_share, lambda x, t: (x.abs() >= t).any(dim=0).float().mean()),
    "share: float16": (check_share, lambda x, t: (x.abs() >= t).any(dim=0).half().mean()),
    "share: Fraction": (check_share, lambda x, t: Fraction(int((x.abs() >= t).any(dim=0).sum()), x.shape[1])),
    "share: np.mean": (check_share, lambda x, t: np.mean((x.abs() >= t).any(dim=0).numpy())),
}


@pytest.mark.parametrize(("check", "answer"), RIGHT.values(), ids=RIGHT)
def test_a_right_answer_passes(check, answer):
    verdict = check(answer)
    assert verdict.passed, verdict
    assert repr(verdict).startswith("Right: ")


def test_the_helpers_own_layer_passes():
    assert check_llm_int8(lambda x, p, m, threshold=6.0: int8.llm_int8_linear(x, p, m, threshold=threshold)).passed


def test_the_chapters_stubs_are_refused_and_its_solutions_pass():
    cells = [c for c in json.loads(CHAPTER.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    checks = {"my_llm_int8": check_llm_int8, "smooth": check_smooth, "share_in_16_bits": check_share}
    for name, check in checks.items():
        stub, solution = ["".join(c["source"]) for c in cells if f"def {name}(" in "".join(c["source"])]
        for source, passes in ((stub, False), (solution, True)):
            namespace = {"torch": torch, "int8": int8, f"check_{name.removeprefix('my_')}": check, "check_share": check}
            exec(source, namespace)
            assert check(namespace[name]).passed is passes, source
