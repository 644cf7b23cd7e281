"""Checks for the exercises of chapter 7, What eight bits cost on a real GPU."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from . import NotYet, exercise
from .answers import ask, names, tensor


class _Watch(TorchFunctionMode):
    """Notes whether a convolution is called."""

    convolved = False

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if "conv" in f"{getattr(function, '__name__', '')} {function}":
            self.convolved = True
        return function(*args, **(kwargs or {}))


@exercise
def check_pointwise(answer: Callable[[Tensor, Tensor | None, Tensor], Tensor]) -> str:
    """Check `answer(weight, bias, hidden)`: a 1 x 1 convolution computed as a linear layer, held against `F.conv2d`.

    Chapter 7, exercise 1.
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


_ROWS: tuple[dict[str, Any], ...] = (
    {"method": "plain", "resident": 6.0, "load_peak": 6.1, "peak": 7.5, "picture_s": 0.7},
    {"method": "slim", "resident": 3.5, "load_peak": 3.6, "peak": 4.0, "picture_s": 2.5},
    {"method": "hasty", "resident": 3.5, "load_peak": 8.5, "peak": 4.2, "picture_s": 0.2},  # loads whole, then shrinks
    {"method": "hungry", "resident": 3.6, "load_peak": 3.7, "peak": 9.0, "picture_s": 0.3},  # few weights, many
    {"method": "small", "resident": 2.0, "load_peak": 2.1, "peak": 2.5, "picture_s": 1.5},
    {"method": "unseen", "resident": 1.0, "load_peak": 1.1, "peak": None, "picture_s": 0.1},
    {"method": "edge", "resident": 7.6, "load_peak": 7.8, "peak": 8.0, "picture_s": 1.0},
    {"method": "metric", "resident": 4.2, "load_peak": 4.2, "peak": 5.8, "picture_s": 0.9},  # more than 6e9 bytes
)


_SIZED = ("resident", "load_peak", "peak")


def fitting(rows: Iterable[Mapping[str, Any]], gib: float) -> list[str]:
    """The answer that `check_fits` asks for."""
    there = [row for row in rows if row["peak"] is not None and max(row["peak"], row["load_peak"]) <= gib * 2**30]
    return [row["method"] for row in sorted(there, key=lambda row: row["picture_s"])]


def _in_bytes(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, **{k: row[k] if row[k] is None else round(row[k] * 2**30) for k in _SIZED}} for row in rows]


def _made_up(draw: random.Random) -> list[dict[str, Any]]:
    """Rows of methods that nobody measured: no answer knows them by heart, and no two columns go together."""
    made = []
    for i, seconds in enumerate(draw.sample(range(1, 100), 7)):
        resident = draw.uniform(1, 9)
        load, peak = resident + draw.uniform(0, 6), resident + draw.uniform(0, 6)
        made.append({"method": f"m{i}", "resident": resident, "load_peak": load, "peak": peak, "picture_s": seconds})
    made[draw.randrange(7)]["peak"] = None
    return _in_bytes(made)


@exercise
def check_fits(answer: Callable[[Sequence[Mapping[str, Any]], float], Iterable[str]]) -> str:
    """Check `answer(rows, gib)`: names of the methods that fit a card, fastest first.

    Chapter 7, exercise 2.
    """
    hints = {
        "hasty": "it must be loaded before it draws, and loading takes more than drawing: look at `load_peak` too",
        "hungry": "its weights fit and its activations do not: look at `peak`",
        "unseen": "it was never drawn with, so nobody knows whether it fits: leave it out",
    }
    draw = random.Random(7)
    cases = [(_in_bytes(_ROWS), gib) for gib in (8, 6, 2.5, 1)]
    cases += [(_made_up(draw), draw.choice((4, 6, 8, 12))) for _ in range(20)]
    for rows, gib in cases:
        right = fitting(rows, gib)
        got = names(ask(answer, rows, gib), "a list of names, the fastest first")
        if got == right:
            continue
        if not got:
            raise NotYet(f"{gib} GiB: your list is empty, and {right[-1]!r} fits, for one")
        for name in got:
            if name in hints and name not in right:
                raise NotYet(f"{gib} GiB: {name!r} does not belong there; {hints[name]}")
        if sorted(got) == sorted(right):
            raise NotYet(f"{gib} GiB: the right names in another order; the fastest, least seconds, comes first")
        missing, extra = sorted(set(right) - set(got)), sorted(set(got) - set(right))
        sizes = {row["method"]: max(row["peak"] or 0, row["load_peak"]) for row in rows}
        if set(got) == {name for name in right if sizes[name] <= gib * 10**9}:
            raise NotYet(f"{gib} GiB: {missing[0]!r} fits. A GiB is 2**30 bytes, 7 % more than 10**9")
        if missing and sizes[missing[0]] == gib * 2**30:
            raise NotYet(f"{gib} GiB: {missing[0]!r} takes exactly what there is, and that fits: use <=")
        if missing:
            raise NotYet(f"{gib} GiB: {missing[0]!r} fits, and your list lacks it")
        if extra:
            raise NotYet(f"{gib} GiB: {extra[0]!r} needs more than there is, or is not known to fit")
        raise NotYet(f"{gib} GiB: each method once; {', '.join(right)}, yours is {', '.join(got)}")
    return "the larger peak decides whether, seconds decide which."
