"""Words for people: error messages as records keep them, without folders of a machine; and numbers with their noun."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

LINE = 160
"""Characters of leading words."""

_INSTALLED = re.compile(r"[^\s\"'(]*[/\\](?:site|dist)-packages[/\\]")
_TAIL = re.compile(r"\n| \(when checking| GPU \d+ has a total")


def leading_words(message: str, length: int = LINE) -> str:
    """The words by which people recognize a message.

    The first line, up to the name of an internal function (` (when checking argument in method ...`), the number of
    free bytes (` GPU 0 has a total capacity ...`) or `length` characters, whatever comes first, white space made even.
    """
    return " ".join(_TAIL.split(message.strip(), maxsplit=1)[0].split())[:length]


def without_folders(message: str, libraries: Iterable[str] = ()) -> str:
    """A message with the files of libraries named from the library on: where they are installed is the machine's.

    Args:
        message: any text.
        libraries: names of packages whose files lie elsewhere than in `site-packages` or `dist-packages`, such as one
            installed from its repository.
    """
    message = _INSTALLED.sub("", message)
    names = "|".join(map(re.escape, libraries))
    return re.sub(rf"[^\s\"'(]*?[/\\]((?:{names})[/\\]\S+\.py)", r"\1", message) if names else message


def counted(number: int, noun: str) -> str:
    """A number with its noun in the singular or the plural.

    Example:
        >>> counted(1, "picture"), counted(0, "picture"), counted(2, "process")
        ('1 picture', '0 pictures', '2 processes')
    """
    return f"{number} {noun}" + ("" if number == 1 else "es" if noun.endswith("s") else "s")


def with_code(message: str) -> str:
    """HTML of a line that has code in backticks."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(message))
