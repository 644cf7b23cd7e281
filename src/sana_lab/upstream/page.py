"""The page of faults, written from `faults` while the book is built, with every script run."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING

from ..failures.entry import REPOSITORIES, link
from .faults import FAULTS, SEARCHED, TRIED, Fault
from .runner import run

if TYPE_CHECKING:
    from IPython.display import Markdown

_ISSUE_AT = "https://github.com/{}/issues/new"


def contents() -> Markdown:
    """A table: title, library, status in a word."""
    lines = ["| fault | library | known |", "|---|---|---|"]
    lines += [f"| [{f.title}](#fault-{_label(f)}) | {f.library} | {_known(f)} |" for f in FAULTS]
    return _markdown(lines)


def faults(library: str) -> Markdown:
    """All faults of a library, each with its script, what the script printed just now, and the report.

    Raises:
        ValueError: no fault of this library is known here.
        RuntimeError: a script no longer shows its fault: a library has mended it, and the page is out of date.
    """
    chosen = [fault for fault in FAULTS if fault.library == library]
    if not chosen:
        raise ValueError(
            f"no faults in {library!r}: choose from {', '.join(dict.fromkeys(f.library for f in FAULTS))}."
        )
    return _markdown([line for fault in chosen for line in _fault(fault)])


def report(fault: Fault, raised: str | None = None) -> str:
    """The text that one would paste into the library's form.

    Args:
        fault: of which.
        raised: how its script ended; it is run to see if this is not given.
    """
    raised = run(fault).raised if raised is None else raised
    versions = ", ".join(f"{name} {number}" for name, number in TRIED.items())
    parts = [
        ("", f"{fault.effect} {fault.cause} ({fault.library} {TRIED[fault.library]}, {fault.source})"),
        ("Reproduction", f"~~~python\n{fault.script.rstrip()}\n~~~"),
        ("What happens", f"It ends with:\n\n~~~\n{raised}\n~~~"),
        ("What should happen", fault.expected),
        ("What would mend it", fault.remedy),
        ("Versions", f"{versions}. {fault.other}".strip()),
    ]
    return "\n\n".join(f"### {head}\n\n{body}" if head else body for head, body in parts)


def _fault(fault: Fault) -> list[str]:
    shown = run(fault)
    if not shown.there:
        raise RuntimeError(f"{fault.name} no longer shows its fault ({shown.raised or 'it ran to its end'})")
    said = "\n".join(textwrap.fill(line, 90) for line in [*shown.printed.rstrip().splitlines(), shown.raised])
    place = REPOSITORIES[fault.library]
    return [
        "",
        f"(fault-{_label(fault)})=",
        f"### {fault.title}",
        "",
        f"{fault.effect} {fault.cause}",
        "",
        f"*Where:* {fault.library} {TRIED[fault.library]}, {fault.source}. {fault.other}".rstrip(),
        "",
        "```python",
        fault.script.rstrip(),
        "```",
        "",
        "```{code-block} text",
        said,
        "```",
        "",
        f"*Known:* {_linked(fault)}",
        "",
        "````{dropdown} The report",
        f"To [{place}]({_ISSUE_AT.format(place)}), under the title *{fault.title}*:",
        "",
        "```text",
        report(fault, shown.raised),
        "```",
        "````",
        "",
    ]


def _label(fault: Fault) -> str:
    return fault.name.replace("_", "-")


def _known(fault: Fault) -> str:
    return "yes" if fault.status.startswith("Known") else "by design" if fault.status.startswith("By design") else "no"


def _linked(fault: Fault) -> str:
    """The status with links; `#12` alone is of the library itself."""
    words = []
    for word in fault.status.removeprefix("Known: ").split(" "):
        core = word.strip("().,;")
        reference = f"{fault.library}{core}" if core.startswith("#") else core
        try:
            address = link(reference) if "#" in core else ""
        except ValueError:
            address = ""
        words.append(word.replace(core, f"[{core}]({address})") if address else word)
    dated = re.search(r"found on \d{4}-\d\d-\d\d", fault.status)
    return " ".join(words) if dated else f"{' '.join(words)} (Searched {SEARCHED}.)"


def _markdown(lines: list[str]) -> Markdown:
    from IPython.display import Markdown

    return Markdown("\n".join(lines))
