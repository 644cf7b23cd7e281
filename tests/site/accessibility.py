"""What axe-core finds on a page, in light and in dark (WCAG 2.2 A and AA, best practice)."""

from __future__ import annotations

from book_site import Package

AXE = Package(
    "axe-core",
    "4.14.1",
    "e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745",
    ("LICENSE", "axe.min.js"),
)
OF_COLORS = ["color-contrast", "link-in-text-block"]
"""Rules that a second color scheme can break; all others were asked in the first."""
_RUN = """async ([where, rules]) => (await axe.run(where, {resultTypes: ['violations'], ...rules})).violations
    .map(v => `${v.id}: ${v.nodes.slice(0, 3).map(n => n.target.join(' ')).join(' | ')}`)"""
MAKE_ALIKE_PLAIN = """() => {
    const looks = new Map();
    window.alike = [...document.querySelectorAll('pre span, code span')].filter(span => {
        if (span.childElementCount || span.getAttributeNames().some(name => name !== 'class')) return false;
        const style = getComputedStyle(span), known = looks.get(span.parentElement) ?? new Set(), before = known.size;
        looks.set(span.parentElement, known.add([span.className, style.color, style.backgroundColor, style.fontSize,
            style.fontWeight, style.opacity, style.display, style.visibility].join()));
        return known.size === before;
    }).map(span => [span, [...span.childNodes]]);
    for (const [span, text] of window.alike) span.replaceWith(...text);
    return window.alike.length;
}"""
"""Of the words of one piece of code that look alike, leave the first as it is and make the others plain text.

Two of three elements of a chapter are such words, thousands of them, and axe-core looks behind each. They have a class
and nothing else, so all that can be wrong with them is their color, and the first says it for those that share it.
"""
UNDO = """() => window.alike.filter(([span, text]) => text.length).forEach(([span, text]) => {
    text[0].before(span);
    span.append(...text);
})"""
_IN = "scheme => document.documentElement.dataset.theme === scheme"
_STILL = "*, *::before, *::after { transition: none !important; animation: none !important }"
"""Colors change at once: on their way from one scheme to the other they have too little contrast for a moment."""


def violations(page, axe: str, where: str = "html") -> dict[str, list[str]]:
    """What axe finds on a page that was opened in light: scheme -> one line a rule.

    The page is left as it was, in light.

    `axe`: the program text of axe-core.
    `where`: the parts of the page to look at, as a CSS selector.
    """
    page.evaluate(axe)
    page.add_style_tag(content=_STILL)
    page.evaluate(MAKE_ALIKE_PLAIN)
    found = {}
    for scheme, rules in (("light", {}), ("dark", {"runOnly": OF_COLORS})):
        page.emulate_media(color_scheme=scheme)  # the theme follows the system
        page.wait_for_function(_IN, arg=scheme)
        found[scheme] = page.evaluate(_RUN, [where, rules])
    page.evaluate(UNDO)
    page.emulate_media(color_scheme="light")
    page.wait_for_function(_IN, arg="light")
    return found
