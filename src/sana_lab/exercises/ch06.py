"""Checks for the exercises of chapter 6, on whether a quantized model still draws what it is asked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from . import NotYet, exercise
from .answers import ask, near, number, whole


def _pairs(both: int, only_first: int, only_second: int, neither: int) -> tuple[list[bool], list[bool]]:
    """Two lists of outcomes with this many pairs of each kind."""
    first = [True] * both + [True] * only_first + [False] * only_second + [False] * neither
    second = [True] * both + [False] * only_first + [True] * only_second + [False] * neither
    return first, second


def _tail(k: int, n: int) -> float:
    """The chance of at most `k` heads in `n` throws of a fair coin."""
    return sum(math.comb(n, i) for i in range(k + 1)) / 2**n


@exercise
def check_mcnemar(p_value: Callable[[Sequence[bool], Sequence[bool]], float]) -> str:
    """Check `p_value(first, second)`: McNemar's exact test, two-sided, on outcomes of the same scenes.

    Chapter 6, exercise 1.
    """
    for table in ((80, 9, 1, 10), (80, 1, 9, 10), (5, 6, 2, 300), (40, 3, 3, 4), (0, 5, 0, 0), (3, 0, 20, 2)):
        both, b, c, neither = table
        result = ask(p_value, *_pairs(*table))
        answer = number(result, "one number, the p-value")
        exact = min(1.0, 2 * _tail(min(b, c), b + c))
        if near(result, exact, 1e-6):
            continue
        said = f"{b} scenes are right under the first condition alone and {c} under the second alone"
        if math.isclose(answer, min(1.0, 2 * _tail(min(both, neither), both + neither)), rel_tol=1e-6):
            raise NotYet("you tossed the pairs that agree: only scenes that come out differently tell the two apart")
        if any(math.isclose(answer, _tail(k, b + c), rel_tol=1e-6) for k in (b, c)):
            raise NotYet(
                f"{said}. That is one tail: a split as uneven the other way round would surprise you as much, so "
                "count both"
            )
        if answer > 1:
            raise NotYet(f"{said}. A p-value is at most 1: at an even split both tails hold the middle")
        if any(math.isclose(answer, _normal(b, c, correction), rel_tol=1e-3) for correction in (0, 0.5, 1)):
            raise NotYet(f"{said}. That is the chi-square approximation: for so few pairs add up the coin's own tail")
        if math.isclose(answer, exact - math.comb(b + c, b) / 2 ** (b + c), rel_tol=1e-3):
            raise NotYet(f"{said}. That is the mid-p version, which counts half of what was seen: count all of it")
        raise NotYet(
            f"{said}: throw a fair coin {b + c} times; {exact:.4f} is the chance of a split at least as uneven, "
            f"yours is {answer:.4f}"
        )
    same = ask(p_value, *_pairs(7, 0, 0, 3))
    if _is_nan(same) or not near(number(same, "one number, the p-value"), 1, 1e-6):
        raise NotYet("where no scene came out differently there is nothing to doubt: p is 1")
    return "only the discordant pairs speak, and they speak like a coin."


def _is_nan(result: object) -> bool:
    try:
        return math.isnan(result)
    except (TypeError, ValueError):
        return False


def _normal(b: int, c: int, correction: float) -> float:
    """McNemar's chi-square approximation with one degree of freedom."""
    return math.erfc(math.sqrt(max(0.0, abs(b - c) - correction) ** 2 / (b + c) / 2))


@exercise
def check_flawless_needed(needed: Callable[[float], int]) -> str:
    """Check `needed(least)`: how many pictures, all of them right, before Wilson's interval lies above `least`.

    Chapter 6, exercise 2.
    """
    z = 1.959963984540054
    for least in (0.99, 0.95, 0.9, 0.999, 0.5):
        answer, exact = whole(ask(needed, least), "a whole number of pictures"), z**2 * least / (1 - least)
        if answer == math.ceil(exact):
            continue
        if answer <= 1:
            raise NotYet(
                "one flawless picture proves nothing. The naive interval says so, whose width at a rate of 1 is zero; "
                "take Wilson's"
            )
        if answer == math.floor(exact):
            raise NotYet(f"{answer} pictures are one too few for {least}: round up")
        if abs(answer - 3 / (1 - least)) <= 1 or abs(answer - math.log(0.05) / math.log(least)) <= 1:
            raise NotYet(
                "that is the rule of three, for a bound on one side only; Wilson's 95 % interval leaves 2.5 % on each"
            )
        if abs(answer - math.log(0.025) / math.log(least)) <= 1:
            raise NotYet("that is the exact interval of Clopper and Pearson, which is wider; asked is Wilson's")
        if abs(answer - 1.6448536**2 * least / (1 - least)) <= 1:
            raise NotYet("z is 1.64 for 90 %; a 95 % interval has z = 1.96")
        if abs(answer - z**2 / (1 - least)) <= 1 and abs(answer - exact) > 1:
            raise NotYet("with every picture right the lower end is n / (n + z²): solve that for n, not z² / n")
        raise NotYet(f"for {least} it takes {math.ceil(exact)}, yours is {answer}: the lower end is n / (n + z²)")
    return "380 pictures without a mistake do not yet prove 99 %; 381 do."


@exercise
def check_pairs_needed(needed: Callable[[float, float], int]) -> str:
    """Check `needed(discordant, limit)`: how many pairs until McNemar's p can be below `limit`, all against one side.

    Chapter 6, exercise 3.
    """
    for share, limit in ((0.07, 0.05), (0.03, 0.05), (0.07, 0.004), (0.6, 0.01), (1.0, 0.05)):
        answer = whole(ask(needed, share, limit), "a whole number of pairs")
        heads = _heads(limit)
        right = math.ceil(heads / share)
        if answer == right:
            continue
        said = f"where {share:.0%} of the pairs differ and p must be below {limit:g}"
        if answer == heads:
            raise NotYet(f"{said}: {heads} discordant pairs, yes; but only {share:.0%} of all pairs are discordant")
        if answer in (math.ceil((heads - 1) / share), math.floor((heads - 1) / share)) and share < 1:
            raise NotYet(
                f"{said}: {heads - 1} discordant pairs have p = {2 * 0.5 ** (heads - 1):.3g}; count both tails"
            )
        if answer in (heads - 1, heads + 1):
            raise NotYet(f"{said}: {heads} heads in {heads} throws are the first with p = {2 * 0.5**heads:.3g}")
        if answer == math.floor(heads / share):
            raise NotYet(f"{said}: {answer} pairs are too few by one, round up")
        if answer == math.ceil(heads * share):
            raise NotYet(f"{said}: divide by the share, the rarer a difference the more pairs it takes")
        raise NotYet(f"{said} it takes {heads} discordant pairs and so {right}; yours is {answer}")
    return "what a test can find is decided before the first picture: by how many pairs will differ at all."


def _heads(limit: float) -> int:
    """The least number of throws of which "all heads or all tails" is rarer than `limit`."""
    heads = 1
    while 2 * 0.5**heads >= limit:
        heads += 1
    return heads
