"""The process in which probes run: started by `runner` with the Python of a stack's environment, not by hand.

Reads one JSON object from stdin, with `probes`, `folder`, `older` (the same in older words), `trained` and `virtual`,
and prints JSON lines: first the versions that this environment really has, then one for each probe. The libraries are
imported once, and each probe runs in a fork with a time limit: an import takes longer than most probes, and a probe
that hangs or dies must not take the next one with it.
"""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import sys
import tempfile
import time
import warnings
from importlib.metadata import distributions
from pathlib import Path

from .probes import PROBES, Probe
from .stacks import LIBRARIES

WORDS = 300
"""Letters of a message that are kept."""

PATIENCE = 6
"""A probe may compute for as long as its limit says, and take so many times as long by the clock: a machine with other
work to do must not turn a slow probe into one that hangs."""


def main() -> None:
    """Run what stdin says."""
    wanted = json.loads(sys.stdin.read())
    results = os.fdopen(os.dup(1), "w", encoding="utf-8")  # libraries print too
    print(json.dumps(installed()), file=results, flush=True)
    _preload()
    for id in wanted["probes"]:
        outcome = _in_a_fork(PROBES[id], wanted)
        print(json.dumps({"probe": id, **outcome}, ensure_ascii=True), file=results, flush=True)


def installed(path: list[str] | None = None) -> dict:
    """Every distribution of this environment with its version, as `importlib.metadata` reads it.

    Args:
        path: folders to look in, in this order; `sys.path` by default.
    """
    found: dict[str, str] = {}
    for d in distributions() if path is None else distributions(path=path):
        if d.name:
            found.setdefault(d.name.lower().replace("_", "-"), d.version)  # the first on the path is what is imported
    return {
        "python": platform.python_version(),
        "resolved": {name: found.get(name) for name in LIBRARIES},
        "beside": {name: number for name, number in sorted(found.items()) if name not in LIBRARIES},
    }


def _preload() -> None:
    """Import what probes import, as far as it can be imported; what cannot fails again in the probe, and says so.

    Where there is a real GPU a fork tries first whether CUDA still works in a fork after these imports. If it does
    not, only torch is imported here, and each probe imports the rest: longer, and right.
    """
    try:
        import torch
    except Exception as error:
        print(f"torch: {type(error).__name__}: {error}", file=sys.stderr)
        return _import_libraries()
    if not torch.cuda.is_available():
        return _import_libraries()
    trial = os.fork()
    if trial == 0:
        status = 1
        try:
            _import_beside_a_gpu()
            child = os.fork()
            if child == 0:
                torch.zeros(1, device="cuda").add_(1).item()
                status = 0
            else:
                status = int(os.waitpid(child, 0)[1] != 0)
        finally:
            os._exit(status)
    if _wait(trial, 240) == 0:
        _import_beside_a_gpu()
    else:
        print("CUDA does not survive a fork here: each probe imports by itself", file=sys.stderr)


def _import_beside_a_gpu() -> None:
    """Import without starting CUDA, after which no fork could use it: bitsandbytes asks for the compute capability.

    Until 0.49 it also asks torch whether triton can be used (bitsandbytes/triton/triton_utils.py), and torch starts
    CUDA to read the same number (`has_triton` in torch/utils/_triton.py: 7.0 is enough).
    """
    import subprocess

    import torch
    from torch.utils import _triton

    asked = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    said = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    capability = tuple(map(int, said[0].split(".")))
    from_cuda, has_triton = torch.cuda.get_device_capability, _triton.has_triton
    torch.cuda.get_device_capability = lambda device=None: capability
    _triton.has_triton = lambda: _triton.has_triton_package() and capability >= (7, 0)
    try:
        _import_libraries()
    finally:
        torch.cuda.get_device_capability, _triton.has_triton = from_cuda, has_triton


def _import_libraries() -> None:
    for module, names in (
        ("torch", ()),
        ("diffusers", ("SanaPipeline", "BitsAndBytesConfig", "SanaTransformer2DModel")),
        ("transformers", ("AutoModel", "Gemma2Model", "BitsAndBytesConfig")),
        ("bitsandbytes", ()),
    ):
        try:
            library = __import__(module)
            for name in names:
                getattr(library, name)
        except Exception as error:
            print(f"{module}: {type(error).__name__}: {error}", file=sys.stderr)


def _in_a_fork(probe: Probe, wanted: dict) -> dict:
    if probe.trained and not wanted["trained"]:
        return {"kind": "skipped", "words": "needs the trained weights"}
    with tempfile.TemporaryDirectory() as place:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                _limit(probe.limit)
                _redirect(Path(place) / "log")
                outcome = _run(probe, wanted)
                (Path(place) / "outcome").write_text(json.dumps(outcome), encoding="utf-8")
                status = 0
            finally:
                os._exit(status)  # no cleaning up: this process shares its parent's
        status = _wait(child, PATIENCE * probe.limit)
        log = (Path(place) / "log").read_text(encoding="utf-8", errors="replace")
        if status in (None, -signal.SIGXCPU):
            return {"kind": "hangs", "words": f"not done after {probe.limit:g} seconds"}
        if status != 0:
            return {"kind": "dies", "words": f"the process ended with status {status}"}
        outcome = json.loads((Path(place) / "outcome").read_text(encoding="utf-8"))
    seen = [_clean(line, wanted) for line in log.splitlines() if probe.watch and re.search(probe.watch, line)]
    if outcome["kind"] == "runs" and seen:
        outcome["warns"] = seen[0]
    return outcome


def _wait(child: int, limit: float) -> int | None:
    """The exit status of a child; None if it had to be killed."""
    until = time.monotonic() + limit
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _limit(seconds: float) -> None:
    """End this process once it has computed that long."""
    import resource

    whole = max(1, round(seconds))
    resource.setrlimit(resource.RLIMIT_CPU, (whole, whole + 5))


def _redirect(log: Path) -> None:
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(target, number)


def _run(probe: Probe, wanted: dict) -> dict:
    import inspect

    warnings.simplefilter("default")
    given = {"FOLDER": wanted["folder"] if _new_words() else wanted["older"], "AS_WRITTEN": wanted["folder"]}
    arguments = [given[name] for name in inspect.signature(probe.function).parameters]
    try:
        _quiet()
        _accelerator(wanted["virtual"])
        value = probe.function(*arguments)
    except Exception as error:
        return {"kind": "raises", "error": type(error).__name__, "words": _clean(str(error), wanted)}
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return {"kind": "runs", "value": _clean(str(value), wanted)}


def _new_words() -> bool:
    """Whether transformers reads the folder as transformers 5 wrote it."""
    from importlib.metadata import version

    try:
        return int(version("transformers").split(".")[0]) >= 5
    except Exception:
        return False


def _quiet() -> None:
    """No loading bars: they are no log lines."""
    os.environ["TQDM_DISABLE"] = "1"


def _accelerator(virtual: bool | None) -> None:
    from ..accelerator import use_accelerator

    if use_accelerator(virtual=virtual).virtual:
        _quick_integers()


def _quick_integers() -> None:
    """Let `torch._int_mm` compute in float64, in which its sums are exact: the same numbers, an eighth of the time.

    bitsandbytes 0.46 to 0.49 multiplies with it (backends/cpu/ops.py), and on a processor without AVX-512 torch 2.9.1
    takes 0.3 s for a layer of the Shapes model.
    """
    import torch

    def product(a: torch.Tensor, b: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        sums = (a.double() @ b.double()).to(torch.int32)
        return sums if out is None else out.copy_(sums)

    torch._int_mm = product


def _clean(text: str, wanted: dict) -> str:
    """A message in one line, shortened, without what differs from run to run: folders and addresses."""
    for folder in (wanted["older"], wanted["folder"]):
        text = text.replace(folder, "FOLDER")
    text = re.sub(r"[^\s(]*/site-packages/", "", text)
    for place in sorted(filter(None, sys.path), key=len, reverse=True):
        text = text.replace(f"{place}/", "")
    text = re.sub(re.escape(tempfile.gettempdir()) + r"/\w+", "FOLDER", text)
    text = re.sub(r"0x[0-9a-f]{6,}", "0x…", text)
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    text = " ".join(text.split())
    # Libraries that load lazily wrap an error in one more sentence for each module on the way.
    text = re.sub(r"Failed to import \S+ because of the following error \(look up to see its traceback\): ", "", text)
    return text if len(text) <= WORDS else text[:WORDS].rsplit(" ", 1)[0] + " …"


if __name__ == "__main__":
    main()
