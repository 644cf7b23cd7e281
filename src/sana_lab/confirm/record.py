"""The record of one run: put together from what the steps have found, written, read, and checked for its format.

Chapter 14.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import evidence
from ..checkpoints import Source
from ..evidence import contributed
from .claims import FAILS, HOLDS, NOT_CHECKED, Verdict, judge
from .kept import found_in
from .plan import FORMAT, REFERENCE, USUAL, WAYS, Plan
from .worker import OFF

if TYPE_CHECKING:
    import pandas as pd

NAME = contributed.NAME
WHAT = "The book's claims about released checkpoints, held against one: bytes, times, peaks, pictures, failures"


@dataclass(frozen=True, eq=False)
class Record:
    """A record of `sana-lab confirm`; `record` is the whole of it, and `path` the file.

    Chapter 14.
    """

    path: Path
    record: dict[str, Any]

    @property
    def results(self) -> dict[str, Any]:
        """What was found; the page *Records from other machines* says what each field is."""
        return self.record["results"]

    @cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """What became of each claim."""
        return tuple(Verdict(**one) for one in self.results["claims"])

    def count(self, state: str) -> int:
        """How many claims are in a state."""
        return sum(one.state == state for one in self.verdicts)

    @property
    def claims(self) -> pd.DataFrame:
        """A row for each claim."""
        import pandas as pd

        rows = [
            {"chapter": one.chapter, "state": one.state, "claim": one.claim, "found": one.why} for one in self.verdicts
        ]
        return pd.DataFrame(rows, index=[one.id for one in self.verdicts])

    @property
    def ways(self) -> pd.DataFrame:
        """A row for each way: MiB predicted and held, peaks of loading and drawing, decibels to 16 bits."""
        import pandas as pd

        rows = {}
        for name, way in self.results["ways"].items():
            row = {"predicted": _mib(sum(self.results["files"]["predicted"][name].values()))}
            if "held" in way:
                row |= {"held": _mib(sum(way["held"].values())), "load peak": _mib(way["load"]["peak"])}
                row["peak"] = _mib(max((stage["allocated"] for stage in way["stages"].values()), default=0))
                row["dB"] = self.results["pairs"].get(name)
            else:
                row["failed"] = way.get("failed", {}).get("error", "not loaded")
            rows[name] = row
        return pd.DataFrame.from_dict(rows, orient="index")

    def __str__(self) -> str:
        """In a sentence."""
        counts = ", ".join(f"{self.count(state)} {words}" for state, words in _WORDS.items())
        return f"{self.results['model']['name']}: of {len(self.verdicts)} claims {counts}"

    __repr__ = __str__


_WORDS = {HOLDS: "hold", FAILS: "do not hold", NOT_CHECKED: "could not be checked"}


def _mib(size: float) -> float:
    return round(size / 2**20, 1)


def load(path: str | Path) -> Record:
    """Read a record.

    Args:
        path: the file, or the folder that `sana-lab confirm` was given.

    Raises:
        ValueError: there is none, or it is damaged, or of another format.

    Chapter 14.
    """
    path = Path(path)
    if path.is_dir():
        path = path / f"{NAME}.json"
    return Record(path, contributed.load(path))


def save(source: Source, plan: Plan, out: Path, command: str) -> Record:
    """Put together what the steps have found, judge the claims, and write `confirmed.json`.

    Raises:
        OSError: it cannot be written.
    """
    files = found_in(out, "files")
    assert files is not None
    ways = {name: found_in(out, name) or {} for name in plan.names}
    if plan.gpu == "none":
        ways = {name: {} for name in WAYS if name in plan.ways}
    failures = {} if plan.gpu == "none" else {id: found_in(out, f"failure-{id}") for id in plan.failures}
    failures = {id: one or {"state": NOT_CHECKED, "words": "not run"} for id, one in failures.items()}
    pairs, off = _pairs(out, plan)
    released = source.checkpoint.name if source.checkpoint else None
    findings = {
        "files": files,
        "ways": ways,
        "failures": failures,
        "pairs": pairs,
        "off": off,
        "gpu": plan.gpu,
        "released": released,
        "pixels": plan.pixels or files["side"],
    }
    results = {
        "format": FORMAT,
        "model": {
            "name": source.name,
            "released": released,
            "weights": plan.settings(source, out)["weights"],
            "random": files["random"],
        },
        "settings": {
            "gpu": plan.gpu,
            "vram": plan.vram if plan.gpu == "virtual" else None,
            "prompts": list(plan.prompts),
            "seed": plan.seed,
            "steps": plan.steps or files["steps"],
            "pixels": plan.pixels or files["side"],
        },
        "files": files,
        "ways": ways,
        "pairs": pairs,
        "off": off,
        "scores": _scores(out, plan),
        "failures": failures,
        "claims": [verdict.to_json() for verdict in judge(findings)],
    }
    results = _without(results, {str(source.folder): "FOLDER", str(out): "OUT", str(Path.home()): "~"})
    path = evidence.save(NAME, what=WHAT, command=command, results=results, seed=plan.seed, folder=out)
    return load(path)


def _without(value: Any, places: Mapping[str, str]) -> Any:
    """The same without the folders of a machine, which a record must not tell."""
    if isinstance(value, str):
        for place, name in places.items():
            value = value.replace(place, name) if len(place) > 1 else value
        return value
    if isinstance(value, dict):
        return {key: _without(item, places) for key, item in value.items()}
    return [_without(item, places) for item in value] if isinstance(value, list) else value


def picture_file(out: Path, way: str, which: int | str) -> Path:
    """Where a picture is: `which` is its number, or `OFF`."""
    return out / "pictures" / way / (f"{which:02d}.png" if isinstance(which, int) else f"{which}.png")


def _pairs(out: Path, plan: Plan) -> tuple[dict[str, float], dict[str, float]]:
    """Way -> decibels between its pictures and those in 16 bits, the mean; and the same of the one without guidance.

    Equal pictures count as 99 dB.
    """
    pairs, off = {}, {}
    for name in plan.names:
        if name == REFERENCE:
            continue
        each = [_psnr(*(picture_file(out, way, i) for way in (REFERENCE, name))) for i in range(len(plan.prompts))]
        if each and all(value is not None for value in each):
            pairs[name] = round(sum(each) / len(each), 2)
        one = _psnr(*(picture_file(out, way, OFF) for way in (REFERENCE, name)))
        if one is not None:
            off[name] = round(one, 2)
    return pairs, off


def _psnr(first: Path, second: Path) -> float | None:
    from PIL import Image

    from ..compared_pictures.scores import scores

    if not (first.is_file() and second.is_file()):
        return None
    return scores([Image.open(first)], [Image.open(second)], metrics=("psnr",))["psnr"]["mean"]


def check_metrics(metrics: Sequence[str] | None) -> tuple[str, ...]:
    """The measures asked for, or those that want no download.

    Raises:
        ValueError: one is unknown.
    """
    from ..compared_pictures import scores

    return scores.check_metrics(metrics or USUAL, prompts=())


def _scores(out: Path, plan: Plan) -> dict[str, Any]:
    """Way -> metric -> values, mean and interval against 16 bits, where the metrics are there."""
    from PIL import Image

    from ..compared_pictures.scores import scores

    drawn = {}
    for name in plan.names:
        files = [picture_file(out, name, i) for i in range(len(plan.prompts))]
        if all(file.is_file() for file in files):
            drawn[name] = [Image.open(file) for file in files]
    wide = drawn.pop(REFERENCE, None)
    if wide is None:
        return {}
    prompts = list(plan.prompts)
    return {name: scores(wide, some, prompts, metrics=plan.metrics) for name, some in drawn.items()}


# ---- records from other machines ---------------------------------------------------------------------------------


def contributed_table(folder: Path = contributed.FOLDER) -> pd.DataFrame:
    """Ours and contributed records side by side: a column each, a row for each claim and for what was measured.

    Args:
        folder: of the contributed records.

    Raises:
        ValueError: one of them is damaged.

    Chapter 14.
    """
    import pandas as pd

    found = {}
    for label, record in contributed.load_all(folder).items():
        results = record["results"]
        column = {
            "machine": record["machine"]["device"],
            "model": results["model"]["name"],
            "when": record["when"][:10],
        }
        for name, way in results["ways"].items():
            if "held" in way:
                column[f"{name}: held (MiB)"] = f"{sum(way['held'].values()) / 2**20:,.0f}"
            if seconds := way.get("pictures", {}).get("seconds"):
                column[f"{name}: a picture (s)"] = f"{seconds:.2f}"
        column |= {one["id"]: one["state"] for one in results["claims"]}
        found[label] = column
    return pd.DataFrame(found).fillna("–")
