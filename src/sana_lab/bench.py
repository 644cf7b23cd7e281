"""Times the Shapes model on this machine, on two cores under the virtual GPU: `make bench`."""

from __future__ import annotations

import logging
import os
import platform
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Annotated

import typer

from .commandline import run_command, whole

GOALS = {"load, int8": 3.0, "int8, 20 steps": 4.0, "int8, 10 steps": 2.0}
"""Seconds, on two cores."""

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


def measure(model: str, times: int) -> dict[str, list[float]]:
    """Seconds of each run, by row of the table. A call is the pipeline's default call, but for the number of steps."""
    from . import load_sana, use_accelerator

    use_accelerator(virtual=True)
    rows = {"first load, int8, with imports": seconds(lambda: load_sana(model, "int8"), 1)}
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it logs a line at every 8-bit product (0.50.2)
    rows["load, int8"] = seconds(lambda: load_sana(model, "int8"), times)
    for precision in ("int8", "bf16"):
        pipe = load_sana(model, precision)
        pipe.set_progress_bar_config(disable=True)
        pipe(PROMPT, num_inference_steps=2)  # warm-up
        for steps in (20, 10):
            call = lambda pipe=pipe, steps=steps: pipe(PROMPT, num_inference_steps=steps)  # noqa: E731
            rows[f"{precision}, {steps} steps"] = seconds(call, times)
    return rows


def table(rows: dict[str, list[float]]) -> str:
    """One line a row: median, fastest and slowest run, and the goal where there is one."""
    lines = [f"{'':32}{'median s':>9}{'min':>7}{'max':>7}{'n':>4}   goal"]
    for name, runs in rows.items():
        goal, middle = GOALS.get(name), median(runs)
        verdict = f"{goal:.0f} s, {'met' if middle <= goal else 'missed'}" if goal else ""
        lines.append(f"{name:32}{middle:9.2f}{min(runs):7.2f}{max(runs):7.2f}{len(runs):4}   {verdict}".rstrip())
    return "\n".join(lines)


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


def main(arguments: list[str] | None = None) -> int:
    """Run the command and give its exit status."""
    return run_command(_command, "python -m sana_lab.bench", arguments)


if __name__ == "__main__":
    sys.exit(main())
