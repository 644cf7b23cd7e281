"""A service that survives: start-up, faults in a process and of processes, the checklist, all kinds of scripts."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from processes import start_by_fork

from sana_lab import commandline, evidence, load_sana, use_accelerator
from sana_lab.cli import app
from sana_lab.evidence import journal
from sana_lab.failures import explain
from sana_lab.generate.prompts import Wanted
from sana_lab.guard import NotReady
from sana_lab.service import Way, checklist, decode_room, deliver, faults, start_up, supervisor, ways_of, wrong_with
from sana_lab.service.cli import check
from sana_lab.service.delivery import BEAT, LOG, Log, is_there
from sana_lab.service.ways import must_be_ways, no_room, poisoned

WANTED = [Wanted(f"{n:02}.png", f"picture {n}", n) for n in range(8)]
SMALL = {"pixels": 32, "steps": 1, "guidance": 0.0}


@pytest.fixture(scope="module", autouse=True)
def gpu():
    with use_accelerator(virtual=True, vram="2GiB") as accelerator:
        yield accelerator


# ---- a picture, and the start -------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [torch.tensor, np.asarray])
def test_what_is_no_picture(form):
    good = np.random.default_rng(0).random((3, 8, 8)).astype("float32")
    assert wrong_with(form(good)) == ""
    one = good.copy()
    one[0, 0, 0] = np.nan
    assert "NaN) in 1 of 192" in wrong_with(form(one))
    one[0, 0, 0] = np.inf
    assert "NaN" in wrong_with(form(one))
    assert wrong_with(form(good * 0)) == "it is black"
    assert wrong_with(form(good * 0 + 0.5)) == "it has one color everywhere"
    assert wrong_with(form(good[:, :0])) == "it is empty"


def test_what_is_no_picture_in_files_colors():
    assert wrong_with(Image.new("RGB", (8, 8))) == "it is black"
    assert wrong_with(np.full((8, 8, 3), 200, np.uint8)) == "it has one color everywhere"
    assert wrong_with(Image.radial_gradient("L")) == ""
    with pytest.raises(TypeError, match="looks at a tensor"):
        wrong_with("black.png")


def test_a_good_pipeline_starts(pipe):
    assert start_up(pipe, pixels=32) is pipe


def test_the_room_for_decoding_is_what_decoding_takes(pipe):
    for pixels in (128, 512):
        said = decode_room(pipe, pixels)
        latents = torch.zeros(1, 32, pixels // 32, pixels // 32, device="cuda")
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        with torch.no_grad():
            pipe.vae.decode(latents, return_dict=False)
        took = torch.cuda.max_memory_allocated() - before
        assert 0.8 * took < said < 3 * took
    assert decode_room(pipe, 4096) > 32 * decode_room(pipe, 512)


def test_a_pipeline_that_draws_nothing_is_refused(model):
    pipe = load_sana(model, "fp32")
    handle = pipe.transformer.register_forward_hook(lambda m, g, out: (out[0] * float("nan"), *out[1:]))
    with pytest.raises(NotReady, match="the first picture: it has no numbers"):
        start_up(pipe, pixels=32)
    handle.remove()
    pipe.transformer.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(NotReady, match="the first picture raises ZeroDivisionError"):
        start_up(pipe, pixels=32)


# ---- inside of a process -------------------------------------------------------------------------------------------


def spoiled(model, tmp_path, planned):
    (tmp_path / "faults.json").write_text(json.dumps(planned))
    return faults.ways(str(model), str(tmp_path / "faults.json"))


def test_every_fault_that_a_process_survives(model, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", os.replace)  # `faults` changes it
    planned = {"1": "out of memory", "2": "NaN", "3": "out of memory twice", "4": "an error", "6": "NaN twice"}
    said = []
    report = deliver(WANTED, tmp_path / "out", spoiled(model, tmp_path, planned), check=False, say=said.append, **SMALL)
    assert report.delivered == [w.name for w in WANTED] and not report.given_up
    assert report.events["failed"] == 7 and report.events["loaded"] == 3 and len(said) == 2
    assert "Going on with: second" in said[0] and "Going on with: third" in said[1]
    events = Log(tmp_path / "out" / LOG).events()
    assert faults.judged(WANTED, tmp_path / "out", events)["delivered twice"] == []
    failed = [event for event in events if event["event"] == "failed"]
    assert failed[0]["error"] == "OutOfMemoryError" and failed[0]["known"] and failed[0]["stage"] == "steps"
    assert [event["error"] for event in failed].count("NoPicture") == 3
    held = {event["gpu"] for event in events if event["event"] == "delivered"}
    assert max(held) - min(held) < 2**20, "a way that is left is given back"
    for one in WANTED:
        with Image.open(tmp_path / "out" / one.name) as picture:
            kept = json.loads(picture.text["sana-lab"])
            assert picture.size == (32, 32) and kept["prompt"] == one.prompt and kept["seed"] == one.seed
    again = deliver(WANTED, tmp_path / "out", spoiled(model, tmp_path, {}), check=False, **SMALL)
    assert again.there == [w.name for w in WANTED] and not again.delivered and "8 were there" in str(again)
    with pytest.raises(ValueError, match="steps 1, not 2"):
        deliver(WANTED, tmp_path / "out", spoiled(model, tmp_path, {}), check=False, **SMALL | {"steps": 2})
    (cut := tmp_path / "out" / WANTED[2].name).write_bytes(cut.read_bytes()[:-20])
    assert deliver(WANTED, tmp_path / "out", spoiled(model, tmp_path, {}), check=False, **SMALL).delivered == [cut.name]


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (Wanted("00.png", "picture 0", 5), "seed 5, not 0"),
        (Wanted("00.png", "a blue ring", 0), "prompt a blue ring, not picture 0"),
        (b"", "is not from here"),
        (b"noise" * 99, "is not from here"),
    ],
)
def test_another_picture_in_the_place_of_one_that_is_wanted_is_refused_and_kept(tmp_path, left, words):
    """Its name says neither seed nor, from a list with names, prompt: what is there need not be what is wanted."""
    file = tmp_path / "00.png"
    if isinstance(left, bytes):
        file.write_bytes(left)
    else:
        keep = PngImagePlugin.PngInfo()
        keep.add_itxt("sana-lab", json.dumps({"prompt": left.prompt, "seed": left.seed, "way": "first"}))
        Image.new("RGB", (8, 8)).save(file, pnginfo=keep)
    before = file.read_bytes()
    for begin in (lambda: supervisor.supervise("shapes", WANTED, tmp_path), lambda: is_there(file, WANTED[0])):
        with pytest.raises(ValueError, match=words):
            begin()
    assert file.read_bytes() == before and os.listdir(tmp_path) == ["00.png"]


def test_what_fails_in_every_way_is_named(model, tmp_path):
    def load():
        pipe = load_sana(model, "fp32")
        encode = pipe.encode_prompt

        def encoded(prompt, *given, **more):
            if str(prompt).endswith(" 1"):
                raise ValueError("not this one")
            return encode(prompt, *given, **more)

        pipe.encode_prompt = encoded
        return pipe

    report = deliver(WANTED[:3], tmp_path, [Way("a", load), Way("b", load)], check=False, **SMALL)
    assert report.given_up == {"01.png": "ValueError: not this one"} and len(report.delivered) == 2
    assert "1 given up" in str(report)


def test_a_line_that_was_cut_and_one_that_is_missing(model, tmp_path):
    ways = [Way("a", lambda: load_sana(model, "fp32"))]
    deliver(WANTED[:2], tmp_path, ways, check=False, **SMALL)
    log = tmp_path / LOG
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])  # killed as it wrote the last "delivered"
    deliver(WANTED[:3], tmp_path, ways, check=False, **SMALL)
    events = Log(log).events()
    found = faults.judged(WANTED[:3], tmp_path, events)
    assert not found["lost"] and not found["delivered twice"] and not found["not in the log"]
    assert sum(bool(event.get("found")) for event in events) == 1


def test_a_way_that_is_not_fit_gives_way_to_the_next(model, tmp_path):
    def black():
        pipe = load_sana(model, "fp32")
        pipe.vae.register_forward_hook(lambda *_: None)
        pipe.text_encoder.to(torch.float16)
        return pipe

    def full():
        return torch.empty(2**45, dtype=torch.uint8, device="cuda")

    good = Way("good", lambda: load_sana(model, "fp32"))
    said = []
    report = deliver(
        WANTED[:1], tmp_path / "a", [Way("full", full), Way("half", black), good], say=said.append, **SMALL
    )
    assert report.delivered == ["00.png"] and report.events["not fit"] == 2 and "float16" in said[1]
    with pytest.raises(NotReady, match="float16"):
        deliver(WANTED[:1], tmp_path / "b", [Way("half", black)], **SMALL)


def test_two_processes_do_not_deliver_into_one_folder(model, tmp_path):
    def load():
        deliver(WANTED, tmp_path, [Way("a", load)], **SMALL)

    with pytest.raises(OSError, match="another process delivers into it"):
        deliver(WANTED, tmp_path, [Way("a", load)], **SMALL)


def test_a_full_disk_leaves_no_half_picture(model, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    ways = [Way("a", lambda: load_sana(model, "fp32"))]
    deliver(WANTED[:1], tmp_path, ways, check=False, **SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(journal.os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            deliver(WANTED[:2], tmp_path, ways, check=False, **SMALL)
    assert sorted(p.name for p in tmp_path.glob("*.p*")) == ["00.png"] and not list(tmp_path.glob(".*partial"))
    assert deliver(WANTED[:2], tmp_path, ways, check=False, **SMALL).delivered == ["01.png"]


@pytest.mark.parametrize("ways", [[], "x", [1], [Way("a", int), Way("a", int)], None])
def test_what_are_no_ways(ways):
    with pytest.raises(TypeError, match="ways: "):
        must_be_ways(ways)


def test_kinds_of_errors():
    assert no_room(torch.cuda.OutOfMemoryError("x")) and no_room(
        RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling")
    )
    assert no_room(UnboundLocalError("cannot access local variable 'image' where it is not associated with a value"))
    assert not no_room(RuntimeError("shapes")) and not no_room(UnboundLocalError("local variable 'x'"))
    assert poisoned(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not poisoned(RuntimeError("CUDA error: out of memory")) and not poisoned(ValueError("x"))


def test_the_ways_of_a_model_draw(tmp_path):
    from sana_lab.shapes.untrained import untrained_shapes

    found = ways_of(untrained_shapes(), pixels=512)
    assert [way.name for way in found][0] == "int8" and len(found) > 1
    pipe = found[-1].load()
    pipe.set_progress_bar_config(disable=True)
    before = torch.cuda.memory_allocated()
    pipe("x", num_inference_steps=1, height=64, width=64, use_resolution_binning=False)
    assert torch.cuda.memory_allocated() - before < 2**21


def test_the_next_way_is_the_plans():
    from sana_lab.checkpoints import resolve
    from sana_lab.fitting import planner

    source = resolve("600M-1024")
    for first, begin in (("int8", "int8"), (source.trained, "16-bit"), ("16-bit", "16-bit"), ("nf4-slim", "nf4-slim")):
        names = [way.name for way in ways_of("600M-1024", first)]
        chain = planner.downwards(source, begin, 1024)
        assert names[0] == begin and names[1] in (f"{begin}, tiles", chain[1][0].name)
        planned = [way.name if decode == "whole" else f"{way.name}, {decode}" for way, decode in chain]
        assert [name for name in planned if "fp8" not in name] == [name for name in names if "fp8" not in name]
    other = [way.name for way in ways_of("600M-1024", "fp32")]
    assert other[:2] == ["fp32", "16-bit"], "no plan has it: it comes first, then 16 bits and down"
    with pytest.raises(ValueError, match="'int7' is unknown"):
        ways_of("600M-1024", "int7")


# ---- processes -----------------------------------------------------------------------------------------------------


def test_processes_that_die_and_hang_lose_nothing(model, tmp_path, monkeypatch):
    """The thousand with all faults are the record `service_faults`; this is as much as every run can afford."""
    start_by_fork(monkeypatch, fresh=1)
    planned = {"1": "killed when done", "3": "hangs"}
    spoiled(model, tmp_path, planned)
    source = "from sana_lab.service.faults import ways\n"
    (tmp_path / "p.py").write_text(f"{source}WAYS = ways({str(model)!r}, {str(tmp_path / 'faults.json')!r})\n")
    said = []
    report = supervisor.supervise(
        tmp_path / "p.py", WANTED[:5], tmp_path / "out", patience=5, virtual=True, vram="1GiB", say=said.append,
        check=False, **SMALL,
    )  # fmt: skip
    found = faults.judged(WANTED[:5], tmp_path / "out", Log(tmp_path / "out" / LOG).events())
    assert report.delivered == [w.name for w in WANTED[:5]] and not report.given_up
    assert not found["lost"] and not found["delivered twice"] and not found["not in the log"]
    assert report.events["died"] == report.events["hung"] == 1 and len(said) == 2
    assert not (tmp_path / "out" / BEAT).exists()


def test_the_thousand():
    found = evidence.load(faults.RECORD)["results"]
    assert found["pictures"] >= 1000 and set(found["faults"]) == set(faults.KINDS)
    assert found["lost"] == found["delivered twice"] == found["not in the log"] == [] and not found["given up"]
    assert found["events"]["delivered"] == found["pictures"]
    assert all(high - low < 2**20 for low, high in (one["gpu"] for one in found["memory"]))
    assert all(one["host grown"] < 64 * 2**20 for one in found["memory"])


def test_a_plan_has_every_kind():
    for pictures in (60, 1000):
        planned = faults.plan(pictures)
        assert set(planned.values()) == set(faults.KINDS) and len(planned) >= pictures // 25
        assert sum(kind.endswith("twice") for kind in planned.values()) == 2, "there are three ways"


# ---- the checklist, and scripts -----------------------------------------------------------------------------------


def test_ten_lines(pipe):
    found = checklist(pipe, pixels=32, ways=2)
    assert found and len(found.lines) == 10 and str(found).count("yes") == 10, found
    alone = checklist(pipe, pixels=32)
    assert not alone and [line.ok for line in alone.lines].count(False) == 1 and "WAYS" in str(alone)


def test_lines_that_say_no(model):
    pipe = load_sana(model, "fp32")
    pipe.set_progress_bar_config(disable=True)
    kept = []

    def leaks(module, given, out):
        kept.append(torch.empty(2**21, dtype=torch.uint8, device="cuda"))
        return (out[0] + torch.randn_like(out[0]), *out[1:])

    handle = pipe.transformer.register_forward_hook(leaks)
    no = [line.name for line in checklist(pipe, pixels=32, ways=2).lines if not line]
    assert no == ["the same seed is the same picture", "a picture leaves nothing behind in memory"]
    handle.remove()
    pipe.vae.to("cpu")
    no = {line.name: line.why for line in checklist(pipe, pixels=32, ways=2).lines if not line}
    assert "pipe.vae.to" in no["every part is where its inputs will be"]
    assert "failure index: " in no["a picture"]


def refused(place, **more):
    with pytest.raises(ValueError) as caught:
        check(str(place), virtual=True, **more)
    said = str(caught.value)
    assert "\n" not in said and explain(f"sana-lab: {said}")
    return said


SCRIPTS = {
    "import no_such_library\n": "line 1, does not run: ModuleNotFoundError: No module named 'no_such_library'",
    "x = 1\n": "defines no pipeline: name it `pipe`",
    "x = (\n": "does not run: SyntaxError",
    "import sys\nsys.exit(3)\n": "ends by itself, with sys.exit(3)",
    "def load():\n    return 3\n": "load() gives int, and is to give a diffusers pipeline",
    "def load():\n    raise RuntimeError('CUDA out of memory')\n": "line 2, does not run: RuntimeError: CUDA out",
    "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n": "ended its process with status -11, before it had",
}  # fmt: skip


@pytest.mark.parametrize("source", list(SCRIPTS)[::3])
def test_scripts_that_make_no_pipeline(tmp_path, monkeypatch, source):
    start_by_fork(monkeypatch)
    (tmp_path / "p.py").write_text(source)
    said = refused(tmp_path / "p.py")
    assert SCRIPTS[source] in said and "p.py" in said


def test_scripts_in_this_process(tmp_path):
    """The other half, without the seconds that a process takes."""
    from sana_lab.service.examine import answers

    for source in list(SCRIPTS)[:6]:
        (tmp_path / "p.py").write_text(source)
        request = {"place": str(tmp_path / "p.py"), "vram": "2GiB", "virtual": True, "pixels": 32}
        (said,) = answers(request)
        assert SCRIPTS[source] in said["refused"]


def test_a_script_that_hangs(tmp_path, monkeypatch):
    start_by_fork(monkeypatch)
    (tmp_path / "p.py").write_text("while True: pass\n")
    assert "took longer than 2 seconds, before it had made a pipeline" in refused(tmp_path / "p.py", limit=2)
    assert "is no file" in refused(tmp_path / "no.py") and "is unknown" in refused("no-such-model")


def test_a_good_script_from_the_command_line(model, tmp_path, capsys, monkeypatch):
    start_by_fork(monkeypatch)
    (tmp_path / "p.py").write_text(f"from sana_lab import load_sana\npipe = load_sana({str(model)!r}, 'fp32')\n")
    line = ["check", str(tmp_path / "p.py"), "--virtual", "--size", "32"]
    assert commandline.run_command(app, "sana-lab", line) == 1
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 10 and [text[:3] for text in said] == ["yes"] * 9 + ["NO "]
