"""What this project raises, records or shows, `explain` explains: each text that is stored somewhere finds its entry."""

from __future__ import annotations

import ast
import json
import re
from collections import deque
from pathlib import Path

import pytest

from sana_lab import evidence
from sana_lab.failures import catalogue, explain, get
from sana_lab.failures.entry import needles, plain, squeezed, squeezed_pattern
from sana_lab.failures.ours import FEWEST, PACKAGE
from sana_lab.failures.paste import clean, errors
from sana_lab.failures.search import OUR_OWN

ROOT = Path(__file__).parents[1]
OURS = {
    "torch": "2.13.0", "diffusers": "0.42.1", "transformers": "5.23.0", "accelerate": "1.15.0",
    "bitsandbytes": "0.50.2",
}  # fmt: skip


def ids(text, installed=OURS):
    return [match.failure.id for match in explain(text, installed).answers]


# ---- the version matrix -----------------------------------------------------------------------------------------


def texts_of(record):
    """Every exception and every line of a log in a record of the version matrix, and where it stands first."""
    found = {}

    def walk(value, place):
        if isinstance(value, dict):
            error = value.get("error")
            if value.get("words"):
                found.setdefault(f"{error}: {value['words']}" if error else value["words"], place)
            for key in ("warns", "said"):
                if value.get(key):
                    found.setdefault(value[key], place)
            for key, part in value.items():
                walk(part, f"{place}/{key}")

    walk(record, "")
    return {place: text for text, place in found.items()}


MATRIX = texts_of(evidence.load("version_matrix")["results"])


@pytest.mark.parametrize("place", MATRIX)
def test_every_text_of_the_version_matrix(place):
    assert ids(MATRIX[place], {}), MATRIX[place]


def test_the_matrix_has_what_it_had():
    assert len(MATRIX) >= 40


# ---- the conformance records ------------------------------------------------------------------------------------

CASES = {
    name: case["outcome"]
    for name, case in evidence.load("conformance_h200")["results"].items()
    if "raises" in case["outcome"]
}


@pytest.mark.parametrize("name", CASES)
def test_every_raising_case_of_the_conformance_records(name):
    outcome = CASES[name]
    assert ids(f"{outcome['raises']}: {outcome['message']}"), outcome["message"]
    assert ids(outcome["message"]), "without its class"


def test_the_conformance_records_have_what_they_had():
    assert len(CASES) >= 96


# ---- the chapters -----------------------------------------------------------------------------------------------


def stored():
    """Every exception and every line with one in a stored output of a chapter: place -> text."""
    found = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
            for output in cell.get("outputs", []):
                place = f"{path.stem}, cell {number}"
                if output["output_type"] == "error":
                    found[place] = "\n".join(output["traceback"])
                text = "".join(output.get("text", "")) or "".join(output.get("data", {}).get("text/plain", ""))
                for error in errors(clean(text)):
                    found[f"{place}, line {error.line + 1}"] = (
                        error.message if error.name else f"Error: {error.message}"
                    )
    return found


STORED = stored()


@pytest.mark.parametrize("place", STORED)
def test_every_exception_in_a_chapter(place):
    assert ids(STORED[place]), STORED[place]


def test_the_chapters_show_what_they_showed():
    assert len(STORED) >= 25


# ---- our own errors ---------------------------------------------------------------------------------------------


def raise_sites():
    """Every `raise` of the package with a text of its own: place -> (class, text as it may be printed)."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        file = path.relative_to(PACKAGE).as_posix()
        if file.startswith("failures/families/"):
            continue  # what others raise
        code = path.read_text(encoding="utf-8")
        for node in statements(ast.parse(code)) if "raise" in code else ():
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                name = getattr(node.exc.func, "id", getattr(node.exc.func, "attr", ""))
                if not name.endswith(("Error", "Exception", "NotReady", "Unbuildable")):
                    continue  # a function that makes the message, or a signal between our own parts
                for text in printed(node.exc.args[0]):
                    found[f"{file}:{node.lineno}"] = (name, text)
    return found


def statements(tree):
    """Every statement, in the order of `ast.walk`, which looks into their expressions too and takes four times as long."""
    nodes = deque([tree])
    while nodes:
        node = nodes.popleft()
        yield node
        for field in node._fields:
            if field in ("body", "handlers", "cases", "orelse", "finalbody") and isinstance(getattr(node, field), list):
                nodes.extend(getattr(node, field))


def printed(node):
    """A text as it may be printed, with `thing` for what is filled in; nothing where all of it is."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        return ["".join(part.value if isinstance(part, ast.Constant) else "thing" for part in node.values)]
    if isinstance(node, ast.IfExp):
        return [*printed(node.body), *printed(node.orelse)]
    return []


SITES = raise_sites()
SPEAK_FOR_US = ("agreement", "refused", "session")
"""Files of the virtual GPU whose words are all of this package."""
NOT_SAID_TO_USERS = re.compile(r"module thing has no attribute|^thing$|^.{0,14}$")


@pytest.mark.parametrize("place", [place for place, (_, text) in SITES.items() if not NOT_SAID_TO_USERS.search(text)])
def test_every_error_that_we_raise(place):
    """It is known for ours, or, where the virtual GPU says CUDA's own words, as what CUDA means by them."""
    name, text = SITES[place]
    file, _, line = place.partition(":")
    frames = f'Traceback (most recent call last):\n  File "/venv/lib/python3.11/site-packages/sana_lab/{file}", line {line}, '
    enough = sum(c.isalpha() for c in text.replace("thing", "")) >= FEWEST
    for paste in (f"{name}: {text}",) * enough + (f"{frames}in f\n    raise\n{name}: {text}",):
        known = explain(paste, OURS)
        assert known, paste
        if not file.startswith("accelerator/"):
            assert known.answers[0].failure.id == OUR_OWN, paste
        elif not re.search("virtual|use_accelerator", text, re.IGNORECASE) and Path(file).stem not in SPEAK_FOR_US:
            assert known.answers[0].failure.id != OUR_OWN, f"PyTorch says so, on a real GPU too: {paste}"


def test_an_own_message_is_told_with_its_place():
    text = str(explain("ValueError: model '600m' is unknown: choose from shapes, 600M-512, or give a folder.", OURS))
    assert text.startswith(f"{OUR_OWN}: ")
    assert "sana_lab.checkpoints, line " in text
    assert ids("sana-lab: model '600m' is unknown: choose from shapes, or give a folder.") == [OUR_OWN]
    assert ids("NotReady: this pipeline is not ready, one thing is wrong:\n  - vae: it is on cpu") == [OUR_OWN]
    assert not explain("ValueError: model 7 is not a string", OURS)


def test_an_error_of_a_library_under_our_frames_is_the_librarys():
    frames = (
        'Traceback (most recent call last):\n  File "/v/site-packages/sana_lab/sana.py", line 9, in load_sana\n    f()\n'
        '  File "/v/site-packages/diffusers/models/modeling_utils.py", line 9, in f\n    g()\n'
    )
    assert not explain(f"{frames}KeyError: 'x'", OURS)
    own = frames.splitlines()[0] + "\n" + frames.splitlines()[1] + "\n    x[1]\n"
    assert ids(f"{own}KeyError: 'x'") == [OUR_OWN]


# ---- words that many programs can say ---------------------------------------------------------------------------

GENERIC = {
    "RuntimeError: mat1 and mat2 shapes cannot be multiplied (32x512 and 768x10)": "matrix-shapes-differ",
    "RuntimeError: Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!": (
        "tensors-on-two-devices"
    ),
    "RuntimeError: Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cuda:1!": (
        "tensors-on-two-devices"
    ),
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.": "cuda-out-of-memory",
    "CUDA out of memory": "cuda-out-of-memory",
    "UnboundLocalError: cannot access local variable 'image' where it is not associated with a value": None,
    "RuntimeError: Input type (CUDAFloatType) and weight type (CPUFloatType) should be the same": (
        "convolution-on-two-devices"
    ),
    "NotImplementedError: Cannot copy out of meta tensor; no data!": "copy-out-of-meta-tensor",
    "AttributeError: 'Tensor' object has no attribute 'sample'": None,
    "ValueError: `.to` is not supported for `8-bit` bitsandbytes models. Please use the model as it is": (
        "8bit-model-cannot-move"
    ),
    "AssertionError: Torch not compiled with CUDA enabled": "torch-without-cuda",
}


@pytest.mark.parametrize("text", GENERIC)
def test_a_generic_message_yields_the_general_entry_or_none(text):
    assert ids(text) == ([GENERIC[text]] if GENERIC[text] else [])
    elsewhere = (
        f'Traceback (most recent call last):\n  File "/home/me/train.py", line 8, in step\n    return net(x)\n{text}'
    )
    assert ids(elsewhere) == ([GENERIC[text]] if GENERIC[text] else [])


@pytest.mark.parametrize("id", [failure.id for failure in catalogue() if failure.wants])
def test_an_entry_that_wants_frames_is_not_given_without_them(id):
    failure = get(id)
    for message in failure.messages.values():
        assert failure.matches(message)
        words = message.split("\n")[-1]
        if re.search(failure.pattern, plain(words)) and not re.search(failure.wants, plain(words)):
            assert id not in ids(words, {})


def test_what_is_wanted_is_said_where_nothing_else_is_known():
    text = "UnboundLocalError: local variable 'image' referenced before assignment"
    assert not explain(text, OURS)
    assert "decode-out-of-memory-unbound-image" in str(explain(text, OURS))


# ---- how patterns are tried -------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", [failure.id for failure in catalogue()])
def test_words_that_rule_an_entry_out_are_in_all_its_messages(id):
    failure = get(id)
    for message in failure.messages.values():
        for form, text in ((str, plain(message)), (squeezed_pattern, squeezed(message))):
            pattern = form(failure.pattern)
            assert re.search(pattern, text), pattern
            assert not needles(pattern) or any(word in text for word in needles(pattern))
