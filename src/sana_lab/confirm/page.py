"""The page of a record: one HTML file with everything in it, pictures too, which opens without a network.

Chapter 14.
"""

from __future__ import annotations

import base64
import html
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..evidence import journal
from ..messages import counted, with_code
from .claims import FAILS, HOLDS, NOT_CHECKED
from .plan import REFERENCE, WAYS
from .record import picture_file
from .worker import OFF

if TYPE_CHECKING:
    from .record import Record

SIDE = 384
"""Pixels of a side to which pictures are made smaller for the page; the files keep all."""

MARKS = {HOLDS: ("yes", "holds"), FAILS: ("no", "does not hold"), NOT_CHECKED: ("open", "could not be checked")}
"""State -> name of its style, and words."""

_STYLE = """
:root { --ink: #1c2128; --soft: #59636e; --paper: #ffffff; --line: #d1d9e0; --shade: #f4f6f8;
  --yes: #1a7f37; --no: #b3261e; --open: #59636e; --link: #0a5bb5; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9da7b1; --paper: #12161c; --line: #343c46;
  --shade: #1b2129; --yes: #56d364; --no: #ff8f85; --open: #9da7b1; --link: #79b8ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 76rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .4rem; } h2 { font-size: 1.25rem; margin: 2.5rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
p { max-width: 46rem; margin: .4rem 0; } a { color: var(--link); } .soft { color: var(--soft); }
code { font: .9em ui-monospace, monospace; overflow-wrap: anywhere; }
.sums { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1rem 0; padding: 0; list-style: none; }
.sums li { border: 1px solid var(--line); border-radius: .4rem; padding: .5rem .9rem; }
.sums b { font-size: 1.5rem; display: block; line-height: 1.1; }
.wide { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; } caption { text-align: left; color: var(--soft); padding: .2rem 0; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.yes { color: var(--yes); } .no { color: var(--no); } .open { color: var(--open); }
.state { font-weight: 600; white-space: nowrap; }
.claims td:first-child { min-width: 10.5rem; } .claims td:last-child { min-width: 16rem; color: var(--soft); }
figure { margin: 0; } figcaption { font-size: .8rem; color: var(--soft); line-height: 1.3; padding: .25rem 0; }
.row { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(9rem, 1fr); gap: .6rem; overflow-x: auto;
  padding-bottom: .4rem; }
.row img { width: 100%; height: auto; display: block; background: var(--shade); border-radius: .25rem; }
@media (max-width: 40rem) { .claims thead { display: none; } .claims tr { display: block; padding: .5rem 0;
  border-bottom: 1px solid var(--line); } .claims td { display: block; border: 0; padding: 0;
  min-width: 0 !important; } }
@media print { .row { grid-auto-columns: minmax(5rem, 1fr); } }
"""


def write_page(record: Record, out: Path) -> Path:
    """Write `confirmed.html` beside a record.

    Args:
        record: of `sana-lab confirm`.
        out: the folder with its pictures.

    Returns:
        The file.

    Raises:
        OSError: it cannot be written.

    Chapter 14.
    """
    file = out / f"{record.path.stem}.html"
    journal.write_text(file, page(record, out))
    return file


def page(record: Record, out: Path | None = None) -> str:
    """The page as text.

    Args:
        record: of `sana-lab confirm`.
        out: the folder with its pictures; None for a page without pictures.
    """
    results = record.results
    name = html.escape(results["model"]["name"])
    parts = [
        _head(record),
        _claims(record),
        _bytes(results),
        _stages(results),
        _pictures(results, out) if out is not None else "",
        _scores(results),
        _failures(results),
        _about(record),
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><title>{name}, confirmed</title><style>{_STYLE}</style></head>\n<body><main>\n'
        + "\n".join(filter(None, parts))
        + "\n</main></body></html>\n"
    )


def _head(record: Record) -> str:
    results, machine = record.results, record.record["machine"]
    gpu = next((way["gpu"] for way in results["ways"].values() if "gpu" in way), None)
    on = f"{gpu['name']}, {gpu['bytes'] / 2**30:.0f} GiB" if gpu else f"no GPU ({machine['device']})"
    if gpu and not gpu["real"]:
        on += f", arithmetic on a {machine['device']}: bytes are exact, there are no times"
    random = " The weights are random: nothing that it draws is a picture of anything." * results["model"]["random"]
    sums = "".join(
        f'<li><b class="{MARKS[state][0]}">{record.count(state)}</b>{MARKS[state][1]}</li>' for state in MARKS
    )
    files = results["files"]
    return (
        f"<h1>{html.escape(results['model']['name'])}: what the book says, held against it</h1>"
        f"<p>{html.escape(on)}; {record.record['when'][:10]}; {html.escape(files['class'])}, "
        f"{files['parameters'] / 1e6:,.0f} million parameters in the transformer.{random}</p>"
        f'<ul class="sums">{sums}</ul>'
    )


def _claims(record: Record) -> str:
    rows = []
    for one in record.verdicts:
        style, words = MARKS[one.state]
        rows.append(
            f'<tr id="{html.escape(one.id)}"><td class="state {style}">{words}</td><td>{with_code(one.claim)}. '
            f'<span class="soft">Chapter {one.chapter}.</span></td><td>{with_code(one.why)}</td></tr>'
        )
    return (
        '<h2>Claims</h2><table class="claims"><thead><tr><th>state</th><th>claim</th><th>found</th></tr></thead><tbody>'
        + "".join(rows)
        + "</tbody></table>"
    )


def _bytes(results: dict[str, Any]) -> str:
    heads = ["way", "predicted", "held", "peak of loading", "peak of drawing", "loading (s)", "a picture (s)", "dB"]
    rows = []
    for name, way in results["ways"].items():
        predicted = _mib(sum(results["files"]["predicted"][name].values()))
        if "held" not in way:
            why = way.get("failed", {})
            told = f"{why['error']}: {why['text'][:120]}" if why else "not loaded"
            rows.append(
                f'<tr><th scope="row">{html.escape(WAYS[name])}</th><td class="n">{predicted}</td>'
                f'<td colspan="6">{html.escape(told)}</td></tr>'
            )
            continue
        peak = max((stage["allocated"] for stage in way["stages"].values()), default=0)
        cells = [
            predicted,
            _mib(sum(way["held"].values())),
            _mib(way["load"]["peak"]),
            _mib(peak),
            _number(way["load"]["seconds"]),
            _number(way["pictures"]["seconds"]),
            "reference" if name == REFERENCE else _number(results["pairs"].get(name), 1),
        ]
        rows.append(
            f'<tr><th scope="row">{html.escape(WAYS[name])}</th>'
            + "".join(f'<td class="n">{cell}</td>' for cell in cells)
            + "</tr>"
        )
    head = "".join(f'<th scope="col"{" class=n" * (i > 0)}>{words}</th>' for i, words in enumerate(heads))
    return (
        "<h2>Bytes and times</h2>"
        '<p class="soft">MiB. Predicted: weights, by counting. Held: weights, as loaded. dB: peak signal-to-noise '
        "ratio of the pictures to those in 16 bits, the mean; 99 is equal. A picture: the median, the first one not "
        "counted.</p>"
        f'<div class="wide" tabindex="0" role="region" aria-label="Bytes and times"><table><thead><tr>{head}</tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _stages(results: dict[str, Any]) -> str:
    rows = []
    for name, way in results["ways"].items():
        stages = way.get("stages", {})
        if not stages:
            continue
        cells = []
        for stage in ("encode", "steps", "decode"):
            one = stages.get(stage)
            cells.append("–" if one is None else f"{_mib(one['rest'])}" + _of(one["seconds"]))
        rows.append(
            f'<tr><th scope="row">{html.escape(WAYS[name])}</th>'
            + "".join(f'<td class="n">{cell}</td>' for cell in cells)
            + "</tr>"
        )
    if not rows:
        return ""
    return (
        "<h2>Where the memory goes</h2>"
        '<p class="soft">MiB that a stage takes beside the weights, at its highest.</p>'
        '<div class="wide" tabindex="0" role="region" aria-label="Stages"><table><thead><tr><th>way</th>'
        '<th class="n">encode</th><th class="n">steps</th><th class="n">decode</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _of(seconds: float | None) -> str:
    return "" if seconds is None else f", {seconds:.3f} s"


def _pictures(results: dict[str, Any], out: Path) -> str:
    shown = [name for name, way in results["ways"].items() if "pictures" in way]
    if not shown:
        return ""
    blocks = [
        "<h2>Pictures</h2>"
        '<p class="soft">The same prompt from the same noise in every way. Smaller than they were drawn; the folder '
        "<code>pictures</code> has them whole.</p>"
    ]
    which: list[tuple[int | str, str]] = list(enumerate(results["settings"]["prompts"]))
    which.append((OFF, f"{results['settings']['prompts'][0]} (without guidance)"))
    for number, prompt in which:
        cells = []
        for name in shown:
            file = picture_file(out, name, number)
            if file.is_file():
                wrong = results["ways"][name]["pictures"]["wrong"].get(str(number), "")
                told = html.escape(WAYS[name]) + (f', <b class="no">{html.escape(wrong)}</b>' if wrong else "")
                address, width, height = _inside(file)
                cells.append(
                    f'<figure><img alt="{html.escape(f"{prompt}: {WAYS[name]}")}" width="{width}" height="{height}" '
                    f'src="{address}"><figcaption>{told}</figcaption></figure>'
                )
        if cells:
            blocks.append(
                f'<h3>{html.escape(prompt)}</h3><div class="row" tabindex="0" role="region" '
                f'aria-label="{html.escape(prompt)}">{"".join(cells)}</div>'
            )
    return "".join(blocks)


def _inside(file: Path) -> tuple[str, int, int]:
    """A picture as an address that holds it, and its width and height."""
    from PIL import Image

    buffer = io.BytesIO()
    picture = Image.open(file).convert("RGB")
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    picture.save(buffer, "WEBP", quality=85)
    address = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return address, *picture.size


def _scores(results: dict[str, Any]) -> str:
    scores = results["scores"]
    if not scores:
        return ""
    metrics = list(dict.fromkeys(metric for found in scores.values() for metric in found))
    rows = []
    for name, found in scores.items():
        cells = []
        for metric in metrics:
            one = found.get(metric, {})
            if "mean" in one:
                interval = "" if one["low"] is None else f" ({one['low']:.3g} to {one['high']:.3g})"
                cells.append(f"{one['mean']:.3g}{interval}")
            else:
                cells.append(html.escape(one.get("left_out", "–")))
        rows.append(
            f'<tr><th scope="row">{html.escape(WAYS[name])}</th>'
            + "".join(f'<td class="n">{cell}</td>' for cell in cells)
            + "</tr>"
        )
    head = "".join(f'<th class="n">{html.escape(metric)}</th>' for metric in metrics)
    return (
        '<h2>How near to 16 bits</h2><p class="soft">Means with intervals of 95 %, pictures paired.</p>'
        '<div class="wide" tabindex="0" role="region" aria-label="Scores"><table><thead><tr><th>way</th>'
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _failures(results: dict[str, Any]) -> str:
    if not results["failures"]:
        return ""
    style = {"happens": "yes", "does not happen": "no"}
    rows = [
        f'<tr><td class="state {style.get(one["state"], "open")}">{html.escape(one["state"])}</td>'
        f"<td><code>{html.escape(id)}</code></td><td>{with_code(one['words'])}</td></tr>"
        for id, one in results["failures"].items()
    ]
    return (
        '<h2>Failures of part III</h2><p class="soft">Reproduced on purpose, each in a process of its own: a failure '
        "that happens is one that the book tells of rightly.</p>"
        '<table class="claims"><thead><tr><th>state</th><th>failure</th><th>words</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _about(record: Record) -> str:
    results = record.results
    settings = results["settings"]
    parts = results["files"]["parts"]
    stored = "; ".join(
        f"{name} {' and '.join(f'{kind} {size / 2**20:,.0f} MiB' for kind, size in part['dtypes'].items())}"
        for name, part in parts.items()
    )
    versions = ", ".join(f"{name} {number}" for name, number in record.record["versions"].items())
    data = base64.b64encode(json.dumps(record.record, indent=1).encode()).decode("ascii")
    return (
        "<h2>How it was made</h2>"
        f"<p><code>{html.escape(record.record['command'])}</code>: {counted(len(settings['prompts']), 'prompt')}, "
        f"{counted(settings['steps'], 'step')}, {settings['pixels']} pixels, seed {settings['seed']}.</p>"
        f"<p>Stored as: {html.escape(stored)}.</p><p>{html.escape(versions)}.</p>"
        f"<p>Weights <code>{html.escape(results['model']['weights'])}</code>. "
        f'<a download="confirmed.json" href="data:application/json;base64,{data}">The record</a> is inside of this '
        "page, too. It holds no folder and no name of yours.</p>"
    )


def _mib(size: float) -> str:
    return f"{size / 2**20:,.1f}"


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
