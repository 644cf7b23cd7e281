"""The same prompts from the same noise in two ways, a picture at a time, gone on with where it was stopped."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import evidence
from ..evidence import journal
from ..generate import drawing
from ..generate.many import write_picture
from ..generate.prompts import Wanted
from . import ways
from .folders import opened

if TYPE_CHECKING:
    from ..checkpoints import Source

SETTINGS = "settings.json"


def draw(
    names: Sequence[str],
    wanted: Sequence[Wanted],
    source: Source,
    out: Path,
    settings: dict[str, Any],
    gpu: str,
) -> list[Path]:
    """Draw what is missing, and give the folder of each way.

    Every picture is drawn alone, from the noise of its own seed: what is beside it in a batch would change its last
    digits in 8 bits (`sana_lab.generate.many` says why), and a run that goes on has other batches.

    Args:
        names: of the two ways, see `ways.known`.
        wanted: name, prompt and seed of each picture.
        source: of the model.
        out: folder of the run; the pictures of a way are in the folder of its name.
        settings: `steps`, `guidance` and `pixels`, and what else decides how the pictures look.
        gpu: what draws, for the settings.

    Raises:
        ValueError: there are pictures of other settings.
        OSError: files cannot be read or written.
        RuntimeError: too little memory.
    """
    import torch
    from tqdm import tqdm

    folders = [out / name for name in names]
    made_by = {"gpu": gpu, "machine": evidence.this_machine()["device"], "versions": evidence.installed_versions()}
    there = [path for folder in folders if folder.is_dir() for path in folder.glob("*.png")]
    journal.hold(out / SETTINGS, settings | made_by, place=out, results=sorted(there))
    options = {"steps": settings["steps"], "guidance": settings["guidance"], "size": settings["pixels"]}
    prompts = [w.prompt for w in wanted]
    with tqdm(total=len(names) * len(wanted), unit="picture", leave=False) as bar:
        for name, folder in zip(names, folders, strict=True):
            try:
                folder.mkdir(exist_ok=True)
            except OSError as error:
                raise OSError(f"{folder} cannot be written ({error.strerror}): {journal.ELSEWHERE}") from None
            journal.clear(folder, {w.name for w in wanted})
            missing = [i for i, w in enumerate(wanted) if not _is_there(folder / w.name)]
            bar.set_description(name)
            bar.update(len(wanted) - len(missing))
            if not missing:
                continue
            with ways.scratch(), drawing.hushed():
                pipe, given = ways.load(name, source, prompts)
                for i in missing:
                    w = wanted[i]
                    (picture,) = drawing.draw(pipe, ways.of_one(given, i), [w.seed], **options)
                    notes = {"prompt": w.prompt, "seed": w.seed, "way": name, "model": source.name, **options}
                    write_picture(picture, folder / w.name, {key: str(value) for key, value in notes.items()})
                    bar.update()
                del pipe, given
                gc.collect()  # pipelines are full of circles, and the next way wants the whole GPU
                torch.cuda.empty_cache()
    return folders


def _is_there(file: Path) -> bool:
    """Whether a picture is there and whole; a damaged one is drawn again."""
    try:
        return file.exists() and opened(file) is not None
    except ValueError:
        return False


def tell_downloads(metrics: Sequence[str], clip: str, say: Callable[[str], None]) -> None:
    """Say what will be downloaded and which measures are left out, before anything takes long."""
    from .learned import downloads
    from .scores import METRICS, out_of_reach

    away = out_of_reach(metrics, clip)
    for line in downloads([metric for metric in metrics if metric not in away], clip):
        say(line)
    for metric, why in away.items():
        say(f"{METRICS[metric].partition(',')[0]} is left out: {why}")
