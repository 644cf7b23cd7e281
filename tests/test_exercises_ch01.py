"""The exercise of chapter 1: right answers pass, wrong ones are refused with a hint of their own."""

from __future__ import annotations

import pytest
import torch

from sana_lab.exercises.ch01 import check_bits_per_weight


def bits(model, *, scale_bits=32, count_scales=False, only_8bit=False):
    weights = stored = 0
    for p in model.parameters():
        scales = getattr(p, "SCB", None)
        if only_8bit and scales is None:
            continue
        weights += p.numel()
        stored += 8 * p.numel() * p.element_size()
        if scales is not None:
            stored += scale_bits * scales.numel()
            weights += scales.numel() if count_scales else 0
    return stored / weights


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
    "no scales": (lambda m: bits(m, scale_bits=0), "scales are missing"),
    "scales are weights": (lambda m: bits(m, count_scales=True), "no weight"),
    "scales in 16 bits": (lambda m: bits(m, scale_bits=16), "32-bit"),
    "16 for all": (lambda m: 16.0, "no single element size"),
    "8 for all": (lambda m: 8.0, "no single element size"),
    "only the 8-bit layers": (lambda m: bits(m, only_8bit=True), "stayed in 16 bits"),
    "a plain guess": (lambda m: 12.5, "it gives 12.5"),
    "raises": (lambda m: m.weight, "AttributeError"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_counts_are_told_apart(name):
    answer, hint = WRONG[name]
    verdict = check_bits_per_weight(answer)
    assert not verdict.passed and hint in verdict.text, verdict


@pytest.mark.parametrize("answer", [bits, held_by_the_state_dict, lambda m: torch.tensor(bits(m))])
def test_right_counts_pass(answer):
    assert check_bits_per_weight(answer).passed
