"""The reader's own environment: where it stands in the matrix, and the probes run in it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packaging.version import Version

from ..evidence import versions_of
from .matrix import Matrix
from .probes import PROBES
from .runner import folders, probe_in
from .stacks import LIBRARIES


def installed() -> dict[str, str | None]:
    """Library -> version in this environment, None for one that is not there. Imports none of them."""
    return versions_of(LIBRARIES)


def nearest(matrix: Matrix, versions: Mapping[str, str | None] | None = None) -> tuple[str, list[str]]:
    """The measured stack that is most like these versions.

    Likeness counts diffusers, transformers, accelerate and bitsandbytes: equal versions first, then equal up to the
    second number, then closeness in the list of versions that the matrix has.

    Args:
        matrix: what was measured.
        versions: library -> version; this environment's by default.

    Returns:
        Its name, and the differences in words, such as `diffusers 0.36.0 there, 0.35.2 here`.

    Chapter 12.
    """
    versions = installed() if versions is None else versions
    libraries = LIBRARIES[1:-1]
    built = {name: matrix.versions(name) for name, entry in matrix.stacks.items() if entry["built"]}
    known = {library: sorted({Version(v[library]) for v in built.values()}) for library in libraries}

    def distance(name: str) -> tuple[int, int, int]:
        unequal = minor = steps = 0
        for library in libraries:
            there, own = Version(built[name][library]), versions.get(library)
            if own is None:
                return len(libraries), len(libraries), sys.maxsize
            own = Version(own)
            unequal += own != there
            minor += own.release[:2] != there.release[:2]
            low, high = sorted((own, there))
            steps += sum(low < v <= high for v in known[library])
        return unequal, minor, steps

    best = min(built, key=distance)
    differences = [
        f"{library} {built[best][library]} there, {versions.get(library) or 'missing'} here"
        for library in libraries
        if built[best][library] != versions.get(library)
    ]
    return best, differences


def run_here(virtual: bool | None = None, probes: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """The outcome of each probe in this environment, each in a process of its own.

    Args:
        virtual: `True` for the virtual GPU, `False` for a real one, `None` for whichever there is.
        probes: ids; all by default.

    Raises:
        OSError: the probes could not be run.
    """
    with folders() as (new, old, weights):
        items = list(probe_in(Path(sys.executable), probes or list(PROBES), new, old, weights, virtual))
    return {item.pop("probe"): item for item in items if "probe" in item}
