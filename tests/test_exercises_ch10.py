"""Chapter 10's exercises: the stored solutions pass, and each named wrong answer is refused with its own hint."""

import re
from pathlib import Path

import pytest
import stored_answers

from sana_lab.exercises.ch10 import check_devices_of, check_first_to_fail

CHAPTER = Path(__file__).resolve().parent.parent / "notebooks" / "10_tensors_on_two_devices.ipynb"
ORDER = ("text_encoder", "transformer", "vae")


def devices_of(model):
    return {str(tensor.device) for tensor in [*model.parameters(), *model.buffers()]}


def first_to_fail(devices, inputs):
    return next((name for name in ORDER if devices[name] != inputs), None)


def majority(devices, inputs):
    home = max(set(devices.values()), key=list(devices.values()).count)
    return next((name for name in ORDER if devices[name] != home), None)


def moves(model):
    model.block[0].mean = model.block[0].table
    return devices_of(model)


def one_level(model):
    return {str(t.device) for leaf in model.block[:2] for t in [*leaf.parameters(), *leaf.buffers()]}


def forgets(devices, inputs):
    return next((name for name in ORDER if devices.pop(name) != inputs), None)


def by(what):
    return lambda devices, inputs: next((name for name in ORDER if what(devices[name]) != what(inputs)), None)


WHERE, FIRST = check_devices_of, check_first_to_fail
WRONG = {
    "devices: stub": (WHERE, lambda m: set(), "all on the CPU. It is on .'cpu'., you say ..$"),
    "devices: the model's own word": (WHERE, lambda m: {str(m.device)}, "the first parameter is not all"),
    "devices: a name": (WHERE, lambda m: str(m.device), "return a set of names"),
    "devices: parameters only": (WHERE, lambda m: {str(p.device) for p in m.parameters()}, "count buffers too"),
    "devices: buffers only": (WHERE, lambda m: {str(b.device) for b in m.buffers()}, "one parameter elsewhere"),
    "devices: saved tensors": (WHERE, lambda m: {str(t.device) for t in m.state_dict().values()}, "is not saved"),
    "devices: device objects": (WHERE, lambda m: {p.device for p in m.parameters()}, "torch.device objects"),
    "devices: a list": (WHERE, lambda m: [str(p.device) for p in m.parameters()], "a set, not a list"),
    "devices: top level only": (
        WHERE,
        lambda m: {str(p.device) for p in m.parameters(recurse=False)},
        "all on the CPU",
    ),
    "devices: types": (WHERE, lambda m: {name.partition(":")[0] for name in devices_of(m)}, "name of the device"),
    "devices: GPU or not": (
        WHERE,
        lambda m: {"cuda:0" if t.is_cuda else str(t.device) for t in [*m.parameters(), *m.buffers()]},
        "two devices of one type",
    ),
    "devices: the first tensor of each kind": (
        WHERE,
        lambda m: {str(next(m.parameters()).device), *(str(b.device) for b in m.buffers())},
        "first parameter|put together",
    ),
    "devices: two layers": (WHERE, one_level, "put together"),
    "devices: changes the model": (WHERE, moves, "changes .* of `model`"),
    "devices: numbers": (WHERE, lambda m: {t.get_device() for t in m.parameters()}, "return a set of names"),
    "first: stub": (FIRST, lambda devices, inputs: None, "the recipe: .*You say None"),
    "first: whatever is on the CPU": (
        FIRST,
        lambda devices, inputs: next((name for name in ORDER if devices[name] == "cpu"), None),
        "slow, and no error",
    ),
    "first: the order of the dictionary": (
        FIRST,
        lambda devices, inputs: next((name for name in devices if devices[name] != inputs), None),
        "the prompt comes first",
    ),
    "first: always the autoencoder": (FIRST, lambda devices, inputs: "vae", "the prompt comes first"),
    "first: away from most": (FIRST, majority, "the prompt comes first"),
    "first: away from the first": (
        FIRST,
        lambda devices, inputs: next((name for name in ORDER if devices[name] != "cuda:0"), None),
        "slow, and no error",
    ),
    "first: CPU against GPU": (
        FIRST,
        lambda devices, inputs: next((n for n in ORDER if devices[n][:3] != inputs[:3]), None),
        "a second GPU is another device as well",
    ),
    "first: the last letter": (FIRST, by(lambda name: name[-1:]), "You say|first of"),
    "first: six letters": (FIRST, by(lambda name: name[:6]), "the first of encoder"),
    "first: takes the devices away": (FIRST, forgets, "changes .*`devices`"),
    "first: all of them": (
        FIRST,
        lambda devices, inputs: [name for name in ORDER if devices[name] != inputs],
        "return one of",
    ),
}


@pytest.mark.parametrize(("check", "answer", "hint"), WRONG.values(), ids=WRONG)
def test_a_wrong_answer_gets_its_own_hint(check, answer, hint):
    verdict = check(answer)
    assert not verdict.passed
    assert re.search(hint, verdict.text), verdict.text


RIGHT = {
    "devices": (WHERE, devices_of),
    "devices: frozen": (WHERE, lambda m: frozenset(devices_of(m))),
    "devices: keys": (WHERE, lambda m: dict.fromkeys(devices_of(m)).keys()),
    "devices: by name": (WHERE, lambda m: {str(t.device) for _, t in [*m.named_parameters(), *m.named_buffers()]}),
    "devices: layer by layer": (
        WHERE,
        lambda m: {
            str(t.device) for x in m.modules() for t in [*x.parameters(recurse=False), *x.buffers(recurse=False)]
        },
    ),
    "devices: from type and index": (
        WHERE,
        lambda m: {
            d.type if d.index is None else f"{d.type}:{d.index}"
            for d in (t.device for t in [*m.parameters(), *m.buffers()])
        },
    ),
    "first": (FIRST, first_to_fail),
}


@pytest.mark.parametrize(("check", "answer"), RIGHT.values(), ids=RIGHT)
def test_a_right_answer_passes(check, answer):
    verdict = check(answer)
    assert verdict.passed, verdict.text


def test_the_stored_solutions_pass_and_the_stubs_do_not():
    stored_answers.hold(CHAPTER, WHERE, FIRST)
