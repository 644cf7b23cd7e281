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

    An exception of the reader's function is named in the verdict. One that the check itself runs into, with what that
    function returned, is not said to be the function's.
    """

    @wraps(check)
    def verdict(answer: Callable[..., Any], *args: Any, **kwargs: Any) -> Verdict:
        if not callable(answer):
            return Verdict(False, f"pass the function itself, without calling it; this is {type(answer).__name__}")
        raised: list[Exception] = []

        @wraps(answer, updated=())
        def noted(*given: Any, **named: Any) -> Any:
            try:
                return answer(*given, **named)
            except Exception as error:
                raised.append(error)
                raise

        try:
            return Verdict(True, check(noted, *args, **kwargs))
        except NotYet as hint:
            return Verdict(False, str(hint))
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            if any(error is one for one in raised):
                return Verdict(False, f"your function raised {said}")
            return Verdict(False, f"the check cannot read what your function returned. It ran into {said}")

    return verdict
