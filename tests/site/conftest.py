"""A browser on the built book, with no way out to the internet."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from accessibility import AXE
from book_site import CACHE, fetch
from browse import served

HTML = Path(__file__).resolve().parents[2] / "_build" / "html"
ALONE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
"""Chromium finds no other machine by its name. (A route in Playwright would have it forget what it has loaded.)"""


def _unavailable(reason: str):
    """Skip at home, fail in CI: a check that silently does not run is no check."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium that reaches this machine and nothing else."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    program = next((found for name in names if (found := shutil.which(name))), None)
    if program is None:
        _unavailable(f"no browser found (looked for {', '.join(names)}): install Chromium to test the site")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu", ALONE])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def context(browser):
    """A browser context."""
    context = browser.new_context(color_scheme="light")
    yield context
    context.close()


@pytest.fixture(scope="module")
def tab(context):
    """A page to go from address to address with: what its scripts were compiled to stays."""
    page = context.new_page()
    yield page
    page.close()


@pytest.fixture
def page(tab):
    """The tab, as wide as on a desk; it is left empty."""
    tab.set_viewport_size({"width": 1280, "height": 720})
    yield tab
    tab.goto("about:blank")


@pytest.fixture(scope="session")
def axe_or_why() -> tuple[str, str]:
    """The program text of axe-core, or why it cannot be had."""
    try:
        fetch(AXE, CACHE / "axe")
    except (OSError, subprocess.TimeoutExpired) as reason:
        return "", f"axe-core cannot be had: {reason}"
    return (CACHE / "axe" / AXE.folder / "axe.min.js").read_text(encoding="utf-8"), ""


@pytest.fixture
def axe(axe_or_why) -> str:
    """The program text of axe-core."""
    text, why = axe_or_why
    return text or _unavailable(why)


@pytest.fixture(scope="session")
def built() -> Path:
    """The folder of the built book."""
    if not (HTML / "book" / "intro.html").is_file():
        _unavailable("the book is not built: make book")
    return HTML


@pytest.fixture(scope="session")
def site(built):
    """Address of the built book."""
    with served(built) as address:
        yield address
