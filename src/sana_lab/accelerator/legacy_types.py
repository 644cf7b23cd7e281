"""`torch.cuda.FloatTensor` and its kin: old names for a type on a device, still called, and asked for in `isinstance`.

A PyTorch without CUDA has objects under these names that refuse all calls (torch/csrc/tensor/python_tensor.cpp).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch

from .ledger import Ledger


class LegacyType(type):
    """A type of tensors: its instances are the tensors of one dtype on a GPU, or on the CPU; a call makes one there."""

    def __instancecheck__(cls, instance: Any) -> bool:
        if not isinstance(instance, torch.Tensor) or not cls._ledger.devices.live:
            return isinstance(instance, cls._original)
        if (cls._ledger.index_of(instance) >= 0) != cls.is_cuda:
            return False
        if not cls.is_cuda:
            return isinstance(instance, cls._original)
        return instance.dtype == cls.dtype and instance.layout == cls.layout

    def __call__(cls, *args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        """What the same constructor makes on the CPU, on the current GPU.

        Raises:
            RuntimeError: `device` is of another kind.
            TypeError: a tensor from elsewhere, or what PyTorch says of arguments that it cannot use.
        """
        ledger = cls._ledger
        given = args[0] if args and isinstance(args[0], torch.Tensor) else None
        if not cls.is_cuda or not ledger.devices.live:
            if given is not None and ledger.index_of(given) >= 0 and ledger.devices.live:
                raise _unexpected(cls, given)
            return cls._original(*args, **kwargs, **({} if device is None else {"device": device}))
        warnings.warn(
            "The torch.cuda.*DtypeTensor constructors are no longer recommended. It's best to use methods such as "
            "torch.tensor(data, dtype=*, device='cuda') to create tensors.",
            UserWarning,
            stacklevel=2,
        )
        if device is not None and torch.device(device).type != "cuda":
            raise RuntimeError(
                f"legacy constructor expects device type: cuda but device type: {torch.device(device).type} was passed"
            )
        index = ledger.devices.resolve("cuda" if device is None else device).index
        if given is not None and (ledger.index_of(given) < 0 or given.dtype != cls.dtype):
            raise _unexpected(cls, given)
        with torch._C.DisableTorchFunction():
            made = cls._on_cpu(*args, **kwargs)
        ledger.place(made, index)
        return made


def _unexpected(kind: LegacyType, given: torch.Tensor) -> TypeError:
    """A tensor that is no `kind` (torch/csrc/utils/tensor_new.cpp, `legacy_tensor_generic_ctor_new`)."""
    device = kind._ledger.device_of(given)
    with torch._C.DisableTorchFunction():
        found = _options(given.dtype).format(device=device)
    expected = _options(kind.dtype).format(device="cuda" if kind.is_cuda else "cpu")
    return TypeError(f"expected {expected} (got {found})")


def _options(dtype: torch.dtype) -> str:
    """How C++ prints the options of a tensor, with `{device}` in place of its device: taken from such an error here."""
    refusing = _TYPE_OF_FLOAT if dtype != torch.float32 else _TYPE_OF_DOUBLE
    try:
        refusing(torch.empty(0, dtype=dtype, device="cpu"))
    except TypeError as error:
        return str(error).partition("(got ")[2][:-1].replace("device=cpu", "device={device}")
    raise AssertionError(f"on the virtual GPU a tensor of {dtype} was taken for one of another type")


_TYPE_OF_FLOAT, _TYPE_OF_DOUBLE = torch.FloatTensor, torch.DoubleTensor


def types(ledger: Ledger) -> list[tuple[Any, str, LegacyType]]:
    """Module, name and type for each of these names in `torch`, `torch.cuda` and, for sparse tensors, `sparse`."""
    found = []
    for on_cpu, on_gpu in ((torch, torch.cuda), (torch.sparse, torch.cuda.sparse)):
        for name, value in list(vars(on_gpu).items()):
            if type(value).__name__ == "tensortype" and hasattr(on_cpu, name):
                for module, original in ((on_gpu, value), (on_cpu, vars(on_cpu)[name])):
                    attributes = {
                        "_ledger": ledger,
                        "_original": original,
                        "_on_cpu": vars(on_cpu)[name],
                        "__module__": module.__name__,
                        "__doc__": f"Tensors of {value.dtype} on {'a GPU' if module is on_gpu else 'the CPU'}.",
                        "dtype": value.dtype,
                        "layout": value.layout,
                        "is_cuda": module is on_gpu,
                        "is_sparse": on_cpu is torch.sparse,
                    }
                    found.append((module, name, LegacyType(name, (), attributes)))
    return found


def default_setter(original: Callable) -> tuple[Callable, Callable]:
    """`torch.set_default_tensor_type`, here `original`, for types on a GPU too, and what takes its effect back."""
    before: list[tuple[torch.dtype, Any]] = []

    def set_default_tensor_type(t: Any) -> None:
        kind = torch._utils._import_dotted_name(t) if isinstance(t, str) else t
        on_gpu = isinstance(kind, LegacyType) and kind.is_cuda
        kept = torch.get_default_dtype()
        original(kind._on_cpu if isinstance(kind, LegacyType) else kind)  # checks it, and sets the dtype
        if on_gpu and not before:
            before.append((kept, None))
        if on_gpu:
            torch.set_default_device("cuda")
        elif before:
            torch.set_default_device(None)
            before.clear()

    def take_back() -> None:
        if before:
            torch.set_default_device(None)
            torch.set_default_dtype(before.pop()[0])

    return set_default_tensor_type, take_back
