"""How far two records of PyTorch's table of operators agree: one of a real GPU, one of the virtual GPU.

    python -m sana_lab.accelerator.agreement VIRTUAL [--before OLDER]     write the comparison as a record

The cases and the command that runs them are in tests/conformance (`operators`). An entry holds what a call did on
the GPU, `gpu`, and on the CPU, `cpu` ("same" where only the device's name differs): `{"returns": ...}` with device,
type and shape of each tensor, or `{"raises": type, "words": leading words}`.
"""

from __future__ import annotations

import collections
import dataclasses
import gzip
import json
import pathlib
import re
import sys
import zlib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import evidence
from ..commandline import run_command
from ..evidence import compared

if TYPE_CHECKING:
    import pandas

REAL, COMPARED = "operators_h200", "operators_virtual"
"""The records in `sana_lab.evidence`: what a real GPU did, and how far the virtual one agrees."""

NOT_COMPARED = ("NotRun", "ProcessDied", "TimeLimit")
"""Outcomes that say nothing of PyTorch."""

FORMS = {"call": "called", "in-place": "in place", "out": "with `out=`", "grad": "with its gradient", "": "plain lines"}

ABOUT_DEVICES = re.compile(
    r"same device|at least two devices|different device|on (the )?cpu|is on cuda|not on CUDA|on CUDA|device type|"
    r"should be the same|expected device|must be on|CUDA tensor|cuda tensor|on the GPU",
)
"""In the words with which CUDA refuses tensors of several devices."""


@dataclasses.dataclass(frozen=True)
class Name:
    """The parts of a case's id."""

    operator: str
    dtype: str
    sample: int
    form: str
    where: str


def parse(name: str) -> Name:
    """`addmm/float32/0/call/cpu:1` in its parts; a plain line has its own name, no type and no form."""
    parts = name.split("/")
    if parts[0] == "plain":
        return Name(parts[1], "", 0, "", "plain")
    operator, dtype, sample, form, where = parts
    return Name(operator, dtype, int(sample), form, where)


def fold(name: str) -> int:
    """0 or 1: which half of the sample inputs a case belongs to. Plain lines are divided by their name's length."""
    parts = parse(name)
    return (len(parts.operator) if parts.where == "plain" else parts.sample) % 2


def verdict(real: dict[str, Any], virtual: dict[str, Any]) -> str:
    """As `compared.verdict`; `skipped` if either did not run."""
    if real.get("raises") in NOT_COMPARED or virtual.get("raises") in NOT_COMPARED:
        return "skipped"
    return compared.verdict(real, virtual)


def refuses_devices(entry: dict[str, Any], name: str) -> bool:
    """Whether a real GPU refuses a call because one of its tensors is on the CPU."""
    outcome = entry["gpu"]
    if "raises" not in outcome or not (":" in name or name.startswith("plain/")):
        return False
    return bool(ABOUT_DEVICES.search(outcome.get("message", outcome["words"])))


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Figures of a comparison. Shares are None where there is nothing to compare."""

    cases: int
    same_kind: int
    both_raise: int
    same_error: int
    both_return: int
    same_value: int
    refused: int
    accepted: int
    """Cases that CUDA refuses because of devices, and those of them that the virtual GPU lets through."""
    verdicts: dict[str, str]

    @property
    def shares(self) -> dict[str, float | None]:
        """Same kind of outcome, same error where both raise, same value where both return."""
        pairs = {
            "same kind": (self.same_kind, self.cases),
            "same error": (self.same_error, self.both_raise),
            "same value": (self.same_value, self.both_return),
        }
        return {name: part / whole if whole else None for name, (part, whole) in pairs.items()}


def compare(real: dict[str, Any], virtual: dict[str, Any], only: Any = None) -> Agreement:
    """Compare the results of two records, in the cases that both have and that `only(id)` picks."""
    verdicts, counts = {}, collections.Counter()
    for name, entry in real.items():
        if name not in virtual or (only is not None and not only(name)):
            continue
        found = verdict(entry["gpu"], virtual[name]["gpu"])
        if found == "skipped":
            continue
        verdicts[name] = found
        counts["cases"] += 1
        counts["kind"] += found != "kind"
        raises = "raises" in entry["gpu"], "raises" in virtual[name]["gpu"]
        if raises == (True, True):
            counts["both_raise"] += 1
            counts["same_error"] += found == "same"
        elif raises == (False, False):
            counts["both_return"] += 1
            counts["same_value"] += found == "same"
        if raises[0] and refuses_devices(entry, name):
            counts["refused"] += 1
            counts["accepted"] += not raises[1]
    return Agreement(
        counts["cases"],
        counts["kind"],
        counts["both_raise"],
        counts["same_error"],
        counts["both_return"],
        counts["same_value"],
        counts["refused"],
        counts["accepted"],
        verdicts,
    )


# ---- the comparison as a record -------------------------------------------------------------------------------------

REASONS: dict[str, str] = {
    r".*jiterator.*": "`jiterator` compiles CUDA code, which nothing here can run",
    r".*scaled_mm.*": "scaled products of 8-bit floats with the scales of version 2: not computed",
    r".*(_flash_attention|_efficient_attention).*": "attention kernels called by their own names: not computed",
    r".*(batch_norm|instance_norm).*": "batch norm: the kernel of cuDNN, its words, types and sizes of what it saves",
    r".*native_layer_norm.*": "16-bit layer norm: CUDA keeps mean and deviation in float32",
    r".*(linalg|cholesky|lu|qr|svd|eig|pca_lowrank|logdet).*": (
        "linear algebra: which of several kernels is reached first"
    ),
    r".*(rrelu|adaptive_avg_pool3d|pad\.|logcumsumexp|median|einsum|tril_indices|triu_indices).*": (
        "types that decide together with a size or a mode"
    ),
    r".*conv.*": "convolutions: which kernel cuDNN or a processor picks",
    r".*(unfold|embedding_bag|pdist|grid_sample).*": "kernels of one function without a rule",
    r".*sparse.*": "sparse tensors of two devices",
}
"""Operators -> why the virtual GPU differs from a real one in some of their cases; see `compared.Reasons`."""

OTHER = "single calls without a rule of their own"


def reason(name: str) -> str:
    """Why the virtual GPU differs in a case."""
    return compared.why(REASONS, parse(name).operator) or OTHER


def figures(agreement: Agreement) -> dict[str, int]:
    """The counts of a comparison."""
    counts = dataclasses.asdict(agreement)
    del counts["verdicts"]
    return counts


def record(virtual: dict[str, Any], before: dict[str, Any] | None = None) -> dict[str, Any]:
    """A record of how far `virtual`, a record of the virtual GPU, agrees with the real GPU's, and an older one did."""
    real = evidence.load(REAL)["results"]
    halves = {"all": None, "half 0": lambda name: fold(name) == 0, "half 1": lambda name: fold(name) == 1}
    runs = {"now": virtual["results"], **({"before": before["results"]} if before else {})}
    found = {
        run: {half: figures(compare(real, results, only)) for half, only in halves.items()}
        for run, results in runs.items()
    }
    verdicts = compare(real, virtual["results"]).verdicts
    return {
        **{key: virtual[key] for key in ("machine", "versions", "seed", "when")},
        "what": "How far the virtual GPU agrees with a real one in PyTorch's own table of operators.",
        "command": "python -m sana_lab.accelerator.agreement VIRTUAL --before OLDER",
        "results": {
            "figures": found,
            "differences": {name: found for name, found in sorted(verdicts.items()) if found != "same"},
        },
    }


def agreement_table() -> pandas.DataFrame:
    """The four figures, before the virtual GPU followed the table and now, for both halves of the samples.

    Raises:
        ValueError: the record is missing or damaged.
    """
    import pandas

    rows = {}
    for run, halves in reversed(evidence.load(COMPARED)["results"]["figures"].items()):
        for half, counts in halves.items():
            share = Agreement(**counts, verdicts={}).shares
            rows[f"{run}, {half}"] = {
                "cases": counts["cases"],
                **{name: f"{100 * value:.1f} %" for name, value in share.items() if value is not None},
                "refused devices": counts["refused"],
                "of them accepted": counts["accepted"],
            }
    return pandas.DataFrame.from_dict(rows, orient="index")


def differences_table() -> pandas.DataFrame:
    """What still differs, by reason: cases in which one returns and one raises, with other words, with other values."""
    import pandas

    counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for name, found in evidence.load(COMPARED)["results"]["differences"].items():
        counts[reason(name)][found] += 1
    heads = {"kind": "returns or raises", "error": "words", "value": "values"}
    rows = [
        {"reason": why, **{head: seen[key] for key, head in heads.items()}}
        for why, seen in sorted(counts.items(), key=lambda item: (item[0] == OTHER, -item[1].total()))
    ]
    return pandas.DataFrame(rows, columns=["reason", *heads.values()])


SHOWN = "float32 float16 bfloat16 float64 complex64 int64 int32 int8 uint8 bool float8_e4m3fn".split()
"""Types that the table of kernels shows."""


def kernels_table() -> pandas.DataFrame:
    """Which operator CUDA computes in which type: `yes`, `no`, or `some` of its sample inputs, from the real record."""
    import pandas

    seen: dict[str, dict[str, set[bool]]] = collections.defaultdict(lambda: collections.defaultdict(set))
    for name, entry in evidence.load(REAL)["results"].items():
        parts, outcome = parse(name), entry["gpu"]
        if parts.where == "gpu" and parts.form == "call" and outcome.get("raises") not in NOT_COMPARED:
            seen[parts.operator][parts.dtype].add("raises" not in outcome)
    words = {frozenset([True]): "yes", frozenset([False]): "no", frozenset([True, False]): "some"}
    rows = {
        operator: {dtype: words.get(frozenset(kinds.get(dtype, ())), "") for dtype in SHOWN}
        for operator, kinds in sorted(seen.items())
    }
    return pandas.DataFrame.from_dict(rows, orient="index", columns=SHOWN)


def read(path: pathlib.Path) -> dict[str, Any]:
    """A record from a file, compressed or not.

    Raises:
        ValueError: it is damaged, or no record. The text names it.
        OSError: it cannot be read.
    """
    try:
        data = path.read_bytes()
        found = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile, RecursionError) as reason:
        raise ValueError(f"{path} is damaged ({reason}): record it again") from None
    if wrong := evidence.journal.complaint(found, {"results": dict, "machine": dict, "versions": dict}):
        raise ValueError(f"{path} is no record ({wrong}): give what `python tests/conformance/run.py operators` wrote")
    return found


def _command(
    virtual: Annotated[pathlib.Path, typer.Argument(metavar="VIRTUAL", help="Record of the virtual GPU.")],
    before: Annotated[
        pathlib.Path | None, typer.Option(metavar="OLDER", help="An older one, of the same cases.")
    ] = None,
) -> None:
    """How far two records of PyTorch's table of operators agree: one of a real GPU, one of the virtual GPU."""
    made = record(read(virtual), read(before) if before else None)
    path = evidence.FOLDER / f"{COMPARED}.json"
    path.write_text(json.dumps(made, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    for name, halves in made["results"]["figures"].items():
        print(name, {half: counts for half, counts in halves.items()})


def main(arguments: list[str] | None = None) -> int:
    """Run the command and give its exit status."""
    return run_command(_command, "python -m sana_lab.accelerator.agreement", arguments)


if __name__ == "__main__":
    sys.exit(main())
