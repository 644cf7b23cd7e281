"""The virtual GPUs themselves: how many there are, which one is current, their memory and their random generators."""

from __future__ import annotations

import threading
from typing import Any

import torch

from . import words
from .generator import VirtualGenerator
from .memory import Memory

CPU = torch.device("cpu")
NAME = "Virtual GPU"
CAPABILITY = (9, 0)
"""Compute capability that the virtual GPU reports unless told otherwise: the H200's, on which its behavior was
recorded."""

_make_device = torch.device


def on_real_gpu() -> bool:
    """Whether this process has a real GPU: False on a virtual one, and without any."""
    return torch.cuda.is_available() and not torch.cuda.get_device_name(0).startswith(NAME)


class Devices:
    """`gpus` virtual CUDA devices of `vram` bytes each. Live until `sana_lab` leaves them."""

    def __init__(self, gpus: int, vram: int, capability: tuple[int, int] = CAPABILITY):
        """All GPUs are empty and GPU 0 is current."""
        self.live = True
        self.capability = capability
        self.memory = Memory(gpus, vram)
        self._thread = threading.local()
        self.resize(gpus, vram)
        self.started = False
        """Whether this process has touched a GPU; counters are empty before."""

    def resize(self, gpus: int, vram: int) -> None:
        """Change number and size of the GPUs; tensors on those that stay are kept."""
        self.gpus, self.vram = gpus, vram
        self.memory.resize(gpus, vram)
        self.handles = [_make_device("cuda", index) for index in range(gpus)]
        kept = getattr(self, "generators", ())[:gpus]
        self.generators = (*kept, *(VirtualGenerator(handle) for handle in self.handles[len(kept) :]))

    @property
    def current(self) -> int:
        """The index of the current GPU. Each thread has its own, and starts with GPU 0."""
        index = getattr(self._thread, "current", 0)
        return index if index < self.gpus else 0

    @current.setter
    def current(self, index: int) -> None:
        self._thread.current = index

    @property
    def streams(self) -> dict[int, Any]:
        """The current stream of each GPU, where it is not the default one. Each thread has its own."""
        if not hasattr(self._thread, "streams"):
            self._thread.streams = {}
        return self._thread.streams

    def resolve(self, device: Any) -> torch.device:
        """What CUDA would make of `device` (a `torch.device`, string or index): `"cuda"` is the current GPU.

        Raises:
            torch.AcceleratorError: there is no such GPU.
        """
        if type(device) is int:
            device = _make_device("cuda", device)
        elif not isinstance(device, torch.device):
            device = _make_device(device)
        if device.type != "cuda":
            return device
        index = self.current if device.index is None else device.index
        self.started = True
        if not 0 <= index < self.gpus:
            raise words.invalid_ordinal()
        return self.handles[index]

    def index(self, device: Any = None) -> int:
        """The index of the GPU that an optional `device` argument of a `torch.cuda` function means.

        Raises:
            ValueError: `device` is not a CUDA device.
            torch.AcceleratorError: there is no such GPU.
        """
        if device is None or (type(device) is int and device == -1):
            self.started = True
            return self.current
        resolved = self.resolve(device)
        if resolved.type != "cuda":
            raise ValueError(f"Expected a cuda device, but got: {resolved}")
        return resolved.index
