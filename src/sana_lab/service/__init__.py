"""A pipeline in service: checked before it starts, watched while it draws, and no picture lost when something fails.

`start` refuses to begin with a pipeline that would fail later; `pictures` looks at what was drawn; `ways` are the
pipelines to try, the largest first; `delivery` draws a list of pictures and survives what can be survived inside of
one process; `supervisor` watches that process from outside, for what cannot (`worker` is the process). `lines` is
all of it as ten of them, the checklist, and `script` asks them of a reader's own file (`examine` is the process).

Importing this package imports no torch: names are looked up on first use. Chapter 13.
"""

from typing import TYPE_CHECKING

from ..lazy import looked_up

if TYPE_CHECKING:  # the same names for editors and type checkers, which do not run `__getattr__`
    from .delivery import Report as Report
    from .delivery import deliver as deliver
    from .lines import Checklist as Checklist
    from .lines import Line as Line
    from .lines import checklist as checklist
    from .pictures import wrong_with as wrong_with
    from .start import decode_room as decode_room
    from .start import start_up as start_up
    from .supervisor import supervise as supervise
    from .ways import Way as Way
    from .ways import ways_of as ways_of

_WHERE = {
    "Checklist": "lines",
    "Line": "lines",
    "checklist": "lines",
    "Report": "delivery",
    "deliver": "delivery",
    "wrong_with": "pictures",
    "decode_room": "start",
    "start_up": "start",
    "supervise": "supervisor",
    "Way": "ways",
    "ways_of": "ways",
}

__all__ = sorted(_WHERE)

if not TYPE_CHECKING:  # or else a type checker would take every name for one that is there
    __getattr__, __dir__ = looked_up(globals(), _WHERE)
