"""The conformance record as the book shows it: what a real GPU did in each case, and where the virtual one differs.

The cases are in tests/conformance; a test there runs each on the virtual GPU and compares. This module only shows.
"""

from __future__ import annotations

import dataclasses
import html
from typing import TYPE_CHECKING, Any

from .. import evidence
from ..evidence import compared
from ..messages import with_code
from .raw_memory import ARGUMENTS

if TYPE_CHECKING:
    import pandas

RECORD = "conformance_h200"
"""Name of the record in `sana_lab.evidence`."""

GROUPS = {
    "asserts": "Indices out of range",
    "backward": "Python inside the backward pass",
    "codes": "Eight-bit layers in parts",
    "devices": "Where tensors live",
    "errors": "Tensors that do not meet",
    "float8": "Products of FP8 codes",
    "layouts": "Nested, sparse, scripted",
    "libraries": "Libraries and Sana pipelines",
    "memory": "Memory",
    "parallel": "One batch over several GPUs",
    "raw": "Kernels that read memory as it lies",
    "runtime": "What torch.cuda answers",
    "two_gpus": "Two GPUs",
}
"""Group of a case (the file it stands in) -> heading."""

KNOWN_DIFFERENCES: dict[str, str] = {
    "kernel_product_input_on_cpu": "CUDA queues the product and meets the CPU's memory later, here at its own line",
    "backward_hook_thread": "CUDA's gradients have a thread of their own, here hooks run in the thread that asked",
    "scripted_moves": "TorchScript moves tensors in C++, which asks the CUDA library: refused in words",
    "float8_cast_saturates": "the record is of PyTorch 2.11, which casts what is beyond 464 to NaN, on processors too; "
    "2.13, which is installed here, to 448",
    "types_default_base": "`torch.Tensor` is a class of C++, which makes CPU tensors only",
}
"""Case -> why the virtual GPU differs from a real one. The test refuses a difference that is not listed, and a listed
case that agrees."""

LONGEST = 160
"""Characters of an outcome that the table shows."""


def conformance_table() -> Conformance:
    """The conformance record beside the known differences.

    Returns:
        `summary` and `cases` as data frames; shown in a notebook, all cases in a folded table.

    Raises:
        ValueError: the record is missing or damaged.
    """
    import pandas

    results = evidence.load(RECORD)["results"]
    cases = pandas.DataFrame(
        {
            "group": [GROUPS[result["group"]] for result in results.values()],
            "GPUs": [result["gpus"] for result in results.values()],
            "shows": [result["shows"] for result in results.values()],
            "outcome": ["raises" if "raises" in result["outcome"] else "returns" for result in results.values()],
            "real GPU": [describe(result["outcome"]) for result in results.values()],
            "virtual GPU": [compared.why(KNOWN_DIFFERENCES, name) or compared.SAME for name in results],
        },
        index=pandas.Index(results, name="case"),
    )
    return Conformance(cases)


@dataclasses.dataclass(frozen=True)
class Conformance:
    """What `conformance_table()` returns."""

    cases: pandas.DataFrame

    @property
    def summary(self) -> pandas.DataFrame:
        """Counts by group: all cases, those that return and those that raise, and those in which both GPUs agree."""
        import pandas

        groups = self.cases.groupby("group", sort=False)
        counts = pandas.DataFrame(
            {
                "cases": groups.size(),
                "return": groups["outcome"].agg(lambda outcome: int((outcome == "returns").sum())),
                "raise": groups["outcome"].agg(lambda outcome: int((outcome == "raises").sum())),
                "same": groups["virtual GPU"].agg(lambda outcome: int((outcome == "same").sum())),
            }
        )
        counts.loc["all"] = counts.sum()
        return counts.rename_axis(None)

    @property
    def differences(self) -> pandas.DataFrame:
        """The cases in which the virtual GPU differs, with the reason; no rows if there are none."""
        return self.cases[self.cases["virtual GPU"] != "same"]

    def _repr_html_(self) -> str:
        """All cases, folded away, in a box that scrolls."""
        heads = ("case", "on the real GPU", "virtual GPU")
        rows = []
        for group, cases in self.cases.groupby("group", sort=False):
            rows.append(f'<tr><th colspan="{len(heads)}">{html.escape(group)}</th></tr>')
            for name, case in cases.iterrows():
                cells = (f"{with_code(case['shows'])}<br><code>{name}</code>", with_code(case["real GPU"]))
                cells += (with_code(case["virtual GPU"]),)
                rows.append("<tr>" + "".join(f'<td style="text-align: left">{cell}</td>' for cell in cells) + "</tr>")
        head = "".join(f'<th style="text-align: left">{text}</th>' for text in heads)
        body = "".join(rows)
        return (
            f"<details><summary>All {len(self.cases)} cases</summary>"
            '<div style="max-height: 32rem; overflow: auto" tabindex="0">'
            f'<table class="dataframe"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></details>'
        )


def raw_memory_table() -> pandas.DataFrame:
    """What becomes of a view in each argument of bitsandbytes' CUDA kernels.

    Returns:
        One row an argument: whether a view is read right, why, and the line of bitsandbytes that says so.
    """
    import pandas

    return pandas.DataFrame(
        {
            "kernel": [argument.kernel for argument in ARGUMENTS],
            "argument": [argument.name for argument in ARGUMENTS],
            "a view is": ["read right" if argument.safe else "read wrong" for argument in ARGUMENTS],
            "because": [argument.why for argument in ARGUMENTS],
            "line": [argument.place for argument in ARGUMENTS],
        }
    )


def describe(outcome: dict[str, Any]) -> str:
    """An outcome in one line: what was returned, or the exception with its leading words."""
    if "raises" in outcome:
        return f"`{outcome['raises']}`: {outcome['words']}"
    text = _flat(outcome["returns"])
    return text if len(text) <= LONGEST else text[:LONGEST].rsplit(" ", 1)[0] + " …"


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        if value.keys() == {"device", "shape", "dtype"}:
            return f"{value['device']} {value['dtype'].removeprefix('torch.')} {value['shape']}"
        return "; ".join(f"{key}: {_flat(item)}" for key, item in value.items())
    if isinstance(value, list) and any(isinstance(item, dict | str) for item in value):
        return ", ".join(_flat(item) for item in value)
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
