"""Where a run keeps what each of its steps has found, a file each.

Chapter 14.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..evidence import journal

STEPS = "steps"
HAPPENS, DOES_NOT, NOT_CHECKED = "happens", "does not happen", "could not be checked"
"""What may come of a failure's reproduction."""


def step_file(out: Path, step: str) -> Path:
    """Where what a step has found is kept."""
    return out / STEPS / f"{step}.json"


def found_in(out: Path, step: str) -> dict[str, Any] | None:
    """What a step has found; None where it has not ended, or its file is none of ours."""
    try:
        return journal.read(step_file(out, step), dict, way_out="")
    except (OSError, ValueError):
        return None
