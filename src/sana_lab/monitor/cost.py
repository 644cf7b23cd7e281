"""What the monitor costs, measured: `python -m sana_lab.monitor.cost --model FOLDER --out FOLDER`.

Two measurements. Pictures with and without the monitor take turns, and each pair gives a difference, in which a
machine that slows down cancels out. And the hook itself is called many times: a clock that sees a picture cannot see
microseconds.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import evidence
from ..commandline import EITHER_GPU, SIZE, STEPS, run_command, whole
from ..evidence.journal import must_be_writable

if TYPE_CHECKING:
    from diffusers import SanaPipeline

RECORD = "monitor_cost"
CALLS = 2000
"""Calls of the hook."""


def measure(pipe: SanaPipeline, *, steps: int = 20, pairs: int = 10, size: int | None = None) -> dict[str, Any]:
    """The cost of watching a pipeline.

    Args:
        pipe: draws; its progress bar is switched off.
        steps: of denoising.
        pairs: how many pictures each way, taking turns.
        size: width and height in pixels, by default the model's own.

    Returns:
        `step_ms` (median without the monitor), `hook_us` (one look, median), `hook_share` (of a step), `pairs` (each:
        seconds without, with), `paired_share` (median, lowest and highest of with : without - 1).

    Chapter 13.
    """
    import torch

    from . import memory

    pipe.set_progress_bar_config(disable=True)
    given: dict[str, Any] = {"num_inference_steps": steps}
    if size is not None:
        given |= {"height": size, "width": size, "use_resolution_binning": False}

    def draw() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        since = time.perf_counter()
        pipe("a red star", generator=torch.Generator("cpu").manual_seed(0), **given)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - since

    draw()
    with memory(pipe) as m:
        draw()
        in_steps = next(stage for stage in m.stages[::-1] if stage.stage == "steps")
        m.watch(pipe)
        hook = next(iter(pipe.transformer._forward_pre_hooks.values()))
        hook()
        looks = []
        for _ in range(CALLS):
            since = time.perf_counter()
            hook()
            looks.append(time.perf_counter() - since)
    found = []
    for number in range(pairs):
        both = {}
        for watched in (False, True) if number % 2 else (True, False):
            if watched:
                with memory(pipe):
                    both[watched] = draw()
            else:
                both[watched] = draw()
        found.append((both[False], both[True]))
    shares = [watched / plain - 1 for plain, watched in found]
    step, look = in_steps.seconds / in_steps.steps, statistics.median(looks)
    return {
        "steps": steps,
        "step_ms": round(1e3 * step, 4),
        "hook_us": round(1e6 * look, 3),
        "hook_share": round(look / step, 7),
        "pairs": [[round(value, 6) for value in pair] for pair in found],
        "paired_share": {
            "median": round(statistics.median(shares), 5),
            "lowest": round(min(shares), 5),
            "highest": round(max(shares), 5),
        },
    }


def record_command(
    out: Annotated[Path, typer.Option(help="Folder for the record.")],
    model: Annotated[str, typer.Option(help='"shapes", a Hub name such as "600M-512", or a folder.')] = "shapes",
    precision: Annotated[str, typer.Option(help="fp32, bf16, fp16, int8 or nf4.")] = "bf16",
    steps: Annotated[int, typer.Option(help="Denoising steps.", callback=STEPS)] = 20,
    pairs: Annotated[int, typer.Option(help="Pictures with the monitor, and without.", callback=whole(1, 1000))] = 10,
    size: Annotated[
        int | None, typer.Option(help="Width and height in pixels.  [default: the model's own]", callback=SIZE)
    ] = None,
    virtual: Annotated[bool | None, EITHER_GPU] = None,
) -> None:
    """Measure what watching the memory costs, and write the record."""
    must_be_writable(out, out)
    from .. import load_sana, use_accelerator

    use_accelerator(vram="64GiB", virtual=virtual)
    found = measure(load_sana(model, precision), steps=steps, pairs=pairs, size=size)
    name = Path(model).name
    file = evidence.save(
        RECORD,
        what="What the memory monitor costs: its look at each step, and pictures with and without it in turns",
        command=f"python -m sana_lab.monitor.cost --model {name} --precision {precision} --steps {steps} --out FOLDER",
        results={"model": name, "precision": precision, **found},
        seed=0,
        folder=out,
    )
    typer.echo(json.dumps({key: value for key, value in found.items() if key != "pairs"}))
    typer.echo(file)


def main(arguments: list[str] | None = None) -> int:
    """`python -m sana_lab.monitor.cost`; what goes wrong is one line on stderr."""
    return run_command(record_command, "python -m sana_lab.monitor.cost", arguments)


if __name__ == "__main__":
    sys.exit(main())
