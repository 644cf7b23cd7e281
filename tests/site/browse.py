"""What a browser notices on a page of the built book."""

from __future__ import annotations

import contextlib
import functools
import gzip
import http.server
import re
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urldefrag, urlsplit

from bs4 import BeautifulSoup


class _Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # a browser asks for all files of a page on a few connections

    def end_headers(self):
        if "/_static/" in self.path:  # every page has them
            self.send_header("Cache-Control", "max-age=3600")
        super().end_headers()

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def served(folder: Path):
    """Serve a folder on a free local port; yields the address, without a final slash."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()  # or its thread would ask the closed socket for ever, at full speed


@dataclass
class Visit:
    """What a browser noticed on one page."""

    url: str
    complaints: list[str] = field(default_factory=list)  # console errors, exceptions, failed and outside requests
    links: list[str] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    text: str = ""
    headings: int = 0
    images: list[dict] = field(default_factory=list)  # src, alt, width as decoded
    formulas: int = 0
    typeset: int = 0
    widgets: int = 0
    drawn: int = 0
    audit: dict | None = None
    too_wide: list[str] = field(default_factory=list)  # elements that make a phone scroll sideways


_LOOK = """() => ({
    links: [...document.querySelectorAll('a[href]')].map(a => a.href),
    ids: [...document.querySelectorAll('[id]')].map(e => e.id),
    text: document.body.innerText,
    headings: document.querySelectorAll('.bd-article h1, body > h1').length,
    images: [...document.querySelectorAll('img')].map(i => ({src: i.src, alt: i.alt, width: i.naturalWidth})),
    formulas: document.querySelectorAll('span.math, div.math').length,
    typeset: [...document.querySelectorAll('span.math, div.math')].filter(
        e => e.querySelector('mjx-container') && !e.querySelector('mjx-merror')).length,
    widgets: document.querySelectorAll('script[type="application/vnd.jupyter.widget-view+json"]').length,
})"""
_SETTLED = """() => document.readyState === 'complete' && [...document.querySelectorAll('span.math, div.math')]
    .every(e => e.querySelector('mjx-container'))"""
_DRAWN = "() => document.querySelectorAll('.cell_output .jupyter-widgets').length"
TO_WIDGET = """() => document.querySelector('script[type="application/vnd.jupyter.widget-view+json"]')
    .parentElement.scrollIntoView()"""
_TWO_FRAMES = "() => new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))"
_TOO_WIDE = """() => {
    const room = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= room) return [];
    const scrolls = e => e && (getComputedStyle(e).overflowX !== 'visible' || scrolls(e.parentElement));
    return [...document.querySelectorAll('body *')]
        .filter(e => e.getBoundingClientRect().right > room + 1 && !scrolls(e.parentElement))
        .map(e => e.tagName + '.' + e.className).slice(0, 5).concat('page: ' + document.documentElement.scrollWidth);
}"""


def look(page, url: str, patience: float = 30, audit=None) -> Visit:
    """Go to a page, wait until it has settled, and note what there is and what is wrong.

    `page`: a tab, left on an empty page: in the next one's place, the browser need not compile all scripts anew.
    `patience`: seconds to wait for formulas and widgets; those that are not drawn by then count as not drawn.
    `audit`: is given the page as it has settled, before widgets are drawn and before it becomes as narrow as a phone.
    """
    visit = Visit(url)
    with _noting_complaints(page, visit):
        _look(page, visit, patience, audit)
        page.goto("about:blank")
    return visit


@contextlib.contextmanager
def _noting_complaints(page, visit: Visit):
    home, asked = urlsplit(visit.url).netloc, set()

    def note_request(request):
        asked.add(request)
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob", "about") and address.netloc != home:
            visit.complaints.append(f"asks the internet for {request.url}")

    def note_response(response):
        if response.status >= 400:
            visit.complaints.append(f"{response.status} for {response.url}")

    def note_failure(request):
        if request in asked:
            visit.complaints.append(f"failed to load {request.url}")

    notes = {
        "request": note_request,
        "response": note_response,
        "requestfailed": note_failure,
        "console": lambda m: m.type == "error" and visit.complaints.append(f"console: {m.text}"),
        "pageerror": lambda error: visit.complaints.append(f"exception: {error}"),
    }
    for event, note in notes.items():
        page.on(event, note)
    try:
        yield
    finally:
        for event, note in notes.items():
            page.remove_listener(event, note)


def _look(page, visit: Visit, patience: float, audit) -> None:
    from playwright.sync_api import TimeoutError as TooLong

    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto(visit.url, wait_until="load", timeout=60_000)
    page.evaluate("() => window.MathJax?.startup?.promise")
    with contextlib.suppress(TooLong):
        page.wait_for_function(_SETTLED, timeout=1000 * patience)
    visit.audit = audit(page) if audit else None
    page.wait_for_load_state("networkidle", timeout=60_000)  # it rests since long where there was an audit
    seen = page.evaluate(_LOOK)
    for name, value in seen.items():
        setattr(visit, name, set(value) if name == "ids" else value)
    if visit.widgets:
        page.evaluate(TO_WIDGET)  # their script is loaded when they come near
        with contextlib.suppress(TooLong):
            page.wait_for_function(f"n => ({_DRAWN})() >= n", arg=visit.widgets, timeout=1000 * patience)
        visit.drawn = page.evaluate(_DRAWN)
    page.set_viewport_size({"width": 390, "height": 844})
    page.evaluate(_TWO_FRAMES)
    visit.too_wide = page.evaluate(_TOO_WIDE)


def dead_links(visits: list[Visit]) -> list[str]:
    """Links between pages that lead nowhere: no such file, or no such place in it."""
    by_url = {visit.url: visit for visit in visits}
    home = urlsplit(visits[0].url).netloc
    dead = []
    for visit in visits:
        for link in visit.links:
            url, anchor = urldefrag(link)
            if urlsplit(url).netloc != home:
                continue
            target = by_url.get(url.partition("?")[0])
            if target is None and not _is_file(url):
                dead.append(f"{visit.url} → {link}")
            elif target is not None and anchor and anchor not in target.ids:
                dead.append(f"{visit.url} → {link} (no such place on the page)")
    return dead


def _is_file(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status == 200
    except urllib.error.URLError:
        return False


def bytes_before_reading(built: Path, name: str) -> int:
    """Bytes, packed by gzip, that a browser waits for before it shows a page: itself, styles, scripts that block.

    Args:
        built: folder of the built book.
        name: of the page, without `.html`.
    """
    page = built / f"{name}.html"
    files = {page}
    for text in re.findall(r"<(?:link|script)\b[^>]*>", page.read_text(encoding="utf-8")):
        tag = BeautifulSoup(text, "html.parser").find()
        style = tag.name == "link" and "stylesheet" in tag.get("rel", [])
        waits = tag.get("type") == "module" or tag.has_attr("async") or tag.has_attr("defer")
        address = tag.get("href") if style else tag.get("src") if not waits else None
        if address and not urlsplit(address).netloc:
            files.add((page.parent / urlsplit(address).path).resolve())
    return sum(_packed(file, file.stat().st_mtime_ns) for file in files)


@functools.cache  # every page has the same styles and scripts
def _packed(file: Path, written: int) -> int:
    return len(gzip.compress(file.read_bytes()))
