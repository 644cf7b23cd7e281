"""Change one thing of a file at a time, and see whether its own tests notice: mutation testing.

    python tools/mutants.py src/sana_lab/int8.py            all its mutants, or a sample of 120 where there are over 150
    python tools/mutants.py src/sana_lab/int8.py --again    those that lived last time

A *mutant* is the file with one thing changed; it is *killed* when a test fails, cannot be imported or takes far longer
than it did, and it *lives* when all tests pass. What is changed:

- comparisons: `<` to `<=` and `>` to `>=`, and back; `==` to `!=`, `in` to `not in`, `is` to `is not`, `and` to `or`
- conditions of `if`, `while`, `... if ... else` and comprehensions: negated, where no comparison's turn says the same
- arithmetic: `+` to `-`, `*` to `/`, `//` and `%` to `/` and `*`, `**` and `@` to `*`, `&` to `|`; `not`, `-` and `~`
  left out
- numbers: whole ones by one more, others half as large again (a 0.0 is 1.0); `True` to `False`
- texts: another as a whole, "XX". Of an f-string each piece with a letter or digit in it, so a message is held when
  tests look at something of each of its pieces. Docstrings and annotations stay as they are
- `return x` to `return None`; a call for its effect, `+=`, `raise`, `a[i] = x` and `a.b = x` left out; `break` to
  `continue` and back; an argument with a name left out

Why not mutmut (3.8.1): it leaves out what has a decorator, such as properties and context managers, and all that stands
outside of functions, such as tolerances. Why not cosmic-ray: a fresh interpreter a mutant, which imports PyTorch and
diffusers for longer than most tests take. Here one process has imported the libraries and forks for each mutant; the
child imports the package and the tests with the one file changed. A first run notes which tests reach which line, and
how long each takes; a mutant meets the tests that reach its line, the quickest first, until one fails.
"""

from __future__ import annotations

import argparse
import ast
import copy
import ctypes
import gc
import importlib.util
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DRAWINGS = {"src/sana_lab/placements.py": ("placement_figure", "_arrow")}
"""Functions that only draw: whether a label sits well is seen, and no test should hold it."""
TESTS = {  # file → its own tests
    "src/sana_lab/int8.py": ["tests/test_int8.py"],
    "src/sana_lab/placements.py": ["tests/test_placement.py"],
    "src/sana_lab/guard.py": ["tests/test_guard.py", "tests/test_guard_start.py"],
    "src/sana_lab/evaluate/statistics.py": ["tests/test_statistics.py"],
    "src/sana_lab/shapes/reader.py": ["tests/test_shapes_reader.py"],
    "src/sana_lab/evidence/journal.py": ["tests/test_journal.py"],
}
MANY, SAMPLE = 150, 120
"""Of a file with more mutants than the first, a random sample as large as the second is tried."""
LATE = "late or dead"
ALWAYS = ""
"""In place of a test's name: reached on import, or by a fixture that several tests share."""

SWAPS: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div, ast.Mod: ast.Mult,
    ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.MatMult: ast.Mult,
}  # fmt: skip


# ---- what is changed ---------------------------------------------------------------------------------------------


class Places(ast.NodeVisitor):
    """Every place of a file that can be changed: the node, in which statement, what takes its place."""

    def __init__(self, without: Collection[str] = ()) -> None:
        self.without = without
        self.found: list[tuple[ast.AST, int, Callable[[ast.AST], ast.AST]]] = []
        self.line = 0

    def add(self, node: ast.AST, change: Callable[[Any], ast.AST]) -> None:
        """Note a place."""
        self.found.append((node, self.line, change))

    def visit(self, node: ast.AST) -> None:
        """Look at a node and all below it."""
        before = self.line
        if isinstance(node, ast.stmt):
            self.line = node.lineno
        if not self.passed_over(node):
            self.look_at(node)
            for name, value in ast.iter_fields(node):
                if name in ("annotation", "returns", "decorator_list") and not isinstance(node, ast.ClassDef):
                    continue
                for child in value if isinstance(value, list) else [value]:
                    if isinstance(child, ast.AST):
                        self.visit(child)
        self.line = before

    def passed_over(self, node: ast.AST) -> bool:
        """Imports, docstrings, what is for type checkers, and functions that are to be left out."""
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return True
        if isinstance(node, ast.FunctionDef) and node.name in self.without:
            return True
        doc = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        alias = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        return doc or alias or isinstance(node, ast.Import | ast.ImportFrom)

    def look_at(self, node: ast.AST) -> None:
        """Note what can be done to one node."""
        match node:
            case ast.Compare():
                for k in range(len(node.ops)):
                    self.add(node, lambda n, k=k: _with(n, ops=[*n.ops[:k], SWAPS[type(n.ops[k])](), *n.ops[k + 1 :]]))
            case ast.BoolOp() | ast.BinOp() | ast.AugAssign() if type(node.op) in SWAPS:
                self.add(node, lambda n: _with(n, op=SWAPS[type(n.op)]()))
            case ast.UnaryOp() if not isinstance(node.operand, ast.Constant):
                self.add(node, lambda n: n.operand)
            case ast.Constant(value=bool()):
                self.add(node, lambda n: ast.Constant(not n.value))
            case ast.Constant(value=int()):
                self.add(node, lambda n: ast.Constant(n.value + 1))
            case ast.Constant(value=float()):
                self.add(node, lambda n: ast.Constant(n.value * 1.5 or 1.0))
            case ast.Constant(value=str()):
                self.add(node, lambda n: ast.Constant("XX"))
            case ast.Return(value=ast.AST()) if ast.unparse(node.value) != "None":
                self.add(node, lambda n: ast.Return(ast.Constant(None)))
            case ast.Break():
                self.add(node, lambda n: ast.Continue())
            case ast.Continue():
                self.add(node, lambda n: ast.Break())
        if isinstance(node, ast.AugAssign | ast.Raise) or (
            isinstance(node, ast.Expr) and not isinstance(node.value, ast.Yield | ast.YieldFrom)
        ):
            self.add(node, lambda n: ast.Pass())
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript | ast.Attribute):
            self.add(node, lambda n: ast.Pass())
        if isinstance(node, ast.If | ast.While | ast.IfExp) and not _turned_by_its_comparison(node.test):
            self.add(node, lambda n: _with(n, test=ast.UnaryOp(ast.Not(), n.test)))
        if isinstance(node, ast.comprehension):
            for k, test in enumerate(node.ifs):
                if not _turned_by_its_comparison(test):
                    self.add(node, lambda n, k=k: _with(n, ifs=[*n.ifs[:k], ast.UnaryOp(ast.Not(), n.ifs[k])]))
        if isinstance(node, ast.Call):
            for k, keyword in enumerate(node.keywords):
                if keyword.arg is not None:
                    self.add(node, lambda n, k=k: _with(n, keywords=[*n.keywords[:k], *n.keywords[k + 1 :]]))


def _with(node: ast.AST, **fields: Any) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _turned_by_its_comparison(test: ast.expr) -> bool:
    turned = ast.Eq | ast.NotEq | ast.In | ast.NotIn | ast.Is | ast.IsNot
    negated = isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
    return negated or (isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], turned))


class Put(ast.NodeTransformer):
    """Puts one node in the place of another."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        """The other node, or the same with all below it looked through."""
        return self.new if node is self.old else self.generic_visit(node)


class Mutant:
    """One change of a file.

    Attributes:
        line: of the statement that it is in.
        words: what it makes of what.
        name: the same, and where.
    """

    def __init__(self, source: str, places: Places, place: int) -> None:
        """`place`: which of the places, which are the same each time that the source is looked through."""
        self._source, self._without, self._place = source, places.without, place
        node, self.line, change = places.found[place]
        self.words = f"{_short(node)}  ->  {_short(change(node))}"
        self.name = f"{getattr(node, 'lineno', self.line)}: {self.words}"

    @property
    def tree(self) -> ast.AST:
        """The changed file."""
        tree = ast.parse(self._source)
        places = Places(self._without)
        places.visit(tree)
        node, _, change = places.found[self._place]
        return ast.fix_missing_locations(Put(node, ast.copy_location(change(node), node)).visit(tree))


def _short(node: ast.AST) -> str:
    if isinstance(node, ast.comprehension):
        node = ast.GeneratorExp(ast.Name("..."), [node])
    text = " ".join(ast.unparse(node).split("\n")[0].split())
    return text if len(text) <= 100 else f"{text[:97]}..."


def mutants(source: str, without: Collection[str] = ()) -> list[Mutant]:
    """All mutants of a source, in the order of the file, but pieces of f-strings that hold no letter or digit."""
    tree = ast.parse(source)
    places = Places(without)
    places.visit(tree)
    pieces = {id(v) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for v in n.values}
    specs = {id(v) for n in ast.walk(tree) if isinstance(n, ast.FormattedValue) and n.format_spec for v in
             n.format_spec.values}  # fmt: skip
    found = []
    for place, (node, _, _) in enumerate(places.found):
        text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None
        mark = text is not None and id(node) in pieces and not any(map(str.isalnum, text))
        if not mark and (text is None or id(node) not in specs):
            found.append(Mutant(source, places, place))
    return found


# ---- a file that reports its lines, or is changed ----------------------------------------------------------------


class Reporting(ast.NodeTransformer):
    """A call of `__reached__(line)` before each statement."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Put the calls into the blocks of one node and of all below it."""
        super().generic_visit(node)
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list) and block and isinstance(block[0], ast.stmt):
                told = []
                for statement in block:
                    future = isinstance(statement, ast.ImportFrom) and statement.module == "__future__"
                    doc = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
                    if not future and not doc:
                        call = ast.Call(ast.Name("__reached__", ast.Load()), [ast.Constant(statement.lineno)], [])
                        told.append(ast.copy_location(ast.Expr(call), statement))
                    told.append(statement)
                setattr(node, name, told)
        return node


class Changed:
    """Finds one module, and gives it another tree than its file's."""

    def __init__(self, module: str, file: Path, tree: ast.AST, names: dict[str, Any]) -> None:
        self.module, self.file = module, file

        class Loader(SourceFileLoader):
            def get_code(self, fullname: str) -> Any:
                """The other tree's."""
                return compile(tree, str(file), "exec")

            def exec_module(self, module: Any) -> None:
                """With a few names more."""
                vars(module).update(names)
                super().exec_module(module)

        self.loader = Loader(module, str(file))

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Answer the import system."""
        if name == self.module:
            return importlib.util.spec_from_file_location(name, self.file, loader=self.loader)
        return None


# ---- a run of the tests in a process of its own ------------------------------------------------------------------


class Watch:
    """A plugin of pytest: which test is running, what each took, and which failed first."""

    def __init__(self, order: list[str] | None, fails: Callable[[str], None]) -> None:
        self.order, self.now, self.fails = order, ALWAYS, fails
        self.reached: dict[str, set[int]] = defaultdict(set)
        self.seconds: dict[str, float] = {}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Keep the tests that are asked for, in their order."""
        if self.order is not None:
            rank = {name: k for k, name in enumerate(self.order)}
            items[:] = sorted((i for i in items if i.nodeid in rank), key=lambda i: rank[i.nodeid])

    def pytest_runtest_logreport(self, report: Any) -> None:
        """End at the first failure."""
        if report.failed:
            self.fails(report.nodeid)


def watching(watch: Watch) -> Watch:
    """Give it the hooks that stand around others."""
    import pytest

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(item: Any) -> Iterator[None]:
        watch.now, began = item.nodeid, sum(os.times()[:4])
        try:
            return (yield)
        finally:
            watch.now = ALWAYS
            watch.seconds[item.nodeid] = sum(os.times()[:4]) - began

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(fixturedef: Any) -> Iterator[None]:
        before = watch.now
        if fixturedef.scope != "function":
            watch.now = ALWAYS
        try:
            return (yield)
        finally:
            watch.now = before

    watch.pytest_runtest_protocol, watch.pytest_fixture_setup = pytest_runtest_protocol, pytest_fixture_setup
    return watch


def run(file: Path, tree: ast.AST, tests: list[str], order: list[str] | None, limit: float) -> dict[str, Any]:
    """Run tests with the changed file in a fork: their exit status, what failed, what was reached.

    Args:
        file: to be changed.
        tree: what stands in its place.
        tests: their files, or other arguments of pytest's.
        order: names of tests, first to last; None for all of them, and then what they reached is told, too.
        limit: seconds of the processor; four times as many, and half a minute, by the clock.
    """
    read, write = os.pipe()
    parent = os.getpid()
    with tempfile.TemporaryDirectory() as folder:
        child = os.fork()
        if child == 0:
            os.close(read)
            try:
                _end_with(parent)
                os.setsid()
                said = os.open(f"{folder}/said", os.O_CREAT | os.O_WRONLY)
                os.dup2(said, 1)
                os.dup2(said, 2)
                import resource  # not on Windows, where nothing forks either

                resource.setrlimit(resource.RLIMIT_CPU, (int(limit) + 1, int(limit) + 2))
                resource.setrlimit(resource.RLIMIT_AS, (16 * 2**30,) * 2)
                _tested(file, tree, tests, order, folder, lambda answer: _answer(write, answer))
            finally:
                os._exit(70)
        os.close(write)
        end = time.monotonic() + 4 * limit + 30
        answer = _read(read, end)
        try:
            os.killpg(child, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.waitpid(child, 0)
        if answer:
            return json.loads(answer)
        return {"status": LATE, "failed": None}


def _end_with(parent: int) -> None:
    """Have this process killed when its parent ends, where the system can do that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(70)


def _read(pipe: int, end: float) -> bytes:
    import select

    with open(pipe, "rb", buffering=0) as file:
        parts = []
        while select.select([file], [], [], max(0, end - time.monotonic()))[0]:
            if not (part := file.read(65536)):
                break
            parts.append(part)
        else:
            return b""
    return b"".join(parts)


def _is_ours(module: Any) -> bool:
    """Whether a module is of this repository."""
    file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), "")
    return Path(file).is_relative_to(ROOT) and ".venv" not in Path(file).parts


def _answer(pipe: int, answer: dict[str, Any]) -> None:
    """Say it, and end at once: no teardown is waited for."""
    with open(pipe, "wb") as file:
        file.write(json.dumps(answer).encode())
    sys.stderr.flush()
    os._exit(0)


def _tested(
    file: Path, tree: ast.AST, tests: list[str], order: list[str] | None, folder: str, answer: Callable[[Any], None]
) -> None:
    import pytest

    watch = watching(Watch(order, lambda name: answer({"status": 1, "failed": name, "said": said()})))
    module = ".".join(file.relative_to(ROOT / "src").with_suffix("").parts)
    me = sys.modules[__name__]
    if ours := [name for name, loaded in sys.modules.items() if loaded is not me and _is_ours(loaded)]:
        answer({"status": "loaded before the fork", "failed": ours})

    def said() -> str:
        sys.stdout.flush()
        return Path(folder, "said").read_text(errors="replace")[-3000:]

    reached = {"__reached__": lambda line: watch.reached[watch.now].add(line)}
    sys.meta_path.insert(0, Changed(module, file, tree, reached))
    left_out = ("xdist", "cacheprovider", "unraisableexception", "threadexception", "faulthandler")
    options = ["-x", "-q", "-o", "addopts=", f"--basetemp={folder}/base", *(f"-pno:{name}" for name in left_out)]
    status = int(pytest.main([*options, *tests], plugins=[watch]))
    found = {"status": status, "failed": None, "said": said()}
    if order is None:
        found["reached"] = {name: sorted(lines) for name, lines in watch.reached.items()}
        found["seconds"] = watch.seconds
        found["modules"] = [name for name, module in sys.modules.items() if not _is_ours(module)]
    answer(found)


# ---- all of it ---------------------------------------------------------------------------------------------------


def preload(modules: list[str]) -> None:
    """Import what the tests imported, but the package and the tests themselves."""
    import contextlib
    import io

    for name in modules:
        if name not in sys.modules and not name.startswith("__"):
            with contextlib.suppress(BaseException), contextlib.redirect_stderr(io.StringIO()):
                importlib.import_module(name)


def main() -> None:
    """Try the mutants of one file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--tests", nargs="+", help="by default those that this tool knows")
    parser.add_argument("--only", help="of these, those with such names, as for pytest's -k: leave slow ones out")
    parser.add_argument(
        "--sample", type=int, help=f"how many, at random; by default {SAMPLE} where there are over {MANY}"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=20, help="seconds beyond three times what its tests took")
    parser.add_argument("--again", action="store_true", help="only those that lived last time")
    parser.add_argument("--list", action="store_true", help="name the mutants and run nothing")
    parser.add_argument("--without", nargs="*", help="functions to leave alone; by default those that only draw")
    given = parser.parse_args()
    if not hasattr(os, "fork"):
        parser.error("this system cannot fork a process: try it on Linux or macOS")
    os.chdir(ROOT)
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false",
                   "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # fmt: skip
    sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tools")]
    file = given.file.resolve()
    short = file.relative_to(ROOT).as_posix()
    if not (tests := given.tests or TESTS.get(short)):
        parser.error(f"give --tests: this tool knows those of {', '.join(TESTS)}")
    if given.without is None:
        given.without = DRAWINGS.get(short, ())
    source = file.read_text(encoding="utf-8")
    every = mutants(source, given.without)
    if given.list:
        print("\n".join(m.name for m in every))
        return
    size = given.sample or (SAMPLE if len(every) > MANY else len(every))
    numbers = sorted(random.Random(given.seed).sample(range(len(every)), min(size, len(every))))
    chosen = [every[number] for number in numbers]
    kept = ROOT / ".cache" / "mutants" / f"{file.stem}.json"
    if given.again:
        lived = set(json.loads(kept.read_text()))
        chosen = [m for m in chosen if m.name in lived]
    tests = [*tests, *(["-k", given.only] if given.only else [])]
    plan, first = _first_run(file, source, tests)
    total = sum(first["seconds"].values())
    print(f"{short}: {len(chosen)} of {len(every)} mutants, {len(first['seconds'])} tests of {total:.0f} s", flush=True)

    lived, how = [], Counter()
    began = time.monotonic()
    for count, mutant in enumerate(chosen, 1):
        order = plan(mutant.line)
        limit = given.limit + 3 * sum(first["seconds"][name] for name in order)
        ended = run(file, mutant.tree, tests, order, limit) if order else {"status": 0, "failed": None}
        if ended["status"] == 0:
            lived.append(mutant.name)
            print(f"  lives  {short}:{mutant.name}  [{len(order)} tests]", flush=True)
        else:
            how[{1: "by a test", 2: "on import", LATE: "by its time or end"}[ended["status"]]] += 1
        if count % 20 == 0:
            print(f"  ... {count} tried, {len(lived)} live, {time.monotonic() - began:.0f} s", flush=True)
    killed = len(chosen) - len(lived)
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(lived, indent=1))
    share = killed / max(1, len(chosen))
    ways = ", ".join(f"{number} {way}" for way, number in how.most_common())
    print(f"{short}: {killed} of {len(chosen)} killed, {share:.1%} ({ways}); {time.monotonic() - began:.0f} s")


def _cached(source: str) -> set[int]:
    """Lines of functions that keep what they found: the first test alone runs them, and all that come later read it."""
    functions = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef))
    kept = [node for node in functions if any("cache" in ast.unparse(d) for d in node.decorator_list)]
    return {line for node in kept for line in range(node.lineno, node.end_lineno + 1)}


def _first_run(file: Path, source: str, tests: list[str]) -> tuple[Callable[[int], list[str]], dict[str, Any]]:
    """Run all tests on the file as it is; a function from a line to the tests that reach it, the quickest first."""
    import pytest  # noqa: F401 - before the fork

    tree = ast.fix_missing_locations(Reporting().visit(ast.parse(source)))
    first = run(file, tree, tests, None, 1800)
    if first["status"] != 0:
        raise SystemExit(f"the tests fail without any change: {first['failed'] or first}\n{first.get('said', '')}")
    preload(first["modules"])
    gc.collect()
    gc.freeze()  # what is loaded is not looked through again in each child
    quickest = sorted(first["seconds"], key=first["seconds"].__getitem__)
    again = run(file, ast.parse(source), tests, quickest[: len(quickest) // 2 + 1], 1800)
    if again["status"] != 0:
        raise SystemExit(f"the tests fail where the libraries were imported before, without any change: {again}")
    always = set(first["reached"].get(ALWAYS, ())) | _cached(source)

    def plan(line: int) -> list[str]:
        return [name for name in quickest if line in always or line in first["reached"].get(name, ())]

    return plan, first


if __name__ == "__main__":
    main()
