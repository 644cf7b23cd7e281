"""The record of the whole catalogue: what is run where, what is written down, and how two records compare."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest

from sana_lab import evidence
from sana_lab.evidence import compared
from sana_lab.failures import catalogue, get, page, record
from sana_lab.failures.comparison import DIFFERENCES, REAL, VIRTUAL, comparable, compare, fixes_that_work
from sana_lab.failures.outcome import Outcome

LIVE = [failure.id for failure in catalogue() if failure.evidence == "live"]
STORED = evidence.load(VIRTUAL)["results"]


def happened(case, **fields):
    """An outcome as the catalogue says, made from a stored one."""
    id, fix, memory = case
    stored = STORED[id]["reproduction"] if fix is None else STORED[id]["fixes"][str(fix)]
    told = {
        "error": stored["error"],
        "kinds": (stored["error"],) if stored["error"] else (),
        "message": stored.get("message", ""),
        "log": stored.get("log", ""),
        "printed": stored.get("printed", ""),
    }
    return Outcome(id, fix, memory, **{**told, **fields})


@pytest.fixture
def runs(monkeypatch):
    """Calls of `run_many`, which returns what is in the stored record."""
    calls = []

    def run_many(cases, *, done, **options):
        calls.append((list(cases), options))
        outcomes = [happened(case) for case in cases]
        for outcome in outcomes:
            done(outcome)
        return outcomes

    monkeypatch.setattr(record, "run_many", run_many)
    return calls


def chosen(*ids):
    return [get(id) for id in ids]


# ---- what is run where ------------------------------------------------------------------------------------------


def test_virtual_runs_all_in_one_batch(runs):
    results = record.record(list(catalogue()), [], jobs=2, limit=9)
    ((cases, options),) = runs
    assert {id for id, _, _ in cases} == set(LIVE)
    assert (options["jobs"], options["virtual"], options["time_limit"], options["visible"]) == (2, True, 9, None)
    assert list(results) == [failure.id for failure in catalogue()]
    assert {id for id, result in results.items() if "not run" not in result} == set(LIVE)
    assert all(result["reproduction"]["shown"] for id, result in results.items() if id in LIVE)


@pytest.mark.parametrize("gpus", [["0", "1"], ["3"], ["0", "1", "2", "3"]])
def test_every_real_process_sees_the_gpus_that_its_entry_needs(runs, gpus):
    results = record.record(list(catalogue()), gpus, jobs=16, limit=9)
    ran = {}
    for cases, options in runs:
        assert options["virtual"] is False
        seen = [gpu for gpu in options["visible"].split(",") if gpu]
        assert set(seen) <= set(gpus)
        for case in cases:
            assert case not in ran, "twice"
            ran[case] = len(seen)
            assert get(case[0]).gpus == len(seen)
    together = sum(options["jobs"] for _, options in runs if "," not in options["visible"])
    assert together <= 16
    for id in LIVE:
        if get(id).gpus > len(gpus):
            assert "this machine shows 1" in results[id]["not run"]
        else:
            wanted = {None, *(n for n, fix in enumerate(get(id).fixes, 1) if fix.function)}
            assert {fix for name, fix, _ in ran if name == id} == wanted


def test_entries_for_two_gpus_run_when_nothing_else_does(monkeypatch):
    running, clashes = set(), []

    def run_many(cases, *, done, visible, **options):
        running.add(visible)
        if "," in visible and running != {visible}:
            clashes.append(set(running))
        outcomes = [happened(case) for case in cases]
        running.remove(visible)
        return outcomes

    monkeypatch.setattr(record, "run_many", run_many)
    record.record(list(catalogue()), ["0", "1"], jobs=8, limit=9)
    assert clashes == []


def test_a_small_card_is_tried_in_steps_and_only_on_a_real_one():
    small = get("cuda-out-of-memory")
    assert record._memories(small, real=False) == [0]
    sizes = record._memories(small, real=True)
    assert sizes[0] == 32 * 2**20
    assert sizes == sorted(sizes)
    assert sizes[-1] < 2**30
    assert record._memories(get("index-on-gpu"), real=True) == [0]


def test_the_smallest_memory_is_taken_at_which_failure_and_fix_are_right(monkeypatch):
    failure = get("decode-out-of-memory-unbound-image")
    sizes = record._memories(failure, real=True)

    def run_many(cases, *, done, **options):
        found = []
        for id, fix, memory in cases:
            too_early = {"error": "OutOfMemoryError", "kinds": ("OutOfMemoryError",), "message": "CUDA out of memory"}
            step = sizes.index(memory)
            if step < 2 or (fix and step == 2):  # neither, then the failure alone, then both, then it fits
                found.append(Outcome(id, fix, memory, **too_early))
            elif fix is None and step > 4:
                found.append(Outcome(id, fix, memory))
            else:
                found.append(happened((id, fix, memory)))
        return found

    monkeypatch.setattr(record, "run_many", run_many)
    result = record.record([failure], ["0"], jobs=2, limit=9)[failure.id]
    assert result["reproduction"]["shown"]
    assert result["fixes"]["1"]["cured"]
    assert result["held to"].startswith(f"{sizes[3] / 2**20:.0f} MiB")
    assert len(result["attempts"]) == len(sizes)
    assert result["attempts"]["60 MiB"]["reproduction"] == "OutOfMemoryError: CUDA out of memory"


# ---- what is written down ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("id", "fields", "shown", "words"),
    [
        ("index-on-gpu", {}, True, "RuntimeError: indices should be either on cpu"),
        ("index-on-gpu", {"message": "something else\nand more"}, False, "RuntimeError: something else"),
        ("index-on-gpu", {"error": None, "kinds": ()}, False, ""),
        ("8bit-saves-less-than-half", {"printed": "the transformer shrank to 50 %"}, False, "the transformer shrank"),
        ("index-on-gpu", {"error": "ProcessDied", "kinds": (), "message": "exit status 1"}, False, "ProcessDied: exit"),
    ],
)
def test_what_did_not_happen_is_not_said_to_have(monkeypatch, id, fields, shown, words):
    monkeypatch.setattr(
        record, "run_many", lambda cases, **_: [happened(c, **(fields if c[1] is None else {})) for c in cases]
    )
    result = record.record(chosen(id), [], jobs=1, limit=9)[id]
    assert result["reproduction"]["shown"] is shown
    assert result["reproduction"].get("words", "").startswith(words)
    assert result["fixes"]["1"]["cured"] is True


@pytest.mark.parametrize("id", ["index-on-gpu", "8bit-saves-less-than-half", "torch-dtype-deprecated"])
def test_a_fix_that_leaves_the_symptom_is_not_said_to_work(monkeypatch, id):
    def run_many(cases, **_):
        return [dataclasses.replace(happened((id, None, 0)), fix=fix) for id, fix, _ in cases]

    monkeypatch.setattr(record, "run_many", run_many)
    result = record.record(chosen(id), [], jobs=1, limit=9)[id]
    assert result["reproduction"]["shown"] is True
    assert result["fixes"]["1"]["cured"] is False


def test_no_path_of_the_machine_is_kept():
    text = "/home/me/.venv/lib/python3.11/site-packages/torch/x.py:3: in /tmp/sana-lab-untrained-1-0-torch2.13.0/vae"
    assert record._clean(text) == "torch/x.py:3: in FOLDER/vae"
    text = "(/opt/torch/.venv/lib/python3.12/site-packages/huggingface_hub/__init__.py)"
    assert record._clean(text) == "(huggingface_hub/__init__.py)"
    assert record._clean("/opt/libs/diffusers/utils/y.py:2: F") == "diffusers/utils/y.py:2: F"
    link = "see https://github.com/huggingface/diffusers/issues/3"
    assert record._clean(link) == link
    stored = json.dumps([STORED, evidence.load(REAL)["results"]])
    assert not any(part in stored for part in ("/home/", "/tmp/", "/root/", "/work/", "site-packages", "\\\\Users"))


def test_the_command_writes_a_record_with_its_origin(runs, tmp_path, capsys):
    out = tmp_path / "failures_virtual.json"
    assert record.main(["--virtual", "--out", str(out), "--only", "device-map"]) == 0
    written = json.loads(out.read_text(encoding="utf-8"))
    assert written["command"].startswith("python -m sana_lab.failures.record --virtual")
    assert set(written["results"]) == {failure.id for failure in catalogue() if "device-map" in failure.id}
    assert "8 of 8 failures shown" in capsys.readouterr().out


def test_some_entries_are_renewed_in_a_record(runs, tmp_path, capsys):
    out = tmp_path / "failures_virtual.json"
    old = json.loads((evidence.FOLDER / "failures_virtual.json").read_text(encoding="utf-8"))
    old["versions"] = evidence.installed_versions()
    del old["results"]["index-on-gpu"], old["results"]["transformer-left-on-cpu"]
    out.write_text(json.dumps(old), encoding="utf-8")
    renew = ["--virtual", "--out", str(out), "--only", "index-on-gpu,transformer-left", "--renew"]
    assert record.main(renew) == 0
    new = json.loads(out.read_text(encoding="utf-8"))
    assert list(new["results"]) == [failure.id for failure in catalogue()], "in the catalogue's order"
    ((cases, _),) = runs
    assert {id for id, *_ in cases} == {"index-on-gpu", "transformer-left-on-cpu"}
    assert {id: new["results"][id] for id in old["results"]} == old["results"] and "--only" not in new["command"]
    new["versions"]["torch"] = "1.0"
    out.write_text(json.dumps(new), encoding="utf-8")
    assert record.main(renew) == 2
    assert "of another torch: run all entries" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "x.json"], "--real or --virtual"),
        (["--virtual", "--out", "x.txt"], "ends in .json"),
        (["--virtual", "--out", "x.json", "--jobs", "0"], "--jobs 0: give a whole number from 1 to 256"),
        (["--virtual", "--out", "x.json", "--only", "qqq"], "no entry's id contains 'qqq'"),
        (["--virtual", "--out", "x.json", "--only", "meta,qqq"], "no entry's id contains 'qqq'"),
        (["--virtual", "--out", "x.json", "--only", "meta", "--renew"], "no record named 'x'"),
        (["--real", "--out", "x.json"], "shows no GPU"),
        (["--real", "--virtual", "--out", "x.json"], "one of the two"),
        (["--virtual", "--out", "x y.json"], "'x y' is not a record's name"),
        (["--virtual", "--out", "/proc/none/x.json"], "cannot write in"),
        (["--virtual", "--out", "x.json", "--limit", "nan"], "--limit nan: give a finite number above 0"),
    ],
)
def test_bad_arguments(monkeypatch, capsys, arguments, words):
    monkeypatch.setattr(record.evidence, "this_machine", lambda: {"device": "core", "count": 2, "driver": None})
    assert record.main(arguments) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


# ---- two records compared ---------------------------------------------------------------------------------------


def test_the_stored_record_has_every_entry_that_runs():
    assert set(STORED) == {failure.id for failure in catalogue()}, "record it again: see sana_lab.failures.record"
    for failure in catalogue():
        result = STORED[failure.id]
        assert ("not run" in result) == (failure.evidence != "live")
        if "not run" not in result:
            assert result["reproduction"]["shown"], failure.id
            assert result["fixes"].keys() == {str(n) for n, fix in enumerate(failure.fixes, 1) if fix.function}
            assert all(fix["cured"] for fix in result["fixes"].values()), failure.id


def verdicts(real):
    return {row.failure.id: row.verdict for row in compare(STORED, real)}


def test_a_record_is_the_same_as_itself():
    found = verdicts(copy.deepcopy(STORED))
    assert {id for id, verdict in found.items() if verdict == "same"} == set(LIVE)
    assert set(found.values()) == {"same", "not compared"}
    assert set(verdicts({}).values()) == {"not compared"}


def test_every_difference_is_told():
    real = copy.deepcopy(STORED)
    real["index-on-gpu"]["reproduction"]["words"] = "RuntimeError: other words"
    real["gpu-tensor-to-numpy"]["reproduction"]["error"] = "ValueError"
    real["linear-two-dtypes"]["reproduction"]["shown"] = False
    real["nan-with-threshold-zero"] = {"not run": "needs 2 GPUs, and this machine shows 1"}
    real["cuda-out-of-memory"]["reproduction"]["words"] = (
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB."
    )
    found = verdicts(real)
    assert found["index-on-gpu"] == found["gpu-tensor-to-numpy"] == "words differ"
    assert found["linear-two-dtypes"] == "virtual only"
    assert found["nan-with-threshold-zero"] == "not compared"
    assert found["cuda-out-of-memory"] == "same", "amounts hang on the card"
    virtual = copy.deepcopy(STORED)
    virtual["linear-two-dtypes"]["reproduction"]["shown"] = False
    assert {r.failure.id: r.verdict for r in compare(virtual, STORED)}["linear-two-dtypes"] == "real only"
    assert {r.failure.id: r.verdict for r in compare(virtual, real)}["linear-two-dtypes"] == "neither"
    assert comparable("Tried 1.25 MiB of 3 bytes") == "Tried N bytes of N bytes"


def test_every_difference_to_the_real_record_is_explained():
    real = evidence.load(REAL)["results"]
    rows = [row for row in compare(STORED, real) if row.real is not None]
    assert compared.unexplained([row.failure.id for row in rows if row.verdict != "same"], DIFFERENCES) == []
    assert sum(row.real["reproduction"]["shown"] for row in rows) >= 25
    for row in rows:
        works, fixes = fixes_that_work(row.real)
        assert works == fixes, row.failure.id


@pytest.fixture
def real(monkeypatch):
    """As if there were a record of real GPUs, with two differences."""
    results = copy.deepcopy(STORED)
    results["index-on-gpu"]["reproduction"]["words"] = "RuntimeError: other | words"
    results["linear-two-dtypes"]["reproduction"]["shown"] = False
    results["cuda-out-of-memory"]["held to"] = "64 MiB of GPU memory"
    stored = evidence.load(VIRTUAL)
    record_of = {"failures_real": {**stored, "machine": {"device": "GPU X", "count": 2, "driver": "1"}}}
    monkeypatch.setattr(page, "load", lambda name: results if name == "failures_real" else STORED)
    monkeypatch.setattr(page.evidence, "load", lambda name, **_: record_of.get(name, stored))
    monkeypatch.setattr(page.evidence, "names", lambda folder=None: ["failures_real", "failures_virtual"])


FAMILIES = {family.name for family in page.FAMILIES}


def test_the_pages_show_the_real_column(real):
    assert f"On GPU X {len(LIVE)} ran and {len(LIVE) - 1} showed: {len(LIVE) - 2} with the same" in (
        page.comparison_summary().data
    )
    table = page.comparison_table("device-mismatch").data
    assert "| other words, see below |" in table
    assert "| same |" in table
    below = page.differences().data
    assert "`RuntimeError: other | words`" in below
    assert "held to 64 MiB" in below
    assert below.count("- real:") == 3
    entries = page.entries("device-mismatch").data + page.entries("dtypes").data
    assert "raised on GPU X</span>" in entries
    assert entries.count("not seen on GPU X") == 1
    assert "raised on GPU X, hidden" in page.entries("installation").data


def test_the_pages_without_a_real_record(monkeypatch):
    monkeypatch.setattr(page, "load", lambda name: STORED if name == VIRTUAL else {})
    assert "no record of real GPUs yet" in page.comparison_summary().data
    assert "no record of real GPUs yet" in page.differences().data
    tables = "".join(page.comparison_table(name).data for name in FAMILIES)
    assert all(f"(#failure-{id})" in tables for id in LIVE)
    rest = page.not_run().data
    assert all((f"(#failure-{failure.id})" in rest) == (failure.evidence != "live") for failure in catalogue())
    assert "raised on" not in page.entries("device-mismatch").data
    with pytest.raises(ValueError, match="device-mismatch"):
        page.comparison_table("none")


def test_the_evidence_page_has_every_family():
    source = (record.Path(__file__).parents[1] / "book" / "failures_evidence.md").read_text(encoding="utf-8")
    assert [line.split('"')[1] for line in source.splitlines() if line.startswith("comparison_table(")] == [
        family.name for family in page.FAMILIES
    ]


# ---- forks and fresh interpreters -------------------------------------------------------------------------------


def test_where_forking_fails_each_case_gets_an_interpreter(monkeypatch):
    from sana_lab.failures import runner

    asked = []

    def ask(numbered, jobs, fork, command, request, environ, limit, heard):
        asked.append((len(numbered), fork, jobs, environ["CUDA_VISIBLE_DEVICES"]))
        return None if fork else {number: happened(case).to_json() for number, case in numbered}

    monkeypatch.setattr(runner.isolated, "_ask", ask)
    cases = [("index-on-gpu", None), ("index-on-gpu", 1), ("linear-two-dtypes", None)]
    found = runner.run_many(cases, jobs=2, virtual=False, visible="1")
    assert [(outcome.id, outcome.fix) for outcome in found] == cases
    assert asked[0] == (3, True, 2, "1")
    assert sorted(asked[1:]) == [(1, False, 1, "1")] * 3
