"""Outliers as large language models have them, planted in the small text encoder, and what they do to pictures.

    python -m sana_lab.outliers -n 500      draws and reads 500 scenes for each way, and stores `outlier_adherence`

Stopped, the same command goes on where it stood.

The Shapes encoder is too small to grow outlier features of its own. `sana_lab.planted` gives it some without changing
what it computes.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer

from . import isolated
from .checkpoints import Source, resolve
from .commandline import BATCH, FACTORS_ABOVE_0, SEED, STEPS, goes_on, run_command, whole
from .generate import drawing
from .layers import contiguous_inputs_
from .libraries import dtype_argument, quiet
from .planted import plant_in_encoder_

if TYPE_CHECKING:
    from diffusers import SanaPipeline
    from PIL.Image import Image
    from transformers import Gemma2Model

    from .shapes import Scene

RECORD = "outlier_adherence"
CHANNEL = 7
"""The channel that the chapter and its record plant: any of the 128 would do, this one was not searched for."""

FACTORS = (1, 10, 30, 100, 300, 1000)
"""What the record plants; 1 leaves the encoder as it is. LLM.int8() reports features up to 20 times as large as others
(arXiv 2208.07339, section 1), SmoothQuant about 100 times (arXiv 2211.10438, section 3), and Sun et al. single
activations 100,000 times as large (arXiv 2402.17762)."""

WAYS = {"16 bits": None, "8 bits, plain": 0.0, "8 bits, split": 6.0}
"""How the encoder computes: the threshold of LLM.int8(), or None for bfloat16."""

FOUND = {str: {str: {"right": str, "encoder_db": (float, int, type(None)), "seconds": (float, int)}}}
"""What `measure` returns, as a stopped run keeps it: see `journal.Shape`."""


def load_encoder(folder: str | Path, threshold: float | None, device: str | torch.device = "cuda") -> Gemma2Model:
    """The text encoder in `folder`, in bfloat16 or by LLM.int8() with this threshold, as the chapter loads it.

    Args:
        folder: of the encoder alone, what `save_pretrained` wrote.
        threshold: None for 16 bits; 0 for 8 bits without a split; LLM.int8() uses 6.
        device: where to put it.

    Raises:
        ValueError: if the threshold is negative or not finite.
        OSError: if there is no model in the folder.

    Chapter 3.
    """
    if threshold is not None and not (math.isfinite(threshold) and threshold >= 0):
        raise ValueError(f"threshold={threshold} must be 0 or above, or None for 16 bits")
    if threshold is None:
        return _encoder(folder, torch.bfloat16).to(device)
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=float(threshold))
    place = {"": torch.device(device)}
    return contiguous_inputs_(_encoder(folder, torch.bfloat16, quantization_config=config, device_map=place))


def _encoder(folder: str | Path, dtype: torch.dtype, **options: Any) -> Gemma2Model:
    """A text encoder, by the argument's name that this version of transformers knows."""
    import transformers

    return transformers.AutoModel.from_pretrained(folder, **{dtype_argument(transformers): dtype}, **options)


def draw(
    pipe: SanaPipeline,
    scenes: Sequence[Scene],
    *,
    steps: int = 20,
    seed: int = 0,
    batch: int = 50,
    guidance: float | None = None,
) -> Iterator[list[Image]]:
    """Draw one picture of each scene, batch by batch. Picture i starts from the noise of ``seed + i``. Chapter 3."""
    from .shapes import caption

    for start in range(0, len(scenes), batch):
        some = scenes[start : start + batch]
        seeds = range(seed + start, seed + start + len(some))
        yield drawing.draw(pipe, [caption(scene) for scene in some], seeds, steps=steps, guidance=guidance)


def measure(
    model: str | Path | Source,
    scenes: Sequence[Scene],
    *,
    factors: Iterable[float] = FACTORS,
    channels: Sequence[int] = (CHANNEL,),
    steps: int = 20,
    seed: int = 0,
    batch: int = 50,
    workers: int = 0,
    done: dict[str, dict[str, dict]] | None = None,
    keep: Callable[[dict[str, dict[str, dict]]], None] = lambda found: None,
) -> dict[str, dict[str, dict]]:
    """Draw the scenes with outliers of every size and every way to compute, and read the pictures.

    Only the text encoder changes; transformer and autoencoder compute in bfloat16 throughout.

    Args:
        model: what `load_sana` takes, with the tokenizer of the Shapes model.
        scenes: to draw, the same with the same noise each time.
        factors: sizes of the planted outliers.
        channels: where to plant them.
        steps: of denoising.
        seed: picture i starts from the noise of ``seed + i``.
        batch: pictures drawn at once. It matters: one prompt's outlier takes a column of the whole batch to 16 bits.
        workers: processes that read pictures; 0 for this one alone.
        done: what an earlier call with the same arguments has found, and need not be drawn again.
        keep: called with all that was found whenever a way is finished.

    Returns:
        Way (a key of `WAYS`) → factor → `right`, one character a scene, 1 where the picture shows all that was asked,
        `encoder_db`, the encoder's output against float32 and no outliers, signal to noise, and `seconds`.

    Raises:
        ValueError, OSError: as `load_sana`, if weights are missing.

    Chapter 3.
    """
    from tqdm import tqdm

    from .sana import load_sana
    from .shapes import reader

    source = resolve(model)
    encoder_folder = source.folder / "text_encoder"
    found = {way: dict((done or {}).get(way, {})) for way in WAYS}
    todo = {factor: [way for way in WAYS if f"{factor:g}" not in found[way]] for factor in factors}
    if not any(todo.values()):
        return found
    with (
        quiet(),
        isolated.pool(workers, reader.__name__) as pool,
        tempfile.TemporaryDirectory() as scratch,
        tqdm(total=sum(map(len, todo.values())) * len(scenes), unit="picture") as bar,
    ):
        pipe = load_sana(source, "bf16", "cuda")
        pipe.set_progress_bar_config(disable=True)
        exact = _embeddings(_encoder(encoder_folder, torch.float32).to("cuda"), pipe, scenes)
        for factor, ways in todo.items():
            if not ways:
                continue
            planted = Path(scratch) / f"{factor:g}"
            encoder = _encoder(encoder_folder, torch.float32)
            plant_in_encoder_(encoder, channels, factor).save_pretrained(planted)
            for way in ways:
                began = time.monotonic()
                pipe.text_encoder = load_encoder(planted, WAYS[way])
                error = _embeddings(pipe.text_encoder, pipe, scenes) - exact
                ratio = (exact.square().sum() / error.square().sum()).item()
                right = []
                for pictures in draw(pipe, scenes, steps=steps, seed=seed, batch=batch):
                    some = scenes[len(right) : len(right) + len(pictures)]
                    right += pool.map(reader.shows, pictures, some, chunksize=4)
                    bar.update(len(pictures))
                found[way][f"{factor:g}"] = {
                    "right": "".join("01"[shown] for shown in right),
                    "encoder_db": 10 * math.log10(ratio) if math.isfinite(ratio) else None,
                    "seconds": round(time.monotonic() - began, 1),
                }
                keep(found)
    return found


def record(
    n: int = 500,
    *,
    model: str | Path | Source | None = None,
    factors: Sequence[float] = FACTORS,
    steps: int = 20,
    batch: int = 50,
    seed: int = 0,
    folder: Path | None = None,
) -> Path:
    """Measure on `n` scenes of two objects that training never saw, and store the record `outlier_adherence`.

    What is finished waits in a file `outlier_adherence.partial` beside the record: a stopped run goes on behind it when
    it is started again with the same arguments. The file goes when the record is written.

    Args:
        n: how many scenes.
        model: what `load_sana` takes; the trained Shapes model by default.
        factors: sizes of the planted outliers.
        steps: of denoising.
        batch: pictures drawn at once.
        seed: of the scenes and of the noise.
        folder: where to write, by default where the package keeps its records.

    Returns:
        The file written.

    Raises:
        ValueError: as `sana_lab.shapes.sample_scenes` for a bad `n`; a factor given twice; or there is a file of a run
            with other arguments, weights, libraries or hardware.
        FileNotFoundError: if there are no trained weights.
        OSError: if the folder cannot be written, before anything is drawn.

    Chapter 3.
    """
    from . import evidence, use_accelerator
    from .evidence.journal import Journal
    from .shapes import sample_scenes

    source = resolve("shapes" if model is None else model)
    source.check()
    if not (source.folder / "model_index.json").is_file():
        raise FileNotFoundError(f"no pipeline in {source.name}: `sana-lab train` makes one, or give --model FOLDER")
    factors = [float(factor) for factor in factors]
    if len(set(factors)) < len(factors):
        raise ValueError("factors: give each once")
    scenes = sample_scenes(n, 2, seed)
    folder = folder or evidence.FOLDER
    command = f"python -m sana_lab.outliers -n {n} --steps {steps} --batch {batch} --seed {seed}"
    if model is not None:
        command += f" --model {source.name}"
    command += f" --factors {' '.join(f'{factor:g}' for factor in factors)}"
    settings = {
        "command": command,
        "weights": source.digest,
        "machine": evidence.this_machine()["device"],
        "versions": evidence.installed_versions(),
    }
    notes = Journal(folder / f"{RECORD}.partial", settings, FOUND)
    use_accelerator()

    def keep(found: dict[str, dict[str, dict]]) -> None:
        notes.found = found
        notes.keep()

    ways = measure(
        source,
        scenes,
        factors=factors,
        steps=steps,
        batch=batch,
        seed=seed,
        workers=isolated.readers(),
        done=notes.found,
        keep=keep,
    )
    path = evidence.save(
        RECORD,
        what="How often pictures show all that was asked, with outliers planted in the text encoder",
        command=command,
        seed=seed,
        results={
            "n": n,
            "objects": 2,
            "steps": steps,
            "batch": batch,
            "channels": [CHANNEL],
            "seconds": round(sum(cell["seconds"] for cells in ways.values() for cell in cells.values()), 1),
            "ways": ways,
        },
        folder=folder,
    )
    notes.end()
    return path


def _embeddings(encoder: Gemma2Model, pipe: SanaPipeline, scenes: Sequence[Scene]) -> torch.Tensor:
    """What the encoder makes of the first 64 scenes' words, padding left out: float32 (tokens, width), on the CPU."""
    from .shapes import caption

    words = pipe.tokenizer([caption(scene) for scene in scenes[:64]], padding=True, return_tensors="pt").to("cuda")
    with torch.no_grad():
        return encoder(**words)[0][words.attention_mask.bool()].float().cpu()


def record_command(
    n: Annotated[int, typer.Option("-n", help="Number of scenes.", callback=whole(1, 100_000))] = 500,
    steps: Annotated[int, typer.Option(help="Denoising steps.", callback=STEPS)] = 20,
    batch: Annotated[int, typer.Option(help="Pictures drawn at once.", callback=BATCH)] = 50,
    seed: Annotated[int, typer.Option(help="Seed of scenes and noise.", callback=SEED)] = 0,
    factors: Annotated[
        list[float],
        typer.Option(metavar="FACTOR...", help="Sizes of the outlier; 1 changes nothing.", callback=FACTORS_ABOVE_0),
    ] = list(FACTORS),  # noqa: B006
    model: Annotated[
        str | None, typer.Option(help="A Hub name or a folder.  [default: the trained Shapes model]")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder for the record and its finished parts.  [default: the package]"),
    ] = None,
) -> None:
    """Measure on scenes of two objects that training never saw, and store the record outlier_adherence.

    Stopped, the same command goes on where it stood.
    """
    with goes_on():
        print(record(n, model=model, factors=factors, steps=steps, batch=batch, seed=seed, folder=out))


def main(arguments: list[str] | None = None) -> int:
    """Run the command and give its exit status."""
    return run_command(record_command, "python -m sana_lab.outliers", arguments)


if __name__ == "__main__":
    sys.exit(main())
