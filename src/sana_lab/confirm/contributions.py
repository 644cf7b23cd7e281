"""Contributed records for the page *Records from other machines*, written while the book is built.

Chapter 14.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..evidence import contributed
from .record import contributed_table

if TYPE_CHECKING:
    from IPython.display import HTML

NONE = (
    "No record has been sent in yet. Nor is there one of ours: the released weights could not be downloaded where this "
    "book was made."
)


def shown(folder: Path = contributed.FOLDER) -> HTML:
    """The table of contributed records, or a sentence that there is none.

    Args:
        folder: where they lie.

    Raises:
        ValueError: one of them is damaged.
    """
    from IPython.display import HTML

    if not contributed.load_all(folder):
        return HTML(f"<p>{NONE}</p>")
    return HTML(contributed_table(folder).to_html(border=0))
