"""The process in which reproductions and fixes run. Started by `runner`; not for use by hand.

Reads one JSON object from stdin, `{"cases": [[id, fix, memory], ...], "jobs": 2, "limit": 60, "virtual": null,
"fork": true}`, and prints one JSON object for each case. With `fork` it imports the libraries once and forks for each
case, because a fault on a GPU spoils its process and an import takes longer than most reproductions. CUDA must not have
been started before a fork, see `_preload`; where it was, the worker ends with status `CANNOT_FORK`.
"""

from __future__ import annotations

import ast
import contextlib
import json
import linecache
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from .catalogue import get
from .entry import Failure
from .outcome import DIED, TIME_LIMIT, Outcome

LATE = 124
"""Exit status of a process that took too long, as of the command `timeout`."""

CANNOT_FORK = 75
"""Exit status of a worker that was to fork and found that CUDA does not survive it here."""

GRACE = 20
"""Seconds that a fork may take beyond its limit before it is killed from outside, where its own alarm did not ring."""


def main() -> None:
    """Run what stdin says."""
    wanted = json.loads(sys.stdin.read())
    results = os.fdopen(os.dup(1), "w", encoding="utf-8")  # reproductions print too: to a file, see `_redirected`
    if wanted["fork"]:
        _preload()
        if not wanted["virtual"] and not _can_fork():
            sys.exit(CANNOT_FORK)
    folder = _folder()
    with tempfile.TemporaryDirectory() as scratch:
        if wanted["fork"]:
            outcomes = _fork_all(wanted, folder, pathlib.Path(scratch))
        else:
            outcomes = (
                _run(*case, folder, wanted["virtual"], wanted["limit"], pathlib.Path(scratch))
                for case in wanted["cases"]
            )
        for outcome in outcomes:
            print(json.dumps(outcome.to_json()), file=results, flush=True)


def _preload() -> None:
    """Import what reproductions import, without starting CUDA.

    diffusers' pipelines import bitsandbytes, which asks for the GPUs' capability at import (0.50.2, cuda_specs.py),
    and the question starts CUDA. The driver's own program answers it meanwhile.
    """
    import torch

    asked = torch.cuda.get_device_capability
    known = _capability()
    if known:
        torch.cuda.get_device_capability = lambda device=None: known
    try:
        import diffusers
        import transformers

        for library, names in (
            (diffusers, ("SanaPipeline", "BitsAndBytesConfig", "PipelineQuantizationConfig")),
            (transformers, ("AutoModel", "AutoModelForCausalLM", "BitsAndBytesConfig", "GemmaTokenizer")),
        ):
            for name in names:
                getattr(library, name)
        import bitsandbytes.nn  # noqa: F401
    finally:
        torch.cuda.get_device_capability = asked


def _capability() -> tuple[int, int] | None:
    """Compute capability of the first GPU, without starting CUDA; `None` where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=compute_cap", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False).stdout.split()
    major, _, minor = answer[0].partition(".") if answer else ("", "", "")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None


def _can_fork() -> bool:
    """Whether a fork of this process can use its GPUs; also where it sees none."""
    import torch

    if torch.cuda.is_initialized():
        return False
    if not torch.cuda.is_available():
        return True
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            torch.zeros(1, device="cuda").item()
            status = 0
        os._exit(status)
    return os.waitpid(child, 0)[1] == 0


def _folder() -> str:
    from ..shapes.untrained import untrained_shapes

    return str(untrained_shapes())


# ---- many cases, each in a fork ---------------------------------------------------------------------------------


def _fork_all(wanted: dict[str, Any], folder: str, scratch: pathlib.Path):
    waiting, running = list(reversed(wanted["cases"])), {}
    while waiting or running:
        while waiting and len(running) < wanted["jobs"]:
            case = waiting.pop()
            place = scratch / str(len(waiting))
            place.mkdir()
            running[_fork(case, folder, wanted, place)] = (case, place, time.monotonic())
        for pid, (case, place, since) in list(running.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if not done and time.monotonic() - since > wanted["limit"] + GRACE:
                os.kill(pid, signal.SIGKILL)
                done, status = pid, LATE << 8
                os.waitpid(pid, 0)
            if done:
                del running[pid]
                yield _collect(case, place, status, wanted["limit"])
        time.sleep(0.01)


def _fork(case: list, folder: str, wanted: dict[str, Any], place: pathlib.Path) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        outcome = _run(*case, folder, wanted["virtual"], wanted["limit"], place)
        (place / "outcome.part").write_text(json.dumps(outcome.to_json()), encoding="utf-8")
        (place / "outcome.part").rename(place / "outcome.json")
        status = 0
    except BaseException:  # not of the reproduction, which is caught where it runs
        with (place / "stderr").open("a", encoding="utf-8") as log:
            traceback.print_exc(file=log)
    finally:
        os._exit(status)  # no cleaning up: this process shares its parent's


def _collect(case: list, place: pathlib.Path, status: int, limit: float) -> Outcome:
    finished = place / "outcome.json"
    if finished.exists():
        return Outcome.from_json(json.loads(finished.read_text(encoding="utf-8")))
    log = place / "stderr"
    tail = log.read_text(encoding="utf-8", errors="replace")[-2000:] if log.exists() else ""
    return died(case, os.waitstatus_to_exitcode(status), limit, tail)


def died(case: list | tuple, status: int, limit: float, log: str) -> Outcome:
    """The outcome of a case whose process ended before it could say how it went."""
    if status == LATE:
        return Outcome(*case, error=TIME_LIMIT, message=f"not done after {limit:g} seconds", log=log)
    return Outcome(*case, error=DIED, message=f"exit status {status}", log=log)


# ---- one case ---------------------------------------------------------------------------------------------------


def _run(
    id: str, fix: int | None, memory: int, folder: str, virtual: bool | None, limit: float, place: pathlib.Path
) -> Outcome:
    """Run one reproduction or fix in this process, which should not be used afterwards."""
    failure = get(id)
    code = failure.code if fix is None else failure.fixes[fix - 1].code
    alarm = threading.Timer(limit, os._exit, [LATE])  # a fork is also watched from outside; a fresh interpreter is not
    alarm.daemon = True
    with _redirected(place):
        try:
            device = _accelerator(failure, virtual, memory)
            settle = _synchronize if virtual is False and failure.gpus else lambda: None
            alarm.start()
            started = time.perf_counter()
            found = _execute(code, f"<{id}>", {"__name__": "__main__", "FOLDER": folder}, settle)
            found["seconds"] = round(time.perf_counter() - started, 3)
        finally:
            alarm.cancel()
            sys.stdout.flush()
            sys.stderr.flush()
    log = [line.rstrip() for line in _read(place / "stderr").splitlines()]
    return Outcome(
        id=id,
        fix=fix,
        memory=memory,
        device=device,
        log="\n".join(dict.fromkeys(line for line in log if line)),
        printed=_read(place / "stdout").strip(),
        **found,
    )


def _accelerator(failure: Failure, virtual: bool | None, memory: int) -> str:
    """Give this process the GPUs that the failure needs, and return what they are."""
    if failure.gpus == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return ""
    import torch

    if failure.vram and not memory:
        virtual = True
    if virtual is False:  # no part of the virtual GPU is imported, so that nothing can come from it
        count, gpu = torch.cuda.device_count(), torch.cuda.get_device_properties(0)
        if count < failure.gpus:
            raise RuntimeError(f"{failure.id} needs {failure.gpus} GPUs, and {count} are visible")
        if memory:
            torch.cuda.set_per_process_memory_fraction(memory / gpu.total_memory)
        return f"{gpu.name}: {count} × {gpu.total_memory / 2**30:.4g} GiB"

    from ..accelerator import use_accelerator

    if virtual is None and torch.cuda.device_count() < failure.gpus:
        virtual = True
    return repr(use_accelerator(failure.gpus, failure.vram or "16GiB", virtual))


def _synchronize() -> None:
    """Wait for the GPUs: a kernel's fault comes to light here, and belongs to the statement that launched it."""
    import torch

    for index in range(torch.cuda.device_count()):
        torch.cuda.synchronize(index)


def _execute(code: str, file: str, namespace: dict[str, Any], settle: Callable[[], None]) -> dict[str, Any]:
    """Run a program statement by statement, looking at where models are before and after each.

    `settle` is called after each statement and may raise what is still under way.
    """
    linecache.cache[file] = (len(code), None, code.splitlines(keepends=True), file)  # so that tracebacks show lines
    before: dict[str, str] = {}
    for statement in ast.parse(code, file).body:
        before = placement(namespace)
        try:
            exec(compile(ast.Module([statement], []), file, "exec"), namespace)
            settle()
        except Exception as error:
            return {**_broke(error, file, code, statement.lineno), "before": before, "after": placement(namespace)}
    return {"before": before, "after": placement(namespace)}


def _broke(error: Exception, file: str, code: str, line: int) -> dict[str, Any]:
    """`line` is that of the statement, for an error that came after it."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if frame.filename == file]
    theirs = [frame for frame in frames if _library(frame.filename) not in ("", "torch", "sana_lab")]
    deepest = (theirs or inside or frames)[-1]
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__.tb_next))
    return {
        "error": type(error).__name__,
        "kinds": tuple(kind.__name__ for kind in type(error).__mro__),
        "message": str(error),
        "line": code.splitlines()[(inside[-1].lineno if inside else line) - 1].strip(),
        "where": f"{_short(deepest.filename)}:{deepest.lineno} in {deepest.name}",
        "traceback": text,
    }


def _short(file: str) -> str:
    return file.replace("\\", "/").rpartition("/site-packages/")[2].rpartition("/src/")[2]


def _library(file: str) -> str:
    short = _short(file)
    return "" if short.startswith("<") else short.partition("/")[0]


def placement(namespace: dict[str, Any]) -> dict[str, str]:
    """The devices of all models among some variables, `{"pipe.vae": "cpu", ...}`; a pipeline counts by component."""
    import torch

    modules: dict[int, tuple[str, Any]] = {}
    for name, value in namespace.items():
        parts = getattr(value, "components", None)
        if isinstance(parts, dict):
            modules.update({id(part): (f"{name}.{key}", part) for key, part in parts.items()})
        elif isinstance(value, torch.nn.Module):
            modules.setdefault(id(value), (name, value))
    found = {}
    for name, module in modules.values():
        if isinstance(module, torch.nn.Module):
            places = {str(tensor.device) for tensor in [*module.parameters(), *module.buffers()]}
            found[name] = ", ".join(sorted(places))
    return found


@contextlib.contextmanager
def _redirected(place: pathlib.Path):
    """Send stdout and stderr of this process to files, also what C++ code writes, and bring them back."""
    kept = [os.dup(number) for number in (1, 2)]
    sys.stdout.flush()
    sys.stderr.flush()
    for number, name in ((1, "stdout"), (2, "stderr")):
        target = os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(target, number)
        os.close(target)
    try:
        yield
    finally:
        for number, old in zip((1, 2), kept, strict=True):
            os.dup2(old, number)
            os.close(old)


def _read(file: pathlib.Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")


if __name__ == "__main__":
    main()
