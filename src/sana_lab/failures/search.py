"""From a pasted message to the entries that explain it.

The answer is about the last error of a paste. Earlier errors and known lines of the log are told as what they are; if
the last error is not known, so is the paste, whatever else is known of it.
"""

from __future__ import annotations

import re
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from .catalogue import catalogue, get
from .entry import EVIDENCE, Failure, Fix, installed_versions, link, needles, plain, squeezed, squeezed_pattern
from .ours import PACKAGE, Own, recognized
from .paste import LONGEST, Raised, clean, errors, last
from .pasted_versions import pasted_versions, versions_that_decide

__all__ = ["LONGEST", "OUR_OWN", "Explanation", "Match", "describe", "explain", "find"]

OUR_OWN = "message-of-sana-lab"
"""The entry for what this package itself raises."""

_OURS = re.compile(r"sana_lab[\\/]")

_WANTED, _IN_CONTEXT, _NOT_IN_CONTEXT, _IN_LAST_LINES = 60, 40, -10, 30
_AFFECTED, _ONCE_AFFECTED, _NOT_AFFECTED, _OTHER_CLASS, _ERROR = 20, 26, -25, -8, 5
_HEAD = 50_000
"""Characters at the beginning of a long text in which versions are looked for."""

_WRAPPED = 8000
"""Characters of the last error in which words broken by line ends are put together again."""


@dataclass(frozen=True)
class Match:
    """An entry whose symptom is in a text.

    Attributes:
        failure: the entry.
        affected: whether the versions at hand have it, `None` where that cannot be said.
        score: how well it fits; more is better, and only the order means anything.
        role: `answer`: it explains the last error, or what else was asked; `earlier`: an error above the last one;
            `log`: a warning or a line of the log beside the last error.
        line: where its words begin in the text, counted from 1; 0 where that is not known.
        own: the place in this package that raised it, for the entry about our own messages.
    """

    failure: Failure
    affected: bool | None
    score: int
    role: str = "answer"
    line: int = 0
    own: Own | None = None


def find(message: str | BaseException, installed: Mapping[str, str | None] | None = None) -> list[Match]:
    """The failures whose symptom is in a text, those that explain its last error first.

    An entry matches by its pattern, and by what it `wants` besides. Among those that do, the order goes by what they
    want, by the frames of the traceback (where an entry has a `context`), by whether the versions at hand have the
    failure, and by how much of the text the pattern accounts for. Behind them come entries that explain other parts of
    the text: see `Match.role`.

    Args:
        message: a message, a whole traceback or log, or an exception.
        installed: library -> version; by default what is installed here. Versions in the text count before them.

    Raises:
        TypeError: `message` is neither text nor an exception.
    """
    return list(_read(message, installed).matches)


@dataclass(frozen=True, repr=False)
class Explanation:
    """What is known about a message; prints as text, shows as Markdown in a notebook.

    Attributes:
        matches: as from `find`.
        installed: library -> version, by which entries were judged.
        empty: whether nothing was given.
        error: first line of the last error, `""` where no line says that it is one.
        cause: id of the entry about the error from which the last one was raised, `""` if it is not known.
        possible: entries with these words that want more than is there, such as a frame.
        told: libraries whose version stands in the text.
        elsewhere: whether the text comes from another environment than this one.
    """

    matches: tuple[Match, ...]
    installed: Mapping[str, str | None]
    empty: bool = False
    error: str = ""
    cause: str = ""
    possible: tuple[Failure, ...] = ()
    told: tuple[str, ...] = ()
    elsewhere: bool = False

    def __bool__(self) -> bool:
        """Whether the last error, or what else was asked, is known."""
        return bool(self.answers)

    @property
    def answers(self) -> tuple[Match, ...]:
        """The entries that explain it, the likeliest first."""
        return tuple(match for match in self.matches if match.role == "answer")

    @property
    def beside(self) -> tuple[Match, ...]:
        """The entries that explain something else in the text."""
        return tuple(match for match in self.matches if match.role != "answer")

    def __str__(self) -> str:
        """The first entry in full, the others by name."""
        if not self.answers:
            return _UNKNOWN_EMPTY if self.empty else "\n".join(_unknown(self))
        first, *others = self.answers
        lines = _describe(first, self)
        if others:
            lines += ["", "The same words can also mean:"]
            lines += [f"  {m.failure.id}: {m.failure.title}{_short_verdict(m.affected)}" for m in others]
            lines += ["  `sana-lab failures show ID` tells more about each."]
        if self.beside:
            lines += ["", "Also in this text, and not what ended it:", *map(_mentioned, self.beside)]
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
        installed: library -> version; by default what is installed here. Versions in the text count before them.

    Returns:
        An object that prints as text, and is false when the last error is not known.

    Raises:
        TypeError: `message` is neither text nor an exception.

    Example:
        >>> known = explain("AssertionError: Torch not compiled with CUDA enabled")
        >>> [match.failure.id for match in known.answers]
        ['torch-without-cuda']

    Chapter 10.
    """
    return _read(message, installed)


def describe(failure: Failure, installed: Mapping[str, str | None] | None = None) -> str:
    """All about one entry, as text for a terminal."""
    installed = installed_versions() if installed is None else installed
    match = Match(failure, failure.affected(installed), 0)
    return "\n".join(_describe(match, Explanation((match,), installed), whole=True))


# ---- reading a paste --------------------------------------------------------------------------------------------


def _read(message: str | BaseException, installed: Mapping[str, str | None] | None) -> Explanation:
    """See `explain`: which error the text is about, what explains that, and what explains the rest of the text."""
    python = ".".join(map(str, sys.version_info[:2])) if installed is None else ""
    installed = installed_versions() if installed is None else installed
    whole = _text(message)
    text = clean(whole)
    told = {}
    if not isinstance(message, BaseException):
        told = {**pasted_versions(whole[:-LONGEST][:_HEAD]), **pasted_versions(text)}
    versions, elsewhere = versions_that_decide(told, installed, python)
    raised = errors(text)
    index = last(raised)
    if index is None:
        found = _Found(text, text, "", versions)
        answers = found.all() + _in_chinese(text, versions)
        said = () if _known(answers) else map(partial(recognized, ""), _lines_of(text))
        own = next(filter(None, said), None)
        beside, cause = [], ""
    else:
        error = raised[index]
        found = _Found(error.message, f"{error.frames}\n{error.message}", error.name, versions)
        answers = found.all()
        ours = _OURS.search(error.frames) or not _known(answers)
        own = recognized(error.name, error.message, error.frames) if ours else None
        beside = _earlier(raised[:index], versions) + _in_the_log(text, versions)
        cause = _cause(raised, index, versions)
    if own and (own.words or not answers):
        answers = [Match(get(OUR_OWN), True, 1000, own=own), *(m for m in answers if m.failure.id != OUR_OWN)]
    ids = {match.failure.id for match in answers}
    beside = [m for n, m in enumerate(beside) if m.failure.id not in ids | {b.failure.id for b in beside[:n]}]
    return Explanation(
        (*_unique(answers), *beside),
        versions,
        empty=not text.strip(),
        error="" if index is None else raised[index].headline,
        cause=cause,
        possible=() if answers else tuple(found.possible),
        told=tuple(name for name in versions if name in told),
        elsewhere=elsewhere,
    )


class _Found:
    """The entries whose words are in one part of a paste."""

    def __init__(self, part: str, frames: str, name: str, versions: Mapping[str, str | None]):
        """`part` is searched for patterns, `frames` for what they want; `name` is the class, `""` if there is none."""
        self.part, self.frames, self.name, self.versions = part, frames, name, versions
        self.possible: list[Failure] = []

    def all(self) -> list[Match]:
        """The matches, the likeliest first; in text whose words are broken, if there are none in it as it is."""
        end = "\n".join(self.part.rstrip().split("\n")[-12:])
        found = self._search(plain(self.part), plain(end), plain(self.frames), lambda pattern: pattern)
        if not found and not self.possible:
            part, frames = self.part[-_WRAPPED:], self.frames[-_WRAPPED:]
            found = self._search(squeezed(part), squeezed(end[-_WRAPPED:]), squeezed(frames), squeezed_pattern)
        return sorted(found, key=lambda match: -match.score)

    def _search(self, words: str, ending: str, frames: str, form: Callable[[str], str]) -> list[Match]:
        found = []
        for failure in catalogue():
            if self.name and not self._may_be(failure):
                continue
            pattern = form(failure.pattern)
            wanted = needles(pattern)
            hit = re.search(pattern, words) if not wanted or any(word in words for word in wanted) else None
            if hit is None:
                continue
            if failure.wants and not re.search(form(failure.wants), frames):
                self.possible.append(failure)
                continue
            score = min(hit.end() - hit.start(), 200) // 10 + self._score(failure, frames, form)
            if not self.name:
                score += _IN_LAST_LINES * (re.search(form(failure.pattern), ending) is not None)
            found.append(Match(failure, failure.affected(self.versions), score))
        return found

    def _may_be(self, failure: Failure) -> bool:
        return failure.shows == "error" or (failure.shows == "warning" and self.name.endswith("Warning"))

    def _score(self, failure: Failure, frames: str, form: Callable[[str], str]) -> int:
        score = _WANTED * bool(failure.wants) + _ERROR * (failure.shows == "error")
        if failure.context:
            score += _IN_CONTEXT if re.search(form(failure.context), frames) else _NOT_IN_CONTEXT
        if self.name and failure.error and self.name.rpartition(".")[2] not in failure.error.split("|"):
            score += _OTHER_CLASS
        ended = any("<" in specifier for ranges in failure.affects for specifier in ranges.values())
        affected = failure.affected(self.versions)
        return score + {True: _ONCE_AFFECTED if ended else _AFFECTED, False: _NOT_AFFECTED, None: 0}[affected]


def _earlier(raised: Iterable[Raised], versions: Mapping[str, str | None]) -> list[Match]:
    found = []
    for error in raised:
        part = _Found(error.message, f"{error.frames}\n{error.message}", error.name or "Error", versions)
        found += [replace(match, role="earlier", line=error.line + 1) for match in part.all()[:1]]
    return found


def _in_the_log(text: str, versions: Mapping[str, str | None]) -> list[Match]:
    words = plain(text)
    found = []
    for failure in catalogue():
        wanted = needles(failure.pattern)
        if failure.shows != "warning" or (wanted and not any(word in words for word in wanted)):
            continue
        if re.search(failure.pattern, words):
            found.append(Match(failure, failure.affected(versions), 0, "log", _line_of(failure, text)))
    return found


def _line_of(failure: Failure, text: str) -> int:
    return next((n for n, line in enumerate(text.split("\n"), 1) if re.search(failure.pattern, plain(line))), 0)


def _cause(raised: list[Raised], index: int, versions: Mapping[str, str | None]) -> str:
    if not index or not raised[index - 1].caused:
        return ""
    before = raised[index - 1]
    found = _Found(before.message, f"{before.frames}\n{before.message}", before.name or "Error", versions).all()
    return found[0].failure.id if found else ""


def _in_chinese(text: str, versions: Mapping[str, str | None]) -> list[Match]:
    """The entries whose Chinese phrases are in a question, or that a short question is a part of; the best first."""
    asked = "".join(text.split())
    if not re.search(r"[\u4e00-\u9fff]", asked) or len(asked) > 2000:
        return []
    found = []
    for failure in catalogue():
        fits = [phrase for phrase in failure.chinese if phrase in asked or (len(asked) > 1 and asked in phrase)]
        if fits:
            longest = max(min(len(phrase), len(asked)) for phrase in fits)
            score = 4 * longest + 2 * (asked in fits) - bool(failure.wants) - (failure.affected(versions) is False)
            found.append(Match(failure, failure.affected(versions), score))
    return sorted(found, key=lambda match: -match.score)


def _lines_of(text: str) -> list[str]:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return [text.strip(), *lines[-1:], *lines[:1]] if lines else []


def _known(answers: Iterable[Match]) -> bool:
    """Whether there is an answer other than that it is a message of this package."""
    return any(match.failure.id != OUR_OWN for match in answers)


def _unique(matches: Iterable[Match]) -> list[Match]:
    return list({match.failure.id: match for match in reversed(list(matches))}.values())[::-1]


# ---- the parts of a description ---------------------------------------------------------------------------------

_UNKNOWN_EMPTY = (
    "Nothing was given. Paste a message or a traceback, or pipe it in: `python script.py 2>&1 | sana-lab explain`."
)


def _unknown(known: Explanation) -> list[str]:
    """What to say where no entry explains the last error: what is close, and what to do now."""
    lines = ["No entry of the catalogue matches the last error:", f"  {known.error}"] if known.error else []
    lines = lines or ["No entry of the catalogue matches."]
    if known.possible:
        lines += ["", "These words alone can come from many programs. With more of the traceback they could mean:"]
        lines += [f"  {failure.id}: {failure.title}" for failure in known.possible[:4]]
    if known.beside:
        lines += ["", "Known, but not what ended the program:", *map(_mentioned, known.beside)]
    lines += [
        "",
        "What helps now:",
        "  1. Paste the whole traceback, not its last line: some failures are told apart by their frames.",
        "  2. Look where things are: next(model.parameters()).device, and hf_device_map, for each component.",
        f"  3. Search the issues of diffusers, transformers and bitsandbytes; name your versions: "
        f"{_listed(known.installed)}.",
        "  4. If it is about 8-bit models or devices, it belongs in the catalogue: CONTRIBUTING.md says how.",
    ]
    if known.cause:
        match = next(match for match in known.matches if match.failure.id == known.cause)
        lines += ["", "It was raised from an error that is known:", "", *_describe(match, known)]
    return lines


def _mentioned(match: Match) -> str:
    what = "an earlier error" if match.role == "earlier" else "a line of the log"
    where = f"line {match.line}, {what}" if match.line else what
    return f"  {where}: {match.failure.id}: {match.failure.title}"


def _describe(match: Match, known: Explanation, whole: bool = False) -> list[str]:
    failure = match.failure
    lines = [f"{failure.id}: {failure.title}", ""]
    if known.beside and known.error and match.role == "answer":
        lines += ["About", f"  {known.error}", ""]
    if match.own:
        lines += ["Where", *_indented(textwrap.fill(_raised_where(match.own), 96)), ""]
    lines += ["Why", *_indented(textwrap.fill(failure.cause, 96))]
    lines += ["", "Versions", f"  {failure.versions()}", f"  {_judged(match.affected, known)}"]
    if whole:
        prints = failure.shows == "output" and failure.code
        lines += ["", "What its example prints" if prints else "Messages"]
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


def _raised_where(own: Own) -> str:
    """The file and the first sentence of its docstring."""
    try:
        about = (PACKAGE / own.file).read_text(encoding="utf-8").partition('"""')[2].partition('"""')[0]
    except OSError:
        about = ""
    about = " ".join(about.split()).partition(". ")[0].rstrip(".")
    return f"{own.module}, line {own.line}" + (f" ({about})." if about else ".")


def _judged(affected: bool | None, known: Explanation) -> str:
    """Whether these versions have it, and which versions these are."""
    here = {name: there for name, there in known.installed.items() if name not in known.told}
    if known.told:
        words = {
            True: "the versions in the text are affected",
            False: "the versions in the text are not affected: look at the other entries first, or at where the "
            "message came from",
            None: "whether the versions in the text are affected cannot be said: it does not name all that decide",
        }[affected]
        listed = _listed({name: known.installed[name] for name in known.told})
        return f"{words} ({listed}{'' if known.elsewhere else '; here ' + _listed(here)})"
    if known.elsewhere and affected is None:
        return "whether it is affected cannot be said: the text comes from another Python and names no versions"
    words = {
        True: "your versions are affected",
        False: "your versions are not affected: look at the other entries first, or at where the message came from",
        None: "whether yours are affected cannot be said: a library that decides is not installed here",
    }[affected]
    return f"{words} ({'versions unknown' if known.elsewhere else _listed(known.installed)})"


def _short_verdict(affected: bool | None) -> str:
    return " (not with your versions)" if affected is False else ""


def _listed(versions: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} {there or 'missing'}" for name, there in versions.items())


def _text(message: str | BaseException) -> str:
    if isinstance(message, BaseException):
        message = "".join(traceback.format_exception(message))
    if not isinstance(message, str):
        raise TypeError(f"explain() takes text or an exception, not {type(message).__name__}.")
    return message
