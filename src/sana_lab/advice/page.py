"""The page of advice, written from `rows` while the book is built, with every check run."""

from __future__ import annotations

import html
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from .. import evidence
from .entry import VERDICTS, Advice, Source
from .rows import ADVICE, GROUPS
from .runner import Found, check, judge

if TYPE_CHECKING:
    from IPython.display import Markdown

_HEADING = re.compile(r"(#{1,3}) +(.+?)\s*")
_LABEL = re.compile(r"\(([\w.-]+)\)=|<a id=\"([\w.-]+)\"></a>")  # on a page, in a stored chapter (tools/prose.py)


def contents() -> Markdown:
    """How the verdicts are spread, and each piece of advice with its verdict and a link to its section."""
    count = Counter(advice.verdict for advice in ADVICE)
    spread = ", ".join(f"{count[verdict]} {verdict} ({meaning})" for verdict, meaning in VERDICTS.items())
    lines = [f"{len(ADVICE)} pieces of advice: {spread}."]
    for title, group in GROUPS.items():
        lines += ["", f"**{title}**", ""]
        lines += [f"- {_badge(advice.verdict)} [{advice.says}](#advice-{advice.id})" for advice in group]
    return _markdown(lines)


def recipe() -> Markdown:
    """The code that scripts share."""
    code = (Path(__file__).parent / "recipe.py").read_text(encoding="utf-8").partition("\n\n")[2]
    return _markdown(["````{dropdown} What the checks share", "```python", code.rstrip(), "```", "````"])


def advice(title: str, book: str | Path = "..") -> Markdown:
    """All that stands under a heading, each piece with its verdict, computed now from what its check finds.

    Args:
        title: a key of `GROUPS`.
        book: folder that holds `book/` and `notebooks/`, to find the places that sections name.

    Raises:
        ValueError: there is no such group; a verdict is not what its check says; a place is not in the book.
    """
    if title not in GROUPS:
        raise ValueError(f"no group {title!r}: choose from {', '.join(GROUPS)}.")
    return _markdown([line for piece in GROUPS[title] for line in _piece(piece, Path(book))])


def link_to(section: str, book: Path) -> str:
    """A link to the place in the book that a section names, by a label or by the words of a heading.

    Args:
        section: as `Advice.section` has it.
        book: folder that holds `book/` and `notebooks/`.

    Raises:
        ValueError: the place is not there, or there are two of that name.
    """
    if section.startswith("failure-"):  # made from the catalogue
        from ..failures.catalogue import catalogue

        if section.removeprefix("failure-") not in {failure.id for failure in catalogue()}:
            raise ValueError(f"there is no failure {section.removeprefix('failure-')!r}")
        return f"{{ref}}`{section}`"
    labels, headings = _places(book.resolve())
    if section in labels:
        return f"{{ref}}`{section}`"
    if len(headings.get(section, [])) != 1:
        raise ValueError(f"{section!r} is no label, and the heading of {len(headings.get(section, []))} places")
    return f"[{section}](../{headings[section][0]}#{_slug(section)})"


@cache
def _places(book: Path) -> tuple[set[str], dict[str, list[str]]]:
    """Labels of headings, and for each heading the files that have it. A label elsewhere has no words for a link."""
    from nbformat import read

    labels, headings = set(), {}
    for path in sorted([*book.glob("notebooks/*.ipynb"), *book.glob("book/*.md")]):
        if path.suffix == ".ipynb":
            texts = [cell.source for cell in read(path, as_version=4).cells if cell.cell_type == "markdown"]
        else:
            texts = [path.read_text(encoding="utf-8")]
        before = None
        for line in filter(None, "\n".join(texts).splitlines()):
            if heading := _HEADING.fullmatch(line):
                headings.setdefault(heading[2], []).append(path.relative_to(book).as_posix())
                if before:
                    labels.add(before[1] or before[2])
            before = _LABEL.fullmatch(line)
    return labels, headings


def _slug(heading: str) -> str:
    """The anchor that MyST gives a heading (mdit-py-plugins, anchors: GitHub's rule)."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower().replace(" ", "-"))


def _piece(piece: Advice, book: Path) -> list[str]:
    found = check(piece)
    verdict = judge(piece, found)
    said_by = [_cited(source) for source in piece.sources] + (["the article"] if piece.article else [])
    return [
        "",
        f"(advice-{piece.id})=",
        f"### {piece.says}",
        "",
        f"{_badge(verdict)} {piece.text.format(**(found.facts if found else {}))}",
        "",
        f"*Says so:* {'; '.join(said_by)}",
        "",
        f"*Read on:* {link_to(piece.section, book)}",
        "",
        *_shown(piece, found),
    ]


def _cited(source: Source) -> str:
    """A link, with as much of repository, commit and path as tells them apart."""
    path = source.path.removeprefix("docs/source/en/").removeprefix("docs/")
    name = source.repository.partition("/")[2]
    return f"[{name} {source.commit[:7]}, {path}]({source.link}), {source.place}"


def _shown(piece: Advice, found: Found | None) -> list[str]:
    """The script and what it printed, folded; of a record, where it comes from."""
    if found is None:
        return []
    if piece.check == "record":
        if not found.record:
            return []
        return [f'<p class="provenance">{html.escape(repr(evidence.provenance(found.record)))}</p>', ""]
    gpus = "two virtual GPUs" if piece.gpus == 2 else "a virtual GPU"
    return [
        f"````{{dropdown}} The check, run now on {gpus}",
        "```python",
        piece.path.read_text(encoding="utf-8").rstrip(),
        "```",
        "```{code-block} text",
        ":class: message",
        found.printed.rstrip(),
        "```",
        "````",
        "",
    ]


def _badge(verdict: str) -> str:
    return f'<span class="verdict {verdict.replace(" ", "-")}">{verdict}</span>'


def _markdown(lines: list[str]) -> Markdown:
    from IPython.display import Markdown

    return Markdown("\n".join(lines))
