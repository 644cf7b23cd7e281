"""Tensors that leave PyTorch's hands and come back: DLPack, functionalization, memory shared between processes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode

from .ledger import Ledger, tensors_in

if TYPE_CHECKING:
    from .patches import Patches


def apply(patches: Patches, ledger: Ledger) -> None:
    """Put what is below in place of the originals."""
    wrapped = from_dlpack(ledger, torch.utils.dlpack.from_dlpack)
    for module in (torch, torch.utils.dlpack):
        patches.set(module, "from_dlpack", wrapped)
        if "to_dlpack" in vars(module):
            patches.set(module, "to_dlpack", to_dlpack(ledger, torch._C._to_dlpack))
    patches.set(torch.func, "functionalize", functionalize(ledger, torch.func.functionalize))
    patches.set(torch.UntypedStorage, "_share_cuda_", share_with_process)


def from_dlpack(ledger: Ledger, original: Callable) -> Callable:
    """`torch.from_dlpack`, here `original`: a tensor of a GPU comes back as another tensor with the same memory."""

    @functools.wraps(original)
    def from_dlpack(ext_tensor: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not isinstance(ext_tensor, torch.Tensor) or ledger.index_of(ext_tensor) < 0 or args or kwargs:
            return original(ext_tensor, *args, **kwargs)
        if ext_tensor.requires_grad:
            raise BufferError("Can't export tensors that require gradient, use tensor.detach()")
        return ext_tensor.detach()

    return from_dlpack


def to_dlpack(ledger: Ledger, original: Callable) -> Callable:
    """`torch.utils.dlpack.to_dlpack`, here `original`, for tensors on the CPU.

    Raises:
        BufferError: a tensor on a virtual GPU.
    """

    @functools.wraps(original)
    def to_dlpack(tensor: torch.Tensor) -> Any:
        if isinstance(tensor, torch.Tensor) and ledger.index_of(tensor) >= 0:
            raise BufferError("The virtual GPU has no CUDA memory to share: move the tensor with .cpu() first.")
        return original(tensor)

    return to_dlpack


def functionalize(ledger: Ledger, original: Callable) -> Callable:
    """`torch.func.functionalize`, here `original`, which wraps tensors in C++ so that no device is seen.

    It changes which operators are recorded, not what comes out. So where nobody records, the function itself is called
    with tensors on a GPU.
    """

    @functools.wraps(original)
    def functionalize(func: Callable, *options: Any, **named: Any) -> Callable:
        recorded = original(func, *options, **named)

        @functools.wraps(func)
        def called(*args: Any, **kwargs: Any) -> Any:
            on_gpu = any(ledger.index_of(tensor) >= 0 for tensor in tensors_in((args, kwargs)))
            plain = on_gpu and ledger.devices.live and _get_current_dispatch_mode() is None
            return (func if plain else recorded)(*args, **kwargs)

        return called

    return functionalize


def share_with_process(*args: Any, **kwargs: Any) -> NoReturn:
    """In place of `UntypedStorage._share_cuda_`, which sends a GPU tensor to another process.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError(
        "Sharing a GPU tensor with another process needs a real GPU: on the virtual GPU there is no CUDA memory to "
        "share. Send it with .cpu() and move it in the other process."
    )
