"""Checks for the exercises of chapter 3, One outlier spoils the row."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .. import int8
from . import NotYet, exercise
from .answers import ask, near, number, slack, tensor, tensors

CLOSE = 2e-3  # relative error that float16 products stay below, and each slip is far above


@exercise
def check_llm_int8(answer: Callable[..., Tensor]) -> str:
    """Check `answer(x, w_codes, w_absmax, threshold=6.0)`: a linear layer split as LLM.int8() splits it.

    Args:
        answer: From float32 (rows, k), int8 (n, k) and float32 (n) to (rows, n).

    Chapter 3, exercise 1.
    """
    for seed, rows, n, k in ((3, 16, 24, 40), (4, 9, 5, 33)):
        _try_llm_int8(answer, torch.Generator().manual_seed(seed), rows, n, k)
    return "outlier columns in 16 bits, the rest with steps that no longer see them, and nothing counted twice."


def _try_llm_int8(answer: Callable[..., Tensor], generator: torch.Generator, rows: int, n: int, k: int) -> None:
    """Try the layer with no outlier, with some, and with values at the threshold; raise `NotYet` with the slip."""
    weight = torch.randn(n, k, generator=generator)
    weight[:, [11, 20, 30]] /= 20  # as a large channel's weights are: else it drowns what becomes of the others
    codes, absmax, _ = int8.int8_vectorwise_quant(weight)
    calm = (torch.rand(rows, k, generator=generator) * 3 + 0.5).bfloat16().float()  # exact in 16 bits of either kind
    rough = calm.clone()
    rough[4, 11], rough[7, 11], rough[2, 30] = 75.0, 50.0, -90.0  # a column is only partly large; one is negative
    edge = calm / 32
    edge[:, 20] = 6.0

    def tried(x: Tensor, **threshold: float) -> tuple[Tensor, Tensor]:
        given = ask(answer, x.clone(), codes, absmax, **threshold)
        right = int8.llm_int8_linear(x, codes, absmax, **threshold)
        return tensor(given, (rows, n), "the output of the layer, a tensor"), right

    y, right = tried(calm)
    if not _near(y, right):
        if _near(y, right / 127) or _near(y, right * 127) or _near(y, right * 127**2):
            raise NotYet("each factor was multiplied by 127 when it was quantized, so the sum is divided by 127 · 127")
        raise NotYet(
            "without any outlier the answer is the 8-bit product of chapter 2: sums of products of codes, times the "
            "absmax of the row and that of the weight's row, over 127²"
        )
    y, _ = tried(rough)
    if slip := _slip(y, rough, codes, absmax):
        raise NotYet(slip)
    y, right = tried(edge)
    if not _near(y, right):
        raise NotYet("a value of exactly 6 is an outlier at threshold 6: `>=`, as bitsandbytes has it")
    y, right = tried(rough, threshold=80.0)
    if not _near(y, right):
        raise NotYet("the threshold is an argument: at 80 the columns of 75 and 50 stay in 8 bits")
    y, right = tried(rough, threshold=0.0)
    if not _near(y, right):
        raise NotYet(
            "threshold 0 turns the search off, as in bitsandbytes: all in 8 bits. `x.abs() >= 0` marks every column"
        )


def _slip(y: Tensor, x: Tensor, codes: Tensor, absmax: Tensor) -> str:
    """The sentence for a wrong answer, empty for a right one: that of the known outcome that comes nearest.

    Some slips move the answer no more than half precision does, so a bound alone would not tell them apart.
    """
    linear = partial(int8.llm_int8_linear, codes=codes, absmax=absmax)
    weight = codes * (absmax[:, None] / 127)
    large = x.abs() >= 6
    columns, positive, rows = large.any(dim=0), (x >= 6).any(dim=0), large.any(dim=1)
    right = linear(x)
    outliers = x[:, columns] @ weight[:, columns].T
    whole, values = linear(x, threshold=0.0), linear(x.masked_fill(large, 0), threshold=0.0)
    coarse = _split(x, columns, torch.zeros_like(large), codes, absmax)
    never = "the outlier columns left the integer product and never came back: multiply them in 16 bits and add"
    outcomes = [
        (right, ""),
        (values + x.masked_fill(~large, 0) @ weight.T, ""),  # the large values alone: no worse, and one search more
        (
            whole,
            "this is plain 8 bits: one large value still sets the step of its whole row. Take its column out first",
        ),
        (right - outliers, never),
        (linear(x.masked_fill(columns, 0), threshold=0.0), never),
        (
            whole + outliers,
            "the outlier columns are counted twice: in the integer product and in 16 bits. Set their codes to 0",
        ),
        (
            coarse,
            "the columns are split, but the rows' absmax still sees the large values, so the step stays wide. Put 0 in "
            "their place before you quantize",
        ),
        (
            values + outliers,
            "ordinary numbers in an outlier column are counted twice: the whole column goes to 16 bits, so all its "
            "codes must be 0",
        ),
        (_split(x, positive, x >= 6, codes, absmax), "-90 is an outlier too: compare `x.abs()` with the threshold"),
        (
            torch.where(rows[:, None], x @ weight.T, whole),
            "outliers are taken out by column, not by row: `any(dim=0)`",
        ),
        (x @ weight.T, "this is all in 16 bits: only the outlier columns are, the others are a product of codes"),
    ]
    nearest, sentence = min(outcomes, key=lambda outcome: (y.double() - outcome[0]).norm().nan_to_num(torch.inf))
    if _near(y, nearest):
        return sentence
    off = (y.double() - right).norm() / right.norm()
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
    for seed, tokens, n, k in ((4, 50, 12, 20), (6, 30, 7, 33)):
        _try_smooth(answer, torch.Generator().manual_seed(seed), tokens, n, k)
    return "the function is the same, and in each channel the largest activation equals the largest weight."


def _try_smooth(answer: Callable[..., object], generator: torch.Generator, tokens: int, n: int, k: int) -> None:
    """Try SmoothQuant on a norm and a weight of one size; raise `NotYet` with the slip."""
    norm_weight = 0.3 * torch.randn(k, generator=generator)
    norm_weight[6] = 63.0
    before = torch.randn(tokens, k, generator=generator)  # what the norm multiplies
    weight = torch.randn(n, k, generator=generator) * 0.2
    weight[:, 6] /= 64
    x = before * (1 + norm_weight)
    new_norm, new_weight = tensors(ask(answer, x, norm_weight, weight), "norm_weight, weight")
    if new_norm.shape != (k,) or new_weight.shape != (n, k):
        raise NotYet(
            f"shapes must stay ({k},) and ({n}, {k}), yours are {tuple(new_norm.shape)} and "
            f"{tuple(new_weight.shape)}. There is one factor for each of the {k} channels: `amax(dim=0)`"
        )
    if torch.equal(new_norm, norm_weight) and torch.equal(new_weight, weight):
        raise NotYet("nothing has changed yet: compute s, divide the norm by it, multiply the columns by it")
    # One plus a norm's weight near -1 loses digits, in half precision most of them.
    close = max(CLOSE, 8 * max(slack(new_norm), slack(new_weight)))
    new_norm, new_weight = new_norm.float(), new_weight.float()
    _near = partial(near, rel=close)
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
        return
    if _near(s, 1 / right):
        raise NotYet("the output is the same but the outlier has grown: s is upside down")
    if _near(s, right**2):
        raise NotYet("s is the square root of the ratio at α = 1/2; without it the weights get the whole outlier")
    if _near(s, x.abs().amax(dim=0)):
        raise NotYet("that is α = 1: now the weights carry the whole outlier. Divide by the column's largest |weight|")
    if _near(s, x.abs().amax(dim=0).sqrt()):
        raise NotYet("the largest |weight| of the column belongs under the root too")
    if _near(s, s[0].expand(k)):
        raise NotYet("one factor for all channels changes no ratio between them: a factor for each, `amax(dim=0)`")
    raise NotYet("the output is the same, but s is not sqrt(largest |x| / largest |weight|) of each channel")


@exercise
def check_share(answer: Callable[[Tensor, float], float]) -> str:
    """Check `answer(x, threshold)`: the share of multiplications that LLM.int8() does in 16 bits.

    Chapter 3, exercise 3.
    """
    generator = torch.Generator().manual_seed(5)
    for rows, width, large, negative, places in (
        (8, 16, 40.0, -30.0, ((1, 4), (2, 4), (6, 9), (0, 2))),
        (5, 7, 9.0, -6.5, ((0, 0), (4, 6), (4, 0), (2, 3))),
        (3, 100, 6.0, -7.0, ((1, 11), (2, 30), (0, 30), (0, 50), (1, 99))),
    ):
        x = torch.rand(rows, width, generator=generator) * 2
        for place in places:
            x[place] = large
        x[places[-1]] = negative
        _try_share(answer, x, 6.0)
    if not near(number(ask(answer, torch.full((2, 4), 6.0), 6.0), SHARE), 1.0):
        raise NotYet("a value of exactly 6 is an outlier at threshold 6: `>=`")
    x = torch.rand(4, 10, generator=generator)
    if not near(number(ask(answer, x, 6.0), SHARE), 0.0):
        raise NotYet("no value reaches 6, so nothing goes to 16 bits: the share is 0")
    x[0, 1], x[1, 1], x[3, 5], x[2, 7] = 40.0, 36.0, -38.0, 30.0
    given = ask(answer, x, 35.0)
    number(given, SHARE)
    if not near(given, 0.2):
        raise NotYet("the threshold is an argument: at 35 two columns of 10 are left")
    return "columns count, not values: one large number moves a whole column, for every token."


SHARE = "a number from 0 to 1"


def _try_share(answer: Callable[[Tensor, float], float], x: Tensor, threshold: float) -> None:
    rows, width = x.shape
    given = ask(answer, x, threshold)
    got = number(given, SHARE)
    large = x.abs() >= threshold
    columns = int(large.any(dim=0).sum())
    signed, values = x >= threshold, int(large.sum())
    slips = {
        int(signed.any(dim=0).sum()) / width: f"{x.min():g} is an outlier too: compare `x.abs()` with the threshold",
        int((x.abs() > threshold).any(dim=0).sum()) / width: "a value of exactly 6 is an outlier at threshold 6: `>=`",
        values / x.numel(): "one large value takes its whole column along, for all rows: count columns, not values",
        int(signed.sum()) / x.numel(): "one large value takes its whole column along, for all rows: count columns, "
        "not values",
        int(large.any(dim=1).sum()) / rows: "outliers are taken out by column, not by row: `any(dim=0)`",
        int(signed.any(dim=1).sum()) / rows: "outliers are taken out by column, not by row: `any(dim=0)`; and a "
        "negative one is one too",
        1 - columns / width: "that is the share that stays in 8 bits",
        float(columns): "that is the number of columns; divide by how many there are",
        100 * columns / width: "that is a percentage; a share is between 0 and 1",
        columns / rows: "divide by the number of columns, `x.shape[1]`, not of rows",
        columns / 16: "divide by the number of columns that this x has, `x.shape[1]`",
    }
    if near(given, columns / width):
        return
    for value, hint in slips.items():
        if near(given, value):
            raise NotYet(hint)
    right = (
        f"{columns} of {width} columns hold a value of at least {threshold:g}, so the share is {columns / width:.4g}"
    )
    raise NotYet(f"{right}; yours is {got:.4g}")


def _near(y: Tensor, right: Tensor) -> bool:
    return near(y, right, CLOSE)
