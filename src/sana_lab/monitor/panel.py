"""A line with a stop button, in a notebook, while a pipeline draws.

The kernel is busy meanwhile, and hears of a click only where widgets talk through a thread of their own: ipykernel 7
offers one (`kernel subshells`, kernelbase.py) and JupyterLab uses it (4.6.6, `commsOverSubshells`; jupyterlab
#17363). Elsewhere there is no button, and a text says how to interrupt the kernel.

Chapter 13.
"""

from __future__ import annotations

import html
import sys
import time
from typing import Any

from .live import EVERY

BY_HAND = "to stop: ■ in the toolbar above"
SUBSHELLS = "kernel subshells"


class Stopped(Exception):
    """Somebody pressed the button: the pipeline is not at fault and can draw again.

    It ends the cell and those that wait behind it, and shows one line in place of a traceback.
    """

    def _render_traceback_(self) -> list[str]:  # asked for by IPython (9.9, core/interactiveshell.py)
        return [str(self)]


class Panel:
    """What `Line` does, with a button below: `asked` says whether it was pressed."""

    def __init__(self, kernel: Any):
        """Shown at once.

        Args:
            kernel: of this notebook, from `kernel_here`.
        """
        from IPython.display import display
        from ipywidgets import HTML, Button, HBox

        self.asked, self._last = False, 0.0
        self._text = HTML()
        self._button = Button(description="Stop", icon="stop", tooltip="Stop before the next step")
        self._button.on_click(self._press)
        if (comm := self._button.comm) is not None:
            # ipykernel 7.4 (comm/comm.py) gives what a widget hears to the shell that wrote to the widget last, which
            # is the one that draws; without this note it goes to the thread that the front end asked for
            vars(comm).pop("_reply_subshell_id", None)
        hears = SUBSHELLS in kernel.kernel_info.get("supported_features", [])
        self._box = HBox([self._text, self._button if hears else HTML(f"<small>{BY_HAND}</small>")])
        display(self._box)

    def _press(self, _: Any) -> None:
        self.asked = True
        self._button.disabled, self._button.description = True, "Stopping"

    def wants(self, *, now: bool = False) -> bool:
        """Whether the last text was not just now."""
        return now or time.monotonic() - self._last >= EVERY

    def say(self, text: str) -> None:
        """Show a text in place of the last."""
        self._last = time.monotonic()
        self._text.value = f"<code>{html.escape(text)}</code>"

    def end(self) -> None:
        """Nothing can be stopped any more: the text stays, the button goes."""
        self._box.children = (self._text,)


def kernel_here() -> Any:
    """The kernel of a notebook, None in a terminal or a script."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None)
