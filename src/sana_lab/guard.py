"""A guard in front of the first step: is every tensor where the data will be, and is in 8 bits what was meant to be?"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from typing import TypeVar

import torch
from torch import nn

from .layers import quantized
from .placements import placement

P = TypeVar("P")


class NotReady(RuntimeError):
    """What `checked` raises. `problems` holds a sentence for each thing that is wrong, the first to happen first."""

    def __init__(self, problems: list[str]):
        """Say all of them in one message."""
        self.problems = tuple(problems)
        count = "one thing is wrong" if len(problems) == 1 else f"{len(problems)} things are wrong"
        lines = "".join(f"\n  - {problem}" for problem in problems)
        super().__init__(f"this pipeline is not ready, {count}:{lines}\nplacement(pipe) shows where its parts are.")


OVERFLOWS = ("text_encoder", "vae")
"""Components that overflow in float16 (diffusers 0.42.1, docs, sana.md: both "must stay in" bfloat16 or float32)."""

PIECE = 2**22
"""Numbers that are looked at together: 32 MiB in float64."""


def checked(
    pipe: P,
    *,
    eight_bit: Collection[str] | None = None,
    device: str | None = None,
    types: bool = False,
    room: int | None = None,
) -> P:
    """Return the pipeline as it is, or say why it cannot run or is not what was meant.

    Looks at what `placement` looks at, and at every quantized layer: one that holds no integers yet, or has lost the
    scales that belong to them, computes nonsense or raises deep inside of a step. So do bitsandbytes' 8-bit layers in a
    Sana transformer that draws without guidance, where nothing makes their inputs contiguous (`contiguous_inputs_`).
    Nothing is moved or called, and tensors that you pass in later, such as `prompt_embeds`, are not looked at.

    Args:
        pipe: a diffusers pipeline.
        eight_bit: names of the components that are to be in 8 bits, and no others, such as
            `("text_encoder", "transformer")`; `()` for none. Left out: any will do.
        device: where the pipeline is to compute, "cuda", "cuda:1" or "cpu". Left out: anywhere.
        types: refuse a text encoder or an autoencoder in float16, in which both overflow, and weights that are no
            numbers.
        room: bytes that must be free where the pipeline computes, in PyTorch's cache or for the driver, such as what
            decoding takes (`sana_lab.service.decode_room`). Left out: any.

    Raises:
        NotReady: something is wrong; the text has a line for each thing, with the way out.
        TypeError: `pipe` is no pipeline, or `eight_bit` is a single string.
        ValueError: `eight_bit` names what is no model of this pipeline, `device` is no device, or `room` is below 0.

    Example:
        >>> from sana_lab import load_sana, use_accelerator
        >>> with use_accelerator(virtual=True):
        ...     pipe = checked(load_sana("shapes", "int8"), eight_bit=("text_encoder", "transformer"))
        ...     checked(pipe, device="cpu")
        Traceback (most recent call last):
        sana_lab.guard.NotReady: this pipeline is not ready, one thing is wrong:
        ...

    Chapter 10.
    """
    if room is not None and (isinstance(room, bool) or not isinstance(room, int) or room < 0):
        raise ValueError(f"room={room!r}: give a number of bytes, 0 or more.")
    found = placement(pipe)
    models = {part.component: pipe.components[part.component] for part in found.parts}
    if isinstance(eight_bit, str):
        raise TypeError(f"eight_bit takes several names: write ({eight_bit!r},)")
    for name in eight_bit or ():
        if name not in models:
            near = difflib.get_close_matches(name, models, 1)
            advice = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(models)}."
            raise ValueError(f"eight_bit names {name!r}, which is no model of this pipeline: {advice}")
    problems = list(found.problems)
    for name, model in models.items():
        problems += _damaged(name, model)
        problems += _unguarded(name, model)
        if eight_bit is not None:
            problems += _width(name, model, name in eight_bit)
        if types:
            problems += _overflowing(name, model)
            problems += _no_numbers(name, model)
    if device is not None and not _same(found.inputs, device):
        problems.append(f'the pipeline computes on {found.inputs}, not on {device}: pipe.to("{device}")')
    if room is not None:
        problems += _short_of(room, found.inputs)
    if problems:
        raise NotReady(problems)
    return pipe


def _damaged(name: str, model: nn.Module) -> Iterator[str]:
    """Sentences on 8-bit layers that hold no integers, or no scales for them."""
    eight = [(layer, held) for layer, module, held in quantized(model) if held.bits == 8 and not _waits(module)]
    floats = [layer for layer, held in eight if held.codes is None]
    unscaled = [layer for layer, held in eight if held.codes is not None and held.scales is None]
    if floats:
        yield (
            f"{name}: {_some(floats)} {_are(floats)} 8-bit in name only, with weights in floating point: weights are "
            "quantized on their way to a device, so load it with from_pretrained, or move it once"
        )
    if unscaled:
        yield f"{name}: {_some(unscaled)} {_are(unscaled)} integers without the scales of the rows: load it again"


def _waits(module: nn.Module) -> bool:
    """Whether a hook keeps its weight elsewhere and a stand-in without data is in its place."""
    return getattr(module, "weight", torch.empty(0)).is_meta


def _unguarded(name: str, model: nn.Module) -> Iterator[str]:
    """A sentence on 8-bit layers that read their inputs as they lie, in a model that hands views to some of them."""
    bare = [layer for layer, _, held in quantized(model) if not held.guarded]
    if bare and any(map(_hands_on_views, model.modules())):
        take = "one 8-bit layer takes its" if len(bare) == 1 else f"{len(bare)} 8-bit layers take their"
        yield (
            f"{name}: {take} inputs as they lie in memory; without guidance some are views, of which a real GPU makes "
            f"nonsense: sana_lab.contiguous_inputs_(pipe.{name})"
        )


def _hands_on_views(module: nn.Module) -> bool:
    """Whether it is one of diffusers' Sana transformers, which all do (`sana_lab.views` shows it)."""
    kinds = type(module).__mro__
    return any(kind.__module__.startswith("diffusers.") and kind.__name__.startswith("Sana") for kind in kinds)


def _width(name: str, model: nn.Module, wanted: bool) -> Iterator[str]:
    """A sentence if a component is not in 8 bits and should be, or the other way round."""
    widths = {held.bits for _, _, held in quantized(model)}
    load = f"load it with BitsAndBytesConfig(load_in_8bit=True), under the name {name!r} in a quant_mapping"
    if wanted and not widths:
        yield f"{name}: not in 8 bits, it has no layer of bitsandbytes: {load}"
    elif wanted and widths != {8}:
        yield f"{name}: in 4 bits, not in 8: {load}"
    elif not wanted and widths:
        yield (
            f"{name}: in {min(widths)} bits, and was not to be: name the components to quantize, in quant_mapping or "
            "components_to_quantize"
        )


def _overflowing(name: str, model: nn.Module) -> Iterator[str]:
    """A sentence on a component in float16 whose activations are larger than float16 can hold."""
    half = [weight for weight, tensor in model.named_parameters() if tensor.dtype == torch.float16]
    if half and name in OVERFLOWS:
        yield (
            f"{name}: {len(half)} of its weights are in float16, in which it overflows to pictures that are black: "
            "load it in bfloat16"
        )


def _no_numbers(name: str, model: nn.Module) -> Iterator[str]:
    """A sentence on weights with a NaN or an infinity in them."""
    weights = {name: weight for name, weight in model.named_parameters() if weight.is_floating_point()}
    broken = [name for name, weight in weights.items() if not (weight.is_meta or _finite(weight.detach()))]
    if broken:
        yield f"{name}: {_some(broken)} {_are(broken)} not finite: load it again from files that are whole"


def _finite(weight: torch.Tensor) -> bool:
    """Whether all are numbers.

    PyTorch writes what it adds in another type down in that type first (torch 2.13.0, ATen/native/ReduceOpsUtils.h,
    `make_reduction`), so this adds `PIECE` at a time: for Gemma's table of words, all at once took 4.4 GiB of an H200.
    """
    rows = weight if weight.ndim else weight[None]
    step = max(1, PIECE * len(rows) // max(weight.numel(), 1))
    return bool(torch.isfinite(sum(piece.sum(dtype=torch.float64) for piece in rows.split(step))))


def _short_of(room: int, inputs: str) -> Iterator[str]:
    """A sentence if less than `room` bytes are free where the pipeline computes."""
    if torch.device(inputs).type != "cuda":
        return
    free, total = torch.cuda.mem_get_info(inputs)
    allocated, reserved = torch.cuda.memory_allocated(inputs), torch.cuda.memory_reserved(inputs)
    left = free + reserved - allocated
    fraction = getattr(torch.cuda, "get_per_process_memory_fraction", None)  # from PyTorch 2.8 on
    if fraction is not None:
        left = min(left, int(fraction(inputs) * total) - allocated)
    if left < room:
        yield (
            f"{inputs}: {max(left, 0) / 2**20:,.0f} MiB are left of {total / 2**20:,.0f}, and {room / 2**20:,.0f} are "
            "needed: pipe.vae.enable_tiling(), smaller pictures, or a way of loading that holds less"
        )


def _some(layers: list[str]) -> str:
    return (
        layers[0] if len(layers) == 1 else f"{len(layers)} layers ({', '.join(layers[:2])}{', …' * (len(layers) > 2)})"
    )


def _are(layers: list[str]) -> str:
    return "is" if len(layers) == 1 else "are"


def _same(inputs: str, device: str) -> bool:
    """Whether "cuda:0" is what was meant by "cuda" or "cuda:0"."""
    try:
        wanted = torch.device(device)
    except RuntimeError:
        raise ValueError(f'device={device!r}: give "cuda", "cuda:1" or "cpu".') from None
    return inputs == str(wanted) or (wanted.index is None and torch.device(inputs).type == wanted.type)
