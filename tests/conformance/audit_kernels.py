"""Which kernels read views rightly: each argument in each layout, on a real GPU, in decibels against float64.

    python -m tests.conformance.audit_kernels --out FILE [--jobs 8]     on a machine with a GPU
    python -m tests.conformance.audit_kernels --virtual [--out FILE]    on the virtual GPU

FILE is a record as `sana_lab.evidence` reads it. It holds the installed bitsandbytes; run again with another one first
on PYTHONPATH, the same FILE gets that one too. A kernel that ends CUDA for its process takes only its own process with
it: every kernel and argument has one, and what is left of the layouts is tried in the next.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import math
import os
import pathlib
import re
import sys
import tempfile
import time
from functools import partial
from typing import Any

COMMAND = "python -m tests.conformance.audit_kernels --out FILE"
WHAT = "What kernels of bitsandbytes and of this book keep of their result if one argument is a view: decibels."
TIME_LIMIT = 150
"""Seconds for one process."""

Outcome = float | str


def main() -> int:
    """Parse the command line, run, write, and print a summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--virtual", action="store_true", help="on the virtual GPU, in this process")
    parser.add_argument("--out", type=pathlib.Path, help="the record to write or to add to")
    parser.add_argument("--against", type=pathlib.Path, help="a record to compare with, same bitsandbytes")
    parser.add_argument("--jobs", type=int, default=8, help="processes at a time")
    parser.add_argument("--only", default="", help="only kernels whose name contains this")
    options = parser.parse_args()
    from . import layouts_ours  # noqa: F401  (registers)
    from .layouts import PROBES

    names = [name for name in PROBES if options.only in name]
    version = installed()
    started = time.time()
    if options.virtual:
        found = virtual(names)
    else:
        found = real([*names, *(["large"] if options.only in "large" else [])], options)
    if options.out:
        _write(options.out, version, found)
    _print(version, found, time.time() - started)
    if options.against:
        there = json.loads(options.against.read_text(encoding="utf-8"))["results"][version]
        differ = differences(found, there)
        print(*differ, f"{len(differ)} differ from {options.against.name}", sep="\n")
    return 0


def installed() -> str:
    """The version of bitsandbytes, which is not imported: that would start CUDA."""
    origin = importlib.util.find_spec("bitsandbytes").origin
    return re.search(r'__version__ = "([^"]+)"', pathlib.Path(origin).read_text(encoding="utf-8"))[1]


# ---- running --------------------------------------------------------------------------------------------------------


def virtual(names: list[str]) -> dict[str, dict[str, Outcome]]:
    """All probes in this process, on the virtual GPU."""
    import bitsandbytes  # noqa: F401  (before there is CUDA: it has a library for processors alone here)

    from sana_lab import use_accelerator

    from .layouts import PROBES

    with use_accelerator(virtual=True):
        probes = {name: PROBES[name] for name in names if PROBES[name].there()}
        return {name: {layout: outcome(probe, layout) for layout in probe.layouts} for name, probe in probes.items()}


def real(names: list[str], options: argparse.Namespace) -> dict[str, dict[str, Outcome]]:
    """Each probe in a process of its own, a few at a time; what is finished is written as it comes."""
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # a fork must not find CUDA started
    import torch  # noqa: F401  once for all forks

    from sana_lab import isolated

    found: dict[str, dict[str, Outcome]] = {}
    waiting = names
    with tempfile.TemporaryDirectory() as folder:
        while waiting:
            places = {name: pathlib.Path(tempfile.mkdtemp(dir=folder)) / "answers.jsonl" for name in waiting}
            cases = [(name, partial(_probe, name, sorted(found.get(name, {})), places[name])) for name in waiting]
            waiting = []
            for name, ended in isolated.run_each(cases, limit=TIME_LIMIT, jobs=options.jobs, one_file=True):
                if _collect(name, places[name], ended.status, found):
                    waiting.append(name)
                if options.out:
                    options.out.with_suffix(".partial").write_text(json.dumps(found), encoding="utf-8")
    if options.out:
        options.out.with_suffix(".partial").unlink(missing_ok=True)
    return {name: found[name] for name in names if found.get(name)}


def _probe(name: str, done: list[str], place: pathlib.Path) -> None:
    """Try a probe's layouts that are not done, in a process of its own, and write each answer at once."""
    import torch

    torch.set_num_threads(2)
    try:
        _layouts(name, done, place)
    except Exception as error:  # a kernel that is not there, a machine without CUDA
        _append(place, "error", f"{type(error).__name__}: {' '.join(str(error).split())[:120]}")


def _layouts(name: str, done: list[str], place: pathlib.Path) -> None:
    from . import layouts_ours
    from .layouts import PROBES

    if name == "large":
        for part, value in layouts_ours.large().items():
            _append(place, part, value)
        return
    probe = PROBES[name]
    if not probe.there():
        return
    for layout in probe.layouts:
        if layout in done:
            continue
        _append(place, "trying", layout)
        value = outcome(probe, layout)
        _append(place, layout, value)
        if isinstance(value, str) and "CUDA error" in value or "AcceleratorError" in str(value):
            os._exit(3)  # nothing works in this process any more


def outcome(probe: Any, layout: str) -> Outcome:
    """Decibels, or the exception in a line."""
    try:
        return probe.decibels(layout)
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def _append(place: pathlib.Path, key: str, value: Any) -> None:
    with place.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps([key, value]) + "\n")


def _collect(name: str, place: pathlib.Path, status: int, found: dict[str, dict[str, Outcome]]) -> bool:
    """Add what a process wrote; whether another one must go on where it stopped."""
    pairs = []
    with contextlib.suppress(FileNotFoundError):
        pairs = [json.loads(line) for line in place.read_text(encoding="utf-8").splitlines()]
    mine = found.setdefault(name, {})
    trying = None
    for key, value in pairs:
        if key == "trying":
            trying = value
        else:
            mine[key] = value
            trying = None
    if trying is not None:
        mine[trying] = f"ProcessDied: exit status {status}"
    return status != 0 and "error" not in mine and bool(pairs)


# ---- writing --------------------------------------------------------------------------------------------------------


def _write(path: pathlib.Path, version: str, found: dict[str, dict[str, Outcome]]) -> None:
    from sana_lab import evidence

    results: dict[str, Any] = {}
    if path.is_file():
        with contextlib.suppress(ValueError):
            results = evidence.load(path.stem, folder=path.parent)["results"]
    results[version] = found
    versions = {**evidence.installed_versions(), "bitsandbytes": ", ".join(sorted(results, reverse=True))}
    evidence.save(path.stem, what=WHAT, command=COMMAND, results=results, versions=versions, folder=path.parent)


def _print(version: str, found: dict[str, dict[str, Outcome]], seconds: float) -> None:
    """A line for each kernel and argument: what is right is left out."""
    wrong, raised = 0, 0
    for name, row in found.items():
        bad = {layout: value for layout, value in row.items() if not right(row, layout)}
        raised += sum(isinstance(value, str) for value in bad.values())
        wrong += sum(not isinstance(value, str) for value in bad.values())
        words = "; ".join(f"{layout} {value}" for layout, value in bad.items())
        print(f"{name}: {row.get('contiguous', '')} | {words[:400]}")
    layer = found.get("Linear8bitLt at threshold 6, float16, x", {})
    print(
        f"bitsandbytes {version}: {len(found)} kernels and arguments, {sum(map(len, found.values()))} layouts, "
        f"{wrong} wrong, {raised} raise; Linear8bitLt {layer.get('contiguous')} dB, transposed "
        f"{layer.get('transposed')} dB; {seconds:.0f} s"
    )


def right(row: dict[str, Outcome], layout: str) -> bool:
    """Whether a layout keeps what the contiguous argument keeps."""
    from .layouts import LOSS_DB

    value, best = row[layout], row.get("contiguous", -math.inf)
    return not isinstance(value, str) and (isinstance(best, str) or value >= best - LOSS_DB)


def differences(one: dict[str, dict[str, Outcome]], other: dict[str, dict[str, Outcome]]) -> list[str]:
    """Where two machines do not do the same: one raises, or they are more than 1 dB apart where a result is wrong."""
    found = []
    for name in one.keys() & other.keys():
        for layout in one[name].keys() & other[name].keys():
            a, b = one[name][layout], other[name][layout]
            if isinstance(a, str) or isinstance(b, str):
                same = isinstance(a, str) and isinstance(b, str)
            else:
                both = right(one[name], layout) and right(other[name], layout)
                same = both or abs(a - b) <= 1
            if not same:
                found.append(f"{name}, {layout}: {a} | {b}")
    return sorted(found)


if __name__ == "__main__":
    sys.exit(main())
