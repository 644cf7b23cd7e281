"""The record of small cards for chapters and tests: cell by cell what a real card said, beside what is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import evidence
from ..measure.goals import value
from . import peaks, planner
from .cards import RUNS, outcomes
from .ways import WAYS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

RECORD = "small_cards"
GIB = 2**30


@dataclass(frozen=True)
class Cell:
    """One way on one card, drawing one thing.

    Attributes:
        checkpoint: such as "600M-512".
        way: a key of `ways.WAYS`.
        card: GiB.
        pixels: a side.
        pictures: at once.
        decode: a key of `ways.DECODES`.
        real: "runs", or the stage in which a real card ran out of memory.
        computed: the same, computed.
        share: of the card that its largest stage takes, computed.
    """

    checkpoint: str
    way: str
    card: float
    pixels: int
    pictures: int
    decode: str
    real: str
    computed: str
    share: float

    @property
    def agrees(self) -> bool:
        """Whether both run, or neither does."""
        return (self.real == RUNS) == (self.computed == RUNS)


def rows() -> list[dict[str, Any]]:
    """What was tried: see `cards.try_way`.

    Raises:
        ValueError: the record is missing or damaged.
    """
    return evidence.load(RECORD, results={"rows": list, "timed": list})["results"]["rows"]


def untried() -> list[dict[str, Any]]:
    """Rows that the run did not come to: checkpoint, way, card and pictures at once (0: one and four).

    Raises:
        ValueError: the record is missing or damaged.
    """
    return evidence.load(RECORD, results={"not tried": list})["results"]["not tried"]


def verdict(stages: Mapping[str, int], gib: float) -> str:
    """The first stage that does not fit in `gib` GiB, all of them for PyTorch, or `RUNS`."""
    return next((stage for stage in peaks.STAGES if stages[stage] * planner.SLACK > gib * GIB), RUNS)


def cells(tried: Sequence[Mapping[str, Any]] | None = None) -> list[Cell]:
    """Every cell that a real card was asked for. What failed for another reason than memory is left out.

    Raises:
        ValueError: the record is missing or damaged.
    """
    found = []
    for row in rows() if tried is None else tried:
        for pixels, pictures, decode, real in outcomes(row):
            look = peaks.known(row["checkpoint"])
            stages = peaks.stages(look, WAYS[row["way"]], pixels, pictures, decode)
            card = row["card (GiB)"]
            place = row["checkpoint"], row["way"], card, pixels, pictures, decode
            found.append(Cell(*place, real, verdict(stages, card), max(stages.values()) / (card * GIB)))
    return found


def agreement(found: Sequence[Cell]) -> float:
    """Share of the cells in which a real card and the computation say the same."""
    return sum(cell.agrees for cell in found) / len(found)


def smallest(found: Sequence[Cell], decode: str) -> pd.DataFrame:
    """For each way and each thing to draw the smallest card that it ran on, in GiB: a real one, and computed.

    A row for each way; columns (checkpoint, "512 x 1"). "8" where both say so, "8, computed 6" where they differ, "–"
    where no card that was tried will do.
    """
    import pandas as pd

    best: dict[tuple, dict[str, list[float]]] = {}
    for cell in found:
        if cell.decode == decode or (decode == "tiles" and (cell.pixels, cell.pictures) == (512, 1)):
            key = cell.way, cell.checkpoint, cell.pixels, cell.pictures
            kept = best.setdefault(key, {"real": [], "computed": []})
            for kind in kept:
                kept[kind] += [cell.card] * (getattr(cell, kind) == RUNS)
    table: dict[tuple, dict[str, str]] = {}
    for (way, checkpoint, pixels, pictures), kept in best.items():
        real, computed = (f"{min(kept[kind]):g}" if kept[kind] else "–" for kind in ("real", "computed"))
        text = real if real == computed else f"{real}, computed {computed}"
        table.setdefault((checkpoint, f"{pixels} × {pictures}"), {})[WAYS[way].title] = text
    order = [way.title for way in WAYS.values()]
    frame = pd.DataFrame(table)
    return frame.loc[[title for title in order if title in frame.index]].fillna("")


def on_top(lines: pd.DataFrame, checkpoint: str = "600M-512") -> pd.DataFrame:
    """Peaks of drawing in 16 bits, everything on the GPU and offloaded, and what is left without weights; GiB.

    The last column is the offloaded peak less the autoencoder's weights: what decoding needs on top, if it decoded.

    Args:
        lines: what `sana_lab.measure.pages.measured` gives; the weights are from there.
        checkpoint: its label.

    Raises:
        ValueError: the record is missing or damaged.
    """
    import pandas as pd

    drawn: dict[tuple[str, int, int], int] = {}
    for row in rows():
        for draw in row["draws"] if row["checkpoint"] == checkpoint else ():
            if draw["decode"] == "whole" and "seconds" in draw:
                drawn[row["way"], draw["pixels"], draw["pictures"]] = max(draw["peaks"].values())
    held, vae = (value(lines, name, checkpoint, "16-bit", "eager") for name in ("resident", "vae"))
    found = {}
    for pixels in (512, 1024):
        for pictures in (1, 4):
            peak, away = (drawn.get((way, pixels, pictures)) for way in ("16-bit", "model-offload"))
            if None not in (peak, away, held, vae):
                found[f"{pixels} px × {pictures}"] = {
                    "peak, all on the GPU": f"{peak / GIB:.1f}",
                    "less all weights": f"{(peak - held) / GIB:.2f}",
                    "peak, offloaded": f"{away / GIB:.1f}",
                    "less the autoencoder's weights": f"{(away - vae) / GIB:.2f}",
                }
    return pd.DataFrame(found).T


def timed() -> list[dict[str, Any]]:
    """Each way alone on the whole card: GiB by stage, seconds of loading and of a picture, GiB of the host.

    Raises:
        ValueError: the record is missing or damaged.
    """
    found = []
    for row in evidence.load(RECORD, results={"rows": list, "timed": list})["results"]["timed"]:
        if "failed" in row["load"] or not row["draws"] or "seconds" not in (draw := row["draws"][-1]):
            continue
        stages = dict.fromkeys(peaks.STAGES, 0) | row["load"]["peaks"] | draw["peaks"]
        if WAYS[row["way"]].keeps == "drop":
            stages["encode"] = row["load"]["peaks"]["encode"]
        look = peaks.known(row["checkpoint"])
        computed = peaks.stages(look, WAYS[row["way"]], draw["pixels"], draw["pictures"], draw["decode"])
        found.append(
            {
                "way": row["way"],
                "checkpoint": row["checkpoint"],
                "stages": stages,
                "computed": computed,
                "load_s": row["load"]["seconds"],
                "picture_s": draw["seconds"],
                "host": row["load"]["host"],
            }
        )
    return found


def timed_table() -> pd.DataFrame:
    """What `timed` says: peak and its stage, beside what is computed, seconds, and the host's memory while loading.

    Raises:
        ValueError: the record is missing or damaged.
    """
    import pandas as pd

    found = {}
    for number, row in enumerate(timed(), 1):
        peak, computed = max(row["stages"].values()), max(row["computed"].values())
        found[f"{number}  {WAYS[row['way']].title}"] = {
            "peak (GiB)": f"{peak / GIB:.1f}",
            "computed": f"{computed / GIB:.1f}",
            "in": max(row["stages"], key=lambda stage: row["stages"][stage]),
            "loading (s)": f"{row['load_s']:.1f}",
            "a picture (s)": f"{row['picture_s']:.2f}",
            "host, its own (GiB)": f"{row['host'] / GIB:.1f}",
        }
    return pd.DataFrame(found).T


def plane(measured: Sequence[Mapping[str, Any]]) -> Figure:
    """Every way as a point: peak memory against the seconds of a picture (logarithmic), numbered as in the list."""
    from matplotlib.figure import Figure

    from ..figures import INK, MARKERS, PALETTE, number_points, use_style

    use_style()
    kinds = {"all": "all on the GPU", "drop": "encoder dropped", "model": "offloaded", "leaf": "offloaded"}
    kinds["stream"] = "offloaded"
    looks = dict(
        zip(dict.fromkeys(kinds.values()), zip(MARKERS, ("blue", "amber", "plum"), strict=False), strict=False)
    )
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.subplots()
    labels = []
    for number, row in enumerate(measured, 1):
        marker, color = looks[kinds[WAYS[row["way"]].keeps]]
        place = row["picture_s"], max(row["stages"].values()) / GIB
        axes.plot(*place, marker=marker, color=PALETTE[color], markeredgecolor=INK, markersize=9, linestyle="none")
        labels.append((axes, str(number), place))
    for label, (marker, color) in looks.items():
        axes.plot([], [], marker=marker, color=PALETTE[color], markeredgecolor=INK, linestyle="none", label=label)
    axes.set_xscale("log")
    axes.set_xticks([0.5, 1, 2, 5, 10, 20])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.set_xlabel("a picture of 20 steps (s), prompt encoded before where the encoder is dropped")
    axes.set_ylabel("peak memory, loading included (GiB)")
    axes.set_ylim(bottom=0)
    axes.legend()
    number_points(figure, labels)
    return figure
