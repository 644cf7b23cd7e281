"""Chapter 12's exercises: the stored solutions pass, and each named wrong answer is refused with its own hint."""

import json
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from sana_lab.exercises.ch12 import check_first_new, check_unmet, unmet

CHAPTER = Path(__file__).resolve().parent.parent / "notebooks" / "12_version_pitfalls.ipynb"


def search(releases, is_new, *, start=0, end=-1, keep="new", stride=None):
    """The right answer of exercise 1, with one thing changed at a time."""
    if stride:
        return next(r for r in releases[start:] if is_new(r))
    low, high = start, len(releases) + end
    while high - low > 1:
        middle = (low + high) // 2
        if is_new(releases[middle]):
            high = middle
        else:
            low = middle
    return releases[high if keep == "new" else low]


def stuck(releases, is_new):
    low, high = 0, len(releases) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_new(releases[middle]) else (middle, high)
    return releases[high]


def check(installed, lines, *, text=False, decimal=False, missing=True, upper=True, pre=True, marker=True, local=True):
    """The right answer of exercise 2, with one thing changed at a time."""
    found = []
    for line in lines:
        wanted = Requirement(line)
        if marker and wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        version = installed.get(wanted.name)
        if version is None:
            found += [line] * missing
            continue
        lower = next((s.version for s in wanted.specifier if s.operator in (">=", "==")), "0")
        if text:
            bad = version < lower
        elif decimal:
            bad = float(".".join(version.split(".")[:2])) < float(".".join(lower.split(".")[:2]))
        elif not upper:
            bad = Version(version) < Version(lower)
        elif not local:
            bad = version != lower if "==" in line else not wanted.specifier.contains(version, prereleases=True)
        else:
            bad = not wanted.specifier.contains(version, prereleases=pre)
        if bad:
            found.append(line)
    return found


def raises(installed, lines):
    wanted = [Requirement(line) for line in lines]
    return [str(w) for w in wanted if not w.specifier.contains(installed[w.name], prereleases=True)]


def consumes(releases, is_new):
    while len(releases) > 2:
        middle = len(releases) // 2
        if is_new(releases[middle]):
            del releases[middle + 1 :]
        else:
            del releases[:middle]
    return releases[-1]


def of_numbers(releases, is_new):
    """Takes releases for numbers that follow each other."""
    newest = search([str(i) for i in range(len(releases))], lambda i: is_new(f"0.{int(i) + 1}.0"))
    return f"0.{int(newest) + 1}.0"


def bounds_only(installed, lines):
    """Knows >= and < alone."""
    return [x for x in unmet(installed, lines) if not any(s.operator in ("!=", "~=") for s in Requirement(x).specifier)]


def from_the_text(installed, lines):
    """Takes all before the first sign for the name."""
    there = [line for line in lines if ";" in line or re.split("[<>=!~ ]", line)[0] in installed]
    return [line for line in lines if line not in there or line in unmet(installed, [line])]


def with_flag(function, **flags):
    return lambda *args: function(*args, **flags)


FIRST, UNMET = check_first_new, check_unmet
WRONG = {
    "first: stub": (FIRST, lambda releases, is_new: None, "you say None"),
    "first: one by one": (FIRST, with_flag(search, stride=1), "Ask for the middle"),
    "first: the last old one": (FIRST, with_flag(search, keep="old"), "is the last old one"),
    "first: newest": (FIRST, lambda releases, is_new: releases[-1], "3 releases, the change comes with 0.2.0"),
    "first: never ends": (FIRST, stuck, "does not end"),
    "first: forgets the newest": (FIRST, with_flag(search, end=-2), "is the last old one"),
    "first: asks for numbers": (FIRST, lambda releases, is_new: is_new(1), "none of the releases"),
    "first: consumes the list": (FIRST, consumes, "changes `releases`"),
    "first: takes them for numbers": (FIRST, of_numbers, "none of the releases"),
    "first: a position": (FIRST, lambda r, is_new: r.index(search(r, is_new)), "you say 1"),
    "unmet: written anew": (UNMET, lambda i, x: [str(Requirement(line)) for line in unmet(i, x)], "as they were given"),
    "unmet: no conditions": (UNMET, lambda i, x: [y for y in unmet(i, x) if ";" not in y], "condition that holds"),
    "unmet: two signs": (UNMET, bounds_only, "may be ruled out"),
    "unmet: one line": (UNMET, lambda i, x: "".join(unmet(i, x)), "return a list"),
    "unmet: from the text": (UNMET, from_the_text, "no part of the name"),
    "unmet: stub": (UNMET, lambda installed, lines: None, "return a list"),
    "unmet: all is well": (UNMET, lambda installed, lines: [], "0.9 is older than 0.32"),
    "unmet: compares texts": (UNMET, with_flag(check, text=True), "number by number"),
    "unmet: compares decimals": (UNMET, with_flag(check, decimal=True), "number by number"),
    "unmet: no upper end": (UNMET, with_flag(check, upper=False), "upper end"),
    "unmet: missing is fine": (UNMET, with_flag(check, missing=False), "not installed"),
    "unmet: missing raises": (UNMET, raises, "KeyError"),
    "unmet: builds differ": (UNMET, with_flag(check, local=False), r"\+cpu is the same"),
    "unmet: no installations from git": (UNMET, with_flag(check, pre=False), "installation from git"),
    "unmet: all extras": (UNMET, with_flag(check, marker=False), "nobody asked for"),
    "unmet: names only": (UNMET, lambda i, lines: [Requirement(x).name for x in unmet(i, lines)], "as they were given"),
    "unmet: only the first": (UNMET, lambda i, lines: unmet(i, lines)[:1], "several at once"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_answer_is_refused_with_its_hint(name):
    checked, answer, hint = WRONG[name]
    verdict = checked(answer)
    assert not verdict.passed
    assert re.search(hint, verdict.text), verdict.text


def test_the_praise_counts_the_environments_of_this_very_answer():
    assert "of 40 releases yours asked about 6 at most" in check_first_new(search).text
    asks_the_ends_too = check_first_new(lambda r, is_new: is_new(r[0]) or is_new(r[-1]) and search(r, is_new))
    assert "about 8 at most" in asks_the_ends_too.text


@pytest.mark.parametrize(
    "kind", [tuple, iter, lambda found: (line for line in found), lambda found: dict.fromkeys(found).keys()]
)
def test_any_kind_of_list_is_right(kind):
    verdict = check_unmet(lambda installed, lines: kind(unmet(installed, lines)))
    assert verdict.passed, verdict.text


def test_right_answers_pass():
    assert check_first_new(search).passed
    assert check_unmet(unmet).passed and check_unmet(with_flag(check)).passed


def test_the_stored_solutions_pass_and_the_stubs_do_not():
    cells = json.loads(CHAPTER.read_text(encoding="utf-8"))["cells"]
    said = ["".join(output["data"]["text/plain"]) for cell in cells for output in cell.get("outputs", [])
            if "text/plain" in output.get("data", {})]  # fmt: skip
    assert sum(text.startswith("Right:") for text in said) == 2
    assert sum(text.startswith("Not yet:") for text in said) == 2
