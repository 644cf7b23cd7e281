"""Reads a scene back from a picture, with no learning: palette, connected regions, and a fit of each shape.

The reader is the judge of the Shapes model, so it is strict: what it cannot name with certainty it leaves open.

1. The picture is averaged down to 128 x 128 pixels. The border tells the background.
2. Connected regions of other colors are objects, specks are not. The inside of a region tells its color.
3. Each pixel around an object is a mixture of background and object: a share of cover, 0 to 1. Area and centroid of
   the cover give, for each of the six shapes, the center and radius that could fit; intersection over union (Jaccard,
   1912) says which shape does.
4. Radius and center are compared with those that `render` uses.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from .rendering import CENTER, FIRST, RADIUS, signed_distance
from .scenes import COLORS, SHAPES, Scene, Thing

SIDE = 128
"""Width and height at which pictures are read: a blur of 4 px at 512 is 1 px here, and noise shrinks to a quarter."""
FRAME = 4
"""Width of the border that tells the background; no object reaches it."""
SPECK = 0.003
"""Regions below this share of the picture are no objects (the smallest object, a small star, covers 0.013)."""
MAX_SPECKS = 0.01
"""Share of the picture that specks may cover together."""
COLOR_TOLERANCE = 60.0
"""Largest distance in RGB between a color and its name; the two nearest colors, orange and yellow, are 81 apart."""
PURITY = 0.95
"""Least share of the border, and of an object, that is of its color (or in an edge: between it and the background)."""
SOFTNESS = 0.06
"""Blur of the shapes compared with, as a share of the radius: half way between exact and blurred pictures."""
EDGE_TOLERANCE = 0.05
"""How far the outline of an object may be off, on average, as a share of its radius (2.6 px at 512 if it is small)."""
PATCH_TOLERANCE = 0.3
"""A patch this wide, as a share of the radius, may neither be missing nor be too much: no gaps in rings."""
MIN_LEAD = 0.05
"""By how much the best shape fits better than the next."""
SIZE_TOLERANCE = (RADIUS["large"] - RADIUS["small"]) / 2
PLACE_TOLERANCE = CENTER["right"][0] / 2
"""How far radius and center may be off: half the way to the next size or place."""

_NAMES = tuple(COLORS)
_PALETTE = np.array(list(COLORS.values()), dtype=np.float32)


@dataclass(frozen=True)
class ReadThing:
    """One object as read. A word is None where the picture leaves it open.

    `radius` and `center` (x to the right, y downward) are measured in a picture that spans -1 to 1, as in `render`;
    `fit` is the intersection over union with the best shape, 0 to 1, and `lead` by how much it beats the next;
    `rgb` is the color measured, 0 to 255.
    """

    size: str | None
    color: str | None
    shape: str | None
    center: tuple[float, float]
    radius: float
    fit: float
    lead: float
    rgb: tuple[int, int, int]

    def __str__(self) -> str:
        """Words in the order of the caption, "?" for what is open."""
        return " ".join(word or "?" for word in (self.size, self.color, self.shape))


@dataclass(frozen=True)
class Reading:
    """All that `read_picture` saw, objects in canonical order: left before right, upper before lower.

    `where` is a place for one object, a relation for two, None if open. `scene` is the canonical scene, or None if the
    picture is no scene of the grammar; `why` then says what is wrong with it, and is empty otherwise.
    """

    things: tuple[ReadThing, ...]
    where: str | None
    background: str | None
    scene: Scene | None
    why: str


def shows(picture: Any, scene: Scene) -> bool:
    """Whether a picture shows all of a scene and nothing else."""
    return read_scene(picture) == scene.canonical


def read_scene(picture: Any) -> Scene | None:
    """Say which scene a picture shows, in canonical form, or None if it is no scene of the grammar.

    Args:
        picture: a square PIL image, 64 pixels wide or more; or the same as an array or tensor, (height, width, 3) or
            (3, height, width), with integers 0 to 255, floats 0 to 1, or floats -1 to 1.

    Raises:
        TypeError: if it is no picture at all.
        ValueError: if it is a batch, not square, too small, or has values that are not finite.

    Chapter 1.
    """
    return read_picture(picture).scene


def read_picture(picture: Any) -> Reading:
    """Read a picture like `read_scene`, and keep what was measured on the way. Chapter 6."""
    pixels = _to_pixels(picture)
    labels, ground, background = _read_background(pixels)
    if background is None:
        return Reading((), None, None, None, "the border is not of one color of the palette")
    foreground = labels != _NAMES.index(background)
    regions, found = ndimage.label(foreground)
    areas = np.bincount(regions.ravel())[1:]
    objects = [k + 1 for k in range(found) if areas[k] >= SPECK * SIDE**2]
    specks = sum(area for area in areas if area < SPECK * SIDE**2)
    if specks > MAX_SPECKS * SIDE**2:
        return Reading((), None, background, None, "specks all over the picture")
    if len(objects) not in (1, 2):
        return Reading((), None, background, None, f"{len(objects)} objects: a scene has one or two")
    windows = ndimage.find_objects(regions)
    things, where = _arrange([_read_thing(pixels, regions, k, windows[k - 1], labels, ground) for k in objects])
    scene, why = _conclude(things, where, background)
    return Reading(things, where, background, scene, why)


# ---- any picture as 128 x 128 pixels -----------------------------------------------------------------------------


def _to_pixels(picture: Any) -> np.ndarray:
    """RGB 0 to 255, float32, (SIDE, SIDE, 3)."""
    if isinstance(picture, Image.Image):
        picture = picture.convert("RGB")
        array = None
        height, width = picture.height, picture.width
    else:
        array = _to_array(picture)
        height, width = array.shape[:2]
    if height != width or height < 64:
        raise ValueError(f"a scene is square, 64 pixels wide or more, not {width} x {height}: crop or resize it first")
    if array is not None and height % SIDE == 0:
        return _average(array, height // SIDE)
    if array is not None:
        picture = Image.fromarray(array.clip(0, 255).round().astype(np.uint8))
    if height % SIDE == 0:
        return np.asarray(picture.reduce(height // SIDE), dtype=np.float32)
    method = Image.Resampling.BOX if height > SIDE else Image.Resampling.BILINEAR
    return np.asarray(picture.resize((SIDE, SIDE), method), dtype=np.float32)


def _to_array(picture: Any) -> np.ndarray:
    """An array or tensor as RGB 0 to 255, (height, width, 3): bytes as they are, all else as float32."""
    if isinstance(picture, torch.Tensor):
        picture = picture.detach().cpu()
        picture = (picture.float() if picture.is_floating_point() else picture).numpy()
    if not isinstance(picture, np.ndarray):
        raise TypeError(f"a picture is a PIL image, an array or a tensor, not {type(picture).__name__}")
    if picture.ndim == 3 and picture.shape[0] == 3:
        picture = picture.transpose(1, 2, 0)
    if picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(
            f"a picture has the shape (height, width, 3) or (3, height, width), not {picture.shape}: "
            "give one picture of a batch at a time"
        )
    array = picture if picture.dtype == np.uint8 else picture.astype(np.float32)
    if np.issubdtype(picture.dtype, np.floating):
        if not np.isfinite(array).all():
            raise ValueError("the picture has values that are not finite: look for an overflow where it was made")
        # Of two palette colors one has a channel of 50 or less: in -1 to 1 every scene goes well below zero.
        array = (array + 1) * 127.5 if array.min() < -0.25 else array * 255
    return array


def _average(array: np.ndarray, k: int) -> np.ndarray:
    """The mean of each k by k pixels, float32. Sums of bytes are exact in any order, so they take the fastest one."""
    if array.dtype != np.uint8:
        return array.reshape(SIDE, k, SIDE, k, 3).mean(axis=(1, 3))
    sums = _add_up(array.reshape(SIDE, k, -1))
    return _add_up(sums.reshape(SIDE, SIDE, k, 3).swapaxes(1, 2)) / np.float32(k**2)


def _add_up(lines: np.ndarray) -> np.ndarray:
    """Sum over the second axis, a line at a time."""
    sums = lines[:, 0].astype(np.float32)
    for n in range(1, lines.shape[1]):
        sums += lines[:, n]
    return sums


# ---- colors ------------------------------------------------------------------------------------------------------


def _name_color(rgb: np.ndarray) -> str | None:
    distances = np.linalg.norm(_PALETTE - rgb, axis=1)
    nearest = int(distances.argmin())
    return _NAMES[nearest] if distances[nearest] <= COLOR_TOLERANCE else None


def _read_background(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, str | None]:
    """The nearest color of each pixel, as an index; the color measured along the border; the name of that color."""
    border = np.ones((SIDE, SIDE), dtype=bool)
    border[FRAME:-FRAME, FRAME:-FRAME] = False
    ground = np.median(pixels[border], axis=0)
    name = _name_color(ground)
    colors = _PALETTE.copy()
    if name is not None:
        colors[_NAMES.index(name)] = ground  # where the whole background is a little off, no object appears
    labels = ((colors**2).sum(1) - 2 * pixels @ colors.T).argmin(-1)
    if name is not None and (labels[border] == _NAMES.index(name)).mean() < PURITY:
        name = None
    return labels, ground, name


# ---- one object --------------------------------------------------------------------------------------------------


def _read_thing(
    pixels: np.ndarray, regions: np.ndarray, k: int, window: tuple[slice, slice], labels: np.ndarray, ground: np.ndarray
) -> ReadThing:
    """Read region `k`, which lies in `window`."""
    top, left = (max(0, side.start - 3) for side in window)
    window = slice(top, window[0].stop + 3), slice(left, window[1].stop + 3)
    pixels, own, labels = pixels[window], regions[window] == k, labels[window]
    inside = next(m for m in (ndimage.binary_erosion(own, iterations=2), own) if m.any())
    label = np.bincount(labels[inside]).argmax()
    rgb = np.median(pixels[inside & (labels == label)], axis=0)

    # In a blurred edge lie mixtures of background and object, which may look like a third color. They are told from it
    # by lying between the two in RGB. The outline is where both have half a share.
    toward = rgb - ground
    mixture = (pixels - ground) @ (toward / (toward @ toward))
    beside = np.linalg.norm(pixels - ground - mixture.clip(0, 1)[..., None] * toward, axis=-1)
    strange = (labels != label) & (beside > COLOR_TOLERANCE)
    color = _name_color(rgb) if strange[own].mean() <= 1 - PURITY else None
    around = ndimage.binary_dilation(own, iterations=2)
    cover = np.pad(np.where(around, _sharpen(mixture), 0), 1)  # no cover along the rim, as `_interpolate` assumes
    shape, (x, y, radius), fit, lead = _fit_shapes(cover)

    unit = 2 / SIDE
    center = (x - 1 + left + 0.5) * unit - 1, (y - 1 + top + 0.5) * unit - 1
    radius *= unit
    size = min(RADIUS, key=lambda s: abs(RADIUS[s] - radius))
    return ReadThing(
        size=size if shape and abs(RADIUS[size] - radius) <= SIZE_TOLERANCE else None,
        color=color,
        shape=shape,
        center=(round(float(center[0]), 4), round(float(center[1]), 4)),
        radius=round(float(radius), 4),
        fit=round(fit, 4),
        lead=round(lead, 4),
        rgb=tuple(int(v) for v in rgb.round()),
    )


def _sharpen(cover: np.ndarray) -> np.ndarray:
    """Halve the width of an edge; where it lies stays the same."""
    return (2 * cover - 0.5).clip(0, 1)


_AXIS = np.linspace(-1.5, 1.5, 61, dtype=np.float32)
"""Where covers and shapes are compared, from the center, in radii; the same across and down."""
_CELL = float(_AXIS[1] - _AXIS[0])


@dataclass(frozen=True)
class _Template:
    """A shape at radius 1 on the grid of `_AXIS`."""

    cover: np.ndarray
    total: np.float32
    """Sum of the cover, as float32 has it."""
    area: float
    sink: float
    """How far below the center the centroid lies."""
    least_fit: float
    """The intersection over union that is left when the outline is off by `EDGE_TOLERANCE` all along."""


@lru_cache(maxsize=1)
def _templates() -> dict[str, _Template]:
    y, x = torch.meshgrid(torch.from_numpy(_AXIS), torch.from_numpy(_AXIS), indexing="ij")
    templates = {}
    for index, name in enumerate(SHAPES):
        cover = (0.5 - signed_distance(index, x, y) / _CELL).clamp(0, 1).numpy()
        cover = _sharpen(ndimage.gaussian_filter(cover, SOFTNESS / _CELL))
        total = float(cover.sum())
        outline = float(np.hypot(*np.gradient(cover)).sum()) * _CELL  # its length is the total variation of the cover
        area = total * _CELL**2
        sink = float((cover * y.numpy()).sum()) / total
        templates[name] = _Template(cover.astype(float), cover.sum(), area, sink, 1 - EDGE_TOLERANCE * outline / area)
    return templates


Pose = tuple[float, float, float]
"""Center (x, y) and radius of a shape, in pixels."""


def _fit_shapes(cover: np.ndarray) -> tuple[str | None, Pose, float, float]:
    """The shape that fits a cover best, or None if none does clearly; its pose; its fit; by how much it leads."""
    rows, columns = cover.sum(1), cover.sum(0)
    area = float(rows.sum())
    x, y = float(columns @ np.arange(len(columns))) / area, float(rows @ np.arange(len(rows))) / area
    lines = _Lines.of(cover)
    fits = []
    for name, template in _templates().items():
        radius = math.sqrt(area / template.area)
        pose = (x, y - radius * template.sink, radius)
        fits.append((_overlap(_sample(lines, pose), area, template, radius), name, pose))
    fits.sort(reverse=True)
    (fit, name, pose), (next_fit, _, _) = sorted((_refine(lines, area, *fit) for fit in fits[:2]), reverse=True)
    template = _templates()[name]
    wrong = np.abs(_sample(lines, pose) - template.cover) > 0.5
    patch = np.ones([round(PATCH_TOLERANCE / _CELL)] * 2, dtype=bool)
    clear = fit >= template.least_fit and fit - next_fit >= MIN_LEAD and not ndimage.binary_erosion(wrong, patch).any()
    return name if clear else None, pose, fit, fit - next_fit


def _overlap(seen: np.ndarray, area: float, template: _Template, radius: float) -> float:
    """Intersection over union of a shape of this radius with a cover, `seen` in the shape's grid; its sum is `area`."""
    here = np.add.reduce(seen, axis=None)  # `sum()` without its wrapper, which takes as long for so few numbers
    beyond = max(0.0, area / (radius * _CELL) ** 2 - here)  # what lies outside the grid counts against the fit
    both = np.add.reduce(np.minimum(seen, template.cover), axis=None)
    return float(both / (here + template.total - both + beyond))


_MOVES = [(axis, sign) for axis in range(3) for sign in (1, -1)]
"""Across, down, and in size."""


def _refine(lines: _Lines, area: float, fit: float, name: str, pose: Pose) -> tuple[float, str, Pose]:
    """Move and scale a shape while that makes it fit better: a bump on an object shifts its centroid and area."""
    template, rows = _templates()[name], _rows(lines, pose)
    for step in (0.05, 0.02):
        left = len(_MOVES)  # to try from here; when none of them is better, they would not be if tried again
        for axis, sign in itertools.cycle(_MOVES):
            tried = list(pose)
            tried[axis] += sign * step * pose[2]
            tried_rows = _rows(lines, tried) if axis else rows  # a move across leaves it in its rows
            tried_fit = _overlap(_columns(tried_rows, tried), area, template, tried[2])
            left -= 1
            if tried_fit > fit:
                fit, pose, rows, left = tried_fit, tuple(tried), tried_rows, len(_MOVES)
            if not left:
                break
    return fit, name, pose


class _Lines(NamedTuple):
    """The rows or columns of a cover, and the step from each to the next, between which positions lie. float64."""

    at: np.ndarray
    to_next: np.ndarray

    @classmethod
    def of(cls, cover: np.ndarray) -> _Lines:
        cover = np.ascontiguousarray(cover)  # `take` would copy it each time
        return cls(cover.astype(float, copy=False), np.subtract(cover[1:], cover[:-1]).astype(float, copy=False))


def _sample(lines: _Lines, pose: Sequence[float]) -> np.ndarray:
    """A cover on the grid of `_AXIS`, moved and scaled as if its shape had center 0 and radius 1."""
    return _columns(_rows(lines, pose), pose)


def _rows(lines: _Lines, pose: Sequence[float]) -> _Lines:
    """The rows of a cover that a pose asks for, as lines of columns."""
    return _Lines.of(_interpolate(lines, pose[1] + pose[2] * _AXIS).T)


def _columns(lines: _Lines, pose: Sequence[float]) -> np.ndarray:
    """Of such lines of columns, those that a pose asks for, as rows of a cover."""
    return _interpolate(lines, pose[0] + pose[2] * _AXIS).T


def _interpolate(lines: _Lines, at: np.ndarray) -> np.ndarray:
    """Lines at fractional positions; those beyond the rim are like the rim, which is empty."""
    at = np.minimum(np.maximum(at, 0), at.dtype.type(len(lines.to_next) - 0.001))
    low = at.astype(np.intp)
    between = lines.to_next.take(low, axis=0)
    between *= (at - low)[:, None]
    between += lines.at.take(low, axis=0)
    return between


# ---- the scene ---------------------------------------------------------------------------------------------------


def _arrange(things: list[ReadThing]) -> tuple[tuple[ReadThing, ...], str | None]:
    """Objects in canonical order, and the place or relation."""
    if len(things) == 1:
        place = min(CENTER, key=lambda p: math.dist(CENTER[p], things[0].center))
        near = math.dist(CENTER[place], things[0].center) <= PLACE_TOLERANCE
        return tuple(things), place if near else None
    (ax, ay), (bx, by) = (t.center for t in things)
    axis, relation = (0, "left of") if abs(ax - bx) > abs(ay - by) else (1, "above")
    first, second = sorted(things, key=lambda t: t.center[axis])
    half = tuple((a - b) / 2 for a, b in zip(first.center, second.center, strict=True))
    near = math.dist(half, FIRST[relation]) <= PLACE_TOLERANCE
    return (first, second), relation if near else None


def _conclude(things: tuple[ReadThing, ...], where: str | None, background: str) -> tuple[Scene | None, str]:
    """The scene, or None and the reason."""
    for thing in things:
        for attribute in ("shape", "color", "size"):
            if getattr(thing, attribute) is None:
                return None, f"an object of unclear {attribute} ({thing})"
    if where is None:
        return None, "an object that stands at no place of the grammar"
    try:
        return Scene(tuple(Thing(t.size, t.color, t.shape) for t in things), where, background), ""
    except ValueError as error:
        return None, str(error)
