"""Every failure of the catalogue that can happen here does, and every fix takes it away."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys

import pytest
import typer
from processes import start_by_fork

from sana_lab import commandline, evidence
from sana_lab.failures import catalogue, entry, find, get, installed_versions, run, run_many
from sana_lab.failures.cli import mount
from sana_lab.failures.comparison import VIRTUAL, comparable, words_of
from sana_lab.failures.record import _result
from sana_lab.failures.worker import devices_of
from sana_lab.shapes import model

LIVE = [failure for failure in catalogue() if failure.evidence == "live"]
CASES = [(f.id, n) for f in LIVE for n in [None, *(n for n, fix in enumerate(f.fixes, 1) if fix.function)]]
DEEP = {
    "8bit-saves-less-than-half",  # the share that its layers save
    "component-missing-from-map",  # maps and limits of memory that are for so many bytes
    "cuda-out-of-memory",
    "device-map-contradicts-reality",
    "out-of-memory-while-moved",
    "file-not-in-folder",  # their words name the folder, and the record has the default one
    "text-encoder-without-subfolder",
}
"""What is not the same on a pipeline of fewer layers."""


@pytest.fixture(scope="module")
def shallow(tmp_path_factory):
    """The Shapes pipeline with one layer where it has several: as wide, and loaded in half the time."""
    from diffusers import AutoencoderDC, SanaTransformer2DModel
    from transformers import Gemma2Model

    autoencoder, transformer = model.build_autoencoder().config, model.build_transformer().config
    encoder = model.build_text_encoder(len(model.build_tokenizer())).config
    encoder.num_hidden_layers, encoder.layer_types = 2, encoder.layer_types[:2]
    return model.assemble(
        tmp_path_factory.mktemp("shallow") / "pipeline",
        AutoencoderDC.from_config({**autoencoder, "decoder_layers_per_block": (1,) * 6}),
        SanaTransformer2DModel.from_config({**transformer, "num_layers": 1}),
        Gemma2Model(encoder),
    )


@pytest.fixture(scope="module")
def outcomes(shallow):
    """All of them, each in a fork of a process that has imported the libraries: this one for the few of `DEEP`."""
    jobs = min(2, os.cpu_count() or 1)
    ran = run_many([case for case in CASES if case[0] not in DEEP], jobs=jobs, virtual=True, folder=shallow)
    with pytest.MonkeyPatch.context() as patch:
        start_by_fork(patch)
        ran += run_many([case for case in CASES if case[0] in DEEP], jobs=jobs, virtual=True)
    return {(outcome.id, outcome.fix): outcome for outcome in ran}


@pytest.mark.parametrize("id", [failure.id for failure in LIVE])
def test_it_happens(id, outcomes):
    outcome = outcomes[id, None]
    assert get(id).shown_in(outcome), str(outcome)
    if outcome.error:
        assert outcome.line
        assert outcome.where
        assert outcome.traceback.rstrip().endswith(outcome.message.rstrip().splitlines()[-1].rstrip())


@pytest.mark.parametrize(("id", "fix"), [case for case in CASES if case[1]])
def test_the_fix_takes_it_away(id, fix, outcomes):
    outcome = outcomes[id, fix]
    assert get(id).cured_in(outcome), str(outcome)


@pytest.mark.parametrize("id", [failure.id for failure in LIVE if failure.shows == "error"])
def test_its_own_traceback_leads_to_it(id, outcomes):
    """From the whole traceback `find` ranks it first, or behind an entry that it says it cannot be told from."""
    ids = [match.failure.id for match in find(outcomes[id, None].traceback, installed_versions())]
    assert id in ids
    assert set(ids[: ids.index(id)]) <= set(get(id).alike)


@pytest.mark.parametrize(
    "id", ["autoencoder-left-on-cpu", "transformer-left-on-cpu", "text-encoder-left-on-cpu", "token-ids-left-on-cpu"]
)
def test_frames_settle_what_words_leave_open(id, outcomes):
    assert find(outcomes[id, None].traceback, installed_versions())[0].failure.id == id


def test_devices_before_and_after(outcomes):
    broken = outcomes["autoencoder-left-on-cpu", None]
    assert broken.before == {"pipe.text_encoder": "cuda:0", "pipe.transformer": "cuda:0", "pipe.vae": "cpu"}
    assert broken.after == broken.before
    assert broken.line == 'pipe("a red star", **SMALL)'
    assert broken.where.startswith("diffusers/models/autoencoders/autoencoder_dc.py:")
    assert set(outcomes["autoencoder-left-on-cpu", 1].after.values()) == {"cuda:0"}
    reset = outcomes["reset-device-map-leaves-cpu", None]
    assert reset.after == {"pipe.text_encoder": "cpu, cuda:0", "pipe.transformer": "cpu, cuda:0", "pipe.vae": "cpu"}
    moved = outcomes["move-with-hooks-warning", None]
    assert (moved.before, moved.after) == ({"model": "cuda:0, cuda:1"}, {"model": "cuda:0"})


def test_each_ran_on_what_it_needs(outcomes):
    for failure in LIVE:
        device = outcomes[failure.id, None].device
        assert device.startswith(f"Virtual GPU: {failure.gpus} ×") if failure.gpus else device == ""


@pytest.mark.parametrize("id", [failure.id for failure in LIVE])
def test_it_is_what_the_stored_record_says(id, outcomes):
    """The book's table of virtual against real shows the record, so the record must be what happens today."""
    stored = evidence.load(VIRTUAL)["results"][id]
    now = _result(get(id), list(outcomes.values()))
    for key in ("shown", "error"):
        assert now["reproduction"][key] == stored["reproduction"][key]
    assert comparable(words_of(now)) == comparable(words_of(stored))
    assert {n: fix["cured"] for n, fix in now["fixes"].items()} == {n: f["cured"] for n, f in stored["fixes"].items()}


def test_garbage_from_stdin():
    for garbage in (bytes(range(256)) * 5000, b"x" * 10_000_000, b""):
        status, out, err = command("explain", "-", stdin=garbage)
        assert status == 1
        assert "Traceback" not in err
        assert "No entry" in out or "Nothing was given" in out


def test_devices_count_each_model_once():
    import torch

    layer = torch.nn.Linear(2, 2)
    pipe = type("Pipe", (), {"components": {"vae": layer, "tokenizer": object()}})()
    assert devices_of({"pipe": pipe, "vae": layer, "x": 3}) == {"pipe.vae": "cpu"}
    assert devices_of({"vae": layer, "pipe": pipe}) == {"pipe.vae": "cpu"}


def test_devices_count_what_stayed_behind_beside_the_weights():
    """Codes in memory of the CPU, scales on a GPU: what `to` leaves of an 8-bit layer."""
    import torch
    from bitsandbytes.nn import Int8Params, Linear8bitLt

    codes = torch.ones(2, 2, dtype=torch.int8)
    layer = Linear8bitLt(2, 2, bias=False, has_fp16_weights=False)
    layer.weight = Int8Params(codes, requires_grad=False, has_fp16_weights=False, CB=codes, SCB=torch.ones(2))
    assert devices_of({"model": layer}) == {"model": "cpu"}
    layer.weight.SCB = torch.ones(2, device="meta")
    assert devices_of({"model": layer}) == {"model": "cpu, meta"}


def test_a_fresh_interpreter_does_the_same(outcomes):
    fresh = run("gpu-tensor-to-numpy", virtual=True)
    forked = outcomes["gpu-tensor-to-numpy", None]
    assert (fresh.error, fresh.message, fresh.line, fresh.device) == (
        forked.error, forked.message, forked.line, forked.device
    )  # fmt: skip


@pytest.mark.parametrize("fork", [True, False])
def test_time_limit_and_death(fork, monkeypatch, tmp_path):
    """A reproduction that hangs is ended, one that kills its process is reported, and the others still run."""
    if fork and not hasattr(os, "fork"):
        pytest.skip("this system cannot fork")
    changed = (
        "import sana_lab.failures.entry as entry\n"
        "original = entry.code_of\n"
        "def code_of(function):\n"
        "    text = original(function)\n"
        "    if 'numpy()' in text: return 'import time; time.sleep(60)'\n"
        "    if 'linspace' in text: return 'import os; os._exit(7)'\n"
        "    return text\n"
        "entry.code_of = code_of\n"
    )
    if fork:  # from a worker that has imported the libraries, as this process has
        start_by_fork(monkeypatch)
        monkeypatch.setattr(entry, "code_of", entry.code_of)
        exec(changed, {})
    else:
        (tmp_path / "sitecustomize.py").write_text(changed)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    cases = [("gpu-tensor-to-numpy", None), ("index-on-gpu", None), ("linear-two-dtypes", None)]
    hung, died, well = run_many(cases[: 3 if fork else 2] + cases[2:], virtual=True, time_limit=2, fork=fork)[:3]
    assert (hung.error, hung.message) == ("TimeLimit", "not done after 2 seconds")
    assert (died.error, died.message) == ("ProcessDied", "exit status 7")
    assert well.error == "RuntimeError"


# ---- the command line -------------------------------------------------------------------------------------------

APP = typer.Typer()
mount(APP)


def command(*arguments, stdin=None):
    """Status, stdout and stderr of a command, which a terminal or, with `stdin`, a pipe of bytes or text is before."""
    given, out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(3))
    given.isatty = lambda: stdin is None
    given.buffer.write(stdin.encode() if isinstance(stdin, str) else stdin or b"")
    given.buffer.seek(0)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "stdin", given)
        status = commandline.run_command(APP, "sana-lab", arguments)
    return status, *(stream.buffer.getvalue().decode() for stream in (out, err))


def test_list_and_show():
    status, out, _ = command("failures", "list")
    assert status == 0
    assert all(failure.id in out for failure in catalogue())
    status, out, _ = command("failures", "list", "--live", "--family", "installation")
    assert "quantization-needs-gpu" in out
    assert "bitsandbytes-native-missing" not in out
    status, out, _ = command("failures", "show", "pipeline-to-with-device-map")
    assert status == 0
    assert "Reproduction (needs one GPU, real or virtual)" in out


def test_run_and_fix(monkeypatch):
    start_by_fork(monkeypatch)
    status, out, _ = command("failures", "run", "gpu-tensor-to-numpy", "--virtual", "--json")
    assert status == 0
    assert json.loads(out)["error"] == "TypeError"
    status, out, _ = command("failures", "run", "gpu-tensor-to-numpy", "--virtual", "--fix")
    assert status == 0
    assert "ran to its end" in out


def test_explain_from_argument_and_stdin():
    message = get("gpu-tensor-to-numpy").messages["torch 2.13.0"]
    status, out, _ = command("explain", message)
    assert status == 0
    assert out.startswith("gpu-tensor-to-numpy")
    assert command("explain", stdin=f"Traceback:\n{message}\n")[1] == out
    assert command("explain", "-", stdin=message)[1] == out
    status, out, _ = command("explain", "nothing known")
    assert status == 1
    assert "No entry of the catalogue matches" in out
