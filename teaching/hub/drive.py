"""Drive seats through the hub's interface: every seat runs a chapter's cells at once, and every answer is checked.

    ROOM_TRIAL_TOKEN=... python teaching/hub/drive.py --hub http://127.0.0.1:8000 --seats 10 --chapter 1

The token is that of a service of the hub that may make users and start servers (`ROOM_TRIAL_TOKEN` for `make hub`).
The cells are those of the published chapter, with its solutions; what a cell gives in a seat is compared with what is
stored wherever the book compares it (`nbval-check-output`). Seats that run on this machine are also weighed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import pwd
import re
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import desk  # noqa: E402
import room  # noqa: E402
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse  # noqa: E402
from tornado.websocket import websocket_connect  # noqa: E402

CHECKED = "nbval-check-output"
COMPARED = ("text/plain",)  # what chapters compare beside streams (tools/chapters.py, SKIP_COMPARE)
DRIVEN = "drive-"
"""Before the number of each learner that is a program."""
PATIENCE = 900  # seconds for one cell
_PROGRESS = re.compile(r"\d+%\|")  # bars are drawn live, and not stored
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_LEFT_OUT = re.compile(r"<Figure[^>]*>|<PIL\.Image[^>]*>|\bat 0x[0-9a-fA-F]{6,}|(?<=\")[^\"]*(?=/site-packages/)")


@dataclass
class Done:
    """What one seat did.

    Attributes:
        learner: who sits there.
        ready: seconds until the server answered.
        kernel: seconds from asking for a kernel until its first cell was done.
        seconds: of all cells.
        cells: run.
        compared: of these, with a stored answer.
        wrong: what differed, as "cell ID: given, wanted".
        taken: the most that was seen of the seat's processes: bytes held at a time, `anonymous`, which cannot be given
            back, and `proportional`, which also counts a share of what programs have in common; seconds of `processor`
            used, server and kernel together, which a loaded machine does not make more.
    """

    learner: str
    ready: float = 0.0
    kernel: float = 0.0
    seconds: float = 0.0
    cells: int = 0
    compared: int = 0
    wrong: list[str] = field(default_factory=list)
    taken: dict[str, float] = field(default_factory=dict)


class Hub:
    """A hub, with a token for it."""

    def __init__(self, url: str, token: str):
        self.url, self.token = url.rstrip("/"), token

    async def ask(
        self, path: str, method: str = "GET", body: Any = None, *, token: str | None = None, ok: bool = True
    ) -> HTTPResponse:
        """One request; raises with the hub's words unless `ok` is False."""
        request = HTTPRequest(
            self.url + path,
            method=method,
            headers={"Authorization": f"token {token or self.token}"},
            body=None if body is None and method in ("GET", "DELETE") else json.dumps(body or {}),
            request_timeout=300,
            follow_redirects=False,
            allow_nonstandard_methods=True,
        )
        answer = await AsyncHTTPClient().fetch(request, raise_error=False)
        if ok and answer.code >= 300:
            raise RuntimeError(f"{method} {path}: {answer.code} {(answer.body or b'').decode(errors='replace')[:300]}")
        return answer

    async def open_seat(self, learner: str) -> str:
        """Make the learner known, start the server, wait until it answers.

        Returns:
            A token with the learner's rights.

        Raises:
            RuntimeError: it does not start; the text has the hub's reason.
        """
        await self.ask(f"/hub/api/users/{learner}", "POST", ok=False)  # 409: known
        given = await self.ask(f"/hub/api/users/{learner}/tokens", "POST", {"note": "drive", "expires_in": 7200})
        while (started := await self.ask(f"/hub/api/users/{learner}/server", "POST", ok=False)).code == 429:
            await asyncio.sleep(float(started.headers.get("Retry-After", "5")))  # only a few seats open at a time
        if started.code >= 400 and b"already running" not in started.body:
            raise RuntimeError(f"the seat of {learner} did not start: {started.body.decode(errors='replace')[:400]}")
        until = time.monotonic() + 330
        while time.monotonic() < until:
            user = json.loads((await self.ask(f"/hub/api/users/{learner}")).body)
            server = user["servers"].get("")
            if server and server["ready"]:
                return json.loads(given.body)["token"]
            if not server:
                raise RuntimeError(f"the seat of {learner} did not start; the hub's log says why")
            await asyncio.sleep(2)  # a hub that is asked all the time has none for its seats
        raise RuntimeError(f"the seat of {learner} was not ready in time")

    async def close_seat(self, learner: str) -> None:
        """Stop the server and wait until it is gone."""
        await self.ask(f"/hub/api/users/{learner}/server", "DELETE", ok=False)
        for _ in range(300):
            user = await self.ask(f"/hub/api/users/{learner}", ok=False)
            if user.code == 404 or not json.loads(user.body)["servers"]:
                return
            await asyncio.sleep(0.2)


class Kernel:
    """A kernel in a seat."""

    def __init__(self, hub: Hub, learner: str, token: str):
        self.hub, self.learner, self.token = hub, learner, token
        self.id, self.socket = "", None

    async def start(self) -> None:
        """Ask for a kernel in the desk's folder, as JupyterLab does, and listen to it."""
        made = await self.hub.ask(
            f"/user/{self.learner}/api/kernels",
            "POST",
            {"name": "python3", "path": f"{desk.DESK}/x.ipynb"},
            token=self.token,
        )
        self.id = json.loads(made.body)["id"]
        await self.listen()

    async def listen(self) -> None:
        """Connect to the kernel that has this id."""
        url = self.hub.url.replace("http", "ws", 1) + f"/user/{self.learner}/api/kernels/{self.id}/channels"
        request = HTTPRequest(url, headers={"Authorization": f"token {self.token}"}, request_timeout=PATIENCE)
        self.socket = await websocket_connect(request, max_message_size=2**28)

    async def run(self, source: str) -> list[dict[str, Any]]:
        """Run one cell and return its outputs, in the form of a notebook's."""
        mine = uuid.uuid4().hex
        header = {"msg_id": mine, "msg_type": "execute_request", "username": "", "session": mine, "version": "5.3"}
        content = {"code": source, "silent": False, "store_history": True, "allow_stdin": False, "stop_on_error": False}
        await self.socket.write_message(
            json.dumps({"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"})
        )
        outputs: list[dict[str, Any]] = []
        while True:
            text = await asyncio.wait_for(self.socket.read_message(), PATIENCE)
            if text is None:
                raise RuntimeError("the kernel went away")
            message = json.loads(text)
            kind, said = message["header"]["msg_type"], message["content"]
            if kind == "status" and said["execution_state"] in ("restarting", "dead", "autorestarting"):
                raise RuntimeError("the kernel died: it took more than its seat has, or was stopped")
            if message["parent_header"].get("msg_id") != mine:
                continue
            if kind in ("stream", "execute_result", "display_data", "error"):
                outputs.append({"output_type": kind, **said})
            elif kind == "status" and said["execution_state"] == "idle":
                return outputs


def words(outputs: list[dict[str, Any]]) -> str:
    """What a cell says that must not differ: its standard output, its values as text, the last line of its error."""
    found = []
    for one in outputs:
        if one["output_type"] == "stream":
            found.append("".join(one["text"]) if one["name"] == "stdout" else "")
        elif one["output_type"] == "error":
            found.append(f"{one['ename']}: {one['evalue']}")
        else:
            found += ["".join(one["data"].get(kind, "")) + "\n" for kind in COMPARED]
    text = _LEFT_OUT.sub("", _ANSI.sub("", "".join(found)))
    lines = [line.rpartition("\r")[2].rstrip() for line in text.splitlines()]
    return "\n".join(line for line in lines if not _PROGRESS.search(line)).strip()


def chapter_cells(chapter: int, notebooks: Path = room.ROOT / "notebooks") -> list[dict[str, Any]]:
    """The code cells of a chapter, as they are stored."""
    (path,) = notebooks.glob(f"{chapter:02d}_*.ipynb")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def taken_by(user: int) -> dict[str, float]:
    """What a user's processes hold and have used: bytes from `/proc/*/smaps_rollup`, processor seconds from `stat`."""
    found = {"anonymous": 0, "proportional": 0, "processor": 0.0}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if folder.stat().st_uid != user:
                continue
            text, stat = (folder / "smaps_rollup").read_text(), (folder / "stat").read_text()
        except OSError:
            continue  # it ended, or is of the kernel
        # utime, stime and those of the children that ended, in ticks (proc(5)); the name before them may have spaces
        found["processor"] += sum(map(int, stat.rpartition(")")[2].split()[11:15])) / os.sysconf("SC_CLK_TCK")
        for name, field_ in (("anonymous", "Anonymous"), ("proportional", "Pss")):
            if line := re.search(rf"^{field_}:\s+(\d+) kB", text, re.MULTILINE):
                found[name] += 1024 * int(line[1])
    return found


def busy_seconds() -> float:
    """Seconds that the machine's processors have worked since it started, added up, from `/proc/stat`."""
    user, nice, system, _, _, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


async def weigh(done: Done, every: float) -> None:
    """Keep the most that a seat's user took, until cancelled."""
    try:
        user = pwd.getpwnam(room.seat_user(done.learner)).pw_uid
    except KeyError:
        return  # seats elsewhere
    while True:
        now = await asyncio.to_thread(taken_by, user)
        done.taken = {name: max(now[name], done.taken.get(name, 0)) for name in now}
        await asyncio.sleep(every)


async def sit(hub: Hub, learner: str, cells: list[dict[str, Any]], *, every: float = 1.0) -> Done:
    """One learner: open the seat, run the cells, compare, close nothing."""
    done, begun = Done(learner), time.monotonic()
    token = await hub.open_seat(learner)
    done.ready = time.monotonic() - begun
    scale = asyncio.create_task(weigh(done, every))
    try:
        begun = time.monotonic()
        kernel = Kernel(hub, learner, token)
        await kernel.start()
        await kernel.run("pass")
        done.kernel = time.monotonic() - begun
        begun = time.monotonic()
        for cell in cells:
            said = await kernel.run("".join(cell["source"]))
            done.cells += 1
            tags = cell["metadata"].get("tags", [])
            if CHECKED in tags:
                done.compared += 1
                given, wanted = words(said), words(cell["outputs"])
                if given != wanted:
                    done.wrong.append(f"cell {cell['id']}: {given[:300]!r}, wanted {wanted[:300]!r}")
            elif failed := [one for one in said if one["output_type"] == "error"]:
                if "raises-exception" not in tags:
                    done.wrong.append(f"cell {cell['id']}: {failed[0]['ename']}: {failed[0]['evalue'][:300]}")
        done.seconds = time.monotonic() - begun
        await hub.ask(f"/user/{learner}/api/kernels/{kernel.id}", "DELETE", token=token, ok=False)
    finally:
        scale.cancel()
    return done


async def drive(
    hub: Hub, seats: int, chapter: int, *, keep: bool = False, notebooks: Path = room.ROOT / "notebooks"
) -> dict[str, Any]:
    """Let as many learners as there are `seats` run a chapter at once.

    Returns:
        Plain numbers: of the room, of one seat (the largest memory, middle seconds), and what was wrong in which seat.
        `load_before` is the machine's load average as it began, `busy_beside` how many processors worked meanwhile for
        others than the seats: the hub and the proxy, about a tenth, and whatever else ran.
    """
    cells, names = chapter_cells(chapter, notebooks), [f"{DRIVEN}{n:02d}" for n in range(1, seats + 1)]
    begun, load = time.monotonic(), os.getloadavg()[0]
    busy = busy_seconds()
    done = await asyncio.gather(*(sit(hub, name, cells) for name in names), return_exceptions=True)
    all_of_it, busy = time.monotonic() - begun, busy_seconds() - busy
    used = sum(one.taken.get("processor", 0) for one in done if isinstance(one, Done))
    if not keep:
        await asyncio.gather(*(hub.close_seat(name) for name in names))
    good = [one for one in done if isinstance(one, Done)]
    wrong = {one.learner: one.wrong for one in good if one.wrong}
    wrong |= {name: [str(one)] for name, one in zip(names, done, strict=True) if not isinstance(one, Done)}

    def middle(values: list[float]) -> float | None:
        return round(sorted(values)[len(values) // 2], 1) if values else None

    return {
        "chapter": chapter,
        "seats": seats,
        "finished": len(good),
        "cells": len(cells),
        "compared": sum(CHECKED in cell["metadata"].get("tags", []) for cell in cells),
        "seconds_room": round(all_of_it, 1),
        "seconds_server": middle([one.ready for one in good]),
        "seconds_kernel": middle([one.kernel for one in good]),
        "seconds_cells": middle([one.seconds for one in good]),
        "seconds_processor": middle([one.taken.get("processor", 0) for one in good]),
        "anonymous": max((one.taken.get("anonymous", 0) for one in good), default=0),
        "proportional": max((one.taken.get("proportional", 0) for one in good), default=0),
        "load_before": round(load, 2),
        "busy_beside": round(max(busy - used, 0) / all_of_it, 2),
        "wrong": wrong,
    }


def main() -> int:
    """Drive and print."""
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--hub", default="http://127.0.0.1:8000", help="address of the room")
    reader.add_argument("--seats", type=int, default=10)
    reader.add_argument("--chapter", type=int, default=1)
    asked = reader.parse_args()
    token = os.environ.get("ROOM_TRIAL_TOKEN")
    if not token:
        print("Set ROOM_TRIAL_TOKEN to the token that the room was opened with.", file=sys.stderr)
        return 1
    try:
        found = asyncio.run(drive(Hub(asked.hub, token), asked.seats, asked.chapter))
    except (OSError, RuntimeError) as reason:
        print(f"The room at {asked.hub} could not be driven: {reason}.", file=sys.stderr)
        return 1
    print(json.dumps(found, indent=1))
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
