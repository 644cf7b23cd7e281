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
    """A type of tensors: its instances are the tensors on a GPU of one dtype, a call makes one on the current GPU."""

    def __instancecheck__(cls, instance: Any) -> bool:
        if not isinstance(instance, torch.Tensor) or cls._ledger.index_of(instance) < 0:
            return False
        return instance.dtype == cls.dtype and instance.layout == cls.layout

    def __call__(cls, *args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        """What the same constructor makes on the CPU, on the current GPU.

        Raises:
            RuntimeError: `device` is not a GPU.
            TypeError: a tensor from elsewhere, or what PyTorch says of arguments that it cannot use.
        """
        warnings.warn(
            "The torch.cuda.*DtypeTensor constructors are no longer recommended. It's best to use methods such as "
            "torch.tensor(data, dtype=*, device='cuda') to create tensors.",
            UserWarning,
            stacklevel=2,
        )
        ledger = cls._ledger
        if device is not None and torch.device(device).type != "cuda":
            raise RuntimeError(
                f"legacy constructor expects device type: cuda but device type: {torch.device(device).type} was passed"
            )
        index = ledger.devices.resolve("cuda" if device is None else device).index
        if args and isinstance(args[0], torch.Tensor) and ledger.index_of(args[0]) < 0:
            dtype = str(args[0].dtype).removeprefix("torch.")
            raise TypeError(f"expected torch.cuda.{cls.__name__} (got a tensor of {dtype} on {args[0].device})")
        with torch._C.DisableTorchFunction():
            made = cls._on_cpu(*args, **kwargs)
        ledger.place(made, index)
        return made


def types(ledger: Ledger) -> dict[str, LegacyType]:
    """One for each of the names in `torch.cuda`."""
    found = {}
    for name, value in vars(torch.cuda).items():
        if type(value).__name__ == "tensortype" and hasattr(torch, name):
            attributes = {
                "_ledger": ledger,
                "_on_cpu": getattr(torch, name),
                "__module__": "torch.cuda",
                "__doc__": f"Tensors of {value.dtype} on a GPU.",
                "dtype": value.dtype,
                "layout": value.layout,
                "is_cuda": True,
                "is_sparse": False,
            }
            found[name] = LegacyType(name, (), attributes)
    return found


def default_setter(original: Callable) -> tuple[Callable, Callable]:
    """`torch.set_default_tensor_type`, here `original`, for types on a GPU too, and what takes its effect back."""
    before: list[tuple[torch.dtype, Any]] = []

    def set_default_tensor_type(t: Any) -> None:
        name = t if isinstance(t, str) else f"{getattr(t, '__module__', '')}.{getattr(t, '__name__', '')}"
        on_gpu = name.startswith("torch.cuda.")
        plain = name.replace("torch.cuda.", "torch.")
        kept = torch.get_default_dtype()
        original(plain if on_gpu else t)  # checks it, and sets the dtype
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
