"""Which types CUDA's kernels take: what it refuses where a processor computes, and the other way round.

The table, `kernels.json`, is made from a run on a real GPU (`python -m sana_lab.accelerator.kernel_table`): a
call's name and type decide, never its numbers. It is read when a call first fails or meets a name that it
refuses. Three parts:

    words     name -> what a processor's kernel says -> [exception, what CUDA's says]; with `|` and a type or a text
              among the arguments where CUDA's words depend on it
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
from .kernel_checks import CHECKS, LACKING
from .ledger import MIXED, Ledger, Tensor, tensors_in

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

_HALF = {torch.float32: torch.float16, torch.complex64: torch.complex32}
BACK = {torch.float16: _HALF, torch.complex32: _HALF}
"""Types in which results come back, where that is not the wider type alone: half precision has two."""

OF_TYPES = re.compile("not implemented|[Uu]nsupported dtype|support tensors of type|same dtype|Could not run")
"""In what a processor's kernel says of a type."""

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
    rules = table()["refused"].get(name, {})
    types, _ = CHECKS.get(name, ((), None))
    known = {getattr(torch, key.partition("|")[0], None) for key in rules}
    if not known and not types:
        return handler
    first = frozenset([*known, *types])

    def checked(func: Callable, args: tuple, kwargs: dict) -> Any:
        tensor = args[0] if args else None
        if not isinstance(tensor, Tensor):
            tensor = next(iter(tensors_in((args, kwargs))), None)
        if tensor is None or tensor.dtype not in first or ledger.index_of(tensor) < 0:
            return handler(func, args, kwargs)
        refusal = refusal_of(name, args, kwargs)
        if refusal is None:
            return handler(func, args, kwargs)
        if not name.endswith("_") and "out" not in kwargs and ledger.home((args, kwargs)) != MIXED:
            try:
                handler(func, args, kwargs)  # a mistake that both devices see comes first
            except RuntimeError as error:
                if not OF_TYPES.search(str(error)):
                    raise
        refusal.is_cudas = True
        raise refusal from None

    return checked


def refusal_of(name: str, args: tuple, kwargs: dict) -> RuntimeError | None:
    """What CUDA says to a call that a processor computes, if it does. Without elements no kernel runs."""
    keys = keys_of(args, kwargs)
    types, check = CHECKS.get(name, ((), None))
    empty = any(not tensor.numel() for tensor in tensors_in((args, kwargs)))
    if empty and name not in LACKING:
        return None
    if check is not None and getattr(torch, keys[-1], None) in types:
        refusal = check(name, args, kwargs)
        if refusal is not None:
            return refusal
    rules = table()["refused"].get(name, {})
    rule = next((rules[key] for key in keys if key in rules), None)
    return None if rule is None else _error(rule, "")


def explain(ledger: Ledger, name: str, func: Callable, args: tuple, kwargs: dict, error: RuntimeError) -> Any:
    """What CUDA does where a processor said `error`: it computes as well (the result is returned), or says it its way.

    Raises:
        RuntimeError: CUDA's words. Nothing is raised, and `error` returned, where the table knows nothing.
    """
    home = ledger.home((args, kwargs))
    target = kwargs.get("device")
    if hasattr(error, "is_cudas"):
        return error
    if home < 0 and (target is None or torch.device(target).type != "cuda"):
        return error
    known, keys = table()["computed"].get(name, ()), keys_of(args, kwargs)
    if any(key in known for key in keys) or str(error) == "ZeroDivisionError":
        if name in INSTEAD:
            func = functools.partial(INSTEAD[name], func)
        result = _through_wider(func, args, kwargs, name.endswith("_"))
        ledger.place_all(result, home if home >= 0 else ledger.devices.resolve(target).index)
        return result
    here, kind = template(" ".join(str(error).partition("\n")[0].split())[:LONGEST])
    pairs = table()["words"].get(name, {})
    variants = [f"{here}|{key.partition('|')[2]}" for key in keys if "|" in key]
    rule = next((pairs[key] for key in [*variants, f"{here}|{kind}", here] if key in pairs), None) or anywhere().get(
        here
    )
    if rule is not None:
        raise _error(rule, kind) from None
    return error


LONGEST = 260
"""Characters of a message that the record keeps."""


def _nansum(func: Callable, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return torch.sum(torch.where(torch.isnan(tensor), torch.zeros_like(tensor), tensor), *args, **kwargs)


def _nanmean(func: Callable, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    kwargs.pop("out", None)
    options = {key: value for key, value in kwargs.items() if key != "dtype"}
    return _nansum(func, tensor, *args, **kwargs) / torch.sum(~torch.isnan(tensor), *args, **options)


INSTEAD = {"nansum": _nansum, "nanmean": _nanmean}
"""What computes a function in types in which no processor does, not in a wider one either."""


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
    wide = WIDER.get(narrow, narrow) if given else torch.int64
    seen = 0

    def convert(value: Any, before: torch.dtype, after: torch.dtype) -> Any:
        nonlocal seen
        if isinstance(value, Tensor):
            seen += 1
            indices = before == torch.int64 and seen > 1  # beside integers of the same type
            return value.to(after) if value.dtype == before and not indices else value
        if isinstance(value, (list, tuple)):
            items = [convert(item, before, after) for item in value]
            return type(value)(items) if type(value) in (list, tuple) else tuple(items)
        if isinstance(value, dict):
            return {key: convert(item, before, after) for key, item in value.items()}
        return after if value is before else value

    widened = {key: value for key, value in kwargs.items() if key not in ("out", "device")}
    with torch._C.DisableTorchFunctionSubclass():
        result = func(*convert(args, narrow, wide), **convert(widened, narrow, wide))
        seen = 0
        for before, after in BACK.get(narrow, {wide: narrow}).items():
            result = convert(result, before, after)
        target = args[0] if in_place else kwargs.get("out")
        return target.copy_(result) if isinstance(target, Tensor) else result
