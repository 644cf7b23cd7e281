"""The virtual GPU does what a real one did, case by case."""

from __future__ import annotations

import functools
import gc
import json
import os
import re

import pytest

from sana_lab import evidence
from sana_lab.accelerator.conformance import GROUPS, KNOWN_DIFFERENCES, RECORD, conformance_table

from . import run
from .cases import CASES
from .registry import comparable, leading_words

HOW = f"python -m tests.conformance.run --real --out src/sana_lab/evidence/{RECORD}.json"

UNRECORDED: dict[str, str] = {}
"""Groups and cases that wait for their first run on real GPUs, and why. A test fails once the record has one."""

RECORDED = [name for name, case in CASES.items() if not {name, case.group} & UNRECORDED.keys()]

DIFFERENT = {name for name in KNOWN_DIFFERENCES if name in RECORDED}


@pytest.fixture(scope="module")
def record():
    try:
        return evidence.load(RECORD)
    except ValueError as reason:
        pytest.fail(f"{reason}; on a machine with two real GPUs run\n    {HOW}")


@pytest.fixture(scope="module", autouse=True)
def tiny_sana(tmp_path_factory):
    run.prepare_tiny(tmp_path_factory.mktemp("tiny"))
    gc.freeze()  # the cases that count bytes collect often: not through all that the libraries made
    yield
    gc.unfreeze()


@functools.cache
def virtual_outcome(name):
    return json.loads(json.dumps(run.run_case_virtually(CASES[name])))


@pytest.mark.parametrize("name", RECORDED)
def test_case(name, record):
    assert name in record["results"], f"{name} is not in the record; record anew with\n    {HOW}"
    real = comparable(record["results"][name]["outcome"])
    virtual = comparable(virtual_outcome(name))
    if name in KNOWN_DIFFERENCES:
        assert virtual != real, f"{name} agrees by now: take it out of KNOWN_DIFFERENCES"
    else:
        assert virtual == real


def whole(message):
    """A message without what tells where PyTorch is installed, and without its advice, which grows with PyTorch."""
    message = message.partition("\n\nTip: ")[0].rstrip()
    return re.sub(r"(Original Traceback|Traceback of TorchScript).*\n(?=\S)", r"\1\n", message, flags=re.DOTALL)


def test_what_of_a_whole_message_is_compared():
    caught = 'Caught.\nOriginal Traceback (most recent call last):\n  File "{}"\n    x + y\nRuntimeError: {}\n'
    assert whole(caught.format("/here", "no")) == whole(caught.format("/there", "no"))
    assert whole(caught.format("/here", "no")) != whole(caught.format("/here", "yes"))
    assert whole("a\nb\n\nTip: c") == whole("a\nb\n\nTip: d") != whole("a\nc")


def test_whole_messages_are_equal_too(record):
    """All but one, which tells how much memory this process and others on the same GPU hold."""
    raised = {name: result["outcome"] for name, result in record["results"].items() if "raises" in result["outcome"]}
    found = {name: virtual_outcome(name).get("message", "") for name in raised}
    differ = {name for name, real in raised.items() if whole(found[name]) != whole(real["message"])}
    assert differ - set(KNOWN_DIFFERENCES) == {"out_of_memory"}


def test_enough_cases():
    assert len(CASES) >= 60
    assert sum(case.gpus == 2 for case in CASES.values()) >= 15
    assert {case.group for case in CASES.values()} == set(GROUPS)


def test_record_is_of_these_cases(record):
    assert sorted(record["results"]) == sorted(RECORDED)
    assert record["machine"]["count"] >= 2
    for name, result in record["results"].items():
        assert result["outcome"].get("raises") not in ("TimeLimit", "ProcessDied"), name
        assert result == {**CASES[name].result(result["outcome"])}, name


def test_what_waits_is_named_only_as_long_as_it_waits(record):
    assert set(GROUPS) | set(CASES) >= UNRECORDED.keys()
    assert all(len(reason) > 20 for reason in UNRECORDED.values())
    recorded = {*record["results"], *(result["group"] for result in record["results"].values())} & UNRECORDED.keys()
    assert not recorded, f"recorded by now, take them out of UNRECORDED: {sorted(recorded)}"


@pytest.mark.parametrize("name", [name for name in CASES if name not in RECORDED])
def test_a_case_that_waits_ends(name):
    """Whatever comes out: none takes the process down or falls apart in the case's own lines."""
    outcome = virtual_outcome(name)
    assert outcome.get("raises") not in ("NameError", "AttributeError", "ImportError", "KeyError", "UnboundLocalError")


def test_known_differences_are_cases_and_give_reasons():
    assert set(KNOWN_DIFFERENCES) <= set(CASES)
    assert all(len(reason) > 20 for reason in KNOWN_DIFFERENCES.values())


def test_comparison_notices():
    """Another type, other words, another value are all differences; the tail of a message is not."""
    error = {"raises": "RuntimeError", "words": "a b", "message": "a b (when checking x)"}
    assert comparable(error) == comparable({**error, "message": "a b (when checking y)"})
    assert comparable(error) != comparable({**error, "raises": "TypeError"})
    assert comparable(error) != comparable({**error, "words": "a c"})
    assert comparable({"returns": {"bytes": 512}}) != comparable({"returns": {"bytes": 1024}})
    assert leading_words("x  y\nz") == "x y"
    assert leading_words("got mat2 is on cpu (when checking argument in method f)") == "got mat2 is on cpu"
    assert leading_words("Input type (torch.HalfTensor) and weight") == "Input type (torch.HalfTensor) and weight"


def test_table_counts_the_record(record, monkeypatch):
    """The book's table has every case once; a known difference shows with its reason and is counted as one."""
    table = conformance_table()
    assert sorted(table.cases.index) == sorted(RECORDED)
    assert table.summary.loc["all", "cases"] == len(RECORDED)
    assert (table.summary["return"] + table.summary["raise"] == table.summary["cases"]).all()
    assert table.summary.loc["all", "same"] == len(RECORDED) - len(DIFFERENT)
    monkeypatch.setitem(KNOWN_DIFFERENCES, "mix_add", "no <reason> at all")
    table = conformance_table()
    assert table.summary.loc["all", "same"] == len(RECORDED) - len(DIFFERENT) - 1
    assert set(table.differences.index) == DIFFERENT | {"mix_add"}
    page = table._repr_html_()
    assert page.count("<tr>") == len(RECORDED) + table.cases["group"].nunique() + 1
    assert "no &lt;reason&gt; at all" in page


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("fresh", [False, True])
def test_every_case_has_a_process_of_its_own(tmp_path, fresh):
    """What the real run does, on a machine whose GPUs are hidden: each case says that there is none."""
    names = [name for name, case in CASES.items() if case.gpus == 1 and case.group == "memory"][: 1 if fresh else 3]
    found = run.ask(names, 2, fresh, str(tmp_path), "")
    assert len(found) == len(names)
    for outcome in found:
        assert outcome["raises"] not in ("ProcessDied", "TimeLimit") and "message" in outcome


def test_the_record_keeps_no_folder_of_a_machine(record):
    stored = json.dumps(record["results"])
    assert not any(part in stored for part in ("site-packages", "/opt/", "/root/", "/home/", "/tmp/"))
