"""Accessibility: axe-core finds nothing wrong on any page, in light and in dark (WCAG 2.2 A and AA, best practice)."""

from __future__ import annotations

import subprocess
from urllib.parse import urlsplit

import pytest
import yaml

from book_site import CACHE, Package, fetch
from chapters import ROOT
from conftest import _unavailable

AXE = Package(
    "axe-core",
    "4.14.1",
    "e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745",
    ("LICENSE", "axe.min.js"),
)
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
PAGES = [TOC["root"], *(chapter["file"] for part in TOC["parts"] for chapter in part["chapters"]), "search", "genindex"]
OF_COLORS = ["color-contrast", "link-in-text-block"]
"""Rules that a second color scheme can break; all others were asked in the first."""
RUN = """async (rules) => (await axe.run(document, {resultTypes: ['violations'], ...rules})).violations
    .map(v => `${v.id}: ${v.nodes.slice(0, 3).map(n => n.target.join(' ')).join(' | ')}`)"""


@pytest.fixture(scope="module")
def axe():
    """The program text of axe-core."""
    try:
        fetch(AXE, CACHE / "axe")
    except (OSError, subprocess.TimeoutExpired) as reason:
        _unavailable(f"axe-core cannot be had: {reason}")
    return (CACHE / "axe" / AXE.folder / "axe.min.js").read_text(encoding="utf-8")


def violations(browser, axe, url, scheme, spoil="", rules=()):
    """What axe finds on a page, one line a rule."""
    context = browser.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 900})
    context.route(lambda url: urlsplit(url).hostname != "127.0.0.1", lambda route: route.abort())
    page = context.new_page()
    page.goto(url, wait_until="load", timeout=60_000)
    page.evaluate("() => window.MathJax?.startup?.promise")
    page.evaluate(spoil or "() => 0")
    page.evaluate(axe)
    found = page.evaluate(RUN, {"runOnly": list(rules)} if rules else {})
    context.close()
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_wrong(site, browser, axe, scheme):
    rules = OF_COLORS if scheme == "dark" else ()
    wrong = {name: violations(browser, axe, f"{site}/{name}.html", scheme, rules=rules) for name in PAGES}
    assert {name: found for name, found in wrong.items() if found} == {}


def test_axe_would_find_a_picture_without_a_text(site, browser, axe):
    spoil = "() => document.querySelector('.bd-article').append(new Image())"
    found = violations(browser, axe, f"{site}/{TOC['root']}.html", "light", spoil)
    assert any(line.startswith("image-alt") for line in found)


def test_axe_would_find_a_text_that_is_too_pale_in_the_dark(site, browser, axe):
    spoil = """() => {
        const p = document.createElement('p');
        p.textContent = 'pale';
        p.style = 'color: #333; background: #222';
        document.querySelector('.bd-article').append(p);
    }"""
    found = violations(browser, axe, f"{site}/{TOC['root']}.html", "dark", spoil, OF_COLORS)
    assert any(line.startswith("color-contrast") for line in found)
