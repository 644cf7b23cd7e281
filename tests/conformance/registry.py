"""The list of conformance cases, and what counts as the outcome of one."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable
from typing import Any

from sana_lab import messages

Outcome = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """A few lines of library code, and on how many GPUs they run."""

    name: str
    group: str
    gpus: int
    run: Callable[[], Outcome]
    shows: str

    def result(self, outcome: Outcome) -> dict[str, Any]:
        """The entry of a record."""
        return {"group": self.group, "gpus": self.gpus, "shows": self.shows, "outcome": outcome}


CASES: dict[str, Case] = {}


def case(gpus: int = 1) -> Callable[[Callable[[], Outcome]], Callable[[], Outcome]]:
    """Register a function as a case. Its docstring says what it shows; it returns a dict or raises."""

    def register(function: Callable[[], Outcome]) -> Callable[[], Outcome]:
        name = function.__name__
        if name in CASES:
            raise ValueError(f"two cases are called {name}")
        group = function.__module__.rpartition(".cases_")[2]
        CASES[name] = Case(name, group, gpus, function, (function.__doc__ or "").strip().splitlines()[0])
        return function

    return register


def outcome_of(run: Callable[[], Outcome]) -> Outcome:
    """What `run` returns, or the type and the whole message of what it raises, with the leading words beside it."""
    try:
        return {"returns": run()}
    except Exception as error:
        # which class of the hierarchy is part of the outcome; the module that defines it is not
        message = messages.without_folders(str(error), ["tests"])
        return {"raises": type(error).__name__, "words": leading_words(message), "message": message}


def leading_words(message: str) -> str:
    """The words by which people recognize an error, at most 100 characters, as the records have them."""
    return messages.leading_words(message, 100)


def comparable(outcome: Outcome) -> Outcome:
    """The part of an outcome that real and virtual GPU must agree on: all of it, but of messages the leading words."""
    return {key: value for key, value in outcome.items() if key != "message"}


# ---- what cases report with -----------------------------------------------------------------------------------------


def seen(tensor: Any) -> Outcome:
    """Device, shape and type of a tensor."""
    return {"device": str(tensor.device), "shape": list(tensor.shape), "dtype": str(tensor.dtype)}


def places(module: Any) -> list[str]:
    """The devices of a module's parameters and buffers."""
    return sorted({str(tensor.device) for tensor in [*module.parameters(), *module.buffers()]})


class Meter:
    """Allocated bytes on a GPU, counted from when the meter was made."""

    def __init__(self, device: int = 0):
        """Start at zero."""
        self.device = device
        self.start = self._now()

    def _now(self) -> int:
        import torch

        gc.collect()
        return torch.cuda.memory_allocated(self.device)

    def read(self) -> int:
        """Bytes more than at the start."""
        return self._now() - self.start
