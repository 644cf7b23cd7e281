"""Models whose tensors are said to live on GPUs that need not exist, for checks that every machine can run.

They are modules like any other: a reader may ask by `parameters`, `named_buffers`, `state_dict` or whatever else names
tensors, and a tensor by `device`, `is_cuda` or `get_device`.

Chapters 10 and 11.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

__all__ = ["Leaf", "Model", "tensor_on"]


def tensor_on(device: str) -> Tensor:
    """Four ones: on the CPU or the meta device, or, in the CPU's memory, said to be on a GPU such as ``cuda:1``."""
    if torch.device(device).type != "cuda":
        return torch.ones(4, device=device)
    return torch.ones(4).as_subclass(_class_for(device))


@cache
def _class_for(device: str) -> type[Tensor]:
    """A class of its own for each device: what PyTorch makes of a tensor keeps its class and loses other attributes."""
    place = torch.device(device)
    told = {
        "device": property(lambda self: place),
        "is_cuda": property(lambda self: True),
        "is_cpu": property(lambda self: False),
        "get_device": lambda self: place.index,
    }
    return type("TensorElsewhere", (Tensor,), told)


class Leaf(nn.Module):
    """A layer with a weight, a buffer and a frequency table that is not saved, each where it is told to be."""

    def __init__(self, weight: str, buffer: str, table: str):
        super().__init__()
        self.weight = nn.Parameter(tensor_on(weight))
        self.register_buffer("mean", tensor_on(buffer))
        self.register_buffer("table", tensor_on(table), persistent=False)


class Model(nn.Module):
    """Leaves in a block, and a `device` that says what the first parameter says, as libraries' models do."""

    def __init__(self, *leaves: tuple[str, str, str]):
        super().__init__()
        self.block = nn.ModuleList(Leaf(*leaf) for leaf in leaves)

    @property
    def device(self) -> torch.device:
        """Device of the first parameter."""
        return next(self.parameters()).device
