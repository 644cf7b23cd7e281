"""Times the Shapes model on this machine, on two cores without AVX-512 under the virtual GPU: `make bench`."""

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

SAME = 1.0
"""What an 8-bit picture may cost, in times of the 16-bit one."""

WITHOUT_AVX512 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
"""Variables that keep PyTorch's own kernels, oneDNN and MKL to AVX2. Each reads its own once, before its first work."""

VIRTUAL, PLAIN = "bf16, {} steps, virtual GPU", "bf16, {} steps, plain CPU"
"""The rows of `beside_plain`."""

PROMPT = "a small red star above a large blue ring on a white background"


def use_two_cores() -> None:
    """Keep this process to AVX2, and to two processor cores where the system lets a process choose (Linux)."""
    os.environ.update(WITHOUT_AVX512)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    import torch

    torch.set_num_threads(2)


def machine() -> str:
    """What this process runs on, in words: AVX-512 is in use where PyTorch has worked before `use_two_cores`."""
    import torch

    processor, kind = platform.processor() or platform.machine(), torch.backends.cpu.get_cpu_capability()
    held = "with AVX-512" if "AVX512" in kind else "without AVX-512"
    return f"two cores ({processor}, {kind}, {held}), torch {torch.__version__}"


def seconds(action: Callable[[], object], times: int) -> list[float]:
    """Wall-clock seconds of each of `times` runs of `action`."""
    runs = []
    for _ in range(times):
        start = time.perf_counter()
        action()
        runs.append(time.perf_counter() - start)
    return runs


def measure(model: str, times: int, steps: Sequence[int] = (20, 10)) -> dict[str, list[float]]:
    """Seconds of each run, by row of the table. A call is the pipeline's default call, except for the number of steps.

    Pictures in 8 and in 16 bits are drawn in turns, so that they meet the same machine.
    """
    from . import load_sana, use_accelerator

    with use_accelerator(virtual=True):
        rows = {"first load, int8, with imports": seconds(lambda: load_sana(model, "int8"), 1)}
        rows["load, int8"] = seconds(lambda: load_sana(model, "int8"), times)
        draws = {precision: _drawing(model, precision) for precision in ("int8", "bf16")}
        rows |= {f"{precision}, {count} steps": [] for precision in draws for count in steps}
        for turn, count in [(turn, count) for turn in range(times) for count in steps]:
            for precision in list(draws)[:: -1 if turn % 2 else 1]:
                rows[f"{precision}, {count} steps"] += seconds(lambda p=precision, n=count: draws[p](n), 1)
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


def ratio(rows: dict[str, list[float]], words: str = "virtual GPU : plain CPU", most: float = MOST) -> str:
    """A line below two rows, such as those of `beside_plain`: the quotient of their medians, and the goal."""
    first, second = map(median, rows.values())
    verdict = "met" if first <= most * second else "missed"
    return f"{words:32}{first / second:9.2f}{'':18}   {most:g}, {verdict}"


def ratios(rows: dict[str, list[float]], steps: Sequence[int] = (20, 10)) -> str:
    """The lines below the rows of `measure`: what 8 bits cost in times of 16 bits."""
    pairs = {f"int8 : bf16, {count} steps": [f"{kind}, {count} steps" for kind in ("int8", "bf16")] for count in steps}
    return "\n".join(ratio({name: rows[name] for name in pair}, words, SAME) for words, pair in pairs.items())


def _command(
    model: Annotated[str, typer.Option(help='"shapes", a Hub name such as "600M-512", or a folder.')] = "shapes",
    n: Annotated[int, typer.Option("-n", help="How often each picture is drawn.", callback=whole(1, 1000))] = 5,
) -> None:
    """Time the Shapes model on this machine, on two cores without AVX-512 under the virtual GPU."""
    from .checkpoints import resolve

    resolve(model).check()
    use_two_cores()
    print(f"{model} on {machine()}, virtual GPU")
    rows = measure(model, n)
    print(table(rows), ratios(rows), sep="\n")
    both = beside_plain(model, n)
    print("\n".join(table(both).split("\n")[1:]), ratio(both), sep="\n")


def main(arguments: list[str] | None = None) -> int:
    """Run the command and give its exit status."""
    return run_command(_command, "python -m sana_lab.bench", arguments)


if __name__ == "__main__":
    sys.exit(main())
