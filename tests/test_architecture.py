"""What holds the house: wrong code that the checks must refuse, and the page that is made from the code."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import architecture
from architecture import ROOT, House

PYPROJECT = """
[tool.importlinter]
root_package = "sana_lab"
[[tool.importlinter.contracts]]
id = "floors"
type = "layers"
layers = ["top", "middle : beside", "ground"]
[tool.architecture]
floors = ["above", "between", "below"]
"""
FILES = {
    "src/sana_lab/__init__.py": '_WHERE = {"roof": "top", "load": "ground"}\n',
    "src/sana_lab/top.py": '"""The top. More."""\nfrom . import middle\ndef roof(): return middle.walk()\n',
    "src/sana_lab/middle.py": '"""The middle."""\nfrom .ground import load\ndef walk(): return load()\n',
    "src/sana_lab/beside/__init__.py": '"""Beside it | a folder."""\nfrom ._inner import _help\n',
    "src/sana_lab/beside/_inner.py": "from sana_lab import load\ndef _help(): return load\n",
    "src/sana_lab/ground.py": '"""The ground."""\nclass Keeper:\n    def _kept(self): ...\ndef load(): ...\n',
    "tools/look.py": "from sana_lab.top import roof\nroof()\n",
    "pyproject.toml": PYPROJECT,
    "ARCHITECTURE.md": "# The house\n"
    + "".join(f"<!-- {part}: made -->\n<!-- end -->\n" for part in ("drawing", "rooms", "names")),
}


@pytest.fixture
def build(tmp_path):
    """Writes the small house, with other contents for some files."""

    def build(**other):
        for name, text in (FILES | {name.replace("__", "/") + ".py": text for name, text in other.items()}).items():
            whole = name in FILES or name.startswith(("tools", "tests"))
            path = tmp_path / (name if whole else f"src/sana_lab/{name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return House(tmp_path)

    return build


def test_the_small_house_stands(build):
    house = build()
    assert house.arrows == {"top": {"middle"}, "middle": {"ground"}, "beside": {"ground"}, "ground": set()}
    assert house.private() == house.upward() == house.broken() == []


@pytest.mark.parametrize(
    "line",
    [
        "from .ground import _secret",
        "from sana_lab.ground import _secret as fine",
        "from .beside._inner import anything",
        "import sana_lab.beside._inner",
        "from . import ground\nground._secret()",
        "from . import ground as g\ng._secret = 1",
        "from sana_lab.ground import Keeper\nKeeper._kept",
        "from .ground import Keeper\nKeeper().name; Keeper.made._count",
        "def f():\n    from . import ground\n    return getattr(ground, '_secret', None)",
        "import sana_lab.ground\nsana_lab.ground._secret",
        "def f(keeper):\n    return keeper._kept()",
        "def f(keeper):\n    return keeper.other.thing._kept",
    ],
)
def test_private_names_of_other_rooms_are_refused(build, line):
    (problem, *_) = build(middle=line).private()
    assert problem.startswith("src/sana_lab/middle.py:") and "private to" in problem


@pytest.mark.parametrize(
    "line",
    [
        "import torch\ntorch._int_mm",
        "def f(pipe):\n    return pipe._execution_device",
        "class A:\n    def _kept(self): return self._kept()",
        "class A:\n    def __init__(self): self._kept = 1\ndef f(a): return a._kept",
        "from .ground import __doc__ as text",
        "from .ground import load as _load\n_load()",
        "for _ in range(3): _.real",
    ],
)
def test_other_private_names_are_nobodys_business(build, line):
    assert build(middle=line).private() == []


def test_a_tool_is_another_room(build):
    assert len(build(tools__look="from sana_lab import ground\nground._secret()").private()) == 1


@pytest.mark.parametrize(
    "room, line",
    [
        ("middle", "from .top import roof"),
        ("ground", "from . import middle"),
        ("ground", "def f():\n    from sana_lab import roof"),  # through the front door
        ("middle", "from . import roof"),
    ],
)
def test_imports_from_above_are_refused(build, room, line):
    (problem,) = build(**{room: f'"""It."""\n{line}'}).upward()
    assert problem.startswith(f"src/sana_lab/{room}.py:") and "a floor above" in problem


@pytest.mark.parametrize(
    "line",
    [
        "from .ground import nothing",
        "def f():\n    from sana_lab import nothing",
        "import sana_lab.nowhere",
        "from .nowhere import load",
        "from . import nowhere",
        "from .ground import _kept",  # a method
    ],
)
def test_imports_of_what_is_not_there_are_refused(build, line):
    (problem,) = build(middle=f'"""It."""\n{line}').broken()
    assert problem.startswith("src/sana_lab/middle.py:")


def test_tests_import_what_is_there_and_may_know_private_names(build):
    house = build(**{"tests/test_it": "from sana_lab.beside._inner import _help\nfrom sana_lab import lost\n"})
    assert house.broken() == ["tests/test_it.py:2: sana_lab has no lost."] and house.private() == []


def test_imports_for_types_alone_are_free(build):
    typed = '"""It."""\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .top import roof\n'
    assert build(ground=typed).upward() == []


def test_the_page_is_made_once_and_stale_after_a_change(build, tmp_path, capsys):
    build()
    assert architecture.main(["check", "--root", str(tmp_path)]) == 1
    assert "stale" in capsys.readouterr().err
    assert architecture.main(["write", "--root", str(tmp_path)]) == 0
    assert architecture.main(["check", "--root", str(tmp_path)]) == 0
    text = (tmp_path / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert "top --> middle" in text and "| `top.py` | The top. | middle |" in text
    assert "| `beside/` | Beside it \\| a folder. | ground |" in text
    build(middle='"""The middle, changed."""\nfrom .ground import load\n')
    assert architecture.main(["check", "--root", str(tmp_path)]) == 1


def test_a_page_without_a_part_is_refused(build):
    with pytest.raises(ValueError, match="must have the parts drawing, rooms, names"):
        build().page("<!-- drawing -->\n<!-- end -->\n")


def test_an_arrow_that_others_imply_is_left_out():
    arrows = {"a": {"b", "c", "d"}, "b": {"c"}, "c": {"d"}, "d": set()}
    assert architecture.reduced(arrows, "a", arrows["a"]) == {"b"}


def test_the_house_and_its_page():
    house = House()
    assert house.private() == house.upward() == house.broken() == []
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert house.page(page) == page, "run python tools/architecture.py write"


def test_files_that_the_page_names_exist():
    import re

    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    page = re.sub(r"<!-- \w+:.*?<!-- end -->", "", page, flags=re.DOTALL)
    named = set(re.findall(r"`((?:src|tools|tests|notebooks|book)/[\w./*-]*)", page))
    named |= set(re.findall(r"\b([A-Z]+\.md|\w+\.toml|_toc\.yml)\b", page))
    examples = ("NN",)
    missing = [name for name in named if not any(e in name for e in examples) and not any(ROOT.glob(name.rstrip("/")))]
    assert len(named) > 10 and not missing


# --- import-linter ---------------------------------------------------------------------------------------------------

WRONG = {
    "Rooms import downwards": ("layers.py", "\nfrom . import sana\n"),
    "No circle": ("accelerator/words.py", "\nfrom . import mode\n"),
    "imports no torch": ("machine.py", "\ndef _torch():\n    import torch\n"),
    "Rooms import downwards ": ("nobody.py", '"""A room that no floor names."""\n'),
    "No circle ": ("guard.py", "\ndef _f():\n    from . import fast\n"),
}


def lint(root):
    pytest.importorskip("importlinter")
    program = "import sys; sys.path.insert(0, 'src'); from importlinter.cli import lint_imports_command as c; c()"
    done = subprocess.run(
        [sys.executable, "-c", program, "--no-cache"], cwd=root, capture_output=True, text=True, timeout=120
    )
    return done.returncode, " ".join(done.stdout.split()) + done.stderr


@pytest.mark.parametrize("contract", WRONG)
def test_the_contracts_refuse_wrong_code(contract, tmp_path):
    code = shutil.ignore_patterns("*.json", "*.gz", "*.safetensors", "__pycache__", "weights")
    shutil.copytree(ROOT / "src" / "sana_lab", tmp_path / "src" / "sana_lab", ignore=code)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    name, more = WRONG[contract]
    if name == "guard.py":  # a circle needs the way back
        with (tmp_path / "src/sana_lab/fast.py").open("a") as file:
            file.write("\ndef _g():\n    from . import guard\n")
    with Path(tmp_path / "src/sana_lab" / name).open("a") as file:
        file.write(more)
    status, said = lint(tmp_path)
    assert status == 1 and f"{contract.strip()}" in said and "BROKEN" in said


def test_the_contracts_hold():
    status, said = lint(ROOT)
    assert status == 0, said
