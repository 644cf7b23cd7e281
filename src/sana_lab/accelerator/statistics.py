"""The counters of a virtual GPU's memory under the names that PyTorch has for them, and its blocks as a snapshot.

Names and meanings are those of torch/csrc/cuda/Module.cpp, `THCPModule_memoryStats` and `THCPModule_memorySnapshot`
(PyTorch 2.11). Blocks are counted one by one. Segments, the pieces that CUDA's allocator gets from the driver and cuts
blocks from, are not modelled: here each pool, of small blocks and of large ones, is one segment that grows.
"""

from __future__ import annotations

import collections
from typing import Any

from .memory import SEGMENT_STEP, Block, Memory, rounded

COUNTS = ("current", "peak", "allocated", "freed")
POOLS = ("all", "small_pool", "large_pool")


def of(memory: Memory, index: int) -> dict[str, Any]:
    """All counters of GPU `index`, nested by name, pool and count; sizes in bytes."""
    memory.allocated(index)  # takes notice of what has been freed
    small, large = memory.tallies[index]
    used, reserved = memory.used[index], memory.reserved_bytes[index]
    blocks = _by_pool(small.count, large.count)
    sizes = _by_pool(small.nbytes, large.nbytes)
    sizes["all"]["peak"] = memory.peak[index]
    in_segments = _held(reserved, memory.peak_reserved[index], _small_share(memory, index))
    return {
        "allocation": blocks,
        "active": blocks,
        "allocated_bytes": sizes,
        "active_bytes": sizes,
        "requested_bytes": _by_pool(small.asked, large.asked),
        "reserved_bytes": in_segments,
        "segment": {pool: {count: int(n > 0) for count, n in row.items()} for pool, row in in_segments.items()},
        "inactive_split": _held(int(reserved > used), int(reserved > used), 0),
        "inactive_split_bytes": _held(reserved - used, reserved - used, 0),
        "oversize_allocations": dict.fromkeys(COUNTS, 0),
        "oversize_segments": dict.fromkeys(COUNTS, 0),
        "num_alloc_retries": 0,
        "num_ooms": memory.failures[index],
        "num_sync_all_streams": 0,
        "num_device_alloc": sum(n > 0 for n in (reserved, _small_share(memory, index))),
        "num_device_free": 0,
        "max_split_size": -1,
    }


def flat(nested: dict[str, Any], prefix: str = "") -> dict[str, int]:
    """The same with names such as `allocated_bytes.all.peak`, in order."""
    found: dict[str, int] = {}
    for name, value in nested.items():
        found.update(flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value})
    return collections.OrderedDict(sorted(found.items()))


def segments(memory: Memory, index: int) -> list[dict[str, Any]]:
    """What `torch.cuda.memory_snapshot()` tells of GPU `index`: a segment for each pool that has a block."""
    blocks, share = memory.held(index), _small_share(memory, index)
    found = []
    for pool, total in (("small", share), ("large", memory.reserved_bytes[index] - share)):
        if total:
            mine = [block for block in blocks if _is_small(block) == (pool == "small")]
            found.append(_segment(mine, pool, total, index))
    return found


def _segment(blocks: list[Block], pool: str, total: int, index: int) -> dict[str, Any]:
    address = blocks[0].key if blocks else 0
    parts, used = [], 0
    for block in blocks:
        parts.append(_part(address + used, block.nbytes, block.asked, "active_allocated"))
        used += block.nbytes
    if total > used:
        parts.append(_part(address + used, total - used, 0, "inactive"))
    return {
        "device": index,
        "address": address,
        "total_size": total,
        "allocated_size": used,
        "active_size": used,
        "requested_size": sum(block.asked for block in blocks),
        "stream": 0,
        "segment_type": pool,
        "segment_pool_id": (0, 0),
        "is_expandable": False,
        "frames": [],
        "blocks": parts,
    }


def _part(address: int, size: int, asked: int, state: str) -> dict[str, Any]:
    return {"address": address, "size": size, "requested_size": asked, "state": state, "frames": []}


def _is_small(block: Block) -> bool:
    return block.nbytes <= 2**20


def _small_share(memory: Memory, index: int) -> int:
    """Bytes of what is reserved that the pool of small blocks has."""
    return min(rounded(memory.tallies[index][0].nbytes[0], SEGMENT_STEP), memory.reserved_bytes[index])


def _by_pool(small: list[int], large: list[int]) -> dict[str, dict[str, int]]:
    both = [a + b for a, b in zip(small, large, strict=True)]
    return {pool: dict(zip(COUNTS, row, strict=True)) for pool, row in zip(POOLS, (both, small, large), strict=True)}


def _held(now: int, peak: int, small: int) -> dict[str, dict[str, int]]:
    """Counters of what is held now and was held at most; as given out counts the most, as given back the rest."""
    back = peak - now
    rows = ([now, peak, peak, back], [small, small, small, 0], [now - small, peak - small, peak - small, back])
    return {pool: dict(zip(COUNTS, row, strict=True)) for pool, row in zip(POOLS, rows, strict=True)}
