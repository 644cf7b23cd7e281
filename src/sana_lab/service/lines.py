"""Ten things that a pipeline in service must be, each a call that returns true or says why not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ..failures import explain
from ..generate import drawing
from ..guard import NotReady, checked
from ..placements import placement
from ..versions.doctor import of_versions
from .pictures import wrong_with
from .start import PROMPT, STEPS, decode_room, draw
from .ways import let_go

FLAT = 2**20
"""Bytes that may stay from one picture to the next: less is what allocators round."""


@dataclass(frozen=True)
class Line:
    """One line of the checklist: true, or why not.

    Chapter 13.
    """

    name: str
    ok: bool
    why: str = ""

    def __bool__(self) -> bool:
        """Whether it is as it must be."""
        return self.ok

    def __str__(self) -> str:
        """As it is printed."""
        return f"{'yes' if self.ok else 'NO ':3}  {self.name}" + f": {self.why}" * bool(self.why)

    __repr__ = __str__


@dataclass(frozen=True)
class Checklist:
    """All lines; true if all are.

    Chapter 13.
    """

    lines: tuple[Line, ...]

    def __bool__(self) -> bool:
        """Whether every line is true."""
        return all(self.lines)

    def __str__(self) -> str:
        """A line each."""
        return "\n".join(map(str, self.lines))

    __repr__ = __str__


def known_versions() -> Line:
    """Are the libraries' versions ones with which the recipe was seen to run?"""
    bad = [f"{one.name}: {one.text}" for one in of_versions() if one.status == "FAIL"]
    return _line("the versions are known to run the recipe", bad)


def in_its_place(pipe: Any) -> Line:
    """Is every tensor where the data will be?"""
    return _line("every part is where its inputs will be", placement(pipe).problems)


def whole_in_8_bits(pipe: Any) -> Line:
    """Do 8-bit layers hold codes and scales, and get inputs that they read right?"""
    return _line(
        "8-bit layers hold codes and scales, and are guarded", _problems(pipe)[len(placement(pipe).problems) :]
    )


def in_types_that_hold(pipe: Any) -> Line:
    """Is no part in a type in which it overflows, and no weight a NaN?"""
    return _line("no part overflows in its type", _problems(pipe, types=True)[len(_problems(pipe)) :])


def room_to_decode(pipe: Any, pixels: int) -> Line:
    """Is there memory for the decoding of a picture of this size?"""
    need = decode_room(pipe, pixels)
    problems = _problems(pipe, room=need)[len(_problems(pipe)) :]
    return _line(f"there is room to decode {pixels} × {pixels} pixels", problems)


def draws(pipe: Any, pixels: int) -> Line:
    """Is what it draws a picture?"""
    wrong = wrong_with(draw(pipe, PROMPT, seed=0, pixels=pixels, steps=STEPS))
    return _line("what it draws is a picture", [wrong] * bool(wrong))


def draws_without_guidance(pipe: Any, pixels: int) -> Line:
    """Is it one without guidance, too?"""
    wrong = wrong_with(draw(pipe, PROMPT, seed=0, pixels=pixels, steps=STEPS, guidance_scale=1.0))
    return _line("so it is without guidance", [wrong] * bool(wrong))


def repeats(pipe: Any, pixels: int) -> Line:
    """Is the same seed the same picture?"""
    first, second = (draw(pipe, PROMPT, seed=0, pixels=pixels, steps=STEPS) for _ in range(2))
    far = float((first.float() - second.float()).abs().max())
    why = [f"two pictures of one seed differ by {far:.3f} of full scale"] if not torch.equal(first, second) else []
    return _line("the same seed is the same picture", why)


def gives_back(pipe: Any, pixels: int) -> Line:
    """Does a picture leave nothing behind in memory?"""
    name = "a picture leaves nothing behind in memory"
    where = placement(pipe).inputs
    if torch.device(where).type != "cuda":
        return _line(name, [])
    held = []
    for _ in range(3):
        draw(pipe, PROMPT, seed=0, pixels=pixels, steps=STEPS)
        let_go()
        held.append(torch.cuda.memory_allocated(where))
    grown = held[-1] - held[0]
    return _line(name, [f"two pictures left {grown / 2**20:.1f} MiB on {where}"] * (grown > FLAT))


def has_a_way_down(ways: int) -> Line:
    """Is there something to go on with when memory runs out?"""
    why = ["there is one way to load it: list others in WAYS, see sana_lab.service.ways_of"] * (ways < 2)
    return _line("there is a way with less memory", why)


def checklist(pipe: Any, *, pixels: int | None = None, ways: int = 1) -> Checklist:
    """Ten lines about a pipeline. Draws some ten pictures of two steps.

    Args:
        pipe: a Sana pipeline.
        pixels: width and height of the pictures of the service; by default the model's own.
        ways: how many ways to load it there are.

    Raises:
        TypeError: it is no pipeline.

    Example:
        >>> from sana_lab import load_sana, use_accelerator
        >>> with use_accelerator(virtual=True):
        ...     print(checklist(load_sana("shapes", "int8"), pixels=128, ways=2).lines[1])
        yes  every part is where its inputs will be

    Chapter 13.
    """
    placement(pipe)
    return Checklist(tuple(ask(pipe, pixels=pixels, ways=ways)))


def ask(pipe: Any, *, pixels: int | None, ways: int) -> Iterator[Line]:
    """The ten lines, one after the other; an exception is an answer as well."""
    size = pixels or drawing.own_size(pipe)
    questions: list[tuple[str, Callable[[], Line]]] = [
        ("versions", known_versions),
        ("places", lambda: in_its_place(pipe)),
        ("8-bit layers", lambda: whole_in_8_bits(pipe)),
        ("types", lambda: in_types_that_hold(pipe)),
        ("room", lambda: room_to_decode(pipe, size)),
        ("a picture", lambda: draws(pipe, size)),
        ("a picture without guidance", lambda: draws_without_guidance(pipe, size)),
        ("the same picture again", lambda: repeats(pipe, size)),
        ("memory", lambda: gives_back(pipe, size)),
        ("a way down", lambda: has_a_way_down(ways)),
    ]
    for name, question in questions:
        try:
            yield question()
        except Exception as error:
            yield Line(name, False, raised(error))


def raised(error: BaseException) -> str:
    """An exception in a line, with the entry of the failure index that knows it."""
    first = " ".join((str(error).strip() or "no words").partition("\n")[0].split())[:200]
    answers = explain(error).answers
    known = f" (failure index: {answers[0].failure.id})" if answers else ""
    return f"{type(error).__name__}: {first}{known}"


def _problems(pipe: Any, **more: Any) -> list[str]:
    try:
        checked(pipe, **more)
    except NotReady as reason:
        return list(reason.problems)
    return []


def _line(name: str, problems: Any) -> Line:
    found = list(problems)
    return Line(name, not found, "; ".join(found))
