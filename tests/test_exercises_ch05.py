"""The exercises of chapter 5: right answers pass, wrong ones are refused with a hint of their own."""

from __future__ import annotations

import math

import bitsandbytes as bnb
import numpy as np
import pytest
import torch
from torch import nn

from sana_lab.exercises.ch05 import check_left_in_16_bits, check_unpack
from sana_lab.layers import holding


def scales(layer):
    """What a layer's rows are worth, before its first call and after it."""
    return layer.weight.SCB if layer.weight.SCB is not None else layer.state.SCB


def unpack(layer, *, highest=127, dtype=torch.float32):
    return layer.weight.data.to(dtype) * scales(layer)[:, None].to(dtype) / highest


def spoiling(layer):
    """The right answer, and a layer that is broken afterwards."""
    kept = scales(layer)
    kept /= 127
    return layer.weight.data.float() * kept[:, None]


def one_off_at_zero(layer):
    right = unpack(layer)
    return torch.where(layer.weight.data == 0, scales(layer)[:, None] / 127, right)


UNPACK_WRONG = {
    "bare codes": (lambda m: m.weight.data.float(), "bare codes"),
    "integers": (lambda m: m.weight.data, "floating point"),
    "nothing": (lambda m: None, "is there a `return`"),
    "a list": (lambda m: unpack(m).tolist(), "a tensor of floating point numbers"),
    "not a number": (lambda m: unpack(m) * math.nan, "c * SCB"),
    "not divided": (lambda m: unpack(m, highest=1), "127 times"),
    "divided by 128": (lambda m: unpack(m, highest=128), "127/128"),
    "divided by 128, in bfloat16": (lambda m: unpack(m, highest=128, dtype=torch.bfloat16), "127/128"),
    "divided by 128, in float16": (lambda m: unpack(m, highest=128, dtype=torch.float16), "127/128"),
    "scale along columns": (
        lambda m: m.weight.data.float() * scales(m).mean().expand(m.weight.shape[1]) / 127,
        "c * SCB",
    ),
    "transposed": (lambda m: unpack(m).T, "weight is"),
    "one scale": (lambda m: m.weight.data.float() * scales(m).max() / 127, "c * SCB"),
    "raises": (lambda m: m.weight.data.float() * m.weight.scale, "raised AttributeError"),
    "before the first call alone": (lambda m: m.weight.data.float() * m.weight.SCB[:, None] / 127, "has been called"),
    "after the first call alone": (lambda m: m.weight.data.float() * m.state.SCB[:, None] / 127, "was never called"),
    "scales changed": (spoiling, "your function changes the scales of"),
    "codes changed": (lambda m: (unpack(m), m.weight.data.zero_())[0], "your function changes"),
    "wrong where the code is 0": (one_off_at_zero, "stands for exactly 0"),
    "rounded scales": (lambda m: m.weight.data.float() * (scales(m)[:, None] / 127).bfloat16().float(), "float32"),
}


@pytest.mark.parametrize("name", UNPACK_WRONG)
def test_wrong_ways_to_unpack_are_told_apart(name):
    answer, hint = UNPACK_WRONG[name]
    verdict = check_unpack(answer)
    assert not verdict.passed and hint in verdict.text, verdict


UNPACK_RIGHT = {
    "as in the chapter": unpack,
    "scales first": lambda m: m.weight.data.float() * (scales(m) / 127).unsqueeze(1),
    "in float64": lambda m: unpack(m, dtype=torch.float64),
    "in bfloat16": lambda m: unpack(m, dtype=torch.bfloat16),
    "in float16": lambda m: unpack(m, dtype=torch.float16),
    "by bitsandbytes": lambda m: bnb.functional.int8_vectorwise_dequant(m.weight.data, scales(m)),
    "by the package": lambda m: holding(m).codes * holding(m).scales[:, None] / 127,
    "from the state dict": lambda m: m.state_dict()["weight"].float() * m.state_dict()["SCB"][:, None] / 127,
    "of NumPy": lambda m: unpack(m).numpy(),
    "a parameter": lambda m: nn.Parameter(unpack(m)),
}


@pytest.mark.parametrize("name", UNPACK_RIGHT)
def test_right_ways_to_unpack_pass(name):
    verdict = check_unpack(UNPACK_RIGHT[name])
    assert verdict.passed, verdict


def linear(model, keep):
    return [name for name, layer in model.named_modules() if keep(layer)]


def no_codes(layer):
    return isinstance(layer, nn.Linear) and layer.weight.dtype != torch.int8


LISTS_WRONG = {
    "nothing": (lambda m: [], "walk over"),
    "every linear": (lambda m: linear(m, lambda x: isinstance(x, nn.Linear)), "subclass"),
    "every layer not int8": (
        lambda m: linear(m, lambda x: hasattr(x, "weight") and x.weight.dtype != torch.int8),
        "never candidates",
    ),
    "top level only": (
        lambda m: [n for n, x in m.named_children() if no_codes(x)],
        "full name",
    ),
    "wrong order": (lambda m: linear(m, no_codes)[::-1], "order"),
    "float32 alone": (
        lambda m: linear(m, lambda x: isinstance(x, nn.Linear) and x.weight.dtype == torch.float32),
        "bfloat16",
    ),
    "16 bits alone": (
        lambda m: linear(m, lambda x: isinstance(x, nn.Linear) and x.weight.dtype in (torch.half, torch.bfloat16)),
        "two layers of the test model are plain",
    ),
    "not in float64": (
        lambda m: linear(m, lambda x: no_codes(x) and x.weight.dtype != torch.float64),
        "several types",
    ),
    "the same names always": (lambda m: ["block.1", "out"], "bfloat16"),
    "by the class": (lambda m: linear(m, lambda x: type(x) is nn.Linear), "no device has quantized"),
    "by the type of the weight": (
        lambda m: linear(m, lambda x: isinstance(x, nn.Linear) and not isinstance(x.weight, bnb.nn.Int8Params)),
        "no device has quantized",
    ),
    "by its having scales": (
        lambda m: linear(m, lambda x: isinstance(x, nn.Linear) and not hasattr(x.weight, "SCB")),
        "no device has quantized",
    ),
    "by where scales are before a call": (
        lambda m: linear(m, lambda x: isinstance(x, nn.Linear) and getattr(x.weight, "SCB", None) is None),
        "has been called",
    ),
    "None": (lambda m: None, "return a list of names; this is NoneType"),
    "layers": (lambda m: [x for x in m.modules() if no_codes(x)], "return names, which are strings"),
    "pairs": (lambda m: [[n, x] for n, x in m.named_modules() if no_codes(x)], "return names, which are strings"),
    "one string": (lambda m: "block.1, out", "return a list of names; this is str"),
    "changes the model": (lambda m: (linear(m, no_codes), m.half())[0], "your function changes"),
}


@pytest.mark.parametrize("name", LISTS_WRONG)
def test_wrong_lists_are_told_apart(name):
    answer, hint = LISTS_WRONG[name]
    verdict = check_left_in_16_bits(answer)
    assert not verdict.passed and hint in verdict.text, verdict


@pytest.mark.parametrize("kind", [list, tuple, iter, np.array, dict.fromkeys])
def test_the_right_list_passes_in_any_type(kind):
    verdict = check_left_in_16_bits(lambda m: kind(linear(m, no_codes)))
    assert verdict.passed, verdict
