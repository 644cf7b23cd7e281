"""Faults on purpose: many small pictures in service while memory runs out, values become NaN, processes die and hang.

`python -m sana_lab.service.faults --pictures 1000 --out FOLDER` writes the record: what was lost, what was delivered
twice, whether memory stayed flat.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import evidence
from ..commandline import SEED, run_command, whole
from ..evidence.journal import must_be_writable
from ..generate.prompts import Wanted
from .delivery import LOG, Log
from .supervisor import supervise
from .ways import Way

RECORD = "service_faults"
PIXELS = 32
KINDS = ("out of memory", "out of memory twice", "NaN", "NaN twice", "an error", "killed", "killed when done", "hangs")
"""What is done to a picture, the first time that it is drawn; or the first two times."""
PATIENCE = 20.0
"""Seconds after which a process counts as hanging here; a picture takes a tenth of one."""


def plan(pictures: int, seed: int = 0, rarely: int = 25) -> dict[str, str]:
    """Which picture gets which fault: every `rarely`-th, all kinds in turn; twice and by death a few times only.

    Args:
        pictures: how many there are.
        seed: of the choice.
        rarely: one picture in this many gets a fault.
    """
    chosen = sorted(random.Random(seed).sample(range(1, pictures), max(len(KINDS), pictures // rarely)))
    costly = {"out of memory twice": 1, "NaN twice": 1, "killed": 3, "killed when done": 2, "hangs": 2}
    kinds: list[str] = [kind for kind in KINDS for _ in range(1)]
    left = Counter({kind: most - 1 for kind, most in costly.items()})
    while len(kinds) < len(chosen):
        for kind in KINDS:
            if kind not in costly or left[kind] > 0:
                left[kind] -= 1
                kinds.append(kind)
    kinds = kinds[: len(chosen)]
    random.Random(seed + 1).shuffle(kinds)
    return {str(number): kind for number, kind in zip(chosen, kinds, strict=True)}


def ways(model: str, faults: str) -> list[Way]:
    """Three ways to load a model, whose pipelines do what the file `faults` says.

    Args:
        model: folder.
        faults: JSON, number of the picture -> kind; what was done is noted beside it.
    """

    def load() -> Any:
        from ..sana import load_sana

        pipe = load_sana(model, "fp32")
        _spoil(pipe, Path(faults))
        return pipe

    return [Way(name, load) for name in ("first", "second", "third")]


def _spoil(pipe: Any, file: Path) -> None:
    """Let a pipeline fail as `file` says: before a step, after one (NaN), or just when a picture is written."""
    import torch

    wanted, now = json.loads(file.read_text(encoding="utf-8")), {"number": ""}
    encode = pipe.encode_prompt

    def encoded(prompt: Any, *given: Any, **more: Any) -> Any:
        now["number"] = str(prompt).rpartition(" ")[2]
        return encode(prompt, *given, **more)

    def due(*kinds: str) -> str:
        """The kind, if a picture is to fail now; it is noted as done before it is."""
        kind = wanted.get(now["number"], "")
        if kind not in kinds:
            return ""
        for time_ in ("1", "2")[: 2 if kind.endswith("twice") else 1]:
            done = file.with_name(f"{file.stem}-{now['number']}-{time_}")
            with contextlib.suppress(FileExistsError):
                done.touch(exist_ok=False)
                return kind
        return ""

    def before(*_: Any) -> None:
        kind = due("out of memory", "out of memory twice", "an error", "killed", "hangs")
        if kind.startswith("out of memory"):
            torch.empty(2**48, dtype=torch.uint8, device="cuda")
        elif kind == "an error":
            raise RuntimeError("an error that nobody knows")
        elif kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind == "hangs":
            time.sleep(10_000)

    def after(module: Any, given: Any, result: Any) -> Any:
        return (result[0] * float("nan"), *result[1:]) if due("NaN", "NaN twice") else None

    def written(source: Any, target: Any, **more: Any) -> None:
        replace(source, target, **more)
        if str(target).endswith(".png") and due("killed when done"):  # the file is there, and no line tells it
            os.kill(os.getpid(), signal.SIGKILL)

    replace, os.replace = os.replace, written
    pipe.encode_prompt = encoded
    pipe.transformer.register_forward_pre_hook(before)
    pipe.transformer.register_forward_hook(after)


def run(pictures: int, out: Path, *, seed: int = 0, patience: float = PATIENCE, rarely: int = 25) -> dict[str, Any]:
    """Deliver small pictures on a virtual GPU while faults come, and count.

    Args:
        pictures: how many.
        out: folder for the model, the plan, the pictures and the log.
        seed: of the plan.
        patience: seconds after which a process counts as hanging.
        rarely: one picture in this many gets a fault.

    Returns:
        `pictures`, `faults` (kind -> how many), `lost`, `delivered twice`, `given up`, `processes`, `events`, and
        `memory`: of each process the bytes that the GPU held after its pictures, lowest and highest, and what the
        process itself grew by from its tenth picture on.

    Chapter 13.
    """
    from ..shapes.tiny import tiny_sana

    model, faults, script = out / "model", out / "faults.json", out / "pipeline.py"
    out.mkdir(parents=True, exist_ok=True)
    if not (model / "model_index.json").exists():
        tiny_sana(model)
    planned = plan(pictures, seed, rarely)
    faults.write_text(json.dumps(planned), encoding="utf-8")
    source = f"from sana_lab.service.faults import ways\n\nWAYS = ways({str(model)!r}, {str(faults)!r})\n"
    script.write_text(source, encoding="utf-8")
    wanted = [Wanted(f"{number:04}.png", f"picture {number}", number) for number in range(pictures)]
    report = supervise(
        script, wanted, out / "pictures", patience=patience, virtual=True, vram="1GiB", pixels=PIXELS, steps=1,
        guidance=0.0,
    )  # fmt: skip
    events = Log(out / "pictures" / LOG).events()
    return {
        "pictures": pictures,
        "faults": dict(Counter(planned.values())),
        **judged(wanted, out / "pictures", events),
    } | {"given up": report.given_up}


def judged(wanted: list[Wanted], out: Path, events: list[dict[str, Any]]) -> dict[str, Any]:
    """What was lost, delivered twice, and held in memory, by the files and the log."""
    delivered = Counter(event["name"] for event in events if event["event"] == "delivered")
    processes: list[list[dict[str, Any]]] = []
    for event in events:
        if event["event"] == "loaded" or not processes:
            processes.append([])
        if event["event"] == "delivered" and "gpu" in event:
            processes[-1].append(event)
    memory = [
        {
            "pictures": len(held),
            "gpu": [min(e["gpu"] for e in held), max(e["gpu"] for e in held)],
            "host grown": held[-1]["host"] - held[min(9, len(held) - 1)]["host"],
        }
        for held in processes
        if held
    ]
    return {
        "lost": [one.name for one in wanted if not (out / one.name).is_file()],
        "delivered twice": sorted(name for name, times in delivered.items() if times > 1),
        "not in the log": sorted(one.name for one in wanted if not delivered[one.name]),
        "events": dict(Counter(event["event"] for event in events)),
        "pipelines loaded": sum(event["event"] == "loaded" for event in events),
        "memory": memory,
    }


def record_command(
    out: Annotated[Path, typer.Option(help="Folder for the record.")],
    pictures: Annotated[int, typer.Option(help="How many pictures.", callback=whole(50, 100_000))] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the plan of faults.", callback=SEED)] = 0,
) -> None:
    """Deliver small pictures on a virtual GPU while faults come, and write the record."""
    must_be_writable(out, out)
    with tempfile.TemporaryDirectory() as scratch:
        found = run(pictures, Path(scratch), seed=seed)
    file = evidence.save(
        RECORD,
        what="Small pictures in service on a virtual GPU with faults on purpose: what was lost, what came twice",
        command=f"python -m sana_lab.service.faults --pictures {pictures} --seed {seed} --out FOLDER",
        results=found,
        seed=seed,
        folder=out,
    )
    typer.echo(json.dumps({key: value for key, value in found.items() if key != "memory"}))
    typer.echo(file)


def main(arguments: list[str] | None = None) -> int:
    """`python -m sana_lab.service.faults`; what goes wrong is one line on stderr."""
    return run_command(record_command, "python -m sana_lab.service.faults", arguments)


if __name__ == "__main__":
    sys.exit(main())
