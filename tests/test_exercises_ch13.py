"""Chapter 13: the published answer passes, named wrong ones do not."""

import pytest
import torch

from sana_lab.exercises.ch13 import check_is_picture

WRONG = {
    "not black": (lambda values: bool(values.max() > 0), "is nan|is inf|NaN"),
    "no NaN": (lambda values: not bool(values.isnan().any()), "is inf"),
    "finite": (lambda values: bool(values.isfinite().all()), "black"),
    "one color by the mean": (lambda v: bool(v.isfinite().all()) and bool(v.mean() > 0), "one color"),
    "spread too large": (lambda v: bool(v.isfinite().all()) and bool(v.float().std() > 0.2), "one green point"),
    "a comparison": (lambda v: not bool(v.min() == v.max()), "NaN"),
    "nothing": (lambda v: None, "True or False"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong(name):
    answer, hint = WRONG[name]
    found = check_is_picture(answer)
    assert not found.passed and __import__("re").search(hint, found.text), found.text


def test_right():
    def answer(values):
        return bool(torch.isfinite(values).all()) and bool(values.max() > values.min())

    assert check_is_picture(answer).passed
