"""Stacks: sets of exact pins of the libraries that 8-bit Sana runs on.

Two kinds. A *dated* stack is what `pip install -U` gave on a day since Sana entered diffusers (0.32.0, December 2024).
A *mix* is a dated stack in which one more `pip install` moved a part of it, which pip allows: it looks at what the new
package needs, and only warns about what the others do.

The versions of a dated stack are those that the package index offered on that day (`uv pip compile --exclude-newer`),
except for torch, of which four versions are shared to save downloads: a stack has the newest of the four that was out.
Nothing here imports torch.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from .. import evidence

LIBRARIES = (*evidence.LIBRARIES, "huggingface-hub")
"""What a stack pins, in this order."""

BOOK = "2026-11"
"""The stack that this book pins; what it does is what the others are compared with."""

_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_VERSION = re.compile(r"\d+(\.\d+)+")
_DATE = re.compile(r"20\d\d-\d\d-\d\d")


@dataclass(frozen=True)
class Stack:
    """A set of versions.

    Args:
        name: short, as on the command line and at the head of a column.
        title: what it is, in a sentence.
        pins: library -> version; all of `LIBRARIES`, or without huggingface-hub where a bisection leaves it free.
        date: everything that is not pinned is as new as on the evening of this day. `""`: as new as there is.
        then: library -> version of a second `pip install`, which ignores what is there. Empty for a dated stack.
    """

    name: str
    title: str
    pins: Mapping[str, str]
    date: str = ""
    then: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ValueError: one does not hold what it must.
        """
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ValueError(f"stack {self.name!r}: a name has small letters, digits, '.', '+' and '-'.")
        if self.date and not _DATE.fullmatch(self.date):
            raise ValueError(f"stack {self.name!r}: date {self.date!r} is not of the form 2025-12-31.")
        missing = [library for library in LIBRARIES[:-1] if library not in self.pins]
        if missing:
            raise ValueError(f"stack {self.name!r} pins no {', '.join(missing)}.")
        for library, version in (*self.pins.items(), *self.then.items()):
            if library not in LIBRARIES:
                raise ValueError(f"stack {self.name!r} names {library!r}; a stack has {', '.join(LIBRARIES)}.")
            if not isinstance(version, str) or not _VERSION.fullmatch(version):
                raise ValueError(f"stack {self.name!r}: {library} {version!r} is no exact version such as 0.36.0.")

    @property
    def versions(self) -> dict[str, str]:
        """Library -> the version asked for last."""
        return {**self.pins, **self.then}

    @property
    def dated(self) -> bool:
        """Whether this is what one day gave, and no mix."""
        return not self.then and bool(self.date)

    def commands(self) -> list[str]:
        """The commands that make it, as one would type them."""
        lines = [f"pip install {' '.join(f'{name}=={number}' for name, number in self.pins.items())}"]
        if self.then:
            lines.append(f"pip install {' '.join(f'{name}=={number}' for name, number in self.then.items())}")
        return lines

    def key(self) -> str:
        """What the stack is made of, as a text that changes when the stack does."""
        return " | ".join([*self.commands(), self.date])


def _dated(name: str, date: str, title: str, *versions: str) -> Stack:
    return Stack(name, title, dict(zip(LIBRARIES, versions, strict=True)), date)


def _mix(name: str, base: Stack, title: str, **then: str) -> Stack:
    return Stack(name, title, base.pins, base.date, {key.replace("_", "-"): number for key, number in then.items()})


_DATED = (
    _dated(
        "2024-12", "2024-12-24", "The first release with Sana",
        "2.5.1", "0.32.0", "4.47.1", "1.2.1", "0.45.0", "0.27.0",
    ),
    _dated(
        "2025-02", "2025-02-20", "Two repairs later",
        "2.5.1", "0.32.2", "4.49.0", "1.4.0", "0.45.2", "0.29.1",
    ),
    _dated(
        "2025-04", "2025-04-25", "diffusers 0.33",
        "2.5.1", "0.33.1", "4.51.3", "1.6.0", "0.45.5", "0.30.2",
    ),
    _dated(
        "2025-07", "2025-07-15", "bitsandbytes computes on CPUs",
        "2.7.1", "0.34.0", "4.53.2", "1.8.1", "0.46.1", "0.33.4",
    ),
    _dated(
        "2025-09", "2025-09-20", "transformers says `dtype`",
        "2.7.1", "0.35.1", "4.56.2", "1.10.1", "0.47.0", "0.35.0",
    ),
    _dated(
        "2025-10", "2025-10-20", "bitsandbytes lets 8-bit layers move",
        "2.7.1", "0.35.2", "4.57.1", "1.11.0", "0.48.1", "0.35.3",
    ),
    _dated(
        "2025-12", "2025-12-20", "The last months of transformers 4",
        "2.9.1", "0.36.0", "4.57.3", "1.12.0", "0.49.0", "0.36.0",
    ),
    _dated(
        "2026-02", "2026-02-10", "transformers 5",
        "2.9.1", "0.36.0", "5.1.0", "1.12.0", "0.49.1", "1.4.1",
    ),
    _dated(
        "2026-04", "2026-04-01", "diffusers 0.37 and accelerate 1.13",
        "2.9.1", "0.37.1", "5.4.0", "1.13.0", "0.49.2", "1.8.0",
    ),
    _dated(
        "2026-06", "2026-06-15", "diffusers 0.38",
        "2.9.1", "0.38.0", "5.12.1", "1.14.0", "0.49.2", "1.19.0",
    ),
    _dated(
        "2026-07", "2026-07-25", "bitsandbytes 0.50",
        "2.13.0", "0.39.0", "5.14.1", "1.14.0", "0.50.0", "1.24.0",
    ),
    _dated(
        "2026-08", "2026-08-25", "diffusers says `dtype`",
        "2.13.0", "0.40.0", "5.15.1", "1.14.0", "0.50.1", "1.28.0",
    ),
    _dated(
        "2026-10", "2026-10-10", "diffusers 0.41",
        "2.13.0", "0.41.0", "5.19.0", "1.15.0", "0.50.2", "1.33.0",
    ),
    _dated(
        BOOK, "2026-11-24", "What this book pins",
        "2.13.0", "0.42.1", "5.23.0", "1.15.0", "0.50.2", "2.4.0",
    ),
)  # fmt: skip
_DAY = {stack.name: stack for stack in _DATED}

_MIXES = (
    _mix(
        "2024-12+accelerate", _DAY["2024-12"], "An accelerate kept for another project", accelerate="1.0.1"
    ),
    _mix(
        "2025-07+transformers", _DAY["2025-07"], "A year later, `pip install -U transformers`", transformers="5.2.0"
    ),
    _mix(
        "2025-09+diffusers", _DAY["2025-09"], "A year later, `pip install -U diffusers`", diffusers="0.42.1"
    ),
    _mix(
        "2025-12+accelerate", _DAY["2025-12"], "Three months later, `pip install -U accelerate`", accelerate="1.13.0"
    ),
    _mix(
        "2025-12+diffusers", _DAY["2025-12"], "Three months later, all but transformers",
        diffusers="0.37.1", accelerate="1.13.0", bitsandbytes="0.49.2",
    ),
    _mix(
        "2026-04+bitsandbytes", _DAY["2026-04"], "All new, and bitsandbytes as pinned long ago", bitsandbytes="0.47.0"
    ),
    _mix(
        "2026-11+accelerate", _DAY[BOOK], "All new, and accelerate as pinned long ago", accelerate="1.12.0"
    ),
    _mix(
        "2026-11+bitsandbytes", _DAY[BOOK], "All new, and a bitsandbytes from before 0.46", bitsandbytes="0.45.5"
    ),
    _mix(
        "2026-11+transformers", _DAY[BOOK], "transformers moved back for another project", transformers="4.57.6"
    ),
    Stack(
        "2026-11-pinned-back", "The same in one set of pins",
        {**{name: _DAY[BOOK].pins[name] for name in LIBRARIES[:-1]}, "transformers": "4.57.6"}, "2026-11-24",
    ),
)  # fmt: skip

STACKS: tuple[Stack, ...] = (*_DATED, *_MIXES)
"""All stacks: the dated ones from old to new, then the mixes."""


def get(name: str) -> Stack:
    """The stack with this name.

    Raises:
        ValueError: there is none; the text names the nearest.
    """
    known = {stack.name: stack for stack in STACKS}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(str(name), known, 3, 0.4)
    advice = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(known)}."
    raise ValueError(f"there is no stack {name!r}: {advice}")
