"""Make the table of what CUDA's kernels take from the record of a real GPU.

    python -m sana_lab.accelerator.kernel_table [--check]

Of the record's sample inputs one half (`agreement.fold` 0) is used; how far the virtual GPU agrees in the other half
tells whether the rules hold beyond it. A rule is kept only if all calls that it speaks of agree.
"""

from __future__ import annotations

import collections
import json
import sys
from typing import Annotated, Any

import typer

from sana_lab import evidence

from ..commandline import run_command
from . import agreement, kernels
from .kernel_checks import BY_HAND

RECORD = "operators_h200"

PREFIXES = {"nn.functional.": "", "torch.ops.aten.": "", "torch.": "", "linalg.": "linalg_", "fft.": "fft_"}
PREFIXES |= {"special.": "special_", "sparse.": "sparse_", "masked.": "_masked_", "jiterator": "jiterator"}
"""Modules in the table's names -> the same in the names of functions."""

ALSO = {f"max_pool{n}d": [f"max_pool{n}d_with_indices"] for n in (1, 2, 3)}
"""Functions that call another one, by which name the virtual GPU sees them."""

VARIANTS = "amax amin mean prod sum bicubic bilinear linear nearest area trilinear reflect replicate circular".split()
"""Variants of operators that are a text among the arguments."""


def names_of(operator: str, form: str) -> tuple[str, str]:
    """The bare name of the function that a case calls, and the text among its arguments that makes its variant."""
    for prefix, instead in PREFIXES.items():
        if operator.startswith(prefix):
            operator = instead + operator.removeprefix(prefix)
            break
    name, _, variant = operator.partition(".")
    if form == "in-place" and not name.endswith("_"):
        name += "_"
    return name, variant if variant in VARIANTS else ""


def said(outcome: dict[str, Any]) -> tuple[str, str]:
    """Exception and full words."""
    return outcome["raises"], outcome.get("message", outcome["words"])


def build(results: dict[str, Any]) -> dict[str, Any]:
    """The table, from the cases of one half with everything on the GPU."""
    words: dict = collections.defaultdict(lambda: collections.defaultdict(list))
    refused: dict = collections.defaultdict(lambda: collections.defaultdict(list))
    computed: dict = collections.defaultdict(lambda: collections.defaultdict(set))
    for name, entry in results.items():
        parts, on_gpu = agreement.parse(name), entry["gpu"]
        if parts.where != "gpu" or parts.form == "grad" or agreement.fold(name):
            continue
        if on_gpu.get("raises") in agreement.NOT_COMPARED:
            continue
        on_cpu = on_gpu if entry["cpu"] == "same" else entry["cpu"]
        function, variant = names_of(parts.operator, parts.form)
        if function in BY_HAND:
            continue
        types = f"{parts.dtype}|{variant}" if variant else parts.dtype
        if "raises" in on_cpu:
            here, kind = kernels.template(said(on_cpu)[1])
            computed[function][types].add("raises" not in on_gpu)
            if "raises" in on_gpu:
                exception, text = said(on_gpu)
                words[function][here].append((kind, variant, (exception, kernels.with_type(text, kind))))
        else:
            refused[function][types].append(said(on_gpu) if "raises" in on_gpu else None)
    return {
        "words": {
            function: {key: rule for here, seen in sorted(pairs.items()) for key, rule in translations(here, seen)}
            for function, pairs in sorted(words.items())
        },
        "refused": {
            function: kept
            for function, rules in sorted(refused.items())
            if (kept := {types: [*most(seen)] for types, seen in sorted(rules.items()) if None not in seen})
        },
        "computed": {
            function: kept
            for function, kinds in sorted(computed.items())
            if (kept := sorted(types for types, seen in kinds.items() if seen == {True}))
        },
    }


def most(seen: list[Any]) -> Any:
    """The most frequent of them."""
    return collections.Counter(seen).most_common(1)[0][0]


def translations(here: str, seen: list[tuple[str, str, Any]]) -> list[tuple[str, list[str]]]:
    """The words of CUDA for those of a processor: one rule, or one for each type or text where they depend on it."""
    if len({there for _, _, there in seen}) == 1:
        return [(here, [*seen[0][2]])]
    rules = []
    for number in (0, 1):
        groups: dict[str, list] = collections.defaultdict(list)
        for entry in seen:
            groups[entry[number]].append(entry[2])
        clear = {key: rules[0] for key, rules in groups.items() if key and len(set(rules)) == 1}
        rules += [(f"{here}|{key}", [*rule]) for key, rule in sorted(clear.items())]
    return [*rules, (here, [*most([there for _, _, there in seen])])]


def text_of(record: dict[str, Any]) -> str:
    """The table as it is stored."""
    parts = build(record["results"])
    for rules in parts.values():
        for name, others in ALSO.items():
            rules.update({other: rules[name] for other in others if name in rules})
    made = {"record": {key: record[key] for key in ("when", "machine", "versions")}, **parts}
    return json.dumps(made, ensure_ascii=False, indent=0, sort_keys=True) + "\n"


def _command(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail if the stored table is another one.")
    ] = False,
) -> int:
    """Make the table of what CUDA's kernels take from the record of a real GPU."""
    text = text_of(evidence.load(RECORD))
    if check:
        return int(kernels.FILE.read_text(encoding="utf-8") != text)
    kernels.FILE.write_text(text, encoding="utf-8")
    print(f"{kernels.FILE.name}: {len(text)} bytes")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command and give its exit status."""
    return run_command(_command, "python -m sana_lab.accelerator.kernel_table", arguments)


if __name__ == "__main__":
    sys.exit(main())
