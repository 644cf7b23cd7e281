"""All cases, in the order in which the book lists them."""

from __future__ import annotations

from . import cases_devices, cases_errors, cases_libraries, cases_memory, cases_two_gpus  # noqa: F401  (they register)
from .registry import CASES

__all__ = ["CASES"]
