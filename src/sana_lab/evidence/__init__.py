"""Recorded results: one JSON file a record (large ones compressed), shown with a line that says where it came from.

A record holds `what` (a sentence), `command` (what to run to get it again), `machine` (device, count, driver),
`versions`, `seed`, `when` (UTC) and `results` (plain JSON). Importing this module imports no torch, and the machine is
described by its driver and operating system, never by what torch says: under the virtual GPU torch says "CUDA".
"""

from __future__ import annotations

import gzip
import html
import json
import platform
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..machine import this_machine
from . import journal

FOLDER = Path(__file__).parent
LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "bitsandbytes")
"""The libraries that decide what happens."""
IN_CAPTION = ("torch", "diffusers", "bitsandbytes")
_FIELDS = {"what": str, "command": str, "machine": dict, "versions": dict, "when": str, "results": (dict, list)}
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


def names(folder: Path = FOLDER) -> list[str]:
    """Names of the records in a folder, sorted."""
    return sorted(path.name.partition(".")[0] for pattern in ("*.json", "*.json.gz") for path in folder.glob(pattern))


def load(name: str, *, folder: Path = FOLDER, results: journal.Shape = (dict, list)) -> dict[str, Any]:
    """Read a record.

    Args:
        name: file name without `.json` or `.json.gz`.
        folder: where records lie; the package's own folder by default.
        results: what its results must look like, see `journal.Shape`.

    Returns:
        The record, with the fields that the module's docstring lists.

    Raises:
        ValueError: there is no such record, or its file is damaged; the text names the records that exist.
    """
    path = folder / f"{must_be_a_name(name)}.json"
    if not path.is_file():
        path = folder / f"{name}.json.gz"
    if not path.is_file():
        raise ValueError(f"no record named {name!r}; there are: {', '.join(names(folder)) or 'none'}")
    try:
        data = path.read_bytes()
        record = json.loads((gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8"))
    except (ValueError, RecursionError, EOFError, OSError, zlib.error) as reason:  # UnicodeDecodeError, BadGzipFile too
        raise ValueError(f"record {name!r} is damaged ({reason}); restore {path.name} or record it again") from None
    _check(record, name)
    if wrong := journal.complaint(record["results"], results, "results"):
        raise ValueError(f"record {name!r} is damaged ({wrong}); restore {path.name} or record it again")
    return record


def save(
    name: str,
    *,
    what: str,
    command: str,
    results: dict[str, Any] | list[Any],
    seed: int | None = None,
    machine: dict[str, Any] | None = None,
    versions: dict[str, str] | None = None,
    when: str | None = None,
    folder: Path = FOLDER,
) -> Path:
    """Write a record; machine, versions and time are found out unless they are given.

    Args:
        name: file name without `.json`: small letters, digits, `_` and `-`.
        what: one sentence that says what was measured.
        command: the command that gives the results again.
        results: plain numbers, texts, lists and dicts; numpy and torch scalars and arrays become plain.
        seed: of the random numbers, where there is one.
        machine: see `this_machine`.
        versions: see `installed_versions`.
        when: ISO date and time in UTC.
        folder: where to write.

    Returns:
        The file written. It is replaced at once: a reader sees the old record or the new one, never half.

    Raises:
        ValueError: a bad name, an empty `what` or `command`, a NaN or infinity in the results.
        TypeError: something in the results that JSON cannot hold.
    """
    record = {
        "what": what,
        "command": command,
        "machine": machine if machine is not None else this_machine(),
        "versions": versions if versions is not None else installed_versions(),
        "seed": seed,
        "when": when if when is not None else datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "results": results,
    }
    path = folder / f"{must_be_a_name(name)}.json"
    try:
        text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False, default=_plain) + "\n"
    except ValueError as reason:
        raise ValueError(f"results of {name!r} hold a NaN or an infinity ({reason}); record None and say why") from None
    _check(json.loads(text), name)
    folder.mkdir(parents=True, exist_ok=True)
    journal.write_text(path, text)
    return path


@dataclass(frozen=True)
class Provenance:
    """A record's origin in one line; in a notebook it shows as a caption."""

    record: dict[str, Any]

    def __repr__(self) -> str:
        """One line of plain text."""
        return f"Recorded on {', '.join(self._origin())} — {self.record['when'][:10]} — {self.record['command']}"

    def _repr_html_(self) -> str:
        versions = ", ".join(f"{name} {number}" for name, number in self.record["versions"].items())
        return (
            f'<p class="provenance" title="{html.escape(self.record["what"])} ({html.escape(versions)})">'
            f"Recorded on {html.escape(', '.join(self._origin()))} — {html.escape(self.record['when'][:10])} — "
            f"<code>{html.escape(self.record['command'])}</code></p>"
        )

    def _origin(self) -> list[str]:
        machine, versions = self.record["machine"], self.record["versions"]
        parts = [f"{machine['count']} × {machine['device']}"]
        if machine.get("driver"):
            parts.append(f"driver {machine['driver']}")
        return parts + [f"{name} {versions[name]}" for name in IN_CAPTION if name in versions]


def provenance(name: str, *, folder: Path = FOLDER) -> Provenance:
    """The one-line caption of a record; raises what `load` raises."""
    return Provenance(load(name, folder=folder))


show = provenance  # in a chapter one reads `show("conformance")`, in a program `provenance("conformance")`


def installed_versions(*more: str) -> dict[str, str]:
    """Versions of Python, of the libraries that decide what happens, and of `more` of them, as installed."""
    there = versions_of((*LIBRARIES, *more))  # some may be missing, for example where the version probes run
    return {"python": platform.python_version()} | {name: number for name, number in there.items() if number}


def versions_of(libraries: Iterable[str]) -> dict[str, str | None]:
    """Library -> version as installed, None for one that is not there. Imports none of them."""
    found: dict[str, str | None] = {}
    for library in libraries:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = None
    return found


def must_be_a_name(name: str) -> str:
    """The name of a record as it is.

    Raises:
        ValueError: no file can be named so.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a record's name: use small letters, digits, '_' and '-', without .json")
    return name


def _check(record: Any, name: str) -> None:
    """Raise ValueError unless `record` has every field with its type."""
    if not isinstance(record, dict):
        raise ValueError(f"record {name!r} is damaged: it holds a {type(record).__name__}, not an object")
    for field, kind in _FIELDS.items():
        if not isinstance(record.get(field), kind) or record[field] == "":
            raise ValueError(f"record {name!r} is damaged or incomplete: {field!r} is {record.get(field)!r}")
    missing = {"device", "count"} - record["machine"].keys()
    if missing:
        raise ValueError(f"record {name!r} is damaged or incomplete: its machine has no {sorted(missing)}")


def _plain(value: Any) -> Any:
    """What JSON does not know: numpy and torch numbers and arrays have `tolist`."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"results hold a {type(value).__name__}, which a record cannot keep: give numbers or texts")
