"""Checks for the exercises of chapter 7, What eight bits cost."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from . import NotYet, exercise
from .answers import ask, near, number, tensor


@exercise
def check_step_ms(answer: Callable[[float, int, float, bool], float]) -> str:
    """Check `answer(busy_ms, kernels, launch_us, graph)`: milliseconds of a step, in the plainest model there is.

    Chapter 7, exercise 1.
    """
    draw = random.Random(7)
    cases = [(12.0, 3000, 30.0), (60.0, 1000, 30.0), (9.0, 300, 30.0)]
    cases += [(draw.uniform(1, 200), draw.randrange(100, 5000), draw.uniform(5, 50)) for _ in range(20)]
    for busy, kernels, launch in cases:
        for graph in (False, True):
            told = kernels * launch / 1e3
            right = busy if graph else max(busy, told)
            got = number(ask(answer, busy, kernels, launch, graph), "milliseconds")
            if near(got, right, 1e-9):
                continue
            case = f"busy {busy:.4g} ms, {kernels} kernels, {launch:.4g} µs each, {'in a graph' if graph else 'eager'}"
            for wrong, hint in (
                (
                    busy + told,
                    "the GPU computes while Python launches the next kernel: the longer of the two, not the sum",
                ),
                (min(busy, told), "the slower of the two decides, not the faster"),
                (max(busy, 1e3 * told), "a thousand microseconds are a millisecond"),
                (max(busy, 1e6 * told), "a thousand microseconds are a millisecond"),
                (told, "in a graph nothing is launched one by one" if graph else "the GPU may be the slower one"),
                (max(busy, told), "a graph is launched by one call: what is left is the GPU's own time"),
                (busy, "the GPU waits while Python launches: see which of the two takes longer"),
            ):
                if near(got, wrong, 1e-9) and not near(wrong, right, 1e-9):
                    raise NotYet(f"{case}: {hint}")
            raise NotYet(f"{case}: {right:.4g} ms, you say {got:.4g}")
    return "eager, the slower of Python and GPU decides; in a graph the GPU alone."


class _Recording(TorchDispatchMode):
    """Refuses what a CUDA graph cannot record: an answer for Python, or a result whose size depends on the numbers."""

    asked: str | None = None

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function.overloadpacket).removeprefix("aten.")
        by_mask = name in ("index", "index_put_", "index_put") and any(
            mask is not None and mask.dtype == torch.bool for mask in args[1]
        )
        if by_mask or name in ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique"):
            self.asked = self.asked or name
        return function(*args, **(kwargs or {}))


def steps_of(hidden: Tensor, threshold: float) -> Tensor:
    """The answer that `check_steps` asks for: a step for each row, (rows, 1), outliers left out of the maximum."""
    return hidden.masked_fill(hidden.abs() >= threshold, 0.0).abs().amax(1, keepdim=True) / 127


@exercise
def check_steps(answer: Callable[[Tensor, float], Tensor]) -> str:
    """Check `answer(hidden, threshold)`: the step of each row without its outliers, in a form that can be recorded.

    Chapter 7, exercise 2.
    """
    draw = torch.Generator("cpu").manual_seed(7)
    plain = torch.randn(5, 24, generator=draw)
    spiked = plain.clone()
    spiked[1, 3], spiked[3, 5], spiked[3, 6], spiked[4, 0] = 60.0, -80.0, 30.0, 6.0
    for hidden, about in ((plain, "no outlier"), (spiked, "outliers in three rows"), (10 * plain, "many outliers")):
        right = steps_of(hidden, 6.0)
        watch = _Recording()

        @wraps(answer)
        def recorded(hidden: Tensor, threshold: float, watch: _Recording = watch) -> Tensor:
            with watch:
                return answer(hidden, threshold)

        got = ask(recorded, hidden.clone(), 6.0)
        got = tensor(got, what="a tensor, (rows, 1)").to(right.dtype)
        if got.shape == right.squeeze(1).shape:
            raise NotYet(
                f"{about}: keep the axis, so that {tuple(hidden.shape)} can be divided by {tuple(right.shape)}"
            )
        if got.shape != right.shape:
            raise NotYet(f"{about}: one step for each row, {tuple(right.shape)}; yours is {tuple(got.shape)}")
        if not torch.allclose(got, right, rtol=1e-6, atol=0):
            for wrong, hint in (
                (hidden.abs().amax(1, keepdim=True) / 127, "an outlier makes its row's step large: leave it out first"),
                (127 * right, "that is the largest number, and a step is a 127th of it"),
                (right * 127 / 128, "int8 goes from -127 to 127 here"),
                (
                    hidden.masked_fill(hidden >= 6.0, 0.0).abs().amax(1, keepdim=True) / 127,
                    "an outlier may be negative",
                ),
                (
                    hidden.masked_fill(hidden.abs() > 6.0, 0.0).abs().amax(1, keepdim=True) / 127,
                    "a number as large as the threshold is an outlier, too",
                ),
                (
                    hidden.masked_fill((hidden.abs() >= 6.0).any(0), 0.0).abs().amax(1, keepdim=True) / 127,
                    "only the outliers themselves are left out of the maximum, not all of their column",
                ),
                (
                    hidden.abs().clamp(max=6.0).amax(1, keepdim=True) / 127,
                    "leave the outliers out; clamped they still count",
                ),
            ):
                if got.shape == wrong.shape and torch.allclose(got, wrong, rtol=1e-6, atol=0):
                    raise NotYet(f"{about}: {hint}")
            raise NotYet(f"{about}: the largest difference is {(got - right).abs().max():.2g}")
        if watch.asked:
            raise NotYet(
                f"{about}: right, but `{watch.asked}` waits for the GPU's numbers, which a graph cannot record: "
                "no `if`, no `.item()`, no indexing by a mask. Do the same work whatever the numbers are"
            )
    return "always the same operations on the same shapes, whatever the numbers: this can be recorded."
