"""All cases, in the order in which the book lists them."""

from __future__ import annotations

from . import (  # noqa: F401  (they register)
    cases_asserts,
    cases_backward,
    cases_codes,
    cases_devices,
    cases_errors,
    cases_float8,
    cases_layouts,
    cases_libraries,
    cases_memory,
    cases_parallel,
    cases_raw,
    cases_runtime,
    cases_two_gpus,
)
from .registry import CASES

__all__ = ["CASES"]
