"""`sana-lab evaluate`, also `python -m sana_lab.evaluate`. `mount(app)` adds it to a typer app."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from ..commandline import GUIDANCE, SEED, STEPS, goes_on, integers, names, run_command, say, whole
from .plan import LIMITS, SCENES, Plan

PROGRAM = "python -m sana_lab.evaluate"


def mount(parent: typer.Typer) -> None:
    """Add `evaluate` to a command line."""
    parent.command(options_metavar="--out FOLDER [OPTIONS]")(evaluate)


def evaluate(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for partial results and the record.")],
    model: Annotated[str, typer.Option(help='"shapes", a name such as "600M-512", or a folder.')] = Plan.model,
    conditions: Annotated[str | None, typer.Option(help="Names with commas between them.  [default: all]")] = None,
    n: Annotated[
        int, typer.Option("-n", "--n", help="Scenes of each number of objects.", callback=whole(1, SCENES))
    ] = Plan.n,
    n_of: Annotated[
        list[str] | None, typer.Option(metavar="NAME=N", help="Another n for one condition; may be repeated.")
    ] = None,
    objects: Annotated[str, typer.Option(metavar="1,2", help="Numbers of objects.")] = "1,2",
    steps: Annotated[int, typer.Option(help="Denoising steps.", callback=STEPS)] = Plan.steps,
    guidance: Annotated[float, typer.Option(help="Strength of the prompt.", callback=GUIDANCE)] = Plan.guidance,
    seed: Annotated[int, typer.Option(help="Seed of the scenes.", callback=SEED)] = Plan.seed,
    chunk: Annotated[
        int, typer.Option(help="Pictures in a batch; 4 suits a laptop.", callback=whole(*LIMITS["chunk"]))
    ] = Plan.chunk,
    threads: Annotated[
        int, typer.Option(help="Threads of each process without a real GPU.", callback=whole(*LIMITS["threads"]))
    ] = Plan.threads,
    sweep: Annotated[
        int, typer.Option(help="Scenes of the sensitivity sweep, 0 for none.", callback=whole(0, SCENES))
    ] = Plan.sweep,
    sweep_bits: Annotated[
        int, typer.Option(help="Bits of the sweep's one layer.", callback=whole(2, 8))
    ] = Plan.sweep_bits,
    record: Annotated[str, typer.Option(metavar="NAME", help="Name of the record to write.")] = Plan.record,
    readers: Annotated[
        int | None,
        typer.Option(help="Processes that read pictures.  [default: by cores, at most 16]", callback=whole(0, 256)),
    ] = None,
    virtual: Annotated[
        bool, typer.Option("--virtual", help="Use the virtual GPU where there is a real one, too.")
    ] = False,
) -> None:
    """Measure how often quantized models still draw what was asked.

    The same scenes from the same noise are drawn under several conditions and read back, for a record. A
    stopped run goes on where it stood.

    Several GPUs: accelerate launch --num_processes 2 -m sana_lab.evaluate --out FOLDER ... The results do not depend on
    the number of processes. With fewer than two GPUs add --multi_gpu, or accelerate starts one.
    """
    from .conditions import CONDITIONS

    chosen = tuple(CONDITIONS) if conditions is None else names("--conditions", conditions)
    plan = Plan(
        model,
        tuple(CONDITIONS) if set(chosen) == set(CONDITIONS) else chosen,
        n,
        tuple(map(_number_of, n_of or ())),
        integers("--objects", objects),
        steps,
        guidance,
        seed,
        chunk,
        threads,
        sweep,
        sweep_bits,
        record,
    )
    draw(plan, out, readers, virtual)


def _number_of(text: str) -> tuple[str, int]:
    """The two halves of `NAME=N`.

    Raises:
        ValueError: it has others.
    """
    name, _, n = text.partition("=")
    try:
        return name, int(n)
    except ValueError:
        raise ValueError(f"--n-of {text[:60]}: give a condition and a number, such as int8=200.") from None


def draw(plan: Plan, out: Path, readers: int | None, virtual: bool) -> None:
    """Do this process's share of a plan.

    Raises:
        ValueError: the model is unknown, or the folder holds another run.
        OSError: files cannot be read or written.
        RuntimeError: too little memory.
    """
    import torch

    from .. import machine, use_accelerator
    from ..generate import drawing
    from ..launched import FEWER, Launched, fewer_than_asked
    from .runner import Run

    launched = Launched.here()
    if fewer_than_asked():
        say(f"warning: {FEWER}")
    if use_accelerator(virtual=True if virtual else None).virtual:
        torch.set_num_threads(plan.threads)  # a sum over other threads is rounded in another order
        device = "cuda"
    else:
        device = f"cuda:{launched.local % torch.cuda.device_count()}"
        torch.cuda.set_device(device)
    if readers is None:
        readers = min(16, machine.cores() // launched.world - 1)
    start = time.perf_counter()
    with goes_on(), drawing.hushed():
        record = Run(plan, out, device, rank=launched.rank, world=launched.world, readers=readers).go(
            progress=launched.rank == 0
        )
    seconds = time.perf_counter() - start
    if record is not None:
        print(f"{record} ({record.stat().st_size / 1000:.0f} kB, this process took {seconds:.0f} s)")


def main(arguments: list[str] | None = None) -> int:
    """Run the command and give its exit status."""
    return run_command(evaluate, PROGRAM, arguments)
