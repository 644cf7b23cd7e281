"""What two records say of each entry: the virtual GPU beside a real one.

The records are written by `sana_lab.failures.record`; nothing is run here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .. import evidence
from ..evidence import compared
from .catalogue import catalogue
from .entry import Failure

VIRTUAL, REAL = "failures_virtual", "failures_real"
"""Names of the records in `sana_lab.evidence`."""

DIFFERENCES: compared.Reasons = {
    "reset-device-map-leaves-cpu": (
        "The call fails there too, and takes CUDA with it: what the example prints afterwards never comes, the process "
        "ends in an illegal memory access."
    ),
    "torch-without-cuda": "PyTorch built for CPUs says the one; built for CUDA, with all GPUs hidden, the other.",
}
"""Entry -> why the records differ. `compared.unexplained` holds them: no difference without one, none without need."""

_PLACE = re.compile(r"^\S+\.py:\d+: ")
_AMOUNT = re.compile(r"\b\d+(?:\.\d+)? (?:bytes|[KMGT]iB)\b")


@dataclass(frozen=True)
class Compared:
    """One entry in both records.

    Attributes:
        failure: the entry.
        virtual: its result on virtual GPUs, `None` where it did not run.
        real: its result on real GPUs, `None` where it did not run or there is no record.
        verdict: `same` (raised on both, the same exception or line or output), `words differ` (raised on both, in
            other words), `virtual only`, `real only`, `neither`, `not compared`.
        reason: why it was not run, `""` if it was.
    """

    failure: Failure
    virtual: Mapping[str, Any] | None
    real: Mapping[str, Any] | None
    verdict: str
    reason: str = ""


def load(name: str) -> dict[str, Any]:
    """Results of a record, entry -> result; empty where there is no such record.

    Raises:
        ValueError: the record is damaged.
    """
    return evidence.load(name)["results"] if name in evidence.names() else {}


def compare(virtual: Mapping[str, Any], real: Mapping[str, Any]) -> list[Compared]:
    """All entries of the catalogue, in its order.

    Args:
        virtual: results of a record made with `--virtual`.
        real: results of one made with `--real`; empty if there is none.
    """
    return [_compared(failure, virtual.get(failure.id), real.get(failure.id)) for failure in catalogue()]


def _compared(failure: Failure, virtual: Mapping[str, Any] | None, real: Mapping[str, Any] | None) -> Compared:
    reasons = [result["not run"] for result in (virtual, real) if result and "not run" in result]
    ran = [None if result is None or "not run" in result else result for result in (virtual, real)]
    if None in ran:
        return Compared(failure, *ran, "not compared", reasons[0] if reasons else "")
    shown = tuple(result["reproduction"]["shown"] for result in ran)
    verdict = {(True, False): "virtual only", (False, True): "real only", (False, False): "neither"}.get(shown)
    if verdict is None:
        verdict = compared.SAME if compared.verdict(*map(_plain, ran)) == compared.SAME else "words differ"
    return Compared(failure, *ran, verdict)


def _plain(result: Mapping[str, Any]) -> compared.Outcome:
    """What a result shows, in the form that `compared` knows."""
    error, words = result["reproduction"]["error"], comparable(words_of(result))
    return {"raises": error, "words": words} if error else {"returns": words}


def words_of(result: Mapping[str, Any]) -> str:
    """The leading words in which a failure showed: `RuntimeError: ...`, a line of the log, or what was printed."""
    return result["reproduction"].get("words", "")


def comparable(words: str) -> str:
    """Words without what hangs on the size of a card or the version of a file: amounts of memory, numbers of lines."""
    return _AMOUNT.sub("N bytes", _PLACE.sub("", words))


def fixes_that_work(result: Mapping[str, Any]) -> tuple[int, int]:
    """How many of the fixes ran to their end without a trace of the failure, and how many there are."""
    return sum(fix["cured"] for fix in result["fixes"].values()), len(result["fixes"])
