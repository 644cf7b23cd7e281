"""The ledger: on which device every tensor lives, and how a whole call's tensors are looked up at once.

`Memory` keeps it by storage; here it is asked and told by tensor, also for tensors that have no storage. All rooms of
the virtual GPU share one `Ledger`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

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
        except (NotImplementedError, RuntimeError):  # no storage of its own
            inner = parts(tensor)
            return getattr(tensor, "_virtual_gpu", ON_CPU) if inner is None else self.index_of(inner[0])
        if block is not None:
            return block.index
        return self.index_of(_attributes(tensor)[0]) if wraps(tensor) else ON_CPU

    def device_of(self, tensor: torch.Tensor) -> torch.device:
        """The device of `tensor`, as it shall appear."""
        index = self.index_of(tensor)
        return real_device(tensor) if index < 0 else self.devices.handles[index]

    def place(self, tensor: torch.Tensor, index: int) -> None:
        """Say that `tensor`, just made, lives on GPU `index`; one that shares a placed storage stays where it is."""
        if wraps(tensor):  # its own storage holds nothing
            for inner in _attributes(tensor):
                self.place(inner, index)
            return
        try:
            storage = storage_of(tensor)
        except (NotImplementedError, RuntimeError):
            for part in _noted(tensor, index):
                self.place(part, index)
            return
        if storage._cdata not in self.blocks and tensor.device.type == "cpu":
            self.memory.place(storage, index)

    def rehome(self, tensor: torch.Tensor, index: int) -> None:
        """Say that `tensor` lives on GPU `index`, -1 for the CPU, whatever was noted before."""
        try:
            storage = storage_of(tensor)
        except (NotImplementedError, RuntimeError):
            for part in _noted(tensor, index):
                self.rehome(part, index)
            return
        self.memory.move(storage, index)

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


def parts(tensor: torch.Tensor) -> list[torch.Tensor] | None:
    """The tensors with a storage that one without consists of: in `torch.vmap`'s wrappers, in sparse layouts.

    None where PyTorch shows none.
    """
    inner = unwrapped(tensor)
    if inner is not tensor:
        return [inner]
    with torch._C.DisableTorchFunction(), torch.no_grad():
        if tensor.layout == torch.sparse_coo:
            return [tensor._values(), tensor._indices()]
        if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
            return [tensor.values(), tensor.crow_indices(), tensor.col_indices()]
        if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
            return [tensor.values(), tensor.ccol_indices(), tensor.row_indices()]
    return None


def _noted(tensor: torch.Tensor, index: int) -> Iterable[torch.Tensor]:
    """`parts` of a tensor without a storage; one whose parts PyTorch does not show notes itself where it lives."""
    inner = parts(tensor)
    if inner is None:
        tensor._virtual_gpu = index
    return inner or ()


def wraps(tensor: torch.Tensor) -> bool:
    """Whether `tensor` is of a subclass that wraps others, such as a jagged nested one."""
    return type(tensor) not in (Tensor, torch.nn.Parameter) and is_traceable_wrapper_subclass(tensor)


def _attributes(tensor: torch.Tensor) -> list[torch.Tensor]:
    """What such a tensor wraps."""
    return [inner for name in tensor.__tensor_flatten__()[0] if (inner := getattr(tensor, name)) is not None]


def unwrapped(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor inside the wrappers that `torch.vmap` and its kin pass to the function; itself outside of them."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def tensors_in(value: Any) -> list[torch.Tensor]:
    """All tensors in `value`, which may be nested: lists, tuples and the values of dicts."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in tensors_in(item)]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in tensors_in(item)]
    return []


def with_tensors(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """`value`, nested as for `tensors_in`, with `change` of each tensor in its place; named tuples stay such."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (list, tuple)):
        items = (with_tensors(item, change) for item in value)
        return value._make(items) if hasattr(value, "_make") else type(value)(items)
    if isinstance(value, dict):
        return {key: with_tensors(item, change) for key, item in value.items()}
    return value
