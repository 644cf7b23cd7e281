"""Times the Shapes model on this machine, on two cores under the virtual GPU: `make bench`."""

from __future__ import annotations

import logging
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from statistics import median
from typing import Annotated

import typer

from .commandline import run_command, whole

GOALS = {"load, int8": 3.0, "int8, 20 steps": 5.0, "int8, 10 steps": 2.6}
"""Seconds, on two cores."""

MOST = 1.2
"""What a picture under the virtual GPU may cost, in times of the same picture on the plain CPU."""

VIRTUAL, PLAIN = "bf16, {} steps, virtual GPU", "bf16, {} steps, plain CPU"
"""The rows of `beside_plain`."""

PROMPT = "a small red star above a large blue ring on a white background"


def use_two_cores() -> None:
    """Keep this process to two processor cores, where the system lets a process choose (Linux)."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    import torch

    torch.set_num_threads(2)


def seconds(action: Callable[[], object], times: int) -> list[float]:
    """Wall-clock seconds of each of `times` runs of `action`."""
    runs = []
    for _ in range(times):
        start = time.perf_counter()
        action()
        runs.append(time.perf_counter() - start)
    return runs


def measure(model: str, times: int, steps: Sequence[int] = (20, 10)) -> dict[str, list[float]]:
    """Seconds of each run, by row of the table. A call is the pipeline's default call, but for the number of steps."""
    from . import load_sana, use_accelerator

    with use_accelerator(virtual=True):
        rows = {"first load, int8, with imports": seconds(lambda: load_sana(model, "int8"), 1)}
        rows["load, int8"] = seconds(lambda: load_sana(model, "int8"), times)
        for precision in ("int8", "bf16"):
            draw = _drawing(model, precision)
            for count in steps:
                rows[f"{precision}, {count} steps"] = seconds(lambda draw=draw, count=count: draw(count), times)
    return rows


def beside_plain(model: str, times: int, steps: int = 10) -> dict[str, list[float]]:
    """Seconds of the same bf16 picture under the virtual GPU and without it, in two rows.

    Both in one process, in turns, so that they meet the same machine; the virtual GPU is entered and left each time,
    which undoes all that it changes, and the pipeline is loaded anew and warmed up.
    """
    from . import use_accelerator

    ways = {VIRTUAL: lambda: use_accelerator(virtual=True), PLAIN: nullcontext}
    rows: dict[str, list[float]] = {name.format(steps): [] for name in ways}
    for turn in range(times):
        for name in list(ways)[:: -1 if turn % 2 else 1]:
            with ways[name]():
                draw = _drawing(model, "bf16", "cpu" if name == PLAIN else None)
                rows[name.format(steps)] += seconds(lambda draw=draw: draw(steps), 1)
    return rows


def _drawing(model: str, precision: str, device: str | None = None) -> Callable[[int], object]:
    """A pipeline that has drawn once, as a function of the number of steps."""
    from . import load_sana
    from .attention import cast_once_, prompt_once_

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it logs a line at every 8-bit product (0.50.2)
    pipe = load_sana(model, precision, device)
    pipe.set_progress_bar_config(disable=True)
    prompt_once_(cast_once_(pipe).transformer)  # in every precision
    pipe(PROMPT, num_inference_steps=2)  # warm-up
    return lambda steps: pipe(PROMPT, num_inference_steps=steps)


def table(rows: dict[str, list[float]]) -> str:
    """One line a row: median, fastest and slowest run, and the goal where there is one."""
    lines = [f"{'':32}{'median s':>9}{'min':>7}{'max':>7}{'n':>4}   goal"]
    for name, runs in rows.items():
        goal, middle = GOALS.get(name), median(runs)
        verdict = f"{goal:g} s, {'met' if middle <= goal else 'missed'}" if goal else ""
        lines.append(f"{name:32}{middle:9.2f}{min(runs):7.2f}{max(runs):7.2f}{len(runs):4}   {verdict}".rstrip())
    return "\n".join(lines)


def ratio(rows: dict[str, list[float]]) -> str:
    """The line below the two rows of `beside_plain`: the quotient of their medians, and the goal."""
    virtual, plain = map(median, rows.values())
    verdict = "met" if virtual <= MOST * plain else "missed"
    return f"{'virtual GPU : plain CPU':32}{virtual / plain:9.2f}{'':18}   {MOST:g}, {verdict}"


def _command(
    model: Annotated[str, typer.Option(help="What load_sana() takes.")] = "shapes",
    n: Annotated[int, typer.Option("-n", help="Runs of each.", callback=whole(1, 1000))] = 5,
) -> None:
    """Time the Shapes model on this machine, on two cores under the virtual GPU."""
    from .checkpoints import resolve

    resolve(model).check()
    use_two_cores()
    import torch

    processor = platform.processor() or platform.machine()
    print(f"{model} on two cores ({processor}), torch {torch.__version__}, virtual GPU")
    print(table(measure(model, n)))
    both = beside_plain(model, n)
    print("\n".join(table(both).split("\n")[1:]), ratio(both), sep="\n")


def main(arguments: list[str] | None = None) -> int:
    """Run the command and give its exit status."""
    return run_command(_command, "python -m sana_lab.bench", arguments)


if __name__ == "__main__":
    sys.exit(main())
