"""What does the 8-bit recipe draw when guidance is off, one picture a call? The same scenes in every way to load it.

    python -m sana_lab.evaluate.guidance_off -n 200 --out FOLDER      on a real GPU; stopped, the same command goes on

Without guidance the transformer has a batch of one, and then some of its layers get a transposed view. bitsandbytes'
int8 kernel reads such a view as if it were contiguous (0.50.2, backends/cuda/ops.py, `int8_vectorwise_quant`, which
hands `A.data_ptr()` to C). Each way below draws every scene from the same noise; the pictures are read back and
compared with the 16-bit ones, and a picture's calls of that kernel are counted.

A chunk of scenes is one file, written whole. Several processes share a GPU, each with its own chunks: a step of so
small a model waits for Python, not for the GPU. Chapter 6.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor, nn

from .. import evidence, isolated
from ..commandline import PROCESSES, SEED, STEPS, goes_on, names, run_command, say, whole
from ..digests import weights_digest
from ..evidence import journal
from ..generate import drawing
from ..libraries import quiet
from ..shapes import SHAPES_FOLDER, caption, manifest
from ..shapes.scenes import Scene
from . import statistics as s
from .distance import psnr, ssim
from .runner import claim, draw, small_picture

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

FORMAT = 1
"""Of the record and of the partial results."""

RECORD = "guidance_off"
PROGRAM = "python -m sana_lab.evaluate.guidance_off"
CHUNK = 4
"""Scenes a file; even, because one way draws them in pairs."""
EXAMPLES = 4
"""How many scenes the record keeps the pictures of."""
SPRINT_STEPS = 2
"""Of Sprint's sampler, as it is called by default. The Shapes weights are not distilled for it, and draw."""


# ---- ways to load ------------------------------------------------------------------------------------------------


def recipe() -> DiffusionPipeline:
    """The recipe as published, in the lines of chapter 5: nothing of ours."""
    import diffusers
    import transformers

    text_encoder = transformers.AutoModel.from_pretrained(
        SHAPES_FOLDER,
        subfolder="text_encoder",
        quantization_config=transformers.BitsAndBytesConfig(load_in_8bit=True),
        dtype=torch.bfloat16,
    )
    transformer = diffusers.SanaTransformer2DModel.from_pretrained(
        SHAPES_FOLDER,
        subfolder="transformer",
        quantization_config=diffusers.BitsAndBytesConfig(load_in_8bit=True),
        dtype=torch.bfloat16,
    )
    return diffusers.SanaPipeline.from_pretrained(
        SHAPES_FOLDER,
        text_encoder=text_encoder,
        transformer=transformer,
        dtype=torch.bfloat16,
        device_map="balanced",
    )


def contiguous(pipe: DiffusionPipeline) -> DiffusionPipeline:
    """Let every 8-bit layer get a copy that lies in memory as its shape says: the lines that a reader would add."""
    import bitsandbytes

    def lay_out(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return inputs[0].contiguous(), *inputs[1:]

    for part in (pipe.text_encoder, pipe.transformer):
        for layer in part.modules():
            if isinstance(layer, bitsandbytes.nn.Linear8bitLt):
                layer.register_forward_pre_hook(lay_out)
    return pipe


def bf16() -> DiffusionPipeline:
    """The pipeline in 16 bits, by diffusers alone."""
    from diffusers import SanaPipeline

    return SanaPipeline.from_pretrained(SHAPES_FOLDER, dtype=torch.bfloat16).to("cuda")


def _ours(precision: str, **options: Any) -> DiffusionPipeline:
    from ..sana import load_sana

    return load_sana("shapes", precision, "cuda", **options)


def _fast(activations: int) -> DiffusionPipeline:
    from ..fast import speed_up_

    # Not compiled: a minute a process, for the same layers and kernels.
    return speed_up_(_ours("int8", slim=True), activations=activations, check=False, graphs=False)


class _Timed(nn.Module):
    """Sana's embedding of the time behind Sprint's interface: time from 0 to 1, and a guidance, which is not heard."""

    def __init__(self, embedding: nn.Module):
        """Wrap the embedding of a transformer that knows times from 0 to 1000."""
        super().__init__()
        self.embedding = embedding

    def forward(
        self, timestep: Tensor, guidance: Tensor | None = None, hidden_dtype: torch.dtype | None = None
    ) -> tuple[Tensor, Tensor]:
        """What the transformer wants: its modulation, (n, 6 * width), and the embedded time, (n, width)."""
        return self.embedding(1000 * timestep, batch_size=len(timestep), hidden_dtype=hidden_dtype)


def sprint(pipe: DiffusionPipeline) -> DiffusionPipeline:
    """The parts of a pipeline in Sprint's class, with its sampler."""
    from diffusers import SanaSprintPipeline, SCMScheduler

    pipe.transformer.time_embed = _Timed(pipe.transformer.time_embed)
    parts = {name: getattr(pipe, name) for name in ("tokenizer", "text_encoder", "vae", "transformer")}
    return SanaSprintPipeline(**parts, scheduler=SCMScheduler())


@dataclass(frozen=True)
class Way:
    """A way to load and to call.

    Args:
        title: for tables.
        load: gives a new pipeline on the GPU.
        against: the way whose pictures it is compared with.
        guidance: strength of the prompt; up to 1 there is none.
        at_once: pictures a call.
        sprint: whether it is Sprint's class.
    """

    title: str
    load: Callable[[], DiffusionPipeline]
    against: str = "bf16"
    guidance: float = 1.0
    at_once: int = 1
    sprint: bool = False


WAYS = {
    "bf16": Way("bf16", bf16),
    "recipe": Way("recipe, as published", recipe),
    "contiguous": Way("recipe, inputs made contiguous", lambda: contiguous(recipe())),
    "pairs": Way("recipe, two pictures a call", recipe, at_once=2),
    "int8": Way('load_sana(…, "int8")', lambda: _ours("int8")),
    "slim": Way('load_sana(…, "int8", slim=True)', lambda: _ours("int8", slim=True)),
    "fast": Way("fast: integers, fused", lambda: _fast(8)),
    "weights": Way("fast: weights alone in 8 bits", lambda: _fast(16)),
    "nf4": Way("nf4", lambda: _ours("nf4")),
    "bf16-guided": Way("bf16, guidance on", bf16, against="bf16-guided", guidance=4.5),
    "recipe-guided": Way("recipe, guidance on", recipe, against="bf16-guided", guidance=4.5),
    "sprint-bf16": Way("Sprint's class, bf16", lambda: sprint(bf16()), against="sprint-bf16", sprint=True),
    "sprint-recipe": Way("Sprint's class, recipe", lambda: sprint(recipe()), against="sprint-bf16", sprint=True),
    "sprint-contiguous": Way(
        "Sprint's class, recipe, inputs made contiguous",
        lambda: sprint(contiguous(recipe())),
        against="sprint-bf16",
        sprint=True,
    ),
}
"""Every way by its name; what others are compared with stands before them."""


@contextlib.contextmanager
def counted() -> Iterator[dict[str, int]]:
    """Count what reaches bitsandbytes' int8 kernel for activations, for the length of the block.

    Yields:
        `calls`, and `views`: how many of them got a tensor that is not contiguous.
    """
    from bitsandbytes import functional

    seen, before = {"calls": 0, "views": 0}, functional.int8_vectorwise_quant

    def watched(A: Tensor, threshold: float = 0.0) -> Any:
        seen["calls"] += 1
        seen["views"] += not A.is_contiguous()
        return before(A, threshold)

    functional.int8_vectorwise_quant = watched
    try:
        yield seen
    finally:
        functional.int8_vectorwise_quant = before


# ---- the run -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What a run does.

    Args:
        n: scenes, with one object and with two, alternately. Noise i has seed i.
        ways: names from `WAYS`.
        steps: denoising steps.
        seed: of the scenes.

    Raises:
        ValueError: a number out of range, an unknown way, or one without the way it is compared with.
    """

    n: int = 200
    ways: tuple[str, ...] = tuple(WAYS)
    steps: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        """Check that every number is in its range."""
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed = {self.seed}: give a whole number from 0 to 2**63 - 1")
        if not 1 <= self.n <= 2 * s.SCENES:
            raise ValueError(f"n = {self.n} scenes: give 1 to {2 * s.SCENES}, 200 is usual")
        if not 1 <= self.steps <= 1000:
            raise ValueError(f"steps = {self.steps}: give 1 to 1000, 20 is usual")
        if not self.ways or len(set(self.ways)) < len(self.ways):
            raise ValueError(f"ways {','.join(self.ways) or 'none'}: name each once, of {', '.join(WAYS)}")
        for name in self.ways:
            if name not in WAYS:
                raise ValueError(f"way {name!r} is unknown: choose from {', '.join(WAYS)}")
            if WAYS[name].against not in self.ways:
                raise ValueError(f"way {name!r} is compared with {WAYS[name].against!r}: name that, too")

    @property
    def names(self) -> list[str]:
        """The ways in their usual order: what others are compared with comes first."""
        return [name for name in WAYS if name in self.ways]

    @cached_property
    def scenes(self) -> list[Scene]:
        """One object, two objects, one object, ..."""
        half = math.ceil(self.n / 2)
        one, two = (s.paired_scenes(half, k, self.seed) for k in (1, 2))
        return [scene for pair in zip(one, two, strict=True) for scene in pair][: self.n]

    @property
    def chunks(self) -> list[range]:
        """The scenes of each file."""
        return [range(at, min(at + CHUNK, self.n)) for at in range(0, self.n, CHUNK)]

    @property
    def settings(self) -> dict[str, Any]:
        """What partial results of a folder must have in common; `ways` and `n` may grow."""
        return {
            "format": FORMAT,
            "weights": weights_digest(SHAPES_FOLDER),
            "scenes": s.scenes_digest(self.seed),
            "steps": self.steps,
            "sprint_steps": SPRINT_STEPS,
            "seed": self.seed,
        }

    @property
    def command(self) -> str:
        """What to type, without folders."""
        words = [PROGRAM, "-n", str(self.n)]
        if self.ways != Plan.ways:
            words += ["--ways", ",".join(self.ways)]
        for name in ("steps", "seed"):
            if getattr(self, name) != getattr(Plan, name):
                words += [f"--{name}", str(getattr(self, name))]
        return " ".join(words)


def _file(out: Path, name: str, which: range) -> Path:
    return out / "parts" / f"{name}-{which.start:04d}.jsonl"


def _found(out: Path, name: str, which: range) -> list[dict[str, Any]] | None:
    """The lines of a finished chunk; None where it is not there, or of another n."""
    try:
        lines = [json.loads(line) for line in _file(out, name, which).read_text(encoding="utf-8").splitlines()]
    except (FileNotFoundError, ValueError):
        return None
    return lines if [line.get("i") for line in lines] == list(which) else None


def _pictures(pipe: DiffusionPipeline, way: Way, scenes: list[Scene], seeds: range, steps: int) -> Tensor:
    """Draw scenes, as many in a call as the way says: uint8 (n, height, width, 3) on the CPU."""
    drawn = []
    for at in range(0, len(scenes), way.at_once):
        some, noise = scenes[at : at + way.at_once], seeds[at : at + way.at_once]
        if not way.sprint:
            drawn.append(draw(pipe, some, noise, steps=steps, guidance=way.guidance).cpu())
            continue
        side = pipe.transformer.config.sample_size * pipe.vae_scale_factor
        with torch.inference_mode():
            pictures = pipe(
                [caption(scene) for scene in some],
                num_inference_steps=SPRINT_STEPS,
                height=side,
                width=side,
                generator=[torch.Generator("cpu").manual_seed(seed) for seed in noise],
                use_resolution_binning=False,
                output_type="pt",
            ).images
            drawn.append((pictures.float().nan_to_num(0) * 255).round().byte().permute(0, 2, 3, 1).cpu())
    return torch.cat(drawn)


def share(plan: Plan, out: Path, rank: int = 0, world: int = 1) -> None:
    """Draw what is missing of this process's chunks, way by way. What a way raises is kept, and the next one comes."""
    chunks, scenes = plan.chunks[rank::world], plan.scenes
    kept: dict[tuple[str, int], Tensor] = {}  # (way, first scene) -> what others are compared with
    references = {way.against for way in WAYS.values()}

    def ready(name: str) -> DiffusionPipeline:
        pipe = WAYS[name].load()
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def drawn(pipe: DiffusionPipeline, name: str, which: range) -> Tensor:
        return _pictures(pipe, WAYS[name], [scenes[i] for i in which], which, plan.steps)

    for name in plan.names:
        way = WAYS[name]
        needed = [which for which in chunks if _found(out, name, which) is None]
        if name in references:  # its pictures are wanted wherever another way still has something to do
            others = [other for other in plan.names if WAYS[other].against == name]
            needed = [which for which in chunks if any(_found(out, other, which) is None for other in others)]
        note = out / "failed" / f"{name}-{rank}.txt"
        note.unlink(missing_ok=True)
        if not needed:
            continue
        try:
            pipe = ready(name)
            for which in needed:
                with counted() as seen:
                    pictures = drawn(pipe, name, which)
                if name in references:
                    kept[name, which.start] = pictures
                if (way.against, which.start) not in kept:
                    raise RuntimeError(f"{way.against!r}, which it is compared with, did not draw")
                _judge(plan, out, name, which, pictures, kept[way.against, which.start], seen)
        except Exception as error:
            note.parent.mkdir(exist_ok=True)
            journal.write_text(note, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}\n")
        pipe = None
        gc.collect()
        torch.cuda.empty_cache()


def _judge(
    plan: Plan, out: Path, name: str, which: range, pictures: Tensor, reference: Tensor, seen: dict[str, int]
) -> None:
    """Read a chunk's pictures, measure how far they are from the reference's, and write its file."""
    scenes, lines = plan.scenes, []
    for i, picture, other in zip(which, pictures, reference, strict=True):
        small = small_picture(picture)
        line = {"i": i, "right": s.rights(small, scenes[i])}
        ratio = psnr(picture, other)
        line["psnr"] = None if math.isinf(ratio) else round(ratio, 2)
        line["ssim"] = round(ssim(picture, other), 4)
        line["difference"] = round((picture.double() - other.double()).abs().mean().item(), 3)
        if i < EXAMPLES:
            line["webp"] = s.pack_picture(small)
        if i == which.start:
            line["kernel"] = {key: value / math.ceil(len(which) / WAYS[name].at_once) for key, value in seen.items()}
        lines.append(line)
    journal.write_text(_file(out, name, which), "".join(json.dumps(line) + "\n" for line in lines))


# ---- the record --------------------------------------------------------------------------------------------------


def _failures(out: Path) -> dict[str, str]:
    """Way and what it raised, of every way that did."""
    notes = sorted((out / "failed").glob("*.txt")) if (out / "failed").is_dir() else []
    return {note.name.rpartition("-")[0]: note.read_text(encoding="utf-8").strip() for note in notes}


def record(plan: Plan, out: Path, virtual: bool) -> Path:
    """Write the record of every way that is complete; the others stand in it with what they raised.

    Raises:
        RuntimeError: not even one way and what it is compared with are complete.
    """
    failed, conditions = _failures(out), {}
    rows = {}
    for name in plan.names:
        found = [_found(out, name, which) for which in plan.chunks]
        if all(found):
            rows[name] = [line for chunk in found for line in chunk]
        else:
            failed.setdefault(name, "stopped before all scenes were drawn")
    for name, lines in rows.items():
        way = WAYS[name]
        if way.against not in rows:
            continue
        right, reference = (
            dict(zip(s.NAMES, np.array([line["right"] for line in rows[which]], dtype=bool).T, strict=True))
            for which in (name, way.against)
        )
        ratios = [math.inf if line["psnr"] is None else line["psnr"] for line in lines]
        differences = [line["difference"] for line in lines]
        kernel = [line["kernel"] for line in lines if "kernel" in line]
        conditions[name] = {
            "title": way.title,
            "against": way.against,
            "guidance": way.guidance,
            "at_once": way.at_once,
            "steps": SPRINT_STEPS if way.sprint else plan.steps,
            "difference_mean": round(float(np.mean(differences)), 3),
            "difference_median": round(float(np.median(differences)), 3),
            "kernel": {key: round(float(np.mean([k[key] for k in kernel])), 1) for key in ("calls", "views")},
            **s.summarize(right, reference, ratios, [line["ssim"] for line in lines]),
        }
    if not conditions:
        raise RuntimeError(f"nothing is complete: {'; '.join(f'{name}: {text}' for name, text in failed.items())}")
    examples = [
        {
            "i": i,
            "caption": caption(scene),
            "pictures": {n: {"webp": rows[n][i]["webp"], "right": rows[n][i]["right"]} for n in conditions},
        }
        for i, scene in enumerate(plan.scenes[:EXAMPLES])
    ]
    return evidence.save(
        RECORD,
        what="What 8-bit Sana draws with guidance off, one picture a call, in every way to load it: Shapes, read back",
        command=plan.command,
        seed=plan.seed,
        results={
            "settings": plan.settings | {"n": plan.n, "virtual": virtual},
            "conditions": conditions,
            "failed": failed,
            "examples": examples,
        },
        folder=out,
    )


@dataclass(frozen=True, eq=False)
class Record:
    """A record of this module. `record` is the whole of it, as `evidence.load` gives it."""

    record: dict[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """What all ways had in common; `virtual` says whether the GPU was."""
        return self.record["results"]["settings"]

    @property
    def ways(self) -> dict[str, dict[str, Any]]:
        """What was found of each way."""
        return self.record["results"]["conditions"]

    def right(self, way: str) -> np.ndarray:
        """Whether each picture is all right, boolean (n,)."""
        found = self.ways[way]
        return s.unpack(found["outcomes"][s.ALL_RIGHT], found["n"])

    def rate(self, way: str) -> s.Rate:
        """How many are, with its interval."""
        right = self.right(way)
        return s.Rate(int(right.sum()), len(right))

    def compare(self, way: str) -> s.Paired:
        """The 2 x 2 table of a way and of what it is compared with."""
        return s.compare(self.right(self.ways[way]["against"]), self.right(way))


def load(*, folder: Path = evidence.FOLDER) -> Record:
    """Read the record, if it belongs to today's scenes and weights.

    Raises:
        ValueError: there is none, or it was made with other code or other weights; the text says what to run.

    Chapter 6.
    """
    found = evidence.load(RECORD, folder=folder)
    settings = found["results"].get("settings", {}) if isinstance(found["results"], dict) else {}
    again = f"record it again: {found['command']}"
    if settings.get("format") != FORMAT:
        raise ValueError(f"record {RECORD!r} has format {settings.get('format')}, this code reads {FORMAT}; {again}")
    if settings["scenes"] != s.scenes_digest(settings["seed"]):
        raise ValueError(f"record {RECORD!r} is of other scenes than this code draws; {again}")
    if settings["weights"] != (here := weights_digest(SHAPES_FOLDER)):
        raise ValueError(f"record {RECORD!r} is of weights {settings['weights']}, the model here has {here}; {again}")
    return Record(found)


# ---- the command -------------------------------------------------------------------------------------------------


def _share_out(plan: Plan, out: Path, given: list[str], processes: int, gpus: int) -> None:
    """Start the processes, show a bar, wait.

    Raises:
        RuntimeError: one of them fell apart outside of any way.
    """
    from tqdm import tqdm

    running = []
    (out / "logs").mkdir(exist_ok=True)
    for rank in range(processes):
        environ = {"OMP_NUM_THREADS": "1", "SANA_LAB_GPU": str(rank % gpus)}
        command = isolated.module("sana_lab.evaluate.guidance_off", *given, "--share", f"{rank}/{processes}")
        log = (out / "logs" / f"{rank}.txt").open("w", encoding="utf-8")
        running.append((isolated.start(command, environ=environ, stdout=log, stderr=log), log))
    try:
        with tqdm(total=len(plan.names) * len(plan.chunks), unit="chunk") as bar:
            while any(process.poll() is None for process, _ in running):
                time.sleep(1)
                bar.n = sum(_file(out, name, which).exists() for name in plan.names for which in plan.chunks)
                bar.refresh()
    finally:
        for process, log in running:
            process.terminate()
            process.wait()
            log.close()
    bad = [rank for rank, (process, _) in enumerate(running) if process.returncode]
    if bad:
        last = (out / "logs" / f"{bad[0]}.txt").read_text(encoding="utf-8").strip().splitlines()[-1:]
        say(f"process {bad[0]} fell apart: {''.join(last)}")


def summary(found: Record) -> str:
    """A table in plain text: pictures right, mean difference of a pixel, median PSNR, views a picture."""
    lines = [f"{'way':48} {'right':28} {'|diff|':>7} {'PSNR':>6} {'views/products':>15}"]
    for name, way in found.ways.items():
        kernel = f"{way['kernel']['views']:g}/{way['kernel']['calls']:g}"
        rate = f"{found.rate(name).right:4} of {way['n']} {found.rate(name)}"
        lines.append(
            f"{way['title']:48} {rate:28} {way['difference_mean']:7.2f} {way['psnr_median']:6.1f} {kernel:>15}"
        )
    return "\n".join([*lines, *(f"{name}: {text}" for name, text in found.record["results"]["failed"].items())])


def draw_all(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for partial results and the record.")],
    n: Annotated[
        int, typer.Option("-n", help="Scenes, half of them with two objects.", callback=whole(1, 2 * s.SCENES))
    ] = Plan.n,
    ways: Annotated[str | None, typer.Option(help="Names with commas between them.  [default: all]")] = None,
    steps: Annotated[int, typer.Option(help="Denoising steps.", callback=STEPS)] = Plan.steps,
    seed: Annotated[int, typer.Option(help="Seed of the scenes.", callback=SEED)] = Plan.seed,
    processes: Annotated[
        int | None,
        typer.Option(
            help="Processes that draw.  [default: one on a virtual GPU, else by cores, up to 12 a GPU]",
            callback=PROCESSES,
        ),
    ] = None,
    virtual: Annotated[
        bool, typer.Option("--virtual", help="Use the virtual GPU where there is a real one, too.")
    ] = False,
    share_of: Annotated[
        str | None, typer.Option("--share", hidden=True, help="Of a process that this one starts: its number/all.")
    ] = None,
) -> int:
    """Draw the same scenes with guidance off in every way to load 8-bit Sana, and read them back.

    The record is guidance_off.json. A stopped run goes on where it stood. The exit status is 1 if some way is not
    complete.
    """
    plan = Plan(n, tuple(WAYS) if ways is None else names("--ways", ways), steps, seed)
    manifest.check(SHAPES_FOLDER)
    with drawing.hushed(), quiet():
        return _draw_all(plan, out, processes, virtual, share_of)


def _draw_all(plan: Plan, out: Path, processes: int | None, virtual: bool, share_of: str | None) -> int:
    """Draw this process's share; or all of it, and write the record."""
    virtual = virtual or not torch.cuda.is_available()
    torch.set_num_threads(1)
    if virtual:
        from .. import use_accelerator

        use_accelerator(virtual=True)
    else:
        torch.cuda.set_device(int(os.environ.get("SANA_LAB_GPU", 0)) % torch.cuda.device_count())
    if share_of:
        rank, _, world = share_of.partition("/")
        share(plan, out, int(rank), int(world))
        return 0
    start = time.perf_counter()
    with goes_on():
        claim(out, plan.settings | {"virtual": virtual})
        gpus = 1 if virtual else torch.cuda.device_count()
        processes = processes or (1 if virtual else max(1, min(12 * gpus, (os.cpu_count() or 1) * 3 // 4)))
        processes = min(processes, len(plan.chunks))
        if processes == 1:
            share(plan, out)
        else:
            options = ["--out", str(out), "-n", str(plan.n), "--ways", ",".join(plan.ways)]
            options += ["--steps", str(plan.steps), "--seed", str(plan.seed), *["--virtual"] * virtual]
            _share_out(plan, out, options, processes, gpus)
        path = record(plan, out, virtual)
    found = Record(evidence.load(RECORD, folder=out))
    print(summary(found))
    print(f"{path} ({path.stat().st_size / 1000:.0f} kB, {time.perf_counter() - start:.0f} s, {processes} processes)")
    return 1 if found.record["results"]["failed"] else 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command and give its exit status."""
    return run_command(draw_all, PROGRAM, arguments)


if __name__ == "__main__":
    sys.exit(main())
