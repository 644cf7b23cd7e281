"""Run reproductions and fixes, each in a process of its own with a time limit."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .catalogue import get
from .outcome import Outcome
from .worker import CANNOT_FORK, GRACE, LATE, died

Case = tuple[str, int | None] | tuple[str, int | None, int]
"""Id, number of the fix or `None`, and perhaps the bytes that the process may use of a real GPU."""

SECONDS = 60.0
"""For one case, imports not counted."""

_START = 120.0
"""Seconds that a worker may take to import the libraries and to make the folder of the untrained pipeline."""


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
        done: called with each outcome when it is there, from another thread.

    Raises:
        ValueError: as `run`, before anything is started.
    """
    cases = [(id, fix, *(memory or (0,))) for id, fix, *memory in cases]
    for id, fix, _ in cases:
        _check(id, fix)
    if fork is None:
        fork = hasattr(os, "fork") and len(cases) > 1
    settings = {"jobs": jobs, "limit": time_limit, "virtual": virtual}
    outcomes = _worker(cases, {**settings, "fork": True}, visible, done) if fork else None
    if outcomes is None:
        settings |= {"jobs": 1, "fork": False}
        with ThreadPoolExecutor(jobs) as pool:
            batches = pool.map(lambda case: _worker([case], settings, visible, done), cases)
            outcomes = [outcome for batch in batches for outcome in batch]
    by_case = {(outcome.id, outcome.fix, outcome.memory): outcome for outcome in outcomes}
    return [by_case[case] for case in cases]


def _check(id: str, fix: int | None) -> None:
    failure = get(id)
    if fix is None:
        if failure.reproduction is None:
            raise ValueError(f"{id} has no reproduction that could run here: it needs {failure.needs()}.")
    elif type(fix) is not int or not 1 <= fix <= len(failure.fixes):
        raise ValueError(f"{id} has fixes 1 to {len(failure.fixes)}, not {fix!r}.")
    elif failure.fixes[fix - 1].function is None:
        raise ValueError(f"fix {fix} of {id} is a command to type: {failure.fixes[fix - 1].command}")


def _worker(
    batch: list[Case], settings: dict[str, Any], visible: str | None, done: Callable[[Outcome], None] | None
) -> list[Outcome] | None:
    """The outcomes of a batch in one worker; `None` if it was to fork and cannot."""
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TQDM_DISABLE": "1",
        "OMP_NUM_THREADS": "1",  # more threads would not survive a fork
        "TOKENIZERS_PARALLELISM": "false",
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # asking whether there is CUDA must not start CUDA before a fork
        "PYTHONUTF8": "1",
        **({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}),
    }
    rounds = -(-len(batch) // max(settings["jobs"], 1))
    limit = settings["limit"]
    outcomes: list[Outcome] = []
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=environment,
        )
        watchdog = threading.Timer(_START + (limit + GRACE) * rounds, worker.kill)
        watchdog.start()
        try:
            with contextlib.suppress(BrokenPipeError):  # it died at once; its log says why
                worker.stdin.write(json.dumps({**settings, "cases": batch}))
                worker.stdin.close()
            for line in worker.stdout:
                outcomes.append(Outcome.from_json(json.loads(line)))
                if done:
                    done(outcomes[-1])
            status = worker.wait()
        finally:
            late = not watchdog.is_alive()
            watchdog.cancel()
            worker.kill()
        log.seek(0)
        words = log.read()[-2000:]
    if status == CANNOT_FORK:
        return None
    missing = set(batch) - {(outcome.id, outcome.fix, outcome.memory) for outcome in outcomes}
    return [*outcomes, *(died(case, LATE if late else status, limit, words) for case in missing)]
