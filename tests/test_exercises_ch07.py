"""Chapter 7's exercises: the stored solutions pass, and each named wrong answer is refused with its own hint."""

import re
from pathlib import Path

import pytest
import stored_answers
import torch

from sana_lab.exercises.ch07 import check_step_ms, check_steps, steps_of

CHAPTER = Path(__file__).resolve().parent.parent / "notebooks" / "07_what_eight_bits_cost.ipynb"


def step_ms(busy_ms, kernels, launch_us, graph):
    return busy_ms if graph else max(busy_ms, kernels * launch_us / 1e3)


def with_an_if(hidden, threshold):
    large = hidden.abs() >= threshold
    if large.any():
        hidden = hidden.masked_fill(large, 0)
    return hidden.abs().amax(1, keepdim=True) / 127


def by_mask(hidden, threshold):
    hidden = hidden.clone()
    hidden[hidden.abs() >= threshold] = 0
    return hidden.abs().amax(1, keepdim=True) / 127


def by_item(hidden, threshold):
    largest = hidden.abs().max().item()
    hidden = hidden.masked_fill(hidden.abs() >= threshold, 0) if largest >= threshold else hidden
    return hidden.abs().amax(1, keepdim=True) / 127


def by_rows(hidden, threshold):
    return torch.stack([row[row.abs() < threshold].abs().amax() for row in hidden])[:, None] / 127


def whole_column(hidden, threshold):
    return hidden.masked_fill((hidden.abs() >= threshold).any(0), 0).abs().amax(1, keepdim=True) / 127


def in_place(hidden, threshold):
    return hidden.masked_fill_(hidden.abs() >= threshold, 0).abs().amax(1, keepdim=True) / 127


def without(hidden, large):
    return hidden.masked_fill(large, 0).abs().amax(1, keepdim=True) / 127


M, S = check_step_ms, check_steps
WRONG = {
    "step_ms: stub": (M, lambda b, k, u, g: 0.0, "you say 0"),
    "step_ms: nothing": (M, lambda b, k, u, g: None, "return milliseconds"),
    "step_ms: a sum": (M, lambda b, k, u, g: b if g else b + k * u / 1e3, "not the sum"),
    "step_ms: the faster": (M, lambda b, k, u, g: b if g else min(b, k * u / 1e3), "slower of the two"),
    "step_ms: µs as ms": (M, lambda b, k, u, g: b if g else max(b, k * u), "thousand microseconds"),
    "step_ms: launches alone": (
        M,
        lambda b, k, u, g: b if g else k * u / 1e3,
        "GPU may be the slower|slower of the two",
    ),
    "step_ms: busy alone": (M, lambda b, k, u, g: b, "slower of the two decides"),
    "step_ms: no graph": (M, lambda b, k, u, g: max(b, k * u / 1e3), "nothing is launched one by one"),
    "step_ms: exchanged": (M, lambda b, k, u, g: step_ms(b, k, u, not g), "slower of the two|nothing is launched"),
    "steps: stub": (S, lambda h, t: None, "return a tensor"),
    "steps: an if": (S, with_an_if, "waits for the GPU's numbers"),
    "steps: a mask": (S, by_mask, "waits for the GPU's numbers"),
    "steps: item": (S, by_item, "waits for the GPU's numbers"),
    "steps: row by row": (S, by_rows, "waits for the GPU's numbers"),
    "steps: outliers kept": (S, lambda h, t: h.abs().amax(1, keepdim=True) / 127, "leave it out first"),
    "steps: the largest": (S, lambda h, t: 127 * steps_of(h, t), "127th"),
    "steps: 128": (S, lambda h, t: steps_of(h, t) * 127 / 128, "-127 to 127"),
    "steps: no axis": (S, lambda h, t: steps_of(h, t).squeeze(1), "keep the axis"),
    "steps: one for all": (S, lambda h, t: steps_of(h, t).amax(), "one step for each row"),
    "steps: negative forgotten": (S, lambda h, t: without(h, h >= t), "may be negative"),
    "steps: larger than": (S, lambda h, t: without(h, h.abs() > t), "as large as the threshold"),
    "steps: whole columns": (S, whole_column, "not all of their column"),
    "steps: clamped": (S, lambda h, t: h.abs().clamp(max=t).amax(1, keepdim=True) / 127, "clamped they still count"),
    "steps: in place": (S, in_place, "changes `hidden`"),
}
RIGHT = {
    "step_ms": (M, step_ms),
    "step_ms: a tensor": (M, lambda b, k, u, g: torch.tensor(step_ms(b, k, u, g), dtype=torch.float64)),
    "steps": (S, steps_of),
    "steps: where": (S, lambda h, t: torch.where(h.abs() < t, h.abs(), 0).amax(1, keepdim=True) / 127),
    "steps: a product": (S, lambda h, t: (h * (h.abs() < t)).abs().max(1, keepdim=True).values / 127),
    "steps: float64": (S, lambda h, t: steps_of(h.double(), t)),
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
    stored_answers.hold(CHAPTER, M, S, torch=torch)
