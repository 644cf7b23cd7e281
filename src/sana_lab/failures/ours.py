"""Whether a message is one that this package raises itself, and where: read from its own sources, not from a list."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .paste import SPEAKER

PACKAGE = Path(__file__).parents[1]

FEWEST = 11
"""Letters that a message must have in common with ours to be taken for it."""

_IMITATES = "accelerator/"
"""Where the words of PyTorch, CUDA and bitsandbytes are said on purpose; only those that name the virtual GPU are ours,
and those of the files that speak for this package alone:"""
_OWN_WORDS = tuple(f"{_IMITATES}{name}.py" for name in ("agreement", "refused", "session"))

_FRAME = re.compile(r"""sana_lab[\\/]((?:\w+[\\/])*\w+\.py)(?:["']?, line (\d+)|:(\d+))""")


@dataclass(frozen=True)
class Own:
    """A place in this package that raises an error, or its class.

    Attributes:
        file: relative to the package, `shapes/scenes.py`.
        line: where the message is made.
        error: class of the exception, `""` where it is not known.
        words: what the message says besides what is filled in, in order; empty for a class alone.
        begins: whether it begins with the first of `words`.
    """

    file: str
    line: int
    error: str
    words: tuple[str, ...] = ()
    begins: bool = False

    @property
    def module(self) -> str:
        """As it is imported: `sana_lab.shapes.scenes`."""
        return "sana_lab." + self.file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")

    def says(self, message: str) -> bool:
        """Whether a message, single spaced and without backticks, is this one."""
        if self.begins and not message.startswith(self.words[0]):
            return False
        at = 0
        for part in self.words:
            at = message.find(part, at)
            if at < 0:
                return False
            at += len(part)
        return bool(self.words)


def recognized(name: str, message: str, frames: str = "") -> Own | None:
    """The place in this package that raised a message, `None` if it is none of ours.

    Args:
        name: class of the exception, as printed; `""` where it is not known.
        message: its words, with or without the class in front.
        frames: the traceback above it.
    """
    words = _spaced(message[:4000])
    words = re.sub(rf"^(?:[\w.]*(?:Error|Exception|NotReady|NotYet|Unbuildable)|{SPEAKER}): ", "", words)
    kind = name.rpartition(".")[2]
    for file in sorted({file for pair in _pairs(words.split(" ")[:120]) for file in _files_with().get(pair, ())}):
        for own in _raised_in(file):
            if own.says(words):
                return own
    if kind:
        for file, text in _sources():
            if f"class {kind}(" in text:
                return Own(file, text[: text.index(f"class {kind}(")].count("\n") + 1, kind)
    if name == "sana-lab":  # the command line writes its name before what went wrong
        return Own("cli.py", 1, "")
    inner = list(_FRAME.finditer(frames))
    files = re.findall(r"[^\s\"'(]+\.py\b", frames)
    if inner and re.search(r"sana_lab[\\/]", files[-1]):
        file = inner[-1][1].replace("\\", "/")
        if not (_imitates(file) or file.startswith("failures/worker")):
            return Own(file, int(inner[-1][2] or inner[-1][3]), kind)
    return None


def raised() -> tuple[Own, ...]:
    """All messages that this package makes."""
    return tuple(own for file, _ in _sources() for own in _raised_in(file))


@cache
def _raised_in(file: str) -> tuple[Own, ...]:
    found = []
    for node in ast.walk(ast.parse(dict(_sources())[file])):
        if isinstance(node, ast.Call) and node.args and _error_class(node.func):
            found += [own for parts in _texts(node.args[0]) if (own := _own(file, node, parts))]
    return tuple(found)


@cache
def _sources() -> tuple[tuple[str, str], ...]:
    paths = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
    return tuple(
        (file, path.read_text(encoding="utf-8"))
        for file, path in paths.items()
        if not file.startswith("failures/families/")  # examples of what others raise
    )


@cache
def _files_with() -> dict[tuple[str, str], set[str]]:
    """Two neighboring words -> the files that have them: one without any of a message's did not raise it."""
    found: dict[tuple[str, str], set[str]] = {}
    for file, text in _sources():
        said = " ".join(line for line in text.split("\n") if '"' in line or "'" in line)
        for pair in _pairs(said.replace("`", "").split()):
            found.setdefault(pair, set()).add(file)
    return found


def _pairs(words: list[str]) -> Iterator[tuple[str, str]]:
    bare = [word.strip("\"'`()[]{},.:;") for word in words]
    return (pair for pair in zip(bare, bare[1:], strict=False) if all(pair) and len(pair[0]) + len(pair[1]) > 4)


def _error_class(node: ast.expr) -> str:
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    return name if re.fullmatch(r"[A-Z]\w*(?:Error|Exception|BadParameter)|NotReady|NotYet|Unbuildable", name) else ""


def _texts(node: ast.expr) -> Iterator[list[str | None]]:
    """The parts of a message: its words, and `None` for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield [node.value]
    elif isinstance(node, ast.JoinedStr):
        yield [part.value if isinstance(part, ast.Constant) else None for part in node.values]
    elif isinstance(node, ast.IfExp):
        yield from _texts(node.body)
        yield from _texts(node.orelse)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        for left in list(_texts(node.left)) or [[None]]:
            for right in list(_texts(node.right)) or [[None]]:
                yield [*left, *right]


def _own(file: str, node: ast.Call, parts: list[str | None]) -> Own | None:
    literal = " ".join(part for part in parts if part)
    letters = sum(c.isalpha() for c in literal)
    if letters < FEWEST or literal.startswith("module ") or "has no attribute" in literal:
        return None
    if _imitates(file) and "virtual" not in literal.lower() and "use_accelerator" not in literal:
        return None
    words = tuple(text for part in parts if part and (text := _spaced(part)))
    return Own(file, node.lineno, _error_class(node.func), words, begins=bool(parts[0] and _spaced(parts[0])))


def _imitates(file: str) -> bool:
    return file.startswith(_IMITATES) and file not in _OWN_WORDS


def _spaced(text: str) -> str:
    return " ".join(text.replace("`", "").split())
