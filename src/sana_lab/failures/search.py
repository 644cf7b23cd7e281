"""From a pasted message to the entries that explain it."""

from __future__ import annotations

import re
import textwrap
import traceback
from collections.abc import Mapping
from dataclasses import dataclass

from .catalogue import catalogue
from .entry import EVIDENCE, Failure, Fix, installed_versions, link, plain

LONGEST = 200_000
"""Characters that are looked at: an error stands at the end of a log, so of more the last ones."""

_IN_CONTEXT, _NOT_IN_CONTEXT, _IN_LAST_LINES, _AFFECTED, _NOT_AFFECTED = 40, -10, 30, 20, -25


@dataclass(frozen=True)
class Match:
    """An entry whose symptom is in a text.

    Attributes:
        failure: the entry.
        affected: whether the versions at hand have it, `None` where that cannot be said.
        score: how well it fits; more is better, and only the order means anything.
    """

    failure: Failure
    affected: bool | None
    score: int


def find(message: str | BaseException, installed: Mapping[str, str | None] | None = None) -> list[Match]:
    """The failures whose symptom is in a text, the likeliest first.

    An entry matches by its pattern alone. Among those that do, the order goes by the frames of the traceback (where an
    entry has a `context`), by how near the end of the text the symptom stands, by whether the versions at hand have
    the failure, and by how much of the text the pattern accounts for.

    Args:
        message: a message, a whole traceback or log, or an exception.
        installed: library -> version; by default what is installed here.

    Raises:
        TypeError: `message` is neither text nor an exception.
    """
    text = _text(message)
    installed = installed_versions() if installed is None else installed
    ending = plain("\n".join(text.rstrip().splitlines()[-12:]))
    whole = plain(text)
    matches = []
    for failure in catalogue():
        hit = re.search(failure.pattern, whole)
        if hit is None:
            continue
        affected = failure.affected(installed)
        score = min(hit.end() - hit.start(), 200) // 10
        score += _IN_LAST_LINES * (re.search(failure.pattern, ending) is not None)
        if failure.context:
            score += _IN_CONTEXT if re.search(failure.context, whole) else _NOT_IN_CONTEXT
        score += {True: _AFFECTED, False: _NOT_AFFECTED, None: 0}[affected]
        matches.append(Match(failure, affected, score))
    return sorted(matches, key=lambda match: -match.score)


@dataclass(frozen=True, repr=False)
class Explanation:
    """What is known about a message; prints as text, shows as Markdown in a notebook."""

    matches: tuple[Match, ...]
    installed: Mapping[str, str | None]
    empty: bool = False

    def __bool__(self) -> bool:
        """Whether anything is known."""
        return bool(self.matches)

    def __str__(self) -> str:
        """The first entry in full, the others by name."""
        if not self.matches:
            return _UNKNOWN_EMPTY if self.empty else _unknown(self.installed)
        first, *others = self.matches
        lines = [*_describe(first, self.installed)]
        if others:
            lines += ["", "The same words can also mean:"]
            lines += [f"  {m.failure.id}: {m.failure.title}{_short_verdict(m.affected)}" for m in others]
            lines += ["  `sana-lab failures show ID` tells more about each."]
        return "\n".join(lines)

    def __repr__(self) -> str:
        """The same as text."""
        return str(self)

    def _repr_markdown_(self) -> str:
        return f"```text\n{self}\n```"


def explain(message: str | BaseException, installed: Mapping[str, str | None] | None = None) -> Explanation:
    """Cause, versions, fix and further reading for a message, a traceback or an exception.

    Args:
        message: what was printed: one line, a whole traceback or log, colors and all; or the exception itself.
        installed: library -> version; by default what is installed here.

    Returns:
        An object that prints as text, and is false when nothing is known.

    Raises:
        TypeError: `message` is neither text nor an exception.
    """
    installed = installed_versions() if installed is None else installed
    text = _text(message)
    return Explanation(tuple(find(text, installed)), installed, empty=not text.strip())


def describe(failure: Failure, installed: Mapping[str, str | None] | None = None) -> str:
    """All about one entry, as text for a terminal."""
    installed = installed_versions() if installed is None else installed
    return "\n".join(_describe(Match(failure, failure.affected(installed), 0), installed, whole=True))


# ---- the parts of a description ---------------------------------------------------------------------------------

_UNKNOWN_EMPTY = (
    "Nothing was given. Paste a message or a traceback, or pipe it in: `python script.py 2>&1 | sana-lab explain`."
)


def _unknown(installed: Mapping[str, str | None]) -> str:
    return "\n".join(
        [
            "No entry of the catalogue matches. What helps now:",
            "  1. Paste the whole traceback, not its last line: some failures are told apart by their frames.",
            "  2. Look where things are: next(model.parameters()).device, and hf_device_map, for each component.",
            f"  3. Search the issues of diffusers, transformers and bitsandbytes; name your versions: "
            f"{_listed(installed)}.",
            "  4. If it is about 8-bit models or devices, it belongs in the catalogue: CONTRIBUTING.md says how.",
        ]
    )


def _describe(match: Match, installed: Mapping[str, str | None], whole: bool = False) -> list[str]:
    failure = match.failure
    lines = [f"{failure.id}: {failure.title}", "", "Why", *_indented(textwrap.fill(failure.cause, 96))]
    lines += ["", "Versions", f"  {failure.versions()}", f"  {_verdict(match.affected)} ({_listed(installed)})"]
    if whole:
        lines += ["", "Messages"]
        for where, text in failure.messages.items():
            lines += [f"  {where}:", *_indented(text, "    ")]
        if failure.code:
            lines += ["", f"Reproduction (needs {failure.needs()})", *_indented(failure.code)]
    for number, fix in enumerate(failure.fixes, 1):
        count = f" {number}" if len(failure.fixes) > 1 else ""
        lines += ["", f"Fix{count}: {fix.text}", *_indented(_paste(fix))]
    lines += ["", "Read on"]
    lines += [f"  {reference}  {link(reference)}".rstrip() for reference in failure.references]
    lines += [f"  This entry {EVIDENCE[failure.evidence]}."]
    return lines


def _paste(fix: Fix) -> str:
    head = 'FOLDER = "..."  # a Sana pipeline: its name on the Hub, or a folder\n\n' if "FOLDER" in fix.code else ""
    return head + fix.code


def _indented(text: str, by: str = "  ") -> list[str]:
    return [f"{by}{line}".rstrip() for line in text.rstrip().splitlines()]


def _verdict(affected: bool | None) -> str:
    return {
        True: "your versions are affected",
        False: "your versions are not affected: look at the other entries first, or at where the message came from",
        None: "whether yours are affected cannot be said: a library that decides is not installed here",
    }[affected]


def _short_verdict(affected: bool | None) -> str:
    return " (not with your versions)" if affected is False else ""


def _listed(installed: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} {there or 'missing'}" for name, there in installed.items())


def _text(message: str | BaseException) -> str:
    if isinstance(message, BaseException):
        message = "".join(traceback.format_exception(message))
    if not isinstance(message, str):
        raise TypeError(f"explain() takes text or an exception, not {type(message).__name__}.")
    return message[-LONGEST:]
