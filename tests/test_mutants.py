"""The tool that changes a file: what it changes, that tests see the change, and that it notices when they do not."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mutants

TOOL = Path(mutants.__file__)


def words(source, **kwargs):
    return [mutant.words for mutant in mutants.mutants(source, **kwargs)]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a < b", ["a < b  ->  pass", "a < b  ->  a <= b"]),
        ("x = a == b is not c", ["a == b is not c  ->  a != b is not c", "a == b is not c  ->  a == b is c"]),
        ("x = a and b", ["a and b  ->  a or b"]),
        ("x = a + -b", ["a + -b  ->  a - -b", "-b  ->  b"]),
        ("x = 3, 0.5, 0.0, True, 'a'",
         ["3  ->  4", "0.5  ->  0.75", "0.0  ->  1.0", "True  ->  False", "'a'  ->  'XX'"]),
        ("x = f'{a}: {b:.3f} of {c}'", ["' of '  ->  'XX'"]),
        ("if a:\n    b", ["if a:  ->  if not a:", "b  ->  pass"]),
        ("while a == b:\n    break", ["a == b  ->  a != b", "break  ->  continue"]),
        ("x = [a for a in b if a]", ["(... for a in b if a)  ->  (... for a in b if not a)"]),
        ("def f(a: int = 1) -> str:\n    '''Doc.'''\n    return a",
         ["1  ->  2", "return a  ->  return None"]),
        ("x[i] = a\nx.y = b\nx = c", ["x[i] = a  ->  pass", "x.y = b  ->  pass"]),
        ("x += a", ["x += a  ->  x -= a", "x += a  ->  pass"]),
        ("x = f(a, b=c)", ["f(a, b=c)  ->  f(a)"]),
        ("raise a", ["raise a  ->  pass"]),
        ("import a\nif TYPE_CHECKING:\n    x = 1\n__all__ = ['a']\n'''Doc.'''\nx: int", []),
        ("@f(1)\ndef g():\n    pass", []),
    ],
)  # fmt: skip
def test_what_is_changed(source, expected):
    assert words(source) == expected


def test_functions_are_left_alone_on_request():
    assert words("def draw():\n    f(1)\ndef g():\n    return a", without=("draw",)) == ["return a  ->  return None"]


@pytest.mark.parametrize("file", mutants.TESTS)
def test_every_mutant_of_the_known_files_is_another_program(file):
    source = (mutants.ROOT / file).read_text()
    whole = ast.unparse(ast.parse(source))
    names = set()
    for mutant in mutants.mutants(source)[::20]:
        compile(mutant.tree, file, "exec")
        assert ast.unparse(mutant.tree) != whole, mutant.name
        names.add(mutant.name)
    assert len(names) > 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_mutant_that_no_test_sees_lives_and_the_others_do_not(tmp_path):
    """In a repository of one file, whose sum is tested and whose words are not."""
    (tmp_path / "tools").mkdir()
    shutil.copy(TOOL, tmp_path / "tools")
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "src" / "little").mkdir(parents=True)
    file = tmp_path / "src" / "little" / "file.py"
    sums = "END = 3\n\n\ndef f(a):\n    while a < END:\n        a += 1\n    return a\n"
    file.write_text(f"{sums}\n\ndef g():\n    'Doc.'\n    return 'words'\n")
    test = tmp_path / "test_file.py"
    test.write_text("from little.file import f\n\n\ndef test_f():\n    assert f(0) == f(3) == 3\n")
    command = [sys.executable, tmp_path / "tools" / "mutants.py", file, "--tests", test, "--limit", "1"]
    said = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    assert said[0] == "src/little/file.py: 9 of 9 mutants, 1 tests of 0 s"
    assert [line.split("file.py:")[1] for line in said if "lives" in line] == [
        "12: return 'words'  ->  return None  [0 tests]",
        "12: 'words'  ->  'XX'  [0 tests]",
    ]
    assert "src/little/file.py: 7 of 9 killed, 77.8% (4 by a test, 3 by its time or end)" in said[-1]
    test.write_text("def test_f():\n    assert False\n")
    failed = subprocess.run(command, capture_output=True, text=True)
    assert failed.returncode and "the tests fail without any change: test_file.py::test_f" in failed.stderr
