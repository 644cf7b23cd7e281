"""Where the parts of a pipeline really are, and which of them will meet a tensor from another device.

`pipe.hf_device_map` is a plan, made before anything was loaded; `pipe.device` is the device of one component. This
module looks at every tensor instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .accounting import tensors_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Part:
    """One component of a pipeline.

    Attributes:
        component: its name in the pipeline, such as "vae".
        bytes: device, such as "cuda:0" → bytes of parameters, buffers and what bitsandbytes keeps beside its weights.
            A tensor that the component holds twice counts once. Ordered by size.
        dtypes: of the weights, without "torch.", the one with the most bytes first.
        hooks: what moves weights or inputs when the component is called: "model offload", "sequential offload",
            "group offload", "moves inputs", or "" for nothing.

    Chapter 10.
    """

    component: str
    bytes: Mapping[str, int]
    dtypes: tuple[str, ...]
    hooks: str

    @property
    def device(self) -> str:
        """Its devices in one word, "cuda:0" or "cuda:0 + cpu"."""
        return " + ".join(self.bytes) or "none"


@dataclass(frozen=True)
class Placement:
    """What `placement` returns; shows as a table with the problems below it.

    Attributes:
        parts: in the order in which the pipeline calls them.
        inputs: the device on which the pipeline makes token ids and noise, such as "cuda:0".
        problems: what will go wrong, a sentence each, the first to happen first; empty if nothing will.

    Chapter 10.
    """

    parts: tuple[Part, ...]
    inputs: str
    problems: tuple[str, ...]

    @property
    def devices(self) -> dict[str, str]:
        """Component → its device, or several joined by " + "."""
        return {part.component: part.device for part in self.parts}

    @property
    def table(self) -> pd.DataFrame:
        """A row for each component."""
        import pandas as pd

        rows = [
            {
                "device": part.device,
                "dtypes": ", ".join(part.dtypes),
                "MiB": round(sum(part.bytes.values()) / 2**20, 1),
                "hooks": part.hooks or "–",
            }
            for part in self.parts
        ]
        return pd.DataFrame(rows, index=[part.component for part in self.parts])

    def __repr__(self) -> str:
        """The table and the problems as text."""
        return "\n".join([self.table.to_string(), f"inputs are made on {self.inputs}", *self._verdict()])

    def _repr_html_(self) -> str:
        import html

        lines = "".join(f"<li>{html.escape(line)}</li>" for line in self._verdict())
        return f"{self.table.to_html()}<p>inputs are made on <code>{self.inputs}</code></p><ul>{lines}</ul>"

    def _verdict(self) -> list[str]:
        return [f"PROBLEM {problem}" for problem in self.problems] or ["no problem found"]


def placement(pipe: Any) -> Placement:
    """Look up the device of every tensor of a pipeline, and say which component will meet tensors from elsewhere.

    A diffusers pipeline makes ids and noise on one device and hands each component tensors from there (0.42.1,
    pipelines/pipeline_utils.py, `_execution_device`; pipelines/sana/pipeline_sana.py). A component must therefore be
    on that device, unless a hook moves its inputs (accelerate 1.15.0, hooks.py, `AlignDevicesHook`) or its weights
    (`CpuOffload`, the same hook with `offload=True`, diffusers' group offloading). What a hook brings by itself is
    trusted. Tensors that you pass in, such as `prompt_embeds`, are not looked at.

    Args:
        pipe: a diffusers pipeline. It is only looked at: nothing is moved or called.

    Raises:
        TypeError: it is no pipeline, or has no models in it.

    Example:
        >>> from sana_lab import load_sana, use_accelerator
        >>> with use_accelerator(virtual=True):
        ...     placement(load_sana("shapes", "bf16").to("cpu")).devices
        {'text_encoder': 'cpu', 'transformer': 'cpu', 'vae': 'cpu'}

    Chapter 10.
    """
    components = getattr(pipe, "components", None)
    models = {name: part for name, part in (components or {}).items() if isinstance(part, nn.Module)}
    if not models:
        raise TypeError(f"placement needs a diffusers pipeline with models in it, got {type(pipe).__name__}")
    inputs = _full_name(getattr(pipe, "_execution_device", None) or pipe.device)
    parts, problems = [], []
    for name in _in_call_order(pipe, list(models)):
        parts.append(_part(name, models[name]))
        problems += _problems(name, models[name], inputs)
    return Placement(tuple(parts), inputs, tuple(problems))


def placement_figure(placements: Mapping[str, Placement]) -> Figure:
    """Draw each placement as a row of boxes, one a component, filled by device; a cross where tensors will not meet.

    Args:
        placements: label of the row → what `placement` returned.

    Raises:
        ValueError: no row.

    Chapter 10.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch, Rectangle

    from .figures import HATCHES, INK, PALETTE

    if not placements:
        raise ValueError("give at least one placement, as {label: placement(pipe)}")
    devices = sorted({device for p in placements.values() for part in p.parts for device in part.bytes})
    colors = ("amber", "blue", "green", "plum", "rust")
    fills = {
        device: {"facecolor": PALETTE[colors[i % len(colors)]], "hatch": HATCHES[(i + 1) % len(HATCHES)]}
        for i, device in enumerate(["cpu", *(d for d in devices if d != "cpu")])
    }
    columns = max(len(p.parts) for p in placements.values())
    figure = Figure(figsize=(7.0, 0.55 + 1.05 * len(placements)), layout="constrained")
    axes = figure.subplots()
    for row, (label, found) in enumerate(placements.items()):
        y = -1.15 * row
        axes.text(-0.45, y + 0.25, label, ha="right", va="center", fontsize=9.5)
        for column, part in enumerate(found.parts):
            x, total = 1.5 * column, sum(part.bytes.values()) or 1
            left = x
            for device, size in part.bytes.items():
                width = max(size / total, 0.12) if len(part.bytes) > 1 else 1.0  # a single buffer must stay visible
                width = min(width, x + 1 - left)
                axes.add_patch(Rectangle((left, y), width, 0.5, edgecolor=INK, linewidth=0.8, **fills[device]))
                left += width
            axes.text(x + 0.5, y + 0.56, part.component, ha="center", va="bottom", fontsize=9)
            axes.text(x + 0.5, y - 0.06, part.device, ha="center", va="top", fontsize=8.5)
            axes.annotate("", (x, y + 0.25), (x - 0.5 if column else x - 0.35, y + 0.25), arrowprops=_arrow(INK))
            if any(problem.startswith(f"{part.component}:") for problem in found.problems):
                axes.plot(x - 0.22, y + 0.25, marker="x", markersize=13, markeredgewidth=3, color=PALETTE["rust"])
    axes.set(xlim=(-0.5, 1.5 * columns - 0.4), ylim=(-1.15 * (len(placements) - 1) - 0.35, 0.85))
    axes.axis("off")
    handles = [Patch(label=device, edgecolor=INK, **fills[device]) for device in fills if device in devices]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False, handleheight=1.2)
    return figure


def _arrow(color: str) -> dict[str, Any]:
    return {"arrowstyle": "-|>", "color": color, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}


def _in_call_order(pipe: Any, names: list[str]) -> list[str]:
    """Names in the order of `model_cpu_offload_seq`, "text_encoder->transformer->vae"; others after them."""
    order = (getattr(pipe, "model_cpu_offload_seq", None) or "").split("->")
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))


def _part(name: str, model: nn.Module) -> Part:
    by_device: dict[str, int] = {}
    by_dtype: dict[str, int] = {}
    seen = set()
    for _, _, tensor, weights in _tensors(model):
        key = tensor.data_ptr() or id(tensor)
        if key in seen:
            continue
        seen.add(key)
        by_device[_full_name(tensor.device)] = by_device.get(_full_name(tensor.device), 0) + tensor.nbytes
        if weights:
            dtype = str(tensor.dtype).removeprefix("torch.")
            by_dtype[dtype] = by_dtype.get(dtype, 0) + tensor.nbytes
    return Part(name, _by_size(by_device), tuple(_by_size(by_dtype)), _hooks(model))


def _by_size(amounts: dict[str, int]) -> dict[str, int]:
    return dict(sorted(amounts.items(), key=lambda item: -item[1]))


def _tensors(model: nn.Module) -> Iterator[tuple[str, str, Tensor, int]]:
    """Layer, tensor's name, tensor and its number of weights, of all that the model keeps, as `accounting` finds it."""
    for layer, owner in model.named_modules():
        for name, tensor, _, weights in tensors_of(owner):
            yield layer, f"{layer}.{name}".lstrip("."), tensor, weights


def _problems(component: str, model: nn.Module, inputs: str) -> list[str]:
    """Sentences on tensors that are not where the data will be when they are used."""
    wrong: dict[tuple[str, str], list[str]] = {}
    total = 0
    meets = _where_data_is(model, inputs)
    for layer, label, tensor, _ in _tensors(model):
        total += 1
        there, here = meets[layer], _full_name(tensor.device)
        if there is not None and here != there:
            wrong.setdefault((here, there), []).append(label)
    found = []
    for (here, there), labels in wrong.items():
        if here == "meta":
            found.append(
                f"{component}: {len(labels)} of its {total} tensors are on the meta device, which holds no data, and "
                "no hook brings it: load the component again"
            )
        elif len(labels) == total:
            found.append(
                f"{component}: all of it is on {here}, and it will be handed tensors on {there}: "
                f'pipe.{component}.to("{there}")'
            )
        else:
            named = ", ".join(labels[:2]) + (", …" if len(labels) > 2 else "")
            found.append(
                f"{component}: {len(labels)} of its {total} tensors are on {here}, where the data will be on {there}: "
                f"{named}"
            )
    return found


def _where_data_is(model: nn.Module, inputs: str) -> dict[str, str | None]:
    """Layer → device on which its inputs arrive; None where a hook brings weights and inputs together.

    A layer without a hook of its own gets what its parent got: accelerate gives none to modules with an empty state
    dict, such as rotary embeddings (1.15.0, hooks.py, `attach_execution_device_hook`).
    """
    arrives: dict[str, str | None] = {}
    for layer, owner in model.named_modules():
        before = arrives[layer.rpartition(".")[0]] if layer else inputs
        if before is None or _group_offloaded(owner):
            arrives[layer] = None
            continue
        arrives[layer] = before
        for hook in _accelerate_hooks(owner):
            device = getattr(hook, "execution_device", None)
            if device is None:
                continue
            brings = type(hook).__name__ == "CpuOffload" or getattr(hook, "offload", False)
            arrives[layer] = None if brings else _full_name(device)
    return arrives


def _hooks(model: nn.Module) -> str:
    hooks = [hook for module in model.modules() for hook in _accelerate_hooks(module)]
    if any(_group_offloaded(module) for module in model.modules()):
        return "group offload"
    if any(type(hook).__name__ == "CpuOffload" for hook in hooks):
        return "model offload"
    if any(getattr(hook, "offload", False) for hook in hooks):
        return "sequential offload"
    return "moves inputs" if any(getattr(hook, "execution_device", None) is not None for hook in hooks) else ""


def _accelerate_hooks(module: nn.Module) -> list[Any]:
    """Hooks that accelerate put on one module; several are wrapped in a `SequentialHook`."""
    hook = getattr(module, "_hf_hook", None)
    return [] if hook is None else list(getattr(hook, "hooks", (hook,)))


def _group_offloaded(module: nn.Module) -> bool:
    """Whether diffusers' group offloading is on this module (0.42.1, hooks/group_offloading.py)."""
    registry = getattr(module, "_diffusers_hook", None)
    return registry is not None and "group_offloading" in registry.hooks


def _full_name(device: torch.device | str | int) -> str:
    """A device as a tensor names it: "cuda" is the current GPU, and accelerate's maps say 0 for "cuda:0"."""
    if isinstance(device, int):
        return f"cuda:{device}"
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        return f"cuda:{torch.cuda.current_device()}"
    return str(device)
