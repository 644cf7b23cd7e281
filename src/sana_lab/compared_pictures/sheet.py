"""A contact sheet: a column for each way, a row for each prompt."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..messages import counted

SIDE = 256
"""Pixels that a picture has at most, the longer side."""

NARROWEST = 160
"""Pixels of a column for small pictures: room for a label."""

LEAST_SIDE = 48
TALLEST = 16_000
"""Pixels of a sheet at most, high or wide: what programs that show pictures still open."""

GAP = 8
LETTERS = 14
"""Height of the letters in pixels."""

LINE = 19
LINES = 4
"""Lines of a prompt at most; one where the sheet would be too high."""

GROUND, INK, EMPTY = "white", "#30343a", "#e6e8eb"


def contact_sheet(
    columns: Mapping[str, Sequence[Image.Image | None]], prompts: Sequence[str] | None = None, *, side: int = SIDE
) -> Image.Image:
    """Pictures beside each other: a column for each way under its label, a row for each prompt under its words.

    Args:
        columns: label -> pictures, as many for each; None where one was not drawn.
        prompts: one a row, or None.
        side: pixels of a picture's longer side; smaller where the sheet would be higher or wider than `TALLEST`.

    Returns:
        An RGB picture.

    Raises:
        ValueError: no column, columns of different length or without pictures, as many prompts as there are not rows,
            or more pictures than fit a sheet.
    """
    lengths = {label: len(pictures) for label, pictures in columns.items()}
    if not lengths or len(set(lengths.values())) != 1 or not max(lengths.values()):
        told = ", ".join(f"{label}: {n}" for label, n in lengths.items()) or "no column"
        raise ValueError(f"a contact sheet needs as many pictures in each column, at least one ({told}).")
    rows = next(iter(lengths.values()))
    if prompts is not None and len(prompts) != rows:
        raise ValueError(
            f"{counted(len(prompts), 'prompt')} for {counted(rows, 'row')} of pictures: give one for each row."
        )
    largest = max((max(p.size) for pictures in columns.values() for p in pictures if p is not None), default=side)
    side, most = min(side, max(largest, NARROWEST)), LINES
    while True:
        cell = side + GAP
        width = cell * len(columns) + GAP
        head = [_lines(label, side) or [""] for label in columns]
        words = [_lines(prompt, width - 2 * GAP, most) for prompt in prompts or [""] * rows]
        high = [_height(columns, row, side) for row in range(rows)]
        height = GAP + LINE * (max(map(len, head)) + sum(map(len, words))) + sum(high) + 2 * GAP * rows
        if max(width, height) <= TALLEST:
            break
        if side > LEAST_SIDE:
            side = max(LEAST_SIDE, side * 3 // 4)
        elif most > 1:
            most = 1
        else:
            raise ValueError(
                f"a contact sheet of {counted(rows, 'row')} with {counted(len(columns), 'picture')} each is too large: "
                "give fewer."
            )
    sheet = Image.new("RGB", (width, height), GROUND)
    draw = ImageDraw.Draw(sheet)
    for number, lines in enumerate(head):
        _write(draw, lines, GAP + cell * number, GAP)
    top = GAP + LINE * max(map(len, head))
    for row in range(rows):
        _write(draw, words[row], GAP, top + GAP // 2)
        top += LINE * len(words[row]) + GAP
        for number, pictures in enumerate(columns.values()):
            left, picture = GAP + cell * number, pictures[row]
            if picture is None:
                draw.rectangle((left, top, left + side - 1, top + high[row] - 1), fill=EMPTY)
                _write(draw, ["not drawn"], left + GAP, top + GAP)
            else:
                small = picture.convert("RGB").resize(_small(picture, side), Image.Resampling.LANCZOS)
                sheet.paste(small, (left, top))
        top += high[row] + GAP
    return sheet


def _small(picture: Image.Image, side: int) -> tuple[int, int]:
    """Width and height with a longer side of `side` pixels, or as it is where it is smaller."""
    factor = min(1.0, side / max(picture.size))
    width, height = (max(1, round(length * factor)) for length in picture.size)
    return width, height


def _height(columns: Mapping[str, Sequence[Image.Image | None]], row: int, side: int) -> int:
    heights = [_small(picture, side)[1] for p in columns.values() if (picture := p[row]) is not None]
    return max(heights, default=side)


def _lines(text: str, width: int, most: int = LINES) -> list[str]:
    """Text broken into lines of at most `width` pixels, no more than `most` of them."""
    text = " ".join(text.split())
    if not text:
        return []
    letters = max(8, int(width / max(_font().getlength(text) / len(text), 1)) - 1)
    return textwrap.wrap(text, letters, max_lines=most, placeholder=" ...")


def _write(draw: ImageDraw.ImageDraw, lines: Sequence[str], left: int, top: int) -> None:
    for number, line in enumerate(lines):
        draw.text((left, top + LINE * number), line, fill=INK, font=_font())


@cache
def _font() -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib, so that a sheet looks the same everywhere."""
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), LETTERS)
