"""An environment of its own for each stack, built from the package index with uv and removed after use.

uv (`pip install uv`) resolves as pip does, answers for any day in the past (`--exclude-newer`), keeps wheels in a cache
and links them into an environment instead of copying, so that one takes seconds and hardly any room.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .stacks import Stack

PYTHON = "3.11"
"""The Python of all stacks: the only one for which there are wheels from 2024 to 2026 of all libraries in use."""

BESIDE = ("scipy",)
"""What the reader of pictures needs and none of the libraries brings."""

ROOM = 12 * 2**30
"""Bytes that must be free before an environment is built: a CUDA build of torch is downloaded and unpacked."""

SECONDS = 1200
"""The longest that an installation may take."""


class Unbuildable(Exception):
    """The package index has no such set of versions; the text is what the installer said. That is a result."""


def find_uv() -> str:
    """Where uv is.

    Raises:
        RuntimeError: nowhere.
    """
    found = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if found is None:
        raise RuntimeError("environments are built with uv, which is not installed here: pip install uv")
    return found


@contextlib.contextmanager
def environment(stack: Stack) -> Iterator[tuple[Path, str]]:
    """Build the environment of a stack, give its Python and what `pip check` says about it, and remove it.

    Raises:
        Unbuildable: the index has no such set.
        OSError: no network, or not enough room on the disk.
    """
    uv = find_uv()
    with tempfile.TemporaryDirectory(prefix="sana-lab-stack-") as place:
        free = shutil.disk_usage(place).free
        if free < ROOM:
            raise OSError(
                f"{free / 2**30:.1f} GiB are free in {tempfile.gettempdir()}, and a stack may need "
                f"{ROOM / 2**30:.0f}: make room (`uv cache prune`), or set TMPDIR to another disk."
            )
        python = Path(place) / "env" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        day = ["--exclude-newer", f"{stack.date}T23:59:59Z"] if stack.date else []
        # --seed: with pip and setuptools, as `python -m venv` makes it; some old wheels import setuptools.
        _run([uv, "venv", "--quiet", "--seed", "--python", PYTHON, str(Path(place) / "env")])
        first = [f"{name}=={version}" for name, version in stack.pins.items()]
        _install(uv, python, [*day, *first, *BESIDE])
        if stack.then:
            _install(uv, python, [f"{name}=={version}" for name, version in stack.then.items()])
        yield python, check(uv, python)


def check(uv: str, python: Path) -> str:
    """What `pip check` says: `""` if all requirements are met, else one line for each that is not."""
    done = subprocess.run([uv, "pip", "check", "--python", str(python)], capture_output=True, text=True, check=False)
    lines = [line.strip() for line in done.stderr.splitlines()]
    return "" if done.returncode == 0 else "\n".join(line for line in lines if line.startswith("The package"))


def _install(uv: str, python: Path, what: list[str]) -> None:
    done = _run([uv, "pip", "install", "--quiet", "--python", str(python), *what], failing=True)
    if done.returncode == 0:
        return
    said = " ".join(line.strip(" │╰─▶×├") for line in done.stderr.splitlines() if line.strip())
    if "unsatisfiable" in said or "No solution found" in said:
        raise Unbuildable(said.partition("hint:")[0].rpartition("cause:")[2].strip()[:1000])
    if "No space left" in said or "os error 28" in said:
        raise OSError(f"the disk is full: make room (`uv cache prune`), or set TMPDIR to another disk. ({said[:200]})")
    raise OSError(f"the installation failed; with a network and room on the disk, run it again. uv said: {said[:400]}")


def _run(command: list[str], failing: bool = False) -> subprocess.CompletedProcess:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise OSError(f"`{' '.join(command[:3])}` took more than {SECONDS // 60} minutes: run it again.") from None
    if done.returncode and not failing:
        raise OSError(f"`{' '.join(command[:3])}` failed: {done.stderr.strip()[:400]}")
    return done
