"""What pages of the built site say about themselves: where the book is kept, its version, its address, what they are.

Two settings, and nothing dead without them: `repository.url` in `_config.yml` (or `REPOSITORY_URL`) for the links to
source, issues, Colab, Binder and Codespaces; `SITE_URL` for what needs the address of the published site.
"""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
from pathlib import Path
from xml.sax.saxutils import escape

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config

LONGEST = 200
"""Characters of a page's description: what search engines and messengers show."""

NOT_FOUND = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>No such page: 8-bit Sana</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">
<style>
:root { color-scheme: light dark; }
body { font: 1.1rem/1.6 system-ui, sans-serif; max-width: 36rem; margin: 15vh auto; padding: 0 1rem; }
</style>
</head><body><main><h1>There is no such page here</h1>
<p>Chapters are renumbered now and then. <a id="home" href="/">The first page</a> lists them all, and
<a id="search" href="/search.html">the search</a> finds errors by their message.</p></main>
<script>
const root = location.pathname.replace(/(?:book|notebooks|_static|_images|_sources)[/].*$|[^/]*$/, "");
document.querySelector("#home").href = root + "index.html";
document.querySelector("#search").href = root + "search.html";
</script></body></html>
"""


def repository(config: Config) -> str:
    """Address of the repository, or an empty string.

    Raises:
        ValueError: it is set, and is not like https://github.com/owner/name.
    """
    url = os.environ.get("REPOSITORY_URL") or config.html_theme_options.get("repository_url") or ""
    url = url.rstrip("/").removesuffix(".git")
    if url and not re.fullmatch(r"https://[\w.-]+(?:/[\w.-]+){2,}", url):
        raise ValueError(f"REPOSITORY_URL is {url!r}: set it to an address like https://github.com/owner/name, or not.")
    return url


def version(root: Path) -> str:
    """Date and hash of the commit that a site is built from, so the same source says the same; else empty."""
    command = ["git", "-C", str(root), "log", "-1", "--format=%cs, %h"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout.strip() if run.returncode == 0 else ""


def set_links(config: Config, root: Path) -> None:
    """Fill in the theme's options for the repository, the launchers and the footer."""
    options = dict(config.html_theme_options)
    if url := repository(config):
        options |= {"repository_url": url, "repository_branch": "main", "path_to_docs": ""}
        options |= {"use_repository_button": True, "use_edit_page_button": True, "use_issues_button": True}
        if url.startswith("https://github.com/"):
            launch = {"binderhub_url": "https://mybinder.org", "colab_url": "https://colab.research.google.com"}
            options["launch_buttons"] = {"notebook_interface": "jupyterlab", **launch}
    if dated := version(root):
        options["extra_footer"] = f"{options.get('extra_footer', '')} · version of {dated}"
    config.html_theme_options = options
    if site := os.environ.get("SITE_URL"):
        config.html_baseurl = site.rstrip("/") + "/"


def add_codespaces(app: Sphinx, pagename: str, template: str, context: dict, doctree: nodes.document | None) -> None:
    """Put GitHub's Codespaces beside Binder and Colab, for which the theme (sphinx-book-theme 1.3.0) has buttons."""
    for group in context.get("header_buttons", []):
        if group.get("label") == "launch-buttons":
            owner_and_name = "/".join(repository(app.config).split("/")[3:5])
            group["buttons"].append(
                {
                    "type": "link",
                    "text": "Codespaces",
                    "tooltip": "Launch on Codespaces",
                    "icon": "fas fa-code",
                    "url": f"https://codespaces.new/{owner_and_name}?quickstart=1",
                }
            )


def description(doctree: nodes.document | None) -> str:
    """The first sentences of a page, at most `LONGEST` characters, cut between words."""
    for paragraph in doctree.findall(nodes.paragraph) if doctree is not None else ():
        text = " ".join(paragraph.astext().split())
        if len(text) >= 60:
            return text if len(text) <= LONGEST else text[: LONGEST - 1].rpartition(" ")[0] + "…"
    return ""


def add_meta(app: Sphinx, pagename: str, template: str, context: dict, doctree: nodes.document | None) -> None:
    """Say in a page's head what it is about, for search engines and messengers."""
    title = re.sub(r"<[^>]+>", "", context.get("title", ""))
    tags = {
        "og:title": html.unescape(title),
        "og:type": "article",
        "og:site_name": app.config.html_title or "8-bit Sana",
    }
    if about := description(doctree):
        tags |= {"description": about, "og:description": about}
    if base := app.config.html_baseurl:
        tags |= {
            "og:url": f"{base}{pagename}.html",
            "og:image": f"{base}_static/card.png",
            "twitter:card": "summary_large_image",
        }
    lines = [
        f'<meta {"property" if name.startswith("og:") else "name"}="{name}" content="{html.escape(content)}" />'
        for name, content in tags.items()
    ]
    context["metatags"] = context.get("metatags", "") + "\n".join(["", *lines, ""])


EDITIONS = "editions.json"
"""What was made of the built site to take along, beside it: file name and a few words about it."""
_EDITIONS = re.compile(r'<p class="editions[^"]*"[^>]*>.*?</p>', re.DOTALL)


def add_edition(out: Path, file: str, words: str) -> None:
    """Note a file that was made of the site in `out`, e.g. a PDF, and link it from the first page."""
    noted = out / EDITIONS
    known = json.loads(noted.read_text(encoding="utf-8")) if noted.is_file() else {}
    noted.write_text(json.dumps({**known, file: words}, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    link_editions(out)


def link_editions(out: Path) -> None:
    """Link what there is of PDF and EPUB from the first page; without any, that page says nothing of them."""
    noted, first = out / EDITIONS, out / "book" / "intro.html"
    if not noted.is_file() or not first.is_file():
        return
    known = json.loads(noted.read_text(encoding="utf-8"))
    links = [
        f'<a href="../{name}">{html.escape(Path(name).suffix[1:].upper())}</a> ({html.escape(words)})'
        for name, words in sorted(known.items(), reverse=True)
        if (out / name).is_file()
    ]
    said = f"To take along: {' · '.join(links)}." if links else ""
    line = f'<p class="editions on-screen">{said}</p>'
    page = first.read_text(encoding="utf-8")
    first.write_text(_EDITIONS.sub(lambda _: line, page, count=1), encoding="utf-8")


def drop_old_pages(out: Path, kept: set[str]) -> None:
    """Delete pages of chapters that have another name now, which Sphinx leaves in the folder of the site.

    Args:
        out: the built site.
        kept: names of its pages, like book/intro.
    """
    for path in [*out.glob("book/**/*.html"), *out.glob("notebooks/**/*.html")]:
        if path.relative_to(out).with_suffix("").as_posix() not in kept:
            path.unlink()


def finish(app: Sphinx, problem: Exception | None) -> None:
    """Write the page for addresses that lead nowhere and, where the site's address is known, the list of its pages.

    Pages of an older build are deleted.
    """
    if problem or app.builder.format != "html" or app.builder.name != "html":
        return
    out = Path(app.outdir)
    drop_old_pages(out, set(app.env.found_docs))
    link_editions(out)
    (out / "404.html").write_text(NOT_FOUND, encoding="utf-8")
    (out / ".nojekyll").touch()
    base = app.config.html_baseurl
    (out / "robots.txt").write_text(f"User-agent: *\nAllow: /\n{f'Sitemap: {base}sitemap.xml' if base else ''}\n")
    if base:
        urls = "".join(f"<url><loc>{escape(base + name)}.html</loc></url>\n" for name in sorted(app.env.found_docs))
        head = '<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
        (out / "sitemap.xml").write_text(f"{head}{urls}</urlset>\n", encoding="utf-8")
