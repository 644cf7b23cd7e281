"""The doctor on environments that nobody has to build: facts go in, and each disease must be named with its cure."""

import dataclasses
import json
import os
import sys

import pytest
from packaging.requirements import Requirement

from sana_lab import accounting, cli, evidence, float8
from sana_lab.versions import doctor, sizes
from sana_lab.versions.doctor import FLOAT8, Seen, diagnose
from sana_lab.versions.stacks import BOOK, LIBRARIES, get

PINS = dict(get(BOOK).pins)
REQUIRES = {
    "diffusers": ["huggingface-hub<3.0,>=1.32", "safetensors>=0.8", 'jax>=0.4; extra == "flax"'],
    "transformers": ["huggingface-hub<3.0,>=1.5", "tokenizers<=0.24,>=0.22"],
    "accelerate": ["torch>=2.0.0", "huggingface-hub>=0.21"],
}
BESIDE = {"safetensors": "0.8.0", "tokenizers": "0.23.3"}
H100 = [("NVIDIA H100 80GB HBM3", "580.95.05")]
ON_GPU = {
    "cuda_build": "12.8",
    "cuda": True,
    "name": H100[0][0],
    "capability": [9, 0],
    "free": 70 * 2**30,
    "total": 80 * 2**30,
    "binary": "libbitsandbytes_cuda128.so",
    "product": 0.007,
}
BINARIES = ("libbitsandbytes_cpu.so", "libbitsandbytes_cuda126.so", "libbitsandbytes_cuda128.so")
WELL = Seen(PINS, REQUIRES, BESIDE, BINARIES, H100, ON_GPU, need=4 * 2**30)


def ill(device=None, **changes):
    """The healthy environment with a few facts changed; a version of None is a library that is missing."""
    versions = {name.replace("_", "-"): changes.pop(name) for name in list(changes) if name.replace("_", "-") in PINS}
    facts = {"versions": {**PINS, **versions}, "device": {**ON_GPU, **(device or {})}, **changes}
    return dataclasses.replace(WELL, **facts)


def found(seen, **asked):
    """Name -> the checks of that name."""
    checks = {}
    for check in diagnose(seen, **asked).checks:
        checks.setdefault(check.name, []).append(check)
    return checks


def test_a_healthy_environment_has_nothing_but_ok():
    diagnosis = diagnose(WELL, "1600M-1024")
    assert {check.status for check in diagnosis.checks} == {"OK"}, str(diagnosis)
    assert not diagnosis.failed
    assert {*LIBRARIES, "python", "requirements", "gpu", "8-bit product", "memory"} <= found(WELL).keys()


BROKEN = {
    "a library is missing": (ill(accelerate=None), "accelerate", "FAIL", "not installed", "pip install accelerate=="),
    "a requirement is not met": (
        ill(huggingface_hub="0.36.0"),
        "requirements",
        "FAIL",
        "diffusers 0.42.1 needs huggingface-hub<3.0,>=1.32, and 0.36.0",
        "pip install torch==",
    ),
    "a requirement is missing": (
        ill(beside={"tokenizers": "0.23.3"}),
        "requirements",
        "FAIL",
        "safetensors, which is missing",
        "safetensors>=0.8",
    ),
    "accelerate ahead of diffusers": (
        ill(diffusers="0.36.0", transformers="4.57.3", accelerate="1.13.0", bitsandbytes="0.49.2", requires={}),
        "known failure",
        "FAIL",
        "8bit-load-calls-to",
        "pip install",
    ),
    "diffusers before transformers 5": (
        ill(diffusers="0.34.0", transformers="5.2.0", requires={}),
        "known failure",
        "FAIL",
        "flax-weights-name-import",
        "diffusers>=0.35.2",
    ),
    "bitsandbytes that cannot move": (
        ill(bitsandbytes="0.47.0", requires={}),
        "known failures",
        "WARN",
        "8bit-move-needs-bitsandbytes-0-48",
        "sana-lab failures show",
    ),
    "torch without CUDA beside a GPU": (
        ill({"cuda_build": None, "cuda": False}),
        "gpu",
        "FAIL",
        "built without CUDA",
        "--force-reinstall torch",
    ),
    "a driver that is too old": (ill({"cuda": False}), "gpu", "FAIL", "driver is too old", "nvidia-smi"),
    "a GPU without integer tensor cores": (ill({"capability": [7, 0]}), "gpu", "FAIL", "need 7.5", "nf4"),
    "torch that does not import": (
        ill(device={}, requires={}).__class__(PINS, gpus=H100, device={"torch_error": "OSError: libcudart.so.12"}),
        "import",
        "FAIL",
        "libcudart",
        "force-reinstall torch",
    ),
    "no binary for this CUDA": (
        ill({"cuda_build": "13.1", "binary": ""}, bitsandbytes="0.49.2", requires={}),
        "bitsandbytes binary",
        "FAIL",
        "cuda131 is not in 0.49.2",
        "bitsandbytes>=0.50",
    ),
    "a binary that computes wrong": (
        ill({"product": 0.9}),
        "8-bit product",
        "FAIL",
        "90 % off",
        "reinstall bitsandbytes",
    ),
    "a binary that raises": (
        ill({"product": None, "bitsandbytes_error": "RuntimeError: named symbol not found"}),
        "8-bit product",
        "FAIL",
        "named symbol",
        "python -m bitsandbytes",
    ),
    "no 8-bit product on a CPU": (
        ill({"cuda": False, "cuda_build": None, "product": None}, gpus=[], bitsandbytes="0.45.5", requires={}),
        "8-bit product",
        "WARN",
        "CPU",
        "bitsandbytes>=0.46",
    ),
    "a model that does not fit": (ill(need=90 * 2**30), "memory", "FAIL", "holds 90.0 GiB", "sana-lab plan --model"),
    "a model that hardly fits": (ill(need=68 * 2**30), "memory", "WARN", "more than the weights", "sana-lab plan"),
    "an old Python": (ill(python="3.10.12"), "python", "FAIL", "3.10.12", "python3.11"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_disease_is_named_with_its_cure(name):
    seen, check, status, said, cure = BROKEN[name]
    hits = [c for c in found(seen).get(check, []) if c.status == status and said in c.text]
    assert hits, str(diagnose(seen))
    assert any(cure in c.fix for c in hits), hits
    assert diagnose(seen).failed == (status == "FAIL") or status == "WARN"


@pytest.mark.parametrize("name", BROKEN)
def test_a_healthy_environment_has_none_of_the_diseases(name):
    """The check on the checks: each says OK, or nothing, where its fact is as it should be."""
    _, check, _, said, _ = BROKEN[name]
    assert not [c for c in found(WELL).get(check, []) if c.status != "OK" or said in c.text]


def test_a_gpu_is_not_needed_to_be_well():
    seen = ill({"cuda": False, "cuda_build": None, "free": None, "product": 0.007}, gpus=[])
    diagnosis = diagnose(seen)
    assert not diagnosis.failed
    assert [c.name for c in diagnosis.checks if c.status == "WARN"] == ["gpu"]


def test_an_old_gpu_is_no_obstacle_to_four_bits():
    assert diagnose(ill({"capability": [7, 0]})).failed
    assert not diagnose(ill({"capability": [7, 0]}), precision="nf4").failed


def test_an_older_gpu_keeps_fp8_in_the_weights():
    assert FLOAT8 == float8.UNITS
    checks = diagnose(ill({"capability": [8, 6]}), precision="fp8").checks
    assert [c.status for c in checks if "FP8 products need 8.9, activations=16" in c.text] == ["WARN"]


def test_markers_and_extras_are_heeded():
    wanted = ['nowhere>=1; python_version < "3.0"', 'elsewhere; extra == "dev"']
    assert not found(ill(requires={"diffusers": wanted}))["requirements"][0].status == "FAIL"
    assert found(ill(requires={"diffusers": ["nowhere>=1"]}))["requirements"][0].status == "FAIL"


def test_a_nearest_binary_counts_from_0_50_on():
    near = {"cuda_build": "12.9", "binary": "libbitsandbytes_cuda128.so"}
    assert found(ill(near))["bitsandbytes binary"][0].status == "OK"
    assert found(ill(near, bitsandbytes="0.49.2", requires={}))["bitsandbytes binary"][0].status == "FAIL"


def test_the_text_has_one_line_a_check_and_the_json_all_of_it():
    diagnosis = diagnose(ill(accelerate=None))
    lines = str(diagnosis).splitlines()
    assert len(lines) == len(diagnosis.checks)
    assert all(line.split()[0] in ("OK", "WARN", "FAIL") for line in lines)
    again = json.loads(json.dumps(diagnosis.to_json()))
    assert again["failed"] and len(again["checks"]) == len(lines)


def test_commands_name_what_is_measured():
    for library in LIBRARIES:
        assert Requirement(f"{library}=={PINS[library]}").name in doctor.ALL_PINS


def test_a_bad_model_or_precision_is_refused_at_the_door():
    with pytest.raises(ValueError, match="choose from fp32"):
        doctor.doctor(precision="int3")
    with pytest.raises(ValueError, match="choose from shapes, 600M-512"):
        doctor.doctor("1700M")


def test_recorded_bytes_are_what_is_counted():
    for model, precision in (("shapes", "int8"), ("600M-512", "bf16")):
        assert sizes.recorded(model, precision) == sizes.counted(model, precision)
    assert {name: set(row) for name, row in evidence.load(sizes.NAME)["results"].items()} == {
        name: set(accounting.PRECISIONS) for name in ("shapes", *accounting.CHECKPOINTS)
    }


@pytest.mark.parametrize(("seen", "status"), [(WELL, 0), (ill(accelerate=None), 1)])
@pytest.mark.parametrize("form", ["text", "json"])
def test_the_command_s_exit_status_is_1_if_a_check_fails(monkeypatch, capsys, seen, status, form):
    monkeypatch.setattr(doctor, "look", lambda need: dataclasses.replace(seen, need=need))
    monkeypatch.setattr(sys, "argv", ["sana-lab", "doctor", *(["--json"] if form == "json" else [])])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    out = capsys.readouterr().out
    assert (stop.value.code or 0) == status
    assert json.loads(out)["failed"] == bool(status) if form == "json" else "OK    diffusers: 0.42.1" in out


def test_this_environment_in_earnest():
    """The real thing, once: the libraries are the pinned ones, one layer is multiplied right, in less than 15 s."""
    started = _processor_seconds()
    diagnosis = doctor.doctor()
    took = _processor_seconds() - started  # not by the clock: this machine may have other work to do
    status = {check.name: check.status for check in diagnosis.checks}
    assert status["8-bit product"] == status["requirements"] == status["memory"] == "OK", str(diagnosis)
    assert all(status[library] == "OK" for library in LIBRARIES)
    assert 0 < took < 15


def _processor_seconds():
    """What this process and the ones that it waited for have used."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@pytest.mark.parametrize("gib", [2, 4, 6, 8])
def test_its_advice_for_a_small_card_is_the_plans_and_fits(gib):
    """Offloading whole 8-bit components needs more than leaving them on the GPU: that was advised here once."""
    from sana_lab import plan
    from sana_lab.checkpoints import resolve
    from sana_lab.fitting import planner

    need = sizes.recorded("600M-512", "int8")
    seen = ill({"free": gib * 2**30, "total": gib * 2**30}, need=max(need, gib * 2**30 + 1))
    (check,) = found(seen, model="600M-512")["memory"]
    best = planner.on_a_card(resolve("600M-512"), gib * 2**30, "free", 512).fits[0]
    assert check.status == "FAIL" and check.fix.endswith(f"--way {best.way}") and best.peak <= gib * 2**30
    assert best.title in check.text and plan("600M-512", gib + planner.CONTEXT).fits[0] == best


def test_what_it_calls_room_enough_is_what_the_plan_calls_so():
    """A pipeline whose weights fit and whose decoding does not was waved through once: 25 % more was the rule."""
    from sana_lab.checkpoints import resolve
    from sana_lab.fitting import planner

    for model in ("600M-512", "1600M-1024", "1600M-4K"):
        source = resolve(model)
        for precision, way in (("int8", "int8"), ("nf4", "nf4"), (source.trained, "16-bit")):
            need = sizes.recorded(model, precision)
            for gib in (3, 5, 8, 12, 24):
                seen = ill({"free": gib * 2**30, "total": gib * 2**30}, need=need)
                (check,) = found(seen, model=model, precision=precision)["memory"]
                plan = planner.on_a_card(source, gib * 2**30, "free", planner.own_pixels(source))
                (choice,) = [c for c in plan.choices if c.way == way]
                assert (check.status == "OK") == choice.fits, (model, precision, gib, check)
