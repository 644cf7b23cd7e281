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
    window.alike = [...document.querySelectorAll('pre, code')].filter(code => !code.parentElement.closest('pre, code'))
        .map(code => {
            const looks = new Map();
            const alike = [...code.querySelectorAll('span')].map(span => {
                if (span.childElementCount || span.getAttributeNames().some(name => name !== 'class')) return false;
                const style = getComputedStyle(span), known = looks.get(span.parentElement) ?? new Set();
                const before = known.size;
                looks.set(span.parentElement, known.add([span.className, style.color, style.backgroundColor,
                    style.fontSize, style.fontWeight, style.opacity, style.display, style.visibility].join()));
                return known.size === before;
            });
            const copy = code.cloneNode(true);
            [...copy.querySelectorAll('span')].forEach((span, n) => alike[n] && span.replaceWith(span.textContent));
            return [code, copy, alike.filter(Boolean).length];
        }).filter(([code, copy, count]) => count);
    for (const [code, copy] of window.alike) code.replaceWith(copy);
    return window.alike.reduce((sum, [code, copy, count]) => sum + count, 0);
}"""
"""Of the words of one piece of code that look alike, leave the first as it is and make the others plain text.

Two of three elements of a chapter are such words, thousands of them, and axe-core looks behind each. They have a class
and nothing else, so all that can be wrong with them is their color, and the first says it for those that share it.
"""
UNDO = "() => { for (const [code, copy] of window.alike) copy.replaceWith(code); }"
LOOKS = """where => {
    const behind = new Map([[null, '']]), above = new Map([[null, '']]);
    const ground = element => {
        if (!behind.has(element)) {
            const {backgroundColor: color, backgroundImage: image} = getComputedStyle(element);
            const below = ground(element.parentElement), own = `${color} ${image}`;
            const covers = image === 'none' && color.startsWith('rgb('), nothing = own === 'rgba(0, 0, 0, 0) none';
            behind.set(element, covers ? color : nothing ? below : `${own} on ${below}`);
        }
        return behind.get(element);
    };
    const veil = element => {
        if (!above.has(element)) {
            const style = getComputedStyle(element), over = veil(element.parentElement);
            const own = [style.opacity, style.filter, style.mixBlendMode, style.clip, style.clipPath].join();
            above.set(element, own === '1,none,normal,auto,none' ? over : `${own} in ${over}`);
        }
        return above.get(element);
    };
    const line = style => [style.color, style.fontWeight, style.fontStyle, style.textDecorationLine,
        style.borderBottom];
    const among = link => {
        let block = link.parentElement;
        while (getComputedStyle(block).display === 'inline') block = block.parentElement;
        const alone = block.textContent.trim() === link.textContent.trim();
        return [alone, ...line(getComputedStyle(link)), ...line(getComputedStyle(block)), ground(block)];
    };
    window.looks = new Map();
    for (const element of document.querySelectorAll(`${where} *`)) {
        const words = [...element.childNodes].filter(node => node.nodeType === Node.TEXT_NODE)
            .map(node => node.data.trim()).join('');
        if (!words && !element.matches('input, select, textarea')) continue;
        if (!element.checkVisibility({visibilityProperty: true}) || element.closest('mjx-container')) continue;
        const style = getComputedStyle(element), link = element.closest('a[href], [role=link]');
        const large = parseFloat(style.fontSize) >= (style.fontWeight >= 700 ? 18.6 : 24);
        const look = [style.color, large, style.textShadow, ...(link ? among(link) : []), ground(element),
            veil(element)].join('; ');
        if (!window.looks.has(look)) window.looks.set(look, []);
        window.looks.get(look).push([element, words.replace(/\\W/g, '').length]);
    }
    return [...window.looks.keys()];
}"""
"""How words look on a page: all that their contrast hangs on, which is color, size (large from 14 pt in bold, 18 pt
else), what is behind them, and for a link the text that it is in. Formulas are drawn otherwise, and not looked at.

What looks alike has the same contrast, here and on any page (unless something lies behind it that is not around it),
and axe-core takes half its time to find what is behind each word, in each scheme. So it is shown a few of each look,
where it comes first: those with the most letters, since it does not judge a single one.
"""
_MARK = """looks => {
    document.querySelectorAll('[data-judge]').forEach(element => element.removeAttribute('data-judge'));
    for (const alike of looks.map(look => window.looks.get(look)))
        alike.sort((a, b) => b[1] - a[1]).slice(0, 3).forEach(([element]) => element.setAttribute('data-judge', ''));
}"""
_ONLY_MARKED = "axe.configure({rules: [{id: 'color-contrast', selector: '[data-judge]'}]})"
_IN = "scheme => document.documentElement.dataset.theme === scheme"
_STILL = "*, *::before, *::after { transition: none !important; animation: none !important }"
"""Colors change at once: on their way from one scheme to the other they have too little contrast for a moment."""


def violations(page, axe: str, where: str = "html", judged: dict[str, set[str]] | None = None) -> dict[str, list[str]]:
    """What axe finds on a page that was opened in light: scheme -> one line a rule.

    The page is left as it was, in light.

    `axe`: the program text of axe-core.
    `where`: the parts of the page to look at, as a CSS selector.
    `judged`: scheme -> the looks of words that were found good or bad on other pages; this page's are added.
    """
    judged = {} if judged is None else judged
    page.evaluate(f"{axe};{_ONLY_MARKED}")
    page.add_style_tag(content=_STILL)
    page.evaluate(MAKE_ALIKE_PLAIN)
    found = {}
    for scheme, rules in (("light", {}), ("dark", {"runOnly": OF_COLORS})):
        page.emulate_media(color_scheme=scheme)  # the theme follows the system
        page.wait_for_function(_IN, arg=scheme)
        known = judged.setdefault(scheme, set())
        new = [look for look in page.evaluate(LOOKS, where) if look not in known]
        known.update(new)
        page.evaluate(_MARK, new)
        found[scheme] = page.evaluate(_RUN, [where, rules]) if new or not rules else []
    page.evaluate(_MARK, [])
    page.evaluate(UNDO)
    page.emulate_media(color_scheme="light")
    page.wait_for_function(_IN, arg="light")
    return found
