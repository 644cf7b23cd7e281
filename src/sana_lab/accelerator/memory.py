"""Who lives where: the device of every storage, and the bytes that each virtual GPU holds.

A device belongs to a *storage*, as it does in life: a view, a `.data`, a `Parameter` made from a tensor all share one
storage and so agree about their device, and no byte is counted twice. PyTorch keeps one Python object per storage for
as long as the storage lives, so a weak reference to it tells the moment the memory is given back.
"""

from __future__ import annotations

import collections
import re
import threading
import weakref

import torch

from . import words

ALLOCATION_STEP = 512
"""Bytes. CUDA's caching allocator rounds each block up to this (`kMinBlockSize`, c10/cuda/CUDACachingAllocator.cpp)."""

SEGMENT_STEP = 2 * 2**20
"""Bytes. Memory is reserved from the driver in steps of 2 MiB (`kSmallBuffer`, `kRoundLarge`, same file)."""

LARGE_SEGMENT = 20 * 2**20
"""Bytes of a segment for several blocks of more than 1 MiB (`kLargeBuffer`, same file)."""

OWN_SEGMENT = 10 * 2**20
"""Bytes. From this size on a block gets a segment of its own (`kMinLargeAlloc`, same file)."""

KEPT_REMAINDER = 2**20
"""Bytes. What is left of such a segment belongs to the block, up to this size (`kSmallSize` in `should_split`)."""


def rounded(nbytes: int, step: int = ALLOCATION_STEP) -> int:
    """`nbytes` rounded up to a multiple of `step`; an empty tensor takes nothing. In bytes."""
    return -(-nbytes // step) * step


def block_size(nbytes: int) -> int:
    """The bytes that CUDA's caching allocator counts for a storage of `nbytes`, cut from fresh memory."""
    block = rounded(nbytes)
    if block < OWN_SEGMENT:
        return block
    segment = rounded(block, SEGMENT_STEP)
    return segment if segment - block <= KEPT_REMAINDER else block


def segment_size(nbytes: int) -> int:
    """The bytes that CUDA's allocator asks the driver for where no segment has room for `nbytes` (same file).

    2 MiB for a small block, 20 MiB for one below 10 MiB, else steps of 2 MiB (`get_allocation_size`). It is this size
    that an error tells.
    """
    block = rounded(nbytes)
    if block <= KEPT_REMAINDER:
        return SEGMENT_STEP
    return LARGE_SEGMENT if block < OWN_SEGMENT else rounded(block, SEGMENT_STEP)


class Block(weakref.ref):
    """A weak reference to one storage, with where it lives. Its callback gives the bytes back.

    `index` of the GPU, `nbytes` as counted (rounded), `asked` as asked for, `key` in `Memory.blocks`. `Memory.place`
    sets them: a constructor in Python would take longer than all the rest of it.
    """

    __slots__ = ("asked", "index", "key", "nbytes")


class Tally:
    """What one GPU has given out, of blocks of all sizes or of one pool: how many, their bytes, the bytes asked for.

    Each as a list: held now, the most at a time, given out and given back since the start.
    """

    __slots__ = ("asked", "count", "nbytes")

    def __init__(self) -> None:
        """Nothing yet."""
        self.count, self.nbytes, self.asked = [0] * 4, [0] * 4, [0] * 4

    def add(self, asked: int, nbytes: int) -> None:
        """One more block."""
        for row, amount in ((self.count, 1), (self.nbytes, nbytes), (self.asked, asked)):
            now = row[0] + amount
            row[0] = now
            row[2] += amount
            if now > row[1]:
                row[1] = now

    def take(self, asked: int, nbytes: int) -> None:
        """One block fewer."""
        for row, amount in ((self.count, 1), (self.nbytes, nbytes), (self.asked, asked)):
            row[0] -= amount
            row[3] += amount

    def reset_peak(self) -> None:
        """The most at a time is what is held now."""
        for row in (self.count, self.nbytes, self.asked):
            row[1] = row[0]

    def reset_totals(self) -> None:
        """Nothing given out or back so far."""
        for row in (self.count, self.nbytes, self.asked):
            row[2:] = 0, 0


class Memory:
    """The memory of all virtual GPUs: a map from storage to device; current, peak and reserved bytes of each GPU."""

    def __init__(self, gpus: int, vram: int):
        """`gpus` devices of `vram` bytes each, all empty."""
        self.vram = vram
        self.blocks: dict[int, Block] = {}  # by address of the C++ storage
        self.used = [0] * gpus
        self.peak = [0] * gpus
        self.reserved_bytes = [0] * gpus
        self.peak_reserved = [0] * gpus
        self.fractions: list[float | None] = [None] * gpus  # what `set_per_process_memory_fraction` has said
        self.limits = [vram] * gpus
        self.failures = [0] * gpus
        self.tallies = [(Tally(), Tally()) for _ in range(gpus)]  # of small blocks and of large ones
        # A weak reference's callback may run in the middle of any line, also while the lock is held, so it only takes
        # the storage off the map and leaves a note here. Whoever next needs a count reads the notes under the lock.
        self._freed: collections.deque[Block] = collections.deque()
        self._lock = threading.Lock()
        self._callback = self._on_free

    def resize(self, gpus: int, vram: int) -> None:
        """Change the number of GPUs and their size; what lives on a GPU that stays is kept."""
        with self._lock:
            self._settle()
            for counts in (self.used, self.peak, self.reserved_bytes, self.peak_reserved, self.failures):
                counts[gpus:] = []
                counts.extend([0] * (gpus - len(counts)))
            self.tallies[gpus:] = []
            self.tallies.extend((Tally(), Tally()) for _ in range(gpus - len(self.tallies)))
            self.fractions = (self.fractions + [None] * gpus)[:gpus]
            self.vram = vram
            self.limits = [vram if fraction is None else int(fraction * vram) for fraction in self.fractions]

    def index_of(self, storage: torch.UntypedStorage) -> int:
        """The GPU that `storage` lives on, or -1 for the CPU (or any real device)."""
        block = self.blocks.get(storage._cdata)
        return -1 if block is None else block.index

    def place(self, storage: torch.UntypedStorage, index: int) -> None:
        """Say that `storage` lives on GPU `index` from now on.

        Raises:
            torch.cuda.OutOfMemoryError: it does not fit.
        """
        key = storage._cdata
        size = storage.nbytes()
        nbytes = (size + 511) & -512 if size < OWN_SEGMENT - 512 else block_size(size)
        with self._lock:
            if self._freed:
                self._settle()
            used = self.used[index] + nbytes
            if used > self.limits[index]:
                raise self._out_of_memory(size, index)
            self.used[index] = used
            if nbytes:
                self.tallies[index][nbytes > KEPT_REMAINDER].add(size, nbytes)
            if used > self.peak[index]:
                self.peak[index] = used
                if used > self.reserved_bytes[index]:
                    self._reserve(index, used)
            elif used > self.reserved_bytes[index]:
                self._reserve(index, used)
            block = self.blocks[key] = Block(storage, self._callback)
            block.index, block.nbytes, block.key, block.asked = index, nbytes, key, size

    def move(self, storage: torch.UntypedStorage, index: int) -> None:
        """Say that `storage` lives on GPU `index` instead of where it was noted, -1 for the CPU; it stays in place."""
        block = self.blocks.get(storage._cdata)
        if block is None or block.index == index:
            if block is None and index >= 0:
                self.place(storage, index)
            return
        with self._lock:
            self._settle()
            self._take(block)
            del self.blocks[block.key]  # and with it the reference whose callback would have counted again
        if index >= 0:
            self.place(storage, index)

    def check_room(self, size: int, index: int) -> None:
        """Raise what CUDA raises if `size` more bytes do not fit on GPU `index`; ask before the host allocates them."""
        with self._lock:
            self._settle()
            if self.used[index] + block_size(size) > self.limits[index]:
                raise self._out_of_memory(size, index)

    def explain(self, error: RuntimeError, index: int) -> None:
        """Raise what CUDA raises if `error` says that the *host* could not allocate the result for GPU `index`."""
        asked = re.search(r"DefaultCPUAllocator: can't allocate memory: you tried to allocate (\d+) bytes", str(error))
        if asked:
            with self._lock:
                raise self._out_of_memory(int(asked[1]), index)

    def recount(self, storage: torch.UntypedStorage) -> None:
        """Count `storage` anew after its size changed in place."""
        block = self.blocks.get(storage._cdata)
        if block is None:
            return
        nbytes = block_size(storage.nbytes())
        with self._lock:
            self._settle()
            small_and_large = self.tallies[block.index]
            small_and_large[block.nbytes > KEPT_REMAINDER].take(block.asked, block.nbytes)
            small_and_large[nbytes > KEPT_REMAINDER].add(storage.nbytes(), nbytes)
            self.used[block.index] += nbytes - block.nbytes
            self.peak[block.index] = max(self.peak[block.index], self.used[block.index])
            self._reserve(block.index, max(self.used[block.index], self.reserved_bytes[block.index]))
            block.nbytes, block.asked = nbytes, storage.nbytes()

    def allocated(self, index: int) -> int:
        """Bytes that live tensors hold on GPU `index`."""
        with self._lock:
            self._settle()
            return self.used[index]

    def free(self, index: int) -> int:
        """Bytes of GPU `index` that are not reserved. A real GPU also loses a few hundred MiB to its CUDA context."""
        with self._lock:
            self._settle()
            return self.vram - self.reserved_bytes[index]

    def reset_peak(self, index: int) -> None:
        """Let the peaks of GPU `index` start again from what it holds now."""
        with self._lock:
            self._settle()
            self.peak[index] = self.used[index]
            self.peak_reserved[index] = self.reserved_bytes[index]
            for tally in self.tallies[index]:
                tally.reset_peak()

    def reset_totals(self, index: int) -> None:
        """Let all that is counted on GPU `index` from the start begin at nothing."""
        with self._lock:
            self._settle()
            self.failures[index] = 0
            for tally in self.tallies[index]:
                tally.reset_totals()

    def set_fraction(self, fraction: float, index: int) -> None:
        """Let no more than `fraction` of GPU `index` be given out; what is there stays."""
        with self._lock:
            self.fractions[index] = fraction
            self.limits[index] = int(fraction * self.vram)

    def held(self, index: int) -> list[Block]:
        """The blocks on GPU `index` that hold a byte or more."""
        with self._lock:
            self._settle()
            return [block for block in list(self.blocks.values()) if block.index == index and block.nbytes]

    def empty_cache(self) -> None:
        """Give back what is reserved but holds no live tensor."""
        with self._lock:
            for index in range(len(self.used)):
                self._release(index)

    def _on_free(self, block: Block) -> None:
        self.blocks.pop(block.key, None)
        self._freed.append(block)

    def _settle(self) -> None:
        while self._freed:
            block = self._freed.popleft()
            if block.index < len(self.used):
                self._take(block)

    def _take(self, block: Block) -> None:
        self.used[block.index] -= block.nbytes
        if block.nbytes:
            self.tallies[block.index][block.nbytes > KEPT_REMAINDER].take(block.asked, block.nbytes)

    def _reserve(self, index: int, nbytes: int) -> None:
        self.reserved_bytes[index] = min(rounded(nbytes, SEGMENT_STEP), self.vram)
        self.peak_reserved[index] = max(self.peak_reserved[index], self.reserved_bytes[index])

    def _release(self, index: int) -> None:
        self._settle()
        self.reserved_bytes[index] = min(rounded(self.used[index], SEGMENT_STEP), self.vram)

    def _out_of_memory(self, size: int, index: int) -> torch.OutOfMemoryError:
        self._release(index)  # CUDA's allocator gives its cache back before it gives up
        self.failures[index] += 1
        allowed = None if self.fractions[index] is None else self.limits[index]
        asked = segment_size(size)
        return words.out_of_memory(asked, index, self.vram, self.used[index], self.reserved_bytes[index], allowed)
