"""What the chapters say about released checkpoints, claim by claim, each compared with what was found on one.

A claim is a function of the findings. It says whether it holds, or raises `NotChecked` with the reason why nobody can
tell. What is said about the weights of released checkpoints is not tried on random ones, nor on a model of other sizes.

Chapter 14.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..checkpoints import CHECKPOINTS
from ..messages import counted
from .kept import DOES_NOT, HAPPENS, NOT_CHECKED
from .plan import REFERENCE

HOLDS, FAILS = "holds", "does not hold"
"""What may become of a claim that was looked at; the others are `NOT_CHECKED`."""

AS_NEAR = 3.0
"""Decibels by which pictures may be farther from 16 bits than others and still count as near."""

FAR = 6.0
"""Decibels from which on one picture is farther from 16 bits than another: twice the error."""

LARGEST_FLOAT16 = 65504
STORED = {"fp16": "F16", "bf16": "BF16"}
"""A 16-bit type, and what safetensors calls it."""

LINEAR_SHARE = 8 / 15.5
"""Of a block: 8 d² in linear layers of 15.5 d². Chapter 4."""

LINEAR_WITHIN = 0.02
"""The share of a released transformer may differ by so much, for what is no block."""

Findings = Mapping[str, Any]
"""`files`, `ways` (by name), `failures` (by id), `pairs` (way -> mean PSNR to 16 bits), `off` (the same without
guidance), `gpu` ("real", "virtual", "none") and `released` (the checkpoint's name, or None for a folder)."""


class NotChecked(Exception):
    """Nobody can tell, for the reason that it says."""


@dataclass(frozen=True)
class Verdict:
    """What became of a claim.

    Attributes:
        id: of the claim; never changes once published.
        chapter: number of the chapter that makes it.
        claim: the claim, in a sentence.
        state: "holds", "does not hold" or "could not be checked".
        why: what was found, or why nothing could be.

    Chapter 14.
    """

    id: str
    chapter: int
    claim: str
    state: str
    why: str

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Claim:
    """A claim, what it is about (see `claim`), and the function that looks: it returns whether, and what was found."""

    id: str
    chapter: int
    text: str
    of: str
    look: Callable[[Findings], tuple[bool, str]]


ANY, RELEASED, TRAINED, BOTH = "any", "released", "trained", "both"
"""What a claim is about, see `claim`."""

CLAIMS: list[Claim] = []
"""All of them, in the order of the chapters."""


def claim(id: str, chapter: int, text: str, of: str = ANY) -> Callable[[Callable], Callable]:
    """Register a claim under its id.

    Args:
        id: words and hyphens; never changes once published.
        chapter: that makes it.
        text: a sentence without its stop.
        of: `ANY` Sana, one of the sizes of a `RELEASED` one, `TRAINED` weights, or `BOTH` of these.
    """

    def register(look: Callable[[Findings], tuple[bool, str]]) -> Callable[[Findings], tuple[bool, str]]:
        CLAIMS.append(Claim(id, chapter, text, of, look))
        return look

    return register


def judge(found: Findings) -> list[Verdict]:
    """Compare every claim with what was found.

    Args:
        found: see `Findings`.

    Chapter 14.
    """
    verdicts = []
    for one in sorted(CLAIMS, key=lambda one: one.chapter):
        try:
            if one.of in (TRAINED, BOTH) and found["files"]["random"]:
                raise NotChecked("the weights are random, and this is about trained ones")
            if one.of in (RELEASED, BOTH):
                _like(found)
            holds, why = one.look(found)
            state = HOLDS if holds else FAILS
        except NotChecked as reason:
            state, why = NOT_CHECKED, str(reason)
        verdicts.append(Verdict(one.id, one.chapter, one.text, state, why))
    return verdicts


# ---- what was found ----------------------------------------------------------------------------------------------


def _way(found: Findings, name: str, key: str = "") -> Any:
    """What was found in a way, or one thing of it."""
    if found["gpu"] == "none":
        raise NotChecked("no GPU here: nothing was loaded")
    way = found["ways"].get(name)
    if way is None:
        raise NotChecked(f"the way {name} was not asked for")
    if "failed" in way:
        raise NotChecked(f"the way {name} failed: {way['failed']['error']}")
    if key and key not in way:
        also = way.get("not_looked_into")
        raise NotChecked(f"{name}: {also['error']}: {also['text']}" if also else f"{name} has no {key}")
    return way[key] if key else way


def _real(found: Findings) -> None:
    if found["gpu"] != "real":
        raise NotChecked("times want a real GPU")


def _like(found: Findings) -> str:
    known = found["released"] or found["files"]["like"]
    if known is None:
        raise NotChecked("no released checkpoint has a transformer of these sizes")
    return known


def _table(found: Findings) -> Any:
    if found["released"] is None:
        raise NotChecked("the table is about released checkpoints by their names")
    return CHECKPOINTS[found["released"]]


def _mib(size: float) -> str:
    return f"{size / 2**20:,.1f} MiB"


def _sprint(found: Findings) -> bool:
    return found["files"]["class"] == "SanaSprintPipeline"


# ---- chapter 3 ---------------------------------------------------------------------------------------------------


def _kinds(found: Findings, component: str, names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    kinds = _way(found, "guard", "outliers").get(component, {})
    some = {name: kind for name, kind in kinds.items() if name in names}
    if not some:
        raise NotChecked(f"the {component} has no layer named {', '.join(names)}")
    return some


@claim(
    "no-outliers-behind-norms",
    3,
    "Behind the norms of the text encoder nothing reaches 6: it is below the size at which outlier features appear",
    of=BOTH,
)
def _(found: Findings) -> tuple[bool, str]:
    from .watched import BEHIND_NORMS

    kinds = _kinds(found, "text_encoder", BEHIND_NORMS)
    most = max(kinds.values(), key=lambda kind: kind["largest"])
    layers, of = (sum(kind[key] for kind in kinds.values()) for key in ("with_outliers", "layers"))
    columns = max(kind["columns"] for kind in kinds.values())
    why = f"{layers} of {of} layers are given a value of 6 or more, the largest is {most['largest']:.4g}"
    return layers == 0, why + f", in up to {columns:.2%} of the columns" * (layers > 0)


@claim("outliers-in-products", 3, "The text encoder's down_proj, which reads a product, has outliers", of=BOTH)
def _(found: Findings) -> tuple[bool, str]:
    from .watched import PRODUCTS

    kinds = _kinds(found, "text_encoder", PRODUCTS)
    layers, of = (sum(kind[key] for kind in kinds.values()) for key in ("with_outliers", "layers"))
    top = max(kind["largest"] for kind in kinds.values())
    return layers > 0, f"{layers} of {of} layers are given a value of 6 or more, the largest is {top:.4g}"


# ---- chapter 4 ---------------------------------------------------------------------------------------------------


def _geometry(component: str) -> Callable[[Findings], tuple[bool, str]]:
    def look(found: Findings) -> tuple[bool, str]:
        known = _like(found)
        same = found["files"]["shapes"].get(component)
        if same is None:
            raise NotChecked(f"its configuration is that of no released checkpoint, {known} included")
        layers = found["files"]["layers"].get(component)
        count = f"{layers} layers, " if layers else ""
        return same, f"{count}{'all' if same else 'not all'} shapes are those of the table's {known}"

    return look


for _component, _text in (
    ("transformer", "The transformer has the layers and shapes of the table"),
    ("text_encoder", "The text encoder is Gemma-2-2b without its head, as in all checkpoints"),
    ("vae", "The autoencoder has the same shape in all checkpoints"),
):
    claim(f"shapes-{_component.replace('_', '-')}", 4, _text)(_geometry(_component))


@claim(
    "half-is-linear", 4, "About half of the transformer's parameters are in nn.Linear, whatever its size", of=RELEASED
)
def _(found: Findings) -> tuple[bool, str]:
    share = found["files"]["linear"]
    return abs(share - LINEAR_SHARE) <= LINEAR_WITHIN, f"{share:.1%}; of a block it is {LINEAR_SHARE:.1%}"


def _bytes_of(name: str) -> Callable[[Findings], tuple[bool, str]]:
    def look(found: Findings) -> tuple[bool, str]:
        held, predicted = _way(found, name, "held"), found["files"]["predicted"][name]
        off = {part: held.get(part, 0) - predicted[part] for part in predicted if held.get(part) != predicted[part]}
        total = f"{_mib(sum(held.values()))} held"
        if not off:
            return True, f"{total}, to the byte as predicted"
        return False, f"{total}; " + ", ".join(f"{part} {size:+,} bytes" for part, size in off.items())

    return look


for _name, _chapter, _words in (
    ("16-bit", 4, "Loading in 16 bits holds the bytes that counting predicts"),
    ("recipe", 4, "Loading by the recipe holds the bytes that counting predicts"),
    ("slim", 8, "Loading slim holds the bytes that counting predicts"),
    ("fp8", 8, "Loading in FP8 holds the bytes that counting predicts"),
):
    claim(f"bytes-{_name}", _chapter, _words)(_bytes_of(_name))


@claim("recipe-saves-less-than-half", 4, "The recipe saves a third or less of the bytes, not half", of=RELEASED)
def _(found: Findings) -> tuple[bool, str]:
    wide, narrow = (sum(_way(found, name, "held").values()) for name in ("16-bit", "recipe"))
    return narrow / wide > 0.65, f"{narrow / wide:.2f} of {_mib(wide)} is left"


# ---- chapter 5 ---------------------------------------------------------------------------------------------------


@claim("weights-are-whole", 5, "Every tensor that the configuration asks for is in the files, and finite")
def _(found: Findings) -> tuple[bool, str]:
    parts = found["files"]["parts"]  # were one missing or not finite, `files.look` had refused, and there is no record
    files, tensors = (sum(part[key] for part in parts.values()) for key in ("files", "tensors"))
    return True, f"{tensors:,} tensors in {counted(files, 'file')} were read"


@claim("stored-in-trained-type", 5, "The transformer's files are in the 16-bit type that it was trained in")
def _(found: Findings) -> tuple[bool, str]:
    trained = _table(found).trained
    dtypes = found["files"]["parts"]["transformer"]["dtypes"]
    main = max(dtypes, key=lambda kind: dtypes[kind])
    return main == STORED[trained], f"trained in {trained} by the table, stored as {' and '.join(sorted(dtypes))}"


@claim("variants-as-listed", 5, "16-bit files have a variant in their names where the table says so, and nowhere else")
def _(found: Findings) -> tuple[bool, str]:
    checkpoint = _table(found)
    expected = checkpoint.trained if checkpoint.variants else None
    variant = found["files"]["variant"]
    return variant == expected, f"by the table {expected or 'none'}, found {variant or 'none'}"


@claim("class-fits-transformer", 5, "Sprint's class goes with a transformer that is told the guidance, and no other")
def _(found: Findings) -> tuple[bool, str]:
    told = found["files"]["guidance_embeds"]
    return told == _sprint(found), f"{found['files']['class']}, guidance_embeds {told}"


@claim(
    "recipe-reaches-linear-alone", 5, "The recipe turns linear layers to 8 bits and nothing else, the autoencoder not"
)
def _(found: Findings) -> tuple[bool, str]:
    layers, wide = (_way(found, name, "layers") for name in ("recipe", "16-bit"))
    eight = {part: layers[part].get("Linear in 8 bits", 0) for part in ("text_encoder", "transformer")}
    good = all(eight[part] == wide[part].get("Linear", 0) and not layers[part].get("Linear") for part in eight)
    same = all(layers[p].get(k) == wide[p].get(k) for p in eight for k in ("Conv2d", "Embedding"))
    return good and same and layers["vae"] == wide["vae"], ", ".join(f"{n} in the {p}" for p, n in eight.items())


@claim("transformer-within-float16", 5, "A transformer trained in float16 stays within float16's range", of=BOTH)
def _(found: Findings) -> tuple[bool, str]:
    if found["files"]["trained"] != "fp16":
        raise NotChecked("this one was not trained in float16")
    return _within(found, "transformer")


def _within(found: Findings, component: str) -> tuple[bool, str]:
    tops = _way(found, REFERENCE, "activations").get(component)
    if tops is None:
        raise NotChecked(f"no module of the {component} was called")
    if not tops["finite"]:
        return False, f"{tops['module']} puts out what is not finite, in {tops['dtype']}"
    return tops["largest"] <= LARGEST_FLOAT16, (
        f"the largest is {tops['largest']:,.4g}, put out by {tops['module']} in {tops['dtype']}; float16 ends at "
        f"{LARGEST_FLOAT16:,}"
    )


def _overflows(component: str) -> Callable[[Findings], tuple[bool, str]]:
    def look(found: Findings) -> tuple[bool, str]:
        within, why = _within(found, component)
        return not within, why

    return look


claim("text-encoder-overflows-in-float16", 5, "The text encoder's activations are beyond float16", of=BOTH)(
    _overflows("text_encoder")
)
claim("autoencoder-overflows-in-float16", 13, "The autoencoder's activations are beyond float16", of=BOTH)(
    _overflows("vae")
)


# ---- chapter 6 ---------------------------------------------------------------------------------------------------


@claim("every-way-draws", 6, "Every way draws pictures: none is black, of one color, or full of NaN", of=TRAINED)
def _(found: Findings) -> tuple[bool, str]:
    _way(found, REFERENCE)
    wrong = {name: way["pictures"]["wrong"] for name, way in found["ways"].items() if "pictures" in way}
    failed = [name for name, way in found["ways"].items() if "failed" in way]
    bad = {name: some for name, some in wrong.items() if some}
    told = [f"{name}: {len(some)}, {next(iter(some.values()))}" for name, some in bad.items()]
    told += [f"{name} failed" for name in failed]
    drawn = sum(way["pictures"]["drawn"] for way in found["ways"].values() if "pictures" in way)
    return not told, "; ".join(told) or f"{counted(drawn, 'picture')} in {counted(len(wrong), 'way')} looked at"


@claim("draws-as-asked", 6, "8 bits draw what was asked as often as 16 do", of=TRAINED)
def _(found: Findings) -> tuple[bool, str]:
    raise NotChecked("no program here reads what is in such pictures: look at them side by side")


@claim(
    "nonsense-without-guidance", 6, "Without guidance the recipe as published draws nonsense, and the guard mends it"
)
def _(found: Findings) -> tuple[bool, str]:
    if _sprint(found):
        raise NotChecked("Sprint has no guidance to switch off; its pictures are the case itself, see below")
    for name in ("recipe", "guard", REFERENCE):
        _way(found, name, "without_guidance")
    return _mended(found, "off")


@claim("sprint-needs-the-guard", 6, "Sprint, which has no guidance, needs the guard for every picture")
def _(found: Findings) -> tuple[bool, str]:
    if not _sprint(found):
        raise NotChecked("this is not Sprint")
    for name in ("recipe", "guard", REFERENCE):
        _way(found, name)
    return _mended(found, "pairs")


def _mended(found: Findings, pictures: str) -> tuple[bool, str]:
    psnr = found[pictures]
    if not {"recipe", "guard"} <= set(psnr):
        raise NotChecked("the pictures are not there")
    seen = f"{psnr['recipe']:.1f} dB to the 16-bit picture without the guard, {psnr['guard']:.1f} dB with it"
    mended = psnr["guard"] - psnr["recipe"] >= FAR
    if not mended and found["files"]["random"]:  # an H200, 600M: 36.2 dB and 40.5 dB; trained attention moves more
        raise NotChecked(f"the weights are random, whose attention hardly moves a picture: {seen}")
    return mended, seen


@claim("same-with-guidance", 6, "With guidance the recipe and the guarded recipe draw the same")
def _(found: Findings) -> tuple[bool, str]:
    if _sprint(found):
        raise NotChecked("Sprint has no guidance")
    for name in ("recipe", "guard", REFERENCE):
        _way(found, name)
    recipe, guard = (found["pairs"][name] for name in ("recipe", "guard"))
    return abs(recipe - guard) <= AS_NEAR, f"{recipe:.1f} dB and {guard:.1f} dB to 16 bits, mean of the pictures"


# ---- chapters 7 to 9 ---------------------------------------------------------------------------------------------


def _second(found: Findings, name: str) -> float:
    return _way(found, name, "pictures")["seconds"]


@claim("recipe-is-slower", 7, "A picture by the recipe takes longer than one in 16 bits")
def _(found: Findings) -> tuple[bool, str]:
    _real(found)
    wide, narrow = _second(found, "16-bit"), _second(found, "recipe")
    return narrow > wide, f"{narrow:.2f} s by the recipe, {wide:.2f} s in 16 bits"


@claim("fast-is-faster", 8, "The fast mode takes less time than the recipe")
def _(found: Findings) -> tuple[bool, str]:
    _real(found)
    recipe, fast = _second(found, "recipe"), _second(found, "fast")
    return fast < recipe, f"{fast:.2f} s fast, {recipe:.2f} s by the recipe; the first picture is not counted"


@claim(
    "fast-check-lets-it", 8, "No layer of the transformer needs its outliers set apart: integer products may be used"
)
def _(found: Findings) -> tuple[bool, str]:
    check = _way(found, "fast", "check")
    if "raised" in check:
        raise NotChecked(check["raised"])
    numbers = [f"{check[key]:.1f}" if check[key] is not None else "no" for key in ("recipe", "plain")]
    why = (
        f"{check['spoiled']} of {check['layers']} layers are spoiled; {check['worst']}, the worst, keeps {numbers[1]} "
    )
    return check["spoiled"] == 0, why + f"dB without the split and {numbers[0]} dB with it"


@claim(
    "fast-check-is-right", 8, "Where the check lets integers through, pictures are as near to 16 bits as the recipe's"
)
def _(found: Findings) -> tuple[bool, str]:
    if _way(found, "fast", "activations") != 8:
        raise NotChecked("the check did not let integers through; weights alone were drawn with")
    _way(found, REFERENCE), _way(found, "guard")
    fast, guard = found["pairs"]["fast"], found["pairs"]["guard"]
    return fast >= guard - AS_NEAR, f"{fast:.1f} dB to 16 bits, and the recipe {guard:.1f} dB"


@claim("slim-holds-less", 8, "Slim holds less than the recipe, by what counting says")
def _(found: Findings) -> tuple[bool, str]:
    recipe, slim = (sum(_way(found, name, "held").values()) for name in ("recipe", "slim"))
    said = sum(found["files"]["predicted"]["recipe"].values()) - sum(found["files"]["predicted"]["slim"].values())
    return recipe - slim == said > 0, f"{_mib(recipe - slim)} less, counted {_mib(said)}"


@claim(
    "decoding-takes-the-most",
    9,
    "Of encoding, steps and decoding, decoding takes the most beside the weights",
    of=RELEASED,
)
def _(found: Findings) -> tuple[bool, str]:
    stages = _way(found, "guard", "stages")
    if found["pixels"] < found["files"]["side"]:
        raise NotChecked(f"pictures of {found['pixels']} pixels were drawn, smaller than the model's own")
    rest = {stage: stages[stage]["rest"] for stage in ("encode", "steps", "decode") if stage in stages}
    if len(rest) < 3:
        raise NotChecked("the monitor did not see three stages")
    return max(rest, key=lambda stage: rest[stage]) == "decode", ", ".join(f"{s} {_mib(n)}" for s, n in rest.items())


# ---- chapters 10 to 12 -------------------------------------------------------------------------------------------


@claim("guard-finds-nothing", 10, "`checked` finds nothing wrong with what `load_sana` returns")
def _(found: Findings) -> tuple[bool, str]:
    problems = _way(found, "guard", "problems")
    return not problems, "; ".join(problems)[:300] or "nothing"


@claim("failures-happen", 10, "The failures of part III happen on this model as they do on the book's small one")
def _(found: Findings) -> tuple[bool, str]:
    if found["gpu"] == "none":
        raise NotChecked("no GPU here: nothing was loaded")
    states = [one["state"] for one in found["failures"].values()]
    told = states.count(HAPPENS) + states.count(DOES_NOT)
    if not told:
        raise NotChecked("none was reproduced" if states else "none was asked for")
    others = [id for id, one in found["failures"].items() if one["state"] == DOES_NOT]
    return not others, f"{states.count(HAPPENS)} of {told} happen" + f"; not {', '.join(others)}" * bool(others)
