"""The machine as its driver and operating system tell it: GPUs, processor, cores.

torch is never asked: the question may start CUDA, after which no fork can use it, and under the virtual GPU torch
answers for a GPU that is not there. What `nvidia-smi` says comes through this module alone.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VARIABLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Gpu:
    """A GPU that CUDA shows to this process.

    Args:
        entry: its name in `CUDA_VISIBLE_DEVICES`, for a process that is to see it alone.
        name: such as "NVIDIA H200"; of a slice, "NVIDIA A100-SXM4-40GB MIG 1g.5gb".
        driver: version of the driver.
        number: as `nvidia-smi` counts.
    """

    entry: str
    name: str
    driver: str
    number: int


def gpus() -> list[Gpu]:
    """The NVIDIA GPUs that CUDA shows to this process, in CUDA's order; empty without a driver.

    Numbers in `CUDA_VISIBLE_DEVICES` are taken to count as `nvidia-smi` does. So they do where all GPUs are of one kind
    or `CUDA_DEVICE_ORDER` is PCI_BUS_ID; otherwise CUDA counts from the fastest, and which that is only CUDA knows.
    """
    listed = _ask("name", "driver_version")
    if not listed:
        return []
    uuids, slices = _uuids()
    variable = os.environ.get(VARIABLE)
    if variable is not None and variable.strip().startswith("MIG-"):
        shown = _slice(variable.split(",")[0].strip(), uuids, slices)
    else:
        uuids = [*uuids, *[""] * len(listed)][: len(listed)]  # an old driver's program may list no UUIDs
        shown = [(entry, number, "") for entry, number in visible(variable, uuids)]
        if shown and shown[0][1] in slices:  # a GPU in slices shows its first one, and no other GPU is seen beside it
            _, number, _ = shown[0]
            shown = [(slices[number][0][0], number, slices[number][0][1])]
    return [
        Gpu(entry, f"{listed[number][0]} {of}".strip(), listed[number][1], number)
        for entry, number, of in shown
        if number < len(listed)
    ]


def visible(variable: str | None, uuids: Sequence[str]) -> list[tuple[str, int]]:
    """Which GPUs CUDA shows, given the value of `CUDA_VISIBLE_DEVICES`: its entries, each with the GPU's number.

    The first entry that names no GPU ends the list, -1 for example; a GPU named twice leaves none. Numbers are read as
    far as there are digits, and a UUID may be cut short as long as it is the only one that begins so (torch 2.13.0,
    cuda/__init__.py, `_parse_visible_devices`, which does as CUDA's Programming Guide says, "Environment Variables").

    Args:
        variable: the value; None if it is not set, which shows all.
        uuids: of all GPUs in the driver's order.
    """
    if variable is None:
        return [(str(number), number) for number in range(len(uuids))]
    entries = [entry.strip() for entry in variable.split(",")]
    if entries[0].startswith("GPU-"):
        found = [[i for i, uuid in enumerate(uuids) if uuid.startswith(entry)] for entry in entries]
        numbers = [
            one[0] if entry.startswith("GPU-") and len(one) == 1 else -1
            for entry, one in zip(entries, found, strict=True)
        ]
    else:
        digits = [re.match(r"[+-]?\d+", entry) for entry in entries]
        numbers = [int(match[0]) if match else -1 for match in digits]
    shown = numbers[: next((i for i, number in enumerate(numbers) if number < 0), None)]
    if len(set(shown)) < len(shown):
        return []
    shown = shown[: next((i for i, number in enumerate(shown) if number >= len(uuids)), None)]
    return list(zip(entries, shown, strict=False))


def entries() -> list[str]:
    """What to put into `CUDA_VISIBLE_DEVICES` of processes that see one GPU each.

    Where there is no `nvidia-smi` that could tell which entries of the variable are GPUs, those that could be.
    """
    if shown := gpus():
        return [gpu.entry for gpu in shown]
    given = [entry.strip() for entry in os.environ.get(VARIABLE, "").split(",")]
    usable = [bool(re.match(r"\d|GPU-|MIG-", entry)) for entry in given]
    return [] if shutil.which("nvidia-smi") else given[: next((i for i, good in enumerate(usable) if not good), None)]


def this_machine() -> dict[str, Any]:
    """Describe the machine without torch.

    Returns:
        `device` (name), `count` and `driver`: the NVIDIA GPUs that `nvidia-smi` lists and `CUDA_VISIBLE_DEVICES`
        leaves visible; without any, the processor's name, the number of logical cores and no driver.
    """
    if shown := gpus():
        names = " and ".join(dict.fromkeys(gpu.name for gpu in shown))
        return {"device": names, "count": len(shown), "driver": shown[0].driver}
    return {"device": f"core of {processor()}", "count": os.cpu_count() or 1, "driver": None}


def capability() -> tuple[int, int] | None:
    """Compute capability of the first GPU that CUDA shows, without starting CUDA; None where there is none."""
    listed, shown = _ask("compute_cap"), gpus()
    if not listed or not shown:
        return None
    major, _, minor = listed[shown[0].number][0].partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None


def free_memory() -> int | None:
    """Bytes that are free now on the first GPU that CUDA shows, by its driver; None where there is none."""
    listed, shown = _ask("memory.free"), gpus()
    if not shown or shown[0].number >= len(listed) or not listed[shown[0].number][0].isdigit():
        return None
    return int(listed[shown[0].number][0]) * 2**20


def clocks(index: int = 0) -> list[int] | None:
    """Clocks of processors and memory of a GPU in MHz, now; None where nothing tells them.

    Args:
        index: as torch counts.
    """
    listed, shown = _ask("clocks.sm", "clocks.mem"), gpus()
    if index >= len(shown) or shown[index].number >= len(listed):
        return None
    found = listed[shown[index].number]
    return [int(number) for number in found] if all(map(str.isdigit, found)) else None


def processor() -> str:
    """The processor's name, as exactly as the operating system tells it."""
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        info = ""
    found = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def cores() -> int:
    """Logical cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _ask(*fields: str) -> list[list[str]]:
    """The fields of each GPU that the driver knows; empty without one, or if it does not know a field."""
    lines = _smi(f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits")
    rows = [[field.strip() for field in line.rsplit(",", len(fields) - 1)] for line in lines]
    return [row for row in rows if len(row) == len(fields) and row[0]]


def _uuids() -> tuple[list[str], dict[int, list[tuple[str, str]]]]:
    """UUIDs of all GPUs; and of those that are cut in slices: number -> (UUID, "MIG 1g.5gb") of each slice."""
    uuids: list[str] = []
    slices: dict[int, list[tuple[str, str]]] = {}
    for line in _smi("-L"):
        if gpu := re.match(r"GPU \d+: .*\(UUID: (GPU-[^)]+)\)", line):
            uuids.append(gpu[1])
        elif part := re.match(r"\s+(MIG \S+).*\(UUID: (MIG-[^)]+)\)", line):
            slices.setdefault(len(uuids) - 1, []).append((part[2], part[1]))
    return uuids, slices


def _slice(entry: str, uuids: Sequence[str], slices: dict[int, list[tuple[str, str]]]) -> list[tuple[str, int, str]]:
    """The slice that an entry names, as (entry, number of its GPU, its kind). A process sees one at most.

    Either by the UUID of its own, or `MIG-GPU-<UUID of the GPU>/<instance>/<compute instance>`, as before driver 470.
    """
    for number, parts in slices.items():
        for uuid, kind in parts:
            if uuid == entry:
                return [(entry, number, kind)]
    parent = entry.removeprefix("MIG-").partition("/")[0]
    return [(entry, number, "MIG") for number, uuid in enumerate(uuids) if uuid == parent]


def _smi(*options: str) -> list[str]:
    """What the driver's program says; nothing without a driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        run = subprocess.run([program, *options], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return run.stdout.splitlines() if run.returncode == 0 else []
