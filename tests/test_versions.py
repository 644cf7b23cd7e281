"""Stacks, probes, the worker, the environments, the record, the matrix and the bisection, none of it with a network."""

import csv
import dataclasses
import html
import io
import json
import math
import os
import random
import re
import stat
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from sana_lab import cli, evidence
from sana_lab.versions import bisect, environment, folder, here, matrix, probes, record, runner, stacks, worker
from sana_lab.versions.probes import PROBES, Probe
from sana_lab.versions.stacks import BOOK, LIBRARIES, STACKS, Stack

PINS = dict(zip(LIBRARIES, ("2.9.1", "0.36.0", "4.57.3", "1.12.0", "0.49.0", "0.36.0"), strict=True))


# ---- stacks -----------------------------------------------------------------------------------------------------


def test_there_are_enough_stacks_and_no_two_alike():
    assert len(STACKS) >= 14
    assert len({stack.name for stack in STACKS}) == len({stack.key() for stack in STACKS}) == len(STACKS)
    dates = [stack.date for stack in STACKS if stack.dated]
    assert dates == sorted(dates) and dates[0] < "2025-01-01" and len(dates) >= 10
    assert sum(bool(stack.then) for stack in STACKS) >= 5


def test_the_book_s_stack_is_what_requirements_pin():
    lines = (Path(__file__).parent.parent / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("#")[0].strip().split("==") for line in lines if "==" in line.split("#")[0])
    for library in LIBRARIES[:-1]:
        assert stacks.get(BOOK).pins[library] == pinned[library]


def test_commands_are_what_one_would_type():
    mix = stacks.get("2025-12+accelerate")
    first, second = mix.commands()
    assert first.startswith("pip install torch==2.9.1 diffusers==0.36.0") and second == "pip install accelerate==1.13.0"
    assert mix.versions["accelerate"] == "1.13.0" and mix.pins["accelerate"] == "1.12.0"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "A B"}, "small letters"),
        ({"date": "May 2025"}, "not of the form"),
        ({"pins": {"torch": "2.9.1"}}, "pins no diffusers"),
        ({"pins": {**PINS, "jax": "0.4.1"}}, "names 'jax'"),
        ({"pins": {**PINS, "torch": ">=2.9"}}, "no exact version"),
        ({"then": {"torch": None}}, "no exact version"),
    ],
)
def test_a_wrong_stack_is_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        Stack(**{"name": "x", "title": "t", "pins": PINS, **fields})


def test_an_unknown_stack_or_probe_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean .*2025-12"):
        stacks.get("2025-13")
    with pytest.raises(ValueError, match="did you mean .*move-encoder"):
        probes.get("move-encodr")


# ---- probes -----------------------------------------------------------------------------------------------------


def test_there_are_enough_probes_of_every_group():
    assert len(PROBES) >= 25
    assert {probe.group for probe in PROBES.values()} == set(probes.GROUPS)
    for probe in PROBES.values():
        compile("def f():\n" + "\n".join(f"    {line}" for line in probe.code.splitlines()), probe.id, "exec")
        assert set(probe.function.__code__.co_varnames[: probe.function.__code__.co_argcount]) <= {
            "FOLDER",
            "AS_WRITTEN",
        }
        assert len(probe.code.splitlines()) <= 12, f"{probe.id} is no longer a few lines"


def made(code, **options):
    """A probe from source text."""
    import linecache

    name = f"<probe {hash(code)}>"
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
    namespace = {}
    exec(compile(code, name, "exec"), namespace)
    return Probe("a-probe", "a probe", "import", namespace["f"], **options)


def test_a_digest_follows_the_lines_and_not_the_words_about_them():
    one, talk, other = (
        made(f"def f():\n    {text}\n") for text in ("return 1", '"""One."""\n    return 1', "return 2")
    )
    assert one.digest == talk.digest != other.digest
    assert one.digest != dataclasses.replace(one, watch="oh").digest


# ---- the worker -------------------------------------------------------------------------------------------------

WANTED = {"folder": "/somewhere/new", "older": "/somewhere/old", "trained": False, "virtual": True}


@pytest.fixture
def outcome(monkeypatch):
    """Runs a function body as a probe in a fork, without touching torch."""
    monkeypatch.setattr(worker, "_accelerator", lambda virtual: None)
    return lambda code, **options: worker._in_a_fork(made(f"def f():\n    {code}\n", **options), WANTED)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("return 6 * 7", {"kind": "runs", "value": "42"}),
        ("raise KeyError('x')", {"kind": "raises", "error": "KeyError", "words": "'x'"}),
        ("import os; os._exit(3)", {"kind": "dies", "words": "the process ended with status 3"}),
        ("import os; os.kill(os.getpid(), 9)", {"kind": "dies", "words": "the process ended with status -9"}),
        ("raise OSError('no /somewhere/old/a at 0x7f0123456789')",
         {"kind": "raises", "error": "OSError", "words": "no FOLDER/a at 0x…"}),
        ("raise RuntimeError('/x/y/site-packages/torch/a.py says\\n  no')",
         {"kind": "raises", "error": "RuntimeError", "words": "torch/a.py says no"}),
    ],
)  # fmt: skip
def test_what_becomes_of_a_probe(outcome, code, expected):
    assert outcome(code) == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_probe_that_hangs_is_killed(outcome):
    started = time.monotonic()
    assert outcome("import time; time.sleep(60)", limit=0.5) == {"kind": "hangs", "words": "not done after 0.5 seconds"}
    assert outcome("while True: pass", limit=1) == {"kind": "hangs", "words": "not done after 1 seconds"}
    assert time.monotonic() - started < 30


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_probe_that_waits_for_a_busy_machine_does_not_hang(outcome):
    assert outcome("import time; time.sleep(1.2); return 1", limit=0.4) == {"kind": "runs", "value": "1"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_warning_counts_only_if_it_is_watched_for(outcome):
    code = "import os; os.write(2, b'old `dtype` here'); return 1"
    assert "old `dtype` here" in outcome(code, watch="dtype")["warns"]
    assert "warns" not in outcome(code, watch="device")
    assert "warns" not in outcome(code)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_long_messages_are_cut_and_untrained_pictures_not_judged(outcome):
    words = outcome("raise ValueError('word ' * 999)")["words"]
    assert len(words) <= worker.WORDS + 2 and words.endswith("word …")
    assert outcome("return 1", trained=True)["kind"] == "skipped"


def test_the_folder_in_older_words_differs_in_words_only(tmp_path):
    new = tmp_path / "new"
    for name, content in {
        "model_index.json": {"tokenizer": ["transformers", "GemmaTokenizer"], "vae": ["diffusers", "AutoencoderDC"]},
        "tokenizer/tokenizer_config.json": {"tokenizer_class": "GemmaTokenizer", "pad_token": "<pad>"},
        "text_encoder/config.json": {"dtype": "bfloat16", "hidden_size": 8},
        "text_encoder/model.safetensors": 7,
    }.items():
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        (new / name).write_text(json.dumps(content))
    before = {file: file.read_text() for file in new.rglob("*") if file.is_file()}
    old = folder.in_older_words(new, tmp_path / "old")
    read = {name: json.loads((old / name).read_text()) for name in ("model_index.json", "text_encoder/config.json")}
    assert read["model_index.json"] == {
        "tokenizer": ["transformers", "GemmaTokenizerFast"],
        "vae": ["diffusers", "AutoencoderDC"],
    }
    assert read["text_encoder/config.json"] == {"dtype": "bfloat16", "torch_dtype": "bfloat16", "hidden_size": 8}
    assert (old / "text_encoder/model.safetensors").read_text() == "7"
    assert before == {file: file.read_text() for file in new.rglob("*") if file.is_file()}  # nothing written through


def test_quick_integer_products_are_the_same_numbers(monkeypatch):
    import torch

    slow = torch._int_mm
    monkeypatch.setattr(torch, "_int_mm", slow)  # put back at the end
    worker._quick_integers()
    assert torch._int_mm is not slow
    numbers = torch.Generator().manual_seed(0)
    for rows, inner, columns in ((17, 8, 8), (32, 4096, 64)):
        a, b = (
            torch.randint(-127, 128, s, dtype=torch.int8, generator=numbers) for s in ((rows, inner), (inner, columns))
        )
        a[0], b[:, 0] = 127, -127  # the largest sum there is
        exact = a.long() @ b.long()
        out = torch.empty(rows, columns, dtype=torch.int32)
        assert torch._int_mm(a, b, out=out) is out
        # not held against PyTorch's own: under ONEDNN_MAX_CPU_ISA=AVX2 it is wrong on processors with VNNI (torch 2.13)
        for found in (torch._int_mm(a, b), out):
            assert found.dtype == torch.int32 and torch.equal(found.long(), exact)


# ---- environments, with a stand-in for uv -----------------------------------------------------------------------


@pytest.fixture
def uv(tmp_path, monkeypatch):
    """A program called uv that notes how it is called, and fails as told: `uv("words", 1)`."""
    log, script = tmp_path / "calls", tmp_path / "bin" / "uv"
    script.parent.mkdir()
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(environment, "ROOM", 0)

    def behave(said="", status=0, at="install"):
        script.write_text(
            f"#!{sys.executable}\nimport sys\nopen({str(log)!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"
            f"if {at!r} in sys.argv:\n    print({said!r}, file=sys.stderr)\n    sys.exit({status})\n"
        )
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        return log

    return behave


def test_an_environment_is_built_checked_and_removed(uv):
    log = uv()
    with environment.environment(stacks.get("2025-12+accelerate")) as (python, complaint):
        place = python.parents[2]
        assert place.is_dir() and complaint == ""
    assert not place.exists()
    venv, first, second, check = log.read_text().splitlines()
    assert venv.startswith("venv") and check.startswith("pip check")
    assert (
        "--exclude-newer 2025-12-20T23:59:59Z" in first
        and "diffusers==0.36.0" in first
        and "accelerate==1.12.0" in first
    )
    assert second.endswith("accelerate==1.13.0") and "exclude-newer" not in second and "diffusers" not in second


def test_what_pip_check_says_is_kept(uv):
    uv("Checked 9 packages\nThe package `a` requires `b<1`, but `2` is installed\nother words", 1, at="check")
    with environment.environment(stacks.get("2025-12")) as (_, complaint):
        assert complaint == "The package `a` requires `b<1`, but `2` is installed"


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        (
            "No solution found\n cause: Because a needs b<1, your requirements are unsatisfiable.",
            environment.Unbuildable,
            "^Because a needs b<1",
        ),
        ("error: Request failed: dns error: failed to lookup address", OSError, "with a network"),
        ("error: failed to write: No space left on device (os error 28)", OSError, "disk is full"),
    ],
)
def test_an_installation_that_fails_says_how_to_go_on(uv, said, kind, words):
    uv(said, 1)
    with pytest.raises(kind, match=words):
        with environment.environment(stacks.get("2025-12")):
            raise AssertionError("not reached")


def test_no_room_and_no_uv_are_told_before_anything_is_built(uv, monkeypatch):
    log = uv()
    monkeypatch.setattr(environment, "ROOM", 2**60)
    with pytest.raises(OSError, match="uv cache prune"):
        with environment.environment(stacks.get("2025-12")):
            raise AssertionError("not reached")
    assert not log.exists()
    monkeypatch.setattr(environment.shutil, "which", lambda *a, **k: None)
    with pytest.raises(RuntimeError, match="pip install uv"):
        environment.find_uv()


# ---- measuring: incremental, resumable --------------------------------------------------------------------------

THREE = ["move-encoder", "move-transformer", "call-recipe"]


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """`runner.run` with made-up environments: returns the list of (stack, probes) that were measured."""
    calls, fail = [], {}

    @contextmanager
    def build(stack):
        calls.append((stack.name, None))
        if stack.name in fail and isinstance(fail[stack.name], Exception):
            raise fail[stack.name]
        yield Path(stack.name), ""

    def probe_in(python, wanted, new, old, weights, virtual=True):
        calls[-1] = (python.name, list(wanted))
        yield {"python": fail.get("python", "3.11.7"), "resolved": PINS, "beside": {}}
        for i, id in enumerate(wanted):
            if fail.get(python.name) == i:
                raise KeyboardInterrupt
            yield {"probe": id, "kind": "runs", "value": str(i), "digest": PROBES[id].digest}

    @contextmanager
    def folders():
        yield tmp_path, tmp_path, "trained"

    monkeypatch.setattr(runner, "environment", build)
    monkeypatch.setattr(runner, "probe_in", probe_in)
    monkeypatch.setattr(runner, "folders", folders)
    calls_and_fail = (calls, fail)
    return calls_and_fail


def test_where_nothing_can_be_written_no_environment_is_built(measured, tmp_path):
    calls, _ = measured
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"--record .*file.x: cannot write in"):
        runner.run([stacks.get("2025-12")], THREE, folder=tmp_path / "file" / "x")
    assert calls == []


def test_what_is_in_the_record_is_not_measured_again(measured, tmp_path):
    calls, _ = measured
    two = [stacks.get("2025-12"), stacks.get("2026-02")]
    runner.run(two, THREE, folder=tmp_path)
    assert calls == [("2025-12", THREE), ("2026-02", THREE)]
    runner.run(two, THREE, folder=tmp_path)
    assert len(calls) == 2
    runner.run(two[:1], [*THREE, "save-encoder"], folder=tmp_path)
    assert calls[2:] == [("2025-12", ["save-encoder"])]
    runner.run(two[1:], THREE[:1], again=True, folder=tmp_path)
    assert calls[3:] == [("2026-02", THREE[:1])]
    assert set(record.load(tmp_path)["stacks"]["2025-12"]["outcomes"]) == {*THREE, "save-encoder"}


def test_an_interrupted_run_loses_nothing(measured, tmp_path):
    calls, fail = measured
    fail["2025-12"] = 2
    with pytest.raises(KeyboardInterrupt):
        runner.run([stacks.get("2025-12")], THREE, folder=tmp_path)
    assert set(record.load(tmp_path)["stacks"]["2025-12"]["outcomes"]) == set(THREE[:2])
    fail.clear()
    runner.run([stacks.get("2025-12")], THREE, folder=tmp_path)
    assert calls[-1] == ("2025-12", THREE[2:])


def test_a_stack_or_a_probe_that_changed_is_measured_again(measured, tmp_path):
    calls, _ = measured
    stack = stacks.get("2025-12")
    runner.run([stack], THREE, folder=tmp_path)
    results = record.load(tmp_path)
    results["stacks"]["2025-12"]["outcomes"][THREE[1]]["digest"] = "00000000"
    record.save(results, tmp_path)
    runner.run([stack], THREE, folder=tmp_path)
    assert calls[-1] == ("2025-12", THREE[1:2])
    other = dataclasses.replace(stack, pins={**stack.pins, "accelerate": "1.11.0"})
    runner.run([other], THREE, folder=tmp_path)
    assert calls[-1] == ("2025-12", THREE)


def test_outcomes_of_another_python_are_not_put_beside_those_that_are_there(measured, tmp_path):
    calls, fail = measured
    stack, file = stacks.get("2025-12"), tmp_path / "version_matrix.json"
    runner.run([stack], THREE[:2], folder=tmp_path)
    fail["python"] = "3.11.9"
    runner.run([stack], THREE[:2], again=True, folder=tmp_path)
    fail["python"], before = "3.12.1", file.read_bytes()
    for some, again in ((THREE, False), (THREE[:1], True)):
        with pytest.raises(ValueError) as refused:
            runner.run([stack], some, again=again, folder=tmp_path)
        assert str(refused.value) == (
            f"{file} holds stack 2025-12 with python 3.11, not 3.12: add --again, for all probes, or give another "
            "--record"
        )
        assert file.read_bytes() == before
    runner.run([stack], THREE, again=True, folder=tmp_path)
    assert record.load(tmp_path)["stacks"]["2025-12"]["python"] == "3.12.1"
    assert calls[-1] == ("2025-12", THREE)


def test_a_stack_that_cannot_be_built_is_a_result_and_no_network_is_none(measured, tmp_path):
    calls, fail = measured
    fail["2025-12"] = environment.Unbuildable("Because a needs b")
    runner.run([stacks.get("2025-12")], THREE, folder=tmp_path)
    entry = record.load(tmp_path)["stacks"]["2025-12"]
    assert (entry["built"], entry["said"], entry["outcomes"]) == (False, "Because a needs b", {})
    runner.run([stacks.get("2025-12")], THREE, folder=tmp_path)
    assert len(calls) == 1
    fail["2026-02"] = OSError("no network")
    with pytest.raises(OSError, match="no network"):
        runner.run([stacks.get("2026-02")], THREE, folder=tmp_path)
    assert "2026-02" not in record.load(tmp_path)["stacks"]


def test_a_worker_that_ends_early_is_an_error(tmp_path):
    with pytest.raises(OSError, match="with 1 to go"):
        list(runner.probe_in(Path("/bin/true"), THREE[:1], tmp_path, tmp_path, "trained"))


# ---- the matrix -------------------------------------------------------------------------------------------------

RUNS, OTHER = {"kind": "runs", "value": "cpu"}, {"kind": "runs", "value": "cuda:0"}
RAISES = {"kind": "raises", "error": "ValueError", "words": "`.to` is not supported, <b> and more"}


@pytest.mark.parametrize(
    ("outcome", "verdict"),
    [
        (RUNS, "same"),
        (OTHER, "differs"),
        ({**RUNS, "warns": "oh"}, "differs"),
        (RAISES, "fails"),
        ({"kind": "hangs", "words": ""}, "fails"),
        ({"kind": "dies", "words": ""}, "fails"),
        (matrix.CANNOT, "fails"),
        ({"kind": "skipped", "words": ""}, "none"),
        (None, "none"),
    ],
)
def test_one_rule_judges_all(outcome, verdict):
    assert matrix.judge(outcome, RUNS) == verdict


def test_two_outcomes_are_one_or_not():
    assert matrix.same(RUNS, dict(RUNS)) and matrix.same(RAISES, {**RAISES, "words": RAISES["words"]})
    assert not matrix.same(RUNS, OTHER) and not matrix.same(RUNS, RAISES)
    assert not matrix.same(RUNS, {**RUNS, "warns": "oh"})
    assert not matrix.same(RAISES, {**RAISES, "error": "TypeError"})
    assert not matrix.same(RAISES, {**RAISES, "words": "another reason altogether, longer than forty letters"})


def entry(stack, outcomes, built=True):
    return {
        "key": stack.key(), "title": stack.title, "date": stack.date, "commands": stack.commands(), "built": built,
        "said": "", "check": "", "resolved": stack.versions, "outcomes": outcomes,
    }  # fmt: skip


@pytest.fixture
def small():
    """Four stacks and two probes."""
    names = {"2025-09": RAISES, "2025-12": RAISES, BOOK: RUNS, "2025-12+accelerate": None}
    found = {}
    for name, outcome in names.items():
        outcomes = {"move-encoder": outcome, "call-recipe": OTHER} if outcome else {}
        found[name] = entry(stacks.get(name), outcomes, built=outcome is not None)
    return matrix.Matrix(found)


def test_the_matrix_says_what_happened_where(small):
    assert small.probes == ["move-encoder", "call-recipe"]
    assert [small.verdict(name, "move-encoder") for name in small.stacks] == ["fails", "fails", "same", "fails"]
    assert list(small.table.loc["call-recipe"]) == ["●", "●", "●", "✕"]
    groups = small.row("move-encoder")
    assert [names for names, _, _ in groups] == [["2025-09", "2025-12"], [BOOK], ["2025-12+accelerate"]]
    assert groups[0][2].startswith("ValueError: `.to`")
    assert small.stack_table.loc["2025-09", "fails"] == 1
    with pytest.raises(ValueError, match="not in the record"):
        small.row("save-encoder")


def test_a_part_of_the_matrix_says_the_same_about_less(small):
    part = small.part(["2025-12", BOOK], ["move-encoder"])
    assert list(part.stacks) == ["2025-12", BOOK] and part.probes == ["move-encoder"]
    assert part.table.loc["move-encoder"].tolist() == small.table.loc["move-encoder", ["2025-12", BOOK]].tolist()
    for stacks_, ids in ((["2025-12"], ["move-encoder"]), ([BOOK, "x"], ["move-encoder"]), ([BOOK], ["save-encoder"])):
        with pytest.raises(ValueError, match=f"not in the matrix|must have the stack {BOOK}"):
            small.part(stacks_, ids)


def test_every_cell_says_in_words_what_its_color_says(small):
    page = small.html()
    assert page.count("<td class=") == 8 == page.count("aria-label=")
    for verdict, symbol in matrix.SYMBOLS.items():
        assert f'class="{verdict}"' in page and symbol in page and matrix.MEANING[verdict] in page
    assert "&lt;b&gt; and more" in page and "<b> and more" not in page
    opened = re.findall(r'<summary>(.+?)</summary>.+?<tr class="words">(.+?)</tr>', page, re.DOTALL)
    assert len(opened) == len(small.probes)
    for id, (_, words) in zip(small.probes, opened, strict=True):
        assert words.count("<li>") == len(small.row(id))
        assert all(html.escape(text) in words for _, _, text in small.row(id))
    assert len(set(matrix.SYMBOLS.values())) == 4


def test_the_csv_has_a_line_for_every_cell(small):
    rows = list(csv.DictReader(io.StringIO(small.csv())))
    assert len(rows) == 8
    assert rows[0]["stack"] == "2025-09" and rows[0]["diffusers"] == "0.35.1" and rows[0]["verdict"] == "fails"


# ---- the nearest stack ------------------------------------------------------------------------------------------


def test_nearest_is_the_same_where_there_is_one_and_close_otherwise(small):
    assert here.nearest(small, stacks.get("2025-12").pins) == ("2025-12", [])
    name, differences = here.nearest(small, {**stacks.get("2025-12").pins, "diffusers": "0.36.1"})
    assert name == "2025-12" and differences == ["diffusers 0.36.0 there, 0.36.1 here"]
    assert here.nearest(small, {**stacks.get(BOOK).pins, "transformers": "5.99.0"})[0] == BOOK
    assert len(here.nearest(small, {})[1]) == 4
    assert here.installed()["diffusers"] == stacks.get(BOOK).pins["diffusers"]


# ---- bisection --------------------------------------------------------------------------------------------------


def test_halving_finds_the_change_wherever_it_is():
    draw = random.Random(0)
    for _ in range(300):
        n = draw.randint(2, 40)
        releases = [f"0.{i}" for i in range(n)]
        change = draw.randint(1, n - 1)
        calls = []

        def measure(version, calls=calls, change=change):
            calls.append(version)
            return RUNS if int(version[2:]) >= change else RAISES

        outcomes, before, after = bisect.halve(releases, measure)
        assert (before, after) == (f"0.{change - 1}", f"0.{change}")
        assert len(calls) == len(set(calls)) == len(outcomes) <= 2 + math.ceil(math.log2(n))


def test_halving_tells_when_there_is_no_change_and_finds_neighbors_if_there_are_several():
    assert bisect.halve(["1", "2", "3"], lambda version: RUNS)[1:] == (None, None)
    several = {"1": RAISES, "2": RUNS, "3": RAISES, "4": OTHER, "5": RUNS}
    _, before, after = bisect.halve(list(several), several.get)
    assert int(after) - int(before) == 1 and not matrix.same(several[before], several[after])
    with pytest.raises(ValueError, match="two releases"):
        bisect.halve(["1"], several.get)


def test_a_bisection_from_the_record(tmp_path):
    releases = ["4.57.1", "4.57.3", "5.0.0", "5.1.0"]
    outcomes = {"4.57.1": RAISES, "4.57.3": RAISES, "5.0.0": RUNS, "5.1.0": RUNS}
    known = {
        "probe": "move-encoder",
        "library": "transformers",
        "base": "2026-04",
        "releases": releases,
        "outcomes": outcomes,
    }
    record.save({"stacks": {}, "bisections": [known]}, tmp_path)
    found = bisect.bisect("move-encoder", "transformers", folder=tmp_path)
    assert (found.before, found.after) == ("4.57.3", "5.0.0")
    assert "changed between transformers 4.57.3 and 5.0.0" in str(found)
    with pytest.raises(ValueError, match="add --live"):
        bisect.bisect("move-encoder", "diffusers", folder=tmp_path)
    with pytest.raises(ValueError, match="choose from diffusers"):
        bisect.bisect("move-encoder", "torch", folder=tmp_path)
    del known["outcomes"]["4.57.3"]
    record.save({"stacks": {}, "bisections": [known]}, tmp_path)
    with pytest.raises(ValueError, match="4.57.3 is not in the record"):
        bisect.bisect("move-encoder", "transformers", folder=tmp_path)


def test_a_live_bisection_writes_its_steps_and_goes_on_from_them(monkeypatch, tmp_path):
    releases = [f"0.{i}.0" for i in range(32, 38)]
    tried = []

    def measure(probe, library, version, base):
        tried.append(version)
        if len(tried) == 2:
            raise OSError("no network")
        return RUNS if version == "0.37.0" else RAISES

    monkeypatch.setattr(bisect, "between", lambda *a: releases)
    monkeypatch.setattr(bisect, "_measure", measure)
    with pytest.raises(OSError, match="no network"):
        bisect.bisect("move-transformer", "diffusers", live=True, folder=tmp_path)
    found = bisect.bisect("move-transformer", "diffusers", live=True, folder=tmp_path)
    assert found.after == "0.37.0" and tried.count("0.32.0") == 1
    assert bisect.bisect("move-transformer", "diffusers", folder=tmp_path).after == "0.37.0"

    results = record.load(tmp_path)
    results["bisections"][0]["outcomes"]["0.37.0"] = {**RUNS, "digest": "of other lines"}
    record.save(results, tmp_path)
    with pytest.raises(ValueError, match="^diffusers 0.37.0 is not in the record of this bisection, or of older lines"):
        bisect.bisect("move-transformer", "diffusers", folder=tmp_path)
    tried.clear()
    assert bisect.bisect("move-transformer", "diffusers", live=True, folder=tmp_path).after == "0.37.0"
    assert tried == ["0.37.0"]


# ---- the record that this book shows ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded():
    return matrix.matrix()


MEASURED = 24
"""Stacks that the record must hold. All of `STACKS` is the aim: raise this with `sana-lab versions run`."""


def test_the_record_holds_many_outcomes_and_none_of_them_is_stale(recorded):
    assert len(recorded.stacks) >= MEASURED and len(recorded.probes) >= 25
    for name, found in recorded.stacks.items():
        assert found["key"] == stacks.get(name).key(), f"{name} was changed: sana-lab versions run {name}"
        measured = [id for id, outcome in found["outcomes"].items() if outcome["kind"] != "skipped"]
        stale = [id for id in measured if found["outcomes"][id]["digest"] != PROBES[id].digest]
        assert not stale, f"sana-lab versions run {name}"
        assert len(measured) >= 25 or not found["built"], name


def test_no_outcome_is_the_virtual_gpu_s_own_fault(recorded):
    words = [matrix.describe(o) for found in recorded.stacks.values() for o in found["outcomes"].values()]
    for own in ("irtual GPU", "sana_lab", "BatchedTensorImpl", "cget_managed_ptr", "cint8_"):
        assert not [text for text in words if own in text]
    kinds = {o["kind"] for found in recorded.stacks.values() for o in found["outcomes"].values()}
    assert kinds <= {"runs", "raises", "skipped"}, "a probe that hangs or dies is this machine's doing until shown"


def test_each_environment_had_the_versions_that_it_claims(recorded):
    for name, found in recorded.stacks.items():
        if found["built"]:
            asked = stacks.get(name).versions
            if stacks.get(name).then and "huggingface-hub" not in stacks.get(name).then:
                asked = {
                    key: value for key, value in asked.items() if key != "huggingface-hub"
                }  # the second step moves it
            there = {library: found["resolved"][library].split("+")[0] for library in asked}
            assert there == asked, name
            assert found["python"].startswith("3.11")


def test_a_bisection_in_the_record_can_be_done_again(recorded):
    for known in record.load()["bisections"]:
        found = bisect.bisect(known["probe"], known["library"], base=known["base"])
        assert found.after is not None, known["probe"]


def test_the_book_s_stack_measured_here_equals_its_record(recorded):
    """A few probes in this environment, which has the versions of that stack."""
    few = [
        "load-in-8bit-keyword",
        "move-encoder",
        "move-encoder-cuda",
        "layer-on-gpu",
        "device-of-pipeline",
        "map-auto",
    ]
    outcomes = here.run_here(virtual=True, probes=few)
    assert list(outcomes) == few
    for id, outcome in outcomes.items():
        assert matrix.same(outcome, recorded.outcome(BOOK, id)), (id, outcome, recorded.outcome(BOOK, id))


# ---- the command line -------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch, capsys):
    """`sana-lab versions …` in this process: status, stdout, stderr."""

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["sana-lab", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code or 0, *capsys.readouterr()

    return command


def test_show_has_the_matrix_a_stack_and_a_probe(run):
    status, out, _ = run("versions", "show")
    assert status == 0 and "move-encoder" in out and "●" in out and "✕" in out
    status, out, _ = run("versions", "show", "2026-11")
    assert status == 0 and "pip install torch==2.13.0" in out and "move-encoder" in out
    status, out, _ = run("versions", "show", "--probe", "move-encoder")
    assert status == 0 and "fails" in out and "is not supported" in out
    status, out, _ = run("versions", "show", "--csv")
    assert status == 0 and len(list(csv.reader(io.StringIO(out)))) > MEASURED * 25
    assert "move-encoder" in run("versions", "show", "--probes")[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show", "1999-01"), "stack '1999-01' is not in the record"),
        (("show", "--probe", "nothing"), "there is no probe 'nothing'"),
        (("run", "nothing"), "there is no stack 'nothing'"),
        (("bisect", "move-encoder", "--library", "numpy"), "choose from diffusers"),
        (("bisect", "map-auto", "--library", "accelerate"), "add --live"),
    ],
)
def test_bad_input_is_one_line(run, arguments, said):
    status, out, err = run("versions", *arguments)
    assert status == 2 and out == "" and said in err and err.count("\n") == 1


def test_here_compares_with_the_nearest_stack(run, monkeypatch, recorded):
    known = recorded.outcome(BOOK, "move-encoder")
    outcomes = {"move-encoder": known, "move-transformer": RAISES, "draw-8bit": {"kind": "skipped", "words": "no"}}
    monkeypatch.setattr(here, "run_here", lambda virtual: outcomes)
    status, out, err = run("versions", "here")
    assert status == 0 and f"nearest stack: {BOOK}" in err
    assert out.splitlines()[0].startswith("as there  move-encoder") and "other     move-transformer" in out
    status, out, _ = run("versions", "here", "--json")
    assert json.loads(out)["outcomes"] == outcomes


def test_a_system_without_fork_is_told_so(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "fork", raising=False)
    with pytest.raises(OSError, match="Windows has not"):
        list(runner.probe_in(Path(sys.executable), THREE, tmp_path, tmp_path, "trained"))


def test_an_empty_record_says_what_to_run(run, tmp_path):
    status, _, err = run("versions", "show", "--record", str(tmp_path))
    assert status == 2 and "sana-lab versions run" in err
    assert evidence.names(tmp_path) == []
