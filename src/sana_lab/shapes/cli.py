"""The options of `sana-lab train`, also `python -m sana_lab.shapes.train`. Imports no torch."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from ..commandline import goes_on, number, whole
from .plan import Plan


def command(run: Callable[..., object]) -> Callable[..., None]:
    """The command; every field of `Plan` is an option of it.

    Args:
        run: `shapes.train.train`, or what imports and calls it.
    """

    def train(
        out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for checkpoints, log and pipeline/.")],
        device: Annotated[str | None, typer.Option(help="cuda or cpu.  [default: whatever there is]")] = None,
        minutes: Annotated[
            float,
            typer.Option(
                help="Stop after this time; the next call goes on.", callback=number(0, above=True, or_infinity=True)
            ),
        ] = math.inf,
        **numbers: Any,
    ) -> None:
        """Train the Shapes model from nothing: the autoencoder, then the transformer together with the text encoder.

        A stopped run goes on where its last checkpoint stands. Several GPUs of one machine: torchrun --nproc-per-node 4
        -m sana_lab.shapes.train --out FOLDER.
        """
        if device not in (None, "cuda", "cpu"):
            raise ValueError(f"--device {device[:60]}: give cuda or cpu, or leave it out.")
        plan = Plan(**numbers)
        with goes_on():
            run(plan, out, device=device, minutes=minutes)

    signature = inspect.signature(train, eval_str=True)
    options = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    for field in fields(Plan):
        held = whole if isinstance(field.default, int) else number
        check = held(field.metadata["least"], field.metadata["most"])
        option = Annotated[type(field.default), typer.Option(help=field.metadata["help"], callback=check)]
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        options.append(inspect.Parameter(field.name, kind, default=field.default, annotation=option))
    train.__signature__ = signature.replace(parameters=options)
    train.__annotations__ = {p.name: p.annotation for p in options}
    return train
