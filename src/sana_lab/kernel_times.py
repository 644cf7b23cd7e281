"""How long a kernel takes, for choosing between its forms, without taking a card's last memory for it.

Chapter 8.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import torch

WARM_UP = 3
CALLS = 50
AHEAD = 200
"""How often as many bytes as the L2 cache has, and at least `LEAST`, are written before: milliseconds on any GPU."""
LEAST = 2**24


def milliseconds(call: Callable[[], object], quantiles: Sequence[float] | None = None) -> list[float]:
    """Milliseconds of a call on the GPU: median, and the quintiles around it; what `triton.autotune` calls `do_bench`.

    Before each call the GPU's L2 cache is emptied, as in Triton's `do_bench`. That takes 256 MiB for it at the first
    picture (triton 3.6.0, backends/nvidia/driver.py, `get_empty_cache_for_benchmark`), whatever the card; this takes as
    many bytes as the cache has. The GPU is kept busy before the first call, so that all of them are queued by the time
    that it comes to them: between a call's two marks it then waits for nobody. A call that Python needs some 60
    microseconds to start is still too slow for that, and would be timed for it: record such a call as a CUDA graph,
    and give the replay (`sana_lab.measure.depthwise`).

    Args:
        call: starts kernels on the current stream; nothing may be recorded as a graph meanwhile.
        quantiles: are always 0.5, 0.2 and 0.8, which Triton asks for.

    Example:
        >>> import torch
        >>> from sana_lab import use_accelerator
        >>> _ = use_accelerator(virtual=True)
        >>> x = torch.ones(100, device="cuda")
        >>> len(milliseconds(lambda: x + x))
        3

    Chapter 8.
    """
    size = getattr(torch.cuda.get_device_properties(torch.cuda.current_device()), "L2_cache_size", 0)
    ahead = torch.empty(max(size, LEAST), dtype=torch.int8, device="cuda")
    cache = ahead[:size]
    marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(CALLS)]
    for _ in range(WARM_UP):
        call()
    for _ in range(AHEAD):
        ahead.zero_()
    for before, after in marks:
        cache.zero_()
        before.record()
        call()
        after.record()
    torch.cuda.synchronize()
    found = [before.elapsed_time(after) for before, after in marks]
    low, _, _, high = statistics.quantiles(found, n=5)
    return [statistics.median(found), low, high]
