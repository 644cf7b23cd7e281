"""The ledger: on which device every tensor lives, and how a whole call's tensors are looked up at once.

`Memory` keeps it by storage; here it is asked and told by tensor, also for tensors that have no storage. All rooms of
the virtual GPU share one `Ledger`.
"""

from __future__ import annotations

from typing import Any

import torch

from .devices import Devices

ON_CPU, NOT_SEEN, MIXED = -1, -2, -3
"""Homes that are not the index of a GPU."""

Tensor = torch.Tensor
storage_of = Tensor.untyped_storage
real_device = Tensor.device.__get__


class Ledger:
    """Where each tensor lives. `devices` are the GPUs, `memory` theirs, `blocks` its map from storage to GPU."""

    def __init__(self, devices: Devices):
        """Keep books for `devices`."""
        self.devices = devices
        self.memory = devices.memory
        self.blocks = devices.memory.blocks

    def index_of(self, tensor: torch.Tensor) -> int:
        """The index of the GPU that `tensor` lives on, -1 for the CPU."""
        try:
            block = self.blocks.get(storage_of(tensor)._cdata)
        except (NotImplementedError, RuntimeError):  # no storage: sparse, or a wrapper of `torch.vmap`
            inner = unwrapped(tensor)
            return getattr(tensor, "_virtual_gpu", ON_CPU) if inner is tensor else self.index_of(inner)
        return ON_CPU if block is None else block.index

    def device_of(self, tensor: torch.Tensor) -> torch.device:
        """The device of `tensor`, as it shall appear."""
        index = self.index_of(tensor)
        return real_device(tensor) if index < 0 else self.devices.handles[index]

    def place(self, tensor: torch.Tensor, index: int) -> None:
        """Say that `tensor`, just made, lives on GPU `index`; one that shares a placed storage stays where it is."""
        try:
            storage = storage_of(tensor)
        except (NotImplementedError, RuntimeError):
            inner = unwrapped(tensor)
            if inner is tensor:
                tensor._virtual_gpu = index
            else:
                self.place(inner, index)
            return
        if storage._cdata not in self.blocks:
            self.memory.place(storage, index)

    def place_all(self, result: Any, index: int) -> None:
        """`place` each tensor in a result, which may be a tensor or tuples and lists of them."""
        if isinstance(result, torch.Tensor):
            self.place(result, index)
        elif isinstance(result, (tuple, list)):
            for item in result:
                if isinstance(item, Tensor):
                    self.place(item, index)
                elif item is not None:
                    self.place_all(item, index)
        elif isinstance(result, dict):
            for item in result.values():
                self.place_all(item, index)

    def home(self, values: Any) -> int:
        """Where all tensors in `values` live: the index of a GPU, ON_CPU, MIXED, or NOT_SEEN if there are none."""
        found = NOT_SEEN
        for value in values:
            if isinstance(value, Tensor):
                index = self.index_of(value)
            elif isinstance(value, (list, tuple)):
                index = self.home(value)
            elif isinstance(value, dict):
                index = self.home(value.values())
            else:
                continue
            if index == NOT_SEEN or index == found:
                continue
            if found != NOT_SEEN:
                return MIXED
            found = index
        return found


def unwrapped(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor inside the wrappers that `torch.vmap` and its kin pass to the function; itself outside of them."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor
