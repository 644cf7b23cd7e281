"""Runs one learner's notebook and judges its answers; `grading` starts it.

The learner's cells run here in IPython, from top to bottom, an error in one does not end the rest. After a cell that
tries an exercise, and once more at the end, the book's own check is called on what the names of the answer stand for.
The checks are those of the installed book, fetched before the first cell runs and compared with their files at the end.
A line that tells a verdict is signed with a key that the learner's cells were not given.

That is enough against notebooks that hang, crash, overwrite a check or store what was never computed. It is no prison:
cells run with the rights of whoever grades. Grade strangers' work in a container.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import importlib
import inspect
import io
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import isolated
from .tasks import Task


def signed(key: bytes, value: Any) -> str:
    """Signature of a line, in hexadecimal digits."""
    return hmac.new(key, json.dumps(value, sort_keys=True).encode(), hashlib.sha256).hexdigest()


def judged(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Run a notebook and judge it; see `grading.Grade` for what a line says.

    Args:
        request: `code`, the learner's code cells; `own`, code cells of the chapter that are no answer; `tasks`, the
            exercises, see `tasks.Task`; `key`, hexadecimal; `cell`, seconds for one cell; `folder`, an empty one to
            run in.
    """
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)  # the request, key and all, was there
    key = bytes.fromhex(request.pop("key"))
    found = [Task(**task) for task in request["tasks"]]
    checks = {task.check: getattr(importlib.import_module(task.module), task.check) for task in found}
    seals = _seals({task.module for task in found})
    handed_out = set(request["own"])
    os.chdir(request["folder"])

    shell = _shell()
    made_in: dict[str, str] = {}
    verdicts: dict[str, tuple[bool, str]] = {}
    errors: dict[int, str] = {}

    def judge(task: Any) -> None:
        missing = [name for name in task.answers if name not in shell.user_ns]
        if missing:
            verdict = (False, f"{missing[0]} is not defined{_why(errors)}")
        elif all(made_in.get(name) in handed_out for name in task.answers):
            verdict = (False, f"{task.answers[0]} is the chapter's own, from before the exercise: write one")
        else:
            with _alarm(request["cell"]):
                told = checks[task.check](*(shell.user_ns[name] for name in task.answers))
            verdict = (told.passed is True, told.text)
        if not verdicts.get(task.check, (False,))[0]:
            verdicts[task.check] = verdict

    for number, source in enumerate(request["code"]):
        before = {name: id(value) for name, value in shell.user_ns.items()}
        if error := _run(shell, source, request["cell"]):
            errors[number] = error
        for name, value in shell.user_ns.items():
            if before.get(name) != id(value):
                made_in[name] = source
        for task in found:
            if f"{task.check}(" in source:
                with contextlib.suppress(_TooLong):
                    judge(task)
    for task in found:
        if not verdicts.get(task.check, (False,))[0]:
            try:
                judge(task)
            except _TooLong:
                verdicts[task.check] = (False, f"the check got no answer within {request['cell']:g} s")
        passed, text = verdicts[task.check]
        line = {"check": task.check, "passed": passed, "text": text}
        yield {"line": line, "signature": signed(key, line)}
    line = {"end": True, "sealed": _seals({task.module for task in found}) == seals, "errors": len(errors)}
    yield {"line": line, "signature": signed(key, line)}


class _TooLong(BaseException):
    """A cell has had its time. No `Exception`, so that `except Exception` in a loop does not swallow it."""


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    if not hasattr(signal, "setitimer"):  # Windows: the limit of the whole notebook must do
        yield
        return

    def ring(*_: Any) -> None:
        raise _TooLong

    old = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def _shell() -> Any:
    """IPython without history on the disk, without a terminal and without pictures in windows."""
    os.environ["MPLBACKEND"] = "agg"
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.autocall = 0
    shell = InteractiveShell.instance(config=config)
    shell.user_ns["__name__"] = "__main__"
    return shell


def _run(shell: Any, source: str, seconds: float) -> str | None:
    """Run a cell; what went wrong, or None."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), _alarm(seconds):
            result = shell.run_cell(source, store_history=False, silent=False)
    except _TooLong:
        return f"a cell took longer than {seconds:g} s"
    except SystemExit:
        return "a cell ended the program"
    error = result.error_before_exec or result.error_in_exec
    if isinstance(error, _TooLong):
        return f"a cell took longer than {seconds:g} s"
    return None if error is None else f"{type(error).__name__}: {error}"


def _why(errors: dict[int, str]) -> str:
    if not errors:
        return ""
    number, text = next(iter(errors.items()))
    return f"; code cell {number + 1} raised {' '.join(text.split())[:200]}"


def _seals(modules: set[str]) -> dict[str, Any]:
    """What the functions of the checks' modules are made of, as they are in memory and on the disk."""
    from .. import exercises

    found: dict[str, Any] = {}
    for module in [exercises, exercises.answers, *map(importlib.import_module, sorted(modules))]:
        found[module.__name__] = hashlib.sha256(Path(inspect.getsourcefile(module) or "").read_bytes()).hexdigest()
        for name, value in vars(module).items():
            code = getattr(inspect.unwrap(value) if callable(value) else value, "__code__", None)
            found[f"{module.__name__}.{name}"] = (id(value), code and code.co_code)
    return found


if __name__ == "__main__":
    isolated.serve(judged)
