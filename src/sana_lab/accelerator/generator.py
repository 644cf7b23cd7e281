"""`torch.Generator(device="cuda")` on a machine with no GPU."""

from __future__ import annotations

import torch

RealGenerator = torch._C.Generator


class _AnyGenerator(type(RealGenerator)):
    """Lets `isinstance(x, torch.Generator)` hold for the generators that PyTorch itself makes."""

    def __instancecheck__(cls, instance):
        return isinstance(instance, RealGenerator)


class VirtualGenerator(RealGenerator, metaclass=_AnyGenerator):
    """A CPU generator that says it belongs to a GPU. Seeded alike, it draws what a CPU generator draws."""

    resolve = staticmethod(torch.device)  # set while a virtual GPU is in use: turns "cuda" into cuda:<current>

    def __new__(cls, device: torch.device | str | int = "cpu"):
        """A new generator for `device`."""
        asked = torch.device("cuda", device) if type(device) is int else torch.device(device)
        resolved = cls.resolve(asked)
        self = super().__new__(cls, "cpu")
        self._device = asked if resolved.type == "cuda" else resolved  # "cuda" stays without an index, as it does there
        return self

    def __init__(self, device: torch.device | str | int = "cpu"):
        """See `__new__`."""

    @property
    def device(self) -> torch.device:
        """The device that the generator draws for."""
        return self._device

    def clone_state(self) -> VirtualGenerator:
        """A generator for the same device, in the same state."""
        twin = type(self)(self._device)
        twin.set_state(self.get_state())
        return twin
