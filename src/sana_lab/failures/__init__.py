"""The failure catalogue: known failures of 8-bit Sana, each with cause, versions, reproduction and proven fixes.

`catalogue()` lists them, `find()` and `explain()` start from a message, `run()` makes one happen in a process of its
own. The chapters, the failure index of the book, `sana-lab explain` and the tests all read these entries.
"""

from __future__ import annotations

from .catalogue import FAMILIES, catalogue, get
from .entry import Failure, Family, Fix, installed_versions
from .outcome import Outcome
from .runner import run, run_many
from .search import Explanation, Match, explain, find

__all__ = [
    "FAMILIES",
    "Explanation",
    "Failure",
    "Family",
    "Fix",
    "Match",
    "Outcome",
    "catalogue",
    "explain",
    "find",
    "get",
    "installed_versions",
    "run",
    "run_many",
]
