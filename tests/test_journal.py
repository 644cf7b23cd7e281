"""Files that are whole, JSON that is not ours, runs that go on: one set of words for all commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sana_lab import evidence, isolated
from sana_lab.evidence import journal
from sana_lab.evidence.journal import Journal, complaint, differences, hold, read, replacing, write_json, write_text
from sana_lab.shapes import manifest
from sana_lab.versions import matrix

# ---- files that are whole ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, SystemExit])
def test_what_stops_a_write_leaves_the_old_file_and_nothing_beside_it(tmp_path, error):
    file = tmp_path / "a.txt"
    write_text(file, "old")
    with pytest.raises(error), replacing(file) as partial:
        partial.write_text("half of the ne")
        raise error
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]
    with replacing(file) as partial:
        assert partial.parent == tmp_path, "another disk could not be moved from at a stroke"
        partial.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new" and list(tmp_path.iterdir()) == [file]


def test_bytes_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    done = []
    replace = os.replace
    monkeypatch.setattr(journal.os, "fsync", lambda file: done.append("sync"))
    monkeypatch.setattr(journal.os, "replace", lambda *paths: (done.append("replace"), replace(*paths)))
    write_text(tmp_path / "a", "x")
    write_text(tmp_path / "a", "x", sync=False)
    assert done == ["sync", "replace", "replace"]
    with replacing(tmp_path / "b") as partial:
        partial.touch()
    assert done[3:] == ["sync", "replace"], "who does not say otherwise waits for the disk"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_write_leaves_the_old_file_and_what_lies_beside_it_is_cleared(tmp_path):
    file = tmp_path / "a.txt"
    write_text(file, "old")

    def write():
        with replacing(file) as partial:
            partial.write_text("half")
            os.kill(os.getpid(), 9)

    ((_, ended),) = isolated.run_each([("write", write)], limit=60)
    assert ended.status == -9
    other = tmp_path / ".b.txt.1.partial"
    other.write_text("of another process")
    assert file.read_text() == "old" and len(list(tmp_path.iterdir())) == 3
    journal.clear(tmp_path, {"a.txt"})
    assert sorted(tmp_path.iterdir()) == [other, file]


def test_what_another_process_clears_meanwhile_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: [folder / ".a.txt.1.partial"])
    journal.clear(tmp_path, {"a.txt"})


def test_files_are_the_same_on_windows(tmp_path, monkeypatch):
    """Where Python's defaults are another encoding and other line ends."""
    write, load = Path.write_text, Path.read_text

    def windows_write(path, text, encoding="cp1252", errors=None, newline="\r\n"):
        return write(path, text, encoding, errors, newline)

    monkeypatch.setattr(Path, "write_text", windows_write)
    monkeypatch.setattr(Path, "read_text", lambda path, encoding="cp1252", errors=None: load(path, encoding, errors))
    write_text(tmp_path / "a.json", '{"ü": "→"}\n')
    assert (tmp_path / "a.json").read_bytes() == '{"ü": "→"}\n'.encode()
    assert read(tmp_path / "a.json", way_out="") == {"ü": "→"}


def test_json_is_for_people_to_read(tmp_path):
    write_json(tmp_path / "a.json", {"a": [1]})
    assert (tmp_path / "a.json").read_bytes() == b'{\n "a": [\n  1\n ]\n}\n'


# ---- JSON that may not be ours -----------------------------------------------------------------------------------

SHAPE = {"n": int, "ways": {str: [float]}}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"n": 1, "ways": {"a": [1.5], "b": []}, "more": None}, None),
        ([], "it is a list, not an object"),
        (None, "it is null, not an object"),
        (3, "it is a number, not an object"),
        ("n", "it is a text, not an object"),
        ({}, "it has no n, ways"),
        ({"n": 1}, "it has no ways"),
        ({"n": True, "ways": {}}, "n is true or false, not a number"),
        ({"n": "1", "ways": {}}, "n is a text, not a number"),
        ({"n": 1, "ways": []}, "ways is a list, not an object"),
        ({"n": 1, "ways": {"a": {}}}, "ways.a is an object, not a list"),
        ({"n": 1, "ways": {"a": [1.5, None]}}, "ways.a[1] is null, not a number"),
    ],
)
def test_a_shape_says_what_is_wrong(value, said):
    assert complaint(value, SHAPE) == said


def odd(value):
    return "is odd" if value % 2 else None


@pytest.mark.parametrize(
    ("value", "shape", "said"),
    [
        (3, odd, "it is odd"),
        (4, odd, None),
        ({"a": {"b": [2, 5]}}, {"a": {str: [odd]}}, "a.b[1] is odd"),
        ({"a": 1}, {str: str}, "a is a number, not a text"),
        ("a", (int, type(None)), "it is a text, not a number or null"),
        ("a", (int, float), "it is a text, not a number"),
        (True, (int, float), "it is true or false, not a number"),
        (True, object, None),
    ],
)
def test_shapes_of_every_kind(value, shape, said):
    assert complaint(value, shape) == said


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"null", b"3", b"\xff\xfe", b"[" * 100_000, b'{"n": 1, "ways": 2}', b'{"a": 1} {}']
)
def test_a_file_of_something_else_is_one_line_with_name_and_way_out(tmp_path, content):
    file = tmp_path / "kept.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"kept.json is damaged \(.*\): delete it") as refused:
        read(file, SHAPE, way_out="delete it")
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 300


def test_the_reason_is_that_of_the_library(tmp_path):
    (tmp_path / "kept.json").touch()
    with pytest.raises(ValueError, match=r"\(Expecting value: line 1 column 1 \(char 0\)\)"):
        read(tmp_path / "kept.json", way_out="")


def test_what_is_no_file_is_told_and_not_waited_for(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="folder is not a file: delete it"):
        read(tmp_path / "folder", way_out="delete it")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ValueError, match="pipe is not a file: delete it"):
            read(tmp_path / "pipe", way_out="delete it")
    with pytest.raises(FileNotFoundError, match="nothing"):
        read(tmp_path / "nothing", way_out="delete it")


@pytest.mark.parametrize(
    "results",
    [
        {},
        [],
        {"stacks": [], "bisections": []},
        {"stacks": {}, "bisections": {}},
        {"stacks": {"2025-12": 3}, "bisections": []},
        {"stacks": {"2025-12": {"built": True, "outcomes": {}}}, "bisections": []},
        {"stacks": {"2025-12": {"key": "", "date": "", "commands": [], "built": False, "check": "",
                                "outcomes": {"move-encoder": {"kind": "runs"}}}}, "bisections": []},
        {"stacks": {}, "bisections": [3]},
    ],
)  # fmt: skip
def test_a_matrix_of_another_shape_is_one_line(tmp_path, results):
    stored = evidence.load("version_matrix") | {"results": results}
    (tmp_path / "version_matrix.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"'version_matrix' is damaged \(.*restore version_matrix.json") as refused:
        matrix.matrix(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("files", [[], None, 3, {"a": 1}, "a"])
def test_a_manifest_of_another_shape_is_damaged(tmp_path, files):
    (tmp_path / "manifest.json").write_text(json.dumps({"files": files}))
    with pytest.raises(OSError, match="manifest.json is damaged"):
        manifest.check(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps(files))
    with pytest.raises(OSError, match="manifest.json is damaged"):
        manifest.check(tmp_path)


# ---- runs that go on ---------------------------------------------------------------------------------------------


def test_every_difference_is_told_with_old_and_new():
    was = {"steps": 20, "versions": {"torch": "2.6", "numpy": "2.0"}, "sizes": [1, 2], "gone": 1, "same": None}
    now = {"steps": 10, "versions": {"torch": "2.7", "triton": "3"}, "sizes": [1], "new": "a\nb", "same": None}
    assert differences(was, now) == [
        "steps 20, not 10",
        "versions torch 2.6, not 2.7",
        "versions triton none, not 3",
        "versions numpy 2.0, not none",
        "sizes [1, 2], not [1]",
        "new none, not a b",
        "gone 1, not none",
    ]
    assert differences(was, was) == []
    assert differences({"a": {"b": 1}}, {"a": 3}) == ['a {"b": 1}, not 3']
    assert differences({"a": 3}, {"a": {"b": 1}}) == ['a 3, not {"b": 1}']


@pytest.mark.parametrize(
    "was, now, said",
    [
        (True, 1, "true, not 1"),
        (0, False, "0, not false"),
        ([1, True], [1, 1], "[1, true], not [1, 1]"),
        ([{"b": 0}], [{"b": False}], '[{"b": 0}], not [{"b": false}]'),
        ([{"b": 0}], [{"c": 0}], '[{"b": 0}], not [{"c": 0}]'),
        ("1", 1, '"1", not 1'),
        (True, "true", 'true, not "true"'),
        ("a b", "a  b", 'another than "a b"'),
        ("none", None, '"none", not null'),
        ([1], [1, 2], "[1], not [1, 2]"),
        ([1], {"b": 1}, '[1], not {"b": 1}'),
        ("x" * 500, "y", f"{'x' * 397}..., not y"),
        ("x" * 400, "y" * 401, f"{'x' * 400}, not {'y' * 397}..."),
        ("x" * 500, "x" * 501, f'another than "{"x" * 396}...'),
    ],
)
def test_values_of_another_type_are_others_and_long_ones_are_cut(was, now, said):
    assert differences({"a": was}, {"a": now}) == [f"a {said}"]


@pytest.mark.parametrize("was, now", [(1, 1.0), ([1, 2], [1.0, 2]), ([{"b": 1}], [{"b": 1.0}]), (True, True)])
def test_equal_numbers_are_the_same(was, now):
    assert differences({"a": was}, {"a": now}) == []


def test_three_differences_are_told_and_more_are_counted(tmp_path):
    was, now = dict.fromkeys("abcd", 1), dict.fromkeys("abcd", 2)
    told = "holds a run with a 1, not 2; b 1, not 2; c 1, not 2"
    with pytest.raises(ValueError, match=f"{told}: give another"):
        journal.hold_to({**was, "d": 2}, now, tmp_path)
    with pytest.raises(ValueError, match=f"{told}, and 1 more: give another"):
        journal.hold_to(was, now, tmp_path)


def test_all_folders_above_are_made(tmp_path):
    for begin, file in ((hold, tmp_path / "a" / "b" / "c"), (Journal, tmp_path / "d" / "e" / "f")):
        begin(file, {})
        assert file.is_file()


def test_a_run_is_held_to_what_the_file_notes(tmp_path):
    file, settings = tmp_path / "out" / "settings.json", {"steps": 20, "objects": (1, 2)}
    hold(file, settings)
    noted = file.read_bytes()
    hold(file, settings)
    with pytest.raises(ValueError) as refused:
        hold(file, settings | {"steps": 10})
    words = "holds a run with steps 20, not 10: give another --out FOLDER or that run's settings, or delete it"
    assert str(refused.value) == f"{file.parent} {words}"
    with pytest.raises(ValueError, match="and 2 more"):
        hold(file, dict.fromkeys("abc", 1))
    assert file.read_bytes() == noted, "a refusal changed the file"
    result = tmp_path / "out" / "part"
    result.touch()
    file.unlink()
    with pytest.raises(
        ValueError, match=f"part is there without settings.json, which tells how .*: .*delete {file.parent}"
    ):
        hold(file, settings, results=[result])
    assert not file.exists()


@pytest.mark.parametrize("place", ["file/out", "file"])
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, place):
    (tmp_path / "file").touch()
    for begin in (hold, Journal):
        with pytest.raises(OSError, match=r"cannot be written \(.*\): give another --out FOLDER"):
            begin(tmp_path / place / "a.json", {})


def test_a_journal_goes_on_with_what_was_kept(tmp_path):
    file, settings = tmp_path / "out" / "run.partial", {"n": 3, "sizes": (1, 2)}
    first = Journal(file, settings)
    first.found["a"] = 1
    first.keep()
    first.found["b"] = 2  # and is stopped here
    (file.parent / ".run.partial.77-aa.partial").touch()
    second = Journal(file, settings)
    assert second.found == {"a": 1} and list(file.parent.iterdir()) == [file]
    with pytest.raises(ValueError, match="run.partial holds a run with n 3, not 4: .*delete it"):
        Journal(file, settings | {"n": 4})
    with pytest.raises(ValueError, match=r"run.partial is damaged \(found.a is a number, not a text\): .*delete it"):
        Journal(file, settings, {str: str})
    for _ in range(2):
        second.end()
        assert list(file.parent.iterdir()) == []


def test_it_imports_none_of_the_libraries():
    code = "import sys, sana_lab.evidence.journal; print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_json_is_read_as_it_was_written(tmp_path):
    value = {"a": [1, 2.5, None, True, "ü"], "b": {}}
    write_json(tmp_path / "a.json", value)
    assert read(tmp_path / "a.json", way_out="") == value
