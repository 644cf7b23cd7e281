"""Moves an 8-bit model with all that it holds, so that offloading frees what it promises. Chapter 9."""

from __future__ import annotations

import functools
from typing import Any, TypeVar

import torch
from torch import nn

from ..layers import is_linear_8bit

M = TypeVar("M", bound=nn.Module)


def moves_whole_(model: M) -> M:
    """Let `model.to(device)` take codes and scales of 8-bit layers along, in place; give the model back.

    `nn.Module.to` replaces the data of parameters and calls no layer's own `.to`; what bitsandbytes keeps beside a
    weight stays behind (`sana_lab.measure.left_behind` shows it). Asked for itself, each layer brings its own, once it
    was called: until then they are attributes of the weight, which nobody moves (bitsandbytes 0.50.2, nn/modules.py,
    `Linear8bitLt.to`, `init_8bit_state`). accelerate's offloading asks the model, so that from here on
    ``pipe.enable_model_cpu_offload()`` leaves nothing of it on the GPU (accelerate 1.15.0, hooks.py, `CpuOffload`).
    The model's class becomes a subclass of it, with the same name: accelerate takes `to` from an instance whenever it
    removes its hooks (`_accelerate_added_attributes`), which diffusers has it do after every call.

    Only for moves between the CPU and the current GPU. A model without 8-bit layers is moved as before.

    Chapter 9.
    """
    model.__class__ = _whole(type(model))
    return model


@functools.cache
def _whole(kind: type[M]) -> type[M]:
    """The same class with another `to`. As an attribute of the model it would not last: accelerate deletes it."""

    def to(self: M, *args: Any, **kwargs: Any) -> M:
        layers = [layer for layer in self.modules() if layer is not self and is_linear_8bit(layer)]
        for layer in layers:
            if layer.weight.CB is not None:  # until the first call codes and scales hang on the weight
                layer.init_8bit_state()
        kind.to(self, *args, **kwargs)
        for layer in layers:
            if layer.state.CB is not None and layer.weight.dtype == torch.int8:
                layer.state.CB = layer.weight.data  # the same codes, which are there now
            layer.to(*args, **kwargs)
        return self

    names = {"to": functools.wraps(kind.to)(to), "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (kind,), names)
