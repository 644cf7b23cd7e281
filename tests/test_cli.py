"""The command line: what it draws, what it says, and that bad input is one line and no file."""

import inspect
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_sana import build_folder
from typer.testing import CliRunner

from sana_lab import bench, checkpoints, cli, sana, use_accelerator
from sana_lab.generate import few
from sana_lab.shapes import manifest


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return build_folder(tmp_path_factory.mktemp("sana") / "pipeline")


@pytest.fixture
def stand_in(folder, tmp_path, monkeypatch):
    """The small pipeline in the place of the trained model."""
    model = shutil.copytree(folder, tmp_path / "model")
    manifest.write_manifest(model)
    monkeypatch.setattr(checkpoints, "SHAPES_FOLDER", model)
    return model


@pytest.fixture
def shapes(stand_in):
    """The same, and a virtual GPU whatever the machine."""
    with use_accelerator(virtual=True):
        yield stand_in


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs `sana-lab` in this process, in an empty folder: status, stdout, and stderr's lines but for progress bars."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["sana-lab", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        said = [line for line in err.replace("\r", "\n").splitlines() if line.strip() and "drawing" not in line]
        return stop.value.code or 0, out, said

    return command


def files():
    return sorted(p.as_posix() for p in Path(".").rglob("*") if p.is_file())


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


def test_several_prompts_in_one_batch(shapes, run, monkeypatch):
    from diffusers import SanaPipeline

    batches = []
    call = SanaPipeline.__call__
    monkeypatch.setattr(SanaPipeline, "__call__", lambda self, p, **k: batches.append((p, k)) or call(self, p, **k))
    status, out, said = run(
        "generate", "A small red star!", "a blue ring", "--steps", 2, "--seed", 7, "--guidance", 3, "--out", "a/b"
    )
    expected = ["a/b/7-a-small-red-star.png", "a/b/8-a-blue-ring.png"]
    assert (status, out.splitlines(), said) == (0, expected, [])
    assert files() == expected
    (prompts, options), = batches  # fmt: skip
    assert prompts == ["A small red star!", "a blue ring"]
    assert options["num_inference_steps"] == 2 and options["guidance_scale"] == 3
    assert [g.initial_seed() for g in options["generator"]] == [7, 8]
    assert all(Image.open(name).size == (512, 512) for name in expected)


def test_defaults_are_those_of_the_pipeline(shapes, run, monkeypatch):
    from diffusers import SanaPipeline

    seen = {}

    class Stop(RuntimeError):
        pass

    def call(self, prompts, **options):
        seen.update(options, kinds={type(m).__name__ for m in self.transformer.modules()})
        raise Stop("seen")

    monkeypatch.setattr(SanaPipeline, "__call__", call)
    assert run("generate", "a red star") == (2, "", ["sana-lab: seen"])
    assert "num_inference_steps" not in seen and seen["guidance_scale"] == 4.5
    assert (seen["height"], seen["width"]) == (512, 512)  # the model's own, not the 1024 of the pipeline's signature
    assert "Linear8bitLt" in seen["kinds"]
    assert files() == []


def test_the_same_seed_is_the_same_picture_in_any_batch(shapes, run):
    common = ["--steps", 2, "--precision", "bf16", "--size", 128]
    run("generate", "a red star", "a blue ring", "--seed", 4, "--out", "batch", *common)
    run("generate", "a blue ring", "--seed", 5, "--out", "alone.png", *common)
    run("generate", "a blue ring", "--seed", 6, "--out", "other.png", *common)
    in_batch, alone, other = (pixels(p) for p in ("batch/5-a-blue-ring.png", "alone.png", "other.png"))
    assert np.abs(in_batch - alone).mean() < 1
    assert np.abs(in_batch - other).mean() > 10  # another seed is another picture: the line above can fail


def test_the_picture_is_the_one_of_the_library(shapes, run):
    run("generate", "a red star", "--steps", 2, "--seed", 3, "--size", 256, "--out", "star.png")
    pipe = sana.load_sana("shapes", "int8")
    generator = torch.Generator("cpu").manual_seed(3)
    expected = pipe("a red star", num_inference_steps=2, height=256, width=256, generator=generator).images[0]
    assert expected.size == (256, 256)
    assert np.array_equal(pixels("star.png"), np.asarray(expected))


KINDS = [("p.png", "PNG"), ("p.jpg", "JPEG"), ("P.JPEG", "JPEG"), ("p.webp", "WEBP")]


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_kinds_of_file(shapes, run, name, kind):
    assert run("generate", "a red star", "--steps", 1, "--size", 64, "--out", name) == (0, f"{name}\n", [])
    assert Image.open(name).format == kind


def test_unknown_words_are_named_and_drawn(shapes, run):
    status, out, said = run("generate", "a Red teapot", "a teapot and a star on Bremen", "--steps", 1, "--size", 64)
    assert status == 0 and len(files()) == 2 and len(out.splitlines()) == 2
    (line,) = said
    assert line.startswith("sana-lab: warning: ") and line.endswith(": teapot, bremen"), line


def test_known_words_say_nothing(shapes, run):
    assert run("generate", "a small red star above a large blue ring", "--steps", 1, "--size", 64)[2] == []


def test_a_type_that_does_not_fit_is_one_warning_line(shapes, run, monkeypatch):
    import diffusers

    monkeypatch.setattr(diffusers.DiffusionPipeline, "download", classmethod(lambda cls, name, **_: str(shapes)))
    status, out, said = run("generate", "a teapot", "--model", "600M-512", "--precision", "bf16", "--steps", 1)
    assert status == 0 and len(said) == 1
    assert said[0].startswith("sana-lab: warning: 600M-512 was trained in fp16")


BAD = {
    "precision": (["x", "--precision", "int9"], "fp32, bf16, fp16, int8, fp8, nf4"),
    "model": (["x", "--model", "900M"], "600M-512"),
    "no steps": (["x", "--steps", "0"], "from 1 to 1,000"),
    "negative steps": (["x", "--steps", "-3"], "from 1 to 1,000"),
    "steps in words": (["x", "--steps", "two"], "--steps"),
    "empty prompt": ([""], "empty"),
    "blank prompt": (["a red star", " \n"], "empty"),
    "no prompt": ([], "PROMPT"),
    "guidance": (["x", "--guidance", "-1"], "from 0"),
    "no number": (["x", "--guidance", "nan"], "from 0"),
    "infinity": (["x", "--guidance", "inf"], "from 0"),
    "seed": (["x", "--seed", "-1"], "from 0"),
    "large seed": (["x", "--seed", str(2**63)], "from 0"),
    "size": (["x", "--size", "100"], "multiple of 32"),
    "zero size": (["x", "--size", "0"], "multiple of 32"),
    "suffix": (["x", "--out", "x.txt"], ".png"),
    "one file for two": (["x", "y", "--out", "x.png"], "folder"),
    "vram": (["x", "--vram", "lots"], "'16GiB'"),
    "no vram": (["x", "--vram", "0"], "'16GiB'"),
    "vram beyond all": (["x", "--vram", "99999999999999999999999"], "'16GiB'"),
    "no gpus": (["x", "--gpus", "0"], "from 1 to 64"),
    "option": (["x", "--stepz", "3"], "--stepz"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_no_file(shapes, run, case):
    arguments, way_out = BAD[case]
    status, out, said = run("generate", *arguments)
    assert status == 2 and out == ""
    assert len(said) == 1 and said[0].startswith("sana-lab: ") and way_out in said[0], said
    assert files() == []


@pytest.mark.parametrize("kind", ["below a file", "a file that is no folder", "read only", "name too long"])
def test_unwritable_place_is_found_before_the_model_is_loaded(shapes, run, monkeypatch, kind):
    Path("file").write_text("mine")
    out = {
        "below a file": "file/x/p.png",
        "a file that is no folder": "file/p.png",
        "read only": "/proc/sana/p.png",
        "name too long": "x" * 300 + "/p.png",
    }[kind]
    if kind == "read only" and not os.path.isdir("/proc"):
        pytest.skip("this system has no /proc")
    monkeypatch.setattr(sana, "load_sana", lambda *_: pytest.fail("loaded"))
    status, stdout, said = run("generate", "a red star", "--out", out)
    assert status == 2 and stdout == "" and len(said) == 1, said
    assert files() == ["file"] and Path("file").read_text() == "mine"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU is asked for one")
def test_more_gpus_than_there_are(run):
    status, out, said = run("generate", "a red star", "--real", "--gpus", 2)
    assert status == 2 and len(said) == 1
    assert "0 GPUs" in said[0] and "virtual" in said[0]


def test_damaged_weights(shapes, run):
    weights = shapes / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    status, out, said = run("generate", "a red star", "--out", "new/star.png")
    assert status == 2 and len(said) == 1
    assert "git checkout" in said[0] and str(weights) in said[0]
    assert files() == [] and not Path("new").exists()


def test_memory_that_does_not_suffice_is_one_line(run, shapes):
    status, out, said = run("generate", "a red star", "--virtual", "--vram", "200KB", "--precision", "bf16")
    assert status == 2 and len(said) == 1
    assert said[0].startswith("sana-lab: CUDA out of memory")


def test_a_picture_that_cannot_be_saved_leaves_nothing(shapes, run, monkeypatch):
    Path("1-b.png").write_text("mine")
    saved = []

    def save(self, path, *args, **kwargs):
        saved.append(path)
        Path(path).write_bytes(b"half")
        if len(saved) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", save)
    status, out, said = run("generate", "a", "b", "--steps", 1, "--size", 64)
    assert status == 2 and out == "" and "No space left" in said[-1]
    assert files() == ["1-b.png"] and Path("1-b.png").read_text() == "mine"


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("SANA_LAB_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["sana-lab", "generate", ""])
    with pytest.raises(ValueError, match="empty"):
        cli.main()


def test_a_mistake_of_ours_is_not_hidden(monkeypatch):
    monkeypatch.setattr(few, "files", lambda *_: {}["nowhere"])
    monkeypatch.setattr(sys, "argv", ["sana-lab", "generate", "a"])
    with pytest.raises(KeyError):
        cli.main()


def test_help_names_every_option():
    runner = CliRunner()
    whole = runner.invoke(cli.app, ["--help"]).output
    assert "generate" in whole and "train" in whole
    text = runner.invoke(cli.app, ["generate", "--help"]).output
    for option in ("--model", "--precision", "--steps", "--guidance", "--seed", "--size", "--out", "--gpus", "--vram"):
        assert option in text
    assert "--virtual / --real" in text and "PROMPT" in text
    assert max(map(len, text.splitlines())) <= 100


def test_train_hands_everything_over(monkeypatch, run):
    from sana_lab.shapes import train

    seen = []
    monkeypatch.setattr(train, "train", lambda plan, out, **options: seen.append((plan, out, options)))
    assert run("train", "--out", "runs/x", "--transformer-steps", 5, "--ema", 0.5, "--minutes", 3)[0] == 0
    expected = train.Plan(transformer_steps=5, ema=0.5), Path("runs/x"), {"device": None, "minutes": 3}
    assert seen == [expected]


# ---- make bench


def test_bench_measures_every_row_that_has_a_goal(stand_in):
    rows = bench.measure("shapes", 1, steps=(2, 1))
    full = {name.replace("2 steps", "20 steps").replace("1 steps", "10 steps") for name in rows}
    assert bench.GOALS.keys() < full and inspect.signature(bench.measure).parameters["steps"].default == (20, 10)
    assert all(len(runs) == 1 and 0 < runs[0] < 600 for runs in rows.values())


def test_bench_draws_the_same_picture_with_and_without_the_virtual_gpu(stand_in, monkeypatch):
    from diffusers import SanaPipeline

    devices, real, call = [], bench._drawing, SanaPipeline.__call__
    small = {"height": 64, "width": 64, "use_resolution_binning": False}
    monkeypatch.setattr(SanaPipeline, "__call__", lambda self, *given, **more: call(self, *given, **more, **small))

    def drawing(*arguments):
        draw = real(*arguments)

        def noted(steps):
            (pipe,) = [cell.cell_contents for cell in draw.__closure__]
            devices.append((pipe.device.type, steps, torch.cuda.is_available()))
            return draw(steps)

        return noted

    monkeypatch.setattr(bench, "_drawing", drawing)
    rows = bench.beside_plain("shapes", 2, steps=1)
    assert devices == [("cuda", 1, True), ("cpu", 1, False), ("cpu", 1, False), ("cuda", 1, True)]
    assert list(rows) == ["bf16, 1 steps, virtual GPU", "bf16, 1 steps, plain CPU"]
    assert all(len(runs) == 2 and min(runs) > 0 for runs in rows.values())


def test_bench_says_how_many_times_the_virtual_gpu_costs():
    rows = {"virtual": [1.0, 1.5, 9.0], "plain": [1.0, 1.25, 1.0]}
    assert bench.ratio(rows).split()[-3:] == ["1.50", "1.2,", "missed"]
    assert bench.ratio({**rows, "plain": [1.3]}).split()[-3:] == ["1.15", "1.2,", "met"]
    assert bench.ratio(rows).index("1.2,") == bench.table(rows).index("goal")


def test_bench_says_what_8_bits_cost_in_times_of_16():
    rows = {"load, int8": [1.0], "int8, 2 steps": [1.0, 3.0, 1.1], "int8, 1 steps": [0.5], "bf16, 2 steps": [1.0]}
    lines = bench.ratios({**rows, "bf16, 1 steps": [0.5]}, steps=(2, 1)).split("\n")
    assert lines[0].split() == ["int8", ":", "bf16,", "2", "steps", "1.10", "1,", "missed"]
    assert lines[1].split()[-3:] == ["1.00", "1,", "met"]
    assert lines[0].index("1, missed") == bench.table(rows).index("goal")


def test_bench_works_without_avx_512_and_says_so(monkeypatch):
    for name in bench.WITHOUT_AVX512:
        monkeypatch.setenv(name, "before")  # and is put back
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None, raising=False)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    bench.use_two_cores()
    assert {name: os.environ[name] for name in bench.WITHOUT_AVX512} == bench.WITHOUT_AVX512
    for kind, words in {"AVX2": "AVX2, without AVX-512)", "AVX512": "AVX512, with AVX-512)"}.items():
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda kind=kind: kind)
        assert words in bench.machine()


def test_bench_table_tells_the_median_and_whether_the_goal_is_met():
    rows = {"load, int8": [2.0, 2.5, 9.0], "int8, 20 steps": [5.5, 1, 6], "bf16, 20 steps": [7.0]}
    lines = bench.table(rows).split("\n")
    assert lines[1].split() == ["load,", "int8", "2.50", "2.00", "9.00", "3", "3", "s,", "met"]
    assert lines[2].split()[-3:] == ["5", "s,", "missed"]
    assert lines[3].split() == ["bf16,", "20", "steps", "7.00", "7.00", "7.00", "1"]
    assert lines[0].index("goal") == lines[1].index("3 s,") == lines[2].index("5 s,")  # aligned


def test_bench_times_what_it_is_given():
    ran = []
    runs = bench.seconds(lambda: ran.append(time.sleep(0.02)), 3)
    assert len(ran) == len(runs) == 3 and all(0.02 <= run < 1 for run in runs)


# ---- as a reader runs it


def sana_lab(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "sana_lab.cli", *arguments],
        capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "0", "COLUMNS": "100", **environment},
    )  # fmt: skip


def test_a_picture_from_a_shell(folder, tmp_path):
    out = tmp_path / "star.png"
    run = sana_lab("generate", "a red star", "--model", str(folder), "--virtual", "--steps", "2", "--out", str(out))
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"{out}\n"
    assert Image.open(out).size == (512, 512)
    lines = [line for line in run.stderr.replace("\r", "\n").splitlines() if line.strip()]
    assert lines and all(line.startswith("drawing:") and "/2" in line for line in lines), lines  # one bar, nothing else


def test_help_is_quick_and_imports_no_torch():
    program = "import runpy, sys; sys.argv = ['sana-lab', '--help']\n"
    program += "try: runpy.run_module('sana_lab.cli', run_name='__main__')\nexcept SystemExit: pass\n"
    program += "print('torch' in sys.modules, 'diffusers' in sys.modules)"
    start = os.times()
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    used = os.times()
    assert "generate" in run.stdout and run.stdout.splitlines()[-1] == "False False"
    assert used.children_user + used.children_system - start.children_user - start.children_system < 1


def test_help_of_train_and_a_word_that_it_does_not_know(run):
    status, out, said = run("train", "--help")
    assert status == 0 and "Usage: sana-lab train" in out and "--transformer-steps" in out and said == []
    status, _, said = run("train", "--no-such-option", "1")
    assert status == 2 and len(said) == 1 and "--no-such-option" in said[0]
