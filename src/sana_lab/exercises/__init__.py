"""Checks for the exercises at the end of the chapters: `chNN.py` holds those of chapter NN.

A check takes the reader's function, tries it on cases of its own and returns a `Verdict`, which a notebook shows as one
sentence. It never raises because of what the function does: a stub that is not written yet gets its hint too.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any


@dataclass(frozen=True)
class Verdict:
    """What a check found; a notebook shows it as ``Right: …`` or ``Not yet: …``.

    Attributes:
        passed: Whether the answer is right.
        text: What the answer shows if it is right, else the idea that it misses.
    """

    passed: bool
    text: str

    def __repr__(self) -> str:
        said = f"{'Right' if self.passed else 'Not yet'}: {self.text}"
        return textwrap.fill(said, 76, break_long_words=False, break_on_hyphens=False)  # the width of a page's text


class NotYet(Exception):
    """Raised inside a check, with the sentence that the reader should see."""


def exercise(check: Callable[..., str]) -> Callable[..., Verdict]:
    """Turn a function that returns praise or raises `NotYet` into one that returns a `Verdict`.

    Any other exception is the reader's function failing on a case, and the verdict names it.
    """

    @wraps(check)
    def verdict(answer: Callable[..., Any], *args: Any, **kwargs: Any) -> Verdict:
        if not callable(answer):
            return Verdict(False, f"pass the function itself, without calling it; this is {type(answer).__name__}")
        try:
            return Verdict(True, check(answer, *args, **kwargs))
        except NotYet as hint:
            return Verdict(False, str(hint))
        except Exception as error:
            return Verdict(False, f"your function raised {type(error).__name__}: {error}")

    return verdict
