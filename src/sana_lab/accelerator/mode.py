"""The function mode: every PyTorch call from Python passes through `VirtualGPUMode`, which knows where tensors live.

A call goes through one dictionary look-up by function. What is found there is one of a few handlers: most calls
compare the devices of their tensors, run the very function on the CPU, and note where the result lives. Functions that
speak of devices themselves (`.to`, `.device`, factories, printing, random numbers) have handlers of their own in
`handlers`. While a handler runs the mode is off, so nothing inside a PyTorch function is looked at twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from . import autocast, mismatch, precision, words
from .devices import CPU, Devices

Handler = Callable[[Callable, tuple, dict], Any]

ON_CPU, NOT_SEEN, MIXED = -1, -2, -3
"""Homes that are not the index of a GPU."""

Tensor = torch.Tensor
_storage_of = Tensor.untyped_storage
_real_device = Tensor.device.__get__


def passing(func: Callable, args: tuple, kwargs: dict) -> Any:
    """The handler of functions that neither mix devices nor make storages: views, shapes, types."""
    return func(*args, **kwargs)


class VirtualGPUMode(TorchFunctionMode):
    """Runs each PyTorch call on the CPU and keeps the books about devices. One instance serves all threads."""

    def __init__(self, devices: Devices):
        """Serve `devices`."""
        super().__init__()
        from . import handlers  # it needs this module's names

        self.devices = devices
        self.memory = devices.memory
        self.blocks = devices.memory.blocks
        self._by_name = handlers.by_name(self)
        self._handlers: dict[Any, Handler] = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """PyTorch calls this in place of `func`."""
        if not self.devices.live:  # left, in a thread that is still running
            return func(*args, **(kwargs or {}))
        handler = self._handlers.get(func)
        if handler is None:
            handler = self._learn(func)
        if handler is passing:
            return func(*args, **kwargs) if kwargs else func(*args)
        return handler(func, args, kwargs or {})

    # ---- where things are

    def index_of(self, tensor: torch.Tensor) -> int:
        """The index of the GPU that `tensor` lives on, -1 for the CPU."""
        try:
            block = self.blocks.get(_storage_of(tensor)._cdata)
        except (NotImplementedError, RuntimeError):  # no storage: sparse, or a wrapper of `torch.vmap`
            inner = unwrapped(tensor)
            return getattr(tensor, "_virtual_gpu", ON_CPU) if inner is tensor else self.index_of(inner)
        return ON_CPU if block is None else block.index

    def device_of(self, tensor: torch.Tensor) -> torch.device:
        """The device of `tensor`, as it shall appear."""
        index = self.index_of(tensor)
        return _real_device(tensor) if index < 0 else self.devices.handles[index]

    def place(self, tensor: torch.Tensor, index: int) -> None:
        """Say that `tensor`, just made, lives on GPU `index`; one that shares a placed storage stays where it is."""
        try:
            storage = _storage_of(tensor)
        except (NotImplementedError, RuntimeError):
            inner = unwrapped(tensor)
            if inner is tensor:
                tensor._virtual_gpu = index
            else:
                self.place(inner, index)
            return
        if storage._cdata not in self.blocks:
            self.memory.place(storage, index)

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
            if isinstance(value, torch.Tensor):
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

    # ---- the common handlers

    def compute(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        """For all other functions: compare devices, run, and note where the result lives."""
        blocks = self.blocks
        home = NOT_SEEN
        for value in args:
            if isinstance(value, Tensor):
                try:
                    block = blocks.get(_storage_of(value)._cdata)
                    index = ON_CPU if block is None else block.index
                except (NotImplementedError, RuntimeError):
                    index = self.index_of(value)
            elif isinstance(value, (list, tuple)):
                index = self.home(value)
                if index == NOT_SEEN:
                    continue
            else:
                continue
            if index != home:
                home = index if home == NOT_SEEN else MIXED
        if kwargs:
            if kwargs.get("device") is not None:
                return self.create(func, args, kwargs)
            index = self.home(kwargs.values())
            if index not in (NOT_SEEN, home):
                home = index if home == NOT_SEEN else MIXED
        if home == MIXED:
            return self._compute_mixed(func, args, kwargs)
        try:
            result = func(*args, **kwargs)
        except RuntimeError as error:
            if home >= 0:
                self.memory.explain(error, home)
                words.explain(error)
            raise
        if home >= 0:
            if isinstance(result, Tensor):
                try:
                    storage = _storage_of(result)
                except (NotImplementedError, RuntimeError):
                    self.place(result, home)
                else:
                    if storage._cdata not in blocks:
                        self.memory.place(storage, home)
            elif result is not None:
                self.place_all(result, home)
        return result

    def create(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        """For calls with `device=`: make the result on the CPU and note the device that was asked for."""
        target = self.devices.resolve(kwargs["device"])
        if target.type != "cuda":
            return func(*args, **{**kwargs, "device": target})
        result = func(*args, **{**kwargs, "device": CPU})
        self.place_all(result, target.index)
        return result

    def _compute_mixed(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        device = mismatch.settle(func, bare_name(func), args, kwargs, self.device_of)
        given = map(unwrapped, mismatch.tensors_in((args, kwargs)))
        before = {_storage_of(tensor)._cdata for tensor in given if tensor.layout == torch.strided}
        result = func(*args, **kwargs)
        if device.type == "cuda":
            for tensor in map(unwrapped, mismatch.tensors_in(result)):
                if tensor.device.type == "cpu" and _storage_of(tensor)._cdata not in before:
                    self.place(tensor, device.index)
        return result

    # ---- which handler

    def _learn(self, func: Callable) -> Handler:
        name = bare_name(func)
        handler = self._by_name.get(name, self.compute)
        if name in precision.PRODUCTS:
            handler = precision.wrap(self, handler)
        elif str(func).startswith("bitsandbytes."):
            handler = precision.wrap_kernel(self, name, handler)
        if name in autocast.POLICY:
            handler = autocast.wrap(self, autocast.POLICY[name], handler)
        self._handlers[func] = handler
        return handler


def unwrapped(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor inside the wrappers that `torch.vmap` and its kin pass to the function; itself outside of them."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def bare_name(func: Any) -> str:
    """A function's name as the tables know it: `mm`, `__getitem__`, `device.__get__` for the reading of a property."""
    name = getattr(func, "__name__", "") or str(func)
    if name in ("__get__", "__set__", "__delete__"):
        owner = func.__self__
        owner_name = getattr(owner, "__name__", None) or getattr(getattr(owner, "fget", None), "__name__", "")
        return f"{owner_name}.{name}"
    return name.split(".")[0]  # an overload such as `add.Tensor`
