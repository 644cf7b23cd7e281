"""Which release changed it: halving the list of releases with a probe, as `git bisect` halves commits.

All libraries stay where a base stack has them, and one goes through its releases. So what is found is that library's
doing, which two dated stacks side by side never show: between them everything has changed.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.version import Version

from .. import evidence, isolated
from . import record
from .environment import Unbuildable, environment
from .matrix import CANNOT, describe, same
from .probes import get
from .runner import Say, folders, probe_in
from .stacks import LIBRARIES, STACKS, Stack
from .stacks import get as get_stack

BASE = "2026-04"
"""The stack whose other libraries are kept: the first in which 8-bit models can move, and old enough that pip accepts
an older release of any one library beside it."""

Outcome = Mapping[str, Any]
Measure = Callable[[str], Outcome]


@dataclass(frozen=True)
class Bisection:
    """What a bisection found.

    Attributes:
        probe: Its id.
        library: The one that was moved.
        base: Name of the stack that has all others.
        releases: All candidates, oldest first.
        outcomes: Version -> what the probe did, for the releases that were tried, in the order of trying.
        before: The last release with the old outcome; None if there was no change.
        after: The first release with the new one, likewise.
    """

    probe: str
    library: str
    base: str
    releases: Sequence[str]
    outcomes: Mapping[str, Outcome]
    before: str | None
    after: str | None

    def __str__(self) -> str:
        """The steps, and the two releases with what happens on each."""
        lines = [
            f"{len(self.releases)} releases of {self.library}, {len(self.outcomes)} tried, all else as in {self.base}"
        ]
        lines += [f"  {version:>8}  {describe(outcome)}" for version, outcome in self.outcomes.items()]
        if self.after is None:
            return "\n".join([*lines, f"{self.probe}: the oldest and the newest do the same"])
        return "\n".join([*lines, f"{self.probe}: changed between {self.library} {self.before} and {self.after}"])

    __repr__ = __str__


SECONDS = 120
"""The longest that the package index may take to list releases."""


def halve(releases: Sequence[str], measure: Measure) -> tuple[dict[str, Outcome], str | None, str | None]:
    """Find the first release whose outcome is the newest one's, if there is one change between old and new.

    Args:
        releases: oldest first, two or more.
        measure: what the probe does with a release.

    Returns:
        What was measured, in order, then the last release before the change and the first after it, or None and None
        if the ends agree. About log₂(n) + 1 measurements. Should the outcome change more than once, one of the changes
        is found: the two releases are neighbors, and differ.

    Raises:
        ValueError: fewer than two releases.
    """
    if len(releases) < 2:
        raise ValueError("there must be two releases or more to find a change between them.")
    outcomes: dict[str, Outcome] = {}
    low, high = 0, len(releases) - 1
    for end in (low, high):
        outcomes[releases[end]] = measure(releases[end])
    goal = outcomes[releases[high]]
    if same(outcomes[releases[low]], goal):
        return outcomes, None, None
    while high - low > 1:
        middle = (low + high) // 2
        outcomes[releases[middle]] = measure(releases[middle])
        if same(outcomes[releases[middle]], goal):
            high = middle
        else:
            low = middle
    return outcomes, releases[low], releases[high]


def bisect(
    probe: str,
    library: str,
    *,
    live: bool = False,
    base: str = BASE,
    folder: Path = evidence.FOLDER,
    say: Say = lambda text: None,
) -> Bisection:
    """Find the release of a library that changed what a probe does.

    Args:
        probe: its id.
        library: one of `LIBRARIES`, not torch, which is too large to install a dozen times.
        live: build environments from the package index, two minutes a step, and add what comes out to the record;
            otherwise take the steps from the record.
        base: the stack that keeps the others.
        folder: where the record is.
        say: called with a line about each step.

    Raises:
        ValueError: there is no such probe, library or stack, or, not live, no record of this bisection.
        OSError: no network, or no room.
        RuntimeError: uv is not installed.

    Chapter 12.
    """
    probe = get(probe).id
    if library not in LIBRARIES[1:-1]:
        raise ValueError(f"library {library!r}: choose from {', '.join(LIBRARIES[1:-1])}.")
    stack = get_stack(base)
    results = record.load(folder)
    known = _find(results["bisections"], probe, library, base)
    if not live:
        if known is None:
            there = sorted({f"{b['probe']} {b['library']}" for b in results["bisections"]})
            raise ValueError(
                f"{probe} was not bisected over {library} on {base}: add --live, which builds environments, two "
                f"minutes each. In the record: {', '.join(there) or 'none'}."
            )
        recorded = _current(known["outcomes"], probe)

        def look_up(version: str) -> Outcome:
            if version not in recorded:
                raise ValueError(
                    f"{library} {version} is not in the record of this bisection, or of older lines: add --live."
                )
            return recorded[version]

        found = halve(known["releases"], look_up)
        return Bisection(probe, library, base, known["releases"], *found)

    releases = between(library, _oldest(library), stack.versions[library])
    outcomes = _current(known["outcomes"], probe) if known else {}

    def measure(version: str) -> Outcome:
        if version not in outcomes:
            say(f"{library} {version}: building")
            outcomes[version] = _measure(probe, library, version, stack)
            entry = {"probe": probe, "library": library, "base": base, "releases": releases, "outcomes": outcomes}
            fresh = record.load(folder)
            others = [b for b in fresh["bisections"] if _find([b], probe, library, base) is None]
            record.save({**fresh, "bisections": [*others, entry]}, folder)
        say(f"{library} {version}: {describe(outcomes[version])}")
        return outcomes[version]

    return Bisection(probe, library, base, releases, *halve(releases, measure))


def between(library: str, oldest: str, newest: str) -> list[str]:
    """All final releases of a library from `oldest` to `newest`, oldest first, as the package index lists them.

    Raises:
        OSError: the index does not answer.
    """
    try:
        done = isolated.run(isolated.module("pip", "index", "versions", library), limit=SECONDS)
    except subprocess.TimeoutExpired:
        raise OSError(f"the package index has not answered in {SECONDS} s: run it again.") from None
    listed = re.search(r"^Available versions: (.+)$", done.stdout, re.MULTILINE)
    if listed is None:
        raise OSError(f"the package index does not list {library}; is there a network? pip said: {done.stderr[-200:]}")
    versions = sorted({Version(text) for text in listed[1].split(", ")})
    return [str(v) for v in versions if Version(oldest) <= v <= Version(newest) and not v.is_prerelease]


def _measure(probe: str, library: str, version: str, base: Stack) -> Outcome:
    # huggingface-hub follows: the libraries disagree about it more often than about anything else.
    pins = {name: number for name, number in base.versions.items() if name != "huggingface-hub"}
    stack = Stack(f"{base.name}-{library}-{version}", "A step of a bisection", {**pins, library: version}, base.date)
    with folders() as (new, old, weights):
        try:
            with environment(stack) as (python, _):
                (outcome,) = (item for item in probe_in(python, [probe], new, old, weights) if item.pop("probe", None))
                return outcome
        except Unbuildable as reason:
            return {**CANNOT, "words": str(reason)[:300]}


def _current(outcomes: Mapping[str, Outcome], probe: str) -> dict[str, Outcome]:
    """Those of the probe's lines as they are now. A release that cannot be installed has no digest: no probe ran."""
    digest = get(probe).digest
    return {version: outcome for version, outcome in outcomes.items() if outcome.get("digest", digest) == digest}


def _find(bisections: list[dict[str, Any]], probe: str, library: str, base: str) -> dict[str, Any] | None:
    for entry in bisections:
        if (entry["probe"], entry["library"], entry["base"]) == (probe, library, base):
            return entry
    return None


def _oldest(library: str) -> str:
    return min((stack.pins[library] for stack in STACKS), key=Version)
