"""Checks for the exercises of chapter 11, Device maps and `.to()`."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from . import NotYet, exercise
from .answers import ask, names, truth
from .standins import Model

MAPS = (  # a pipeline's hf_device_map, whether `.to()` raises, what the case is about
    ({"transformer": 0, "vae": 0, "text_encoder": 0}, True, "three components on one GPU: it counts entries, not GPUs"),
    ({"transformer": 0, "vae": 1}, True, "two components on two GPUs: that is what the guard was written for"),
    (None, False, "no map at all: nothing was asked for, so nothing is refused"),
    ("cuda", False, 'the string "cuda": a kind of device is no strategy, although it is longer than one letter'),
    ("cpu", False, 'the string "cpu": a kind of device is no strategy, although it is longer than one letter'),
    ({"text_encoder": 0}, False, "one entry: the guard lets it through, and the hook stays behind"),
    ({}, False, "an empty map: it has fewer than two entries"),
    ("xpu", False, "any string: a kind of device is no strategy, whatever the kind"),
    ({"transformer": 0, "vae": "cpu"}, True, "a map that sends a part to the CPU: what the entries say is not asked"),
    (
        {"transformer": 0, "text_encoder": 0, "text_encoder_2": 1, "vae": 0},
        True,
        "four components: two entries or more, however many",
    ),
)


@exercise
def check_refuses_to(answer: Callable[[Any], bool]) -> str:
    """Check `answer(hf_device_map) -> bool`: whether the guard against device maps refuses `pipe.to(...)`.

    Source: `DiffusionPipeline._is_pipeline_device_mapped`, diffusers 0.42.1, pipelines/pipeline_utils.py.

    Chapter 11, exercise 1.
    """
    for device_map, right, about in MAPS:
        got = truth(
            ask(answer, dict(device_map) if isinstance(device_map, dict) else device_map),
            f"True or False for {device_map!r}",
        )
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
    (
        {"a": 5, "b": 4, "c": 3},
        {0: 9, 1: 6},
        "a part that does not fit where it is dealt goes to the CPU, even if another GPU has room",
    ),
    ({"a": 9, "b": 8, "c": 1}, {0: 4}, "two parts go to the CPU, and both must be in the plan"),
    ({"a": 5, "b": 4}, {0: 5, 1: 4}, "a part as large as what is left still fits"),
    (
        {"a": 5, "b": 4, "c": 3},
        {2: 20, 0: 15, 1: 10},
        "GPUs go by their names, the one with most memory first: here that is 2, then 0, then 1",
    ),
)


@exercise
def check_balanced(answer: Callable[[dict[str, int], dict[int, int]], dict[str, int | str]]) -> str:
    """Check `answer(sizes, free) -> {component: GPU or "cpu"}`: the plan of "balanced", with no component lost.

    Source of the rule: `_assign_components_to_devices`, diffusers 0.42.1, pipelines/pipeline_loading_utils.py, but for
    its loss of components.

    Chapter 11, exercise 2.
    """
    for sizes, free, about in (*PLANS, *_drawn()):
        right, got = balanced(sizes, free), ask(answer, dict(sizes), dict(free))
        if not isinstance(got, Mapping):
            raise NotYet(f"return a dict of component to device; this is {type(got).__name__}")
        lost = sorted(sizes.keys() - got.keys())
        case = f"parts {sizes} on GPUs with {free} free"
        if any(where != "cpu" and where not in free for where in got.values()):
            raise NotYet(f'{case}: say of each part "cpu", or the GPU by its number. Yours is {dict(got)}')
        if lost:
            raise NotYet(f"{case}: {' and '.join(lost)} got lost. Every part is on a GPU or on the CPU")
        if dict(got) != right:
            raise NotYet(f"{about}. {case.capitalize()}: the plan is {right}, yours {dict(got)}")
    return "forth and back over the GPUs, largest part first, and what does not fit is on the CPU instead of nowhere."


def _drawn() -> Iterable[tuple[dict[str, int], dict[int, int], str]]:
    """Parts and GPUs that no answer knows by heart."""
    draw = random.Random(9)
    for _ in range(40):
        sizes = sorted((draw.randint(1, 20) for _ in range(draw.randint(1, 6))), reverse=True)
        free = sorted((draw.randint(1, 30) for _ in range(draw.randint(1, 4))), reverse=True)
        gpus = draw.sample(range(len(free)), len(free))
        yield (
            dict(zip("abcdef", sizes, strict=False)),
            dict(zip(gpus, free, strict=True)),
            "deal forth and back; what does not fit where it is dealt goes to the CPU, and the walk stands still",
        )


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

    The models of this check are modules whose tensors are said to be on GPUs that need not exist.

    Chapter 11, exercise 3.
    """
    cases = (  # components, map, right, what a wrong answer has missed
        ({"vae": _part("cuda:0")}, {"vae": 0}, [], "a plan that came true has no strays; the map's 0 means cuda:0"),
        (
            {"vae": _part("cuda:1"), "transformer": _part("cuda:0")},
            {"vae": 1, "transformer": 1},
            ["transformer"],
            "the map says 1 and the tensors are on cuda:0: ask the tensors, the map is only the plan",
        ),
        (
            {"vae": _part("cuda:0", "cuda:1")},
            {"vae": 0},
            ["vae"],
            "its first tensor is where the plan says and its second is not: look at all of them",
        ),
        (
            {"vae": Model(("cuda:0", "cpu", "cuda:0"))},
            {"vae": 0},
            ["vae"],
            "a buffer stayed on the CPU; buffers are no parameters, and kernels need them all the same",
        ),
        (
            {"vae": _part("cuda:0"), "transformer": _part("cpu")},
            {"vae": 0},
            ["transformer"],
            "the map has no entry for the transformer: it was planned nowhere, so it is a stray wherever it lives",
        ),
        (
            {"tokenizer": object(), "scheduler": None, "vae": _part("cuda:0")},
            {"vae": 0},
            [],
            "a tokenizer and a scheduler have no tensors and live on no device",
        ),
        (
            {"vae": _part("cuda:1", "cuda:0")},
            {"vae": 0},
            ["vae"],
            "its last tensor is where the plan says and its first is not: look at all of them",
        ),
        (
            {"vae": Model(("cuda:0", "cuda:0", "cpu"))},
            {"vae": 0},
            ["vae"],
            "a buffer that is not saved stayed on the CPU; `state_dict()` leaves it out",
        ),
        (
            {"text_encoder_2": _part("cuda:1"), "image_encoder": _part("cuda:10"), "vae": _part("cuda:10")},
            {"text_encoder_2": 0, "image_encoder": 0, "vae": 10},
            ["image_encoder", "text_encoder_2"],
            "other pipelines have other components: go through all of them, and compare whole numbers of GPUs",
        ),
    )
    for components, device_map, right, about in cases:
        found = ask(answer, SimpleNamespace(components=components, hf_device_map=device_map))
        got = sorted(names(found, ordered=False))
        if got != right:
            raise NotYet(f"{about}. The strays are {right}, yours {got}")
    return "a plan is compared with tensors, parameters and buffers alike."


def _part(*devices: str) -> Model:
    """A model with a layer on each of these."""
    return Model(*((device,) * 3 for device in devices))
