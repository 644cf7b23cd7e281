"""The catalogue in the form that the pages' search reads."""

from __future__ import annotations

import json
import re

import pytest

from sana_lab.failures import search_index
from sana_lab.failures.catalogue import catalogue


def test_every_entry_is_in_it_and_its_patterns_still_match_its_messages():
    entries = {entry["id"]: entry for entry in search_index.entries()}
    assert list(entries) == [failure.id for failure in catalogue()]
    for failure in catalogue():
        made = entries[failure.id]
        assert made["page"] == failure.family
        assert made["messages"] == list(failure.messages.values())
        for text in ("CUDA out of memory", *made["messages"]):
            assert bool(re.search(made["pattern"], text)) == bool(re.search(failure.pattern, text))


def test_the_script_is_one_assignment_of_json():
    text = search_index.script()
    assert text.startswith("window.FAILURES = ") and text.endswith(";\n")
    assert json.loads(text.removeprefix("window.FAILURES = ").removesuffix(";\n")) == search_index.entries()


@pytest.mark.parametrize("pattern", [r"(?i)oom", r"(?P<name>x)", r"\Aerror", r"(?>a)b", r"(?i:a|b)", r"(?x: a)"])
def test_a_form_that_browsers_lack_is_refused(pattern):
    with pytest.raises(ValueError, match="JavaScript has no such form"):
        search_index.for_javascript(pattern)


@pytest.mark.parametrize("pattern", [r"a(?:b|c)d", r"(?<!x)y(?=z)(?!w)", r"[*+/@-] self\.\w+"])
def test_a_form_that_both_have_stays(pattern):
    assert search_index.for_javascript(pattern) == pattern
