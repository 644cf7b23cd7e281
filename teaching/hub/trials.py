"""Try the room for real: open one, sit in it, break in, break it, open it again. Wants root; makes and removes users.

    make hub-try                                              # everything; half an hour on two free cores
    python teaching/hub/trials.py --out FOLDER --only trespass,restart
    python teaching/hub/trials.py --out FOLDER --only drive --seats 10 --chapters 1,3,8

Writes `room.json`, a record as the others in `sana_lab.evidence`; what is in the folder already is kept, so that the
parts can be tried one at a time. The last lines say which parts held.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import desk  # noqa: E402
import room  # noqa: E402
from drive import DRIVEN, Hub, Kernel, drive, words  # noqa: E402
from tornado.httpclient import AsyncHTTPClient, HTTPError, HTTPRequest  # noqa: E402

ANA, BO = "try-ana", "try-bo"
TEACHER = "teacher"
WHAT = (
    "A JupyterHub for a class, opened and tried on one machine: what a seat takes while it runs a chapter, seats at "
    "once, one learner's attempts on another's files, kernels and tokens, limits, restart, idle seats, bad input."
)


class Room:
    """A room of its own for the trials: other ports, its own state, an edition of the published chapters."""

    def __init__(self, work: Path, kernel: Path, memory: float):
        self.work, self.token = work, secrets.token_hex(16)
        self.port = free_port()
        self.log = work / "hub.log"
        edition = work / "edition"
        if not edition.exists():
            edition.mkdir()
            for path in (room.ROOT / "notebooks").glob("0[1-3]_*.ipynb"):
                shutil.copy(path, edition)
        self.given = os.environ | {
            "ROOM_STATE": str(work / "state"),
            "ROOM_EDITION": str(edition),
            "ROOM_KERNEL": str(kernel),
            "ROOM_PORT": str(self.port),
            "ROOM_API_PORT": str(self.port + 1),
            "ROOM_HUB_PORT": str(self.port + 2),
            "ROOM_MEMORY_GIB": f"{memory:g}",
            "ROOM_TRIAL_TOKEN": self.token,
        }
        self.hub = Hub(f"http://127.0.0.1:{self.port}", self.token)

    def start(self, *words: str, **more: str) -> subprocess.CompletedProcess:
        """Run `start.py` to its end, with other settings; what it says when the room stays closed."""
        return subprocess.run(
            [sys.executable, str(HERE / "start.py"), *words],
            env=self.given | more,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def open(self) -> None:
        """Start the hub and wait until it is there; raises RuntimeError with the end of its log."""
        listed = self.work / "learners.txt"
        listed.write_text(f"# of the trials\n{ANA}\n{BO}\n")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "start.py"), "--learners", str(listed)],
                env=self.given,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        for _ in range(600):
            if b"is now running at" in self.log.read_bytes():
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.2)
        raise RuntimeError(f"the room did not open: {self.log.read_text(errors='replace')[-1500:]}")

    def close(self, number: int = signal.SIGTERM) -> None:
        """Stop the hub; the proxy and the seats stay."""
        self.process.send_signal(number)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:  # it waits for a request that does not end
            self.process.kill()
            self.process.wait()

    def end(self) -> None:
        """Stop hub, seats and proxy, and remove the users that were made for the trials."""
        self.close()
        learners = [*self.passwords(), "try-full", *(f"{DRIVEN}{number:02d}" for number in range(1, 100))]
        made = [room.seat_user(name) for name in learners if name != TEACHER and has_seat(name)]
        for name in made:
            end_processes(pwd.getpwnam(name).pw_uid)
        try:
            os.kill(int((self.work / "state" / "proxy.pid").read_text().split()[0]), signal.SIGTERM)
        except (OSError, ValueError, IndexError):
            pass
        time.sleep(1)
        for name in made:
            subprocess.run(["userdel", "--remove", name], capture_output=True, check=False)

    def passwords(self) -> dict[str, str]:
        """Names and passwords, as the teacher's file has them."""
        lines = (self.work / "state" / "passwords.csv").read_text().split()
        return dict(line.split(",") for line in lines)


def has_seat(name: str) -> bool:
    """Is there a system user for this learner?"""
    return any(user.pw_name == room.seat_user(name) for user in pwd.getpwall())


def end_processes(user: int) -> None:
    """End the processes of one user."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if folder.stat().st_uid == user:
                os.kill(int(folder.name), signal.SIGKILL)
        except OSError:
            continue  # it ended meanwhile


def free_port() -> int:
    """A port that is free, with two free ones after it."""
    while True:
        first = 20000 + secrets.randbelow(20000)
        doors = []
        try:
            for port in (first, first + 1, first + 2, first + 3):
                doors.append(socket.socket())
                doors[-1].bind(("127.0.0.1", port))
            return first
        except OSError:
            continue
        finally:
            for door in doors:
                door.close()


async def visit(url: str, cookies: dict[str, str], form: dict[str, str] | None = None) -> Any:
    """One request of a browser that keeps `cookies`; redirections are followed by hand so that none is lost."""
    for _ in range(8):
        request = HTTPRequest(
            url,
            method="GET" if form is None else "POST",
            headers={"Cookie": "; ".join(f"{k}={v}" for k, v in cookies.items()), "Sec-Fetch-Mode": "navigate"},
            body=None if form is None else urlencode(form),
            follow_redirects=False,
            request_timeout=120,
        )
        answer = await AsyncHTTPClient().fetch(request, raise_error=False)
        for line in answer.headers.get_list("Set-Cookie"):
            for name, morsel in SimpleCookie(line).items():
                if morsel.value and morsel["max-age"] != "0":
                    cookies[name] = morsel.value
        if answer.code not in (301, 302, 303, 307):
            answer.place = url
            return answer
        place = answer.headers["Location"]
        url = place if place.startswith("http") else "/".join(url.split("/")[:3]) + place
        form = None
    raise RuntimeError(f"sent in a circle: {url}")


async def sign_in(at: Room, name: str, password: str) -> dict[str, str]:
    """A browser's cookies after the form of the login page."""
    cookies: dict[str, str] = {}
    page = await visit(f"{at.hub.url}/hub/login", cookies)
    found = re.search(rb'name="_xsrf"\s+value="([^"]+)"', page.body)
    token = found[1].decode() if found else cookies.get("_xsrf", "")
    await visit(
        f"{at.hub.url}/hub/login?next=%2Fhub%2Fhome", cookies, {"username": name, "password": password, "_xsrf": token}
    )
    return cookies


async def said(kernel: Kernel, source: str) -> str:
    """What a kernel prints for a piece of code."""
    return words(await kernel.run(source))


# ---- the trials: each returns what it found, with "held" for whether it was as it should be --------------------------


async def accounts(at: Room) -> dict[str, Any]:
    """Names and passwords: the right one opens, a wrong one does not, and nobody signs up as somebody else."""
    known = at.passwords()
    mine, wrong = await sign_in(at, ANA, known[ANA]), await sign_in(at, ANA, "not-my-password")
    teacher = await sign_in(at, TEACHER, known[TEACHER])
    home, refused = [await visit(f"{at.hub.url}/hub/home", cookies) for cookies in (mine, wrong)]
    found = {
        "right password, own page": home.code if home.place.endswith("/hub/home") else "sent away",
        "wrong password, own page": "sent to the login" if "/login" in refused.place else refused.code,
        "learner, the teacher's page": (await visit(f"{at.hub.url}/services/progress/", mine)).code,
        "teacher, the teacher's page": (await visit(f"{at.hub.url}/services/progress/", teacher)).code,
        "learner, list of users": (await visit(f"{at.hub.url}/hub/admin", mine)).code,
    }
    found["held"] = list(found.values()) == [200, "sent to the login", 403, 200, 403]
    return found


TRESPASS = """
import glob, os, re, signal, socket, subprocess
def attempt(do):
    try:
        return "got in: " + str(do())[:80]
    except BaseException as error:
        return type(error).__name__
def connect(port):
    s = socket.create_connection(("127.0.0.1", port), 2); s.settimeout(2)
    return s.recv(10)
tries = {
    "read a file": lambda: open(HOME + "/book/secret.txt").read(),
    "list the home": lambda: os.listdir(HOME),
    "write into the home": lambda: open(HOME + "/book/planted.py", "w"),
    "link to a file, read the link": lambda: [os.symlink(HOME + "/book/secret.txt", "l"), open("l").read()],
    "read the server's token in /proc": lambda: open(f"/proc/{PID}/environ").read() or 1/0,
    "read a file that he left in /tmp": lambda: open("/tmp/" + LEFT).read(),
    "put one in its place": lambda: os.replace("l", "/tmp/" + LEFT),
    "find a token in command lines": lambda: [
        word for name in glob.glob("/proc/[0-9]*/cmdline") for word in re.findall("[0-9a-f]{32,}", open(name).read())
    ][0],
    "read the server's memory": lambda: open(f"/proc/{PID}/mem", "rb").read(1),
    "stop the server": lambda: os.kill(PID, signal.SIGTERM),
    "read the kernel's key": lambda: glob.glob(HOME + "/.local/share/jupyter/runtime/*.json")[0],
    "read the hub's database": lambda: open(STATE + "/room.sqlite", "rb").read(1),
    "read the hub's cookie secret": lambda: open(STATE + "/cookie_secret").read(),
    "read the list of passwords": lambda: open(STATE + "/passwords.csv").read(),
    "become root": lambda: subprocess.run(["sudo", "-n", "id"], check=True, capture_output=True).stdout,
    "leave the group that limits it": lambda: open("/sys/fs/cgroup/memory/cgroup.procs", "w").write("0"),
    "raise its own limit": lambda: open("/sys/fs/cgroup/memory/room/" + ME + "/memory.limit_in_bytes", "w").write("-1"),
}
for name, do in tries.items():
    print(name + "|" + attempt(do))
"""


EARS = """
import time, zmq
doors = []
for line in open('/proc/net/tcp').read().splitlines()[1:]:
    at, state, uid = line.split()[1], line.split()[3], line.split()[7]
    if state == '0A' and uid == 'UID':
        doors.append(int(at.split(':')[1], 16))
ears, heard, until = [], 0, time.time() + 12
for door in doors:
    ears.append(zmq.Context.instance().socket(zmq.SUB))
    ears[-1].subscribe(b'')
    ears[-1].connect(f'tcp://127.0.0.1:{door}')
while time.time() < until:
    for ear in ears:
        if ear.poll(50):
            ear.recv_multipart()
            heard += 1
for ear in ears:
    ear.close(0)
print(heard)
"""
SPEAK = "import time\nfor _ in range(8):\n    time.sleep(1)\n    print('of Bo', flush=True)"
OVER_TCP = """
from jupyter_client import KernelManager
manager = KernelManager(transport='tcp')
manager.start_kernel()
client = manager.client()
client.start_channels()
client.wait_for_ready(timeout=120)
"""


async def trespass(at: Room) -> dict[str, Any]:
    """Ana tries to get at what is Bo's: through the machine, through the hub, through Bo's server, through kernels."""
    ana, bo = await asyncio.gather(at.hub.open_seat(ANA), at.hub.open_seat(BO))
    hers, his = Kernel(at.hub, ANA, ana), Kernel(at.hub, BO, bo)
    await asyncio.gather(hers.start(), his.start())
    left = f"of-bo-{secrets.token_hex(4)}"
    where = json.loads(
        await said(
            his,
            f"import os, json; open('secret.txt','w').write('of Bo'); open('/tmp/{left}', 'w').write('of Bo')\n"
            "print(json.dumps([os.getppid(), os.path.expanduser('~')]))",
        )
    )
    state, me = str(at.work / "state"), room.seat_user(ANA)
    code = f"PID, HOME, STATE, ME, LEFT = {where[0]}, {where[1]!r}, {state!r}, {me!r}, {left!r}\n"
    found = dict(line.split("|", 1) for line in (await said(hers, code + TRESPASS)).splitlines())
    # the same lines in Bo's own kernel: what a file's owner may do shows that the attempts are real ones
    own = dict(
        line.split("|", 1) for line in (await said(his, code + TRESPASS.replace("signal.SIGTERM", "0"))).splitlines()
    )
    asks = {
        "hub: his token's list": ("/hub/api/users/" + BO + "/tokens", "GET", ana),
        "hub: a token in his name": ("/hub/api/users/" + BO + "/tokens", "POST", ana),
        "hub: stop his seat": (f"/hub/api/users/{BO}/server", "DELETE", ana),
        "hub: make herself administrator": (f"/hub/api/users/{ANA}", "PATCH", ana),
        "his server: files": (f"/user/{BO}/api/contents/{desk.DESK}", "GET", ana),
        "his server: kernels": (f"/user/{BO}/api/kernels", "GET", ana),
        "his server: without a token": (f"/user/{BO}/api/kernels", "GET", "none"),
    }
    for name, (path, method, token) in asks.items():
        body = {"admin": True} if method == "PATCH" else None
        answer = await at.hub.ask(path, method, body, token=token, ok=False)
        found[name] = f"{answer.code}"
    owner = await at.hub.ask(f"/user/{BO}/api/kernels", token=bo)
    at_his = Kernel(at.hub, BO, ana)  # her token, his kernel
    at_his.id = his.id
    try:
        await at_his.listen()
        found["his kernel: its channels"] = "got in: " + await said(at_his, "print(open('secret.txt').read())")
    except HTTPError as reason:
        found["his kernel: its channels"] = str(reason.code)
    ears = EARS.replace("UID", str(uid_of(BO)))
    heard, _ = await asyncio.gather(said(hers, ears), said(his, SPEAK))
    await said(his, OVER_TCP)  # the same ears at a kernel that he starts as Jupyter does by itself
    control, _ = await asyncio.gather(
        said(hers, ears), said(his, SPEAK.replace("print(", "client.execute('print(1)');print("))
    )
    await said(his, "manager.shutdown_kernel(now=True)")
    found["messages of his kernel, heard at all its TCP doors"] = heard
    found["proxy's interface without its key"] = str(
        (await AsyncHTTPClient().fetch(f"http://127.0.0.1:{at.port + 1}/api/routes", raise_error=False)).code
    )
    held = (
        all(not value.startswith("got in") for value in found.values())
        and all(found[name] in ("401", "403", "404") for name in asks)
        and heard == "0"
        and int(control) > 0
        and found["proxy's interface without its key"] in ("401", "403")
        and own["read a file"].startswith("got in")
        and own["read a file that he left in /tmp"].startswith("got in")
        and own["read the server's token in /proc"].startswith("got in")
        and owner.code == 200
    )
    return {
        "attempts": found,
        "the owner": {
            "read a file": own["read a file"],
            "kernels": owner.code,
            "messages heard of a kernel on TCP": control,
        },
        "held": held,
    }


def uid_of(name: str) -> int:
    """Number of a learner's system user."""
    return pwd.getpwnam(room.seat_user(name)).pw_uid


async def limits(at: Room) -> dict[str, Any]:
    """Ana takes more memory, processors and processes than a seat has; Bo and the hub go on."""
    ana, bo = await asyncio.gather(at.hub.open_seat(ANA), at.hub.open_seat(BO))
    hers, his = Kernel(at.hub, ANA, ana), Kernel(at.hub, BO, bo)
    await asyncio.gather(hers.start(), his.start())
    await said(his, "x = 42")
    begun = time.monotonic()
    busy = await said(
        hers,
        "import os, time, multiprocessing as mp\ndef burn(n):\n    t = time.time()\n"
        "    while time.time() - t < 6: pass\n    return time.process_time()\n"
        "with mp.get_context('fork').Pool(3) as pool: print(sum(pool.map(burn, range(3))))",
    )
    seconds = time.monotonic() - begun
    forked = await said(
        hers,
        "import subprocess\nn = 0\nps = []\ntry:\n"
        "    for n in range(1000): ps.append(subprocess.Popen(['sleep', '60']))\n"
        "except BaseException as e: print(type(e).__name__, n)\n"
        "for p in ps: p.kill()\nfor p in ps: p.wait()",
    )
    try:
        ate = await said(hers, f"x = []\nfor _ in range(64): x.append(bytearray({room.GIB // 4}))\nprint('had 16 GiB')")
    except RuntimeError as reason:
        ate = str(reason)
    found = {
        "processor seconds of 3 busy processes in 6 s": round(float(busy), 1),
        "seconds": round(seconds, 1),
        "1000 processes": forked,
        "16 GiB": ate,
        "the other seat after it": await said(his, "print(x)"),
        "the hub after it": (await at.hub.ask("/hub/api/")).code,
        "her server after it": (await at.hub.ask(f"/user/{ANA}/api/kernels", token=ana, ok=False)).code,
    }
    cores = float(at.given.get("ROOM_CORES", 1))
    found["held"] = (
        float(busy) <= 1.3 * cores * seconds
        and "BlockingIOError" in forked
        and ("died" in ate or "MemoryError" in ate)
        and (found["the other seat after it"], found["the hub after it"]) == ("42", 200)
    )
    return found


async def restart(at: Room) -> dict[str, Any]:
    """The hub is killed outright and opened again: seats and what their kernels know are still there."""
    bo = await at.hub.open_seat(BO)
    his = Kernel(at.hub, BO, bo)
    await his.start()
    await said(his, "kept = 'still here'; open('work.txt', 'w').write('of an hour')")
    at.close(signal.SIGKILL)
    meanwhile = await said(his, "print(kept)")  # proxy and server run without the hub
    at.open()
    again = Kernel(at.hub, BO, bo)
    again.id = his.id
    await again.listen()
    await asyncio.sleep(3)
    teacher = await sign_in(at, TEACHER, at.passwords()[TEACHER])
    found = {
        "cell while the hub is away": meanwhile,
        "cell after it is back": await said(again, "print(kept)"),
        "file": await said(again, "print(open('work.txt').read())"),
        "hub knows the seat": json.loads((await at.hub.ask(f"/hub/api/users/{BO}")).body)["servers"][""]["ready"],
        "teacher's page": (await visit(f"{at.hub.url}/services/progress/", teacher)).code,
    }
    found["held"] = list(found.values()) == ["still here", "still here", "of an hour", True, 200]
    return found


async def edition(at: Room) -> dict[str, Any]:
    """What a learner changed stays, what the learner deleted comes back, and what is new is laid beside it."""
    bo = await at.hub.open_seat(BO)
    his = Kernel(at.hub, BO, bo)
    await his.start()
    await said(
        his, "open('01_ten_minutes.ipynb', 'w').write('{\"mine\": 1}'); import os; os.remove('03_one_outlier.ipynb')"
    )
    await at.hub.close_seat(BO)
    first = Path(at.given["ROOM_EDITION"]) / "01_ten_minutes.ipynb"
    first.write_text(first.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    await at.hub.open_seat(BO)
    await his.start()
    found = {
        "changed file": await said(his, "print(open('01_ten_minutes.ipynb').read())"),
        "deleted file": await said(
            his,
            "import os; print(os.path.exists('03_one_outlier.ipynb'))",
        ),
        "update": await said(his, "print(os.path.exists('01_ten_minutes.new.ipynb'))"),
    }
    found["held"] = list(found.values()) == ['{"mine": 1}', "True", "True"]
    return found


async def idle(at: Room) -> dict[str, Any]:
    """A seat that does nothing is stopped; its files stay, and it opens again."""
    bo = await at.hub.open_seat(BO)
    his = Kernel(at.hub, BO, bo)
    await his.start()
    await said(his, "open('before.txt', 'w').write('kept')")
    await at.hub.ask(f"/user/{BO}/api/kernels/{his.id}", "DELETE", token=bo)
    await asyncio.sleep(3)
    culler = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "jupyterhub_idle_culler",
            "--timeout=2",
            "--cull-every=1",
            f"--url={at.hub.url}/hub/api",
        ],
        env=at.given | {"JUPYTERHUB_API_TOKEN": at.token},
        stderr=subprocess.DEVNULL,
    )
    try:
        gone = False
        for _ in range(100):
            await asyncio.sleep(0.5)
            if not json.loads((await at.hub.ask(f"/hub/api/users/{BO}")).body)["servers"]:
                gone = True
                break
    finally:
        culler.terminate()
        culler.wait()
    bo = await at.hub.open_seat(BO)
    await his.start()
    found = {"stopped": gone, "file afterwards": await said(his, "print(open('before.txt').read())")}
    found["held"] = list(found.values()) == [True, "kept"]
    return found


async def full_disk(at: Room) -> dict[str, Any]:
    """The disk of a home is full while the edition is laid: said in words, nothing half-written; then there is room."""
    name = "try-full"
    await at.hub.close_seat(name)
    home = room.make_seat(name)
    user = uid_of(name)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size=900k,mode=700,uid={user},gid={user}", "tmpfs", str(home)], check=True
    )
    try:
        try:
            await at.hub.open_seat(name)
            said_ = "opened"
        except RuntimeError as reason:
            said_ = str(reason)
        halves = [path.name for path in home.rglob(".*.partial")]
    finally:
        subprocess.run(["umount", "-l", str(home)], check=True)
    await at.hub.open_seat(name)
    words_ = re.search(r"the edition could not be laid.*?start the seat again", said_.replace("\\n", " "))
    found = {"said": words_[0] if words_ else said_, "half-written files": halves, "afterwards": "opens"}
    found["held"] = bool(words_) and "No space left" in said_ and not halves
    return found


async def closed(at: Room) -> dict[str, Any]:
    """What `start.py` says when the room cannot open; it must be one line, and nothing starts."""
    empty = at.work / "empty"
    empty.mkdir(exist_ok=True)
    other = free_port()
    ports = {"ROOM_PORT": str(other), "ROOM_API_PORT": str(other + 1), "ROOM_HUB_PORT": str(other + 2)}
    fresh = ports | {"ROOM_STATE": str(at.work / "other")}
    with socket.socket() as door:
        door.bind(("127.0.0.1", other))
        door.listen()
        taken = at.start("--check", **fresh)
    bare = subprocess.run(
        ["/usr/bin/python3", "-I", str(HERE / "start.py"), "--check"], capture_output=True, text=True, env=at.given
    )
    tried = {
        "port taken": taken,
        "no package": bare,
        "no edition": at.start("--check", **fresh, ROOM_EDITION=str(empty)),
        "too many seats": at.start("--check", **fresh, ROOM_SEATS="500"),
        "no number": at.start("--check", **fresh, ROOM_MEMORY_GIB="two"),
        "no such Python": at.start("--check", **fresh, ROOM_KERNEL="/nowhere/python"),
        "Python in a closed folder": at.start("--check", **fresh, ROOM_KERNEL=str(closed_python(at.work))),
    }
    found: dict[str, Any] = {name: done.stderr.strip().replace(str(at.work), "…") for name, done in tried.items()}
    found["held"] = all(
        done.returncode == 1 and done.stderr.startswith("The room stays closed: ") and done.stderr.count("\n") == 1
        for done in tried.values()
    )
    return found


def closed_python(work: Path) -> Path:
    """A link to Python in a folder that is closed to others."""
    folder = work / "private"
    folder.mkdir(mode=0o700, exist_ok=True)
    link = folder / "python"
    if not link.is_symlink():
        link.symlink_to("/usr/bin/python3")
    return link


TRIALS: dict[str, Callable] = {
    one.__name__: one for one in (accounts, trespass, limits, restart, edition, idle, full_disk, closed)
}


_FOLDERS = re.compile(r"(?<![\w.])/(?:home|root|work|tmp|opt|mnt|Users)/[\w./-]*?([\w-]+)(?=[^\w/-]|$)")


def keep(out: Path, results: dict[str, Any]) -> None:
    """Write the record, with folders of this machine left out."""
    from sana_lab import evidence

    shown = json.loads(_FOLDERS.sub(r"…/\1", json.dumps(results, ensure_ascii=False)))
    versions = evidence.installed_versions("jupyterhub", "jupyterhub-nativeauthenticator", "jupyterhub-idle-culler")
    evidence.save("room", what=WHAT, command="make hub-try", results=shown, versions=versions, folder=out)


def main() -> int:
    """Open a room, try, record."""
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--out", type=Path, default=room.ROOT / ".cache" / "room-tried", help="folder of the record")
    reader.add_argument("--only", default=",".join([*TRIALS, "drive"]), help="parts, with commas between")
    reader.add_argument("--seats", type=int, default=10, help="how many at once, beside one alone")
    reader.add_argument("--chapters", default="1,3,8")
    reader.add_argument("--memory", type=float, default=1.75, help="GiB of a seat")
    reader.add_argument("--kernel", type=Path, default=room.ROOT / ".venv" / "bin" / "python")
    reader.add_argument("--load", default="", help="what else ran on the machine, for the record")
    asked = reader.parse_args()
    sys.path.insert(0, str(room.ROOT / "src"))
    if os.geteuid() != 0:
        print("The trials make users and a full disk: run them as root.", file=sys.stderr)
        return 1
    parts = asked.only.split(",")
    if unknown := set(parts) - {*TRIALS, "drive"}:
        print(
            f"No such part: {', '.join(sorted(unknown))}; there are {', '.join([*TRIALS, 'drive'])}.", file=sys.stderr
        )
        return 1
    asked.out.mkdir(parents=True, exist_ok=True)
    file = asked.out / "room.json"
    results = json.loads(file.read_text(encoding="utf-8"))["results"] if file.exists() else {}
    if busy := [name for name in (ANA, BO, f"{DRIVEN}01") if has_seat(name)]:
        print(
            f"There are users {', '.join(map(room.seat_user, busy))}: other trials run, or were stopped. "
            f"If none run, remove them: userdel --remove {room.seat_user(busy[0])}",
            file=sys.stderr,
        )
        return 1
    work = Path(tempfile.mkdtemp(prefix="room-"))
    work.chmod(0o755)
    at = Room(work, asked.kernel.absolute(), asked.memory)
    begun = time.monotonic()
    at.open()
    results["opened"] = {"seconds": round(time.monotonic() - begun, 1)}
    line = re.search(r"The room opens on port \d+: (.*)\.", at.log.read_text(errors="replace"))
    results["opened"]["room"] = line[1] if line else ""
    try:
        for part in parts:
            begun = time.monotonic()
            if part == "drive":
                for chapter in (int(text) for text in asked.chapters.split(",")):
                    for seats in sorted({1, asked.seats}):
                        known = results.get("drive", {}).get(f"chapter {chapter}, seats {seats}")
                        if known and known["finished"] == seats and not known["wrong"]:
                            continue
                        found = asyncio.run(drive(at.hub, seats, chapter))
                        found["load"], found["when"] = asked.load, time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime())
                        results.setdefault("drive", {})[f"chapter {chapter}, seats {seats}"] = found
                        keep(asked.out, results)
                        print(json.dumps(found), flush=True)
                continue
            try:
                found = asyncio.run(TRIALS[part](at))
            except Exception as reason:  # one part that fails must not hide the others
                found = {"held": False, "error": f"{type(reason).__name__}: {reason}"[:600]}
            found["seconds"] = round(time.monotonic() - begun, 1)
            found["limits"] = room.who_limits(at.given.get("ROOM_LIMITS", ""))
            results.setdefault("trials", {})[part] = found
            keep(asked.out, results)
            print(part, json.dumps(found), flush=True)
    finally:
        at.end()
    held = {part: found["held"] for part, found in results.get("trials", {}).items()}
    held |= {name: not found["wrong"] for name, found in results.get("drive", {}).items()}
    print("\n".join(f"{'held' if good else 'DID NOT HOLD':>12}  {name}" for name, good in held.items()))
    return 0 if all(held.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
