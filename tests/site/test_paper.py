"""The PDF and the EPUB: two pages of the built book made into both, and pages that are not fit refused."""

from __future__ import annotations

import json
import re
import threading
import zipfile
from pathlib import PurePosixPath
from urllib.parse import urldefrag
from xml.etree import ElementTree

import pytest
from PIL import Image
from pypdf import PdfReader

import paper
import site_links

PAGES = ["notebooks/02_eight_bits_from_scratch", "book/glossary"]
MATHML = "{http://www.w3.org/1998/Math/MathML}"


@pytest.fixture(scope="module")
def editions(built, browser, tmp_path_factory):
    """A folder with both, of a chapter with formulas, figures and sliders, and of the page that it links to."""
    out = tmp_path_factory.mktemp("editions")
    for write, kind in ((paper.write_pdf, "pdf"), (paper.write_epub, "epub")):
        write(built, paper.contents(PAGES), out / f"8-bit-sana.{kind}", "2026-01-01, 0000000", browser)
    return out


def test_the_pdf_finds_its_sections_where_its_contents_say(editions):
    book = PdfReader(editions / "8-bit-sana.pdf")
    texts = [" ".join(page.extract_text().split()) for page in book.pages]
    listed = re.findall(r"(?:^|\n)(.+?)\s*(\d+)(?=\n|$)", book.pages[1].extract_text())
    sections = [(words.strip(), int(number)) for words, number in listed if not words.strip().isdigit()]
    assert len(sections) > 10
    for words, number in sections:
        assert words.replace("\n", " ") in texts[number - 1], words
    titles = [one.title for one in book.outline if not isinstance(one, list)]
    assert {"2 Eight bits from scratch", "Glossary"} <= set(titles)


def test_links_of_the_pdf_stay_in_it(editions):
    book = PdfReader(editions / "8-bit-sana.pdf")
    inside, outside = set(), set()
    for page in book.pages:
        for link in (entry.get_object() for entry in page.get("/Annots", [])):
            if "/URI" in link.get("/A", {}):
                outside.add(link["/A"]["/URI"])
            elif link["/Subtype"] == "/Link":
                inside.add(str(link.get("/Dest", link.get("/A", {}).get("/D"))).lstrip("/"))
    assert len(inside) > 30 and all(url.startswith("https://") for url in outside)
    assert inside - {name.lstrip("/") for name in book.named_destinations} == set()


def test_sliders_stand_still_and_say_where_they_move(editions):
    text = " ".join(" ".join(page.extract_text().split()) for page in PdfReader(editions / "8-bit-sana.pdf").pages)
    assert text.count("on the site and in the notebook this can be moved") == 1
    assert "Show code cell" not in text


def test_the_epub_is_whole(editions):
    with zipfile.ZipFile(editions / "8-bit-sana.epub") as book:
        assert book.infolist()[0].filename == "mimetype" and book.infolist()[0].compress_type == zipfile.ZIP_STORED
        names = {name.removeprefix("OEBPS/") for name in book.namelist()}
        pages = {name: ElementTree.fromstring(book.read(f"OEBPS/{name}")) for name in names if name.endswith(".xhtml")}
        package = ElementTree.fromstring(book.read("OEBPS/content.opf"))
    manifest = {item.get("href") for item in package.iter("{http://www.idpf.org/2007/opf}item")}
    assert manifest == {name for name in names if not name.startswith(("META-INF", "mimetype", "content.opf"))}
    places = {name: {e.get("id") for e in page.iter() if e.get("id")} for name, page in pages.items()}
    for name, page in pages.items():
        for e in page.iter():
            link = e.get("href") or e.get("src") or ""
            if not link or link.startswith("https://"):
                continue
            file, place = urldefrag(link)
            file = str(PurePosixPath(file)) if file else name
            assert file in manifest and (not place or place in places[file]), (name, link)
    chapter = pages["p-02-eight-bits-from-scratch.xhtml"]
    assert len(list(chapter.iter(f"{MATHML}math"))) > 20
    assert not [e.tag for e in chapter.iter() if e.tag.endswith(("}script", "}button", "}details", "mjx-container"))]


GOOD = "<h1>A page</h1><p>Words.</p>"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (GOOD, None),
        (f"{GOOD}<a href='#nowhere'>x</a>", "nowhere"),
        (f"{GOOD}<p style='width: 2000px'>wide</p>", "cut at the right"),
        (f"{GOOD}<table><tr><td style='min-width: 3000px'>x</td></tr></table>", "% of its size"),
        (f"{GOOD}<img src='gone.png' alt='x'>", "gone.png"),
    ],
)
def test_what_is_not_fit_for_paper_is_refused_and_nothing_written(browser, tmp_path, body, said):
    site = tmp_path / "site"
    (site / "_static").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(site / "_static" / "cover.webp")
    (site / "_static" / "pygments.css").write_text("")
    (site / "page.html").write_text(f"<html><body><article class='bd-article'>{body}</article></body></html>")
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: page\n")
    pages = paper.contents([], tmp_path)
    if said is None:
        assert paper.write_pdf(site, pages, tmp_path / "a.pdf", "", browser) == 3
        return
    servers, tabs = _servers(), len(browser.contexts)
    with pytest.raises(paper.Unfit, match=re.escape(said)):
        paper.write_pdf(site, pages, tmp_path / "a.pdf", "", browser)
    assert not list(tmp_path.glob("a.*"))
    assert len(browser.contexts) == tabs
    for thread in _servers() - servers:  # one that goes on takes the interpreter from all that this process does later
        thread.join(10)
        assert not thread.is_alive()


def _servers():
    return {thread for thread in threading.enumerate() if "serve_forever" in thread.name}


def test_a_page_that_the_book_does_not_have_and_a_site_that_is_not_built(tmp_path, capsys):
    assert paper.main(["pdf", "--pages", "book/none"]) == 1
    assert "book/none: not in _toc.yml" in capsys.readouterr().err
    assert paper.main(["epub", "--site", str(tmp_path)]) == 1
    assert "make book" in capsys.readouterr().err


def test_the_first_page_links_what_there_is_and_nothing_else(tmp_path):
    (tmp_path / "book").mkdir()
    first = tmp_path / "book" / "intro.html"
    first.write_text('a<p class="editions on-screen"></p>b')
    site_links.link_editions(tmp_path)
    assert first.read_text() == 'a<p class="editions on-screen"></p>b'
    (tmp_path / "x.pdf").write_text("")
    for name in ("x.pdf", "x.epub"):
        site_links.add_edition(tmp_path, name, "3 pages")
    assert first.read_text().count("<a ") == 1 and '<a href="../x.pdf">PDF</a> (3 pages)' in first.read_text()
    assert set(json.loads((tmp_path / site_links.EDITIONS).read_text())) == {"x.pdf", "x.epub"}
    (tmp_path / "x.pdf").unlink()
    site_links.link_editions(tmp_path)
    assert first.read_text() == 'a<p class="editions on-screen"></p>b'
