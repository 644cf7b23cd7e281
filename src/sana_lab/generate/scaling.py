"""How much faster several GPUs draw a file of prompts than one, and whether they draw the same: a record.

`python -m sana_lab.generate.scaling --out FOLDER` on a machine with two GPUs writes `FOLDER/generate_scaling.json`.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import evidence, isolated
from ..commandline import BATCH, STEPS, run_command, whole
from ..messages import counted

RECORD = "generate_scaling"
SPOILED = 7
"""One picture in this many is deleted, to see a run go on."""


def launch(arguments: list[str], processes: int) -> dict[str, Any]:
    """Run `sana-lab generate` under `accelerate launch`, and give what it says with `--json`.

    All of its processes end with this one.

    Raises:
        RuntimeError: it failed; the text is the end of what it said.
    """
    several = ["--multi_gpu"] if processes > 1 else []
    start = ["--num_processes", str(processes), *several, "--num_machines", "1", "--mixed_precision", "no"]
    start += ["--dynamo_backend", "no", "--main_process_port", "0"]
    generate = isolated.module("sana_lab.cli", "generate", *arguments, "--json")[1:]  # accelerate has its own Python
    command = isolated.module("accelerate.commands.launch", *start, *generate, hand_on=True)
    done = isolated.run(command, environ={"TQDM_DISABLE": "1"})
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("sana-lab:")] or [done.stderr[-2000:]]
        raise RuntimeError(f"{processes} processes failed: {said[0]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(
    out: Path,
    *,
    model: str = "shapes",
    precision: str = "int8",
    n: int = 400,
    batch: int = 20,
    steps: int = 20,
    processes: int = 2,
    launch: Callable[[list[str], int], dict[str, Any]] = launch,
) -> dict[str, Any]:
    """Draw the same prompts with one process and with several, then delete some pictures and go on.

    Args:
        out: folder for the prompts and the pictures; the latter must not be there yet.
        model: what `load_sana` takes.
        precision: what `load_sana` takes.
        n: prompts: captions of two objects that training never saw.
        batch: pictures at once.
        steps: denoising steps.
        processes: how many are compared with one.
        launch: runs a command line.

    Returns:
        Plain JSON: `one` and `several`, each what `many.report` gives; `speedup` in pictures per second,
        `steady_speedup` without each process's first batch; `identical`, how many of the `n` files are equal byte for
        byte; `resumed`, how many pictures were deleted, drawn again, and equal to what they were.

    Raises:
        ValueError: the folder holds pictures of an earlier measurement.
        RuntimeError: a run failed, or drew another number of pictures than it should.

    The page on many prompts.
    """
    from ..shapes import caption, sample_scenes

    folders = [out / "one", out / "several"]
    if any(folder.exists() for folder in folders):
        raise ValueError(f"{out} holds pictures already, which would not be drawn: give an empty folder.")
    out.mkdir(parents=True, exist_ok=True)
    prompts = out / "prompts.txt"
    prompts.write_text("".join(f"{caption(s)}\n" for s in sample_scenes(n, 2, seed=0)), encoding="utf-8")
    options = ["--prompts", str(prompts), "--model", model, "--precision", precision]
    options += ["--steps", str(steps), "--batch", str(batch)]

    reports = [launch([*options, "--out", str(folders[0])], 1), launch([*options, "--out", str(folders[1])], processes)]
    for report, expected in zip(reports, (1, processes), strict=True):
        if (report["pictures"], report["processes"], len(report["shares"])) != (n, expected, expected):
            raise RuntimeError(
                f"{counted(report['pictures'], 'picture')} by {counted(report['processes'], 'process')}, "
                f"not {n} by {expected}"
            )
    one, several = ({path.name: path.read_bytes() for path in folder.glob("*.png")} for folder in folders)
    names = sorted(one)[::SPOILED]
    for name in names:
        (folders[1] / name).unlink()
    resumed = launch([*options, "--out", str(folders[1])], processes)
    again = {name: (folders[1] / name).read_bytes() for name in several}
    rates = [r["pictures_per_second"] for r in reports], [r["steady_pictures_per_second"] for r in reports]
    return {
        "n": n,
        "one": reports[0],
        "several": reports[1],
        "speedup": round(rates[0][1] / rates[0][0], 3),
        "steady_speedup": round(rates[1][1] / rates[1][0], 3) if all(rates[1]) else None,
        "identical": sum(one[name] == several.get(name) for name in one),
        "resumed": {
            "deleted": len(names),
            "drawn": resumed["pictures"],
            "identical": sum(again[name] == several[name] for name in several),
        },
    }


def _command(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the pictures and the record.")],
    model: Annotated[str, typer.Option(help='"shapes", a Hub name such as "600M-512", or a folder.')] = "shapes",
    precision: Annotated[str, typer.Option(help="fp32, bf16, fp16, int8, fp8 or nf4.")] = "int8",
    n: Annotated[int, typer.Option("-n", "--n", help="Number of prompts.", callback=whole(1, 100_000))] = 400,
    batch: Annotated[int, typer.Option(help="Pictures at once.", callback=BATCH)] = 20,
    steps: Annotated[int, typer.Option(help="Denoising steps.", callback=STEPS)] = 20,
    processes: Annotated[int, typer.Option(help="How many to compare with one process.", callback=whole(2, 64))] = 2,
) -> None:
    """Draw one file of prompts with one GPU and with several, compare times and pictures, and write the record."""
    print(record(out, model=model, precision=precision, n=n, batch=batch, steps=steps, processes=processes))


def record(out: Path, **given: Any) -> Path:
    """Measure on this machine's GPUs and write the record.

    Args:
        out: folder for the pictures and the record.
        given: as for `measure`.

    Raises:
        ValueError: as `measure`.
        RuntimeError: there are fewer GPUs than processes: times on virtual ones say nothing of real ones.
    """
    import torch

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if there < given["processes"]:
        raise RuntimeError(f"{given['processes']} processes want a real GPU each, and there are {there}.")
    results = measure(out, **given)
    usual = inspect.signature(measure).parameters
    changed = [f" --{name} {value}" for name, value in given.items() if value != usual[name].default]
    return evidence.save(
        RECORD,
        what="One file of prompts drawn by one process and by several, one GPU each: throughput, and equal pictures",
        command=f"python -m sana_lab.generate.scaling --out FOLDER{''.join(changed)}",
        results=results,
        seed=0,
        folder=out,
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command and give its exit status."""
    return run_command(_command, "python -m sana_lab.generate.scaling", arguments)


if __name__ == "__main__":
    sys.exit(main())
