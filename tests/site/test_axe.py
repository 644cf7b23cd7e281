"""axe-core, tried on faults: it must find one in each color scheme; and what it says of sliders once they are drawn.

What it says of the pages is in `test_site.py`.
"""

from __future__ import annotations

import pytest

import accessibility
from accessibility import violations
from browse import TO_WIDGET
from test_site import TOC

_CHANGED = "before => document.querySelector('.cell_output [role=slider]').ariaValueText !== before"


@pytest.fixture(scope="module")
def spoiled(site, tab, axe_or_why):
    """Violations of the first page with a fault put in, by scheme, when all looks without it have been judged."""

    def spoiled(spoil: str):
        tab.goto(f"{site}/{TOC['root']}.html", wait_until="load", timeout=60_000)
        tab.evaluate("() => window.MathJax?.startup?.promise")
        tab.evaluate(spoil)
        return violations(tab, axe_or_why[0], judged={scheme: set(looks) for scheme, looks in judged.items()})

    judged = {}
    if axe_or_why[0]:
        tab.goto(f"{site}/{TOC['root']}.html", wait_until="load", timeout=60_000)
        violations(tab, axe_or_why[0], judged=judged)
    return spoiled


def test_axe_would_find_a_picture_without_a_text(spoiled, axe):
    found = spoiled("() => document.querySelector('.bd-article').append(new Image())")
    assert any(line.startswith("image-alt") for line in found["light"])


def test_axe_would_find_a_text_that_is_too_pale_in_the_dark(spoiled, axe):
    found = spoiled("""() => {
        const p = document.createElement('p');
        p.textContent = 'pale';
        p.style = 'color: #333; background: #222';
        document.querySelector('.bd-article').append(p);
    }""")
    assert any(line.startswith("color-contrast") for line in found["dark"])


def test_axe_would_find_a_text_that_is_too_pale_in_one_scheme_alone(spoiled, axe):
    found = spoiled("""() => {
        const style = document.createElement('style');
        style.textContent = 'html[data-theme=dark] .pale { color: #333; background: #222 } .pale { color: #333 }';
        const p = document.createElement('p');
        p.textContent = p.className = 'pale';
        document.querySelector('.bd-article').append(style, p);
    }""")
    assert found["light"] == []
    assert any(line.startswith("color-contrast") for line in found["dark"])


def test_what_was_judged_on_another_page_is_not_judged_again(site, page, axe):
    """So this is how little `judged` may hold: a look, and not what is like it in one color alone."""
    page.goto(f"{site}/{TOC['root']}.html", wait_until="load")
    page.evaluate("() => document.querySelector('.bd-article p').style.color = '#ddd'")
    judged = {}
    assert any(line.startswith("color-contrast") for line in violations(page, axe, judged=judged)["light"])
    assert violations(page, axe, judged=judged)["light"] == []
    page.evaluate("() => document.querySelector('.bd-article p').style.color = '#dde'")
    assert any(line.startswith("color-contrast") for line in violations(page, axe, judged=judged)["light"])


@pytest.mark.parametrize(
    "spoil",
    [
        "p.style.background = '#777'",  # behind it
        "p.parentElement.style.background = '#777'",
        "p.style.opacity = 0.4",
        'p.innerHTML = \'words around <a href="#x" style="color: #345; text-decoration: none">a link</a>\'',
    ],
)
def test_axe_would_find_what_only_the_surroundings_make_too_pale(spoiled, axe, spoil):
    found = spoiled(f"() => {{ const p = document.querySelector('.bd-article p'); {spoil}; }}")
    assert [line.partition(":")[0] for line in found["light"]] in (["color-contrast"], ["link-in-text-block"]), spoil


def test_axe_would_find_one_pale_word_of_a_piece_of_code(spoiled, axe):
    """Of words that look alike it is shown the first; what makes a word pale makes it look otherwise."""
    for number, pale in ((31, "style.color = '#ddd'"), (59, "className = 'pale'")):
        found = spoiled(f"""() => {{
            document.head.insertAdjacentHTML('beforeend', '<style>.pale {{ color: #ddd }}</style>');
            const code = document.createElement('pre');
            code.innerHTML = '<span class="n">some</span> <span class="n">name</span> '.repeat(30);
            code.querySelectorAll('span')[{number}].{pale};
            document.querySelector('.bd-article').append(code);
        }}""")
        assert any(line.startswith("color-contrast") for line in found["light"]), pale


def test_the_page_is_left_as_it_was(site, page, axe):
    page.goto(f"{site}/book/failures/own-messages.html", wait_until="load")
    page.evaluate("() => window.MathJax?.startup?.promise")
    before = page.evaluate("document.querySelector('.bd-article').innerHTML")
    assert page.evaluate(accessibility.MAKE_ALIKE_PLAIN) > 10
    assert page.evaluate("document.querySelector('.bd-article').innerHTML") != before
    page.evaluate(accessibility.UNDO)
    assert page.evaluate("document.querySelector('.bd-article').innerHTML") == before


def test_drawn_sliders_have_a_name_and_say_their_choice(site, page, axe):
    page.goto(f"{site}/notebooks/03_one_outlier.html", wait_until="load", timeout=60_000)
    page.evaluate(TO_WIDGET)
    sliders = page.locator(".cell_output [role=slider]")
    sliders.last.wait_for(timeout=60_000)
    page.wait_for_function("() => document.querySelectorAll('.cell_output [role=slider][aria-label]').length === 2")
    assert violations(page, axe, ".cell_output:has([role=slider])") == {"light": [], "dark": []}
    assert [handle.get_attribute("aria-label") for handle in sliders.all()] == ["outlier ×", "threshold"]
    before = sliders.first.get_attribute("aria-valuetext")
    sliders.first.press("ArrowLeft")
    page.wait_for_function(_CHANGED, arg=before)
    readout = page.locator(".cell_output .widget-readout").first.inner_text()
    assert sliders.first.get_attribute("aria-valuetext") == readout
    page.evaluate("() => document.querySelector('.cell_output [role=slider]').removeAttribute('aria-label')")
    found = violations(page, axe, ".cell_output:has([role=slider])")
    assert any(line.startswith("aria-input-field-name") for line in found["light"])
