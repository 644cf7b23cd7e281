"""Measuring stacks: build an environment, run the probes in it, keep the outcomes, remove the environment.

Two to six minutes for a stack, of which ten seconds are for the environment once the wheels are cached.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .. import evidence, isolated
from ..evidence import journal
from . import folder as shapes_folder
from . import record
from .environment import Unbuildable, environment
from .matrix import describe, same
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
    bar: bool = False,
) -> None:
    """Measure what the record does not hold yet, and write it down outcome by outcome.

    Args:
        stacks: which.
        probes: ids; all by default.
        again: also what the record holds.
        folder: where the record is.
        say: called with a line about each step.
        bar: whether to show a progress bar on stderr.

    Raises:
        ValueError: there is no such probe; or outcomes in the record that stay were measured with another Python.
        OSError: no network, no room, or no place to write. What was measured is in the record.
        RuntimeError: uv is not installed.
    """
    from tqdm import tqdm

    probes = [get(id).id for id in probes] if probes is not None else list(PROBES)
    stacks = list(stacks)
    journal.must_be_writable(folder, folder, "--record")  # an environment takes minutes
    with folders() as (new, old, weights):
        results = record.load(folder)
        trained = weights == "trained"
        wanted = {s.name: probes if again else record.missing(results, s, probes, trained) for s in stacks}
        with tqdm(total=sum(map(len, wanted.values())), unit="probe", smoothing=0, disable=not bar) as progress:
            for number, stack in enumerate(stacks, 1):
                head = f"[{number}/{len(stacks)}] {stack.name}"
                if not wanted[stack.name]:
                    say(f"{head}: in the record")
                    continue
                progress.set_description(stack.name)
                say(f"{head}: building the environment")
                entry = _measure(stack, wanted[stack.name], (new, old, weights), folder, progress)
                say(f"{head}: {'done' if entry['built'] else 'cannot be built'} in {entry['took']} s")


def _measure(stack: Stack, wanted: list[str], places: tuple, folder: Path, progress: Any) -> dict[str, Any]:
    """Build the environment of a stack and run probes in it; gives the entry, which the record has already."""
    started = time.monotonic()
    entry = _entry(record.load(folder), stack)
    try:
        with environment(stack) as (python, complaint):
            entry["check"] = complaint
            for item in probe_in(python, wanted, *places):
                if "probe" not in item:
                    _hold(entry, item, wanted, stack, folder)
                    entry.update(item)
                    continue
                entry["outcomes"][item.pop("probe")] = item
                _keep(entry, stack, folder)
                progress.update()
    except Unbuildable as reason:
        entry.update(built=False, said=str(reason), outcomes={})
        progress.update(len(wanted))
    took = round(time.monotonic() - started)
    entry.update(when=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
    if len(wanted) == len(PROBES):
        entry["seconds"] = took
    _keep(entry, stack, folder)
    return {**entry, "took": took}


def check(stacks: Iterable[Stack], *, folder: Path = evidence.FOLDER, **options: Any) -> dict[str, list[str]]:
    """Measure stacks from scratch, and compare with the record, in which the outcome of the comparison is noted.

    Args:
        stacks: which.
        folder: where the record is.
        options: as for `run`.

    Returns:
        Stack -> the differences, a line for each: another requirement that is not met, another version, another
        outcome by the rule of `matrix.same`. No lines: the record is confirmed.

    Raises:
        ValueError: a stack is not in the record.
        OSError: as `run`.
        RuntimeError: likewise.
    """
    stacks = list(stacks)
    recorded = record.load(folder)["stacks"]
    for stack in stacks:
        if stack.name not in recorded or recorded[stack.name]["key"] != stack.key():
            raise ValueError(f"stack {stack.name!r} is not in the record, so there is nothing to compare it with.")
    journal.must_be_writable(folder, folder, "--record")
    with tempfile.TemporaryDirectory(prefix="sana-lab-check-") as place:
        run(stacks, folder=Path(place), **options)
        fresh = record.load(Path(place))["stacks"]
    found = {stack.name: list(_differences(recorded[stack.name], fresh[stack.name])) for stack in stacks}
    results = record.load(folder)
    for name, lines in found.items():
        compared = sum(1 for _ in _both(recorded[name], fresh[name]))
        noted = {"when": fresh[name]["when"], "probes": compared, "differences": lines}
        results.setdefault("checks", {})[name] = noted
    record.save(results, folder)
    return found


def _both(old: dict[str, Any], new: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """The probes that have an outcome in both entries."""
    for id, outcome in new["outcomes"].items():
        known = old["outcomes"].get(id)
        if known is not None and "skipped" not in (known["kind"], outcome["kind"]):
            yield id, known, outcome


def _differences(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    for field in ("built", "said", "check", "python", "resolved"):
        if old.get(field) != new.get(field):
            yield f"{field}: {old.get(field)!r} in the record, {new.get(field)!r} now"
    for id, known, outcome in _both(old, new):
        if not same(known, outcome):
            yield f"{id}: {describe(known)!r} in the record, {describe(outcome)!r} now"


def probe_in(
    python: Path,
    probes: list[str],
    new: Path,
    old: Path,
    weights: str,
    virtual: bool | None = True,
    environ: Mapping[str, str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Run probes with the Python of an environment: first what is installed there, then one dict for each probe.

    Args:
        python: the interpreter.
        probes: ids.
        new: the folder as transformers 5 wrote it.
        old: the same in older words.
        weights: `"trained"` or `"untrained"`.
        virtual: as in `use_accelerator`.
        environ: environment variables, on top of those that all probes get.

    Raises:
        OSError: the process could not be started, or ended before its last probe.
    """
    if not hasattr(os, "fork"):
        raise OSError("each probe runs in a fork of one process, which Windows has not: use Linux, macOS or WSL.")
    wanted = {"probes": probes, "folder": str(new), "older": str(old), "trained": weights == "trained"}
    environ = {
        **isolated.ENVIRON,
        "PYTHONPATH": str(SOURCE),
        "PYTHONHASHSEED": "0",  # the order of a pipeline's parts hangs on it before diffusers 0.33, see order-of-parts
        **(environ or {}),
    }
    command = isolated.module("sana_lab.versions.worker", python=python)
    left = set(probes)
    with isolated.Worker(command, {**wanted, "virtual": virtual}, environ=environ) as worker:
        for item in worker:
            if "probe" in item:
                left.discard(item["probe"])
                item["digest"] = PROBES[item["probe"]].digest
                if weights != "trained" and item["kind"] != "skipped":
                    item["weights"] = weights
            yield item
    if left:
        tail = " ".join(worker.words[-500:].split())
        raise OSError(f"the process that runs the probes ended with {len(left)} to go: {tail}")


def _keep(entry: dict[str, Any], stack: Stack, folder: Path) -> None:
    """Write an entry into the record as it is now: a bisection may have written there meanwhile."""
    results = record.load(folder)
    results["stacks"][stack.name] = entry
    record.save(results, folder)


def _hold(entry: dict[str, Any], found: dict[str, Any], wanted: list[str], stack: Stack, folder: Path) -> None:
    """Refuse to put outcomes beside those of another Python; its last number decides nothing.

    What else decides is checked already: the stack's versions and day by its `key`, the lines of a probe by its digest.
    """
    if entry["outcomes"].keys() <= set(wanted):
        return  # nothing is kept
    was, now = ({"python": ".".join(each["python"].split(".")[:2])} for each in (entry, found))
    place = folder / f"{record.NAME}.json"
    journal.hold_to(was, now, place, f"stack {stack.name}", "add --again, for all probes, or give another --record")


def _entry(results: dict[str, Any], stack: Stack) -> dict[str, Any]:
    """The entry of a stack to go on with; a new one if it was made of other versions."""
    entry = results["stacks"].get(stack.name)
    if entry is not None and entry["key"] == stack.key():
        return entry
    return {"key": stack.key(), "title": stack.title, "date": stack.date, "commands": stack.commands(), "built": True,
            "said": "", "check": "", "outcomes": {}}  # fmt: skip


@contextmanager
def folders() -> Iterator[tuple[Path, Path, str]]:
    """The folder as transformers 5 wrote it, the same in older words, and which weights these are."""
    with tempfile.TemporaryDirectory(prefix="sana-lab-older-") as older:
        new, weights = shapes_folder.source()
        yield new, shapes_folder.in_older_words(new, Path(older)), weights
