"""Checks for the exercises of chapter 8, Tensors on two devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from . import NotYet, exercise


class _Leaf(nn.Module):
    """A layer with a weight, a buffer and a frequency table that is not saved, each where it is told to be."""

    def __init__(self, weight: str, buffer: str, table: str):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, device=weight))
        self.register_buffer("mean", torch.ones(4, device=buffer))
        self.register_buffer("table", torch.ones(4, device=table), persistent=False)


class _Model(nn.Module):
    """Two leaves in a block, and a `device` that says what the first parameter says, as libraries' models do."""

    def __init__(self, *leaves: tuple[str, str, str]):
        super().__init__()
        self.block = nn.ModuleList(_Leaf(*leaf) for leaf in leaves)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


@exercise
def check_devices_of(answer: Callable[[nn.Module], set[str]]) -> str:
    """Check `answer(model) -> {"cpu", "meta"}`: the devices of everything that a model holds.

    The cases use the CPU and the meta device, which every machine has.

    Chapter 8, exercise 1.
    """
    here, there = ("cpu",) * 3, ("meta",) * 3
    cases = [  # model, devices, what it is about
        (_Model(here, here), {"cpu"}, "a model that is all on the CPU"),
        (_Model(there, there), {"meta"}, "a model that is all on the meta device"),
        (
            _Model(here, there),
            {"cpu", "meta"},
            "a model whose second layer is elsewhere: the first parameter is not all",
        ),
        (_Model(here, ("cpu", "meta", "cpu")), {"cpu", "meta"}, "a model with one buffer elsewhere: count buffers too"),
        (
            _Model(here, ("cpu", "cpu", "meta")),
            {"cpu", "meta"},
            "a model with one buffer elsewhere that is not saved: `state_dict()` leaves it out, `buffers()` does not",
        ),
        (
            _Model(("meta", "cpu", "cpu"), here),
            {"cpu", "meta"},
            "a model with one parameter elsewhere: count parameters and buffers",
        ),
    ]
    for model, right, about in cases:
        got = answer(model)
        if isinstance(got, str | torch.device) or not hasattr(got, "__iter__"):
            raise NotYet(f"return a set of names such as {{'cpu', 'cuda:0'}}; this is {type(got).__name__}")
        got = list(got)
        if any(isinstance(device, torch.device) for device in got):
            raise NotYet("those are torch.device objects: `str(tensor.device)` gives their names")
        if len(got) != len(set(got)):
            raise NotYet("each device once: a set, not a list")
        if set(got) != right:
            raise NotYet(f"{about}. It is on {sorted(right)}, you say {sorted(map(str, got))}")
    return "one forgotten buffer is enough for two devices, and you found it."


@exercise
def check_first_to_fail(answer: Callable[[Mapping[str, str], str], str | None]) -> str:
    """Check `answer(devices, inputs) -> component or None`: which component of a Sana pipeline raises first.

    Chapter 8, exercise 2.
    """
    gpu, second, cpu = "cuda:0", "cuda:1", "cpu"
    cases = [  # text encoder, transformer, vae, inputs, right, why
        (gpu, gpu, cpu, gpu, "vae", "the recipe: encoder and transformer are with the data, the autoencoder is not"),
        (cpu, gpu, cpu, gpu, "text_encoder", "two are elsewhere, and the prompt comes first"),
        (gpu, cpu, cpu, gpu, "transformer", "two are elsewhere; the transformer is called before the autoencoder"),
        (gpu, gpu, gpu, gpu, None, "all are where the data is, so nothing raises and the answer is None"),
        (cpu, cpu, cpu, cpu, None, "all on the CPU, and the data too: slow, and no error"),
        (gpu, gpu, second, gpu, "vae", "a second GPU is another device as well: compare with where the data is"),
        (second, gpu, gpu, second, "transformer", "the data is on cuda:1, and that is what counts, not where most are"),
        (cpu, cpu, gpu, cpu, "vae", "the data is on the CPU, and it is the GPU's component that does not fit"),
    ]  # fmt: skip
    for text_encoder, transformer, vae, inputs, right, why in cases:
        devices = {"vae": vae, "transformer": transformer, "text_encoder": text_encoder}  # not in the order of calls
        got = answer(dict(devices), inputs)
        if got is not None and (not isinstance(got, str) or got not in devices):
            raise NotYet(f"return one of {', '.join(devices)}, or None; this is {got!r}")
        if got != right:
            shown = f"encoder {text_encoder}, transformer {transformer}, autoencoder {vae}, data on {inputs}"
            raise NotYet(f"{shown}: {why}. You say {got}")
    return "the first component in the order of calls that is not where the data is."
