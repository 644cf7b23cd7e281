"""The room: who sits where, how much each seat may take, and what lies on its desk.

Python's own library alone: the hub and the tests both use this file.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import desk
from desk import RoomError, packed

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
GIB = 2**30
NAME = re.compile(r"[a-z][a-z0-9-]{0,23}")
"""A learner's name. With `SEAT` before it, a name that Linux takes for a user (32 characters at most)."""
SEAT = "seat-"
"""Before the name of each seat's system user: who signs up as `root` gets a seat, not that account."""
FOR_THE_HUB = GIB + GIB // 2
"""Bytes kept for hub, proxy and the machine itself."""
FOR_A_SEAT = GIB + GIB // 2
"""Bytes a seat may take unless told otherwise. The record `room` has what chapters take."""
PROCESSES = 200
"""Processes and threads that a seat may have: a notebook takes some forty."""
FREE_DISK = GIB
"""Bytes of disk without which the room does not open: learners' work must never meet a full disk at once."""


@dataclass(frozen=True)
class Settings:
    """What the teacher decides, from the variables `ROOM_...` of the environment.

    Args:
        state: folder of names, passwords and keys; closed to all but the hub.
        edition: folder that each learner gets a copy of.
        kernel: the Python that runs chapters.
        port: where the room is reached.
        api: port of the proxy's interface, on this machine alone.
        hub: port of the hub, on this machine alone.
        teacher: name of the instructor.
        seats: how many may sit at once.
        memory: bytes a seat may take.
        cores: processors a seat may take.
        idle: seconds after which a seat that does nothing is stopped; seats tell the hub every five minutes whether
            they are used (jupyterhub 6.1.1, singleuser), so ten minutes at least.
        limits: "systemd", "cgroup" or "prlimit": who holds the seats to their limits.
    """

    state: Path
    edition: Path
    kernel: Path
    port: int
    api: int
    hub: int
    teacher: str
    seats: int
    memory: int
    cores: float
    idle: int
    limits: str


def settings(given: Mapping[str, str], *, memory: int | None = None, processors: int | None = None) -> Settings:
    """Read and check the settings.

    Args:
        given: variables, as `os.environ` has them.
        memory: bytes of this machine; asked for if not given.
        processors: of this machine; asked for if not given.

    Raises:
        RoomError: a value is none, or the seats do not fit into the machine.
    """
    memory = machine_memory() if memory is None else memory
    processors = len(os.sched_getaffinity(0)) if processors is None else processors
    seat = round(number(given, "ROOM_MEMORY_GIB", FOR_A_SEAT / GIB, least=0.25) * GIB)
    fit = seats_that_fit(memory, seat)
    seats = round(number(given, "ROOM_SEATS", max(fit, 1), least=1))
    if seats > fit:
        raise RoomError(
            f"{seats} seats of {seat / GIB:g} GiB do not fit into this machine, which has {memory / GIB:.1f} GiB and "
            f"keeps {FOR_THE_HUB / GIB:g} for itself: {fit} do. Set ROOM_SEATS={fit}, a smaller ROOM_MEMORY_GIB, or "
            "take the files in teaching/hub/kubernetes"
        )
    teacher = given.get("ROOM_TEACHER", "teacher")
    port = port_number(given, "ROOM_PORT", 8000)
    return Settings(
        state=Path(given.get("ROOM_STATE") or ROOT / ".cache" / "room").resolve(),
        edition=Path(given.get("ROOM_EDITION") or ROOT / ".cache" / "learner").resolve(),
        kernel=Path(given.get("ROOM_KERNEL") or ROOT / ".venv" / "bin" / "python").absolute(),
        port=port,
        api=port_number(given, "ROOM_API_PORT", port + 1),
        hub=port_number(given, "ROOM_HUB_PORT", port + 81),
        teacher=must_be_a_name(teacher),
        seats=seats,
        memory=seat,
        cores=number(given, "ROOM_CORES", min(processors, 1), least=0.1, most=processors),
        idle=round(60 * number(given, "ROOM_IDLE_MINUTES", 60, least=10)),
        limits=who_limits(given.get("ROOM_LIMITS", "")),
    )


def seats_that_fit(memory: int, seat: int) -> int:
    """How many seats of `seat` bytes a machine of `memory` bytes carries beside the hub."""
    return max((memory - FOR_THE_HUB) // seat, 0)


def number(given: Mapping[str, str], name: str, default: float, *, least: float, most: float = 1e6) -> float:
    """A variable as a number between `least` and `most`; RoomError names the variable and what it may be."""
    text = given.get(name, "").strip()
    try:
        value = float(text) if text else float(default)
    except ValueError:
        raise RoomError(f"{name}={text!r} is not a number; for example {name}={default:g}") from None
    if not least <= value <= most:
        raise RoomError(f"{name}={text or default}: give a number from {least:g} to {most:g}")
    return value


def port_number(given: Mapping[str, str], name: str, default: int) -> int:
    """A variable as a port."""
    value = number(given, name, default, least=1, most=65535)
    if value != int(value):
        raise RoomError(f"{name}={value}: a port is a whole number, for example {default}")
    return int(value)


def machine_memory() -> int:
    """Bytes that this machine has for programs: its memory, or the limit of the group that this process is in."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(file).read_text()))
        except (OSError, ValueError):
            continue  # no such group, or "max"
    return total


def must_be_a_name(name: str) -> str:
    """The name as it is.

    Raises:
        RoomError: no seat can be named so.
    """
    if not NAME.fullmatch(name):
        raise RoomError(
            f"{name!r} is not a learner's name: a small letter, then small letters, digits and -, 24 characters at most"
        )
    return name


def learners(path: Path) -> list[str]:
    """The names in a file, one a line; empty lines and lines that begin with # are left out.

    Raises:
        RoomError: the file cannot be read, or a line is no name; the text says which.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as reason:
        raise RoomError(f"cannot read the list of learners {path}: {reason}; one name a line, as text") from None
    found: list[str] = []
    for at, line in enumerate(lines, 1):
        name = line.strip().lower()
        if not name or name.startswith("#"):
            continue
        try:
            must_be_a_name(name)
        except RoomError as reason:
            raise RoomError(f"{path}, line {at}: {reason}") from None
        if name in found:
            raise RoomError(f"{path}, line {at}: {name} is there twice; tell the two apart, such as {name}-2")
        found.append(name)
    return found


# ---- who holds the seats to their limits ----------------------------------------------------------------------------


def who_limits(wanted: str = "", *, groups: Path = Path("/sys/fs/cgroup"), systemd: Path = Path("/run/systemd/system")):
    """Who can hold seats to limits here: "systemd" where it runs the machine, "cgroup" (version 1), else "prlimit".

    `prlimit` limits each process and not a seat: three notebooks of one learner take three times as much.

    Raises:
        RoomError: the one that is wanted is not available here.
    """
    can = [
        name
        for name, there in (
            ("systemd", systemd.is_dir() and shutil.which("systemd-run") is not None),
            ("cgroup", all(os.access(groups / kind, os.W_OK) for kind in CONTROLLERS)),
            ("prlimit", shutil.which("prlimit") is not None),
        )
        if there
    ]
    if wanted and wanted not in can:
        raise RoomError(f"ROOM_LIMITS={wanted} is not available here; there is: {', '.join(can) or 'nothing'}")
    if not can:
        raise RoomError("nothing here can limit a seat: install util-linux, which has prlimit")
    return wanted or can[0]


CONTROLLERS = ("memory", "cpu", "pids")
PERIOD = 100_000  # microseconds in which a group's share of the processors is counted


def group_files(memory: int, cores: float) -> dict[str, int]:
    """What to write where, below the folder of groups of version 1, for one seat; {} stands for its name."""
    return {
        "memory/room/{}/memory.limit_in_bytes": memory,
        "cpu/room/{}/cpu.cfs_period_us": PERIOD,
        "cpu/room/{}/cpu.cfs_quota_us": round(cores * PERIOD),
        "pids/room/{}/pids.max": PROCESSES,
    }


def make_group(seat: str, memory: int, cores: float, *, groups: Path = Path("/sys/fs/cgroup")) -> list[Path]:
    """Make a seat's groups and return the files into which a process writes 0 to join them."""
    for file, value in group_files(memory, cores).items():
        path = groups / file.format(seat)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(value))
    return [groups / kind / "room" / seat / "cgroup.procs" for kind in CONTROLLERS]


def prlimit_words(memory: int) -> list[str]:
    """The words before a seat's command where nothing else can limit it: data of each process, and its priority."""
    return ["prlimit", f"--data={memory}", f"--nproc={PROCESSES}", "--", "nice", "-n", "5"]


# ---- seats ----------------------------------------------------------------------------------------------------------


def seat_user(learner: str) -> str:
    """The system user of a learner."""
    return SEAT + must_be_a_name(learner)


def make_seat(learner: str) -> Path:
    """Make a learner's system user if there is none yet, and return the home, which is closed to all others.

    Raises:
        RoomError: the user cannot be made.
    """
    user = seat_user(learner)
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        made = subprocess.run(
            ["useradd", "--create-home", "--shell", "/bin/bash", user], capture_output=True, text=True
        )
        if made.returncode:
            raise RoomError(f"no seat for {learner}: useradd says: {made.stderr.strip()}") from None
        found = pwd.getpwnam(user)
    home = Path(found.pw_dir)
    if home.is_symlink() or not home.is_dir() or home.stat().st_uid != found.pw_uid:
        raise RoomError(f"the home of {user}, {home}, is not a folder of its own; move it away and make it again")
    home.chmod(0o700)
    return home


def as_seat(learner: str) -> dict:
    """Arguments with which `subprocess.run` runs something as a learner, with nothing of the hub's environment."""
    found = pwd.getpwnam(seat_user(learner))
    keep = {"PATH": os.environ.get("PATH", os.defpath), "HOME": found.pw_dir, "LANG": "C.UTF-8"}
    return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": [], "cwd": found.pw_dir, "env": keep}


def lay_desk(learner: str, edition: Path) -> list[str]:
    """Lay the edition into a learner's home, as the learner: what is there stays as it is.

    The files travel through a pipe, and another process, which has the learner's rights and no more, writes them: a
    link in a home leads nowhere that the learner could not write to anyway.

    Returns:
        What was laid, as paths in the desk.

    Raises:
        RoomError: no edition, or it cannot be written, for example as the disk is full.
    """
    done = subprocess.run(
        [sys.executable, "-I", "-c", Path(desk.__file__).read_text(encoding="utf-8")],
        input=packed(edition),
        capture_output=True,
        **as_seat(learner),
    )
    if done.returncode:
        raise RoomError(done.stderr.decode(errors="replace").strip().splitlines()[-1])
    return json.loads(done.stdout)


# ---- may the room open? ---------------------------------------------------------------------------------------------


def closed_folder(path: Path) -> Path | None:
    """The first folder on the way to a file that other users may not enter, or the file if they may not read it."""
    for way in (path.absolute(), path.resolve()):  # an environment's Python is a link
        for folder in reversed(way.parents):
            if folder.stat().st_mode & 0o001 == 0:
                return folder
    return path if path.stat().st_mode & 0o004 == 0 else None


def must_run_for_others(python: Path, module: str, *, run: Callable = subprocess.run) -> None:
    """Find out whether a seat, which is a user without rights, can run a Python and import a module with it.

    Raises:
        RoomError: it cannot; the text names the folder that is closed, if that is it.
    """
    if not python.exists():
        raise RoomError(f"there is no {python}, which is to run {module}: `make .venv/.stamp`, or set ROOM_KERNEL")
    if (closed := closed_folder(python)) is not None:
        raise RoomError(
            f"seats cannot run {python}: {closed} is closed to other users. Put the book where all may read it, such "
            f"as /srv, with a Python that all may run, or open that folder: chmod o+x {closed}"
        )
    nobody = {"user": 65534, "group": 65534, "extra_groups": [], "env": {"HOME": "/", "PATH": os.defpath}, "cwd": "/"}
    tried = run([str(python), "-c", f"import {module}"], capture_output=True, text=True, **nobody)
    if tried.returncode:
        last = (tried.stderr.strip().splitlines() or ["no words"])[-1]
        raise RoomError(f"seats cannot import {module} with {python}: {last}. All may need to read the book's folders")


def must_have_disk(folder: Path, *, least: int = FREE_DISK) -> None:
    """Find out whether there is disk left; RoomError if less than `least` bytes."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < least:
        raise RoomError(
            f"the disk of {folder} is nearly full: {free / GIB:.1f} GiB are left, and a class wants {least / GIB:.1f}. "
            "Nothing was started; make room first"
        )
