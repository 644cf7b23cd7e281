"""The Shapes model's parts and its training, on a CPU and for a few steps."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import torch
from diffusers import SanaPipeline

from sana_lab.shapes.model import build_text_encoder, build_transformer
from sana_lab.shapes.scenes import all_scenes, known_words, paraphrase
from sana_lab.shapes.tokenizer import build_tokenizer, instruction
from sana_lab.shapes.train import Denoiser, Fleet, Plan, learning_rate, products_for_convolutions, sentences, train
from sana_lab.shapes.untrained import untrained_shapes

TINY = Plan(
    autoencoder_steps=1,
    autoencoder_batch=1,
    bank=2,
    sentences=2,
    transformer_steps=3,
    transformer_batch=2,
    save_every=2,
)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of a few steps."""
    out = tmp_path_factory.mktemp("run")
    train(TINY, out, device="cpu")
    return out


@pytest.fixture(scope="module")
def pipe():
    pipe = SanaPipeline.from_pretrained(untrained_shapes(), torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


# --- tokenizer ---------------------------------------------------------------------------------------------------


def test_every_word_of_the_grammar_is_one_token_wherever_it_stands(tokenizer):
    for word in known_words():
        assert len(tokenizer.encode(word)) == 2, word  # <bos> and the word
        assert len(tokenizer.encode(f" {word}")) == 2, word


def test_prompts_begin_with_bos_and_are_padded_on_the_right(tokenizer):
    batch = tokenizer(["a red star", "red"], padding=True)
    assert [row[0] for row in batch.input_ids] == [tokenizer.bos_token_id] * 2
    assert batch.attention_mask == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch.input_ids[1][2:] == [tokenizer.pad_token_id] * 2


def test_unknown_words_become_letters_not_a_hole(tokenizer):
    ids = tokenizer.encode("a zebra")
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a zebra"


# --- the pipeline it makes ----------------------------------------------------------------------------------------


def test_geometry_is_that_of_the_512_pixel_checkpoint(pipe):
    assert pipe.transformer.config.sample_size == 16
    assert pipe.transformer.config.in_channels == pipe.vae.config.latent_channels == 32
    assert pipe.vae_scale_factor == 32
    assert pipe.scheduler.config.flow_shift == 3.0
    picture = pipe("a red star", num_inference_steps=1, height=512, width=512).images[0]
    assert picture.size == (512, 512)


def test_untrained_weights_are_the_same_again_and_leave_the_random_state(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = untrained_shapes(cache=tmp_path / "a")
    assert torch.rand(1) == expected
    second = untrained_shapes(cache=tmp_path / "b")
    for part in ("transformer", "vae"):
        file = f"{part}/diffusion_pytorch_model.safetensors"
        assert (first / file).read_bytes() == (second / file).read_bytes()
    assert untrained_shapes(cache=tmp_path / "a") == first
    assert [p.name for p in (tmp_path / "a").iterdir()] == [first.name]


# --- training sees what the pipeline will show ----------------------------------------------------------------------


@pytest.mark.parametrize("instructed", [True, False])
@pytest.mark.parametrize("prompt", ["a small red star above a large blue ring on a white background", "draw one disk."])
def test_training_encodes_a_prompt_as_the_pipeline_does(pipe, tokenizer, prompt, instructed):
    lines = instruction().split("\n") if instructed else None
    expected, mask, _, _ = pipe.encode_prompt(prompt, False, complex_human_instruction=lines)
    opening = torch.tensor(tokenizer.encode(instruction())[1:-1])
    ids = torch.tensor([tokenizer.encode((" " if instructed else "") + prompt)])
    with torch.no_grad():
        text, _ = Denoiser(pipe.text_encoder, pipe.transformer, opening).encode(ids, instructed)
    length = int(mask.sum())
    assert ids.shape[1] == length
    torch.testing.assert_close(text, expected[:, :length], atol=1e-4, rtol=1e-4)


def test_sentences_fit_and_say_the_scene_both_ways(tokenizer):
    scenes = list(all_scenes(2)[:50])
    rows = sentences(TINY, Fleet("cpu"), tokenizer, scenes, torch.arange(50))
    assert rows.shape == (50, 2 * TINY.sentences, TINY.text_tokens)
    after, bare = rows[:, : TINY.sentences], rows[:, TINY.sentences :]
    assert (rows[..., 0] == tokenizer.bos_token_id).all()
    assert (rows[..., -1] == 0).all(), "a sentence is longer than text_tokens"
    for a, b in zip(after.flatten(0, 1), bare.flatten(0, 1), strict=True):
        assert tokenizer.decode(a[a != 0][1:]).strip() == tokenizer.decode(b[b != 0][1:]).strip()


def test_matrix_products_are_the_convolutions():
    torch.manual_seed(0)
    model = build_transformer()
    call = {"encoder_hidden_states": torch.randn(2, 5, 128), "timestep": torch.tensor([10.0, 900.0])}
    noisy = torch.randn(2, 32, 16, 16)
    with torch.no_grad():
        expected = model(noisy, **call).sample
        products_for_convolutions(model)
        torch.testing.assert_close(model(noisy, **call).sample, expected, atol=1e-5, rtol=1e-5)


def test_learning_rate_rises_falls_and_stays_positive():
    rates = [learning_rate(step, 1000, 1e-3) for step in range(1000)]
    top = rates.index(max(rates))
    assert rates[:top] == sorted(rates[:top]) and rates[top:] == sorted(rates[top:], reverse=True)
    assert 0 < rates[0] < rates[-1] * 10 and min(rates[top:]) >= 0.02e-3


# --- the run ------------------------------------------------------------------------------------------------------


def test_a_run_leaves_a_pipeline_a_log_and_its_plan(run):
    pipe = SanaPipeline.from_pretrained(run / "pipeline", torch_dtype=torch.float32)
    assert 0.05 < pipe.vae.config.scaling_factor < 20
    assert json.loads((run / "plan.json").read_text()) == asdict(TINY)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["step"]) for line in lines] == [("autoencoder", 1), ("transformer", 3)]
    assert not list(run.glob("*.partial"))


def test_the_pipeline_holds_the_averaged_weights(run):
    state = torch.load(run / "transformer.pt", weights_only=True)
    names = [name for name, _ in _denoiser().named_parameters()]
    averaged = dict(zip(names, state["average"], strict=True))
    stored = SanaPipeline.from_pretrained(run / "pipeline", torch_dtype=torch.bfloat16)
    for name, value in stored.transformer.named_parameters():
        assert torch.equal(value, averaged[f"transformer.{name}"].bfloat16()), name
    moved = [n for n in names if not torch.equal(state["model"][n].bfloat16(), averaged[n].bfloat16())]
    assert moved, "the average equals the last step: nothing was averaged"


def _denoiser():
    return Denoiser(build_text_encoder(len(build_tokenizer())), build_transformer(), torch.zeros(1, dtype=torch.long))


def test_a_stopped_run_goes_on_where_it_stood(run, tmp_path, monkeypatch):
    import sana_lab.shapes.train as module

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    for name in ("plan.json", "autoencoder.pt"):
        shutil.copy(run / name, tmp_path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "export", stop)  # the power goes right after the second step's checkpoint
        train(TINY, tmp_path, device="cpu")
    before = (tmp_path / "autoencoder.pt").read_bytes()
    assert torch.load(tmp_path / "transformer.pt", weights_only=True)["step"] == 2
    train(TINY, tmp_path, device="cpu")
    assert (tmp_path / "autoencoder.pt").read_bytes() == before, "the finished stage was trained again"
    assert before == (run / "autoencoder.pt").read_bytes()
    assert torch.load(tmp_path / "transformer.pt", weights_only=True)["step"] == 3


def test_a_run_out_of_time_keeps_what_it_has_and_goes_on(run, tmp_path):
    train(TINY, tmp_path, device="cpu", minutes=0)
    assert torch.load(tmp_path / "autoencoder.pt", weights_only=True)["step"] == 0
    assert not (tmp_path / "transformer.pt").exists()
    (tmp_path / "autoencoder.pt").write_bytes((run / "autoencoder.pt").read_bytes())
    train(TINY, tmp_path, device="cpu", minutes=0)
    assert torch.load(tmp_path / "transformer.pt", weights_only=True)["step"] == 0
    train(TINY, tmp_path, device="cpu")
    assert torch.load(tmp_path / "transformer.pt", weights_only=True)["step"] == 3


def test_another_plan_is_refused_before_anything_is_written(run):
    stamp = (run / "transformer.pt").stat().st_mtime_ns
    with pytest.raises(ValueError, match="holds a run with transformer_steps 3, not 4: give another --out"):
        train(replace(TINY, transformer_steps=4), run, device="cpu")
    assert (run / "transformer.pt").stat().st_mtime_ns == stamp
    assert json.loads((run / "plan.json").read_text()) == asdict(TINY)


PROCESS = """
import torch
from torch import nn

from sana_lab.shapes.train import Fleet

fleet = Fleet("cpu", minutes=0 if RANK == 0 else 60)
one, many = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2, 2))
one.grad, many.grad = torch.full((3,), 1.0 + RANK), torch.tensor([[1.0, 2.0], [3.0, 4.0]]) * RANK
fleet.average_gradients([one, many])
print(one.grad.tolist(), many.grad.tolist(), fleet.out_of_time(0), fleet.out_of_time(1))
"""


def test_two_processes_average_their_gradients_and_stop_together():
    """The second has an hour left, and stops since the first has no time."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", f"RANK = {rank}\n{PROCESS}"],
            env=os.environ | told | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=240)[0].split("\n") for process in both]
    finally:
        for process in both:
            process.kill()
    assert said == [["[1.5, 1.5, 1.5] [[0.5, 1.0], [1.5, 2.0]] True False", ""]] * 2


def test_paraphrases_are_many(tokenizer):
    import random

    rng = random.Random(0)
    scene = all_scenes(2)[1000]
    said = {paraphrase(scene, rng) for _ in range(300)}
    assert len(said) > 150
