"""Runs the steps of `sana-lab confirm`, each in a process of its own, and goes on where it was stopped.

Chapter 14.
"""

from __future__ import annotations

import errno
import gc
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import isolated, machine
from ..checkpoints import Source, resolve
from ..evidence import journal
from . import record, worker
from .kept import DOES_NOT, HAPPENS, NOT_CHECKED, STEPS, found_in, step_file
from .page import write_page
from .plan import LIMIT, Plan

if TYPE_CHECKING:
    from ..failures.outcome import Outcome

SETTINGS = "settings.json"
LINKS = ".links-"
"""What folders of links to a checkpoint's files begin with, see `sana_lab.confirm.files.plain_names`."""

AGAIN = ("TimeLimit", "ProcessDied")
"""What a step may end in that may go well another time."""

FAILURE_LIMIT = 600.0
"""Seconds for one failure: it loads the model at least once."""


def confirm(
    model: str | Path | Source,
    out: str | Path,
    plan: Plan,
    *,
    limit: float = LIMIT,
    apart: bool = True,
    jobs: int = 1,
    progress: bool = True,
    say: Callable[[str], object] = lambda text: None,
    command: str = "sana-lab confirm",
) -> record.Record:
    """Hold the book's claims against a checkpoint, and write one record and one page.

    Args:
        model: what `load_sana` takes.
        out: folder for the record, the page, the pictures and what each step has found. The same call goes on where it
            was stopped.
        plan: what is asked.
        limit: seconds for a step.
        apart: each step in a process of its own. False is quicker, for a notebook with a small model: what else lives
            on the GPU counts into the peaks, and nothing is survived.
        jobs: failures reproduced at a time; the card must hold the model once for each.
        progress: show a bar.
        say: takes a line when a step has failed.
        command: what the record is to say that one types.

    Returns:
        The record, as `sana_lab.confirm.load` reads it.

    Raises:
        ValueError: an unknown name, a folder of another pipeline or one that is quantized already; `out` holds a run
            with other settings, weights, versions or hardware.
        OSError: files are missing or damaged, or the Hub does not give them; `out` cannot be written, or its
            disk is full.

    Chapter 14.
    """
    from tqdm import tqdm

    source, out = resolve(model), Path(out)
    journal.must_be_writable(out, out)
    source.check()
    _ = source.pipeline_class
    _must_have_room(out, plan, source)
    with _room_or_words(out):
        journal.hold(out / SETTINGS, plan.settings(source, out), place=out, results=list((out / STEPS).glob("*.json")))
        (out / STEPS).mkdir(exist_ok=True)
        _clear(out)
        total = 1 + len(plan.names) + len(plan.failures) * (plan.gpu != "none")
        with tqdm(total=total, unit="step", leave=False, disable=not progress) as bar:
            for step in ("files", *plan.names):
                bar.set_description(step)
                found = _step(source, step, plan, out, limit, apart, lambda at: bar.set_postfix_str(at))
                if "failed" in found:
                    failed = found["failed"]
                    say(f"{step}: {failed['error']}: {failed['text'][:200]}")
                bar.update()
            if plan.gpu != "none":
                bar.set_description("failures")
                bar.set_postfix_str("")
                _failures(source, plan, out, jobs, bar.update)
        found = record.save(source, plan, out, command)
        write_page(found, out)
    return found


def _step(
    source: Source, step: str, plan: Plan, out: Path, limit: float, apart: bool, at: Callable[[str], object]
) -> dict[str, Any]:
    """What a step finds, or has found before. What ran out of time, or died, is tried again.

    Raises:
        ValueError, OSError: nothing can be done with this checkpoint, or the disk is full.
    """
    kept = found_in(out, step)
    if kept is not None and kept.get("failed", {}).get("error") not in AGAIN:
        return kept
    request = {
        "model": str(source.model),
        "folder": source.checkpoint is None and source.model != "shapes",
        "step": step,
        "plan": asdict(plan),
        "out": str(out),
    }
    environ = {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    last: dict[str, Any] = {}
    command = isolated.module(worker.__name__)
    with isolated.Worker(command, request, environ=environ, limit=limit) if apart else _Here(request) as process:
        for answer in process:
            if "at" in answer:
                at(answer["at"])
            else:
                last = answer
    if "refused" in last:
        raise (ValueError if last["kind"] == "ValueError" else OSError)(last["refused"])
    if "full" in last:
        raise OSError(errno.ENOSPC, last["full"])
    if "found" in last:
        found = last["found"]
    elif "failed" in last:
        found = {"failed": last["failed"]}
    else:
        why = f"not done after {limit:g} seconds" if process.late else f"its process ended with status {process.status}"
        words = process.words.strip().rpartition("\n")[2][:200]
        found = {"failed": {"error": AGAIN[not process.late], "text": f"{why}. {words}".strip()}}
        if step == "files":
            raise OSError(f"{source}: its files could not be read, {found['failed']['text']}")
    journal.write_json(step_file(out, step), found)
    return found


def _clear(out: Path) -> None:
    """Delete what a killed run has left half-done."""
    for partial in out.rglob(".*.partial"):
        partial.unlink(missing_ok=True)
    for links in out.glob(f"{LINKS}*"):
        shutil.rmtree(links, ignore_errors=True)


class _Here:
    """A worker that is this process."""

    late, status, words = False, 0, ""

    def __init__(self, request: dict[str, Any]) -> None:
        """Take what a worker takes."""
        self.request = request

    def __enter__(self) -> _Here:
        """Begin."""
        return self

    def __exit__(self, *error: object) -> None:
        """Let go of the pipeline, which is full of circles."""
        gc.collect()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """What a worker answers, as it comes through a pipe."""
        return (json.loads(json.dumps(answer)) for answer in worker.answers(self.request))


def _failures(source: Source, plan: Plan, out: Path, jobs: int, done: Callable[[], object]) -> None:
    """Reproduce what is not reproduced yet."""
    from ..failures.runner import run_many
    from .files import plain_names

    todo = [id for id in plan.failures if found_in(out, f"failure-{id}") is None]
    for _ in range(len(plan.failures) - len(todo)):
        done()
    files = found_in(out, "files") or {}
    if files.get("class") == "SanaSprintPipeline":
        for id in todo:
            why = "the reproduction is written for SanaPipeline, and this is Sprint's"
            journal.write_json(step_file(out, f"failure-{id}"), {"state": NOT_CHECKED, "words": why})
            done()
        return
    if not todo:
        return

    def keep(outcome: Outcome) -> None:
        journal.write_json(step_file(out, f"failure-{outcome.id}"), came_of(outcome))
        done()

    with tempfile.TemporaryDirectory(prefix=LINKS, dir=out) as scratch:
        folder = plain_names(source.folder, Path(scratch))
        for visible, ids in _by_visible(todo, plan).items():
            run_many(
                [(id, None) for id in ids],
                jobs=jobs,
                virtual=plan.gpu == "virtual",
                time_limit=FAILURE_LIMIT,
                visible=visible,
                folder=folder,
                done=keep,
            )


def _by_visible(ids: list[str], plan: Plan) -> dict[str | None, list[str]]:
    """`CUDA_VISIBLE_DEVICES` -> failures that want this number of GPUs, no more: some are about a machine without any.

    On the virtual GPU each reproduction says itself how many there are: None.
    """
    from ..failures.catalogue import get

    entries = machine.entries() if plan.gpu == "real" else []
    found: dict[str | None, list[str]] = {}
    for id in ids:
        found.setdefault(",".join(entries[: get(id).gpus]) if plan.gpu == "real" else None, []).append(id)
    return found


def came_of(outcome: Outcome) -> dict[str, Any]:
    """What came of a reproduction: its state, and the words in which it showed or what was there in their place."""
    from ..failures.catalogue import get
    from ..failures.outcome import DIED, TIME_LIMIT
    from ..messages import leading_words, without_folders

    failure = get(outcome.id)
    if outcome.error:
        words = f"{outcome.error}: {leading_words(without_folders(outcome.message), 280)}"
    elif failure.shows == "output":
        words = outcome.printed
    else:
        lines = outcome.log.splitlines()
        words = next((line for line in lines if failure.matches(line)), "ran to its end without a word")
    if failure.shown_in(outcome):
        state = HAPPENS
    elif outcome.error in (TIME_LIMIT, DIED) or (outcome.error and failure.shows != "error"):
        state = NOT_CHECKED
    else:
        state = DOES_NOT
    return {"state": state, "words": without_folders(words)[:300], "seconds": outcome.seconds}


def _must_have_room(out: Path, plan: Plan, source: Source) -> None:
    """Refuse a disk that the pictures would fill.

    Raises:
        OSError: it has less room than they may take.
    """
    place = out
    while not place.exists():
        place = place.parent
    needed, free = plan.room(source.side), shutil.disk_usage(place).free
    if free < needed:
        raise OSError(
            f"--out {out}: pictures and record may take {needed / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free "
            "there: give another --out FOLDER."
        )


@contextmanager
def _room_or_words(out: Path) -> Iterator[None]:
    """Let an error about a full disk say what to do. What was finished before is kept."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(
            f"--out {out}: the disk is full: make room, and the same command goes on with what is finished."
        ) from None
