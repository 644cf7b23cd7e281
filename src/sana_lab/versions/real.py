"""All probes on a real GPU and on the virtual one, side by side, for stacks that somebody unpacked into folders.

    python -m sana_lab.versions.real FOLDER --out PLACE

`FOLDER` has a folder for each stack, named like it, with its libraries as `pip install --target` lays them out; they
come before what is installed. torch is whatever is installed, and the record says which. One JSON file grows in
`PLACE`: `versions_real.json`, an evidence record, complete up to the last probe that ended. A stopped run goes on with
the same command, on the same machine with the same versions: what that file holds is kept, the rest is run. The
virtual half takes two minutes of one core for a stack. A machine without a GPU, or `--virtual`, runs only that half.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import evidence, isolated
from ..commandline import PROCESSES, goes_on, run_command
from ..evidence import journal
from .probes import PROBES
from .runner import SOURCE, folders, probe_in
from .stacks import STACKS
from .worker import installed

NAME = "versions_real"
WHAT = "What each probe does on a few stacks of library versions, on a real GPU and on the virtual one."
SHAPE = {"stacks": {str: {"python": str, "resolved": {"torch": (str, type(None))}, "beside": dict}}}
"""What the record's results must look like, see `journal.Shape`."""
BESIDE = ("tokenizers", "safetensors", "numpy", "triton")
"""Versions worth keeping besides those that a stack pins."""

SHARES = 3
"""Processes for one stack on one GPU, at most: each has to import everything."""


def run_all(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="Has a folder of libraries for each stack, with its name."),
    ],
    out: Annotated[Path, typer.Option(metavar="PLACE", help="The folder to write into.")],
    jobs: Annotated[int | None, typer.Option(help="Processes at a time.  [default: cores]", callback=PROCESSES)] = None,
    virtual: Annotated[bool, typer.Option("--virtual", help="Run the virtual half only.")] = False,
    probe: Annotated[list[str] | None, typer.Option(metavar="ID", help="Run only this probe; may be repeated.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Run also what a run before left in PLACE.")] = False,
) -> int:
    """Run all probes on a real GPU and on the virtual one, for stacks that somebody unpacked into folders.

    A stopped run goes on with the same command. The exit status is 1 if a process ended before its last probe.
    """
    if unknown := [id for id in probe or () if id not in PROBES]:
        raise ValueError(f"--probe {unknown[0][:60]}: there is no such probe: choose from {', '.join(PROBES)}")
    names = [stack.name for stack in STACKS if (folder / stack.name).is_dir()]
    if not names:
        raise ValueError(f"{folder} has no folder with the name of a stack, such as {STACKS[0].name}")
    journal.must_be_writable(out, out)
    machine = evidence.this_machine()
    modes = ["virtual"] if virtual or machine["driver"] is None else ["real", "virtual"]
    found = Findings(out, machine, "python -m sana_lab.versions.real FOLDER --out PLACE")
    found.resume({name: _installed(folder, name) for name in names})
    from tqdm import tqdm

    jobs = jobs or os.cpu_count() or 1
    with folders() as places:
        probes = probe or list(PROBES)
        wanted = {(mode, name): probes for mode in modes for name in names}
        if not again:
            wanted = {(mode, name): found.missing(name, mode, probes, places[-1]) for mode, name in wanted}
        wanted = {pair: ids for pair, ids in wanted.items() if ids}
        if not wanted:
            print(f"nothing to do: all of it is in {out / NAME}.json")
            return 0
        each = max(1, min(SHARES, jobs // len(wanted)))
        parts = [(name, mode, ids[i::each]) for i in range(each) for (mode, name), ids in wanted.items()]
        parts = [part for part in parts if part[-1]]
        with goes_on(), tqdm(total=sum(map(len, wanted.values())), unit="probe", mininterval=5) as bar:

            def go(part: tuple[str, str, list[str]]) -> None:
                _probe(folder, *part, places, found, bar)

            isolated.at_once(go, parts, jobs)
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

    def resume(self, versions: dict[str, dict[str, Any]]) -> None:
        """Take over what a run before left in the folder.

        Args:
            versions: Stack -> what `_versions` gives now. The file may have stacks that are not there now.

        Raises:
            ValueError: the file is damaged, another machine's, or of other versions: nothing in it is lost.
        """
        if NAME not in evidence.names(self.place):
            return
        try:
            before = evidence.load(NAME, folder=self.place, results=SHAPE)
        except ValueError as reason:
            raise ValueError(f"{reason}, or {journal.ELSEWHERE}") from None
        stacks = before["results"]["stacks"]
        any_of = next(iter(versions.values()))  # Python and torch are the environment's, the same for all stacks
        environment = {"python": any_of["python"], "resolved": {"torch": any_of["resolved"]["torch"]}}
        for name, entry in stacks.items():
            was = {field: entry[field] for field in ("python", "resolved", "beside")}
            if name not in versions:
                was = {"python": entry["python"], "resolved": {"torch": entry["resolved"]["torch"]}}
            journal.hold_to(
                {"machine": before["machine"], f"stack {name}": was},
                {"machine": self.machine, f"stack {name}": versions.get(name, environment)},
                self.place / f"{NAME}.json",
            )
        self.stacks = stacks

    def missing(self, stack: str, mode: str, probes: list[str], weights: str) -> list[str]:
        """Which of these probes have no outcome yet, or one of other lines or other weights."""
        known = self.stacks.get(stack, {}).get(mode, {})
        return [id for id in probes if id not in known or not _current(known[id], id, weights)]

    def put(self, stack: str, mode: str, item: dict[str, Any]) -> None:
        """Note what is installed, or an outcome, and write the file."""
        with self._lock:
            entry = self.stacks.setdefault(stack, {})
            if "probe" in item:
                entry.setdefault(mode, {})[item.pop("probe")] = item
            else:
                entry.update(_versions(item))
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


def _current(outcome: dict[str, Any], id: str, weights: str) -> bool:
    """Whether an outcome is of the probe as it is now, with these weights."""
    if outcome["kind"] == "skipped":
        return weights != "trained"
    return outcome.get("digest") == PROBES[id].digest and outcome.get("weights", "trained") == weights


def _versions(item: dict[str, Any]) -> dict[str, Any]:
    """What the record keeps of what `worker.installed` gives."""
    beside = {name: item["beside"].get(name) for name in BESIDE}
    return {"python": item["python"], "resolved": item["resolved"], "beside": beside}


def _installed(folder: Path, name: str) -> dict[str, Any]:
    """The versions that a process of this stack will find; nothing is imported."""
    return _versions(installed([str((folder / name).resolve()), str(SOURCE), *sys.path]))


def _probe(folder: Path, name: str, mode: str, probes: list[str], places: tuple, found: Findings, bar: Any) -> None:
    """Run some probes of a stack, and put each outcome into `found`."""
    environ = {"PYTHONPATH": os.pathsep.join([str((folder / name).resolve()), str(SOURCE)])}
    if mode == "virtual":
        environ["CUDA_VISIBLE_DEVICES"] = ""  # as on a machine without a GPU

    def outcomes() -> Iterator[dict[str, Any]]:
        try:
            yield from probe_in(Path(sys.executable), probes, *places, mode == "virtual", environ)
        except OSError as reason:  # of the worker; one of the record, such as a full disk, ends the run
            found.errors.append(f"{name}, {mode}: {reason}")

    for item in outcomes():
        bar.update("probe" in item)
        found.put(name, mode, item)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and give its exit status."""
    return run_command(run_all, "python -m sana_lab.versions.real", arguments)


if __name__ == "__main__":
    sys.exit(main())
