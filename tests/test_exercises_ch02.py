"""Chapter 2's exercises: the stored solutions pass, and each named wrong answer is refused with its own hint."""

import json
import math
import re
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from sana_lab import int8
from sana_lab.exercises import Verdict, exercise
from sana_lab.exercises.ch02 import check_absmax_rows, check_affine, check_best_range, check_bits_per_value

CHAPTER = Path(__file__).resolve().parent.parent / "notebooks" / "02_eight_bits_from_scratch.ipynb"
TINY = 1e-38


def rows(x, *, dim=1, highest=127, rounding=torch.round, tiny=TINY, keepdim=True, returned=None, dtype=None):
    """The right answer of exercise 1, with one thing changed at a time."""
    x = x if dtype is None else x.to(dtype)
    absmax = x.abs().amax(dim=dim, keepdim=True) if dim is not None else x.abs().max().expand(x.shape[0], 1)
    step = (absmax / highest).clamp(min=tiny)
    codes = rounding(x / step).to(torch.int8)
    step = absmax if returned == "absmax" else step
    return codes, step if keepdim else step.flatten()


def infinite(x):
    """A row of zeros gets an infinite step: its codes are 0, and 0 times infinity is NaN."""
    absmax = x.abs().amax(dim=1, keepdim=True)
    step = torch.where(absmax > 0, absmax / 127, torch.inf)
    return torch.round(x / step).to(torch.int8), step


def as_one(x):
    """Zeros' step is 1: as good as any."""
    absmax = x.abs().amax(dim=1, keepdim=True)
    step = torch.where(absmax > 0, absmax / 127, 1.0)
    return torch.round(x / step).to(torch.int8), step


def coarse(x, dtype):
    codes, step = rows(x)
    return codes, step.to(dtype)


def in_place(x):
    step = (x.abs().amax(dim=1, keepdim=True) / 127).clamp(min=TINY)
    return x.div_(step).round_().to(torch.int8), step


def centered(x):
    x -= x.mean()
    return uneven(x)


def consistent(x, dtype):
    """Steps in a coarse type, and codes for these very steps: no number moves by more than half of one."""
    step = (x.abs().amax(dim=1, keepdim=True) / 127).to(dtype)
    step = torch.where(step > 0, step, torch.ones_like(step))
    return torch.round(x / step).to(torch.int8), step


def in_loops(x):
    largest = [max(abs(value) for value in row) for row in x.tolist()]
    steps = [value / 127 or 1.0 for value in largest]
    codes = [[round(value / step) for value in row] for row, step in zip(x.tolist(), steps, strict=True)]
    return torch.tensor(codes, dtype=torch.int8), torch.tensor(steps)[:, None]


def seen(answer, known):
    """Hard-coded: right for the first of the check's cases, and a guess after it."""
    calls = []

    def function(*given):
        calls.append(given)
        return answer(*given) if len(calls) == 1 else known(*given)

    return function


def away(x):
    return x.sign() * (x.abs() + 0.5).floor()


def uneven(x, *, low=None, high=None, widen=True, symmetric=False, steps=255, round_zero=True, start=-128, wrap=None):
    """The right answer of exercise 2, with one thing changed at a time."""
    low, high = (x.min(), x.max()) if not widen else (x.min().clamp(max=0), x.max().clamp(min=0))
    if symmetric:
        step, zero_point = x.abs().max() / 127, torch.tensor(0.0)
    else:
        step = (high - low) / steps
        zero_point = start - low / step
        zero_point = zero_point.round() if round_zero else zero_point
    codes = (x / step + zero_point).round().clamp(-128, 127)
    return codes.to(wrap or torch.int8), step, zero_point


def flipped(x):
    codes, step, zero_point = uneven(x)
    return codes, step, -zero_point - 1


def block_bits(values, bits, block):
    return bits + 32 * math.ceil(values / block) / values


def best(x, bits, *, lowest=0.01, score=None):
    """The right answer of exercise 4, with one thing changed at a time."""
    score = score or (lambda x, y: int8.sqnr_db(x, y))
    parts = [i / 100 for i in range(1, 101) if i / 100 >= lowest]
    return max(parts, key=lambda part: score(x, int8.quantize(x, bits, clip=part).dequantize()))


WRONG = {
    "rows: stub": (check_absmax_rows, lambda x: None, "return 2 things"),
    "rows: floats": (check_absmax_rows, lambda x: (rows(x)[0].float(), rows(x)[1]), "torch.int8"),
    "rows: one step for all": (check_absmax_rows, lambda x: rows(x, dim=None), "lost .* each row's own"),
    "rows: columns": (check_absmax_rows, lambda x: rows(x, dim=0), "5 rows need as many steps in a column"),
    "rows: flat steps": (check_absmax_rows, lambda x: rows(x, keepdim=False), "keepdim=True"),
    "rows: cut off": (check_absmax_rows, lambda x: rows(x, rounding=torch.trunc), "cuts off"),
    "rows: floor": (check_absmax_rows, lambda x: rows(x, rounding=torch.floor), "lost (0.9|1.0)"),
    "rows: 128": (check_absmax_rows, lambda x: rows(x, highest=128), "divide by 127"),
    "rows: 100": (check_absmax_rows, lambda x: rows(x, highest=100), "half a step"),
    "rows: absmax returned": (check_absmax_rows, lambda x: rows(x, returned="absmax"), "the step is absmax / 127"),
    "rows: ties away": (check_absmax_rows, lambda x: rows(x, rounding=away), "even code"),
    "rows: zeros": (check_absmax_rows, lambda x: rows(x, tiny=0), "row of zeros"),
    "rows: an infinite step": (check_absmax_rows, infinite, "yours is inf"),
    "rows: a wide floor": (check_absmax_rows, lambda x: rows(x, tiny=7e-6), "9e-31 reads back as zeros"),
    "rows: a floor of 1e-8": (check_absmax_rows, lambda x: rows(x, tiny=1e-8), "far too wide"),
    "rows: nothing against zero but a bit more": (
        check_absmax_rows,
        lambda x: (rows(x)[0], rows(x)[1] + 1e-3),
        "half a step|far too wide|reads back",
    ),
    "rows: steps in bfloat16": (check_absmax_rows, lambda x: coarse(x, torch.bfloat16), "keep the steps in float32"),
    "rows: steps in float16": (check_absmax_rows, lambda x: coarse(x, torch.float16), "keep the steps in float32"),
    "rows: float16 steps, codes for these": (
        check_absmax_rows,
        lambda x: consistent(x, torch.float16),
        "keep the steps in float32",
    ),
    "rows: a floor under the absmax": (
        check_absmax_rows,
        lambda x: rows(x, tiny=1e-12 / 127),
        "far too wide",
    ),
    "rows: in place": (check_absmax_rows, in_place, "your function changes `x`"),
    "rows: sorted in place": (
        check_absmax_rows,
        lambda x: (rows(x), x.copy_(x.sort(dim=1).values))[0],
        "your function changes `x`",
    ),
    "rows: hard-coded": (check_absmax_rows, seen(rows, lambda x: rows(torch.ones(5, 40))), "shape \\(1, 1\\)"),
    "rows: one thing": (check_absmax_rows, lambda x: rows(x)[0], "return 2 things"),
    "rows: text": (check_absmax_rows, lambda x: (rows(x)[0], "step"), "a tensor as `step`; this is str"),
    "rows: raises": (check_absmax_rows, lambda x: x.nonsense(), "raised AttributeError"),
    "affine: stub": (check_affine, lambda x: None, "return 3 things"),
    "affine: unsigned": (check_affine, lambda x: uneven(x, start=0, wrap=torch.uint8), "torch.int8"),
    "affine: zero point not rounded": (check_affine, lambda x: uneven(x, round_zero=False), "Round it"),
    "affine: range not widened": (check_affine, lambda x: uneven(x, widen=False), "Widen the range"),
    "affine: symmetric": (check_affine, lambda x: uneven(x, symmetric=True), "need not be symmetric"),
    "affine: 256 steps": (check_affine, lambda x: uneven(x, steps=256), "255|half a step"),
    "affine: zero point's sign": (check_affine, flipped, "exactly zero"),
    "affine: -127": (check_affine, lambda x: uneven(x, start=-127), "half a step"),
    "affine: two steps": (
        check_affine,
        lambda x: (uneven(x)[0], torch.ones(2), torch.zeros(1)),
        "one step and one zero",
    ),
    "affine: in place": (check_affine, lambda x: uneven(x.sub_(0.5)), "your function changes `x`"),
    "affine: centered": (check_affine, centered, "your function changes `x`"),
    "affine: step in bfloat16": (
        check_affine,
        lambda x: (uneven(x)[0], uneven(x)[1].bfloat16(), uneven(x)[2]),
        "itself rounded|larger? than|times as large",
    ),
    "affine: hard-coded": (check_affine, seen(uneven, lambda x: uneven(torch.arange(200.0))), "values from -1 to 3"),
    "bits: stub": (check_bits_per_value, lambda values, bits, block: None, "return a number"),
    "bits: no scales": (check_bits_per_value, lambda values, bits, block: bits, "brings a scale of 32 bits"),
    "bits: bytes": (check_bits_per_value, lambda v, b, n: block_bits(v, b, n) / 8, "that is bytes"),
    "bits: whole tensor": (check_bits_per_value, lambda v, b, n: block_bits(v, b, n) * v, "divide by the number"),
    "bits: 4 for 32": (check_bits_per_value, lambda v, b, n: b + 4 * math.ceil(v / n) / v, "4 bytes, which are 32"),
    "bits: blocks rounded down": (check_bits_per_value, lambda v, b, n: b + 32 * (v // n) / v, "round the number of"),
    "bits: 32 / block": (check_bits_per_value, lambda v, b, n: b + 32 / n, "short last block"),
    "bits: rounded to nearest": (
        check_bits_per_value,
        lambda v, b, n: b + 32 * round(v / n) / v,
        "1,040 values .* round the number of blocks up",
    ),
    "bits: nearest, one at least": (
        check_bits_per_value,
        lambda v, b, n: b + 32 * max(1, round(v / n)) / v,
        "round the number of blocks up",
    ),
    "bits: scales of 16": (check_bits_per_value, lambda v, b, n: b + 16 * math.ceil(v / n) / v, "32 bits each"),
    "bits: one block too many": (check_bits_per_value, lambda v, b, n: b + 32 * (v // n + 1) / v, "you say"),
    "bits: hard-coded": (check_bits_per_value, seen(block_bits, lambda v, b, n: 4.5), "8 bits .* cost 8.5"),
    "bits: a truth": (check_bits_per_value, lambda v, b, n: True, "this is bool"),
    "bits: a word": (check_bits_per_value, lambda v, b, n: "4.5", "this is str"),
    "bits: upside down": (check_bits_per_value, lambda v, b, n: b + n / 32, "cost 4.5 bits each, you say 6"),
    "range: all of it": (check_best_range, lambda x, bits: 1.0, "the whole range keeps .* Try some"),
    "range: the chapter's star": (
        check_best_range,
        lambda x, bits: {4: 0.6, 3: 0.45, 2: 0.3, 8: 0.9}[bits],
        "4 bits: a range",
    ),
    "range: not below 0.2": (
        check_best_range,
        lambda x, bits: best(x, bits, lowest=0.2),
        "outlier of 15 at 3 bits: .* another",
    ),
    "range: three sigma": (
        check_best_range,
        lambda x, bits: min(1, (3 * x.std() / x.abs().max()).item()),
        "another|the whole",
    ),
    "range: the largest error": (
        check_best_range,
        lambda x, bits: best(x, bits, score=lambda x, y: -(x - y).abs().max().item()),
        "another one up to|the whole range",
    ),
    "range: in the unit of x": (
        check_best_range,
        lambda x, bits: best(x, bits) * x.abs().max().item(),
        "no part of the absmax|unit of x",
    ),
    "range: bits forgotten": (check_best_range, lambda x, bits: best(x, 4), "uniform|normal"),
    "range: nothing": (check_best_range, lambda x, bits: None, "above 0 and up to 1; this is None"),
    "range: zero": (check_best_range, lambda x, bits: 0, "0 is no part"),
    "range: in place": (check_best_range, lambda x, bits: best(x.div_(x.abs().max()), bits), "changes `x`"),
    "bits: not called": (check_bits_per_value, 4.5, "without calling it; this is float"),
}


@pytest.mark.parametrize(("check", "answer", "hint"), WRONG.values(), ids=WRONG)
def test_a_wrong_answer_gets_its_own_hint(check, answer, hint):
    verdict = check(answer)
    assert not verdict.passed
    assert repr(verdict).startswith("Not yet: ")
    assert len(repr(verdict)) < 260
    assert re.search(hint, verdict.text), verdict.text


RIGHT = {
    "rows": (check_absmax_rows, rows),
    "rows: in float64": (check_absmax_rows, lambda x: rows(x, dtype=torch.float64)),
    "rows: another step for zeros": (check_absmax_rows, as_one),
    "rows: the smallest normal": (check_absmax_rows, lambda x: rows(x, tiny=torch.finfo(torch.float32).tiny)),
    "rows: bfloat16 steps, codes for these": (check_absmax_rows, lambda x: consistent(x, torch.bfloat16)),
    "rows: in loops": (check_absmax_rows, in_loops),
    "rows: a list": (check_absmax_rows, lambda x: list(rows(x))),
    "rows: of NumPy": (check_absmax_rows, lambda x: tuple(part.numpy() for part in rows(x))),
    "rows: with a gradient": (check_absmax_rows, lambda x: (rows(x)[0], rows(x)[1].requires_grad_())),
    "rows: a copy changed": (check_absmax_rows, lambda x: in_place(x.clone())),
    "affine": (check_affine, uneven),
    "affine: in float64": (check_affine, lambda x: uneven(x.double())),
    "affine: zero point in int32": (check_affine, lambda x: (*uneven(x)[:2], uneven(x)[2].int())),
    "affine: plain numbers": (check_affine, lambda x: (uneven(x)[0], uneven(x)[1].item(), int(uneven(x)[2]))),
    "affine: of shape 1": (check_affine, lambda x: (uneven(x)[0], *(part.reshape(1) for part in uneven(x)[1:]))),
    "range": (check_best_range, best),
    "range: a Fraction": (check_best_range, lambda x, bits: Fraction(round(100 * best(x, bits)), 100)),
    "range: a tensor": (check_best_range, lambda x, bits: torch.tensor(best(x, bits))),
    "range: np.float32": (check_best_range, lambda x, bits: np.float32(best(x, bits))),
    "range: by the mean square": (
        check_best_range,
        lambda x, bits: best(x, bits, score=lambda x, y: -(x - y).square().mean().item()),
    ),
    "bits": (check_bits_per_value, block_bits),
    "bits: np.float32": (check_bits_per_value, lambda v, b, n: np.float32(block_bits(v, b, n))),
    "bits: np.float64": (check_bits_per_value, lambda v, b, n: b + 32 * np.ceil(v / n) / v),
    "bits: Fraction": (check_bits_per_value, lambda v, b, n: b + Fraction(32 * math.ceil(v / n), v)),
    "bits: a tensor": (check_bits_per_value, lambda v, b, n: torch.tensor(block_bits(v, b, n))),
    "bits: Decimal": (check_bits_per_value, lambda v, b, n: Decimal(block_bits(v, b, n))),
}


@pytest.mark.parametrize(("check", "answer"), RIGHT.values(), ids=RIGHT)
def test_a_right_answer_passes(check, answer):
    verdict = check(answer)
    assert verdict.passed, verdict
    assert repr(verdict).startswith("Right: ")


def test_the_chapters_stubs_are_refused_and_its_solutions_pass():
    cells = [c for c in json.loads(CHAPTER.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    checks = {
        "absmax_rows": check_absmax_rows,
        "affine": check_affine,
        "bits_per_value": check_bits_per_value,
        "best_range": check_best_range,
    }
    taught = {}
    for name in ("round_trip_clipped", "sqnr"):
        (source,) = ["".join(c["source"]) for c in cells if f"def {name}(" in "".join(c["source"])]
        definition = next(part for part in source.split("\n\n\n") if part.startswith(f"def {name}("))
        exec(definition.split("\n\n\n")[0], {"torch": torch, "math": math}, taught)
        taught[name].__globals__.update(taught)
    for name in checks:
        *_, stub, solution = [
            "".join(c["source"]) for c in cells if f"def {name}(" in "".join(c["source"])
        ]  # the text may define it too
        for source, passes in ((stub, False), (solution, True)):
            namespace = {"torch": torch, "math": math, **taught, **{f"check_{n}": c for n, c in checks.items()}}
            exec(source, namespace)
            assert checks[name](namespace[name]).passed is passes, source


def test_a_verdict_reads_as_a_sentence():
    assert repr(Verdict(True, "good.")) == "Right: good."
    assert exercise(lambda answer: answer())(lambda: "done.").text == "done."
