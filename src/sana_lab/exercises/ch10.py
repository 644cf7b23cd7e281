"""Checks for the exercises of chapter 10, Tensors on two devices."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import nn

from . import NotYet, exercise
from .answers import ask, names
from .standins import Model

_PLACES = ("cpu", "meta", "cuda:0", "cuda:1", "cuda:10")


@exercise
def check_devices_of(answer: Callable[[nn.Module], Iterable[str]]) -> str:
    """Check `answer(model) -> {"cpu", "cuda:0"}`: the devices of everything that a model holds.

    The cases use the CPU, the meta device, and tensors that are said to be on GPUs which need not exist.

    Chapter 10, exercise 1.
    """
    here, there, first, second = ("cpu",) * 3, ("meta",) * 3, ("cuda:0",) * 3, ("cuda:1",) * 3
    cases = [  # model, devices, what it is about
        (Model(here, here), {"cpu"}, "a model that is all on the CPU"),
        (Model(there, there), {"meta"}, "a model that is all on the meta device"),
        (
            Model(here, there),
            {"cpu", "meta"},
            "a model whose second layer is elsewhere: the first parameter is not all",
        ),
        (Model(here, ("cpu", "meta", "cpu")), {"cpu", "meta"}, "a model with one buffer elsewhere: count buffers too"),
        (
            Model(here, ("cpu", "cpu", "meta")),
            {"cpu", "meta"},
            "a model with one buffer elsewhere that is not saved: `state_dict()` leaves it out, `buffers()` does not",
        ),
        (
            Model(("meta", "cpu", "cpu"), here),
            {"cpu", "meta"},
            "a model with one parameter elsewhere: count parameters and buffers",
        ),
        (Model(first, first), {"cuda:0"}, "a model that is all on the first GPU, by the name of the device"),
        (
            Model(first, second),
            {"cuda:0", "cuda:1"},
            "a model on two GPUs: they are two devices of one type, and `.type` says the same of both",
        ),
        (
            Model(first, ("cuda:0", "cuda:0", "cpu")),
            {"cuda:0", "cpu"},
            "a model on a GPU with one buffer left on the CPU",
        ),
    ]
    draw = random.Random(8)
    for _ in range(20):
        leaves = [tuple(draw.choice(_PLACES) for _ in range(3)) for _ in range(draw.randint(1, 4))]
        cases.append((Model(*leaves), {place for leaf in leaves for place in leaf}, "a model that was put together"))
    for model, right, about in cases:
        got = ask(answer, model)
        wanted = "a set of names such as {'cpu', 'cuda:0'}"
        if isinstance(got, torch.device):
            raise NotYet(f"return {wanted}; this is a torch.device")
        if isinstance(got, Iterable) and not isinstance(got, str):
            got = list(got)
            if any(isinstance(device, torch.device) for device in got):
                raise NotYet("those are torch.device objects: `str(tensor.device)` gives their names")
        found = names(got, wanted, ordered=False)
        if len(found) != len(set(found)):
            raise NotYet("each device once: a set, not a list")
        if set(found) != right:
            raise NotYet(f"{about}. It is on {sorted(right)}, you say {sorted(found)}")
    return "one forgotten buffer is enough for two devices, and you found it."


_ORDER = ("text_encoder", "transformer", "vae")


@exercise
def check_first_to_fail(answer: Callable[[Mapping[str, str], str], str | None]) -> str:
    """Check `answer(devices, inputs) -> component or None`: which component of a Sana pipeline raises first.

    Chapter 10, exercise 2.
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
    why = "the first of encoder, transformer and autoencoder that is not where the data is"
    for *devices, inputs in itertools.product((cpu, gpu, second, "cuda:10"), repeat=4):
        right = next((name for name, place in zip(_ORDER, devices, strict=True) if place != inputs), None)
        cases.append((*devices, inputs, right, why))
    for text_encoder, transformer, vae, inputs, right, why in cases:
        devices = {"vae": vae, "transformer": transformer, "text_encoder": text_encoder}  # not in the order of calls
        got = ask(answer, devices, inputs)
        if got is not None and (not isinstance(got, str) or got not in devices):
            raise NotYet(f"return one of {', '.join(devices)}, or None; this is {got!r}")
        if got != right:
            shown = f"encoder {text_encoder}, transformer {transformer}, autoencoder {vae}, data on {inputs}"
            raise NotYet(f"{shown}: {why}. You say {got}")
    return "the first component in the order of calls that is not where the data is."
