"""Does the fast mode draw what the recipe draws? Shapes, with and without outliers planted in the transformer.

`python -m sana_lab.measure.quality` draws the same scenes from the same noise in 16 bits; by the recipe; slim; slim and
fast with its check switched off; slim and fast with the weights alone in 8 bits; and in FP8, by products and with the
weights alone. Integers and FP8 once more with the keys and values of the cross-attention in 16 bits, as Sana's own
8-bit engine leaves them (arXiv 2410.10629, section 4). It writes beside the adherence what the check would have said.

Chapter 8.
"""

from __future__ import annotations

import inspect
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import evidence, isolated
from ..commandline import BATCH, FACTORS_ABOVE_0, STEPS, goes_on, run_command, whole
from .methods import METHODS

if TYPE_CHECKING:
    from diffusers import SanaPipeline, SanaTransformer2DModel

RECORD = "fast_quality"
FACTORS = (1.0, 10.0, 30.0, 100.0, 1000.0)


@dataclass(frozen=True)
class Way:
    """A way to load and to run, whose pictures are judged.

    Args:
        title: for tables; empty for one that is in the record alone.
        method: key of `METHODS`, which says how it is loaded and whether it is fused.
        exact: the keys and values of the cross-attention stay in 16 bits.
    """

    title: str
    method: str
    exact: bool = False


WAYS = {
    "bf16": Way("16 bits", "16-bit"),
    "recipe": Way("the recipe", "int8"),
    "slim": Way("slim", "int8-slim"),
    "fast": Way("integer products", "int8-fast"),
    "fast-kv": Way("", "int8-fast", exact=True),
    "weights": Way("weights alone", "int8-weights"),
    "fp8": Way("FP8 products", "fp8"),
    "fp8-kv": Way("", "fp8", exact=True),
    "fp8-weights": Way("FP8, weights alone", "fp8-weights"),
}
"""Name in the record -> what it is."""
CHECK_SCENES = 8
UNGUIDED = "unguided "
"""What the name of a factor begins with where nothing guides, in the file of a stopped run."""

FOUND = {str: dict}
"""What a stopped run keeps: for each factor the layers that the check looked at, and what each way drew."""


def pipeline(folder: Path, way: str, graphs: bool | None = None) -> SanaPipeline:
    """The pipeline of a way; the fast ones without a check.

    Raises:
        ValueError: the way is unknown.
    """
    from ..fast import speed_up_
    from ..float8_layers import KEYS_AND_VALUES, quantize_float8_
    from ..sana import load_sana

    if way not in WAYS:
        raise ValueError(f"way {way!r} is unknown: choose from {', '.join(WAYS)}.")
    method, exact = METHODS[WAYS[way].method], WAYS[way].exact
    float8 = method.precision == "fp8"
    if float8 and exact:  # the transformer is quantized here, but for keys and values
        pipe = load_sana(folder, "bf16")
        quantize_float8_(pipe.transformer, pointwise=True, skip=KEYS_AND_VALUES)
        quantize_float8_(pipe.text_encoder, embedding=True)
    else:
        precision = "bf16" if method.precision == "16-bit" else method.precision
        pipe = load_sana(folder, precision, slim=method.slim, activations=method.activations if float8 else 8)
    pipe.set_progress_bar_config(disable=True)
    if exact and not float8:
        weights_alone_(pipe.transformer, KEYS_AND_VALUES)
    if "fused" in method.ways:
        speed_up_(pipe, activations=method.activations, check=False, graphs=graphs)
    return pipe


def weights_alone_(transformer: SanaTransformer2DModel, ends: Sequence[str]) -> None:
    """Let the 8-bit layers whose names end so multiply in 16 bits, in place, whatever the others do; before fusing."""
    from ..fast import WeightOnly8bit

    for name, layer in list(transformer.named_modules()):
        if name.endswith(tuple(ends)):
            transformer.set_submodule(name, WeightOnly8bit.of(layer))


def record(
    n: int = 200,
    *,
    factors: Sequence[float] = FACTORS,
    steps: int = 20,
    batch: int = 50,
    seed: int = 0,
    unguided: Sequence[float] = (),
    graphs: bool | None = None,
    folder: Path = evidence.FOLDER,
) -> Path:
    """Measure, and store the record `fast_quality`. What is finished is kept in `folder` until then.

    A stopped run goes on behind what is in `fast_quality.partial` when it is started again with the same arguments,
    weights, libraries and hardware.

    Args:
        n: scenes of two objects that training never saw.
        factors: of the planted outliers; 1 plants none.
        steps: of denoising.
        batch: pictures drawn at once.
        seed: of the scenes and of the noise.
        unguided: factors to draw without guidance as well; "unguided" in the record, as "factors" is.
        graphs: as in `sana_lab.fast.speed_up_`; without, nothing is compiled, which takes longer than drawing.
        folder: where to write.

    Returns:
        The file written.

    Raises:
        ValueError: as `sana_lab.shapes.sample_scenes` for a bad `n`; or there is a file of a run with other arguments,
            weights, libraries or hardware.
        OSError: the folder cannot be written, before anything is drawn.

    Chapter 8.
    """
    from tqdm import tqdm

    from .. import use_accelerator
    from ..digests import weights_digest
    from ..evidence.journal import Journal
    from ..fast import ENOUGH_DB, rounding
    from ..libraries import hushed
    from ..outliers import draw
    from ..planted import copy_with_outliers
    from ..shapes import SHAPES_FOLDER, caption, reader, sample_scenes

    scenes = sample_scenes(n, 2, seed)
    plan = {"n": n, "steps": steps, "batch": batch, "seed": seed, "graphs": graphs}
    made_by = {
        **plan,
        "weights": weights_digest(SHAPES_FOLDER),
        "machine": evidence.this_machine()["device"],
        "versions": evidence.installed_versions(),
    }
    notes = Journal(folder / f"{RECORD}.partial", made_by, FOUND)
    found = notes.found
    use_accelerator()
    with (
        hushed("bitsandbytes"),
        isolated.pool(isolated.readers(), reader.__name__) as pool,
        tempfile.TemporaryDirectory() as scratch,
        tqdm(total=(len(factors) + len(unguided)) * len(WAYS) * n, unit="picture") as bar,
    ):
        for factor, guided in [*((factor, True) for factor in factors), *((factor, False) for factor in unguided)]:
            here = found.setdefault(f"{factor:g}" if guided else f"{UNGUIDED}{factor:g}", {})
            planted = SHAPES_FOLDER
            if factor != 1:
                planted = Path(scratch) / f"{factor:g}"
                if not planted.exists():
                    copy_with_outliers(SHAPES_FOLDER, planted, factor)
            if guided and "layers" not in here:
                pipe = pipeline(planted, "slim")
                seen = rounding(pipe, [caption(scene) for scene in scenes[:CHECK_SCENES]])
                worst = min(seen, key=lambda name: seen[name].plain)
                here["layers"] = {name: {k: round(v, 2) for k, v in asdict(db).items()} for name, db in seen.items()}
                here |= {"refused": any(db.spoiled() for db in seen.values()), "enough_db": ENOUGH_DB, "worst": worst}
            for way in WAYS:
                if way not in here:
                    pipe, right = pipeline(planted, way, graphs), []
                    options = {} if guided else {"guidance": 1.0}
                    for pictures in draw(pipe, scenes, steps=steps, seed=seed, batch=batch, **options):
                        some = scenes[len(right) : len(right) + len(pictures)]
                        right += pool.map(reader.shows, pictures, some, chunksize=4)
                        bar.update(len(pictures))
                    here[way] = "".join("01"[shown] for shown in right)
                    notes.keep()
                else:
                    bar.update(n)
    usual = inspect.signature(record).parameters
    changed = "".join(f" --{name} {plan[name]}" for name in ("steps", "batch") if plan[name] != usual[name].default)
    changed += "" if graphs is None else f" --{'no-' * (not graphs)}graphs"
    listed = " ".join(f"{factor:g}" for factor in factors)
    listed += f" --unguided {' '.join(f'{factor:g}' for factor in unguided)}" if unguided else ""
    without = {key.removeprefix(UNGUIDED): entry for key, entry in found.items() if key.startswith(UNGUIDED)}
    file = evidence.save(
        RECORD,
        what="How often pictures show all that was asked: 16 bits, 8-bit integers and FP8; with outliers planted",
        command=f"python -m sana_lab.measure.quality -n {n}{changed} --factors {listed}",
        seed=seed,
        results={
            **plan,
            "objects": 2,
            "factors": {key: entry for key, entry in found.items() if not key.startswith(UNGUIDED)},
            "unguided": without,
        },
        folder=folder,
    )
    notes.end()
    return file


def record_command(
    n: Annotated[int, typer.Option("-n", help="Scenes.", callback=whole(1, 100_000))] = 200,
    steps: Annotated[int, typer.Option(help="Of denoising.", callback=STEPS)] = 20,
    batch: Annotated[int, typer.Option(help="Pictures drawn at once.", callback=BATCH)] = 50,
    factors: Annotated[
        list[float],
        typer.Option(metavar="FACTOR...", help="Sizes of the outliers; 1 for none.", callback=FACTORS_ABOVE_0),
    ] = list(FACTORS),  # noqa: B006
    unguided: Annotated[
        list[float] | None,
        typer.Option(metavar="FACTOR...", help="Of those to draw without guidance as well.", callback=FACTORS_ABOVE_0),
    ] = None,
    graphs: Annotated[
        bool | None, typer.Option(help="Compile and record the fast ways.  [default: on a real GPU]")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="For the record.")] = evidence.FOLDER,
) -> None:
    """Does the fast mode draw what the recipe draws? Draw, read, and store the record fast_quality.

    Stopped, the same command goes on where it stood.
    """
    with goes_on():
        given = {"unguided": unguided or (), "graphs": graphs}
        print(record(n, factors=factors, steps=steps, batch=batch, folder=out, **given))


def main(arguments: list[str] | None = None) -> int:
    """Run the command and give its exit status."""
    return run_command(record_command, "python -m sana_lab.measure.quality", arguments)


if __name__ == "__main__":
    sys.exit(main())
