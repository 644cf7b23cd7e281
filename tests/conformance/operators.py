"""Run PyTorch's own table of operators on a GPU, real or virtual, and write down what each call does.

    python -m tests.conformance.operators --real --out FILE [--jobs 4]    on a machine with a GPU
    python -m tests.conformance.operators --virtual --out FILE            on the virtual GPU
    python -m tests.conformance.operators --plain-cpu --out FILE          on the processor, without any

The cases come from `op_db`, the table that PyTorch tests itself with, and from the lines in `plain_lines`: see
`operator_cases`. The real run needs PyTorch with numpy, and of this repository this folder and `src`, on PYTHONPATH.
Cases run one after the other in a child process; its parent starts another one where a case killed it, where a case
hangs, and where CUDA does not answer any more afterwards. What is done already is kept in `FILE.parts` and not run
again, if it was done on the same machine with the same options and versions.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import gzip
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
from typing import Any

from sana_lab import isolated, machine
from sana_lab.evidence import journal

PACKAGE = __package__  # `tests.conformance`, or `conformance` when started from inside tests/
LIBRARIES = ("torch", "numpy")
START_LIMIT, CASE_LIMIT = 240, 45
"""Seconds for a child to import the table, and for one case."""

MOST_RESTARTS = 60
"""Of one child's work; what is left then is not in the record."""


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", action="store_true", help="run on the first real GPU of this machine")
    parser.add_argument("--virtual", action="store_true", help="run on the virtual GPU")
    parser.add_argument("--plain-cpu", action="store_true", help="run on the processor")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="write the record here (.json or .json.gz)")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the work")
    parser.add_argument("--only", default="", help="only operators whose name contains this")
    parser.add_argument("--seed-sample", type=int, default=0, metavar="N", help="about N cases, chosen by --seed")
    parser.add_argument("--seed", type=int, default=0, help="of --seed-sample")
    parser.add_argument("--gpu-only", action="store_true", help="leave out what each call does on the processor")
    parser.add_argument("--collect", action="store_true", help="run nothing: write the record from FILE.parts")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    chosen = [name for name in ("real", "virtual", "plain_cpu") if getattr(options, name)]
    if len(chosen) != 1:
        parser.error("say one of --real, --virtual, --plain-cpu")
    options.kind = chosen[0]
    if options.collect:
        finish(options.out, pathlib.Path(f"{options.out}.parts"))
        return 0
    return run_child(options) if options.child is not None else run_all(options)


# ---- the parent -----------------------------------------------------------------------------------------------------


def run_all(options: argparse.Namespace) -> int:
    """Start the children, start them again where they die, and write the record. A stopped run goes on.

    Raises:
        ValueError: the parts that are there are of another run.
    """
    started = time.time()
    parts = pathlib.Path(f"{options.out}.parts")
    about = describe_run(options)
    settings = {name: getattr(options, name) for name in ("kind", "jobs", "only", "seed_sample", "seed", "gpu_only")}
    made_by = {"machine": about["machine"], "versions": about["versions"]}
    journal.hold(parts / "settings.json", settings | made_by, results=sorted(parts.glob("*.jsonl")))
    journal.write_json(parts / "envelope.json", about)
    children = {number: start_child(options, number) for number in range(options.jobs)}
    restarts: collections.Counter[int] = collections.Counter()
    while children:
        time.sleep(0.1)
        for number, (child, since) in list(children.items()):
            status, running = child.poll(), parts / f"{number}.running"
            if status is None:
                begun = running.stat().st_mtime if running.exists() else 0
                limit = CASE_LIMIT if begun > since else START_LIMIT
                if time.time() - max(begun, since) < limit:
                    continue
                isolated.end(child)
                note_death(parts, number, {"raises": "TimeLimit", "words": f"{CASE_LIMIT} seconds"})
            elif status == 0:
                del children[number]
                continue
            elif status != POISONED:
                note_death(parts, number, {"raises": "ProcessDied", "words": f"exit status {status}"})
            restarts[number] += 1
            if restarts[number] > MOST_RESTARTS:
                print(f"part {number}: given up after {MOST_RESTARTS} restarts", file=sys.stderr)
                del children[number]
            else:
                children[number] = start_child(options, number)
    finish(options.out, parts, started)
    print(f"{sum(restarts.values())} restarts, {time.time() - started:.0f} s, {options.out.stat().st_size} bytes")
    return 0


def finish(out: pathlib.Path, parts: pathlib.Path, started: float | None = None) -> None:
    """Write the record from the parts that there are."""
    record = json.loads((parts / "envelope.json").read_text(encoding="utf-8"))
    record["seconds"] = None if started is None else round(time.time() - started)
    record["results"] = collect(parts)
    save(out, record)
    summarize(record["results"])


def start_child(options: argparse.Namespace, number: int) -> tuple[subprocess.Popen, float]:
    """A process for every `--jobs`-th operator."""
    flags = [f"--{options.kind.replace('_', '-')}", "--out", str(options.out), "--jobs", str(options.jobs)]
    flags += ["--only", options.only, "--seed-sample", str(options.seed_sample), "--seed", str(options.seed)]
    flags += ["--gpu-only"] if options.gpu_only else []
    environment = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"), "PYTHONWARNINGS": "ignore"}
    environment |= {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]}
    if options.kind != "real":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    with open(f"{options.out}.parts/{number}.log", "ab") as log:
        command = isolated.module(f"{PACKAGE}.operators", *flags, "--child", str(number))
        child = isolated.start(command, environ=environment, stdout=log, stderr=subprocess.STDOUT)
    return child, time.time()


def note_death(parts: pathlib.Path, number: int, outcome: dict[str, Any]) -> None:
    """Write down that the case that ran last ended its process."""
    running = parts / f"{number}.running"
    if not running.exists():
        return
    name = running.read_text(encoding="utf-8")
    running.unlink()
    with open(parts / f"{number}.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"id": name, "gpu": outcome}) + "\n")


def collect(parts: pathlib.Path) -> dict[str, Any]:
    """All outcomes so far, by id."""
    results = {}
    for part in sorted(parts.glob("*.jsonl")):
        for line in part.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # a line that its process did not finish
                continue
            if "id" in entry:
                results[entry.pop("id")] = entry
    return dict(sorted(results.items()))


def describe_run(options: argparse.Namespace) -> dict[str, Any]:
    """The envelope of a record, as `sana_lab.evidence` reads it."""
    used: dict[str, Any] = {"device": machine.processor(), "count": 1, "driver": None}
    if options.kind == "real":
        first = machine.gpus()[0]
        used = {"device": first.name, "count": 1, "driver": first.driver}
    where = {"real": "on this GPU", "virtual": "on the virtual GPU", "plain_cpu": "on the processor"}[options.kind]
    return {
        "what": f"What each call of PyTorch's own table of operators does {where}: the kind of value, or the error.",
        "command": f"python -m tests.conformance.operators --{options.kind.replace('_', '-')} --out FILE",
        "machine": used,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in LIBRARIES},
        },
        "seed": options.seed,
        "when": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "results": {},
    }


def save(path: pathlib.Path, record: dict[str, Any]) -> None:
    """Write a record, compressed if its name says so; equal records are equal files."""
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":")).replace('},"', '},\n"') + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    else:
        path.write_text(text, encoding="utf-8")


def load(path: pathlib.Path) -> dict[str, Any]:
    """Read what `save` wrote."""
    data = path.read_bytes()
    return json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)


def summarize(results: dict[str, Any]) -> None:
    """Print what there is."""
    kinds = collections.Counter(entry["gpu"].get("raises", "returns") for entry in results.values())
    print(f"{len(results)} cases:", ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()))
    died = [name for name, entry in results.items() if entry["gpu"].get("raises") in ("ProcessDied", "TimeLimit")]
    died += [f"{name} (CUDA gone)" for name, entry in results.items() if entry.get("poisoned")]
    for name in died[:40]:
        print("did not finish:", name)


# ---- the child ------------------------------------------------------------------------------------------------------

POISONED = 77
"""Exit status of a child whose CUDA does not answer any more."""


def run_child(options: argparse.Namespace) -> int:
    """Run this child's share of the cases, from where the one before it stopped."""
    parts = pathlib.Path(f"{options.out}.parts")
    done = set(collect_ids(parts / f"{options.child}.jsonl"))
    running, part = parts / f"{options.child}.running", parts / f"{options.child}.jsonl"
    running.unlink(missing_ok=True)
    from . import operator_cases

    operator_cases.prepare()
    groups = operator_cases.groups(options.only)
    if options.seed_sample:
        groups = operator_cases.sample_groups(groups, options.seed_sample, options.seed)
    groups = groups[options.child :: options.jobs]
    with open(part, "a", encoding="utf-8") as file, device_for(options.kind) as device:

        def write(entry: dict[str, Any]) -> None:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
            file.flush()

        for group in groups:
            if f"group {group.name}" in done:
                continue
            for case in operator_cases.cases(group):
                if case.name in done:
                    continue
                running.write_text(case.name, encoding="utf-8")
                on_gpu_only = {"gpu": operator_cases.outcome(case, device)} if options.gpu_only else None
                entry = {"id": case.name, **(on_gpu_only or operator_cases.outcomes(case, device))}
                gone = device == "cuda" and options.kind == "real" and not cuda_answers()
                write({**entry, "poisoned": True} if gone else entry)
                if gone:
                    os._exit(POISONED)
            write({"group": group.name})
    running.unlink(missing_ok=True)
    return 0


def collect_ids(part: pathlib.Path) -> list[str]:
    """Ids of the cases in a part, and `group NAME` of the groups that are complete."""
    found = []
    for line in part.read_text(encoding="utf-8").splitlines() if part.exists() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        found.append(entry["id"] if "id" in entry else f"group {entry['group']}")
    return found


class device_for:  # noqa: N801  (used like a function)
    """A context with the device of a run: `cuda`, real or virtual, or `cpu`."""

    def __init__(self, kind: str):
        """Say which `kind`."""
        self.kind, self.gpu = kind, None

    def __enter__(self) -> str:
        """Start the virtual GPU where it is asked for."""
        if self.kind == "virtual":
            from sana_lab.accelerator import use_accelerator

            self.gpu = use_accelerator(virtual=True)
            self.gpu.__enter__()
        return "cpu" if self.kind == "plain_cpu" else "cuda"

    def __exit__(self, *error: Any) -> None:
        """Leave it."""
        if self.gpu is not None:
            self.gpu.__exit__(*error)


def cuda_answers() -> bool:
    """Whether CUDA still works: after a failed assertion in a kernel it never does again in that process."""
    import torch

    try:
        return torch.ones(2, device="cuda").add_(1).sum().item() == 4
    except RuntimeError:
        return False


if __name__ == "__main__":
    sys.exit(main())
