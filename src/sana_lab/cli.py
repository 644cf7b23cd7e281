"""The command `sana-lab`. Heavy imports wait until a command needs them, so that `--help` is quick."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from . import random_checkpoint
from .classroom import cli as classroom
from .commandline import BATCH, DEBUG_VARIABLE, EITHER_GPU, GPUS, GUIDANCE, SEED_OF_NOISE, SIZE, STEPS, run_command, say
from .commandline import app as new_app
from .compared_pictures import cli as compared_pictures
from .confirm import cli as confirm
from .evaluate import cli as evaluate
from .failures import cli as failures
from .fitting import cli as fitting
from .measure import cli as measure
from .service import cli as service
from .shapes.cli import command as train_command
from .versions import cli as versions

app = new_app(
    "8-bit Sana on any machine: a virtual GPU where there is no real one, and a small trained Sana to draw with.",
    epilog=f"{DEBUG_VARIABLE}=1 shows the whole traceback of an error.",
)


@app.command()
def generate(
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT", help="What to draw; several make one batch.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--prompts", help="A file of prompts instead: one a line, or JSON lines.")
    ] = None,
    model: Annotated[str, typer.Option(help='"shapes", a Hub name such as "600M-512", or a folder.')] = "shapes",
    precision: Annotated[str, typer.Option(help="fp32, bf16, fp16, int8, fp8 or nf4.")] = "int8",
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps.  [default: 20; Sprint: 2]", callback=STEPS)
    ] = None,
    guidance: Annotated[
        float,
        typer.Option(
            help="Strength of the prompt; 1 and below switch guidance off.",
            callback=GUIDANCE,
        ),
    ] = 4.5,
    seed: Annotated[int, SEED_OF_NOISE] = 0,
    size: Annotated[
        int | None, typer.Option(help="Width and height in pixels.  [default: the model's own]", callback=SIZE)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="A folder, or for one prompt a file: .png, .jpg or .webp.  [default: here]"),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="With --prompts: pictures drawn at once.  [default: 1]", callback=BATCH)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --prompts: end with numbers, not a sentence.")] = False,
    gpus: Annotated[int, typer.Option(help="Number of GPUs.", callback=GPUS)] = 1,
    vram: Annotated[str, typer.Option(help="Memory of each virtual GPU.")] = "16GiB",
    virtual: Annotated[bool | None, EITHER_GPU] = None,
) -> None:
    """Draw pictures of prompts, and print the paths of the files.

    The noise of picture i comes from seed + i alone: the second picture of a batch with --seed 0 is the only one of a
    batch with --seed 1, up to rounding.

    Many prompts: --prompts FILE --out FOLDER. In a text file every line is a prompt, except blank lines and comments
    (#); in a .jsonl file a line is {"prompt": ..., "seed": ..., "name": ...}, the latter two optional. The same
    command goes on where it was stopped. Each picture keeps its prompt, seed and settings in its metadata, and
    pictures of other settings are refused.

    Several GPUs, one process each: accelerate launch --num_processes 2 -m sana_lab.cli generate --prompts FILE ...
    (or accelerate launch ... $(which sana-lab) generate ...). With fewer than two GPUs add --multi_gpu, or accelerate
    starts one process. Several machines: the same on each, as accelerate config sets it up, with FOLDER on a disk that
    all share.

    The pictures do not depend on the number of processes. They do on --batch, in their last digits, and in 8 bits on
    what else is in the batch: an outlier in one picture takes its column out of the 8-bit product for all. With
    --batch 1 a picture depends on its own prompt and seed alone.
    """
    if file is None:
        if not prompts:
            raise ValueError("nothing to draw: give a PROMPT, or a file of them with --prompts FILE.")
        if batch is not None or as_json:
            raise ValueError(f"{'--json' if as_json else '--batch'} goes with --prompts FILE.")
        if int(os.environ.get("WORLD_SIZE") or 1) > 1:
            raise ValueError("several processes would draw the same: put the prompts in a file, for --prompts FILE.")
        from .generate import few

        for path in few.run(
            prompts, model=model, precision=precision, steps=steps, guidance=guidance, seed=seed, size=size,
            out=out or Path("."), gpus=gpus, vram=vram, virtual=virtual, say=say,
        ):  # fmt: skip
            typer.echo(path)
        return
    if prompts:
        raise ValueError("prompts on the command line or in a file: give a PROMPT or --prompts FILE, not both.")
    if out is None:
        raise ValueError("--prompts needs --out FOLDER, for the pictures.")
    if gpus != 1:
        raise ValueError("--gpus: with --prompts each process has one GPU; start more with accelerate launch.")
    from .generate import many

    done = many.run(
        file, model=model, precision=precision, steps=steps, guidance=guidance, seed=seed, size=size,
        batch=1 if batch is None else batch, out=out, vram=vram, virtual=virtual, say=say,
    )  # fmt: skip
    if done is not None:
        typer.echo(json.dumps(done) if as_json else f"{out}: {many.summary(done)}")


def _train(*plan: object, **options: object) -> None:
    from .shapes.train import train

    train(*plan, **options)


app.command("train", options_metavar="--out FOLDER [OPTIONS]")(train_command(_train))
classroom.mount(app)
compared_pictures.mount(app)
confirm.mount(app)
evaluate.mount(app)
failures.mount(app)
fitting.mount(app)
measure.mount(app)
random_checkpoint.mount(app)
service.mount(app)
versions.mount(app)


def main() -> None:
    """Run the command line; what goes wrong is one line on stderr and exit status 2."""
    sys.exit(run_command(app, "sana-lab"))


if __name__ == "__main__":
    main()
