"""The failure index of the book, written from catalogue and records while the book is built."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .. import evidence
from ..evidence import compared
from .catalogue import FAMILIES, catalogue
from .comparison import DIFFERENCES, REAL, VIRTUAL, Compared, compare, fixes_that_work, load, words_of
from .entry import PROVIDED, SHOWS, Failure, Fix, code_of, link, plain

if TYPE_CHECKING:
    from IPython.display import Markdown

_BADGES = {
    "laptop": '<span class="tier laptop">raised in the tests, any laptop</span>',
    "virtual": '<span class="tier virtual">raised in the tests, virtual GPU</span>',
    "source": '<span class="tier real">other versions: read in their sources</span>',
    "report": '<span class="tier real">reported, not run here</span>',
}

_NAMES = (
    "What `FOLDER`, `EIGHT_BIT` and `SMALL` stand for is said [in the index](#names-in-the-code), which also has a "
    "box for a pasted message."
)


def contents() -> Markdown:
    """How many entries there are, and a list of links, family by family.

    Each line has the name that the entry had when all of them stood on one page; `explain.js` leads on from there.
    """
    live = sum(failure.evidence == "live" for failure in catalogue())
    lines = [
        f"{len(catalogue())} failures, of which the tests of this book raise {live} with the versions that it pins, "
        "and run every fix. The others need other versions or another machine."
    ]
    for family in FAMILIES:
        lines += ["", f"**[{family.title}](#{family.name})**", ""]
        lines += [f'- <a id="failure-{one.id}"></a>[{one.title}](#failure-{one.id})' for one in family.failures]
    return _markdown(lines)


def provided() -> Markdown:
    """The code of what the examples on the page take for granted."""
    return _markdown(["```python", "\n".join(code.rstrip() for code in PROVIDED.values() if code), "```"])


def entries(name: str) -> Markdown:
    """The page of a family below its title: what it is about, its entries as a list, and each as a section.

    Raises:
        ValueError: there is no such family.
    """
    for family in FAMILIES:
        if family.name == name:
            lines = [f"{family.about} {_NAMES}", ""]
            lines += [f"- [{failure.title}](#failure-{failure.id})" for failure in family.failures]
            return _markdown([*lines, *(line for failure in family.failures for line in _entry(failure))])
    raise ValueError(f"there is no family {name!r}: choose from {', '.join(family.name for family in FAMILIES)}.")


def _entry(failure: Failure) -> list[str]:
    badge = failure.evidence
    if badge == "live":
        badge = "virtual" if failure.gpus else "laptop"
    elsewhere = f'<span class="tier real">needs {failure.elsewhere}, not run here</span>'
    badges = " ".join([elsewhere if failure.elsewhere else _BADGES[badge], *_seen_on_real_gpus(failure)])
    lines = ["", f"(failure-{failure.id})=", f"## {failure.title}", "", f"{badges} `{failure.id}`", ""]
    if failure.shows != "error":
        lines += [f"*{SHOWS[failure.shows][0].upper()}{SHOWS[failure.shows][1:]}.*", ""]
    for message, where in _grouped(failure).items():
        told = f"What its example prints ({', '.join(where)})" if _prints(failure) else ", ".join(where)
        lines += [f"{told}:", "", "```{code-block} text", ":class: message", message, "```", ""]
    lines += [failure.cause, "", f"*Versions:* {failure.versions()}.", ""]
    if failure.wants:
        lines += ["*Known by* its frames or numbers, and not by its words alone.", ""]
    if failure.chinese:
        lines += [f'<span lang="zh">{" · ".join(failure.chinese)}</span>', ""]
    if failure.reproduction:
        lines += ["````{dropdown} Reproduction", "```python", _code(failure.reproduction), "```", "````", ""]
    for fix in failure.fixes:
        lines += _fix(fix)
    places = [f"{{ref}}`{failure.section}`"] if failure.section else []
    lines += [f"*Read on:* {'; '.join([*places, *map(_linked, failure.references)])}.", ""]
    return lines


def _prints(failure: Failure) -> bool:
    """Whether the entry's words are those of its own example, since nothing else says anything."""
    return failure.shows == "output" and failure.reproduction is not None


def _seen_on_real_gpus(failure: Failure) -> list[str]:
    """A badge, if a record of real GPUs has this entry; one that did not happen there is said too."""
    result = load(REAL).get(failure.id)
    if result is None or "not run" in result:
        return []
    device = evidence.load(REAL)["machine"]["device"]
    words = f"raised on {device}" if result["reproduction"]["shown"] else f"not seen on {device}"
    return [f'<span class="tier real">{words}{"" if failure.gpus else ", hidden"}</span>']


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


# ---- in the chapters --------------------------------------------------------------------------------------------


def explained_in(*sections: str) -> Markdown:
    """A list of the entries that these sections of a chapter explain, with links into the index.

    Args:
        sections: labels, as entries name them in `section`.

    Raises:
        ValueError: no entry names one of them.
    """
    lines = []
    for section in sections:
        found = [failure for failure in catalogue() if failure.section == section]
        if not found:
            raise ValueError(f"no failure is explained in {section!r}.")
        lines += [f"- [{failure.title}](#failure-{failure.id})" for failure in found]
    return _markdown(lines)


# ---- virtual and real -------------------------------------------------------------------------------------------

_VERDICTS = {
    "same": "same",
    "words differ": "other words, see below",
    "virtual only": "**not seen**, see below",
    "real only": "real only, see below",
    "neither": "**not seen on either**",
}


def comparison_summary() -> Markdown:
    """How many entries ran on virtual and on real GPUs, and how many showed the same."""
    virtual, real = load(VIRTUAL), load(REAL)
    ran = [result for result in virtual.values() if "not run" not in result]
    shown = sum(result["reproduction"]["shown"] for result in ran)
    lines = [f"On virtual GPUs {len(ran)} entries ran, and {shown} showed as the catalogue says."]
    if real:
        compared = [row for row in compare(virtual, real) if row.verdict != "not compared"]
        count = {verdict: sum(row.verdict == verdict for row in compared) for verdict in _VERDICTS}
        seen = sum(row.real["reproduction"]["shown"] for row in compared)
        device = evidence.load(REAL)["machine"]["device"]
        lines.append(
            f"On {device} {len(compared)} ran and {seen} showed: {count['same']} with the same exception, line of the "
            f"log or output as on virtual GPUs, {count['words differ']} in other words."
        )
    else:
        lines.append("There is no record of real GPUs yet.")
    kinds = {"virtual": virtual, "real": real} if real else {"virtual": virtual}
    works = [f"{_fixes_that_work(results)} on {kind} GPUs" for kind, results in kinds.items()]
    lines.append(f"Of the fixes that are code, {' and '.join(works)} run to their end without a trace of the failure.")
    return _markdown([" ".join(lines)])


def _fixes_that_work(results: Mapping[str, Any]) -> str:
    counts = [fixes_that_work(result) for result in results.values() if "not run" not in result]
    return f"{sum(right for right, _ in counts)} of {sum(total for _, total in counts)}"


def comparison_table(name: str) -> Markdown:
    """The entries of a family that were run, virtual beside real.

    Raises:
        ValueError: there is no such family.
    """
    if name not in {family.name for family in FAMILIES}:
        raise ValueError(f"there is no family {name!r}: choose from {', '.join(f.name for f in FAMILIES)}.")
    lines = ["| failure | GPUs | on virtual GPUs | on real GPUs |", "|---|---|---|---|"]
    for row in _rows(name):
        if row.virtual is None and row.real is None:
            continue
        cells = [f"[{_cell(row.failure.title)}](#failure-{row.failure.id})", str(row.failure.gpus)]
        cells += [_said(row.virtual), _VERDICTS.get(row.verdict) or _said(row.real)]
        lines.append(f"| {' | '.join(cells)} |")
    return _markdown(lines if len(lines) > 2 else ["Nothing of this family was run."])


def differences() -> Markdown:
    """Each entry in which the two records differ, with the words of both, and what was done to see it."""
    lines = []
    for row in (row for family in FAMILIES for row in _rows(family.name)):
        if row.verdict in ("not compared", "same") and not (row.real and "held to" in row.real):
            continue
        lines += ["", f"**[{row.failure.title}](#failure-{row.failure.id})**", ""]
        for kind, result in (("virtual", row.virtual), ("real", row.real)):
            lines.append(f"- {kind}: {_said(result, whole=True)}")
            if result and "held to" in result:
                lines.append(f"- on the real card the process was held to {result['held to']}")
        if row.verdict != compared.SAME and (reason := compared.why(DIFFERENCES, row.failure.id)):
            lines += ["", reason]
    return _markdown(lines or ["None."] if load(REAL) else ["There is no record of real GPUs yet."])


def not_run() -> Markdown:
    """The entries that neither record has, and what they need."""
    lines = ["| failure | what it needs |", "|---|---|"]
    for row in (row for family in FAMILIES for row in _rows(family.name)):
        if row.virtual is None and row.real is None:
            versions = "" if not row.failure.affects else f": {row.failure.versions()}"
            lines.append(
                f"| [{_cell(row.failure.title)}](#failure-{row.failure.id}) | {row.failure.needs()}{versions} |"
            )
    return _markdown(lines)


def origins() -> Markdown:
    """Where the records come from, a line each."""
    lines = []
    for name in (VIRTUAL, REAL):
        if name in evidence.names():
            where, _, command = repr(evidence.provenance(name)).rpartition(" — ")
            lines.append(f"- {where}: `{command}`")
    return _markdown(lines)


def _rows(name: str) -> list[Compared]:
    return [row for row in compare(load(VIRTUAL), load(REAL)) if row.failure.family == name]


def _said(result: Any, whole: bool = False) -> str:
    """What a failure said, short for a table."""
    if result is None:
        return "not run"
    words = plain(words_of(result)) or "ran to its end"
    if not whole and len(words) > 90:
        words = words[:87].rstrip() + "…"
    return f"`{_cell(words)}`" if not whole else f"`{words}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


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
    return f"[{reference}]({target})" if target else _plain(reference)


def _plain(words: str) -> str:
    """Markdown for words as they are: `__call__` is a name, and not "call" in bold."""
    return re.sub(r"([_*])", r"\\\1", words)


def _markdown(lines: list[str]) -> Markdown:
    from IPython.display import Markdown

    return Markdown("\n".join(lines))
