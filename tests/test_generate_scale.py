"""A file of prompts over many processes: one result a prompt, the same whoever draws it, going on when stopped."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from processes import runs, until
from safetensors.torch import load_file, save_file
from small_sana import build_folder

from sana_lab import cli, evidence, use_accelerator
from sana_lab.generate import drawing, many, prompts, scaling
from sana_lab.generate.prompts import Wanted
from sana_lab.launched import Launched
from sana_lab.shapes.tokenizer import build_tokenizer

PROMPTS = ["a red star", "a blue ring", "a small green square", "a large cross", "a purple circle"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A pipeline of some 200,000 random weights."""
    return build_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def gpu():
    threads = torch.get_num_threads()
    with use_accelerator(virtual=True):
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("# five\n\n" + "\n".join(PROMPTS) + "\n")
    return path


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def versions():
    """Those of the libraries, whose files take 40 ms to ask at each run."""
    return evidence.installed_versions()


@pytest.fixture
def quick(monkeypatch, tokenizer, versions):
    """Pictures that depend on prompt, seed and everything else in the batch, as real ones do, and take no time."""
    drawn = []

    def draw(pipe, texts, seeds, **options):
        drawn.append(list(texts))
        together = sum(map(len, texts)) + sum(seeds)
        rng = [np.random.default_rng([s, together, *p.encode()]) for p, s in zip(texts, seeds, strict=True)]
        return [Image.fromarray(r.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for r in rng]

    pipe = SimpleNamespace(tokenizer=tokenizer, set_progress_bar_config=lambda **_: None)
    monkeypatch.setattr(drawing, "draw", draw)
    monkeypatch.setattr(drawing, "load", lambda *_: pipe)
    monkeypatch.setattr(evidence, "installed_versions", lambda: dict(versions))
    return drawn


def go(file, out, model, rank=0, world=1, said=None, **options):
    usual = {"precision": "int8", "steps": 1, "guidance": 4.5, "seed": 0, "size": None, "batch": 2}
    usual |= {"vram": "16GiB", "virtual": True, "say": [].append if said is None else said.append}
    return many.run(file, out=out, model=str(model), launched=Launched(rank, world, rank), **{**usual, **options})


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


# ---- files of prompts --------------------------------------------------------------------------------------------


def test_a_text_file_is_a_prompt_a_line(tmp_path):
    file = tmp_path / "p.txt"
    file.write_bytes("\ufeff# no prompt\r\n A Red star! \r\n\r\n\t\r\nein größerer Stern # 2\u2028x\n".encode())
    wanted, warnings = prompts.read(file, seed=7)
    assert warnings == []
    assert wanted == [
        Wanted("0000-a-red-star.png", "A Red star!", 7),
        Wanted("0001-ein-größerer-stern-2-x.png", "ein größerer Stern # 2\u2028x", 8),
    ]


def test_json_lines_bring_seeds_and_names(tmp_path):
    file = tmp_path / "p.jsonl"
    lines = [
        {"prompt": "# a star"},
        {"prompt": "b", "seed": 99, "name": "mine", "tag": 1},
        {"prompt": "c", "name": "C"},
    ]
    file.write_text("\n\n".join(map(json.dumps, lines)))
    wanted, warnings = prompts.read(file, seed=5)
    expected = [("0000-a-star.png", "# a star", 5), ("mine.png", "b", 99), ("C.png", "c", 7)]
    assert wanted == [Wanted(*e) for e in expected]
    assert len(warnings) == 1 and "tag" in warnings[0] and "\n" not in warnings[0]


def test_names_sort_as_the_prompts_do(tmp_path):
    file = tmp_path / "p.txt"
    file.write_text("x\n" * 10_001)
    names = [w.name for w in prompts.read(file)[0]]
    assert names == sorted(names) and len(set(names)) == 10_001


BAD_FILES = {
    "empty": ("p.txt", "", "no prompt"),
    "comments only": ("p.txt", "# a\n\n", "no prompt"),
    "no JSON": ("p.jsonl", '{"prompt": "a"}\n{"prompt": "b"\n', "line 2"),
    "no object": ("p.jsonl", '\n"a"\n', "line 2"),
    "no prompt": ("p.jsonl", '{"text": "a"}', "line 1: there is no prompt"),
    "blank prompt": ("p.jsonl", '{"prompt": " "}', "line 1: there is no prompt"),
    "seed in words": ("p.jsonl", '{"prompt": "a", "seed": "1"}', "seed '1'"),
    "seed below": ("p.jsonl", '{"prompt": "a", "seed": -1}', "seed -1"),
    "seed above": ("p.jsonl", f'{{"prompt": "a", "seed": {2**63}}}', "seed"),
    "truth as seed": ("p.jsonl", '{"prompt": "a", "seed": true}', "seed True"),
    "name that leads out": ("p.jsonl", '{"prompt": "a", "name": "../x"}', "'../x'"),
    "hidden name": ("p.jsonl", '{"prompt": "a", "name": ".x"}', "'.x'"),
    "null name": ("p.jsonl", '{"prompt": "a", "name": null}', "name None"),
    "long name": ("p.jsonl", f'{{"prompt": "a", "name": "{"x" * 101}"}}', "name"),
    "two names": ("p.jsonl", '{"prompt": "a", "name": "x"}\n\n{"prompt": "b", "name": "X"}', "line 3: the name"),
    "a name that another gets": ("p.jsonl", '{"prompt": "a"}\n{"prompt": "b", "name": "0000-a"}', "line 2"),
    "other text": ("p.txt", b"a\nb\xff\n", "line 2"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_one_line_with_the_place(tmp_path, case):
    name, text, said = BAD_FILES[case]
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError) as error:
        prompts.read(tmp_path / name)
    assert said in str(error.value) and "\n" not in str(error.value), error.value


def test_a_file_that_is_not_there(tmp_path):
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(OSError, match="cannot be read"):
            prompts.read(path)


def test_seeds_that_run_out(tmp_path):
    (tmp_path / "p.txt").write_text("a\nb\n")
    with pytest.raises(ValueError, match="line 2: seed"):
        prompts.read(tmp_path / "p.txt", seed=2**63 - 1)


# ---- who draws what ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 7, 40])
@pytest.mark.parametrize("batch", [1, 3, 64])
@pytest.mark.parametrize("world", [2, 3, 8])
def test_every_picture_once_and_batches_do_not_depend_on_the_processes(gpu, quick, model, tmp_path, n, batch, world):
    file = tmp_path / "p.txt"
    file.write_text("".join(f"prompt {i}\n" for i in range(n)))
    go(file, tmp_path / "one", model, batch=batch)
    one = quick.copy()
    quick.clear()
    for rank in reversed(range(world)):
        go(file, tmp_path / "many", model, rank, world, batch=batch)
    assert sorted(quick) == sorted(one)
    assert sum(map(len, one)) == n == len(contents(tmp_path / "one"))
    assert contents(tmp_path / "one") == contents(tmp_path / "many")


def pixels(folder):
    return {path.name: Image.open(path).tobytes() for path in Path(folder).iterdir()}


def test_the_comparison_above_shows_slips(gpu, quick, model, file, tmp_path, monkeypatch):
    for rank in range(2):
        go(file, tmp_path / "right", model, rank, 2)
    right = pixels(tmp_path / "right")
    read, cut = prompts.read, many.batches

    def seeds_by_process(path, seed):
        wanted, warnings = read(path, seed)
        return [Wanted(w.name, w.prompt, w.seed + 1) for w in wanted], warnings

    with monkeypatch.context() as slip:
        slip.setattr(prompts, "read", seeds_by_process)
        go(file, tmp_path / "seeds", model, 1, 2)
    drawn = pixels(tmp_path / "seeds")
    assert len(drawn) == 2 and all(right[name] != picture for name, picture in drawn.items())
    with monkeypatch.context() as slip:  # prompts are dealt to processes, and then cut
        slip.setattr(many, "batches", lambda wanted, batch: cut(wanted[::2], batch) + cut(wanted[1::2], batch))
        go(file, tmp_path / "dealt", model)
    assert pixels(tmp_path / "dealt").keys() == right.keys() and pixels(tmp_path / "dealt") != right
    with monkeypatch.context() as slip:  # no batch that is not full
        slip.setattr(many, "batches", lambda wanted, batch: cut(wanted, batch)[: len(wanted) // batch])
        go(file, tmp_path / "tail", model)
    assert pixels(tmp_path / "tail").items() < right.items()


def test_real_pictures_by_one_process_two_and_the_library(gpu, model, tmp_path):
    file = tmp_path / "p.txt"
    file.write_text("\n".join(PROMPTS[:3]))
    done = go(file, tmp_path / "one", model, seed=3, size=64)
    for rank in (1, 0):
        go(file, tmp_path / "two", model, rank, 2, seed=3, size=64)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    pipe = drawing.load(str(model), "int8", print)
    pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator("cpu").manual_seed(3 + i) for i in range(3)]
    expected = [
        pipe(PROMPTS[part], num_inference_steps=1, height=64, width=64, generator=generators[part]).images
        for part in (slice(0, 2), slice(2, 3))
    ]
    drawn = [np.asarray(Image.open(tmp_path / "one" / w.name)) for w in prompts.read(file)[0]]
    for ours, theirs in zip(drawn, sum(expected, []), strict=True):
        assert np.array_equal(ours, np.asarray(theirs))
    assert len({picture.tobytes() for picture in drawn}) == 3
    assert (done["pictures"], done["wanted"], done["processes"]) == (3, 3, 1)
    assert 0 < done["shares"][0]["first_batch_seconds"] < done["seconds"] < 600
    assert done["pictures_per_second"] == pytest.approx(3 / done["seconds"], rel=0.01)


def test_in_8_bits_a_row_depends_on_the_others_of_its_batch(gpu):
    """Why batches are fixed: an outlier in another row takes its column out of the 8-bit product for this one, too."""
    import bitsandbytes as bnb

    torch.manual_seed(0)
    layer = bnb.nn.Linear8bitLt(64, 64, bias=False, has_fp16_weights=False, threshold=6.0).to("cuda")
    row, other = torch.randn(2, 1, 64).half().clamp(-5, 5)
    outlier = other.clone()
    outlier[0, 3] = 20
    with torch.no_grad():
        alone, beside, beside_outlier = (
            layer(torch.cat(rows).to("cuda"))[0].cpu() for rows in ([row], [row, other], [row, outlier])
        )
    assert torch.equal(alone, beside)
    assert not torch.equal(beside, beside_outlier)
    assert torch.allclose(beside, beside_outlier, atol=0.2)


def test_a_virtual_gpu_has_one_thread_whatever_the_launcher_says(gpu, quick, model, file, tmp_path):
    torch.set_num_threads(2)
    go(file, tmp_path / "out", model)
    assert torch.get_num_threads() == 1


def test_a_process_takes_the_real_gpu_of_its_number(monkeypatch):
    import sana_lab

    chosen = []
    monkeypatch.setattr(sana_lab, "use_accelerator", lambda **_: SimpleNamespace(virtual=False), raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
    found = [many._gpu(Launched(rank, 6, rank % 3), "16GiB", None) for rank in range(6)]
    assert chosen == [0, 1, 0, 0, 1, 0]
    assert found[4] == ("cuda:1", "GPU 1")


def test_a_checkpoint_of_the_hub_is_known_by_its_commit(model, monkeypatch):
    import diffusers

    monkeypatch.setattr(diffusers.DiffusionPipeline, "download", classmethod(lambda cls, name, **_: str(model)))
    found = many._settings("600M-512", "int8", None, 4, None, 8)
    assert (found["model"], found["weights"], found["steps"], found["size"]) == ("600M-512", "tiny", 20, 512)


def test_the_place_is_the_launchers(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert Launched.here() == Launched(0, 1, 0)
    for name, value in (("RANK", 9), ("WORLD_SIZE", 16), ("LOCAL_RANK", 1)):
        monkeypatch.setenv(name, str(value))
    assert Launched.here() == Launched(9, 16, 1)


# ---- going on ----------------------------------------------------------------------------------------------------


def test_only_what_is_missing_is_written_and_it_is_the_same(gpu, quick, model, file, tmp_path):
    out = tmp_path / "out"
    go(file, out, model)
    before = contents(out)
    times = {name: (out / name).stat().st_mtime_ns for name in before}
    name = next(name for name in before if name.startswith("0001"))
    (out / name).unlink()
    leftover = out / f".{name}.1234.partial"
    leftover.write_bytes(b"half")
    foreign = out / ".mine.png.1234.partial"
    foreign.write_bytes(b"kept")
    quick.clear()
    done = go(file, out, model, 0, 2)
    assert quick == [PROMPTS[:2]]  # its batch, whole
    assert not leftover.exists() and foreign.exists()
    foreign.unlink()
    assert contents(out) == before
    assert [n for n in before if (out / n).stat().st_mtime_ns != times[n]] == [name]
    assert done["pictures"] == 1 and done["shares"][0]["first_batch_pictures"] == 1


def test_nothing_is_loaded_when_all_is_there(gpu, quick, model, file, tmp_path, monkeypatch):
    go(file, tmp_path / "out", model)
    monkeypatch.setattr(drawing, "load", lambda *_: pytest.fail("loaded"))
    done = go(file, tmp_path / "out", model)
    assert done["pictures"] == 0 and done["pictures_per_second"] == 0 and done["steady_pictures_per_second"] is None
    assert many.summary(done) == "all 5 pictures were there"


def test_a_picture_that_was_cut_off_is_drawn_again(gpu, quick, model, file, tmp_path):
    go(file, tmp_path / "out", model)
    before = contents(tmp_path / "out")
    path = tmp_path / "out" / sorted(before)[2]
    path.write_bytes(before[path.name][:-20])
    go(file, tmp_path / "out", model)
    assert contents(tmp_path / "out") == before


def test_a_failure_leaves_whole_pictures_and_the_same_command_goes_on(gpu, quick, model, file, tmp_path, monkeypatch):
    go(file, tmp_path / "right", model)
    draw, calls = drawing.draw, []

    def fail(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return draw(*arguments, **options)

    monkeypatch.setattr(drawing, "draw", fail)
    with pytest.raises(KeyboardInterrupt):
        go(file, tmp_path / "out", model)
    right, half = contents(tmp_path / "right"), contents(tmp_path / "out")
    assert len(half) == 2 and half.items() < right.items()
    go(file, tmp_path / "out", model)
    assert contents(tmp_path / "out") == right


def test_a_full_disk_is_one_line_and_no_half_picture(gpu, quick, model, file, tmp_path, monkeypatch):
    def save(self, path, *args, **kwargs):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(OSError, match=r"0000-a-red-star.png: cannot be written \(No space left"):
        go(file, tmp_path / "out", model)
    assert contents(tmp_path / "out") == {}


def test_a_picture_says_how_it_was_drawn(gpu, quick, model, tmp_path):
    (tmp_path / "p.txt").write_text("ein größerer Stern\n")
    go(tmp_path / "p.txt", tmp_path / "out", model, seed=4)
    (path,) = (tmp_path / "out").iterdir()
    found = Image.open(path).info
    expected = {"prompt": "ein größerer Stern", "seed": "4", "model": "tiny", "precision": "int8", "steps": "1"}
    expected |= {"guidance": "4.5", "size": "512", "batch": "2", **evidence.installed_versions()}
    assert {key: found[key] for key in expected} == expected
    assert "Virtual GPU" in found["device"]


OTHER = {
    "steps": ({"steps": 2}, "with steps 1, not 2"),
    "the pipeline's own steps": ({"steps": None}, "with steps 1, not 20"),
    "precision": ({"precision": "bf16"}, "with precision int8, not bf16"),
    "guidance": ({"guidance": 1}, "with guidance 4.5, not 1.0"),
    "seed": ({"seed": 1}, "with seed 0, not 1"),
    "size": ({"size": 256}, "with size 512, not 256"),
    "batch": ({"batch": 1}, "with batch 2, not 1"),
}


@pytest.mark.parametrize("case", OTHER)
@pytest.mark.parametrize("rank", [0, 1])
def test_other_settings_are_refused_by_every_process(gpu, quick, model, file, tmp_path, monkeypatch, case, rank):
    go(file, tmp_path / "out", model)
    for path in sorted((tmp_path / "out").iterdir())[1:]:
        path.unlink()  # the one picture left is of process 0
    before = contents(tmp_path / "out")
    monkeypatch.setattr(drawing, "load", lambda *_: pytest.fail("loaded"))
    options, said = OTHER[case]
    with pytest.raises(ValueError) as error:
        go(file, tmp_path / "out", model, rank, 2, **options)
    assert said in str(error.value) and "another --out" in str(error.value) and "\n" not in str(error.value)
    assert contents(tmp_path / "out") == before


def test_a_process_opens_the_pictures_of_its_own_batches(gpu, quick, model, file, tmp_path, monkeypatch):
    """And one more at most; process 0 opens all. On a shared disk it is the opening that takes time."""
    go(file, tmp_path / "out", model, batch=1)
    opened = []
    monkeypatch.setattr(many, "_is_there", lambda path, notes: opened.append(path.name) or True)
    monkeypatch.setattr(many, "_gather", lambda share, launched: None)
    for rank, expected in ((0, 5), (1, 3), (2, 2)):
        opened.clear()
        go(file, tmp_path / "out", model, rank, 3, batch=1)
        assert len(set(opened)) == len(opened) == expected


def test_drawing_leaves_logs_and_warnings_as_they_were(gpu, quick, model, file, tmp_path):
    import logging
    import warnings

    before = logging.getLogger("bitsandbytes").level, list(warnings.filters)
    go(file, tmp_path / "out", model)
    assert (logging.getLogger("bitsandbytes").level, list(warnings.filters)) == before


def test_the_pipelines_own_settings_may_be_named(gpu, quick, model, file, tmp_path):
    go(file, tmp_path / "out", model, steps=None, size=None)
    quick.clear()
    go(file, tmp_path / "out", model, steps=20, size=512)
    assert quick == []


def test_other_prompts_weights_and_files_are_refused(gpu, quick, model, file, tmp_path):
    out = tmp_path / "out"
    go(file, out, model)
    file.write_text("\n".join([*PROMPTS, "one more"]))
    with pytest.raises(ValueError, match="in a batch with other prompts"):
        go(file, out, model)
    other = retrained(model, tmp_path / "tiny")
    file.write_text("\n".join(PROMPTS))
    with pytest.raises(ValueError, match="holds a picture with weights [0-9a-f]{16}, not"):
        go(file, out, other)
    path = sorted(out.iterdir())[0]
    Image.new("RGB", (9, 9)).save(path)
    with pytest.raises(ValueError, match="does not say how it was drawn"):
        go(file, out, model)
    path.write_text("mine")
    with pytest.raises(ValueError, match="does not say how it was drawn"):
        go(file, out, model)
    assert path.read_text() == "mine"


def retrained(model, folder):
    """The same shapes and sizes, other numbers in one component."""
    shutil.copytree(model, folder)
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    size = path.stat().st_size
    save_file({k: v + 0.125 for k, v in load_file(path).items()}, path, metadata={"format": "pt"})
    assert path.stat().st_size == size
    return folder


def test_more_prompts_go_on_with_batches_of_one(gpu, quick, model, file, tmp_path):
    go(file, tmp_path / "out", model, batch=1)
    file.write_text("\n".join([*PROMPTS, "one more"]))
    quick.clear()
    assert go(file, tmp_path / "out", model, batch=1)["pictures"] == 1
    assert quick == [["one more"]]


def test_another_machine_is_a_warning(gpu, quick, model, file, tmp_path, monkeypatch):
    go(file, tmp_path / "out", model)
    sorted((tmp_path / "out").iterdir())[0].unlink()
    said = []
    go(file, tmp_path / "out", model, said=said)
    assert said == []
    versions = evidence.installed_versions()
    monkeypatch.setattr(evidence, "installed_versions", lambda: {**versions, "torch": "9.0"})
    sorted((tmp_path / "out").iterdir())[0].unlink()
    go(file, tmp_path / "out", model, 1, 2, said=said)
    assert said == []  # process 0 says it
    go(file, tmp_path / "out", model, 0, 2, said=said)
    assert len(said) == 1 and "not 9.0" in said[0] and "last digits" in said[0]


def test_long_prompts_are_named(gpu, quick, model, tokenizer, tmp_path):
    words = "red " * 298
    assert len(tokenizer(words.strip(), add_special_tokens=False).input_ids) == 298
    said = []
    (tmp_path / "p.txt").write_text(f"{words}\n{words} star\n")
    go(tmp_path / "p.txt", tmp_path / "out", model, said=said)
    assert len(said) == 1 and "0001" in said[0] and "0000" not in said[0] and "298" in said[0]


# ---- the command -------------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs `sana-lab generate` in this process, in an empty folder: status, stdout, stderr's lines."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["sana-lab", "generate", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return stop.value.code or 0, out, [line for line in err.splitlines() if line.startswith("sana-lab:")]

    return command


def test_the_command_draws_and_ends_with_a_line(gpu, quick, model, file, run):
    arguments = ["--prompts", file, "--out", "deep/out", "--model", model, "--batch", 3, "--virtual"]
    status, out, said = run(*arguments)
    assert (status, said) == (0, [])
    assert out.startswith("deep/out: 5 pictures: ") and "1 process," in out and out.count("\n") == 1
    assert [len(batch) for batch in quick] == [3, 2]
    status, out, _ = run(*arguments, "--json")
    assert status == 0 and json.loads(out)["pictures"] == 0


BAD = {
    "both": (["x", "--prompts", "FILE", "--out", "o"], "not both"),
    "no folder": (["--prompts", "FILE"], "--out"),
    "a file as folder": (["--prompts", "FILE", "--out", "FILE"], "is a file"),
    "below a file": (["--prompts", "FILE", "--out", "FILE/x"], "FILE"),
    "no such file": (["--prompts", "none.txt", "--out", "o"], "none.txt"),
    "batch": (["--prompts", "FILE", "--out", "o", "--batch", "0"], "from 1 to 10,000"),
    "batch without file": (["x", "--batch", "2"], "--prompts"),
    "json without file": (["x", "--json"], "--prompts"),
    "gpus": (["--prompts", "FILE", "--out", "o", "--gpus", "2"], "accelerate launch"),
    "steps": (["--prompts", "FILE", "--out", "o", "--steps", "0"], "from 1 to 1,000"),
    "size": (["--prompts", "FILE", "--out", "o", "--size", "100"], "multiple of 32"),
    "seed": (["--prompts", "FILE", "--out", "o", "--seed", "-1"], "from 0"),
    "precision": (["--prompts", "FILE", "--out", "o", "--precision", "int9"], "fp32, bf16"),
    "model": (["--prompts", "FILE", "--out", "o", "--model", "900M"], "600M-512"),
    "a folder that is no model": (["--prompts", "FILE", "--out", "o", "--model", "."], "model_index.json"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_no_folder(gpu, file, run, monkeypatch, case):
    monkeypatch.setattr(drawing, "load", lambda *_: pytest.fail("loaded"))
    arguments, way_out = BAD[case]
    status, out, said = run(*[a.replace("FILE", str(file)) for a in arguments], "--virtual")
    assert status == 2 and out == "" and len(said) == 1
    assert way_out.replace("FILE", str(file)) in said[0], said
    assert not any(Path().iterdir())


def test_several_processes_do_not_all_draw_the_same_few(run, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    status, _, said = run("a red star")
    assert status == 2 and "--prompts FILE" in said[0]


def test_accelerate_that_starts_one_process_of_two_is_noticed(gpu, quick, model, file, tmp_path, monkeypatch):
    said = []
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    go(file, tmp_path / "a", model, said=said)
    assert said == []
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    go(file, tmp_path / "b", model, said=said)
    assert len(said) == 1 and "--multi_gpu" in said[0]
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    go(file, tmp_path / "c", model, said=said)
    assert len(said) == 1


def test_a_silent_process_is_told_of(gpu, quick, model, file, tmp_path, monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    done = go(file, tmp_path / "out", model, 0, 2)
    assert many.summary(done) == "3 pictures by 1 of 2 processes; no word of the others"
    assert go(file, tmp_path / "out", model, 1, 2) is None


def test_two_processes_under_accelerate_launch(gpu, model, tmp_path, monkeypatch):
    """Also that a folder of theirs is what one process goes on with, and draws."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"OMP_NUM_THREADS": "1", "SANA_LAB_VIRTUAL": "1", "HF_HUB_OFFLINE": "1"}.items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "p.txt"
    file.write_text("\n".join(PROMPTS[:3]))
    options = ["--prompts", file, "--model", model, "--steps", 1, "--size", 256, "--batch", 1]
    done = scaling.launch([*map(str, options), "--out", str(tmp_path / "two")], 2)
    go(file, tmp_path / "one", model, batch=1, size=256)
    assert [done["pictures"], done["processes"], len(done["shares"])] == [3, 2, 2]
    assert sorted(share["pictures"] for share in done["shares"]) == [1, 2]
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert go(file, tmp_path / "two", model, batch=1, size=256)["pictures"] == 0


# ---- the record of scaling ---------------------------------------------------------------------------------------


def one_after_the_other(model, slip=None):
    """A launcher that runs the processes in this one, and what happens to the pictures afterwards."""

    def launch(arguments, processes):
        given = dict(zip(arguments[::2], arguments[1::2], strict=True))
        file, out = Path(given["--prompts"]), Path(given["--out"])
        numbers = {name: int(given[f"--{name}"]) for name in ("steps", "batch")}
        before = len(list(out.glob("*.png")))
        done = [go(file, out, model, rank, processes, **numbers) for rank in range(processes)][0]
        if slip:
            slip(out)
        return {**done, "shares": done["shares"] * processes, "pictures": len(contents(out)) - before}

    return launch


def test_the_record_of_scaling(gpu, quick, model, tmp_path):
    got = scaling.measure(tmp_path, n=30, batch=4, steps=1, launch=one_after_the_other(model))
    assert len((tmp_path / "prompts.txt").read_text().splitlines()) == got["n"] == got["identical"] == 30
    assert got["resumed"] == {"deleted": 5, "drawn": 5, "identical": 30}
    assert (got["one"]["processes"], got["several"]["processes"]) == (1, 2)
    rates = [got[who]["pictures_per_second"] for who in ("one", "several")]
    assert got["speedup"] == pytest.approx(rates[1] / rates[0], abs=0.01)
    saved = evidence.save(scaling.RECORD, what="x", command="y", results=got, folder=tmp_path)
    assert evidence.load(scaling.RECORD, folder=tmp_path)["results"] == got and saved.exists()
    with pytest.raises(ValueError, match="empty folder"):
        scaling.measure(tmp_path, n=30, launch=one_after_the_other(model))


def test_scaling_finds_pictures_that_differ_and_such_as_are_missing(gpu, quick, model, tmp_path):
    def spoil(out):
        if out.name == "several":
            path = sorted(out.glob("*.png"))[1]
            path.write_bytes(path.read_bytes() + b"x")

    def lose(out):
        sorted(out.glob("*.png"))[0].unlink()

    got = scaling.measure(tmp_path / "a", n=6, batch=2, steps=1, launch=one_after_the_other(model, spoil))
    assert got["identical"] == 5
    with pytest.raises(RuntimeError, match="5 pictures by 1 process, not 6"):
        scaling.measure(tmp_path / "b", n=6, batch=2, steps=1, launch=one_after_the_other(model, lose))


@pytest.mark.skipif(sys.platform == "win32", reason="kills by signals")
@pytest.mark.parametrize("processes", [1, 2])
def test_what_scaling_starts_ends_with_it(model, tmp_path, processes):
    """The launcher and those it launches: one as soon as it is there, two once they are about to draw."""
    file = tmp_path / "p.txt"
    file.write_text("\n".join(PROMPTS * 100))  # work for longer than is waited for at the end
    options = ["--prompts", str(file), "--model", str(model), "--steps", "1000", "--out", str(tmp_path / "out")]
    program = f"from sana_lab.generate import scaling; scaling.launch({options!r}, {processes})"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SANA_LAB_VIRTUAL": "1"}
    parent = psutil.Popen([sys.executable, "-c", program], env=environment, stderr=subprocess.DEVNULL)

    def launched():
        there = {}
        for child in parent.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # one that asks for GPUs is soon gone
                there[child.pid] = child.cmdline()
        workers = [line for line in there.values() if "generate" in line and "accelerate.commands.launch" not in line]
        drawing = processes == 1 or (tmp_path / "out").exists()
        return there if drawing and len(workers) == processes else None

    below = list(until(launched, 300))
    parent.kill()
    parent.wait()
    until(lambda: not any(map(runs, below)), 60)


def test_scaling_needs_real_gpus(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert scaling.main(["--out", str(tmp_path / "out")]) == 2
    assert "2 processes want a real GPU each" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
