"""`sana-lab evaluate`, also `python -m sana_lab.evaluate`: needs none of the book's own libraries."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from .. import machine
from ..generate import drawing
from ..launched import FEWER, Place, fewer_than_asked
from .conditions import CONDITIONS
from .runner import Plan, Run

DEBUG_VARIABLE = "SANA_LAB_DEBUG"


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _number_of(text: str) -> tuple[str, int]:
    name, _, n = text.partition("=")
    return name, int(n)


def parser(program: str) -> argparse.ArgumentParser:
    """The options."""
    plan = Plan()
    made = argparse.ArgumentParser(
        prog=program,
        description="Draw the same scenes from the same noise under several conditions, read them back, and write a "
        "record. A stopped run goes on where it stood.",
        epilog="Several GPUs: accelerate launch --num_processes 2 -m sana_lab.evaluate --out FOLDER ... The results "
        "do not depend on the number of processes. With fewer than two GPUs add --multi_gpu, or accelerate starts one.",
    )
    add = made.add_argument
    add("--out", required=True, type=Path, metavar="FOLDER", help="for partial results and the record")
    add("--model", default=plan.model, help='"shapes", a name such as "600M-512", or a folder; default: %(default)s')
    add("--conditions", default=",".join(plan.conditions), help="names with commas; default: %(default)s")
    add("-n", "--n", type=int, default=plan.n, help="scenes of each number of objects; default: %(default)s")
    add("--n-of", type=_number_of, action="append", default=[], metavar="NAME=N", help="another n for one condition")
    add("--objects", type=_numbers, default=plan.objects, metavar="1,2", help="numbers of objects; default: 1,2")
    add("--steps", type=int, default=plan.steps, help="denoising steps; default: %(default)s")
    add("--guidance", type=float, default=plan.guidance, help="strength of the prompt; default: %(default)s")
    add("--seed", type=int, default=plan.seed, help="of the scenes; default: %(default)s")
    add("--chunk", type=int, default=plan.chunk, help="pictures a batch; default: %(default)s; 4 suits a laptop")
    add("--threads", type=int, default=plan.threads, help="a process has without a real GPU; default: %(default)s")
    add("--sweep", type=int, default=plan.sweep, help="scenes of the sensitivity sweep, 0 for none; default: 64")
    add("--sweep-bits", type=int, default=plan.sweep_bits, help="bits of its one layer; default: %(default)s")
    add("--record", default=plan.record, metavar="NAME", help="of the file that it ends with; default: %(default)s")
    add("--readers", type=int, help="processes that read pictures; default: by cores, at most 16")
    add("--virtual", action="store_true", help="use the virtual GPU where there is a real one, too")
    return made


def main(program: str, arguments: list[str] | None = None) -> None:
    """Run the command; errors are exceptions."""
    given = vars(parser(program).parse_args(arguments))
    out, readers, virtual = given.pop("out"), given.pop("readers"), given.pop("virtual")
    given["conditions"] = tuple(filter(None, given["conditions"].split(",")))
    given["n_of"] = tuple(given["n_of"])
    plan = Plan(**given)
    if set(plan.conditions) == set(CONDITIONS):
        plan = Plan(**given | {"conditions": tuple(CONDITIONS)})

    import torch

    from .. import use_accelerator

    place = Place.here()
    if fewer_than_asked():
        print(f"{program}: warning: {FEWER}", file=sys.stderr)
    if use_accelerator(virtual=True if virtual else None).virtual:
        torch.set_num_threads(plan.threads)  # a sum over other threads is rounded in another order
        device = "cuda"
    else:
        device = f"cuda:{place.local % torch.cuda.device_count()}"
        torch.cuda.set_device(device)
    if readers is None:
        readers = min(16, machine.cores() // place.world - 1)
    start = time.perf_counter()
    run_ = Run(plan, out, device, rank=place.rank, world=place.world, readers=readers)
    with drawing.hushed():
        record = run_.go(progress=place.rank == 0)
    seconds = time.perf_counter() - start
    if record is not None:
        print(f"{record} ({record.stat().st_size / 1000:.0f} kB, this process took {seconds:.0f} s)")


def run(program: str) -> None:
    """Run the command; what goes wrong is one line on stderr and exit status 2."""
    try:
        main(program)
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        if os.environ.get(DEBUG_VARIABLE) == "1":
            raise
        print(f"{program}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{program}: stopped; the same command goes on", file=sys.stderr)
        sys.exit(130)
