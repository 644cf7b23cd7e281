"""Run reproductions and fixes, each in a process of its own with a time limit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable

from .catalogue import get
from .outcome import Outcome
from .worker import GRACE, LATE, died

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
    cases: Iterable[tuple[str, int | None]],
    *,
    jobs: int = 1,
    virtual: bool | None = None,
    time_limit: float = SECONDS,
    fork: bool | None = None,
) -> list[Outcome]:
    """Several at once, `jobs` at a time, in the order asked for.

    Args:
        cases: pairs of id and number of the fix, or `None`.
        jobs: processes at a time.
        virtual: as for `run`.
        time_limit: seconds for each.
        fork: import the libraries once and fork for each case; `False` starts a fresh interpreter for each. Default:
            fork where the system can, and for more than one case.

    Raises:
        ValueError: as `run`, before anything is started.
    """
    cases = list(cases)
    for id, fix in cases:
        _check(id, fix)
    if fork is None:
        fork = hasattr(os, "fork") and len(cases) > 1
    batches = [cases] if fork else [[case] for case in cases]
    outcomes = {}
    for batch in batches:
        for outcome in _worker(batch, jobs, virtual, time_limit, fork):
            outcomes[outcome.id, outcome.fix] = outcome
    return [outcomes[case] for case in cases]


def _check(id: str, fix: int | None) -> None:
    failure = get(id)
    if fix is None:
        if failure.reproduction is None:
            raise ValueError(f"{id} has no reproduction that could run here: it needs {failure.needs()}.")
    elif type(fix) is not int or not 1 <= fix <= len(failure.fixes):
        raise ValueError(f"{id} has fixes 1 to {len(failure.fixes)}, not {fix!r}.")
    elif failure.fixes[fix - 1].function is None:
        raise ValueError(f"fix {fix} of {id} is a command to type: {failure.fixes[fix - 1].command}")


def _worker(batch: list, jobs: int, virtual: bool | None, limit: float, fork: bool) -> list[Outcome]:
    wanted = {"cases": batch, "jobs": jobs, "limit": limit, "virtual": virtual, "fork": fork}
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TQDM_DISABLE": "1",
        "OMP_NUM_THREADS": "1",  # more threads would not survive a fork
        "TOKENIZERS_PARALLELISM": "false",
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # asking whether there is CUDA must not start CUDA before a fork
        "PYTHONUTF8": "1",
    }
    rounds = -(-len(batch) // max(jobs, 1))
    command = [sys.executable, "-m", f"{__package__}.worker"]
    options = {"capture_output": True, "text": True, "encoding": "utf-8", "errors": "replace", "env": environment}
    try:
        done = subprocess.run(
            command, input=json.dumps(wanted), timeout=_START + (limit + GRACE) * rounds, check=False, **options
        )
    except subprocess.TimeoutExpired:
        return [died(case, LATE, limit, "") for case in batch]
    outcomes = [Outcome.from_json(json.loads(line)) for line in done.stdout.splitlines()]
    missing = set(map(tuple, batch)) - {(outcome.id, outcome.fix) for outcome in outcomes}
    return [*outcomes, *(died(case, done.returncode, limit, done.stderr[-2000:]) for case in missing)]
