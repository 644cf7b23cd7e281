"""The watchdog: a process that draws, watched from outside, killed when it hangs and started anew when it dies.

Nothing inside of a process can end a kernel that never returns, or go on after the system's own killer has come. So the
service runs in a process of its own (`isolated`), which touches a file at each step; who watches looks at the file's
time. What was delivered is there as files, so a new process goes on where the last one was.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .. import isolated
from ..evidence import journal
from ..failures import explain
from ..generate.prompts import Wanted
from .delivery import BEAT, LOG, Log, Report, is_there

PATIENCE = 120.0
"""Seconds without a step after which a process counts as hanging."""
LOADING = 600.0
"""The same while it imports, loads and checks, which says nothing on the way."""
IN_VAIN = 3
"""How many processes in a row may end without having delivered anything."""
_LOOK = 0.1


def supervise(
    place: str | Path,
    wanted: Sequence[Wanted],
    out: str | Path,
    *,
    patience: float = PATIENCE,
    virtual: bool | None = None,
    vram: str | None = None,
    say: Callable[[str], object] = lambda text: None,
    **settings: Any,
) -> Report:
    """Deliver pictures by a process of its own, and start another one when it hangs or dies.

    Args:
        place: a script, a folder or a model's name, see `script.ways_in`.
        wanted: the pictures.
        out: folder for pictures and log.
        patience: seconds without a step after which the process is killed.
        virtual: what `use_accelerator` takes; it is called where this or `vram` is given.
        vram: likewise.
        say: takes a line when something has happened.
        settings: as for `deliver`: pixels, steps, guidance, check.

    Returns:
        What became of each picture.

    Raises:
        RuntimeError: processes end without delivering anything; the text has the last one's words.
        ValueError, OSError: as for `deliver`, from the process.

    Chapter 13.
    """
    out = Path(out)
    journal.must_be_writable(out, out)
    there = {one.name for one in wanted if is_there(out / one.name, one)}
    out.mkdir(parents=True, exist_ok=True)
    request = {
        "place": str(place), "wanted": [[w.name, w.prompt, w.seed] for w in wanted], "out": str(out),
        "virtual": virtual, "vram": vram, "settings": settings,
    }  # fmt: skip
    report, in_vain = Report(there=sorted(there)), 0
    while True:
        before = _moves(out)
        found, how, words = _one_process(request, out, patience)
        if found is not None:
            report.given_up = found["given_up"]
            for line in found["said"]:
                say(line)
            break
        if refused := _refusal(words):
            raise refused
        log = Log(out / LOG)
        answers = explain(words).answers if words else ()
        known = [answers[0].failure.id, answers[0].failure.title] if answers else None
        log.add(how, words=words.strip().rpartition("\n")[2][:300], known=known)
        in_vain = in_vain + 1 if _moves(out) == before else 0
        say(f"the process {'hung and was killed' if how == 'hung' else 'died'}; another one goes on")
        if in_vain >= IN_VAIN:
            last = words.strip().rpartition("\n")[2][:300]
            raise RuntimeError(f"{in_vain} processes ended without beginning a picture, the last with: {last or how}")
    for event in Log(out / LOG).events():
        report.events[event["event"]] += 1
    report.delivered = [w.name for w in wanted if (out / w.name).exists() and w.name not in there]
    return report


def _one_process(request: dict[str, Any], out: Path, patience: float) -> tuple[dict[str, Any] | None, str, str]:
    """What a process answered; or None, "hung" or "died", and its last words."""
    beat = out / BEAT
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as results:
        given.write(json.dumps(request).encode())
        given.seek(0)
        since = time.time()
        process = isolated.start(isolated.module(f"{__package__}.worker"), stdin=given, stdout=results, stderr=said)
        hung = False
        try:
            while True:
                try:
                    process.wait(_LOOK)
                    break
                except subprocess.TimeoutExpired:
                    pass
                moved, doing = _last(beat)
                limit = patience if doing == "drawing" and moved > since else max(patience, LOADING)
                if time.time() - max(moved, since) > limit:
                    hung = True
                    break
        finally:
            isolated.end(process)
        said.seek(0)
        results.seek(0)
        words = said.read()[-6000:].decode(errors="replace")
        lines = results.read().decode().splitlines()
    if process.returncode == 0 and lines:
        return json.loads(lines[-1]), "", ""
    status = process.returncode
    return None, "hung" if hung else "died", words if not hung and status > 0 else f"{words}\nended by signal {-status}"


def _refusal(words: str) -> Exception | None:
    """The exception with which a process refused to begin, where another one would do the same."""
    from ..guard import NotReady

    last = words.strip().splitlines()[-1:] or [""]
    for kind in (ValueError, TypeError, ImportError, ModuleNotFoundError, SyntaxError, FileNotFoundError, OSError):
        if last[0].startswith(f"{kind.__name__}: "):
            return (kind if kind in (ValueError, TypeError, OSError) else ValueError)(last[0])
    if "NotReady: " in words:
        problems = [line.strip()[2:] for line in words.splitlines() if line.startswith("  - ")]
        return NotReady(problems) if problems else None
    return None


def _last(beat: Path) -> tuple[float, str]:
    """When a process last moved, and what it was doing."""
    try:
        return beat.stat().st_mtime, beat.read_text(encoding="ascii")
    except OSError:
        return 0.0, ""


def _moves(out: Path) -> int:
    """Events that bring the list forward: each picture has some, and no more than `ATTEMPTS` deaths."""
    return sum(event["event"] in ("begin", "delivered", "given up") for event in Log(out / LOG).events())
