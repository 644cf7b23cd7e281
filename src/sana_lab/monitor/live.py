"""One line that changes while a pipeline draws: in a notebook by its display, in a terminal by a carriage return."""

from __future__ import annotations

import html
import sys
import time
from typing import Any

EVERY = 0.25
"""Seconds between two changes of the line: more often nobody reads it, and drawing would wait for it."""


def shown_by_default() -> bool:
    """Whether somebody looks: a terminal on stderr. A notebook keeps its outputs, so there one asks for the line."""
    return sys.stderr.isatty()


class Line:
    """A line that is written over itself, a few times a second at most."""

    def __init__(self, on: bool):
        """Nothing is shown yet; `on` False shows nothing ever."""
        self._on, self._last, self._length, self._handle = on, 0.0, 0, None

    def wants(self, *, now: bool = False) -> bool:
        """Whether there is somebody to tell, and the last text was not just now; `now` asks the first alone."""
        return self._on and (now or time.monotonic() - self._last >= EVERY)

    def say(self, text: str) -> None:
        """Show a text in place of the last."""
        if not self._on:
            return
        self._last = time.monotonic()
        if (display := _notebook()) is not None:
            shown = {"text/plain": text, "text/html": f"<code>{html.escape(text)}</code>"}
            if self._handle is None:
                self._handle = display(shown, raw=True, display_id=True)
            else:
                self._handle.update(shown, raw=True)
        else:
            print(f"\r{text:<{self._length}}", end="", file=sys.stderr, flush=True)
            self._length = len(text)

    def end(self) -> None:
        """Leave the cursor on a line of its own."""
        if self._length:
            print(file=sys.stderr, flush=True)
            self._length = 0


def _notebook() -> Any:
    """IPython's `display` where there is a kernel that a page is connected to, else None."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    from IPython.display import display

    return display
