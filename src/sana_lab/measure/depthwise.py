"""The depthwise kernel alone, beside a copy of as many bytes: `python -m sana_lab.measure.depthwise --out FOLDER`.

Chapter 8.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from .. import commandline, evidence
from ..accelerator import on_real_gpu
from ..evidence.journal import must_be_writable
from ..kernel_times import milliseconds
from ..kernels import gated_depthwise

RECORD = "depthwise"
SHAPES = ((2, 16, 16, 5760), (8, 16, 16, 5760), (2, 32, 32, 11200), (8, 32, 32, 11200))
"""(batch, height, width, channels of both halves): 600M at 512 pixels and 1.6B at 1024, one picture and four."""


def measure(shapes: Sequence[tuple[int, int, int, int]] = SHAPES, dtype: torch.dtype = torch.float16) -> list[dict]:
    """Times of `sana_lab.kernels.gated_depthwise` and of a copy that reads and writes as many bytes, on this GPU.

    Both are timed with an empty L2 cache, see `sana_lab.kernel_times.milliseconds`, and recorded as CUDA graphs before:
    starting the kernel from Python takes longer than it does itself on a small picture, and would be timed for it.

    Args:
        shapes: of the input.
        dtype: of input and output.

    Returns:
        A row for each shape, with SiLU and without: `shape`, `silu`, `bytes` (the input once and the output once),
        `ms` and `copy_ms` (medians), `off` (largest difference from PyTorch's own convolution on the CPU, in float32,
        as a part of the largest number).

    Example:
        >>> from sana_lab import use_accelerator
        >>> _ = use_accelerator(virtual=True)
        >>> row = measure([(1, 4, 4, 16)])[0]
        >>> row["bytes"], row["off"] < 1e-3
        (768, True)

    Chapter 8.
    """
    rows = []
    for shape in shapes:
        source = torch.Generator().manual_seed(0)
        hidden = torch.randn(shape, generator=source).to("cuda", dtype)
        taps, bias = torch.randn(3, 3, shape[-1], generator=source), torch.randn(shape[-1], generator=source)
        taps, bias = (taps / 3).to("cuda", dtype), bias.to("cuda", dtype)
        size = hidden.numel() * 3 // 2  # the input, and an output half as long
        left = torch.zeros(size // 2, dtype=dtype, device="cuda")
        right = torch.empty_like(left)
        copy = milliseconds(_recorded(lambda left=left, right=right: right.copy_(left)))[0]
        for silu in (False, True):
            given = (hidden, taps, bias, silu)
            row = {"shape": list(shape), "silu": silu, "bytes": size * hidden.element_size()}
            kernel = _recorded(lambda given=given: gated_depthwise(*given))
            row |= {"ms": round(milliseconds(kernel)[0], 5)}
            rows.append(row | {"copy_ms": round(copy, 5), "off": _off(gated_depthwise(*given), *given)})
    return rows


def _recorded(call: Callable[[], object]) -> Callable[[], object]:
    """What starts the kernels of `call` by one word to the GPU; on the virtual one, which records nothing, `call`."""
    call()  # tiles are chosen
    if not on_real_gpu():
        return call
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def _off(found: torch.Tensor, hidden: torch.Tensor, taps: torch.Tensor, bias: torch.Tensor, silu: bool) -> float:
    """The largest difference of the last picture, as a part of its largest number; PyTorch does it on the CPU."""
    wanted = gated_depthwise(hidden[-1:].cpu().float(), taps.cpu().float(), bias.cpu().float(), silu)
    return float((found[-1:].cpu().float() - wanted).abs().max() / wanted.abs().max())


def _command(out: Annotated[Path, typer.Option(help="Folder for the record.")] = evidence.FOLDER) -> None:
    """Time the depthwise kernel alone on this GPU, beside a copy of as many bytes, and write the record."""
    must_be_writable(out, out)
    if not on_real_gpu():
        raise RuntimeError("this needs a real GPU: times of a virtual one say nothing.")
    rows: list[dict[str, Any]] = measure()
    for row in rows:
        name = "x".join(map(str, row["shape"])) + " with SiLU" * row["silu"]
        typer.echo(f"{name}: {row['ms']:.4f} ms, {row['ms'] / row['copy_ms']:.2f} x a copy, {row['off']:.1e} off")
    file = evidence.save(
        RECORD,
        what="The depthwise kernel alone with an empty L2 cache, beside a copy that reads and writes as many bytes",
        command="python -m sana_lab.measure.depthwise",
        results={"rows": rows},
        seed=0,
        folder=out,
    )
    typer.echo(file)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and give its exit status."""
    return commandline.run_command(_command, "python -m sana_lab.measure.depthwise", arguments)


if __name__ == "__main__":
    sys.exit(main())
