"""Cases from `op_db`, PyTorch's own table of some seven hundred operators with sample inputs.

An id reads `operator.variant/type/sample/form/where`: the form is `call`, `in-place`, `out` or `grad`; where is `gpu`,
with every tensor on the GPU, or `cpu:PATH`, with one tensor left on the CPU. Sample inputs are made on the CPU from a
fixed seed and moved, so they are the same numbers on every machine. `plain/NAME` is a line of `plain_lines`.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import sys
import types
import unittest
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

from .plain_lines import LINES
from .registry import leading_words

TYPES = (
    "float32 float16 bfloat16 float64 complex64 complex128 int64 int32 int16 int8 uint8 bool float8_e4m3fn"
).split()
"""Types that every operator is tried in, whether the table lists them or not."""

REFERENCE = ("float32", "int64", "bool", "complex64")
"""The first of these that an operator takes is the type in which devices are mixed."""

SAMPLES, REFERENCE_SAMPLES = 2, 4
"""Sample inputs of a type, and of the reference type."""

MOST_SEEN = 48
"""Sample inputs that are looked at to find different ones."""

MOST_ELEMENTS = 200_000
"""Of a sample's tensors together; larger samples are left out."""

MOST_PLACES = 5
"""Tensors of a sample that are left on the CPU in turn."""

SLOW_ON_CUDA = ("jiterator",)
"""Operators that compile CUDA code for each call: in the reference type only."""

ASSERTS = ("out of range", "out of bounds", "out-of-bounds", "probability", "between 0 and 1", "value cannot be")
"""In what the CPU says of a value; on CUDA that is an assertion in a kernel, which ends the process' use of CUDA."""

LONGEST = 260
"""Characters of a message that are kept where it is longer than its leading words."""

LEFT_OUT = ("signal.windows",)
"""Need scipy or are factories that take no tensor in great number."""


@dataclasses.dataclass(frozen=True)
class Group:
    """An operator in one type."""

    name: str
    operator: Any  # an OpInfo, or the code of a plain line
    dtype: str


@dataclasses.dataclass(frozen=True)
class Case:
    """One call."""

    name: str
    call: Callable[[str], Any]
    with_cpu: bool  # whether the same call on the CPU is of interest


def prepare() -> None:
    """Let the table be imported where its test libraries are missing; silence its warnings."""
    warnings.simplefilter("ignore")
    try:
        import expecttest  # noqa: F401
    except ImportError:
        stub = types.ModuleType("expecttest")
        stub.TestCase, stub.ACCEPT = unittest.TestCase, False
        sys.modules["expecttest"] = stub


def groups(only: str = "") -> list[Group]:
    """Every operator of the table in every type, in a fixed order, then the plain lines."""
    from torch.testing._internal import common_methods_invocations as table

    found: dict[str, Group] = {}
    families = ("unary", "binary", "pointwise", "reduce", "other")
    operators = [*table.op_db, *(info for family in families for info in getattr(table, f"foreach_{family}_op_db"))]
    for info in operators:
        name = info.name + (f".{info.variant_test_name}" if info.variant_test_name else "")
        if only not in name or name.startswith(LEFT_OUT):
            continue
        known = {str(dtype).removeprefix("torch.") for dtype in (*info.dtypes, *info.dtypesIfCUDA)}
        for dtype in dict.fromkeys([*TYPES, *sorted(known - set(TYPES))]):
            if name.startswith(SLOW_ON_CUDA) and dtype != reference_type(info):
                continue
            found.setdefault(f"{name}/{dtype}", Group(f"{name}/{dtype}", info, dtype))
    for name, line in LINES.items():
        if only in f"plain/{name}":
            found[f"plain/{name}"] = Group(f"plain/{name}", line, "")
    return list(found.values())


def sample_groups(everything: list[Group], cases: int, seed: int) -> list[Group]:
    """Groups, chosen by `seed`, that together have about so many `cases` (four to a group)."""
    return random.Random(seed).sample(everything, min(len(everything), -(-cases // 4)))


def reference_type(info: Any) -> str:
    """The type in which devices are mixed."""
    known = {str(dtype).removeprefix("torch.") for dtype in info.dtypesIfCUDA}
    return next((dtype for dtype in REFERENCE if dtype in known), "float32")


def cases(group: Group) -> Iterator[Case]:
    """The calls of a group, in a fixed order."""
    if not group.dtype:
        yield Case(group.name, lambda device: run_line(group.operator, device), True)
        return
    info, reference = group.operator, group.dtype == reference_type(group.operator)
    for rank, (index, sample) in enumerate(chosen_samples(group, REFERENCE_SAMPLES if reference else SAMPLES)):
        forms = ["call"]
        if rank == 0 and info.inplace_variant is not None and info.inplace_variant is not info.op:
            forms.append("in-place")
        if rank == 0 and reference and info.supports_out and not info.name.startswith("_foreach"):
            forms.append("out")
        if rank == 0 and info.supports_autograd and group.dtype in ("float32", "bfloat16"):
            forms.append("grad")
        for form in forms:
            places = paths(sample) if reference else []
            places = places if len(places) + (form == "out") > 1 else []
            shown = [*places[: MOST_PLACES - 1], *places[MOST_PLACES - 1 :][-1:], *(["out"] if form == "out" else [])]
            for where in ("gpu", *(f"cpu:{place}" for place in shown)):
                yield Case(
                    f"{group.name}/{index}/{form}/{where}",
                    lambda device, form=form, where=where, sample=sample: run(info, sample, form, device, where),
                    where == "gpu",
                )


def chosen_samples(group: Group, most: int) -> list[tuple[int, Any]]:
    """Sample inputs with their numbers: the first, then those that differ in kind, then whatever there is."""
    options = {"num_input_tensors": (3,)} if group.operator.name.startswith("_foreach") else {}
    seen: list[tuple[int, Any]] = []
    try:
        made = group.operator.sample_inputs("cpu", getattr(torch, group.dtype), requires_grad=False, **options)
        for index, sample in enumerate(itertools.islice(made, MOST_SEEN)):
            if sum(tensor.numel() for _, tensor in tensors_of(sample)) <= MOST_ELEMENTS:
                seen.append((index, sample))
    except Exception:  # the table has no samples of this type, or no more
        pass
    kinds: dict[Any, tuple[int, Any]] = {}
    for index, sample in seen:
        kinds.setdefault(signature(sample), (index, sample))
    first = list(kinds.values())[:most]
    rest = [entry for entry in seen if entry[0] not in {index for index, _ in first}]
    return sorted([*first, *rest[: most - len(first)]], key=lambda entry: entry[0])


def signature(sample: Any) -> tuple:
    """What makes a sample another kind of call: which arguments are tensors, of how many dimensions; names."""
    shape = tuple((path, min(tensor.dim(), 3), tensor.dtype) for path, tensor in tensors_of(sample))
    return (shape, tuple(sorted(sample.kwargs)), tuple(type(value).__name__ for value in sample.args))


# ---- tensors in samples ---------------------------------------------------------------------------------------------


def tensors_of(sample: Any) -> list[tuple[str, torch.Tensor]]:
    """All tensors of a sample with their paths: `0` is the input, `2` the second of the other arguments, `1.0`, `w`."""
    found: list[tuple[str, torch.Tensor]] = []
    arguments = {**{str(number): value for number, value in enumerate((sample.input, *sample.args))}, **sample.kwargs}
    for path, value in arguments.items():
        walk(value, path, lambda path, tensor: found.append((path, tensor)))
    return found


def paths(sample: Any) -> list[str]:
    """Paths of a sample's tensors."""
    return [path for path, _ in tensors_of(sample)]


def walk(value: Any, path: str, visit: Callable[[str, torch.Tensor], Any]) -> Any:
    """`value` with each tensor replaced by what `visit` makes of it."""
    if isinstance(value, torch.Tensor):
        return visit(path, value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(walk(item, f"{path}.{number}", visit) for number, item in enumerate(value)))
    if isinstance(value, (list, tuple)):
        return type(value)([walk(item, f"{path}.{number}", visit) for number, item in enumerate(value)])
    if isinstance(value, dict):
        return {key: walk(item, f"{path}.{key}", visit) for key, item in value.items()}
    return value


def moved(sample: Any, device: str, where: str) -> tuple[tuple, dict]:
    """Arguments for a call: copies of the tensors on `device`, but for the one that `where` leaves on the CPU."""
    stays = where.removeprefix("cpu:")

    def move(path: str, tensor: torch.Tensor) -> torch.Tensor:
        if device == "cpu" or path == stays:
            return tensor.detach().clone()
        return tensor.detach().to(device, copy=True)

    args = tuple(walk(value, str(number), move) for number, value in enumerate((sample.input, *sample.args)))
    kwargs = {key: walk(value, key, move) for key, value in sample.kwargs.items()}
    if str(kwargs.get("device", "")) == "cpu":
        kwargs["device"] = device
    return args, kwargs


# ---- running --------------------------------------------------------------------------------------------------------


def run(info: Any, sample: Any, form: str, device: str, where: str) -> Any:
    """Make one call; what it returns, described."""
    args, kwargs = moved(sample, device, where)
    if form == "in-place":
        return describe(info.inplace_variant(*args, **kwargs))
    if form == "out":
        expected = info.op(*moved(sample, "cpu", "gpu")[0], **moved(sample, "cpu", "gpu")[1])
        target = "cpu" if where == "cpu:out" else device
        outputs = walk(expected, "", lambda _, tensor: torch.empty_like(tensor).to(target))
        outputs = outputs if isinstance(outputs, torch.Tensor) else tuple(outputs)
        return describe(info.op(*args, **kwargs, out=outputs))
    if form == "grad":
        leaves: list[torch.Tensor] = []

        def require(_: str, tensor: torch.Tensor) -> torch.Tensor:
            if tensor.is_floating_point():
                leaves.append(tensor.requires_grad_())
            return tensor

        args, kwargs = walk(args, "", require), walk(kwargs, "", require)
        results: list[torch.Tensor] = []
        walk(info.op(*args, **kwargs), "", lambda _, tensor: results.append(tensor))
        results = [tensor for tensor in results if tensor.requires_grad]
        if results:
            torch.autograd.backward(results, [torch.ones_like(tensor) for tensor in results])
        return describe([leaf.grad for leaf in leaves])
    return describe(info.op(*args, **kwargs))


def run_line(code: str, device: str) -> Any:
    """Run a plain line on `device`, which it calls `D`; `result` is what it returns."""
    names = {"torch": torch, "F": torch.nn.functional, "nn": torch.nn, "D": device}
    exec(code, names)
    return describe(names["result"])


def outcomes(case: Case, device: str) -> dict[str, Any]:
    """The outcome on `device` under `gpu`, and on the CPU under `cpu` where that is of interest.

    `same` stands for an outcome on the CPU that is the same but for the name of the device. A call that fails on the
    CPU because of a value is not made on CUDA: there it would be an assertion in a kernel.
    """
    on_cpu = outcome(case, "cpu") if case.with_cpu else None
    if on_cpu and device == "cuda" and any(words in on_cpu.get("words", "").lower() for words in ASSERTS):
        return {"cpu": on_cpu, "gpu": {"raises": "NotRun", "words": "a value that CUDA asserts"}}
    on_gpu = outcome(case, device)
    if on_cpu is None:
        return {"gpu": on_gpu}
    same = "raises" not in on_cpu and on_cpu == as_cpu(on_gpu) or on_cpu == on_gpu
    return {"cpu": "same" if same else on_cpu, "gpu": on_gpu}


def outcome(case: Case, device: str) -> dict[str, Any]:
    """What a call returns, or the type and the leading words of what it raises."""
    torch.manual_seed(0)
    try:
        result = {"returns": case.call(device)}
        if device == "cuda":
            torch.cuda.synchronize()
        return result
    except Exception as error:
        words, message = leading_words(str(error)), " ".join(str(error).partition("\n")[0].split())[:LONGEST]
        return {"raises": type(error).__name__, "words": words, **({"message": message} if message != words else {})}


def describe(value: Any) -> Any:
    """Device, type and shape of tensors, the kind of everything else."""
    if isinstance(value, torch.Tensor):
        layout = "" if value.layout == torch.strided else " " + str(value.layout).removeprefix("torch.")
        shape = "nested" if value.is_nested else str(list(value.shape))
        return f"{value.device} {str(value.dtype).removeprefix('torch.')} {shape}{layout}"
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        return [describe(item) for item in value]
    if isinstance(value, dict):
        return {str(key): describe(item) for key, item in value.items()}
    return value if value is None or isinstance(value, (bool, str)) else type(value).__name__


def as_cpu(value: Any) -> Any:
    """A described value with the GPU called `cpu`."""
    if isinstance(value, str):
        return value.replace("cuda:0 ", "cpu ", 1) if value.startswith("cuda:0 ") else value
    if isinstance(value, list):
        return [as_cpu(item) for item in value]
    if isinstance(value, dict):
        return {key: as_cpu(item) for key, item in value.items()}
    return value
