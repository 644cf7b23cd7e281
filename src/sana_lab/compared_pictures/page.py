"""What a comparison leaves: a record, a contact sheet, and one page that needs nothing beside it."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from .. import evidence
from ..evidence import journal
from .scores import METRICS, in_words
from .sheet import contact_sheet

RECORD = "compared_pictures"
SHEET, PAGE = "contact_sheet.png", "compared.html"
IN_SHEET = 100
"""Pairs in the contact sheet at most: those that are furthest apart."""

IN_PAGE = 24
"""Likewise in the page, whose pictures make it large."""

SIDE = 320
"""Pixels of a picture's longer side in the page."""

_CSS = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { text-align: left; padding: .3rem .8rem; border-bottom: 1px solid #8886; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 1.5rem 0; } figcaption { margin-bottom: .3rem; }
.pair { display: flex; flex-wrap: wrap; gap: .5rem; } .pair img { max-width: 100%; height: auto; }
.pair div { font-size: .85rem; } code { overflow-wrap: anywhere; }
"""


def conclude(
    labels: Sequence[str],
    pictures: Sequence[Sequence[Image.Image]],
    names: Sequence[str],
    prompts: Sequence[str] | None,
    found: Mapping[str, Mapping[str, Any]],
    *,
    settings: Mapping[str, Any],
    command: str,
    seed: int | None,
    out: Path,
) -> list[Path]:
    """Write the record, the contact sheet and the page, each whole or not at all.

    Args:
        labels: of the two ways.
        pictures: of each, (n,).
        names: of the pairs, (n,).
        prompts: of the pairs, or None.
        found: what `scores` returned.
        settings: what both have in common, for the record.
        command: that gives it all again.
        seed: of the noise, where it was drawn here.
        out: an existing folder.

    Raises:
        OSError: something cannot be written.
    """
    order = _apart(found, len(names))
    shown = order[:IN_SHEET]
    sheet = contact_sheet(
        {label: [some[i] for i in shown] for label, some in zip(labels, pictures, strict=True)},
        [prompts[i] if prompts else names[i] for i in shown],
    )
    results = {
        "first": labels[0],
        "second": labels[1],
        "settings": dict(settings),
        "names": list(names),
        "prompts": None if prompts is None else list(prompts),
        "metrics": {name: dict(entry) for name, entry in found.items()},
    }
    try:
        record = evidence.save(
            RECORD,
            what=f"How far pictures of {labels[1]} are from those of {labels[0]}: the same prompts and noise",
            command=command,
            results=results,
            seed=seed,
            folder=out,
        )
        with journal.replacing(out / SHEET) as partial:
            sheet.save(partial, format="PNG")
        text = _page(labels, pictures, names, prompts, found, order[:IN_PAGE], evidence.provenance(RECORD, folder=out))
        journal.write_text(out / PAGE, text)
    except OSError as error:
        raise OSError(f"{out}: cannot be written ({error.strerror or error}); what is there stays.") from None
    return [record, out / SHEET, out / PAGE]


def _apart(found: Mapping[str, Mapping[str, Any]], n: int) -> list[int]:
    """Pairs by how far they are apart, the furthest first, as the first measure that there is tells it."""
    for metric, sign in (("ssim", 1), ("psnr", 1), ("lpips", -1), ("clip", 1)):
        if values := found.get(metric, {}).get("values"):
            return sorted(range(n), key=lambda i: sign * values[i])
    return list(range(n))


def _page(
    labels: Sequence[str],
    pictures: Sequence[Sequence[Image.Image]],
    names: Sequence[str],
    prompts: Sequence[str] | None,
    found: Mapping[str, Mapping[str, Any]],
    shown: Sequence[int],
    provenance: evidence.Provenance,
) -> str:
    first, second = map(html.escape, labels)
    rows = []
    for metric, entry in found.items():
        if "left_out" in entry:
            rows.append(
                f'<tr><td>{METRICS[metric]}</td><td colspan="3">left out: {html.escape(entry["left_out"])}</td>'
            )
            continue
        interval = "–" if entry["low"] is None else f"{entry['low']:.4g} to {entry['high']:.4g}"
        rows.append(
            f'<tr><td>{METRICS[metric]}</td><td class="n">{entry["mean"]:.4g}</td><td class="n">{interval}</td>'
            f'<td class="n">{entry["n"]}</td>'
        )
    figures = []
    for i in shown:
        told = [
            f"{metric.upper()} {entry['values'][i]:.4g}" for metric, entry in found.items() if "left_out" not in entry
        ]
        words = html.escape(prompts[i] if prompts else names[i])
        both = "".join(
            f'<div>{label}<br><img alt="{label}: {words}" src="{_inline(some[i])}"></div>'
            for label, some in zip((first, second), pictures, strict=True)
        )
        figures.append(
            f"<figure><figcaption>{words}<br><small>{html.escape(', '.join(told))}</small></figcaption>"
            f'<div class="pair">{both}</div></figure>'
        )
    few = f"the {len(shown)} of {len(names)} pairs, the furthest apart first" if len(shown) < len(names) else ""
    which = few or ("all pairs, the furthest apart first" if len(names) > 1 else "the one pair")
    origin = f"<p>{html.escape(str(provenance))}</p>"
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{first} and {second}</title>\n<style>{_CSS}</style>\n<h1>{first} and {second}</h1>\n"
        "<p>Each pair is of one prompt and one noise. The interval is that of the mean over pairs, at 95 %.</p>\n"
        "<table><thead><tr><th>measure</th><th>mean</th><th>interval</th><th>pairs</th></tr></thead>\n<tbody>"
        + "\n".join(rows)
        + f"</tbody></table>\n{origin}\n<h2>Pictures</h2>\n<p>Of {which}.</p>\n"
        + "\n".join(figures)
        + "\n</html>\n"
    )


def _inline(picture: Image.Image) -> str:
    """A picture as a small WebP in a data address."""
    small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=85)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def lines(labels: Sequence[str], found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a command prints: a line for each measure."""
    return [f"{labels[0]} (first) and {labels[1]} (second)"] + [in_words(name, dict(e)) for name, e in found.items()]
