"""Measuring stacks: build an environment, run the probes in it, keep the outcomes, remove the environment.

Two to three minutes for a stack on two cores, of which ten seconds are for the environment once the wheels are cached.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .. import evidence
from . import folder as shapes_folder
from . import record
from .environment import Unbuildable, environment
from .probes import PROBES, get
from .stacks import Stack

SOURCE = Path(__file__).parents[2]
"""The folder that holds the package: probes run with it on the path, so that it need not be installed anywhere."""

Say = Callable[[str], None]


def run(
    stacks: Iterable[Stack],
    probes: Iterable[str] | None = None,
    *,
    again: bool = False,
    folder: Path = evidence.FOLDER,
    say: Say = lambda text: None,
) -> None:
    """Measure what the record does not hold yet, and write it down outcome by outcome.

    Args:
        stacks: which.
        probes: ids; all by default.
        again: also what the record holds.
        folder: where the record is.
        say: called with a line about each step.

    Raises:
        ValueError: there is no such probe.
        OSError: no network, no room, or no place to write. What was measured is in the record.
        RuntimeError: uv is not installed.
    """
    probes = [get(id).id for id in probes] if probes is not None else list(PROBES)
    stacks = list(stacks)
    with folders() as (new, old, weights):
        for number, stack in enumerate(stacks, 1):
            results = record.load(folder)
            wanted = probes if again else record.missing(results, stack, probes, weights == "trained")
            head = f"[{number}/{len(stacks)}] {stack.name}"
            if not wanted:
                say(f"{head}: in the record")
                continue
            say(f"{head}: building")
            started = time.monotonic()
            entry = _entry(results, stack)
            try:
                with environment(stack) as (python, complaint):
                    entry["check"] = complaint
                    for done, item in enumerate(probe_in(python, wanted, new, old, weights), -1):
                        if "probe" not in item:
                            entry.update(item)
                            continue
                        entry["outcomes"][item.pop("probe")] = item
                        say(f"{head}: {done + 1} of {len(wanted)} probes")
                        _keep(entry, stack, folder)
            except Unbuildable as reason:
                entry.update(built=False, said=str(reason), outcomes={})
            took = round(time.monotonic() - started)
            entry.update(when=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
            if len(wanted) == len(PROBES):
                entry["seconds"] = took
            _keep(entry, stack, folder)
            say(f"{head}: {'done' if entry['built'] else 'cannot be built'} in {took} s")


def probe_in(
    python: Path, probes: list[str], new: Path, old: Path, weights: str, virtual: bool | None = True
) -> Iterator[dict[str, Any]]:
    """Run probes with the Python of an environment: first what is installed there, then one dict for each probe.

    Raises:
        OSError: the process could not be started, or ended before its last probe.
    """
    if not hasattr(os, "fork"):
        raise OSError("each probe runs in a fork of one process, which Windows has not: use Linux, macOS or WSL.")
    wanted = {"probes": probes, "folder": str(new), "older": str(old), "trained": weights == "trained"}
    environ = {
        **os.environ,
        "PYTHONPATH": str(SOURCE),
        "PYTHONHASHSEED": "0",  # the order of a pipeline's parts hangs on it before diffusers 0.33, see order-of-parts
        "PYTHONUTF8": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",  # more threads would not survive a fork
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # asking whether there is CUDA must not start CUDA before a fork
    }
    with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as given:
        given.write(json.dumps({**wanted, "virtual": virtual}).encode())
        given.seek(0)
        command = [str(python), "-m", "sana_lab.versions.worker"]
        process = subprocess.Popen(command, stdin=given, stdout=subprocess.PIPE, stderr=errors, env=environ)
        left = set(probes)
        try:
            for line in process.stdout:
                item = json.loads(line)
                if "probe" in item:
                    left.discard(item["probe"])
                    item["digest"] = PROBES[item["probe"]].digest
                    if weights != "trained" and item["kind"] != "skipped":
                        item["weights"] = weights
                yield item
            process.wait()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        if left:
            errors.seek(0)
            tail = errors.read()[-500:].decode(errors="replace")
            raise OSError(f"the process that runs the probes ended with {len(left)} to go: {' '.join(tail.split())}")


def _keep(entry: dict[str, Any], stack: Stack, folder: Path) -> None:
    """Write an entry into the record as it is now: a bisection may have written there meanwhile."""
    results = record.load(folder)
    results["stacks"][stack.name] = entry
    record.save(results, folder)


def _entry(results: dict[str, Any], stack: Stack) -> dict[str, Any]:
    """The entry of a stack to go on with; a new one if it was made of other versions."""
    entry = results["stacks"].get(stack.name)
    if entry is not None and entry["key"] == stack.key():
        return entry
    return {"key": stack.key(), "title": stack.title, "date": stack.date, "commands": stack.commands(), "built": True,
            "said": "", "check": "", "outcomes": {}}  # fmt: skip


class folders:
    """Context manager: the folder as transformers 5 wrote it, the same in older words, and which weights these are."""

    def __enter__(self) -> tuple[Path, Path, str]:
        self._place = tempfile.TemporaryDirectory(prefix="sana-lab-older-")
        new, weights = shapes_folder.source()
        return new, shapes_folder.in_older_words(new, Path(self._place.name)), weights

    def __exit__(self, *exc: Any) -> None:
        self._place.cleanup()
