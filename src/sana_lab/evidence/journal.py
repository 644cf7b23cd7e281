"""What a run keeps: files that are whole or not there, and settings that a stopped run must keep.

Whoever stops a program, by Ctrl+C, `kill` or the power switch, finds each file as it was or as it was to be. And what
goes on where it stopped goes on with the same settings, weights and versions, or is refused in one line that names what
differs. Nothing here imports more than Python's own library.
"""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ELSEWHERE = "give another --out FOLDER"
"""The way out that every command has."""

TOLD = 3
"""How many differing settings are named; of the rest a message says how many there are."""

SAID = 400
"""Characters of a value that differs: a command and its options fit."""

Shape = Any
"""What JSON must look like: a type, or a tuple of types; `[shape]`, a list of such; `{str: shape}`, an object with any
keys and such values; `{"key": shape, ...}`, an object with these keys, and others that are not looked at; or a function
that gives words for what is wrong with a value, and None if nothing is."""

_NAMES = {dict: "an object", list: "a list", str: "a text", int: "a number", float: "a number", bool: "true or false"}


# ---- files that are whole ----------------------------------------------------------------------------------------


@contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """Write a file whole or not at all: gives a path beside it to write to, and moves that into place at the end.

    After an error inside the block the old file stays.

    Args:
        path: of the file; its folder must be there.
        sync: wait until the bytes are on the disk, so that no power cut leaves an empty file in place of the old one.
            Not worth its milliseconds where a damaged file is noticed and quickly made again.

    Raises:
        OSError: it cannot be written. The old file is as it was, and nothing is left beside it.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        yield partial
        if sync:
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def must_be_writable(out: Path, folder: Path, option: str = "--out") -> None:
    """Find out early whether `folder`, or what there is above it, can be written. Nothing is made.

    Args:
        out: what the user gave, for the message.
        folder: where files are to be.
        option: by which the user gave it, likewise.

    Raises:
        OSError: it cannot.
    """
    try:
        while not folder.exists():
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"{option} {out}: cannot write in {folder} ({error.strerror}): give another place.") from None


def write_text(path: Path, text: str, *, sync: bool = True) -> None:
    """Write a text in UTF-8 with plain line ends, whole or not at all; see `replacing`."""
    with replacing(path, sync=sync) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write JSON for people to read, whole or not at all; see `replacing`."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def clear(folder: Path, names: Collection[str]) -> None:
    """Delete what killed processes left beside files of these names, which no other process may be writing now."""
    for partial in folder.glob(".*.partial"):
        name, _, _ = partial.name[1:].removesuffix(".partial").rpartition(".")
        if name in names:
            partial.unlink(missing_ok=True)


# ---- JSON that may not be ours -----------------------------------------------------------------------------------


def read(file: Path, shape: Shape = dict, *, way_out: str) -> Any:
    """JSON from a file, checked for a shape.

    Args:
        file: to read.
        shape: see `Shape`.
        way_out: what to do about a damaged file; the end of the sentence.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
        ValueError: it is no file, no JSON, or JSON of another shape. One line with its name and the way out.
    """
    if file.exists() and not file.is_file():  # a folder; or a pipe, from which reading would wait forever
        raise ValueError(f"{file} is not a file: {way_out}")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as reason:  # cut off; not UTF-8; a million brackets
        raise ValueError(f"{file} is damaged ({' '.join(str(reason).split())}): {way_out}") from None
    if wrong := complaint(value, shape):
        raise ValueError(f"{file} is damaged ({wrong}): {way_out}")
    return value


def complaint(value: Any, shape: Shape, at: str = "") -> str | None:
    """What is wrong with JSON of a certain shape, in a few words; None if nothing is.

    Args:
        value: as `json.loads` gives it.
        shape: see `Shape`.
        at: where in the file the value stands, for the words.
    """
    if callable(shape) and not isinstance(shape, type):
        wrong = shape(value)
        return f"{at or 'it'} {wrong}" if wrong else None
    kinds = shape if isinstance(shape, tuple) else (type(shape) if isinstance(shape, dict | list) else shape,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and not {bool, object} & set(kinds)):
        return f"{at or 'it'} is {_name(type(value))}, not {' or '.join(dict.fromkeys(map(_name, kinds)))}"
    if isinstance(shape, list):
        below = [(f"{at}[{i}]", item, shape[0]) for i, item in enumerate(value)]
    elif isinstance(shape, dict) and str in shape:
        below = [(f"{at}.{key}".lstrip("."), item, shape[str]) for key, item in value.items()]
    elif isinstance(shape, dict):
        if missing := [key for key in shape if key not in value]:
            return f"{at or 'it'} has no {', '.join(missing)}"
        below = [(f"{at}.{key}".lstrip("."), value[key], shape[key]) for key in shape]
    else:
        return None
    return next(filter(None, (complaint(item, inner, where) for where, item, inner in below)), None)


def _name(kind: type) -> str:
    return "null" if kind is type(None) else _NAMES.get(kind, kind.__name__)


# ---- runs that go on ---------------------------------------------------------------------------------------------


def differences(was: Mapping[str, Any], now: Mapping[str, Any], of: str = "") -> list[str]:
    """Each setting that differs, with its old and its new value: `["steps 20, not 10", "versions torch 2.6, not 2.7"]`.

    Args:
        was: settings of the run that is there, as plain JSON.
        now: settings of this one.
        of: name of the setting that these two are the value of.
    """
    found: list[str] = []
    for key in dict.fromkeys([*now, *was]):
        old, new = was.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{of}{key} ")
        elif not _same(old, new):
            found.append(f"{of}{key} {_against(old, new)}")
    return found


def _same(one: Any, other: Any) -> bool:
    """Whether two values of JSON are the same. For Python true is 1; here only numbers are equal to numbers."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _against(old: Any, new: Any) -> str:
    """The words for a value and what it should have been."""
    if (was := _say(old)) == (now := _say(new)):  # the text "1" and the number
        was, now = _short(json.dumps(old)), _short(json.dumps(new))
    return f"{was}, not {now}" if was != now else f"another than {now}"


def _say(value: Any) -> str:
    return "none" if value is None else _short(value if isinstance(value, str) else json.dumps(value))


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SAID else f"{text[: SAID - 3]}..."


def hold_to(
    was: Mapping[str, Any],
    now: Mapping[str, Any],
    place: Path,
    what: str = "a run",
    way_out: str = f"{ELSEWHERE} or that run's settings, or delete it",
) -> None:
    """Refuse to go on with what was made by other settings.

    Args:
        was: settings of what is there, as plain JSON.
        now: settings of this run.
        place: what to delete to start anew: a file or a folder.
        what: what is there, for the sentence.
        way_out: the end of it.

    Raises:
        ValueError: a setting differs. The text names it, its old and its new value, and the way out.
    """
    if found := differences(was, _plain(now)):
        more = f", and {len(found) - TOLD} more" * (len(found) > TOLD)
        told = "; ".join(found[:TOLD]) + more
        raise ValueError(f"{place} holds {what} with {told}: {way_out}")


def hold(file: Path, settings: Mapping[str, Any], *, place: Path | None = None, results: Collection[Path] = ()) -> None:
    """Note the settings of a new run in a file, or refuse a run that goes on with others than those noted there.

    Several processes of one run may do so at once.

    Args:
        file: where the settings are noted; its folder is made.
        settings: everything that decides what the run finds, as JSON.
        place: what to delete to start the run anew, by default the file's folder.
        results: of the run, as far as they are there. None of them may be there without the file.

    Raises:
        ValueError: the run that is there had other settings, or its file is missing or damaged; nothing is changed.
        OSError: the folder cannot be written.
    """
    place = place or file.parent
    rid = f"{ELSEWHERE}, or delete {place}"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            if there := next(iter(results), None):
                raise ValueError(f"{there} is there without {file.name}, which tells how it was made: {rid}")
            write_json(file, _plain(settings))
    except OSError as error:
        raise OSError(f"{file.parent} cannot be written ({error.strerror}): {ELSEWHERE}") from None
    hold_to(read(file, dict, way_out=rid), settings, place)


class Journal:
    """What a run has found so far, in one file with its settings, until the record is written.

    Attributes:
        found: what the file holds; change it, then `keep` it.
    """

    def __init__(self, file: Path, settings: Mapping[str, Any], shape: Shape = dict):
        """Take over what a stopped run with the same settings has left, or begin a file.

        Args:
            file: of the journal.
            settings: as for `hold`.
            shape: of what is found.

        Raises:
            ValueError: the file is damaged, or of a run with other settings; it is left as it is.
            OSError: the folder cannot be written.
        """
        self.file, self.settings, self.found = file, _plain(settings), {}
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            clear(file.parent, {file.name})
            if not file.exists():
                self.keep()
        except OSError as error:
            raise OSError(f"{file.parent} cannot be written ({error.strerror}): {ELSEWHERE}") from None
        kept = read(file, {"settings": dict, "found": shape}, way_out=f"{ELSEWHERE}, or delete it")
        hold_to(kept["settings"], self.settings, file)
        self.found = kept["found"]

    def keep(self) -> None:
        """Write what is found, whole or not at all."""
        write_json(self.file, {"settings": self.settings, "found": self.found})

    def end(self) -> None:
        """Delete the file: the record holds everything now."""
        self.file.unlink(missing_ok=True)


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they come back from a file: tuples are lists, keys are texts."""
    return json.loads(json.dumps(settings))
