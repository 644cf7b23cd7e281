"""Chapter 4's exercises: the stored solutions pass, and each named wrong answer is refused with its own hint."""

import math
import re
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import bitsandbytes
import numpy as np
import pytest
import stored_answers
import torch
from torch import nn

from sana_lab.accounting import build
from sana_lab.exercises.ch04 import check_first_to_quantize, check_nf4_bytes, check_ratio_with_pointwise

CHAPTER = Path(__file__).resolve().parent.parent / "notebooks" / "04_where_the_bytes_are.ipynb"


def ratio(
    model,
    *,
    kinds=nn.Linear | nn.Conv2d,
    kernel=lambda size: size == (1, 1),
    groups=True,
    bias=(),
    saved=False,
    walk=nn.Module.modules,
    counted=nn.Module.parameters,
):
    """The right answer of exercise 1, with one thing changed at a time."""
    reached = 0
    for layer in walk(model):
        if not isinstance(layer, kinds):
            continue
        if isinstance(layer, nn.Conv2d) and (not kernel(layer.kernel_size) or (groups and layer.groups > 1)):
            continue
        reached += layer.weight.numel()
        reached += layer.bias.numel() if isinstance(layer, bias) and layer.bias is not None else 0
    share = reached / (2 * sum(p.numel() for p in counted(model)))
    return share if saved else 1 - share


def spoiled(model):
    """The right answer, from a function that takes the layers out of the model as it counts them."""
    found = ratio(model)
    for name, _ in list(model.named_children()):
        delattr(model, name)
    return found


def everything(model):
    return 0.5


def nf4(rows, columns, *, up=True, code=64, absmax=4, each_row=False):
    """The right answer of exercise 2, with one thing changed at a time."""
    n, whole = rows * columns, (math.ceil if up else math.floor)
    blocks = rows * math.ceil(columns / 64) if each_row else whole(n / 64)
    return whole(n / 2) + absmax * blocks + code


def weights(model):
    return sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, nn.Linear))


def size(model):
    return sum(p.numel() for p in model.parameters())


def first(key):
    return lambda models: max(models, key=lambda name: key(models[name]))


POINTWISE, NF4, FIRST = check_ratio_with_pointwise, check_nf4_bytes, check_first_to_quantize
WRONG = {
    "ratio: stub": (POINTWISE, lambda model: float("nan"), "return a number"),
    "ratio: Linear only": (POINTWISE, lambda m: ratio(m, kinds=nn.Linear), "1 x 1 convolution: .*one matrix"),
    "ratio: no Linear": (POINTWISE, lambda m: ratio(m, kinds=nn.Conv2d), "only the weights of the Linear layer shrink"),
    "ratio: biases too": (POINTWISE, lambda m: ratio(m, bias=(nn.Linear, nn.Conv2d)), "the bias stays"),
    "ratio: biases of convolutions": (POINTWISE, lambda m: ratio(m, bias=nn.Conv2d), "its bias stays in 16 bits"),
    "ratio: all convolutions": (POINTWISE, lambda m: ratio(m, kernel=lambda size: True), "reads neighbors"),
    "ratio: height of the kernel alone": (POINTWISE, lambda m: ratio(m, kernel=lambda k: k[0] == 1), "both numbers"),
    "ratio: width of the kernel alone": (POINTWISE, lambda m: ratio(m, kernel=lambda k: k[1] == 1), "both numbers"),
    "ratio: outermost layers": (
        POINTWISE,
        lambda m: ratio(m, walk=nn.Module.children),
        "children\\(\\).* sees the outermost",
    ),
    "ratio: layers inside alone": (POINTWISE, lambda m: ratio(m, walk=lambda m: list(m.modules())[1:]), "model itself"),
    "ratio: buffers too": (POINTWISE, lambda m: ratio(m, counted=lambda m: m.state_dict().values()), "buffers"),
    "ratio: changes the model": (POINTWISE, spoiled, "your function changes the layers of `model`"),
    "ratio: a truth value": (POINTWISE, lambda model: True, "return a number; this is bool True"),
    "ratio: groups": (POINTWISE, lambda m: ratio(m, groups=False), "Look at `groups`"),
    "ratio: what is saved": (POINTWISE, lambda m: ratio(m, saved=True), "share that is saved"),
    "ratio: a half": (POINTWISE, everything, "only the weights of the Linear layer shrink"),
    "nf4: stub": (NF4, lambda rows, columns: 0, "you say 0$"),
    "nf4: one block too many": (NF4, lambda r, c: -(-r * c // 2) + 4 * (r * c // 64 + 1) + 64, "64 x 64 keep 2,048"),
    "nf4: codes rounded to even": (NF4, lambda r, c: round(r * c / 2) + 4 * -(-r * c // 64) + 64, "one more byte"),
    "nf4: blocks rounded to nearest": (NF4, lambda r, c: -(-r * c // 2) + 4 * round(r * c / 64) + 64, "the last block"),
    "nf4: at least one block": (NF4, lambda r, c: -(-r * c // 2) + 4 * max(1, r * c // 64) + 64, "the last block"),
    "nf4: codes only": (NF4, lambda r, c: nf4(r, c, absmax=0, code=0), "to read the values back"),
    "nf4: no code": (NF4, lambda r, c: nf4(r, c, code=0), "sixteen levels"),
    "nf4: no absmax": (NF4, lambda r, c: nf4(r, c, absmax=0), "brings its absmax"),
    "nf4: a byte a value": (NF4, lambda r, c: nf4(r, c) + math.floor(r * c / 2), "two codes share one"),
    "nf4: absmax of one byte": (NF4, lambda r, c: nf4(r, c, absmax=1), "an absmax is a float32"),
    "nf4: code of bytes": (NF4, lambda r, c: nf4(r, c, code=16), "a level is a float32"),
    "nf4: bits": (NF4, lambda r, c: 8 * nf4(r, c), "that is bits"),
    "nf4: a scale each row": (NF4, lambda r, c: -(-r * c // 2) + 4 * r + 64, "the 8-bit format"),
    "nf4: blocks in rows": (NF4, lambda r, c: nf4(r, c, each_row=True), "do not stop at the end of a row"),
    "nf4: rounded down": (NF4, lambda r, c: nf4(r, c, up=False), "round up"),
    "nf4: not rounded": (NF4, lambda r, c: r * c / 2 + 4 * r * c / 64 + 64, "round up"),
    "nf4: codes rounded down": (NF4, lambda r, c: r * c // 2 + 4 * -(-r * c // 64) + 64, "one more byte"),
    "nf4: blocks rounded down": (NF4, lambda r, c: -(-r * c // 2) + 4 * (r * c // 64) + 64, "the last block"),
    "first: stub": (FIRST, lambda models: None, "return a name, one of painter, mixer, reader"),
    "first: the largest": (FIRST, first(size), "the largest model need not"),
    "first: the most linear": (FIRST, first(lambda m: weights(m) / size(m)), "a share is not a saving"),
    "first: the most layers": (
        FIRST,
        first(lambda m: sum(isinstance(layer, nn.Linear) for layer in m.modules())),
        "do not count layers",
    ),
    "first: convolutions of 1 x 1 too": (
        FIRST,
        first(lambda m: 1 - ratio(m) and (1 - ratio(m)) * size(m)),
        "the recipe does not: count nn.Linear alone",
    ),
    "first: the longest name": (FIRST, lambda models: max(models, key=len), "'painter' is not it"),
    "first: a list": (FIRST, lambda models: ["reader"], "return a name"),
    "first: a place": (FIRST, lambda models: 2, "return a name"),
    "first: takes models away": (
        FIRST,
        lambda models: (first(weights)(models), models.popitem())[0],
        "changes the keys",
    ),
    "first: always the encoder": (
        FIRST,
        lambda models: "text_encoder" if "text_encoder" in models else "reader",
        "4.8B: 'text_encoder' is not it; .*not at its name",
    ),
    "first: always the transformer": (
        FIRST,
        lambda models: "transformer" if "transformer" in models else "reader",
        "600M-512: 'transformer' is not it",
    ),
    "first: raises": (FIRST, lambda models: models[0], "your function raised KeyError"),
}


@pytest.mark.parametrize(("check", "answer", "hint"), WRONG.values(), ids=WRONG)
def test_a_wrong_answer_gets_its_own_hint(check, answer, hint):
    verdict = check(answer)
    assert not verdict.passed
    assert re.search(hint, verdict.text), verdict.text


@pytest.mark.parametrize(("check", "answer"), [(POINTWISE, ratio), (NF4, nf4), (FIRST, first(weights))])
def test_a_right_answer_passes(check, answer):
    verdict = check(answer)
    assert verdict.passed, verdict.text


NUMBERS = {
    "float32": np.float32,
    "int64": lambda x: np.int64(x) if x == int(x) else np.float64(x),
    "fraction": Fraction,
    "decimal": Decimal,
    "tensor": torch.tensor,
    "tensor of one": lambda x: torch.tensor([float(x)]),
    "array": np.array,
}


@pytest.mark.parametrize("kind", NUMBERS)
@pytest.mark.parametrize(("check", "answer"), [(POINTWISE, ratio), (NF4, nf4)])
def test_a_number_may_be_of_any_type(check, answer, kind):
    verdict = check(lambda *args: NUMBERS[kind](answer(*args)))
    assert verdict.passed, verdict.text


@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (3, 100), (5, 13), (1, 1), (130, 7)])
def test_the_nf4_answer_is_what_bitsandbytes_keeps(rows, columns):
    codes, state = bitsandbytes.functional.quantize_4bit(torch.ones(rows, columns), blocksize=64, quant_type="nf4")
    assert nf4(rows, columns) == codes.nbytes + state.absmax.nbytes + state.code.nbytes


def test_the_invented_pipeline_agrees_with_counting_every_tensor():
    """The right names of exercise 3, with scales and all."""
    from sana_lab.accounting import predict

    for checkpoint, right in (("600M-512", "text_encoder"), ("1.5-4.8B", "transformer")):
        before, after = predict(checkpoint), predict(checkpoint, "int8")
        assert max(before, key=lambda name: before[name] - after[name]) == right
    assert ratio(build("600M-512")["transformer"]) == pytest.approx(0.5, abs=0.01)


def test_the_stored_solutions_pass_and_the_stubs_do_not():
    stored_answers.hold(CHAPTER, POINTWISE, NF4, FIRST, nn=nn)
