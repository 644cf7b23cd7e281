"""Run the conformance cases and write down what they do.

    python -m tests.conformance.run --real --out FILE [--jobs 8]    on a machine with one GPU or more
    python -m tests.conformance.run --virtual [--out FILE]          on the virtual GPU

The real run needs PyTorch, diffusers, transformers, accelerate and bitsandbytes, this folder, and of `sana_lab` what
imports no virtual GPU. Every case runs in its own process, see `sana_lab.isolated`; `--fresh` gives each an interpreter
of its own. The cases for one GPU run first, with only one visible, then those for two.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from typing import Any

from sana_lab import evidence, isolated, machine

PACKAGE = __package__  # `tests.conformance`, or `conformance` when started from inside tests/
TIME_LIMIT = 100
"""Seconds for one case."""


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--real", action="store_true", help="run on the real GPUs of this machine")
    kind.add_argument("--virtual", action="store_true", help="run on the virtual GPU")
    kind.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=pathlib.Path, help="write the record here: a new name ending in .json")
    parser.add_argument("--jobs", type=int, default=8, help="cases at a time on real GPUs")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--fresh", action="store_true", help="a fresh interpreter for each case")
    options = parser.parse_args()
    if options.serve:
        isolated.serve(answers)
        return 0
    if options.jobs < 1 or (options.out and options.out.suffix != ".json"):
        parser.error("--jobs wants a number from 1, --out a name that ends in .json")
    results = run_virtual(options.only) if options.virtual else run_real(options.only, options.jobs, options.fresh)
    if options.out:
        where, how = (" on the virtual GPU", "--virtual") if options.virtual else ("", f"--real --jobs {options.jobs}")
        evidence.save(
            options.out.stem,
            what=f"What CUDA does{where} in each conformance case: the returned values, or the exception.",
            command=f"python -m tests.conformance.run {how}",
            results=results,
            seed=0,
            versions=evidence.installed_versions("safetensors", "numpy"),
            folder=options.out.parent,
        )
    for name, result in results.items():
        print(name, json.dumps(result["outcome"], ensure_ascii=False)[:200])
    died = [name for name, r in results.items() if r["outcome"].get("raises") in ("ProcessDied", "TimeLimit")]
    print(f"{len(results)} cases" + (f"; did not finish: {', '.join(died)}" if died else ""))
    return 1 if died else 0


# ---- virtual --------------------------------------------------------------------------------------------------------


def run_virtual(only: str = "") -> dict[str, Any]:
    """All cases in this process, each with virtual GPUs of its own."""
    from .cases import CASES

    with tempfile.TemporaryDirectory() as folder:
        prepare_tiny(folder)
        return {case.name: case.result(run_case_virtually(case)) for case in CASES.values() if only in case.name}


def prepare_tiny(folder: str | os.PathLike) -> None:
    """Build the tiny pipeline and let the cases use it."""
    from . import tiny

    tiny.build(folder)
    tiny.FOLDER = os.fspath(folder)


def run_case_virtually(case: Any) -> dict[str, Any]:
    """One case, on as many virtual GPUs as it asks for, which are gone afterwards."""
    import torch

    from sana_lab.accelerator import use_accelerator

    from .registry import outcome_of

    with use_accelerator(gpus=case.gpus, virtual=True):
        try:
            return outcome_of(case.run)
        finally:
            torch.set_default_device(None)


# ---- real -----------------------------------------------------------------------------------------------------------


def run_real(only: str = "", jobs: int = 8, fresh: bool = False) -> dict[str, Any]:
    """The cases for one GPU, then, if there are two, those for two, on the GPUs of this machine."""
    from .cases import CASES

    shown = machine.entries()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        tiny = f"from {PACKAGE} import tiny; tiny.build({folder!r})"
        without_gpu = {**os.environ, machine.VARIABLE: ""}
        subprocess.run([sys.executable, "-c", tiny], check=True, env=without_gpu, stdout=subprocess.DEVNULL)
        for gpus in (1, 2):
            if len(shown) < gpus:
                print(f"cases for {gpus} GPUs left out: this machine shows {len(shown)}", file=sys.stderr)
                continue
            chosen = [case for case in CASES.values() if case.gpus == gpus and only in case.name]
            found = ask([case.name for case in chosen], jobs, fresh, folder, ",".join(shown[:gpus]))
            results |= {case.name: case.result(outcome) for case, outcome in zip(chosen, found, strict=True)}
    return results


def ask(names: list[str], jobs: int, fresh: bool, tiny_folder: str, visible: str) -> list[dict[str, Any]]:
    """The outcomes of cases, each in a process of its own."""
    found_at = str(pathlib.Path(__file__).parents[PACKAGE.count(".") + 1])
    path = os.pathsep.join(filter(None, [found_at, os.environ.get("PYTHONPATH")]))
    environ = {"SANA_TINY_FOLDER": tiny_folder, machine.VARIABLE: visible, "PYTHONPATH": path}
    answers = isolated.ask(
        isolated.module(f"{PACKAGE}.run", "--serve"),
        names,
        {},
        limit=TIME_LIMIT,
        jobs=jobs,
        fork=False if fresh else hasattr(os, "fork"),
        environ={**environ, "OMP_NUM_THREADS": "2"},
    )
    return [_outcome(answer) if isinstance(answer, isolated.Ended) else answer for answer in answers]


def answers(wanted: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """What a worker answers: the number of each case, and its outcome."""
    if wanted["fork"] and not isolated.preload(_libraries):
        raise isolated.CannotFork("CUDA does not survive a fork here: fresh interpreters")
    from .cases import CASES
    from .registry import outcome_of

    # A fork is watched from outside; an interpreter that runs one case itself needs an alarm.
    watch = contextlib.nullcontext if wanted["fork"] else partial(isolated.alarm, wanted["limit"])

    def run(name: str) -> dict[str, Any]:
        with watch():
            return outcome_of(CASES[name].run)

    cases = [(number, partial(run, name)) for number, name in wanted["cases"]]
    ended = isolated.run_each(cases, limit=wanted["limit"], jobs=wanted["jobs"], fork=wanted["fork"], one_file=True)
    for number, end in ended:
        yield number, _outcome(end)


def _libraries() -> None:
    """Import what cases import, but for bitsandbytes, which looks for CUDA when it is imported."""
    import accelerate  # noqa: F401
    import diffusers  # noqa: F401
    from transformers import AutoModel, Gemma2Model, GemmaTokenizer  # noqa: F401


def _outcome(ended: isolated.Ended) -> dict[str, Any]:
    if ended.how == isolated.DONE:
        return ended.value
    if ended.how == isolated.LATE:
        return {"raises": "TimeLimit", "words": f"{TIME_LIMIT} seconds", "message": ""}
    tail = (ended.stdout + ended.stderr)[-1500:]
    return {"raises": "ProcessDied", "words": f"exit status {ended.status}", "message": tail}


if __name__ == "__main__":
    sys.exit(main())
