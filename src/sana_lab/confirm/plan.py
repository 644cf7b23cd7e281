"""What one run of `sana-lab confirm` asks: the model, the prompts, the ways, the failures. Imports no torch.

Chapter 14.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import evidence, machine
from ..digests import weights_digest

if TYPE_CHECKING:
    from ..checkpoints import Source

FORMAT = 1
"""Of the record; what it holds is said in the page *Records from other machines*."""

PROMPTS = (
    "a portrait of an old fisherman with a gray beard, soft window light",
    "a red bicycle leaning against a blue wall",
    "three green apples in a white bowl on a wooden table",
    'a cafe with a sign over the door that says "OPEN"',
    "a mountain lake at sunrise, fog over the water",
    "a cat asleep on a pile of books, watercolor",
    "a city street at night in the rain, neon light in the puddles",
    "a macro photograph of a bee on a yellow flower",
)
"""Drawn with every checkpoint, in this order; picture i starts from the noise of seed + i. A face, colors that belong
to things, a number, words, smooth gradients, a style, a dark scene, fine detail."""

SHAPES_PROMPTS = (
    "a small red star above a large blue ring on a white background",
    "a large green square on a black background",
    "a small yellow circle below a large red triangle on a white background",
    "a large blue star on a white background",
)
"""The same for the Shapes model, which knows no other words."""

WAYS = {
    "16-bit": "16 bits",
    "recipe": "8 bits, the recipe",
    "guard": "8 bits, guarded",
    "slim": "8 bits, slim",
    "fast": "8 bits, fast",
    "fp8": "FP8, slim",
}
"""Every way to load, in the order in which they are tried, and its title. 16 bits: in the type that the transformer was
trained in. Recipe: as published, with the types that chapter 5 mends. Guarded: `load_sana` and `checked`."""

REFERENCE = "16-bit"
"""The way whose pictures the others are compared with."""

PART_THREE = ("device-mismatch", "device-maps", "8bit-models", "8bit-in-use", "offloading")
"""Families of the failure index that chapters 10 to 12 are about."""

USUAL = ("psnr", "ssim")
"""The measures by which pictures are compared with 16 bits, unless more is asked for: these want no download."""

LIMIT = 1800.0
"""Seconds for one step, unless told otherwise."""


@dataclass(frozen=True)
class Plan:
    """What a run asks.

    Args:
        prompts: drawn in every way; the noise of picture i comes from seed + i.
        ways: keys of `WAYS`.
        failures: ids of the failures to reproduce.
        seed: of the first picture.
        steps: of denoising; None is the pipeline's own number.
        pixels: width and height; None is the model's own size.
        gpu: "real", "virtual", or "none": then files are looked at, and bytes computed, and nothing is loaded.
        vram: of a virtual GPU.
        metrics: keys of `sana_lab.compared_pictures.scores.METRICS`, by which pictures are compared with 16 bits.

    Raises:
        ValueError: no prompt, an empty one, or a way that there is not.

    Chapter 14.
    """

    prompts: tuple[str, ...] = PROMPTS
    ways: tuple[str, ...] = tuple(WAYS)
    failures: tuple[str, ...] = ()
    seed: int = 0
    steps: int | None = None
    pixels: int | None = None
    gpu: str = "real"
    vram: str = "16GiB"
    metrics: tuple[str, ...] = USUAL

    def __post_init__(self) -> None:
        """Refuse what nothing could be done with."""
        if not self.prompts or not all(prompt.strip() for prompt in self.prompts):
            raise ValueError("prompts: give one or more, none of them empty.")
        unknown = [way for way in self.ways if way not in WAYS]
        if unknown or not self.ways:
            raise ValueError(f"way {unknown[0] if unknown else ''!r} is unknown: choose from {', '.join(WAYS)}.")
        if len(set(self.ways)) < len(self.ways):
            raise ValueError(f"ways {', '.join(self.ways)}: name each once.")

    @property
    def names(self) -> list[str]:
        """The ways in their usual order; none without a GPU."""
        return [way for way in WAYS if way in self.ways and self.gpu != "none"]

    def settings(self, source: Source, out: Path) -> dict[str, Any]:
        """What a run that goes on must have in common with what is in `out`, which may be inside of the model."""
        return {
            "format": FORMAT,
            "model": source.name,
            "weights": source.digest if source.checkpoint else weights_digest(source.folder, out),
            "prompts": list(self.prompts),
            "seed": self.seed,
            "steps": self.steps,
            "pixels": self.pixels,
            "gpu": self.gpu,
            "vram": self.vram if self.gpu == "virtual" else None,
            "machine": evidence.this_machine()["device"],
            "versions": evidence.installed_versions(),
        }

    def room(self, side: int) -> int:
        """Bytes that the pictures of a run may take on a disk: as much as they hold uncompressed."""
        side = self.pixels or side
        return (len(self.prompts) + 1) * len(self.names) * 3 * side**2 + 16 * 2**20


def part_three(gpus: int) -> tuple[str, ...]:
    """Ids of the live entries of part III that load a pipeline, and for which this many GPUs are enough.

    Entries about a card that is too small are left out: on another model its size would have to be another.
    """
    from ..failures.catalogue import catalogue

    return tuple(
        failure.id
        for failure in catalogue()
        if failure.family in PART_THREE
        and failure.evidence == "live"
        and "FOLDER" in failure.code
        and failure.gpus <= gpus
        and not failure.vram
    )


def gpus() -> int:
    """How many GPUs CUDA shows, by the driver."""
    return len(machine.gpus())
