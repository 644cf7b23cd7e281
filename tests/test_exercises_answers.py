"""What all checks ask of an answer: any type of number, arguments left as they were, the right one blamed."""

from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from sana_lab.exercises import NotYet, exercise
from sana_lab.exercises.answers import ask, near, number, slack, tensor, tensors, whole

FOUR_AND_A_HALF = {
    "float": 4.5,
    "np.float64": np.float64(4.5),
    "np.float32": np.float32(4.5),
    "np.float16": np.float16(4.5),
    "0-d array": np.array(4.5),
    "0-d tensor": torch.tensor(4.5),
    "bf16": torch.tensor(4.5, dtype=torch.bfloat16),
    "one element": torch.tensor([4.5]),
    "with a gradient": torch.tensor(4.5, requires_grad=True),
    "Fraction": Fraction(9, 2),
    "Decimal": Decimal("4.5"),
}
WHOLE = {
    "int": 380,
    "np.int64": np.int64(380),
    "np.uint16": np.uint16(380),
    "float": 380.0,
    "Fraction": Fraction(760, 2),
    "0-d tensor": torch.tensor(380),
    "np.ceil": np.ceil(379.2),
}
NO_NUMBER = {
    "None": (None, "return"),
    "bool": (True, "bool"),
    "np.bool": (np.bool_(True), "bool"),
    "bool tensor": (torch.tensor(True), "bool"),
    "text": ("4.5", "str '4.5'"),
    "complex": (4.5 + 0j, "complex"),
    "several": (torch.ones(2, 3), r"a tensor of shape \(2, 3\)"),
    "an array of several": (np.ones(2), r"an array of shape \(2,\)"),
    "NaN": (float("nan"), "nan"),
    "infinity": (torch.tensor(float("inf")), "inf"),
    "a list": ([4.5], "list"),
}


@pytest.mark.parametrize("value", FOUR_AND_A_HALF.values(), ids=FOUR_AND_A_HALF)
def test_a_number_is_a_number_in_any_type(value):
    assert number(value) == 4.5 and near(value, 4.5)
    with pytest.raises(NotYet, match="a whole number.*4.5"):
        whole(value)


@pytest.mark.parametrize("value", WHOLE.values(), ids=WHOLE)
def test_a_whole_number_is_whole_in_any_type(value):
    assert whole(value) == 380 and isinstance(whole(value), int)


@pytest.mark.parametrize(("value", "said"), NO_NUMBER.values(), ids=NO_NUMBER)
def test_what_is_no_number_is_named(value, said):
    for asked in (number, whole):
        with pytest.raises(NotYet, match=f"return bits; .*{said}"):
            asked(value, "bits")


def test_half_precision_gets_more_slack_and_no_type_gets_all():
    third = 1 / 3
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        assert near(torch.tensor(third, dtype=dtype), third)
        assert not near(torch.tensor(third * 1.02, dtype=dtype), third)
    for dtype in (np.float64, np.float32, np.float16):
        assert near(dtype(third), third) and not near(dtype(third * 1.02), third)
    assert near(torch.tensor(third).item(), third)
    assert not near(third * (1 + 1e-5), third)
    assert slack(4) == slack(torch.tensor(4)) == slack(np.int64(4)) == 1e-6
    assert not near(torch.tensor(float("nan")), 1.0) and not near(float("nan"), 1.0)


def test_tensors_may_come_from_numpy_and_with_a_gradient():
    assert tensor(np.ones((2, 3)), (2, 3)).dtype == torch.float64
    assert not tensor(nn.Linear(2, 2).weight, (2, 2)).requires_grad
    for wrong in (None, [1.0], torch.ones(3, 2), 4.5):
        with pytest.raises(NotYet, match=r"return the output of shape \(2, 3\); this is"):
            tensor(wrong, (2, 3), "the output")
    one, two = tensors((torch.ones(2), 3), "codes, step")
    assert one.shape == (2,) and two.item() == 3
    for wrong in (None, torch.ones(2, 2), (torch.ones(1),) * 3, [torch.ones(1)]):
        with pytest.raises(NotYet, match="return 2 things: `return codes, step`"):
            tensors(wrong, "codes, step")
    with pytest.raises(NotYet, match="a tensor as `step`; this is None"):
        tensors((torch.ones(1), None), "codes, step")


def eight_bit():
    import bitsandbytes as bnb

    codes, scales = torch.ones(3, 4, dtype=torch.int8), torch.ones(3)
    layer = bnb.nn.Linear8bitLt(4, 3, bias=False, has_fp16_weights=False)
    layer.weight = bnb.nn.Int8Params(codes, requires_grad=False, has_fp16_weights=False, CB=codes, SCB=scales)
    return layer


def model():
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), eight_bit())


CHANGES = {
    "a tensor": (lambda x: x.mul_(2), lambda: torch.ones(3), "`x`"),
    "a tensor of integers": (lambda x: x.clamp_(max=3), lambda: torch.arange(9), "`x`"),
    "a view of it": (lambda x: x[1].zero_(), lambda: torch.ones(3, 2), "`x`"),
    "its NaN": (lambda x: x.nan_to_num_(), lambda: torch.tensor([float("nan")]), "`x`"),
    "its type": (lambda x: x.__setattr__("data", x.data.half()), lambda: torch.ones(3), "`x`"),
    "an array": (lambda x: x.sort(), lambda: np.array([3.0, 1.0]), "`x`"),
    "a list": (lambda x: x.pop(), lambda: [1, 2], "`x`"),
    "a list's order": (lambda x: x.reverse(), lambda: [1, 2], "`x`"),
    "a list in a tuple": (lambda x: x[0].append("b"), lambda: (["a"],), "`x`"),
    "a tensor in a list": (lambda x: x[0].add_(1), lambda: [torch.ones(1)], "`x`"),
    "a dict": (lambda x: x.pop("a"), lambda: {"a": 1}, "the keys of `x`"),
    "a dict's value": (lambda x: x.update(a=2), lambda: {"a": 1}, "'a' of `x`"),
    "a set": (lambda x: x.add(3), lambda: {1}, "`x`"),
    "a namespace": (lambda x: x.a.append(3), lambda: SimpleNamespace(a=[]), "'a' of `x`"),
    "a weight": (lambda m: m[0].weight.data.mul_(2), model, "`0.weight` of `m`"),
    "a buffer": (lambda m: m(torch.rand(2, 4)), lambda: nn.Sequential(nn.BatchNorm1d(4)), "`0.running_mean` of `m`"),
    "scales": (lambda m: m[2].weight.SCB.div_(127), model, "the scales of layer `2` of `m`"),
    "a layer's own scales": (lambda m: m.weight.SCB.div_(127), eight_bit, "the scales of `m`"),
    "a type": (lambda m: m[0].half(), model, "`0.weight` of `m`"),
    "the mode": (lambda m: m.eval(), model, "the layers of `m`"),
    "a layer more": (lambda m: m.append(nn.ReLU()), model, "the layers of `m`"),
}


@pytest.mark.parametrize(("answer", "make", "said"), CHANGES.values(), ids=CHANGES)
def test_a_changed_argument_is_named(answer, make, said):
    with pytest.raises(NotYet) as hint:
        ask(answer, make())
    assert str(hint.value).startswith(f"your function changes {said}, which"), hint.value


KEPT = {
    "a copy": (lambda x: x.clone().mul_(2), lambda: torch.ones(3)),
    "NaN": (lambda x: x * 2, lambda: torch.tensor([float("nan"), 1.0])),
    "on meta": (lambda x: x * 2, lambda: torch.ones(3, device="meta")),
    "a sorted copy": (sorted, lambda: [2, 1]),
    "a model read": (lambda m: list(m.parameters()), model),
    "a layer called": (lambda m: m(torch.rand(2, 4, dtype=torch.float16)), eight_bit),  # moves the scales to its state
    "a function": (lambda f: f(1), lambda: float),
}


@pytest.mark.parametrize(("answer", "make"), KEPT.values(), ids=KEPT)
def test_what_changes_nothing_is_let_through(answer, make):
    ask(answer, make())


def test_keywords_are_looked_at_and_a_wrong_call_speaks_for_itself():
    with pytest.raises(NotYet, match="`b`"):
        ask(lambda a, b: b.zero_(), 1, b=torch.ones(1))
    with pytest.raises(TypeError, match="argument"):
        ask(lambda a: a, 1, 2)


@exercise
def check_twice(answer):
    """Check that `answer(2)` is 4, carelessly."""
    if answer(2).double() != 4:
        raise NotYet("twice two is four")
    return "four."


def test_only_the_readers_own_exceptions_are_laid_at_the_readers_door():
    assert check_twice(lambda x: torch.tensor(2 * x)).passed
    assert check_twice(lambda x: torch.tensor(x)).text == "twice two is four"
    assert check_twice(lambda x: x / 0).text == "your function raised ZeroDivisionError: division by zero"
    said = check_twice(lambda x: 2 * x).text
    assert said.startswith("the check cannot read what your function returned. It ran into AttributeError")
    assert check_twice(float).text.startswith("the check cannot read")
