"""The site's checks, checked: a page with one fault of each kind must be found out."""

from __future__ import annotations

import threading

import pytest

from browse import dead_links, look, served

GOOD = """<!doctype html><html><head><meta name="viewport" content="width=device-width"><title>t</title>
<link rel="icon" href="data:,"></head><body><h1 id="top">Title</h1><a href="#top">up</a>
<img alt="a dot" src="data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw==">
{fault}</body></html>"""


@pytest.fixture(scope="module")
def place(tmp_path_factory, tab):
    """A folder, its address, and the visit of a good page in it, which pages may link to."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "other.html").write_text(GOOD.format(fault=""), encoding="utf-8")
    with served(folder) as address:
        yield folder, address, look(tab, f"{address}/other.html", patience=2)


@pytest.fixture
def visit(place, tab):
    """Look at the good page with one fault put in."""
    folder, address, other = place

    def visit(fault: str):
        page = folder / f"page{len(list(folder.iterdir()))}.html"  # a new one: a browser may keep what it has seen
        page.write_text(GOOD.format(fault=fault), encoding="utf-8")
        seen = look(tab, f"{address}/{page.name}", patience=2)  # nothing on it is drawn by a script
        return seen, dead_links([seen, other])

    return visit


def test_a_good_page_passes(visit):
    seen, dead = visit('<a href="other.html#top">other</a>')
    assert (seen.complaints, dead, seen.too_wide, seen.headings) == ([], [], [], 1)
    assert [image["alt"] for image in seen.images] == ["a dot"]
    assert seen.images[0]["width"] == 1


@pytest.mark.parametrize(
    "fault",
    [
        '<script src="https://cdn.example.org/mathjax.js"></script>',
        '<img alt="x" src="missing.png">',
        "<script>console.error('oh')</script>",
        "<script>undefinedFunction()</script>",
        "<style>@import url('https://fonts.example.org/css');</style>",
    ],
)
def test_complaints_are_noticed(visit, fault):
    assert visit(fault)[0].complaints


@pytest.mark.parametrize("link", ["nowhere.html", "other.html#nowhere", "#nowhere"])
def test_dead_links_are_noticed(visit, link):
    assert len(visit(f'<a href="{link}">x</a>')[1]) == 1


def test_sideways_scrolling_is_noticed_and_a_scrolling_box_is_fine(visit):
    assert visit('<div style="width: 900px">wide</div>')[0].too_wide
    assert not visit('<div style="overflow-x: auto"><div style="width: 900px">wide</div></div>')[0].too_wide


def test_missing_descriptions_and_raw_formulas_are_noticed(visit):
    seen, _ = visit('<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw="><span class="math">\\(x^2\\)</span>')
    assert [image["alt"] for image in seen.images] == ["a dot", ""]
    assert (seen.formulas, seen.typeset) == (1, 0)


def test_a_server_ends_with_a_block_that_fails(tmp_path):
    before = threading.enumerate()
    with pytest.raises(AssertionError), served(tmp_path):
        assert set(threading.enumerate()) - set(before)
        raise AssertionError
    for thread in set(threading.enumerate()) - set(before):
        thread.join(10)
        assert not thread.is_alive()
