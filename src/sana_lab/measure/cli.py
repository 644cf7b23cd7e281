"""`sana-lab measure`: bytes, and on a real GPU times, of a checkpoint under several methods."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from ..commandline import SECONDS, goes_on, say
from .methods import LIMIT, METHODS

SIZE = re.compile(r"([0-9]{1,9})x([0-9]{1,9})")


def mount(parent: typer.Typer) -> None:
    """Add `measure` to a command line."""
    parent.command("measure")(_command)


def _command(
    folder: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help='A folder, as `make-random` makes one, or a name such as "600M-512".'),
    ],
    methods: Annotated[
        list[str] | None,
        typer.Option("--method", help=f"{', '.join(METHODS)}; may be repeated.  [default: all that are installed]"),
    ] = None,
    sizes: Annotated[
        list[str] | None, typer.Option("--size", help='Such as "1024x4": pixels, pictures at once; may be repeated.')
    ] = None,
    limit: Annotated[float, typer.Option(help="Seconds for one method.", callback=SECONDS)] = LIMIT,
    out: Annotated[Path | None, typer.Option(help="Folder for results.  [default: MODEL-measured]")] = None,
) -> None:
    """Measure a checkpoint, each method in a process of its own: bytes, and on a real GPU times.

    Without --size bytes of loading alone. Results are kept in a file a method: the same command goes on where it was
    stopped. At the end they are one record, measured.json, which says on what machine.
    """
    from ..accelerator import on_real_gpu
    from .runner import collect, jobs_for, run, save

    pairs = []
    for size in sizes or ():
        match = SIZE.fullmatch(size)
        if match is None or not (32 <= int(match[1]) <= 16_384) or int(match[1]) % 32 or not 1 <= int(match[2]) <= 1024:
            raise ValueError(
                f"--size {size[:60]}: give pixels and pictures, such as 512x1; pixels a multiple of 32 up to 16384, "
                "pictures up to 1024."
            )
        pairs.append((int(match[1]), int(match[2])))
    installed = find_spec("torchao") is not None
    methods_here = [name for name, how in METHODS.items() if installed or not how.torchao]
    jobs = jobs_for(folder if folder.is_dir() else str(folder), methods or methods_here, pairs)
    beside = folder if folder.is_dir() else Path(jobs[0].checkpoint)
    out = out or beside.with_name(f"{beside.name}-measured")
    real = on_real_gpu()
    if pairs and not real:
        say("no real GPU here: bytes are counted on the virtual one, and nothing is timed.")
    with goes_on():
        failed = run(jobs, out, gpus=int(real), limit=limit)
    command = " ".join(
        [
            f"sana-lab measure {'FOLDER' if folder.is_dir() else beside}",
            *(f"--method {m}" for m in methods or ()),
            *(f"--size {s}" for s in sizes or ()),
        ]
    )
    file = save(jobs, out, command, folder=out)
    for line in table(collect(jobs, out)):
        typer.echo(line)
    typer.echo(file)
    if failed:
        names = ", ".join(f"{job.name}.log" for job in failed)
        raise RuntimeError(f"{len(failed)} of {len(jobs)} methods failed: see {names} in {out}; run again to retry.")


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Lines for people: resident MiB and load peak of each method, and milliseconds a step of each way and size."""
    lines = [f"{'method':16}{'resident MiB':>14}{'load peak':>11}   ms a step (pixels x pictures)"]
    for row in rows:
        if "resident" not in row:
            lines.append(f"{row['method']:16}{row.get('error', 'stopped')}: {row.get('text', 'run again')[:80]}")
            continue
        resident, peak = row["resident"]["allocated"] / 2**20, row["load"]["peak"] / 2**20
        steps = [
            f"{way} {size['pixels']}x{size['batch']}: {size['step_ms']['median']:.1f}"
            for way, found in row["ways"].items()
            if isinstance(found, list)
            for size in found
            if "step_ms" in size
        ]
        lines.append(f"{row['method']:16}{resident:14,.0f}{peak:11,.0f}   {'; '.join(steps)}".rstrip())
    return lines
