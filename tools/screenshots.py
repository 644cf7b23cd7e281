"""Take pictures of built pages, to look at them: light and dark, a laptop and a phone.

Run `python tools/screenshots.py [page ...]` with pages such as `book/intro`; PNG files land in `_build/screenshots`.
A page that is longer than the browser can paint is cut at its bottom.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

BUILD = Path(__file__).resolve().parent.parent / "_build"

TALLEST = 15_000
"""Pixels; Chromium paints no texture that is taller than 16,384."""


def main(pages: list[str]) -> None:
    """Photograph each page four times."""
    html, out = BUILD / "html", BUILD / "screenshots"
    if not pages:
        found = [*(html / "book").glob("*.html"), *(html / "notebooks").glob("*.html")]
        pages = [path.relative_to(html).with_suffix("").as_posix() for path in found]
    missing = [name for name in pages if not (html / f"{name}.html").is_file()]
    if missing or not pages:
        sys.exit(
            f"no such page: {', '.join(missing) or html}. Build the book (`make book`) and name pages like book/intro."
        )
    out.mkdir(exist_ok=True)
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        for scheme in ("light", "dark"):
            for width in (1280, 390):
                context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
                page = context.new_page()
                for name in pages:
                    page.goto((html / f"{name}.html").as_uri(), wait_until="load")
                    page.wait_for_timeout(1200)  # formulas and widgets
                    tall = min(page.evaluate("document.documentElement.scrollHeight"), TALLEST)
                    page.set_viewport_size({"width": width, "height": tall})
                    page.wait_for_timeout(300)
                    page.screenshot(path=out / f"{name.replace('/', '-')}-{scheme}-{width}.png")
                    page.set_viewport_size({"width": width, "height": 900})
                context.close()
        browser.close()
    print(f"{4 * len(pages)} pictures in {out.relative_to(BUILD.parent)}")


if __name__ == "__main__":
    main(sys.argv[1:])
