"""Chapter 8's exercises: the stored solutions pass, and each named wrong answer is refused with its own hint."""

import re
from pathlib import Path

import pytest
import stored_answers
import torch
import torch.nn.functional as F

from sana_lab.exercises.ch08 import check_e4m3, check_pointwise

CHAPTER = Path(__file__).resolve().parent.parent / "notebooks" / "08_faster_two_kinds.ipynb"


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


def e4m3(numbers, *, least=-6, bits=3, top=448.0, ties="even"):
    """The right answer of exercise 2, with one thing changed at a time."""
    exponent = torch.floor(torch.log2(numbers.abs().clamp(min=1e-300))).clamp(min=least)
    step = 2.0 ** (exponent - bits)
    count = numbers / step
    rounded = {"even": count.round(), "up": (count + 0.5).floor(), "down": count.trunc(),
               "away": count.sign() * (count.abs() + 0.5).floor()}[ties]  # fmt: skip
    return (rounded * step).clamp(-top, top)


def by_frexp(numbers):
    step = torch.ldexp(torch.ones_like(numbers), (torch.frexp(numbers).exponent - 1).clamp(min=-6) - 3)
    return (torch.round(numbers / step) * step).clamp(min=-448, max=448)


def int8(numbers):
    step = numbers.abs().max() / 127
    return (numbers / step).round() * step


def scales(numbers):
    numbers *= 1.0
    numbers[0] += 1.0
    return e4m3(numbers)


P, E = check_pointwise, check_e4m3
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
    "e4m3: stub": (E, lambda x: x, "as they came"),
    "e4m3: nothing": (E, lambda x: None, "return a tensor"),
    "e4m3: PyTorch's": (E, lambda x: x.clamp(-448, 448).to(torch.float8_e4m3fn).to(x.dtype), "own conversion"),
    "e4m3: PyTorch's, by a view": (E, lambda x: x.to(dtype=torch.float8_e4m3fn).to(x.dtype), "own conversion"),
    "e4m3: no subnormals": (E, lambda x: e4m3(x, least=-1000), "do not shrink for ever"),
    "e4m3: least -7": (E, lambda x: e4m3(x, least=-7), "-6, not -7|stays that of"),
    "e4m3: two bits": (E, lambda x: e4m3(x, bits=2), "not four|stays as it is"),
    "e4m3: four bits": (E, lambda x: e4m3(x, bits=4), "not sixteen|ordinary number"),
    "e4m3: no end": (E, lambda x: e4m3(x, top=1e30), "nothing: stay there"),
    "e4m3: ends at 240": (E, lambda x: e4m3(x, top=240.0), "stays as it is"),
    "e4m3: to infinity": (E, lambda x: torch.where(x.abs() > 448, float("inf"), e4m3(x)), "largest is 448"),
    "e4m3: rounds up": (E, lambda x: e4m3(x, ties="up"), "even last bit"),
    "e4m3: rounds away": (E, lambda x: e4m3(x, ties="away"), "even last bit"),
    "e4m3: cuts off": (E, lambda x: e4m3(x, ties="down"), "ordinary number"),
    "e4m3: int8": (E, int8, "stays as it is"),
    "e4m3: loses the sign": (E, lambda x: e4m3(x.abs()), "stays as it is"),
    "e4m3: changes its input": (E, scales, "changes `numbers`"),
    "e4m3: flattened": (E, lambda x: e4m3(x)[:, None], "of shape"),
}
RIGHT = {
    "pointwise": (P, pointwise),
    "pointwise: a product": (P, by_einsum),
    "pointwise: an array": (P, lambda w, b, h: pointwise(w, b, h).numpy()),
    "pointwise: not contiguous": (P, lambda w, b, h: linear(w, b, h).movedim(-1, 1)),
    "e4m3": (E, e4m3),
    "e4m3: by frexp": (E, by_frexp),
    "e4m3: an array": (E, lambda x: e4m3(x).numpy()),
    "e4m3: float32": (E, lambda x: e4m3(x).float()),
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
    stored_answers.hold(CHAPTER, P, E, F=F, torch=torch)
