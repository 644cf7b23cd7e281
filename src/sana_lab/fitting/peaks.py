"""What a way needs on the GPU in each stage, and on the host: from what `dry` counted, without torch.

A stage holds the weights that are on the GPU then, what the call makes beside them, and what the libraries take. Four
stages: "load", "encode" (the prompts), "steps", "decode". Chapter 9.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import evidence
from ..checkpoints import Source, resolve
from .ways import Way

STAGES = ("load", "encode", "steps", "decode")
RECORD = "dry_runs"
SIDE = 512
"""Pixels a side of the pictures that were counted."""

TILE = 512
"""Pixels a side of a tile (diffusers 0.42.1, autoencoder_dc.py, `tile_sample_min_height`)."""

WORKSPACE = 32 * 2**20
"""Bytes that matrix products of cuBLAS take once on a GPU of Hopper's kind, out of the same memory; others less."""

Look = dict[str, Any]


def known(model: str | Path | Source) -> Look:
    """What `dry.look` counted: from the record for released checkpoints and Shapes, else counted now.

    Raises:
        ValueError: there is no such model.
        OSError: its files are damaged.
    """
    source = resolve(model)
    name = source.checkpoint.like if source.checkpoint else source.name
    if source.checkpoint or source.model == "shapes":
        return evidence.load(RECORD)["results"][name]
    from . import dry

    return dry.look(source)


def stages(look: Look, way: Way, pixels: int, pictures: int = 1, decode: str = "whole") -> dict[str, int]:
    """Peak bytes of each stage, as the allocator counts.

    Args:
        look: see `known`.
        way: how the pipeline is loaded and kept.
        pixels: a side.
        pictures: drawn at once, with guidance.
        decode: a key of `ways.DECODES`.
    """
    encoder, transformer, vae = (
        look["weights"][name][form]
        for name, form in (("text_encoder", way.encoder), ("transformer", way.transformer), ("vae", "16"))
    )
    first_encoder, first_transformer = (  # slim comes after: a component is loaded as the recipe has it
        look["weights"][name].get(form.removesuffix("-slim"), 0)
        for name, form in (("text_encoder", way.encoder), ("transformer", way.transformer))
    )
    area = (pixels / SIDE) ** 2
    encoding = _grown(look["encode"][way.encoder], pictures)
    stepping = _grown(look["step"][way.transformer], pictures * area)
    decoding = _decoding(look["decode"], pixels, pictures, decode)
    if way.keeps == "all":
        resident = encoder + transformer + vae
        beside = {"load": 0, "encode": encoding, "steps": stepping, "decode": decoding}
        found = {stage: resident + more for stage, more in beside.items()}
        loading = first_transformer, transformer + first_encoder, look["load"].get(way.transformer, 0)
        found["load"] = max(found["load"], *loading)
    elif way.keeps == "drop":
        rest = transformer + vae
        found = {
            "load": max(first_encoder, first_transformer, rest),
            "encode": encoder + encoding,
            "steps": rest + stepping,
            "decode": rest + decoding,
        }
    elif way.keeps == "model":
        found = {
            "load": max(encoder, transformer) if way.quantizes else 0,
            "encode": encoder + encoding,
            "steps": max(encoder, transformer + stepping),  # a component leaves when the next one is called
            "decode": max(transformer, vae + decoding),
        }
    else:
        found = {"load": 0}
        for stage, component, more in (
            ("encode", "text_encoder", encoding),
            ("steps", "transformer", stepping),
            ("decode", "vae", decoding),
        ):
            first, second = look["leaf"][component]
            ahead = second if way.keeps == "stream" else 0
            found[stage] = max(first + ahead, second + ahead + more)
    return {stage: int(size) + WORKSPACE for stage, size in found.items()}


def _grown(two: list[int], pictures: float) -> float:
    """From the bytes of one picture and of two those of any number of them, in a straight line."""
    one, both = two
    return max(one + (both - one) * (pictures - 1), 0)


def _decoding(two: list[int], pixels: int, pictures: int, decode: str) -> float:
    area = (pixels / SIDE) ** 2
    if decode == "whole":
        return _grown(two, pictures * area)
    finished = 2 * 3 * pixels**2 * pictures * 2  # pictures in 16 bits, and the same once more as they are joined
    side = min(pixels, TILE) if decode == "tiles" else pixels
    return _grown(two, (side / SIDE) ** 2) + finished * (pictures > 1 or side < pixels)


def host(look: Look, way: Way) -> int:
    """Bytes of the host's memory that loading takes at most, beside what the libraries have: an upper bound.

    The weights in 16 bits of what is not quantized as it is read, and of the largest component that is. Pages of the
    files count: what is read and not changed the system may drop and read again, so that a process has often far less
    for itself (the record of small cards tells how much).
    """
    sizes = {name: forms["16"] for name, forms in look["weights"].items()}
    if not way.quantizes:
        return sum(sizes.values())
    if way.keeps == "model":
        forms = {"text_encoder": way.encoder, "transformer": way.transformer}
        return sum(look["weights"][name][form] for name, form in forms.items()) + sizes["vae"]
    quantized = ["text_encoder"] if way.transformer == "16" else ["text_encoder", "transformer"]
    return sum(size for name, size in sizes.items() if name not in quantized) + max(sizes[n] for n in quantized)
