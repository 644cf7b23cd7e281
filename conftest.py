"""What every test run shares: no network, no progress bars, and how stored outputs of chapters are compared."""

from __future__ import annotations

import sys

import pytest

from chapters import SKIP_COMPARE, quiet_kernels, stored, table

quiet_kernels()  # also before any test imports a Hub library


def pytest_collectstart(collector):
    """Tell nbval which outputs are not words or numbers (it skips only PNG and JPEG by itself)."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += SKIP_COMPARE


def pytest_terminal_summary(terminalreporter):
    """After a run that included chapters, show how much of each was really compared."""
    ran = {
        report.nodeid.partition("::")[0]
        for reports in terminalreporter.stats.values()
        for report in reports
        if ".ipynb::" in getattr(report, "nodeid", "")
    }
    if ran:
        terminalreporter.section("chapters")
        terminalreporter.write_line(table({path.name: nb for path, nb in stored().items()}))


@pytest.fixture(scope="module", autouse=True)
def no_accelerator_left():
    """Leave a virtual GPU that a module's tests have entered, so that the next module's start afresh."""
    yield
    session = sys.modules.get("sana_lab.accelerator.session")
    if session is not None and session._active is not None:
        session._active.leave()
