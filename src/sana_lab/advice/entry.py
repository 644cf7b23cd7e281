"""What a piece of advice is: where it stands, what this book says of it, and on what that rests. Imports no torch."""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = Path(__file__).parent / "scripts"

VERDICTS = {
    "confirmed": "it is so",
    "corrected": "it is not so, or not for Sana in 8 bits",
    "outdated": "it was so, with older versions",
    "not checked": "nothing here can tell",
}
"""Verdict -> what it means."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_NUMBER = re.compile(r"(?<![\w.-])\d")


@dataclass(frozen=True)
class Source:
    """Where a piece of advice stands: a file of a repository at a commit.

    Args:
        repository: `owner/name`.
        commit: 40 hexadecimal digits.
        path: of the file.
        place: which part of it, in words.

    Raises:
        ValueError: the commit is no whole commit, or a field is empty.
    """

    repository: str
    commit: str
    path: str
    place: str

    def __post_init__(self) -> None:
        if not _COMMIT.fullmatch(self.commit):
            raise ValueError(f"{self.path}: give the commit in 40 digits, not {self.commit!r}")
        if not (self.repository.count("/") == 1 and self.path and self.place):
            raise ValueError(f"{self.path or self.repository}: give owner/name, a path and a place")

    @property
    def link(self) -> str:
        """Its address, at that commit."""
        return f"https://github.com/{self.repository}/blob/{self.commit}/{self.path}"


@dataclass(frozen=True)
class Once:
    """Why advice that does not hold today did hold: a probe of the version matrix, and a stack that answers otherwise.

    Args:
        probe: its id.
        stack: a dated one, whose outcome differs from that of the book's stack.
    """

    probe: str
    stack: str


@dataclass(frozen=True)
class Advice:
    """A piece of advice and its verdict.

    Args:
        id: of its section on the page, and of its script in `scripts/` or its function in `records`.
        says: the advice in our words.
        sources: where it stands; none only where the article alone has it.
        verdict: a key of `VERDICTS`. `runner.judge` computes it again and refuses another one.
        text: what was found and what to write instead. Numbers are fields in braces, which the check fills.
        section: a label, or the words of a heading, of the place in the book that shows it.
        check: `"script"`, `"record"`, or `""` where nothing decides.
        gpus: how many the script wants.
        article: the article that this book started from says it, too.
        once: for `"outdated"`.

    Raises:
        ValueError: a field is missing, unknown, or does not fit the others.
    """

    id: str
    says: str
    sources: tuple[Source, ...]
    verdict: str
    text: str
    section: str
    check: str = "script"
    gpus: int = 1
    article: bool = False
    once: Once | None = None

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise ValueError(f"id {self.id!r}: small letters, digits and single hyphens")
        if self.verdict not in VERDICTS:
            raise ValueError(f"{self.id}: verdict {self.verdict!r}, choose from {', '.join(VERDICTS)}")
        if self.check not in ("script", "record", ""):
            raise ValueError(f"{self.id}: check {self.check!r} is neither 'script' nor 'record' nor ''")
        if (self.verdict == "not checked") != (not self.check):
            raise ValueError(f"{self.id}: 'not checked' is the verdict of what has no check, and of nothing else")
        if (self.verdict == "outdated") != (self.once is not None):
            raise ValueError(f"{self.id}: 'outdated' wants `once`, and nothing else does")
        if not (self.sources or self.article):
            raise ValueError(f"{self.id}: nobody says it")
        if not (self.says and self.text and self.section):
            raise ValueError(f"{self.id}: says, text and section are all wanted")
        if self.check == "script" and not self.path.is_file():
            raise ValueError(f"{self.id}: there is no script {self.path.name}")
        words = re.sub(r"`[^`]*`|\{\w+\}|\d+[ -]bits?\b|SANA-?\d\.\d", "", self.text)
        if self.check and _NUMBER.search(words):
            raise ValueError(f"{self.id}: a loose number in {words!r}; let the check fill it in")

    @property
    def path(self) -> Path:
        """Of its script."""
        return SCRIPTS / f"{self.id.replace('-', '_')}.py"

    @property
    def fields(self) -> set[str]:
        """Names of the numbers that `text` wants from the check."""
        return {name for _, name, _, _ in string.Formatter().parse(self.text) if name}
