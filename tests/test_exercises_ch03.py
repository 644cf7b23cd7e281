"""Chapter 3's exercises: the stored solutions pass, and each named wrong answer is refused with its own hint."""

import json
import re
from pathlib import Path

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
):
    """The right answer of exercise 1, with one thing changed at a time."""
    mask = large(x, fixed or threshold)
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
}


@pytest.mark.parametrize(("check", "answer", "hint"), WRONG.values(), ids=WRONG)
def test_a_wrong_answer_gets_its_own_hint(check, answer, hint):
    verdict = check(answer)
    assert not verdict.passed
    assert len(repr(verdict)) < 260
    assert re.search(hint, verdict.text), verdict.text


@pytest.mark.parametrize(("check", "answer"), [(check_llm_int8, split), (check_smooth, smooth), (check_share, share)])
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
