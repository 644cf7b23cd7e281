"""Draw the house from its code, and hold the code to the drawing.

    python tools/architecture.py write      renew the parts of ARCHITECTURE.md that are made from the code
    python tools/architecture.py check      say what is stale, which imports lead up or nowhere, and which private names
                                            cross rooms; change nothing

A *room* is a file or a folder directly below `src/sana_lab`. Its floor is the line of pyproject.toml's layers contract
that names it. import-linter holds the floors for imports of modules; here are the things that it does not see: names
fetched through the package's front door (`from .. import load_sana`), names with a leading underscore, and the page.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "sana_lab"
PAGE = "ARCHITECTURE.md"


@dataclass(frozen=True)
class Import:
    """A name that a file imports: from which module of the package (`module`), on which line, as what it is bound."""

    module: str
    name: str
    bound: str
    line: int
    typing_only: bool


class File:
    """One Python file: what it imports, and which private members its classes have.

    Args:
        path: the file.
        module: its dotted name, such as "sana_lab.evidence.journal"; for a tool, "tools.chapters".
        is_package: whether it is an `__init__.py`.
    """

    def __init__(self, path: Path, module: str, is_package: bool = False):
        self.path, self.module, self.is_package = path, module, is_package

    @cached_property
    def text(self) -> str:
        """What it says."""
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        """The same, parsed; not before it is asked for, since all files of the house take seconds."""
        return ast.parse(self.text, str(self.path))

    @property
    def room(self) -> str:
        """The room it is in; "" for the package itself."""
        head, _, rest = self.module.partition(".")
        return rest.partition(".")[0] if head == PACKAGE else self.module

    @cached_property
    def where(self) -> dict[str, str]:
        """What its `_WHERE` says, if it has one: a name → the full name of the module that it is in."""
        for node in self.tree.body if "_WHERE" in self.text else ():
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_WHERE":
                return {name: f"{self.module}.{place}" for name, place in ast.literal_eval(node.value).items()}
        return {}

    @property
    def names(self) -> set[str]:
        """What it offers, if it is a front door: the names of `_WHERE`, and constants with capitals that it has."""
        lines = (line.targets[0] for line in self.tree.body if isinstance(line, ast.Assign))
        return {*self.where, *(line.id for line in lines if isinstance(line, ast.Name) and line.id[0].isupper())}

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        """What it imports of the package, wherever in the file."""
        only = {
            id(below)
            for node in ast.walk(self.tree)
            if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
            for line in node.body
            for below in ast.walk(line)
        }
        return tuple(
            Import(module, name, bound, node.lineno, id(node) in only)
            for node in ast.walk(self.tree)
            for module, name, bound in self._imported(node)
            if (module + ".").startswith(PACKAGE + ".")
        )

    def _imported(self, node: ast.AST) -> Iterator[tuple[str, str, str]]:
        """Module, name in it ("" for the module itself) and the name it is bound to."""
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, "", alias.asname or alias.name.partition(".")[0]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = self.module.split(".")
                parts = parts[: len(parts) - node.level + self.is_package]
                base = ".".join([*parts, *([node.module] if node.module else [])])
            for alias in node.names:
                yield base, alias.name, alias.asname or alias.name

    @cached_property
    def members(self) -> frozenset[str]:
        """Private names of members of its classes: methods, fields, and attributes that a `self` is given."""
        found = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ClassDef):
                found |= {line.name for line in node.body if isinstance(line, ast.FunctionDef | ast.AsyncFunctionDef)}
                found |= {below.id for line in node.body for below in ast.walk(line) if _stored(below, ast.Name)}
            elif _stored(node, ast.Attribute) and getattr(node.value, "id", "") == "self":
                found.add(node.attr)
        return frozenset(filter(is_private, found))

    @cached_property
    def given(self) -> frozenset[str]:
        """What another file may import from it: all that is bound outside of functions and classes."""
        found, nodes = set(self.where), list(self.tree.body)
        while nodes:
            node = nodes.pop()
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(node.name)
                continue
            found |= {bound for _, _, bound in self._imported(node)}
            if _stored(node, ast.Name):
                found.add(node.id)
            nodes += ast.iter_child_nodes(node)
        return frozenset(found)

    @cached_property
    def strangers(self) -> frozenset[str]:
        """What its imports of other packages are bound to."""
        ours = {found.bound for found in self.imports}
        nodes = (node for node in ast.walk(self.tree) if isinstance(node, ast.Import | ast.ImportFrom))
        return frozenset(bound for node in nodes for _, _, bound in self._imported(node)) - ours


def _stored(node: ast.AST, kind: type[ast.expr]) -> bool:
    return isinstance(node, kind) and isinstance(node.ctx, ast.Store)


def is_private(name: str) -> bool:
    """Whether a name is for its own room alone: `_name`, and neither `__name__` nor `_`."""
    return name.startswith("_") and name.strip("_") != "" and not (name.startswith("__") and name.endswith("__"))


class House:
    """All files of a checkout, and the floors that its pyproject.toml names.

    Args:
        root: the checkout.
    """

    def __init__(self, root: Path = ROOT):
        self.root = root
        self.files: dict[str, File] = {}
        for path in sorted((root / "src" / PACKAGE).rglob("*.py")):
            parts = path.relative_to(root / "src").with_suffix("").parts
            is_package = parts[-1] == "__init__"
            module = ".".join(parts[:-1] if is_package else parts)
            self.files[module] = File(path, module, is_package)
        self.tools = [File(path, f"tools.{path.stem}") for path in sorted((root / "tools").glob("*.py"))]
        self.tests = [File(path, f"tests.{path.stem}") for path in sorted((root / "tests").rglob("*.py"))]
        config = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
        (contract,) = (c for c in config["importlinter"]["contracts"] if c["type"] == "layers")
        self.floors = [re.split(r"\s*[:|]\s*", layer) for layer in contract["layers"]]
        self.floor_names: list[str] = config["architecture"]["floors"]

    def module_of(self, found: Import) -> str:
        """The module that an import ends in: a submodule, the module behind a front door, or the one it names."""
        if (inner := f"{found.module}.{found.name}") in self.files:
            return inner
        if found.module in self.files and (there := self.files[found.module].where.get(found.name)):
            # A front door may lead to another one: `sana_lab.caption` is `sana_lab.shapes.caption`.
            behind = self.files[there].where.get(found.name) if there in self.files else None
            return behind or there
        return found.module

    @property
    def front_doors(self) -> list[str]:
        """Packages whose `_WHERE` says in which module a name is."""
        return sorted(module for module, file in self.files.items() if file.where)

    def room_of(self, module: str) -> str:
        """The room that a module is in."""
        return module.split(".")[1] if "." in module else ""

    @cached_property
    def arrows(self) -> dict[str, set[str]]:
        """Room → the rooms that it imports from, anywhere in its files, types alone not counted."""
        arrows: dict[str, set[str]] = {room: set() for floor in self.floors for room in floor}
        for file in self.files.values():
            for found in file.imports:
                other = self.room_of(self.module_of(found))
                if file.room and other and other != file.room and not found.typing_only:
                    arrows.setdefault(file.room, set()).add(other)
        return arrows

    def upward(self) -> list[str]:
        """Imports that lead to a floor above, also those through a front door, a line each."""
        height = {room: -n for n, floor in enumerate(self.floors) for room in floor}
        return [
            f"{file.path.relative_to(self.root)}:{found.line}: {file.room} imports {found.name or other} of {other}, "
            "which is on a floor above: move what both need to a floor below both."
            for file in self.files.values()
            for found in file.imports
            for other in [self.room_of(self.module_of(found))]
            if not found.typing_only and file.room in height and height.get(other, -99) > height[file.room]
        ]

    def broken(self) -> list[str]:
        """Imports of what is not there, a line each. Many are inside functions, where only a run would find them."""
        return [
            f"{file.path.relative_to(self.root)}:{found.line}: {found.module} has no {found.name or 'such module'}."
            for file in [*self.files.values(), *self.tools, *self.tests]
            for found in file.imports
            if found.module not in self.files
            or (found.name and f"{found.module}.{found.name}" not in self.files)
            and found.name not in self.files[found.module].given | {"*", "__version__"}
        ]

    def private(self) -> list[str]:
        """Private names of one room that are used in another one, or in a tool, a line each."""
        owners = defaultdict(set)
        for file in self.files.values():
            for name in file.members:
                owners[name].add(file.room)
        found = set()
        for file in [*self.files.values(), *self.tools]:
            foreign = {}
            for item in file.imports:
                other = self.room_of(self.module_of(item))
                if other == file.room:
                    continue
                foreign[item.bound] = other
                for part in [*item.module.split("."), item.name]:
                    if is_private(part):
                        found.add((file.path, item.line, part, other))
            for node in ast.walk(file.tree):
                name, of = _attribute(node)
                if not is_private(name):
                    continue
                if (other := foreign.get(of)) is not None:
                    found.add((file.path, node.lineno, name, other))
                elif of in ("self", "cls") or of in file.strangers:
                    continue
                elif name in owners and file.room not in owners[name]:  # of an object from another room, it seems
                    found.add((file.path, node.lineno, name, " or ".join(sorted(owners[name]))))
        return [
            f"{path.relative_to(self.root)}:{line}: {name} is private to {room or PACKAGE}: give it a public name "
            "and a docstring there, or do without it."
            for path, line, name, room in sorted(found)
        ]

    @cached_property
    def chapters(self) -> dict[tuple[str, str], set[str]]:
        """Module and name that chapters import → the numbers of these chapters."""
        used = defaultdict(set)
        for path in sorted((self.root / "notebooks").glob("[0-9]*.ipynb")):
            for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
                for module, name in imports_of_cell(cell):
                    used[module, name].add(path.name[:2].lstrip("0"))
        return used

    # --- the parts of the page -------------------------------------------------------------------------------------

    def drawing(self) -> str:
        """The rooms on their floors as a Mermaid graph; an arrow that others imply is left out."""
        lines = ["```mermaid", "flowchart TD"]
        for number, (floor, title) in enumerate(zip(self.floors, self.floor_names, strict=True)):
            lines.append(f'    subgraph floor{len(self.floors) - 1 - number}["{title}"]')
            lines += [f'        {room}["{self.title(room)}"]' for room in floor]
            lines.append("    end")
        for room, others in self.arrows.items():
            lines += [f"    {room} --> {other}" for other in sorted(reduced(self.arrows, room, others))]
        return "\n".join([*lines, "```"])

    def title(self, room: str) -> str:
        """The room's name as a reader sees it in the tree: `evidence/` for a folder, `int8.py` for a file."""
        return f"{room}/" if self.files[f"{PACKAGE}.{room}"].is_package else f"{room}.py"

    def rooms(self) -> str:
        """A table of all rooms: what each is for, by the first sentence of its docstring, and whom it imports."""
        lines = ["| room | what it is for | imports |", "|---|---|---|"]
        for floor, title in zip(self.floors, self.floor_names, strict=True):
            lines.append(f"| **{title}** | | |")
            for room in floor:
                says = ast.get_docstring(self.files[f"{PACKAGE}.{room}"].tree) or ""
                first = re.split(r"\n\n|(?<=[.?])\s", says, maxsplit=1)[0].replace("\n", " ").replace("|", "\\|")
                others = ", ".join(sorted(self.arrows[room])) or "–"
                lines.append(f"| `{self.title(room)}` | {first} | {others} |")
        return "\n".join(lines)

    def names(self) -> str:
        """A table of the public names, module by module, with the chapters that use them."""
        public: dict[str, dict[str, set[str]]] = defaultdict(dict)
        for door in self.front_doors:
            public[door] = {name: set() for name in self.files[door].names}
        for (module, name), numbers in self.chapters.items():
            if f"{module}.{name}" in self.files:  # `from sana_lab import int8`: the module is what is named
                module, name = f"{module}.{name}", ""
            public[module].setdefault(name, set()).update(numbers)
        lines = ["| import from | names | chapters |", "|---|---|---|"]
        for module in sorted(m for m in public if not m.startswith(f"{PACKAGE}.exercises.")):
            names = public[module]
            ordered = sorted(filter(None, names), key=lambda name: (name.lower(), name))
            listed = ", ".join(f"`{name}`" for name in ordered) or "the module"
            where = ", ".join(sorted(set().union(*names.values()), key=int)) or "–"
            lines.append(f"| `{module}` | {listed} | {where} |")
        return "\n".join(lines)

    def page(self, text: str) -> str:
        """ARCHITECTURE.md with the parts between `<!-- NAME -->` and `<!-- end -->` renewed.

        Raises:
            ValueError: a part is missing, or one is named that nothing makes.
        """
        parts = {"drawing": self.drawing, "rooms": self.rooms, "names": self.names}
        part = r"(<!-- (\w+)(?:: [^>]*)?-->\n).*?(<!-- end -->)"
        named = [name for _, name, _ in re.findall(part, text, flags=re.DOTALL)]
        if sorted(named) != sorted(parts):
            raise ValueError(f"{PAGE} must have the parts {', '.join(parts)}, each once; it has {', '.join(named)}")
        return re.sub(part, lambda found: f"{found[1]}{parts[found[2]]()}\n{found[3]}", text, flags=re.DOTALL)


def _attribute(node: ast.AST) -> tuple[str, str]:
    """The name that `a.b._name` or `getattr(a, "_name")` asks for, and the name at its root; empty where it is none."""
    name = ""
    if isinstance(node, ast.Attribute):
        name, node = node.attr, node.value
    elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "setattr") and len(node.args) > 1:
        what = node.args[1]
        name, node = what.value if isinstance(what, ast.Constant) and isinstance(what.value, str) else "", node.args[0]
    while isinstance(node, ast.Attribute):
        node = node.value
    return name, node.id if isinstance(node, ast.Name) else ""


def imports_of_cell(cell: Mapping) -> Iterator[tuple[str, str]]:
    """Module and name of each import of the package in a code cell; IPython's own lines are passed over."""
    if cell["cell_type"] != "code":
        return
    source = "".join(cell["source"])
    lines = [line if not line.lstrip().startswith(("%", "!")) else "pass" for line in source.split("\n")]
    try:
        tree = ast.parse("\n".join(lines))
    except SyntaxError:  # a cell that shows what does not run
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and ((node.module or "") + ".").startswith(PACKAGE + "."):
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((a.name, "") for a in node.names if (a.name + ".").startswith(PACKAGE + "."))


def reduced(arrows: Mapping[str, set[str]], room: str, others: set[str]) -> set[str]:
    """`others` without those that `room` reaches through another of them."""

    def beyond(start: str, seen: set[str]) -> set[str]:
        for other in arrows.get(start, ()):
            if other not in seen:
                seen.add(other)
                beyond(other, seen)
        return seen

    return others - set().union(*(beyond(other, set()) for other in others))


def main(arguments: list[str] | None = None) -> int:
    """`write` or `check`; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["write", "check"])
    parser.add_argument("--root", type=Path, default=ROOT, help="another checkout")
    given = parser.parse_args(arguments)
    house = House(given.root)
    page = given.root / PAGE
    stored = page.read_text(encoding="utf-8")
    made = house.page(stored)
    if given.action == "write":
        page.write_text(made, encoding="utf-8")
        return 0
    problems = house.broken() + house.upward() + house.private()
    if made != stored:
        problems.append(f"{PAGE} is stale: run `python tools/architecture.py write`, and read what has changed.")
    for problem in problems:
        print(problem, file=sys.stderr)
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
