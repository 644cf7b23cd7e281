"""`plan()`: the ways to draw with a checkpoint on a card that fit, fastest first, each with the code to paste."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import evidence, machine
from ..checkpoints import Source, resolve
from . import peaks
from .cards import RUNS, outcomes
from .ways import DECODES, WAYS, Way, code, find

if TYPE_CHECKING:
    import pandas as pd

GIB = 2**30
RECORD = "small_cards"
CONTEXT = 0.6
"""GiB that CUDA itself takes of a card in each process, and a desktop a little more: not PyTorch's to give out."""

SLACK = 1.02
"""A fit is a peak that leaves so much: blocks that are free and of the wrong size."""

CARDS = {
    "GTX 1650": 4,
    "RTX 2060": 6,
    "RTX 3050": 8,
    "RTX 3060": 12,
    "RTX 3070": 8,
    "RTX 3080": 10,
    "RTX 3090": 24,
    "RTX 4060": 8,
    "RTX 4060 Ti 16GB": 16,
    "RTX 4070": 12,
    "RTX 4080": 16,
    "RTX 4090": 24,
    "RTX 5060": 8,
    "RTX 5070": 12,
    "RTX 5080": 16,
    "RTX 5090": 32,
    "T4": 16,
    "L4": 24,
    "V100": 16,
    "A10": 24,
    "A100": 40,
    "H100": 80,
    "H200": 141,
}
"""GiB of common cards, by name: the smallest that is sold under it, not counting laptops'."""

LESS = 1.15
"""How many times less memory a next way must need to be worth loading; else it would run out of memory, too."""

ALIKE = 1.25
"""Up to this many times longer is about as fast: eager pictures of the same steps differ by a tenth (small_cards)."""

LARGEST = 16_384
"""GiB that are taken for a card's size."""


@dataclass(frozen=True)
class Choice:
    """A way on a card.

    Attributes:
        way: its name, a key of `ways.WAYS`.
        title: in words.
        decode: a key of `ways.DECODES`.
        stages: peak bytes of each stage.
        known: "computed", or "measured on" and the name of a GPU, or what ran out of memory there.
        host: bytes of the host's memory that loading takes at most, pages of the files with it: computed.
        own: bytes of it that the process had for itself, measured where `host_known` says; None elsewhere.
        host_known: "computed", and where `own` was measured.
        seconds: of a picture, where it was measured, see `Plan.timed`; None elsewhere.
        fits: whether it does, on the card and the host.
        code: to paste.
    """

    way: str
    title: str
    decode: str
    stages: Mapping[str, int]
    known: str
    host: int
    seconds: float | None
    fits: bool
    code: str
    own: int | None = None
    host_known: str = "computed"

    @property
    def peak(self) -> int:
        """Bytes of the stage that needs the most."""
        return max(self.stages.values())

    @property
    def where(self) -> str:
        """The stage that needs the most."""
        return max(self.stages, key=lambda stage: self.stages[stage])


@dataclass(frozen=True)
class Plan:
    """What `plan` returns: prints the ways that fit, and the code of the first.

    Attributes:
        model: as it is called.
        room: bytes that may be given out on the card.
        card: where that number is from.
        pixels: a side of the pictures.
        pictures: drawn at once.
        choices: all ways, those that fit first, and these fastest first; of ways about as fast (`ALIKE`), as listed.
        timed: what `seconds` were measured on, in words; "" if nothing was.
    """

    model: str
    room: int
    card: str
    pixels: int
    pictures: int
    choices: tuple[Choice, ...]
    timed: str

    @property
    def fits(self) -> tuple[Choice, ...]:
        """The ways that fit."""
        return tuple(choice for choice in self.choices if choice.fits)

    @property
    def table(self) -> pd.DataFrame:
        """A row for each way; "–" where nothing is on record, and no column of times where no way has one."""
        import pandas as pd

        timed = any(choice.seconds is not None for choice in self.choices)
        rows = [
            {
                "way": choice.title,
                "decode": choice.decode,
                "fits": "yes" if choice.fits else "no",
                "peak (GiB)": round(choice.peak / GIB, 2),
                "in": choice.where,
                "host (GiB)": round(choice.host / GIB, 1),
                **({"a picture (s)": "–" if choice.seconds is None else choice.seconds} if timed else {}),
                "known": choice.known,
            }
            for choice in self.choices
        ]
        return pd.DataFrame(rows, index=[choice.way for choice in self.choices])

    @property
    def by_stage(self) -> pd.DataFrame:
        """A row for each way: peaks on the GPU in each stage, the host's while loading, and how well both are known."""
        import pandas as pd

        rows = [
            {f"{stage} (GiB)": round(choice.stages[stage] / GIB, 2) for stage in peaks.STAGES}
            | {
                "known": choice.known,
                "host, at most (GiB)": round(choice.host / GIB, 1),
                "host, its own (GiB)": "–" if choice.own is None else round(choice.own / GIB, 2),
                "host known": choice.host_known,
            }
            for choice in self.choices
        ]
        return pd.DataFrame(rows, index=[choice.way for choice in self.choices])

    def stage_lines(self) -> list[str]:
        """The same as lines of text, for a command."""
        heads = "".join(f"{stage:>8}" for stage in peaks.STAGES)
        lines = [f"{'GiB':25}{heads}{'host':>8}{'own':>8}  GPU; host"]
        for choice in self.choices:
            numbers = "".join(f"{choice.stages[stage] / GIB:8.2f}" for stage in peaks.STAGES)
            own = f"{'-':>8}" if choice.own is None else f"{choice.own / GIB:8.2f}"
            lines.append(
                f"{'fits' if choice.fits else 'no':5}{choice.way:20}{numbers}{choice.host / GIB:8.2f}{own}  "
                f"{choice.known}; {choice.host_known}"
            )
        said = "host: at most while loading, pages of the files with it; own: what the process has for itself of that"
        return [*lines, said]

    def to_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        names = ("model", "room", "card", "pixels", "pictures", "timed")
        rows = [vars(choice) | {"peak": choice.peak, "stages": dict(choice.stages)} for choice in self.choices]
        return {name: getattr(self, name) for name in names} | {"choices": rows}

    def __str__(self) -> str:
        """A line for each way, then the code of the first that fits."""
        return "\n".join([*self._lines(), *self._first()])

    __repr__ = __str__

    def whole(self) -> str:
        """The same with a second table between, of stages and of the host's memory."""
        return "\n".join([*self._lines(), "", *self.stage_lines(), *self._first()])

    def _repr_html_(self) -> str:
        head = html.escape(self._lines()[0])
        return f"<p>{head}</p>{self.table.to_html()}<pre>{html.escape(chr(10).join(self._first()))}</pre>"

    def _lines(self) -> list[str]:
        what = f"{self.model}, {self.pictures} of {self.pixels} x {self.pixels} at once"
        lines = [f"{what}: {self.room / GIB:.1f} GiB to give out ({self.card})"]
        for choice in self.choices:
            time = "" if choice.seconds is None else f"{choice.seconds:6.1f} s"
            lines.append(
                f"{'fits' if choice.fits else 'no':5}{choice.way:20}{choice.decode:7}{choice.peak / GIB:6.2f} GiB in "
                f"{choice.where:7}{time:9} {choice.known}"
            )
        order = f"times: {self.timed}" if self.timed else "no times on record: what stays on the GPU comes first"
        return [*lines, order]

    def _first(self) -> list[str]:
        if not self.fits:
            smallest = min(self.choices, key=lambda choice: choice.peak)
            return [
                f"nothing fits: the least is {smallest.way} with {smallest.peak / GIB:.2f} GiB. Draw fewer or smaller "
                "pictures, or take a smaller model."
            ]
        return ["", f"# {self.fits[0].title}", self.fits[0].code]


def plan(
    model: str | Path | Source = "1600M-1024",
    vram: str | float | None = None,
    *,
    pixels: int | None = None,
    pictures: int = 1,
    have_ram: str | float | None = None,
) -> Plan:
    """The ways to draw with a checkpoint on a card, fastest first, with code, peak, and how well that is known.

    Args:
        model: what `load_sana` takes. Nothing is downloaded.
        vram: the card: "8GiB", a number of GiB, or a name such as "RTX 4060". Left out: what is free on this machine's
            GPU now.
        pixels: a side of the pictures; by default the checkpoint's own.
        pictures: drawn at once.
        have_ram: memory of the host, "16GiB" or a number of GiB; ways that need more do not fit.

    Raises:
        ValueError: an unknown model, card, size or number; `vram` left out and no GPU here.

    Example:
        >>> plan("1600M-1024", "8GiB").fits[0].way
        '16-bit-drop'

    Chapter 9.
    """
    source = resolve(model)
    room, card = _room(vram)
    memory = None if have_ram is None else _bytes("have_ram", have_ram)
    pixels = own_pixels(source) if pixels is None else pixels
    if type(pixels) is not int or not 32 <= pixels <= 16_384 or pixels % 32:
        raise ValueError(f"pixels {pixels!r}: give a multiple of 32 up to 16,384; 1024 is usual.")
    if type(pictures) is not int or not 1 <= pictures <= 1024:
        raise ValueError(f"pictures {pictures!r}: give a whole number from 1 to 1,024.")
    return on_a_card(source, room, card, pixels, pictures, memory)


def on_a_card(source: Source, room: int, card: str, pixels: int, pictures: int = 1, memory: int | None = None) -> Plan:
    """The plan for this many bytes that may be given out; see `plan`."""
    look, measured = peaks.known(source), _measured()
    trained = source.trained or "bf16"
    repo = source.checkpoint.repo if source.checkpoint else str(source.folder)
    variant = source.checkpoint.trained if source.checkpoint and source.checkpoint.variants else None
    if source.checkpoint is None:
        variant = source.variant
    values = {
        "MODEL": _text(repo),
        "VARIANT": "None" if variant is None else _text(variant),
        "DTYPE": {"fp16": "torch.float16", "bf16": "torch.bfloat16"}[trained],
        "prompts": str(["a small red star above a large blue ring"] * min(pictures, 2)).replace("'", '"'),
    }
    if pictures > 2:
        values["prompts"] = f'["a small red star above a large blue ring"] * {pictures}'
    choices = []
    for way in WAYS.values():
        needed = peaks.host(look, way)
        on_host = memory is None or needed <= memory
        for decode in _decodes(pixels, pictures):
            stages, how = _stages(look, source, way, pixels, pictures, decode)
            draw = pixels, pictures, decode
            short = measured.too_small.get((source.checkpoint.name if source.checkpoint else None, way.name, *draw), 0)
            alike = [
                (card, name) for peak, card, name in measured.decodes.get((way.keeps, *draw), ())
                if how == "computed" and room <= card and peak <= stages["decode"]
            ]  # fmt: skip
            if room <= short:
                how = f"ran out of memory on an {measured.on} held to {short / GIB:g} GiB"
            elif alike:
                how = f"computed; {alike[0][1]} ran out there, decoding as much"
            fits = on_host and max(stages.values()) * SLACK <= room and room > short and not alike
            if fits:
                break
        program = code(way, values, decode, pixels=pixels, steps=20)
        own = measured.hosts.get((source.checkpoint.name if source.checkpoint else None, way.name))
        told = "computed" if own is None else f"computed, own measured on a machine with {measured.on}"
        seconds = measured.seconds.get(way.name)
        choices.append(Choice(way.name, way.title, decode, stages, how, needed, seconds, fits, program, own, told))
    choices.sort(key=lambda c: (not c.fits, *_speed(c.way)))
    return Plan(source.name, room, card, pixels, pictures, tuple(choices), measured.timed)


def downwards(source: Source, first: str, pixels: int, pictures: int = 1) -> list[tuple[Way, str]]:
    """From a way on the fastest that needs less, and so on down to the least: ways, and how each decodes.

    Only ways that take prompts as they come: none that reads them as it loads, or fills the disk.

    Args:
        source: of the model.
        first: name of the way to begin with, a key of `ways.WAYS`.
        pixels: a side of the pictures.
        pictures: drawn at once.

    Raises:
        ValueError: there is no such way.
    """
    look, found = peaks.known(source), [(find(first), "whole")]

    def peak(way: Way, decode: str) -> int:
        return max(_stages(look, source, way, pixels, pictures, decode)[0].values())

    lasting = [way for way in WAYS.values() if way.keeps != "drop" and not way.disk]
    decodes = _decodes(pixels, pictures)
    left = [(way, decode) for way in sorted(lasting, key=lambda way: _speed(way.name)) for decode in decodes]
    for way, decode in sorted(left, key=lambda each: (each[0].name != first, *_speed(each[0].name))):
        if peak(way, decode) * LESS <= peak(*found[-1]):
            found.append((way, decode))
    return found


def _speed(way: str) -> tuple[float, int]:
    """To sort ways by: seconds on record, of those about as fast the least, then the order in which they are listed."""
    leader, seconds = 0.0, _measured().seconds
    for name in sorted(seconds, key=lambda name: seconds[name]):
        if seconds[name] > leader * ALIKE:
            leader = seconds[name]
        if name == way:
            return leader, list(WAYS).index(way)
    return math.inf, list(WAYS).index(way)


def _stages(
    look: peaks.Look, source: Source, way: Way, pixels: int, pictures: int, decode: str
) -> tuple[Mapping[str, int], str]:
    """Peaks of a way, and how they are known."""
    measured, name = _measured(), source.checkpoint.name if source.checkpoint else None
    if found := measured.stages.get((name, way.name, pixels, pictures, decode)):
        return found, f"measured on {measured.on}"
    return peaks.stages(look, way, pixels, pictures, decode), "computed"


def _decodes(pixels: int, pictures: int) -> list[str]:
    """Ways to decode that differ here, the fastest first."""
    useful = {"whole": True, "slices": pictures > 1, "tiles": pixels > peaks.TILE}
    return [decode for decode in DECODES if useful[decode]]


def _text(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def own_pixels(source: Source) -> int:
    """A side of the pictures that a checkpoint was trained for.

    Raises:
        OSError: it is a folder, and damaged.
    """
    if source.checkpoint:
        return 32 * source.checkpoint.transformer["sample_size"]
    return source.side


def _room(vram: str | float | None) -> tuple[int, str]:
    """Bytes that PyTorch may give out, and where the number is from."""
    if vram is None:
        free = machine.free_memory()
        if free is None:
            raise ValueError(
                'no GPU here that NVIDIA\'s driver lists: say which card, such as vram="8GiB" (--vram 8GiB).'
            )
        return max(int(free - CONTEXT * GIB), 0), f"free on this machine's GPU, less {CONTEXT} GiB for CUDA itself"
    size = _bytes("vram", vram)
    return max(int(size - CONTEXT * GIB), 0), f"a card of {size / GIB:.4g} GiB, less {CONTEXT} GiB for CUDA itself"


def _bytes(name: str, value: str | float) -> int:
    """Bytes of "8GiB", "8 GB", "8192MiB" or 8 (GiB), or of a card by name.

    A card of "8 GB" has 8 GiB: makers of memory count so.
    """
    text = str(value).strip()
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)\s*(?:(g|m)(?:i?b)?)?", text, re.IGNORECASE)
    if match and text.isascii():
        size = float(match[1]) * (2**20 if (match[2] or "g").lower() == "m" else GIB)
        if 0 < size <= LARGEST * GIB:
            return int(size)
    if name == "vram":
        named = re.sub(r"[^a-z0-9]", "", re.sub(r"(?i)nvidia|geforce", "", text).lower())
        for card, gib in CARDS.items():
            if named and named == re.sub(r"[^a-z0-9]", "", card.lower()):
                return gib * GIB
        raise ValueError(
            f'vram {text[:40]!r} is unknown: give the size, such as "8GiB", or one of these cards: {", ".join(CARDS)}.'
        )
    raise ValueError(f'{name} {text[:40]!r}: give a size such as "16GiB", above 0 and up to {LARGEST:,} GiB.')


# ---- what was measured ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Measured:
    """What the record of small cards says; nothing where there is none.

    Attributes:
        stages: (checkpoint, way, pixels, pictures, decode) -> peaks by stage.
        too_small: likewise -> bytes of the largest card that ran out.
        decodes: (what is kept, pixels, pictures, decode) -> of each that ran out decoding: the peak that was computed
            for it, bytes of the card, the way.
        hosts: (checkpoint, way) -> the most that the process had of the host's memory for itself while it loaded.
        seconds: way -> of a picture.
        on: the GPU.
        timed: what `seconds` are of, in words.
    """

    stages: Mapping[tuple, dict[str, int]]
    too_small: Mapping[tuple, int]
    decodes: Mapping[tuple, list[tuple[int, int, str]]]
    hosts: Mapping[tuple, int]
    seconds: Mapping[str, float]
    on: str
    timed: str


@cache
def _measured() -> _Measured:
    if RECORD not in evidence.names():
        return _Measured({}, {}, {}, {}, {}, "", "")
    record = evidence.load(RECORD)
    device, found, too_small, decodes, hosts, seconds, timed = record["machine"]["device"], {}, {}, {}, {}, {}, ""
    for row in record["results"]["rows"]:
        if "host" in row["load"]:
            key = row["checkpoint"], row["way"]
            hosts[key] = max(hosts.get(key, 0), row["load"]["host"])
        for *size, outcome in outcomes(row):
            key, card = (row["checkpoint"], row["way"], *size), int(row["card (GiB)"] * GIB)
            if outcome != RUNS:
                too_small[key] = max(too_small.get(key, 0), card)
            if outcome == "decode":
                way = WAYS[row["way"]]
                peak = peaks.stages(peaks.known(row["checkpoint"]), way, *size)["decode"]
                decodes.setdefault((way.keeps, *size), []).append((peak, card, way.name))
        for draw in row["draws"]:
            if "out of memory" not in draw and "failed" not in draw:
                key = row["checkpoint"], row["way"], draw["pixels"], draw["pictures"], draw["decode"]
                stages = dict.fromkeys(peaks.STAGES, 0) | row["load"]["peaks"] | draw["peaks"]
                if WAYS[row["way"]].keeps == "drop":  # what it encodes before the rest is loaded
                    stages["encode"] = row["load"]["peaks"].get("encode", 0)
                found[key] = stages
    for row in record["results"]["timed"]:
        if row["draws"] and "seconds" in (draw := row["draws"][-1]):
            seconds[row["way"]] = round(draw["seconds"], 2)
            timed = f"{row['checkpoint']}, {draw['pictures']} of {draw['pixels']} pixels, 20 steps, on {device}"
    return _Measured(found, too_small, decodes, hosts, seconds, device, timed)
