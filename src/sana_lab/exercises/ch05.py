"""Checks for the exercises of chapter 5, *Loading Sana in 8 bits*."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from . import NotYet, exercise
from .answers import ask, near, tensor

MOVED = (
    "bitsandbytes moves the scales at the layer's first call, from `layer.weight.SCB` to `layer.state.SCB`, and leaves "
    "None behind: look at both"
)


def _layer(rows: int, columns: int, seed: int, *, called: bool = False) -> tuple[nn.Module, Tensor]:
    """An 8-bit layer as it is after loading, or after its first call, and the numbers that its codes stand for."""
    import bitsandbytes as bnb

    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-127, 128, (rows, columns), generator=generator, dtype=torch.int8)
    codes[:, 0] = 127  # the largest value of a row has this code
    codes[:, 1] = 0
    largest = torch.rand(rows, generator=generator) * 4 + 0.1
    layer = bnb.nn.Linear8bitLt(columns, rows, bias=False, has_fp16_weights=False).eval()
    layer.weight = bnb.nn.Int8Params(codes, requires_grad=False, has_fp16_weights=False, CB=codes, SCB=largest)
    if called:
        with torch.no_grad():
            layer(torch.ones(1, columns, dtype=torch.half))  # bitsandbytes warns of other types
    return layer, (codes.double() * largest.double()[:, None] / 127).float()


@exercise
def check_unpack(unpack: Callable[[nn.Module], Tensor]) -> str:
    """Try `unpack(layer)` on layers of several shapes, square ones too, before and after their first call.

    Chapter 5, exercise 1.
    """
    for called in (False, True):
        for seed, (rows, columns) in enumerate([(4, 6), (5, 5), (1, 8)]):
            layer, expected = _layer(rows, columns, seed, called=called)
            try:
                result = ask(unpack, layer)
            except (TypeError, AttributeError):
                if not called and not _fails_on(unpack, _layer(rows, columns, seed, called=True)[0]):
                    raise NotYet(f"your function fails on a layer that was never called. {MOVED}") from None
                if called:
                    raise NotYet(f"your function fails on a layer that has been called. {MOVED}") from None
                raise
            _unpacked(result, layer, expected)
    return "a code c in row i stands for c * SCB[i] / 127, wherever the layer keeps its SCB"


def _fails_on(unpack: Callable[[nn.Module], Tensor], layer: nn.Module) -> bool:
    try:
        unpack(layer)
    except Exception:
        return True
    return False


def _unpacked(result: object, layer: nn.Module, expected: Tensor) -> None:
    """Raise `NotYet`, with the slip that explains it, unless `result` is the weight that `layer` stands for."""
    answer = tensor(result, what="a tensor of floating point numbers")
    if not answer.is_floating_point():
        raise NotYet("return a tensor of floating point numbers: the codes themselves are integers")
    if answer.shape != expected.shape:
        raise NotYet(f"the weight is {tuple(expected.shape)}, yours is {tuple(answer.shape)}")
    values, right = answer.double(), expected.double()
    factor = ((values * right).sum() / right.square().sum()).item()  # what multiplies all of it, whatever its precision
    if near(answer / 127, expected):
        raise NotYet("127 times too large: SCB is the largest value of a row, and its code is 127, not 1")
    if near(answer * 128 / 127, expected) and abs(factor - 127 / 128) < abs(factor - 1):
        raise NotYet("a little too small, by 127/128: the code -128 is not used, so the largest code is 127")
    if near(answer, expected):
        return
    codes = layer.weight.data
    if near(answer, codes):
        raise NotYet(
            "these are the bare codes: each row has a scale of its own, `layer.weight.SCB` until the first call and "
            "`layer.state.SCB` after it"
        )
    if (values[codes == 0] != 0).any() and near(answer[codes != 0], expected[codes != 0]):
        raise NotYet("right but where the code is 0, which stands for exactly 0")
    if len(codes) == codes.shape[1]:
        raise NotYet("right for some shapes only: SCB has one number for each row, so it must vary down the rows")
    if near(answer, expected, 0.05):
        raise NotYet("nearly right: compute in float32, and take `SCB` as it is")
    raise NotYet("the values are off: a code c in row i stands for c * SCB[i] / 127")


def _in_name_only(rows: int, columns: int) -> nn.Module:
    """A `Linear8bitLt` that still holds the numbers it was made with: nothing has moved it to a device."""
    import bitsandbytes as bnb

    return bnb.nn.Linear8bitLt(columns, rows, has_fp16_weights=False)


@exercise
def check_left_in_16_bits(names_of: Callable[[nn.Module], Sequence[str]]) -> str:
    """Try `left_in_16_bits(model)` on models with both kinds of linear layers, in several types.

    Chapter 5, exercise 2.
    """
    inner = nn.Sequential(_layer(4, 4, 0)[0], nn.Linear(4, 4), nn.LayerNorm(4))
    first = nn.ModuleDict({"convolution": nn.Conv2d(4, 4, 1), "block": inner, "out": nn.Linear(4, 2)})
    called = nn.ModuleDict({"first": nn.Linear(4, 4), "used": _layer(4, 4, 1, called=True)[0]})
    named = nn.ModuleDict({"made": _in_name_only(4, 4), "coded": _layer(4, 4, 2)[0]})
    mixed = nn.ModuleDict({"a": nn.Linear(4, 4).half(), "b": nn.Linear(4, 4).double(), "embed": nn.Embedding(4, 4)})
    cases = [
        (first, ["block.1", "out"], ""),
        (nn.Sequential(nn.Linear(4, 4), _layer(4, 4, 3)[0]).to(torch.bfloat16), ["0"], "a model in bfloat16"),
        (mixed, ["a", "b"], "a model in several types"),
        (called, ["first"], "a model whose 8-bit layer has been called, so that its `weight.SCB` is None"),
        (named, ["made"], "a Linear8bitLt that no device has quantized yet holds floating point numbers"),
        (nn.Sequential(_layer(4, 4, 4)[0], nn.ReLU()), [], "a model with all of it in 8 bits"),
    ]
    for model, expected, about in cases:
        result = ask(names_of, model)
        if result is None or isinstance(result, str) or not hasattr(result, "__iter__"):
            raise NotYet(f"return a list of names; this is {type(result).__name__}")
        answer = list(result)
        if others := [type(name).__name__ for name in answer if not isinstance(name, str)]:
            raise NotYet(f"return names, which are strings; among yours is a {others[0]}")
        if answer != expected:
            raise NotYet(_why_not(answer, expected, about))
    return "a subclass counts as its parent, so the type of the weight decides"


def _why_not(answer: list[str], expected: list[str], about: str) -> str:
    """The sentence for a wrong list; `about` says what is special about the model, and is empty for the first."""
    if about:
        return f"{about}: expected {expected}, yours: {answer}. Look whether `weight.dtype` is torch.int8"
    if not answer:
        return "two layers of the test model are plain nn.Linear layers: walk over model.named_modules()"
    if "block.0" in answer:
        return "Linear8bitLt is a subclass of nn.Linear, so isinstance() finds it too: look at weight.dtype"
    if {"convolution", "block.2"} & set(answer):
        return "convolutions and norms are no linear layers; they were never candidates"
    if answer == ["out"] or "1" in answer:
        return "layers inside other layers count too, by their full name: use named_modules(), not children"
    return f"expected {expected}, in the model's order; yours: {answer}"
