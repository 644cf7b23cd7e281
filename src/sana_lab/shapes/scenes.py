"""The grammar of the scenes that the Shapes model draws, and the sentences that ask for them.

A scene holds one object at a place, or two objects in a relation, on a plain background:

>>> scene = Scene((Thing("small", "red", "star"), Thing("large", "blue", "ring")), "above", "white")
>>> caption(scene)
'a small red star above a large blue ring on a white background'
"""

from __future__ import annotations

import itertools
import random
import re
import zlib
from dataclasses import dataclass
from functools import lru_cache

from ..messages import counted

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
SIZES = ("small", "large")
COLORS = {
    "red": (220, 40, 40),
    "green": (40, 170, 70),
    "blue": (50, 80, 220),
    "yellow": (240, 210, 40),
    "purple": (140, 60, 180),
    "orange": (240, 130, 30),
    "white": (245, 245, 245),
    "black": (20, 20, 20),
}
PLACES = ("left", "right", "top", "bottom", "center")
RELATIONS = ("left of", "right of", "above", "below")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

HELD_OUT = {1: 1 / 3, 2: 1 / 20}
"""Share of all scenes, by number of objects, that training never sees."""


@dataclass(frozen=True)
class Thing:
    """One object: its size, color and shape, each a word of the grammar."""

    size: str
    color: str
    shape: str

    def __post_init__(self) -> None:
        """Refuse a word that the grammar does not have."""
        for name, known in (("size", SIZES), ("color", COLORS), ("shape", SHAPES)):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}: choose from {', '.join(known)}")

    def __str__(self) -> str:
        """Words in the order of the canonical caption, without an article."""
        return f"{self.size} {self.color} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """One or two objects on a background.

    Args:
        things: one `Thing` or two different ones.
        where: a place for one object (`PLACES`), a relation for two (`RELATIONS`, read "first ... second").
        background: a color that no object has.

    Raises:
        TypeError: if `things` is no tuple of `Thing`.
        ValueError: for words outside the grammar, or a scene that no picture can tell from another
            (an object in the color of the background, two equal objects).
    """

    things: tuple[Thing, ...]
    where: str
    background: str

    def __post_init__(self) -> None:
        """Check the scene against the grammar."""
        if not isinstance(self.things, tuple) or not all(isinstance(thing, Thing) for thing in self.things):
            raise TypeError(f"things must be a tuple of Thing objects, not {self.things!r}")
        if len(self.things) not in (1, 2):
            raise ValueError(f"a scene has one object or two, not {len(self.things)}")
        kind, known = ("place", PLACES) if len(self.things) == 1 else ("relation", RELATIONS)
        if self.where not in known:
            raise ValueError(f"unknown {kind} {self.where!r}: choose from {', '.join(known)}")
        if self.background not in COLORS:
            raise ValueError(f"unknown background {self.background!r}: choose from {', '.join(COLORS)}")
        if any(t.color == self.background for t in self.things):
            raise ValueError(f"an object as {self.background} as the background cannot be seen: change one of them")
        if len(self.things) == 2 and self.things[0] == self.things[1]:
            raise ValueError(f"two equal objects ({self.things[0]}) leave the relation open: change one of them")

    @property
    def canonical(self) -> Scene:
        """The same picture said one way: "right of" and "below" turned round into "left of" and "above"."""
        if self.where in ("right of", "below"):
            return Scene(self.things[::-1], OPPOSITE[self.where], self.background)
        return self

    @property
    def held_out(self) -> bool:
        """Whether training never sees this scene: a hash of the canonical caption decides, so it never changes."""
        return zlib.crc32(caption(self.canonical).encode()) / 2**32 < HELD_OUT[len(self.things)]

    def __str__(self) -> str:
        """The canonical caption."""
        return caption(self)


def caption(scene: Scene) -> str:
    """The plain sentence for a scene.

    Example:
        >>> caption(Scene((Thing("large", "red", "ring"),), "left", "white"))
        'a large red ring at the left on a white background'

    Chapter 1.
    """
    if len(scene.things) == 1:
        where = "in the center" if scene.where == "center" else f"at the {scene.where}"
        said = f"{_with_article(scene.things[0])} {where}"
    else:
        said = f"{_with_article(scene.things[0])} {scene.where} {_with_article(scene.things[1])}"
    return f"{said} on {_with_article(scene.background)} background"


@lru_cache(maxsize=256)  # a hundred things and eight colors; a caption of each of 112,000 scenes tells its half
def _with_article(words: Thing | str) -> str:
    return _articles(f"a {words}")


def _articles(text: str) -> str:
    return re.sub(r"\ba(?= [aeiou])", "an", text)


@lru_cache(maxsize=2)
def all_scenes(objects: int) -> tuple[Scene, ...]:
    """Every canonical scene with this many objects: 3,360 with one, some 112,000 with two."""
    if objects not in (1, 2):
        raise ValueError(f"objects must be 1 or 2, not {objects!r}")
    things = [Thing(*t) for t in itertools.product(SIZES, COLORS, SHAPES)]
    groups = [(t,) for t in things] if objects == 1 else itertools.permutations(things, 2)
    places = PLACES if objects == 1 else ("left of", "above")
    return tuple(
        _unchecked(group, where, background)
        for group in groups
        for where in places
        for background in COLORS
        if all(t.color != background for t in group)
    )


def _unchecked(things: tuple[Thing, ...], where: str, background: str) -> Scene:
    """A scene of the grammar, made without holding it to the grammar again: that takes a second for all of them."""
    scene = object.__new__(Scene)
    scene.__dict__.update(things=things, where=where, background=background)
    return scene


@lru_cache(maxsize=4)
def pool(objects: int, held_out: bool) -> tuple[Scene, ...]:
    """Every canonical scene that training never sees, or every one that it does."""
    return tuple(s for s in all_scenes(objects) if s.held_out == held_out)


def sample_scenes(n: int, objects: int, seed: int, held_out: bool = True) -> list[Scene]:
    """Draw `n` different scenes, by default from those that training never saw.

    Half of the two-object scenes are said with "right of" or "below".

    Args:
        n: how many, at least 1 and at most the number there are.
        objects: 1 or 2.
        seed: the same seed gives the same scenes on every machine.
        held_out: from the scenes kept out of training (True) or from those trained on (False).

    Raises:
        ValueError: if `objects` is neither 1 nor 2, or `n` is out of range.

    Example:
        >>> print(sample_scenes(1, objects=1, seed=0)[0])
        a large green square at the right on a white background

    Chapter 1.
    """
    known = pool(objects, bool(held_out)) if objects in (1, 2) else all_scenes(objects)
    if not 1 <= n <= len(known):
        raise ValueError(
            f"n must be 1 to {len(known)} for {counted(objects, 'object')} and held_out={held_out}, not {n}"
        )
    rng = random.Random(f"{seed}-{objects}-{held_out}")
    scenes = rng.sample(known, n)
    return [
        Scene(s.things[::-1], OPPOSITE[s.where], s.background) if len(s.things) == 2 and rng.random() < 0.5 else s
        for s in scenes
    ]


# ---- the many ways to say it -------------------------------------------------------------------------------------

SYNONYMS = {
    "small": ("small", "small", "little", "tiny"),
    "large": ("large", "large", "big", "huge"),
    "circle": ("circle", "circle", "disk"),
    "cross": ("cross", "cross", "plus"),
    "ring": ("ring",),
    "square": ("square",),
    "triangle": ("triangle",),
    "star": ("star",),
}
PLACE_WORDS = {
    "left": ("at the left", "on the left", "on the left side", "to the left", "at left"),
    "right": ("at the right", "on the right", "on the right side", "to the right", "at right"),
    "top": ("at the top", "on top", "near the top", "at top"),
    "bottom": ("at the bottom", "on the bottom", "near the bottom", "at bottom"),
    "center": ("in the center", "in the middle", "at the center", "centered"),
}
RELATION_WORDS = {
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "above": ("above", "over", "on top of"),
    "below": ("below", "under", "beneath", "underneath"),
}
BEHIND_WORDS = {  # "... and a ring <word> it"
    "left of": ("to the left of it", "left of it", "on its left"),
    "right of": ("to the right of it", "right of it", "on its right"),
    "above": ("above it", "over it"),
    "below": ("below it", "under it", "beneath it"),
}
BACKGROUND_WORDS = (
    "on a {} background",
    "on a {} background",
    "on {}",
    "against a {} background",
    "with a {} background",
    "on the {} background",
    ", {} background",
)
OPENINGS = ("", "", "", "", "a picture of ", "an image of ", "a drawing of ", "draw ")


def paraphrase(scene: Scene, rng: random.Random) -> str:
    """One of the many ways to ask for a scene: synonyms, articles, word order, either object first.

    In about one sentence of eight something is left unsaid (a size, the place or the background), as people do.
    """
    if rng.random() < 0.25:
        return caption(scene if rng.random() < 0.5 else _turned(scene))
    if rng.random() < 0.5:
        scene = _turned(scene)
    vague = rng.choice(("size", "where", "background")) if rng.random() < 0.125 else ""
    things = [_say_thing(t, rng, say_size=vague != "size") for t in scene.things]
    if len(things) == 1:
        where = "" if vague == "where" else rng.choice(PLACE_WORDS[scene.where])
        said = f"{where} {things[0]}" if rng.random() < 0.15 else f"{things[0]} {where}"
    elif rng.random() < 0.25:
        joined = rng.choice(("and", "with"))
        said = f"{things[0]} {joined} {things[1]} {rng.choice(BEHIND_WORDS[OPPOSITE[scene.where]])}"
    else:
        said = f"{things[0]} {rng.choice(RELATION_WORDS[scene.where])} {things[1]}"
    b = scene.background
    ground = "" if vague == "background" else rng.choice(BACKGROUND_WORDS).format(b)
    text = f"{ground}, {said}" if rng.random() < 0.12 and ground and ground[0] != "," else f"{said} {ground}"
    text = rng.choice(OPENINGS) + text + ("." if rng.random() < 0.1 else "")
    return _articles(re.sub(r"\s+([,.])", r"\1", " ".join(text.split())).lstrip(", "))


def _turned(scene: Scene) -> Scene:
    if len(scene.things) == 1:
        return scene
    return Scene(scene.things[::-1], OPPOSITE[scene.where], scene.background)


def _say_thing(thing: Thing, rng: random.Random, say_size: bool) -> str:
    size = rng.choice(SYNONYMS[thing.size]) if say_size else ""
    shape = rng.choice(SYNONYMS[thing.shape])
    form = rng.random()
    if form < 0.1 and size:
        return f"{rng.choice(('a', 'the'))} {shape} that is {size} and {thing.color}"
    words = f"{thing.color} {size} {shape}" if form < 0.25 else f"{size} {thing.color} {shape}"
    article = rng.choice(("a", "a", "a", "the", "one", ""))
    words = " ".join(words.split())
    return f"{article} {words}".strip()


@lru_cache(maxsize=1)
def known_words() -> frozenset[str]:
    """Every word that the sentences of the grammar use."""
    texts = [*SIZES, *COLORS, *SHAPES, *PLACES, *RELATIONS, *OPENINGS, "a an the one that is and with it its"]
    texts += [text.format("").strip(" ,") for text in BACKGROUND_WORDS]
    for table in (SYNONYMS, PLACE_WORDS, RELATION_WORDS, BEHIND_WORDS):
        texts += [text for choices in table.values() for text in choices]
    return frozenset(" ".join(texts).split())


def describe_unknown_words(prompt: str) -> list[str]:
    """Name the words of a prompt that the Shapes model never saw, in order, each once.

    Raises:
        TypeError: if the prompt is not a string.

    Example:
        >>> describe_unknown_words("a small red teapot on a white table")
        ['teapot', 'table']

    Chapter 1.
    """
    if not isinstance(prompt, str):
        raise TypeError(f"prompt must be a string, not {type(prompt).__name__}")
    words = re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", prompt.lower())
    return list(dict.fromkeys(w for w in words if w not in known_words()))
