"""`sana-lab confirm`: the book's claims, held against a checkpoint on your own GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..commandline import PROCESSES, SECONDS, SEED_OF_NOISE, SIZE, STEPS, goes_on, names, say
from .plan import LIMIT, PROMPTS, SHAPES_PROMPTS, WAYS, Plan, gpus, part_three

NO_GPU = (
    "no GPU here: files are looked at and bytes computed, and nothing is loaded; --virtual loads and draws on a "
    "virtual one."
)


def mount(parent: typer.Typer) -> None:
    """Add `confirm` to a command line."""
    parent.command("confirm")(_command)


def _command(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help='A Hub name such as "600M-512", a folder, or "shapes".')
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for record, page and pictures.  [default: MODEL-confirmed]")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="A file of prompts, one a line.  [default: the book's]")] = None,
    ways: Annotated[
        list[str] | None, typer.Option("--way", help=f"{', '.join(WAYS)}; may be repeated.  [default: all]")
    ] = None,
    failures: Annotated[str, typer.Option(help='"all" of part III, "none", or ids with commas between them.')] = "all",
    metrics: Annotated[
        list[str] | None,
        typer.Option("--metric", help="psnr, ssim, lpips, clip; may be repeated.  [default: psnr and ssim]"),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps.  [default: the pipeline's own]", callback=STEPS)
    ] = None,
    seed: Annotated[int, SEED_OF_NOISE] = 0,
    size: Annotated[
        int | None, typer.Option(help="Width and height in pixels.  [default: the model's own]", callback=SIZE)
    ] = None,
    limit: Annotated[float, typer.Option(help="Seconds for one step.", callback=SECONDS)] = LIMIT,
    jobs: Annotated[
        int, typer.Option(help="Failures at a time; the card must hold the model once for each.", callback=PROCESSES)
    ] = 1,
    vram: Annotated[str, typer.Option(help="Memory of the virtual GPU.")] = "16GiB",
    virtual: Annotated[bool, typer.Option("--virtual", help="Use the virtual GPU, to try the command.")] = False,
) -> None:
    """Hold the book's claims against a checkpoint, on your GPU: one record and one page come of it.

    Loads the model in 16 bits, by the recipe, guarded, slim, fast and in FP8, each in a process of its own, draws the
    same prompts from the same noise in all of them, and reproduces the failures of part III. Without a GPU it looks at
    the files and computes bytes.

    The record is confirmed.json, the page confirmed.html. The same command goes on where it was stopped.
    """
    from ..accelerator import on_real_gpu
    from ..accelerator.session import parse_size
    from ..checkpoints import resolve
    from ..compared_pictures import learned
    from ..failures import get
    from ..generate.prompts import read
    from . import record
    from .runner import confirm

    parse_size(vram)
    source = resolve(model)
    some = () if failures in ("all", "none") else names("--failures", failures)
    for id in some:
        get(id)
    asked = PROMPTS if source.model != "shapes" else SHAPES_PROMPTS
    if prompts is not None:
        wanted, warnings = read(prompts, seed)
        for warning in warnings:
            say(f"warning: {warning}")
        asked = tuple(one.prompt for one in wanted)
    gpu = "virtual" if virtual else "real" if on_real_gpu() else "none"
    if gpu == "none":
        say(NO_GPU)
    count = gpus() if gpu == "real" else 1
    chosen = part_three(count) if failures == "all" else some
    plan = Plan(asked, tuple(ways or WAYS), chosen, seed=seed, steps=steps, pixels=size, gpu=gpu, vram=vram,
        metrics=record.check_metrics(metrics),
    )  # fmt: skip
    for sentence in learned.downloads(plan.metrics):
        say(sentence)
    out = out or Path(f"{source.name}-confirmed")
    words = [f"sana-lab confirm {source.name if source.checkpoint or source.model == 'shapes' else 'FOLDER'}"]
    words += [f"--way {way}" for way in ways or ()]
    words += [f"--failures {failures}"] * (failures != "all")
    words += [f"--{name} {value}" for name, value in (("steps", steps), ("size", size)) if value is not None]
    words += [f"--metric {metric}" for metric in metrics or ()]
    words += [f"--seed {seed}"] * (seed != 0) + ["--prompts FILE"] * (prompts is not None) + ["--virtual"] * virtual
    with goes_on():
        found = confirm(source, out, plan, limit=limit, jobs=jobs, say=say, command=" ".join(words))
    for verdict in found.verdicts:
        typer.echo(f"{verdict.state:22}{verdict.chapter:3}  {verdict.id}: {verdict.why}")
    typer.echo(str(found))
    typer.echo(found.path)
    typer.echo(found.path.with_suffix(".html"))
