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
CALLED = {
    "sana_lab.sana": "load_sana",
    "sana_lab.accelerator.session": "use_accelerator",
    "sana_lab.fast": "speed_up_",
    "sana_lab.guard": "checked",
    "sana_lab.placements": "placement",
    "sana_lab.int8": "quantize",
    "sana_lab.shapes.scoring": "adherence",
}
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


@pytest.mark.parametrize("module", CALLED)
def test_what_people_call_has_an_example(module):
    function = getattr(importlib.import_module(module), CALLED[module])
    assert module in MODULES and ">>> " in function.__doc__


def test_an_example_that_is_wrong_is_seen():
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, None)
    assert "Expected:\n    3\nGot:\n    2" in run("wrong", [wrong])
