"""The exercises of chapter 6: right answers pass, wrong ones are refused with a hint of their own."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import stats

from sana_lab.exercises.ch06 import check_flawless_needed, check_mcnemar, check_pairs_needed

Z = 1.959963984540054


def cells(first, second):
    pairs = list(zip(first, second, strict=True))
    return [sum(pair == (a, b) for pair in pairs) for a, b in ((1, 1), (1, 0), (0, 1), (0, 0))]


def exact(first, second):
    _, b, c, _ = cells(first, second)
    return stats.binomtest(b, b + c).pvalue if b + c else 1.0


def chi_square(first, second, correction=0):
    _, b, c, _ = cells(first, second)
    return stats.chi2.sf(max(0, abs(b - c) - correction) ** 2 / (b + c), 1) if b + c else 1.0


def one_sided(first, second, side):
    _, b, c, _ = cells(first, second)
    return stats.binomtest((b, c)[side], b + c, alternative="less").pvalue if b + c else 1.0


def doubled(first, second):
    _, b, c, _ = cells(first, second)
    return 2 * stats.binom.cdf(min(b, c), b + c, 0.5)


def agreeing(first, second):
    a, _, _, d = cells(first, second)
    return stats.binomtest(a, a + d).pvalue if a + d else 1.0


def mid_p(first, second):
    _, b, c, _ = cells(first, second)
    return exact(first, second) - stats.binom.pmf(b, b + c, 0.5) if b + c else 1.0


def sorting(first, second):
    answer = exact(first, second)
    first.sort()
    return answer


def unpaired(first, second):
    a, b, c, d = cells(first, second)
    return stats.fisher_exact([[a + b, c + d], [a + c, b + d]]).pvalue


MCNEMAR_WRONG = {
    "stub": (lambda a, b: None, "one number"),
    "not paired": (unpaired, "throw a fair coin"),
    "pairs that agree": (agreeing, "only scenes that come out differently"),
    "one tail": (lambda a, b: one_sided(a, b, 1), "one tail"),
    "the other tail": (lambda a, b: one_sided(a, b, 0), "one tail"),
    "chi-square": (chi_square, "approximation"),
    "chi-square, corrected": (lambda a, b: chi_square(a, b, 1), "approximation"),
    "more than 1": (doubled, "at most 1"),
    "no discordant pair": (lambda a, b: exact(a, b) if a != b else float("nan"), "nothing to doubt"),
    "mid-p": (mid_p, "mid-p"),
    "changes its lists": (sorting, "your function changes `first`"),
    "a truth value": (lambda a, b: True, "one number"),
    "two numbers": (lambda a, b: np.array([exact(a, b), 1]), "one number"),
    "one side, as seen": (lambda a, b: one_sided(a, b, int(a.count(True) > b.count(True))), "one tail"),
    "None where none is discordant": (lambda a, b: exact(a, b) if a != b else None, "one number"),
    "raises": (lambda a, b: stats.binomtest(cells(a, b)[1], sum(cells(a, b)[1:3])).pvalue, "raised"),
}


@pytest.mark.parametrize("name", MCNEMAR_WRONG)
def test_wrong_tests_are_told_apart(name):
    answer, hint = MCNEMAR_WRONG[name]
    verdict = check_mcnemar(answer)
    assert not verdict.passed and hint in verdict.text, verdict


NUMBERS = [float, np.float32, np.float64, torch.tensor, Fraction, lambda x: torch.tensor([[x]]), np.array]


@pytest.mark.parametrize("kind", NUMBERS)
def test_mcnemars_exact_test_passes_in_any_type(kind):
    verdict = check_mcnemar(lambda a, b: kind(exact(a, b)))
    assert verdict.passed, verdict


def by_trying(least):
    n = 1
    while n / (n + Z**2) < least:
        n += 1
    return n


NEEDED_WRONG = {
    "stub": (lambda least: None, "whole number"),
    "a float": (lambda least: Z**2 * least / (1 - least), "whole number"),
    "naive interval": (lambda least: 1, "proves nothing"),
    "rounded down": (lambda least: int(Z**2 * least / (1 - least)), "round up"),
    "rule of three": (lambda least: math.ceil(3 / (1 - least)), "rule of three"),
    "one-sided exact": (lambda least: math.ceil(math.log(0.05) / math.log(least)), "rule of three"),
    "two-sided exact": (lambda least: math.ceil(math.log(0.025) / math.log(least)), "Clopper"),
    "one too many": (lambda least: by_trying(least) + 1, "it takes 381, yours is 382"),
    "a truth value": (lambda least: True, "whole number"),
    "the same always": (lambda least: 381, "for 0.95 it takes 73"),
    "90 %": (lambda least: math.ceil(1.6448536**2 * least / (1 - least)), "1.64"),
    "not solved": (lambda least: math.ceil(Z**2 / (1 - least)), "solve that"),
}


@pytest.mark.parametrize("name", NEEDED_WRONG)
def test_wrong_numbers_are_told_apart(name):
    answer, hint = NEEDED_WRONG[name]
    verdict = check_flawless_needed(answer)
    assert not verdict.passed and hint in verdict.text, verdict


def test_the_right_numbers_pass():
    assert check_flawless_needed(by_trying).passed
    assert check_flawless_needed(lambda least: math.ceil(1.96**2 * least / (1 - least))).passed


@pytest.mark.parametrize("kind", [*NUMBERS, np.int64, np.ceil])
def test_the_right_numbers_pass_in_any_type(kind):
    verdict = check_flawless_needed(lambda least: kind(by_trying(least)))
    assert verdict.passed, verdict


def pairs(share, limit, *, both=2, up=math.ceil, strict=True):
    """The right answer of exercise 3, with one thing changed at a time."""
    k = 1
    while (both * 0.5**k >= limit) if strict else (both * 0.5**k >= 2 * limit):
        k += 1
    return up(k / share)


PAIRS_WRONG = {
    "stub": (lambda share, limit: 0, "it takes 6 discordant pairs and so 86; yours is 0"),
    "discordant pairs alone": (lambda share, limit: pairs(1, limit), "only 7% of all pairs"),
    "one tail": (lambda share, limit: pairs(share, limit, both=1), "count both tails"),
    "rounded down": (lambda share, limit: pairs(share, limit, up=math.floor), "round up"),
    "multiplied": (lambda share, limit: math.ceil(pairs(1, limit) * share), "divide by the share"),
    "one share alone": (lambda share, limit: 86, "yours is 86"),
    "one limit alone": (lambda share, limit: pairs(share, 0.05), "below 0.004"),
    "not whole": (lambda share, limit: pairs(1, limit) / share, "a whole number of pairs"),
    "by the normal curve": (lambda share, limit: math.ceil(stats.norm.isf(limit / 2) ** 2 / share), "discordant pairs"),
}


@pytest.mark.parametrize("name", PAIRS_WRONG)
def test_wrong_numbers_of_pairs_are_told_apart(name):
    answer, hint = PAIRS_WRONG[name]
    verdict = check_pairs_needed(answer)
    assert not verdict.passed and hint in verdict.text, verdict


@pytest.mark.parametrize("kind", NUMBERS)
def test_the_right_number_of_pairs_passes_in_any_type(kind):
    verdict = check_pairs_needed(lambda share, limit: kind(pairs(share, limit)))
    assert verdict.passed, verdict


def test_the_right_number_of_pairs_is_the_least_that_mcnemars_test_finds():
    for share, limit in ((0.07, 0.05), (0.5, 0.004), (1.0, 0.01)):
        n = pairs(share, limit)
        assert stats.binomtest(0, math.floor(n * share)).pvalue < limit
        assert stats.binomtest(0, math.floor((n - 1) * share)).pvalue >= limit
