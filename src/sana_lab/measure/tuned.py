"""What a compiler that tries several kernels for a product has found, read from its log.

Chapter 8.
"""

from __future__ import annotations

import json
import re
from typing import Any

_TRIED = re.compile(r"^Autotune Choices Stats:\n(\{.*\})\nAUTOTUNE (\w+)\((.*)\)$", re.MULTILINE)


def products(log: str) -> list[dict[str, Any]]:
    r"""The products that were tried, in their order, each once for each time that it was.

    Args:
        log: what PyTorch's compiler writes with `max_autotune` (2.11, _inductor/select_algorithm.py).

    Returns:
        For each: `product` and `shapes` as the compiler names them, `choices` (kernels tried), `best` (the quickest),
        and milliseconds: `best_ms`, `triton_ms` (of the quickest that it generated; the others are a library's).

    Example:
        >>> stats = '{"num_choices": 20, "best_kernel": "mm", "best_time": 0.09, "best_triton_time": 0.1}'
        >>> products(f"Autotune Choices Stats:\n{stats}\nAUTOTUNE mm(32x16, 16x8)")[0]["best"]
        'mm'

    Chapter 8.
    """
    found = []
    for stats, product, shapes in _TRIED.findall(log):
        try:
            told = json.loads(stats)
        except ValueError:  # another version's words
            continue
        found.append(
            {
                "product": product,
                "shapes": shapes,
                "choices": told.get("num_choices"),
                "best": told.get("best_kernel"),
                "best_ms": told.get("best_time"),
                "triton_ms": told.get("best_triton_time"),
            }
        )
    return found
