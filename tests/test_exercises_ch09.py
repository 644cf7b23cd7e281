"""Chapter 9's exercises: the stored solutions pass, and each named wrong answer is refused with its own hint."""

import json
import random
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sana_lab.exercises.ch09 import MAPS, balanced, check_balanced, check_refuses_to, check_strays

CHAPTER = Path(__file__).resolve().parent.parent / "notebooks" / "09_device_maps_and_to.ipynb"


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
    "strays: everything": (STRAYS, lambda p: strays(p, models_only=False), "have no tensors"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_answer_is_refused_with_its_hint(name):
    check, answer, hint = WRONG[name]
    verdict = check(answer)
    assert not verdict.passed
    assert re.search(hint, verdict.text), verdict


@pytest.mark.parametrize(("check", "answer"), [(PLAN, plan), (STRAYS, strays)])
def test_the_right_answer_of_these_tests_passes(check, answer):
    assert check(answer).passed


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
