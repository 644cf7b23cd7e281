"""The exercise of chapter 1: right answers pass, wrong ones are refused with a hint of their own."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from sana_lab.exercises.ch01 import check_bits_per_weight
from sana_lab.layers import quantized

CHAPTER = Path(__file__).resolve().parent.parent / "notebooks" / "01_ten_minutes.ipynb"


def scales_of(module, places=("weight", "state")):
    """The scales of an 8-bit layer, from the first of these places that has them."""
    keepers = (getattr(module, place, None) for place in places)
    return next((keeper.SCB for keeper in keepers if getattr(keeper, "SCB", None) is not None), None)


def bits(model, *, scale_bits=32, count_scales=False, only_8bit=False, places=("weight", "state")):
    weights = stored = 0
    for module in model.modules():
        scales = scales_of(module, places)
        for p in module.parameters(recurse=False):
            if only_8bit and p.dtype != torch.int8:
                continue
            weights += p.numel()
            stored += 8 * p.numel() * p.element_size()
        if scales is not None:
            stored += scale_bits * scales.numel()
            weights += scales.numel() if count_scales else 0
    return stored / weights


def as_it_was_published(model):
    """The solution that this book once printed: it looks at the parameters, whose scales have moved."""
    weights = stored = 0
    for p in model.parameters():
        weights += p.numel()
        stored += p.numel() * p.element_size()
        scales = getattr(p, "SCB", None)
        if scales is not None:
            stored += scales.numel() * scales.element_size()
    return 8 * stored / weights


def by_holding(model):
    stored = sum(p.numel() * p.element_size() for p in model.parameters())
    stored += sum(held.scales.numel() * held.scales.element_size() for _, _, held in quantized(model))
    return 8 * stored / sum(p.numel() for p in model.parameters())


def breaks_the_layer(model):
    answer = bits(model)
    for module in model.modules():
        if (scales := scales_of(module)) is not None:
            scales.zero_()
    return answer


def held_by_the_state_dict(model):
    """Another way to the same number: bitsandbytes saves codes, scales and a format mark."""
    stored = {name: t for name, t in model.state_dict().items() if not name.endswith("weight_format")}
    scales = sum(t.numel() for name, t in stored.items() if name.endswith("SCB"))
    return (
        8
        * sum(t.numel() * t.element_size() for t in stored.values())
        / (sum(t.numel() for t in stored.values()) - scales)
    )


WRONG = {
    "stub": (lambda m: float("nan"), "nothing is counted"),
    "bytes": (lambda m: bits(m) / 8, "eight bits"),
    "no scales": (lambda m: bits(m, scale_bits=0), "the scales are missing"),
    "as it was published": (as_it_was_published, "moves them from layer.weight.SCB to layer.state.SCB"),
    "on the weight alone": (lambda m: bits(m, places=("weight",)), "moves them from layer.weight.SCB"),
    "in the state alone": (lambda m: bits(m, places=("state",)), "before a layer's first call"),
    "scales are weights": (lambda m: bits(m, count_scales=True), "no weight"),
    "scales in 16 bits": (lambda m: bits(m, scale_bits=16), "32-bit"),
    "16 for all": (lambda m: 16.0, "no single element size"),
    "8 for all": (lambda m: 8.0, "no single element size"),
    "only the 8-bit layers": (lambda m: bits(m, only_8bit=True), "stayed in 16 bits"),
    "a plain guess": (lambda m: 12.5, "it gives 12.5"),
    "the chapter's own number": (lambda m: 11.73, "it gives 11.73"),
    "right for the first model alone": (lambda m: bits(m) if len(list(m.modules())) == 5 else 11.0, "it gives 11"),
    "text": (lambda m: f"{bits(m):.2f}", "return a number of bits; this is str"),
    "a bool": (lambda m: True, "this is bool"),
    "one for each layer": (lambda m: torch.ones(3), "a tensor of shape (3,)"),
    "nothing": (lambda m: None, "is there a `return`?"),
    "breaks the scales": (breaks_the_layer, "your function changes the scales of layer `0.0` of `model`"),
    "empties the model": (lambda m: (bits(m), m.pop(0))[0], "your function changes the layers"),
    "raises": (lambda m: m.weight, "AttributeError"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_counts_are_told_apart(name):
    answer, hint = WRONG[name]
    verdict = check_bits_per_weight(answer)
    assert not verdict.passed and hint in verdict.text, verdict


RIGHT = {
    "bits": bits,
    "by holding": by_holding,
    "by the state dict": held_by_the_state_dict,
    "a tensor": lambda m: torch.tensor(bits(m)),
    "float32": lambda m: np.float32(bits(m)),
    "a tensor of one element": lambda m: torch.tensor([bits(m)], dtype=torch.float64),
    "a fraction": lambda m: Fraction(bits(m)),
}


@pytest.mark.parametrize("answer", RIGHT.values(), ids=RIGHT)
def test_right_counts_pass(answer):
    verdict = check_bits_per_weight(answer)
    assert verdict.passed, verdict


def test_the_chapters_stub_is_refused_and_its_solution_passes_and_counts_a_pipeline_that_has_drawn():
    cells = [c for c in json.loads(CHAPTER.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    sources = ["".join(c["source"]) for c in cells if "def bits_per_weight(" in "".join(c["source"])]
    for source, passes in zip(sources, (False, True), strict=True):
        namespace = {}
        exec(source.split("\n\n\nprint(")[0], namespace)
        assert check_bits_per_weight(namespace["bits_per_weight"]).passed is passes, source
