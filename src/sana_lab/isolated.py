"""Run a thing in a process of its own, and learn what became of it.

What is tried on a GPU may spoil its process, take all memory, or never end. So each reproduction of a failure, each
probe of library versions, each conformance case and each measurement has a process of its own, and all of them by this
module. **Who asks** starts a worker (`ask`, `Worker`, `start`). **The worker** reads a request and answers in lines of
JSON (`serve`); it imports the libraries once (`preload`) and forks for each case (`run_each`), since an import takes
longer than most cases. CUDA does not survive a fork, so nothing before a fork may start it; where something does, each
case gets a fresh interpreter.

No process outlives the one that wanted it, however that one ends, and one Ctrl+C, or one error, ends all (`at_once`).

Only Python's own library is imported: probes run with the libraries of other environments.
"""

from __future__ import annotations

import contextlib
import gc
import json
import multiprocessing
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from . import machine

DONE, LATE, DIED = "done", "late", "died"
"""What may become of a process."""

LATE_STATUS = 124
"""Exit status of a process that took too long, as of the command `timeout`."""

CANNOT_FORK = 75
"""Exit status of a worker that was to fork and found that CUDA does not survive it here."""

GRACE = 20
"""Seconds that a case may take beyond its limit before it is killed from outside, if its own alarm does not ring."""

START = 240
"""Seconds that a worker may take before its first case: imports, above all, twice where there is a GPU."""

TRIAL = 240
"""Seconds for finding out whether CUDA survives a fork."""

ENVIRON = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "OMP_NUM_THREADS": "1",  # more threads would not survive a fork
    "PYTHONUTF8": "1",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # asking whether there is CUDA must not start CUDA before a fork
    "TOKENIZERS_PARALLELISM": "false",
}
"""Environment variables of every worker that forks."""

_PARENT = "SANA_LAB_PARENT"
"""Variable that tells a process by whom it was started, see `end_with_parent`."""

_HAND_ON = "--hand-on"
"""Option of this module as a program, see `module`."""


@dataclass(frozen=True)
class Ended:
    """What became of a process.

    Args:
        how: `DONE`, `LATE` or `DIED`.
        value: what the case gave, if it is done.
        status: exit status, negative for a signal.
        stdout: what it printed, also that of C++ code; everything, if both streams went to one file.
        stderr: what it said on the other stream.
    """

    how: str
    value: Any = None
    status: int = 0
    stdout: str = ""
    stderr: str = ""


class CannotFork(RuntimeError):
    """CUDA does not survive a fork here: use fresh interpreters."""


class Stopped(RuntimeError):
    """Nothing is started any more: Ctrl+C was pressed, or another of those that run at once has failed."""


# ---- who asks ----------------------------------------------------------------------------------------------------


def start(command: Sequence[str], *, environ: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen:
    """Start a process that ends with this one.

    Args:
        command: what to run; see `module`. Another must call `end_with_parent` itself.
        environ: environment variables on top of this process's.
        options: as for `subprocess.Popen`.

    Raises:
        OSError: it cannot be started.
        Stopped: this thread is one of `at_once`, where all is over.
    """
    environment = {**os.environ, **(environ or {}), _PARENT: str(os.getpid())}
    crew = getattr(_thread, "crew", None)
    make = lambda: subprocess.Popen(command, env=environment, **options)  # noqa: E731
    return make() if crew is None else crew.add(make)


def module(name: str, *arguments: str, python: str | os.PathLike = sys.executable, hand_on: bool = False) -> list[str]:
    """The command that runs a module as a program which ends with its parent, from before it imports anything.

    Args:
        name: of the module.
        arguments: of the program.
        python: the interpreter.
        hand_on: for a module that starts others, as `accelerate.commands.launch` does: what it runs by a `module`
            command ends with it.
    """
    return [os.fspath(python), "-m", __name__, *[_HAND_ON] * hand_on, name, *arguments]


def run(
    command: Sequence[str], *, environ: Mapping[str, str] | None = None, limit: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, and give its exit status and what it said, as `subprocess.run` does; see `start`.

    Args:
        command: as for `start`.
        environ: likewise.
        limit: seconds.

    Raises:
        OSError: as `start`.
        subprocess.TimeoutExpired: it took longer, and was killed.
    """
    process = start(command, environ=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        out, err = process.communicate(timeout=limit)
    finally:
        end(process)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def end(process: subprocess.Popen) -> None:
    """Kill a process, if it still runs."""
    process.kill()
    process.wait()


class Worker:
    """A process that is given a request and answers with JSON lines: a context manager to iterate over.

    Attributes:
        status: exit status, once the block has ended.
        late: whether it was killed for its time.
        words: the end of what it said on stderr.
    """

    def __init__(
        self,
        command: Sequence[str],
        request: Mapping[str, Any],
        *,
        environ: Mapping[str, str] | None = None,
        limit: float | None = None,
    ):
        """`limit`: seconds for all of it; as for `start` otherwise."""
        self._command, self._request, self._environ, self._limit = command, request, environ, limit
        self.status, self.late, self.words = 0, False, ""

    def __enter__(self) -> Worker:
        with contextlib.ExitStack() as files:
            given, self._errors = (files.enter_context(tempfile.TemporaryFile()) for _ in range(2))
            given.write(json.dumps(self._request).encode())
            given.seek(0)
            pipes = {"stdin": given, "stdout": subprocess.PIPE, "stderr": self._errors}
            self._process = start(self._command, environ=self._environ, **pipes)
            self._files = files.pop_all()
        self._watchdog = threading.Timer(self._limit or 0, self._too_late)
        if self._limit is not None:
            self._watchdog.daemon = True
            self._watchdog.start()
        return self

    def _too_late(self) -> None:
        self.late = True
        self._process.kill()

    def __iter__(self) -> Iterator[Any]:
        for line in self._process.stdout:
            if line.endswith(b"\n"):  # otherwise it was killed while it spoke
                yield json.loads(line)
        self._process.wait()

    def __exit__(self, *exc: Any) -> None:
        self._watchdog.cancel()
        end(self._process)
        self._process.stdout.close()
        self.status = self._process.returncode
        self._errors.seek(0)
        self.words = self._errors.read()[-2000:].decode(errors="replace")
        self._files.close()


def ask(
    command: Sequence[str],
    cases: Sequence[Any],
    request: Mapping[str, Any],
    *,
    limit: float,
    jobs: int = 1,
    fork: bool | None = None,
    environ: Mapping[str, str] | None = None,
    heard: Callable[[Any], None] = lambda answer: None,
) -> list[Any]:
    """Have a worker run cases, several at once, each in a process of its own.

    Args:
        command: starts the worker; see `serve`.
        cases: plain JSON.
        request: what else the worker is told. It also gets `cases`, each with its number, `jobs`, `limit` and `fork`.
        limit: seconds for a case, as the worker counts; it is killed when it is far beyond that for all.
        jobs: processes at a time.
        fork: let the worker import the libraries once and fork for each case; False starts a fresh interpreter for
            each. By default it forks where the system can and there are several cases.
        environ: environment variables on top of `ENVIRON`.
        heard: called with each answer when it is there, perhaps in another thread.

    Returns:
        Each case's answer; an `Ended` for one whose worker ended before it.
    """
    jobs = max(1, jobs)
    if fork is None:
        fork = hasattr(os, "fork") and len(cases) > 1
    environ = {**ENVIRON, **(environ or {})}
    rest = (command, {**request, "limit": limit}, environ, limit, heard)
    numbered = list(enumerate(cases))
    found = _ask(numbered, jobs, True, *rest) if fork else None
    if found is None:
        found = {}
        for part in at_once(lambda case: _ask([case], 1, False, *rest), numbered, jobs):
            found.update(part)
    return [found[number] for number, _ in numbered]


def _ask(
    numbered: Sequence[tuple[int, Any]],
    jobs: int,
    fork: bool,
    command: Sequence[str],
    request: Mapping[str, Any],
    environ: Mapping[str, str],
    limit: float,
    heard: Callable[[Any], None],
) -> dict[int, Any] | None:
    """What one worker answers, number by number; None if it was to fork and cannot."""
    rounds = -(-len(numbered) // jobs)
    found: dict[int, Any] = {}
    request = {**request, "cases": numbered, "jobs": jobs, "fork": fork}
    with Worker(command, request, environ=environ, limit=START + (limit + GRACE) * rounds) as worker:
        for number, answer in worker:
            found[number] = answer
            heard(answer)
    if worker.status == CANNOT_FORK:
        return None
    late = worker.late or worker.status == LATE_STATUS
    lost = Ended(LATE if late else DIED, status=worker.status, stderr=worker.words)
    return {number: found.get(number, lost) for number, _ in numbered}


# ---- several at once ---------------------------------------------------------------------------------------------

_thread = threading.local()
"""`crew`: what runs at once with what this thread does."""


class _Crew:
    """What runs at once: processes, and crews of their threads."""

    def __init__(self) -> None:
        self._members: list[Any] = []
        self._over, self._lock = False, threading.Lock()

    def add(self, make: Callable[[], Any]) -> Any:
        with self._lock:
            if self._over:
                raise Stopped("nothing is started any more")
            self._members.append(make())
            return self._members[-1]

    @property
    def over(self) -> bool:
        return self._over

    def kill(self) -> None:
        with self._lock:
            self._over = True
        for member in self._members:
            member.kill()


def over() -> bool:
    """Whether nothing is started any more in this thread, which is one of `at_once`."""
    crew = getattr(_thread, "crew", None)
    return crew is not None and crew.over


def at_once(function: Callable[[Any], Any], items: Iterable[Any], jobs: int) -> list[Any]:
    """`[function(item) for item in items]`, `jobs` at a time, for functions that wait for processes.

    Ctrl+C and the first error end all of them: processes that threads have begun with `start` are killed, and none is
    begun any more.

    Raises:
        KeyboardInterrupt: Ctrl+C.
        Exception: the first that a function raised.
    """
    outer = getattr(_thread, "crew", None)
    crew = _Crew() if outer is None else outer.add(_Crew)

    def go(item: Any) -> Any:
        _thread.crew = crew
        return function(item)

    with ThreadPoolExecutor(max(1, jobs)) as threads:
        futures = [threads.submit(go, item) for item in items]
        try:
            waiting = set(futures)
            while waiting:  # with a timeout, since Windows does not interrupt a wait without
                done, waiting = wait(waiting, timeout=0.5, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
        except BaseException:
            for future in futures:
                future.cancel()
            crew.kill()
            raise
    return [future.result() for future in futures]


# ---- the worker --------------------------------------------------------------------------------------------------


def end_with_parent(parent: int | None = None) -> None:
    """Let this process end when the one that started it does, even by SIGKILL. By hand from a shell: no change.

    On Linux the kernel sees to it. It counts the *thread* that started this process as the parent
    (prctl(2), PR_SET_PDEATHSIG), which in this module waits for it. Elsewhere a thread looks every half second.

    Args:
        parent: process id; by default that which `start` gave.
    """
    parent = parent or int(os.environ.pop(_PARENT, "0"))
    if not parent:
        return
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it died before
            os._exit(1)
    else:
        threading.Thread(target=_outlive, args=[parent], daemon=True).start()


def _outlive(parent: int) -> None:
    """End this process once its parent is gone."""
    if sys.platform == "win32":  # where a child keeps the number of its parent, dead or not
        import psutil

        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(parent).wait()
    else:
        while os.getppid() == parent:
            time.sleep(0.5)
    os._exit(1)


def serve(answers: Callable[[dict[str, Any]], Iterable[Any]]) -> None:
    """The `main` of a worker: answer the request on stdin with JSON lines on stdout.

    Args:
        answers: takes the request and gives the answers, plain JSON. What is printed meanwhile goes to stderr.
            `CannotFork` ends the worker with status `CANNOT_FORK`.
    """
    end_with_parent()
    request = json.loads(sys.stdin.read())
    results = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        for answer in answers(request):
            print(json.dumps(answer), file=results, flush=True)
    except CannotFork as reason:
        print(reason, file=sys.stderr)
        sys.exit(CANNOT_FORK)


def preload(libraries: Callable[[], None], gpus: bool = True) -> bool:
    """Import what cases import, if forks can use CUDA afterwards.

    A fork finds out: it imports the libraries, forks once more, and computes something.

    Args:
        libraries: imports them.
        gpus: whether cases use real GPUs, if there are any.

    Returns:
        Whether they are imported. If not, torch alone is, and a fork can still use CUDA if it could before.
    """
    try:
        import torch
    except Exception as error:  # the cases will say it better
        print(f"torch: {type(error).__name__}: {error}", file=sys.stderr)
        libraries()
        return True

    def trial() -> bool:
        with without_starting_cuda(), without_collecting():
            libraries()
        compute = {"compute": lambda: torch.zeros(1, device="cuda").add_(1).item()}
        return all(ended.how == DONE for _, ended in _forks(compute.items(), 1, TRIAL, None, True))

    if gpus and torch.cuda.is_available():
        if not hasattr(os, "fork"):
            return False
        ((_, ended),) = _forks({"trial": trial}.items(), 1, TRIAL, None, True)
        if ended.value is not True:
            return False
    with without_starting_cuda(), without_collecting():
        libraries()
    return True


@contextlib.contextmanager
def without_collecting() -> Iterator[None]:
    """Let the garbage collector rest while libraries are imported: a quarter of their time, and it finds nothing.

    It looks through all that there is each time that it has become a quarter more.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@contextlib.contextmanager
def without_starting_cuda() -> Iterator[None]:
    """Let bitsandbytes be imported without starting CUDA, after which no fork could use it.

    bitsandbytes asks for the GPUs' compute capability at import (0.50.2, cuda_specs.py), and until 0.49 also whether
    triton can be used (triton/triton_utils.py), for which torch reads the same number (`has_triton` in
    torch/utils/_triton.py: 7.0 is enough). The driver's own program answers both meanwhile.
    """
    import torch

    known = machine.capability()
    if known is None:
        yield
        return
    from torch.utils import _triton

    from_cuda, has_triton = torch.cuda.get_device_capability, _triton.has_triton
    torch.cuda.get_device_capability = lambda device=None: known
    _triton.has_triton = lambda: _triton.has_triton_package() and known >= (7, 0)
    try:
        yield
    finally:
        torch.cuda.get_device_capability, _triton.has_triton = from_cuda, has_triton


def run_each(
    cases: Iterable[tuple[Any, Callable[[], Any]]],
    *,
    limit: float,
    jobs: int = 1,
    processor: float | None = None,
    fork: bool = True,
    one_file: bool = False,
) -> Iterator[tuple[Any, Ended]]:
    """Run cases, each in a fork of this process, and say what became of them in the order in which they end.

    Args:
        cases: names and functions without arguments that give plain JSON.
        limit: seconds by the clock, after which a fork is killed.
        jobs: forks at a time.
        processor: seconds of a processor's time, after which a fork is killed.
        fork: False runs the first case here, in a process that should not be used afterwards and may die of it; the
            caller sets an alarm.
        one_file: send both streams to one file, so that the order of lines is kept.
    """
    if fork:
        yield from _forks(cases, jobs, limit, processor, one_file)
        return
    for name, case in cases:
        with tempfile.TemporaryDirectory() as place:
            with redirected(pathlib.Path(place), one_file):
                value = case()
            yield name, _ended(pathlib.Path(place), DONE, 0, value)


def _forks(
    cases: Iterable[tuple[Any, Callable[[], Any]]], jobs: int, limit: float, processor: float | None, one_file: bool
) -> Iterator[tuple[Any, Ended]]:
    """See `run_each`: keep `jobs` forks running, kill those that take too long, and leave none behind."""
    waiting = iter(list(cases))
    running: dict[int, tuple[Any, pathlib.Path, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        try:
            while True:
                while len(running) < max(1, jobs) and (case := next(waiting, None)) is not None:
                    place = pathlib.Path(tempfile.mkdtemp(dir=scratch))
                    running[_fork(case[1], place, processor, one_file)] = (case[0], place, time.monotonic())
                if not running:
                    return
                for pid, (name, place, since) in list(running.items()):
                    done, status = os.waitpid(pid, os.WNOHANG)
                    late = not done and time.monotonic() - since > limit
                    if late:
                        os.kill(pid, signal.SIGKILL)
                        _, status = os.waitpid(pid, 0)
                    if done or late:
                        del running[pid]
                        yield name, _collect(place, os.waitstatus_to_exitcode(status), late)
                time.sleep(0.01)
        finally:
            for pid in running:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def _fork(case: Callable[[], Any], place: pathlib.Path, processor: float | None, one_file: bool) -> int:
    """Start a fork that runs a case and leaves its value, stdout and stderr as files in `place`; its process id."""
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        end_with_parent(parent)
        gc.freeze()  # looking through what the parent has made would take long, and copy each page of it
        if processor is not None:
            import resource

            whole = max(1, round(processor))
            resource.setrlimit(resource.RLIMIT_CPU, (whole, whole + 5))
        with redirected(place, one_file):
            try:
                value = json.dumps(case())
            except BaseException:  # of a case that does not catch its own
                traceback.print_exc()
                raise
        (place / "value.part").write_text(value, encoding="utf-8")
        (place / "value.part").rename(place / "value.json")
        status = 0
    finally:
        os._exit(status)  # no cleaning up: this process shares its parent's


def _collect(place: pathlib.Path, status: int, late: bool) -> Ended:
    value = place / "value.json"
    if value.exists():
        return _ended(place, DONE, status, json.loads(value.read_text(encoding="utf-8")))
    late = late or status in (LATE_STATUS, -getattr(signal, "SIGXCPU", 0))
    return _ended(place, LATE if late else DIED, status)


def _ended(place: pathlib.Path, how: str, status: int, value: Any = None) -> Ended:
    said = {
        name: (place / name).read_text(encoding="utf-8", errors="replace") if (place / name).exists() else ""
        for name in ("stdout", "stderr")
    }
    return Ended(how, value, status, **said)


@contextlib.contextmanager
def redirected(place: pathlib.Path, one_file: bool = False) -> Iterator[None]:
    """Send stdout and stderr of this process to files, also what C++ code writes, and bring them back.

    Args:
        place: folder for the files `stdout` and `stderr`.
        one_file: both go to `stdout`.
    """
    kept = [os.dup(number) for number in (1, 2)]
    _flush()
    for number, name in ((1, "stdout"), (2, "stdout" if one_file else "stderr")):
        target = os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(target, number)
        os.close(target)
    try:
        yield
    finally:
        _flush()
        for number, old in zip((1, 2), kept, strict=True):
            os.dup2(old, number)
            os.close(old)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(ValueError, OSError):  # one that is closed has nothing left to write
            stream.flush()


@contextlib.contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """End this process with status `LATE_STATUS` if the block takes longer."""
    timer = threading.Timer(seconds, os._exit, [LATE_STATUS])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


# ---- a pool for functions ----------------------------------------------------------------------------------------


def pool(processes: int, *preload: str) -> Executor:
    """Processes that compute functions for this one, or none, where this one computes by itself.

    They are not forked from this process, whose CUDA they would share. Ctrl+C is for this process, which then ends
    them; and they end when it is killed.

    Args:
        processes: how many; 0 for none.
        preload: modules to import once for all of them, where the system can.
    """
    if processes < 1:
        return _Here()
    server = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if server else "spawn")
    if server:
        context.set_forkserver_preload(list(preload))
    return ProcessPoolExecutor(processes, mp_context=context, initializer=_in_pool)


def readers() -> int:
    """How many processes of a pool have a core of their own beside this one, 16 at most."""
    cores = machine.cores()
    return min(16, cores) if cores > 1 else 0


class _Here(Executor):
    """Computes at once, in this process."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future:
        future: Future = Future()
        try:
            future.set_result(function(*arguments, **options))
        except Exception as error:
            future.set_exception(error)
        return future


def _in_pool() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_outlive_main, daemon=True).start()


def _outlive_main() -> None:
    """End this process once the pool's owner is gone, which on a fork server is not the parent."""
    multiprocessing.parent_process().join()
    os._exit(1)


if __name__ == "__main__":  # see `module`
    end_with_parent()
    del sys.argv[0]
    if sys.argv[0] == _HAND_ON:
        del sys.argv[0]
        os.environ[_PARENT] = str(os.getpid())
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
