"""The function mode: every PyTorch call from Python passes through `VirtualGPUMode`, which picks a handler for it.

A call goes through one dictionary look-up by function. What is found there is one of a few handlers: most calls
compare the devices of their tensors, run the very function on the CPU, and note where the result lives. Functions that
speak of devices themselves (`.to`, `.device`, factories, printing, random numbers) have handlers of their own in
`handlers`. While a handler runs the mode is off, so nothing inside a PyTorch function is looked at twice.
"""

from __future__ import annotations

from typing import Any

from torch.overrides import TorchFunctionMode

from . import autocast, float8_products, kernels, precision
from .devices import Devices
from .handlers import Handler, Handlers, bare_name, by_name, passing
from .ledger import Ledger


class VirtualGPUMode(TorchFunctionMode):
    """Runs each PyTorch call on the CPU and keeps the books about devices. One instance serves all threads."""

    def __init__(self, devices: Devices):
        """Serve `devices`."""
        super().__init__()
        self.devices = devices
        self.ledger = Ledger(devices)
        self._common = Handlers(self.ledger, self)
        self._by_name = by_name(self._common)
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
        try:
            return handler(func, args, kwargs or {})
        except RuntimeError as error:
            result = kernels.explain(self.ledger, bare_name(func), func, args, kwargs or {}, error)
            if result is error:
                result = None  # a frame that keeps its own exception is a circle, and keeps tensors alive
                raise
            return result

    def _learn(self, func: Any) -> Handler:
        """The handler of a function that is met for the first time, with what it needs wrapped around it."""
        name = bare_name(func)
        handler = self._by_name.get(name, self._common.compute)
        if handler is passing and getattr(func, "__module__", "") == "torch.nn.functional":
            handler = self._common.compute  # `unfold`: a view as a method, a copy there
        if name in precision.PRODUCTS:
            handler = precision.wrap(self.ledger, handler)
        elif name in precision.CASTS:
            handler = precision.wrap_cast(self.ledger, name, handler)
        elif str(func).startswith("bitsandbytes."):
            handler = precision.wrap_kernel(self.ledger, name, handler)
        elif name == "_scaled_mm":
            handler = float8_products.wrap(self.ledger, handler)
        handler = kernels.wrap(self.ledger, name, handler)
        if name in autocast.POLICY:
            handler = autocast.wrap(self.ledger, autocast.POLICY[name], handler)
        self._handlers[func] = handler
        return handler
