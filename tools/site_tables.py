"""Tables of cells, as pages show them: one row of headers where pandas prints two, columns of words to the left.

Notebooks keep what pandas printed. A page is read, so here the names of a table's rows move up beside those of its
columns (pandas gives them a row of their own, otherwise empty), rows that are only counted lose their numbers,
numbers get a minus for a hyphen and commas between thousands.
"""

from __future__ import annotations

import re

from bs4 import BeautifulSoup, Tag

_TABLE = re.compile(r"<table\b.*?</table>", re.DOTALL)
_NUMBERS = re.compile(r"(?:[-+]?\d[\d.,]*|[%()\s×±/]|to|dB)+")
_NOT_COUNTED = re.compile(r"\b(?:seed|year|date|release|version|issue|pull|id|port|line)\b", re.IGNORECASE)
"""Columns whose numbers are names: no comma between their thousands."""
WORDS = 16
"""Characters of a cell from which a column counts as one of words, if most of its characters are letters."""

SHORT = 18
"""Characters of a row's name up to which it stays on one line where there is room."""


def tidy(html: str) -> str:
    """The HTML of a cell's output with its DataFrames made for reading; all else stays as it is."""
    return _TABLE.sub(lambda found: _tidied(found[0]), html)


def minus(said: str) -> str:
    """A text that says numbers and nothing else with a minus for each hyphen before one; any other as it is.

    Example:
        >>> minus("-0.2 (-1.1 to +0.7)"), minus("pip -3")
        ('−0.2 (−1.1 to +0.7)', 'pip -3')
    """
    return re.sub(r"(?<![\w.])-(?=\d)", "\N{MINUS SIGN}", said) if _NUMBERS.fullmatch(said) else said


def _tidied(text: str) -> str:
    soup = BeautifulSoup(text, "html.parser")
    table = soup.table
    frame = "dataframe" in table.get("class", []) or table.get("id", "").startswith("T_")
    if not frame or table.svg or not table.thead or not table.tbody:
        return text
    _names_beside_columns(table)
    _without_counts(table)
    for name in table.tbody.find_all("th"):
        if len(name.get_text(" ", strip=True)) <= SHORT:
            name["class"] = [*name.get("class", []), "short"]
    for cells in _columns(table):
        head = cells[0].get_text(" ", strip=True) if cells[0] else ""
        for cell in cells[1:]:
            _number(cell, commas=not _NOT_COUNTED.search(head))
        if any(_is_words(cell.get_text(" ", strip=True)) for cell in cells[1:]):
            for cell in filter(None, cells):
                cell["class"] = [*cell.get("class", []), "words"]
    return str(table)


def _names_beside_columns(table: Tag) -> None:
    """Move the names of row levels into the row above, and drop theirs."""
    rows = table.thead.find_all("tr")
    if len(rows) < 2:
        return
    above, last = rows[-2].find_all(["th", "td"]), rows[-1].find_all(["th", "td"])
    names = [cell.get_text(strip=True) for cell in last]
    levels = _levels(table)
    if len(above) != len(last) or any(names[levels:]) or any(cell.get_text(strip=True) for cell in above[:levels]):
        return
    for cell, name in zip(above[:levels], last[:levels], strict=True):
        cell.replace_with(name)
        name["class"] = [*name.get("class", []), "of-rows"]
    rows[-1].decompose()


def _levels(table: Tag) -> int:
    first = table.tbody.find("tr")
    return len(first.find_all("th")) if first else 0


def _without_counts(table: Tag) -> None:
    """Drop row numbers 0, 1, 2 … that have no name: pandas gives them to rows that were given none."""
    head, body = table.thead.find_all("tr"), table.tbody.find_all("tr")
    firsts = [row.find(["th", "td"]) for row in (*head, *body)]
    counted = [str(i) for i in range(len(body))]
    if _levels(table) != 1 or any(cell is None or cell.get_text(strip=True) for cell in firsts[: len(head)]):
        return
    if counted and [cell.get_text(strip=True) for cell in firsts[len(head) :]] == counted:
        for cell in firsts:
            cell.decompose()


def _columns(table: Tag) -> list[list[Tag | None]]:
    """Each column that is no name of rows: its header in the last row of headers, and its cells."""
    heads = table.thead.find_all("tr")[-1].find_all(["th", "td"])
    rows = [row.find_all("td") for row in table.tbody.find_all("tr")]
    wide = max((len(row) for row in rows), default=0)
    if any(len(row) != wide or any(cell.get("colspan") for cell in row) for row in rows) or len(heads) < wide:
        return []
    return [[heads[len(heads) - wide + i], *(row[i] for row in rows)] for i in range(wide)]


def _is_words(said: str) -> bool:
    return len(said) >= WORDS and sum(c.isalpha() for c in said) > len(said) / 2


def _number(cell: Tag, commas: bool) -> None:
    """Give a cell that says numbers and nothing else a minus for a hyphen and, if wanted, commas between thousands."""
    if cell.string is None or not _NUMBERS.fullmatch(cell.string):
        return
    said = minus(str(cell.string))
    if commas and re.fullmatch(r"[+−]?\d{4,}", said.strip()):
        sign, digits = re.fullmatch(r"([+−]?)(\d+)", said.strip()).groups()
        said = f"{sign}{int(digits):,}"
    # A line ends before an interval, not in it, and not between a number and its unit.
    said = re.sub(r"\([^()]*\)", lambda interval: interval[0].replace(" ", "\N{NO-BREAK SPACE}"), said)
    said = re.sub(r"(?<=\d) (?=%|dB)", "\N{NO-BREAK SPACE}", said)
    cell.string = said
