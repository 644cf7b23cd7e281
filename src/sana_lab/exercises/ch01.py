"""Checks for the exercises of chapter 1, *Eight-bit Sana in ten minutes*."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from ..layers import quantized
from . import NotYet, exercise
from .answers import ask, near, number


def _eight_bit(rows: int, columns: int, called: bool) -> nn.Module:
    """An 8-bit layer as it is after loading, or after its first call, which moves its scales."""
    import bitsandbytes as bnb

    codes, scales = torch.ones(rows, columns, dtype=torch.int8), torch.ones(rows)
    layer = bnb.nn.Linear8bitLt(columns, rows, bias=False, has_fp16_weights=False)
    layer.weight = bnb.nn.Int8Params(codes, requires_grad=False, has_fp16_weights=False, CB=codes, SCB=scales)
    layer.eval()
    if called:
        layer(torch.ones(1, columns, dtype=torch.float16))
    return layer


def _models() -> list[nn.Module]:
    """8-bit layers beside layers that stayed in 16 bits; some have drawn already, some have not, one is nested."""
    return [
        nn.Sequential(nn.Sequential(_eight_bit(8, 200, True), _eight_bit(4, 9, False)), nn.Linear(7, 3).half()),
        nn.Sequential(_eight_bit(64, 16, True), nn.Conv2d(3, 5, 3, bias=False, dtype=torch.bfloat16)),
        nn.Sequential(_eight_bit(2, 3, False), nn.Conv2d(3, 5, 3, bias=False, dtype=torch.bfloat16)),
    ]


@exercise
def check_bits_per_weight(bits_per_weight: Callable[[nn.Module], float]) -> str:
    """Try `bits_per_weight(model)` on 8-bit layers before and after their first call, beside layers in 16 bits.

    Chapter 1, exercise 2.
    """
    for model in _models():
        holdings = [held for _, _, held in quantized(model)]
        codes, scales = sum(held.weights for held in holdings), sum(held.scales.numel() for held in holdings)
        found = sum(layer.weight.SCB.numel() for _, layer, _ in quantized(model) if layer.weight.SCB is not None)
        weights = sum(p.numel() for p in model.parameters())
        halves = weights - codes
        bits = 8 * codes + 32 * scales + 16 * halves
        given = ask(bits_per_weight, model)
        if isinstance(given, float) and math.isnan(given):
            raise NotYet("nothing is counted yet: go over model.parameters() and add up bytes and weights")
        answer = number(given, "a number of bits")
        right = bits / weights
        if near(given, right):
            continue
        slips = {
            right / 8: "these are bytes per weight: a byte has eight bits",
            (bits - 32 * (scales - found)) / weights: "scales are missing: a layer's first call moves them from "
            "layer.weight.SCB to layer.state.SCB, and leaves None behind. Look in both places",
            (bits - 32 * found) / weights: "scales are missing: before a layer's first call they are in "
            "layer.weight.SCB, only then in layer.state.SCB. Look in both places",
            (bits - 32 * scales) / weights: "the scales are missing: they are no parameters and no buffers, but "
            "attributes, layer.weight.SCB until a layer's first call and layer.state.SCB after it",
            bits / (weights + scales): "a scale costs bits but is no weight: do not count it in the divisor",
            (bits - 16 * scales) / weights: "scales are 32-bit floats: ask each tensor for its element_size()",
            16.0: "the layers differ, so no single element size fits all: ask each tensor for its own",
            8.0: "the layers differ, so no single element size fits all: ask each tensor for its own",
            (8 * codes + 32 * scales) / codes: "layers that stayed in 16 bits count too: go over all parameters, not "
            "only those of 8-bit layers",
        }
        for wrong, hint in slips.items():
            if near(given, wrong):
                raise NotYet(hint)
        raise NotYet(f"for a model of {weights} weights in {bits} bits it gives {answer:.4g}, not {right:.4g}")
    return "codes, scales wherever they are, and what stayed in 16 bits, over the weights alone"
