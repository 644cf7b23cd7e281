"""Numbers in a chapter's prose that nothing holds: no cell gave them, no source is named, the code does not have them.

A number on a page is one of these, and anything else is loose:

- given by a cell: `<span data-glue="slower">2.6</span>` (`tools/prose.py`), which is checked against the outputs;
- from elsewhere, with its source: a link to `references.md` or to the web stands before it in the same block, or in the
  same sentence, or a file of a library's code does so in the same sentence;
- an input: the chapter's code, on the same page, has it;
- worked out on the page: it stands in a formula or in code;
- a name: version, width in bits, chapter, exercise, row, device, model, card, year;
- a limit of a number format (`LIMITS`), or a power of two.

Speeds, times, shares and ratios ("2.6x", "67 %", "three times as fast", "40 ms") are results, so that the code has the
same number proves nothing: these want a cell or a source. Captions and descriptions of pictures are read, too. Not
read are chapters' titles and the line below them, which says how long a chapter takes, about; and words that can mean
nothing exact, such as *half*, *twice*, *a few hundred*. `tools/chapters.py check` asks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from nbformat import NotebookNode

LIMITS = {127.0, 255.0, 448.0, 57344.0, 65504.0, *(2.0**power for power in range(4, 33))}
"""What int8, uint8, e4m3, e5m2 and float16 end with; powers of two."""
ALONE = "alone"  # id of the cell that is no part of the chapter (tools/chapters.py)

_ONES = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety hundred thousand"
_WORDS = "|".join([*_ONES.split(), *_TENS.split()])
_WORD = rf"(?:{_WORDS})(?:[- ](?:{_WORDS}))*"
_COUNT = r"[−+~≈±]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?"
_GAP = r"[ \u00a0\u202f-]?"
_RESULT = (  # units of what somebody measured
    r"(?:%|percent(?:age points?)?\b|per cent\b|x\b(?! ?\d)|×(?! ?(?:\d|[a-z]\d))|-?fold\b|dB\b|decibels?\b|W\b"
    r"|(?:[mµn]?s|(?:milli|micro)?seconds?|minutes?|hours?|[TG]FLOPS?|[kMGT]i?B/s)\b"
    r"|times (?:as (?:fast|slow|long|much)|faster|slower|longer|quicker)\b|pictures? (?:a|per) (?:second|minute|hour))"
)
_AMOUNT = r"(?:[kMGT]i?B\b|bytes?\b|points?\b|times (?:as|the|more|less|larger|smaller|bigger)\b)"
_PARTS = r"thirds?|quarters?|fifths?|sixths?|sevenths?|eighths?|ninths?|tenths?|hundredths?|percent|per cent"
_DIGITS = rf"(?P<count>{_COUNT}(?:/\d+(?![\w/]))?)(?:{_GAP}(?:(?P<result>{_RESULT})|(?P<amount>{_AMOUNT}))|(?!\w))"
_IN_WORDS = (
    rf"(?<!few )(?<!some )(?P<words>{_WORD})[ -]"
    rf"(?:(?P<result_words>{_RESULT}|(?<!one )(?:{_PARTS})\b)|(?P<amount_words>{_AMOUNT}))"
)
_NUMBER = re.compile(rf"(?<![\w.#/^-])(?:{_DIGITS}|{_IN_WORDS})", re.IGNORECASE)
_NO_PROSE = re.compile(
    r"^(?P<fence>`{3,}|~{3,}).*?^(?P=fence)[ ]*$|\$\$.*?\$\$|\$[^$\n]+\$"
    r"|(?<!`)(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)"
    r'|<span data-glue="[^"]*">[^<]*</span>|<[a-z/][^>]*>|\{[a-z:]+\}`[^`]*`',
    re.MULTILINE | re.DOTALL,
)
_TIER = re.compile(r'^<span class="tier .*$', re.MULTILINE)
_LINK = re.compile(r"(?<!!)\[(?P<text>(?:[^\[\]]|\[[^\[\]]*\])*)\]\((?P<place>[^)\s]*)\)")
_SOURCE, _READ = "\N{REFERENCE MARK}", "\N{SECTION SIGN}"  # for a link to a source, and a file of code, in a block
_BLOCK = re.compile(r"\n\s*\n|\n(?=[-*] |\d+\. |\|)")
_LEADING = re.compile(r"^(?:# .*|#+ (?:\d+ )?|(?:> ?)?\*\*\d+\. |\d+\. |\| (?=\d+ \|)\d+)", re.MULTILINE)
_NAMED = re.compile(
    r"(?:\b(?:chapters?|exercises?|sections?|tables?|figures?|fig\.|steps?|GPUs?|rows?|pictures?|blocks?|columns?|issues?|"
    r"pull requests?|versions?|lines?|questions?|codes?|transformers|diffusers|bitsandbytes|accelerate|torch|PyTorch|"
    r"Python|CUDA|torchao|capability|GeForce|RTX|Gemma|PEP|level|cuda:|H200|\d+ (?:and|to|or))|#)\s?$",
    re.IGNORECASE,
)
_LIBRARY = re.compile(r"\b(?:diffusers|transformers|bitsandbytes|accelerate|torch|torchao|pytorch|cuda|python)\b", re.I)
_SINCE = re.compile(r"\b(?:in|since|before|after|up to|until|from|to|with|and|on|than)\s$", re.IGNORECASE)
_VERSION = re.compile(r"\d+\.\d+\.\d+(?:\.\w+)?")
_YEAR = re.compile(r"(?:19|20)\d\d")
_WIDTH = re.compile(r"[ -]bits?\b| ?× ?[A-Z]\d")  # and the number of cards: 2 × H200
_INTERVAL = re.compile(r"(?:90|95|99)\s?%(?=\)| (?:confidence )?interval)")
_IN_CODE = re.compile(r"(?<![\w.])\d+(?:(?:_|,|\{,\})\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?", re.IGNORECASE)
_FILE = re.compile(r"[\w./-]+\.(?:py|cpp|cu|cuh|h|cc|json)\b")


def _number(text: str) -> float:
    return float(re.sub(r"[_,{}−+~≈±]", "", text))


def inputs(notebook: NotebookNode) -> set[float]:
    """The numbers that a chapter's code has, in its cells and in its prose."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code" and cell.get("id") != ALONE]
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    pieces = [found[0] for found in _NO_PROSE.finditer(prose) if found[0][0] in "`~$"]
    return {_number(found) for found in _IN_CODE.findall("\n".join([*code, *pieces]))}


def _value(words: str) -> float:
    """A number in words: "twenty-five" is 25, "five hundred" is 500."""
    total = 0
    for word in re.split(r"[- ]", words.lower()):
        if word in ("hundred", "thousand"):
            total = max(total, 1) * (100 if word == "hundred" else 1000)
        else:
            total += _ONES.split().index(word) + 1 if word in _ONES.split() else 10 * (_TENS.split().index(word) + 2)
    return float(total)


def _blocks(prose: str) -> Iterator[str]:
    """Paragraphs, list entries and rows of tables, without code, formulas, tags and what cells gave; links marked."""

    def shown(found: re.Match[str]) -> str:
        if found["fence"]:
            return "\n"
        return _READ if found["ticks"] and _FILE.search(found[0]) else "…"

    def marked(link: re.Match[str]) -> str:
        if link["place"].startswith("http") or link["place"].partition("#")[0].endswith("references.md"):
            return f"{_SOURCE}{re.sub(r'[0-9]', '', link['text'])}"
        return "…" if link["place"].endswith(".ipynb") or link["place"].startswith("#") else link["text"]

    prose = _FILE.sub(_READ, _LINK.sub(marked, _NO_PROSE.sub(shown, _TIER.sub("", prose))))
    yield from _BLOCK.split(_LEADING.sub("", prose))


def _sourced(block: str, start: int) -> bool:
    """Is a source named before this place, or in the same sentence?"""
    end = re.search(r"[.!?](?:\s|$)", block[start:])
    before = block[: start + end.start() if end else len(block)]
    return _SOURCE in before or _READ in re.split(r"[.!?]\s", before)[-1]


def _held(found: re.Match[str], block: str, known: set[float]) -> bool:
    """Does something hold this number?"""
    if _sourced(block, found.start()):
        return True
    if found["words"]:
        return bool(found["amount_words"]) and _value(found["words"]) in known | {1.0, 2.0, 4.0}
    here = block[found.start("count") :]
    if _VERSION.match(here) or _INTERVAL.match(here):
        return True
    if found["result"] or "/" in found["count"]:
        return False
    value = _number(found["count"])
    if found["amount"]:  # small numbers are in all code
        return value in known and (value >= 10 or "card" in block or "laptop" in block)
    before, after = block[: found.start()], block[found.end() :]
    version = "." in found["count"] and _LIBRARY.search(block) and _SINCE.search(before)
    width = found["count"].isdigit() and _WIDTH.match(after)
    fits = value in LIMITS or value in known or _YEAR.fullmatch(found["count"])
    return bool(version or width or fits or _NAMED.search(before))


def loose(prose: str, known: set[float]) -> list[str]:
    """The loose numbers of a text, each with its words around it.

    Args:
        prose: Markdown, as it is stored.
        known: numbers of the chapter's code, from `inputs`.
    """
    return [
        f"{found[0]!r} in {' '.join(block[max(0, found.start() - 40) : found.end() + 30].split())!r}"
        for block in _blocks(prose)
        for found in _NUMBER.finditer(block)
        if not _held(found, block, known)
    ]


def pieces(notebook: NotebookNode) -> Iterator[tuple[str, str]]:
    """What is read of a chapter beside its code: where, and the text."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            yield f"prose cell {cell.id}", cell.source
            continue
        shown = cell.metadata.get("mystnb", {})
        for kind, text in (("caption", shown.get("figure", {})), ("description", shown.get("image", {}))):
            if said := text.get("caption" if kind == "caption" else "alt"):
                yield f"{kind} of cell {cell.id}", said


def problems(notebook: NotebookNode) -> list[str]:
    """Every loose number of a stored chapter, one line each, with the way out."""
    known = inputs(notebook)
    return [
        f"{where}: loose number {number}: let a cell give it (`glue`), or name its source before it"
        for where, text in pieces(notebook)
        for number in loose(text, known)
    ]
