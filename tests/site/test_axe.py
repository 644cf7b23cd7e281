"""axe-core, tried on faults: it must find one in each color scheme. What it says of the pages is in `test_site.py`."""

from __future__ import annotations

import pytest

from accessibility import violations
from test_site import TOC


@pytest.fixture
def spoiled(site, context, axe):
    """Violations of the first page with a fault put in, by scheme."""

    def spoiled(spoil: str):
        page = context.new_page()
        page.goto(f"{site}/{TOC['root']}.html", wait_until="load", timeout=60_000)
        page.evaluate("() => window.MathJax?.startup?.promise")
        page.evaluate(spoil)
        found = violations(page, axe)
        page.close()
        return found

    return spoiled


def test_axe_would_find_a_picture_without_a_text(spoiled):
    found = spoiled("() => document.querySelector('.bd-article').append(new Image())")
    assert any(line.startswith("image-alt") for line in found["light"])


def test_axe_would_find_a_text_that_is_too_pale_in_the_dark(spoiled):
    found = spoiled("""() => {
        const p = document.createElement('p');
        p.textContent = 'pale';
        p.style = 'color: #333; background: #222';
        document.querySelector('.bd-article').append(p);
    }""")
    assert any(line.startswith("color-contrast") for line in found["dark"])


def test_axe_would_find_a_text_that_is_too_pale_in_one_scheme_alone(spoiled):
    found = spoiled("""() => {
        const style = document.createElement('style');
        style.textContent = 'html[data-theme=dark] .pale { color: #333; background: #222 } .pale { color: #333 }';
        const p = document.createElement('p');
        p.textContent = p.className = 'pale';
        document.querySelector('.bd-article').append(style, p);
    }""")
    assert found["light"] == []
    assert any(line.startswith("color-contrast") for line in found["dark"])
