"""Everything chapters 7 to 9 show, by one command on a machine with CUDA: `python -m sana_lab.measure.real_size WORK`.

Makes the checkpoints with random weights in WORK (26 GB), measures them, and writes the record.

Chapters 7 to 9.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .. import commandline, evidence
from ..commandline import SECONDS, goes_on
from ..evidence import journal
from ..random_checkpoint import make
from .methods import LIMIT, METHODS
from .runner import Job, run, save

SIZES_512 = ((512, 1), (512, 4), (1024, 1), (1024, 4))
SIZES_1024 = ((1024, 1), (1024, 4), (512, 1), (512, 4))
FIRST = ("fp8", "16-bit-fused", "int8-fast", "16-bit")
"""Methods that decide who is faster: measured first, so that a run that is cut off has them."""
LAST = ("16-bit-tuned", "fp8-tuned")
"""Methods whose compilation takes minutes: measured last, at 1.6B."""
AT_1600M = (
    *FIRST,
    *("int8", "int8-weights", "fp8-weights", "int8-t0", "int8-slim", "nf4"),
    *("torchao", "torchao-weights", "torchao-float8"),
)
BYTES_ALONE = ("16-bit", "int8", "int8-slim")
ALL_SIZES = ("16-bit",)
"""Methods drawn at all sizes, for what drawing needs on top; the others at the first two."""
FACTOR = 100.0
"""Of the outliers planted in one channel of every input that can have them, see `sana_lab.planted`."""


def folders(work: Path) -> tuple[Path, Path, Path, Path]:
    """Where the checkpoints are: 600M, the same with outliers planted, 1.6B, 4.8B."""
    small, planted, large, huge = (work / name for name in ("600M-512", "600M-512-outliers", "1600M-1024", "1.5-4.8B"))
    return small, planted, large, huge


def jobs(work: Path) -> tuple[list[Job], list[Job]]:
    """What is measured on the two checkpoints that are compared, and then on the others."""
    small, planted, large, huge = folders(work)
    rest = [method for method in METHODS if method not in (*FIRST, *LAST)]

    def job(folder: Path, method: str) -> Job:
        sizes = SIZES_1024 if folder == large else SIZES_512
        return Job(folder, method, sizes if method in ALL_SIZES else sizes[:2])

    first = [
        *(job(large, method) for method in FIRST),
        *(job(small, method) for method in FIRST),
        *(job(small, method) for method in rest),
        *(job(large, method) for method in (*AT_1600M, *LAST) if method not in FIRST),
    ]
    others = [
        *(Job(planted, method, SIZES_512[:1]) for method in ("int8", "int8-t0", "int8-weights", "fp8")),
        *(Job(huge, method) for method in BYTES_ALONE),
    ]
    return first, others


def make_compared(work: Path) -> None:
    """Make what is missing of the checkpoints of 600M and 1.6B."""
    small, _, large, _ = folders(work)
    work.mkdir(parents=True, exist_ok=True)
    if not small.exists():
        make("600M-512", small, dtype="fp16")
    if not large.exists():
        make("1600M-1024", large, dtype="fp16", parts_from=small)


def make_others(work: Path) -> None:
    """Make what is missing of the checkpoint with outliers and of that of 4.8B."""
    from ..planted import copy_with_outliers

    small, planted, _, huge = folders(work)
    if not planted.exists():
        copy_with_outliers(small, planted, FACTOR)
    if not huge.exists():
        make("1.5-4.8B", huge, dtype="bf16")


def _command(
    work: Annotated[Path, typer.Argument(metavar="WORK", help="Folder for checkpoints; some 26 GB.")],
    out: Annotated[Path | None, typer.Option(help="Folder for a file a method.  [default: WORK/measured]")] = None,
    record: Annotated[Path, typer.Option(help="Folder for the record.")] = evidence.FOLDER,
    limit: Annotated[float, typer.Option(help="Seconds for one method.", callback=SECONDS)] = LIMIT,
    alone: Annotated[
        bool,
        typer.Option("--alone/--beside", help="Time with nothing else running, or beside the other GPUs' methods."),
    ] = True,
) -> None:
    """Everything chapters 7 to 9 show: make the checkpoints with random weights, measure them, and write the record."""
    import torch

    from ..accelerator import on_real_gpu

    if not on_real_gpu():
        raise RuntimeError("this needs a real GPU; `sana-lab measure FOLDER` counts bytes without one.")
    journal.must_be_writable(work, work, "WORK")
    journal.must_be_writable(record, record, "--record")  # or else the first that is heard of it is hours from now
    out, failed, done = out or work / "measured", [], []
    journal.must_be_writable(out, out)
    for more, made in zip(jobs(work), (make_compared, make_others), strict=True):
        with goes_on():
            made(work)
            failed += run(more, out, gpus=torch.cuda.device_count(), limit=limit, alone=alone)
        done += more
        print(save(done, out, f"python -m sana_lab.measure.real_size WORK{' --beside' * (not alone)}", folder=record))
    for job in failed:
        print(f"{job.name}: failed, see {job.name}.log; run again to try it again")


def main(arguments: list[str] | None = None) -> int:
    """Run the command and give its exit status."""
    return commandline.run_command(_command, "python -m sana_lab.measure.real_size", arguments)


if __name__ == "__main__":
    sys.exit(main())
