"""PyTorch's own table of operators, read to learn which of them compare devices, and in which order.

`native_functions.yaml` ships inside every PyTorch wheel (torchgen/packaged). CUDA's kernels are wrapped by generated
code that compares the devices of all tensor arguments, in the order of the table, unless the entry says
`device_check: NoCheck` (torchgen/dest/register_dispatch_key.py, `gen_device_check`). The file is read once, and only
when devices do mix, that is, on the way to an error message.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import re
import warnings


@dataclasses.dataclass(frozen=True)
class Operator:
    """One entry of the table."""

    name: str
    overload: str
    arguments: tuple[str, ...]  # in order, positional first
    tensors: frozenset[str]  # those that are a tensor, an optional tensor or a list of tensors
    checked: bool  # a CUDA kernel of its own, whose generated wrapper compares devices
    structured: bool  # one kernel body for the functional, the in-place and the `out=` form
    composite: bool = False  # made of other operators on CUDA
    outputs: frozenset[str] = frozenset()  # arguments that only an `out=` variant has

    def kernel(self, in_place: bool = False) -> str:
        """The wrapper's name, as messages show it after `wrapper_CUDA_`."""
        name = self.name + "_" * in_place
        if self.structured:
            return f"{name}_{self.overload}" if self.overload else name
        return f"{self.overload}_{name}"


@functools.cache
def operators() -> dict[str, list[Operator]]:
    """All functional and in-place operators by name; empty, with a warning, where the table is not there."""
    table: dict[str, list[Operator]] = {}
    for entry in _entries():
        operator = _parse(entry)
        if operator is not None:
            table.setdefault(operator.name, []).append(operator)
    return table


@functools.cache
def operator(name: str, overload: str) -> Operator | None:
    """The one operator of this name and overload (`""` or `default` for the one without), `out=` variants too."""
    return _by_overload().get((name, "" if overload == "default" else overload))


@functools.cache
def _by_overload() -> dict[tuple[str, str], Operator]:
    found = (_parse(entry, out=True) for entry in _entries())
    return {(operator.name, operator.overload): operator for operator in found if operator is not None}


@functools.cache
def _entries() -> list[str]:
    try:
        import torchgen

        path = pathlib.Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
        text = path.read_text(encoding="utf-8")
    except (ImportError, OSError) as reason:
        warnings.warn(
            f"PyTorch's table of operators cannot be read ({reason}): the virtual GPU treats operators that it does "
            "not know itself like additions where their tensors are on several devices.",
            stacklevel=2,
        )
        return []
    return re.split(r"^- func: ", text, flags=re.MULTILINE)[1:]


def find(name: str, given: int) -> Operator | None:
    """The operator that a call of `name` with `given` arguments reaches: the first overload that takes that many."""
    candidates = operators().get(name, [])
    fitting = [operator for operator in candidates if len(operator.arguments) >= given]
    with_tensors = sorted(fitting, key=lambda operator: -len(operator.tensors))
    return with_tensors[0] if with_tensors else None


def _parse(entry: str, out: bool = False) -> Operator | None:
    """One entry of the table, None for a variant with `out=`, unless `out` asks for these too."""
    head = re.match(r"(\w+)(?:\.(\w+))?\((.*)\) ->", entry)
    if head is None:
        return None
    name, overload, signature = head.groups()
    if not out and re.search(r"Tensor\(\w!\) (?!self\b)", signature):
        return None  # an `out=` variant: Python calls reach it by another door
    arguments, tensors = [], set()
    for part in signature.split(", "):
        words = part.split("=")[0].split(" ")
        if len(words) == 2:
            arguments.append(words[1])
            if words[0].startswith("Tensor"):
                tensors.add(words[1])
    generated = "structured_delegate:" in entry or "ufunc_inner_loop:" in entry
    has_kernel = generated or re.search(r"^ +(\w+, )*CUDA(, \w+)*:", entry, re.MULTILINE)
    checked = bool(has_kernel) and "device_check: NoCheck" not in entry
    structured = "structured_delegate:" in entry
    composite = not has_kernel and ("Composite" in entry or "dispatch:" not in entry)
    written = frozenset(re.findall(r"Tensor\(\w!\)(?:\[\])? (?!self\b)(\w+)", signature.partition("*, ")[2]))
    return Operator(name, overload or "", tuple(arguments), frozenset(tensors), checked, structured, composite, written)
