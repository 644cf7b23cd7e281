"""Records of results: written whole, read with care, shown with where they came from."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from sana_lab import evidence

H200 = {"device": "NVIDIA H200", "count": 1, "driver": "580.159"}
VERSIONS = {"python": "3.11.7", "torch": "2.11.0", "diffusers": "0.42.1", "bitsandbytes": "0.50.2"}


@pytest.fixture
def folder(tmp_path):
    evidence.save(
        "memory",
        what="Bytes of one transformer",
        command="sana-lab measure --model <600M>",
        results={"bytes": 7, "list": [1.5, None]},
        seed=3,
        machine=H200,
        versions=VERSIONS,
        when="2026-11-22T10:00:00Z",
        folder=tmp_path,
    )
    return tmp_path


def test_a_record_comes_back_as_it_was(folder):
    assert evidence.load("memory", folder=folder) == {
        "what": "Bytes of one transformer",
        "command": "sana-lab measure --model <600M>",
        "machine": H200,
        "versions": VERSIONS,
        "seed": 3,
        "when": "2026-11-22T10:00:00Z",
        "results": {"bytes": 7, "list": [1.5, None]},
    }


def test_the_caption_says_where_a_result_came_from(folder):
    shown = evidence.show("memory", folder=folder)
    assert repr(shown) == (
        "Recorded on 1 × NVIDIA H200, driver 580.159, torch 2.11.0, diffusers 0.42.1, bitsandbytes 0.50.2"
        " — 2026-11-22 — sana-lab measure --model <600M>"
    )
    page = shown._repr_html_()
    assert "<code>sana-lab measure --model &lt;600M&gt;</code>" in page and "<600M>" not in page
    assert page.startswith('<p class="provenance"')


def test_machine_versions_and_time_are_found_out(tmp_path):
    evidence.save("here", what="w", command="c", results=[], folder=tmp_path)
    record = evidence.load("here", folder=tmp_path)
    assert record["versions"]["torch"] == torch.__version__
    assert record["machine"]["count"] >= 1 and record["machine"]["device"]
    assert record["when"].endswith("Z") and record["seed"] is None


def test_numpy_and_torch_numbers_become_plain(tmp_path):
    results = {"a": np.float32(0.5), "b": np.arange(3), "c": torch.tensor([[1, 2]]), "d": torch.tensor(2.0)}
    evidence.save("plain", what="w", command="c", results=results, folder=tmp_path)
    assert evidence.load("plain", folder=tmp_path)["results"] == {"a": 0.5, "b": [0, 1, 2], "c": [[1, 2]], "d": 2.0}


def test_an_unknown_record_names_those_there_are(folder):
    with pytest.raises(ValueError, match=r"no record named 'speed'; there are: memory"):
        evidence.load("speed", folder=folder)


@pytest.mark.parametrize("name", ["", "../memory", "Memory", "memory.json", ".hidden", 3])
def test_a_bad_name_is_refused(folder, name):
    with pytest.raises(ValueError, match="not a record's name"):
        evidence.load(name, folder=folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}"])
def test_a_damaged_file_is_a_clear_error(folder, text):
    (folder / "memory.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="record 'memory' is damaged"):
        evidence.load("memory", folder=folder)


@pytest.mark.parametrize("field", ["what", "command", "machine", "versions", "when", "results"])
@pytest.mark.parametrize("value", [None, "", 7])
def test_an_incomplete_record_is_a_clear_error(folder, field, value):
    record = evidence.load("memory", folder=folder)
    (folder / "memory.json").write_text(json.dumps({**record, field: value}), encoding="utf-8")
    with pytest.raises(ValueError, match=f"record 'memory' is damaged or incomplete: '{field}'"):
        evidence.load("memory", folder=folder)


def test_a_record_cut_anywhere_is_never_taken_for_whole(folder):
    path = folder / "memory.json"
    whole = path.read_bytes()
    for length in range(len(whole.rstrip())):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="damaged"):
            evidence.load("memory", folder=folder)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"results": {"x": float("nan")}}, ValueError, "NaN or an infinity"),
        ({"results": {"x": float("inf")}}, ValueError, "NaN or an infinity"),
        ({"results": {"x": object()}}, TypeError, "hold a object"),
        ({"what": ""}, ValueError, "'what'"),
        ({"command": ""}, ValueError, "'command'"),
        ({"results": "seven"}, ValueError, "'results'"),
        ({"machine": {"device": "x"}}, ValueError, "'count'"),
    ],
)
def test_a_failed_save_leaves_the_old_record_and_nothing_else(folder, change, error, said):
    before = (folder / "memory.json").read_bytes()
    with pytest.raises(error, match=said):
        evidence.save("memory", **{"what": "w", "command": "c", "results": [], "folder": folder, **change})
    assert (folder / "memory.json").read_bytes() == before
    assert [path.name for path in folder.iterdir()] == ["memory.json"]


def test_a_save_that_is_interrupted_leaves_the_old_record_and_nothing_else(folder, monkeypatch):
    def interrupted(*paths):
        raise KeyboardInterrupt

    before = (folder / "memory.json").read_bytes()
    monkeypatch.setattr(evidence.journal.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evidence.save("memory", what="w", command="c", results=[1], folder=folder)
    assert (folder / "memory.json").read_bytes() == before
    assert [path.name for path in folder.iterdir()] == ["memory.json"]


def test_gpus_are_described_by_their_driver(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H200, 580.159'\necho 'NVIDIA H200, 580.159'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert evidence.this_machine() == {"device": "NVIDIA H200", "count": 2, "driver": "580.159"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert evidence.this_machine()["count"] == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert evidence.this_machine()["driver"] is None


def test_importing_it_imports_no_torch():
    code = "import sys, sana_lab.evidence; print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("name", evidence.names())
def test_every_record_of_the_package_is_whole(name):
    record = evidence.load(name)
    assert json.dumps(record, allow_nan=False)
    assert "/home/" not in record["command"] and "/root/" not in record["command"]


@pytest.mark.parametrize("name", evidence.names())
def test_no_record_names_a_folder_of_the_machine_that_made_it(name):
    text = json.dumps(evidence.load(name))
    assert re.findall(r"(?<![\w.])/(?:home|root|work|tmp|opt|mnt|Users)/[\w./-]{4,60}", text) == []
