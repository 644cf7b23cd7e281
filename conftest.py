"""What every test run shares: no network, no progress bars, and how stored outputs of chapters are compared."""

from __future__ import annotations

import functools
import gc
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

gc.disable()  # until all tests are collected: it would look again and again through the libraries' million objects
# jsonschema, which nbformat imports, has it make 38 parsers at its import (5 s) for formats that no notebook has.
sys.modules.setdefault("rfc3987_syntax", None)

from chapter_runs import Replay, cache_folder, replay  # noqa: E402
from chapters import ROOT, SKIP_COMPARE, quiet_kernels, stored, table  # noqa: E402

pytest_plugins = ["nbval.plugin"]  # here and not by its entry point (pyproject.toml), since it imports nbformat

quiet_kernels()  # also before any test imports a Hub library


AGAIN = {"02_eight_bits_from_scratch.ipynb"}
"""Chapters that every test run executes, with its one thread and AVX2; `make chapters` executes all."""


def pytest_addoption(parser):
    """Let a run say where the book's build keeps what the chapters gave."""
    parser.addini("chapter_runs", "folder of the build's caches; empty: execute every chapter", default=".cache")


def pytest_collectstart(collector):
    """Tell nbval which outputs are not words or numbers, and let it compare what the build gave where that is current.

    By itself it skips only PNG and JPEG, and executes every chapter.
    """
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += SKIP_COMPARE
        collector.setup = functools.partial(_set_up, collector, collector.setup)


def _set_up(collector, start_a_kernel):
    caches = collector.config.getini("chapter_runs")
    again = not caches or collector.path.name in AGAIN
    collector.kernel = None if again else replay(collector.path, _cache(ROOT / caches))
    if collector.kernel is None:
        start_a_kernel()
    else:
        collector.setup_sanitize_files()


@functools.cache
def _cache(caches: Path) -> Path:
    """The cache of today's package; hashing it takes a second."""
    return cache_folder(caches)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item):
    """Note how a chapter's cell came to its outputs, for the table at the end."""
    if hasattr(item.parent, "skip_compare"):
        item.user_properties.append(("replayed", isinstance(item.parent.kernel, Replay)))


LONGEST = (
    "tests/site/test_site.py",
    "tests/test_failures_live.py",
    "tests/test_shapes_reader.py",
    "tests/site/",
    "tests/test_service.py",
    "tests/test_accelerator_libraries.py",
    "tests/test_slim.py",
    "tests/test_fitting.py",
    "tests/test_generate_scale.py",
    "tests/conformance/",
    "tests/test_guidance_off.py",
    "notebooks/02_",
    "tests/test_shapes_training.py",
    "tests/test_cli.py",
    "tests/test_operators.py",
    "tests/test_layers.py",
    "tests/test_evaluate.py",
    "tests/test_advice.py",
    "tests/test_measure.py",
    "tests/test_classroom.py",
    "tests/test_sana.py",
    "tests/test_isolated.py",
    "tests/test_float8.py",
    "tests/test_compared_pictures.py",
    "tests/test_confirm.py",
    "tests/test_cli_borders.py",
    "tests/test_attention.py",
    "tests/test_doctor.py",
    "tests/test_checkpoints.py",
    "tests/test_fast.py",
    "tests/test_notebooks.py",
    "tests/test_left_behind.py",
    "tests/test_versions.py",
)
"""How the names of modules begin that take long, see the table at the end of a run: they go first, so that no core
waits at the end for another one's long module. Wants `--no-loadscope-reorder`, as the Makefile has it."""

SLOW = 25
"""Lines of the table of slow modules."""


def pytest_collection_modifyitems(items):
    """Begin with the long modules; the others keep their order."""
    items.sort(
        key=lambda item: next((n for n, name in enumerate(LONGEST) if item.nodeid.startswith(name)), len(LONGEST))
    )


def pytest_collection_finish():
    """Let the garbage collector work again, on what comes from now on."""
    gc.freeze()
    gc.enable()


def seconds_by_module(reports):
    """Module -> seconds of its tests and fixtures, the slowest first."""
    seconds = Counter()
    for report in reports:
        seconds[report.nodeid.partition("::")[0]] += getattr(report, "duration", 0.0)
    return dict(seconds.most_common())


def pytest_terminal_summary(terminalreporter, config):
    """Show which modules were slow, and after a run that included chapters, how much of each was really compared."""
    if config.getoption("durations"):
        reports = [report for kind in terminalreporter.stats.values() for report in kind if hasattr(report, "nodeid")]
        terminalreporter.section(f"slowest {SLOW} modules")
        for name, seconds in [*seconds_by_module(reports).items()][:SLOW]:
            terminalreporter.write_line(f"{seconds:8.1f}s {name}")
    ran = {
        report.nodeid.partition("::")[0]
        for reports in terminalreporter.stats.values()
        for report in reports
        if ".ipynb::" in getattr(report, "nodeid", "")
    }
    if ran:
        terminalreporter.section("chapters")
        terminalreporter.write_line(table({path.name: nb for path, nb in stored().items()}))
    came = {
        (report.nodeid.partition("::")[0], value)
        for reports in terminalreporter.stats.values()
        for report in reports
        for key, value in getattr(report, "user_properties", ())
        if key == "replayed"
    }
    for replayed, what in ((True, "held to what the book's build gave"), (False, "executed")):
        names = sorted(name for name, value in came if value is replayed)
        if names:
            terminalreporter.write_line(f"{what}, {len(names)}: {' '.join(names)}")


@pytest.fixture(scope="module", autouse=True)
def little_to_look_through():
    """Spare the garbage collector what is there before a module begins: the libraries have made a million objects.

    Tests and what they try collect often. What an earlier module left in circles is freed here.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def no_accelerator_left():
    """Leave a virtual GPU that a module's tests have entered, so that the next module's start afresh."""
    yield
    session = sys.modules.get("sana_lab.accelerator.session")
    if session is not None and session._active is not None:
        session._active.leave()


def busy_threads(seconds: float = 2) -> list[str]:
    """Where the other threads are, if they take some of a processor all the time that this one waits.

    A twentieth is enough: on a busy machine a thread that never waits has no more, and one that waits takes nothing.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began, spent = time.monotonic(), time.process_time()
        time.sleep(0.05)
        if time.process_time() - spent < (time.monotonic() - began) / 20:
            return []
    frames = sys._current_frames()
    others = [thread for thread in threading.enumerate() if thread is not threading.current_thread()]
    return [
        f"{thread.name}: {frame.f_code.co_filename}:{frame.f_lineno}"
        for thread in others
        if (frame := frames.get(thread.ident))
    ] or ["not one of Python's"]


@pytest.fixture(scope="module", autouse=True)
def no_thread_left_at_work():
    """Refuse a module that leaves a thread at work: one that never waits takes the interpreter from all later modules.

    Whoever gives the interpreter away for an operator of PyTorch waits 5 ms until such a thread gives it back: with
    four of them, threads of servers that a failed block had closed but not stopped, modules took eight times as long.
    """
    yield
    if busy := busy_threads():
        pytest.fail("Threads are still at work after this module:\n  " + "\n  ".join(busy))
