"""Checks for the exercises of chapter 3, One outlier spoils the row."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import int8
from . import NotYet, exercise

CLOSE = 2e-4  # relative error that another order of float32 operations is far below, and each slip far above


@exercise
def check_llm_int8(answer: Callable[..., Tensor]) -> str:
    """Check `answer(x, w_codes, w_absmax, threshold=6.0)`: a linear layer split as LLM.int8() splits it.

    Args:
        answer: From float32 (rows, k), int8 (n, k) and float32 (n) to (rows, n).

    Chapter 3, exercise 1.
    """
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(24, 40, generator=generator)
    codes, absmax, _ = int8.int8_vectorwise_quant(weight)
    calm = (torch.rand(16, 40, generator=generator) * 3 + 0.5).half().float()  # an answer need not cast to float16
    rough = calm.clone()
    rough[4, 11], rough[9, 11], rough[2, 30] = 75.0, 50.0, -90.0  # a column is only partly large; one is negative
    edge = calm.clone()
    edge[5, 20] = 6.0

    y = _output(answer(calm.clone(), codes, absmax), (16, 24))
    right = int8.llm_int8_linear(calm, codes, absmax)
    if not _near(y, right):
        if _near(y, right / 127) or _near(y, right * 127) or _near(y, right * 127**2):
            raise NotYet("each factor was multiplied by 127 when it was quantized, so the sum is divided by 127 · 127")
        raise NotYet(
            "without any outlier the answer is the 8-bit product of chapter 2: sums of products of codes, times the "
            "absmax of the row and that of the weight's row, over 127²"
        )
    y = _output(answer(rough.clone(), codes, absmax), (16, 24))
    right = int8.llm_int8_linear(rough, codes, absmax)
    if not _near(y, right):
        raise NotYet(_slip(y, right, rough, codes, absmax))
    y = _output(answer(edge.clone(), codes, absmax), (16, 24))
    if not _near(y, int8.llm_int8_linear(edge, codes, absmax)):
        raise NotYet("a value of exactly 6 is an outlier at threshold 6: `>=`, as bitsandbytes has it")
    y = _output(answer(rough.clone(), codes, absmax, threshold=80.0), (16, 24))
    if not _near(y, int8.llm_int8_linear(rough, codes, absmax, threshold=80.0)):
        raise NotYet("the threshold is an argument: at 80 the columns of 75 and 50 stay in 8 bits")
    return "outlier columns in 16 bits, the rest with steps that no longer see them, and nothing counted twice."


def _slip(y: Tensor, right: Tensor, x: Tensor, codes: Tensor, absmax: Tensor) -> str:
    """The sentence for a wrong answer, by comparing it with what well-known slips give."""
    linear = partial(int8.llm_int8_linear, codes=codes, absmax=absmax)
    weight = codes * (absmax[:, None] / 127)
    large = x.abs() >= 6
    columns = large.any(dim=0)
    rest = linear(x.masked_fill(columns, 0), threshold=0.0)
    outliers = x[:, columns] @ weight[:, columns].T
    if _near(y, linear(x, threshold=0.0)):
        return "this is plain 8 bits: one large value still sets the step of its whole row. Take its column out first"
    if _near(y, right - outliers) or _near(y, rest):
        return "the outlier columns left the integer product and never came back: multiply them in 16 bits and add"
    whole = linear(x, threshold=0.0)
    if _near(y, whole + outliers):
        return "the outlier columns are counted twice: in the integer product and in 16 bits. Set their codes to 0"
    seen = (x.abs().amax(dim=1) / 127)[:, None]
    coarse = torch.round(x / seen).masked_fill(columns, 0) * seen @ weight.T + outliers
    if _near(y, coarse):
        return (
            "the columns are split, but the rows' absmax still sees the large values, so the step stays wide. Put 0 in "
            "their place before you quantize"
        )
    values = linear(x.masked_fill(large, 0), threshold=0.0)
    if _near(y, values + outliers):
        return (
            "ordinary numbers in an outlier column are counted twice: the whole column goes to 16 bits, so all its "
            "codes must be 0"
        )
    positive = (x >= 6).any(dim=0)
    if _near(y, _split(x, positive, x >= 6, codes, absmax)):
        return "-90 is an outlier too: compare `x.abs()` with the threshold"
    marked = large.any(dim=1)
    by_row = torch.where(marked[:, None], x @ weight.T, linear(x, threshold=0.0))
    if _near(y, by_row):
        return "outliers are taken out by column, not by row: `any(dim=0)`"
    off = (y - right).norm() / right.norm()
    return f"two columns with outliers: yours is off by {100 * off:.1f} %. Compare it with the ten lines, line by line"


def _split(x: Tensor, columns: Tensor, large: Tensor, codes: Tensor, absmax: Tensor) -> Tensor:
    a, a_absmax, _ = int8.int8_vectorwise_quant(x.masked_fill(large, 0))
    a[:, columns] = 0
    y = int8.int8_matmul(a, codes) * (a_absmax[:, None] * absmax) / 127**2
    return y + x[:, columns] @ (codes[:, columns] * (absmax[:, None] / 127)).T


@exercise
def check_smooth(answer: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]) -> str:
    """Check `answer(x, norm_weight, weight)`: SmoothQuant at one half, into a norm of Gemma's kind.

    Args:
        answer: From activations (rows, k), the weight of a norm that multiplies by one plus it (k), and a linear
            layer's weight (n, k), to the new weights of both.

    Source: Xiao et al. 2023 (arXiv 2211.10438), equations 3 and 4. Chapter 3, exercise 2.
    """
    generator = torch.Generator().manual_seed(4)
    norm_weight = 0.3 * torch.randn(20, generator=generator)
    norm_weight[6] = 63.0
    before = torch.randn(50, 20, generator=generator)  # what the norm multiplies
    weight = torch.randn(12, 20, generator=generator) * 0.2
    weight[:, 6] /= 64
    x = before * (1 + norm_weight)
    given = x.clone(), norm_weight.clone(), weight.clone()
    result = answer(*given)
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise NotYet("return 2 things: `return norm_weight, weight`")
    new_norm, new_weight = (torch.as_tensor(thing) for thing in result)
    if new_norm.shape != (20,) or new_weight.shape != (12, 20):
        raise NotYet(
            f"shapes must stay (20,) and (12, 20), yours are {tuple(new_norm.shape)} and {tuple(new_weight.shape)}. "
            "There is one factor for each of the 20 channels: `amax(dim=0)`"
        )
    if torch.equal(new_norm, norm_weight) and torch.equal(new_weight, weight):
        raise NotYet("nothing has changed yet: compute s, divide the norm by it, multiply the columns by it")
    new_x = before * (1 + new_norm)
    if not _near(new_x @ new_weight.T, x @ weight.T):
        if _near((before * new_norm) @ new_weight.T, x @ weight.T) or _near(
            new_norm * new_weight, norm_weight * weight
        ):
            raise NotYet(
                "the layer's output has changed: Gemma's norm multiplies by 1 + weight, so divide 1 + norm_weight "
                "by s and take the 1 off again"
            )
        raise NotYet(
            "the layer's output has changed: what the norm is divided by, the columns must be multiplied by, "
            "channel by channel"
        )
    s = (1 + norm_weight) / (1 + new_norm)
    right = (x.abs().amax(dim=0) / weight.abs().amax(dim=0)).sqrt()
    if _near(s, right):
        return "the function is the same, and in each channel the largest activation equals the largest weight."
    if _near(s, 1 / right):
        raise NotYet("the output is the same but the outlier has grown: s is upside down")
    if _near(s, right**2):
        raise NotYet("s is the square root of the ratio at α = 1/2; without it the weights get the whole outlier")
    if _near(s, x.abs().amax(dim=0)):
        raise NotYet("that is α = 1: now the weights carry the whole outlier. Divide by the column's largest |weight|")
    if _near(s, x.abs().amax(dim=0).sqrt()):
        raise NotYet("the largest |weight| of the column belongs under the root too")
    if _near(s, s[0].expand(20)):
        raise NotYet("one factor for all channels changes no ratio between them: a factor for each, `amax(dim=0)`")
    raise NotYet("the output is the same, but s is not sqrt(largest |x| / largest |weight|) of each channel")


@exercise
def check_share(answer: Callable[[Tensor, float], float]) -> str:
    """Check `answer(x, threshold)`: the share of multiplications that LLM.int8() does in 16 bits.

    Chapter 3, exercise 3.
    """
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(8, 16, generator=generator) * 2
    x[1, 4] = x[2, 4] = x[6, 9] = 40.0
    x[0, 2] = -30.0
    got = answer(x.clone(), 6.0)
    if isinstance(got, Tensor) and got.numel() == 1:
        got = got.item()
    if isinstance(got, bool) or not isinstance(got, int | float):
        raise NotYet(f"return a number from 0 to 1; this is {type(got).__name__}")
    slips = {
        3 / 16: None,
        2 / 16: "-30 is an outlier too: compare `x.abs()` with the threshold",
        3 / 128: "one large value takes its whole column along, for all rows: count columns, not values",
        4 / 128: "one large value takes its whole column along, for all rows: count columns, not values",
        4 / 8: "outliers are taken out by column, not by row: `any(dim=0)`",
        3 / 8: "outliers are taken out by column, not by row: `any(dim=0)`; and -30 is one too",
        13 / 16: "that is the share that stays in 8 bits",
        3: "that is the number of columns; divide by how many there are",
        18.75: "that is a percentage; a share is between 0 and 1",
    }
    for value, hint in slips.items():
        if abs(got - value) < 1e-6:
            if hint:
                raise NotYet(hint)
            break
    else:
        raise NotYet(f"3 of 16 columns hold a value of at least 6, so the share is {3 / 16}; yours is {got:g}")
    if abs(float(answer(torch.full((2, 4), 6.0), 6.0)) - 1) > 1e-6:
        raise NotYet("a value of exactly 6 is an outlier at threshold 6: `>=`")
    if abs(float(answer(x.clone(), 35.0)) - 2 / 16) > 1e-6:
        raise NotYet("the threshold is an argument: at 35 two columns are left")
    return "columns count, not values: one large number moves a whole column, for every token."


def _output(result: Any, shape: tuple[int, int]) -> Tensor:
    if not isinstance(result, Tensor) or result.shape != shape:
        what = f"a tensor of shape {tuple(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
        raise NotYet(f"return the output of the layer, a tensor of shape {shape}; this is {what}")
    return result.float()


def _near(y: Tensor, right: Tensor) -> bool:
    return y.shape == right.shape and bool((y.float() - right.float()).norm() <= CLOSE * right.float().norm())
