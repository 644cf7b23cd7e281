"""What stands around the code: the files that programs of others read name only what is there."""

import importlib.util
import re
import threading
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from sana_lab import cli

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
TEXTS = ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "CHANGELOG.md", ".ci/run")
PINNED = set(re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(encoding="utf-8"), flags=re.MULTILINE))
PROGRAMS = {
    "ruff",
    "codespell",
    "lint-imports",
    "ty",
    "pytest",
    "pip",
    "python",
    "jupyter",
    "jupyter-book",
    "pre-commit",
}


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


def load(path):
    return yaml.safe_load(read(path))


def targets(makefile=None):
    return set(re.findall(r"^([a-z-]+):", makefile or read("Makefile"), flags=re.MULTILINE))


def missing(command, makefile=None):
    """What a line of shell names that is not there: a target of make, a script, a program of .venv, a command."""
    for line in command.splitlines():
        words = line.split()
        for n, word in enumerate(words):
            after = words[n + 1] if n + 1 < len(words) else ""
            if word == "make" and re.fullmatch(r"[a-z]+", after) and after not in targets(makefile):
                yield f"make {after}"
            elif re.match(r"(?:tools|tests|src|\.ci)/[\w./]+$", word) and not (ROOT / word).exists():
                yield word
            elif word.startswith(".venv/bin/") and word.removeprefix(".venv/bin/") not in PROGRAMS:
                yield word
            elif word == "sana-lab" and re.fullmatch(r"[a-z-]+", after) and after not in commands():
                yield f"sana-lab {after}"


def commands():
    import typer.main

    return set(typer.main.get_command(cli.app).commands)


def runs(workflow):
    return [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]


@pytest.mark.parametrize(
    "command",
    [
        "make tset",
        ".venv/bin/rufff check",
        "python tools/chapter.py check",
        ".ci/runs",
        "sana-lab docter",
        "make everything x",
    ],
)
def test_what_is_not_there_is_seen(command):
    assert list(missing(command))


def test_the_workflow_runs_what_is_there_on_the_pythons_we_claim():
    workflow = load(".github/workflows/ci.yml")
    assert not [name for run in runs(workflow) for name in missing(run)]
    everything, helper = workflow["jobs"]["everything"], workflow["jobs"]["helper"]
    assert ".ci/run" in runs(workflow) and (ROOT / ".ci" / "run").stat().st_mode & 0o111
    first = [s["with"]["python-version"] for s in everything["steps"] if "python-version" in s.get("with", {})]
    tried = [*first, *helper["strategy"]["matrix"]["python"]]
    assert all(isinstance(python, str) for python in tried), "3.10 without quotes is 3.1"
    assert all(python in SpecifierSet(PROJECT["requires-python"]) for python in tried)
    claimed = {line.rpartition(" ")[2] for line in PROJECT["classifiers"] if line.startswith("Programming Language")}
    assert claimed <= set(tried)
    assert "torch==" in read("requirements.txt")  # what the workflow greps for


def test_what_ci_runs_is_there():
    steps = re.search(r"for step in ([\w ]+); do", read(".ci/run"))[1].split()
    assert steps == ["check", "book", "test", "triton"] and set(steps) <= targets()


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_issue_forms_ask_for_the_doctor(form):
    fields = yaml.safe_load(form.read_text(encoding="utf-8"))
    assert fields["name"] and fields["description"]
    ids = [field["id"] for field in fields["body"] if field["type"] != "markdown"]
    assert len(ids) == len(set(ids)) > 1
    for field in fields["body"]:
        assert field["type"] in ("markdown", "textarea", "input", "dropdown", "checkboxes")
        assert field["attributes"].get("label") or field["type"] == "markdown"
    text = form.read_text(encoding="utf-8")
    named = re.findall(r"`(sana-lab [\w-]+)", text)
    assert "sana-lab doctor" in named and not [name for line in named for name in missing(line)]
    assert not re.search(r"(?<!`)sana-lab (doctor|explain)", text), "a command stands in backticks"


def test_the_forms_name_a_variable_that_is_read():
    assert f"`{cli.DEBUG_VARIABLE}=1`" in read(".github/ISSUE_TEMPLATE/bug.yml")


def test_the_hooks_call_what_is_there_and_fetch_nothing():
    config = load(".pre-commit-config.yaml")
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    hooks = config["repos"][0]["hooks"]
    assert len({hook["id"] for hook in hooks}) == len(hooks) > 2
    for hook in hooks:
        assert hook["language"] == "system" and not list(missing(hook["entry"])), hook["id"]
        re.compile(hook.get("files", ""))
    checked = read("Makefile").replace("$(BIN)", ".venv/bin")
    for hook in hooks:  # a hook does what make check does, for the files that change
        assert hook["entry"].replace(" --force-exclude", "") in checked, hook["id"]


def test_the_citation():
    citation = load("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0" and citation["type"] in ("software", "dataset")
    assert citation["authors"] == PROJECT["authors"] == [{"name": f"{load('_config.yml')['author']}"}]
    assert "version" not in citation, "pyproject.toml has it, once"
    assert PROJECT["license"] in citation["license"] and "CC-BY-4.0" in read("LICENSE-TEXT")
    for work in citation["references"]:
        assert {"type", "title", "authors"} <= set(work)
        assert work["url"] in read("book/references.bib")


def test_the_changelog_has_what_is_not_released_and_this_version():
    heads = re.findall(r"^## (.+)", read("CHANGELOG.md"), flags=re.MULTILINE)
    assert heads[0] == "Unreleased"
    assert heads[1].startswith(f"{PROJECT['version']}, ")


@pytest.mark.parametrize("text", TEXTS)
def test_commands_in_the_texts_are_there(text):
    named = re.findall(r"`((?:make|sana-lab|python|\.venv/bin/\w+|\.ci/\w+)\b[^`\n]*)`", read(text))
    blocks = re.findall(r"^```(?:sh|bat)\n(.*?)^```", read(text), flags=re.DOTALL | re.MULTILINE)
    assert not [name for command in [*named, *blocks] for name in missing(command)]
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", read(text)):
        assert (ROOT / link).exists(), link


def test_programs_that_make_check_calls_are_pinned():
    called = set(re.findall(r"\$\(BIN\)/([\w-]+)", read("Makefile")))
    called -= {"python", "pip", "jupyter", "lint-imports", "sana-lab"}
    assert called <= PINNED | {"jupyter-book"} and "import-linter" in PINNED
    assert called <= PROGRAMS


def test_the_makefile_says_what_each_target_is_for():
    said = set(re.findall(r"^([a-z-]+):.*## \w", read("Makefile"), flags=re.MULTILINE))
    phony = set(re.search(r"^\.PHONY: (.+)", read("Makefile"), flags=re.MULTILINE)[1].split())
    assert said == targets() == phony


def test_the_type_marker_is_in_the_package():
    assert (ROOT / "src" / "sana_lab" / "py.typed").exists()
    data = tomllib.loads(read("pyproject.toml"))["tool"]["setuptools"]["package-data"]["sana_lab"]
    assert "py.typed" in data and "Typing :: Typed" in PROJECT["classifiers"]


# ---- the order of tests ------------------------------------------------------------------------------------------


def shared():
    """The conftest.py of the repository, under a name of its own."""
    spec = importlib.util.spec_from_file_location("shared_conftest", ROOT / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_long_modules_are_there_and_go_first():
    order = shared()
    there = [
        path.relative_to(ROOT).as_posix() for part in ("tests", "notebooks") for path in (ROOT / part).rglob("*.*")
    ]
    assert [name for name in order.LONGEST if not any(path.startswith(name) for path in there)] == []
    ids = ["tests/test_a.py::x", "notebooks/01_a.ipynb::Cell 0", "tests/test_a.py::a", "tests/test_failures_live.py::x"]
    items = [SimpleNamespace(nodeid=id) for id in ids]
    order.pytest_collection_modifyitems(items)
    assert [item.nodeid for item in items] == [ids[3], *ids[:3]]
    assert "--no-loadscope-reorder --durations=25" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_seconds_of_a_module_are_those_of_its_tests_and_fixtures():
    reports = [("a.py::x", 1.0), ("b.py::y[1::2]", 5.0), ("a.py::x", 3.0), ("b.py", 0.0)]
    found = shared().seconds_by_module(SimpleNamespace(nodeid=id, duration=seconds) for id, seconds in reports)
    assert found == {"b.py": 5.0, "a.py": 4.0} and list(found) == ["b.py", "a.py"]


# ---- what modules leave behind -----------------------------------------------------------------------------------


def test_a_thread_that_never_waits_is_found_and_named():
    module, stop = shared(), threading.Event()

    def work():
        while not stop.is_set():
            pass

    waits, works = threading.Thread(target=stop.wait, name="waits"), threading.Thread(target=work, name="works")
    waits.start()
    try:
        assert module.busy_threads() == []
        works.start()
        found = module.busy_threads(0.3)
    finally:
        stop.set()
    assert [line for line in found if line.startswith("works: ")]
