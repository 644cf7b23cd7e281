"""The prose of a chapter in two notations: as it is stored, and as Sphinx wants it.

A notebook is read in JupyterLab, VS Code, Colab, on GitHub and as a file, and none of these knows MyST's roles: where
a page had a number, they showed `{glue:text}`. So chapters are stored in plain Markdown and HTML, with every number,
citation and figure number in the text, and `tools/book_site.py` turns them back into roles when a page is built.

    on the page (MyST)                  in the notebook (plain)
    {glue:text}`slower`                 <span data-glue="slower">2.6</span>
    {term}`hooks <hook>`                [hooks](../book/glossary.md#term-hook)
    {cite}`xie2025sana`                 [(Xie et al., 2025)](../book/references.md#xie2025sana)
    {cite:t}`xie2025sana`               [Xie et al. (2025)](../book/references.md#xie2025sana)
    {ref}`chapter-loading`              [Loading Sana](05_loading_sana.ipynb)
    {ref}`who <two-devices-who>`        [who](10_tensors_on_two_devices.ipynb#two-devices-who)
    {numref}`fig-flow`                  [Fig. 1](#fig-flow)
    {eq}`eq-rms`                        [(eq-rms)](#eq-rms), as it stands beside the formula there
    (two-devices-who)=                  <a id="two-devices-who"></a>
    ```{admonition} Solution            <details><summary>Solution</summary> ... </details>

Text that stands for something else (a value, a citation, a figure's number) is written anew each time: `stored` of
what is stored is the same text exactly when nothing in it is stale. `tools/chapters.py check` asks that.
"""

from __future__ import annotations

import html
import re
from ast import literal_eval
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import nbformat
import yaml
from nbformat import NotebookNode
from pybtex.database import Entry, parse_file

ROOT = Path(__file__).resolve().parent.parent
GLUED = "application/papermill.record/text/plain"
GLOSSARY, REFERENCES = "../book/glossary.md", "../book/references.md"

_CODE = (
    r"^(?P<fence>`{3,}|~{3,})(?!\{admonition\})[^\n]*\n.*?^(?P=fence)[ ]*$"
    r"|(?<!`)(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)"
)
_ROLE = r"\{(?P<role>[a-z]+(?::[a-z]+)?)\}`(?P<body>[^`]+)`"
_MYST = re.compile(
    rf"{_ROLE}|^\((?P<target>[\w-]+)\)=$"
    r"|^(?P<bars>`{3,})\{admonition\} (?P<title>[^\n]+)\n(?:\:class: (?P<kind>[\w -]+)\n)?"
    r"\n*(?P<inside>.*?)\n?^(?P=bars)[ ]*$"
    rf"|{_CODE}",
    re.MULTILINE | re.DOTALL,
)
_PLAIN = re.compile(
    r'<span data-glue="(?P<glue>[^"]+)">[^<]*</span>'
    r'|^<a id="(?P<target>[\w-]+)"></a>$'
    r"|^<details><summary>(?P<summary>[^\n]+)</summary>\n\n(?P<folded>.*?)\n\n</details>$"
    r'|^<div class="admonition (?P<kind>[\w -]+)"><strong>(?P<title>[^\n]+)</strong>\n\n(?P<inside>.*?)\n\n</div>$'
    r"|(?<!!)\[(?P<text>(?:[^\[\]`]|`[^`]*`|\[[^\[\]]*\])*)\]\((?P<file>[\w./-]*)#?(?P<place>(?<=#)[\w.,:-]+)?\)"
    rf"|{_CODE}",
    re.MULTILINE | re.DOTALL,
)
_WITH_TARGET = re.compile(r"(?P<text>.+?)\s*<(?P<target>[^<>]+)>", re.DOTALL)
_NEXT_HEADING = re.compile(r"^\((?P<label>[\w-]+)\)=\s*(?:^\([\w-]+\)=\s*)*(?:^#+ (?P<title>.+)$)?", re.MULTILINE)
_NEXT_HEADING_PLAIN = re.compile(
    r'^<a id="(?P<label>[\w-]+)"></a>\s*(?:^<a id="[\w-]+"></a>\s*)*(?:^#+ (?P<title>.+)$)?', re.MULTILINE
)


class UnknownName(ValueError):
    """A name in the prose that stands for nothing: no cell gives the value, no page has the place, no paper the key."""


@dataclass
class Place:
    """Where a label leads."""

    file: str  # beside or below `notebooks/`, e.g. "05_loading_sana.ipynb" or "../book/map.md"
    title: str = ""  # of the section that it labels, if it labels one
    is_page: bool = False  # the section is the page itself


@dataclass
class Book:
    """What prose can refer to outside its own chapter."""

    places: dict[str, Place] = field(default_factory=dict)  # by label
    terms: dict[str, str] = field(default_factory=dict)  # as written, by what a link's end says
    papers: dict[str, tuple[str, str]] = field(default_factory=dict)  # authors and year, by key
    figures: dict[str, int] = field(default_factory=dict)  # number in the whole book, by name


# --- what the book has ----------------------------------------------------------------------------------------------


def term_id(term: str) -> str:
    """The end of a link to a term, as Sphinx names it on the page: `term-hook`, `term-LLM.int8`."""
    return "term-" + re.sub(r"[^A-Za-z0-9._]+", "-", term).strip("-._")


def authors_and_year(entry: Entry) -> tuple[str, str]:
    """How a paper is named in a sentence, e.g. `("Xie et al.", "2025")`, as the page's author-year style names it."""
    names = [" ".join([*person.prelast_names, *person.last_names]) for person in entry.persons["author"]]
    names = [re.sub(r"[{}]", "", name) for name in names]
    who = names[0] if len(names) == 1 else " and ".join(names) if len(names) == 2 else f"{names[0]} et al."
    return who, entry.fields.get("year", "n.d.")


def _plain_title(title: str) -> str:
    """A heading's text as the text of a link: without roles' braces, targets and emphasis."""
    title = re.sub(_ROLE, lambda found: _split(found["body"])[0], title)
    return re.sub(r"(?<!\w)[*_]+|[*_]+(?!\w)", "", title).strip()


def _prose(path: Path) -> str:
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def _figures(path: Path) -> list[str]:
    """Names of the figures of a page that Sphinx numbers, in order; one without a name is an empty string."""
    if path.suffix != ".ipynb":
        text = path.read_text(encoding="utf-8")
        blocks = re.finditer(r"^(`{3,})\{(?:glue:)?figure\}[^\n]*\n(.*?)^\1", text, re.MULTILINE | re.DOTALL)
        names = [(block[2], re.search(r"^:name: (\S+)", block[2], re.MULTILINE)) for block in blocks]
        return [name[1] if name else "" for body, name in names if re.sub(r"^:.*$", "", body, flags=re.M).strip()]
    cells = nbformat.read(path, as_version=4).cells
    found = [cell.metadata.get("mystnb", {}).get("figure", {}) for cell in cells if cell.cell_type == "code"]
    return [figure.get("name", "") for figure in found if figure.get("caption")]


def listed(root: Path = ROOT) -> list[tuple[str, str]]:
    """The pages that `_toc.yml` lists, in order: path below the root without ending, and the part's caption."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    found = [(toc["root"], "")]
    for part in toc.get("parts", [{"chapters": toc.get("chapters", [])}]):
        for entry in part["chapters"]:
            found += [(one["file"], part.get("caption", "")) for one in (entry, *entry.get("sections", []))]
    return found


def pages(root: Path) -> list[Path]:
    """The book's pages in the order of its contents."""
    found = [root / f"{name}{ending}" for name, _ in listed(root) for ending in (".ipynb", ".md")]
    return [path for path in found if path.is_file()]


def book(root: Path = ROOT) -> Book:
    """Read what prose can refer to: labels of all pages, the glossary, the papers, the numbers of figures."""
    known = Book()
    for path in pages(root):
        file = path.name if path.parent.name == "notebooks" else f"../{path.relative_to(root).as_posix()}"
        prose = _prose(path)
        for pattern in (_NEXT_HEADING, _NEXT_HEADING_PLAIN):
            for found in pattern.finditer(prose):
                title = _plain_title(found["title"] or "")
                on_top = not prose[: found.start()].strip() and bool(title)
                known.places[found["label"]] = Place(file, title, on_top)
        for name in _figures(path):
            known.figures[name or f"unnamed {len(known.figures)}"] = len(known.figures) + 1
    page, papers = root / "book" / "glossary.md", root / "book" / "references.bib"
    glossary = page.read_text(encoding="utf-8") if page.is_file() else ""
    for found in re.finditer(r"^(?![:`#\s])(.+)\n(?=  \S)", glossary, re.MULTILINE):
        known.terms[term_id(found[1])] = found[1]
    if papers.is_file():
        known.papers = {key: authors_and_year(entry) for key, entry in parse_file(papers).entries.items()}
    return known


@cache
def this_book() -> Book:
    """`book()`, read once a process."""
    return book()


def values(notebook: NotebookNode) -> dict[str, str]:
    """What the cells of an executed chapter gave to its prose (`glue`), by name."""
    found = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if GLUED in data:
                found[output.metadata.scrapbook.name] = data[GLUED]
    return found


def shown(value: str, form: str = "s") -> str:
    """A glued value as it stands on the page (MyST-NB 1.4.0, core/variables.py, `format_plain_text`)."""
    try:
        given = literal_eval(value)
    except (SyntaxError, ValueError):
        given = value
    return format(str(given) if form.endswith("s") else given, form)


# --- from MyST to what is stored ------------------------------------------------------------------------------------


def _split(body: str) -> tuple[str, str | None]:
    """`text <target>` in two; the second is None where only one is given."""
    found = _WITH_TARGET.fullmatch(body)
    return (found["text"], found["target"]) if found else (body, None)


def _escaped(text: str) -> str:
    """Text that Markdown and HTML leave as it is."""
    return re.sub(r"[*_`\[\]\\$|~]", lambda found: f"&#{ord(found[0])};", html.escape(text, quote=False))


def _known(names: dict, name: str, what: str):
    if name not in names:
        raise UnknownName(f"{what} {name!r}")
    return names[name]


def _glue(body: str, given: dict[str, str], known: Book, here: str) -> str:
    name, _, form = body.partition(":")
    return f'<span data-glue="{body}">{_escaped(shown(_known(given, name, "no cell gives"), form or "s"))}</span>'


def _term(body: str, given: dict[str, str], known: Book, here: str) -> str:
    text, target = _split(body)
    by_word = {word.lower(): place for place, word in known.terms.items()}
    return f"[{text}]({GLOSSARY}#{_known(by_word, (target or text).lower(), 'the glossary does not have')})"


def _cite(body: str, given: dict[str, str], known: Book, here: str) -> str:
    papers = [_known(known.papers, key.strip(), "references.bib does not have") for key in body.split(",")]
    return f"[({'; '.join(f'{who}, {year}' for who, year in papers)})]({REFERENCES}#{body})"


def _cite_in_text(body: str, given: dict[str, str], known: Book, here: str) -> str:
    papers = [_known(known.papers, key.strip(), "references.bib does not have") for key in body.split(",")]
    return f"[{', '.join(f'{who} ({year})' for who, year in papers)}]({REFERENCES}#{body})"


def _ref(body: str, given: dict[str, str], known: Book, here: str) -> str:
    text, target = _split(body)
    place = _known(known.places, target or text, "no page has the place")
    if target is None:
        text = place.title
    if place.is_page:
        return f"[{text}]({place.file})"
    return f"[{text}]({'' if place.file == here else place.file}#{target or body})"


def _numref(body: str, given: dict[str, str], known: Book, here: str) -> str:
    return f"[Fig. {_known(known.figures, body, 'no cell with a caption is named')}](#{body})"


def _eq(body: str, given: dict[str, str], known: Book, here: str) -> str:
    return f"[({body})](#{body})"


def _doc(body: str, given: dict[str, str], known: Book, here: str) -> str:
    text, target = _split(body)
    name = target or text
    for ending in (".md", ".ipynb"):
        path = ROOT / "notebooks" / f"{name}{ending}"
        if path.is_file():
            heading = re.search(r"^# (.+)$", _prose(path), re.MULTILINE)
            return f"[{text if target or not heading else _plain_title(heading[1])}]({name}{ending})"
    raise UnknownName(f"there is no page {name!r}")


_ROLES: dict[str, Callable[[str, dict[str, str], Book, str], str]] = {
    "glue:text": _glue,
    "term": _term,
    "cite": _cite,
    "cite:p": _cite,
    "cite:t": _cite_in_text,
    "ref": _ref,
    "numref": _numref,
    "eq": _eq,
    "doc": _doc,
}


def plain(source: str, given: dict[str, str], known: Book, here: str) -> str:
    """Prose as it is stored.

    Args:
        source: Markdown with MyST's roles.
        given: what this chapter's cells gave to it, by name (`values`).
        known: what it can refer to in the rest of the book.
        here: file name of its chapter.

    Raises:
        UnknownName: a role names something that is not there.
    """

    def rewritten(found: re.Match[str]) -> str:
        if found["role"] in _ROLES:
            return _ROLES[found["role"]](found["body"], given, known, here)
        if found["target"]:
            return f'<a id="{found["target"]}"></a>'
        if found["title"]:
            inside = plain(found["inside"].strip("\n"), given, known, here)
            if found["kind"] == "dropdown":
                return f"<details><summary>{found['title']}</summary>\n\n{inside}\n\n</details>"
            kind = found["kind"] or "note"
            return f'<div class="admonition {kind}"><strong>{found["title"]}</strong>\n\n{inside}\n\n</div>'
        return found[0].replace("```{code-block} ", "```")

    return _MYST.sub(rewritten, source)


# --- and back -------------------------------------------------------------------------------------------------------


def myst(source: str, known: Book, here: str) -> str:
    """Stored prose as Sphinx wants it: the inverse of `plain`; ordinary links and MyST stay as they are."""

    def linked(text: str, file: str, place: str | None) -> str | None:
        if file == GLOSSARY and place:
            term = _known(known.terms, place, "the glossary does not have")
            return f"{{term}}`{term}`" if text == term else f"{{term}}`{text} <{term}>`"
        if file == REFERENCES and place:
            return f"{{cite}}`{place}`" if text.startswith("(") else f"{{cite:t}}`{place}`"
        if not file and place in known.figures:
            return f"{{numref}}`{place}`"
        if not file and text == f"({place})":
            return f"{{eq}}`{place}`"
        if place is None:
            named = [label for label, there in known.places.items() if there.is_page and there.file == file]
            place = named[0] if named else None
        if place not in known.places or known.places[place].file != (file or here):
            return None
        return f"{{ref}}`{place}`" if text == known.places[place].title else f"{{ref}}`{text} <{place}>`"

    def fenced(title: str, kind: str, inside: str) -> str:
        inside = myst(inside, known, here)
        bars = "`" * max([3, *(len(run) + 1 for run in re.findall(r"`{3,}", inside))])
        return f"{bars}{{admonition}} {title}\n:class: {kind}\n{inside}\n{bars}"

    def rewritten(found: re.Match[str]) -> str:
        if found["glue"]:
            return f"{{glue:text}}`{found['glue']}`"
        if found["target"]:
            return f"({found['target']})="
        if found["summary"]:
            return fenced(found["summary"], "dropdown", found["folded"])
        if found["title"]:
            return fenced(found["title"], found["kind"], found["inside"])
        if found["text"] is not None and (found["file"] or found["place"]):
            return linked(found["text"], found["file"], found["place"]) or found[0]
        return found[0]

    return _PLAIN.sub(rewritten, source)


# --- chapters -------------------------------------------------------------------------------------------------------


def stored(notebook: NotebookNode, here: str, known: Book | None = None) -> list[str]:
    """Write the prose of a chapter as it is to be stored, with what its cells gave; the notebook is changed.

    Args:
        notebook: an executed chapter, its prose in either notation.
        here: its file's name.
        known: what it can refer to; this book by default.

    Returns:
        What is wrong with names in the prose, one line each; such a cell stays as it was.
    """
    known = this_book() if known is None else known
    given, wrong = values(notebook), []
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        try:
            cell.source = plain(myst(cell.source, known, here), given, known, here)
        except UnknownName as reason:
            wrong.append(f"prose cell {cell.id}: {reason}")
    return wrong


def has_roles(source: str) -> bool:
    """Does prose have a role, target or admonition in MyST's notation, which other programs show as it is."""
    return any(found["role"] in _ROLES or found["target"] or found["title"] for found in _MYST.finditer(source))


def differences(before: NotebookNode, after: NotebookNode) -> list[str]:
    """Where the prose of two forms of a chapter differs, one line a cell: what stands, and what should."""
    found = []
    for old, new in zip(before.cells, after.cells, strict=True):
        if old.source == new.source:
            continue
        first = next((i for i, (a, b) in enumerate(zip(old.source, new.source, strict=False)) if a != b), 0)
        start = max(0, first - 30)
        found.append(
            f"prose cell {old.id}: {old.source[start : first + 30]!r} should be {new.source[start : first + 30]!r}: "
            "make refresh, or python tools/chapters.py prose"
        )
    return found


_CHAPTER_LINK = re.compile(r"\[(?P<text>[^\]]*\b[Cc]hapter (?P<said>\d+)[^\]]*)\]\((?P<number>\d\d)_[\w-]+\.ipynb")
_FILE_LINK = re.compile(r"\]\((?![a-z]+:)(?P<file>[\w./-]+)(?:#[^)]*)?\)")


def title_astray(notebook: NotebookNode, name: str) -> list[str]:
    """A title that gives the chapter another number than its file's name does; links to it repeat the title."""
    titles = [
        (cell.id, title)
        for cell in notebook.cells
        if cell.cell_type == "markdown"
        for title in re.findall(r"^# (.+)$", cell.source, re.MULTILINE)
    ]
    number = re.match(r"\d+(?=_)", name)
    return [
        f"prose cell {cell}: {title!r} is the title of chapter {int(number[0])}"
        for cell, title in titles[:1]
        if number and title.partition(" ")[0].isdigit() and int(title.partition(" ")[0]) != int(number[0])
    ]


def links_astray(notebook: NotebookNode, folder: Path) -> list[str]:
    """Links of stored prose to a file that is not there, or to another chapter than their text says."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        for link in _CHAPTER_LINK.finditer(cell.source):
            if int(link["said"]) != int(link["number"]):
                found.append(f"prose cell {cell.id}: {link['text']!r} leads to chapter {int(link['number'])}")
        for link in _FILE_LINK.finditer(cell.source):
            if not (folder / link["file"]).exists():
                found.append(f"prose cell {cell.id}: there is no {link['file']}")
    return found
