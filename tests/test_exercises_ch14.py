"""Chapter 14: the published answers pass, named wrong ones do not."""

import re

import pytest

from sana_lab.exercises.ch14 import check_broken_without_guidance, check_within_float16


def largest(values):
    return max(values.values())


STATES = {
    "always yes": (lambda noted: "holds", "nobody knows"),
    "two answers": (lambda noted: "holds" if all(v <= 65504 for v in noted) else "does not hold", "nobody knows"),
    "nothing is a failure": (lambda n: "holds" if n and max(n) <= 65504 else "does not hold", "nobody knows"),
    "strictly below": (lambda n: _of(n, all(v < 65504 for v in n)), "itself a number"),
    "any of them": (lambda n: _of(n, any(abs(v) <= 65504 for v in n)), "65505 is beyond"),
    "NaN slips through": (lambda n: _of(n, not any(abs(v) > 65504 for v in n)), "NaN"),
    "the end below": (lambda n: _of(n, all(v <= 65504 for v in n)), "-70000"),
    "zeros are nothing": (lambda n: _of([v for v in n if v], all(abs(v) <= 65504 for v in n)), "zeros"),
    "True": (lambda n: True, 'return "holds"'),
}


def _of(noted, good):
    return "could not be checked" if not noted else "holds" if good else "does not hold"


BROKEN = {
    "nothing": (lambda g, u: [], "loses 29 dB"),
    "all of them": (lambda g, u: sorted(u), "loses 29 dB"),
    "without a look at guided": (
        lambda g, u: sorted(w for w in u if largest(u) - u[w] > 6),
        "in both",
    ),
    "at least six": (
        lambda g, u: sorted(w for w in g.keys() & u.keys() if largest(u) - u[w] >= 6 and largest(g) - g[w] <= 6),
        "not more than 6",
    ),
    "unsorted": (
        lambda g, u: sorted(w for w in g.keys() & u.keys() if largest(u) - u[w] > 6 and largest(g) - g[w] <= 6)[::-1],
        "sort their names",
    ),
    "guided minus unguided": (
        lambda g, u: sorted(w for w in g.keys() & u.keys() if g[w] - u[w] > 6),
        "compare within",
    ),
    "not drawn counts as broken": (
        lambda g, u: sorted(
            w for w in g if (w not in u or largest(u) - u[w] > 6) and largest(g) - g[w] <= 6
        ),
        "not drawn without",
    ),
    "not drawn with guidance": (
        lambda g, u: sorted(
            w for w in u if largest(u) - u[w] > 6 and (w not in g or largest(g) - g[w] <= 6)
        ),
        "not drawn with guidance",
    ),
    "a text": (lambda g, u: "recipe", "return a list"),
}  # fmt: skip


@pytest.mark.parametrize("name", STATES)
def test_wrong_states(name):
    answer, hint = STATES[name]
    found = check_within_float16(answer)
    assert not found.passed and re.search(hint, found.text), found.text


@pytest.mark.parametrize("name", BROKEN)
def test_wrong_ways(name):
    answer, hint = BROKEN[name]
    found = check_broken_without_guidance(answer)
    assert not found.passed and re.search(hint, found.text), found.text


def test_right():
    def within(noted):
        return _of(noted, all(abs(value) <= 65504 for value in noted))

    def broken(guided, unguided):
        both = guided.keys() & unguided.keys()
        return sorted(w for w in both if largest(unguided) - unguided[w] > 6 and largest(guided) - guided[w] <= 6)

    assert check_within_float16(within).passed
    assert check_broken_without_guidance(broken).passed
