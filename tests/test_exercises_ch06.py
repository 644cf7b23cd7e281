"""The exercises of chapter 6: right answers pass, wrong ones are refused with a hint of their own."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import stats

from sana_lab.exercises.ch06 import check_flawless_needed, check_mcnemar

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
