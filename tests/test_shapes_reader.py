"""The reader of pictures: right on every scene, strict with everything else, and steady under blur and noise."""

import functools
import io
import itertools
import math
import random
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from scipy.stats import binomtest

from sana_lab.shapes import Scene, Thing, adherence, read_picture, read_scene, render, sample_scenes
from sana_lab.shapes.reader import shows
from sana_lab.shapes.rendering import RADIUS, encode_scenes, render_codes, signed_distance
from sana_lab.shapes.scenes import COLORS, PLACES, SHAPES, SIZES, all_scenes
from sana_lab.shapes.scoring import ATTRIBUTES, Rate

RED_STAR, BLUE_RING = Thing("small", "red", "star"), Thing("large", "blue", "ring")


def draw(scenes, jitter=0.0, pixels=512, seed=0):
    """Pictures as uint8 arrays, (height, width, 3)."""
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, len(scenes), 64):
        codes = encode_scenes(scenes[start : start + 64])
        batch = render_codes(codes, jitter=jitter, pixels=pixels, generator=generator)
        yield from ((batch.permute(0, 2, 3, 1) + 1) * 127.5).round().byte().numpy()


def wrongly_read(pictures, scenes):
    read = [(read_picture(picture), scene) for picture, scene in zip(pictures, scenes, strict=True)]
    return [f"{scene} -> {r.scene or r.why}" for r, scene in read if r.scene != scene.canonical]


KINDS = [(size, shape) for size in SIZES for shape in SHAPES]


def kinds_everywhere():
    """Every kind of object at every place. Each color stands on each background more than ten times in them."""
    pairs = list(itertools.permutations(COLORS, 2))
    return [
        Scene((Thing(size, color, shape),), where, background)
        for k, (size, shape) in enumerate(KINDS)
        for p, where in enumerate(PLACES)
        for color, background in pairs[(k + p) % 4 :: 4]
    ]


def kinds_beside_kinds(part):
    """Every kind of object beside and above every kind; the colors are every other three that there are, by `part`."""
    colors = [c for c in itertools.product(COLORS, repeat=3) if c[2] not in c[:2]]
    random.Random(0).shuffle(colors)
    colors = itertools.cycle(colors[part::2])
    scenes = []
    for (a, b), where in itertools.product(itertools.product(KINDS, repeat=2), ("left of", "above")):
        one, other, background = next(c for c in colors if a != b or c[0] != c[1])
        scenes.append(Scene((Thing(a[0], one, a[1]), Thing(b[0], other, b[1])), where, background))
    return scenes


def some_of_all(n, seed):
    return sample_scenes(n, objects=1, seed=seed) + sample_scenes(n, objects=2, seed=seed)


# ---- every scene is read right -----------------------------------------------------------------------------------


def test_scenes_of_one_object():
    scenes = kinds_everywhere()
    assert len(scenes) == 840 == len(set(scenes)) and {scene.canonical for scene in scenes} <= set(all_scenes(1))
    assert wrongly_read(draw(scenes, pixels=128), scenes) == []


@pytest.mark.parametrize("jitter", [0.0, 0.05])
def test_scenes_of_two_objects(jitter):
    scenes = kinds_beside_kinds(int(jitter > 0))
    assert wrongly_read(draw(scenes, jitter, pixels=128), scenes) == []


def test_scenes_at_full_size_off_their_places():
    scenes = some_of_all(16, seed=6)
    assert wrongly_read(draw(scenes, jitter=0.05), scenes) == []


def test_objects_of_one_color_that_nearly_touch():
    scenes = [
        Scene((Thing("large", color, a), Thing("large", color, b)), where, background)
        for color, background in (("red", "yellow"), ("black", "white"))
        for a, b in zip(SHAPES, SHAPES[1:] + SHAPES[:1], strict=True)
        for where in ("left of", "above")
    ]
    closer = [push_together(a, 1 if s.where == "left of" else 0) for a, s in zip(draw(scenes), scenes, strict=True)]
    assert wrongly_read([blur(a, 4) for a in closer], scenes) == []


def push_together(a, axis, by=13):
    """Either half of a picture, moved toward the middle (the widest objects come within 16 of 512 pixels)."""
    half = a.shape[axis] // 2
    return np.concatenate(
        [np.roll(a, by, axis).take(range(half), axis), np.roll(a, -by, axis).take(range(half, 2 * half), axis)], axis
    )


def test_center_and_radius_are_measured():
    for scene in sample_scenes(6, objects=1, seed=0) + sample_scenes(6, objects=2, seed=0):
        codes = encode_scenes([scene.canonical])
        seen = read_picture(render_codes(codes, pixels=512)[0])
        assert [thing.radius for thing in seen.things] == pytest.approx(
            [RADIUS[thing.size] for thing in scene.canonical.things], rel=0.03
        )
    for x, y in ((-0.4, 0.05), (0.0, -0.42), (0.03, 0.04)):
        for shape in SHAPES:
            thing = read_picture(paint([(outline(shape, x, y, 0.31), "red")])).things[0]
            assert (thing.shape, thing.color) == (shape, "red")
            assert thing.center == pytest.approx((x, y), abs=0.006)
            assert thing.radius == pytest.approx(0.31, rel=0.03)


def test_a_whisker_does_not_move_an_object():
    """Its area moves the centroid by 0.03."""
    whisker = (abs(Y) < 0.03) & (X > 0) & (X < 0.8)
    thing = read_picture(paint([(outline("circle", 0, 0, 0.38) | whisker, "red")])).things[0]
    assert thing.shape == "circle"
    assert thing.center == pytest.approx((0, 0), abs=0.012)
    assert thing.radius == pytest.approx(0.38, rel=0.03)


def test_a_long_tail_spoils_a_small_object():
    tail = (abs(Y) < 0.025) & (X > 0) & (X < 0.9)
    assert refused(paint([(outline("circle", 0, 0, 0.2) | tail, "red")]), "unclear shape")


# ---- every change is noticed -------------------------------------------------------------------------------------


def changes(scene):
    """Every scene that differs from a canonical one in one attribute, and the attribute."""
    for k, thing in enumerate(scene.things):
        for name, words in (("size", SIZES), ("color", COLORS), ("shape", SHAPES)):
            for word in words:
                if word != getattr(thing, name):
                    things = (*scene.things[:k], replace(thing, **{name: word}), *scene.things[k + 1 :])
                    yield name, lambda things=things: Scene(things, scene.where, scene.background)
    for where in PLACES if len(scene.things) == 1 else ("left of", "above"):
        if where != scene.where:
            yield "where", lambda where=where: Scene(scene.things, where, scene.background)
    for color in COLORS:
        if color != scene.background:
            yield "background", lambda color=color: Scene(scene.things, scene.where, color)


@pytest.mark.parametrize("objects", [1, 2])
def test_every_change_of_one_attribute_is_noticed_and_nothing_else(objects):
    asked, drawn, changed = [], [], []
    for scene in sample_scenes(5, objects=objects, seed=11):
        for name, make in changes(scene.canonical):
            try:
                drawn.append(make())
            except ValueError:  # no scene: an object in the color of the background, two equal objects
                continue
            asked.append(scene)
            changed.append(name)
    found = adherence(draw(drawn, pixels=256), asked)
    assert set(changed) == {"shape", "size", "color", "where", "background"}
    for k, name in enumerate(changed):
        wrong = {attribute for attribute in ATTRIBUTES if not found.matches[attribute][k]}
        assert wrong == {name}, f"{asked[k]} drawn as {drawn[k]}"
    assert not found.right.any()


def test_swapped_objects_are_noticed():
    scenes = sample_scenes(30, objects=2, seed=4)
    swapped = [Scene(s.things[::-1], s.where, s.background) for s in scenes]
    assert not adherence(draw(swapped, pixels=256), scenes).right.any()


def test_a_missing_object_is_noticed():
    scenes = sample_scenes(20, objects=2, seed=4)
    place = {"left of": "left", "above": "top"}
    alone = [Scene(s.canonical.things[:1], place[s.canonical.where], s.background) for s in scenes]
    rates = adherence(draw(alone, pixels=256), scenes).rates
    assert {name: rate.right for name, rate in rates.items()} == {
        "shape": 0, "size": 0, "color": 0, "where": 0, "background": 20, "number of objects": 0, "all right": 0
    }  # fmt: skip


# ---- what a picture may go through -------------------------------------------------------------------------------


def blur(a, sigma):
    return ndimage.gaussian_filter(a.astype(np.float32), (sigma, sigma, 0)).round().astype(np.uint8)


def noise(a, sigma, seed=0):
    return (a + np.random.default_rng(seed).normal(0, sigma, a.shape)).clip(0, 255).round().astype(np.uint8)


def jpeg(a, quality):
    file = io.BytesIO()
    Image.fromarray(a).save(file, "JPEG", quality=quality)
    return Image.open(file)


def overshoot(a):
    """Ringing along the edges."""
    return (a + 1.0 * (a.astype(np.float32) - blur(a, 3))).clip(0, 255).astype(np.uint8)


def shift(a, seed=0):
    """All colors a little off."""
    return (a * 0.95 + np.random.default_rng(seed).uniform(-12, 18, 3)).clip(0, 255).astype(np.uint8)


def wobble(a, sigma, seed=0):
    """Edges that waver by `sigma` pixels."""
    at = wavering(a.shape[0], sigma, seed)
    return np.stack([ndimage.map_coordinates(a[..., c], at, order=1, mode="nearest") for c in range(3)], -1)


@functools.cache  # one for all pictures of a size
def wavering(pixels, sigma, seed):
    rng = np.random.default_rng(seed)
    move = [ndimage.zoom(rng.normal(0, sigma, (24, 24)), pixels / 24, order=3) for _ in "yx"]
    return np.indices((pixels, pixels)) + np.stack(move)


def resize(a, pixels, method=Image.Resampling.BICUBIC):
    return Image.fromarray(a).resize((pixels, pixels), method)


DAMAGES = {
    "blur": lambda a: blur(a, 4),
    "strong blur": lambda a: blur(a, 7),
    "noise": lambda a: noise(a, 10),
    "blur and noise": lambda a: noise(blur(a, 4), 10),
    "strong noise": lambda a: noise(a, 25),
    "jpeg": lambda a: jpeg(a, 15),
    "ringing": overshoot,
    "shifted colors": shift,
    "wavering edges": lambda a: wobble(a, 2),
    "upscaled": lambda a: resize(a, 1024, Image.Resampling.LANCZOS),
    "downscaled": lambda a: resize(a, 256),
    "odd size": lambda a: resize(a, 300),
    "thumbnail": lambda a: resize(a, 64, Image.Resampling.BOX),
}


@pytest.fixture(scope="module")
def clean():
    scenes = some_of_all(12, seed=21)
    return scenes, list(draw(scenes, jitter=0.05))


@pytest.mark.parametrize("damage", DAMAGES)
def test_survives(damage, clean):
    scenes, pictures = clean
    assert wrongly_read([DAMAGES[damage](a) for a in pictures], scenes) == []


def test_blurred_edges_are_no_third_color():
    """Between red and yellow a blur passes through orange, between black and white through purple."""
    pairs = [("red", "yellow"), ("yellow", "red"), ("black", "white"), ("white", "black"), ("blue", "red")]
    scenes = [
        Scene((Thing(SIZES[(p + k) % 2], a, shape),), "center", b)
        for p, (a, b) in enumerate(pairs)
        for k, shape in enumerate(SHAPES)
    ]
    assert wrongly_read([blur(a, 5) for a in draw(scenes)], scenes) == []


def test_a_background_a_little_off_is_one_background():
    for name, toward in (("orange", "yellow"), ("red", "orange"), ("blue", "purple")):
        a = paint([(outline("star", 0, 0, 0.38), "black")], name)
        mixed = 0.56 * np.array(COLORS[name]) + 0.44 * np.array(COLORS[toward])
        a[(a == COLORS[name]).all(-1)] = mixed
        scene = Scene((Thing("large", "black", "star"),), "center", name)
        assert read_scene(noise(a, 20)) == scene


def test_a_blur_that_wipes_out_the_shape_is_refused():
    scenes = [Scene((Thing("small", "red", shape),), "center", "white") for shape in ("star", "cross", "ring")]
    assert [read_scene(blur(a, 25)) for a in draw(scenes)] == [None] * 3


@pytest.mark.parametrize("objects", [1, 2])
def test_every_form_of_a_picture_reads_the_same(objects):
    scene = sample_scenes(1, objects=objects, seed=9)[0]
    image = render(scene)
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    forms = [
        image,
        image.convert("RGBA"),
        image.convert("P"),
        array,
        array.transpose(2, 0, 1),
        array / 255,
        array.astype(np.float32) / 127.5 - 1,
        tensor,
        tensor / 255,
        (tensor / 127.5 - 1).bfloat16(),
        (tensor / 127.5 - 1).requires_grad_(),
        (tensor / 255).half(),
    ]
    assert [read_scene(form) for form in forms] == [scene.canonical] * len(forms)


# ---- what is no scene --------------------------------------------------------------------------------------------

PIXELS = 512
GRID = (np.arange(PIXELS) + 0.5) / PIXELS * 2 - 1
X, Y = np.meshgrid(GRID, GRID)


def outline(shape, x, y, radius, turn=0.0, stretch=1.0):
    """Mask of a shape."""
    u, v = (X - x) / radius, (Y - y) / radius
    u, v = (u * math.cos(turn) + v * math.sin(turn)) / stretch, v * math.cos(turn) - u * math.sin(turn)
    return (signed_distance(SHAPES.index(shape), torch.from_numpy(u), torch.from_numpy(v)) < 0).numpy()


def paint(layers, background="white"):
    a = np.empty((PIXELS, PIXELS, 3), np.uint8)
    a[:] = COLORS[background]
    for mask, color in layers:
        a[mask] = COLORS.get(color, color) if isinstance(color, str) else color
    return a


def refused(a, why):
    reading = read_picture(a)
    assert reading.scene is None, f"read as {reading.scene}"
    assert read_scene(a) is None
    assert why in reading.why, reading.why
    return True


def test_the_painter_of_these_tests_paints_readable_scenes():
    for shape in SHAPES:
        for size, radius in RADIUS.items():
            scene = Scene((Thing(size, "red", shape),), "center", "white")
            assert read_scene(paint([(outline(shape, 0, 0, radius), "red")])) == scene


@pytest.mark.parametrize("coarseness", [0, 1, 4, 16, 64])
def test_random_pictures(coarseness):
    scale = 4 if coarseness > 4 else 1  # what is so smooth looks the same in a quarter of the pixels
    for seed in range(5):
        a = np.random.default_rng(seed).normal(0, 1, (PIXELS // scale, PIXELS // scale, 3))
        a = ndimage.gaussian_filter(a, (coarseness / scale, coarseness / scale, 0), mode="wrap")
        assert read_scene((128 + 80 * a / a.std()).clip(0, 255).astype(np.uint8)) is None


@pytest.mark.parametrize("color", COLORS)
def test_nothing(color):
    assert refused(paint([], color), "0 objects")


def test_one_two_three_objects():
    places = [(-0.5, 0.0), (0.5, 0.0), (0.0, 0.5), (0.0, -0.5)]
    layers = [(outline("circle", *p, 0.2), c) for p, c in zip(places, ("red", "blue", "green", "black"), strict=True)]
    assert read_scene(paint(layers[:1])) and read_scene(paint(layers[:2]))
    assert refused(paint(layers[:3]), "3 objects")
    assert refused(paint(layers), "4 objects")


def test_specks_are_no_objects_but_many_specks_are_no_scene():
    star = (outline("star", 0.45, 0, 0.38), "red")
    specks = [(outline("circle", x, y, 0.04), "blue") for x in (-0.8, -0.6, -0.4, -0.2) for y in (-0.7, -0.5, 0.5, 0.7)]
    assert read_scene(paint([star, *specks[:2]])) == read_scene(paint([star])) is not None
    assert refused(paint([star, *specks]), "specks")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES)
def test_spoiled_objects(shape, size):
    r = RADIUS[size]
    whole = outline(shape, 0, 0, r)
    assert refused(paint([(whole & (X < 0), "red")]), "unclear shape")
    assert refused(paint([(whole & ~((X < 0) & (Y < 0)), "red")]), "unclear shape")
    assert refused(paint([(whole | ((abs(X - r) < 0.6 * r) & (abs(Y) < 0.3 * r)), "red")]), "unclear shape")
    assert refused(paint([(whole, "red"), (whole & (X < 0), "blue")]), "unclear")
    assert refused(paint([(whole, "red"), (outline("circle", 0, -0.65 * r, 0.45 * r) & whole, "blue")]), "unclear")
    assert refused(paint([(whole, (128, 128, 128))]), "unclear color")
    assert refused(paint([(whole, (232, 142, 142))]), "unclear color")


def test_shapes_between_shapes():
    for power in (3, 4):
        assert refused(paint([(abs(X) ** power + abs(Y) ** power < 0.35**power, "red")]), "unclear shape")
    for shape, turn in (("square", 45), ("triangle", 180), ("star", 36), ("cross", 45)):
        assert refused(paint([(outline(shape, 0, 0, 0.38, math.radians(turn)), "red")]), "unclear shape")
    for shape in ("circle", "square", "ring", "cross"):
        assert refused(paint([(outline(shape, 0, 0, 0.3, stretch=1.4), "red")]), "unclear shape")
    assert refused(paint([(outline("ring", 0, 0, 0.38) & ~((X > 0) & (abs(Y) < 0.1)), "red")]), "unclear shape")


def test_blobs():
    """Outlines that waver by a third of their radius, drawn from a fixed seed: nearly all are refused."""
    rng = np.random.default_rng(0)
    angle, distance = np.arctan2(Y, X), np.hypot(X, Y)
    taken = 0
    for _ in range(60):
        waves = sum(rng.normal(0, 0.3) * np.cos(k * angle + rng.uniform(0, 2 * math.pi)) for k in (2, 3, 4))
        taken += read_scene(paint([(distance < 0.33 * (1 + waves.clip(-0.8, 0.8)), "red")])) is not None
    assert taken <= 3


def test_objects_of_no_size_or_place():
    assert refused(paint([(outline("circle", 0, 0, 0.1), "red")]), "unclear size")
    assert refused(paint([(outline("circle", 0, 0, 0.5), "red")]), "unclear size")
    assert refused(paint([(outline("circle", 0.45, 0.45, 0.3), "red")]), "no place")
    diagonal = [(outline("circle", -0.4, -0.4, 0.3), "red"), (outline("star", 0.4, 0.4, 0.3), "blue")]
    assert refused(paint(diagonal), "no place")
    inside = [(outline("ring", 0, 0, 0.38), "red"), (outline("circle", 0, 0, 0.14), "blue")]
    assert refused(paint(inside), "no place")


def test_objects_that_overlap_or_are_equal():
    apart = [(outline("square", -0.2, 0, 0.38), "red"), (outline("star", 0.2, 0, 0.38), "blue")]
    assert refused(paint(apart), "unclear")
    equal = [(outline("ring", x, 0, 0.38), "red") for x in (-0.46, 0.46)]
    assert refused(paint(equal), "two equal objects")


def test_backgrounds_of_no_color():
    star = outline("star", 0, 0, 0.38)
    parts = paint([(X < -0.4, "yellow"), (star, "red")])
    assert refused(parts, "border")
    a = paint([(star, "red")])
    a[~star] = (130, 130, 130)
    assert refused(a, "border")


@pytest.mark.parametrize(
    ("picture", "error", "message"),
    [
        ("scene.png", TypeError, "a PIL image, an array or a tensor, not str"),
        (None, TypeError, "not NoneType"),
        (np.zeros((512, 512)), ValueError, "not \\(512, 512\\)"),
        (np.zeros((2, 3, 512, 512)), ValueError, "one picture of a batch at a time"),
        (np.zeros((512, 256, 3)), ValueError, "not 256 x 512: crop or resize"),
        (Image.new("RGB", (640, 512)), ValueError, "not 640 x 512: crop or resize"),
        (Image.new("RGB", (32, 32)), ValueError, "64 pixels wide or more, not 32 x 32"),
        (torch.full((3, 512, 512), torch.nan), ValueError, "not finite"),
    ],
)
def test_what_is_no_picture(picture, error, message):
    with pytest.raises(error, match=message):
        read_scene(picture)


# ---- where the reader draws its lines ----------------------------------------------------------------------------


def only_thing(mask, color="red", background="white"):
    (thing,) = read_picture(paint([(mask, color)], background)).things
    return thing


def block(a, top, left, height, width, color="blue"):
    """A block of so many of the 128 x 128 pixels that are read."""
    a[4 * top : 4 * (top + height), 4 * left : 4 * (left + width)] = COLORS[color]
    return a


def test_clean_shapes_fit_as_well_as_they_ever_did():
    measured = {"circle": (0.9823, 0.1393), "square": (0.9911, 0.1543), "triangle": (0.9760, 0.2800),
                "star": (0.9439, 0.2734), "ring": (0.9689, 0.2574), "cross": (0.9351, 0.2534)}  # fmt: skip
    for shape, (fit, lead) in measured.items():
        thing = only_thing(outline(shape, 0, 0, 0.38))
        assert (thing.fit, thing.lead) == pytest.approx((fit, lead), abs=0.001), shape
        assert thing.rgb == COLORS["red"] and all(type(v) is int for v in thing.rgb)
        assert str(thing) == f"large red {shape}"
        for number in (*thing.center, thing.radius, thing.fit, thing.lead):
            assert type(number) is float and round(number, 4) == number
        with pytest.raises(FrozenInstanceError):
            thing.shape = "blob"


def test_even_shapes_lie_where_they_were_drawn():
    for x, y in ((0, 0), (0.25, -0.125), (-0.4375, 0.3125)):
        for shape in ("circle", "square", "ring", "cross"):
            assert only_thing(outline(shape, x, y, 0.31)).center == pytest.approx((x, y), abs=0.001)


def test_a_color_is_measured_two_pixels_in_from_the_edge():
    ring = paint([(outline("ring", 0, 0, 0.2), "red")], "blue")
    (thing,) = read_picture(blur(ring, 4)).things
    assert thing.color == "red" and thing.rgb == pytest.approx((216, 41, 44), abs=1)  # at one pixel less: 214, 41, 46


def test_an_outline_may_be_off_by_five_hundredths_of_the_radius():
    angle, distance = np.arctan2(Y, X), np.hypot(X, Y)
    for wave, shape in ((0.07, "circle"), (0.1, None)):  # on average off by 2 / pi of it: 0.045 and 0.064
        assert only_thing(distance < 0.38 * (1 + wave * np.cos(12 * angle))).shape == shape
    assert only_thing(distance < 0.38 * (1 + 0.1 * np.cos(12 * angle))).lead > 0.05, "it is the fit that refuses"


def test_a_patch_of_three_tenths_may_not_be_missing():
    for side, shape in ((0.25, "circle"), (0.36, None)):
        bite = (abs(X - 0.38 * (1 - side / 2)) < 0.38 * side / 2) & (abs(Y) < 0.38 * side / 2)
        thing = only_thing(outline("circle", 0, 0, 0.38) & ~bite)
        assert thing.shape == shape and thing.fit > 0.93 and thing.lead > 0.1


def test_the_next_shape_is_five_hundredths_behind():
    for power, shape in ((2.6, "circle"), (2.8, None), (5, "square")):
        thing = only_thing(abs(X) ** power + abs(Y) ** power < 0.35**power)
        assert thing.shape == shape and thing.fit > 0.93 and (thing.lead > 0.05) == (shape is not None)


def test_half_way_between_the_sizes():
    sizes = {0.1: None, 0.115: "small", 0.28: "small", 0.297: "large", 0.46: "large", 0.475: None}
    assert {radius: only_thing(outline("circle", 0, 0, radius)).size for radius in sizes} == sizes


def test_half_way_between_the_places():
    for x, y, where in ((0.21, 0, "center"), (0, -0.24, "top"), (0.17, 0.17, None), (-0.64, 0.1, "left")):
        assert read_picture(paint([(outline("circle", x, y, 0.2), "red")])).where == where
    for half, where in ((0.26, "left of"), (0.22, None)):
        for middle in (0.0, 0.3):
            layers = [(outline("circle", middle + side * half, 0.1, 0.2), "red") for side in (-1, 1)]
            assert read_picture(paint(layers)).where == where
            turned = read_picture(paint(layers).transpose(1, 0, 2))
            assert turned.where == (where and "above")


def test_a_speck_has_fewer_than_fifty_pixels_and_all_of_them_fewer_than_164():
    star = paint([(outline("star", 0, 0, 0.38), "red")])
    scene = Scene((Thing("large", "red", "star"),), "center", "white")
    assert read_scene(block(star.copy(), 10, 10, 7, 7)) == scene
    assert len(read_picture(block(star.copy(), 10, 10, 5, 10)).things) == 2
    three = block(block(block(star.copy(), 10, 10, 7, 7), 110, 10, 7, 7), 10, 110, 7, 7)
    assert read_scene(three) == scene
    assert refused(block(three, 110, 110, 4, 5), "specks all over the picture")


def test_the_border_is_four_pixels_wide_and_nineteen_in_twenty_of_one_color():
    star = paint([(outline("star", 0, 0, 0.38), "red")])
    inside = star.copy()
    inside[16:20, 16:-16] = inside[-20:-16, 16:-16] = COLORS["blue"]  # the fifth row from above and below
    assert read_picture(inside).background == "white"
    for length, background in ((24, "white"), (25, None)):  # of 1984 pixels: 96 and 100
        assert read_picture(block(star.copy(), 0, 20, 4, length)).background == background
    assert read_picture(block(star.copy(), 0, 20, 4, 25)).why == "the border is not of one color of the palette"


@pytest.mark.parametrize("name", ["red", "green", "blue", "purple", "black"])
def test_a_color_may_be_sixty_off(name):
    for off, named in ((60, name), (61, None)):
        color = np.array(COLORS[name]) + (0, 0, off if COLORS[name][2] < 128 else -off)
        nearest = min(COLORS, key=lambda other: math.dist(COLORS[other], color))
        assert nearest == name, "else this tests nothing"
        a = np.empty((128, 128, 3), np.uint8)
        a[:] = color
        assert read_picture(a).background == named
        a[:] = COLORS["white"]
        a[40:80, 40:80] = color
        assert read_picture(a).things[0].color == named


def test_words_that_are_open_are_question_marks():
    thing = only_thing(outline("circle", 0, 0, 0.1), color=(128, 128, 128))
    assert (thing.size, thing.color) == (None, None) and str(thing) == "? ? circle"
    assert refused(paint([(outline("circle", 0, 0, 0.5), "red")]), "an object of unclear size (? red circle)")
    corner = paint([(outline("circle", 0.45, 0.45, 0.3), "red")])
    assert read_picture(corner).why == "an object that stands at no place of the grammar"
    assert read_picture(paint([])).why == "0 objects: a scene has one or two"
    right = read_picture(paint([(outline("circle", 0, 0, 0.38), "red")]))
    assert right.why == "" and right.background == "white"
    with pytest.raises(FrozenInstanceError):
        right.why = "no"


def test_shows_wants_all_of_a_scene():
    scene = sample_scenes(1, objects=2, seed=1)[0]
    assert shows(render(scene), scene) is True
    assert shows(render(scene), sample_scenes(1, objects=1, seed=1)[0]) is False


def test_a_picture_of_any_size_is_averaged():
    scene = sample_scenes(1, objects=1, seed=5)[0]
    large = render(scene)
    for side in (64, 100, 128, 200, 256, 384):
        picture = large.resize((side, side), Image.Resampling.BOX)
        assert read_scene(picture) == read_scene(np.asarray(picture)) == scene
        ours, theirs = read_picture(picture).things[0], read_picture(np.asarray(picture)).things[0]
        assert ours.fit == pytest.approx(theirs.fit, abs=0.01) and ours.radius == pytest.approx(
            theirs.radius, abs=0.003
        )
    for picture in (large.resize((63, 63)), np.asarray(large.resize((63, 63)))):
        with pytest.raises(ValueError) as refused_:
            read_scene(picture)
        said = "a scene is square, 64 pixels wide or more, not 63 x 63: crop or resize it first"
        assert str(refused_.value) == said


def test_floats_that_overshoot_zero_a_little_are_still_from_zero_to_one():
    star = Scene((Thing("large", "black", "star"),), "center", "white")
    picture = np.asarray(render(star)) / 255
    picture[:30, :30] = 1.2, -0.25, -0.25
    found = read_picture(picture)
    assert found.background == "white" and [thing.shape for thing in found.things] == [None, "star"]


def test_floats_and_integers_measure_the_same():
    for objects in (1, 2):
        integers = np.asarray(render(sample_scenes(1, objects=objects, seed=3)[0]))
        expected = [(thing.rgb, thing.radius) for thing in read_picture(integers).things]
        for floats in (integers / 255, integers / 127.5 - 1):
            assert [(thing.rgb, thing.radius) for thing in read_picture(floats).things] == expected


def test_what_is_wrong_with_an_array_is_told_whole():
    for shape in ((4, 3, 64), (64, 64, 4), (1, 3, 64, 64), (3, 64)):
        with pytest.raises(ValueError) as refused_:
            read_scene(np.zeros(shape))
        assert str(refused_.value) == (
            f"a picture has the shape (height, width, 3) or (3, height, width), not {shape}: "
            "give one picture of a batch at a time"
        )
    with pytest.raises(ValueError) as refused_:
        read_scene(np.full((64, 64, 3), np.inf))
    said = "the picture has values that are not finite: look for an overflow where it was made"
    assert str(refused_.value) == said
    with pytest.raises(TypeError) as refused_:
        read_scene("scene.png")
    assert str(refused_.value) == "a picture is a PIL image, an array or a tensor, not str"


# ---- rates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 7, 50, 1000])
def test_interval_is_that_of_scipy(n):
    for right in sorted({0, 1, n // 3, n - 1, n}):
        theirs = binomtest(right, n).proportion_ci(0.95, method="wilson")
        assert Rate(right, n).interval == pytest.approx((theirs.low, theirs.high), abs=1e-12)
        assert 0 <= Rate(right, n).interval[0] <= right / n <= Rate(right, n).interval[1] <= 1


def test_rates_of_a_mixed_bag():
    asked = Scene((RED_STAR, BLUE_RING), "left of", "white")
    drawn = [
        asked,
        Scene((BLUE_RING, RED_STAR), "right of", "white"),  # the same picture
        Scene((RED_STAR, BLUE_RING), "above", "white"),
        Scene((RED_STAR, BLUE_RING), "left of", "black"),
        Scene((RED_STAR, replace(BLUE_RING, size="small")), "left of", "white"),
        Scene((RED_STAR,), "left", "white"),
    ]
    pictures = [render(scene) for scene in drawn]
    pictures.append(Image.new("RGB", (512, 512), (128, 128, 128)))
    found = adherence(pictures, [asked] * 7)
    assert found.n == 7
    assert {name: rate.right for name, rate in found.rates.items()} == {
        "shape": 5, "size": 4, "color": 5, "where": 4, "background": 5, "number of objects": 5, "all right": 2
    }  # fmt: skip
    assert found.right.dtype == bool and found.right.tolist() == [True, True] + 5 * [False]
    assert [r.scene == asked for r in found.readings] == found.right.tolist()


def test_an_object_that_cannot_be_named_costs_only_what_is_unclear():
    asked = Scene((RED_STAR,), "center", "white")
    gray = paint([(outline("star", 0, 0, 0.2), (128, 128, 128))])
    found = adherence([gray], [asked]).matches
    assert {name for name, match in found.items() if not match[0]} == {"color", "all right"}


def test_tables():
    scenes = sample_scenes(4, objects=1, seed=0)
    found = adherence([render(s) for s in scenes[:3]] + [Image.new("RGB", (512, 512))], scenes)
    lines = repr(found).splitlines()
    assert len(lines) == 1 + len(ATTRIBUTES) + 1 and len({len(line) for line in lines}) == 1
    assert lines[-1].split() == ["all", "right", "3", "of", "4", "75.0", "%", "30.1", "to", "95.4", "%"]
    html = found._repr_html_()
    assert html.startswith("<table>") and html.count("<tr>") == len(lines) and "30.1 to 95.4 %" in html
    assert str(found.rates["all right"]) == "75.0 % (30.1 to 95.4)"


def test_pictures_may_come_one_by_one_or_as_a_batch():
    scenes = some_of_all(3, seed=0)
    batch = render_codes(encode_scenes(scenes), pixels=256)
    assert adherence(batch, scenes).right.all()
    assert adherence((p for p in batch), scenes).right.all()


def test_rates_of_bad_input():
    scene = sample_scenes(1, objects=1, seed=0)[0]
    picture = render(scene)
    with pytest.raises(ValueError, match="give at least one picture and its scene"):
        adherence([], [])
    for pictures, scenes in (([picture] * 2, [scene]), ([picture], [scene] * 2), ([], [scene]), ([picture], [])):
        for form in (list, iter):
            with pytest.raises(ValueError, match="one picture for each scene"):
                adherence(form(pictures), scenes)
    with pytest.raises(TypeError, match="scenes must be Scene objects, not str"):
        adherence([picture], ["a small red star"])
    with pytest.raises(TypeError, match="a list of pictures"):
        adherence(picture, [scene])
    with pytest.raises(TypeError, match="a list of scenes"):
        adherence([picture], scene)
