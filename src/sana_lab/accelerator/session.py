"""`use_accelerator()`: entering and leaving."""

from __future__ import annotations

import os
import re
from typing import Any

import torch
from torch.overrides import _len_torch_function_stack, _pop_mode, _push_mode

from ..messages import counted
from . import devices as virtual_devices
from .mode import VirtualGPUMode
from .patches import Patches, apply, refresh_libraries

FORCE_VARIABLE = "SANA_LAB_VIRTUAL"
"""Environment variable: `1` makes `use_accelerator()` virtual also where there is a real GPU."""

LAUNCHED = {"LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "MV2_COMM_WORLD_LOCAL_RANK"}
"""How torchrun, accelerate and MPI number a machine's processes (accelerate 1.15.0, utils/environment.py)."""

VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"
"""Which GPUs CUDA shows to a process, by number or name, with commas; read once, when the driver starts."""

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}

MOST = 2**50
"""Bytes of a GPU's memory, at most: a pebibyte."""

_Before = tuple[int, int, tuple[int, int]]
"""What an accelerator was: GPUs, bytes, capability."""

_active: Accelerator | None = None
_hidden: tuple[str | None, str] | None = None
"""`CUDA_VISIBLE_DEVICES` as it was before real GPUs were hidden, and as it is since; None while none are."""


def use_accelerator(
    gpus: int = 1,
    vram: str | int = "16GiB",
    virtual: bool | None = None,
    *,
    capability: tuple[int, int] = virtual_devices.CAPABILITY,
) -> Accelerator:
    """Give this process a CUDA device: the real one where there is one, otherwise a virtual one.

    Takes effect at once and until `leave()`; used as a context manager, until the end of the block. Importing a
    library before or after makes no difference. Calling it again with the same arguments changes nothing.

    A process sees as many real GPUs as it asked for: further ones are hidden through `CUDA_VISIBLE_DEVICES`, of which
    the first are kept where it is set already. That works until PyTorch has started CUDA, which the first tensor on a
    GPU does; after that nothing can be hidden or shown any more. Where a launcher has given this process a number
    (torchrun's `LOCAL_RANK` and the like), nothing is hidden, because it will choose a GPU by that number.

    Args:
        gpus: how many GPUs, at least 1.
        vram: memory of each virtual GPU, `"16GiB"`, `"800MB"` or a number of bytes. A real GPU has what it has.
        virtual: `True` for a virtual GPU also where there is a real one, which it hides; `False` for a real one only;
            `None` (default) for whichever there is. The environment variable `SANA_LAB_VIRTUAL=1` turns `None` into
            `True`.
        capability: compute capability of each virtual GPU, (8, 6) for a GeForce 30. It decides what `torch.cuda` says
            of the card and whether it multiplies FP8 codes, from (8, 9) on; all else is as recorded on an H200, (9, 0).
            A real GPU has what it has.

    Returns:
        What the process runs on.

    Raises:
        ValueError: `gpus` or `vram` is not a sensible amount, or `capability` is no pair of numbers.
        RuntimeError: more GPUs than the machine has, or the virtual GPU in use cannot be changed to what is asked.

    Example:
        >>> import torch
        >>> with use_accelerator(virtual=True, vram="1GiB"):
        ...     print(torch.ones(2, device="cuda").device)
        cuda:0

    Chapter 1.
    """
    if type(gpus) is not int or gpus < 1:
        raise ValueError(f"gpus={gpus!r}: give the number of GPUs, 1 or more.")
    size = parse_size(vram)
    if not (isinstance(capability, tuple) and [type(part) for part in capability] == [int, int]):
        raise ValueError(f"capability={capability!r}: give two numbers, (9, 0) for an H100 or H200, (8, 6) for a 3090.")
    if virtual is None:
        virtual = True if os.environ.get(FORCE_VARIABLE) == "1" else None
    if _active is not None:
        if virtual is False:
            raise RuntimeError(
                "A virtual GPU is in use: call .leave() on what use_accelerator() returned and ask again."
            )
        _active._change(gpus, size, capability)
        return _active
    if virtual:
        return Accelerator(gpus, size, virtual=True, capability=capability)._enter()
    started = torch.cuda.is_initialized()
    if not started:
        _show_all()
    real = torch.cuda.device_count()  # asks the driver's management library: CUDA is not started by it
    if gpus < real and not started and not os.environ.keys() & LAUNCHED:
        _hide_all_but(gpus)
    if not torch.cuda.is_available():  # this starts the driver, which reads the variable then and never again
        _show_all()
        real = 0
    if virtual is None and not real:
        return Accelerator(gpus, size, virtual=True, capability=capability)._enter()
    if gpus > real:
        before = " (more are hidden since CUDA started)" if _hidden else ""
        raise RuntimeError(
            f"use_accelerator(gpus={gpus}) on a machine with {counted(real, 'GPU')}{before}: ask for at most "
            f"{real}, or for virtual ones with use_accelerator(gpus={gpus}, virtual=True)."
        )
    return Accelerator(gpus, torch.cuda.get_device_properties(0).total_memory, virtual=False)


def _hide_all_but(gpus: int) -> None:
    """Let this process and its children see the first GPUs only. CUDA must not have started."""
    global _hidden
    before = os.environ.get(VISIBLE_VARIABLE)
    names = [str(i) for i in range(gpus)] if before is None else before.split(",")[:gpus]
    _hidden = before, ",".join(names)
    os.environ[VISIBLE_VARIABLE] = _hidden[1]


def _show_all() -> None:
    """Give the variable its value back, for children and for a CUDA that has not started, unless others changed it."""
    global _hidden
    if _hidden is not None and os.environ.get(VISIBLE_VARIABLE) == _hidden[1]:
        if _hidden[0] is None:
            del os.environ[VISIBLE_VARIABLE]
        else:
            os.environ[VISIBLE_VARIABLE] = _hidden[0]
    _hidden = None


def parse_size(vram: str | int) -> int:
    """Bytes in `"16GiB"`, `"800 MB"` or a number.

    Raises:
        ValueError: anything else.
    """
    if type(vram) is int and 0 < vram <= MOST:
        return vram
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", vram) if isinstance(vram, str) else None
    factor = _UNITS.get(match.group(2).upper()) if match else None
    size = float(match.group(1)) * factor if match and factor else 0
    if not 1 <= size <= MOST:
        raise ValueError(f"vram={vram!r}: give an amount of memory such as '16GiB', '800MB' or a number of bytes.")
    return int(size)


class Accelerator:
    """What `use_accelerator()` returns: prints what the process runs on, and is a context manager."""

    def __init__(self, gpus: int, vram: int, virtual: bool, capability: tuple[int, int] = virtual_devices.CAPABILITY):
        """Not in use before `use_accelerator()` enters it. `vram` in bytes."""
        self.virtual = virtual
        self.gpus, self.vram, self.capability = gpus, vram, capability
        self._patches: Patches | None = None
        self._on_exit: list[_Before | None] = []
        self._next_exit: _Before | None = None

    @property
    def name(self) -> str:
        """The name of the first GPU."""
        return virtual_devices.NAME if self.virtual else torch.cuda.get_device_name(0)

    @property
    def active(self) -> bool:
        """Whether its GPUs are there now."""
        return self._patches is not None if self.virtual else torch.cuda.is_available()

    def __repr__(self) -> str:
        amount = f"{self.gpus} × {_format(self.vram)}"
        if not self.virtual:
            return f"{self.name}: {amount}"
        return f"{self.name}: {amount}, " + ("arithmetic on the CPU" if self.active else "left")

    def _repr_html_(self) -> str:
        return f'<p style="opacity: 0.7; margin: 0">{self!r}</p>'

    def leave(self) -> None:
        """Put everything back as it was. Tensors that lived on a virtual GPU are CPU tensors from now on.

        Real GPUs that were hidden can be seen again by processes that start from now on. In this one they stay hidden.
        """
        global _active
        if not self.virtual:
            _show_all()
        if self._patches is None:
            return
        self._devices.live = False
        self._patches.undo()
        self._patches = None
        _remove_mode(self._mode)
        refresh_libraries()
        _active = None
        self._on_exit.clear()

    def __enter__(self) -> Accelerator:
        """Use it until the end of the block."""
        if self.virtual and not self.active:
            if _active is not None:
                raise RuntimeError(f"Another accelerator is in use: {_active!r}.")
            self._enter()
        self._on_exit.append(self._next_exit)
        return self

    def __exit__(self, *exc: Any) -> None:
        """Leave, or go back to what was in use before the block."""
        before = self._on_exit.pop() if self._on_exit else None
        if before is None:
            self.leave()
        else:
            self._change(*before)

    def _enter(self) -> Accelerator:
        global _active
        self._devices = virtual_devices.Devices(self.gpus, self.vram, self.capability)
        self._mode = VirtualGPUMode(self._devices)
        self._patches = Patches()
        try:
            apply(self._patches, self._devices, self._mode)
        except BaseException:
            self._patches.undo()
            self._patches = None
            raise
        self._mode.__enter__()
        self._next_exit = None
        _active = self
        return self

    def _change(self, gpus: int, vram: int, capability: tuple[int, int]) -> None:
        """Other numbers of GPUs or bytes, or another capability, while in use: what lives on the GPUs must fit.

        Raises:
            RuntimeError: it does not.
        """
        for index, used in enumerate(self._devices.memory.allocated(i) for i in range(self.gpus)):
            if used and (index >= gpus or used > vram):
                raise RuntimeError(
                    f"GPU {index} holds {_format(used)}, which gpus={gpus}, vram={_format(vram)} has no room for: "
                    "delete what lives there first, or start afresh with .leave()."
                )
        self._next_exit = (self.gpus, self.vram, self.capability)
        self.gpus, self.vram, self.capability = gpus, vram, capability
        self._devices.capability = capability
        self._devices.resize(gpus, vram)


def _remove_mode(mode: VirtualGPUMode) -> None:
    """Take `mode` off this thread's stack, wherever it is. Other threads keep it; there it lets everything through."""
    stack = [_pop_mode() for _ in range(_len_torch_function_stack())]
    for other in reversed(stack):
        if other is not mode:
            _push_mode(other)


def _format(nbytes: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if nbytes >= size:
            return f"{nbytes / size:.4g} {unit}"
    return f"{nbytes} bytes"
