"""The borders of every command: options fuzzed, files that are not ours, pipes. One line, status 2, nothing written."""

import ast
import contextlib
import io
import json
import math
import os
import re
import shutil
from pathlib import Path

import pytest
import typer.main
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sana_lab
from sana_lab import bench, cli, commandline, digests, evidence, outliers, random_checkpoint, views
from sana_lab.accelerator import agreement, kernel_table
from sana_lab.classroom import edition, grading, progress
from sana_lab.compared_pictures import run as comparing
from sana_lab.confirm import runner as confirm_runner
from sana_lab.evaluate import cli as evaluate
from sana_lab.evaluate import guidance_off
from sana_lab.failures import record as failures_record
from sana_lab.fitting import cards, dry, planner
from sana_lab.generate import few, many, prompts, scaling
from sana_lab.measure import depthwise, left_behind, quality, real_size, runner, torchao_float8
from sana_lab.monitor import cost as monitor_cost
from sana_lab.service import cli as service_cli
from sana_lab.service import faults
from sana_lab.shapes import SHAPES_FOLDER, train
from sana_lab.shapes.cli import command as train_command
from sana_lab.shapes.untrained import untrained_shapes
from sana_lab.versions import bisect, doctor, matrix, real, sizes, stacks
from sana_lab.versions import runner as versions_runner

PACKAGE = Path(sana_lab.__file__).parent


class Reached(BaseException):
    """The command has taken what it was given, and would begin to work."""


# A command: what runs, its shortest good line, and what it calls when all is read; nothing where it only prints.
BOOK = {
    "generate": (["generate", "x"], [(few, "run"), (many, "run")]),
    "train": (["train", "--out", "out"], [(train, "train")]),
    "evaluate": (["evaluate", "--out", "out"], [(evaluate, "draw")]),
    "measure": (["measure", str(SHAPES_FOLDER), "--out", "out"], [(runner, "run"), (runner, "jobs_for")]),
    "make-random": (["make-random", "600M-512", "out"], [(random_checkpoint, "make")]),
    "compare": (["compare", "bf16", "int8"], [(comparing, "between"), (comparing, "folders")]),
    "plan": (["plan", "--vram", "8GiB"], [(planner, "plan")]),
    "confirm": (["confirm", "shapes", "--virtual", "--out", "out"], [(confirm_runner, "confirm")]),
    "check": (["check", "x.py"], [(service_cli, "check")]),
    "serve": (["serve", "x", "--prompts", "p.txt", "--out", "out"], [(prompts, "read")]),
    "explain": (["explain", "x"], [(sana_lab.failures, "explain")]),
    "failures list": (["failures", "list"], []),
    "failures show": (["failures", "show", "index-on-gpu"], []),
    "failures run": (["failures", "run", "index-on-gpu"], [(sana_lab.failures, "run")]),
    "versions run": (["versions", "run"], [(versions_runner, "run"), (versions_runner, "check")]),
    "versions show": (["versions", "show"], [(matrix, "matrix")]),
    "versions bisect": (["versions", "bisect", "move-encoder", "--library", "diffusers"], [(bisect, "bisect")]),
    "versions here": (["versions", "here"], [(matrix, "matrix")]),
    "doctor": (["doctor"], [(doctor, "doctor")]),
    "learner": (["learner", "out"], [(edition, "write")]),
    "progress": (["progress"], [(progress, "progress")]),
    "grade": (["grade", "in", "--out", "out"], [(grading, "grade")]),
}
PROGRAMS = {
    "bench": (bench._command, [], [(bench, "use_two_cores")]),
    "evaluate": (evaluate.evaluate, ["--out", "out"], [(evaluate, "draw")]),
    "evaluate.guidance_off": (guidance_off.draw_all, ["--out", "out"], [(guidance_off.manifest, "check")]),
    "failures.record": (
        failures_record.record_all,
        ["--virtual", "--out", "x.json"],
        [(failures_record, "record")],
    ),
    "generate.scaling": (scaling._command, ["--out", "out"], [(scaling, "record")]),
    "measure.quality": (quality.record_command, ["--out", "out"], [(quality, "record")]),
    "measure.real_size": (real_size._command, ["out"], [(sana_lab.accelerator, "on_real_gpu")]),
    "monitor.cost": (monitor_cost.record_command, ["--out", "out"], [(monitor_cost, "must_be_writable")]),
    "outliers": (outliers.record_command, ["--out", "out"], [(outliers, "record")]),
    "service.faults": (faults.record_command, ["--out", "out"], [(faults, "must_be_writable")]),
    "shapes.train": (train_command(lambda *a, **k: train.train(*a, **k)), ["--out", "out"], [(train, "train")]),
    "versions.real": (real.run_all, ["in", "--out", "out"], [(evidence, "this_machine")]),
    "versions.sizes": (sizes._command, [], [(sizes, "counted")]),
    "views": (views._command, ["--values", "out"], [(views, "values")]),
    "accelerator.agreement": (agreement._command, ["x.json"], [(agreement, "read")]),
    "accelerator.kernel_table": (kernel_table._command, [], [(kernel_table, "text_of")]),
    "fitting.cards": (cards._command, ["work", "--out", "out"], [(cards.machine, "gpus")]),
    "fitting.dry": (dry._command, [], [(dry, "look")]),
    "measure.torchao_float8": (torchao_float8.record_command, ["--out", "out"], [(torchao_float8, "record")]),
    "measure.depthwise": (depthwise._command, ["--out", "out"], [(depthwise, "on_real_gpu")]),
    "measure.left_behind": (left_behind._command, ["--out", "out"], [(left_behind, "record")]),
}
WORKERS = {
    "isolated.py",
    "classroom/worker.py",
    "measure/worker.py",
    "failures/worker.py",
    "versions/worker.py",
    "versions/smoke.py",
}
WORKERS |= {"service/worker.py", "service/examine.py", "confirm/worker.py"}
"""Files that only our own code starts."""

COMMANDS = {f"sana-lab {name}": (cli.app, "sana-lab", *rest) for name, rest in BOOK.items()} | {
    name: (commandline.single(function), f"python -m sana_lab.{name}", *rest)
    for name, (function, *rest) in PROGRAMS.items()
}
# Each once: most commands are of one program, which takes a tenth of a second to build.
BUILT = {key: typer.main.get_command(what) for key, what in {id(what): what for what, *_ in COMMANDS.values()}.items()}


def parameters(name):
    """Click's parameters of a command."""
    what, _, line, _ = COMMANDS[name]
    found = BUILT[id(what)]
    for word in line if what is cli.app else ():
        if not hasattr(found, "commands"):
            break
        found = found.commands[word]
    return found.params


def is_number(parameter):
    described = getattr(parameter, "type_descriptor", None)  # typer without click, from 0.26 on
    kind = described.annotation if described else parameter.type
    return bool(re.search(r"\b(?:int|float)", str(kind), re.IGNORECASE))


NUMBERS = {name: [p for p in parameters(name) if is_number(p)] for name in COMMANDS}


@pytest.fixture
def border(monkeypatch, tmp_path):
    """An empty folder to be in, and commands that raise `Reached` in place of working."""

    def reached(*_, **__):
        raise Reached

    for *_, heavy in COMMANDS.values():
        for place, function in heavy:
            monkeypatch.setattr(place, function, reached)
    monkeypatch.setattr(typer.main, "get_command", lambda app: BUILT[id(app)])  # building takes longer than a run
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / stacks.STACKS[0].name).mkdir(parents=True)
    return lambda: sorted(path for path in tmp_path.rglob("*") if "in" not in path.parts[len(tmp_path.parts)])


def run(name, arguments):
    """Status, or None where the command would have begun, and what it said on stderr."""
    what, program, line, _ = COMMANDS[name]
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            return commandline.run_command(what, program, [*line, *arguments]), said.getvalue()
        except Reached:
            return None, said.getvalue()


ODD = ["0", "-1", "nan", "inf", "-inf", "1e400", "1e999", str(2**31), str(2**63), str(2**70), "9" * 5000, "", " ", "x"]
ODD += ["1.5", "-0", "1e3", "0x10", "1_0", "-0.0", "5e-324", "\n", "🙂", "--", "-", "1\n2", "\u2028", "٣"]
WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
VALUES = st.one_of(st.sampled_from(ODD), st.integers().map(str), st.floats().map(repr), WORDS)
FUZZ = settings(
    max_examples=20, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def held(border, name, parameter, value):
    """One value of one number: taken because it is sensible, or one line."""
    status, said = run(name, [parameter.opts[0], value])
    assert border() == [] and status in (None, 2), (parameter, value, status, said)
    if status is None:
        number = float(value)
        assert number >= 0 and (math.isfinite(number) or parameter.name == "minutes"), (parameter, value)
    else:
        assert re.fullmatch(r"(sana-lab|python -m sana_lab[\w.]*): .+\n", said), said
        assert max(parameter.opts, key=len) in said or parameter.opts[0] in said or value.strip()[:20] in said, said


@pytest.mark.parametrize("name", [name for name in COMMANDS if NUMBERS[name]])
def test_any_value_of_any_number(border, name):
    for parameter in NUMBERS[name]:
        assert parameter.callback is not None, f"{parameter}: every number has its range"
        for value in ("-1", "nan", "inf", str(2**70), "9" * 5000, "x"):
            held(border, name, parameter, value)

    @FUZZ
    @given(st.sampled_from(NUMBERS[name]), VALUES)
    def fuzz(parameter, value):
        held(border, name, parameter, value)

    fuzz()


@pytest.mark.parametrize("name", COMMANDS)
def test_any_words(border, name):
    """Options in any order, twice, without values, with each other's, and such as do not exist."""
    options = [option for p in parameters(name) for option in p.opts if option.startswith("-")]
    words = st.one_of(st.sampled_from([*options, "--no-such", "-Z"]), VALUES)

    @FUZZ
    @given(st.lists(words, max_size=5))
    def fuzz(arguments):
        status, said = run(name, arguments)
        assert border() == [] and status in (None, 0, 1, 2), (status, said)
        if status == 2:
            assert re.fullmatch(r"(sana-lab|python -m sana_lab[\w.]*): .+\n", said), said

    fuzz()


def test_the_good_line_reaches_the_border(border):
    for name, (*_, heavy) in COMMANDS.items():
        assert run(name, [])[0] == (None if heavy else 0), name


def test_every_command_of_the_book_is_one_of_these():
    def names(command, path=()):
        for name, below in getattr(command, "commands", {}).items():
            yield from names(below, (*path, name))
        if not hasattr(command, "commands"):
            yield " ".join(path)

    assert set(names(BUILT[id(cli.app)])) == set(BOOK)


def test_every_program_of_the_package_is_one_of_these():
    there = set()
    for path in PACKAGE.rglob("*.py"):
        if '\nif __name__ == "__main__":' in path.read_text(encoding="utf-8") and "scripts" not in path.parts:
            there.add(path.relative_to(PACKAGE).as_posix())
    known = {f"{name.replace('.', '/')}.py" for name in PROGRAMS} - {"evaluate.py"} | {"evaluate/__main__.py", "cli.py"}
    assert there - WORKERS == known


def test_one_style_of_command_line():
    """Only a worker, whose arguments our own code writes, may read them otherwise."""
    others = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if {"argparse", "optparse", "getopt", "click"} & {*names, getattr(node, "module", None)}:
                others.add(path.relative_to(PACKAGE).as_posix())
    assert others == {"measure/worker.py"}


def test_several_values_of_one_option(border, monkeypatch):
    seen = []
    monkeypatch.setattr(outliers, "record", lambda n, **given: seen.append(given["factors"]))
    assert run("outliers", ["--factors", "1", "-n", "3", "--factors", "10", "1e2"]) == (0, "")
    assert run("outliers", ["--factors", "1", "-2"])[0] == 2
    assert seen == [[1, 10, 100]]


@pytest.mark.parametrize("given", ["", " ", ",", " , ,"])
@pytest.mark.parametrize(
    "name, option",
    [
        ("sana-lab evaluate", "--conditions"),
        ("sana-lab compare", "--metrics"),
        ("sana-lab confirm", "--failures"),
        ("sana-lab grade", "--only"),
        ("sana-lab failures list", "--family"),
        ("evaluate.guidance_off", "--ways"),
        ("failures.record", "--only"),
    ],
)
def test_an_option_that_names_some_is_given_none(border, name, option, given):
    """It is not taken for all of them, nor for an option that was left out."""
    status, said = run(name, [option, given])
    assert border() == [] and status == 2, said
    assert re.fullmatch(r"(sana-lab|python -m sana_lab[\w.]*): .+\n", said), said
    assert option in said or "there is no" in said or "is unknown" in said, said


def test_names_are_each_taken_once():
    assert commandline.names("--ways", "bf16, int8,,bf16,") == ("bf16", "int8")


@pytest.mark.parametrize("word", ["9" * 5000, "a/" * 2000 + "b"])
@pytest.mark.parametrize("line", [["failures", "show"], ["measure"], ["generate", "x", "--vram"], ["plan", "--way"]])
def test_an_endless_word_is_not_said_back(tmp_path, monkeypatch, capsys, line, word):
    """Neither is what the system says of a name that is too long all that there is to read."""
    monkeypatch.chdir(tmp_path)
    assert commandline.run_command(cli.app, "sana-lab", [*line, word]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and len(said) < 600 and word[:20] in said and "Errno" not in said, said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error, said",
    [
        (
            FileNotFoundError(2, "No such file or directory", "a.txt"),
            "a.txt cannot be used (No such file or directory)",
        ),
        (OSError(28, "No space left on device"), "cannot be written (No space left on device): make room"),
        (OSError(28, "No space left on device", b"out"), "out cannot be written (No space left on device): make room"),
        (OSError("out cannot be read: choose another"), "out cannot be read: choose another"),
    ],
)
def test_what_the_system_says_has_a_way_out(capsys, error, said):
    def command() -> None:
        raise error

    assert commandline.run_command(command, "sana-lab", []) == 2
    assert capsys.readouterr().err.startswith(f"sana-lab: {said}")


def test_ctrl_c_says_whether_the_same_command_goes_on(monkeypatch, tmp_path):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(outliers, "record", stop)
    monkeypatch.setattr(few, "run", stop)
    assert run("outliers", []) == (130, "python -m sana_lab.outliers: stopped; the same command goes on\n")
    assert run("sana-lab generate", []) == (130, "sana-lab: stopped\n")


# ---- files that are not ours -------------------------------------------------------------------------------------

JUNK = {"list": "[]", "number": "3", "null": "null", "text": '"x"', "nothing": "", "cut": '{"a": ', "deep": "[" * 10**5}


@pytest.fixture
def model(tmp_path):
    def linked(source, target):
        """Of weights, which no test here writes into, no copy where a link will do."""
        with contextlib.suppress(OSError):
            return os.link(source, target) if source.endswith(".safetensors") else shutil.copy2(source, target)
        return shutil.copy2(source, target)

    return shutil.copytree(untrained_shapes(), tmp_path / "model", copy_function=linked)


def refused(command, *arguments):
    """What a command says in one line when it refuses."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        status = commandline.run_command(cli.app, "sana-lab", [command, *map(str, arguments)])
    assert status == 2 and said.getvalue().count("\n") == 1, said.getvalue()
    return said.getvalue()


SMALL_FILES = (
    "model_index.json transformer/config.json text_encoder/config.json vae/config.json manifest.json "
    "scheduler/scheduler_config.json tokenizer/tokenizer_config.json tokenizer/tokenizer.json"
).split()


@pytest.mark.parametrize("file", SMALL_FILES)
def test_json_that_is_no_object(model, file):
    for junk in JUNK.values():
        (model / file).write_text(junk)
        said = refused("generate", "x", "--virtual", "--model", model, "--precision", "bf16", "--out", model / "out")
        assert str(model) in said and file.rpartition("/")[2] in said
        assert re.search("get the folder again|To get it back", said, re.IGNORECASE), said
    assert not (model / "out").exists()


@pytest.mark.parametrize("entry", [["diffusers", None], ["diffusers", "Nope"], ["nowhere", "X"], [1, 2], 3, None, {}])
def test_a_component_that_no_library_has(model, entry):
    index = json.loads((model / "model_index.json").read_text())
    (model / "model_index.json").write_text(json.dumps({**index, "scheduler": entry}))
    said = refused("generate", "x", "--virtual", "--model", model, "--precision", "bf16", "--out", model / "out")
    assert str(model) in said or "model_index.json" in said
    assert not (model / "out").exists()


@pytest.mark.parametrize("config", [{"quant_method": "gptq", "bits": 4}, {"quant_method": [1]}, {}, [], "x", 3])
@pytest.mark.parametrize("part", ["text_encoder", "transformer", "vae"])
def test_a_foreign_quantization(model, part, config):
    file = model / part / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": config}))
    assert f"{part} is quantized already" in refused(
        "generate", "x", "--virtual", "--model", model, "--out", model / "o"
    )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("file", ["manifest.json", "model_index.json", "transformer/config.json", "vae/x.safetensors"])
def test_a_pipe_in_a_model_is_not_waited_for(model, file):
    (model / file).unlink(missing_ok=True)
    os.mkfifo(model / file)
    for command in (
        ["generate", "x", "--virtual", "--out", model / "out", "--model"],
        ["evaluate", "--virtual", "--out", model / "out", "-n", "1", "--model"],
        ["measure", "--out", model / "out"],
    ):
        said = refused(*command, model)
        assert "no regular file" in said or "no checkpoint" in said
        assert not (model / "out").exists()
    if "/" in file:
        with pytest.raises(OSError, match="no regular file"):
            digests.weights_digest(model)


def test_prompts_from_a_pipe_or_a_device_are_not_waited_for(tmp_path):
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.txt")
        with pytest.raises(OSError, match="no regular file.; write the prompts into one"):
            prompts.read(tmp_path / "pipe.txt")
    for place in (Path("/dev/zero"), tmp_path):
        if place.exists():
            with pytest.raises(OSError, match="no regular file"):
                prompts.read(place)


@pytest.mark.parametrize("results", [[], {}, {"x": 3}, {"x": []}, None, 3])
def test_a_record_to_renew_that_is_not_ours(tmp_path, monkeypatch, results, capsys):
    monkeypatch.setattr(failures_record, "record", lambda *_, **__: pytest.fail("ran"))
    record = evidence.load("failures_virtual") | {"versions": evidence.installed_versions(), "results": results}
    (tmp_path / "x.json").write_text(json.dumps(record))
    status = None
    with contextlib.suppress(pytest.fail.Exception):
        status = failures_record.main(["--virtual", "--out", str(tmp_path / "x.json"), "--only", "meta", "--renew"])
    assert (status == 2 and capsys.readouterr().err.count("\n") == 1) or results == {}


LATE = {
    "measure.real_size WORK": (real_size._command, ["FOLDER"], (real_size, "make_compared")),
    "measure.real_size --out": (real_size._command, ["work", "--out", "FOLDER"], (real_size, "make_compared")),
    "measure.real_size --record": (real_size._command, ["work", "--record", "FOLDER"], (real_size, "make_compared")),
    "measure.torchao_float8 --out": (torchao_float8.record_command, ["--out", "FOLDER"], (torchao_float8, "record")),
    "measure.depthwise --out": (depthwise._command, ["--out", "FOLDER"], (depthwise, "on_real_gpu")),
    "measure.left_behind --out": (left_behind._command, ["--out", "FOLDER"], (left_behind, "record")),
    "measure.left_behind --size": (left_behind._command, ["--out", "o", "--size", "FOLDER"], (left_behind, "record")),
    "monitor.cost --out": (monitor_cost.record_command, ["--out", "FOLDER"], (sana_lab, "use_accelerator")),
    "views --values": (views._command, ["--values", "FOLDER"], (views, "values")),
}
"""Commands that write a record after long work: what runs, a line, and where the work begins."""


@pytest.mark.parametrize("name", LATE)
def test_a_place_that_cannot_be_written_is_found_before_the_work(monkeypatch, tmp_path, capsys, name):
    function, line, (module, work) = LATE[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sana_lab.accelerator, "on_real_gpu", lambda: True)
    monkeypatch.setattr(module, work, reached)
    (tmp_path / "file").touch()
    folder = str(tmp_path / "file" / "x")
    assert commandline.run_command(function, "program", [folder if word == "FOLDER" else word for word in line]) == 2
    said = capsys.readouterr().err
    assert f"{name.split()[1]} {folder}: cannot write in" in said and said.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["file"], "something was made"


def reached(*arguments, **options):
    raise Reached
