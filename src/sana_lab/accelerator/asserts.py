"""Errors that a CPU kernel raises with an explanation and a CUDA kernel finds while it runs: device-side assertions.

CUDA's kernels cannot raise. Where they meet an index or a value out of range, they stop (`CUDA_KERNEL_ASSERT`, in
ATen/native/cuda of PyTorch 2.11: IndexKernel.cu, Indexing.cu, ScatterGatherKernel.cu, EmbeddingBag.cu, Loss.cu,
NLLLoss2d.cu, MultinomialKernel.cu, DistributionTemplates.h), and the process has lost its GPU: the next call that waits
for it says so. Here the call itself does, and the process can go on. What the host looks at first, such as the counts
of `repeat_interleave`, has the same words on both.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from . import words

FOUND_BY_KERNELS = re.compile(
    r"index out of range in self"
    r"|is out of bounds for dimension"
    r"|INDICES element is out of DATA bounds"
    r"|which is not in the valid range"
    r"|Target -?\d+ is out of bounds"
    r"|out of range: tried to access index"
    r"|Class values must be"
    r"|all elements of (input|target) should be between 0 and 1"
    r"|probability tensor contains either `inf`, `nan` or element < 0"
    r"|invalid multinomial distribution \(sum of probabilities <= 0\)"
    r"|Expected p_in >= 0 && p_in <= 1"
    r"|Expected Tensor with single nonzero value, but got zero"
)
"""What CPU kernels say of the things that CUDA kernels assert."""

SUBSCRIPTS = frozenset(["__getitem__", "__setitem__"])
"""Here the host finds a number out of range, as Python does; what is in a tensor or a list is left to a kernel."""


def explain(error: Exception, name: str, args: tuple) -> None:
    """Raise what CUDA raises instead of `error`, which a CPU kernel raised in a call of `name` with GPU tensors.

    Raises:
        torch.AcceleratorError: a kernel would have found it.
    """
    if not FOUND_BY_KERNELS.search(str(error)):
        return
    if name in SUBSCRIPTS and len(args) > 1 and not _has_tensor_like(args[1]):
        return
    raise words.device_side_assert() from None


def _has_tensor_like(index: Any) -> bool:
    if isinstance(index, tuple):
        return any(_has_tensor_like(item) for item in index)
    return isinstance(index, (torch.Tensor, list)) or hasattr(index, "__array__")
