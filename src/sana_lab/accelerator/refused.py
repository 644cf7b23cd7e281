"""What the virtual GPU refuses, in words: functions that need CUDA's runtime, and would fail inside C++ or worse."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import torch

from .ledger import Ledger, tensors_in

EXPORTERS = ("export", "export_for_training", "draft_export")
"""Functions of `torch.export`. They trace with tensors that pretend to be on a device, in C++, which asks the CUDA
library for it and ends the process where there is none (PyTorch 2.13)."""

RUNTIME = "there is no CUDA runtime"
ALLOCATOR = "there is no allocator of CUDA memory"

FUNCTIONS: dict[str, dict[str, str]] = {
    "torch.cuda": {
        "cudart": RUNTIME,
        "current_blas_handle": "there is no cuBLAS",
        "current_solver_handle": "there is no cuSOLVER",
        "set_sync_debug_mode": "there is nothing to wait for",
        "get_stream_from_external": RUNTIME,
        "_sleep": "there is no queue of work",
        "caching_allocator_alloc": ALLOCATOR,
        "caching_allocator_delete": ALLOCATOR,
        "caching_allocator_enable": ALLOCATOR,
        "host_memory_stats": ALLOCATOR,
        "utilization": RUNTIME,
        "temperature": RUNTIME,
        "power_draw": RUNTIME,
        "clock_rate": RUNTIME,
        "memory_usage": RUNTIME,
        "device_memory_used": RUNTIME,
        "list_gpu_processes": RUNTIME,
        "MemPool": ALLOCATOR,
        "use_mem_pool": ALLOCATOR,
    },
    "torch.cuda.memory": {
        "caching_allocator_alloc": ALLOCATOR,
        "caching_allocator_delete": ALLOCATOR,
        "caching_allocator_enable": ALLOCATOR,
        "change_current_allocator": ALLOCATOR,
        "host_memory_stats": ALLOCATOR,
        "list_gpu_processes": RUNTIME,
        "_record_memory_history": ALLOCATOR,
        "_dump_snapshot": ALLOCATOR,
        "_snapshot": ALLOCATOR,
        "MemPool": ALLOCATOR,
        "use_mem_pool": ALLOCATOR,
    },
    "torch.cuda.profiler": {"start": RUNTIME, "stop": RUNTIME, "init": RUNTIME},
    "torch.cuda.nvtx": {"range_push": RUNTIME, "range_pop": RUNTIME, "mark": RUNTIME, "range_start": RUNTIME},
}
"""Module -> function -> what it would need."""


def function(name: str, why: str) -> Callable[..., NoReturn]:
    """A function in place of `name`.

    Raises:
        RuntimeError: always.
    """

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise RuntimeError(f"{name} needs a real GPU: on the virtual GPU {why}.")

    refuse.__name__ = name.rpartition(".")[2]
    return refuse


def export(ledger: Ledger, name: str, original: Callable) -> Callable:
    """`torch.export.<name>`, here `original`, for modules and inputs on the CPU alone.

    Raises:
        RuntimeError: one is on a virtual GPU.
    """

    @functools.wraps(original)
    def export_from_cpu(mod, args=(), kwargs=None, *more: Any, **options: Any) -> Any:
        held = [*mod.parameters(), *mod.buffers()] if isinstance(mod, torch.nn.Module) else []
        if any(ledger.index_of(tensor) >= 0 for tensor in [*held, *tensors_in((args, kwargs))]):
            raise RuntimeError(
                f"torch.export.{name} needs a real GPU for a module or inputs on one: it traces inside the CUDA "
                "library. Move both to the CPU first, or run this on a machine with a CUDA device."
            )
        return original(mod, args, kwargs, *more, **options)

    return export_from_cpu


def profile(init: Callable) -> Callable:
    """`torch.autograd.profiler.profile.__init__`, here `init`, which `torch.profiler` ends in: of the CPU alone."""

    @functools.wraps(init)
    def __init__(self, enabled: bool = True, *args: Any, **kwargs: Any) -> None:
        if enabled and (kwargs.get("use_device") == "cuda" or kwargs.get("use_cuda")):
            warnings.warn(
                "The virtual GPU has no kernels to profile: times are those of the CPU's operators.", stacklevel=3
            )
            kwargs = {**kwargs, "use_device": None}
            kwargs.pop("use_cuda", None)
        init(self, enabled, *args, **kwargs)

    return __init__
