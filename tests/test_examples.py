"""The examples in docstrings do what they show, and what people call has one."""

import doctest
import importlib
from pathlib import Path

import pytest

import sana_lab

PACKAGE = Path(sana_lab.__file__).parent
MODULES = sorted(
    ".".join(("sana_lab", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)
CALLED = [
    *(getattr(sana_lab, name) for name in sana_lab.__all__),
    *(getattr(importlib.import_module(f"sana_lab.{module}"), name) for module, name in (
        ("fast", "speed_up_"), ("int8", "quantize"), ("float8", "quantize_rows"), ("checkpoints", "resolve"),
        ("accounting", "predict"), ("evaluate.distance", "psnr"), ("messages", "counted"),
    )),
]  # fmt: skip
WITHOUT = {"doctor", "read_scene"}
"""What `doctor` finds is another thing on every machine, and a picture to read has to be drawn first."""
OPTIONS = doctest.ELLIPSIS


def run(module, examples):
    """What differs, as doctest reports it."""
    runner, said = doctest.DocTestRunner(optionflags=OPTIONS), []
    for example in examples:
        runner.run(example, out=said.append)
    assert runner.tries, module
    return "".join(said)


@pytest.mark.parametrize("module", MODULES)
def test_examples(module, capsys):
    there = importlib.import_module(module)
    found = [example for example in doctest.DocTestFinder().find(there, module) if example.examples]
    assert not run(module, found)


@pytest.mark.parametrize("function", [one for one in CALLED if callable(one)], ids=lambda one: one.__name__)
def test_what_people_call_has_an_example(function):
    assert (">>> " in function.__doc__) == (function.__name__ not in WITHOUT)
    assert function.__module__ in MODULES or function.__name__ in WITHOUT


def test_an_example_that_is_wrong_is_seen():
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, None)
    assert "Expected:\n    3\nGot:\n    2" in run("wrong", [wrong])
