"""Slides and speaker notes from the chapters: one source, so that a slide says what the page says.

    make slides                                        # all chapters into _build/slides
    python tools/slides.py OUT [notebooks/02_….ipynb …]

A slide is a section: its heading, its first words, the question it asks, and its first figure or table. The notes are
the block of the same heading in teaching/chapters. nbconvert writes them for reveal.js; that and what else nbconvert
takes from a network comes from npm and lies beside the slides: a class needs no network. Press S for the notes.
"""

from __future__ import annotations

import argparse
import copy
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbconvert import SlidesExporter
from nbformat import NotebookNode
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
NOTES = ROOT / "teaching" / "chapters"
FROM_NPM = "node_modules"
NPM = ("reveal.js@4.6.1", "mathjax@2.7.9", "jquery@3.7.1", "requirejs@2.3.7")
"""What nbconvert 7.17 writes slides for, and would take from a network."""
LEFT_OUT = ("Exercises", "Further reading", "In the failure index")
"""Sections that are for reading. Appendices are left out too."""
_MINUTES = re.compile(r"\s*\((\d+) min\)$")
_ROLE = re.compile(r"\{(?:ref|term|numref|eq|cite(?::\w)?|glue:\w+|doc)\}`([^`<]*?)(?:\s*<[^>]*>)?`")
_LABEL = re.compile(r"^\([\w-]+\)=\n", re.MULTILINE)
_SPAN = re.compile(r"</?span[^>]*>")


@dataclass(frozen=True)
class Block:
    """What to say in one section.

    Attributes:
        heading: of the section, as in the chapter.
        minutes: planned.
        text: Markdown.
    """

    heading: str
    minutes: int
    text: str


def blocks(path: Path) -> list[Block]:
    """The blocks of a chapter's notes that have minutes; the first one belongs to the chapter's opening.

    Raises:
        ValueError: a heading is there twice.
    """
    found = []
    for part in re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        heading, _, text = part.partition("\n")
        if minutes := _MINUTES.search(heading):
            found.append(Block(_MINUTES.sub("", heading), int(minutes[1]), text.strip()))
    names = [block.heading for block in found]
    if len(set(names)) < len(names):
        raise ValueError(f"{path.name} has two blocks of one name: a section has one")
    return found


def notes_of(notebook: Path, folder: Path = NOTES) -> Path | None:
    """The notes of a chapter: the file whose number is the same."""
    found = sorted(folder.glob(f"{notebook.name[:2]}_*.md"))
    return found[0] if found else None


def plain(text: str) -> str:
    """MyST as Markdown: roles say their words, labels go."""
    text = _ROLE.sub(lambda m: f"*{m[1]}*" if "ref" in m[0][:8] else m[1], _LABEL.sub("", text))
    return _SPAN.sub("", text)


def lead(text: str) -> str:
    """Heading, first paragraph, and each question of a piece of prose: what a slide has room for."""
    parts = [part.strip() for part in re.split(r"\n\s*\n", plain(text)) if part.strip()]
    kept = [part for part in parts if part.startswith("#")][:1]
    body = [part for part in parts if not part.startswith(("#", ":::", "```", "$$"))]
    if body:
        kept.append(body[0] if len(body[0]) < 420 else re.split(r"(?<=[.?:])\s", body[0], maxsplit=1)[0])
    questions = [
        sentence for part in body[1:] for sentence in re.findall(r"[A-Z][^.?!:]*\?", part) if len(sentence) < 200
    ]
    return "\n\n".join([*kept, *(f"> {question}" for question in questions[:2])])


def is_shown(cell: NotebookNode) -> bool:
    """Has a code cell a figure or a table to show?"""
    kinds = {kind for one in cell.get("outputs", []) for kind in one.get("data", {})}
    return "remove-cell" not in cell.metadata.get("tags", []) and bool(
        kinds & {"image/png", "image/svg+xml", "image/webp", "text/html"}
    )


def slides(notebook: NotebookNode, notes: list[Block]) -> NotebookNode:
    """A notebook of slides: a copy, with cells chosen, shortened and tagged as nbconvert wants them.

    Args:
        notebook: a chapter as it is stored.
        notes: see `blocks`; one named "Opening" belongs to the title.
    """
    made = nbformat.v4.new_notebook(metadata=copy.deepcopy(notebook.metadata))
    said = {block.heading: block for block in notes}
    section, shown = "", True

    def add(cell: NotebookNode, kind: str) -> None:
        cell.metadata["slideshow"] = {"slide_type": kind}
        made.cells.append(cell)

    def note(name: str) -> None:
        if block := said.get(name):
            text = f"**{block.minutes} minutes, planned.**\n\n{block.text}"
            add(nbformat.v4.new_markdown_cell(text), "notes")

    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            pieces = re.split(r"(?m)^(?=## )", cell.source)
            for piece in pieces:
                heading = re.search(r"^(#{1,2}) (.+)$", piece, re.MULTILINE)
                if not heading:
                    continue
                section, shown = heading[2].strip(), False
                if section.startswith("Appendix") or section in LEFT_OUT:
                    shown = True
                    continue
                add(nbformat.v4.new_markdown_cell(lead(piece)), "slide")
                note("Opening" if heading[1] == "#" else section)
        elif not shown and is_shown(cell):
            taken = copy.deepcopy(cell)
            add(taken, "subslide")
            shown = True
    return made


def write(path: Path, out: Path) -> Path:
    """Write the slides of one chapter as HTML, and return the file."""
    notes = notes_of(path)
    made = slides(nbformat.read(path, as_version=4), blocks(notes) if notes else [])
    exporter = SlidesExporter(
        config=Config(TagRemovePreprocessor={"enabled": True, "remove_input_tags": {"hide-input"}}),
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        reveal_url_prefix=f"{FROM_NPM}/reveal.js",
        mathjax_url=f"{FROM_NPM}/mathjax/MathJax.js",
        jquery_url=f"{FROM_NPM}/jquery/dist/jquery.min.js",
        require_js_url=f"{FROM_NPM}/requirejs/require.js",
    )
    text, _ = exporter.from_notebook_node(made)
    file = out / f"{path.stem}.slides.html"
    file.write_text(text, encoding="utf-8")
    return file


def fetch(out: Path) -> None:
    """Lay what slides are made of beside them, from npm; ValueError with the way out if that cannot be downloaded."""
    if all((out / FROM_NPM / name.rpartition("@")[0]).is_dir() for name in NPM):
        return
    npm = shutil.which("npm")
    if not npm:
        raise ValueError(f"slides need {', '.join(NPM)} from npm: install Node.js, or lay them into {out / FROM_NPM}")
    words = [npm, "install", "--prefix", str(out), "--no-fund", "--no-audit", "--no-save", *NPM]
    made = subprocess.run(words, capture_output=True, text=True)
    if made.returncode:
        raise ValueError(f"npm did not get {', '.join(NPM)}: {made.stderr.strip()[-200:]}")


def main() -> int:
    """Write the slides of the chapters that are named, or of all."""
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("out", type=Path)
    reader.add_argument("chapters", type=Path, nargs="*")
    asked = reader.parse_args()
    try:
        asked.out.mkdir(parents=True, exist_ok=True)
        fetch(asked.out)
        for path in asked.chapters or sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
            print(write(path, asked.out))
    except (OSError, ValueError) as reason:
        print(f"No slides: {reason}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
