"""The version matrix of the book, written from the record while the book is built."""

from __future__ import annotations

import base64
from functools import cache
from typing import TYPE_CHECKING

from . import record
from .matrix import SYMBOLS, Matrix, matrix
from .probes import GROUPS, PROBES
from .stacks import LIBRARIES, STACKS

if TYPE_CHECKING:
    from IPython.display import HTML, Markdown

    from .agreement import Agreement


@cache
def _matrix() -> Matrix:
    return matrix()


def summary() -> Markdown:
    """How much was measured, and what could not be."""
    found = _matrix()
    built = [name for name, entry in found.stacks.items() if entry["built"]]
    cells = sum(found.verdict(name, probe) != "none" for name in built for probe in found.probes)
    seconds = sorted(found.stacks[name]["seconds"] for name in built if "seconds" in found.stacks[name])
    lines = [
        f"{len(found.stacks)} stacks, {len(found.probes)} probes, {cells} outcomes; "
        f"stacks that cannot be installed, which is an outcome too: {len(found.stacks) - len(built)}. "
        f"Half of the stacks took {seconds[len(seconds) // 2] / 60:.0f} minutes or less each, on two cores that had "
        "other work to do."
    ]
    outcomes = [outcome for name in built for outcome in found.stacks[name]["outcomes"].values()]
    untrained = sum(outcome.get("weights") == "untrained" for outcome in outcomes)
    if untrained:
        lines += [
            "",
            f"{untrained} of the outcomes are older than the Shapes model's training: a model of the same shape with "
            "random weights was loaded. Only the two probes that draw depend on the weights, and they ran with the "
            "trained ones.",
        ]
    for name, checked in record.load().get("checks", {}).items():
        differ = len(checked["differences"])
        lines += [
            "",
            f"Built and measured a second time from nothing, on {checked['when'][:10]}: {name}. "
            + (
                f"Of {checked['probes']} outcomes that could be compared, {differ} differed."
                if differ
                else f"All {checked['probes']} outcomes that could be compared were the same."
            ),
        ]
    left = [stack.name for stack in STACKS if stack.name not in found.stacks]
    if left:
        lines += ["", f"Not measured yet: {', '.join(left)}."]
    return _markdown(lines)


def stacks() -> Markdown:
    """The stacks as a table: versions found inside, what pip says, and how many probes fail."""
    found = _matrix()
    heads = ["stack", *LIBRARIES, "`pip check`", SYMBOLS["differs"], SYMBOLS["fails"]]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    table = found.stack_table
    for name, entry in found.stacks.items():
        row = table.loc[name]
        cells = [
            f'<span style="white-space: nowrap">**{name}**</span><br>{entry["title"]}',
            *(str(row[library]) for library in LIBRARIES),
        ]
        cells += [row["pip check"], str(row["differs"]), str(row["fails"])]
        lines.append("| " + " | ".join(cells) + " |")
    return _markdown(lines)


def said() -> Markdown:
    """What pip says about the stacks that it does not like."""
    lines = []
    for name, entry in _matrix().stacks.items():
        complaint = entry["said"] or entry["check"]
        if complaint:
            commands = [f"$ {command}" for command in entry["commands"]]
            lines += [f"`{name}`", "", "```{code-block} text", ":class: message", *commands, complaint, "```", ""]
    return _markdown(lines or ["Nothing: it likes all of them."])


def table(mixes: bool = False) -> HTML:
    """The symbols: dated stacks from old to new, or the mixes beside the stacks that they were made from."""
    from IPython.display import HTML

    found = _matrix()
    names = [name for name, entry in found.stacks.items() if _is_mix(entry) == mixes]
    return HTML(found.html(names))


def download() -> HTML:
    """A link to all cells as comma-separated values; the file is in the page itself, so it works offline."""
    from IPython.display import HTML

    content = base64.b64encode(_matrix().csv().encode()).decode()
    return HTML(f'<a download="version_matrix.csv" href="data:text/csv;base64,{content}">Download as CSV</a>')


def probes(group: str) -> Markdown:
    """All probes of a group: the lines, and in words what they do on which stacks.

    Raises:
        ValueError: there is no such group.
    """
    if group not in GROUPS:
        raise ValueError(f"there is no group {group!r}: choose from {', '.join(GROUPS)}.")
    found = _matrix()
    lines = []
    for id in found.probes:
        if PROBES[id].group != group:
            continue
        lines += [f"::::{{dropdown}} {PROBES[id].title}", f"`{id}`", "", "```python", PROBES[id].code, "```", ""]
        for names, verdict, text in found.row(id):
            words = text.replace("`", "")
            lines.append(f"- {SYMBOLS[verdict]} *{verdict}* on {', '.join(names)}: `` {words} ``")
        lines += ["::::", ""]
    return _markdown(lines)


def shared() -> Markdown:
    """The functions that probes share, as source."""
    import inspect

    from .probes import SHARED

    source = "\n\n\n".join(inspect.getsource(function).rstrip() for function in SHARED)
    return _markdown(["::::{dropdown} Shared functions", "```python", source, "```", "::::"])


def real() -> Agreement | Markdown:
    """What a real GPU does with the probes on a few stacks, beside the virtual one."""
    from .. import evidence
    from .agreement import agreement
    from .real import NAME

    if NAME not in evidence.names():
        return _markdown(["No stack was run on a real GPU yet; the agreement is known for the newest versions only."])
    return agreement()


def _is_mix(entry: dict) -> bool:
    return len(entry["commands"]) > 1 or not entry["built"]


def _markdown(lines: list[str]) -> Markdown:
    from IPython.display import Markdown

    return Markdown("\n".join(lines))
