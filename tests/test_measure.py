"""`sana-lab measure`: one process a method, what is finished is kept, no time is made up where there is no GPU."""

import json
import logging

import pytest
from typer.testing import CliRunner

from sana_lab import cli, evidence, use_accelerator
from sana_lab.measure import quality, runner, worker
from sana_lab.measure.cli import table
from sana_lab.measure.methods import METHODS, WAYS, find
from sana_lab.measure.runner import Job, collect, jobs_for, run, save
from sana_lab.shapes import SHAPES_FOLDER


def test_methods_name_known_ways_and_precisions():
    from sana_lab.sana import PRECISIONS

    for method in METHODS.values():
        assert set(method.ways) <= set(WAYS)
        assert method.precision in (*PRECISIONS, "16-bit")
    assert METHODS["16-bit"].ways.index("eager") == 0, "the others are compared with it"


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="method 'int7' is unknown: choose from 16-bit"):
        find("int7")
    with pytest.raises(ValueError, match="method 'int7' is unknown"):
        jobs_for(SHAPES_FOLDER, ["int7"])


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is no checkpoint: `sana-lab make-random"):
        jobs_for(tmp_path)


def test_bytes_on_the_virtual_gpu_and_no_times(tmp_path):
    """In this process, to be quick; the numbers are those of chapter 4's accounting."""
    from sana_lab import accounting, slim

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    with use_accelerator(virtual=True, vram="80GiB"):
        seen = []
        found = worker.measure(SHAPES_FOLDER, "int8-slim", [(512, 1)], lambda found: seen.append(json.dumps(found)))
    expected = slim.predict(SHAPES_FOLDER, "int8", granule=512)
    assert {name: found["resident"][name] for name in accounting.COMPONENTS} == expected
    assert found["resident"]["allocated"] == sum(expected.values())
    assert found["load"]["peak"] >= found["resident"]["allocated"]
    assert found["load"]["seconds"] is None
    assert found["ways"] == {}
    assert seen, "nothing would be left of an interrupted measurement"


def test_threshold_0_reaches_every_8_bit_layer():
    import bitsandbytes

    with use_accelerator(virtual=True, vram="80GiB"):
        pipe = worker.load(SHAPES_FOLDER, METHODS["int8-t0"])
        layers = [m for model in (pipe.text_encoder, pipe.transformer) for m in model.modules()]
    thresholds = {m.state.threshold for m in layers if isinstance(m, bitsandbytes.nn.Linear8bitLt)}
    assert thresholds == {0.0}


# ---- the runner, with workers that do not measure ---------------------------------------------------------------


@pytest.fixture
def fake(monkeypatch):
    """Workers that write at once; `broken` names those that fail half-way."""
    started, broken = [], set()

    def one(job, out, gpu, limit):
        started.append((job.name, gpu))
        found = {"resident": {"allocated": 2**20}, "load": {"peak": 2**20}, "ways": {}}
        if job.method not in broken:
            found |= {"sizes": [list(size) for size in job.sizes], "complete": True}
        (out / f"{job.name}.json").write_text(json.dumps(found))
        return job.method not in broken

    monkeypatch.setattr(runner, "_run_one", one)
    return started, broken


def test_what_is_finished_is_not_measured_again(fake, tmp_path):
    started, broken = fake
    jobs = [Job(tmp_path, name, label="x") for name in ("16-bit", "int8", "nf4")]
    broken.add("int8")
    assert [job.method for job in run(jobs, tmp_path, progress=False)] == ["int8"]
    started.clear()
    broken.clear()
    assert run(jobs, tmp_path, progress=False) == []
    assert [name for name, _ in started] == ["x--int8"]


def test_a_checkpoint_stays_on_its_gpu(fake, tmp_path):
    started, _ = fake
    jobs = [Job(tmp_path, method, label=label) for label in ("a", "b") for method in ("16-bit", "int8", "nf4")]
    run(jobs, tmp_path, gpus=2, progress=False)
    assert {(name[0], gpu) for name, gpu in started} == {("a", 0), ("b", 1)}


def test_a_record_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nothing was measured"):
        save([Job(tmp_path, "int8")], tmp_path, "x", folder=tmp_path)


def test_the_record_names_torchao_and_others_do_not(fake, tmp_path, monkeypatch):
    """What is installed beside must not make a run that goes on elsewhere look like one of other versions."""
    monkeypatch.setattr(evidence, "version", lambda library: "1.0")
    jobs = [Job(tmp_path, "int8", label="x")]
    run(jobs, tmp_path, progress=False)
    save(jobs, tmp_path, "x", folder=tmp_path)
    assert evidence.load(runner.RECORD, folder=tmp_path)["versions"]["torchao"] == "1.0"
    assert "torchao" not in evidence.installed_versions()


def test_half_a_result_is_in_the_record_and_measured_again(fake, tmp_path):
    _, broken = fake
    broken.add("int8")
    jobs = [Job(tmp_path, "int8", label="x")]
    run(jobs, tmp_path, progress=False)
    assert collect(jobs, tmp_path)[0]["checkpoint"] == "x"
    (tmp_path / "x--int8.json").write_text("{")
    assert not runner._complete(jobs[0], tmp_path)


def test_bytes_alone_do_not_pass_for_times(fake, tmp_path):
    started, _ = fake
    run([Job(tmp_path, "int8", label="x")], tmp_path, progress=False)
    timed = [Job(tmp_path, "int8", ((512, 1),), label="x")]
    run(timed, tmp_path, progress=False)
    run(timed, tmp_path, progress=False)
    assert len(started) == 2


def test_a_method_that_takes_too_long_says_so(tmp_path, monkeypatch):
    def forever(*_, timeout, **__):
        raise runner.subprocess.TimeoutExpired("worker", timeout)

    monkeypatch.setattr(runner.subprocess, "run", forever)
    job = Job(tmp_path, "int8", label="x")
    assert run([job], tmp_path, limit=7, progress=False) == [job]
    assert "stopped after 14 s" in (tmp_path / "x--int8.log").read_text()
    assert "--limit more than 7" in (tmp_path / "x--int8.log").read_text()
    (tmp_path / "x--int8.json").write_text(json.dumps({"resident": {"allocated": 1}, "load": {"peak": 1}, "ways": {}}))
    assert collect([job], tmp_path)[0]["error"] == "Unfinished"


@pytest.mark.parametrize(
    ("visible", "expected"), [(None, ["0", "1"]), ("3,5", ["3", "5"]), ("GPU-a,GPU-b", ["GPU-a", "GPU-b"])]
)
def test_a_worker_gets_one_of_the_gpus_that_are_visible(tmp_path, monkeypatch, visible, expected):
    seen = []
    monkeypatch.setattr(runner.subprocess, "run", lambda *_, env, **__: seen.append(env["CUDA_VISIBLE_DEVICES"]))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    for gpu in (0, 1):
        with pytest.raises(AttributeError):  # a worker that says nothing
            runner._run_one(Job(tmp_path, "int8", label="x"), tmp_path, gpu, 1)
    assert seen == expected


# ---- the command -------------------------------------------------------------------------------------------------


def test_the_command_counts_in_another_process(tmp_path):
    result = CliRunner().invoke(
        cli.app, ["measure", str(SHAPES_FOLDER), "--method", "int8", "--size", "512x1", "--out", str(tmp_path)]
    )
    assert result.exit_code == 0, result.output
    assert "nothing is timed" in result.stderr
    record = json.loads((tmp_path / "measured.json").read_text())
    row = record["results"]["rows"][0]
    assert (row["method"], row["ways"], row["complete"]) == ("int8", {}, True)
    assert record["command"] == "sana-lab measure FOLDER --method int8 --size 512x1"


@pytest.mark.parametrize("size", ["512", "0x1", "100x1", "512x0", "512x1x1"])
def test_a_bad_size_is_one_line(size):
    result = CliRunner().invoke(cli.app, ["measure", str(SHAPES_FOLDER), "--size", size])
    assert "give pixels and pictures, such as 512x1" in str(result.exception)


def test_what_is_not_installed_is_left_out_and_named_where_it_is_asked_for(monkeypatch, tmp_path):
    from sana_lab.measure import cli as command

    asked = []
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    monkeypatch.setattr(runner, "run", lambda jobs, *_, **__: asked.extend(job.method for job in jobs) or [])
    CliRunner().invoke(cli.app, ["measure", str(SHAPES_FOLDER), "--out", str(tmp_path)])
    assert asked == [name for name in METHODS if name != "torchao"]
    monkeypatch.setitem(__import__("sys").modules, "torchao.quantization", None)
    with use_accelerator(virtual=True), pytest.raises(ImportError, match="pip install torchao"):
        worker.load(SHAPES_FOLDER, METHODS["torchao"])


def test_a_checkpoint_that_cannot_be_loaded_is_a_result(tmp_path):
    """A folder with a model_index.json and nothing else: reported, kept, and the exit status says so."""
    folder = tmp_path / "empty"
    folder.mkdir()
    (folder / "model_index.json").write_text((SHAPES_FOLDER / "model_index.json").read_text())
    result = CliRunner().invoke(cli.app, ["measure", str(folder), "--method", "int8", "--out", str(tmp_path / "out")])
    assert "1 of 1 methods failed: see empty--int8.log" in str(result.exception)
    found = json.loads((tmp_path / "out/empty--int8.json").read_text())
    assert found["error"] in ("OSError", "ValueError")
    assert not runner._complete(Job(folder, "int8"), tmp_path / "out"), "it would not be tried again"


def test_the_table_shows_bytes_times_and_failures():
    step = {"median": 12.34}
    rows = [
        {
            "method": "int8",
            "resident": {"allocated": 3 * 2**20},
            "load": {"peak": 4 * 2**20},
            "ways": {"eager": [{"pixels": 512, "batch": 1, "step_ms": step}], "graph": {"error": "E", "text": "t"}},
        },
        {"method": "nf4", "error": "OutOfMemoryError", "text": "CUDA out of memory"},
    ]
    lines = table(rows)
    assert lines[1].split() == ["int8", "3", "4", "eager", "512x1:", "12.3"]
    assert "OutOfMemoryError: CUDA out of memory" in lines[2]


# ---- quality -----------------------------------------------------------------------------------------------------


def test_quality_goes_on_and_refuses_other_arguments(tmp_path):
    plan = {"n": 3, "steps": 20, "batch": 50, "seed": 0}
    (tmp_path / "fast_quality.partial").write_text(json.dumps({"plan": plan, "found": {}}))
    with use_accelerator(virtual=True), pytest.raises(ValueError, match="is of other arguments"):
        quality.record(2, folder=tmp_path)


def test_a_way_to_draw_must_be_known():
    with pytest.raises(ValueError, match="way 'fastest' is unknown: choose from recipe, slim, fast"):
        quality.pipeline(SHAPES_FOLDER, "fastest")
