"""Make the table of what CUDA's kernels take from the record of a real GPU.

    python -m sana_lab.accelerator.kernel_table [--check]

Of the record's sample inputs one half (`agreement.fold` 0) is used; how far the virtual GPU agrees in the other half
tells whether the rules hold beyond it. A rule is kept only if all calls that it speaks of agree.
"""

from __future__ import annotations

import argparse
import collections
import json
import sys
from typing import Any

from sana_lab import evidence

from . import agreement, kernels

RECORD = "operators_h200"

BY_HAND = frozenset(["tensor_split", "_scaled_mm_v2", "_int_mm", *kernels.ABSENT, *kernels.PRODUCTS])
"""Names whose rules are code."""

PREFIXES = {"nn.functional.": "", "torch.ops.aten.": "", "torch.": "", "linalg.": "linalg_", "fft.": "fft_"}
PREFIXES |= {"special.": "special_", "sparse.": "sparse_", "masked.": "_masked_", "jiterator": "jiterator"}
"""Modules in the table's names -> the same in the names of functions."""

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
    words: dict = collections.defaultdict(lambda: collections.defaultdict(set))
    refused: dict = collections.defaultdict(lambda: collections.defaultdict(set))
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
                words[function][here].add((exception, kernels.with_type(text, kind)))
        else:
            refused[function][types].add(said(on_gpu) if "raises" in on_gpu else None)
    return {
        "words": {
            function: {here: [*next(iter(there))] for here, there in sorted(pairs.items()) if len(there) == 1}
            for function, pairs in sorted(words.items())
        },
        "refused": {
            function: kept
            for function, rules in sorted(refused.items())
            if (kept := {types: [*rule] for types, (rule, *more) in sorted(rules.items()) if rule and not more})
        },
        "computed": {
            function: kept
            for function, kinds in sorted(computed.items())
            if (kept := sorted(types for types, seen in kinds.items() if seen == {True}))
        },
    }


def text_of(record: dict[str, Any]) -> str:
    """The table as it is stored."""
    made = {"record": {key: record[key] for key in ("when", "machine", "versions")}, **build(record["results"])}
    return json.dumps(made, ensure_ascii=False, indent=0, sort_keys=True) + "\n"


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the stored table is another one")
    text = text_of(evidence.load(RECORD))
    if parser.parse_args().check:
        return int(kernels.FILE.read_text(encoding="utf-8") != text)
    kernels.FILE.write_text(text, encoding="utf-8")
    print(f"{kernels.FILE.name}: {len(text)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
