"""What `sana-lab compare` does: checks all it was given, says what is left out, draws, measures, writes."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from ..checkpoints import resolve
from ..evidence import journal
from ..generate import drawing
from ..generate import prompts as prompt_files
from . import folders as there
from . import learned, page, ways
from .drawn import draw, tell_downloads
from .scores import check_metrics, scores

GUIDANCE = 4.5


def between(
    first: str,
    second: str,
    file: Path | None,
    *,
    out: Path,
    say: Callable[[str], None],
    model: str = "shapes",
    steps: int | None = None,
    guidance: float = GUIDANCE,
    seed: int = 0,
    pixels: int | None = None,
    metrics: Sequence[str] | None = None,
    clip: str = learned.CLIP,
    vram: str = "16GiB",
    virtual: bool | None = None,
) -> list[str]:
    """Draw a file of prompts in two ways and hold them side by side.

    Args:
        first: name of a way, see `ways.known`.
        second: another.
        file: of prompts, see `sana_lab.generate.prompts.read`.
        out: folder for pictures, record, sheet and page; a stopped run goes on there.
        say: takes a line of warning.
        model: what `load_sana` takes.
        steps: of denoising, or the model's own.
        guidance: strength of the prompt.
        seed: picture i starts from the noise of seed + i.
        pixels: a side, or the model's own.
        metrics: as in `scores`.
        clip: likewise.
        vram: what `use_accelerator` takes, as `virtual`.
        virtual: see there.

    Returns:
        Lines to print.

    Raises:
        ValueError: bad input, or a folder with pictures of other settings.
        OSError: files cannot be read or written, or the model's are missing.
        RuntimeError: what `use_accelerator` and `load_sana` raise, or too little memory.
    """
    names = [ways.known(first), ways.known(second)]
    if names[0] == names[1]:
        raise ValueError(f"{first} and {second} are one way, {names[0]}: give two.")
    if file is None:
        raise ValueError("two ways need something to draw: give --prompts FILE.")
    drawing.check(steps, guidance, seed, pixels)
    wanted, warnings = prompt_files.read(file, seed)
    prompts = [w.prompt for w in wanted]
    chosen = check_metrics(metrics, prompts)
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file: give a folder.")
    journal.must_be_writable(out, out)
    source = resolve(model)
    source.check()
    for warning in warnings:
        say(f"warning: {warning}")
    tell_downloads(chosen, clip, say)
    drawing.warn_of_unknown_words(source, prompts, say)

    import torch

    from .. import use_accelerator

    gpu = use_accelerator(vram=vram, virtual=virtual)
    if gpu.virtual:
        torch.set_num_threads(1)  # a sum over other threads is rounded in another order
    settings = {
        "ways": sorted(names),
        "model": source.name,
        "weights": source.digest,
        "prompts": [[w.name, w.prompt, w.seed] for w in wanted],
        "steps": steps or source.steps,
        "guidance": float(guidance),
        "pixels": pixels or source.side,
    }
    places = draw(names, wanted, source, out, settings, gpu.name)
    pictures = [there.Pictures([place / w.name for w in wanted]) for place in places]
    found = scores(*pictures, prompts, metrics=chosen, clip=clip)
    labels = [ways.title(name) for name in names]
    words = ["sana-lab", "compare", *names, "--prompts", file.name]
    usual = {"model": "shapes", "guidance": GUIDANCE, "seed": 0}
    given = {"model": source.name, "steps": steps, "guidance": guidance, "seed": seed, "pixels": pixels}
    for name, value in given.items():
        if value is not None and value != usual.get(name):
            words += [f"--{name}", f"{value:g}" if isinstance(value, float) else str(value)]
    common = {key: value for key, value in settings.items() if key != "prompts"} | {"ways": names, "gpu": gpu.name}
    made = page.conclude(
        labels, pictures, [w.name for w in wanted], prompts, found,
        settings=common, command=shlex.join(words), seed=seed, out=out,
    )  # fmt: skip
    return [*page.lines(labels, found), *map(str, made)]


def folders(
    first: Path,
    second: Path,
    file: Path | None,
    *,
    out: Path,
    say: Callable[[str], None],
    metrics: Sequence[str] | None = None,
    clip: str = learned.CLIP,
) -> list[str]:
    """Hold two folders of pictures side by side, those of one name in both.

    Args:
        first: a folder.
        second: another.
        file: of prompts, or None.
        out: folder for record, sheet and page.
        say: takes a line of warning.
        metrics: as in `scores`.
        clip: likewise.

    Returns:
        Lines to print.

    Raises:
        ValueError: bad input, such as folders with other names in them, or pairs of two sizes.
        OSError: files cannot be read or written.
    """
    if first.resolve() == second.resolve():
        raise ValueError(f"{first} and {second} are one folder: give two.")
    names = there.pairs(first, second)
    prompts = there.prompts_of(names, first, file)
    chosen = check_metrics(metrics, prompts)
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file: give a folder.")
    if out.resolve() in (first.resolve(), second.resolve()):
        raise ValueError(f"--out {out} holds the pictures themselves: give another folder.")
    journal.must_be_writable(out, out)
    tell_downloads(chosen, clip, say)
    pictures = [there.Pictures([folder / name for name in names]) for folder in (first, second)]
    found = scores(*pictures, prompts, metrics=chosen, clip=clip)
    labels = [folder.name for folder in (first, second)]
    if labels[0] == labels[1]:
        labels = [str(folder) for folder in (first, second)]
    out.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["sana-lab", "compare", *labels])
    settings = {"folders": labels}
    made = page.conclude(
        labels, pictures, names, prompts, found, settings=settings, command=command, seed=None, out=out
    )
    return [*page.lines(labels, found), *map(str, made)]
