"""The command `sana-lab`. Heavy imports wait until a command needs them, so that `--help` is quick."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from . import random_checkpoint
from .failures import cli as failures
from .measure import cli as measure
from .versions import cli as versions

DEBUG_VARIABLE = "SANA_LAB_DEBUG"

INTERRUPTED = 130
"""Exit status after Ctrl+C, as of a shell."""

app = typer.Typer(
    help="8-bit Sana on any machine: a virtual GPU where there is no real one, and a small trained Sana to draw with.",
    epilog=f"{DEBUG_VARIABLE}=1 shows the whole traceback of an error.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: the same text in a pipe, a narrow window and every typer since 0.12
    context_settings={"help_option_names": ["-h", "--help"]},
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
    precision: Annotated[str, typer.Option(help="fp32, bf16, fp16, int8 or nf4.")] = "int8",
    steps: Annotated[int | None, typer.Option(help="Denoising steps.  [default: 20; Sprint: 2]")] = None,
    guidance: Annotated[float, typer.Option(help="Strength of the prompt; 1 and below switch guidance off.")] = 4.5,
    seed: Annotated[int, typer.Option(help="Picture i starts from the noise of seed + i.")] = 0,
    size: Annotated[int | None, typer.Option(help="Width and height in pixels.  [default: the model's own]")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="A folder, or for one prompt a file: .png, .jpg or .webp.  [default: here]"),
    ] = None,
    batch: Annotated[int | None, typer.Option(help="With --prompts: pictures drawn at once.  [default: 1]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --prompts: end with numbers, not a sentence.")] = False,
    gpus: Annotated[int, typer.Option(help="Number of GPUs.")] = 1,
    vram: Annotated[str, typer.Option(help="Memory of each virtual GPU.")] = "16GiB",
    virtual: Annotated[
        bool | None, typer.Option("--virtual/--real", help="Which GPU to use.  [default: real if there is one]")
    ] = None,
) -> None:
    """Draw pictures of prompts, and print the paths of the files.

    The noise of picture i comes from seed + i alone: the second picture of a batch with --seed 0 is the only one of a
    batch with --seed 1, up to rounding.

    Many prompts: --prompts FILE --out FOLDER. In a text file every line is a prompt, but for blank lines and comments
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
            out=out or Path("."), gpus=gpus, vram=vram, virtual=virtual, say=_say,
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
        batch=1 if batch is None else batch, out=out, vram=vram, virtual=virtual, say=_say,
    )  # fmt: skip
    if done is not None:
        typer.echo(json.dumps(done) if as_json else f"{out}: {many.summary(done)}")


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    options_metavar="--out FOLDER [OPTIONS]",
)
def train(context: typer.Context) -> None:
    """Train the Shapes model from nothing. `sana-lab train --help` lists the options."""
    from .shapes.train import main as train_main

    sys.argv = ["sana-lab train", *context.args]
    train_main()


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    options_metavar="--out FOLDER [OPTIONS]",
)
def evaluate(context: typer.Context) -> None:
    """Measure how often quantized models still draw what was asked. `sana-lab evaluate --help` lists the options."""
    from .evaluate.cli import main as evaluate_main

    evaluate_main("sana-lab evaluate", context.args)


def _say(text: str) -> None:
    """One line on stderr, whatever the line breaks in `text`."""
    typer.echo(f"sana-lab: {' '.join(text.split())}", err=True)


failures.mount(app)
measure.mount(app)
random_checkpoint.mount(app)
versions.mount(app)


def main() -> None:
    """Run the command line; what goes wrong is one line on stderr and exit status 2."""
    usage_error = typer.BadParameter.__base__  # click's UsageError, wherever this typer keeps click
    try:
        status = app(prog_name="sana-lab", standalone_mode=False)
        if status == INTERRUPTED:  # what some versions of typer make of Ctrl+C
            raise KeyboardInterrupt
    except (usage_error, ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        if os.environ.get(DEBUG_VARIABLE) == "1":
            raise
        if isinstance(error, usage_error):
            command = error.ctx.command_path if error.ctx else "sana-lab"
            _say(f"{error.format_message()} See `{command} --help`.")
        else:
            _say(str(error) or type(error).__name__)
        status = 2
    except (KeyboardInterrupt, typer.Abort):
        _say("stopped")
        status = INTERRUPTED
    sys.exit(status)


if __name__ == "__main__":
    main()
