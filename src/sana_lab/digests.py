"""SHA-256 of a file, and the few digits that tell the weights of one pipeline from those of another."""

from __future__ import annotations

import functools
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Found = TypeVar("Found")

WHOLE = 2**28
"""Bytes up to which a file is read from end to end for `weights_digest`. A hash takes seconds a gigabyte."""
BLOCKS, BLOCK = 64, 2**20
"""How many blocks of a larger file are read, evenly spaced, and of how many bytes each."""


SETTLED = 2.0
"""Seconds since the last change of a file from which on another one must show in its times. Clocks of file systems tick
in milliseconds, FAT's in two seconds."""


def once_a_file(look: Callable[[Path], Found]) -> Callable[[Path], Found]:
    """`look`, which reads a file, called again only when the file may be another than the last time.

    A pipeline's files are read whole at each loading, and few processes load once. A file is taken for the same if it
    has the same number on its disk, size, and times of change (on Windows: time of change, which a program may set).
    Files that have changed a moment ago are always read.
    """
    known: dict[str, tuple[tuple[int, ...], Found]] = {}

    @functools.wraps(look)
    def looked(path: Path) -> Found:
        state, now = os.stat(path), time.time()
        same = state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns
        name = os.path.abspath(path)
        before = known.get(name)
        if before is not None and before[0] == same:
            return before[1]
        found = look(path)
        if now - max(state.st_mtime, state.st_ctime) > SETTLED:
            known[name] = same, found
        return found

    return looked


@once_a_file
def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_digest(folder: str | Path, leave_out: Path | None = None) -> str:
    """Sixteen hexadecimal digits that change when the weights or a configuration in a pipeline's folder do.

    Every byte counts in files of up to 256 MiB, which are all files of the Shapes model. Of a larger file its size and
    64 blocks of 1 MiB count: enough to tell one training from another, not to find a bit that a disk has lost.

    Args:
        folder: of a pipeline.
        leave_out: a folder whose files do not count, wherever it is.

    Raises:
        OSError: one of them is no file, or cannot be read.
    """
    folder = Path(folder)
    files = sorted(p for p in folder.rglob("*") if p.suffix in (".safetensors", ".json") and p.parent != folder)
    if leave_out is not None:
        files = [path for path in files if not path.resolve().is_relative_to(leave_out.resolve())]
    lines = [f"{path.relative_to(folder).as_posix()} {_content(path)}" for path in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _content(path: Path) -> str:
    """`sha256`; of a large file's size and blocks."""
    if not path.is_file():  # a pipe or a device, which would never end
        raise OSError(f"{path} is no regular file: get the folder again.")
    size = path.stat().st_size
    if size <= WHOLE:
        return sha256(path)
    digest = hashlib.sha256(f"{size}\n".encode())
    with path.open("rb") as file:
        for k in range(BLOCKS):
            file.seek((size - BLOCK) * k // (BLOCKS - 1))  # the first byte and the last are among them
            digest.update(file.read(BLOCK))
    return digest.hexdigest()
