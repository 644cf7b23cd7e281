"""Checks for the exercises of chapter 14, On the real weights."""

from __future__ import annotations

from collections.abc import Callable

from . import NotYet, exercise
from .answers import ask

HOLDS, FAILS, UNKNOWN = "holds", "does not hold", "could not be checked"


@exercise
def check_within_float16(answer: Callable[[list[float]], str]) -> str:
    """Check `answer(noted) -> str`: whether what modules put out stays within float16, with three answers.

    Chapter 14, exercise 1.
    """
    nan, inf = float("nan"), float("inf")
    cases = [
        ([], UNKNOWN, "nothing was noted: no module was looked at, so nobody knows"),
        ([1.0, 29.25], HOLDS, "two small numbers"),
        ([65504.0], HOLDS, "65504 is itself a number of float16, the largest"),
        ([65505.0, 1.0], FAILS, "65505 is beyond the largest number of float16"),
        ([1.0, 70000.0, 2.0], FAILS, "one module of three puts out 70000"),
        (
            [3.0, nan],
            FAILS,
            "one module puts out NaN: a comparison with NaN is never true, so ask what you want to see",
        ),
        ([nan, 3.0], FAILS, "the first module puts out NaN, which max() may keep or lose"),
        ([1.0, inf], FAILS, "one module puts out infinity"),
        ([-70000.0, 1.0], FAILS, "float16 ends below, too: -70000 is beyond it"),
        ([0.0], HOLDS, "a module that puts out zeros was looked at"),
    ]
    for noted, right, about in cases:
        got = ask(answer, list(noted))
        if got not in (HOLDS, FAILS, UNKNOWN):
            raise NotYet(f'return "{HOLDS}", "{FAILS}" or "{UNKNOWN}"; this is {str(got)[:40]!r}')
        if got != right:
            raise NotYet(f"{about}. You say {got!r}")
    return "three answers, and none of them for want of another."


@exercise
def check_broken_without_guidance(answer: Callable[[dict[str, float], dict[str, float]], list[str]]) -> str:
    """Check `answer(guided, unguided) -> list`: the ways that draw nonsense without guidance and not with it.

    Chapter 14, exercise 2.
    """
    cases = [
        (
            {"recipe": 40.0, "guard": 40.5},
            {"recipe": 12.0, "guard": 41.0},
            ["recipe"],
            "the recipe loses 29 dB without guidance, and half a decibel with it",
        ),
        ({"recipe": 40.0, "guard": 40.5}, {"recipe": 38.0, "guard": 41.0}, [], "3 dB are less than a factor of two"),
        ({"a": 40.0, "b": 40.0}, {"a": 34.0, "b": 40.0}, [], "6 dB are not more than 6 dB"),
        (
            {"fp8": 20.0, "guard": 40.0},
            {"fp8": 21.0, "guard": 41.0},
            [],
            "fp8 is 20 dB below the best in both: guidance has nothing to do with it",
        ),
        (
            {"slim": 39.0, "guard": 40.0, "bare": 40.0},
            {"slim": 9.0, "guard": 40.0, "bare": 10.0},
            ["bare", "slim"],
            "two are broken; sort their names",
        ),
        ({"guard": 40.0, "recipe": 39.0}, {"guard": 40.0}, [], "the recipe was not drawn without guidance"),
        (
            {"guard": 40.0},
            {"guard": 40.0, "recipe": 9.0},
            [],
            "the recipe was not drawn with guidance, so nothing says that guidance is the reason",
        ),
        (
            {"guard": 20.0, "recipe": 20.0},
            {"guard": 60.0, "recipe": 50.0},
            ["recipe"],
            "50 dB are many, and still 10 fewer than the best: compare within the same kind of picture",
        ),
        ({}, {}, [], "nothing was drawn at all"),
    ]
    for guided, unguided, right, about in cases:
        got = ask(answer, dict(guided), dict(unguided))
        if not isinstance(got, list | tuple | set):
            raise NotYet(f"return a list of names; this is {type(got).__name__}")
        if list(got) != right:
            raise NotYet(f"{about}. You name {', '.join(map(str, got)) or 'none'}")
    return (
        "each way beside the best of its own kind: so a model that is far off in everything is not blamed on guidance."
    )
