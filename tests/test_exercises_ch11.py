"""Chapter 11's exercises: the stored solutions pass, and each named wrong answer is refused with its own hint."""

import json
import random
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from sana_lab.exercises.ch11 import MAPS, balanced, check_balanced, check_refuses_to, check_strays

CHAPTER = Path(__file__).resolve().parent.parent / "notebooks" / "11_device_maps_and_to.ipynb"


def plan(sizes, free, *, back=True, subtract=True, still=True, lose=False, strict=False, most_room=False):
    """The right answer of exercise 2, with one thing changed at a time."""
    left, walk = dict(free), [*free, *reversed(free)] if back else list(free)
    found, step = {}, 0
    for name, size in sizes.items():
        gpu = max(left, key=left.get) if most_room else walk[step % len(walk)]
        if size > left[gpu] or (strict and size == left[gpu]):
            if lose:
                found = {part: where for part, where in found.items() if where != "cpu"}
            found[name] = "cpu"
            step += not still
        else:
            found[name] = gpu
            left[gpu] -= size if subtract else 0
            step += 1
    return found


def strays(pipe, *, buffers=True, first=False, missing=True, index=True, models_only=True, trust=False):
    """The right answer of exercise 3, with one thing changed at a time."""
    found = []
    for name, part in pipe.components.items():
        if models_only and not isinstance(part, nn.Module):
            continue
        planned = pipe.hf_device_map.get(name)
        if planned is None and not missing:
            continue
        if isinstance(planned, int) and index:
            planned = torch.device("cuda", planned)
        parameters, kept = ([*part.parameters()], [*part.buffers()]) if isinstance(part, nn.Module) else ([], [])
        tensors = parameters[:1] if first else parameters + (kept if buffers else [])
        if not trust and {tensor.device for tensor in tensors} != {planned}:
            found.append(name)
    return found


def next_gpu(sizes, free):
    """Tries the other GPUs before the CPU."""
    left, walk = dict(free), [*free, *reversed(free)]
    found, step = {}, 0
    for name, size in sizes.items():
        there = [gpu for gpu in (walk[step % len(walk)], *free) if size <= left[gpu]]
        found[name] = there[0] if there else "cpu"
        if there:
            left[there[0]] -= size
            step += 1
    return found


def renamed(sizes, free):
    """Calls the GPUs 0, 1, 2 in the order given, whatever their names."""
    names = {gpu: i for i, gpu in enumerate(free)}
    return {part: names.get(where, where) for part, where in plan(sizes, free).items()}


def uses_up(sizes, free):
    found = plan(sizes, free)
    for part, where in found.items():
        if where != "cpu":
            free[where] -= sizes[part]
    return found


def by_names(pipe, names=("text_encoder", "transformer", "vae")):
    return [name for name in strays(pipe) if name in names]


def homes(pipe, of):
    """Strays, where `of(model)` gives the devices."""
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    return [name for name, part in parts.items() if of(part) != {f"cuda:{pipe.hf_device_map.get(name)}"}]


TO, PLAN, STRAYS = check_refuses_to, check_balanced, check_strays
WRONG = {
    "to: stub": (TO, lambda m: None, "return True or False"),
    "to: never": (TO, lambda m: False, "counts entries, not GPUs"),
    "to: two GPUs": (TO, lambda m: isinstance(m, dict) and len(set(m.values())) > 1, "counts entries, not GPUs"),
    "to: any map": (TO, lambda m: m is not None, '"cuda": a kind of device'),
    "to: length of 0.36": (TO, lambda m: m is not None and len(m) > 1, '"cuda": a kind of device'),
    "to: always": (TO, lambda m: True, "no map at all"),
    "to: any dict": (TO, lambda m: isinstance(m, dict), "one entry"),
    "to: any but one": (TO, lambda m: isinstance(m, dict) and len(m) != 1, "an empty map"),
    "to: three strings": (TO, lambda m: m not in (None, "cuda", "cpu") and len(m) > 1, "any string"),
    "to: numbers only": (TO, lambda m: type(m) is dict and len(m) > 1 and "cpu" not in m.values(), "is not asked"),
    "to: two or three": (TO, lambda m: isinstance(m, dict) and len(m) in (2, 3), "however many"),
    "to: a number": (TO, lambda m: int(isinstance(m, dict) and len(m) > 1), "return True or False"),
    "plan: tries the next": (PLAN, next_gpu, "even if another GPU has room"),
    "plan: names of its own": (PLAN, renamed, "by their names"),
    "plan: uses up what it got": (PLAN, uses_up, "changes .*`free`"),
    "plan: devices": (
        PLAN,
        lambda s, f: {part: f"cuda:{where}" for part, where in plan(s, f).items()},
        "the GPU by its number",
    ),
    "plan: stub": (PLAN, lambda sizes, free: None, "return a dict"),
    "plan: all on the first": (PLAN, lambda sizes, free: dict.fromkeys(sizes, next(iter(free))), "on the way back"),
    "plan: round robin": (PLAN, lambda s, f: plan(s, f, back=False), "0 1 1 0"),
    "plan: most room": (PLAN, lambda s, f: plan(s, f, most_room=True), "who has most room left"),
    "plan: nothing is used up": (PLAN, lambda s, f: plan(s, f, subtract=False), "takes its bytes away"),
    "plan: walks on": (PLAN, lambda s, f: plan(s, f, still=False), "stands still"),
    "plan: loses parts": (PLAN, lambda s, f: plan(s, f, lose=True), "a got lost"),
    "plan: strict": (PLAN, lambda s, f: plan(s, f, strict=True), "still fits"),
    "strays: stub": (STRAYS, lambda pipe: None, "return a list of names"),
    "strays: the plan": (STRAYS, lambda p: strays(p, trust=True), "the map is only the plan"),
    "strays: index": (STRAYS, lambda p: strays(p, index=False), "means cuda:0"),
    "strays: first tensor": (STRAYS, lambda p: strays(p, first=True), "look at all of them"),
    "strays: no buffers": (STRAYS, lambda p: strays(p, buffers=False), "buffers are no parameters"),
    "strays: not in the map": (STRAYS, lambda p: strays(p, missing=False), "planned nowhere"),
    "strays: last tensor": (
        STRAYS,
        lambda p: homes(
            p, lambda m: {str([*m.parameters()][-1].device), *(str(b.device) for b in [*m.buffers()][-1:])}
        ),
        "look at all of them|first|buffer",
    ),
    "strays: what is saved": (
        STRAYS,
        lambda p: homes(p, lambda m: {str(t.device) for t in m.state_dict().values()}),
        "that is not saved",
    ),
    "strays: three names": (STRAYS, by_names, "go through all of them"),
    "strays: one name": (STRAYS, lambda p: "vae", "return a list of names"),
    "strays: everything": (STRAYS, lambda p: strays(p, models_only=False), "have no tensors"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_answer_is_refused_with_its_hint(name):
    check, answer, hint = WRONG[name]
    verdict = check(answer)
    assert not verdict.passed
    assert re.search(hint, verdict.text), verdict


RIGHT = {
    "to: of NumPy": (TO, lambda m: np.bool_(isinstance(m, dict) and len(m) > 1)),
    "to: a tensor": (TO, lambda m: torch.tensor(isinstance(m, dict) and len(m) > 1)),
    "plan": (PLAN, plan),
    "plan: numbers of NumPy": (
        PLAN,
        lambda s, f: {part: where if where == "cpu" else np.int64(where) for part, where in plan(s, f).items()},
    ),
    "strays": (STRAYS, strays),
    "strays: a set": (STRAYS, lambda p: set(strays(p))),
    "strays: a generator": (STRAYS, lambda p: (name for name in strays(p))),
    "strays: by name": (
        STRAYS,
        lambda p: homes(p, lambda m: {str(t.device) for _, t in [*m.named_parameters(), *m.named_buffers()]}),
    ),
    "strays: layer by layer": (
        STRAYS,
        lambda p: homes(
            p, lambda m: {str(t.device) for x in m.modules() for t in [*x._parameters.values(), *x._buffers.values()]}
        ),
    ),
    "strays: by number": (
        STRAYS,
        lambda p: homes(p, lambda m: {f"cuda:{t.get_device()}" for t in [*m.parameters(), *m.buffers()]}),
    ),
}


@pytest.mark.parametrize(("check", "answer"), RIGHT.values(), ids=RIGHT)
def test_a_right_answer_passes(check, answer):
    verdict = check(answer)
    assert verdict.passed, verdict.text


def test_the_expected_refusals_are_those_of_the_library():
    from diffusers import DiffusionPipeline

    for device_map, right, _ in MAPS:
        pipe = SimpleNamespace(hf_device_map=device_map)
        assert DiffusionPipeline._is_pipeline_device_mapped(pipe) is right, device_map


def test_the_plan_is_that_of_the_library_where_it_loses_nothing():
    from diffusers.pipelines.pipeline_loading_utils import _assign_components_to_devices

    draw = random.Random(9)
    compared = lossy = 0
    for _ in range(500):
        sizes = dict(enumerate(sorted((draw.randint(1, 20) for _ in range(draw.randint(1, 5))), reverse=True)))
        free = dict(enumerate(sorted((draw.randint(1, 30) for _ in range(draw.randint(1, 4))), reverse=True)))
        by_device = _assign_components_to_devices(sizes, free)
        theirs = {part: device for device, parts in by_device.items() for part in parts}
        ours = balanced(sizes, free)
        assert ours.keys() == sizes.keys()
        assert {part: device for part, device in ours.items() if part in theirs} == theirs
        spilled = [part for part, device in ours.items() if device == "cpu"]
        assert ours.keys() - theirs.keys() == set(spilled[:-1])  # the library keeps the last one alone
        lossy += len(spilled) > 1
        compared += 1
    assert compared > lossy > 20


def test_the_stored_solutions_pass_and_the_stubs_do_not():
    cells = json.loads(CHAPTER.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    checks = {"refuses_to": TO, "balanced_plan": PLAN, "strays": STRAYS}
    for name, check in checks.items():
        definitions = [re.search(rf"^def {name}\(.*?(?=^\S|\Z)", text, re.M | re.S) for text in sources]
        stub, solution = [found.group() for found in definitions if found]
        for text, passes in ((stub, False), (solution, True)):
            room = {"torch": torch}
            exec(text, room)
            assert check(room[name]).passed is passes, text
