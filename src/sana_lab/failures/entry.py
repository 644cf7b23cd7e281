"""What an entry of the catalogue is: a failure as data (symptom, cause, versions) and as code (reproduction, fixes).

An entry checks itself while it is made: a pattern that misses its own messages, a version range that nobody can read or
a reference in no known form is a `ValueError` at import. Nothing here imports torch.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version

from ..evidence import LIBRARIES, versions_of

SHOWS = {
    "error": "an exception",
    "warning": "a line in the log, and the program goes on",
    "output": "no message at all: only the result shows it",
}
"""How a failure comes to notice."""

EVIDENCE = {
    "live": "runs in this book's tests",
    "source": "was read in the sources of the versions named",
    "report": "comes from reports of users and was not run here",
}
"""On what an entry rests. `live` means that reproduction and fixes are run with the versions that this book pins."""

REPOSITORIES = {
    "pytorch": "pytorch/pytorch",
    "diffusers": "huggingface/diffusers",
    "transformers": "huggingface/transformers",
    "accelerate": "huggingface/accelerate",
    "bitsandbytes": "bitsandbytes-foundation/bitsandbytes",
    "Sana": "NVlabs/Sana",
}

PROVIDED = {
    "FOLDER": "",
    "EIGHT_BIT": """\
from diffusers import BitsAndBytesConfig as DiffusersConfig
from diffusers import PipelineQuantizationConfig
from transformers import BitsAndBytesConfig as TransformersConfig

EIGHT_BIT = PipelineQuantizationConfig(quant_mapping={
    "transformer": DiffusersConfig(load_in_8bit=True),
    "text_encoder": TransformersConfig(load_in_8bit=True),
})
""",
    "SMALL": """\
SMALL = {"num_inference_steps": 1, "height": 64, "width": 64, "use_resolution_binning": False}  # quick, not pretty
""",
}
"""What a reproduction may take as an argument, and the code that makes it: `FOLDER`, a folder or Hub name of a Sana
pipeline, is the reader's own; the others are written out at the head of the code."""

_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)+")
_ISSUE = re.compile(rf"({'|'.join(REPOSITORIES)}|[\w.-]+/[\w.-]+)#(\d+)")
_FILE = re.compile(rf"({'|'.join(('pytorch', 'sana_lab', 'torchao', *LIBRARIES))}) (\d+(?:\.\d+)+): \S.*")
_UNBOUNDED = re.compile(r"(?<!\\)\.[*+]")
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_CHINESE = re.compile(r"[\u4e00-\u9fff]")


@dataclass(frozen=True)
class Fix:
    """One way out: what to do in a sentence, and the code or the command that does it."""

    text: str
    function: Callable[..., Any] | None = None
    command: str = ""

    @property
    def code(self) -> str:
        """The code as a reader would paste it, or the command."""
        return code_of(self.function) if self.function else self.command


@dataclass
class Failure:
    """A known failure.

    Args:
        id: words and hyphens; never changes once published.
        title: what a user would say has happened.
        shows: `error`, `warning` or `output`, see `SHOWS`.
        error: name of the exception class, for `shows="error"`; `A|B` where versions or machines differ.
        pattern: regular expression of the symptom, searched in text that went through `plain`: no backticks, no
            colors, single spaces. Numbers, class and device names that vary have no place in it.
        messages: where seen (`"diffusers 0.42.1"`) -> the message as printed, oldest first.
        cause: two or three sentences.
        affects: version ranges, library -> specifier. All of one mapping must hold; of several, any. Empty: every
            version.
        references: `"diffusers#10500"` for an issue or pull request, `"diffusers 0.42.1: file, place"` for a source.
        evidence: `live`, `source` or `report`, see `EVIDENCE`.
        gpus: how many GPUs the reproduction needs, real or virtual.
        vram: memory of each, where the failure is that it runs out; then only a virtual GPU will do.
        wants: regular expression of what must also be there, in the traceback or in the message: a frame, a call, a
            number. For words that many programs can raise; without it the entry is not given. One of `messages` shows
            such a traceback.
        context: regular expression of a line of the traceback that makes this failure likelier than those in `alike`.
        alike: ids of other entries whose pattern matches a message of this one. Ambiguity is stated, not hidden.
        section: label of the place in the book that explains it; by default that of the family.
        elsewhere: what it takes besides versions, where that is not at hand: `Windows`, `an AMD GPU`, `a network`.
        chinese: the symptom in the words of Chinese users, for the search: `("显存不足",)`.
    """

    id: str
    title: str
    pattern: str
    messages: Mapping[str, str]
    cause: str
    references: Sequence[str]
    shows: str = "error"
    error: str = ""
    affects: Mapping[str, str] | Sequence[Mapping[str, str]] = ()
    evidence: str = "live"
    gpus: int = 1
    vram: str = ""
    wants: str = ""
    context: str = ""
    alike: Sequence[str] = ()
    section: str = ""
    elsewhere: str = ""
    chinese: Sequence[str] = ()
    family: str = ""
    reproduction: Callable[..., Any] | None = None
    fixes: list[Fix] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Check what can be checked before there is code.

        Raises:
            ValueError: a field does not hold what it must; the text names the entry and the field.
        """
        if isinstance(self.affects, Mapping):
            self.affects = (self.affects,)
        problems = [
            (not _ID.fullmatch(self.id), "id: two or more words of small letters and digits, with hyphens"),
            (not 10 <= len(self.title) <= 90, "title: 10 to 90 characters, in a user's words"),
            (self.shows not in SHOWS, f"shows: one of {', '.join(SHOWS)}"),
            (self.evidence not in EVIDENCE, f"evidence: one of {', '.join(EVIDENCE)}"),
            ((self.shows == "error") != bool(self.error), "error: the exception's class name, and only for an error"),
            (not self.messages, "messages: at least one, as printed"),
            (not 80 <= len(self.cause) <= 700, "cause: two or three sentences (80 to 700 characters)"),
            (not self.references, "references: at least one"),
            (type(self.gpus) is not int or not 0 <= self.gpus <= 4, "gpus: 0 to 4"),
            (self.id in self.alike, "alike: names the entry itself"),
            (isinstance(self.chinese, str), "chinese: a list of phrases"),
            (not all(map(_CHINESE.search, self.chinese)), "chinese: phrases with Chinese words"),
        ]
        for bad, what in problems:
            if bad:
                raise ValueError(f"failure {self.id!r}: {what}.")
        for name in ("pattern", "wants", "context"):
            try:
                re.compile(getattr(self, name))
            except re.error as error:
                raise ValueError(f"failure {self.id!r}: {name} is no regular expression ({error}).") from None
            if _UNBOUNDED.search(getattr(self, name)):
                raise ValueError(f"failure {self.id!r}: {name} may not search without end: write .{{0,200}} for .*")
        for name in ("pattern", "wants"):
            if getattr(self, name) and re.search(getattr(self, name), ""):
                raise ValueError(f"failure {self.id!r}: {name} matches everything.")
        for where, message in self.messages.items():
            if not self.matches(message):
                what = "wants misses" if re.search(self.pattern, plain(message)) else "pattern misses"
                raise ValueError(f"failure {self.id!r}: {what} its own message of {where}.")
        for reference in self.references:
            link(reference)
        for ranges in self.affects:
            for library, specifier in ranges.items():
                if library not in LIBRARIES:
                    raise ValueError(f"failure {self.id!r}: affects names {library!r}; known: {', '.join(LIBRARIES)}.")
                try:
                    SpecifierSet(specifier)
                except InvalidSpecifier:
                    raise ValueError(f"failure {self.id!r}: {library} {specifier!r} is no version range.") from None

    # ---- code ---------------------------------------------------------------------------------------------------

    def reproduce(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorator: this function's body makes the failure happen."""
        if self.reproduction is not None:
            raise ValueError(f"failure {self.id!r} has two reproductions.")
        self.reproduction = function
        return function

    def fix(self, text: str, command: str = "") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Decorator: this function's body is what to write instead. With `command`, no function: add it at once."""
        if command:
            self.fixes.append(Fix(text, command=command))

        def register(function: Callable[..., Any]) -> Callable[..., Any]:
            self.fixes.append(Fix(text, function))
            return function

        return register

    @property
    def code(self) -> str:
        """The reproduction as a reader would paste it, `""` where there is none."""
        return code_of(self.reproduction) if self.reproduction else ""

    def check_complete(self) -> None:
        """Check what can only be checked once the code is there.

        Raises:
            ValueError: a live entry without code, no way out, or code that is not self-contained.
        """
        if not self.fixes:
            raise ValueError(f"failure {self.id!r}: no fix. Say at least what to install or to leave out.")
        if self.evidence == "live" and not (self.reproduction and any(fix.function for fix in self.fixes)):
            raise ValueError(f"failure {self.id!r}: live, so it needs a reproduction and a fix with code.")
        for function in (self.reproduction, *(fix.function for fix in self.fixes)):
            if function is not None:
                try:
                    compile(code_of(function), self.id, "exec")
                except SyntaxError as error:
                    raise ValueError(f"failure {self.id!r}: {error}; the body must run outside a function.") from None

    # ---- questions ----------------------------------------------------------------------------------------------

    def matches(self, text: str, frames: str | None = None) -> bool:
        """Whether the symptom is in `text`, as pasted, and what the entry wants besides in `frames` or in `text`."""
        words = plain(text)
        if not re.search(self.pattern, words):
            return False
        return not self.wants or bool(re.search(self.wants, words if frames is None else plain(f"{frames}\n{text}")))

    def affected(self, installed: Mapping[str, str | None]) -> bool | None:
        """Whether these versions have the failure; `None` where a library that decides is not there.

        Args:
            installed: library -> version, as from `installed_versions`; `<5` where only that much is known.
        """
        if not self.affects:
            return True
        verdicts = [_all(ranges, installed) for ranges in self.affects]
        return True if True in verdicts else (None if None in verdicts else False)

    def versions(self) -> str:
        """The version ranges in words, such as `diffusers >=0.28 and accelerate <1.13`."""
        if not self.affects:
            return "every version"
        alternatives = [" and ".join(f"{name} {_pretty(s)}" for name, s in ranges.items()) for ranges in self.affects]
        return "; or ".join(alternatives)

    def needs(self) -> str:
        """What it takes to see it."""
        if self.elsewhere:
            return self.elsewhere
        if self.evidence != "live":
            here = self.affected(installed_versions())
            return "another stack of versions" if here is False else "another machine or installation"
        amount = ("nothing but a CPU", "one GPU, real or virtual", "two GPUs, real or virtual")[min(self.gpus, 2)]
        return f"a virtual GPU of {self.vram}" if self.vram else amount

    def shown_in(self, outcome: Any) -> bool:
        """Whether an `Outcome` shows this failure: the exception, the log line, or the printed result."""
        if self.shows == "error":
            expected = set(self.error.split("|"))
            return not expected.isdisjoint(outcome.kinds) and self._happened(outcome)
        if outcome.error is not None:
            return False
        return self.matches(outcome.log if self.shows == "warning" else outcome.printed)

    def _happened(self, outcome: Any) -> bool:
        if outcome.traceback:
            return self.matches(outcome.message, outcome.traceback)
        return re.search(self.pattern, plain(outcome.message)) is not None

    def cured_in(self, outcome: Any) -> bool:
        """Whether an `Outcome` of a fix ran to its end without any trace of this failure."""
        return outcome.error is None and not self.matches(outcome.log) and not self.matches(outcome.printed)


class Family:
    """Failures that belong together: a file, and a part of the index."""

    def __init__(self, name: str, title: str, about: str, section: str = ""):
        """`name` is an anchor, `title` a heading, `about` one sentence, `section` where most of it is explained."""
        self.name, self.title, self.about, self.section = name, title, about, section
        self.failures: list[Failure] = []

    def failure(self, **fields: Any) -> Failure:
        """A new entry; see `Failure` for the fields."""
        entry = Failure(family=self.name, **{"section": self.section, **fields})
        self.failures.append(entry)
        return entry


# ---- text and code ----------------------------------------------------------------------------------------------


def plain(text: str) -> str:
    """Pasted text as patterns want it: no colors, no backticks, typographic quotes made straight, single spaces."""
    text = _ANSI.sub("", text).replace("`", "")
    text = text.translate(str.maketrans("\u2018\u2019\u201c\u201d", "''\"\""))
    return " ".join(text.split())


@cache
def squeezed_pattern(pattern: str) -> str:
    """The same regular expression for text without any space, as `squeezed` makes it."""
    pattern = re.sub(r"\[ \]|\\ ", " ", pattern)
    pattern = re.sub(r"\\b|\\s(?:[*+?]|\{[\d,]+\})?|(?<!\\)(?<!\[) (?:[*+?]|\{[\d,]+\})?", "", pattern)
    return re.sub(r"\\S[*+]", r"\\S{1,80}?", pattern)


@cache
def needles(pattern: str) -> tuple[str, ...]:
    """Plain words of which a text that a pattern matches has at least one; empty if that cannot be said.

    To look for words is much quicker than to search for a pattern, and most entries are ruled out by it.
    """
    if "(?i" in pattern:
        return ()
    found, run, best, depth, at = [], "", "", 0, 0
    while at <= len(pattern):
        c = pattern[at : at + 1]
        escaped = c == "\\" and pattern[at + 1 : at + 2] in ".()[]{}+*?|^$/-'\" "
        literal = pattern[at + 1] if escaped else c
        after = at + 2 if escaped else at + 1
        if depth == 0 and literal and (escaped or literal not in "\\.()[]{}+*?|^$"):
            optional = pattern[after : after + 1] in ("?", "*", "{")
            run, best = ("", max(best, run, key=len)) if optional else (run + literal, best)
        else:
            run, best = "", max(best, run, key=len)
            if c == "[":
                after = pattern.index("]", at + 2) + 1
            elif c == "\\":
                after = at + 2
            elif c == "(":
                depth += 1
            elif c == ")":
                depth -= 1
            elif c in ("|", "") and depth == 0:
                found.append(best)
                best = ""
        at = after
    return tuple(found) if all(len(word) > 3 for word in found) else ()


def squeezed(text: str) -> str:
    """Pasted text without any space: what a terminal has broken inside of words is whole again."""
    return "".join(plain(text).split())


def link(reference: str) -> str:
    """Where a reference leads, `""` for a source file. Issues elsewhere are written `owner/repository#123`.

    Raises:
        ValueError: it is in neither form.
    """
    issue = _ISSUE.fullmatch(reference)
    if issue:
        return f"https://github.com/{REPOSITORIES.get(issue[1], issue[1])}/issues/{issue[2]}"
    if not _FILE.fullmatch(reference):
        raise ValueError(f"reference {reference!r}: write 'diffusers#123', or 'diffusers 0.42.1: file, place'.")
    return ""


def code_of(function: Callable[..., Any], whole: bool = True) -> str:
    """The body of a function as a program of its own: dedented, after what `PROVIDED` says about its arguments.

    Args:
        function: whose source to show.
        whole: `False` leaves out what `PROVIDED` says.

    Raises:
        ValueError: an argument that is not in `PROVIDED`.
    """
    source = textwrap.dedent(inspect.getsource(function))
    (definition,) = ast.parse(source).body
    unknown = [name for name in inspect.signature(function).parameters if name not in PROVIDED]
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: code in the catalogue can take {', '.join(PROVIDED)} only.")
    lines = source.splitlines()
    first = definition.body[0].lineno - 1
    while lines[first - 1].lstrip().startswith("#"):
        first -= 1
    heads = [PROVIDED[name] for name in inspect.signature(function).parameters if whole and PROVIDED[name]]
    return "\n".join([*heads, textwrap.dedent("\n".join(lines[first:]))]) + "\n"


def installed_versions() -> dict[str, str | None]:
    """Versions of the libraries that decide, without importing them; `None` for one that is not installed."""
    return versions_of(LIBRARIES)


def _all(ranges: Mapping[str, str], installed: Mapping[str, str | None]) -> bool | None:
    verdicts = []
    for library, specifier in ranges.items():
        there = installed.get(library)
        if there is None:
            verdicts.append(None)
        elif there.startswith("<"):
            verdicts.append(_below(SpecifierSet(specifier), Version(there[1:])))
        else:
            verdicts.append(SpecifierSet(specifier).contains(there, prereleases=True))
    return False if False in verdicts else (None if None in verdicts else True)


def _below(wanted: SpecifierSet, ceiling: Version) -> bool | None:
    """Whether versions below a ceiling are in a range: all of them, none, or it cannot be said."""
    if any(part.operator in (">=", ">") and Version(part.version) >= ceiling for part in wanted):
        return False
    return True if all(part.operator == "<" and Version(part.version) >= ceiling for part in wanted) else None


def _pretty(specifier: str) -> str:
    return ", ".join(part.strip().replace(">=", "≥ ").replace("<=", "≤ ") for part in specifier.split(",")) or "any"
