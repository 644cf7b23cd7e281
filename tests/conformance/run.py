"""Run the conformance cases and write down what they do.

    python -m tests.conformance.run --real --out FILE [--jobs 8]    on a machine with one GPU or more
    python -m tests.conformance.run --virtual [--out FILE]          on the virtual GPU

The real run needs PyTorch, diffusers, transformers, accelerate and bitsandbytes, and of this repository this folder
alone. Every case runs in its own process: a server imports the libraries without touching CUDA and forks once per
case. Where forking does not work, each case starts a fresh interpreter (`--fresh` asks for that). The cases for one GPU
run first, with only one visible, then those for two.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

PACKAGE = __package__  # `tests.conformance`, or `conformance` when started from inside tests/
LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "bitsandbytes", "safetensors", "numpy")
TIME_LIMIT = 100
"""Seconds for one case."""


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", action="store_true", help="run on the real GPUs of this machine")
    parser.add_argument("--virtual", action="store_true", help="run on the virtual GPU")
    parser.add_argument("--out", type=pathlib.Path, help="write the record here")
    parser.add_argument("--jobs", type=int, default=8, help="cases at a time on real GPUs")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--fresh", action="store_true", help="a fresh interpreter for each case")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--part", type=pathlib.Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return _run_one(options.one, options.part)
    if options.serve:
        return _serve(options)
    if options.virtual:
        record = {"what": "conformance cases on the virtual GPU", "results": run_virtual(options.only)}
    elif options.real:
        record = run_real(options)
    else:
        parser.error("say --real or --virtual")
    if options.out:
        text = json.dumps(record, indent=1, ensure_ascii=False)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n", encoding="utf-8")
    for name, result in record["results"].items():
        print(name, json.dumps(result["outcome"], ensure_ascii=False)[:200])
    died = [n for n, r in record["results"].items() if r["outcome"].get("raises") in ("ProcessDied", "TimeLimit")]
    print(f"{len(record['results'])} cases" + (f"; did not finish: {', '.join(died)}" if died else ""))
    return 1 if died else 0


# ---- virtual --------------------------------------------------------------------------------------------------------


def run_virtual(only: str = "") -> dict[str, Any]:
    """All cases in this process, each with virtual GPUs of its own."""
    from .cases import CASES

    with tempfile.TemporaryDirectory() as folder:
        prepare_tiny(folder)
        return {case.name: case.result(run_case_virtually(case)) for case in CASES.values() if only in case.name}


def prepare_tiny(folder: str | os.PathLike) -> None:
    """Build the tiny pipeline and let the cases use it."""
    from . import tiny

    tiny.build(folder)
    tiny.FOLDER = os.fspath(folder)


def run_case_virtually(case: Any) -> dict[str, Any]:
    """One case, on as many virtual GPUs as it asks for, which are gone afterwards."""
    import torch

    from sana_lab.accelerator import use_accelerator

    from .registry import outcome_of

    with use_accelerator(gpus=case.gpus, virtual=True):
        try:
            return outcome_of(case.run)
        finally:
            torch.set_default_device(None)


# ---- real -----------------------------------------------------------------------------------------------------------


def run_real(options: argparse.Namespace) -> dict[str, Any]:
    """The record of this machine: the cases for one GPU, then, if there are two, those for two."""
    machine = _machine()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    ids = visible.split(",") if visible else [str(i) for i in range(machine["count"])]
    results: dict[str, Any] = {}
    started = time.time()
    with tempfile.TemporaryDirectory() as folder:
        for gpus in (1, 2):
            if len(ids) < gpus:
                print(f"cases for {gpus} GPUs left out: this machine shows {len(ids)}", file=sys.stderr)
                continue
            part = pathlib.Path(folder) / f"part-{gpus}.json"
            command = [sys.executable, "-m", f"{PACKAGE}.run", "--serve", str(gpus), "--part", str(part)]
            command += ["--jobs", str(options.jobs), "--only", options.only, *(["--fresh"] if options.fresh else [])]
            environment = {
                **os.environ,
                "CUDA_VISIBLE_DEVICES": ",".join(ids[:gpus]),
                "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # asking whether there is CUDA must not start CUDA before a fork
                "HF_HUB_OFFLINE": "1",
                "OMP_NUM_THREADS": "2",
                "TOKENIZERS_PARALLELISM": "false",
            }
            subprocess.run(command, env=environment, check=True)
            results.update(json.loads(part.read_text(encoding="utf-8")))
    return {
        "what": "What CUDA does in each conformance case of the virtual GPU: the returned values, or the exception.",
        "command": f"python -m tests.conformance.run --real --jobs {options.jobs}",
        "machine": machine,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in LIBRARIES},
        },
        "seed": 0,
        "when": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "seconds": round(time.time() - started),
        "results": results,
    }


def _machine() -> dict[str, Any]:
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    rows = subprocess.run(query, check=True, capture_output=True, text=True).stdout.strip().splitlines()
    name, driver = (field.strip() for field in rows[0].split(","))
    return {"device": name, "count": len(rows), "driver": driver}


def _serve(options: argparse.Namespace) -> int:
    """Run all cases for one number of GPUs, a few at a time, each in its own process."""
    folder = pathlib.Path(tempfile.mkdtemp())
    try:
        tiny_folder = folder / "tiny"
        build = f"from {PACKAGE} import tiny; tiny.build({str(tiny_folder)!r})"
        without_gpu = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        subprocess.run([sys.executable, "-c", build], check=True, env=without_gpu, stdout=subprocess.DEVNULL)
        os.environ["SANA_TINY_FOLDER"] = str(tiny_folder)

        # bitsandbytes is not imported here: it asks for the GPU's capability at import, which starts CUDA
        import accelerate  # noqa: F401
        import diffusers  # noqa: F401
        import torch
        from transformers import AutoModel, Gemma2Model, GemmaTokenizer  # noqa: F401

        from .cases import CASES

        if "bitsandbytes" in sys.modules or torch.cuda.is_initialized():
            print("the libraries started CUDA while they were imported: fresh interpreters", file=sys.stderr)
            options.fresh = True
        chosen = [case for case in CASES.values() if case.gpus == options.serve and options.only in case.name]
        if not options.fresh and not _forking_works(folder):
            print("CUDA does not start after a fork: fresh interpreters", file=sys.stderr)
            options.fresh = True
        results = _run_all([case.name for case in chosen], folder, options)
        record = {case.name: case.result(results[case.name]) for case in chosen}
        options.part.write_text(json.dumps(record), encoding="utf-8")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _forking_works(folder: pathlib.Path) -> bool:
    """Whether a forked child can use CUDA."""
    child = os.fork()
    if child == 0:
        _quiet(folder / "probe.log")
        try:
            import torch

            torch.zeros(1, device="cuda").item()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def _run_all(names: list[str], folder: pathlib.Path, options: argparse.Namespace) -> dict[str, Any]:
    waiting, running, results = list(reversed(names)), {}, {}
    while waiting or running:
        while waiting and len(running) < options.jobs:
            name = waiting.pop()
            part = folder / f"{name}.json"
            running[_start(name, part, folder / f"{name}.log", options.fresh)] = (name, part, time.time())
        for pid, (name, part, since) in list(running.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                results[name] = _collect(part, status, folder / f"{name}.log")
                del running[pid]
            elif time.time() - since > TIME_LIMIT:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                results[name] = {"raises": "TimeLimit", "words": f"{TIME_LIMIT} seconds", "message": ""}
                del running[pid]
        time.sleep(0.02)
    return results


def _start(name: str, part: pathlib.Path, log: pathlib.Path, fresh: bool) -> int:
    child = os.fork()
    if child:
        return child
    try:
        _quiet(log)
        if fresh:
            os.execv(sys.executable, [sys.executable, "-m", f"{PACKAGE}.run", "--one", name, "--part", str(part)])
        os._exit(_run_one(name, part))
    finally:
        os._exit(1)


def _quiet(log: pathlib.Path) -> None:
    """Send this process's output, also that of C++ code, to a file."""
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(target, 1)
    os.dup2(target, 2)


def _run_one(name: str, part: pathlib.Path) -> int:
    from .cases import CASES
    from .registry import outcome_of

    outcome = outcome_of(CASES[name].run)
    part.write_text(json.dumps(outcome), encoding="utf-8")
    return 0


def _collect(part: pathlib.Path, status: int, log: pathlib.Path) -> dict[str, Any]:
    if part.exists():
        return json.loads(part.read_text(encoding="utf-8"))
    tail = log.read_text(encoding="utf-8", errors="replace")[-1500:] if log.exists() else ""
    return {"raises": "ProcessDied", "words": f"exit status {os.waitstatus_to_exitcode(status)}", "message": tail}


if __name__ == "__main__":
    sys.exit(main())
