"""Checks for the exercises of chapter 9, Device maps and `.to()`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from . import NotYet, exercise

MAPS = (  # a pipeline's hf_device_map, whether `.to()` raises, what the case is about
    ({"transformer": 0, "vae": 0, "text_encoder": 0}, True, "three components on one GPU: it counts entries, not GPUs"),
    ({"transformer": 0, "vae": 1}, True, "two components on two GPUs: that is what the guard was written for"),
    (None, False, "no map at all: nothing was asked for, so nothing is refused"),
    ("cuda", False, 'the string "cuda": a kind of device is no strategy, although it is longer than one letter'),
    ("cpu", False, 'the string "cpu": a kind of device is no strategy, although it is longer than one letter'),
    ({"text_encoder": 0}, False, "one entry: the guard lets it through, and the hook stays behind"),
    ({}, False, "an empty map: it has fewer than two entries"),
)


@exercise
def check_refuses_to(answer: Callable[[Any], bool]) -> str:
    """Check `answer(hf_device_map) -> bool`: whether the guard against device maps refuses `pipe.to(...)`.

    Source: `DiffusionPipeline._is_pipeline_device_mapped`, diffusers 0.42.1, pipelines/pipeline_utils.py.

    Chapter 9, exercise 1.
    """
    for device_map, right, about in MAPS:
        got = answer(dict(device_map) if isinstance(device_map, dict) else device_map)
        if not isinstance(got, bool):
            raise NotYet(f"return True or False; for {device_map!r} this is {type(got).__name__}")
        if got is not right:
            raise NotYet(f"{about}. For {device_map!r} the answer is {right}")
    return "the guard asks for a dict of two entries or more, and for nothing else."


PLANS = (  # sizes, largest first; free memory, most first; what a wrong plan has missed
    ({"a": 6, "b": 5, "c": 1}, {0: 20}, "one GPU with room for all takes all"),
    (
        {"a": 6, "b": 5, "c": 1},
        {0: 20, 1: 20},
        "on the way back the walk begins with the GPU it ended on, 0 1 1 0 and not 0 1 0 1, so that the GPU with the "
        "largest part does not get the third largest too",
    ),
    (
        {"a": 9, "b": 1, "c": 1, "d": 1, "e": 1},
        {0: 20, 1: 18, 2: 16},
        "the walk does not ask who has most room left: 0 1 2 2 1 0, whatever the sizes",
    ),
    ({"a": 6, "b": 5, "c": 4}, {0: 12}, "each part takes its bytes away from what the GPU has left"),
    (
        {"a": 8, "b": 3, "c": 2},
        {0: 7, 1: 4},
        "the walk stands still when a part goes to the CPU: the next part tries the same GPU",
    ),
    ({"a": 9, "b": 8, "c": 1}, {0: 4}, "two parts go to the CPU, and both must be in the plan"),
    ({"a": 5, "b": 4}, {0: 5, 1: 4}, "a part as large as what is left still fits"),
)


@exercise
def check_balanced(answer: Callable[[dict[str, int], dict[int, int]], dict[str, int | str]]) -> str:
    """Check `answer(sizes, free) -> {component: GPU or "cpu"}`: the plan of "balanced", with no component lost.

    Source of the rule: `_assign_components_to_devices`, diffusers 0.42.1, pipelines/pipeline_loading_utils.py, but for
    its loss of components.

    Chapter 9, exercise 2.
    """
    for sizes, free, about in PLANS:
        right, got = balanced(sizes, free), answer(dict(sizes), dict(free))
        if not isinstance(got, Mapping):
            raise NotYet(f"return a dict of component to device; this is {type(got).__name__}")
        lost = sorted(sizes.keys() - got.keys())
        case = f"parts {sizes} on GPUs with {free} free"
        if lost:
            raise NotYet(f"{case}: {' and '.join(lost)} got lost. Every part is on a GPU or on the CPU")
        if dict(got) != right:
            raise NotYet(f"{about}. {case.capitalize()}: the plan is {right}, yours {dict(got)}")
    return "forth and back over the GPUs, largest part first, and what does not fit is on the CPU instead of nowhere."


def balanced(sizes: Mapping[str, int], free: Mapping[int, int]) -> dict[str, int | str]:
    """The plan that `check_balanced` asks for: sizes and free memory in the same unit, both in falling order."""
    left, walk = dict(free), [*free, *reversed(free)]
    plan: dict[str, int | str] = {}
    step = 0
    for component, size in sizes.items():
        gpu = walk[step % len(walk)]
        if size > left[gpu]:
            plan[component] = "cpu"
            continue
        plan[component] = gpu
        left[gpu] -= size
        step += 1
    return plan


@exercise
def check_strays(answer: Callable[[Any], list[str]]) -> str:
    """Check `answer(pipe) -> names` of the models that do not live, with every tensor, where the device map says.

    The pipelines of this check stand for GPUs that need not exist: they have `hf_device_map` and `components`, and
    their models have `parameters()` and `buffers()` whose tensors have a `device`, and nothing else.

    Chapter 9, exercise 3.
    """
    cases = (  # components, map, right, what a wrong answer has missed
        ({"vae": _Part("cuda:0")}, {"vae": 0}, [], "a plan that came true has no strays; the map's 0 means cuda:0"),
        (
            {"vae": _Part("cuda:1"), "transformer": _Part("cuda:0")},
            {"vae": 1, "transformer": 1},
            ["transformer"],
            "the map says 1 and the tensors are on cuda:0: ask the tensors, the map is only the plan",
        ),
        (
            {"vae": _Part("cuda:0", "cuda:1")},
            {"vae": 0},
            ["vae"],
            "its first tensor is where the plan says and its second is not: look at all of them",
        ),
        (
            {"vae": _Part("cuda:0", buffers=("cpu",))},
            {"vae": 0},
            ["vae"],
            "a buffer stayed on the CPU; buffers are no parameters, and kernels need them all the same",
        ),
        (
            {"vae": _Part("cuda:0"), "transformer": _Part("cpu")},
            {"vae": 0},
            ["transformer"],
            "the map has no entry for the transformer: it was planned nowhere, so it is a stray wherever it lives",
        ),
        (
            {"tokenizer": object(), "scheduler": None, "vae": _Part("cuda:0")},
            {"vae": 0},
            [],
            "a tokenizer and a scheduler have no tensors and live on no device",
        ),
    )
    for components, device_map, right, about in cases:
        got = answer(SimpleNamespace(components=components, hf_device_map=device_map))
        if isinstance(got, str) or not hasattr(got, "__iter__"):
            raise NotYet(f"return a list of names; this is {type(got).__name__}")
        if sorted(got) != right:
            raise NotYet(f"{about}. The strays are {right}, yours {sorted(got)}")
    return "a plan is compared with tensors, parameters and buffers alike."


class _Part(nn.Module):
    """A model whose tensors are only said to live on some devices."""

    def __init__(self, *devices: str, buffers: tuple[str, ...] = ()):
        super().__init__()
        self._where, self._buffers_where = devices, buffers

    def parameters(self, recurse: bool = True):
        return iter([SimpleNamespace(device=torch.device(name)) for name in self._where])

    def buffers(self, recurse: bool = True):
        return iter([SimpleNamespace(device=torch.device(name)) for name in self._buffers_where])

    @property
    def device(self) -> torch.device:
        """Device of the first parameter, as in diffusers and transformers."""
        return torch.device(self._where[0])
