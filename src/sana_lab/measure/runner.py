"""Runs workers, one GPU each, keeps what each finds in a file of its own, and puts them together as a record.

Chapters 7 to 9.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from .. import evidence, isolated, machine
from ..checkpoints import Source, resolve
from ..digests import weights_digest
from ..evidence import journal
from .methods import LIMIT, METHODS, TUNED, find
from .tuned import products

RECORD = "measured"
WORKER = "sana_lab.measure.worker"
RESULT = {"resident": {"allocated": (int, float)}, "load": {"peak": (int, float)}, "ways": {str: (list, dict)}}
"""What a worker finds, see `journal.Shape`."""


@dataclass(frozen=True)
class Job:
    """One method on one checkpoint.

    Args:
        folder: of the checkpoint.
        method: key of `METHODS`.
        sizes: (pixels a side, pictures at once); empty for bytes alone.
        label: of the checkpoint, in file names and tables; the folder's name by default.
    """

    folder: Path
    method: str
    sizes: tuple[tuple[int, int], ...] = ()
    label: str = ""

    @property
    def checkpoint(self) -> str:
        """What the checkpoint is called in file names and tables."""
        return self.label or self.folder.name

    @property
    def name(self) -> str:
        """File name of its result, without `.json`."""
        return f"{self.checkpoint}--{self.method}"


def jobs_for(
    model: str | Path | Source, methods: Iterable[str] = tuple(METHODS), sizes: Sequence[tuple[int, int]] = ()
) -> list[Job]:
    """The jobs of one checkpoint.

    Args:
        model: what `load_sana` takes.
        methods: keys of `METHODS`.
        sizes: see `Job`.

    Raises:
        ValueError: an unknown method, or something that is no checkpoint.
        OSError: files are missing or damaged, or the Hub does not give them.
    """
    try:
        source = resolve(model)
        there = (source.folder / "model_index.json").is_file()
    except ValueError:
        there = False
    if not there:
        raise ValueError(f"{model} is no checkpoint: `sana-lab make-random 600M-512 {model}` makes one to measure.")
    source.check()
    return [Job(source.folder, name, tuple(sizes), source.name) for name in methods if find(name)]


def run(
    jobs: Sequence[Job], out: Path, *, gpus: int = 1, limit: float = LIMIT, progress: bool = True, alone: bool = True
) -> list[Job]:
    """Measure what is not measured yet, each in a process of its own; one at a time uses a GPU.

    While one is timed nothing else runs on the machine: the others load and compile before, or wait
    (`sana_lab.measure.worker.Quiet`). That takes long, so there is another way for a machine of several GPUs: each has
    its share of the processor's cores, and one GPU's methods run beside the others'. Each row says which it was.

    Args:
        jobs: begun in their order, each on the first GPU that is free.
        out: folder for one file a job. Files of finished jobs are left alone: run again to go on.
        gpus: of this machine; 0 where there is none, which measures bytes on a virtual one.
        limit: seconds for one job. One that waits for its turn gets twice as many, with the waiting.
        progress: show a bar.
        alone: while one is timed nothing else runs.

    Returns:
        The jobs that failed or ran out of time; what they had found is kept.

    Raises:
        ValueError: `out` holds results of other weights, libraries or hardware.
        OSError: `out` cannot be written.
    """
    from tqdm import tqdm

    hold(jobs, out)
    todo = [job for job in jobs if not _complete(job, out)]
    queue: Queue[Job] = Queue()
    for job in todo:
        queue.put(job)
    failed, lock = [], threading.Lock()
    with tqdm(total=len(jobs), initial=len(jobs) - len(todo), unit="method", disable=not progress) as bar:

        def serve(number: int) -> None:
            while not isolated.over():
                try:
                    job = queue.get_nowait()
                except Empty:
                    return
                good = _run_one(job, out, number % gpus if gpus else None, limit, 0 if alone else gpus)
                if isolated.over():  # and it was killed
                    return
                with lock:
                    bar.update()
                    if not good:
                        failed.append(job)

        # Two workers a GPU: while one has its turn, the next imports its libraries.
        isolated.at_once(serve, range(2 * max(gpus, 1)), 2 * max(gpus, 1))
    return failed


def hold(jobs: Sequence[Job], out: Path) -> None:
    """Note by what the results of each checkpoint are made, or hold this run to what is noted.

    Raises:
        ValueError: a checkpoint's results there were made with other weights, libraries or hardware.
        OSError: `out` cannot be written.
    """
    made_by = {"machine": evidence.this_machine()["device"], "versions": evidence.installed_versions()}
    for checkpoint, folder in {job.checkpoint: job.folder for job in jobs}.items():
        files = [out / f"{job.name}.json" for job in jobs if job.checkpoint == checkpoint]
        settings = {"weights": weights_digest(folder, out), **made_by}
        there = [file for file in files if file.exists()]
        journal.hold(out / f"{checkpoint}--settings.json", settings, place=out, results=there)


def _run_one(job: Job, out: Path, gpu: int | None, limit: float, beside: int = 0) -> bool:
    file = out / f"{job.name}.json"
    file.unlink(missing_ok=True)
    sizes = ",".join(f"{pixels}x{batch}" for pixels, batch in job.sizes)
    turn = str(out / f".turn-{gpu or 0}")
    given = (str(job.folder), job.method, str(file), "--sizes", sizes, "--turn", turn)
    share = ("--share", f"{gpu}/{beside}") if beside and gpu is not None else ("--quiet", str(out / ".quiet"))
    command = isolated.module(WORKER, *given, *share)
    environ = {"HF_HUB_OFFLINE": "1"}
    if gpu is not None:
        shown = machine.entries()
        environ[machine.VARIABLE] = shown[gpu] if shown else str(gpu)
    with (out / f"{job.name}.log").open("w") as log:
        process = isolated.start(command, environ=environ, stdout=log, stderr=log)
        try:
            return process.wait(2 * limit) == 0
        except subprocess.TimeoutExpired:
            log.write(f"stopped after {2 * limit:.0f} s, its wait included: give --limit more than {limit:g}\n")
            return False
        finally:
            isolated.end(process)


def _complete(job: Job, out: Path) -> bool:
    """Whether a whole result is there, of the sizes that are asked for."""
    found = _found(job, out)
    if found is None or journal.complaint(found, RESULT):
        return False
    return found.get("complete") is True and found.get("sizes") == [list(size) for size in job.sizes]


def _found(job: Job, out: Path) -> dict[str, Any] | None:
    """What a job's file holds; None if it is not there, or no worker wrote it."""
    try:
        found = journal.read(out / f"{job.name}.json", dict, way_out="")
    except (OSError, ValueError):
        return None
    return None if "resident" in found and journal.complaint(found, RESULT) else found


def _log(job: Job, out: Path) -> str:
    file = out / f"{job.name}.log"
    return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""


def collect(jobs: Sequence[Job], out: Path) -> list[dict[str, Any]]:
    """What was found: a row a job that has a file, with its checkpoint and method, and whether it was stopped.

    A job that had its products tuned has what was tried, too: see `sana_lab.measure.tuned.products`.
    """
    rows = []
    for job in jobs:
        found = _found(job, out)
        if found is not None:
            if not found.get("complete"):
                found.setdefault("error", "Unfinished")
                found.setdefault("text", "it was stopped before all was measured")
            tried = products(_log(job, out)) if set(find(job.method).ways) & set(TUNED) else []
            row = {"checkpoint": job.checkpoint, "method": job.method, **found}
            rows.append(row | ({"tried": tried} if tried else {}))
    return rows


def save(jobs: Sequence[Job], out: Path, command: str, *, folder: Path, name: str = RECORD) -> Path:
    """Write the record of what was found.

    Raises:
        ValueError: nothing was.
    """
    rows = collect(jobs, out)
    if not rows:
        raise ValueError(f"nothing was measured in {out}: run `{command}` first.")
    return evidence.save(
        name,
        what="Bytes and times of real-size checkpoints with seeded random weights, each method in a process of its own",
        command=command,
        machine={**evidence.this_machine(), "processor": machine.processor(), "cores": machine.cores()},
        results={"rows": rows, "guidance": "a batch of n pictures is one of 2 n in the transformer"},
        versions=evidence.installed_versions("torchao"),
        seed=0,
        folder=folder,
    )
