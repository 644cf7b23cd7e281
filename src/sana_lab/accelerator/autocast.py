"""Automatic mixed precision for virtual GPUs: `torch.autocast("cuda")` casts what CUDA's autocast casts.

PyTorch keeps the state (`torch.is_autocast_enabled("cuda")`), also in a build with no CUDA, but attaches the casts to
real CUDA tensors. The lists are those of ATen/autocast_mode.h (PyTorch 2.13) as far as they have names in Python.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .ledger import Ledger, tensors_in, with_tensors

LOWER = """
    conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d conv_transpose3d convolution prelu addmm addmv addr
    matmul __matmul__ __rmatmul__ einsum mm mv linalg_vecdot linalg_multi_dot multi_dot linear addbmm baddbmm bmm
    chain_matmul scaled_dot_product_attention
""".split()
FLOAT32 = """
    __pow__ __rpow__ __rdiv__ acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow
    softplus layer_norm native_layer_norm group_norm rms_norm frobenius_norm nuclear_norm cosine_similarity
    poisson_nll_loss cosine_embedding_loss nll_loss hinge_embedding_loss kl_div l1_loss smooth_l1_loss huber_loss
    mse_loss margin_ranking_loss multilabel_margin_loss soft_margin_loss triplet_margin_loss multi_margin_loss
    cross_entropy binary_cross_entropy_with_logits dist pdist cdist renorm logsumexp softmax log_softmax cumprod cumsum
    prod sum norm interpolate upsample
""".split()
WIDEST = """
    addcdiv addcmul atan2 bilinear cross dot vdot grid_sample index_put tensordot scatter_add cat stack concat
""".split()

POLICY: dict[str, str] = {
    **dict.fromkeys(LOWER, "lower"),
    **dict.fromkeys(FLOAT32, "float32"),
    **dict.fromkeys(WIDEST, "widest"),
}


def wrap(ledger: Ledger, policy: str, handler: Callable) -> Callable:
    """`handler`, with the tensor arguments on a GPU cast as `policy` says while autocast is on."""

    def autocast(func: Callable, args: tuple, kwargs: dict) -> Any:
        if not torch.is_autocast_enabled("cuda"):
            return handler(func, args, kwargs)
        if policy == "lower":
            dtype = torch.get_autocast_dtype("cuda")
        elif policy == "float32":
            dtype = torch.float32
        else:
            given = [t for t in tensors_in((args, kwargs)) if t.is_floating_point()]
            found = [t.dtype for t in given if ledger.index_of(t) >= 0]
            if len(set(found)) < 2:
                return handler(func, args, kwargs)
            dtype = torch.float32 if torch.float32 in found else found[0]
        return handler(func, _cast(ledger, args, dtype), _cast(ledger, kwargs, dtype))

    return autocast


def _cast(ledger: Ledger, value: Any, dtype: torch.dtype) -> Any:
    def cast(tensor: torch.Tensor) -> torch.Tensor:
        index = ledger.index_of(tensor)
        if index < 0 or not tensor.is_floating_point() or tensor.dtype in (dtype, torch.float64):
            return tensor
        result = tensor.to(dtype)
        ledger.place(result, index)
        return result

    return with_tensors(value, cast)
