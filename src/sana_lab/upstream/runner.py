"""Runs the script of a fault on a virtual GPU, in this process."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from dataclasses import dataclass

from .. import use_accelerator
from ..libraries import quiet
from .faults import Fault


@dataclass(frozen=True)
class Shown:
    """What a script did.

    Attributes:
        printed: its output.
        raised: type and message of the exception that ended it, `""` where it ran to its end.
        there: whether the fault showed.
    """

    printed: str
    raised: str
    there: bool


def run(fault: Fault) -> Shown:
    """Run its script.

    What a script may leave behind in this process (`threads_leave_meta` does) is put back.
    """
    from torch import nn

    register, output, raised = nn.Module.register_parameter, io.StringIO(), ""
    # Loading bars and log lines are no part of what a script shows.
    with use_accelerator(virtual=True), quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(io.StringIO()):
            try:
                exec(compile(fault.script, f"{fault.name}.py", "exec"), {"__name__": "__main__"})
            except Exception as error:
                raised = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            finally:
                nn.Module.register_parameter = register
    return Shown(output.getvalue(), raised, re.match(fault.raises, raised) is not None)
