"""Looking inside a call whose tensors live on several devices: PyTorch's own decomposition decides, step by step.

Most functions are made of a few kernels: `einsum` ends in `bmm`, `kron` in `mul`, `pad_sequence` in copies. While such
a call runs here, PyTorch shows each kernel that it comes to, and each compares devices as CUDA's would: in the
generated wrapper, where `native_functions.yaml` asks for one, or as `TensorIterator` does. What a kernel makes gets its
place, so the next one sees it where a real GPU would have it. This runs for mixed devices only; all other calls pay
nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from . import mismatch, schemas
from .ledger import tensors_in
from .mismatch import CPU, Given

_KERNELS = {torch.sparse_coo: "SparseCPU", torch.sparse_csr: "SparseCsrCPU", torch.strided: "CPU"}
"""Layout -> where PyTorch keeps the kernels that take it on a processor."""

ACROSS = frozenset(
    """
    copy_ _to_copy _copy_from _foreach_copy_ is_same_size expand_as view_as reshape_as set_ result_type type_as
    """.split()
)
"""Kernels that may see several devices."""

_storage_of = torch.Tensor.untyped_storage


class Inside(TorchDispatchMode):
    """Checks each kernel of one call. `index_of` and `place` are the books of the mode that uses it."""

    def __init__(self, device_of: Callable, place: Callable):
        """Nothing made yet."""
        super().__init__()
        self.device_of, self.place = device_of, place
        self.loose: dict[int, Any] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """PyTorch calls this for each kernel."""
        kwargs = kwargs or {}
        given = self.given(func, args, kwargs)
        placed = [g for g in given if g.device is not None]
        devices = {g.device for g in placed}
        if not devices:
            result = func(*args, **kwargs)
            if not given:  # `at::empty(size, x.options())`: where `x` is, which PyTorch does not show
                for tensor in tensors_in(result):
                    self._loosen(tensor)
            return result
        name = func._schema.name.partition("::")[2]
        if len(devices) == 1:
            result, home = func(*args, **kwargs), placed[0].device
        elif name in ACROSS:
            result, home = func(*args, **kwargs), placed[0].device
        else:
            operator = schemas.operator(name, func._overloadname)
            if name.startswith("_foreach_") or operator is None or operator.composite:
                with self:
                    return func.redispatch(_kernels(given), *args, **kwargs)
            mismatch.compare(name, operator, placed)
            home = mismatch.home(name, placed)
            result = func(*args, **kwargs)
        copied_into_loose = name == "copy_" and given[0].device is None  # it stays where it was made
        if home.type == "cuda" and not copied_into_loose:
            for tensor in tensors_in(result):
                self._settle(tensor, home)
        return result

    def given(self, func: Any, args: tuple, kwargs: dict) -> list[Given]:
        """The tensors of a kernel's call under the names of its schema; device None where nobody knows yet."""
        names = [argument.name for argument in func._schema.arguments]
        found = []
        for name, value in [*zip(names, args, strict=False), *kwargs.items()]:
            for tensor in tensors_in(value):
                found.append(Given(name, tensor, None if self._is_loose(tensor) else self.device_of(tensor)))
        return found

    def home_of_result(self, result: Any, first: torch.device) -> None:
        """Give what is still loose in a call's result the device of its first tensor."""
        if first != CPU:
            for tensor in tensors_in(result):
                if self._is_loose(tensor):
                    self._settle(tensor, first)

    def _settle(self, tensor: torch.Tensor, home: torch.device) -> None:
        if tensor.device.type == "cpu":
            storage = _storage(tensor)
            if storage is not None:
                self.loose.pop(storage._cdata, None)
            self.place(tensor, home.index)

    def _loosen(self, tensor: torch.Tensor) -> None:
        storage = _storage(tensor)
        if storage is not None and tensor.device.type == "cpu":
            self.loose[storage._cdata] = storage  # kept, so that its address is not used again

    def _is_loose(self, tensor: torch.Tensor) -> bool:
        storage = _storage(tensor)
        return storage is not None and storage._cdata in self.loose


def _storage(tensor: torch.Tensor) -> torch.UntypedStorage | None:
    try:
        return _storage_of(tensor)
    except (NotImplementedError, RuntimeError):  # sparse, nested, or a wrapper of `torch.func`
        return None


def _kernels(given: list[Given]) -> torch._C.DispatchKeySet:
    layouts = {g.tensor.layout for g in given}
    names = ["NestedTensorCPU"] if any(g.tensor.is_nested for g in given) else []
    names += [name for layout, name in _KERNELS.items() if layout in layouts]
    return torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, names[0] if names else "CPU"))
