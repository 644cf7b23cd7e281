"""Checks for the exercises of chapter 1, *Eight-bit Sana in ten minutes*."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from . import NotYet, exercise


def _model(rows: int, columns: int) -> tuple[nn.Module, dict[str, int]]:
    """An 8-bit layer as it is after loading beside a convolution in 16 bits, and how many of each number it holds."""
    import bitsandbytes as bnb

    codes, scales = torch.ones(rows, columns, dtype=torch.int8), torch.ones(rows)
    layer = bnb.nn.Linear8bitLt(columns, rows, bias=False, has_fp16_weights=False)
    layer.weight = bnb.nn.Int8Params(codes, requires_grad=False, has_fp16_weights=False, CB=codes, SCB=scales)
    convolution = nn.Conv2d(3, 5, 3, bias=False, dtype=torch.bfloat16)
    held = {"codes": rows * columns, "scales": rows, "halves": convolution.weight.numel()}
    return nn.Sequential(layer, convolution), held


@exercise
def check_bits_per_weight(bits_per_weight: Callable[[nn.Module], float]) -> str:
    """Try `bits_per_weight(model)` on models with an 8-bit layer and a convolution that stayed in 16 bits."""
    for rows, columns in ((2, 3), (64, 16), (8, 200)):
        model, held = _model(rows, columns)
        codes, scales, halves = held.values()
        weights, bits = codes + halves, 8 * codes + 32 * scales + 16 * halves
        answer = float(bits_per_weight(model))
        if math.isclose(answer, bits / weights, rel_tol=1e-6):
            continue
        if math.isnan(answer):
            raise NotYet("nothing is counted yet: go over model.parameters() and add up bytes and weights")
        if math.isclose(answer, bits / weights / 8, rel_tol=1e-6):
            raise NotYet("these are bytes a weight: a byte has eight bits")
        if math.isclose(answer, (bits - 32 * scales) / weights, rel_tol=1e-6):
            raise NotYet("the scales are missing: they hide in parameter.SCB, outside parameters() and buffers()")
        if math.isclose(answer, bits / (weights + scales), rel_tol=1e-6):
            raise NotYet("a scale costs bits but is no weight: do not count it in the divisor")
        if math.isclose(answer, (8 * codes + 16 * scales + 16 * halves) / weights, rel_tol=1e-6):
            raise NotYet("scales are 32-bit floats: ask each tensor for its element_size()")
        if math.isclose(answer, (16 * codes + 16 * halves) / weights, rel_tol=1e-6) or math.isclose(answer, 8):
            raise NotYet("the layers differ, so no single element size fits all: ask each tensor for its own")
        if math.isclose(answer, 8 + 32 * scales / codes, rel_tol=1e-6):
            raise NotYet("layers that stayed in 16 bits count too: go over all parameters, not only those with SCB")
        raise NotYet(f"for a model of {weights} weights in {bits} bits it gives {answer:.4g}, not {bits / weights:.4g}")
    return "codes, scales, and what stayed in 16 bits, over the weights alone"
