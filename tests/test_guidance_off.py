"""Guidance off: the run stops, goes on, shares its work, and says what each way raised."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import psutil
import pytest
import torch
from processes import runs, until

from sana_lab import evidence, use_accelerator
from sana_lab.evaluate import guidance_off as g
from sana_lab.evaluate import statistics as s
from sana_lab.shapes.rendering import encode_scenes, render_codes
from sana_lab.shapes.scoring import ALL_RIGHT


@pytest.fixture(autouse=True)
def gpu():
    with use_accelerator(virtual=True):
        yield


class Nothing:
    """A pipeline that is there."""

    def set_progress_bar_config(self, **_):
        pass


@pytest.fixture
def quick(monkeypatch):
    """Ways that draw at once: the true picture, or that of another scene for `recipe`."""
    calls = []

    def pictures(pipe, way, scenes, seeds, steps):
        name = next(name for name, other in g.WAYS.items() if other is way)
        calls.append((name, seeds.start))
        codes = encode_scenes([scene.canonical for scene in scenes])
        drawn = ((render_codes(codes, pixels=128).permute(0, 2, 3, 1) + 1) * 127.5).round().byte()
        return 255 - drawn if name == "recipe" else drawn

    ways = {
        name: g.Way(w.title, Nothing, w.against, w.guidance, w.at_once, w.sprint)
        for name, w in list(g.WAYS.items())[:4]
    }
    monkeypatch.setattr(g, "WAYS", ways)
    monkeypatch.setattr(g, "_pictures", pictures)
    return calls


PLAN = g.Plan(n=6, ways=("bf16", "recipe", "contiguous", "pairs"), steps=1)


def run(out, plan=PLAN, world=1):
    g.claim(out, plan.settings)
    for rank in range(world):
        g.share(plan, out, rank, world)
    return g.Record(evidence.load(g.RECORD, folder=g.record(plan, out, True).parent))


def test_the_record_counts_what_was_drawn(tmp_path, quick):
    found = run(tmp_path)
    assert found.settings["virtual"] is True and found.settings["n"] == 6
    assert str(found.rate("bf16")) == "100.0 % (61.0 to 100.0)" and not found.right("recipe").any()
    assert found.compare("recipe").only_first == 6 and found.compare("contiguous").both == 6
    assert found.ways["contiguous"]["difference_mean"] == 0 and found.ways["recipe"]["difference_mean"] > 50
    assert [example["i"] for example in found.record["results"]["examples"]] == [0, 1, 2, 3]
    picture = s.unpack_picture(found.record["results"]["examples"][1]["pictures"]["bf16"]["webp"])
    assert s.rights(picture, PLAN.scenes[1])[s.NAMES.index(ALL_RIGHT)]


def test_scenes_are_the_same_whatever_their_number():
    assert g.Plan(n=5).scenes == g.Plan(n=200).scenes[:5]
    assert [len(scene.things) for scene in g.Plan(n=5).scenes] == [1, 2, 1, 2, 1]


def test_processes_share_and_a_stopped_run_goes_on(tmp_path, quick):
    whole = run(tmp_path / "one").record["results"]
    assert run(tmp_path / "two", world=2).record["results"] == whole
    quick.clear()
    (tmp_path / "one" / "parts" / "contiguous-0004.jsonl").unlink()
    assert run(tmp_path / "one").record["results"] == whole
    assert quick == [("bf16", 4), ("contiguous", 4)]  # the reference's chunk is wanted again, nothing else


def test_more_scenes_go_on_too(tmp_path, quick):
    run(tmp_path, g.Plan(n=4, ways=("bf16", "recipe"), steps=1))
    quick.clear()
    run(tmp_path, g.Plan(n=8, ways=("bf16", "recipe"), steps=1))
    assert quick == [("bf16", 4), ("recipe", 4)]


def test_what_a_way_raises_stands_in_the_record_and_the_others_are_drawn(tmp_path, quick, monkeypatch):
    def broken():
        raise RuntimeError("out of\nluck")

    good = g.WAYS["recipe"]
    monkeypatch.setitem(g.WAYS, "recipe", g.Way("recipe", broken))
    found = run(tmp_path)
    assert found.record["results"]["failed"] == {"recipe": "RuntimeError: out of luck"}
    assert list(found.ways) == ["bf16", "contiguous", "pairs"] and "out of luck" in g.summary(found)
    monkeypatch.setitem(g.WAYS, "recipe", good)
    assert run(tmp_path).record["results"]["failed"] == {}


def test_without_what_others_are_held_against_there_is_no_record(tmp_path, quick, monkeypatch):
    def broken():
        raise RuntimeError("no luck")

    monkeypatch.setitem(g.WAYS, "bf16", g.Way("bf16", broken))
    with pytest.raises(RuntimeError, match="nothing is complete: bf16: RuntimeError: no luck"):
        run(tmp_path)
    assert not (tmp_path / f"{g.RECORD}.json").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n": 0}, "n = 0 scenes: give 1 to 2000"),
        ({"n": 2001}, "give 1 to 2000"),
        ({"steps": 0}, "steps = 0: give 1 to 1000"),
        ({"ways": ()}, "ways none"),
        ({"ways": ("bf16", "bf16")}, "name each once"),
        ({"ways": ("bf16", "int9")}, "'int9' is unknown: choose from bf16, recipe"),
        ({"ways": ("recipe",)}, "compared with 'bf16': name that, too"),
    ],
)
def test_bad_plans_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        g.Plan(**change)


def test_a_folder_of_another_run_is_refused(tmp_path, quick):
    run(tmp_path)
    with pytest.raises(ValueError, match="holds a run with steps 1, not 2"):
        run(tmp_path, g.Plan(n=6, ways=PLAN.ways, steps=2))


@pytest.mark.parametrize("arguments", [["-n", "0"], ["--ways", "int9"], ["--processes", "0"], ["--ways", ""]])
def test_bad_arguments_leave_nothing(tmp_path, arguments, capsys):
    assert g.main(["--out", str(tmp_path / "out"), *arguments]) == 2
    said = capsys.readouterr().err
    assert re.search("give a whole number from 1|choose from|one name or more", said) and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_bad_arguments_are_one_line(tmp_path):
    command = [sys.executable, "-m", "sana_lab.evaluate.guidance_off", "--out", str(tmp_path / "out"), "--steps", "-1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    assert done.stderr == f"{g.PROGRAM}: --steps -1: give a whole number from 1 to 1,000; 20 is usual.\n"


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_no_process_that_draws_outlives_the_one_that_was_killed(tmp_path):
    options = ["-n", "40", "--steps", "1", "--processes", "2", "--virtual", "--out", str(tmp_path)]
    process = subprocess.Popen([sys.executable, "-m", "sana_lab.evaluate.guidance_off", *options], stderr=-3)
    pids = until(lambda: [child.pid for child in psutil.Process(process.pid).children(recursive=True)][1:], 120)
    process.kill()
    process.wait()
    until(lambda: not any(runs(pid) for pid in pids))


def test_a_record_of_other_weights_or_scenes_is_refused(tmp_path, quick):
    run(tmp_path)
    file = tmp_path / f"{g.RECORD}.json"
    whole = json.loads(file.read_text())
    for key, words in (("weights", "is of weights"), ("scenes", "is of other scenes"), ("format", "has format")):
        changed = json.loads(json.dumps(whole))
        changed["results"]["settings"][key] = "other"
        file.write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=words):
            g.load(folder=tmp_path)


def test_the_kernel_is_counted_and_left_as_it_was():
    import bitsandbytes

    layer = bitsandbytes.nn.Linear8bitLt(64, 32, has_fp16_weights=False).to("cuda")
    before = bitsandbytes.functional.int8_vectorwise_quant
    rows = torch.randn(8, 64, dtype=torch.float16, device="cuda")
    view = torch.randn(64, 8, dtype=torch.float16, device="cuda").t()
    with torch.no_grad(), g.counted() as seen:
        for hidden in (rows, view, rows[None], view[None], torch.stack([view, view])):
            layer(hidden)
    assert seen == {"calls": 5, "views": 2}  # a batch of two is copied
    assert bitsandbytes.functional.int8_vectorwise_quant is before


def test_every_way_draws_and_only_the_unguarded_recipe_hands_over_views(tmp_path):
    """One step, one scene, on the virtual GPU, from the libraries' own lines to the record."""
    names = ("bf16", "recipe", "contiguous", "sprint-bf16", "sprint-recipe")
    found = run(tmp_path, g.Plan(n=1, ways=names, steps=1))
    assert found.record["results"]["failed"] == {} and list(found.ways) == list(names)
    assert found.rate("bf16").right == 1
    views = {name: way["kernel"]["views"] for name, way in found.ways.items()}
    assert views["recipe"] > 0 and views["sprint-recipe"] > 0
    assert views["contiguous"] == views["bf16"] == views["sprint-bf16"] == 0
    assert found.ways["contiguous"]["difference_mean"] < 1


# ---- the record in the book ---------------------------------------------------------------------------------------


def test_the_stored_record_is_of_a_real_gpu_and_says_what_the_chapter_says():
    record = g.load()
    assert record.settings["virtual"] is False, "a stand-in: record it on a real GPU, see CONTRIBUTING.md"
    assert record.settings["n"] >= 200 and record.record["machine"]["driver"]
    good, bad = record.rate("bf16"), record.rate("recipe")
    assert good.interval[0] > bad.interval[1], "the fault"
    for way in ("contiguous", "pairs", "int8", "slim", "fast", "weights", "recipe-guided"):
        assert record.compare(way).interval[0] > -0.05, way
        assert record.ways[way]["kernel"]["views"] == 0, way
    assert record.ways["recipe"]["kernel"]["views"] > 0


def test_the_stored_pictures_read_as_it_says():
    record = g.load()
    for example in record.record["results"]["examples"]:
        scene = g.Plan(n=example["i"] + 1, seed=record.settings["seed"]).scenes[-1]
        for picture in example["pictures"].values():
            assert s.rights(s.unpack_picture(picture["webp"]), scene) == picture["right"]
