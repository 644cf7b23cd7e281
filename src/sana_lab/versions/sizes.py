"""The bytes that each checkpoint holds in each precision, as a record: `doctor` has no time to build the models.

`python -m sana_lab.versions.sizes` counts them again with `sana_lab.accounting.predict` and writes the record.
"""

from __future__ import annotations

import sys
from pathlib import Path

from .. import evidence
from ..checkpoints import PRECISIONS, Source, resolve
from ..commandline import run_command

NAME = "model_bytes"
COMMAND = "python -m sana_lab.versions.sizes"


def _command() -> None:
    """Count the bytes that each checkpoint holds in each precision, and write the record."""
    from tqdm import tqdm

    from ..accounting import CHECKPOINTS

    results = {name: {p: counted(name, p) for p in PRECISIONS} for name in tqdm(("shapes", *CHECKPOINTS), unit="model")}
    what = "Bytes that the text encoder, the transformer and the autoencoder of a checkpoint hold, without activations."
    evidence.save(NAME, what=what, command=COMMAND, results=results)


def counted(model: str | Path | Source, precision: str) -> int:
    """Bytes of all three networks, each tensor in blocks of 512 bytes as CUDA's allocator counts."""
    from ..accounting import predict
    from .folder import source

    return sum(predict(source()[0] if model == "shapes" else model, precision, granule=512).values())


def recorded(model: str | Path | Source, precision: str) -> int | None:
    """The same from the record. A folder, which has no record, is counted if the libraries can be imported.

    Raises:
        ValueError: no such model or precision; the text lists what there is.
    """
    source = resolve(model)
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is unknown: choose from {', '.join(PRECISIONS)}.")
    if source.checkpoint or source.model == "shapes":
        name = source.checkpoint.like if source.checkpoint else "shapes"
        return evidence.load(NAME)["results"][name][precision]
    try:
        return counted(source, precision)
    except ImportError:
        return None


def main(arguments: list[str] | None = None) -> int:
    """Run the command and give its exit status."""
    return run_command(_command, COMMAND, arguments)


if __name__ == "__main__":
    sys.exit(main())
