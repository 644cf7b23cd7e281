"""Every way on cards of 6 to 16 GiB, real ones: a limit on what the process may have, loading included.

    python -m sana_lab.fitting.cards WORK --out FOLDER

makes three checkpoints with random weights in WORK (20 GB), and tries each way on each, a process for every card. A
way that did all that was asked of it on one card is not tried on a larger one. Then each way draws once alone, for the
times. The record is `small_cards`; `rows` reads it, and `agreement` compares it with what `peaks` computes. A stopped
run goes on with the same command.

Chapter 9.
"""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import evidence, isolated, machine
from ..commandline import goes_on, number, run_command, whole
from ..digests import weights_digest
from ..evidence import journal
from . import ways

RECORD = "small_cards"
COMMAND = "python -m sana_lab.fitting.cards WORK --out FOLDER"
CARDS = (6, 8, 12, 16)
"""GiB."""
CHECKPOINTS = ("600M-512", "1600M-1024", "1.5-4.8B")
TIMED = "1600M-1024"
DRAWS = (
    (512, 1, "whole"),
    (512, 4, "tiles"),
    (1024, 1, "tiles"),
    (1024, 4, "tiles"),
    (512, 4, "whole"),
    (1024, 1, "whole"),
    (1024, 4, "whole"),
)
"""Pixels a side, pictures at once, key of `ways.DECODES`: in the order of what they need, about."""
STEPS = 2
TIMED_STEPS = 20
PROMPT = "a small red star above a large blue ring on a white background"
RUNS = "runs"
"""What a draw does that did not run out of memory."""

LIMIT = 180
"""Seconds for one way on one card."""

SLOWER = ("group-offload-disk",)
"""Ways that write the weights anew: only timed."""

Found = dict[str, Any]
TIMED_ROW = {"checkpoint": str, "way": str, "draws": [dict]}
ROW = TIMED_ROW | {"pictures": int, "card (GiB)": (int, float)}


class Stages:
    """The most that was given out in each stage, as it goes. `now` is the stage that runs."""

    def __init__(self) -> None:
        """Loading comes first."""
        self.now, self.peaks = "load", {}

    def begin(self, name: str) -> None:
        """Close the stage that runs, and begin another, or the same again."""
        import torch

        self.peaks[self.now] = max(self.peaks.get(self.now, 0), torch.cuda.max_memory_allocated())
        torch.cuda.reset_peak_memory_stats()
        self.now = name


@contextmanager
def _encoding(stages: Stages) -> Iterator[None]:
    """Notice the encoding of prompts while a way loads."""
    from .. import slim

    encode = slim.encode

    def noticed(*args: Any, **kwargs: Any) -> Any:
        stages.begin("encode")
        try:
            return encode(*args, **kwargs)
        finally:
            if sys.exc_info()[0] is None:
                stages.begin("load")

    slim.encode = noticed
    try:
        yield
    finally:
        slim.encode = encode


def _watch(pipe: Any, stages: Stages) -> None:
    """Notice the first step, and the decoding."""
    decode = pipe.vae.decode

    def stepping(*_: Any) -> None:
        if stages.now != "steps":
            stages.begin("steps")

    def noticed(*args: Any, **kwargs: Any) -> Any:
        stages.begin("decode")
        return decode(*args, **kwargs)

    pipe.transformer.register_forward_pre_hook(stepping)
    pipe.vae.decode = noticed


def try_way(
    folder: str, name: str, gib: float | None, draws: list[tuple[int, int, str]], *, steps: int = STEPS, virtual=False
) -> Found:
    """Load in one way on a card, and draw; in a process of its own.

    Args:
        folder: of a checkpoint that `random_checkpoint.make` made in bf16, or any that is in it.
        name: of the way.
        gib: of the card, imitated by a limit on this process; None for the whole one.
        draws: as `DRAWS`.
        steps: of denoising.
        virtual: whether the GPU is.

    Returns:
        `load`: peaks by stage, seconds, bytes of host memory, or the stage in which memory ran out; `draws`: the same
        for each draw that was tried.
    """
    import torch

    from ..accelerator import use_accelerator
    from ..measure.left_behind import small_card, warm_up

    vram = {"vram": f"{gib}GiB" if gib else "80GiB"} if virtual else {}
    use_accelerator(virtual=virtual or None, **vram)
    for library in ("bitsandbytes", "diffusers", "transformers", "accelerate"):
        logging.getLogger(library).setLevel(logging.ERROR)
    warm_up()
    free, total = torch.cuda.mem_get_info()
    found: Found = {"beside": total - free - torch.cuda.memory_reserved(), "draws": []}
    if gib is not None and not virtual:
        small_card(int(gib * 2**30))
    torch.cuda.reset_peak_memory_stats()
    stages, pictures = Stages(), max(draw[1] for draw in draws)
    watcher = _Host()
    began = time.perf_counter()
    try:
        with _encoding(stages), torch.no_grad():
            pipe, given = ways.find(name).make(folder, None, torch.bfloat16, [PROMPT] * pictures)
        torch.cuda.synchronize()
        stages.begin("encode")
    except torch.cuda.OutOfMemoryError:
        return found | {"load": {"out of memory": stages.now, "peaks": stages.peaks}}
    except Exception as error:
        return found | {"load": {"failed": _words(error), "peaks": stages.peaks}}
    found["load"] = {"seconds": round(time.perf_counter() - began, 2), "peaks": stages.peaks, **watcher.end()}
    pipe.set_progress_bar_config(disable=True)
    _watch(pipe, stages)
    if steps > STEPS:  # it is timed, and a first call takes longer
        draws = [draws[0], *draws]
    for i, draw in enumerate(draws):
        row = _draw(pipe, given, draw, steps if i else min(steps, STEPS), stages)
        found["draws"].append(row)
        if "failed" in row:
            break
        if "out of memory" in row:
            with suppress(Exception):
                pipe.maybe_free_model_hooks()
            gc.collect()
            torch.cuda.empty_cache()
    found["reserved"] = torch.cuda.max_memory_reserved()
    return found


def _draw(pipe: Any, given: dict[str, Any], draw: tuple[int, int, str], steps: int, stages: Stages) -> Found:
    """One of `DRAWS`: its seconds, or the stage in which memory ran out, or what failed; and the peaks by stage."""
    import torch

    pixels, batch, decode = draw
    stages.now, stages.peaks = "encode", {}
    torch.cuda.reset_peak_memory_stats()
    tiled = decode != "whole"
    (pipe.vae.enable_slicing if tiled else pipe.vae.disable_slicing)()
    (pipe.vae.enable_tiling if tiled else pipe.vae.disable_tiling)()
    row: Found = {"pixels": pixels, "pictures": batch, "decode": decode}
    try:
        began = time.perf_counter()
        pipe(
            **{name: _first(value, batch) for name, value in given.items()},
            height=pixels,
            width=pixels,
            num_inference_steps=steps,
            use_resolution_binning=False,
        )
        torch.cuda.synchronize()
        row["seconds"] = round(time.perf_counter() - began, 3)
    except (torch.cuda.OutOfMemoryError, UnboundLocalError):  # the latter is the former, in `decode`: Sana#197
        row["out of memory"] = stages.now
    except Exception as error:
        row["failed"] = _words(error)
    stages.begin("encode")
    return row | {"peaks": stages.peaks}


def _first(value: Any, count: int) -> Any:
    return value if value is None else value[:count]


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


class _Host:
    """The most memory of the host that this process has for itself, until `end`."""

    def __init__(self) -> None:
        self._before = self._most = self._now()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    @staticmethod
    def _now() -> int:
        with suppress(OSError, StopIteration, ValueError):
            lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
            return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])
        return 0

    def _look(self) -> None:
        while not self._over.wait(0.05):
            self._most = max(self._most, self._now())

    def end(self) -> Found:
        self._over.set()
        self._thread.join()
        return {"host": max(self._most, self._now()) - self._before, "host after": self._now() - self._before}


# ---- running --------------------------------------------------------------------------------------------------------


def prepare(work: Path) -> dict[str, Path]:
    """Make what is missing of the checkpoints, each in a process of its own: name -> folder."""
    folders = {name: work / name for name in CHECKPOINTS}
    work.mkdir(parents=True, exist_ok=True)

    def make(name: str) -> None:
        if folders[name].exists():
            return
        shared = ["--parts-from", str(folders[CHECKPOINTS[0]])] * (name != CHECKPOINTS[0])
        command = isolated.module("sana_lab.cli", "make-random", name, str(folders[name]), "--dtype", "bf16", *shared)
        process = isolated.start(command, stdout=subprocess.DEVNULL)
        try:
            if process.wait():
                raise RuntimeError(f"{folders[name]} could not be made: `sana-lab make-random {name} FOLDER` says why")
        finally:
            isolated.end(process)

    make(CHECKPOINTS[0])
    isolated.at_once(make, CHECKPOINTS[1:], 2)
    return folders


def jobs() -> list[tuple[str, str, list[tuple[int, int, str]]]]:
    """What is tried on each card: checkpoint, way, draws. What encodes at the start does so for each batch."""
    found = []
    for way in ways.WAYS.values():
        for checkpoint in CHECKPOINTS * (way.name not in SLOWER):  # the largest not all at once: the host holds them
            batches = ((1,), (4,)) if way.keeps == "drop" else ((1, 4),)
            found += [(checkpoint, way.name, [d for d in DRAWS if d[1] in batch]) for batch in batches]
    return found


def alone(draws: list[tuple[int, int, str]]) -> int:
    """How many pictures at once, if all draws agree about it, else 0."""
    found = {pictures for _, pictures, _ in draws}
    return found.pop() if len(found) == 1 else 0


def outcomes(row: Found) -> Iterator[tuple[int, int, str, str]]:
    """What became of each draw that a row of the record was asked for: as in `DRAWS`, and `RUNS` or where it ran out.

    What failed for another reason than memory is left out.
    """
    if "failed" in row["load"]:
        return
    if stage := row["load"].get("out of memory"):
        asked = {(checkpoint, way, alone(draws)): draws for checkpoint, way, draws in jobs()}
        for pixels, pictures, decode in asked[row["checkpoint"], row["way"], row["pictures"]]:
            yield pixels, pictures, decode, stage
    for draw in row["draws"]:
        if "failed" not in draw:
            yield draw["pixels"], draw["pictures"], draw["decode"], draw.get("out of memory", RUNS)


def _libraries() -> None:
    import accelerate  # noqa: F401
    import bitsandbytes  # noqa: F401
    import diffusers.pipelines.sana  # noqa: F401
    import transformers.models.gemma2  # noqa: F401
    from diffusers import AutoencoderDC, DiffusionPipeline, SanaTransformer2DModel  # noqa: F401
    from transformers import AutoModel, BitsAndBytesConfig  # noqa: F401

    from .. import measure, slim  # noqa: F401
    from ..measure import left_behind  # noqa: F401


def record(
    folders: dict[str, Path], out: Path, *, minutes: float, at_once: int, virtual: bool = False, cards=CARDS
) -> Found:
    """Try all of `jobs` on all cards, then time each way alone; write the record as it grows.

    Raises:
        ValueError: a stopped run in `out` had other checkpoints, libraries or hardware.
        RuntimeError: CUDA does not survive a fork here.
        OSError: `out` cannot be written.
    """
    until = time.monotonic() + 60 * minutes
    lacking = {(c, w, alone(d)): (c, w, d) for c, w, d in jobs()}
    made_by = {
        "checkpoints": {name: weights_digest(folder) for name, folder in folders.items()},
        "machine": evidence.this_machine()["device"],
        "versions": evidence.installed_versions(),
        "steps": STEPS,
    }
    notes = journal.Journal(out / f"{RECORD}.partial", made_by, _wrong)
    rows, timed = (notes.found.setdefault(part, []) for part in ("rows", "timed"))
    results: Found = {"steps": STEPS, "rows": rows, "timed": timed, "not tried": []}
    keys = [(row["checkpoint"], row["way"], row["pictures"]) for row in rows]
    known = {(*key, row["card (GiB)"]) for key, row in zip(keys, rows, strict=True)}
    done = {key for key, row in zip(keys, rows, strict=True) if key in lacking and _did_all(row, lacking[key][2])}

    def keep() -> None:
        notes.keep()
        evidence.save(
            RECORD,
            what="Each way on cards of 6 to 16 GiB, imitated by a limit on the process, with random weights",
            command=COMMAND,
            results=results,
            seed=0,
            folder=out,
        )

    if not isolated.preload(_libraries, gpus=not virtual):
        raise RuntimeError("CUDA does not survive a fork here, and this needs one for every row.")
    for gib in cards:
        tasks = []
        for key, (checkpoint, way, draws) in lacking.items():
            if key in done or (*key, gib) in known or checkpoint not in folders:
                continue

            def case(folder=str(folders[checkpoint]), way=way, gib=gib, draws=draws) -> Found:
                if time.monotonic() > until:
                    return {"late": True}
                return try_way(folder, way, gib, draws, virtual=virtual)

            tasks.append(((key, checkpoint, way), case))
        free = machine.free_memory()  # of which each process takes the card and CUDA's own
        together = at_once if free is None or virtual else max(1, min(at_once, int(free / 2**30 / (gib + 0.7))))
        for (key, checkpoint, way), ended in isolated.run_each(tasks, limit=LIMIT, jobs=together):
            row = {"checkpoint": checkpoint, "way": way, "card (GiB)": gib, "pictures": key[2]}
            if (ended.value or {}).get("late"):
                results["not tried"].append(row)
                continue
            rows.append(row | (ended.value or _lost(ended)))
            if _did_all(rows[-1], lacking[key][2]):
                done.add(key)
            keep()
    in_time = TIMED not in folders or _time_each(folders[TIMED], timed, until, virtual, keep)
    keep()
    if in_time and not results["not tried"]:
        notes.end()
    return results


def _time_each(folder: Path, timed: list[Found], until: float, virtual: bool, keep: Callable[[], None]) -> bool:
    """Time each way that is not in `timed` yet, alone on the whole card; whether all were begun before `until`."""

    def case(way: str) -> Found:
        if time.monotonic() > until:
            return {"late": True}
        return try_way(str(folder), way, None, [(1024, 1, "whole")], steps=TIMED_STEPS, virtual=virtual)

    there, late = {row["way"] for row in timed}, False
    tasks = [(way, partial(case, way)) for way in ways.WAYS if way not in there]
    for way, ended in isolated.run_each(tasks, limit=LIMIT, jobs=1):
        value = ended.value or _lost(ended)
        if value.get("late"):
            late = True
        else:
            timed.append({"checkpoint": TIMED, "way": way, **value})
            keep()
    return not late


def _wrong(found: Any) -> str | None:
    """What is wrong with what a stopped run has kept."""
    if not isinstance(found, dict):
        return "is no object"
    return journal.complaint({"rows": [], "timed": []} | found, {"rows": [ROW], "timed": [TIMED_ROW]})


def _did_all(row: Found, draws: list[tuple[int, int, str]]) -> bool:
    """Whether a way drew all that was asked of it."""
    whole = len(row["draws"]) == len(draws) > 0
    return whole and not any("out of memory" in draw or "failed" in draw for draw in row["draws"])


def _lost(ended: isolated.Ended) -> Found:
    late = ended.how == isolated.LATE
    return {"load": {"failed": f"not done after {LIMIT} s" if late else f"status {ended.status}"}, "draws": []}


def _command(
    work: Annotated[Path, typer.Argument(metavar="WORK", help="Folder for checkpoints; some 20 GB.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the record.")],
    minutes: Annotated[float, typer.Option(help="Minutes for all of it.", callback=number(0, 10_000, above=True))] = 60,
    jobs: Annotated[int, typer.Option(help="Processes at a time.", callback=whole(1, 64))] = 8,
) -> None:
    """Every way on small cards, imitated on a real GPU; write the record small_cards.json to FOLDER."""
    os.environ.update(isolated.ENVIRON)
    if not machine.gpus():  # torch would start CUDA, which no fork survives
        raise RuntimeError("this needs a real GPU; `sana-lab plan` computes the same without one.")
    journal.must_be_writable(out, out)
    with goes_on():
        began = time.monotonic()
        folders = prepare(work)
        print(f"checkpoints after {time.monotonic() - began:.0f} s", flush=True)
        record(folders, out, minutes=minutes - (time.monotonic() - began) / 60, at_once=jobs)
    print(out / f"{RECORD}.json")


def main(arguments: list[str] | None = None) -> int:
    """Run the command and give its exit status."""
    return run_command(_command, "python -m sana_lab.fitting.cards", arguments)


if __name__ == "__main__":
    sys.exit(main())
