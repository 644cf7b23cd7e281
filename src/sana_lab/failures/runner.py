"""Run reproductions and fixes, each in a process of its own with a time limit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from .. import isolated, machine
from .catalogue import get
from .outcome import Outcome
from .worker import outcome_of

Case = tuple[str, int | None] | tuple[str, int | None, int]
"""Id, number of the fix or `None`, and perhaps the bytes that the process may use of a real GPU."""

SECONDS = 60.0
"""For one case, imports not counted."""


def run(id: str, fix: int | None = None, *, virtual: bool | None = None, time_limit: float = SECONDS) -> Outcome:
    """Make a failure happen, or run a fix, in a process of its own.

    Args:
        id: of the failure.
        fix: number of a fix, counted from 1; `None` runs the reproduction.
        virtual: `True` for virtual GPUs, `False` for real ones, `None` for whichever there is.
        time_limit: seconds; afterwards the process is killed.

    Raises:
        ValueError: there is no such failure or fix, or it has no code to run.
    """
    return run_many([(id, fix)], virtual=virtual, time_limit=time_limit)[0]


def run_many(
    cases: Iterable[Case],
    *,
    jobs: int = 1,
    virtual: bool | None = None,
    time_limit: float = SECONDS,
    fork: bool | None = None,
    visible: str | None = None,
    folder: str | Path | None = None,
    done: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Several at once, `jobs` at a time, in the order asked for.

    Args:
        cases: pairs of id and number of the fix, or `None`; with a third member, the bytes that the process may use of
            a real GPU.
        jobs: processes at a time.
        virtual: as for `run`.
        time_limit: seconds for each.
        fork: import the libraries once and fork for each case; `False` starts a fresh interpreter for each. Default:
            fork where the system can, and for more than one case.
        visible: value of `CUDA_VISIBLE_DEVICES` for the processes; `None` leaves it as it is.
        folder: of the pipeline that the cases load; by default the small one of the Shapes model's form.
        done: called with each outcome when it is there, from another thread.

    Raises:
        ValueError: as `run`, before anything is started.
    """
    cases = [(id, fix, *(memory or (0,))) for id, fix, *memory in cases]
    for id, fix, _ in cases:
        _check(id, fix)
    answers = isolated.ask(
        isolated.module(f"{__package__}.worker"),
        cases,
        {"virtual": virtual, "folder": None if folder is None else str(folder)},
        limit=time_limit,
        jobs=jobs,
        fork=fork,
        environ={"TQDM_DISABLE": "1", **({} if visible is None else {machine.VARIABLE: visible})},
        heard=lambda answer: done and done(Outcome.from_json(answer)),
    )
    return [
        outcome_of(case, answer, time_limit) if isinstance(answer, isolated.Ended) else Outcome.from_json(answer)
        for case, answer in zip(cases, answers, strict=True)
    ]


def _check(id: str, fix: int | None) -> None:
    failure = get(id)
    if fix is None:
        if failure.reproduction is None:
            raise ValueError(f"{id} has no reproduction that could run here: it needs {failure.needs()}.")
    elif type(fix) is not int or not 1 <= fix <= len(failure.fixes):
        raise ValueError(f"{id} has fixes 1 to {len(failure.fixes)}, not {fix!r}.")
    elif failure.fixes[fix - 1].function is None:
        raise ValueError(f"fix {fix} of {id} is a command to type: {failure.fixes[fix - 1].command}")
