"""All failures, family by family."""

from __future__ import annotations

import difflib
from functools import cache

from .entry import Failure, Family
from .families import (
    bits,
    bitsandbytes_setup,
    checks,
    configs,
    dtypes,
    eightbit,
    files,
    floats,
    gpu,
    imports,
    install,
    inuse,
    maps,
    memory,
    memory_where,
    mismatch,
    offload,
    operands,
    own,
    pictures,
    versions,
)

FAMILIES: tuple[Family, ...] = tuple(
    module.FAMILY
    for module in (
        mismatch, maps, eightbit, inuse, offload, configs, dtypes, pictures, memory, gpu, install, files, versions, own,
    )
)  # fmt: skip

MORE = (operands, bits, memory_where, bitsandbytes_setup, imports, checks, floats)
"""Modules that add to the families of others."""


@cache
def _by_id() -> dict[str, Failure]:
    return index(FAMILIES)


def index(families: tuple[Family, ...]) -> dict[str, Failure]:
    """Every failure by its id, complete and consistent.

    Raises:
        ValueError: two have one id, one is not complete, or `alike` names none.
    """
    found: dict[str, Failure] = {}
    for family in families:
        for failure in family.failures:
            if failure.id in found:
                raise ValueError(f"two failures are called {failure.id!r}.")
            failure.check_complete()
            found[failure.id] = failure
    for failure in found.values():
        for other in failure.alike:
            if other not in found:
                raise ValueError(f"failure {failure.id!r}: alike names {other!r}, which is no entry.")
    return found


def catalogue() -> tuple[Failure, ...]:
    """All known failures, in the order of the index."""
    return tuple(_by_id().values())


def get(id: str) -> Failure:
    """The failure with this id.

    Raises:
        ValueError: there is none; the text names the nearest ids.
    """
    known = _by_id()
    if id in known:
        return known[id]
    text = str(id).lower().replace("_", "-").replace(" ", "-")
    near = [name for name in known if text and text in name][:3] or difflib.get_close_matches(text, known, 3, 0.4)
    advice = f"did you mean {' or '.join(near)}?" if near else "`sana-lab failures list` shows all."
    raise ValueError(f"there is no failure {id!r}: {advice}")
