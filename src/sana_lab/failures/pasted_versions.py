"""The versions that stand in a paste: they decide before those that are installed here."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .entry import LIBRARIES

_NUMBER = r"(?P<number>\d+(?:\.\d+){1,3}(?:(?:\.?(?:dev|rc|post)|[ab])\d+)?(?:\+[\w.]+)?)"
_NAMES = "|".join((*LIBRARIES, "PyTorch"))
_NAME = rf"(?P<name>{_NAMES})"
_FORMS = tuple(
    re.compile(form, re.I | re.M)
    for form in (
        rf"(?<![\w-]){_NAME}\s?==\s?{_NUMBER}",  # pip freeze, requirements, uv
        rf"\b{_NAME}-{_NUMBER}(?=[-\s.,]|$)(?!\.(?:so|dll))",  # wheels, dist-info, "Successfully installed"
        rf"\b{_NAME}[`'\"]? version(?: \(GPU\?\))?\s?[:=]\s?{_NUMBER}",  # diffusers-cli env, transformers env
        rf"^Name: {_NAME}\s+Version: {_NUMBER}",  # pip show
        rf"^[ \t*+-]*{_NAME}[ \t]+{_NUMBER}[ \t]*(?:$|[ \t]+\S+)",  # pip list, conda list
        rf"\b{_NAME}\.__version__[^\n\d]{{0,20}}\s{{0,3}}['\"]?{_NUMBER}",
        rf"[\"'`]?\b(?<![\w-]){_NAME}[\"'`]?[ \t]?[:=]\s?[\"'v]?{_NUMBER}",  # a line of one's own
        rf"(?<!install )(?<!requires )(?<!least )(?<!need )\b{_NAME} v?(?P<number>\d+\.\d+\.\d+\S*?)"
        r"(?=[\s,;)]|\.?$|\. )(?!\s(?:or|and) (?:newer|later|above|up|higher))",  # in a sentence
    )
)
_CHECKPOINT = re.compile(r"[\"']_?\w+_version[\"']: ?[\"'][\d.]+\w*[\"']")  # what made a checkpoint, in its config.json
_PYTHON = re.compile(r"python(?P<number>3\.\d{1,2})[\\/](?:site|dist)-packages|Python version: ?(?P<told>3\.\d{1,2})|"
                     r"[\\/]Python(?P<windows>3\d{1,2})[\\/]", re.I)  # fmt: skip
_HIGHEST = {
    "3.8": {"diffusers": "<0.37", "transformers": "<4.47", "accelerate": "<1.2", "bitsandbytes": "<0.46"},
    "3.9": {"diffusers": "<0.37", "transformers": "<5", "accelerate": "<1.12", "bitsandbytes": "<0.49.2"},
}
"""Python -> what its newest releases are below, as their metadata say (`Requires-Python`)."""

_HEAD, _TAIL = 50_000, 200_000
_ANY = re.compile(rf"{_NAMES}|python", re.I)
_LONGEST_LINE = 4000


def pasted_versions(text: str) -> dict[str, str]:
    """Library -> version, as a paste tells them; of two that differ the later one.

    Known are `pip freeze`, `pip list`, `pip show`, conda, uv, the names of wheels and of `dist-info` folders,
    `diffusers-cli env` and its like, `__version__`, and plain sentences. `python` is among the names, from paths.
    """
    if len(text) > _HEAD + _TAIL:
        text = text[:_HEAD] + "\n" + text[-_TAIL:]
    lines = text.split("\n")
    named = {n for n, line in enumerate(lines) if len(line) < _LONGEST_LINE and _ANY.search(line)}
    text = "\n".join(lines[n] for n in sorted(named | {n + 1 for n in named if n + 1 < len(lines)}))
    text = _CHECKPOINT.sub("", text)
    found: dict[str, tuple[int, str]] = {}
    for form in _FORMS:
        for match in form.finditer(text):
            name = match["name"].lower().replace("pytorch", "torch")
            if name not in found or match.start() > found[name][0]:
                found[name] = (match.start(), match["number"].rstrip(".,;)'\""))
    versions = {name: number for name, (_, number) in found.items()}
    for match in _PYTHON.finditer(text):
        versions["python"] = match["number"] or match["told"] or f"3.{match['windows'][1:]}"
    return versions


def versions_that_decide(
    told: Mapping[str, str], installed: Mapping[str, str | None], python: str = ""
) -> tuple[dict[str, str | None], bool]:
    """Library -> version to judge by, and whether the paste comes from another environment than this one.

    A paste that names another version than the one installed, or another Python, comes from elsewhere: of what it does
    not name, nothing is known then. One that names nothing is taken for a paste from here.

    Args:
        told: as from `pasted_versions`.
        installed: library -> version of this environment.
        python: version of this Python, such as `3.11`; `""` where it shall not count.
    """
    named = {name: number for name, number in told.items() if name in LIBRARIES}
    elsewhere = any(_differs(number, installed.get(name)) for name, number in named.items())
    elsewhere = elsewhere or bool(python and told.get("python") not in (None, python))
    base = {**dict.fromkeys(installed), **_HIGHEST.get(told.get("python", ""), {})} if elsewhere else dict(installed)
    return {**base, **named}, elsewhere


def _differs(told: str, installed: str | None) -> bool:
    return installed is None or told.partition("+")[0] != installed.partition("+")[0]
