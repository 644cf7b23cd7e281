"""What `checked` is asked for before a service starts: types that hold the numbers, weights that are some, and room."""

import re

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sana_lab import guard, load_sana, use_accelerator
from sana_lab.guard import NotReady, checked
from sana_lab.service import start_up

MIB = 2**20


@pytest.fixture(scope="module", autouse=True)
def gpu():
    with use_accelerator(virtual=True, vram="2GiB") as accelerator:
        yield accelerator


def test_types_that_overflow_are_refused(model):
    pipe = load_sana(model, "bf16")
    pipe.text_encoder.to(torch.float16)
    assert checked(pipe) is pipe, "only on request"
    with pytest.raises(NotReady, match=r"text_encoder: \d+ of its weights are in float16.*load it in bfloat16"):
        checked(pipe, types=True)
    with pytest.raises(NotReady, match="text_encoder"):
        start_up(pipe, pixels=32)


def test_the_autoencoder_overflows_too_and_the_transformer_does_not(model):
    pipe = load_sana(model, "fp32")
    pipe.transformer.to(torch.float16)
    assert checked(pipe, types=True) is pipe
    count = sum(1 for _ in pipe.vae.parameters())
    pipe.vae.to(torch.float16)
    words = f"vae: {count} of its weights are in float16, in which it overflows to pictures that are black: load it in"
    with pytest.raises(NotReady, match=re.escape(words)) as refused:
        checked(pipe, types=True)
    assert len(refused.value.problems) == 1


def test_weights_that_are_no_numbers_are_refused(model):
    pipe = load_sana(model, "fp32")
    with torch.no_grad():
        pipe.vae.decoder.conv_in.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(NotReady, match="vae: decoder.conv_in.weight is not finite: load it again from files that are"):
        checked(pipe, types=True)
    with torch.no_grad():
        pipe.vae.decoder.conv_in.bias[-1] = float("-inf")
    with pytest.raises(NotReady, match="vae: 2 layers .* are not finite"):
        checked(pipe, types=True)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("shape", [(), (1,), (7, 3), (2, 3, 5)])
@pytest.mark.parametrize("piece", [1, 4, 2**22])
def test_one_number_that_is_none_is_found_in_pieces_of_any_size(monkeypatch, bad, shape, piece):
    monkeypatch.setattr(guard, "PIECE", piece)
    part = nn.Module()
    part.weight = nn.Parameter(torch.full(shape, 6e4, dtype=torch.float16))  # their sum is no number in float16
    part.codes = nn.Parameter(torch.ones(3, dtype=torch.int8), requires_grad=False)
    part.none = nn.Parameter(torch.empty(0, 3))
    part.nowhere = nn.Parameter(torch.empty(2, device="meta"))
    assert not list(guard._no_numbers("part", part))
    with torch.no_grad():
        part.weight.reshape(-1)[-1] = bad
    found = ["part: weight is not finite: load it again from files that are whole"]
    assert list(guard._no_numbers("part", part)) == found


def test_a_piece_takes_the_memory_that_is_said():
    assert guard.PIECE * torch.float64.itemsize == 32 * MIB


class _Added(TorchDispatchMode):
    """Notes the most numbers that are added at once in another type than theirs."""

    most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.sum.default and (kwargs or {}).get("dtype") not in (None, args[0].dtype):
            self.most = max(self.most, args[0].numel())
        return function(*args, **(kwargs or {}))


def test_looking_for_numbers_takes_no_room(model, monkeypatch):
    pipe = load_sana(model, "bf16", "cpu")
    monkeypatch.setattr(guard, "PIECE", 2**10)
    widest = max(weight[:1].numel() for part in ("text_encoder", "transformer", "vae")
                 for weight in getattr(pipe, part).parameters())  # fmt: skip
    with _Added() as added:
        checked(pipe, types=True)
    assert 0 < added.most <= max(2**10, widest) < pipe.text_encoder.get_input_embeddings().weight.numel()
    with torch.no_grad():
        pipe.text_encoder.get_input_embeddings().weight[-1, -1] = float("inf")
    with pytest.raises(NotReady, match="embed_tokens.weight is not finite"):
        checked(pipe, types=True)


@pytest.mark.parametrize("room", [-1, 1.5, True, "1GiB"])
def test_a_room_that_is_no_number(pipe, room):
    with pytest.raises(ValueError, match="give a number of bytes"):
        checked(pipe, room=room)


def test_what_computes_on_the_cpu_is_not_asked_for_room(model):
    pipe = load_sana(model, "fp32", "cpu")
    assert checked(pipe, room=2**60) is pipe


def test_too_little_room(pipe):
    assert checked(pipe, room=0) is pipe
    free, _ = torch.cuda.mem_get_info()
    left = free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    assert checked(pipe, room=left) is pipe
    words = (
        f"cuda:0: {left / MIB:,.0f} MiB are left of 2,048, and {left / MIB + 1024:,.0f} are needed: pipe.vae.enable_"
    )
    with pytest.raises(NotReady, match=re.escape(words)):
        checked(pipe, room=left + 1024 * MIB)
    with pytest.raises(NotReady, match="are left"):
        checked(pipe, room=left + 1)
    torch.cuda.set_per_process_memory_fraction(0.5)
    try:
        half = 1024 * MIB - torch.cuda.memory_allocated()
        assert checked(pipe, room=half) is pipe
        with pytest.raises(NotReady, match=re.escape(f"{half / MIB:,.0f} MiB are left")):
            checked(pipe, room=half + 1)
        torch.cuda.set_per_process_memory_fraction(1e-9)
        with pytest.raises(NotReady, match=" 0 MiB are left"):
            checked(pipe, room=1)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
