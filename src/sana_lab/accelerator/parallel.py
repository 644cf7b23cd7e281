"""Scatter, gather and broadcast over virtual GPUs: what `torch.nn.parallel.comm`, and so `DataParallel`, asks C++ for.

The functions are those of torch/csrc/cuda/python_comm.cpp, with the checks and the words of torch/csrc/cuda/comm.cpp
(PyTorch 2.11). A build without CUDA has none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .devices import CPU


def _scatter(
    tensor: torch.Tensor, devices: Sequence[int], chunk_sizes: Sequence[int] | None, dim: int, streams: Any = None
) -> list[torch.Tensor]:
    """Pieces of `tensor` along `dim`, one for each of `devices`; fewer where there is not enough for all."""
    if not devices:
        raise RuntimeError("Expected at least one device to scatter to")
    if chunk_sizes is None:
        pieces = tensor.chunk(len(devices), dim)
    else:
        total, size = sum(chunk_sizes), tensor.size(dim)
        if total != size:
            raise RuntimeError(
                "given chunk sizes don't sum up to the tensor's size "
                f"(sum(chunk_sizes) == {total}, but expected {size})"
            )
        pieces = tensor.split(list(chunk_sizes), dim)
    return [piece.to(_gpu(device)) for piece, device in zip(pieces, devices, strict=False)]


def _scatter_out(tensor: torch.Tensor, out: Sequence[torch.Tensor], dim: int, streams: Any = None) -> list:
    """The same into tensors that are there."""
    if not out:
        raise RuntimeError("Expected at least one output tensor to scatter to")
    _all_on_gpus(out)
    total, size = sum(part.size(dim) for part in out), tensor.size(dim)
    if total != size:
        raise RuntimeError(
            f"Total size for output tensors along scatter dim {dim} does not match the one of input tensor at scatter "
            f"dim. Expected {size}, but got {total}"
        )
    for part, piece in zip(out, tensor.split([part.size(dim) for part in out], dim), strict=True):
        part.copy_(piece)
    return list(out)


def _broadcast(tensor: torch.Tensor, devices: Sequence[int]) -> list[torch.Tensor]:
    """`tensor` on each of `devices`; itself where it is already."""
    for device in devices:
        if device < 0:
            raise RuntimeError(f"Expected non-negative device index, but got {device}")
    return [tensor.to(_gpu(device)) for device in devices]


def _broadcast_out(tensor: torch.Tensor, out: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The same into tensors that are there."""
    _all_on_gpus(out)
    for i, copy in enumerate(out):
        if copy.shape != tensor.shape:
            raise RuntimeError(
                "Expected all output tensors to have same shape as the source tensor "
                f"{list(tensor.shape)}, but output tensor at index {i} has shape {list(copy.shape)}"
            )
        copy.copy_(tensor)
    return list(out)


def _broadcast_coalesced(
    tensors: Sequence[torch.Tensor], devices: Sequence[int], buffer_size: int = 0
) -> list[list[torch.Tensor]]:
    """Several tensors, all on the first of `devices`, on each of them."""
    if any(tensor.get_device() != devices[0] for tensor in tensors):
        raise RuntimeError(f"All tensors must be on devices[0]: {devices[0]}")
    return [[tensor if i == 0 else tensor.to(_gpu(device)) for tensor in tensors] for i, device in enumerate(devices)]


def _gather(tensors: Sequence[torch.Tensor], dim: int, destination: int | None = None) -> torch.Tensor:
    """All of `tensors`, which are on GPUs, joined along `dim` on GPU `destination`: None the current, -1 the CPU."""
    _all_fit(tensors, dim)
    where = torch.device("cuda") if destination is None else CPU if destination == -1 else _gpu(destination)
    return torch.cat([tensor.to(where) for tensor in tensors], dim)


def _gather_out(tensors: Sequence[torch.Tensor], out: torch.Tensor, dim: int) -> torch.Tensor:
    """The same into a tensor that is there."""
    _all_fit(tensors, dim)
    return out.copy_(torch.cat([tensor.to(out.device) for tensor in tensors], dim))


FUNCTIONS = (_scatter, _scatter_out, _broadcast, _broadcast_out, _broadcast_coalesced, _gather, _gather_out)


def _gpu(index: int) -> torch.device:
    return torch.device("cuda", index)


def _all_on_gpus(outputs: Sequence[torch.Tensor]) -> None:
    for i, tensor in enumerate(outputs):
        if not tensor.is_cuda:
            raise RuntimeError(
                "Expected all output tensors to be CUDA tensors, but output tensor at index "
                f"{i} has device '{tensor.device}'"
            )


def _all_fit(tensors: Sequence[torch.Tensor], dim: int) -> None:
    if not tensors:
        raise RuntimeError("Expected at least one tensor to gather from")
    first = tensors[0]
    for i, tensor in enumerate(tensors):
        if not tensor.is_cuda:
            raise RuntimeError(
                f"Expected all input tensors to be CUDA tensors, but tensor at index {i} has device {tensor.device}"
            )
        if tensor.dim() != first.dim():
            raise RuntimeError(
                f"Expected all input tensors to have the same number of dimensions, but tensor at index {i} has "
                f"{tensor.dim()} dimensions, (expected {first.dim()})"
            )
