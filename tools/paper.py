"""The built book as one PDF and as an EPUB: the same pages, laid out for paper and for readers of books.

    make pdf      # _build/html/8-bit-sana.pdf
    make epub     # _build/html/8-bit-sana.epub
    python tools/paper.py pdf epub --pages notebooks/02_eight_bits_from_scratch book/glossary --out _build/try

Both start from the site as `make book` left it. `paper.js` puts its pages into one document in Chromium, where folded
parts are open, sliders stand still, and links lead to places in the same document. For the PDF that document is printed
twice: the first time tells on which sheet each section begins. For the EPUB it is taken apart again as XHTML, formulas
as MathML. Nothing is written if a link leads nowhere, a formula is not set, a slider is not drawn, or a line is cut.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import html
import http.server
import io
import json
import logging
import re
import shutil
import subprocess
import sys
import threading
import uuid
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import prose
import site_links
from book_site import CACHE, MATHJAX, REQUIREJS, ROOT, WIDGETS, Package, fetch

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

HTML = ROOT / "_build" / "html"
TITLE = "8-bit Sana"
AUTHOR = "The 8-bit Sana authors"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SHEET = 658
"""Width of what is printed on an A4 sheet with margins of 18 mm, in CSS pixels."""
LEAST = 0.45
"""A table is made smaller to fit a sheet, but not below this share of its size."""
FONTS = (
    Package(
        "@fontsource/source-sans-3",
        "5.3.1",
        "b598201d980b3512805bbea186aab8ef91590d59990e6a13c90e030b6ff37881",
        ("LICENSE", "files/source-sans-3-*-[467]00-*.woff2"),
    ),
    Package(
        "@fontsource/source-code-pro",
        "5.3.1",
        "52ff8925aa275d3d28b745760ab78e9ac11276a477c909f1a8e703e0902afcc4",
        ("LICENSE", "files/source-code-pro-*-[47]00-*.woff2"),
    ),
    Package(
        "@fontsource/noto-sans-sc",  # the Chinese words of the failure index; 73 MB, of which one file is kept
        "5.3.0",
        "05a7abac78a6cac4bd1361e7b24c680ee820fcc2f22cf5cc92673f4cd12771c5",
        ("LICENSE", "files/noto-sans-sc-chinese-simplified-400-normal.woff2"),
    ),
)
FAMILIES = {"source-sans-3": "Source Sans 3", "source-code-pro": "Source Code Pro", "noto-sans-sc": "Noto Sans SC"}
RANGES = {
    "latin": "U+0000-00FF, U+0131, U+0152-0153, U+02BB-02BC, U+02C6, U+02DA, U+02DC, U+2000-206F, U+20AC, U+2122, "
    "U+2191, U+2193, U+2212, U+2215, U+FEFF, U+FFFD",
    "latin-ext": "U+0100-02BA, U+1E00-1E9F, U+20A0-20AB, U+2113",
    "greek": "U+0370-03FF",
    "chinese-simplified": "U+3000-30FF, U+4E00-9FFF, U+FF00-FFEF",
}
"""Characters that a part of a font is for, as @fontsource's own style sheets say."""


class Unfit(ValueError):
    """The pages cannot be put on paper as they are."""


@dataclass
class Part:
    """A page of the site as a chapter of an EPUB; made by `parts` in paper.js."""

    id: str
    text: str  # XHTML of its <section>
    styles: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)  # paths on the site
    headings: list[tuple[str, str]] = field(default_factory=list)  # id and words of each <h2>
    used: list[str] = field(default_factory=list)  # of "math" and "svg"


def contents(only: list[str], root: Path = ROOT) -> list[dict[str, str]]:
    """The pages in the order of `_toc.yml`: file, id, and the caption of the part that a page is in.

    Args:
        only: files to take; none for all.
        root: the repository.

    Raises:
        Unfit: a file is not in `_toc.yml`.
    """
    pages = prose.listed(root)
    if unknown := set(only) - {file for file, _ in pages}:
        raise Unfit(f"{', '.join(sorted(unknown))}: not in _toc.yml. Name pages as it does, like book/intro")
    return [
        {"file": file, "id": f"p-{Path(file).name.replace('_', '-')}", "part": part}
        for file, part in pages
        if not only or file in only
    ]


# ---- the document in a browser ------------------------------------------------------------------------------------


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@contextlib.contextmanager
def _served(folder: Path) -> Iterator[str]:
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()  # or its thread would ask the closed socket for ever, at full speed


def font_faces(folder: Path) -> str:
    """Style rules for the fonts that lie below `folder`; without npm there are none, and the system's are taken."""
    try:
        for package in FONTS:
            fetch(package, folder)
    except (OSError, subprocess.TimeoutExpired) as reason:
        print(f"The system's own fonts are used: {reason}.", file=sys.stderr)
        return ""
    faces = []
    for path in sorted(folder.glob("vendor/*/@fontsource/*/files/*.woff2")):
        found = re.fullmatch(rf"({'|'.join(FAMILIES)})-(.+)-(\d+)-(\w+)\.woff2", path.name)
        if found and found[2] in RANGES:
            address = f"/_paper_/{path.relative_to(folder).as_posix()}"
            faces.append(
                f'@font-face {{ font-family: "{FAMILIES[found[1]]}"; font-weight: {found[3]}; font-style: {found[4]}; '
                f'src: url("{address}") format("woff2"); unicode-range: {RANGES[found[2]]}; }}'
            )
    return "\n".join(faces)


@contextlib.contextmanager
def _chromium() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if program is None:
        raise Unfit(f"no browser was found (looked for {', '.join(BROWSERS)}): install Chromium")
    with sync_playwright() as playwright:
        with playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"]) as browser:
            yield browser


@contextlib.contextmanager
def document(site: Path, pages: list[dict[str, str]], browser: Browser | None = None) -> Iterator[Page]:
    """One document of all pages, with formulas set and widgets drawn, open in Chromium.

    Adds "title" to each of `pages`. A `browser` that is given stays open.

    Raises:
        Unfit: there is no browser; or a link, a formula or a widget is wrong.
    """
    local = CACHE / "paper"
    local.mkdir(parents=True, exist_ok=True)
    here = Path(__file__).resolve().parent
    sheet = "\n".join((here / name).read_text(encoding="utf-8") for name in ("paper.css", "paper_print.css"))
    skeleton = (
        f'<!doctype html><html lang="en" data-theme="light"><head><meta charset="utf-8"><title>{TITLE}</title>'
        f'<link rel="stylesheet" href="/_static/pygments.css"><style>{font_faces(local)}\n{sheet}</style>'
        "</head><body><main></main></body></html>"
    )

    def answer(route: Route) -> None:
        path = route.request.url.partition("/_paper_/")[2]
        if path == "book.html":
            route.fulfill(body=skeleton, content_type="text/html")
        elif not (local / path).is_file():
            route.fulfill(status=404)
        else:
            route.fulfill(path=local / path)

    with (
        _served(site) as address,
        contextlib.nullcontext(browser) if browser else _chromium() as program,
        program.new_page(viewport={"width": SHEET, "height": 1000}, color_scheme="light") as page,
    ):
        page.route(lambda url: not url.startswith(address), lambda route: route.abort())
        page.route("**/_paper_/**", answer)
        page.goto(f"{address}/_paper_/book.html")
        page.emulate_media(media="print")
        page.add_script_tag(content=(here / "paper.js").read_text(encoding="utf-8"))
        for made, wanted in zip(page.evaluate("pages => gather(pages)", pages), pages, strict=True):
            wanted["title"] = made.get("title", "")
        static = "/_static"
        page.evaluate("url => typeset(url)", f"{static}/{MATHJAX.folder}/es5/tex-mml-chtml.js")
        scripts = [f"{static}/{REQUIREJS.folder}/require.js", f"{static}/{WIDGETS.folder}/dist/embed-amd.js"]
        page.evaluate("([scripts, cdn]) => drawWidgets(scripts, cdn)", [scripts, f"{static}/{WIDGETS.root}/"])
        page.evaluate(
            "() => Promise.all([...document.images].map(i => i.decode().catch(() => wrong.push(`no ${i.src}`))))"
        )
        _refuse(page)
        yield page


def _refuse(page: Page) -> None:
    if wrong := page.evaluate("() => wrong"):
        more = f"\n  and {len(wrong) - 20} more" if len(wrong) > 20 else ""
        raise Unfit("the pages are not fit for paper:\n  " + "\n  ".join(wrong[:20]) + more)


# ---- PDF ------------------------------------------------------------------------------------------------------------


def front(pages: list[dict[str, str]], headings: dict[str, list[tuple[str, str]]], version: str) -> str:
    """The first sheet and the table of contents; `data-at` of a link is filled in when its sheet is known."""
    e = html.escape
    lines = [
        '<div class="front"><img src="/_static/cover.webp" alt="">',
        f"<h1>{TITLE}</h1><p>Loading a text-to-image model in 8 bits, measured on every page</p>",
        f'<p class="version">{AUTHOR}{f" · version of {e(version)}" if version else ""}<br>'
        "Text and figures CC BY 4.0 · code Apache-2.0</p></div>",
        '<div class="contents"><h1>Contents</h1><ol>',
    ]
    part = ""
    for page in pages:
        if page["part"] != part:
            part = page["part"]
            lines.append(f'<li class="part">{e(part)}</li>')
        lines.append(f'<li class="chapter"><a href="#{page["id"]}" data-at="">{e(page["title"])}</a></li>')
        lines += [
            f'<li class="section"><a href="#{id}" data-at="">{e(words)}</a></li>'
            for id, words in headings[page["id"]]
            if id and not page["file"].startswith("book/failures/")  # the index lists these
        ]
    return "\n".join([*lines, "</ol></div>"])


def running_head(page: dict[str, str]) -> str:
    """Style rules that print the title of a page above each of its sheets."""
    title = json.dumps(page["title"], ensure_ascii=False)
    font = '8.5pt "Source Sans 3", "Liberation Sans", sans-serif'
    head = f"@top-right {{ content: {title}; font: {font}; color: #596070; }}"
    return f"#{page['id']} {{ page: {page['id']}; }} @page {page['id']} {{ {head} }}"


def said_once(printed: bytes) -> bytes:
    r"""Bookmarks whose words stand there twice, as Chromium 156 writes them where a fetched font opens a sheet, once.

    No byte moves: blanks behind the string take the room.

    Example:
        >>> said_once(b"/Title (GlossaryGlossary)")
        b'/Title (Glossary)        '
    """

    def once(found: re.Match[bytes]) -> bytes:
        words = found["words"] or found["coded"]
        return found[0][: -len(words) - 1] + found[0][-1:] + b" " * len(words)

    twice = rb"/Title (?:\((?P<words>(?:\\.|[^\\()])+?)(?P=words)\)|<FEFF(?P<coded>(?:[0-9A-F]{4})+?)(?P=coded)>)"
    return re.sub(twice, once, printed, flags=re.DOTALL)


def write_pdf(site: Path, pages: list[dict[str, str]], file: Path, version: str, browser: Browser | None = None) -> int:
    """Print the pages into one PDF with page numbers, contents and bookmarks; returns how many sheets it has.

    Raises:
        Unfit: see `document`; or something is cut at the right margin.
    """
    try:
        from pypdf import PdfReader
    except ModuleNotFoundError as reason:
        raise Unfit("pypdf is not installed: pip install -r requirements.txt") from reason
    logging.getLogger("pypdf").setLevel(logging.ERROR)  # Chromium's trailer counts a few objects too few

    options: dict[str, Any] = {"prefer_css_page_size": True, "outline": True, "tagged": True, "print_background": True}
    with document(site, pages, browser) as page:
        headings = {entry["id"]: found for entry, found in zip(pages, page.evaluate("() => headings()"), strict=True)}
        before = front(pages, headings, version)
        page.evaluate("html => document.querySelector('main').insertAdjacentHTML('afterbegin', html)", before)
        page.add_style_tag(content="\n".join(map(running_head, pages)))
        page.evaluate("() => pictures()")
        page.evaluate("least => fit(least)", LEAST)
        _refuse(page)
        first = PdfReader(io.BytesIO(page.pdf(**options)))
        listed = page.evaluate("() => [...document.querySelectorAll('.contents a')].map(a => a.hash.slice(1))")
        places = {name.lstrip("/"): place for name, place in first.named_destinations.items()}
        at = {name: first.get_destination_page_number(places[name]) + 1 for name in listed if name in places}
        if missing := page.evaluate("at => number(at)", at):
            raise Unfit(f"no sheet is known for {', '.join(missing[:5])}")
        printed = said_once(page.pdf(**options))
    made = PdfReader(io.BytesIO(printed))
    if len(made.pages) != len(first.pages):
        raise Unfit("the contents moved the sheets that they name: this is a fault of tools/paper.py")
    partial = file.with_suffix(".partial")
    partial.write_bytes(printed)
    partial.replace(file)
    return len(made.pages)


# ---- EPUB -----------------------------------------------------------------------------------------------------------

_XHTML = (
    '<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE html>\n<html xmlns="http://www.w3.org/1999/xhtml" '
    'xmlns:epub="http://www.idpf.org/2007/ops" lang="en" xml:lang="en" data-theme="light">\n'
    "<head><title>{title}</title>"
    '<link rel="stylesheet" type="text/css" href="style.css"/>{style}</head>\n<body>{body}</body></html>\n'
)
_TYPES = {
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webp": "image/webp",
    ".jpg": "image/jpeg",
    ".gif": "image/gif",
}
_STAMP = (1980, 1, 1, 0, 0, 0)


def _nav(pages: list[dict[str, str]], parts: list[Part]) -> str:
    e = html.escape
    lines, caption = ['<nav epub:type="toc" id="toc"><h1>Contents</h1><ol>'], ""
    for page, part in zip(pages, parts, strict=True):
        if page["part"] != caption:
            lines.append(("</ol></li>" if caption else "") + f"<li><span>{e(page['part'])}</span><ol>")
            caption = page["part"]
        inner = "".join(f'<li><a href="{part.id}.xhtml#{id}">{e(words)}</a></li>' for id, words in part.headings if id)
        lines.append(f'<li><a href="{part.id}.xhtml">{e(page["title"])}</a>{f"<ol>{inner}</ol>" if inner else ""}</li>')
    return "\n".join([*lines, "</ol></li>" if caption else "", "</ol></nav>"])


def _package(pages: list[dict[str, str]], parts: list[Part], images: list[str], version: str) -> str:
    day = re.match(r"\d{4}-\d\d-\d\d", version)
    stamp = f"{day[0] if day else '1980-01-01'}T00:00:00Z"
    items = [
        '<item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>',
        '<item id="style" href="style.css" media-type="text/css"/>',
        '<item id="cover" href="images/card.png" media-type="image/png" properties="cover-image"/>',
    ]
    for part in parts:
        uses = " ".join({"math": "mathml", "svg": "svg"}[name] for name in part.used)
        properties = f' properties="{uses}"' if uses else ""
        items.append(f'<item id="{part.id}" href="{part.id}.xhtml" media-type="application/xhtml+xml"{properties}/>')
    items += [
        f'<item id="image-{number}" href="images/{name}" media-type="{_TYPES[Path(name).suffix]}"/>'
        for number, name in enumerate(images)
    ]
    spine = "".join(f'<itemref idref="{part.id}"/>' for part in parts)
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        '<package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="id" xml:lang="en">\n'
        '<metadata xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f'<dc:identifier id="id">urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f"8-bit-sana {version}")}</dc:identifier>'
        f"<dc:title>{TITLE}</dc:title><dc:language>en</dc:language><dc:creator>{AUTHOR}</dc:creator>"
        f"<dc:rights>Text and figures CC BY 4.0, code Apache-2.0</dc:rights><dc:date>{stamp[:10]}</dc:date>"
        f'<meta property="dcterms:modified">{stamp}</meta>'
        '<meta property="schema:accessMode">textual</meta><meta property="schema:accessMode">visual</meta>'
        '<meta property="schema:accessModeSufficient">textual,visual</meta>'
        '<meta property="schema:accessibilityFeature">alternativeText</meta>'
        '<meta property="schema:accessibilityFeature">MathML</meta>'
        '<meta property="schema:accessibilityFeature">tableOfContents</meta>'
        '<meta property="schema:accessibilityHazard">none</meta>'
        '<meta property="schema:accessibilitySummary">Figures have a text each; formulas are MathML.</meta>'
        f"</metadata>\n<manifest>\n{chr(10).join(items)}\n</manifest>\n"
        f'<spine><itemref idref="nav"/>{spine}</spine>\n</package>\n'
    )


def write_epub(
    site: Path, pages: list[dict[str, str]], file: Path, version: str, browser: Browser | None = None
) -> int:
    """Write the pages as an EPUB 3; returns how many chapters it has. The same pages give the same bytes.

    Raises:
        Unfit: see `document`; or a picture has a format that readers of books do not know.
    """
    with document(site, pages, browser) as page:
        parts = [Part(**part) for part in page.evaluate("() => parts()")]
    sources = {Path(path).name: path for part in parts for path in part.images}
    if odd := [name for name in sources if Path(name).suffix not in _TYPES]:
        raise Unfit(f"{odd[0]}: a picture in an EPUB is one of {', '.join(_TYPES)}")
    here = Path(__file__).resolve().parent
    pygments = (site / "_static" / "pygments.css").read_text(encoding="utf-8")
    light = "\n".join(line for line in pygments.splitlines() if 'data-theme="light"' in line)
    container = (
        '<?xml version="1.0"?><container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
        '<rootfiles><rootfile full-path="OEBPS/content.opf" media-type="application/oebps-package+xml"/>'
        "</rootfiles></container>"
    )
    texts = {
        "META-INF/container.xml": container,
        "OEBPS/content.opf": _package(pages, parts, sorted(sources), version),
        "OEBPS/nav.xhtml": _XHTML.format(title="Contents", style="", body=_nav(pages, parts)),
        "OEBPS/style.css": (here / "paper.css").read_text(encoding="utf-8") + light,
    }
    for entry, part in zip(pages, parts, strict=True):
        styles = "".join(f"<style>{html.escape(style, quote=False)}</style>" for style in dict.fromkeys(part.styles))
        title = html.escape(entry["title"])
        texts[f"OEBPS/{part.id}.xhtml"] = _XHTML.format(title=title, style=styles, body=part.text)
    partial = file.with_suffix(".partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as book:
        book.writestr(zipfile.ZipInfo("mimetype", _STAMP), "application/epub+zip", zipfile.ZIP_STORED)
        for name, text in texts.items():
            book.writestr(zipfile.ZipInfo(name, _STAMP), text, zipfile.ZIP_DEFLATED)
        for name, path in {**dict(sorted(sources.items())), "card.png": "/_static/card.png"}.items():
            book.writestr(zipfile.ZipInfo(f"OEBPS/images/{name}", _STAMP), (site / path.lstrip("/")).read_bytes())
    partial.replace(file)
    return len(parts)


# ---- the command ----------------------------------------------------------------------------------------------------


def main(words: list[str] | None = None) -> int:
    """Write what is asked for; 1 and a line of what is wrong, with nothing written, if the pages are not fit."""
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("kinds", nargs="+", choices=["pdf", "epub"])
    reader.add_argument("--site", type=Path, default=HTML, help="the built site")
    reader.add_argument("--out", type=Path, help="folder to write to, the site's if not given")
    reader.add_argument("--pages", nargs="*", default=[], help="names as in _toc.yml, all if not given")
    asked = reader.parse_args(words)
    out = asked.out or asked.site
    version = site_links.version(ROOT)
    try:
        pages = contents(asked.pages)
        if not (asked.site / f"{pages[0]['file']}.html").is_file():
            raise Unfit(f"there is no built book in {asked.site}: make book")
        out.mkdir(parents=True, exist_ok=True)
        for kind in asked.kinds:
            file = out / f"8-bit-sana.{kind}"
            count = (write_pdf if kind == "pdf" else write_epub)(asked.site, pages, file, version)
            words = f"{count} {'pages' if kind == 'pdf' else 'chapters'}, {file.stat().st_size / 1e6:.1f} MB"
            print(f"{file}: {words}")
            if out == asked.site and not asked.pages:
                site_links.add_edition(out, file.name, f"{words}{f', version of {version}' if version else ''}")
    except (OSError, ValueError) as reason:
        print(f"Not written: {reason}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
