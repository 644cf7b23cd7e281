"""The process in which `sana-lab check` runs a reader's script: it may hang, end by itself, or take others with it."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Any

from .. import isolated


def answers(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The lines of the checklist; or one that says why there are none."""
    from ..accelerator import use_accelerator
    from .lines import ask, raised
    from .script import is_pipeline, ways_in

    use_accelerator(vram=request["vram"], virtual=request["virtual"])
    place = request["place"]
    try:
        ways = ways_in(place)
        pipe = ways[0].load()
    except SystemExit as ended:
        yield {"refused": f"{place} ends by itself, with sys.exit({ended.code!r}): leave that out."}
        return
    except Exception as error:
        if type(error) is ValueError and str(place) in str(error):
            yield {"refused": str(error)}
            return
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == place]
        at = f", line {lines[-1]}," if lines else ""
        yield {"refused": f"{place}{at} does not run: {raised(error)}"}
        return
    if not is_pipeline(pipe):
        yield {"refused": f"{place}: load() gives {type(pipe).__name__}, and is to give a diffusers pipeline."}
        return
    if not hasattr(pipe, "transformer") or not hasattr(pipe, "vae_scale_factor"):
        yield {"refused": f"{place} makes a {type(pipe).__name__}: these ten lines are about Sana's pipelines."}
        return
    pipe.set_progress_bar_config(disable=True)
    for line in ask(pipe, pixels=request["pixels"], ways=len(ways)):
        yield {"name": line.name, "ok": line.ok, "why": line.why}


if __name__ == "__main__":
    isolated.serve(answers)
