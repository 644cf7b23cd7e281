"""Draws the paired scenes under every condition, reads them back, and keeps what came out, chunk by chunk.

A chunk is a fixed batch: which scenes are drawn together does not depend on how many processes share the work, so
neither do the results. Each finished chunk is one file of JSON lines, written whole; a stopped run goes on behind it.
Processes do not talk to each other: chunk k of a condition belongs to process k modulo their number, and the process
that finds all chunks there writes the record.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from .. import evidence, isolated
from ..checkpoints import resolve
from ..evidence import journal
from ..generate import drawing
from ..shapes import caption
from ..shapes.scenes import Scene
from ..shapes.scoring import ALL_RIGHT
from . import conditions as c
from . import statistics as s
from .distance import psnr, ssim
from .plan import Plan

if TYPE_CHECKING:
    from diffusers import SanaPipeline

READ_SIDE = 128
"""Width at which the reader looks; pictures travel to it at that size."""
UNREAD = 4
"""How many chunks may wait for the reader; with more of them, drawing waits."""
EXAMPLES = 3
"""How many pairs of pictures are kept of each kind."""
LINE = {"i": int, "right": [int], "psnr": (float, int, type(None)), "ssim": (float, int)}
"""What is kept of a picture, see `journal.Shape`; of one of the sweep also `sqnr`, a number or None."""


@dataclass(frozen=True)
class Job:
    """One chunk: scenes `which` with one or two `objects`, under a condition or with one layer of the sweep changed."""

    name: str
    objects: int
    which: range

    def file(self, out: Path) -> Path:
        """Where its outcome is kept."""
        return out / "parts" / f"{self.name}-{self.objects}-{self.which.start:04d}.jsonl"


def draw(pipe: SanaPipeline, scenes: list[Scene], seeds: Iterable[int], *, steps: int, guidance: float) -> torch.Tensor:
    """Draw scenes in one batch, the picture of each from the noise of its seed alone.

    Returns:
        uint8 (n, height, width, 3) on the pipeline's device: the numbers of the PIL pictures that it makes by default.

    Chapter 6.
    """
    with torch.inference_mode():
        texts = [caption(scene) for scene in scenes]
        options = {"steps": steps, "guidance": guidance, "size": drawing.own_size(pipe), "output": "pt"}
        pictures = drawing.draw(pipe, texts, list(seeds), **options)
        # A model that overflows draws NaN: let it be black, which is wrong.
        return (pictures.float().nan_to_num(0) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def small_picture(picture: torch.Tensor) -> Image.Image:
    """A picture at the size at which it is read, averaged as the reader would."""
    image = Image.fromarray(picture.numpy(force=True))
    return image.reduce(image.width // READ_SIDE) if image.width % READ_SIDE == 0 else image


class Run:
    """One process's share of a run.

    Args:
        plan: what to do.
        out: folder for the partial results and the record.
        device: "cuda", or "cuda:1".
        rank: number of this process.
        world: how many there are.
        readers: processes that read pictures for this one, or 0.

    Raises:
        ValueError: `out` holds partial results of other settings, weights, code, libraries or hardware.
        OSError: `out` cannot be written, or the model's files are missing.
    """

    def __init__(self, plan: Plan, out: str | Path, device: str, *, rank: int = 0, world: int = 1, readers: int = 0):
        """Check the folder before anything is loaded."""
        self.plan, self.out, self.device, self.rank, self.world = plan, Path(out), device, rank, world
        self.settings = settings(plan)
        claim(self.out, self.settings)
        self.scenes = {k: s.paired_scenes(s.SCENES, k, plan.seed) for k in plan.objects}
        self.pictures: dict[tuple[int, int], torch.Tensor] = {}  # (objects, first scene) -> the reference's chunk
        self.readers, self.waiting = isolated.pool(readers, s.__name__), deque()

    @cached_property
    def reference(self) -> SanaPipeline:
        """The pipeline that the others are compared with."""
        return c.load(self.plan.model, c.CONDITIONS[c.REFERENCE], self.device)

    @cached_property
    def layers(self) -> list[c.Layer]:
        """The layers of the sweep."""
        return c.layers(self.reference) if self.plan.sweep else []

    def jobs(self) -> list[Job]:
        """Everything that the plan asks for, in order."""
        jobs = [
            Job(name, objects, which)
            for name in self.plan.names
            for objects in self.plan.objects
            for which in self.plan.chunks(self.plan.number(name))
        ]
        most = max(self.plan.objects)
        sweep = [self._sweep_name(layer) for layer in self.layers]
        return jobs + [Job(name, most, which) for name in sweep for which in self.plan.chunks(self.plan.sweep)]

    def _sweep_name(self, layer: c.Layer) -> str:
        return f"sweep{self.plan.sweep_bits}-{layer.path}"

    def mine(self, jobs: list[Job]) -> list[Job]:
        """This process's share: whole chunks of each condition, whole layers of the sweep."""
        chunks = {key: i for i, key in enumerate(dict.fromkeys((j.objects, j.which.start) for j in jobs))}
        layers = {self._sweep_name(layer): i for i, layer in enumerate(self.layers)}
        return [j for j in jobs if layers.get(j.name, chunks[j.objects, j.which.start]) % self.world == self.rank]

    def go(self, progress: bool = True) -> Path | None:
        """Do this process's share; write the record if that completes the run.

        Returns:
            The record's file, or None while other processes still draw.
        """
        try:
            jobs = self.jobs()
            todo = [job for job in self.mine(jobs) if _outcome(job, self.out) is None]
            with tqdm(total=sum(len(j.which) for j in todo), unit="picture", disable=not progress) as bar:
                for name in dict.fromkeys(job.name for job in todo):
                    bar.set_description(name)
                    self._condition(name, [job for job in todo if job.name == name], bar)
                self._settle(0)
            if any(_outcome(job, self.out) is None for job in jobs):
                return None
            return self._record()
        finally:
            self.readers.shutdown(cancel_futures=True)

    def _condition(self, name: str, jobs: list[Job], bar: tqdm) -> None:
        """Draw the chunks of one condition, or of one layer of the sweep."""
        layer = next((layer for layer in self.layers if self._sweep_name(layer) == name), None)
        if layer is not None:
            with c.one_layer_quantized(self.reference, layer, self.plan.sweep_bits) as sqnr:
                drawn = [self._draw(self.reference, job) for job in jobs]
            for job, pictures in zip(jobs, drawn, strict=True):  # the references below need the layer restored
                self._judge(job, pictures, sqnr=None if math.isinf(sqnr) else round(sqnr, 2))
                bar.update(len(job.which))
            return
        condition = c.CONDITIONS[name]
        same = name == c.REFERENCE or condition.other_noise
        pipe = self.reference if same else c.load(self.plan.model, condition, self.device)
        for job in jobs:
            pictures = self._draw(pipe, job)
            if name == c.REFERENCE:
                self.pictures[job.objects, job.which.start] = pictures
            self._judge(job, pictures)
            bar.update(len(job.which))
        if not same:
            del pipe
            torch.cuda.empty_cache()

    def _draw(self, pipe: SanaPipeline, job: Job) -> torch.Tensor:
        condition = c.CONDITIONS.get(job.name)
        shift = s.SCENES if condition and condition.other_noise else 0
        return draw(
            pipe,
            [self.scenes[job.objects][i] for i in job.which],
            [i + shift for i in job.which],
            steps=self.plan.steps,
            guidance=self.plan.guidance,
        )

    def _reference_pictures(self, job: Job) -> torch.Tensor:
        """What the reference drew of the same scenes, in the batch in which it drew them."""
        key = job.objects, job.which.start
        if key not in self.pictures:
            whole = next(w for w in self.plan.chunks(self.plan.number(c.REFERENCE)) if w.start == job.which.start)
            self.pictures[key] = self._draw(self.reference, Job(c.REFERENCE, job.objects, whole))
        return self.pictures[key][: len(job.which)]

    def _judge(self, job: Job, pictures: torch.Tensor, **more: Any) -> None:
        """Measure the distances, send the pictures to the reader, and write what is finished."""
        scenes = [self.scenes[job.objects][i] for i in job.which]
        small = map(small_picture, pictures.cpu())
        reads = [self.readers.submit(s.rights, picture, scene) for picture, scene in zip(small, scenes, strict=True)]
        pairs = list(zip(pictures, self._reference_pictures(job), strict=True))
        distances = [(psnr(a, b), ssim(a, b)) for a, b in pairs]
        self.waiting.append((job, reads, distances, more))
        self._settle(UNREAD)

    def _settle(self, most: int) -> None:
        """Write the oldest chunks until at most `most` wait for the reader."""
        while len(self.waiting) > most or (self.waiting and all(read.done() for read in self.waiting[0][1])):
            job, reads, distances, more = self.waiting.popleft()
            lines = [
                {
                    "i": i,
                    "right": read.result(),
                    "psnr": None if math.isinf(ratio) else round(ratio, 2),
                    "ssim": round(likeness, 4),
                    **more,
                }
                for i, read, (ratio, likeness) in zip(job.which, reads, distances, strict=True)
            ]
            journal.write_text(job.file(self.out), "".join(json.dumps(line) + "\n" for line in lines))

    # ---- the record ----------------------------------------------------------------------------------------------

    def _record(self) -> Path:
        """Put the outcomes of all chunks into the record, and write it."""
        plan, rows = self.plan, self._rows
        entries: dict[str, Any] = {}
        for name in plan.names:
            entry: dict[str, Any] = {"title": c.CONDITIONS[name].title, "objects": {}}
            for objects in plan.objects:
                right, ratios, likeness = rows(name, objects, plan.number(name))
                reference, _, _ = rows(c.REFERENCE, objects, plan.number(c.REFERENCE))
                entry["objects"][str(objects)] = s.summarize(right, reference, ratios, likeness)
            entries[name] = entry
        results = {
            "settings": self.settings,
            "conditions": entries,
            "sweep": self._sweep() if plan.sweep else None,
            "examples": self._examples(),
        }
        return evidence.save(
            plan.record,
            what="How often the Shapes model draws what was asked, quantized in several ways: paired scenes, read back",
            command=command(plan, self.world),
            results=results,
            seed=plan.seed,
            folder=self.out,
        )

    def _lines(self, name: str, objects: int, n: int) -> list[dict[str, Any]]:
        return [line for w in self.plan.chunks(n) for line in _outcome(Job(name, objects, w), self.out)]

    def _rows(self, name: str, objects: int, n: int) -> tuple[dict[str, np.ndarray], list[float], list[float]]:
        """Outcomes for each name, PSNR (infinite where equal) and SSIM, picture by picture."""
        lines = self._lines(name, objects, n)
        right = np.array([line["right"] for line in lines], dtype=bool)
        ratios = [math.inf if line["psnr"] is None else line["psnr"] for line in lines]
        return dict(zip(s.NAMES, right.T, strict=True)), ratios, [line["ssim"] for line in lines]

    def _sweep(self) -> dict[str, Any]:
        """What the record keeps of the sweep: for each layer how many pictures stay right, and how near they are."""
        plan, objects = self.plan, max(self.plan.objects)
        reference, _, _ = self._rows(c.REFERENCE, objects, plan.number(c.REFERENCE))
        found = []
        for layer in self.layers:
            name = self._sweep_name(layer)
            right, ratios, likeness = self._rows(name, objects, plan.sweep)
            entry = {"component": layer.component, "name": layer.name, "kind": layer.kind, "weights": layer.weights}
            entry["sqnr_db"] = self._lines(name, objects, plan.sweep)[0]["sqnr"]
            entry["right"] = int(right[ALL_RIGHT].sum())
            entry["psnr_mean"] = round(float(np.mean(np.minimum(ratios, 99.0))), 2)
            entry["ssim_mean"] = round(float(np.mean(likeness)), 4)
            found.append(entry | {"outcomes": s.pack(right[ALL_RIGHT])})
        return {
            "bits": plan.sweep_bits,
            "objects": objects,
            "n": plan.sweep,
            "reference": s.pack(reference[ALL_RIGHT][: plan.sweep]),
            "layers": found,
        }

    def _examples(self) -> list[dict[str, Any]]:
        """Pictures that are far from the reference's and right, and others that are near and wrong, drawn once more."""
        found = []
        for name in self.plan.names:
            if name == c.REFERENCE:
                continue
            for objects in self.plan.objects:
                right, ratios, likeness = self._rows(name, objects, self.plan.number(name))
                reference, _, _ = self._rows(c.REFERENCE, objects, self.plan.number(c.REFERENCE))
                for i, (ratio, alike) in enumerate(zip(ratios, likeness, strict=True)):
                    if reference[ALL_RIGHT][i]:
                        kind = "far but right" if right[ALL_RIGHT][i] else "near but wrong"
                        found.append((kind, ratio, alike, name, objects, i))
        far = sorted((f for f in found if f[0] == "far but right"), key=lambda f: f[1])
        near = [f for f in found if f[0] == "near but wrong" and not c.CONDITIONS[f[3]].other_noise]
        near.sort(key=lambda f: -f[1])
        chosen = [*_different(far), *_different(near)]
        examples = []
        for name in dict.fromkeys(f[3] for f in chosen):
            pipe = c.load(self.plan.model, c.CONDITIONS[name], self.device)
            for kind, ratio, alike, _, objects, i in [f for f in chosen if f[3] == name]:
                which = next(w for w in self.plan.chunks(self.plan.number(name)) if i in w)
                job, scene = Job(name, objects, which), self.scenes[objects][i]
                pair = {name: self._draw(pipe, job), c.REFERENCE: self._reference_pictures(job)}
                small = {who: small_picture(pictures[i - which.start]) for who, pictures in pair.items()}
                shown = {w: {"webp": s.pack_picture(p), "right": s.rights(p, scene)} for w, p in small.items()}
                same = {"kind": kind, "condition": name, "objects": objects, "i": i, "caption": caption(scene)}
                psnr_or_none = None if math.isinf(ratio) else ratio
                examples.append({**same, "psnr": psnr_or_none, "ssim": alike, "pictures": shown})
        return sorted(examples, key=lambda e: (e["kind"], e["psnr"] or math.inf, e["condition"], e["i"]))


def _different(found: list[tuple]) -> list[tuple]:
    """The first few, no scene twice."""
    first: dict[tuple, tuple] = {}
    for candidate in found:
        first.setdefault(candidate[4:6], candidate)
    return list(first.values())[:EXAMPLES]


def settings(plan: Plan) -> dict[str, Any]:
    """What all partial results of a folder must have in common, as plain JSON.

    Raises:
        ValueError: the model is unknown, or its folder holds no weights.
        OSError: its files are missing or damaged.
    """
    source = resolve(plan.model)
    source.check()
    return {
        "format": s.FORMAT,
        "weights": source.digest,
        "scenes": s.scenes_digest(plan.seed),
        "objects": list(plan.objects),
        "steps": plan.steps,
        "guidance": plan.guidance,
        "seed": plan.seed,
        "chunk": plan.chunk,
        "threads": plan.threads,
    }


def command(plan: Plan, world: int = 1) -> str:
    """What to type for a plan, without folders."""
    usual = Plan()
    words = ["sana-lab evaluate"] if world == 1 else [f"accelerate launch --num_processes {world} -m sana_lab.evaluate"]
    if plan.model != usual.model:
        words.append(f"--model {resolve(plan.model).name}")
    if plan.conditions != usual.conditions:
        words.append(f"--conditions {','.join(plan.conditions)}")
    words.append(f"-n {plan.n}")
    words += [f"--n-of {name}={n}" for name, n in plan.n_of]
    if plan.objects != usual.objects:
        words.append(f"--objects {','.join(map(str, plan.objects))}")
    for name in ("steps", "guidance", "seed", "chunk", "threads", "sweep", "sweep_bits", "record"):
        if getattr(plan, name) != getattr(usual, name):
            words.append(f"--{name.replace('_', '-')} {getattr(plan, name)}")
    return " ".join(words)


def claim(out: Path, wanted: dict[str, Any]) -> None:
    """Make the folder, or check that the one that is there has the settings of this run.

    Raises:
        ValueError: it holds results of another run.
        OSError: it cannot be written.
    """
    made_by = {"machine": evidence.this_machine()["device"], "versions": evidence.installed_versions()}
    parts = out / "parts"
    journal.hold(out / "settings.json", wanted | made_by, results=sorted(parts.glob("*.jsonl")))
    try:
        parts.mkdir(exist_ok=True)
    except OSError as error:
        raise OSError(f"{out} cannot be written ({error.strerror}): {journal.ELSEWHERE}") from None


def _outcome(job: Job, out: Path) -> list[dict[str, Any]] | None:
    """The lines of a finished chunk; None if it is not there, not of these scenes (another n), or no chunk of ours."""
    try:
        lines = [json.loads(line) for line in job.file(out).read_text(encoding="utf-8").splitlines()]
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    shape = LINE | ({"sqnr": LINE["psnr"]} if job.name not in c.CONDITIONS else {})
    if journal.complaint(lines, [shape]) or any(len(line["right"]) != len(s.NAMES) for line in lines):
        return None
    return lines if [line["i"] for line in lines] == list(job.which) else None
