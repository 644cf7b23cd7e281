"""The failure index of the book, written from the catalogue while the book is built."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .catalogue import FAMILIES, catalogue
from .entry import PROVIDED, SHOWS, Failure, Fix, code_of, link

if TYPE_CHECKING:
    from IPython.display import Markdown

_BADGES = {
    "laptop": '<span class="tier laptop">raised in the tests, any laptop</span>',
    "virtual": '<span class="tier virtual">raised in the tests, virtual GPU</span>',
    "source": '<span class="tier real">other versions: read in their sources</span>',
    "report": '<span class="tier real">reported, not run here</span>',
}


def contents() -> Markdown:
    """How many entries there are, and a list of links, family by family."""
    live = sum(failure.evidence == "live" for failure in catalogue())
    lines = [
        f"{len(catalogue())} failures, of which the tests of this book raise {live} with the versions that it pins, "
        "and run every fix. The others need other versions or another machine."
    ]
    for family in FAMILIES:
        lines += ["", f"**[{family.title}](#{family.name})**", ""]
        lines += [f"- [{failure.title}](#failure-{failure.id})" for failure in family.failures]
    return _markdown(lines)


def provided() -> Markdown:
    """The code of what the examples on the page take for granted."""
    return _markdown(["```python", "\n".join(code.rstrip() for code in PROVIDED.values() if code), "```"])


def entries(name: str) -> Markdown:
    """All entries of a family.

    Raises:
        ValueError: there is no such family.
    """
    for family in FAMILIES:
        if family.name == name:
            return _markdown([family.about, *(line for failure in family.failures for line in _entry(failure))])
    raise ValueError(f"there is no family {name!r}: choose from {', '.join(family.name for family in FAMILIES)}.")


def _entry(failure: Failure) -> list[str]:
    badge = failure.evidence
    if badge == "live":
        badge = "virtual" if failure.gpus else "laptop"
    lines = ["", f"(failure-{failure.id})=", f"### {failure.title}", "", f"{_BADGES[badge]} `{failure.id}`", ""]
    if failure.shows != "error":
        lines += [f"*{SHOWS[failure.shows][0].upper()}{SHOWS[failure.shows][1:]}.*", ""]
    if failure.shows != "output":
        for message, where in _grouped(failure).items():
            lines += [f"{', '.join(where)}:", "", "```{code-block} text", ":class: message", message, "```", ""]
    lines += [failure.cause, "", f"*Versions:* {failure.versions()}.", ""]
    if failure.reproduction:
        lines += ["````{dropdown} Reproduction", "```python", _code(failure.reproduction), "```", "````", ""]
    for fix in failure.fixes:
        lines += _fix(fix)
    lines += [f"*Read on:* {'; '.join(_linked(reference) for reference in failure.references)}.", ""]
    return lines


def _fix(fix: Fix) -> list[str]:
    language = "python" if fix.function or fix.command.startswith("BitsAndBytesConfig") else "sh"
    return [
        f"**Fix.** {fix.text}",
        "",
        f"```{language}",
        _code(fix.function) if fix.function else fix.command,
        "```",
        "",
    ]


def _code(function: Callable[..., Any]) -> str:
    return code_of(function, whole=False).rstrip()


def _grouped(failure: Failure) -> dict[str, list[str]]:
    """Message -> where it was seen, so that the same words stand once."""
    found: dict[str, list[str]] = {}
    for where, message in failure.messages.items():
        found.setdefault(message, []).append(_linked(where))
    return found


def _linked(reference: str) -> str:
    try:
        target = link(reference)
    except ValueError:  # "PyTorch 2.0 to 2.6" is no reference and needs no link
        target = ""
    return f"[{reference}]({target})" if target else reference


def _markdown(lines: list[str]) -> Markdown:
    from IPython.display import Markdown

    return Markdown("\n".join(lines))
