"""`with sana_lab.memory(pipe) as m:` watches the memory of a pipeline stage by stage, at next to no cost.

`watch` follows a pipeline with hooks that it takes back; `stages` holds what was seen, as table, text and JSON lines;
`live` shows one line that changes while the pipeline draws, `panel` the same with a stop button; `scrape` gives the
numbers to Prometheus.

Chapter 13.
"""

from __future__ import annotations

from .panel import Stopped
from .stages import Peak, Stage
from .watch import Memory, memory

__all__ = ["Memory", "Peak", "Stage", "Stopped", "memory"]
