"""What came of running a reproduction or a fix."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

TIME_LIMIT = "TimeLimit"
DIED = "ProcessDied"


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        id: of the failure.
        fix: number of the fix, counted from 1; `None` for the reproduction.
        memory: bytes to which the process was limited on a real GPU; 0: it had all.
        error: class of the exception, `None` if there was none; `TimeLimit` and `ProcessDied` speak for themselves.
        kinds: that class and its bases, so that `RuntimeError` finds an `OutOfMemoryError`.
        message: of the exception.
        line: the line of the program that failed.
        where: the frame in a library where it broke, `diffusers/pipelines/pipeline_utils.py:502 in to`.
        before: component -> devices of its parameters and buffers, before the last statement that ran.
        after: the same when all was over.
        log: what went to stderr, one line each, repetitions left out.
        printed: what went to stdout.
        traceback: as Python prints it.
        seconds: how long it took, imports and start of the process not counted.
        device: what it ran on.
    """

    id: str
    fix: int | None = None
    memory: int = 0
    error: str | None = None
    kinds: tuple[str, ...] = ()
    message: str = ""
    line: str = ""
    where: str = ""
    before: dict[str, str] = field(default_factory=dict)
    after: dict[str, str] = field(default_factory=dict)
    log: str = ""
    printed: str = ""
    traceback: str = ""
    seconds: float = 0.0
    device: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Outcome:
        """The opposite of `to_json`."""
        return cls(**{**data, "kinds": tuple(data["kinds"])})

    def __str__(self) -> str:
        """A few lines for a terminal."""
        name = self.id if self.fix is None else f"{self.id}, fix {self.fix}"
        lines = [f"{name} on {self.device or 'the CPU'}, {self.seconds:.1f} s"]
        if self.error:
            lines += [f"{self.error}: {self.message}", f"  at   {self.line}", f"  in   {self.where}"]
        else:
            lines.append("ran to its end")
        lines += [f"  log  {line}" for line in self.log.splitlines()[:8]]
        lines += [f"  says {line}" for line in self.printed.splitlines()[:8]]
        for name in dict.fromkeys([*self.before, *self.after]):
            then, now = self.before.get(name, "-"), self.after.get(name, "-")
            lines.append(f"  {name}: {then}" + (f" -> {now}" if now != then else ""))
        return "\n".join(lines)
