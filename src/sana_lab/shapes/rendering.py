"""Draws a scene exactly: the pictures that the Shapes model learned from, and the ground truth of its reader."""

from __future__ import annotations

import math

import torch
from PIL import Image

from .scenes import COLORS, PLACES, RELATIONS, SHAPES, SIZES, Scene

PIXELS = 512
RADIUS = {"small": 0.20, "large": 0.38}
"""Radius of an object, where the picture spans -1 to 1 in both directions."""
CENTER = {"left": (-0.45, 0.0), "right": (0.45, 0.0), "top": (0.0, -0.45), "bottom": (0.0, 0.45), "center": (0.0, 0.0)}
FIRST = {"left of": (-0.46, 0.0), "right of": (0.46, 0.0), "above": (0.0, -0.46), "below": (0.0, 0.46)}
"""Center of the first of two objects; the second stands opposite."""
JITTER = 0.03
"""Objects stand up to this far from their place in training pictures, so that "left" is a region, not a pixel."""


def signed_distance(shape: int, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Signed distance to the outline of a shape of radius 1 (negative inside; exact enough near the edge).

    `x` grows to the right and `y` downward, any equal shapes.
    """
    name = SHAPES[shape]
    radius = torch.hypot(x, y)
    if name == "circle":
        return radius - 1
    if name == "ring":
        return (radius - 0.76).abs() - 0.24
    if name == "square":
        return torch.maximum(x.abs(), y.abs()) - 0.86
    if name == "cross":
        return torch.minimum(torch.maximum(x.abs() - 0.32, y.abs() - 1), torch.maximum(y.abs() - 0.32, x.abs() - 1))
    if name == "triangle":  # three half planes, tip up
        slope = math.sqrt(3) / 2
        return torch.maximum(y - 0.72, slope * x.abs() - 0.5 * y - 0.52)
    fifth, notch = 2 * math.pi / 5, 0.45  # star: fold the angle onto one edge, from a tip to a notch
    angle = torch.remainder(torch.atan2(x, -y) + fifth / 2, fifth) - fifth / 2
    px, py = radius * torch.cos(angle), radius * torch.sin(angle).abs()
    nx, ny = notch * math.sin(fifth / 2), 1 - notch * math.cos(fifth / 2)
    return ((px - 1) * nx + py * ny) / math.hypot(nx, ny)


_SHAPE, _SIZE, _COLOR, _PLACE, _RELATION = (
    {word: n for n, word in enumerate(words)} for words in (SHAPES, SIZES, COLORS, PLACES, RELATIONS)
)


def encode_scenes(scenes: list[Scene]) -> torch.Tensor:
    """Scenes as integers, one row each: number of objects, (shape, size, color) twice, where, background. (n, 9)."""
    rows = []
    for scene in scenes:
        things = [(_SHAPE[t.shape], _SIZE[t.size], _COLOR[t.color]) for t in scene.things]
        one = len(things) == 1
        where = (_PLACE if one else _RELATION)[scene.where]
        rows.append((len(things), *things[0], *((0, 0, 0) if one else things[1]), where, _COLOR[scene.background]))
    return torch.tensor(rows, dtype=torch.long)


def render_codes(
    codes: torch.Tensor, jitter: float = 0.0, pixels: int = PIXELS, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Draw a batch of encoded scenes on the device they are on.

    Args:
        codes: rows of `encode_scenes`, (n, 9).
        jitter: objects move by up to this much (the picture is 2 wide).
        pixels: width and height.
        generator: for the jitter.

    Returns:
        Pictures in -1 to 1, float32, (n, 3, pixels, pixels), with edges smoothed over about one pixel.
    """
    device, n = codes.device, len(codes)
    palette = torch.tensor(list(COLORS.values()), device=device) / 127.5 - 1
    place = torch.tensor([CENTER[p] for p in PLACES], device=device)
    first = torch.tensor([FIRST[r] for r in RELATIONS], device=device)
    where = codes[:, 7]
    home = torch.where(codes[:, :1] == 2, first[where.clamp(max=3)], place[where])
    picture = palette[codes[:, 8]][:, :, None, None].expand(n, 3, pixels, pixels)
    add = _add_where_they_are if device.type == "cpu" and pixels % ALIGNED == 0 else _add_everywhere
    for k in (0, 1):
        center = (home if k == 0 else -home) + jitter * (2 * torch.rand(n, 2, device=device, generator=generator) - 1)
        if k == 0 or (codes[:, 0] == 2).any():  # the generator goes on as always
            picture = add(picture, codes, k, center, palette)
    return picture


def _grid(pixels: int, device: torch.device) -> torch.Tensor:
    """Where the middles of pixels are, across or down."""
    return (torch.arange(pixels, device=device) + 0.5) / pixels * 2 - 1


def _add_everywhere(
    picture: torch.Tensor, codes: torch.Tensor, k: int, center: torch.Tensor, palette: torch.Tensor
) -> torch.Tensor:
    """Pictures with the object `k` of their scenes: few operations for all of them, as a GPU likes it."""
    pixels = picture.shape[-1]
    y, x = torch.meshgrid(_grid(pixels, codes.device), _grid(pixels, codes.device), indexing="ij")
    radius = torch.tensor([RADIUS[s] for s in SIZES], device=codes.device)
    shape, size, color = codes[:, 1 + 3 * k], codes[:, 2 + 3 * k], codes[:, 3 + 3 * k]
    r = radius[size][:, None, None]
    u, v = (x - center[:, 0, None, None]) / r, (y - center[:, 1, None, None]) / r
    distance = torch.empty_like(u)
    for s in range(len(SHAPES)):
        chosen = shape == s
        if chosen.any():
            distance[chosen] = signed_distance(s, u[chosen], v[chosen])
    cover = (0.5 - distance * r * pixels / 2).clamp(0, 1)[:, None]
    if k == 1:
        cover = cover * (codes[:, 0] == 2)[:, None, None, None]
    return picture + cover * (palette[color][:, :, None, None] - picture)


ALIGNED = 16
"""Where an object is looked for begins and ends at such multiples: PyTorch takes so many pixels at once, and what is
left over by other functions, which may round otherwise."""


def _add_where_they_are(
    picture: torch.Tensor, codes: torch.Tensor, k: int, center: torch.Tensor, palette: torch.Tensor
) -> torch.Tensor:
    """The same, bit by bit, from a twentieth of the pixels to a quarter: an object covers nothing far from it."""
    pixels = picture.shape[-1]
    grid = _grid(pixels, codes.device)
    picture = picture.clone(memory_format=torch.contiguous_format)
    for own, code, middle in zip(picture, codes.tolist(), center, strict=True):
        if code[0] <= k:
            continue
        shape, size, color = code[1 + 3 * k : 4 + 3 * k]
        r = torch.tensor([[RADIUS[SIZES[size]]]])
        columns, rows = (_span(at, RADIUS[SIZES[size]], pixels) for at in middle.tolist())
        u, v = (grid[columns] - middle[0]) / r, (grid[rows] - middle[1])[:, None] / r
        distance = signed_distance(shape, *(w.expand(len(v), len(u[0])).contiguous() for w in (u, v)))
        cover = (0.5 - distance * r * pixels / 2).clamp(0, 1)
        seen = own[:, rows, columns]
        seen += cover * (palette[color][:, None, None] - seen)
    return picture


def _span(center: float, radius: float, pixels: int) -> slice:
    """The pixels in which an object may be: a triangle is a little wider than its radius, and edges are smooth."""
    reach = 1.05 * radius + 4 / pixels
    begin, end = ((center + side * reach + 1) / 2 * pixels / ALIGNED for side in (-1, 1))
    return slice(max(0, math.floor(begin) * ALIGNED), min(pixels, math.ceil(end) * ALIGNED))


def render(scene: Scene) -> Image.Image:
    """Draw one scene exactly, 512 x 512 pixels, every object at the middle of its place.

    Raises:
        TypeError: `scene` is no `Scene`.

    Example:
        >>> from sana_lab import sample_scenes
        >>> render(sample_scenes(1, objects=1, seed=0)[0]).size
        (512, 512)

    Chapter 1.
    """
    if not isinstance(scene, Scene):
        raise TypeError(f"render takes a Scene, not {type(scene).__name__}: try sample_scenes(1, objects=1, seed=0)[0]")
    picture = render_codes(encode_scenes([scene]))[0]
    return Image.fromarray(((picture.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy())
