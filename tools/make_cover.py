"""Compose logo, favicon, cover and social card from pictures that the Shapes model draws.

    python tools/make_cover.py                       draw with the Shapes model in 8 bits
    python tools/make_cover.py --renderer            take the training pictures' renderer
    python tools/make_cover.py --pictures FOLDER     take PNG files, sorted by name

Eight tiles stand for eight bits: the logo is one byte of pictures.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

STATIC = Path(__file__).resolve().parent.parent / "book" / "_static"
NEEDED = 32
SEED = 8


def tile(picture: Image.Image, side: int) -> Image.Image:
    """A picture as a square of `side` pixels with rounded corners on a transparent ground."""
    square = picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
    mask = Image.new("L", (4 * side, 4 * side), 0)  # drawn large, made small: smooth corners
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 4 * side - 1, 4 * side - 1), radius=4 * side // 6, fill=255)
    result = Image.new("RGBA", (side, side))
    result.paste(square, (0, 0), mask.resize((side, side), Image.Resampling.LANCZOS))
    return result


def mosaic(pictures: Sequence[Image.Image], columns: int, side: int, gap: int) -> Image.Image:
    """Tiles in rows of `columns`, `gap` pixels apart, on a transparent ground."""
    rows = len(pictures) // columns
    result = Image.new("RGBA", (columns * (side + gap) - gap, rows * (side + gap) - gap))
    for index, picture in enumerate(pictures[: rows * columns]):
        row, column = divmod(index, columns)
        result.alpha_composite(tile(picture, side), (column * (side + gap), row * (side + gap)))
    return result


def card(pictures: Sequence[Image.Image]) -> Image.Image:
    """The picture that others see when they share a link: 1280 × 640 pixels, title over a band of tiles."""
    result = Image.new("RGBA", (1280, 640), "#14181e")
    band = mosaic(pictures[:16], columns=8, side=136, gap=14)
    result.alpha_composite(band, ((1280 - band.width) // 2, 308))
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    draw = ImageDraw.Draw(result)
    draw.text((46, 70), "8-bit Sana", font=ImageFont.truetype(fonts / "DejaVuSans-Bold.ttf", 96), fill="white")
    line = "a book that runs, with or without a GPU"
    draw.text((50, 200), line, font=ImageFont.truetype(fonts / "DejaVuSans.ttf", 40), fill="#a2a9b8")
    return result


def compose(pictures: Sequence[Image.Image], folder: Path = STATIC) -> list[Path]:
    """Write `logo.png`, `favicon.png`, `cover.webp` and `card.png`.

    Args:
        pictures: at least `NEEDED`, square.
        folder: where the files go.

    Returns:
        The files written.

    Raises:
        ValueError: too few pictures.
    """
    if len(pictures) < NEEDED:
        raise ValueError(f"{len(pictures)} pictures; the cover needs {NEEDED}")
    images = {
        "logo.png": mosaic(pictures[:8], columns=4, side=96, gap=10),
        "favicon.png": tile(pictures[0], 64),
        "cover.webp": mosaic(pictures[:NEEDED], columns=8, side=150, gap=12),
        "card.png": card(pictures),
    }
    written = []
    for name, image in images.items():
        path = folder / name
        image.save(path, **({"quality": 88, "method": 6} if path.suffix == ".webp" else {"optimize": True}))
        written.append(path)
    return written


def drawn(renderer: bool) -> list[Image.Image]:
    """`NEEDED` held-out scenes, drawn by the model in 8 bits or, with `renderer`, by its teacher, a program.

    Only scenes that stay clear when small, on a white page and on a dark one: large shapes, colored backgrounds.
    """
    from sana_lab.shapes import caption, render, sample_scenes

    half = NEEDED // 2
    single, double = (
        [scene for scene in sample_scenes(600, objects=objects, seed=SEED) if _is_clear(caption(scene))][:half]
        for objects in (1, 2)
    )
    scenes = [scene for pair in zip(single, double, strict=True) for scene in pair]
    if renderer:
        return [render(scene) for scene in scenes]
    import torch

    from sana_lab import load_sana, use_accelerator

    use_accelerator()
    pipe = load_sana("shapes", "int8")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it logs a line at every 8-bit product (0.50.2)
    pictures = []
    for start in range(0, NEEDED, 4):
        generator = torch.Generator("cpu").manual_seed(SEED + start)
        pictures += pipe([caption(scene) for scene in scenes[start : start + 4]], generator=generator).images
    return pictures


def _is_clear(words: str) -> bool:
    return not any(unclear in words for unclear in ("small", "black background", "white background"))


def main() -> None:
    """Parse the command line and write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--renderer", action="store_true")
    source.add_argument("--pictures", type=Path)
    asked = parser.parse_args()
    if asked.pictures:
        pictures = [Image.open(path) for path in sorted(asked.pictures.glob("*.png"))]
    else:
        pictures = drawn(asked.renderer)
    for path in compose(pictures):
        print(f"{path.relative_to(STATIC.parent.parent)}  {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
