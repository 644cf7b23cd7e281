"""Logo, favicon, cover and card come out whole from any pictures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from make_cover import NEEDED, compose, drawn, mosaic, tile

SIZES = {"logo.png": (414, 202), "favicon.png": (64, 64), "cover.webp": (1284, 636), "card.png": (1280, 640)}


def colored(n):
    return [Image.new("RGB", (512, 512), (8 * i % 256, 255 - 7 * i, 40)) for i in range(n)]


def test_every_file_is_written_small_and_from_the_pictures(tmp_path):
    pictures = colored(NEEDED)
    assert {path.name for path in compose(pictures, tmp_path)} == set(SIZES)
    for name, size in SIZES.items():
        image = Image.open(tmp_path / name)
        assert image.size == size
        assert (tmp_path / name).stat().st_size < 200 * 1024
    logo = np.array(Image.open(tmp_path / "logo.png"))
    assert [tuple(logo[48 + 106 * row, 48 + 106 * column, :3]) for row in range(2) for column in range(4)] == [
        picture.getpixel((0, 0)) for picture in pictures[:8]
    ]


def test_tiles_have_transparent_corners_and_gaps():
    square = np.array(tile(colored(1)[0], 64))
    assert square[0, 0, 3] == square[-1, -1, 3] == 0 and square[32, 32, 3] == 255
    assert np.array(mosaic(colored(2), columns=2, side=64, gap=8))[32, 64 + 4, 3] == 0


def test_too_few_pictures_are_refused(tmp_path):
    with pytest.raises(ValueError, match=f"the cover needs {NEEDED}"):
        compose(colored(3), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_teacher_draws_enough_of_them():
    assert len(drawn(renderer=True)) == NEEDED
