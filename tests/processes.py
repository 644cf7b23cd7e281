"""For tests of processes: whether one runs, waiting for something to come true, and forks in place of fresh ones."""

from __future__ import annotations

import faulthandler
import importlib
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback

import psutil
import torch

from sana_lab import isolated


def runs(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent to ask does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until(true, seconds: float = 30):
    """Wait until a function gives something true, and give it."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found


def start_by_fork(monkeypatch, *preload: str, fresh: int = 0):
    """Let `isolated.start` fork this process, which has imported what takes a fresh interpreter 4 to 9 s.

    The worker's module is run anew, its imports are found, and the virtual GPU is left first. On Windows, and where
    PyTorch has several threads (`make test` gives it one), it is started afresh.

    Args:
        monkeypatch: pytest's.
        preload: modules that the workers import, to import here.
        fresh: as many of the first processes are started as always.
    """
    for name in preload:
        importlib.import_module(name)
    start, count = isolated.start, iter(range(fresh))

    def started(command, *, environ=None, **files):
        able = hasattr(os, "fork") and torch.get_num_threads() == 1  # OpenMP's threads do not survive a fork
        forks = able and command[:3] == isolated.module("x")[:3] and next(count, None) is None
        return (Fork if forks else start)(command, environ=environ, **files)

    monkeypatch.setattr(isolated, "start", started)


class Fork:
    """As much of `subprocess.Popen` as workers are watched by: a fork that runs a module as a program."""

    def __init__(self, command, *, environ=None, stdin=None, stdout, stderr):
        """`command` is of `isolated.module`; the others as for `isolated.start`."""
        said, parent = os.pipe() if stdout == subprocess.PIPE else (None, stdout.fileno()), os.getpid()
        self.returncode, self._command = None, command
        self.pid = os.fork()
        if not self.pid:
            _become(command[3:], environ or {}, (stdin.fileno() if stdin else 0, said[1], stderr.fileno()), parent)
        self.stdout = None
        if said[0] is not None:
            os.close(said[1])
            self.stdout = os.fdopen(said[0], "rb")

    def poll(self):
        """The exit status, or None while it runs."""
        if self.returncode is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if done else None
        return self.returncode

    def wait(self, timeout=None):
        """Wait for its end."""
        end = time.monotonic() + (float("inf") if timeout is None else timeout)
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(self._command, timeout)
            time.sleep(0.01)
        return self.returncode

    def kill(self):
        """End it, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def _become(command, environ, files, parent):
    status = 1
    try:
        for number, file in enumerate(files):
            os.dup2(file, number)
        os.closerange(3, os.sysconf("SC_OPEN_MAX") if hasattr(os, "sysconf") else 1024)  # as `Popen` has it
        sys.stdin = open(0, encoding="utf-8", closefd=False)
        sys.stdout, sys.stderr = (open(n, "w", buffering=1, encoding="utf-8", closefd=False) for n in (1, 2))
        faulthandler.disable()  # pytest's would write to what pytest has as stderr
        isolated.end_with_parent(parent)
        os.environ.update(environ)
        session = sys.modules.get("sana_lab.accelerator.session")
        if session is not None and session._active is not None:
            session._active.leave()
        sys.argv[:] = command
        sys.modules.pop(command[0], None)
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)
