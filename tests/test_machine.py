"""What the driver says about the machine, and what CUDA shows of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sana_lab import evidence, machine
from sana_lab.failures import record as failures_record
from sana_lab.measure import runner

A2000, H200 = "NVIDIA RTX A2000", "NVIDIA H200"
UUIDS = ["GPU-aaaa1111-0000", "GPU-aaaa2222-0000", "GPU-bbbb1111-0000"]


@pytest.fixture
def driver(monkeypatch, tmp_path):
    """Installs a driver's program; `driver(names, slices={1: ["1g.5gb"]}, unknown="compute_cap")`."""

    def install(*names, slices=None, unknown="nothing", capabilities=("8.6", "9.0", "9.0")):
        rows = list(zip(names, capabilities, UUIDS, strict=False))
        listing = []
        for i, (name, _, uuid) in enumerate(rows):
            listing.append(f"GPU {i}: {name} (UUID: {uuid})")
            for j, kind in enumerate((slices or {}).get(i, ())):
                listing.append(f"  MIG {kind}     Device  {j}: (UUID: MIG-{i}{j}00-0000)")
        lines = {
            "name,driver_version": [f"{name}, 580.159" for name, *_ in rows],
            "compute_cap": [capability for _, capability, _ in rows],
            "clocks.sm,clocks.mem": [f"{1000 + i}, {2000 + i}" for i in range(len(rows))],
        }
        cases = "".join(
            f"    --query-gpu={fields}) printf '%s\\n' {' '.join(map(repr, said))};;\n"
            for fields, said in lines.items()
            if unknown not in fields
        )
        program = tmp_path / "nvidia-smi"
        listed = " ".join(map(repr, listing))
        program.write_text(f"#!/bin/sh\ncase $1 in\n    -L) printf '%s\\n' {listed};;\n{cases}    *) exit 2;;\nesac\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        monkeypatch.delenv(machine.VARIABLE, raising=False)

    return install


# (value, numbers of the GPUs that CUDA shows in this order, of three)
SHOWN = [
    (None, [0, 1, 2]),
    ("", []),
    (" ", []),
    ("-1", []),
    ("1", [1]),
    ("2,0", [2, 0]),
    (" 1 , 2 ", [1, 2]),
    ("0,-1,1", [0]),
    ("-1,0", []),
    ("0,,1", [0]),
    ("0,0", []),
    ("0,1,0", []),
    ("0,7,1", [0]),
    ("7", []),
    ("0,7,0", []),
    ("1gpu", [1]),
    ("+1", [1]),
    ("no", []),
    ("NoDevFiles", []),
    (UUIDS[1], [1]),
    (f"{UUIDS[2]},{UUIDS[0]}", [2, 0]),
    ("GPU-b", [2]),
    ("GPU-aaaa", []),  # two begin so
    ("GPU-b,GPU-aaaa,GPU-aaaa1", [2]),
    ("GPU-cccc", []),
    (f"{UUIDS[0]},{UUIDS[0]}", []),
    ("GPU-b,GPU-bbbb", []),
    ("GPU-b,0", [2]),
    ("0,GPU-b", [0]),
]


@pytest.mark.parametrize(("variable", "numbers"), SHOWN)
def test_the_variable_is_read_as_cuda_reads_it(variable, numbers):
    assert [number for _, number in machine.visible(variable, UUIDS)] == numbers


@pytest.mark.parametrize(("variable", "numbers"), [case for case in SHOWN if case[0] is not None])
def test_torch_reads_it_so_too(monkeypatch, variable, numbers):
    """Against the function that torch counts GPUs with where it must not start CUDA."""
    import torch

    monkeypatch.setenv(machine.VARIABLE, variable)
    found = torch.cuda._parse_visible_devices()
    if found and isinstance(found[0], str):
        found = torch.cuda._transform_uuid_to_ordinals(found, UUIDS)
    known = next((i for i, number in enumerate(found) if number >= len(UUIDS)), len(found))
    assert found[:known] == numbers


@pytest.mark.parametrize(
    ("variable", "device", "count", "entries"),
    [
        (None, f"{A2000} and {H200}", 2, ["0", "1"]),
        ("1", H200, 1, ["1"]),
        ("0", A2000, 1, ["0"]),
        (UUIDS[1], H200, 1, [UUIDS[1]]),
        ("0,-1,1", A2000, 1, ["0"]),
        ("1,0", f"{H200} and {A2000}", 2, ["1", "0"]),
    ],
)
def test_a_record_names_the_gpu_that_was_used(driver, monkeypatch, variable, device, count, entries):
    driver(A2000, H200)
    if variable is not None:
        monkeypatch.setenv(machine.VARIABLE, variable)
    assert evidence.this_machine() == {"device": device, "count": count, "driver": "580.159"}
    assert machine.entries() == failures_record._gpus() == entries
    assert machine.capability() == ((8, 6) if device.startswith(A2000) else (9, 0))
    first = 0 if device.startswith(A2000) else 1
    assert machine.clocks() == [1000 + first, 2000 + first]
    assert machine.clocks(count) is None


@pytest.mark.parametrize("variable", ["", "-1", "0,0", "GPU-c"])
def test_hidden_gpus_are_not_named(driver, monkeypatch, variable):
    driver(A2000, H200)
    monkeypatch.setenv(machine.VARIABLE, variable)
    assert evidence.this_machine()["driver"] is None and evidence.this_machine()["device"].startswith("core of ")
    assert machine.entries() == [] and machine.capability() is None and machine.clocks() is None


@pytest.mark.parametrize(
    ("variable", "device"),
    [
        ("MIG-1100-0000", f"{H200} MIG 2g.20gb"),
        ("MIG-1000-0000,MIG-1100-0000", f"{H200} MIG 1g.10gb"),  # CUDA shows one slice to a process
        (f"MIG-{UUIDS[1]}/1/0", f"{H200} MIG"),
        ("1", f"{H200} MIG 1g.10gb"),
        ("0", A2000),
    ],
)
def test_a_slice_of_a_gpu_is_not_taken_for_the_whole(driver, monkeypatch, variable, device):
    driver(A2000, H200, slices={1: ["1g.10gb", "2g.20gb"]})
    monkeypatch.setenv(machine.VARIABLE, variable)
    assert evidence.this_machine() == {"device": device, "count": 1, "driver": "580.159"}
    monkeypatch.setenv(machine.VARIABLE, "MIG-9")
    assert evidence.this_machine()["driver"] is None


def test_what_an_old_driver_does_not_know_is_none(driver):
    driver(H200, unknown="compute_cap")
    assert machine.capability() is None and evidence.this_machine()["device"] == H200


def test_a_worker_gets_the_gpus_that_cuda_shows(driver, monkeypatch):
    driver(A2000, H200, H200)
    monkeypatch.setenv(machine.VARIABLE, "2,1,-1,0")
    assert machine.entries() == ["2", "1"]
    assert runner.machine.entries is machine.entries


def test_without_the_driver_s_program_the_variable_is_all_there_is(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for value, expected in (("3,5", ["3", "5"]), ("GPU-a,GPU-b", ["GPU-a", "GPU-b"]), ("0,-1,1", ["0"]), ("", [])):
        monkeypatch.setenv(machine.VARIABLE, value)
        assert machine.entries() == expected
    monkeypatch.delenv(machine.VARIABLE)
    assert machine.entries() == [] and machine.gpus() == [] and machine.capability() is None


def test_the_machine_is_described_without_torch():
    code = "import sys, sana_lab.machine as m; m.this_machine(); print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
