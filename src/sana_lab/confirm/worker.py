"""The process in which one step of `sana-lab confirm` runs. Started by `runner`; not for use by hand.

Its request has `model`, `step` ("files", or a way), `plan` (fields of `Plan`) and `out`. It answers with lines of what
it is doing, `{"at": ...}`, and at the end with `{"found": ...}`, `{"refused": ...}` where nothing can be done with the
checkpoint at all, `{"failed": ...}` where this step cannot, or `{"full": ...}` where the disk has no room.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import isolated
from ..evidence import journal
from .plan import REFERENCE, Plan

if TYPE_CHECKING:
    import torch

    from ..checkpoints import Source

OFF = "without-guidance"
"""File name of the picture that is drawn with guidance off."""

WITHOUT_GUIDANCE = (REFERENCE, "recipe", "guard")
"""Ways that draw one picture with guidance off, and are compared by it."""

SHORT = 2
"""Steps of a picture that is drawn for what it does to the layers."""


def answers(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Do one step."""
    from ..checkpoints import resolve
    from ..libraries import hushed

    model = Path(request["model"]) if request["folder"] else request["model"]
    plan = Plan(**{**request["plan"], "prompts": tuple(request["plan"]["prompts"])})
    try:
        with hushed("bitsandbytes", "diffusers", "transformers", "accelerate"):
            if request["step"] == "files":
                from .files import look

                yield {"at": "reading every number"}
                yield {"found": look(resolve(model))}
            else:
                yield from _way(resolve(model), request["step"], plan, Path(request["out"]))
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            yield {"full": str(error)}
        elif request["step"] == "files":
            yield {"refused": str(error), "kind": type(error).__name__}
        else:
            yield {"failed": _failed(error)}


def _failed(error: Exception) -> dict[str, Any]:
    from ..failures import explain

    known = explain(error).answers
    text = " ".join(str(error).split())
    return {"error": type(error).__name__, "text": text[:400], "known": known[0].failure.id if known else None}


def _way(source: Source, name: str, plan: Plan, out: Path) -> Iterator[dict[str, Any]]:
    """Load in a way, count, draw, and look into it."""
    import torch

    from .. import accounting, use_accelerator
    from ..accelerator import on_real_gpu
    from ..monitor import memory
    from ..service import wrong_with
    from .files import GRANULE
    from .ways import load

    used = use_accelerator(vram=plan.vram, virtual=plan.gpu == "virtual")
    real = on_real_gpu()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    torch.cuda.init()
    torch.cuda.reset_peak_memory_stats()
    yield {"at": "loading"}
    began = time.perf_counter()
    pipe, notes = load(name, source, plan.prompts)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    gc.collect()
    torch.cuda.empty_cache()
    pipe.set_progress_bar_config(disable=True)
    found: dict[str, Any] = {
        "gpu": {"name": used.name, "bytes": torch.cuda.get_device_properties(0).total_memory, "real": real},
        "load": {"seconds": round(seconds, 2) if real else None, "peak": torch.cuda.max_memory_allocated()},
        "held": accounting.components(pipe, granule=GRANULE),
        "allocated": torch.cuda.memory_allocated(),
        "layers": _layers(pipe),
        **notes,
    }
    size = plan.pixels or source.side
    times, wrong = [], {}
    with memory(pipe, live=False) as watched:
        for i, prompt in enumerate(plan.prompts):
            yield {"at": f"picture {i + 1} of {len(plan.prompts)}"}
            torch.cuda.synchronize()
            began = time.perf_counter()
            picture = draw(pipe, prompt, plan.seed + i, size, plan.steps)
            torch.cuda.synchronize()
            times.append(round(time.perf_counter() - began, 3))
            if said := wrong_with(picture):
                wrong[str(i)] = said
            save(picture, out / "pictures" / name / f"{i:02d}.png")
    found["stages"] = _stages(watched.stages, real)
    found["pictures"] = {
        "drawn": len(times),
        "first_s": times[0] if real else None,
        "seconds": statistics.median(times[1:] or times) if real else None,
        "wrong": wrong,
    }
    if name in WITHOUT_GUIDANCE and not source_is_sprint(pipe):
        yield {"at": "a picture without guidance"}
        picture = draw(pipe, plan.prompts[0], plan.seed, size, plan.steps, guidance_scale=1.0)
        found["without_guidance"] = {"wrong": wrong_with(picture)}
        save(picture, out / "pictures" / name / f"{OFF}.png")
    yield {"at": "looking into it"}
    found |= _looked_into(pipe, name, plan, size)
    yield {"found": found}


def source_is_sprint(pipe: Any) -> bool:
    """Whether it is Sprint's pipeline, which has no guidance to switch off."""
    return type(pipe).__name__ == "SanaSprintPipeline"


def draw(pipe: Any, prompt: str, seed: int, size: int, steps: int | None, **more: Any) -> torch.Tensor:
    """A picture as numbers (3, height, width) from 0 to 1, from its seed's noise."""
    import torch

    from ..service import start

    with torch.no_grad():
        return start.draw(pipe, prompt, seed=seed, pixels=size, steps=steps, **more)


def _looked_into(pipe: Any, name: str, plan: Plan, size: int) -> dict[str, Any]:
    """Largest activations in 16 bits; outliers where 8-bit layers are. What raises is noted."""
    from . import watched

    try:
        if name == REFERENCE:
            models = {part: getattr(pipe, part) for part in ("text_encoder", "transformer", "vae")}
            with watched.largest(models) as tops:
                draw(pipe, plan.prompts[0], plan.seed, size, plan.steps)
            return {"activations": tops}
        if name == "guard":
            models = {part: getattr(pipe, part) for part in ("text_encoder", "transformer")}
            with watched.outliers(models) as counts:
                for prompt in plan.prompts[1:]:
                    pipe.encode_prompt(prompt)
                draw(pipe, plan.prompts[0], plan.seed, size, SHORT)
            return {"outliers": counts}
    except Exception as error:
        return {"not_looked_into": _failed(error)}
    return {}


def _layers(pipe: Any) -> dict[str, dict[str, int]]:
    """Component -> how many of its layers are of each kind: "Linear in 8 bits", "Linear", "Conv2d", "Embedding"."""
    from torch import nn

    from ..layers import holding

    kinds = ((nn.Linear, "Linear"), (nn.Conv2d, "Conv2d"), (nn.Embedding, "Embedding"))
    counted: dict[str, dict[str, int]] = {}
    for component in ("text_encoder", "transformer", "vae"):
        found = counted.setdefault(component, {})
        for layer in getattr(pipe, component).modules():
            bits = holding(layer).bits
            kind = next((words for of, words in kinds if isinstance(layer, of)), "Layer" if bits else None)
            if kind:
                words = f"{kind} in {bits} bits" if bits else kind
                found[words] = found.get(words, 0) + 1
    return counted


def _stages(stages: list[Any], real: bool) -> dict[str, dict[str, Any]]:
    """Stage -> the most of all calls: bytes `allocated`, of them `weights`, and the `rest`; median `seconds`."""
    found: dict[str, dict[str, Any]] = {}
    for one in stages:
        if one.call == 0:
            continue
        row = found.setdefault(one.stage, {"allocated": 0, "weights": 0, "rest": 0, "reserved": 0, "seconds": []})
        for key in ("allocated", "weights", "rest", "reserved"):
            row[key] = max(row[key], getattr(one, key))
        row["seconds"].append(one.seconds)
    for row in found.values():
        row["seconds"] = round(statistics.median(row["seconds"]), 4) if real else None
    return found


def save(picture: torch.Tensor, file: Path) -> None:
    """Write a picture whole or not at all; a NaN becomes black, as in every program that writes files."""
    from PIL import Image

    file.parent.mkdir(parents=True, exist_ok=True)
    values = (picture.detach().to("cpu").float().nan_to_num(0).clamp(0, 1) * 255).round().byte()
    with journal.replacing(file, sync=False) as partial:
        Image.fromarray(values.permute(1, 2, 0).numpy()).save(partial, format="PNG")


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        isolated.serve(answers)
