"""`%explain` in a notebook: `%load_ext sana_lab`, and after a cell that failed, `%explain`."""

from __future__ import annotations

import sys
from typing import Any

from .search import Explanation, explain


def register(shell: Any) -> None:
    """Give an IPython shell the line magic `%explain`."""
    shell.register_magic_function(_explain, "line", "explain")


def _explain(line: str = "") -> Explanation:
    """Explain the last exception, or what stands on the line: `%explain Torch not compiled with CUDA enabled`."""
    if line.strip():
        return explain(line)
    error = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)  # the first is Python 3.12's
    return explain("" if error is None else error)
