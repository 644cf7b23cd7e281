"""The matrix: what each probe does on each stack, beside what it does on the stack that this book pins.

`matrix()` reads the record. A cell is judged by one rule, the same for all probes: it *fails* if the lines raise, die
or hang, *differs* if they run but warn or give another value than on the book's stack, and is the *same* otherwise. So
the words say what a script meets, not whether it is right: a cast of an 8-bit model fails everywhere, as it should.
"""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import evidence
from ..evidence import compared
from ..messages import with_code
from . import record
from .probes import GROUPS, PROBES
from .stacks import BOOK, LIBRARIES

if TYPE_CHECKING:
    import pandas

SYMBOLS = {"same": "●", "differs": "▲", "fails": "✕", "none": "–"}
"""Verdict -> how a cell shows it, besides its color."""

MEANING = {
    "same": "runs, and does what it does on the book's stack",
    "differs": "runs, but warns or gives another value",
    "fails": "raises, dies or hangs",
    "none": "not measured",
}
"""Verdict -> what it means."""

CANNOT = {"kind": "cannot be installed"}
"""The outcome of every probe on a stack that the package index refuses."""


def matrix(folder: Path = evidence.FOLDER) -> Matrix:
    """What was measured.

    Raises:
        ValueError: nothing yet, or the record is damaged.

    Chapter 12.
    """
    results = record.load(folder)
    if BOOK not in results["stacks"]:
        raise ValueError(f"the stack {BOOK} is not measured, with which the others are compared: sana-lab versions run")
    return Matrix(results["stacks"])


def describe(outcome: Mapping[str, Any]) -> str:
    """An outcome in a line: the value, or the exception and its words; a warning after the value."""
    if outcome["kind"] == "runs":
        return outcome["value"] + (f" · warns: {outcome['warns']}" if outcome.get("warns") else "")
    if outcome["kind"] == "raises":
        return f"{outcome['error']}: {outcome['words']}"
    return f"{outcome['kind']}: {outcome['words']}" if outcome.get("words") else outcome["kind"]


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two outcomes are one: the same value, or the same kind of exception with the same first words."""
    return compared.verdict(_plain(one), _plain(other)) == compared.SAME


def _plain(outcome: Mapping[str, Any]) -> compared.Outcome:
    """An outcome in the form that `compared` knows."""
    if outcome["kind"] == "runs":
        return {"returns": (outcome["value"], bool(outcome.get("warns")))}
    if outcome["kind"] == "raises":
        return {"raises": outcome["error"], "words": outcome["words"][:40]}
    return {"raises": outcome["kind"], "words": ""}


def judge(outcome: Mapping[str, Any] | None, reference: Mapping[str, Any] | None) -> str:
    """`same`, `differs`, `fails` or `none`, by the rule at the head of this module."""
    if outcome is None or outcome["kind"] == "skipped":
        return "none"
    if outcome["kind"] != "runs":
        return "fails"
    if outcome.get("warns") or (reference is not None and outcome["value"] != reference.get("value")):
        return "differs"
    return "same"


@dataclass(frozen=True)
class Matrix:
    """What `matrix()` returns. In a notebook it shows as the table of symbols.

    Attributes:
        stacks: Name -> its entry in the record.
        chosen: Ids of the probes to show; all that were measured if it is empty.
    """

    stacks: Mapping[str, Mapping[str, Any]]
    chosen: tuple[str, ...] = ()

    @property
    def probes(self) -> list[str]:
        """Ids of the probes that were measured on any stack."""
        measured = [id for id in PROBES if any(id in entry["outcomes"] for entry in self.stacks.values())]
        return [id for id in measured if not self.chosen or id in self.chosen]

    def part(self, stacks: Iterable[str], probes: Iterable[str]) -> Matrix:
        """Some stacks and some probes of it; the stack that others are compared with must be among the stacks.

        Raises:
            ValueError: one of them was not measured.

        Chapter 12.
        """
        names, ids = list(stacks), tuple(probes)
        for name, known in [*((name, self.stacks) for name in (*names, BOOK)), *((id, self.probes) for id in ids)]:
            if name not in known:
                raise ValueError(f"{name!r} is not in the matrix; there are: {', '.join(known)}.")
        if BOOK not in names:
            raise ValueError(f"the part must have the stack {BOOK}, with which the others are compared.")
        return Matrix({name: self.stacks[name] for name in names}, ids)

    def outcome(self, stack: str, probe: str) -> Mapping[str, Any] | None:
        """What a probe did on a stack; None if it was not measured.

        Raises:
            ValueError: there is no such stack in the record.
        """
        if stack not in self.stacks:
            raise ValueError(f"stack {stack!r} is not in the record; there are: {', '.join(self.stacks)}.")
        return self.stacks[stack]["outcomes"].get(probe) if self.stacks[stack]["built"] else CANNOT

    def verdict(self, stack: str, probe: str) -> str:
        """`same`, `differs`, `fails` or `none`."""
        return judge(self.outcome(stack, probe), self.outcome(BOOK, probe))

    def versions(self, stack: str) -> dict[str, str]:
        """Library -> version found inside the environment; for one that cannot be built, as asked for."""
        entry = self.stacks[stack]
        if entry["built"]:
            return dict(entry["resolved"])
        asked = (word.split("==") for command in entry["commands"] for word in command.split() if "==" in word)
        return dict(asked)

    @property
    def stack_table(self) -> pandas.DataFrame:
        """Stacks with their versions, how many probes fail and differ, and what `pip check` finds wrong."""
        import pandas

        rows = {}
        for name, entry in self.stacks.items():
            verdicts = [self.verdict(name, probe) for probe in self.probes]
            rows[name] = {
                **{library: self.versions(name).get(library, "–") for library in LIBRARIES},
                "differs": verdicts.count("differs"),
                "fails": verdicts.count("fails"),
                "pip check": _complaint(entry),
            }
        return pandas.DataFrame.from_dict(rows, orient="index").rename_axis("stack")

    @property
    def table(self) -> pandas.DataFrame:
        """Probes × stacks, with the symbols."""
        import pandas

        cells = {name: [SYMBOLS[self.verdict(name, probe)] for probe in self.probes] for name in self.stacks}
        return pandas.DataFrame(cells, index=pandas.Index(self.probes, name="probe"))

    def row(self, probe: str) -> list[tuple[list[str], str, str]]:
        """What one probe did: groups of stacks in a row with one outcome, each with the verdict and its description.

        Raises:
            ValueError: it was not measured.
        """
        if probe not in self.probes:
            raise ValueError(f"probe {probe!r} is not in the record; there are: {', '.join(self.probes)}.")
        return self._groups(self.stacks, probe)

    def _groups(self, names: Iterable[str], probe: str) -> list[tuple[list[str], str, str]]:
        groups: list[tuple[list[str], str, str]] = []
        for name in names:
            verdict = self.verdict(name, probe)
            text = self._words(name, probe)
            mixed = bool(groups) and ("+" in groups[-1][0][0]) != ("+" in name)
            if groups and groups[-1][1:] == (verdict, text) and not mixed:
                groups[-1][0].append(name)
            else:
                groups.append(([name], verdict, text))
        return groups

    def _words(self, stack: str, probe: str) -> str:
        """An outcome in a line; a probe that was skipped because weights were missing was not measured either."""
        outcome = self.outcome(stack, probe)
        return MEANING["none"] if outcome is None or outcome["kind"] == "skipped" else describe(outcome)

    def csv(self) -> str:
        """All cells as comma-separated values, a line for each."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["stack", "date", *LIBRARIES, "probe", "title", "verdict", "outcome"])
        for name, entry in self.stacks.items():
            versions = self.versions(name)
            for probe in self.probes:
                writer.writerow(
                    [name, entry["date"], *(versions.get(library, "") for library in LIBRARIES)]
                    + [probe, PROBES[probe].title.replace("`", ""), self.verdict(name, probe)]
                    + [self._words(name, probe)]
                )
        return file.getvalue()

    def _repr_html_(self) -> str:
        return self.html()

    def __repr__(self) -> str:
        """The table of symbols in plain text."""
        names = list(self.stacks)
        width = max(map(len, self.probes))
        heads = [f"{'':{width}}  " + " ".join(f"{i:>2}" for i in range(1, len(names) + 1))]
        rows = [
            f"{probe:{width}}  " + " ".join(f" {SYMBOLS[self.verdict(name, probe)]}" for name in names)
            for probe in self.probes
        ]
        legend = [f"{symbol} {MEANING[verdict]}" for verdict, symbol in SYMBOLS.items()]
        return "\n".join([*heads, *rows, "", *(f"{i:>2} {name}" for i, name in enumerate(names, 1)), "", *legend])

    def html(self, stacks: Iterable[str] | None = None, probes: Iterable[str] | None = None) -> str:
        """The table: a colored symbol in each cell; a line opens below itself and says in words what was seen where.

        Args:
            stacks: names, in this order; all by default.
            probes: ids, likewise.
        """
        names = list(self.stacks if stacks is None else stacks)
        wanted = self.probes if probes is None else list(probes)
        head = "".join(f'<th scope="col"><span>{html.escape(name)}</span></th>' for name in names)
        lines = [f"{STYLE}<div class='versions' tabindex='0'><table><thead><tr><th></th>{head}</tr></thead><tbody>"]
        group = None
        for id in wanted:
            if PROBES[id].group != group:
                group = PROBES[id].group
                lines.append(f'<tr><th colspan="{len(names) + 1}" class="group">{GROUPS[group]}</th></tr>')
            cells = "".join(self._cell(name, id) for name in names)
            title = f"<details><summary>{with_code(PROBES[id].title)}</summary></details>"
            lines.append(f'<tr><th scope="row">{title}</th>{cells}</tr>')
            said = "".join(_said(*group) for group in self._groups(names, id))
            lines.append(f'<tr class="words"><td colspan="{len(names) + 1}"><ul>{said}</ul></td></tr>')
        return "".join([*lines, "</tbody></table></div>", legend()])

    def _cell(self, stack: str, probe: str) -> str:
        verdict = self.verdict(stack, probe)
        said = html.escape(f"{stack}: {self._words(stack, probe)}", quote=True)
        return f'<td class="{verdict}" title="{said}" aria-label="{verdict}">{SYMBOLS[verdict]}</td>'


def _said(names: list[str], verdict: str, words: str) -> str:
    """What several stacks did alike, as an item of a list."""
    symbol = f'<span class="{verdict}">{SYMBOLS[verdict]} {verdict}</span>'
    return f"<li>{symbol} {html.escape(', '.join(names))}: <code>{html.escape(words)}</code></li>"


def legend() -> str:
    """What the symbols mean, as HTML."""
    items = (f'<span class="{v}">{symbol}</span> {v}: {MEANING[v]}' for v, symbol in SYMBOLS.items())
    return f"<p class='versions-legend'>{' · '.join(items)}</p>"


def _complaint(entry: Mapping[str, Any]) -> str:
    if not entry["built"]:
        return "cannot be installed"
    unmet = len(entry["check"].splitlines())
    return f"{unmet} unmet" if unmet else "ok"


STYLE = """<style>
.versions { overflow-x: auto; margin-bottom: .5rem; container-type: inline-size }
.versions table { border-collapse: separate; border-spacing: 1px; font-size: .8rem; width: max-content; margin: 0 }
.versions th { text-align: left; font-weight: normal; background: var(--pst-color-background, #fff) }
.versions thead th { vertical-align: bottom; padding-bottom: .3rem }
.versions thead th span { writing-mode: vertical-rl; transform: rotate(180deg); white-space: nowrap }
.versions th[scope=row] { position: sticky; left: 0; z-index: 1; padding-right: .5rem }
.versions th[scope=row] { min-width: 12.5rem; max-width: 17.5rem }
.versions th.group { font-weight: bold; padding-top: .6rem; position: sticky; left: 0 }
.versions td { text-align: center; width: 1.6rem; min-width: 1.6rem; padding: .15rem }
.versions th code { font-size: .95em; background: none; border: none; padding: 0; color: inherit }
.versions details, .versions summary { margin: 0; padding: 0; border: 0; background: none; box-shadow: none }
.versions summary { cursor: pointer; min-height: 1.5rem }
.versions summary:focus-visible { outline: 2px solid currentColor; outline-offset: 1px }
.versions tr.words { display: none }
.versions tr:has(details[open]) + tr.words { display: table-row }
.versions tr.words td { text-align: left; padding: .2rem 0 .6rem }
.versions tr.words ul { position: sticky; left: 0; width: min(100cqi, 46rem); margin: 0; padding: 0 .5rem 0 1.6rem }
.versions tr.words ul { box-sizing: border-box }
.versions tr.words code { white-space: normal; overflow-wrap: anywhere; background: none; border: none; padding: 0 }
.versions tr.words span { padding: 0 .4em }
.versions .same, .versions-legend .same { background: rgba(46, 160, 67, .22) }
.versions .differs, .versions-legend .differs { background: rgba(224, 160, 20, .34) }
.versions .fails, .versions-legend .fails { background: rgba(218, 54, 51, .34) }
.versions-legend { font-size: .85rem }
.versions-legend span { padding: 0 .4em }
@media (max-width: 600px) { .versions th[scope=row] { min-width: 9rem; max-width: 9rem; overflow-wrap: anywhere } }
</style>"""
