"""The public names: they are there, type checkers see the same ones, and so are those that chapters use."""

import importlib
import inspect
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import sana_lab
from architecture import House

ROOT = Path(__file__).parent.parent
HOUSE = House()
FRONT_DOORS = HOUSE.front_doors
TY = shutil.which("ty", path=Path(sys.executable).parent) or shutil.which("ty")


@pytest.mark.parametrize("door", FRONT_DOORS)
def test_every_name_is_there_and_says_what_it_is(door):
    package = importlib.import_module(door)
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        thing = getattr(package, name)
        assert isinstance(thing, Path) or (callable(thing) and inspect.getdoc(thing)), name
    with pytest.raises(AttributeError, match="no attribute 'load_snaa'"):
        package.load_snaa  # noqa: B018


@pytest.mark.parametrize("door", FRONT_DOORS)
def test_type_checkers_see_the_same_names(door):
    file = HOUSE.files[door]
    seen = {found.name: HOUSE.module_of(found) for found in file.imports if found.typing_only}
    names = set(importlib.import_module(door).__all__)
    assert set(seen) | (file.names - set(file.where)) == names
    for name, module in seen.items():
        assert getattr(importlib.import_module(module), name) is getattr(importlib.import_module(door), name)


@pytest.mark.parametrize("door", FRONT_DOORS)
def test_public_functions_are_annotated(door):
    package = importlib.import_module(door)
    for name in package.__all__:
        if inspect.isfunction(function := getattr(package, name)):
            signature = inspect.signature(function)
            given = [*(p.annotation for p in signature.parameters.values()), signature.return_annotation]
            assert inspect.Parameter.empty not in given, name


def test_no_module_hides_behind_a_function():
    for door in FRONT_DOORS:
        package = importlib.import_module(door)
        modules = {name.removeprefix(f"{door}.") for name in HOUSE.files if name.startswith(f"{door}.")}
        hidden = {name for name in package.__all__ if callable(getattr(package, name))} & modules
        assert not hidden, f"{door}: give these modules another name: {hidden}"


@pytest.mark.parametrize(
    "module, name", sorted(HOUSE.chapters), ids=lambda part: part.removeprefix("sana_lab").lstrip(".") or "-"
)
def test_what_chapters_import_is_there_and_public(module, name):
    assert not any(part.startswith("_") for part in (*module.split("."), name))
    if name and f"{module}.{name}" not in HOUSE.files:
        assert hasattr(importlib.import_module(module), name)
    else:
        importlib.import_module(f"{module}.{name}".rstrip("."))


def test_the_version_is_in_one_place():
    assert sana_lab.__version__ == version("sana-lab")
    assert "0.1.0" not in (ROOT / "src" / "sana_lab" / "__init__.py").read_text(encoding="utf-8")


def type_check(root):
    command = [TY, "check", "--python", sys.prefix, "--extra-search-path", "src", "--error-on-warning", "tests/typed"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, env=os.environ)
    return done.returncode, done.stdout


@pytest.fixture
def copied(tmp_path):
    code = shutil.ignore_patterns("*.json", "*.gz", "*.safetensors", "__pycache__", "weights")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=code)
    shutil.copytree(ROOT / "tests" / "typed", tmp_path / "tests" / "typed")
    return tmp_path


@pytest.mark.skipif(not TY, reason="ty is not installed")
@pytest.mark.parametrize(
    "file, before, after",
    [
        ("__init__.py", "if TYPE_CHECKING:", "if False:"),
        ("__init__.py", "    from .sana import load_sana as load_sana\n", ""),
        ("shapes/__init__.py", "    from .scoring import Rate as Rate\n", ""),
        ("placements.py", "def placement(pipe: Any) -> Placement:", "def placement(pipe: Any):"),
        ("int8.py", "    bits: int = 8,\n", "    bits: int,\n"),
        ("../../tests/typed/public_names.py", "    read_scene,\n", "    read_scene,\n    read_scenes,\n"),
        ("../../tests/typed/public_names.py", "import Rate, Scene", "import Rate, Scene, Scenery"),
    ],
)
def test_a_name_that_editors_cannot_resolve_is_seen(copied, file, before, after):
    path = copied / "src" / "sana_lab" / file
    text = path.read_text(encoding="utf-8")
    assert text.count(before) >= 1
    assert type_check(copied)[0] == 0
    path.write_text(text.replace(before, after, 1), encoding="utf-8")
    assert type_check(copied)[0] == 1
