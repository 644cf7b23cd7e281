"""A file of prompts, drawn by as many processes as a launcher starts, and gone on with where it was stopped.

**Who draws what.** The prompts are cut into batches of consecutive ones. Batch k belongs to process k modulo their
number. So what is drawn together does not depend on how many processes there are, and no process waits for another:
they only tell process 0 at the end how long they took.

**Why whole batches.** Picture i starts from the noise of its own seed, but in 8 bits what is drawn beside it changes
its last digits: with a threshold, LLM.int8() takes a column out of the 8-bit product if any row of the whole batch has
an outlier in it (bitsandbytes 0.50.2, backends/cuda/ops.py, int8_vectorwise_quant: `outliers.any(dim=0)`). And in
every precision the libraries may choose another kernel, with another order of sums, for another shape. So a batch of
which a picture is missing is drawn again whole, and only what is missing is written.

**What is promised.** The same files, settings, versions and kind of GPU give the same pictures, bit for bit, whatever
the number of processes and however often it was stopped. With `batch=1` a picture depends on no other prompt.

**How it goes on.** A picture is written beside its place and moved there when whole, and says in its own metadata how
it was drawn. What is there is compared with what is asked, and a picture of other settings is an error.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import evidence
from ..checkpoints import PRECISIONS, Source, resolve
from ..evidence import journal
from ..launched import FEWER, Launched, fewer_than_asked
from ..machine import processor
from ..messages import counted
from . import drawing, prompts
from .prompts import Wanted

if TYPE_CHECKING:
    from diffusers import SanaPipeline
    from PIL.Image import Image

WINDOW = 298
"""Tokens of a prompt that Sana reads: `max_sequence_length` 300 less two (diffusers 0.42.1, pipeline_sana.py)."""
PATIENCE = timedelta(minutes=10)
"""How long process 0 waits, when it has finished, for what the others report. They go on drawing without it."""
WRITERS = 2
"""Threads that compress pictures while the next batch is drawn."""


def batches(wanted: list[Wanted], batch: int) -> list[list[Wanted]]:
    """Consecutive pictures, `batch` at a time; the last batch may be smaller."""
    return [wanted[at : at + batch] for at in range(0, len(wanted), batch)]


def run(
    file: Path,
    *,
    model: str | Path | Source,
    precision: str,
    steps: int | None,
    guidance: float,
    seed: int,
    size: int | None,
    batch: int,
    out: Path,
    vram: str,
    virtual: bool | None,
    say: Callable[[str], None],
    launched: Launched | None = None,
) -> dict[str, Any] | None:
    """Draw this process's share of a file of prompts.

    Args:
        file: see `prompts.read`.
        model: what `load_sana` takes, as `precision`.
        precision: see there.
        steps: denoising steps, or the pipeline's own.
        guidance: strength of the prompt.
        seed: picture i starts from the noise of `seed` + i, unless its line says otherwise.
        size: width and height in pixels, or the model's own.
        batch: pictures drawn at once.
        out: a folder, which all processes see.
        vram: of the virtual GPU of each process.
        virtual: what `use_accelerator` takes.
        say: takes a line of warning. Only process 0 says what all would.
        launched: which process this is; found out by default.

    Returns:
        In process 0, what all have done (see `report`); in others None.

    Raises:
        ValueError: bad input, or a picture in `out` that was drawn otherwise.
        OSError: files cannot be read or written.
        RuntimeError: what `use_accelerator` and `load_sana` raise, or too little memory.

    The page on many prompts.
    """
    drawing.check(steps, guidance, seed, size)
    if batch < 1:
        raise ValueError(f"--batch {batch}: give 1 or more.")
    wanted, warnings = prompts.read(file, seed)
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file: give a folder for {counted(len(wanted), 'picture')}.")
    journal.must_be_writable(out, out)
    launched = launched or Launched.here()
    tell = say if launched.rank == 0 else lambda _: None
    if fewer_than_asked():
        tell(f"warning: {FEWER}")
    for warning in warnings:
        tell(f"warning: {warning}")
    device, device_name = _gpu(launched, vram, virtual)

    source = resolve(model)
    settings = _settings(source, precision, steps, guidance, size, batch)
    made_by = {"device": device_name, **evidence.installed_versions()}
    out.mkdir(parents=True, exist_ok=True)
    parts = batches(wanted, batch)
    missing = _missing(parts, out, settings, launched)
    if launched.rank == 0:
        _warn_of_other_makers([out / w.name for w in wanted], made_by, say)
    mine = [k for k in range(launched.rank, len(parts), launched.world) if missing[k]]
    journal.clear(out, {w.name for k in mine for w in missing[k]})

    share: dict[str, Any] = {"pictures": 0, "seconds": 0.0, "load_seconds": 0.0}
    share |= {"first_batch_pictures": 0, "first_batch_seconds": 0.0, "device": device_name}
    if launched.rank == 0:
        drawing.warn_of_unknown_words(source, [w.prompt for w in wanted], say)
    if mine:
        start = time.perf_counter()
        pipe = drawing.load(source, precision, tell, device)
        pipe.set_progress_bar_config(disable=True)
        share["load_seconds"] = time.perf_counter() - start
        _warn_of_long_prompts(pipe.tokenizer, wanted, tell)
        todo = [(parts[k], missing[k]) for k in mine]
        with drawing.hushed():
            share |= _draw(pipe, todo, out, settings, made_by, launched)
    shares = _gather(share, launched)
    return None if shares is None else report(shares, len(wanted), settings, launched.world)


def _missing(
    parts: list[list[Wanted]], out: Path, settings: dict[str, Any], launched: Launched
) -> dict[int, list[Wanted]]:
    """Which pictures of a batch are not there yet, for each of this process's batches, by the batch's number.

    Process 0 looks at every picture that is there. The others look at those of their own batches and at one more, which
    is enough to leave a folder of other settings alone: opening all takes long on a disk that many share.

    Raises:
        ValueError: a picture is there and something else.
    """
    looked_at = range(len(parts)) if launched.rank == 0 else list(range(launched.rank, len(parts), launched.world))
    there = {path.name for path in out.iterdir()}
    if launched.rank:
        first = next((k for k, part in enumerate(parts) if any(w.name in there for w in part)), None)
        looked_at += [] if first is None else [first]
    return {
        k: [w for w, notes in _notes(parts[k], settings) if w.name not in there or not _is_there(out / w.name, notes)]
        for k in looked_at
    }


def _draw(
    pipe: SanaPipeline,
    todo: list[tuple[list[Wanted], list[Wanted]]],
    out: Path,
    settings: dict[str, Any],
    made_by: dict[str, str],
    launched: Launched,
) -> dict[str, Any]:
    """Draw batches, and write of each what is missing while the next is drawn.

    Args:
        pipe: draws.
        todo: of each batch all its pictures, and those that are missing.
        out: the folder.
        settings: see `_settings`.
        made_by: device and versions, kept in the pictures' metadata.
        launched: only process 0 has a progress bar.

    Returns:
        How many pictures were written, and how long it took; the same of the first batch.
    """
    from tqdm import tqdm

    title = "drawing" if launched.world == 1 else f"drawing, process 1 of {launched.world}"
    total = sum(len(missing) for _, missing in todo)
    options = {key: settings[key] for key in ("steps", "guidance", "size")}
    first_seconds, start = None, time.perf_counter()
    waiting: list[Future] = []
    with (
        ThreadPoolExecutor(WRITERS) as writers,
        tqdm(total=total, desc=title, unit="picture", leave=False, disable=launched.rank > 0) as bar,
    ):
        for part, missing in todo:
            pictures = drawing.draw(pipe, [w.prompt for w in part], [w.seed for w in part], **options)
            for written in waiting:  # so that at most one batch waits, and an error stops us
                written.result()
            waiting = [
                writers.submit(write_picture, picture, out / w.name, {**notes, **made_by})
                for picture, (w, notes) in zip(pictures, _notes(part, settings), strict=True)
                if w in missing
            ]
            bar.update(len(missing))
            if first_seconds is None:
                first_seconds = time.perf_counter() - start
        for written in waiting:
            written.result()
    return {
        "pictures": total,
        "seconds": time.perf_counter() - start,
        "first_batch_pictures": len(todo[0][1]),
        "first_batch_seconds": first_seconds,
    }


def report(shares: list[dict[str, Any]], wanted: int, settings: dict[str, Any], processes: int) -> dict[str, Any]:
    """What all processes together have done, as plain JSON.

    Returns:
        `pictures` drawn now, `wanted` in all, `processes`, `seconds` of the slowest one without loading,
        `load_seconds` likewise, `pictures_per_second` (the two divided), `steady_pictures_per_second` (the sum of each
        process's rate after its first batch, in which libraries set themselves up; None with one batch),
        `settings`, and `shares`, one for each process that reported.
    """
    seconds = max(s["seconds"] for s in shares)
    pictures = sum(s["pictures"] for s in shares)
    later = [(s["pictures"] - s["first_batch_pictures"], s["seconds"] - s["first_batch_seconds"]) for s in shares]
    return {
        "pictures": pictures,
        "wanted": wanted,
        "processes": processes,
        "seconds": round(seconds, 3),
        "load_seconds": round(max(s["load_seconds"] for s in shares), 3),
        "pictures_per_second": round(pictures / seconds, 4) if pictures else 0.0,
        "steady_pictures_per_second": round(sum(n / s for n, s in later), 4) if all(n for n, _ in later) else None,
        "settings": settings,
        "shares": [{k: round(v, 3) if isinstance(v, float) else v for k, v in s.items()} for s in shares],
    }


def summary(report: dict[str, Any]) -> str:
    """A report in one line."""
    n, there = report["pictures"], report["wanted"]
    silent = report["processes"] - len(report["shares"])
    processes = counted(report["processes"], "process")
    if silent:
        return f"{counted(n, 'picture')} by {len(report['shares'])} of {processes}; no word of the others"
    if not n:
        return f"all {there} pictures were there" if there > 1 else "the picture was there"
    before = f", {there - n} {'was' if there - n == 1 else 'were'} there" if there > n else ""
    return (
        f"{counted(n, 'picture')}{before}: {report['seconds']:.1f} s, "
        f"{report['pictures_per_second']:.2f} pictures/s, {processes}, loading took {report['load_seconds']:.1f} s"
    )


def _gpu(launched: Launched, vram: str, virtual: bool | None) -> tuple[str | None, str]:
    """The GPU of this process: what to load on, and its name."""
    import torch

    from .. import use_accelerator

    accelerator = use_accelerator(vram=vram, virtual=virtual)
    if accelerator.virtual:
        torch.set_num_threads(1)  # a sum over other threads is rounded in another order; take more processes instead
        return None, f"{accelerator.name}, {processor()}"
    index = launched.local % torch.cuda.device_count()
    torch.cuda.set_device(index)
    return f"cuda:{index}", torch.cuda.get_device_name(index)


def _settings(
    model: str | Path | Source, precision: str, steps: int | None, guidance: float, size: int | None, batch: int
) -> dict[str, Any]:
    """What decides how every picture looks, found out without loading anything.

    Raises:
        ValueError: unknown model or precision, or a folder that holds no pipeline.
        OSError: the model's files are missing.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is unknown: choose from {', '.join(PRECISIONS)}.")
    source = resolve(model)
    source.check()
    own_steps = source.steps  # which refuses a folder that holds no pipeline, before a hash is taken of it
    return {
        "model": source.name,
        "weights": source.digest,
        "precision": precision,
        "steps": steps or own_steps,
        "guidance": float(guidance),
        "size": size or source.side,
        "batch": batch,
    }


def _notes(part: list[Wanted], settings: dict[str, Any]) -> list[tuple[Wanted, dict[str, str]]]:
    """For each picture of a batch what decides how it looks, as its file tells it: itself, settings, companions."""
    members = hashlib.sha256(json.dumps([[w.prompt, w.seed] for w in part]).encode()).hexdigest()[:16]
    common = {key: str(value) for key, value in settings.items()} | {"batch members": members}
    return [(w, {"prompt": w.prompt, "seed": str(w.seed), **common}) for w in part]


def _is_there(path: Path, notes: dict[str, str]) -> bool:
    """Whether a picture is there, whole, and what is wanted.

    Raises:
        ValueError: it is there and something else.
    """
    read = drawing.read_png(path)
    if read is None:
        return False
    whole, info = read
    found = {key: info.get(key) for key in notes}
    if set(found.values()) == {None}:
        raise drawing.not_from_here(path)
    members = found.pop("batch members"), notes["batch members"]
    journal.hold_to(found, {key: notes[key] for key in found}, path, "a picture")
    if members[0] != members[1]:
        raise ValueError(
            f"{path} was drawn in a batch with other prompts or seeds: {journal.ELSEWHERE}, or the prompts of that run"
        )
    return whole


def _warn_of_other_makers(paths: list[Path], made_by: dict[str, str], say: Callable[[str], None]) -> None:
    """Say it if pictures that are there come from another kind of GPU or other versions, once."""
    from PIL import Image

    for path in paths:
        if not path.exists():
            continue
        with Image.open(path) as picture:
            found = {key: picture.info.get(key) for key in made_by}
        other = [key for key in made_by if found[key] != made_by[key]]
        if other:
            was = ", ".join(f"{key} {found[key]}, not {made_by[key]}" for key in other[:3])
            say(f"warning: {path} was drawn with {was}; new pictures may differ from such in their last digits")
            return


def _warn_of_long_prompts(tokenizer, wanted: list[Wanted], tell: Callable[[str], None]) -> None:
    """Name the pictures whose prompts the pipeline cuts off."""
    counts = [len(ids) for ids in tokenizer([w.prompt.lower() for w in wanted], add_special_tokens=False).input_ids]
    long = [w.name for w, count in zip(wanted, counts, strict=True) if count > WINDOW]
    if long:
        more = f" and {len(long) - 3} more" * (len(long) > 3)
        tell(f"warning: only the first {WINDOW} tokens of a prompt are read; longer: {', '.join(long[:3])}{more}")


def write_picture(picture: Image, path: Path, notes: dict[str, str]) -> None:
    """Write a picture and how it was drawn, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in notes.items():
        info.add_text(key, value)
    try:
        with journal.replacing(path, sync=False) as partial:  # a picture that was cut off is drawn again
            picture.save(partial, format="PNG", pnginfo=info)
    except OSError as error:
        raise OSError(f"{path}: cannot be written ({error.strerror or error}); what is there stays.") from None


def _gather(share: dict[str, Any], launched: Launched) -> list[dict[str, Any]] | None:
    """What each process has done, in process 0. The others hand over and leave.

    The launcher's key-value store is enough: there is no process group, whose collectives would wait for a process
    that has died.
    """
    if launched.world == 1:
        return [share]
    shares = [share]
    try:
        from torch.distributed import rendezvous

        store, _, _ = next(rendezvous("env://", launched.rank, launched.world, timeout=PATIENCE))
        if launched.rank:
            store.set(f"sana-lab-share-{launched.rank}", json.dumps(share))
            return None
        shares += [json.loads(store.get(f"sana-lab-share-{rank}")) for rank in range(1, launched.world)]
    except (
        ImportError,
        RuntimeError,
        ValueError,
    ):  # a launcher without a store, or a process that draws on: no report of it
        if launched.rank:
            return None
    return shares
