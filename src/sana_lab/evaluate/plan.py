"""What `sana-lab evaluate` does: the numbers of a run, each checked for its range. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .. import evidence

if TYPE_CHECKING:
    from pathlib import Path

    from ..checkpoints import Source

RECORD = "evaluation_shapes"
"""The record of a whole run."""

SCENES = 1000
"""How many paired scenes there are of each number of objects; a run takes the first n of them."""

LIMITS = {"steps": (1, 1000), "seed": (0, 2**63 - 1), "chunk": (1, 10_000), "threads": (1, 256)}
"""Smallest and largest number; OpenMP crashes where it cannot start as many threads as it is told to."""


def _all() -> tuple[str, ...]:
    from .conditions import CONDITIONS

    return tuple(CONDITIONS)


@dataclass(frozen=True)
class Plan:
    """What a run does.

    Args:
        model: what `load_sana` takes.
        conditions: names from `conditions.CONDITIONS`; the reference is always drawn.
        n: paired scenes of each number of objects.
        n_of: another number for some conditions.
        objects: numbers of objects, 1, 2 or both.
        steps: denoising steps.
        guidance: strength of the prompt.
        seed: of the scenes. Noise i has seed i.
        chunk: pictures a batch; results depend on it in the last digits.
        threads: of the processor, for each process, where the GPU is virtual; results depend on it likewise.
        sweep: scenes of the sensitivity sweep, 0 for none.
        sweep_bits: to which a layer is rounded in it.
        record: name of the record.

    Raises:
        ValueError: a number out of range or an unknown condition; the text says what would do.

    Chapter 6.
    """

    model: str | Path | Source = "shapes"
    conditions: tuple[str, ...] = field(default_factory=_all)
    n: int = 500
    n_of: tuple[tuple[str, int], ...] = ()
    objects: tuple[int, ...] = (1, 2)
    steps: int = 20
    guidance: float = 4.5
    seed: int = 0
    chunk: int = 64
    threads: int = 1
    sweep: int = 64
    sweep_bits: int = 2
    record: str = RECORD

    def __post_init__(self) -> None:
        """Check that every number is in its range."""
        evidence.must_be_a_name(self.record)
        known = _all()
        for name in (*self.conditions, *dict(self.n_of)):
            if name not in known:
                raise ValueError(f"condition {name!r} is unknown: choose from {', '.join(known)}")
        for name, n in (("n", self.n), *self.n_of):
            if not 1 <= n <= SCENES:
                raise ValueError(f"n = {n} scenes for {name!r}: give 1 to {SCENES}, 500 is usual")
        if not self.objects or not set(self.objects) <= {1, 2} or len(set(self.objects)) < len(self.objects):
            raise ValueError(f"objects {self.objects}: give 1, 2 or both")
        if not 0 <= self.sweep <= SCENES:
            raise ValueError(f"sweep = {self.sweep} scenes: give 0 for no sweep, or up to {SCENES}")
        if not 2 <= self.sweep_bits <= 8:
            raise ValueError(f"sweep bits {self.sweep_bits}: give 2 to 8")
        for name, (least, most) in LIMITS.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} = {getattr(self, name)}: give a whole number from {least} to {most}")
        if not (math.isfinite(self.guidance) and self.guidance >= 0):
            raise ValueError(f"guidance = {self.guidance}: give a number from 0 up; 4.5 is usual")

    @property
    def names(self) -> list[str]:
        """The conditions in their usual order, the reference first."""
        from .conditions import CONDITIONS, REFERENCE

        return [name for name in CONDITIONS if name == REFERENCE or name in self.conditions]

    def number(self, condition: str) -> int:
        """Scenes of each number of objects under a condition; of the reference as many as any other needs."""
        from .conditions import REFERENCE

        numbers = {name: dict(self.n_of).get(name, self.n) for name in self.names}
        if condition == REFERENCE:
            return max([*numbers.values(), self.sweep])
        return numbers[condition]

    def chunks(self, n: int) -> list[range]:
        """The scenes of each chunk, of `n` in all."""
        return [range(at, min(at + self.chunk, n)) for at in range(0, n, self.chunk)]
