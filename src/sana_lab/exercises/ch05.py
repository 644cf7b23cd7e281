"""Checks for the exercises of chapter 5, *Loading Sana in 8 bits*."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from . import NotYet, exercise


def _layer(rows: int, columns: int, seed: int) -> tuple[nn.Module, torch.Tensor]:
    """An 8-bit layer as it is after loading, and the numbers that its codes stand for."""
    import bitsandbytes as bnb

    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-127, 128, (rows, columns), generator=generator, dtype=torch.int8)
    codes[:, 0] = 127  # the largest value of a row has this code
    largest = torch.rand(rows, generator=generator) * 4 + 0.1
    layer = bnb.nn.Linear8bitLt(columns, rows, bias=False, has_fp16_weights=False)
    layer.weight = bnb.nn.Int8Params(codes, requires_grad=False, has_fp16_weights=False, CB=codes, SCB=largest)
    return layer, (codes.double() * largest.double()[:, None] / 127).float()


@exercise
def check_unpack(unpack: Callable[[nn.Module], torch.Tensor]) -> str:
    """Try `unpack(layer)` on layers of several shapes, square ones too."""
    for seed, (rows, columns) in enumerate([(4, 6), (5, 5), (1, 8)]):
        layer, expected = _layer(rows, columns, seed)
        answer = unpack(layer)
        if not isinstance(answer, torch.Tensor) or not answer.is_floating_point():
            raise NotYet("return a tensor of floating point numbers: the codes themselves are integers")
        if answer.shape != expected.shape:
            raise NotYet(f"the weight is {tuple(expected.shape)}, yours is {tuple(answer.shape)}")
        ratio = (answer.float() / expected)[expected != 0]
        if torch.allclose(ratio, torch.ones_like(ratio), rtol=1e-4):
            continue
        if torch.allclose(ratio, torch.full_like(ratio, 127), rtol=1e-4):
            raise NotYet("127 times too large: SCB is the largest value of a row, and its code is 127, not 1")
        if torch.allclose(ratio, torch.full_like(ratio, 127 / 128), rtol=1e-4):
            raise NotYet("a little too small, by 127/128: the code -128 is not used, so the largest code is 127")
        if torch.allclose(answer.float(), layer.weight.data.float()):
            raise NotYet("these are the bare codes: each row has a scale of its own, in layer.weight.SCB")
        if rows == columns:
            raise NotYet("right for some shapes only: SCB has one number for each row, so it must vary down the rows")
        raise NotYet("the values are off: a code c in row i stands for c * SCB[i] / 127")
    return "a code c in row i stands for c * SCB[i] / 127"


@exercise
def check_left_in_16_bits(names_of: Callable[[nn.Module], list[str]]) -> str:
    """Try `left_in_16_bits(model)` on a model with both kinds of linear layers, convolutions and norms."""
    inner = nn.Sequential(_layer(4, 4, 0)[0], nn.Linear(4, 4), nn.LayerNorm(4))
    model = nn.ModuleDict({"convolution": nn.Conv2d(4, 4, 1), "block": inner, "out": nn.Linear(4, 2)})
    answer, expected = list(names_of(model)), ["block.1", "out"]
    if answer == expected:
        return "a subclass counts as its parent, so the type of the weight decides"
    if not answer:
        raise NotYet("two layers of the test model are plain nn.Linear layers: walk over model.named_modules()")
    if "block.0" in answer:
        raise NotYet("Linear8bitLt is a subclass of nn.Linear, so isinstance() finds it too: look at weight.dtype")
    if {"convolution", "block.2"} & set(answer):
        raise NotYet("convolutions and norms are no linear layers; they were never candidates")
    if answer == ["out"] or "1" in answer:
        raise NotYet("layers inside other layers count too, by their full name: use named_modules(), not children")
    raise NotYet(f"expected {expected}, in the model's order; yours: {answer}")
