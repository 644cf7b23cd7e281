"""`sana-lab measure`: one process a method, what is finished is kept, no time is made up where there is no GPU."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from processes import runs, start_by_fork, until
from typer.testing import CliRunner

from sana_lab import cli, commandline, evidence, isolated, use_accelerator
from sana_lab.evidence import journal
from sana_lab.measure import quality, runner, worker
from sana_lab.measure.cli import table
from sana_lab.measure.methods import METHODS, WAYS, find
from sana_lab.measure.runner import Job, collect, jobs_for, run, save
from sana_lab.shapes import SHAPES_FOLDER


def test_methods_name_known_ways_and_precisions():
    from sana_lab.checkpoints import PRECISIONS

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

    def one(job, out, gpu, limit, beside=0):
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


def test_jobs_are_begun_in_their_order_on_gpus_that_are_there(fake, tmp_path):
    started, _ = fake
    jobs = [Job(tmp_path, method, label=label) for label in ("a", "b") for method in ("16-bit", "int8", "nf4")]
    run(jobs, tmp_path, gpus=2, progress=False)
    assert sorted(name for name, _ in started) == sorted(job.name for job in jobs)
    assert {gpu for _, gpu in started} <= {0, 1}


def alone(folder, name):
    """A worker that loads and times in turns, and gives whose, what, and when it began and ended."""
    quiet, times = worker.Quiet(folder / "quiet"), []
    with quiet.working():
        for _ in range(3):
            began = time.monotonic()
            time.sleep(0.05)
            times.append((name, "working", began, time.monotonic()))
            with quiet.alone():
                began = time.monotonic()
                time.sleep(0.1)
                times.append((name, "timing", began, time.monotonic()))
    return times


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system, and locks of another kind")
def test_nothing_runs_beside_a_timing(tmp_path):
    """Three workers that load and time in turns: no timing overlaps another's, or another's work."""
    workers = [(name, partial(alone, tmp_path, name)) for name in "abc"]
    ended = [ended for _, ended in isolated.run_each(workers, limit=60, jobs=3)]
    assert [it.how for it in ended] == [isolated.DONE] * 3
    spans = [span for it in ended for span in it.value]
    timings = [span for span in spans if span[1] == "timing"]
    assert len(timings) == 9
    for mine, _, began, ended in timings:
        beside = [s for s in spans if s[0] != mine and s[2] < ended and s[3] > began]
        assert not beside, "something else was running"


def test_without_a_file_nothing_is_locked():
    quiet = worker.Quiet(None)
    with quiet.working(), quiet.alone():
        pass


def test_clocks_are_the_lowest_of_the_block(monkeypatch):
    answers = iter([None, [1980, 2619], [1700, 2619], *[[1900, 2619]] * 1000])
    monkeypatch.setattr(worker, "clocks", lambda index: next(answers))
    monkeypatch.setattr(worker.torch.cuda, "current_device", lambda: 0)
    with worker.Clocks() as during:
        until(lambda: during.found == [1700, 2619])
    assert during.found == [1700, 2619] and not during._thread.is_alive()


@pytest.mark.parametrize("name", ["int8", "int8-weights", "float8"])
def test_torchao_is_asked_for_what_its_names_say(monkeypatch, name):
    """With stand-ins for the library: 1x1 convolutions are linear layers before it looks, float8 is by row."""
    from types import ModuleType

    from diffusers import SanaPipeline  # noqa: F401  what it imports asks for torchao, and must not find the stand-in

    from sana_lab.measure.methods import TORCHAO

    quantization, asked = ModuleType("torchao.quantization"), []
    for kind in TORCHAO.values():
        setattr(quantization, kind, type(kind, (), {"__init__": lambda self, **options: asked.append(options)}))
    quantization.PerRow = lambda: "a row"
    quantization.quantize_ = lambda blocks, config: asked.append((type(config).__name__, blocks))
    package = ModuleType("torchao")
    package.quantization = quantization
    monkeypatch.setitem(sys.modules, "torchao", package)
    monkeypatch.setitem(sys.modules, "torchao.quantization", quantization)
    with use_accelerator(virtual=True, vram="80GiB"):
        method = next(m for m in METHODS.values() if m.torchao == name)
        pipe = worker.load(SHAPES_FOLDER, method)
    options, (config, blocks) = asked
    assert config == TORCHAO[name] and blocks is pipe.transformer.transformer_blocks
    assert options == ({"granularity": "a row"} if name == "float8" else {})
    assert type(blocks[0].ff.conv_inverted).__name__ == "Pointwise"


@pytest.mark.parametrize("what", ["versions", "weights", "machine"])
def test_results_of_other_versions_weights_or_machines_are_not_mixed(fake, tmp_path, monkeypatch, what):
    started, _ = fake
    model = tmp_path / "model" / "transformer"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    jobs = [Job(model.parent, name, label="x") for name in ("16-bit", "int8")]
    run(jobs[:1], tmp_path / "out", progress=False)
    run(jobs[:1], tmp_path / "out", progress=False)
    if what == "versions":
        monkeypatch.setattr(evidence, "installed_versions", lambda *more: {"torch": "1.0"})
    elif what == "weights":
        (model / "config.json").write_text("[]")
    else:
        monkeypatch.setattr(evidence, "this_machine", lambda: {"device": "H100", "count": 1})
    with pytest.raises(ValueError, match=f"holds a run with {what} .*: give another --out"):
        run(jobs, tmp_path / "out", progress=False)
    assert len(started) == 1
    run([Job(model.parent, "16-bit", label="y")], tmp_path / "out", progress=False)  # another checkpoint is another run


def test_results_inside_the_checkpoint_do_not_make_it_another(fake, tmp_path):
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text("{}")
    for method in ("16-bit", "int8"):
        run([Job(tmp_path, method, label="x")], tmp_path / "measured", progress=False)
    assert len(fake[0]) == 2


@pytest.mark.parametrize("text", ["[]", "3", "null", "{", '{"resident": 3}', '{"complete": true, "sizes": []}'])
def test_a_file_that_no_worker_wrote_is_measured_again(fake, tmp_path, text):
    started, _ = fake
    jobs = [Job(tmp_path, "int8", label="x")]
    run(jobs, tmp_path, progress=False)
    (tmp_path / "x--int8.json").write_text(text)
    table(collect(jobs, tmp_path))
    run(jobs, tmp_path, progress=False)
    assert len(started) == 2 and len(collect(jobs, tmp_path)) == 1


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
    class Forever:
        def wait(self, timeout=None):
            if timeout is not None:
                raise runner.subprocess.TimeoutExpired("worker", timeout)

        def kill(self):
            killed.append(self)

    killed = []
    monkeypatch.setattr(isolated, "start", lambda *_, **__: Forever())
    job = Job(tmp_path, "int8", label="x")
    assert run([job], tmp_path, limit=7, progress=False) == [job]
    assert len(killed) == 1
    assert "stopped after 14 s" in (tmp_path / "x--int8.log").read_text()
    assert "--limit more than 7" in (tmp_path / "x--int8.log").read_text()
    (tmp_path / "x--int8.json").write_text(json.dumps({"resident": {"allocated": 1}, "load": {"peak": 1}, "ways": {}}))
    assert collect([job], tmp_path)[0]["error"] == "Unfinished"


@pytest.mark.parametrize(
    ("visible", "expected"), [(None, ["0", "1"]), ("3,5", ["3", "5"]), ("GPU-a,GPU-b", ["GPU-a", "GPU-b"])]
)
def test_a_worker_gets_one_of_the_gpus_that_are_visible(tmp_path, monkeypatch, visible, expected):
    seen = []

    class Ended:
        def __init__(self, command, environ, **_):
            seen.append(environ["CUDA_VISIBLE_DEVICES"])

        def wait(self, timeout=None):
            return 0

        def kill(self):
            pass

    monkeypatch.setattr(isolated, "start", Ended)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    for gpu in (0, 1):
        assert runner._run_one(Job(tmp_path, "int8", label="x"), tmp_path, gpu, 1)
    assert seen == expected


SLEEPER = """
import os, pathlib, time

pathlib.Path(os.environ["PIDS"], f"pid-{os.getpid()}").touch()
time.sleep(60)
"""
STOPPED = """
import pathlib, signal, sys
from sana_lab.measure import runner

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background process ignores it
runner.WORKER = "sleeper"
folder = pathlib.Path(sys.argv[1])
jobs = [runner.Job(folder, method, label="x") for method in runner.METHODS]
runner.run(jobs, folder, gpus=0, progress=False)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="stops by signals")
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_one_ctrl_c_ends_all_and_no_worker_outlives_its_parent(tmp_path, sign):
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    places = os.pathsep.join([str(tmp_path), str(Path(runner.__file__).parents[2])])
    environment = {**os.environ, "PYTHONPATH": places, "PIDS": str(tmp_path)}
    command = [sys.executable, "-c", STOPPED, str(tmp_path)]
    parent = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    found = until(lambda: len(there := list(tmp_path.glob("pid-*"))) == 2 and there)
    parent.send_signal(sign)
    parent.wait(20)
    until(lambda: not any(runs(int(file.name.removeprefix("pid-"))) for file in found))
    assert len(list(tmp_path.glob("pid-*"))) == 2, "another worker was started afterwards"
    assert len(list(tmp_path.glob("*.log"))) == 2, "another was about to be"


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


@pytest.mark.parametrize("interrupted", [lambda **_: 130, lambda **_: exec("raise KeyboardInterrupt")])
def test_the_command_says_that_it_was_stopped(monkeypatch, capsys, interrupted):
    """Whether typer tells of Ctrl+C by a number or by the exception."""
    monkeypatch.setattr(commandline, "_built", lambda app: SimpleNamespace(main=interrupted))
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 130 and capsys.readouterr().err == "sana-lab: stopped\n"


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
    assert asked == [name for name in METHODS if not METHODS[name].torchao]
    monkeypatch.setitem(__import__("sys").modules, "torchao.quantization", None)
    with use_accelerator(virtual=True), pytest.raises(ImportError, match="pip install torchao"):
        worker.load(SHAPES_FOLDER, METHODS["torchao"])


def test_a_checkpoint_that_cannot_be_loaded_is_a_result(tmp_path, monkeypatch):
    """A folder with a model_index.json and nothing else: reported, kept, and the exit status says so."""
    start_by_fork(monkeypatch)
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


@dataclass
class Decibels:
    plain: float

    def spoiled(self):
        return False


@pytest.fixture
def drawn(monkeypatch):
    """No pipelines and no drawing: a picture that is right for every other scene. Collects the ways that were drawn."""
    from sana_lab import render

    ways = []

    def draw(pipe, scenes, *, steps, seed, batch, guidance=None):
        ways.append(pipe if guidance is None else (pipe, guidance))
        yield [render(scenes[i - i % 2]) for i in range(len(scenes))]

    monkeypatch.setattr(quality, "pipeline", lambda folder, way, graphs=None: way)
    monkeypatch.setattr("sana_lab.fast.rounding", lambda pipe, captions: {"layer": Decibels(30.0)})
    monkeypatch.setattr("sana_lab.outliers.draw", draw)
    monkeypatch.setattr(isolated, "readers", lambda: 0)
    with use_accelerator(virtual=True):
        yield ways


def test_quality_goes_on_where_it_was_stopped_even_in_the_middle_of_writing(tmp_path, drawn, monkeypatch):
    quality.record(2, factors=(1,), folder=tmp_path / "whole")
    assert drawn == (every := list(quality.WAYS))
    drawn.clear()
    write = journal.os.replace

    def stop(source, target):
        if len(drawn) == 3:
            raise KeyboardInterrupt
        write(source, target)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(journal.os, "replace", stop)
        quality.record(2, factors=(1,), folder=tmp_path / "cut")
    assert [file.name for file in (tmp_path / "cut").iterdir()] == ["fast_quality.partial"]
    quality.record(2, factors=(1,), folder=tmp_path / "cut")
    assert drawn == [*every[:3], *every[2:]], "what was finished is not drawn again, what was not is"
    one, other = (evidence.load(quality.RECORD, folder=tmp_path / name)["results"] for name in ("whole", "cut"))
    assert one == other and [file.name for file in (tmp_path / "cut").iterdir()] == ["fast_quality.json"]


def test_quality_draws_without_guidance_as_well_where_asked(tmp_path, drawn):
    file = quality.record(2, factors=(1,), unguided=(1,), graphs=False, folder=tmp_path)
    assert drawn == [*quality.WAYS, *((way, 1.0) for way in quality.WAYS)]
    kept = evidence.load(quality.RECORD, folder=tmp_path)
    assert kept["command"].endswith("-n 2 --no-graphs --factors 1 --unguided 1") and file.exists()
    assert set(kept["results"]["factors"]["1"]) > set(quality.WAYS) == set(kept["results"]["unguided"]["1"])


WAYS_OF_LAYERS = {
    "bf16": {"Linear", "Conv2d"},
    "recipe": {"Linear8bitLt", "Conv2d"},
    "slim": {"Linear8bitLt", "Pointwise8bit"},
    "fast": {"FusedLinear8bit"},
    "fast-kv": {"FusedLinear8bit", "WeightOnly8bit"},
    "weights": {"WeightOnly8bit"},
    "fp8": {"Float8Linear"},
    "fp8-kv": {"Float8Linear", "Linear"},
    "fp8-weights": {"Float8Weights"},
}
assert set(WAYS_OF_LAYERS) == set(quality.WAYS)


@pytest.mark.parametrize("way", WAYS_OF_LAYERS)
def test_what_the_layers_of_a_way_are(way):
    with use_accelerator(virtual=True):
        block = quality.pipeline(SHAPES_FOLDER, way, graphs=False).transformer.transformer_blocks[0]
    kinds = {type(layer).__name__ for layer in block.modules()}
    assert WAYS_OF_LAYERS[way] <= kinds
    exact = {"fast-kv": "WeightOnly8bit", "fp8-kv": "Linear"}
    if way in exact:
        assert exact[way] in {type(layer).__name__ for layer in block.attn2.modules()}
        assert exact[way] not in {type(layer).__name__ for layer in block.attn1.modules()}


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"n": 3}, "holds a run with n 2, not 3: give another --out"),
        ({"seed": 1}, "seed 0, not 1"),
        ({"versions": {"torch": "1.0"}}, "versions torch [0-9.]+[^ ]*, not 1.0"),
        ({"weights": "another"}, "weights [0-9a-f]+, not another"),
        ({"machine": "H100"}, "machine .*, not H100"),
    ],
)
def test_quality_does_not_go_on_with_other_settings_versions_weights_or_machines(
    tmp_path, drawn, monkeypatch, other, said
):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(quality, "pipeline", stop)
        quality.record(2, factors=(1,), folder=tmp_path)
    left = (tmp_path / "fast_quality.partial").read_bytes()
    if versions := other.pop("versions", None):
        monkeypatch.setattr(evidence, "installed_versions", lambda: versions)
    if weights := other.pop("weights", None):
        monkeypatch.setattr("sana_lab.digests.weights_digest", lambda folder: weights)
    if machine := other.pop("machine", None):
        monkeypatch.setattr(evidence, "this_machine", lambda: {"device": machine, "count": 1})
    with pytest.raises(ValueError, match=said):
        quality.record(**{"n": 2, "factors": (1,), "folder": tmp_path} | other)
    assert (tmp_path / "fast_quality.partial").read_bytes() == left


@pytest.mark.parametrize(
    "text", ['{"settings": {', "[]", "3", "null", '{"found": {}}', '{"settings": {}, "found": []}']
)
def test_a_damaged_file_of_quality_is_one_line_with_its_name(tmp_path, drawn, capsys, text):
    (tmp_path / "fast_quality.partial").write_text(text)
    assert quality.main(["-n", "2", "--factors", "1", "--out", str(tmp_path)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "fast_quality.partial is damaged (" in line and "delete it" in line


def test_a_way_to_draw_must_be_known():
    with pytest.raises(ValueError, match="way 'fastest' is unknown: choose from bf16, recipe, slim, fast"):
        quality.pipeline(SHAPES_FOLDER, "fastest")


def test_a_worker_beside_others_keeps_to_its_share_of_the_cores(monkeypatch):
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("Linux alone can keep a process to some cores")
    taken = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8, 15)))
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: taken.append(list(cores)))
    for part in range(2):
        worker.take_cores(part, 2)
    assert taken == [[8, 9, 10], [11, 12, 13]]
    worker.take_cores(9, 20)  # more parts than cores: all of them
    assert taken[-1] == list(range(8, 15))


@pytest.mark.parametrize("alone", [True, False])
def test_each_row_says_whether_it_was_timed_alone(alone, monkeypatch, tmp_path):
    given = []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)  # of which another module may have left one
    monkeypatch.setattr(runner.isolated, "start", lambda command, **_: given.append(command) or Ended())
    monkeypatch.setattr(runner.isolated, "end", lambda _: None)
    runner._run_one(Job(tmp_path, "int8", label="x"), tmp_path, 1, 1, 0 if alone else 2)
    assert ("--quiet" in given[0]) == alone and ("--share" in given[0]) != alone
    assert alone or given[0][-1] == "1/2"


class Ended:
    """A process that is over."""

    def wait(self, _):
        return 0


def test_what_the_compiler_tried_is_read_from_its_log(tmp_path):
    from sana_lab.measure.tuned import products

    log = """a warning
Autotune Choices Stats:
{"num_choices": 22, "best_kernel": "bias_addmm", "best_time": 0.04, "best_triton_pos": 2, "best_triton_time": 0.045}
AUTOTUNE addmm(2048x2240, 2048x2240, 2240x2240)
strides: [2240, 1], [1, 2240]
  bias_addmm 0.0404 ms 100.0%
Autotune Choices Stats:
{not json}
AUTOTUNE mm(4x4, 4x4)
Autotune Choices Stats:
{"num_choices": 106, "best_kernel": "triton_mm_119", "best_time": 0.0449}
AUTOTUNE scaled_mm(2048x2240, 2240x2240, 2048x1)
"""
    first, second = products(log)
    assert first == {
        "product": "addmm",
        "shapes": "2048x2240, 2048x2240, 2240x2240",
        "choices": 22,
        "best": "bias_addmm",
        "best_ms": 0.04,
        "triton_ms": 0.045,
    }
    assert (second["best"], second["triton_ms"]) == ("triton_mm_119", None)
    assert products("") == products("AUTOTUNE mm(4x4, 4x4)") == []
    jobs = [runner.Job(tmp_path, method) for method in ("16-bit-tuned", "16-bit-fused", "fp8-tuned")]
    for job in jobs:
        (tmp_path / f"{job.name}.json").write_text(
            '{"resident": {"allocated": 1}, "load": {"peak": 1}, "ways": {}, "complete": true, "sizes": []}'
        )
        if job.method != "fp8-tuned":
            (tmp_path / f"{job.name}.log").write_text(log)
    tried = {row["method"]: row.get("tried") for row in runner.collect(jobs, tmp_path)}
    assert tried == {"16-bit-tuned": [first, second], "16-bit-fused": None, "fp8-tuned": None}
