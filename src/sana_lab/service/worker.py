"""The process that draws, which `supervise` starts and may kill. Told on stdin what to do, it leaves files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import isolated


def answers(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Deliver what is wanted, and say what became of it."""
    from ..accelerator import use_accelerator
    from ..generate.prompts import Wanted
    from .delivery import BEAT, beat, deliver
    from .script import ways_in

    out = Path(request["out"])
    beat(out, "loading")
    if request["virtual"] is not None or request["vram"]:
        use_accelerator(vram=request["vram"] or "16GiB", virtual=request["virtual"])
    ways = ways_in(request["place"])
    said: list[str] = []
    report = deliver([Wanted(*one) for one in request["wanted"]], out, ways, say=said.append, **request["settings"])
    (out / BEAT).unlink(missing_ok=True)
    yield {"given_up": report.given_up, "events": dict(report.events), "said": said}


if __name__ == "__main__":
    isolated.serve(answers)
