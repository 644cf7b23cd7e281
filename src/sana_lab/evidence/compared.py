"""A real GPU beside the virtual one: whether what a case did on both is the same, and why where it is not.

Four records are compared: conformance cases, PyTorch's table of operators, failures of the catalogue, probes of library
versions. Each keeps outcomes in a form of its own; its room turns them into the one that stands here, which is
`{"returns": anything}` or `{"raises": type, "words": leading words}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

Outcome = Mapping[str, Any]
Reasons = Mapping[str, str]
"""Why cases differ: a regular expression for the whole of a case's name, or the name itself -> a sentence."""

SAME = "same"


def verdict(real: Outcome, virtual: Outcome) -> str:
    """`same`, or what differs: `kind` (returns or raises), `error` (its type or words), `value` (what is returned)."""
    if ("raises" in real) != ("raises" in virtual):
        return "kind"
    if "raises" in real:
        return SAME if all(real[key] == virtual[key] for key in ("raises", "words")) else "error"
    return SAME if real["returns"] == virtual["returns"] else "value"


def why(reasons: Reasons, name: str) -> str:
    """The first reason that there is for a case, `""` if none."""
    return next((sentence for pattern, sentence in reasons.items() if re.fullmatch(pattern, name)), "")


def unexplained(differing: Iterable[str], reasons: Reasons) -> list[str]:
    """What is wrong with reasons: each case that differs without one, each one that no case needs. A line each."""
    names = list(differing)
    lines = [f"{name} differs, and no reason is given" for name in names if not why(reasons, name)]
    idle = [pattern for pattern in reasons if not any(re.fullmatch(pattern, name) for name in names)]
    return lines + [f"{pattern!r} is a reason, and no case differs for it: take it out" for pattern in idle]
