"""What the probes do on a real GPU, beside what they do on the virtual one: the record that `real` makes.

Both halves of the record ran on one machine with one torch, so that the GPU is all that differs. A pair of outcomes is
equal by the rule of `matrix.same`. What is not must have a reason in `REASONS`, which the tests demand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import evidence
from ..evidence import compared
from ..messages import with_code
from . import record
from .matrix import describe, same
from .probes import PROBES
from .real import NAME
from .stacks import LIBRARIES

if TYPE_CHECKING:
    import pandas

REASONS: compared.Reasons = {
    "map-cuda": "diffusers 0.35 and 0.36 list the devices once, when `pipeline_utils.py` is imported. The process that "
    "runs the probes imports it before the virtual GPU is there, so `cuda` was missing from the list. Mended since, "
    "and this row of the version matrix measured again, as that of `map-auto`, whose message has the list."
}
"""Probe -> why the virtual GPU does something else than the recorded real one. `compared.unexplained` holds them."""

LEGEND = (
    "<em>probes</em> ran on both GPUs, <em>same</em> did the same on both. <em>as in the matrix</em>: the virtual half "
    "does what the version matrix has, which was measured with the torch that the stack pins."
)
"""What the columns of the table are."""


def agreement(folder: Path = evidence.FOLDER) -> Agreement:
    """The record of real and virtual outcomes.

    Raises:
        ValueError: it is missing or damaged.

    Chapter 12.
    """
    found = evidence.load(NAME, folder=folder)
    return Agreement(found["results"]["stacks"], record.load(folder)["stacks"], evidence.Provenance(found))


@dataclass(frozen=True)
class Agreement:
    """What `agreement()` returns.

    Attributes:
        stacks: Name -> `resolved` versions and the outcomes, `real` and `virtual`.
        matrix: Stacks of the version matrix, with the torch that they pin.
        origin: Where the record was made.
    """

    stacks: Mapping[str, Mapping[str, Any]]
    matrix: Mapping[str, Mapping[str, Any]]
    origin: evidence.Provenance | None = None

    def pairs(self, stack: str) -> dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]]:
        """Probe -> its outcomes on the real and on the virtual GPU, where there are both."""
        real, virtual = (self.stacks[stack].get(mode, {}) for mode in ("real", "virtual"))
        return {id: (real[id], virtual[id]) for id in PROBES if id in real and id in virtual}

    @property
    def table(self) -> pandas.DataFrame:
        """Stacks: versions, probes run on both, how many do the same, and how many do as in the version matrix.

        The last column compares the virtual GPU with itself: the matrix has the torch that a stack pins, this record
        one torch for all.
        """
        import pandas

        rows = {}
        for name, entry in self.stacks.items():
            pairs = self.pairs(name)
            recorded = self.matrix.get(name, {}).get("outcomes", {})
            held = [id for id in pairs if id in recorded and recorded[id]["kind"] != "skipped"]
            rows[name] = {
                **{library: entry["resolved"][library] for library in LIBRARIES[:-1]},
                "probes": len(pairs),
                "same": sum(same(*pair) for pair in pairs.values()),
                "as in the matrix": f"{sum(same(pairs[id][1], recorded[id]) for id in held)} of {len(held)}",
            }
        return pandas.DataFrame.from_dict(rows, orient="index").rename_axis("stack")

    @property
    def differences(self) -> pandas.DataFrame:
        """The pairs that are not the same, one row for each kind of difference, with the reason."""
        import pandas

        rows: dict[tuple[str, str, str], list[str]] = {}
        for name in self.stacks:
            for id, (real, virtual) in self.pairs(name).items():
                if not same(real, virtual):
                    rows.setdefault((id, describe(real), describe(virtual)), []).append(name)
        return pandas.DataFrame(
            {
                "stacks": [", ".join(names) for names in rows.values()],
                "real GPU": [real for _, real, _ in rows],
                "virtual GPU": [virtual for _, _, virtual in rows],
                "why": [compared.why(REASONS, id) for id, _, _ in rows],
            },
            index=pandas.Index([id for id, _, _ in rows], name="probe"),
        )

    def _repr_html_(self) -> str:
        """The table, under it the differences, if there are any, and the record's origin."""
        found = self.differences
        page = f"<p>{LEGEND}</p>{self.table[['torch', 'probes', 'same', 'as in the matrix']].to_html(border=0)}"
        if len(found):
            left = "style='text-align: left; vertical-align: top'"
            heads = "".join(f"<th {left}>{head}</th>" for head in ("probe", *found.columns))
            body = "".join(
                f"<tr><th {left}><code>{id}</code></th>{cells}</tr>"
                for id, row in zip(found.index, found.itertuples(index=False), strict=True)
                for cells in ["".join(f"<td {left}>{with_code(text)}</td>" for text in row)]
            )
            head = f"<thead><tr>{heads}</tr></thead>"
            page += f"<p>What differs:</p><table class='dataframe'>{head}<tbody>{body}</tbody></table>"
        origin = self.origin._repr_html_() if self.origin is not None else ""
        return f"<div style='overflow-x: auto' tabindex='0'>{page}</div>{origin}"

    def __repr__(self) -> str:
        """The same in plain text."""
        return "\n\n".join(frame.to_string() for frame in (self.table, self.differences) if len(frame))
