"""A list of pictures, each delivered once whatever happens: the loop of a service, and its log.

**A picture is a file** that appears whole (`journal.replacing`), so what is there is done, however the last run ended,
and is not drawn again. **The log** says in lines of JSON what happened, one line an event, in the order in which it
did; each failure with what `explain` makes of it. **What fails is tried again**: once as it was, with all cached memory
given back, then by the next way, which holds less. What fails in every way is given up and named.

An error after which CUDA cannot be used ends the process: `supervise` starts another.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ..evidence import journal
from ..failures import explain
from ..generate import drawing
from ..generate.prompts import Wanted
from ..guard import NotReady
from ..monitor import memory
from ..monitor.watch import resident
from .pictures import wrong_with
from .start import draw, start_up
from .ways import Way, let_go, must_be_ways, no_room, poisoned

LOG = "service.jsonl"
SETTINGS = "service.json"
BEAT = ".beat"
"""A file whose time says when the process last moved: at each step of each picture. Its text says what it does."""
NOTES = "sana-lab"
"""Key of the text in a picture that says how it was drawn."""
ATTEMPTS = 3
"""How often the same picture may be begun by processes that die before they deliver it."""


@dataclass
class Report:
    """What became of a list of pictures.

    Attributes:
        delivered: file names, in the order in which they were made by this run.
        there: file names that were there before.
        given_up: file name -> why.
        events: how often what happened.

    Chapter 13.
    """

    delivered: list[str] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    given_up: dict[str, str] = field(default_factory=dict)
    events: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        """One line."""
        failures = {name: n for name, n in self.events.items() if name not in ("begin", "delivered", "loaded")}
        survived = ", ".join(f"{n} × {name}" for name, n in failures.items()) or "nothing failed"
        lost = f", {len(self.given_up)} given up" * bool(self.given_up)
        return f"{len(self.delivered)} delivered, {len(self.there)} were there{lost}; {survived}"


class Log:
    """Lines of JSON in a file, whole ones only."""

    def __init__(self, file: Path):
        """Go on with a file; what a killed process left of a line is cut off."""
        self.file = file
        if file.exists():
            kept = file.read_bytes()
            end = kept.rfind(b"\n") + 1
            if end < len(kept):
                with file.open("rb+") as cut:
                    cut.truncate(end)

    def add(self, event: str, **said: Any) -> dict[str, Any]:
        """Write an event down, at once."""
        line = {"when": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **said}
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        return line

    def events(self) -> list[dict[str, Any]]:
        """All events, the oldest first; lines that hold no event are left out."""
        found = []
        try:
            lines = self.file.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and isinstance(event.get("event"), str):
                found.append(event)
        return found


def told(error: BaseException) -> dict[str, Any]:
    """An exception for the log: its class, its first line, and what `explain` knows of it."""
    answers = explain(error).answers
    return {
        "error": type(error).__name__,
        "words": str(error).strip().partition("\n")[0][:300],
        "known": [answers[0].failure.id, answers[0].failure.title] if answers else None,
    }


def deliver(
    wanted: Sequence[Wanted],
    out: str | os.PathLike,
    ways: Sequence[Way],
    *,
    pixels: int | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    check: bool = True,
    say: Callable[[str], object] = lambda text: None,
) -> Report:
    """Draw pictures one by one, each into its file, and survive what can be survived.

    Args:
        wanted: the pictures, see `sana_lab.generate.prompts`.
        out: folder for pictures and log. A run that was stopped goes on there, with the same settings.
        ways: to load the pipeline, the first to try first. Having gone on to one, the run stays with it.
        pixels: width and height; by default the model's own.
        steps: of denoising; by default the pipeline's own.
        guidance: strength of the prompt; likewise.
        check: `start_up` each pipeline before it draws.
        say: takes a line when something has happened that is worth one.

    Returns:
        What became of each picture.

    Raises:
        ValueError: the folder belongs to a run with other settings, or has pictures of other prompts or seeds.
        TypeError: `ways` are not a sequence of `Way`.
        OSError: the folder cannot be written, or another process delivers into it.
        NotReady: no way gives a pipeline that is fit to begin; the last one's problems.
        Exception: CUDA cannot be used any more in this process; or one that is no failure of a picture.

    Chapter 13.
    """
    run = _Run(wanted, Path(out), must_be_ways(ways), pixels, steps, guidance, check, say)
    with run.alone():
        return run.go()


class _Run:
    def __init__(self, wanted, out, ways, pixels, steps, guidance, check, say):
        self.wanted, self.out, self.ways = list(wanted), out, ways
        self.pixels, self.steps, self.guidance = pixels, steps, guidance
        self.check, self.say, self.report = check, say, Report()
        self.way, self.pipe, self.monitor = 0, None, memory(live=False)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Lock the folder: two processes would draw the same. The system unlocks it however the process ends."""
        journal.must_be_writable(self.out, self.out)
        settings = {
            "ways": [way.name for way in self.ways], "pixels": self.pixels, "steps": self.steps,
            "guidance": self.guidance,
        }  # fmt: skip
        journal.hold(
            self.out / SETTINGS, settings, results=[p for w in self.wanted if (p := self.out / w.name).exists()]
        )
        with (self.out / ".lock").open("w") as lock:
            _lock(lock, self.out)
            journal.clear(self.out, {w.name for w in self.wanted})
            self.log = Log(self.out / LOG)
            try:
                yield
            finally:
                self._release()

    def go(self) -> Report:
        begun, delivered = self._before()
        for one in self.wanted:
            file = self.out / one.name
            if is_there(file, one):
                if one.name not in delivered:  # killed between the file and the line
                    self.log.add("delivered", name=one.name, way=None, found=True)
                self.report.there.append(one.name)
            elif begun[one.name] >= ATTEMPTS:
                self._give_up(one, f"{begun[one.name]} processes died or hung at it")
            else:
                self._deliver(one, file)
        return self.report

    def _before(self) -> tuple[Counter[str], set[str]]:
        """How often each picture was begun by earlier processes, and which were delivered; the way they had come to."""
        begun: Counter[str] = Counter()
        delivered = set()
        names = [way.name for way in self.ways]
        for event in self.log.events():
            name = event.get("name")
            if event["event"] == "begin":
                begun[name] += 1
            elif event["event"] in ("failed", "delivered"):  # it lived to say so
                begun[name] = max(0, begun[name] - 1)
                delivered |= {name} if event["event"] == "delivered" else set()
            elif event["event"] == "loaded" and event.get("way") in names:
                self.way = max(self.way, names.index(event["way"]))
        return begun, delivered

    def _deliver(self, one: Wanted, file: Path) -> None:
        """One picture, by this way or one of the next."""
        again = True  # what went wrong by chance does not come again: one more try, with what was cached given back
        while True:
            pipe = self._pipe()
            self._event("begin", name=one.name)
            since = time.perf_counter()
            try:
                picture = self._draw(pipe, one)
                wrong = wrong_with(picture)
                self.monitor.done()
            except Exception as error:
                said = told(error)
                self._event(
                    "cuda lost" if poisoned(error) else "failed", name=one.name, **said, stage=self.monitor.stage
                )
                if poisoned(error):
                    raise
                self.monitor.done(failed=True)
                why = f"{said['error']}: {said['words']}"
                del error
            else:
                if not wrong:
                    self._write(picture, one, file)
                    self._event(
                        "delivered", name=one.name, seconds=round(time.perf_counter() - since, 3),
                        peak=max(stage.allocated for stage in self.monitor.last), **_held(),
                    )  # fmt: skip
                    self.report.delivered.append(one.name)
                    return
                why = wrong
                self._event("failed", name=one.name, error="NoPicture", words=wrong, known=None)
            pipe = None
            if again:
                again = False
                let_go()
            elif self.way + 1 < len(self.ways):
                self._next_way(f"{one.name}: {why}")
                again = True
            else:
                self._give_up(one, why)
                return

    def _draw(self, pipe: Any, one: Wanted) -> torch.Tensor:
        def moved(pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            beat(self.out)
            return values

        beat(self.out)
        more: dict[str, Any] = {"callback_on_step_end": moved}
        if self.guidance is not None:
            more["guidance_scale"] = self.guidance
        pixels = self.pixels or drawing.own_size(pipe)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters ends in an exception or in something that is no picture
            return draw(pipe, one.prompt, seed=one.seed, pixels=pixels, steps=self.steps, **more)

    def _write(self, picture: torch.Tensor, one: Wanted, file: Path) -> None:
        from PIL import Image, PngImagePlugin

        values = picture.detach().to("cpu", torch.float32).clamp(0, 1).mul(255).round().to(torch.uint8)
        keep = PngImagePlugin.PngInfo()
        keep.add_itxt(NOTES, json.dumps({"prompt": one.prompt, "seed": one.seed, "way": self.ways[self.way].name}))
        with journal.replacing(file) as partial:
            Image.fromarray(values.permute(1, 2, 0).numpy()).save(partial, format="png", pnginfo=keep)

    def _pipe(self) -> Any:
        """The pipeline of the way at hand, loaded if need be; of the next where that one is not fit."""
        while self.pipe is None:
            way = self.ways[self.way]
            beat(self.out, "loading")
            try:
                self.pipe = way.load()
                if hasattr(self.pipe, "set_progress_bar_config"):
                    self.pipe.set_progress_bar_config(disable=True)
                if self.check:
                    beat(self.out, "loading")
                    start_up(self.pipe, pixels=self.pixels)
                self.monitor = memory(self.pipe, live=False)
                self.monitor.__enter__()
                self._event("loaded", **_held())
            except Exception as error:
                if poisoned(error) or not (no_room(error) or isinstance(error, NotReady)):
                    raise
                self._event("not fit", **told(error))
                self.pipe = None
                if self.way + 1 == len(self.ways):
                    raise
                why = str(error).strip().splitlines()
                del error
                self._next_way(f"not fit to begin: {why[1].strip(' -') if len(why) > 1 else why[0]}")
        return self.pipe

    def _release(self) -> None:
        """Let the pipeline go, hooks and all."""
        if self.monitor.open:
            self.monitor.__exit__(None, None, None)
        self.pipe = None
        let_go()

    def _next_way(self, why: str) -> None:
        self._release()
        self.way += 1
        self.say(f"{why[:200]}. Going on with: {self.ways[self.way].name}")

    def _give_up(self, one: Wanted, why: str) -> None:
        self._event("given up", name=one.name, words=why)
        self.report.given_up[one.name] = why
        self.say(f"{one.name} is given up: {why[:200]}")

    def _event(self, event: str, **said: Any) -> None:
        self.report.events[event] += 1
        self.log.add(event, way=self.ways[self.way].name, **said)


def is_there(file: Path, one: Wanted) -> bool:
    """Whether a picture is there, whole, and the one that is wanted.

    Raises:
        ValueError: it is there and another one, or not from here.
        OSError: it cannot be read.
    """
    read = drawing.read_png(file)
    if read is None:
        return False
    whole, info = read
    try:
        notes = json.loads(info.get(NOTES, "null"))
    except ValueError:
        notes = None
    if not isinstance(notes, dict):
        raise drawing.not_from_here(file)
    wanted = {"prompt": one.prompt, "seed": one.seed}
    journal.hold_to({key: notes.get(key) for key in wanted}, wanted, file, "a picture")
    return whole


def beat(out: Path, doing: str = "drawing") -> None:
    """Say that this process moves, and whether it is "loading" or "drawing"."""
    (out / BEAT).write_text(doing, encoding="ascii")


def _held() -> dict[str, int]:
    """Bytes that stay between two pictures: on the GPU, and of this process."""
    return {"gpu": torch.cuda.memory_allocated() if torch.cuda.is_available() else 0, "host": resident()}


def _lock(file: Any, out: Path) -> None:
    """Lock a file for as long as this process runs.

    Raises:
        OSError: another process has locked it.
    """
    try:
        import fcntl
    except ImportError:  # Windows: two processes on one folder are not noticed
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise OSError(f"--out {out}: another process delivers into it; give another folder, or wait for it.") from None
