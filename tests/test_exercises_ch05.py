"""The exercises of chapter 5: right answers pass, wrong ones are refused with a hint of their own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sana_lab.exercises.ch05 import check_left_in_16_bits, check_unpack

UNPACK_WRONG = {
    "bare codes": (lambda m: m.weight.data.float(), "bare codes"),
    "integers": (lambda m: m.weight.data, "floating point"),
    "not divided": (lambda m: m.weight.data.float() * m.weight.SCB[:, None], "127 times"),
    "divided by 128": (lambda m: m.weight.data.float() * m.weight.SCB[:, None] / 128, "127/128"),
    "scale along columns": (
        lambda m: m.weight.data.float() * m.weight.SCB.mean().expand(m.weight.shape[1]) / 127,
        "c * SCB",
    ),
    "transposed": (lambda m: (m.weight.data.float() * m.weight.SCB[:, None] / 127).T, "weight is"),
    "one scale": (lambda m: m.weight.data.float() * m.weight.SCB.max() / 127, "c * SCB"),
    "raises": (lambda m: m.weight.data.float() * m.weight.scale, "raised AttributeError"),
}


@pytest.mark.parametrize("name", UNPACK_WRONG)
def test_wrong_ways_to_unpack_are_told_apart(name):
    answer, hint = UNPACK_WRONG[name]
    verdict = check_unpack(answer)
    assert not verdict.passed and hint in verdict.text, verdict


def test_the_right_way_to_unpack_passes():
    assert check_unpack(lambda m: m.weight.data.float() * (m.weight.SCB / 127).unsqueeze(1)).passed


def linear(model, keep):
    return [name for name, layer in model.named_modules() if keep(layer)]


LISTS_WRONG = {
    "nothing": (lambda m: [], "walk over"),
    "every linear": (lambda m: linear(m, lambda x: isinstance(x, nn.Linear)), "subclass"),
    "every layer not int8": (
        lambda m: linear(m, lambda x: hasattr(x, "weight") and x.weight.dtype != torch.int8),
        "never candidates",
    ),
    "top level only": (
        lambda m: [n for n, x in m.items() if type(x) is nn.Linear],
        "full name",
    ),
    "wrong order": (lambda m: linear(m, lambda x: type(x) is nn.Linear)[::-1], "order"),
}


@pytest.mark.parametrize("name", LISTS_WRONG)
def test_wrong_lists_are_told_apart(name):
    answer, hint = LISTS_WRONG[name]
    verdict = check_left_in_16_bits(answer)
    assert not verdict.passed and hint in verdict.text, verdict


def test_the_right_list_passes():
    assert check_left_in_16_bits(lambda m: linear(m, lambda x: type(x) is nn.Linear)).passed
