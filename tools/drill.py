"""Break long commands on purpose, and see whether they hold: `make drill`, outside CI.

    python tools/drill.py                               every case once: an hour on two cores
    python tools/drill.py kill evaluate --rounds 20     only cases whose names hold these words, twenty times each
    python tools/drill.py --list

Each command first runs undisturbed. Then it is killed at random moments and started again, run twice at once in one
folder, run on a disk that is full or read-only, forked in the middle, and started again over damaged results. It holds
if it ends with the results of the undisturbed run, or with one line and exit status 2; and no process and no half-made
file is left.

Two commands want what a laptop has not, and are given a stand-in for it. `versions` builds its environments with a `uv`
that installs nothing: its probes meet the libraries that are here. `cards` tries two ways on one virtual card.
"""

from __future__ import annotations

import functools
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

from sana_lab import commandline
from sana_lab.shapes.untrained import untrained_shapes
from sana_lab.versions.stacks import STACKS

LIMIT = 900
"""Seconds that a command may take on a busy machine."""

PROGRESS = re.compile(r"%\||it/s|^\[\d+/\d+\] ")
"""A bar, or a step of many such as `[1/9] ...: done`."""

PAGE = 4096
"""Bytes in which a disk in memory is counted."""

FORKING = """
import os, runpy, sys, threading, time
def fork(moment):
    time.sleep(moment)
    if os.fork() == 0:
        sys.exit(0)
threading.Thread(target=fork, args=[float(sys.argv.pop(1))], daemon=True).start()
module = sys.argv.pop(1)
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""

UV = """#!/bin/sh
# Stands in for uv: an environment is the Python that is here.
if [ "$1" = venv ]; then
    for last; do :; done
    mkdir -p "$last/bin"
    printf '#!/bin/sh\\nexec {python} "$@"\\n' > "$last/bin/python"
    chmod +x "$last/bin/python"
fi
"""

CARDS = """
import functools, sys, types
from sana_lab.fitting import cards, ways
cards.DRAWS = ((128, 1, "tiles"), (128, 1, "whole"))
cards.TIMED_STEPS, cards.LIMIT = cards.STEPS, 600
cards.machine = types.SimpleNamespace(gpus=lambda: ["a virtual one"], free_memory=lambda: None)
cards.prepare = lambda work: {name: work for name in (cards.CHECKPOINTS[0], cards.TIMED)}
cards.record = functools.partial(cards.record, virtual=True, cards=(16,))
ways.WAYS = {name: ways.WAYS[name] for name in ("16-bit", "16-bit-drop")}
sys.exit(cards.main())
"""
"""`fitting.cards` in small, on a virtual card."""

BOOK = {
    "stub": "def bits_per_value(values, bits, block):\n    return {answer}",
    "tried": "from sana_lab.exercises.ch02 import check_bits_per_value\n\ncheck_bits_per_value(bits_per_value)",
}
"""A chapter of one exercise, to be marked."""
ANSWERS = {"ada": "bits + 32 * -(-values // block) / values", "bo": "bits", "cy": "1 / 0", "di": "None"}


@dataclass(frozen=True)
class Job:
    """A long command.

    Args:
        words: what follows `python -m`; {model}, {prompts}, {stacks}, {book}, {learners} and {out} are filled in.
        found: what a folder of results holds, to be compared.
        files: patterns of the files that are damaged.
        same: whether a stopped run must find what an undisturbed one does; training draws other random numbers.
    """

    words: str
    found: Callable[[Path], Any]
    files: tuple[str, ...]
    same: bool = True


def bytes_of(pattern: str) -> Callable[[Path], Any]:
    """The bytes of the files of a pattern."""
    return lambda out: {path.name: path.read_bytes() for path in sorted(out.glob(pattern))}


def results_of(name: str, *without: str) -> Callable[[Path], Any]:
    """The results of a record, without fields that differ from run to run."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if key not in without}
        return [plain(item) for item in value] if isinstance(value, list) else value

    return lambda out: plain(json.loads((out / f"{name}.json").read_text(encoding="utf-8"))["results"])


TRAINING = "--autoencoder-batch 1 --bank 4 --sentences 1 --transformer-batch 1 --save-every 1"
JOBS = {
    "generate": Job(
        "sana_lab.cli generate --prompts {prompts} --out {out} --model {model} --virtual --steps 2 --precision bf16",
        bytes_of("*.png"),
        ("*.png",),
    ),
    "evaluate": Job(
        "sana_lab.evaluate --out {out} --model {model} --virtual --conditions int8 -n 6 --objects 1 --steps 1 "
        "--chunk 2 --sweep 0 --readers 1",
        results_of("evaluation_shapes"),
        ("parts/*.jsonl", "settings.json"),
    ),
    "outliers": Job(
        "sana_lab.outliers -n 4 --steps 1 --batch 2 --factors 1 10 --model {model} --out {out}",
        results_of("outlier_adherence", "seconds"),
        ("*.partial",),
    ),
    "quality": Job(
        "sana_lab.measure.quality -n 2 --steps 1 --batch 2 --factors 1 --out {out}",
        results_of("fast_quality"),
        ("*.partial",),
    ),
    "train": Job(
        f"sana_lab.shapes.train --out {{out}} --device cpu --autoencoder-steps 6 --transformer-steps 6 {TRAINING}",
        lambda out: sorted(path.relative_to(out).as_posix() for path in out.glob("pipeline/**/*")),
        ("*.pt", "plan.json"),
        same=False,
    ),
    "measure": Job(
        "sana_lab.cli measure {model} --method int8 --method 16-bit --out {out}",
        lambda out: [(row["method"], row["resident"]) for row in results_of("measured")(out)["rows"]],
        ("*.json",),
    ),
    "versions": Job(
        f"sana_lab.cli versions run {STACKS[-1].name} --record {{out}} --probe map-auto --probe move-encoder",
        results_of("version_matrix", "seconds", "when"),
        ("*.json",),
    ),
    "versions-real": Job(
        "sana_lab.versions.real {stacks} --out {out} --virtual --jobs 1 --probe map-auto --probe move-encoder "
        "--probe layer-on-gpu",
        results_of("versions_real", "seconds"),
        ("*.json",),
    ),
    "guidance": Job(
        "sana_lab.evaluate.guidance_off --out {out} -n 2 --ways bf16 --steps 1 --processes 1 --virtual",
        results_of("guidance_off", "seconds"),
        ("parts/*", "settings.json"),
    ),
    "cards": Job(
        "drill_cards {model} --out {out}",
        lambda out: sorted((row["way"], row["pictures"]) for row in results_of("small_cards")(out)["rows"]),
        ("*.partial",),
    ),
    "serve": Job(
        "sana_lab.cli serve {model} --prompts {prompts} --out {out} --virtual --steps 1 --size 64",
        bytes_of("*.png"),
        ("*.png", "service.*"),
    ),
    "grade": Job(
        "sana_lab.cli grade {learners} --out {out} --book {book}",
        bytes_of("marks.csv"),
        ("graded.json", "marks.csv"),
    ),
}


class Drill:
    """A place to break things in, and what came of it."""

    def __init__(self, place: Path, dice: random.Random):
        """Make what the commands need."""
        self.place, self.dice, self.rows = place, dice, []
        self.whole: dict[str, tuple[Any, float]] = {}
        names = {"prompts": "prompts.txt"} | {name: name for name in ("model", "stacks", "book", "learners")}
        self.given = {name: place / file for name, file in names.items()}
        shutil.copytree(untrained_shapes(), self.given["model"])
        self.given["prompts"].write_text("".join(f"a red star {i}\n" for i in range(8)), encoding="utf-8")
        (self.given["stacks"] / STACKS[-1].name).mkdir(parents=True)
        _write_chapter(self.given["book"], "bits")
        for learner, answer in ANSWERS.items():
            _write_chapter(self.given["learners"] / learner, answer)
        (place / "drill_cards.py").write_text(CARDS, encoding="utf-8")
        (place / "bin").mkdir()
        (place / "bin" / "uv").write_text(UV.format(python=sys.executable), encoding="utf-8")
        (place / "bin" / "uv").chmod(0o755)
        self.environ = {
            "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1",
            "PATH": os.pathsep.join([str(place / "bin"), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(place), os.environ.get("PYTHONPATH")])),
        }  # fmt: skip

    def command(self, name: str, out: Path, *python: str) -> list[str]:
        """The command of a job; `python` replaces `-m MODULE`."""
        words = [word.format(**self.given, out=out) for word in JOBS[name].words.split()]
        return [sys.executable, *(python or ("-m", words[0])), *words[1:]]

    def start(self, command: list[str], **options: Any) -> subprocess.Popen:
        """Start a command, with what it says in a file."""
        self.said = self.place / f"said-{self.dice.getrandbits(48):x}.txt"
        environ = {**os.environ, **self.environ}
        with self.said.open("w") as said:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, env=environ, **options)
        process.said = self.said
        return process

    def end(self, process: subprocess.Popen) -> tuple[int, list[str]]:
        """Status, and the lines said that tell of no progress."""
        status = process.wait(LIMIT)
        lines = process.said.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").splitlines()
        return status, [line for line in lines if line.strip() and not PROGRESS.search(line)]

    def undisturbed(self, name: str) -> tuple[Any, float]:
        """What a job finds, and its seconds."""
        if name not in self.whole:
            out, began = self.place / f"{name}-whole", time.monotonic()
            status, said = self.end(self.start(self.command(name, out)))
            if status:
                raise RuntimeError(f"{name} fails undisturbed: {' '.join(said[-1:])}")
            self.whole[name] = JOBS[name].found(out), time.monotonic() - began
        return self.whole[name]

    def goes_on(self, name: str, out: Path) -> str:
        """Run the same command again: what is wrong with what it finds, "" if nothing is."""
        expected, _ = self.undisturbed(name)
        status, said = self.end(self.start(self.command(name, out)))
        if status:
            return f"does not go on: {status}, {' '.join(said[-1:])[:100]}"
        if JOBS[name].same and JOBS[name].found(out) != expected:
            return "goes on to other results"
        left = [path.name for path in out.rglob(".*") if path.name.endswith(".partial") or ".sana-lab" in path.name]
        return f"leaves {left[0]}" if left else ""

    def row(self, case: str, expected: str, seen: str) -> None:
        """Note an outcome; `seen` is "" if it held."""
        self.rows.append((case, expected, seen or "as expected", not seen))
        print(f"{case}: {seen or 'held'}", flush=True)


def _write_chapter(folder: Path, answer: str) -> None:
    """Write a chapter of one exercise, with an answer to it."""
    import nbformat
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

    folder.mkdir(parents=True)
    cells = [new_markdown_cell("**3. What do blocks cost?** Write.")]
    cells += [new_code_cell(BOOK[part].format(answer=answer)) for part in ("stub", "tried")]
    nbformat.write(new_notebook(cells=cells), folder / "02_small.ipynb")


def kill(drill: Drill, name: str, sign: signal.Signals) -> None:
    """Kill a command at a random moment, and start it again."""
    _, seconds = drill.undisturbed(name)
    out = drill.place / f"{name}-{sign.name}-{drill.dice.getrandbits(32):x}"
    process = drill.start(drill.command(name, out))
    moment = seconds * drill.dice.uniform(0.2, 0.95)
    time.sleep(moment)
    children = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    process.send_signal(sign)
    status, said = drill.end(process)
    wrong = ""
    if status == 0:
        wrong = ""  # it had just ended
    elif sign == signal.SIGINT and (status != 130 or len(said) != 1 or "stopped" not in said[0]):
        wrong = f"status {status}, {len(said)} lines, {' '.join(said[-1:])[:80]}"
    ends = time.monotonic() + 30
    while alive := [pid for pid in children if psutil.pid_exists(pid) and _runs(pid)]:
        if time.monotonic() > ends:
            wrong = f"{len(alive)} processes outlive it"
            break
        time.sleep(0.2)
    wrong = wrong or drill.goes_on(name, out)
    drill.row(f"kill {name} {sign.name} after {moment:.0f} s", "goes on to the same results", wrong)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def two(drill: Drill, name: str) -> None:
    """Run a command twice at once in one folder."""
    out = drill.place / f"{name}-two-{drill.dice.getrandbits(32):x}"
    ended = [drill.end(p) for p in [drill.start(drill.command(name, out)) for _ in range(2)]]
    wrong = [f"status {status}, {len(said)} lines: {' '.join(said[-1:])[:100]}" for status, said in ended]
    wrong = [
        words for words, (status, said) in zip(wrong, ended, strict=True) if status and not _one_line(status, said)
    ]
    drill.row(f"two {name}", "each ends or is refused; same results", "; ".join(wrong) or drill.goes_on(name, out))


def _one_line(status: int, said: list[str]) -> bool:
    return status == 2 and len(said) == 1


@contextmanager
def disk(place: Path, options: str) -> Iterator[bool]:
    """A small disk in memory, where this process may mount one."""
    place.mkdir()
    mounted = (
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "drill", place], capture_output=True).returncode == 0
    )
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", place], check=False)


def full(drill: Drill, name: str) -> None:
    """Run a command on a disk with half the room that it needs, and again with room."""
    drill.undisturbed(name)
    place = drill.place / f"{name}-full-{drill.dice.getrandbits(32):x}"
    sizes = [path.stat().st_size for path in (drill.place / f"{name}-whole").rglob("*") if path.is_file()]
    room = PAGE * max(1, sum(-(-size // PAGE) for size in sizes) // 2)
    with disk(place, f"size={room}") as mounted:
        small = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (max(sizes) // 2,) * 2)
        process = drill.start(drill.command(name, place / "out"), preexec_fn=None if mounted else small)
        status, said = drill.end(process)
        wrong = "" if _one_line(status, said) else f"status {status}, {' '.join(said[-1:])[:100]}"
        if mounted:
            subprocess.run(["mount", "-o", "remount,size=1g", place], check=True)
        wrong = wrong or drill.goes_on(name, place / "out")
    how = "full disk" if mounted else "files of limited size"
    drill.row(f"full {name} ({how})", "one line; goes on with room", wrong)


def readonly(drill: Drill, name: str) -> None:
    """Run a command on a disk that cannot be written."""
    place = drill.place / f"{name}-readonly-{drill.dice.getrandbits(32):x}"
    with disk(place, "ro") as mounted:
        if not mounted:
            place.chmod(0o555)
        status, said = drill.end(drill.start(drill.command(name, place / "out")))
    wrong = "" if _one_line(status, said) else f"status {status}, {len(said)} lines: {' '.join(said[-1:])[:100]}"
    drill.row(f"readonly {name}", "one line", wrong)


def fork(drill: Drill, name: str) -> None:
    """Fork a process in the middle of its work; the fork ends at once, as a library's helper would."""
    _, seconds = drill.undisturbed(name)
    out = drill.place / f"{name}-fork-{drill.dice.getrandbits(32):x}"
    moment = seconds * drill.dice.uniform(0.4, 0.9)
    module = JOBS[name].words.split()[0]
    words = drill.command(name, out, "-c", FORKING, f"{moment:.2f}", module)
    status, said = drill.end(drill.start(words))
    wrong = f"status {status}, {' '.join(said[-1:])[:100]}" if status else drill.goes_on(name, out)
    drill.row(f"fork {name} after {moment:.0f} s", "same results", wrong)


DAMAGE = {
    "empty": lambda data, dice: b"",
    "cut": lambda data, dice: data[: len(data) // 2],
    "zeros": lambda data, dice: bytes(len(data)),
    "noise": lambda data, dice: dice.randbytes(len(data)),
    "list": lambda data, dice: b"[]",
    "null": lambda data, dice: b"null",
}


def damage(drill: Drill, name: str) -> None:
    """Damage one result of a run, and start it again: it is made anew, or refused by name."""
    _, seconds = drill.undisturbed(name)
    out = drill.place / f"{name}-damage-{drill.dice.getrandbits(32):x}"
    whole = drill.place / f"{name}-whole"
    there = [path for pattern in JOBS[name].files for path in whole.glob(pattern)]
    if there:
        shutil.copytree(whole, out)
    else:  # a journal, which is there only while a run is
        process = drill.start(drill.command(name, out))
        time.sleep(seconds * 0.8)
        process.kill()
        process.wait()
        there = [path for pattern in JOBS[name].files for path in out.glob(pattern)]
        if not there:
            drill.row(f"damage {name}", "made anew, or refused by name", "nothing was there to damage: run it again")
            return
    kind = drill.dice.choice(sorted(DAMAGE))
    file = out / drill.dice.choice(sorted(there)).relative_to(whole if whole in there[0].parents else out)
    file.write_bytes(DAMAGE[kind](file.read_bytes(), drill.dice))
    status, said = drill.end(drill.start(drill.command(name, out)))
    wrong = ""
    if status == 0:
        if JOBS[name].same and JOBS[name].found(out) != drill.undisturbed(name)[0]:
            wrong = "other results"
    elif not (_one_line(status, said) and file.name in said[0]):
        wrong = f"status {status}, {len(said)} lines: {' '.join(said[-1:])[:100]}"
    drill.row(f"damage {name} {file.name} {kind} (status {status})", "made anew, or refused by name", wrong)


CASES: dict[str, Callable[[Drill], None]] = {
    f"kill {name} {sign.name}": functools.partial(kill, name=name, sign=sign)
    for name in JOBS
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
}
for what in (two, full, readonly, damage, fork):
    CASES |= {f"{what.__name__} {name}": functools.partial(what, name=name) for name in JOBS}


def table(rows: list[tuple[str, str, str, bool]]) -> str:
    """A line a case: case, expected, seen, held or not."""
    widths = [max(len(row[i]) for row in [*rows, ("case", "expected", "seen")]) for i in range(3)]
    lines = [("case", "expected", "seen", "held"), *((*row[:3], "yes" if row[3] else "NO") for row in rows)]
    return "\n".join("  ".join([*(c.ljust(w) for c, w in zip(line, widths, strict=False)), line[3]]) for line in lines)


def drill(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[WORD]...", help="Cases with all of these words.  [default: all]")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Of each case.", callback=commandline.whole(1, 1000))] = 1,
    seed: Annotated[int, typer.Option(help="Of moments and damages.", callback=commandline.SEED)] = 0,
    show: Annotated[bool, typer.Option("--list", help="Print the cases, and run none.")] = False,
) -> int:
    """Break long commands on purpose, and say what held. The exit status is 1 if something did not."""
    chosen = [name for name in CASES if set(words or ()) <= set(name.split())]
    if not chosen:
        raise ValueError(f"no case has the words {' '.join(words)}: --list names all.")
    if show:
        print("\n".join(chosen))
        return 0
    with tempfile.TemporaryDirectory(prefix="sana-lab-drill-") as place:
        broken = Drill(Path(place), random.Random(seed))
        for name in chosen:
            for _ in range(rounds):
                try:
                    CASES[name](broken)
                except (RuntimeError, OSError, ValueError, subprocess.TimeoutExpired) as error:
                    broken.row(name, "an outcome", f"{type(error).__name__}: {' '.join(str(error).split())[:100]}")
    print(f"\n{table(broken.rows)}")
    return int(not all(held for *_, held in broken.rows))


if __name__ == "__main__":
    sys.exit(commandline.run_command(drill, "python tools/drill.py"))
