"""Probes on a real GPU beside the virtual one: how they are run, written down and compared. No GPU is needed."""

import errno
import json
import os
import sys
import threading
import types
from contextlib import contextmanager

import pytest

from sana_lab import evidence, isolated
from sana_lab.evidence.compared import unexplained
from sana_lab.versions import agreement, matrix, real, record, runner, stacks, worker
from sana_lab.versions.probes import PROBES

RUNS, OTHER = {"kind": "runs", "value": "cpu"}, {"kind": "runs", "value": "cuda:0"}
RAISES = {"kind": "raises", "error": "ValueError", "words": "`.to` is not supported"}
INSTALLED = {"python": "3.12.3", "resolved": dict(stacks.get("2025-12").pins), "beside": {"numpy": "2.3.5", "x": "1"}}
NAMES = ("2025-10", "2025-12")


# ---- running ----------------------------------------------------------------------------------------------------


@pytest.fixture
def laid_out(tmp_path, monkeypatch):
    """A folder with two stacks, a machine with a GPU, and made-up outcomes; gives (folder, calls, faults)."""
    for name in (*NAMES, "something else"):
        (tmp_path / "in" / name).mkdir(parents=True)
    calls, faults, lock = [], {}, threading.Lock()

    def probe_in(python, probes, new, old, weights, virtual, environ):
        with lock:
            calls.append((virtual, tuple(probes), environ))
        yield dict(INSTALLED)
        for id in probes:
            if (virtual, id) in faults:
                raise OSError("the process ended")
            yield {"probe": id, "digest": PROBES[id].digest, **(RUNS if virtual else OTHER)}

    @contextmanager
    def folders():
        yield tmp_path, tmp_path, "trained"

    monkeypatch.setattr(real, "installed", lambda path: INSTALLED)
    monkeypatch.setattr(real, "probe_in", probe_in)
    monkeypatch.setattr(real, "folders", folders)
    monkeypatch.setattr(evidence, "this_machine", lambda: {"device": "H100", "count": 1, "driver": "580"})
    return tmp_path, calls, faults


def run(place, *more):
    return real.main([str(place / "in"), "--out", str(place / "out"), *more])


def test_every_probe_runs_once_on_each_gpu_and_each_stack(laid_out):
    place, calls, _ = laid_out
    assert run(place, "--jobs", "8") == 0
    found = evidence.load(real.NAME, folder=place / "out")
    assert list(found["results"]["stacks"]) == list(NAMES)
    for entry in found["results"]["stacks"].values():
        assert list(entry["real"]) == list(entry["virtual"]) == list(PROBES)
        digest = {"digest": PROBES["move-encoder"].digest}
        assert entry["real"]["move-encoder"] == OTHER | digest and entry["virtual"]["move-encoder"] == RUNS | digest
        assert entry["resolved"] == INSTALLED["resolved"] and "x" not in entry["beside"]
    assert found["machine"]["device"] == "H100" and found["versions"]["torch"] == INSTALLED["resolved"]["torch"]
    assert sum(len(probes) for _, probes, _ in calls) == 2 * 2 * len(PROBES)
    for virtual, _, environ in calls:
        libraries, source = environ["PYTHONPATH"].split(os.pathsep)
        assert libraries.startswith(str(place / "in")) and source == str(runner.SOURCE)
        assert (environ.get("CUDA_VISIBLE_DEVICES") == "") == virtual  # hidden from the virtual half only


def test_a_process_that_ends_early_loses_only_its_own_probes(laid_out, capsys):
    place, _, faults = laid_out
    faults[(False, "move-encoder")] = True
    assert run(place, "--jobs", "4") == 1
    found = evidence.load(real.NAME, folder=place / "out")["results"]
    assert len(found["errors"]) == 2 and "2025-10, real: the process ended" in capsys.readouterr().err
    entry = found["stacks"]["2025-12"]
    assert list(entry["virtual"]) == list(PROBES)
    assert "move-encoder" not in entry["real"] and "import-sana-pipeline" in entry["real"]


def test_a_stopped_run_goes_on_with_what_is_missing(laid_out, capsys):
    place, calls, faults = laid_out
    faults[(False, "move-encoder")] = True
    assert run(place, "--jobs", "4") == 1
    before = evidence.load(real.NAME, folder=place / "out")["results"]["stacks"]
    calls.clear()
    faults.clear()
    assert run(place, "--jobs", "4") == 0
    left = [id for id in PROBES if id not in before["2025-12"]["real"]]
    assert 0 < len(left) < len(PROBES) and not any(virtual for virtual, _, _ in calls)
    assert sorted(id for _, probes, _ in calls for id in probes) == sorted(2 * left)
    found = evidence.load(real.NAME, folder=place / "out")["results"]
    assert found["errors"] == [] and all(list(found["stacks"][name]["real"]) == list(PROBES) for name in NAMES)
    calls.clear()
    written = (place / "out" / "versions_real.json").read_bytes()
    assert run(place) == 0 and calls == [] and "nothing to do" in capsys.readouterr().out
    assert (place / "out" / "versions_real.json").read_bytes() == written
    assert run(place, "--again", "--probe", "move-encoder") == 0 and len(calls) == 4
    assert evidence.load(real.NAME, folder=place / "out")["results"] == found


def change(place, **fields):
    """Change the record of a run: of the whole, or of the stack 2025-12."""
    file = place / "out" / "versions_real.json"
    found = json.loads(file.read_text())
    entry = found["results"]["stacks"]["2025-12"]
    for name, value in fields.items():
        (found if name in found else entry)[name] = value
    file.write_text(json.dumps(found))
    return file


@pytest.mark.parametrize(
    "outcome", [{"digest": "of other lines"}, {"weights": "untrained"}, {"kind": "skipped", "words": "no weights"}]
)
def test_an_outcome_of_other_lines_or_weights_is_measured_again(laid_out, outcome):
    place, calls, _ = laid_out
    assert run(place, "--probe", "map-auto") == 0
    change(place, virtual={"map-auto": RUNS | {"digest": PROBES["map-auto"].digest} | outcome})
    calls.clear()
    assert run(place, "--probe", "map-auto") == 0
    assert [virtual for virtual, _, _ in calls] == [True]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"machine": {"device": "H100", "count": 2, "driver": "580"}}, "machine count 2, not 1"),
        ({"python": "3.11.7"}, "stack 2025-12 python 3.11.7, not"),
        ({"resolved": INSTALLED["resolved"] | {"torch": "2.0.0"}}, "stack 2025-12 resolved torch 2.0.0, not"),
        ({"resolved": INSTALLED["resolved"] | {"bitsandbytes": "0.1.2"}}, "resolved bitsandbytes 0.1.2, not"),
        ({"beside": {"numpy": "1.26.4"}}, "stack 2025-12 beside numpy 1.26.4, not"),
        ({"damage": True}, "damaged"),
    ],
)
def test_a_record_of_something_else_is_refused_and_left_alone(laid_out, capsys, fields, said):
    place, calls, _ = laid_out
    assert run(place, "--probe", "map-auto") == 0
    calls.clear()
    file = change(place, **fields)
    if "damage" in fields:
        file.write_text(file.read_text()[:-9])
    kept = file.read_bytes()
    assert run(place) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in line and "give another --out" in line
    assert calls == [] and file.read_bytes() == kept


def test_a_stack_measured_before_and_no_longer_there_is_kept(laid_out):
    place, calls, _ = laid_out
    assert run(place, "--probe", "map-auto") == 0
    (place / "in" / "2025-12").rmdir()
    assert run(place, "--probe", "move-encoder") == 0
    found = evidence.load(real.NAME, folder=place / "out")["results"]["stacks"]
    assert list(found["2025-12"]["real"]) == ["map-auto"]
    assert list(found["2025-10"]["real"]) == ["map-auto", "move-encoder"]


def test_without_a_gpu_the_virtual_half_runs(laid_out, monkeypatch):
    place, calls, _ = laid_out
    monkeypatch.setattr(evidence, "this_machine", lambda: {"device": "core of a CPU", "count": 2, "driver": None})
    assert run(place, "--probe", "move-encoder") == 0
    assert [(virtual, probes) for virtual, probes, _ in calls] == [(True, ("move-encoder",))] * 2


def test_a_folder_without_stacks_is_refused(tmp_path, capsys):
    assert real.main([str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "no folder with the name of a stack" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="this system has no /proc")
def test_a_place_that_cannot_be_written_is_found_before_anything_runs(laid_out, capsys):
    place, calls, _ = laid_out
    assert real.main([str(place / "in"), "--out", "/proc/none"]) == 2
    said = capsys.readouterr().err
    assert "cannot write in" in said and said.count("\n") == 1 and calls == []


def test_a_disk_that_is_full_in_the_middle_is_one_line_and_no_fault_of_a_stack(laid_out, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(real.Findings, "put", full)
    assert run(laid_out[0]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "space left" in line]
    assert len(said) == 1 and "make room" in said[0]


def test_the_first_version_on_the_path_is_the_installed_one(tmp_path, monkeypatch):
    where = tmp_path / "diffusers-0.1.2.dist-info"
    where.mkdir()
    (where / "METADATA").write_text("Metadata-Version: 2.1\nName: diffusers\nVersion: 0.1.2\n")
    assert worker.installed()["resolved"]["diffusers"] == stacks.get(stacks.BOOK).pins["diffusers"]
    monkeypatch.syspath_prepend(tmp_path)
    assert worker.installed()["resolved"]["diffusers"] == "0.1.2"


def test_messages_do_not_say_where_libraries_lie(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    wanted = {"folder": "/new", "older": "/old"}
    said = f"{tmp_path}/diffusers/utils/a.py:23: no (/env/lib/python3.11/site-packages/torch/b.py)"
    assert worker._clean(said, wanted) == "diffusers/utils/a.py:23: no (torch/b.py)"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("survives", [True, False])
def test_beside_a_gpu_libraries_are_imported_only_if_cuda_survives_a_fork(monkeypatch, survives):
    def zeros(*shape, device):
        if not survives:
            raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")
        return types.SimpleNamespace(add_=lambda one: types.SimpleNamespace(item=lambda: 1))

    torch = types.SimpleNamespace(cuda=types.SimpleNamespace(is_available=lambda: True), zeros=zeros)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(isolated.machine, "capability", lambda: None)
    imported = []
    assert isolated.preload(lambda: imported.append(1)) == survives
    assert bool(imported) == survives


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_an_import_that_ends_the_process_ends_the_trial_alone(monkeypatch):
    torch = types.SimpleNamespace(cuda=types.SimpleNamespace(is_available=lambda: True))
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(isolated.machine, "capability", lambda: None)
    here = os.getpid()
    assert isolated.preload(lambda: os.getpid() == here or os._exit(3)) is False


def test_importing_beside_a_gpu_does_not_ask_cuda(monkeypatch):
    def from_cuda(device=None):
        raise AssertionError("this starts CUDA")

    has_triton = from_cuda  # the real one starts CUDA as well
    triton = types.SimpleNamespace(has_triton=has_triton, has_triton_package=lambda: True)
    torch = types.SimpleNamespace(cuda=types.SimpleNamespace(get_device_capability=from_cuda))
    for name, module in {"torch": torch, "torch.utils": types.SimpleNamespace(_triton=triton)}.items():
        monkeypatch.setitem(sys.modules, name, module)
    seen = []
    for known in ((9, 0), (6, 1)):
        monkeypatch.setattr(isolated.machine, "capability", lambda known=known: known)
        with isolated.without_starting_cuda():
            seen.append((torch.cuda.get_device_capability(0), triton.has_triton()))
    assert seen == [((9, 0), True), ((6, 1), False)]
    assert torch.cuda.get_device_capability is from_cuda and triton.has_triton is has_triton


# ---- comparing --------------------------------------------------------------------------------------------------


@pytest.fixture
def compared():
    """Two stacks: on the first one of three probes differs, on the second none of two."""
    resolved = dict(stacks.get("2025-12").pins)
    first = {
        "real": {"move-encoder": RAISES, "call-recipe": RUNS, "map-auto": RUNS, "map-cuda": RUNS},
        "virtual": {"move-encoder": RAISES, "call-recipe": RUNS, "map-auto": OTHER},
    }
    second = {mode: {"move-encoder": RUNS, "call-recipe": RUNS} for mode in ("real", "virtual")}
    there = {"2025-10": {"outcomes": {"move-encoder": RAISES, "call-recipe": OTHER}}}
    found = {name: {"resolved": resolved, **entry} for name, entry in zip(NAMES, (first, second), strict=True)}
    return agreement.Agreement(found, there)


def test_agreement_counts_pairs_and_lists_what_differs(compared):
    table = compared.table
    assert table["probes"].tolist() == [3, 2] and table["same"].tolist() == [2, 2]
    assert table["as in the matrix"].tolist() == ["1 of 2", "0 of 0"]
    assert compared.differences.index.tolist() == ["map-auto"]
    assert compared.differences.iloc[0].tolist() == ["2025-10", "cpu", "cuda:0", ""]
    assert "map-auto" in compared._repr_html_() and "map-auto" in repr(compared)


def test_a_missing_record_is_told(tmp_path):
    with pytest.raises(ValueError, match="no record named 'versions_real'"):
        agreement.agreement(tmp_path)


@pytest.mark.skipif(real.NAME not in evidence.names(), reason="not recorded on a real GPU yet")
def test_every_recorded_difference_has_a_reason_and_every_reason_a_difference():
    found = agreement.agreement()
    assert unexplained(set(found.differences.index), agreement.REASONS) == [], str(found.differences)
    table = found.table
    assert len(table) >= 3 and stacks.BOOK in table.index
    assert table.loc[stacks.BOOK, "probes"] == len(PROBES) and (table["probes"] >= 20).all()
    assert table["same"].sum() >= 0.9 * table["probes"].sum()


@pytest.mark.skipif(real.NAME not in evidence.names(), reason="not recorded on a real GPU yet")
def test_recorded_stacks_are_the_pinned_ones_but_for_torch():
    entries = evidence.load(real.NAME)["results"]["stacks"]
    for name, entry in entries.items():
        pins = stacks.get(name).versions
        assert {key: entry["resolved"][key] for key in pins if key != "torch"} == {
            key: value for key, value in pins.items() if key != "torch"
        }
        for mode in ("real", "virtual"):
            # recorded with Python 3.12, where ast.unparse quotes the f-string of the drawing probes in another way
            kept = {id: outcome["digest"] for id, outcome in entry[mode].items() if not PROBES[id].trained}
            assert kept == {id: PROBES[id].digest for id in kept}, (name, mode)


# ---- measuring again --------------------------------------------------------------------------------------------


@pytest.fixture
def measured_before(tmp_path, monkeypatch):
    """A record of one stack, and a second measurement whose outcomes can be changed; gives (folder, outcomes)."""
    stack, outcomes = stacks.get("2025-12"), {"move-encoder": dict(RAISES), "call-recipe": dict(RUNS)}

    @contextmanager
    def build(stack):
        yield tmp_path, ""

    @contextmanager
    def folders():
        yield tmp_path, tmp_path, "trained"

    def probe_in(python, wanted, *places):
        yield json.loads(json.dumps(INSTALLED))
        yield from ({"probe": id, "digest": PROBES[id].digest, **outcomes[id]} for id in wanted if id in outcomes)

    for name, stand_in in (("environment", build), ("folders", folders), ("probe_in", probe_in)):
        monkeypatch.setattr(runner, name, stand_in)
    runner.run([stack], folder=tmp_path)
    return tmp_path, outcomes


def test_a_stack_measured_again_equals_its_record_or_not(measured_before):
    place, outcomes = measured_before
    before = record.load(place)
    stack = stacks.get("2025-12")
    assert runner.check([stack], folder=place) == {"2025-12": []}
    outcomes["move-encoder"] = dict(RUNS)
    (line,) = runner.check([stack], folder=place)["2025-12"]
    assert line.startswith("move-encoder: ") and matrix.describe(RAISES) in line
    after = record.load(place)
    assert {**after, "checks": None} == {**before, "checks": None}
    assert after["checks"]["2025-12"] | {"when": ""} == {"when": "", "probes": 2, "differences": [line]}
    with pytest.raises(ValueError, match="'2026-02' is not in the record"):
        runner.check([stacks.get("2026-02")], folder=place)


@pytest.mark.parametrize("field", ["check", "resolved", "python", "built"])
def test_other_versions_or_complaints_are_differences_too(measured_before, field):
    place, _ = measured_before
    results = record.load(place)
    other = {"resolved": {"torch": "other"}, "built": False}.get(field, "other")
    results["stacks"]["2025-12"][field] = other
    record.save(results, place)
    (line,) = runner.check([stacks.get("2025-12")], folder=place)["2025-12"]
    assert line.startswith(f"{field}: {other!r} in the record")


@pytest.mark.parametrize(("value", "status", "said"), [("cpu", 0, "equals its record"), ("x", 1, "differs from its")])
def test_the_command_says_whether_a_stack_equals_its_record(measured_before, monkeypatch, capsys, value, status, said):
    from sana_lab import cli

    place, outcomes = measured_before
    outcomes["call-recipe"] = {"kind": "runs", "value": value}
    monkeypatch.setattr(sys, "argv", ["sana-lab", "versions", "run", "2025-12", "--check", "--record", str(place)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    out, err = capsys.readouterr()
    assert (stop.value.code or 0) == status and said in out
    assert "probe" in err and "2/" in err  # a progress bar
