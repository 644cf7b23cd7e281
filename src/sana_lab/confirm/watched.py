"""What goes through a pipeline while it draws: the largest activations, and outliers as chapter 3 counts them.

Chapters 3, 5 and 14.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..accelerator.ledger import tensors_in
from ..layers import is_linear_8bit

LARGEST_FLOAT16 = 65504
"""The largest number of float16; what is larger becomes infinite there."""

SPLIT = 6.0
"""An outlier is a value of at least this size: the threshold of LLM.int8(). Chapter 3."""

ENDLESS = 3.4e38
"""What an infinity is noted as: a record holds none."""

BEHIND_NORMS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
"""Linear layers of Gemma that read what a norm puts out. Chapter 3."""

PRODUCTS = ("down_proj",)
"""Linear layers that read a product of two activations. Chapter 3."""


@contextmanager
def _hooked(models: dict[str, nn.Module], hook: Callable[..., Any], before: bool) -> Iterator[None]:
    """Hooks on all modules of some models, taken back at the end."""
    with ExitStack() as undo:
        for component, model in models.items():
            for name, module in model.named_modules():
                call = hook(component, name, module)
                if call is not None:
                    register = module.register_forward_pre_hook if before else module.register_forward_hook
                    undo.callback(register(call).remove)
        yield


@contextmanager
def largest(models: dict[str, nn.Module]) -> Iterator[dict[str, dict[str, Any]]]:
    """Watch how large what modules put out becomes, for the length of the block.

    Args:
        models: component -> model.

    Yields:
        component -> `largest` (None where it is not finite), `finite`, `module` that put it out, and its `dtype`.
        Filled when the block ends. A product inside of an attention, which no module puts out, is not seen.
    """
    seen: dict[str, dict[str, Tensor]] = {component: {} for component in models}
    found: dict[str, dict[str, Any]] = {}

    def hook(component: str, name: str, module: nn.Module) -> Callable[..., None]:
        def look(_module: nn.Module, _inputs: Any, output: Any) -> None:
            for tensor in tensors_in(output):
                if not tensor.is_floating_point() or not tensor.numel():
                    continue
                top = tensor.detach().abs().amax().float()
                before = seen[component].get(name)
                seen[component][name] = top if before is None else torch.maximum(top, before)

        return look

    with _hooked(models, hook, before=False):
        yield found
    for component, tops in seen.items():
        if not tops:
            continue
        values = {name: top.item() for name, top in tops.items()}
        broken = [name for name, value in values.items() if not value < float("inf")]  # NaN is not less, either
        module = broken[0] if broken else max(values, key=lambda name: values[name])
        found[component] = {
            "largest": None if broken else values[module],
            "finite": not broken,
            "module": module or component,
            "dtype": str(next(models[component].parameters()).dtype).removeprefix("torch."),
        }


@contextmanager
def outliers(models: dict[str, nn.Module]) -> Iterator[dict[str, dict[str, dict[str, Any]]]]:
    """Count outliers in what 8-bit layers are given, for the length of the block.

    Args:
        models: component -> model in 8 bits.

    Yields:
        component -> kind of layer (the last part of its name, "attn1.to_q") -> `layers` of the kind, in how many
        `with_outliers` there was a value of 6 or more, the worst layer's share of `columns` that held one in some call,
        and the `largest` value. Filled when the block ends.
    """
    seen: dict[tuple[str, str], list[tuple[Tensor, Tensor]]] = {}
    found: dict[str, dict[str, dict[str, Any]]] = {}

    def hook(component: str, name: str, module: nn.Module) -> Callable[..., None] | None:
        if not is_linear_8bit(module):
            return None

        def look(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            hidden = inputs[0].movedim(1, -1) if inputs[0].ndim == 4 else inputs[0]
            tops = hidden.detach().reshape(-1, hidden.shape[-1]).abs().amax(dim=0).float()
            seen.setdefault((component, name), []).append(((tops >= SPLIT).float().mean(), tops.amax()))

        return look

    with _hooked(models, hook, before=True):
        yield found
    for (component, name), calls in seen.items():
        share = max(columns.item() for columns, _ in calls)
        top = max(value.item() for _, value in calls)
        kind = found.setdefault(component, {}).setdefault(
            kind_of(name), {"layers": 0, "with_outliers": 0, "columns": 0.0, "largest": 0.0}
        )
        kind["layers"] += 1
        kind["with_outliers"] += share > 0
        kind["columns"] = round(max(kind["columns"], share), 4)
        kind["largest"] = round(max(kind["largest"], min(top, ENDLESS)), 2)


def kind_of(name: str) -> str:
    """What a layer is called in every block: "transformer_blocks.3.attn1.to_q" is an "attn1.to_q".

    Example:
        >>> kind_of("layers.0.self_attn.q_proj"), kind_of("transformer_blocks.3.attn1.to_out.0"), kind_of("proj_out")
        ('q_proj', 'attn1.to_out.0', 'proj_out')
    """
    inside = re.sub(r"^.*?\.\d+\.", "", name, count=1)
    return inside.removeprefix("self_attn.").removeprefix("mlp.")
