"""What `torch.cuda` and `torch.accelerator` answer while virtual GPUs are in use.

A class per object that PyTorch's CUDA build has, and one method per function, under the function's own name. `patches`
puts them in place of the originals.
"""

# ruff: noqa: D102  (the methods are documented where their names come from: https://docs.pytorch.org, torch.cuda)

from __future__ import annotations

import abc
import dataclasses
import itertools
import math
import sys
import time
from typing import Any

import torch

from . import statistics, words
from .devices import CAPABILITY, NAME, Devices
from .generator import VirtualGenerator

CUDA_DEVICE_TYPE = 1
"""`c10::DeviceType::CUDA`."""

WARM_UP_REST = math.ceil(1.2 * 1024**3)
"""Bytes that transformers' warm-up of the allocator leaves free (5.23, modeling_utils.py, `caching_allocator_warmup`).

On a smaller card it asks for a negative number of bytes. It is told that the card has just that much: then it asks for
none, and the weights that follow fit or do not fit by themselves. Everybody else is told the truth.
"""


class Stream(torch.Stream):
    """A queue of work. The virtual GPU finishes each piece before the next begins, so there is nothing to queue."""

    _ids = itertools.count(1)

    def __new__(cls, device: Any = None, priority: int = 0, stream_id: int | None = None, **kwargs: Any):
        """A new stream on `device`, by default on the current one; number 0 is a device's default stream."""
        index = VirtualGenerator.resolve("cuda" if device is None else device).index or 0
        number = next(cls._ids) if stream_id is None else stream_id
        return super().__new__(cls, stream_id=number, device_index=index, device_type=CUDA_DEVICE_TYPE)

    def __init__(self, device: Any = None, priority: int = 0, stream_id: int | None = None, **kwargs: Any):
        """See `__new__`."""
        self.priority, self.cuda_stream = priority, self.stream_id
        self._before: list[Any] = []

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
        """Make it current, and its GPU."""
        self._before.append((torch.cuda.current_stream(self.device), torch.cuda.current_stream()))
        torch.cuda.set_stream(self)
        return self

    def __exit__(self, *exc: Any) -> None:
        """Make current again what was."""
        for stream in self._before.pop():
            torch.cuda.set_stream(stream)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and (other.device, other.stream_id) == (self.device, self.stream_id)

    def __hash__(self) -> int:
        return hash(("virtual stream", self.device, self.stream_id))

    def __repr__(self) -> str:
        return f"<torch.cuda.Stream device={self.device} cuda_stream={self.cuda_stream:#x}>"


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


class AcceleratorStream(Stream):
    """What `torch.Stream("cuda")` makes."""

    def __repr__(self) -> str:
        return f"torch.Stream device_type=cuda, device_index={self.device.index}, stream_id={self.stream_id}"


class AcceleratorEvent(Event):
    """What `torch.Event("cuda")` makes."""

    def __init__(self, device: Any = None, enable_timing: bool = False, **kwargs: Any):
        """Not recorded yet."""
        super().__init__(enable_timing, **kwargs)
        self.device, self.event_id = VirtualGenerator.resolve("cuda" if device is None else device), 0

    def __repr__(self) -> str:
        return f"torch.Event device_type=cuda, device_index={self.device.index}, event_flag=0, event_id={self.event_id}"


class GenericKind(type):
    """`torch.Stream` and `torch.Event`, for whichever device is asked for; without one, for the GPU."""

    def __call__(cls, device: Any = None, *args: Any, **kwargs: Any) -> Any:
        """A stream or event of a GPU is ours, of any other device PyTorch's own; `stream_id=` is for the latter."""
        index = isinstance(device, int) or device is None and "device_type" not in kwargs
        if index or device is not None and torch.device(device).type == "cuda":
            return cls._ours(torch.device("cuda", device) if isinstance(device, int) else device, *args, **kwargs)
        return cls._original(*([] if device is None else [device]), *args, **kwargs)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, (cls._original, cls._ours.__mro__[1]))

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, (cls._original, cls._ours.__mro__[1]))


def generic_kinds() -> dict[str, type]:
    """The two under their names in `torch`, as far as this PyTorch has them."""
    ours = {"Stream": AcceleratorStream, "Event": AcceleratorEvent}
    return {
        name: GenericKind(name, (), {"_original": vars(torch)[name], "_ours": kind, "__module__": "torch"})
        for name, kind in ours.items()
        if hasattr(torch, name)
    }


def _register_bases() -> None:
    """Up to PyTorch 2.5 torch._dynamo insists that streams and events derive from two abstract classes of its own."""
    bases = sys.modules.get("torch._streambase")
    for name, kind in (("_StreamBase", Stream), ("_EventBase", Event)):
        base = getattr(bases, name, None)
        if isinstance(base, abc.ABCMeta):
            base.register(kind)


_register_bases()


HELPERS = frozenset("_devices _memory _checked _plain _counted _reset _allocating _streaming".split())
"""What in `CudaApi` is no function of `torch.cuda`."""


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
        return self._devices.started

    def init(self) -> None:
        self._devices.started = True

    _lazy_init = init

    def _lazy_call(self, callable_: Any, **kwargs: Any) -> None:
        callable_()

    def device_count(self) -> int:
        return self._devices.gpus

    def current_device(self) -> int:
        self.init()
        return self._devices.current

    def set_device(self, device: Any) -> None:
        if self._plain(device) >= 0:
            self._devices.current = self._devices.index(device)

    def _exchange_device(self, device: int) -> int:
        previous = self._devices.current
        if device >= 0:
            self._devices.current = self._devices.index(device)
        return previous

    _maybe_exchange_device = _exchange_device

    def get_device_name(self, device: Any = None) -> str:
        return f"{NAME} {self._checked(device)}"

    def get_device_capability(self, device: Any = None) -> tuple[int, int]:
        self._checked(device)
        return self._devices.capability

    def get_device_properties(self, device: Any = None) -> Properties:
        index = self._checked(device)
        major, minor = self._devices.capability
        return Properties(self.get_device_name(index), self._devices.vram, f"virtual-{index}", major, minor)

    def can_device_access_peer(self, device: Any, peer_device: Any) -> bool:
        return self._checked(device) != self._checked(peer_device, "peer device")

    def get_arch_list(self) -> list[str]:
        major, minor = self._devices.capability
        return [f"sm_{major}{minor}"]

    def is_bf16_supported(self, including_emulation: bool = True) -> bool:
        return including_emulation or self._devices.capability >= (8, 0)

    def is_tf32_supported(self) -> bool:
        return self._devices.capability >= (8, 0)

    # ---- memory

    def memory_allocated(self, device: Any = None) -> int:
        return self._memory.allocated(self._counted(device)) if self._devices.started else 0

    def max_memory_allocated(self, device: Any = None) -> int:
        return self._memory.peak[self._counted(device)] if self._devices.started else 0

    def memory_reserved(self, device: Any = None) -> int:
        return self._memory.reserved_bytes[self._counted(device)] if self._devices.started else 0

    def max_memory_reserved(self, device: Any = None) -> int:
        return self._memory.peak_reserved[self._counted(device)] if self._devices.started else 0

    memory_cached, max_memory_cached = memory_reserved, max_memory_reserved

    def reset_peak_memory_stats(self, device: Any = None) -> None:
        self._memory.reset_peak(self._reset(device))

    reset_max_memory_allocated = reset_max_memory_cached = reset_peak_memory_stats

    def reset_accumulated_memory_stats(self, device: Any = None) -> None:
        self._memory.reset_totals(self._reset(device))

    def memory_stats_as_nested_dict(self, device: Any = None) -> dict[str, Any]:
        return statistics.of(self._memory, self._counted(device)) if self._devices.started else {}

    def memory_stats(self, device: Any = None) -> dict[str, int]:
        return statistics.flat(self.memory_stats_as_nested_dict(device))

    def memory_snapshot(self, mempool_id: Any = None, include_traces: bool = True) -> list[dict[str, Any]]:
        if mempool_id is not None:
            raise RuntimeError("The virtual GPU has no memory pools.")
        return [segment for index in range(self._devices.gpus) for segment in statistics.segments(self._memory, index)]

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        index, total = self._devices.index(device), self._devices.vram
        if total < WARM_UP_REST and sys._getframe(1).f_code.co_name == "caching_allocator_warmup":
            total = WARM_UP_REST
        return self._memory.free(index), total

    def empty_cache(self) -> None:
        self._memory.empty_cache()

    def get_allocator_backend(self) -> str:
        return "native"

    def get_sync_debug_mode(self) -> int:
        return 0

    def ipc_collect(self) -> None:
        """No process shares memory with another, so there is nothing to collect."""

    def set_per_process_memory_fraction(self, fraction: float, device: Any = None) -> None:
        self.init()
        index = self._plain(device)
        if not isinstance(fraction, float):
            raise TypeError("Invalid type for fraction argument, must be `float`")
        if fraction < 0 or fraction > 1:
            raise ValueError(f"Invalid fraction value: {fraction}. Allowed range: 0~1")
        self._memory.set_fraction(fraction, self._allocating(index))

    def get_per_process_memory_fraction(self, device: Any = None) -> float:
        self.init()
        fraction = self._memory.fractions[self._allocating(device)]
        return 1.0 if fraction is None else fraction

    # ---- order of work

    def synchronize(self, device: Any = None) -> None:
        self._devices.index(device)

    def current_stream(self, device: Any = None) -> Stream:
        index = self._streaming(device)
        return self._devices.streams.get(index) or self.default_stream(index)

    def default_stream(self, device: Any = None) -> Stream:
        return Stream(self._devices.handles[self._streaming(device)], stream_id=0)

    def set_stream(self, stream: Stream | None) -> None:
        if stream is not None:
            self._devices.current = stream.device.index
            self._devices.streams[stream.device.index] = stream

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

    # ---- helpers

    def _plain(self, device: Any) -> int:
        """The index that `device` means, whether there is such a GPU or not."""
        if type(device) is int:
            return device
        device = torch.device("cuda" if device is None else device)
        if device.type != "cuda":
            raise ValueError(f"Expected a cuda device, but got: {device}")
        return self._devices.current if device.index is None else device.index

    def _checked(self, device: Any, what: str = "device") -> int:
        self.init()
        index = self._plain(device)
        if not 0 <= index < self._devices.gpus:
            raise AssertionError(f"Invalid {what} id")
        return index

    def _counted(self, device: Any) -> int:
        index = self._plain(device)
        if not 0 <= index < self._devices.gpus:
            raise words.invalid_device_argument(index)
        return index

    def _reset(self, device: Any) -> int:
        """The same for counters that start again: asking for the current GPU touches it, its number does not."""
        index = self.current_device() if device is None else self._counted(device)
        if not self._devices.started:
            raise words.invalid_device_argument(index)
        return index

    def _allocating(self, device: Any) -> int:
        index = self._plain(device)
        if not 0 <= index < self._devices.gpus:
            raise words.allocator_not_initialized(index)
        return index

    def _streaming(self, device: Any) -> int:
        self.init()
        index = self._plain(device)
        if index == -1:
            return self._devices.current
        if not 0 <= index < self._devices.gpus:
            raise words.stream_index(index, self._devices.gpus)
        return index


@dataclasses.dataclass(frozen=True, repr=False)
class Properties:
    """What `torch.cuda.get_device_properties` returns."""

    name: str
    total_memory: int
    uuid: str
    major: int = CAPABILITY[0]
    minor: int = CAPABILITY[1]
    multi_processor_count: int = 1
    warp_size: int = 32
    regs_per_multiprocessor: int = 65536
    max_threads_per_multi_processor: int = 2048
    shared_memory_per_block: int = 49152
    shared_memory_per_block_optin: int = 232448
    L2_cache_size: int = 0
    is_integrated: bool = False
    is_multi_gpu_board: bool = False
    gcnArchName: str = ""

    def __repr__(self) -> str:
        """As PyTorch prints it, without the PCI bus, which a virtual GPU does not have."""
        return (
            f"_CudaDeviceProperties(name='{self.name}', major={self.major}, minor={self.minor}, "
            f"total_memory={self.total_memory // 2**20}MB, multi_processor_count={self.multi_processor_count}, "
            f"uuid={self.uuid}, L2_cache_size={self.L2_cache_size // 2**20}MB)"
        )


Properties.__name__ = Properties.__qualname__ = "_CudaDeviceProperties"  # as PyTorch calls it


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
