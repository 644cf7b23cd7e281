"""Files of prompts: plain text, a prompt a line, or JSON lines."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

LARGEST_SEED = 2**63 - 1
FIELDS = ("prompt", "seed", "name")
_NAME = re.compile(r"\w[\w.\- ]{0,99}")


@dataclass(frozen=True)
class Wanted:
    """One picture to draw.

    Args:
        name: of its file, with `.png`.
        prompt: what it shows.
        seed: of its noise.
    """

    name: str
    prompt: str
    seed: int


def slug(prompt: str) -> str:
    """The words of a prompt, fit for a file's name: at most 40 letters, digits and hyphens."""
    return re.sub(r"\W+", "-", prompt.lower()).strip("-")[:40].strip("-") or "picture"


def read(file: Path, seed: int = 0) -> tuple[list[Wanted], list[str]]:
    """Read a file of prompts.

    In a text file every line is a prompt; blank lines and those that start with `#` are skipped. In a `.jsonl` file
    every line is an object with `prompt`, and if need be `seed` and `name`; other fields are left out.

    Args:
        file: UTF-8 text.
        seed: prompt i, counted from 0, has seed + i unless its line says otherwise.

    Returns:
        The pictures wanted, in the file's order, and lines of warning. Picture i is named `0000-the-prompt.png`, or as
        its line says.

    Raises:
        ValueError: there is no prompt, a line holds none, or two have the same name. The text tells the line's number.
        OSError: the file cannot be read. A pipe cannot: several processes read it, each from its beginning.

    The page on many prompts.
    """
    if file.exists() and not file.is_file():
        raise OSError(f"--prompts {file}: cannot be read (it is no regular file); write the prompts into one.")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"{file}, line {line}: this is not UTF-8 text; save the file as UTF-8.") from None
    except OSError as error:
        raise OSError(f"--prompts {file}: cannot be read ({error.strerror}); give a file of prompts.") from None
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1)]
    entries: list[tuple[int, dict]] = []
    others: dict[str, None] = {}
    for number, line in lines:
        if not line:
            continue
        if file.suffix.lower() in (".jsonl", ".ndjson"):
            entry = _entry(f"{file}, line {number}", line)
            others |= dict.fromkeys(entry.keys() - set(FIELDS))
            entries.append((number, entry))
        elif not line.startswith("#"):
            entries.append((number, {"prompt": line}))
    if not entries:
        raise ValueError(f"--prompts {file}: there is no prompt in it; write one on each line.")
    wanted, lines_of = [], {}
    digits = max(4, len(str(len(entries) - 1)))
    for i, (number, entry) in enumerate(entries):
        name = entry.get("name", f"{i:0{digits}d}-{slug(entry['prompt'])}") + ".png"
        first = lines_of.setdefault(name.casefold(), number)  # some file systems do not tell A from a
        if first != number:
            raise ValueError(f"{file}, line {number}: the name of line {first} again, {name}; each needs its own.")
        own = entry.get("seed", seed + i)
        if own > LARGEST_SEED:
            raise ValueError(f"{file}, line {number}: seed {own} is beyond 2**63 - 1; give a smaller --seed.")
        wanted.append(Wanted(name, entry["prompt"], own))
    said = f"{file}: only {', '.join(FIELDS)} are read, not {', '.join(sorted(others))}"
    return wanted, [said] if others else []


def _entry(place: str, line: str) -> dict:
    """One line of JSON, checked.

    Raises:
        ValueError: it is no description of a picture.
    """
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise ValueError(f'{place}: this is not JSON ({error}); write {{"prompt": "a red star"}}.') from None
    if not isinstance(entry, dict) or not isinstance(entry.get("prompt"), str) or not entry["prompt"].strip():
        raise ValueError(f'{place}: there is no prompt; write {{"prompt": "a red star"}}.')
    seed, name = entry.get("seed", 0), entry.get("name", "x")
    if type(seed) is not int or not 0 <= seed <= LARGEST_SEED:
        raise ValueError(f"{place}: seed {seed!r} is no whole number from 0 up to 2**63 - 1.")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.lower().endswith(".png"):
        raise ValueError(f"{place}: name {name!r} is no file's name; use letters, digits, - and _, without .png.")
    return entry
