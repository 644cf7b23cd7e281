"""The command `sana-lab`. Heavy imports wait until a command needs them, so that `--help` is quick."""

from __future__ import annotations

import math
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from .failures import cli as failures
from .versions import cli as versions

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
DEBUG_VARIABLE = "SANA_LAB_DEBUG"

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
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT", help="What to draw; several make one batch.")],
    model: Annotated[str, typer.Option(help='"shapes", a Hub name such as "600M-512", or a folder.')] = "shapes",
    precision: Annotated[str, typer.Option(help="fp32, bf16, fp16, int8 or nf4.")] = "int8",
    steps: Annotated[int | None, typer.Option(help="Denoising steps.  [default: 20; Sprint: 2]")] = None,
    guidance: Annotated[float, typer.Option(help="Strength of the prompt; 1 and below switch guidance off.")] = 4.5,
    seed: Annotated[int, typer.Option(help="Picture i of a batch starts from the noise of seed + i.")] = 0,
    size: Annotated[int | None, typer.Option(help="Width and height in pixels.  [default: the model's own]")] = None,
    out: Annotated[Path, typer.Option(help="A folder, or for one prompt a file: .png, .jpg or .webp.")] = Path("."),
    gpus: Annotated[int, typer.Option(help="Number of GPUs.")] = 1,
    vram: Annotated[str, typer.Option(help="Memory of each virtual GPU.")] = "16GiB",
    virtual: Annotated[
        bool | None, typer.Option("--virtual/--real", help="Which GPU to use.  [default: real if there is one]")
    ] = None,
) -> None:
    """Draw pictures of prompts, and print the paths of the files.

    The noise of picture i comes from seed + i alone: the second picture of a batch with --seed 0 is the only one of a
    batch with --seed 1, up to rounding.
    """
    if any(not prompt.strip() for prompt in prompts):
        raise ValueError('the prompt is empty: say what to draw, as in "a small red star on a white background".')
    if steps is not None and steps < 1:
        raise ValueError(f"--steps {steps}: give 1 or more; 20 is usual.")
    if not (math.isfinite(guidance) and guidance >= 0):
        raise ValueError(f"--guidance {guidance}: give a number from 0 up; 4.5 is usual.")
    if not 0 <= seed < 2**63:
        raise ValueError(f"--seed {seed}: give a whole number from 0 up to 2**63 - 1.")
    if size is not None and (size < 32 or size % 32):
        raise ValueError(f"--size {size}: give a multiple of 32, such as 512.")
    files = _files(out, prompts, seed)

    import logging
    import warnings

    import torch

    from . import use_accelerator
    from .sana import load_sana
    from .shapes import describe_unknown_words

    use_accelerator(gpus=gpus, vram=vram, virtual=virtual)
    with warnings.catch_warnings(record=True) as caught:
        pipe = load_sana(model, precision)
    for warning in caught:
        if warning.category is UserWarning:
            _say(f"warning: {warning.message}")
    unknown = dict.fromkeys(w for p in prompts for w in describe_unknown_words(p)) if model == "shapes" else ()
    if unknown:
        _say(f"warning: the Shapes model never saw these words and will guess: {', '.join(unknown)}")
    # bitsandbytes tells of a cast to fp16 at every 8-bit product: a log line in 0.50, a warning before.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="MatMul8bitLt")
    pipe.set_progress_bar_config(desc="drawing", unit="step", leave=False)
    size = size or pipe.transformer.config.sample_size * pipe.vae_scale_factor
    pictures = pipe(
        prompts,
        **({} if steps is None else {"num_inference_steps": steps}),
        guidance_scale=guidance,
        height=size,
        width=size,
        # On the CPU, where the same seed is the same noise whatever the GPU.
        generator=[torch.Generator("cpu").manual_seed(seed + i) for i in range(len(prompts))],
    ).images
    _write(pictures, files)
    for file in files:
        typer.echo(file)


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


def _files(out: Path, prompts: list[str], seed: int) -> list[Path]:
    """Where to write the picture of each prompt.

    Raises:
        ValueError: `out` does not fit the number of prompts.
        OSError: nothing can be written there.
    """
    if out.is_dir() or not out.suffix:
        words = [re.sub(r"\W+", "-", prompt.lower()).strip("-")[:40].strip("-") for prompt in prompts]
        files = [out / f"{seed + i}-{text or 'picture'}.png" for i, text in enumerate(words)]
    elif out.suffix.lower() not in SUFFIXES:
        raise ValueError(f"--out {out}: a picture's name ends in {', '.join(SUFFIXES)}; a folder's has no dot.")
    elif len(prompts) > 1:
        raise ValueError(f"--out {out} is one file for {len(prompts)} prompts: give a folder.")
    else:
        files = [out]
    folder = files[0].parent
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"--out {out}: cannot write in {folder} ({error.strerror}): give another place.") from None
    return files


def _write(pictures: list, files: list[Path]) -> None:
    """Write all pictures or none: into a scratch folder beside their places, then each to its place at a stroke."""
    folder = files[0].parent
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".sana-lab-", dir=folder) as scratch:
        for picture, file in zip(pictures, files, strict=True):
            picture.save(Path(scratch) / file.name)
        for file in files:
            (Path(scratch) / file.name).replace(file)


def _say(text: str) -> None:
    """One line on stderr, whatever the line breaks in `text`."""
    typer.echo(f"sana-lab: {' '.join(text.split())}", err=True)


failures.mount(app)
versions.mount(app)


def main() -> None:
    """Run the command line; what goes wrong is one line on stderr and exit status 2."""
    usage_error = typer.BadParameter.__base__  # click's UsageError, wherever this typer keeps click
    try:
        status = app(prog_name="sana-lab", standalone_mode=False)
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
        status = 130
    sys.exit(status)


if __name__ == "__main__":
    main()
