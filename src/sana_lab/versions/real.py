"""All probes on a real GPU and on the virtual one, side by side, for stacks that somebody unpacked into folders.

    python -m sana_lab.versions.real FOLDER --out PLACE

`FOLDER` has a folder for each stack, named like it, with its libraries as `pip install --target` lays them out; they
come before what is installed. torch is whatever is installed, and the record says which. One JSON file grows in
`PLACE`: `versions_real.json`, an evidence record, complete up to the last probe that ended. Two minutes for four stacks
on sixteen cores. A machine without a GPU, or `--virtual`, runs the virtual half only.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .. import evidence
from .probes import PROBES
from .runner import SOURCE, folders, probe_in
from .stacks import STACKS

NAME = "versions_real"
WHAT = "What each probe does on a few stacks of library versions, on a real GPU and on the virtual one."
BESIDE = ("tokenizers", "safetensors", "numpy", "triton")
"""Versions worth keeping besides those that a stack pins."""


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, run, write the record; the status is 1 if a process ended before its last probe."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="has a folder of libraries for each stack, named like the stack")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write into")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time (default: cores)")
    parser.add_argument("--virtual", action="store_true", help="the virtual half only")
    parser.add_argument("--probe", action="append", choices=list(PROBES), metavar="ID", help="only this one")
    options = parser.parse_args(arguments)
    names = [stack.name for stack in STACKS if (options.folder / stack.name).is_dir()]
    if not names:
        parser.error(f"{options.folder} has no folder with the name of a stack, such as {STACKS[0].name}")
    machine = evidence.this_machine()
    modes = ["virtual"] if options.virtual or machine["driver"] is None else ["real", "virtual"]
    found = Findings(options.out, machine, "python -m sana_lab.versions.real FOLDER --out PLACE")
    wanted = options.probe or list(PROBES)
    each = max(1, min(3, options.jobs // (len(names) * len(modes))))
    parts = [(name, mode, wanted[i::each]) for mode in modes for i in range(each) for name in names if wanted[i::each]]
    from tqdm import tqdm

    with folders() as places, tqdm(total=len(wanted) * len(names) * len(modes), unit="probe", mininterval=5) as bar:

        def go(part: tuple[str, str, list[str]]) -> None:
            _probe(options.folder, *part, places, found, bar)

        with ThreadPoolExecutor(max(1, options.jobs)) as pool:
            list(pool.map(go, parts))
    for line in found.errors:
        print(line, file=sys.stderr)
    print(f"written to {found.write()}")
    return 1 if found.errors else 0


class Findings:
    """The record as it grows; several threads put outcomes in."""

    def __init__(self, place: Path, machine: dict[str, Any], command: str) -> None:
        """`place`: the folder for the file."""
        self.place, self.machine, self.command = place, machine, command
        self.stacks: dict[str, dict[str, Any]] = {}
        self.errors: list[str] = []
        self._lock = threading.Lock()

    def put(self, stack: str, mode: str, item: dict[str, Any]) -> None:
        """Note what is installed, or an outcome, and write the file."""
        with self._lock:
            entry = self.stacks.setdefault(stack, {})
            if "probe" in item:
                entry.setdefault(mode, {})[item.pop("probe")] = item
            else:
                beside = {name: item["beside"].get(name) for name in BESIDE}
                entry.update(python=item["python"], resolved=item["resolved"], beside=beside)
            self.write()

    def write(self) -> Path:
        """The file, stacks and probes in their order."""
        stacks = {}
        for name in (stack.name for stack in STACKS if stack.name in self.stacks):
            entry = dict(self.stacks[name])
            for mode in entry.keys() & {"real", "virtual"}:
                entry[mode] = {id: entry[mode][id] for id in PROBES if id in entry[mode]}
            stacks[name] = entry
        versions = {"python": ".".join(map(str, sys.version_info[:3]))}
        for entry in stacks.values():  # one for all: it comes from the environment, not from a folder
            versions["torch"] = entry.get("resolved", {}).get("torch") or "missing"
        return evidence.save(
            NAME,
            what=WHAT,
            command=self.command,
            results={"stacks": stacks, "errors": self.errors},
            seed=0,
            machine=self.machine,
            versions=versions,
            folder=self.place,
        )


def _probe(folder: Path, name: str, mode: str, probes: list[str], places: tuple, found: Findings, bar: Any) -> None:
    """Run some probes of a stack, and put each outcome into `found`."""
    environ = {"PYTHONPATH": os.pathsep.join([str((folder / name).resolve()), str(SOURCE)])}
    if mode == "virtual":
        environ["CUDA_VISIBLE_DEVICES"] = ""  # as on a machine without a GPU
    try:
        for item in probe_in(Path(sys.executable), probes, *places, mode == "virtual", environ):
            bar.update("probe" in item)
            found.put(name, mode, item)
    except OSError as reason:
        found.errors.append(f"{name}, {mode}: {reason}")


if __name__ == "__main__":
    raise SystemExit(main())
