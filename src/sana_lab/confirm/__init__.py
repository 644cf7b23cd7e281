"""The book's claims held against a checkpoint, on the reader's own GPU: `sana-lab confirm MODEL`.

`plan` says what is asked and by which prompts; `files` looks at what is stored, without a GPU; `ways` loads the
pipeline in six ways, and `watched` looks into them while they draw; `worker` is the process in which one step runs,
and `runner` runs all of them, with what each has found in a file (`kept`), and goes on where it was stopped. `claims`
holds what was found against what the chapters say, `record` is the file that comes of it, `page` the same for people,
and `cli` the command.

Importing this package imports no torch: names are looked up on first use. Chapter 14.
"""

from typing import TYPE_CHECKING

from ..lazy import looked_up

if TYPE_CHECKING:  # the same names for editors and type checkers, which do not run `__getattr__`
    from .claims import Verdict as Verdict
    from .claims import judge as judge
    from .page import write_page as write_page
    from .plan import Plan as Plan
    from .record import contributed_table as contributed_table
    from .record import load as load
    from .runner import confirm as confirm

_WHERE = {
    "Plan": "plan",
    "Verdict": "claims",
    "confirm": "runner",
    "contributed_table": "record",
    "judge": "claims",
    "load": "record",
    "write_page": "page",
}

__all__ = sorted(_WHERE)

if not TYPE_CHECKING:  # or else a type checker would take every name for one that is there
    __getattr__, __dir__ = looked_up(globals(), _WHERE)
