"""The grammar of scenes and its sentences."""

import os
import random
import re
import subprocess
import sys

import numpy as np
import pytest

from sana_lab.shapes import Scene, Thing, caption, describe_unknown_words, render, sample_scenes
from sana_lab.shapes.scenes import (
    COLORS,
    HELD_OUT,
    OPPOSITE,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    all_scenes,
    known_words,
    paraphrase,
)


def test_importing_the_package_imports_no_torch():
    code = "import sys, sana_lab.shapes as s; s.caption; s.SHAPES_FOLDER; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ).returncode == 0


def test_functions_do_not_hide_modules_nor_modules_functions():
    code = (
        "import sana_lab.shapes.rendering as a, sana_lab.shapes.scoring as b\n"
        "from sana_lab.shapes import render, adherence\n"
        "assert a.render is render and b.adherence is adherence"
    )
    assert subprocess.run([sys.executable, "-c", code], env=os.environ).returncode == 0


def test_every_public_name_is_there():
    import sana_lab.shapes as shapes

    assert (
        {
            "Scene",
            "Thing",
            "sample_scenes",
            "caption",
            "render",
            "read_scene",
            "adherence",
            "describe_unknown_words",
            "SHAPES_FOLDER",
        }
        <= set(shapes.__all__)
        <= set(dir(shapes))
    )
    assert all(getattr(shapes, name) is not None for name in shapes.__all__)
    with pytest.raises(AttributeError, match="no attribute 'read_scenes'"):
        shapes.read_scenes  # noqa: B018


# ---- scenes ------------------------------------------------------------------------------------------------------


def test_number_of_scenes_by_counting():
    things = len(SIZES) * len(COLORS) * len(SHAPES)
    assert len(all_scenes(1)) == things * len(PLACES) * (len(COLORS) - 1) == 3360
    per_color = len(SIZES) * len(SHAPES)
    same = len(COLORS) * per_color * (per_color - 1) * (len(COLORS) - 1)
    different = len(COLORS) * (len(COLORS) - 1) * per_color**2 * (len(COLORS) - 2)
    assert len(all_scenes(2)) == 2 * (same + different)
    for objects in (1, 2):
        scenes = all_scenes(objects)
        assert len(set(scenes)) == len(scenes)
        assert all(s.canonical == s for s in scenes)
        assert len({caption(s) for s in scenes}) == len(scenes)


def test_a_scene_and_its_canonical_form_are_the_same_picture():
    for scene in sample_scenes(12, objects=2, seed=3):
        other = scene.canonical
        assert other.canonical == other and other.where in ("left of", "above")
        assert np.array_equal(np.asarray(render(scene)), np.asarray(render(other)))
        assert scene.held_out == other.held_out
    turned = [s for s in sample_scenes(40, objects=2, seed=3) if s != s.canonical]
    assert turned and all(s.canonical.things == s.things[::-1] for s in turned)


@pytest.mark.parametrize("objects", [1, 2])
@pytest.mark.parametrize("held_out", [True, False])
def test_sample_has_no_duplicates_and_comes_from_its_half(objects, held_out):
    scenes = sample_scenes(1000, objects=objects, seed=5, held_out=held_out)
    assert len({s.canonical for s in scenes}) == 1000
    assert all(len(s.things) == objects and s.held_out == held_out for s in scenes)
    assert {s.where for s in scenes} == set(PLACES if objects == 1 else RELATIONS)


def test_sample_is_the_same_in_another_process_and_changes_with_the_seed():
    code = (
        "from sana_lab.shapes.scenes import caption, sample_scenes\n"
        "print(*map(caption, sample_scenes(20, objects=2, seed=7)), sep='\\n')"
    )
    elsewhere = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": "123"}, capture_output=True, text=True
    )
    assert elsewhere.stdout.splitlines() == [caption(s) for s in sample_scenes(20, objects=2, seed=7)]
    assert sample_scenes(20, objects=2, seed=7) != sample_scenes(20, objects=2, seed=8)


@pytest.mark.parametrize("objects", [1, 2])
def test_held_out_and_trained_scenes_are_disjoint_and_complete(objects):
    everything = all_scenes(objects)
    held_out = sum(s.held_out for s in everything)
    halves = [
        {s.canonical for s in sample_scenes(n, objects=objects, seed=0, held_out=h)}
        for n, h in ((held_out, True), (len(everything) - held_out, False))
    ]
    assert not halves[0] & halves[1]
    assert halves[0] | halves[1] == set(everything)
    assert held_out >= 1000
    assert held_out / len(everything) == pytest.approx(HELD_OUT[objects], rel=0.1)


def test_every_word_of_the_grammar_is_trained_on():
    trained = sample_scenes(500, objects=1, seed=0, held_out=False)
    for attribute, words in (("size", SIZES), ("color", COLORS), ("shape", SHAPES)):
        assert {getattr(s.things[0], attribute) for s in trained} == set(words)
    assert {s.background for s in trained} == set(COLORS)


RED_STAR, BLUE_RING = Thing("small", "red", "star"), Thing("large", "blue", "ring")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Thing("tiny", "red", "star"), "unknown size 'tiny': choose from small, large"),
        (lambda: Thing("small", "pink", "star"), "unknown color 'pink'"),
        (lambda: Thing("small", "red", "disk"), "unknown shape 'disk'"),
        (lambda: Scene((), "left", "white"), "one object or two, not 0"),
        (lambda: Scene((RED_STAR,) * 3, "left", "white"), "one object or two, not 3"),
        (lambda: Scene((RED_STAR,), "above", "white"), "unknown place 'above': choose from left"),
        (lambda: Scene((RED_STAR, BLUE_RING), "left", "white"), "unknown relation 'left': choose from left of"),
        (lambda: Scene((RED_STAR,), "left", "pink"), "unknown background 'pink'"),
        (lambda: Scene((RED_STAR,), "left", "red"), "cannot be seen"),
        (lambda: Scene((BLUE_RING, RED_STAR), "above", "red"), "cannot be seen"),
        (lambda: Scene((RED_STAR, RED_STAR), "above", "white"), "two equal objects"),
        (lambda: sample_scenes(0, objects=1, seed=0), "n must be 1 to"),
        (lambda: sample_scenes(3361, objects=1, seed=0), "n must be 1 to"),
        (lambda: sample_scenes(1, objects=3, seed=0), "objects must be 1 or 2, not 3"),
        (lambda: all_scenes(0), "objects must be 1 or 2, not 0"),
    ],
)
def test_what_is_outside_the_grammar_is_refused_with_the_way_out(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_render_says_what_it_takes():
    with pytest.raises(TypeError, match="render takes a Scene, not str: try sample_scenes"):
        render("a small red star")


# ---- sentences ---------------------------------------------------------------------------------------------------


def test_captions():
    assert caption(Scene((RED_STAR,), "center", "white")) == "a small red star in the center on a white background"
    assert caption(Scene((BLUE_RING,), "top", "orange")) == "a large blue ring at the top on an orange background"
    assert (
        caption(Scene((RED_STAR, BLUE_RING), "right of", "black"))
        == "a small red star right of a large blue ring on a black background"
    )


@pytest.mark.parametrize("objects", [1, 2])
def test_no_sentence_of_the_grammar_has_an_unknown_word(objects):
    rng = random.Random(0)
    used = set()
    for scene in sample_scenes(600, objects=objects, seed=1):
        for text in (caption(scene), *(paraphrase(scene, rng) for _ in range(8))):
            assert describe_unknown_words(text) == [], text
            used |= set(re.findall(r"\w+", text))
    assert used <= known_words()


def test_no_known_word_is_never_said():
    """A word that no training sentence has would be called known wrongly."""
    rng = random.Random(0)
    said = set()
    for objects in (1, 2):
        for scene in sample_scenes(900, objects=objects, seed=1):
            said |= {w for _ in range(8) for w in re.findall(r"\w+", paraphrase(scene, rng))}
    assert known_words() - said == set()


WORDS = {
    "size": {"small": "small", "little": "small", "tiny": "small", "large": "large", "big": "large", "huge": "large"},
    "color": {c: c for c in COLORS},
    "shape": {**{s: s for s in SHAPES}, "disk": "circle", "plus": "cross"},
    "where": {"left": "left of", "right": "right of", "above": "above", "over": "above", "top": "above",
              "below": "below", "under": "below", "beneath": "below", "underneath": "below"},
    "place": {"left": "left", "right": "right", "top": "top", "bottom": "bottom", "center": "center",
              "middle": "center", "centered": "center"},
}  # fmt: skip


def understand(text: str) -> tuple[list[dict], str | None, str | None]:
    """A reader of sentences that knows English but not how `paraphrase` works: objects, where, background."""
    things, pending, where, background, place = [], {}, None, None, None
    text = re.sub(r"(circle|disk|cross|plus|\w+) that is (\w+) and (\w+)", r"\2 \3 \1", text.lower().rstrip("."))
    turned = bool(re.search(r"\b(it|its)\b", text))
    for word in re.findall(r"\w+|,", text):
        if word in WORDS["shape"]:
            things.append({**pending, "shape": WORDS["shape"][word]})
            pending = {}
        elif word == "background" or (word == "," and pending):
            background, pending = pending.pop("color"), {}
        elif word in WORDS["size"]:
            pending["size"] = WORDS["size"][word]
        elif word in COLORS:
            pending["color"] = word
        else:
            where, place = WORDS["where"].get(word, where), WORDS["place"].get(word, place)
    if pending:
        background = pending["color"]
    if len(things) == 2:
        things = things[::-1] if turned else things
        return things, where, background
    return things, place, background


def same(a: Scene, things: list[dict], where: str | None, background: str | None) -> bool:
    """Whether what was understood is the scene, apart from what was left unsaid."""
    said = [
        all(getattr(t, k) == v for k, v in got.items()) and {"color", "shape"} <= set(got)
        for t, got in zip(a.things, things, strict=True)
    ]
    return all(said) and where in (None, a.where) and background in (None, a.background)


@pytest.mark.parametrize("objects", [1, 2])
def test_paraphrases_mean_the_scene(objects):
    rng = random.Random(2)
    vague = 0
    scenes = sample_scenes(600, objects=objects, seed=2)
    for scene in scenes:
        text = paraphrase(scene, rng)
        things, where, background = understand(text)
        assert len(things) == objects, text
        forms = [scene]
        if objects == 2:
            forms.append(Scene(scene.things[::-1], OPPOSITE[scene.where], scene.background))
        assert any(same(form, things, where, background) for form in forms), (caption(scene), text)
        vague += where is None or background is None or any("size" not in t for t in things)
    assert 0.03 < vague / len(scenes) < 0.2


def test_paraphrases_differ():
    rng = random.Random(0)
    scene = sample_scenes(1, objects=2, seed=0)[0]
    assert len({paraphrase(scene, rng) for _ in range(200)}) > 100


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [
        ("a small red teapot on a white table", ["teapot", "table"]),
        ("A SMALL Red Star, to the LEFT of it!", []),
        ("teapot Teapot TEAPOT", ["teapot"]),
        ("", []),
        ("3 red stars", ["3", "stars"]),
        ("a café-au-lait ring", ["café-au-lait"]),
    ],
)
def test_unknown_words(prompt, unknown):
    assert describe_unknown_words(prompt) == unknown


def test_unknown_words_of_no_string():
    with pytest.raises(TypeError, match="prompt must be a string, not list"):
        describe_unknown_words(["a red star"])


STAR = Thing("small", "red", "star")


@pytest.mark.parametrize("things", [[STAR], ("a small red star",), STAR])
def test_a_scene_is_made_of_things_in_a_tuple(things):
    with pytest.raises(TypeError, match="tuple of Thing"):
        Scene(things, "left", "white")
