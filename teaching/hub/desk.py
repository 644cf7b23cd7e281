"""What lies on a learner's desk: the edition, laid out once, and never over something of the learner's own.

`lay` runs in a process that has the rights of the learner and no more (`room.lay_desk` starts this file as its text).
Python's own library alone.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tarfile
from pathlib import Path

DESK = "book"
"""The folder in a learner's home that holds the edition."""
TEMPORARY = ".tmp"
"""The folder in a learner's home for what programs write for a while: `/tmp` is open to all."""
HANDED_OUT = ".handed-out.json"
"""In a learner's home: which file was handed out with which content, so that an update knows what is new."""


class RoomError(Exception):
    """Why the room cannot open, or a seat cannot be made, in one line with the way out."""


def packed(edition: Path) -> bytes:
    """The files of a folder as an archive, without owners and times; RoomError if there are none."""
    files = sorted(path for path in edition.rglob("*") if path.is_file() and not path.is_symlink())
    if not files:
        raise RoomError(f"there is no learner's edition in {edition}: make it with `sana-lab learner {edition}`")
    kept = io.BytesIO()
    with tarfile.open(fileobj=kept, mode="w") as archive:
        for path in files:
            about = tarfile.TarInfo(path.relative_to(edition).as_posix())
            about.size = path.stat().st_size
            with path.open("rb") as file:
                archive.addfile(about, file)
    return kept.getvalue()


def lay(archive: bytes, home: Path) -> list[str]:
    """Write what is missing from the desk; a file that is there is never written over.

    A file that changed since it was handed out is laid beside the learner's own as `NAME.new.SUFFIX`, once. One that
    the learner deleted comes back.

    Args:
        archive: see `packed`.
        home: of the learner.

    Returns:
        Paths that were written, relative to the desk.

    Raises:
        RoomError: they cannot be written.
    """
    desk, list_file = home / DESK, home / HANDED_OUT
    try:
        handed = json.loads(list_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        handed = {}
    if not isinstance(handed, dict):
        handed = {}
    written: list[str] = []
    try:
        (home / TEMPORARY).mkdir(mode=0o700, exist_ok=True)
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            for about in files:
                content = files.extractfile(about).read()
                digest = hashlib.sha256(content).hexdigest()
                path = desk / about.name
                if os.path.lexists(path):
                    if handed.get(about.name, digest) == digest:
                        handed[about.name] = digest
                        continue
                    path = path.with_name(f"{path.stem}.new{path.suffix}")
                write_whole(path, content)
                written.append(path.relative_to(desk).as_posix())
                handed[about.name] = digest
        write_whole(list_file, json.dumps(handed, indent=1).encode())
    except OSError as reason:
        raise RoomError(
            f"the edition could not be laid into {home}: {reason.strerror or reason}. What was there is as it was; "
            "make room on the disk, then start the seat again"
        ) from None
    return written


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def main() -> int:
    """Runs as a learner: an archive comes in, the list of what was laid goes out."""
    try:
        print(json.dumps(lay(sys.stdin.buffer.read(), Path.home())))
    except RoomError as reason:
        print(reason, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
