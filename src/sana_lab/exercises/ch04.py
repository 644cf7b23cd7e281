"""Checks for the exercises of chapter 4, Where Sana keeps its bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import torch
from torch import nn

from . import NotYet, exercise
from .answers import ask, near, number


@exercise
def check_ratio_with_pointwise(answer: Callable[[nn.Module], float]) -> str:
    """Check `answer(model) -> ratio`: bytes after over before if 1 x 1 convolutions were quantized like Linear layers.

    Args:
        answer: Weights of `nn.Linear` and of 1 x 1 convolutions of one group count one byte instead of two.

    Chapter 4, exercise 1.
    """
    with torch.device("meta"):
        square = nn.Linear(8, 8, bias=False)
        cases = [  # model, weights that become a byte, what it is about
            (
                nn.Sequential(nn.Linear(8, 4, bias=False), nn.LayerNorm(4)),
                32,
                "a Linear layer and a norm: only the weights of the Linear layer shrink",
            ),
            (
                nn.Sequential(nn.Linear(8, 4)),
                32,
                "a Linear layer with a bias: the bias stays in 16 bits, only `layer.weight` shrinks",
            ),
            (
                nn.Sequential(square, nn.Conv2d(8, 8, 3, bias=False)),
                64,
                "a Linear layer and a 3 x 3 convolution: that one reads neighbors, so it is no product at one pixel",
            ),
            (
                nn.Sequential(square, nn.Conv2d(8, 8, (1, 3), bias=False), nn.Conv2d(8, 8, (3, 1), bias=False)),
                64,
                "a Linear layer and convolutions of 1 x 3 and 3 x 1, which read neighbors too: look at both numbers of "
                "`kernel_size`",
            ),
            (
                nn.Sequential(square, nn.Conv2d(8, 8, 1, groups=8, bias=False)),
                64,
                "a Linear layer and a 1 x 1 convolution of 8 groups: each group sees its own channels only, so it is "
                "no product with one matrix. Look at `groups`",
            ),
            (
                nn.Sequential(square, nn.Conv2d(8, 16, 1, bias=False)),
                192,
                "a Linear layer and a 1 x 1 convolution: it multiplies the channels of each pixel by one matrix, so it "
                "counts, whatever its name",
            ),
            (
                nn.Sequential(square, nn.Conv2d(8, 16, 1)),
                192,
                "a Linear layer and a 1 x 1 convolution with a bias: its bias stays in 16 bits, too",
            ),
            (
                nn.Sequential(nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Conv2d(8, 8, 1))), nn.LayerNorm(8)),
                128,
                "layers inside other layers, as in every real model: `children()` sees the outermost alone, "
                "`modules()` sees all",
            ),
            (nn.Linear(8, 4), 32, "a model that is one Linear layer: `modules()` begins with the model itself"),
            (
                nn.Sequential(square, nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)),
                64,
                "a batch norm, whose running statistics are buffers: count `parameters()`",
            ),
            (nn.Sequential(nn.Conv2d(8, 8, 3), nn.LayerNorm(8)), 0, "a model in which nothing is reached"),
        ]
    for model, reached, about in cases:
        total = sum(p.numel() for p in model.parameters())
        right = (2 * total - reached) / (2 * total)
        got = number(ask(answer, model))
        if near(got, right, 1e-6):
            continue
        if near(got, 1 - right, 1e-6) and right != 0.5:
            raise NotYet(f"{got:.3f} is the share that is saved; asked is after / before, {right:.3f} for {about}")
        raise NotYet(f"{about}. After / before is {right:.3f}, yours is {got:.3f}")
    return "with the 1 x 1 convolutions in reach, nearly all of a block is."


@exercise
def check_nf4_bytes(answer: Callable[[int, int], int]) -> str:
    """Check `answer(rows, columns) -> bytes`: what bitsandbytes keeps for one nf4 weight.

    Source of the layout: bitsandbytes 0.50.2, functional.py (`quantize_4bit`, `QuantState`), blocks of 64.

    Chapter 4, exercise 2.
    """
    for rows, columns in ((64, 64), (1152, 1152), (3, 100), (5, 13), (1, 1), (100, 3), (2, 64)):
        n = rows * columns
        codes, absmax, code = -(-n // 2), 4 * -(-n // 64), 64
        right, got = codes + absmax + code, number(ask(answer, rows, columns))
        if abs(got - right) < 1e-6:
            continue
        hints = {
            codes: "the codes alone are not enough to read the values back: each block of 64 has its absmax",
            codes + absmax: "the sixteen levels are kept with each layer: 16 numbers of 4 bytes",
            codes + code: "each block of 64 values brings its absmax",
            n + absmax + code: "4 bits are half a byte: two codes share one",
            codes + absmax / 4 + code: "an absmax is a float32, which takes 4 bytes",
            codes + absmax + 16: "a level is a float32: sixteen of them take 64 bytes",
            8 * right: "that is bits; a byte has eight",
            codes + 4 * rows + code: "one scale for each row is the 8-bit format; in 4 bits each 64 values have one",
            codes + 4 * rows * -(-columns // 64) + code: "blocks do not stop at the end of a row: cut rows * columns",
            n // 2 + 4 * (n // 64) + code: "a byte or a block that is partly used counts whole: round up",
            n / 2 + 4 * n / 64 + code: "a byte or a block that is partly used counts whole: round up",
            n // 2 + absmax + code: "an odd number of codes needs one more byte: round up",
            codes + 4 * (n // 64) + code: "the last block is shorter and has an absmax too: round up",
        }
        for wrong, hint in hints.items():
            if abs(got - wrong) < 1e-6:
                raise NotYet(f"{rows} x {columns}: {hint}")
        raise NotYet(f"{rows} x {columns} keep {codes:,} + {absmax:,} + {code} bytes, you say {got:,.0f}")
    return "half a byte a value, four bytes a block of 64, and the code once."


@exercise
def check_first_to_quantize(answer: Callable[[Mapping[str, nn.Module]], str]) -> str:
    """Check `answer(models) -> name`: the model that saves the most bytes when its Linear layers go to 8 bits.

    Chapter 4, exercise 3.
    """
    with torch.device("meta"):
        invented = {
            "painter": nn.Conv2d(512, 512, 5),  # the largest, and nothing in it is Linear
            "mixer": nn.Conv2d(1024, 1024, 1),  # 1 x 1, which the recipe does not reach either
            "reader": nn.ModuleList([nn.Linear(256, 1024), nn.Embedding(2000, 256)]),  # saves the most
            "pure": nn.Linear(128, 128),  # all of it Linear, and small
            "many": nn.ModuleList([nn.Linear(16, 16) for _ in range(30)]),  # the most layers
        }
    hints = {
        "painter": "the largest model need not save the most: this one is a convolution, which 8 bits do not reach",
        "mixer": "a 1 x 1 convolution could be quantized, and the recipe does not: count nn.Linear alone here",
        "pure": "a share is not a saving: this model is nearly all Linear, and small. Multiply the share by the size",
        "many": "do not count layers, count the weights in them",
    }
    pipelines = {"an invented pipeline": (invented, "reader")}
    for checkpoint, right in (("600M-512", "text_encoder"), ("1.5-4.8B", "transformer")):
        pipelines[f"the transformer and text encoder of {checkpoint}"] = (_candidates(checkpoint), right)
    for pipeline, (models, right) in pipelines.items():
        got = ask(answer, models)
        if not isinstance(got, str) or got not in models:
            raise NotYet(f"return a name, one of {', '.join(models)}; this is {got!r}")
        if got == right:
            continue
        hint = hints.get(got, "look at the weights of the Linear layers in each model, not at its name")
        raise NotYet(f"{pipeline}: {got!r} is not it; {hint}")
    return "the text encoder for 600M, the transformer for 4.8B: what counts is weights in Linear layers."


@cache
def _candidates(checkpoint: str) -> dict[str, nn.Module]:
    from sana_lab.accounting import build

    return {name: model for name, model in build(checkpoint).items() if name != "vae"}
