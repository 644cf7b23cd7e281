"""The built book, read in a real browser that cannot reach the internet."""

from __future__ import annotations

import functools
import os
import re

import pytest
import yaml

import prose
from accessibility import violations
from browse import bytes_before_reading, dead_links, look
from chapters import ROOT, stored

TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
CHAPTER = "notebooks/10_tensors_on_two_devices"
PAGES = [name for name, _ in prose.listed()]


@pytest.fixture(scope="module")
def visits(site, tab, axe_or_why):
    """Each page, opened once: what a browser notices on it, and axe-core, if it can be had."""
    axe, _ = axe_or_why
    audit = functools.partial(violations, axe=axe, judged={}) if axe else None
    return [look(tab, f"{site}/{page}.html", audit=audit) for page in (*PAGES, "genindex", "search")]


def test_pages_load_without_internet_and_without_complaints(visits):
    assert [(visit.url, visit.complaints) for visit in visits if visit.complaints] == []


def test_every_page_has_one_title(visits):
    assert {visit.url: visit.headings for visit in visits[: len(PAGES)] if visit.headings != 1} == {}


def test_links_between_pages_lead_somewhere(visits):
    assert sum(len(visit.links) for visit in visits) > 10 * len(visits)
    assert dead_links(visits) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_wrong(visits, axe, scheme):
    assert {visit.url: visit.audit[scheme] for visit in visits if visit.audit[scheme]} == {}


def test_every_page_can_be_read_after_a_few_bytes(built):
    needed = {page: bytes_before_reading(built, page) for page in (*PAGES, "genindex", "search")}
    assert {page: size for page, size in needed.items() if size > 300_000} == {}


def test_a_script_that_blocks_is_counted(tmp_path):
    (tmp_path / "book").mkdir()
    (tmp_path / "big.js").write_bytes(os.urandom(400_000))  # nothing to compress
    for way, blocks in (("", True), ("defer", False), ("async", False), ('type="module"', False)):
        page = f'<head><script {way} src="../big.js?digest=1"></script></head>'
        (tmp_path / "book" / "page.html").write_text(page)
        assert (bytes_before_reading(tmp_path, "book/page") > 300_000) == blocks


def test_formulas_are_typeset(visits):
    assert sum(visit.formulas for visit in visits) > 0
    assert {v.url: (v.formulas, v.typeset) for v in visits if v.formulas != v.typeset} == {}


def test_pictures_are_there_and_described(visits):
    images = [(visit.url, image) for visit in visits for image in visit.images]
    assert len(images) > len(visits)
    assert [(url, image["src"]) for url, image in images if image["width"] == 0] == []
    assert [(url, image["src"]) for url, image in images if not image["alt"].strip()] == []


def test_widgets_are_drawn_without_a_kernel(visits):
    assert {v.url: (v.widgets, v.drawn) for v in visits if v.drawn < v.widgets} == {}


def test_a_phone_need_not_scroll_sideways(visits):
    assert {visit.url: visit.too_wide for visit in visits if visit.too_wide} == {}


def test_sidebar_shows_the_parts(site, page):
    page.goto(f"{site}/{TOC['root']}.html")
    shown = page.locator(".bd-sidebar-primary .caption-text").all_inner_texts()
    assert shown == [part["caption"] for part in TOC["parts"]]


@pytest.mark.parametrize(("word", "page_found"), [("absmax", "book/glossary.html"), ("qqxzzy", None)])
def test_search_finds_what_is_there(site, page, word, page_found):
    page.goto(f"{site}/search.html?q={word}")
    summary = "document.querySelector('#search-results .search-summary')?.innerText"
    page.wait_for_function(f"() => {summary}?.match(/found|did not/)")
    found = page.locator("#search-results ul.search li > a").evaluate_all("all => all.map(a => a.href)")
    assert any(f"/{page_found}" in url for url in found) if page_found else found == []


def test_dark_mode_toggles_and_changes_the_ground(site, page):
    page.goto(f"{site}/{TOC['root']}.html", wait_until="load")
    seen = {}
    for _ in range(3):  # the button goes round light, dark and "as the system says"
        page.locator(".theme-switch-button:visible").first.click()
        theme = page.evaluate("() => document.documentElement.dataset.theme")
        seen[theme] = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert set(seen) == {"light", "dark"}
    assert seen["light"] != seen["dark"]


@pytest.mark.parametrize("width", [390, 768, 1100, 1440])
def test_every_button_of_the_frame_does_something(site, page, width):
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"{site}/{CHAPTER}.html", wait_until="load")
    menu, contents = (page.locator(f".bd-header-article .{which}-toggle:visible") for which in ("primary", "secondary"))
    if width < 992:
        menu.click()
        drawer = page.locator("#pst-primary-sidebar-modal[open]")
        assert drawer.locator(".caption-text").all_inner_texts() == [part["caption"] for part in TOC["parts"]]
        page.keyboard.press("Escape")
        assert drawer.count() == 0
        menu.click()
        drawer.locator("a[href$='glossary.html']").click()
        page.wait_for_url("**/glossary.html")
        page.go_back(wait_until="load")
    else:
        for hidden in (True, False):
            menu.click()
            page.wait_for_function(
                "hidden => (getComputedStyle(document.querySelector('#pst-primary-sidebar')).visibility === 'hidden')"
                " === hidden",
                arg=hidden,
            )
    assert contents.count() == (width < 1200)
    if width < 1200:
        contents.click()
        drawer = page.locator("#pst-secondary-sidebar-modal[open]")
        link = drawer.locator("a[href^='#']").last
        target = link.get_attribute("href")
        link.click()
        page.wait_for_function("target => location.hash === target", arg=target)


def test_no_name_of_a_file_became_a_link_to_a_stranger(visits):
    strangers = [(visit.url, url) for visit in visits for url in visit.links if re.match("http://(?!127)", url)]
    assert strangers == []


def test_pages_have_the_numbers_that_stand_in_the_notebooks(built):
    """How many values there are, and what each figure is called: counted by us in a notebook, by Sphinx on its page."""
    for path, notebook in stored().items():
        prose.stored(notebook, path.name)
        text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        page = (built / "notebooks" / f"{path.stem}.html").read_text(encoding="utf-8")
        assert page.count('class="pasted-text"') == text.count("<span data-glue="), path.name
        figures = re.findall(r'href="#(fig-[\w-]+)"><span class="std std-numref">(Fig\. \d+)</span>', page)
        assert figures == [(name, number) for number, name in re.findall(r"\[(Fig\. \d+)\]\(#(fig-[\w-]+)\)", text)]


def test_the_version_matrix_reads_on_a_phone_and_by_keyboard(site, page):
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{site}/book/version_matrix.html", wait_until="load")
    line = page.locator(".versions summary").nth(5)
    assert line.bounding_box()["width"] > 100
    assert page.locator(".versions tr.words:visible").count() == 0
    line.focus()
    page.keyboard.press("Enter")
    words = page.locator(".versions tr.words:visible")
    assert words.count() == 1 and words.locator("li").count() > 0
    box = words.locator("ul").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390
