"""Which types CUDA's kernels take: what it refuses where a processor computes, and the other way round.

The table, `kernels.json`, is made from a run on a real GPU (`python -m sana_lab.accelerator.kernel_table`): a
call's name and type decide, never its numbers. It is read when a call first fails or meets a name that it
refuses. Three parts:

    words     name -> what a processor's kernel says -> [exception, what CUDA's says]
    refused   name -> type -> [exception, what CUDA says], where a processor computes
    computed  name -> types, where CUDA computes and a processor does not: here through a wider type

A text holds `{}` for the name of a type. The type is that of a call's first tensor; `uint8|bilinear` is for calls with
that text among their arguments.
"""

from __future__ import annotations

import functools
import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

import torch

from . import words
from .ledger import Ledger, Tensor
from .mismatch import tensors_in

FILE = pathlib.Path(__file__).with_name("kernels.json")

SCALAR = re.compile(
    r"\b(Byte|Char|Short|Int|Long|Half|Float|Double|ComplexHalf|ComplexFloat|ComplexDouble|Bool|BFloat16|Float8_\w+)\b"
)
"""Types as C++ names them."""

WIDER = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.complex32: torch.complex64,
    torch.float8_e4m3fn: torch.float32,
    torch.float8_e5m2: torch.float32,
    torch.bool: torch.int64,
    **dict.fromkeys([torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64], torch.float64),
}
"""The type in which a processor computes what it does not in the first."""

EXCEPTIONS = {"RuntimeError": RuntimeError, "NotImplementedError": NotImplementedError, "TypeError": TypeError}

@functools.cache
def table() -> dict[str, dict[str, Any]]:
    """The table, read once."""
    return json.loads(FILE.read_text(encoding="utf-8"))


@functools.cache
def anywhere() -> dict[str, list[str]]:
    """What a processor's kernel says -> what CUDA's says, where all names agree."""
    found: dict[str, set[tuple[str, str]]] = {}
    for pairs in table()["words"].values():
        for here, there in pairs.items():
            found.setdefault(here, set()).add(tuple(there))
    return {here: list(next(iter(there))) for here, there in found.items() if len(there) == 1}


def template(text: str) -> tuple[str, str]:
    """A message with `{}` for the first type that it names, and that type (empty if there is none)."""
    match = SCALAR.search(text)
    return (SCALAR.sub(lambda m: "{}" if m[0] == match[0] else m[0], text), match[0]) if match else (text, "")


def with_type(text: str, kind: str) -> str:
    """`text` with `{}` for the type `kind`."""
    return SCALAR.sub(lambda match: "{}" if match[0] == kind else match[0], text)


def keys_of(args: tuple, kwargs: dict) -> list[str]:
    """What the table may know a call by: the type of its first tensor, with each text among its arguments and without.

    `uint8|bilinear`, `uint8`.
    """
    tensor = next(iter(tensors_in((args, kwargs))), None)
    dtype = str(kwargs.get("dtype") if tensor is None else tensor.dtype).removeprefix("torch.")
    texts = [value for value in (*args, *kwargs.values()) if type(value) is str]
    return [*(f"{dtype}|{text}" for text in texts), dtype]


def wrap(ledger: Ledger, name: str, handler: Callable) -> Callable:
    """`handler`, for a name of which CUDA refuses some types that a processor takes: see `refused`."""
    known = PRODUCT_TYPES if name in PRODUCTS else table()["refused"].get(name)
    if name in ABSENT:
        known = ["float32", "float64", "float16", "bfloat16"]
    if known is None:
        return handler
    first = frozenset(getattr(torch, key.partition("|")[0]) for key in known if hasattr(torch, key.partition("|")[0]))

    def checked(func: Callable, args: tuple, kwargs: dict) -> Any:
        tensor = args[0] if args else None
        if not isinstance(tensor, Tensor):
            tensor = next(iter(tensors_in((args, kwargs))), None)
        if tensor is None or tensor.dtype not in first or ledger.index_of(tensor) < 0:
            return handler(func, args, kwargs)
        refusal = refusal_of(name, args, kwargs)
        if refusal is None:
            return handler(func, args, kwargs)
        if not name.endswith("_") and "out" not in kwargs:
            handler(func, args, kwargs)  # a mistake that both devices see comes first
        raise refusal

    return checked


def refusal_of(name: str, args: tuple, kwargs: dict) -> RuntimeError | None:
    """What CUDA says to a call that a processor computes, if it does."""
    if name in ABSENT:
        return absent(name, args, kwargs)
    keys = keys_of(args, kwargs)
    if name in PRODUCTS:
        return _product_refusal(name, keys[-1], tensors_in((args, kwargs)))
    rules = table()["refused"].get(name, {})
    rule = next((rules[key] for key in keys if key in rules), None)
    return None if rule is None else _error(rule, "")


ABSENT = frozenset("histogram histogramdd narrow_copy _sparse_mm sparse_mm".split())
"""Functions some of whose operators CUDA does not have."""


def absent(name: str, args: tuple, kwargs: dict) -> NotImplementedError | None:
    """What CUDA says to such a function: which operator it lacks depends on the form of the call."""
    bins = args[1] if len(args) > 1 else kwargs.get("bins")
    if name == "histogram":
        tail = "bins_tensor" if isinstance(bins, Tensor) else "bin_ct"
        return words.no_kernel(f"histogram.{tail}{'_out' * ('out' in kwargs)}")
    if name == "histogramdd":
        tensors = isinstance(bins, (list, tuple)) and bins and isinstance(bins[0], Tensor)
        return words.no_kernel("_histogramdd_from_bin_tensors" if tensors else "_histogramdd_bin_edges")
    if name == "narrow_copy":
        return words.no_kernel("narrow_copy.out") if "out" in kwargs else None
    reduces = any(isinstance(value, str) for value in (*args, *kwargs.values()))
    return words.no_kernel("_sparse_mm_reduce_impl", "SparseCsrCUDA") if reduces else None


PRODUCTS = frozenset("matmul __matmul__ __rmatmul__ __imatmul__ inner".split())
"""Products whose kernel depends on the number of dimensions (ATen/native/LinearAlgebra.cpp, `_matmul_impl`)."""

PRODUCT_TYPES = "uint8 int8 int16 int32 int64 float8_e4m3fn".split()
"""Types that cuBLAS does not multiply."""


def _product_refusal(name: str, dtype: str, tensors: list[torch.Tensor]) -> RuntimeError | None:
    if dtype not in PRODUCT_TYPES or len(tensors) < 2:
        return None
    a, b = (tensor.dim() for tensor in tensors[:2])
    if 0 in (a, b):
        return None
    if name == "inner":
        kernel = "dot" if a == b == 1 else "addmm_cuda"
    elif a == b == 1:
        kernel = "dot"
    elif b == 1 or a == 1:
        kernel = "addmv_impl_cuda"
    else:
        kernel = "addmm_cuda" if min(a, b) == 2 else "baddbmm_cuda"
    if dtype.startswith("float8") and kernel in ("dot", "addmv_impl_cuda", "baddbmm_cuda"):
        return None  # a processor refuses those as well
    return NotImplementedError(f'"{kernel}" not implemented for \'{cpp_name(dtype)}\'')


def explain(ledger: Ledger, name: str, func: Callable, args: tuple, kwargs: dict, error: RuntimeError) -> Any:
    """What CUDA does where a processor said `error`: it computes as well (the result is returned), or says it its way.

    Raises:
        RuntimeError: CUDA's words. Nothing is raised, and `error` returned, where the table knows nothing.
    """
    home = ledger.home((args, kwargs))
    target = kwargs.get("device")
    if home < 0 and (target is None or torch.device(target).type != "cuda"):
        return error
    known = table()["computed"].get(name, ())
    if any(key in known for key in keys_of(args, kwargs)):
        result = _through_wider(func, args, kwargs, name.endswith("_"))
        ledger.place_all(result, home if home >= 0 else ledger.devices.resolve(target).index)
        return result
    here, kind = template(str(error).partition("\n")[0])
    rule = table()["words"].get(name, {}).get(here) or anywhere().get(here)
    if rule is not None:
        raise _error(rule, kind) from None
    return error


def cpp_name(dtype: str) -> str:
    """`float8_e4m3fn` as C++ spells it: `Float8_e4m3fn`."""
    names = {"uint8": "Byte", "int8": "Char", "int16": "Short", "int32": "Int", "int64": "Long", "float16": "Half"}
    names |= {"float32": "Float", "float64": "Double", "bfloat16": "BFloat16", "complex32": "ComplexHalf"}
    names |= {"complex64": "ComplexFloat", "complex128": "ComplexDouble"}
    return names.get(dtype, dtype.capitalize())


def _error(rule: list[str], kind: str) -> RuntimeError:
    text = rule[1].replace("{}", kind)
    absent = re.match(r"Could not run 'aten::([\w.]+)' with arguments from the '(\w+)' backend", text)
    if absent:
        return words.no_kernel(*absent.groups())
    return EXCEPTIONS.get(rule[0], RuntimeError)(text)


def _through_wider(func: Callable, args: tuple, kwargs: dict, in_place: bool) -> Any:
    """Compute in a wider type; results in that type are given back in the type of the call."""
    given = tensors_in((args, kwargs))
    narrow = next((tensor.dtype for tensor in given if tensor.dtype in WIDER), kwargs.get("dtype"))
    wide = WIDER[narrow]

    def convert(value: Any, before: torch.dtype, after: torch.dtype) -> Any:
        if isinstance(value, Tensor):
            return value.to(after) if value.dtype == before else value
        if isinstance(value, (list, tuple)):
            items = [convert(item, before, after) for item in value]
            return type(value)(items) if type(value) in (list, tuple) else tuple(items)
        if isinstance(value, dict):
            return {key: convert(item, before, after) for key, item in value.items()}
        return after if value is before else value

    widened = {key: value for key, value in kwargs.items() if key != "out"}
    with torch._C.DisableTorchFunctionSubclass():
        result = func(*convert(args, narrow, wide), **convert(widened, narrow, wide))
        result = convert(result, wide, narrow)
        target = args[0] if in_place else kwargs.get("out")
        return target.copy_(result) if isinstance(target, Tensor) else result
