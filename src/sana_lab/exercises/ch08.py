"""Checks for the exercises of chapter 8, Faster: two kinds of eight bits."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from . import NotYet, exercise
from .answers import ask, tensor


class _Watch(TorchFunctionMode):
    """Notes whether a convolution is called."""

    convolved = False

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if "conv" in f"{getattr(function, '__name__', '')} {function}":
            self.convolved = True
        return function(*args, **(kwargs or {}))


@exercise
def check_pointwise(answer: Callable[[Tensor, Tensor | None, Tensor], Tensor]) -> str:
    """Check `answer(weight, bias, hidden)`: a 1 x 1 convolution computed as a linear layer, compared with `F.conv2d`.

    Chapter 8, exercise 1.
    """
    draw = torch.Generator("cpu").manual_seed(7)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    for batch, channels, out, height, width, biased in (
        (2, 6, 4, 3, 5, True),
        (1, 5, 5, 4, 4, True),
        (3, 4, 7, 1, 2, False),
        (2, 3, 1, 4, 3, True),
        (2, 1, 3, 3, 2, True),
    ):
        weight, hidden = drawn(out, channels, 1, 1), drawn(batch, channels, height, width)
        bias = drawn(out) if biased else None
        right = F.conv2d(hidden, weight, bias)
        with _Watch() as watch:
            got = ask(answer, weight, bias, hidden)
        if watch.convolved:
            raise NotYet("you called a convolution; bitsandbytes has no 8-bit one. Use `F.linear` or a product")
        got = tensor(got, what="a tensor, (batch, out, height, width)")
        case = f"{tuple(weight.shape)} on {tuple(hidden.shape)}"
        if got.shape == right.shape and torch.allclose(got, right, rtol=1e-9, atol=1e-9):
            continue
        if got.shape == (batch, height, width, out):
            raise NotYet(f"{case}: channels come out last. What reads the picture expects them first: permute back")
        if got.shape == (batch, height * width, out):
            raise NotYet(f"{case}: these are tokens. Give the picture its height and width back, channels first")
        if got.shape != right.shape:
            raise NotYet(f"{case} gives {tuple(right.shape)}, yours is {tuple(got.shape)}")
        matrix = weight.flatten(1)
        if bias is not None:
            for factor, hint in ((0, "the bias is missing"), (2, "the bias is added twice")):
                if torch.allclose(got, right + (factor - 1) * bias[:, None, None]):
                    raise NotYet(f"{case}: {hint}")
        scrambled = F.linear(hidden.reshape(batch, height * width, channels), matrix, bias)
        mixed = (scrambled.reshape(right.shape), scrambled.permute(0, 2, 1).reshape(right.shape))
        kept = F.linear(hidden.permute(0, 2, 3, 1), matrix, bias).reshape(right.shape)
        if any(torch.allclose(got, wrong) for wrong in (*mixed, kept)):
            raise NotYet(f"{case}: `reshape` renames axes and moves no number; `permute` exchanges them")
        if height == width and torch.allclose(got, right.transpose(2, 3)):
            raise NotYet(f"{case}: the picture lies on its side: height and width are exchanged")
        if out == channels and torch.allclose(got, F.conv2d(hidden, weight.transpose(0, 1), bias)):
            raise NotYet(f"{case}: the weight is (out, in), as `F.linear` wants it; do not transpose it")
        raise NotYet(f"{case}: the largest difference to the convolution is {(got - right).abs().max():.2g}")
    return "a 1 x 1 convolution is a linear layer whose channels stand elsewhere."


class _Cast(TorchFunctionMode):
    """Notes whether the 8-bit type is asked for."""

    asked = False

    def __torch_function__(self, function, types, args=(), kwargs=None):
        given = (*args, *(kwargs or {}).values())
        self.asked |= torch.float8_e4m3fn in [value for value in given if isinstance(value, torch.dtype)]
        self.asked |= torch.float8_e4m3fn in [value.dtype for value in given if isinstance(value, Tensor)]
        return function(*args, **(kwargs or {}))


def e4m3(numbers: Tensor) -> Tensor:
    """The answer that `check_e4m3` asks for, by PyTorch's own conversion, which does not saturate by itself."""
    return numbers.clamp(-448, 448).to(torch.float8_e4m3fn).to(numbers.dtype)


def _grid(numbers: Tensor, smallest: int, bits: int = 3) -> Tensor:
    """Numbers rounded to `bits` bits behind the leading one, with no finer step than that of `smallest`."""
    exponent = torch.frexp(numbers).exponent - 1
    step = 2.0 ** (exponent.clamp(min=smallest) - bits).double()
    return (numbers / step).round() * step


@exercise
def check_e4m3(answer: Callable[[Tensor], Tensor]) -> str:
    """Check `answer(numbers)`: each rounded to the nearest number of e4m3, without using that type.

    Chapter 8, exercise 2.
    """
    draw = torch.Generator("cpu").manual_seed(8)
    every = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).double()  # 0 to 448
    scattered = torch.randn(400, generator=draw, dtype=torch.float64) * 2.0 ** torch.arange(-12, 8).repeat(20)
    groups = {
        "a number of e4m3 stays as it is": torch.cat([every, -every]),
        "an ordinary number": scattered[(scattered.abs() > 2.0**-6) & (scattered.abs() < 448)],
        "below 2**-6 the step stays that of 2**-6, which is 2**-9": scattered[scattered.abs() < 2.0**-6],
        "in the middle between two numbers, the one with an even last bit": (every[:-1] + every[1:]) / 2,
        "the largest is 448, and more than that becomes 448": torch.tensor([449.0, 500.0, -1e6, 1e9]).double(),
    }
    numbers = torch.cat(list(groups.values()))
    right = e4m3(numbers)
    with _Cast() as watch:
        got = ask(answer, numbers.clone())
    if watch.asked:
        raise NotYet("that is PyTorch's own conversion, or a table of its numbers: find each number's step yourself")
    got = tensor(got, tuple(numbers.shape), "a tensor").double()
    if torch.equal(got, numbers):
        raise NotYet("these are the numbers as they came")
    bits = "three bits behind the leading one are eight steps to the next power of two, not"
    for wrong, hint in (
        (_grid(numbers, -1000), "near zero the steps do not shrink for ever: the least exponent is -6"),
        (_grid(numbers, -6, 2), f"{bits} four"),
        (_grid(numbers, -6, 4), f"{bits} sixteen"),
        (_grid(numbers, -7), "the least exponent is -6, not -7"),
        (_grid(numbers, -6), "above 448 there is nothing: stay there"),
    ):
        if torch.equal(got, wrong) or torch.equal(got, wrong.clamp(-448, 448)) and not torch.equal(right, got):
            raise NotYet(hint)
    for (about, some), ours, theirs in zip(
        groups.items(), right.split([*map(len, groups.values())]), got.split([*map(len, groups.values())]), strict=True
    ):
        for number, wanted, found in zip(some, ours, theirs, strict=True):
            if wanted != found:
                raise NotYet(f"{about}: {number:.6g} becomes {wanted:.6g}, yours is {found:.6g}")
    return "a step that grows with its number: that is all a float is, and why an outlier leaves its neighbors alone."
