"""The catalogue as the pages' own search reads it: patterns and words as a script, without a server.

`book/_static/explain.js` looks in it. The rules are those of `search.find`, without versions and frames of earlier
errors, which a page does not know; words that no pattern knows are compared one by one.
"""

from __future__ import annotations

import json
import re
from typing import Any

from .catalogue import catalogue
from .entry import Failure, squeezed_pattern

NAME = "failure_index.js"
"""Name of the script, in the book's `_static`."""


def entries() -> list[dict[str, Any]]:
    """One dictionary an entry: id, page, title, patterns in JavaScript's form, messages, cause, Chinese symptoms."""
    return [_entry(failure) for failure in catalogue()]


def script() -> str:
    """The script: it sets `window.FAILURES`. A script and not JSON, so that it loads from a folder, too."""
    return f"window.FAILURES = {json.dumps(entries(), ensure_ascii=False, separators=(',', ':'))};\n"


def for_javascript(pattern: str) -> str:
    r"""The same regular expression in the form that every browser takes.

    Of Python's own forms the catalogue uses one: `(?i:...)` around plain words, which becomes a class for each letter.

    Raises:
        ValueError: another form that JavaScript does not have.

    Example:
        >>> for_javascript("(?i:out of) memory")
        '[oO][uU][tT] [oO][fF] memory'
    """
    either = lambda found: re.sub("[a-zA-Z]", lambda c: f"[{c[0].lower()}{c[0].upper()}]", found[1])  # noqa: E731
    made = re.sub(r"\(\?i:([\w ]+)\)", either, pattern)
    if re.search(r"\(\?(?![:=!]|<[=!])|\\[AZ]|\(\?<\w", made):
        raise ValueError(f"pattern {pattern!r}: JavaScript has no such form. Write it with groups and classes.")
    return made


def _entry(failure: Failure) -> dict[str, Any]:
    made: dict[str, Any] = {
        "id": failure.id,
        "page": failure.family,
        "title": failure.title.replace("`", ""),
        "pattern": for_javascript(failure.pattern),
        "squeezed": for_javascript(squeezed_pattern(failure.pattern)),
        "messages": list(failure.messages.values()),
        "about": " ".join((failure.cause, *(fix.text for fix in failure.fixes))),
        "error": failure.error,
        "shows": failure.shows,
    }
    if failure.wants:
        made["wants"] = for_javascript(failure.wants)
        made["wantsSqueezed"] = for_javascript(squeezed_pattern(failure.wants))
    if failure.context:
        made["context"] = for_javascript(failure.context)
    if failure.chinese:
        made["chinese"] = list(failure.chinese)
    return made
