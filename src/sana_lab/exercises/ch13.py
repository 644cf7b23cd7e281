"""Checks for the exercises of chapter 13, A checklist that runs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import NotYet, exercise
from .answers import ask


@exercise
def check_is_picture(answer: Callable[[Tensor], bool]) -> str:
    """Check `answer(values) -> bool`: whether values from 0 to 1, of shape (3, height, width), are a picture.

    Chapter 13, exercise 1.
    """
    draw = torch.Generator().manual_seed(13)
    good = torch.rand(3, 8, 8, generator=draw)
    cases = [(good, True, "a picture like any other")]
    for where in ((0, 0, 0), (2, 7, 7), (1, 3, 4)):
        for value in (float("nan"), float("inf"), -float("inf")):
            broken = good.clone()
            broken[where] = value
            cases.append((broken, False, f"one value of it is {value}: a comparison with NaN is never true"))
    cases.append((torch.full((3, 8, 8), float("nan")), False, "all of it is NaN"))
    cases.append((torch.zeros(3, 8, 8), False, "it is black: all values are 0"))
    for gray in (0.25, 0.5, 1.0):
        cases.append((torch.full((3, 8, 8), gray), False, "one color everywhere: no value differs from another"))
    dark, light = torch.zeros(3, 8, 8), torch.ones(3, 8, 8)
    dark[1, 2, 3], light[0, 0, 0] = 1.0, 0.0
    cases.append((dark, True, "a black picture with one green point in it"))
    cases.append((light, True, "a white picture with one point of another color"))
    cases.append((good.to(torch.bfloat16), True, "a picture in bfloat16"))
    for values, right, about in cases:
        got = ask(answer, values)
        if isinstance(got, Tensor) and got.ndim == 0:
            got = got.item()
        if not isinstance(got, bool):
            raise NotYet(f"return True or False; this is {type(got).__name__}")
        if got is not right:
            raise NotYet(f"{about}. You say {got}")
    return "no NaN, no infinity, and not one color everywhere: the rest is for eyes."
