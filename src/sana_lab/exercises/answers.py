"""What every check asks of an answer, whatever its chapter: a number, a tensor, arguments left as they were.

A right answer is right in any type that a reader may use: a NumPy scalar, a tensor of one element, a fraction, half
precision. A function that changes what it was given is wrong, even where it returns the right thing.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from numbers import Real
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..layers import quantized
from . import NotYet


def number(result: Any, what: str = "a number") -> float:
    """The number that an answer is: of Python, NumPy or `fractions`, or a tensor or array of one element.

    Args:
        result: what the reader's function returned.
        what: what it should return, for the sentence that refuses it.

    Raises:
        NotYet: it is something else, a truth value for one, or no number (NaN, infinity).
    """
    value = result
    if isinstance(value, Tensor | np.ndarray) and math.prod(value.shape) == 1:
        value = value.item()
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real | Decimal):
        raise NotYet(f"return {what}; this is {_said(result)}")
    if not math.isfinite(value):
        raise NotYet(f"return {what}; this is {float(value)}")
    return float(value)


def whole(result: Any, what: str = "a whole number") -> int:
    """The whole number that an answer is, in any type that `number` takes: ``381``, ``np.int64(381)``, ``381.0``.

    Raises:
        NotYet: it is no number, or lies between two whole ones.
    """
    value = number(result, what)
    if value != math.floor(value):
        raise NotYet(f"return {what}; this is {value:g}")
    return int(value)


def truth(result: Any, what: str = "True or False") -> bool:
    """The truth value that an answer is: of Python or NumPy, or a tensor or array of one element.

    Raises:
        NotYet: it is something else, a number for one.
    """
    value = result
    if isinstance(value, Tensor | np.ndarray) and math.prod(value.shape) == 1:
        value = value.item()
    if not isinstance(value, bool | np.bool_):
        raise NotYet(f"return {what}; this is {_said(result)}")
    return bool(value)


def names(result: Any, what: str = "a list of names", *, ordered: bool = True) -> list[str]:
    """The names that an answer gives, one after the other: a list, a tuple, a generator, a column of a table.

    Args:
        result: what the reader's function returned.
        what: what it should return, for the sentence that refuses it.
        ordered: whether the order counts, so that a set is refused.

    Raises:
        NotYet: it is something else, a single name for one.
    """
    refused = (str, bytes, Mapping, *((set, frozenset) if ordered else ()))
    if isinstance(result, refused) or not isinstance(result, Iterable):
        raise NotYet(f"return {what}; this is {_said(result)}")
    found = list(result)
    for thing in found:
        if not isinstance(thing, str):
            raise NotYet(f"return {what}; one of yours is {_said(thing)}")
    return found


def slack(result: Any) -> float:
    """The relative error that an answer's type explains: 1e-6, more where it is in half precision.

    No less for float64: what was computed in float32 and handed over by `.item()` looks the same.
    """
    dtype = getattr(result, "dtype", None)
    if isinstance(dtype, torch.dtype):
        eps = torch.finfo(dtype).eps if dtype.is_floating_point else 0.0
    else:
        eps = float(np.finfo(dtype).eps) if isinstance(dtype, np.dtype) and dtype.kind == "f" else 0.0
    return max(1e-6, 2 * eps)


def tensor(result: Any, shape: tuple[int, ...] | None = None, what: str = "a tensor") -> Tensor:
    """The tensor that an answer is, detached and on the CPU; an array of NumPy will do.

    Args:
        result: what the reader's function returned.
        shape: the shape that it must have, if one.
        what: what it should return, for the sentence that refuses it.

    Raises:
        NotYet: it is something else, or of another shape.
    """
    value = torch.as_tensor(result) if isinstance(result, np.ndarray) else result
    if not isinstance(value, Tensor) or (shape is not None and tuple(value.shape) != tuple(shape)):
        wanted = what if shape is None else f"{what} of shape {tuple(shape)}"
        raise NotYet(f"return {wanted}; this is {_said(result)}")
    return value.detach().cpu()


def tensors(result: Any, names: str) -> tuple[Tensor, ...]:
    """The tensors of an answer that returns several; a number counts as a tensor of one element.

    Args:
        result: what the reader's function returned.
        names: what it should return, as one writes it: ``"codes, step"``.

    Raises:
        NotYet: there are more or fewer, or one is neither a tensor nor a number.
    """
    count = names.count(",") + 1
    if not isinstance(result, tuple | list) or len(result) != count:
        raise NotYet(f"return {count} things: `return {names}`")
    return tuple(
        tensor(thing, what=f"a tensor as `{name.strip()}`")
        if isinstance(thing, Tensor | np.ndarray)
        else torch.tensor(number(thing, f"a tensor as `{name.strip()}`"))
        for thing, name in zip(result, names.split(","), strict=True)
    )


def near(got: Any, right: Any, rel: float = 0.0) -> bool:
    """Whether numbers, or tensors of one shape, agree to `rel` or to what the type of `got` explains (`slack`).

    Tensors are compared as a whole, by the norm of the difference. NaN is near nothing.
    """
    rel = max(rel, slack(got))
    if not isinstance(got, Tensor):
        return math.isclose(float(got), float(right), rel_tol=rel, abs_tol=1e-12)
    got, right = got.double(), torch.as_tensor(right).double()
    got = got.reshape(right.shape) if got.numel() == right.numel() == 1 else got
    return got.shape == right.shape and bool((got - right).norm() <= rel * right.norm())


def ask(answer: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call the reader's function, and see that what it was given is afterwards as it was.

    Looked at are tensors, arrays, modules (with the scales of quantized layers), and what lists, sets, mappings,
    namespaces and this package's stand-ins hold.

    Returns:
        What the function returns.

    Raises:
        NotYet: an argument has changed; the sentence names it.
    """
    before = {name: list(_parts(thing, name)) for name, thing in _named(answer, args, kwargs)}
    before = {name: [(path, _copy(value)) for path, value in parts] for name, parts in before.items()}
    result = answer(*args, **kwargs)
    for name, thing in _named(answer, args, kwargs):
        now = list(_parts(thing, name))
        changed = [path for (path, value), (_, was) in zip(now, before[name], strict=False) if not _same(value, was)]
        if [path for path, _ in now] != [path for path, _ in before[name]]:
            changed.append(name)
        if changed:
            raise NotYet(
                f"your function changes {changed[0]}, which its caller still needs as it was. Make a new one, without "
                "`+=`, `copy_` and the like, or work on a copy"
            )
    return result


def _said(result: Any) -> str:
    if isinstance(result, Tensor | np.ndarray):
        kind = "a tensor" if isinstance(result, Tensor) else "an array"
        return f"{kind} of shape {tuple(result.shape)} and type {result.dtype}"
    return "None; is there a `return`?" if result is None else f"{type(result).__name__} {result!r}"[:60]


def _named(answer: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[str, Any]]:
    """The arguments, each with the name that the reader gave it."""
    try:
        bound = inspect.signature(answer).bind(*args, **kwargs).arguments
    except (TypeError, ValueError):  # it does not take these arguments: the call will say so
        return [(f"argument {i}", thing) for i, thing in enumerate((*args, *kwargs.values()), start=1)]
    return [(f"`{name}`", thing) for name, thing in bound.items()]


def _parts(thing: Any, path: str) -> Iterator[tuple[str, Any]]:
    """What can change about a thing, piece by piece, each with the words for it."""
    if isinstance(thing, nn.Module):
        yield f"the layers of {path}", tuple((name, type(m), m.training) for name, m in thing.named_modules())
        for kind in (thing.named_parameters, thing.named_buffers):
            yield from ((f"`{name}` of {path}", value) for name, value in kind(remove_duplicate=False))
        for name, _, held in quantized(thing):
            of = f"layer `{name}` of {path}" if name else path
            yield f"the codes of {of}", held.codes
            yield f"the scales of {of}", held.scales
    elif isinstance(thing, Mapping):
        yield f"the keys of {path}", tuple(thing)
        for key, value in thing.items():
            yield from _parts(value, f"{key!r} of {path}")
    elif isinstance(thing, list | tuple):
        yield path, len(thing)
        for value in thing:
            yield from _parts(value, path)
    elif isinstance(thing, set | frozenset):
        yield path, frozenset(thing)
    elif isinstance(thing, SimpleNamespace) or type(thing).__module__.startswith("sana_lab.exercises."):
        yield from _parts(vars(thing), path)
    elif thing is None or isinstance(thing, Tensor | np.ndarray | np.generic | Real | str | bytes):
        yield path, thing


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().as_subclass(Tensor).clone()
    return value.copy() if isinstance(value, np.ndarray) else value


def _same(value: Any, was: Any) -> bool:
    if isinstance(value, Tensor):
        value = value.detach().as_subclass(Tensor)  # of a stand-in, what is behind it
        if not isinstance(was, Tensor) or (value.shape, value.dtype, value.device) != (
            was.shape,
            was.dtype,
            was.device,
        ):
            return False
        if value.is_meta:  # no numbers to compare
            return True
        return torch.equal(value.nan_to_num(), was.nan_to_num()) and torch.equal(value.isnan(), was.isnan())
    if isinstance(value, np.ndarray):
        return isinstance(was, np.ndarray) and np.array_equal(value, was, equal_nan=value.dtype.kind == "f")
    return type(value) is type(was) and (value == was or repr(value) == repr(was))  # NaN equals nothing and has a repr
