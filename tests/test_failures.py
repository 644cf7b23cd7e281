"""The failure catalogue as data: entries, patterns, versions, explanations, and the page made from them."""

from __future__ import annotations

import itertools
import re
import time
from pathlib import Path

import pytest

import prose
from sana_lab.failures import FAMILIES, catalogue, explain, find, get, installed_versions, run
from sana_lab.failures.catalogue import index
from sana_lab.failures.entry import EVIDENCE, PROVIDED, SHOWS, Family, code_of, link, plain
from sana_lab.failures.outcome import Outcome
from sana_lab.failures.page import contents, entries, explained_in, provided
from sana_lab.failures.search import LONGEST, describe

ROOT = Path(__file__).parents[1]
ENTRIES = {failure.id: failure for failure in catalogue()}
LIVE = {id: failure for id, failure in ENTRIES.items() if failure.evidence == "live"}

OURS = {
    "torch": "2.13.0+cpu", "diffusers": "0.42.1", "transformers": "5.23.0", "accelerate": "1.15.0",
    "bitsandbytes": "0.50.2",
}  # fmt: skip
OLD = {
    "torch": "2.6.0",
    "diffusers": "0.36.0",
    "transformers": "4.57.6",
    "accelerate": "1.12.0",
    "bitsandbytes": "0.47.0",
}
HALF_UPGRADED = {**OLD, "accelerate": "1.13.0", "bitsandbytes": "0.49.2"}


# ---- the whole --------------------------------------------------------------------------------------------------


def test_numbers_that_the_book_promises():
    assert len(ENTRIES) >= 130
    assert len(LIVE) >= 45
    assert len(FAMILIES) == 14
    assert all(family.failures for family in FAMILIES)


def test_every_kind_of_symptom_and_of_evidence_occurs():
    assert {failure.shows for failure in ENTRIES.values()} == set(SHOWS)
    assert {failure.evidence for failure in ENTRIES.values()} == set(EVIDENCE)


@pytest.mark.parametrize("id", ENTRIES)
def test_entry(id):
    failure = ENTRIES[id]
    assert not any("unverified" in where for where in failure.messages), "raise it, or read it in a source or report"
    assert not re.search(r"[!]$|\bsimply\b", failure.title + failure.cause)
    assert failure.cause.endswith(".")
    for fix in failure.fixes:
        assert fix.text.endswith(".")
        assert fix.code
    if failure.evidence == "live":
        assert failure.affected(OURS) is True, "raised by the tests, so the pinned versions must be in `affects`"
        assert failure.needs() != "another stack of versions"
    else:
        assert failure.affected(OURS) is False or failure.elsewhere or failure.family == "installation"


@pytest.mark.parametrize("id", ENTRIES)
def test_pattern_matches_its_own_messages_and_no_others(id):
    failure = ENTRIES[id]
    for other in ENTRIES.values():
        for where, message in other.messages.items():
            if other is failure:
                assert failure.matches(message)
                assert failure.matches(f"\x1b[31m  File x\n{message.replace(' ', chr(10), 1)}\x1b[0m\nmore"), (
                    "broken lines"
                )
                assert failure.matches(message.replace("`", "")), "pasted through a chat"
            elif failure.matches(message):
                assert failure.id in other.alike, f"{id} also matches {other.id} ({where}): say so in its `alike`"


def test_stated_ambiguity_is_real():
    for failure in ENTRIES.values():
        for other in failure.alike:
            assert any(ENTRIES[other].matches(m) for m in failure.messages.values()), (failure.id, other)


@pytest.mark.parametrize("id", ENTRIES)
def test_message_leads_to_its_entry(id):
    """With the versions that have the failure, its own message ranks it first among all but those it names."""
    failure = ENTRIES[id]
    for message in failure.messages.values():
        ids = [match.failure.id for match in find(message, OURS if failure.affected(OURS) else {})]
        assert id in ids
        assert set(ids[: ids.index(id)]) <= set(failure.alike)


@pytest.mark.parametrize(
    "text",
    [
        "everything is fine",
        "ValueError: invalid literal for int() with base 10: 'x'",
        "RuntimeError: The size of tensor a (3) must match the size of tensor b (4) at non-singleton dimension 0",
        "ModuleNotFoundError: No module named 'diffusers'",
        "torch.cuda.is_available() is True and pipe.to('cuda') works; transformers, accelerate, bitsandbytes",
    ],
)
def test_unrelated_text_matches_nothing(text):
    assert find(text, OURS) == []
    assert not explain(text, OURS)


# ---- versions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("id", "installed", "expected"),
    [
        ("pipeline-to-with-device-map", OURS, True),
        ("pipeline-to-with-device-map", {**OURS, "diffusers": "0.27.2"}, False),
        ("pipeline-to-with-device-map", {**OURS, "diffusers": None}, None),
        ("8bit-load-calls-to", OURS, False),
        ("8bit-load-calls-to", HALF_UPGRADED, True),
        ("8bit-load-calls-to", {**OLD, "bitsandbytes": None}, False),  # accelerate alone rules it out
        ("8bit-load-calls-to", {**OLD, "accelerate": "1.13.0", "bitsandbytes": None}, None),
        ("8bit-model-cannot-move", OLD, True),
        ("8bit-model-cannot-move", {**OURS, "transformers": "4.57.6"}, True),  # one of two ranges is enough
        ("tensors-on-two-devices", {}, True),
        ("pipeline-to-with-device-map", {**OURS, "diffusers": "0.43.0.dev0"}, True),
    ],
)
def test_affected(id, installed, expected):
    assert get(id).affected(installed) is expected


def test_installed_versions_are_those_of_the_libraries():
    import torch

    assert installed_versions()["torch"] == torch.__version__


# ---- explain ----------------------------------------------------------------------------------------------------

CPU_CONVOLUTION = "RuntimeError: Input type (CUDABFloat16Type) and weight type (CPUBFloat16Type) should be the same"
FRAMES = """Traceback (most recent call last):
  File "{folder}{slash}script.py", line 12, in <module>
    pipe("a red star", num_inference_steps=20)
  File "{folder}{slash}site-packages{slash}diffusers{slash}pipelines{slash}sana{slash}pipeline_sana.py", line 961
    {line}
{last}
"""


@pytest.mark.parametrize(("folder", "slash"), [("/home/me/env/lib/python3.11", "/"), (r"C:\Users\me\env\Lib", "\\")])
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("image = self.vae.decode(latents / self.vae.config.scaling_factor)", "autoencoder-left-on-cpu"),
        ("hidden_states = self.patch_embed(hidden_states)", "transformer-left-on-cpu"),
    ],
)
def test_the_frames_tell_apart_what_the_message_does_not(folder, slash, line, expected):
    text = FRAMES.format(folder=folder, slash=slash, line=line, last=CPU_CONVOLUTION)
    assert find(text, OURS)[0].failure.id == expected
    assert str(explain(text, OURS)).startswith(f"{expected}: ")


@pytest.mark.parametrize(
    ("tail", "versions", "expected"),
    [
        ("    pipe.reset_device_map()\n", OLD, "reset-device-map-raises"),
        ("    transformer.to('cuda')\n", OLD, "8bit-model-cannot-move"),
        ("    dispatch_model(model, **kwargs)\n", HALF_UPGRADED, "8bit-load-calls-to"),
    ],
)  # fmt: skip
def test_one_message_three_causes(tail, versions, expected):
    message = get("8bit-model-cannot-move").messages["diffusers 0.36.0"]
    assert find(f"Traceback (most recent call last):\n{tail}{message}", versions)[0].failure.id == expected


def test_chained_exceptions_and_a_log_before_them():
    """The last error counts more than warnings above it."""
    message = get("pipeline-to-with-device-map").messages["diffusers 0.42.1"]
    text = (
        "MatMul8bitLt: inputs will be cast from torch.bfloat16 to float16 during quantization\n" * 40
        + "Traceback (most recent call last):\n  File 'a.py', line 1\nKeyError: 'x'\n\n"
        + "During handling of the above exception, another exception occurred:\n\n"
        + f"Traceback (most recent call last):\n  File 'b.py', line 2\n{message}"
    )
    assert [m.failure.id for m in find(text, OURS)] == ["pipeline-to-with-device-map", "matmul8bit-casts-inputs"]


def test_the_end_of_a_log_counts_more_than_what_was_said_before():
    """A long warning early on fits more of the text than the short error at the end; the error is what was asked."""
    warning = get("model-offload-then-to").messages["diffusers 0.42.1"]
    error = get("gpu-tensor-to-numpy").messages["torch 2.13.0"]
    log = "\n".join([warning, *(f"step {n}" for n in range(20)), error])
    assert [m.failure.id for m in find(log, OURS)] == ["gpu-tensor-to-numpy", "model-offload-then-to"]


def test_exception_object():
    try:
        try:
            raise KeyError("x")
        except KeyError as error:
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices"
            ) from error
    except RuntimeError as error:
        assert find(error, OURS)[0].failure.id == "tensors-on-two-devices"


def test_explanation_says_what_it_should():
    text = str(explain(get("pipeline-to-with-device-map").messages["diffusers 0.42.1"], OURS))
    for part in ("Why", "diffusers ≥ 0.28", "your versions are affected", "diffusers 0.42.1", "Fix 1", "Fix 2"):
        assert part in text
    code = text.split("Fix 1: ")[1].split("Fix 2: ")[0].partition("\n")[2]
    compile("\n".join(line[2:] for line in code.splitlines()), "pasted", "exec")
    assert 'device_map="balanced"' in code
    assert ".to(" not in code
    assert "https://github.com/huggingface/diffusers/issues/6857" in text


def test_explanation_for_other_versions():
    message = get("8bit-move-needs-bitsandbytes-0-48").messages["transformers 5.2.0"]
    assert "your versions are not affected" in str(explain(message, OURS))
    assert "your versions are affected" in str(explain(message, {**OURS, "bitsandbytes": "0.47.0"}))
    assert "cannot be said" in str(explain(message, {}))


def test_bad_input():
    assert "Nothing was given" in str(explain("  \n "))
    assert "No entry" in str(explain("\x00\xff\x1b[31m binary \ufffd" * 50))
    for wrong in (None, 3, b"bytes"):
        with pytest.raises(TypeError, match="text or an exception"):
            explain(wrong)


CONTEXTS = {
    "a traceback of Linux, in colors": (
        "\x1b[0;31m---------------\x1b[0m\nTraceback (most recent call last):\n"
        '  File \x1b[32m"/home/me/env/lib/python3.11/site-packages/torch/nn/modules/module.py"\x1b[0m, line 1, in f\n'
        "    return forward_call(*args, **kwargs)\n\x1b[1;31m{}\x1b[0m\n"
    ),
    "a traceback of Windows": (
        "Traceback (most recent call last):\r\n"
        '  File "C:\\Users\\me\\env\\Lib\\site-packages\\torch\\nn\\modules\\module.py", line 1, in _call\r\n'
        "    return forward_call(*args, **kwargs)\r\n{}\r\n"
    ),
    "chained": "KeyError: 'x'\n\nThe above exception was the direct cause of the following exception:\n\n{}",
    "the head cut off": "...ward_call(*args, **kwargs)\n{}",
    "in a log": "INFO loading\n 40%|####      | 2/5 [00:01<00:02]\n{}\nINFO done\n",
    "quoted in a mail": '> "{}"\n> what does it mean?',
}


def without_class(failure, message):
    """The frames that an entry wants, `""` where it wants none, and the message without the name of its exception."""
    at = message.rfind("\n", 0, max(message.find("Error: "), 0)) + 1 if failure.wants else 0
    return message[:at], message[at:].partition("Error: ")[2] or message[at:]


@pytest.mark.parametrize("id", ENTRIES)
def test_every_entry_is_found_in_every_context(id):
    """Also without the name of the exception, which a paste often lacks, and cut off behind the words that tell it."""
    failure = ENTRIES[id]
    for message in failure.messages.values():
        frames, short = without_class(failure, message)
        needed = next(end for end in range(1, len(short) + 1) if failure.matches(frames + short[:end]))
        cut = short[: max(needed, len(short) // 2)]
        wordings = (message, frames + short, frames + cut + "\u2026")
        for wording, context in itertools.product(wordings, CONTEXTS.values()):
            text = context.format(wording)
            ids = [match.failure.id for match in find(text, OURS if failure.affected(OURS) else {})]
            assert id in ids, text
            assert set(ids[: ids.index(id)]) <= set(failure.alike), (ids, text)


@pytest.mark.parametrize(
    "garbage",
    [
        bytes(range(256)) * 400,
        b"\x7fELF\x02\x01\x01" + b"\x00" * 5000,
        b"\x1b[" * 20_000,
        b"`" * 50_000,
        "\u2028\ufeff\U0001f4a5".encode() * 3000,
        b"Expected all tensors " * 9000,
    ],
)
def test_garbage_is_answered_at_once(garbage):
    text = garbage.decode("utf-8", errors="replace")
    started = time.perf_counter()
    assert "No entry" in str(explain(text, OURS))
    assert time.perf_counter() - started < 2


def test_an_error_in_the_middle_of_garbage_is_found():
    message = get("gpu-tensor-to-numpy").messages["torch 2.13.0"]
    noise = (bytes(range(256)) * 20).decode("latin-1")
    assert find(f"{noise}\n{message}\n{noise}", OURS)[0].failure.id == "gpu-tensor-to-numpy"


def test_the_magic_explains_the_last_exception(monkeypatch):
    import sys
    from types import SimpleNamespace

    import sana_lab

    magics = {}
    shell = SimpleNamespace(register_magic_function=lambda function, kind, name: magics.update({name: function}))
    sana_lab.load_ipython_extension(shell)
    for name in ("last_exc", "last_value"):
        monkeypatch.delattr(sys, name, raising=False)
    assert "Nothing was given" in str(magics["explain"](""))
    monkeypatch.setattr(sys, "last_value", AssertionError("Torch not compiled with CUDA enabled"), raising=False)
    assert str(magics["explain"]("")).startswith("torch-without-cuda")
    assert str(magics["explain"]("can't convert cuda:0 device type tensor to numpy")).startswith("gpu-tensor-to-numpy")


def test_a_ten_megabyte_log_is_answered_at_once():
    message = get("gpu-tensor-to-numpy").messages["torch 2.13.0"]
    log = "Input type (same device, mat1 and mat2 index is on Keyword arguments {" * 150_000 + "\n" + message
    assert len(log) > 10_000_000
    started = time.perf_counter()
    assert find(log, OURS)[0].failure.id == "gpu-tensor-to-numpy"
    assert time.perf_counter() - started < 2


def test_only_the_end_of_a_long_text_is_looked_at():
    message = get("gpu-tensor-to-numpy").messages["torch 2.13.0"]
    assert find(message + "\n" + "x" * LONGEST, OURS) == []
    assert find(message + "\n" + "x" * (LONGEST - len(message) - 1), OURS)


def test_plain():
    assert plain("\x1b[1;31ma\x1b[0m  `b`\n c\u2019s") == "a b c's"


# ---- ids and code -----------------------------------------------------------------------------------------------


def test_unknown_id_names_near_ones():
    with pytest.raises(ValueError, match="did you mean pipeline-to-with-device-map"):
        get("pipeline-to-with-devicemap")
    with pytest.raises(ValueError, match="failures list"):
        get("xqzzvwk")


def test_run_refuses_before_it_starts_anything():
    with pytest.raises(ValueError, match="did you mean"):
        run("pipeline-to-with-device")
    with pytest.raises(ValueError, match="has fixes 1 to 2, not 3"):
        run("pipeline-to-with-device-map", 3)
    with pytest.raises(ValueError, match="has no reproduction"):
        run("bitsandbytes-native-missing")
    with pytest.raises(ValueError, match="a command to type"):
        run("bitsandbytes-native-missing", 1)


def test_code_is_what_a_reader_would_paste():
    code = get("pipeline-to-with-device-map").code
    assert code.splitlines()[0] == "from diffusers import BitsAndBytesConfig as DiffusersConfig"
    assert code.rstrip().endswith('pipe.to("cuda")')
    assert "sana_lab" not in code


def test_code_of_keeps_comments_and_refuses_unknown_arguments():
    def function():
        # why
        x = 1  # where
        return_value = x
        print(return_value)

    assert code_of(function).splitlines()[0] == "# why"
    with pytest.raises(ValueError, match="FILE"):
        code_of(lambda FILE: 0)


@pytest.mark.parametrize(
    "reference",
    [
        "diffusers 10500",
        "huggingface/diffusers 3",
        "/diffusers#3",
        "http://example.org",
        "diffusers#",
        "nobody#1",
        "torch: file",
    ],
)
def test_references_have_a_form(reference):
    with pytest.raises(ValueError, match="diffusers#123"):
        link(reference)


# ---- wrong entries are refused ----------------------------------------------------------------------------------

GOOD = {
    "id": "good-entry",
    "title": "Something a user would say",
    "error": "ValueError",
    "pattern": r"no such thing as \w+",
    "messages": {"diffusers 0.42.1": "ValueError: no such `thing` as this"},
    "cause": "A sentence that says what happens inside of the library. And another one, which says why it is so.",
    "references": ["diffusers#1"],
}


def test_the_good_entry_is_good():
    Family("some-family", "Some family", "About.").failure(**GOOD)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": "Good Entry"}, "id:"),
        ({"id": "one"}, "id:"),
        ({"title": "short"}, "title:"),
        ({"shows": "smoke"}, "shows:"),
        ({"error": ""}, "error:"),
        ({"shows": "warning"}, "error:"),
        ({"evidence": "rumour"}, "evidence:"),
        ({"messages": {}}, "messages:"),
        ({"messages": {"x 1": "ValueError: another"}}, "misses its own message of x 1"),
        ({"messages": {**GOOD["messages"], "x 1": "ValueError: no such thing"}}, "misses its own message of x 1"),
        ({"pattern": "("}, "no regular expression"),
        ({"context": "("}, "no regular expression"),
        ({"pattern": "|x"}, "matches everything"),
        ({"pattern": "no .*thing as this"}, "search without end"),
        ({"context": "a.+b"}, "search without end"),
        ({"cause": "Because."}, "cause:"),
        ({"references": []}, "references:"),
        ({"references": ["somewhere"]}, "reference"),
        ({"affects": {"tensorflow": ">=2"}}, "tensorflow"),
        ({"affects": {"diffusers": "since 0.28"}}, "no version range"),
        ({"affects": [{"diffusers": ">=0.28"}, {"torch": "2"}]}, "no version range"),
        ({"gpus": True}, "gpus:"),
        ({"gpus": 9}, "gpus:"),
        ({"alike": ["good-entry"]}, "alike:"),
    ],
)
def test_wrong_entry_is_refused(change, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        Family("some-family", "Some family", "About.").failure(**{**GOOD, **change})


def made(**change):
    family = Family("some-family", "Some family", "About.")
    return family, family.failure(**{**GOOD, **change})


def test_incomplete_entry_is_refused():
    family, entry = made()
    with pytest.raises(ValueError, match="no fix"):
        index((family,))
    entry.fix("Type this.", command="true")
    with pytest.raises(ValueError, match="live, so it needs"):
        index((family,))

    @entry.reproduce
    def _():
        raise ValueError("no such thing as this")

    with pytest.raises(ValueError, match="live, so it needs"):
        index((family,))

    @entry.fix("Do that.")
    def _():
        print()

    assert list(index((family,))) == ["good-entry"]
    with pytest.raises(ValueError, match="two reproductions"):
        entry.reproduce(lambda: None)


def test_code_that_only_runs_inside_a_function_is_refused():
    family, entry = made(evidence="report")
    entry.fix("Type this.", command="true")

    @entry.reproduce
    def _():
        return 1

    with pytest.raises(ValueError, match="outside a function"):
        index((family,))


def test_two_entries_of_one_name_and_unknown_likeness_are_refused():
    first, second = made(evidence="report"), made(evidence="report")
    for _, entry in (first, second):
        entry.fix("Type this.", command="true")
    with pytest.raises(ValueError, match="two failures are called 'good-entry'"):
        index((first[0], second[0]))
    first[1].alike = ["nobody-knows"]
    with pytest.raises(ValueError, match="'nobody-knows', which is no entry"):
        index((first[0],))


# ---- what counts as shown ---------------------------------------------------------------------------------------


def outcome(**fields):
    return Outcome("good-entry", **fields)


def test_an_error_must_be_of_the_class_and_in_the_words():
    _, entry = made(error="ValueError|OSError")
    words = "no such thing as this"
    assert entry.shown_in(outcome(error="UnicodeError", kinds=("UnicodeError", "ValueError"), message=words))
    assert entry.shown_in(outcome(error="OSError", kinds=("OSError",), message=words))
    assert not entry.shown_in(outcome(error="KeyError", kinds=("KeyError",), message=words))
    assert not entry.shown_in(outcome(error="ValueError", kinds=("ValueError",), message="else"))
    assert not entry.shown_in(outcome(log=words, printed=words))
    assert not entry.cured_in(outcome(log=words))
    assert not entry.cured_in(outcome(error="KeyError", kinds=("KeyError",), message="else"))
    assert entry.cured_in(outcome(log="else"))


@pytest.mark.parametrize(("shows", "field"), [("warning", "log"), ("output", "printed")])
def test_a_warning_or_output_must_be_there_and_nothing_raised(shows, field):
    _, entry = made(error="", shows=shows)
    words = "no such thing as this"
    assert entry.shown_in(outcome(**{field: words}))
    assert not entry.shown_in(outcome(**{field: "else"}))
    assert not entry.shown_in(
        outcome(**{field: words, "error": "ValueError", "kinds": ("ValueError",), "message": words})
    )
    assert not entry.cured_in(outcome(**{field: words}))


# ---- the page ---------------------------------------------------------------------------------------------------


def test_every_entry_is_on_the_page_with_its_words():
    page = "\n".join(entries(family.name).data for family in FAMILIES)
    flat = " ".join(page.split())
    listed = contents().data
    for failure in ENTRIES.values():
        assert page.count(f"(failure-{failure.id})=") == 1
        assert f"(#failure-{failure.id})" in listed
        for message in failure.messages.values():
            assert " ".join(message.split()) in flat
        for fix in failure.fixes:
            body = code_of(fix.function, whole=False) if fix.function else fix.command
            assert body.strip() in page
    assert all(code.strip() in provided().data for code in PROVIDED.values())
    with pytest.raises(ValueError, match="device-mismatch"):
        entries("none")


def test_names_in_places_are_no_emphasis():
    """`__init__.py` outside code is "init" in bold in Markdown: in a place that entries read, or in their own words."""
    page = "\n".join(entries(family.name).data for family in FAMILIES)
    words = re.sub(r"^(`{3,}).*?^\1$|`[^`\n]+`", "", page, flags=re.DOTALL | re.MULTILINE)
    assert re.findall(r"(?<![\w\\])__\w+__", words) == []
    assert r"torch/xpu/\_\_init\_\_.py" in page


def test_words_that_no_library_says_are_told_as_what_they_are():
    """Where nothing is raised and nothing logged, the words are the example's own; or, without one, a proposal."""
    silent = [failure for failure in ENTRIES.values() if failure.shows == "output"]
    for failure in silent:
        page = "\n".join(entries(failure.family).data.partition(f"(failure-{failure.id})=")[2].splitlines()[:12])
        if failure.reproduction:
            assert "What its example prints (" in page and "What its example prints\n" in describe(failure), failure.id
        else:
            assert set(failure.messages) == {"what a check would show"}, failure.id
    assert {bool(failure.reproduction) for failure in silent} == {True, False}
    assert "example prints" not in describe(ENTRIES["8bit-text-encoder-cuda"])


def test_sections_that_explain_are_in_the_book():
    sources = [*(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "book").glob("*.md")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    labels = {found for pair in re.findall(r'\(([a-z0-9-]+)\)=|<a id=\\"([a-z0-9-]+)\\">', text) for found in pair}
    named = {failure.section for failure in ENTRIES.values()} - {""}
    assert named - labels == set()
    linked = set(re.findall(r'(?<!id=)\\"(device-map-[a-z]+|two-devices-[a-z]+)\\"', text))
    assert {section for section in named if section.startswith(("device-map-", "two-devices-"))} == linked


def test_a_chapter_lists_its_entries():
    listed = explained_in("device-map-reset", "device-map-passed").data
    assert (
        listed.count("\n") == sum(f.section in ("device-map-reset", "device-map-passed") for f in ENTRIES.values()) - 1
    )
    assert "(#failure-reset-device-map-leaves-cpu)" in listed
    with pytest.raises(ValueError, match="'nowhere'"):
        explained_in("nowhere")


def test_every_family_has_a_page_in_order():
    folder = ROOT / "book" / "failures"
    listed = [Path(name).name for name, _ in prose.listed() if name.startswith("book/failures/")]
    assert listed == [family.name for family in FAMILIES]
    assert {path.stem for path in folder.glob("*")} == set(listed)
    for family in FAMILIES:
        page = (folder / f"{family.name}.md").read_text(encoding="utf-8")
        assert page.startswith(f"({family.name})=\n# {family.title}\n")
