"""What `torch.cuda` and `torch.accelerator` answer while virtual GPUs are in use.

A class per object that PyTorch's CUDA build has, and one method per function, under the function's own name. `patches`
puts them in place of the originals.
"""

# ruff: noqa: D102  (the methods are documented where their names come from: https://docs.pytorch.org, torch.cuda)

from __future__ import annotations

import abc
import contextlib
import sys
import time
import types
from typing import Any

import torch

from .devices import CAPABILITY, NAME, Devices
from .generator import VirtualGenerator

CUDA_DEVICE_TYPE = 1
"""`c10::DeviceType::CUDA`."""


class Stream(torch.Stream):
    """A queue of work. The virtual GPU finishes each piece before the next begins, so there is nothing to queue."""

    def __new__(cls, device: Any = None, priority: int = 0, **kwargs: Any):
        """A stream on `device`, by default on the current one."""
        index = VirtualGenerator.resolve("cuda" if device is None else device).index or 0
        return super().__new__(cls, stream_id=0, device_index=index, device_type=CUDA_DEVICE_TYPE)

    def __init__(self, device: Any = None, priority: int = 0, **kwargs: Any):
        """See `__new__`."""
        self.priority, self.cuda_stream = priority, 0

    def synchronize(self) -> None:
        """Nothing to wait for."""

    def wait_stream(self, stream: Stream) -> None:
        """Nothing to wait for."""

    def wait_event(self, event: Event) -> None:
        """Nothing to wait for."""

    def record_event(self, event: Event | None = None) -> Event:
        """An event that has happened."""
        event = Event() if event is None else event
        event.record(self)
        return event

    def query(self) -> bool:
        """All work is done, always."""
        return True

    def is_capturing(self) -> bool:
        """No graph is ever captured."""
        return False

    def __enter__(self) -> Stream:
        """Being current changes nothing."""
        return self

    def __exit__(self, *exc: Any) -> None:
        """See `__enter__`."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and other.device == self.device

    def __hash__(self) -> int:
        return hash(("virtual stream", self.device))

    def __repr__(self) -> str:
        return f"<torch.cuda.Stream device={self.device} cuda_stream=0x0>"


class Event:
    """A point in a stream's work."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False, **kwargs: Any):
        """Not recorded yet."""
        self._at: float | None = None

    def record(self, stream: Stream | None = None) -> None:
        """Note the host's clock: all work before has been done by now."""
        self._at = time.perf_counter()

    def elapsed_time(self, end_event: Event) -> float:
        """Milliseconds of the *host's* clock between two events: the CPU's time, not what a GPU would take."""
        if self._at is None or end_event._at is None:
            raise ValueError("Both events must be recorded before calculating elapsed time.")
        return (end_event._at - self._at) * 1000

    def wait(self, stream: Stream | None = None) -> None:
        """Nothing to wait for."""

    def synchronize(self) -> None:
        """Nothing to wait for."""

    def query(self) -> bool:
        """It has happened."""
        return True


def _register_bases() -> None:
    """Up to PyTorch 2.5 torch._dynamo insists that streams and events derive from two abstract classes of its own."""
    bases = sys.modules.get("torch._streambase")
    for name, kind in (("_StreamBase", Stream), ("_EventBase", Event)):
        base = getattr(bases, name, None)
        if isinstance(base, abc.ABCMeta):
            base.register(kind)


_register_bases()


class CudaApi:
    """The functions of `torch.cuda`, under their own names."""

    def __init__(self, devices: Devices):
        """Answer for `devices`."""
        self._devices = devices
        self._memory = devices.memory

    # ---- which devices

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def init(self) -> None:
        return None

    _lazy_init = init

    def _lazy_call(self, callable_: Any, **kwargs: Any) -> None:
        callable_()

    def device_count(self) -> int:
        return self._devices.gpus

    def current_device(self) -> int:
        return self._devices.current

    def set_device(self, device: Any) -> None:
        self._devices.current = self._devices.index(device)

    def _exchange_device(self, device: int) -> int:
        previous = self._devices.current
        if device >= 0:
            self._devices.current = self._devices.index(device)
        return previous

    _maybe_exchange_device = _exchange_device

    def get_device_name(self, device: Any = None) -> str:
        return f"{NAME} {self._devices.index(device)}"

    def get_device_capability(self, device: Any = None) -> tuple[int, int]:
        self._devices.index(device)
        return CAPABILITY

    def get_device_properties(self, device: Any = None) -> types.SimpleNamespace:
        index = self._checked(device)
        return types.SimpleNamespace(
            name=self.get_device_name(index),
            major=CAPABILITY[0],
            minor=CAPABILITY[1],
            total_memory=self._devices.vram,
            multi_processor_count=1,
            warp_size=32,
            regs_per_multiprocessor=65536,
            max_threads_per_multi_processor=2048,
            shared_memory_per_block=49152,
            shared_memory_per_block_optin=232448,
            L2_cache_size=0,
            is_integrated=False,
            is_multi_gpu_board=False,
            gcnArchName="",
            uuid=f"virtual-{index}",
        )

    def can_device_access_peer(self, device: Any, peer_device: Any) -> bool:
        return self._checked(device) != self._checked(peer_device)

    def get_arch_list(self) -> list[str]:
        return [f"sm_{CAPABILITY[0]}{CAPABILITY[1]}"]

    def is_bf16_supported(self, including_emulation: bool = True) -> bool:
        return True

    def is_tf32_supported(self) -> bool:
        return True

    # ---- memory

    def memory_allocated(self, device: Any = None) -> int:
        return self._memory.allocated(self._devices.index(device))

    def max_memory_allocated(self, device: Any = None) -> int:
        return self._memory.peak[self._devices.index(device)]

    def memory_reserved(self, device: Any = None) -> int:
        return self._memory.reserved_bytes[self._devices.index(device)]

    def max_memory_reserved(self, device: Any = None) -> int:
        return self._memory.peak_reserved[self._devices.index(device)]

    memory_cached, max_memory_cached = memory_reserved, max_memory_reserved

    def reset_peak_memory_stats(self, device: Any = None) -> None:
        self._memory.reset_peak(self._devices.index(device))

    reset_max_memory_allocated = reset_max_memory_cached = reset_peak_memory_stats

    def reset_accumulated_memory_stats(self, device: Any = None) -> None:
        self._memory.allocations[self._devices.index(device)] = 0

    def memory_stats(self, device: Any = None) -> dict[str, int]:
        index = self._devices.index(device)
        return {
            "allocated_bytes.all.current": self._memory.allocated(index),
            "allocated_bytes.all.peak": self._memory.peak[index],
            "reserved_bytes.all.current": self._memory.reserved_bytes[index],
            "reserved_bytes.all.peak": self._memory.peak_reserved[index],
            "allocation.all.allocated": self._memory.allocations[index],
            "num_ooms": 0,
        }

    def memory_summary(self, device: Any = None, abbreviated: bool = False) -> str:
        return "\n".join(f"{name}: {value}" for name, value in self.memory_stats(device).items())

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        return self._memory.free(self._devices.index(device)), self._devices.vram

    def empty_cache(self) -> None:
        self._memory.empty_cache()

    def ipc_collect(self) -> None:
        return None

    def set_per_process_memory_fraction(self, fraction: float, device: Any = None) -> None:
        return None

    # ---- order of work

    def synchronize(self, device: Any = None) -> None:
        self._devices.index(device)

    def current_stream(self, device: Any = None) -> Stream:
        return Stream(self._devices.handles[self._devices.index(device)])

    default_stream = current_stream

    def stream(self, stream: Any) -> Any:
        return contextlib.nullcontext(stream)

    def set_stream(self, stream: Any) -> None:
        return None

    def is_current_stream_capturing(self) -> bool:
        return False

    # ---- random numbers

    def manual_seed(self, seed: int) -> None:
        self._devices.generators[self._devices.current].manual_seed(int(seed))

    def manual_seed_all(self, seed: int) -> None:
        for generator in self._devices.generators:
            generator.manual_seed(int(seed))

    def seed(self) -> None:
        self._devices.generators[self._devices.current].seed()

    def seed_all(self) -> None:
        for generator in self._devices.generators:
            generator.seed()

    def initial_seed(self) -> int:
        return self._devices.generators[self._devices.current].initial_seed()

    def get_rng_state(self, device: Any = "cuda") -> torch.Tensor:
        return self._devices.generators[self._devices.index(device)].get_state()

    def get_rng_state_all(self) -> list[torch.Tensor]:
        return [generator.get_state() for generator in self._devices.generators]

    def set_rng_state(self, new_state: torch.Tensor, device: Any = "cuda") -> None:
        self._devices.generators[self._devices.index(device)].set_state(new_state)

    def set_rng_state_all(self, new_states: Any) -> None:
        for index, state in enumerate(new_states):
            self.set_rng_state(state, index)

    @property
    def default_generators(self) -> tuple[VirtualGenerator, ...]:
        return self._devices.generators

    # ---- not on a virtual GPU

    def cudart(self) -> Any:
        raise RuntimeError("The virtual GPU has no CUDA runtime.")

    def _checked(self, device: Any) -> int:
        index = device if type(device) is int else self._devices.index(device)
        if not 0 <= index < self._devices.gpus:
            raise AssertionError("Invalid device id")
        return index


class CUDAGraph:
    """Refused: there are no kernels to capture."""

    def __init__(self, *args: Any, **kwargs: Any):
        """Raise."""
        raise RuntimeError("CUDA graphs need a real GPU: the virtual GPU has no kernels to capture.")


class AcceleratorApi:
    """The functions of `torch.accelerator`, under their own names."""

    def __init__(self, cuda: CudaApi):
        """Answer as `torch.cuda` does."""
        self.is_available = cuda.is_available
        self.device_count = cuda.device_count
        self.current_device_index = self.current_device_idx = cuda.current_device
        self.set_device_index = self.set_device_idx = cuda.set_device
        self.current_stream, self.set_stream, self.synchronize = cuda.current_stream, cuda.set_stream, cuda.synchronize
        self.empty_cache, self.get_memory_info = cuda.empty_cache, cuda.mem_get_info
        self.memory_allocated, self.max_memory_allocated = cuda.memory_allocated, cuda.max_memory_allocated
        self.memory_reserved, self.max_memory_reserved = cuda.memory_reserved, cuda.max_memory_reserved
        self.memory_stats, self.reset_peak_memory_stats = cuda.memory_stats, cuda.reset_peak_memory_stats
        self.reset_accumulated_memory_stats = cuda.reset_accumulated_memory_stats

    def current_accelerator(self, check_available: bool = False) -> torch.device:
        """The kind of accelerator, with no index."""
        return torch.device("cuda")
