"""Open the room: look whether everything is there, make the accounts, then start JupyterHub.

    make hub                                    # on a machine of the class, as root
    make hub LEARNERS=names.txt                 # accounts for the names in the file, one a line
    .cache/hub/bin/python teaching/hub/start.py --check    # only look

Settings are variables: ROOM_PORT, ROOM_ADDRESS, ROOM_SEATS, ROOM_MEMORY_GIB, ROOM_CORES, ROOM_IDLE_MINUTES,
ROOM_TEACHER, ROOM_LIMITS, ROOM_STATE, ROOM_EDITION, ROOM_KERNEL. What is wrong is said in one line, and nothing starts.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import secrets
import shutil
import socket
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import room  # noqa: E402

NEEDED = ("jupyterhub", "nativeauthenticator", "jupyterhub_idle_culler", "jupyterlab")
PROXY = HERE.parent.parent / ".cache" / "hub" / "node" / "node_modules" / ".bin" / "configurable-http-proxy"
WORDS = "amber basil cedar coral daisy ember fern grape hazel iris jade kiwi lemon maple olive pearl quartz ruby sage"
"""Nineteen, so that three and six digits make 7 billion passwords; five wrong ones close an account for a minute."""


def main() -> int:
    """Look, make accounts, start."""
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--learners", type=Path, help="file with one name a line")
    reader.add_argument("--check", action="store_true", help="look whether the room can open, start nothing")
    asked = reader.parse_args()
    try:
        at, proxy = look(os.environ)
        new = room.learners(asked.learners) if asked.learners else []
        if asked.check:
            print(f"The room can open: {described(at)}.")
            return 0
        told = accounts(at.state, [at.teacher, *new])
    except room.RoomError as reason:
        print(f"The room stays closed: {reason}.", file=sys.stderr)
        return 1
    except OSError as reason:
        print(f"The room stays closed: {reason}. Is there room on the disk, and may you write there?", file=sys.stderr)
        return 1
    print(f"The room opens on port {at.port}: {described(at)}.")
    if told:
        print(f"New names and passwords are in {told}, which only root can read.")
    os.environ["ROOM_PROXY"] = proxy
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    os.chdir(at.state)
    hub = [sys.executable, "-m", "jupyterhub", "-f", str(HERE / "jupyterhub_config.py")]
    os.execv(sys.executable, hub)


def look(given: dict[str, str]) -> tuple[room.Settings, str]:
    """Settings, and where the proxy is.

    Raises:
        RoomError: something is missing, taken or full.
    """
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise room.RoomError(
            f"{', '.join(missing)} not installed in {sys.prefix}: `make hub` installs it, or "
            "pip install -r teaching/hub/requirements.txt"
        )
    proxy = given.get("ROOM_PROXY") or (str(PROXY) if PROXY.exists() else shutil.which("configurable-http-proxy"))
    if not proxy or not shutil.which("node"):
        what = "configurable-http-proxy" if shutil.which("node") else "node"
        raise room.RoomError(f"{what} is missing: install Node.js, then npm install configurable-http-proxy@5.3.0")
    if os.geteuid() != 0:
        raise room.RoomError("a hub that gives each learner a user of its own must run as root: sudo make hub")
    at = room.settings(given)
    room.must_have_disk(at.state)
    room.must_have_disk(Path("/home"))
    running = hub_of(at.state)
    for port, name in ((at.port, "ROOM_PORT"), (at.api, "ROOM_API_PORT"), (at.hub, "ROOM_HUB_PORT")):
        if taken(port) and not (running and name != "ROOM_HUB_PORT"):
            raise room.RoomError(f"port {port} is taken by another program: stop it, or set {name} to another port")
    room.packed(at.edition)
    room.must_run_for_others(at.kernel, "sana_lab")
    room.must_run_for_others(Path(sys.executable), "jupyterhub")
    return at, proxy


def described(at: room.Settings) -> str:
    """The seats in words."""
    return (
        f"{at.seats} seats at once, {at.memory / room.GIB:g} GiB and {at.cores:g} processors each, held by "
        f"{at.limits}; the teacher is {at.teacher}"
    )


def taken(port: int) -> bool:
    """Does a program listen on this port of this machine?"""
    with socket.socket() as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def hub_of(state: Path) -> bool:
    """Does the proxy of this very room still run, as after a hub that was stopped or killed?"""
    try:
        pid = int((state / "proxy.pid").read_text().split()[0])
        return b"configurable-http-proxy" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError, IndexError):
        return False


def accounts(state: Path, names: list[str]) -> Path | None:
    """Give those who have none a password: into a file for the hub, and into one for the teacher to hand out.

    Returns:
        The teacher's file, or None if there was nobody new.
    """
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    state.chmod(0o700)
    listed = state / "passwords.csv"
    listed.touch(mode=0o600)
    with listed.open(encoding="utf-8", newline="") as file:
        known = {row[0] for row in csv.reader(file) if row}
    new = {name: password() for name in names if name not in known}
    if not new:
        return None
    queue = state / "accounts.json"
    waiting = json.loads(queue.read_text(encoding="utf-8")) if queue.exists() else {}
    queue.touch(mode=0o600)
    queue.write_text(json.dumps(waiting | new), encoding="utf-8")
    with listed.open("a", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(new.items())
    return listed


def password() -> str:
    """Three words and a number, which one can type from a slip of paper."""
    words = [secrets.choice(WORDS.split()) for _ in range(3)]
    return f"{'-'.join(words)}-{secrets.randbelow(10**6):06d}"


if __name__ == "__main__":
    sys.exit(main())
