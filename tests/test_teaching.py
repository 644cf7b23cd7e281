"""The teacher's folder: notes that fit the chapters, slides, questions, the room and the kit, without opening a hub."""

from __future__ import annotations

import ast
import errno
import importlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import nbformat
import pytest
import yaml
from traitlets.config import Config

from sana_lab import evidence
from sana_lab.classroom.tasks import chapters, tasks

ROOT = Path(__file__).resolve().parent.parent
TEACHING = ROOT / "teaching"
HUB = TEACHING / "hub"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))

sys.path[:0] = [str(HUB), str(TEACHING / "nbgrader")]
desk, drive, room, start = (importlib.import_module(name) for name in ("desk", "drive", "room", "start"))
kit, slides = (importlib.import_module(name) for name in ("kit", "slides"))
nbgrader_trial = importlib.import_module("try_it")
GIB = room.GIB


# ---- notes, slides, questions, handout ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_chapter_has_notes_whose_blocks_are_sections_of_it(path):
    notes = slides.notes_of(path)
    assert notes is not None, f"write teaching/chapters/{path.stem}.md"
    blocks = slides.blocks(notes)
    assert blocks and all(block.minutes > 0 for block in blocks)
    assert all(re.search(r"^(Say|Ask|They|Goes wrong)\b", block.text, re.MULTILINE) for block in blocks)
    if notes.stem != path.stem:
        return  # written for the chapter that takes this one's place
    text = "\n".join(cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown")
    headings = {"Opening", *re.findall(r"^## (.+)$", text, re.MULTILINE)}
    assert not {block.heading for block in blocks} - headings, "notes for sections that the chapter does not have"


@pytest.mark.parametrize("path", sorted((TEACHING / "chapters").glob("*.md")), ids=lambda path: path.stem)
def test_notes_say_that_minutes_are_planned_and_what_goes_wrong(path):
    text = path.read_text(encoding="utf-8")
    assert re.match(r"# \d+ ", text) and "planned" in text and "**In one sentence:**" in text
    assert re.search(r"Goes wrong|They will", text), "what will they answer, what goes wrong?"


def test_a_slide_says_what_the_chapter_says_and_carries_its_notes():
    path = ROOT / "notebooks" / "02_eight_bits_from_scratch.ipynb"
    notebook = nbformat.read(path, 4)
    made = slides.slides(notebook, slides.blocks(slides.notes_of(path)))
    kinds = [cell.metadata.slideshow.slide_type for cell in made.cells]
    assert kinds[0] == "slide" and kinds.count("notes") == len(slides.blocks(slides.notes_of(path)))
    page = " ".join(slides.plain(cell.source) for cell in notebook.cells).split()
    page = " ".join(page)
    for cell, kind in zip(made.cells, kinds, strict=True):
        if kind == "slide":
            for part in cell.source.replace("> ", "").split("\n\n"):
                assert " ".join(part.split()) in page
        if kind == "subslide":
            assert slides.is_shown(cell)
    assert not any("Exercises" in cell.source[:20] for cell in made.cells)


def test_two_blocks_of_one_name_are_refused(tmp_path):
    file = tmp_path / "x.md"
    file.write_text("# 1\n\n## A (5 min)\n\nSay\n\n## A (2 min)\n\nSay\n")
    with pytest.raises(ValueError, match="two blocks of one name"):
        slides.blocks(file)


def test_every_question_has_a_reason_for_every_choice():
    questions = tomllib.loads((TEACHING / "quiz.toml").read_text(encoding="utf-8"))["question"]
    chapters = {int(path.name[:2]) for path in (TEACHING / "chapters").glob("*.md")}
    assert {question["chapter"] for question in questions} == chapters
    for question in questions:
        assert question["ask"].rstrip().endswith("?")
        choices = question["choices"]
        assert len(choices) >= 3 and 1 <= question["right"] <= len(choices)
        assert len({choice["text"] for choice in choices}) == len(choices)
        right = [choice["reason"].startswith("Right") for choice in choices]
        assert right == [number == question["right"] for number in range(1, len(choices) + 1)], question["ask"]
        assert all(len(choice["reason"]) > 10 for choice in choices)
    places = [question["right"] for question in questions]
    assert max(places.count(number) for number in (1, 2, 3)) <= len(places) / 2, "the right one always stands there"


def test_the_handout_is_one_page_and_its_code_is_python():
    text = (TEACHING / "handout.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60 and len(text) < 3500
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        ast.parse(code)


def test_what_is_named_to_the_class_is_there():
    import sana_lab
    from sana_lab.accounting import count
    from sana_lab.cli import app

    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    known |= {group.name for group in app.registered_groups}
    files = [*TEACHING.rglob("*.md"), TEACHING / "quiz.toml", ROOT / "book" / "workshop.md"]
    named = {word for file in files for word in re.findall(r"sana-lab (\w+)", file.read_text(encoding="utf-8"))}
    assert named <= known
    targets = set(re.findall(r"^(\S+?)(?: \$\(\S+\))?:(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))
    asked = {word for file in files for word in re.findall(r"`make ([\w-]+)", file.read_text(encoding="utf-8"))}
    assert asked <= targets
    assert callable(count) and callable(sana_lab.placement) and callable(sana_lab.load_sana)
    for file in TEACHING.rglob("*.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", file.read_text(encoding="utf-8")):
            assert (file.parent / link).exists(), f"{file.name}: {link}"


# ---- the room -------------------------------------------------------------------------------------------------------


def given(tmp_path, **more):
    return {"ROOM_STATE": str(tmp_path / "state"), **more}


def test_seats_fit_into_the_machine_and_one_more_does_not():
    draw = random.Random(17)
    for _ in range(300):
        memory, seat = draw.randrange(1, 512 * GIB), draw.randrange(GIB // 4, 8 * GIB)
        seats = room.seats_that_fit(memory, seat)
        assert seats >= 0 and (seats == 0 or seats * seat + room.FOR_THE_HUB <= memory)
        assert (seats + 1) * seat + room.FOR_THE_HUB > memory


def test_settings_are_what_the_machine_carries(tmp_path):
    at = room.settings(given(tmp_path), memory=24 * GIB, processors=2)
    assert (at.seats, at.memory, at.cores, at.port, at.idle) == (15, 3 * GIB // 2, 1, 8000, 3600)
    assert at.teacher == "teacher" and at.state == tmp_path / "state"


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("ROOM_MEMORY_GIB", "two", "not a number"),
        ("ROOM_MEMORY_GIB", "0", "from 0.25"),
        ("ROOM_MEMORY_GIB", "nan", "from 0.25"),
        ("ROOM_SEATS", "99", "15 do"),
        ("ROOM_PORT", "80000", "from 1 to 65535"),
        ("ROOM_PORT", "80.5", "whole number"),
        ("ROOM_CORES", "3", "to 2"),
        ("ROOM_IDLE_MINUTES", "1", "from 10"),
        ("ROOM_TEACHER", "Root!", "not a learner's name"),
        ("ROOM_LIMITS", "prayer", "is not available here"),
    ],
)
def test_a_wrong_setting_is_named_with_the_way_out(tmp_path, variable, value, says):
    with pytest.raises(room.RoomError, match=re.escape(says)) as caught:
        room.settings(given(tmp_path, **{variable: value}), memory=24 * GIB, processors=2)
    assert value in str(caught.value) and "\n" not in str(caught.value)


def test_no_learner_becomes_a_user_of_the_system():
    assert room.seat_user("root") == "seat-root" and len(room.seat_user("a" * 24)) <= 32
    for name in ("", "../x", "a/b", "-a", "Ana", "a b", "a\n", "é", "a" * 25, "1a", "a;b", "%u"):
        with pytest.raises(room.RoomError):
            room.seat_user(name)


def test_a_list_of_learners_is_read_and_its_faults_are_named_by_line(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("# class of 2026\nAna\n\n bo \n", encoding="utf-8")
    assert room.learners(file) == ["ana", "bo"]
    for text, says in (("ana\nana\n", "line 2: ana is there twice"), ("ana\n\nx y\n", "line 3")):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(room.RoomError, match=says):
            room.learners(file)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(room.RoomError, match="cannot read"):
        room.learners(file)


def test_limits_are_held_by_what_is_there(tmp_path):
    for kind in room.CONTROLLERS:
        (tmp_path / kind).mkdir()
    assert room.who_limits(groups=tmp_path, systemd=tmp_path / "none") == "cgroup"
    assert room.who_limits("prlimit", groups=tmp_path, systemd=tmp_path / "none") == "prlimit"
    assert room.who_limits(groups=tmp_path / "none", systemd=tmp_path / "none") == "prlimit"
    doors = room.make_group("seat-ana", 2 * GIB, 0.5, groups=tmp_path)
    assert [door.name for door in doors] == ["cgroup.procs"] * 3
    told = {path.name: int(path.read_text()) for path in tmp_path.rglob("*") if path.is_file()}
    assert told["memory.limit_in_bytes"] == 2 * GIB
    assert told["cpu.cfs_quota_us"] / told["cpu.cfs_period_us"] == 0.5
    assert told["pids.max"] == room.PROCESSES
    assert f"--data={2 * GIB}" in room.prlimit_words(2 * GIB)


def edition(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.ipynb").write_text(text)
    return desk.packed(folder)


def test_laying_the_desk_never_writes_over_a_file(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    first = edition(tmp_path / "edition", a="A1", b="B1")
    assert desk.lay(first, home) == ["a.ipynb", "b.ipynb"]
    assert desk.lay(first, home) == []
    place = home / desk.DESK
    (place / "a.ipynb").write_text("mine")
    (place / "b.ipynb").unlink()
    assert desk.lay(first, home) == ["b.ipynb"], "what was deleted comes back, what was changed stays"
    second = edition(tmp_path / "edition", a="A2", b="B2", c="C2")
    assert desk.lay(second, home) == ["a.new.ipynb", "b.new.ipynb", "c.ipynb"]
    assert desk.lay(second, home) == []
    held = {path.name: path.read_text() for path in place.iterdir()}
    assert held == {
        "a.ipynb": "mine", "a.new.ipynb": "A2", "b.ipynb": "B1", "b.new.ipynb": "B2", "c.ipynb": "C2"
    }  # fmt: skip


def test_laying_survives_a_damaged_list_and_a_link_that_leads_nowhere(tmp_path):
    archive = edition(tmp_path / "edition", a="A1")
    (tmp_path / desk.HANDED_OUT).write_text("[]")
    (tmp_path / desk.DESK).mkdir()
    (tmp_path / desk.DESK / "a.ipynb").symlink_to("/nowhere")
    assert desk.lay(archive, tmp_path) == []
    assert (tmp_path / desk.DESK / "a.ipynb").is_symlink()


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    archive = edition(tmp_path / "edition", a="A1", b="B1")
    home = tmp_path / "home"
    home.mkdir()
    real = os.replace

    def full(source, target):
        if Path(target).name == "b.ipynb":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    monkeypatch.setattr(desk.os, "replace", full)
    with pytest.raises(desk.RoomError, match="No space left on device.*make room"):
        desk.lay(archive, home)
    assert [path.name for path in home.rglob("*.*") if path.is_file()] == ["a.ipynb"]
    monkeypatch.undo()
    assert desk.lay(archive, home) == ["b.ipynb"]


def test_no_edition_and_no_disk_are_said(tmp_path):
    with pytest.raises(room.RoomError, match="sana-lab learner"):
        room.packed(tmp_path)
    with pytest.raises(room.RoomError, match="nearly full"):
        room.must_have_disk(tmp_path / "not" / "yet", least=2**62)


def test_a_closed_folder_is_named(tmp_path):
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    file = private / "python"
    file.touch(mode=0o755)
    closed = room.closed_folder(file)
    assert closed is not None and closed.stat().st_mode & 0o001 == 0
    with pytest.raises(room.RoomError, match="no .*nowhere"):
        room.must_run_for_others(tmp_path / "nowhere", "json")


def test_passwords_are_made_once_and_are_for_root_alone(tmp_path):
    file = start.accounts(tmp_path / "state", ["teacher", "ana"])
    first = file.read_text()
    assert start.accounts(tmp_path / "state", ["teacher", "ana"]) is None and file.read_text() == first
    start.accounts(tmp_path / "state", ["bo"])
    assert file.read_text().startswith(first) and file.read_text().count("\n") == 3
    queue = json.loads((tmp_path / "state" / "accounts.json").read_text())
    assert set(queue) == {"teacher", "ana", "bo"} and all(len(word) >= 16 for word in queue.values())
    modes = {path.name: path.stat().st_mode & 0o077 for path in (tmp_path / "state", *(tmp_path / "state").iterdir())}
    assert not any(modes.values()), modes
    assert len({start.password() for _ in range(200)}) == 200


def configuration(tmp_path, monkeypatch, **more):
    """What jupyterhub_config.py sets, with the two modules that want a hub's packages replaced."""
    for name, thing in (("names", "RoomAuthenticator"), ("spawner", "SeatSpawner")):
        monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(**{thing: type(thing, (), {})}))
    for name in [name for name in os.environ if name.startswith("ROOM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ROOM_MEMORY_GIB", "0.25")
    for name, value in given(tmp_path, **more).items():
        monkeypatch.setenv(name, value)
    c = Config()
    source = (HUB / "jupyterhub_config.py").read_text(encoding="utf-8")
    exec(
        compile(source, str(HUB / "jupyterhub_config.py"), "exec"),
        {"get_config": lambda: c, "__file__": str(HUB / "x")},
    )
    return c


def test_the_configuration_keeps_seats_through_a_restart_and_kernels_off_the_network(tmp_path, monkeypatch):
    c = configuration(tmp_path, monkeypatch)
    assert c.JupyterHub.cleanup_servers is False and c.JupyterHub.cleanup_proxy is False
    assert c.JupyterHub.bind_url.startswith("http://127.0.0.1:")
    assert "--KernelManager.transport=ipc" in c.Spawner.args
    assert c.Spawner.mem_limit == GIB // 4 and c.Spawner.cpu_limit <= len(os.sched_getaffinity(0))
    assert c.NativeAuthenticator.open_signup is False
    assert [service["name"] for service in c.JupyterHub.services] == ["culler", "progress"], "no door for trials"
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0
    for name in ("root", "../x", "Ana"):
        assert bool(re.match(c.Authenticator.username_pattern, name)) == (name == "root")
    token = configuration(tmp_path, monkeypatch, ROOM_TRIAL_TOKEN="t" * 16).JupyterHub.services[-1]
    assert token == {"name": "trial", "api_token": "t" * 16}


def test_a_driven_seat_is_held_to_what_is_stored():
    for number in (1, 3):
        cells = drive.chapter_cells(number)
        checked = [cell for cell in cells if drive.CHECKED in cell["metadata"].get("tags", [])]
        assert len(checked) >= len(cells) / 3
        spoken = [drive.words(cell["outputs"]) for cell in checked]
        assert sum(map(bool, spoken)) >= 0.9 * len(spoken)
    cell = next(cell for cell in checked if re.search(r"\d", drive.words(cell["outputs"])))
    wrong = json.loads(re.sub(r"(\d)", lambda m: str((int(m[1]) + 1) % 10), json.dumps(cell["outputs"])))
    assert drive.words(wrong) != drive.words(cell["outputs"])
    bar = [{"output_type": "stream", "name": "stdout", "text": "Loading:  50%|###  | 1/2\n"}]
    assert drive.words(bar + cell["outputs"]) == drive.words(cell["outputs"])
    taken = drive.taken_by(os.getuid())
    assert taken["anonymous"] > 2**20 and 0 < taken["processor"] <= drive.busy_seconds()


def test_the_packages_of_the_room_are_pinned_once():
    pins = dict(re.findall(r"^([\w-]+)==([\d.]+)", (HUB / "requirements.txt").read_text(), re.MULTILINE))
    assert {"jupyterhub", "jupyterhub-nativeauthenticator", "jupyterhub-idle-culler", "jupyterlab"} <= set(pins)
    own = dict(re.findall(r"^([\w-]+)==([\d.]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    assert pins["jupyterlab"] == own["jupyterlab"]
    values = yaml.safe_load((HUB / "kubernetes" / "values.yaml").read_text())
    container = (HUB / "kubernetes" / "Dockerfile").read_text()
    chart = re.search(r"chart 4\.4\.0 \(JupyterHub ([\d.]+)\)", (HUB / "kubernetes" / "values.yaml").read_text())[1]
    assert f"jupyterhub=={chart}" in container
    assert values["singleuser"]["cmd"][-1] == "--KernelManager.transport=ipc"
    laid = values["singleuser"]["lifecycleHooks"]["postStart"]["exec"]["command"][-1]
    assert (ROOT / laid.removeprefix("/srv/book/")).exists() and "COPY . /srv/book" in container


def test_the_teachers_page_reads_what_is_stored_and_believes_no_markup(tmp_path, monkeypatch):
    names = ("HubOAuthCallbackHandler", "HubOAuthenticated")
    auth = types.SimpleNamespace(**{name: type(name, (), {}) for name in names})
    for name, module in (("jupyterhub", None), ("jupyterhub.services", None), ("jupyterhub.services.auth", auth)):
        monkeypatch.setitem(sys.modules, name, module or types.SimpleNamespace())
    monkeypatch.delitem(sys.modules, "progress", raising=False)
    progress = importlib.import_module("progress")
    check = "from sana_lab.exercises.ch02 import check_a\ncheck_a(a)"
    cells = [
        {"cell_type": "code", "source": check, "outputs": [{"data": {"text/plain": "Right: so it is."}}]},
        {"cell_type": "code", "source": check, "outputs": [{"data": {"text/plain": "Not yet: think."}}]},
        {"cell_type": "code", "source": check, "outputs": []},
        {"cell_type": "code", "source": "print('Right: 1')", "outputs": [{"text": "Right: 1"}]},
    ]
    (tmp_path / "02_a.ipynb").write_text(json.dumps({"cells": cells}))
    (tmp_path / "03_<b>.ipynb").write_text("no notebook")
    read = subprocess.run([sys.executable, "-c", progress.READ, str(tmp_path)], capture_output=True, text=True)
    seen = json.loads(read.stdout)
    assert seen == {"02_a.ipynb": [1, 3], "03_<b>.ipynb": None}
    page = progress.table([("<script>", "never", seen), ("bo", "2026-11-30 08:00", {})])
    assert "1 of 3" in page and "damaged" in page and "<script>" not in page and page.count("<tr>") == 3


def test_the_record_of_the_room_holds():
    record = evidence.load("room", results={"trials": {str: dict}, "drive": {str: dict}})["results"]
    assert all(found["held"] for found in record["trials"].values())
    assert {"accounts", "trespass", "limits", "restart", "edition", "idle", "full_disk", "closed"} <= set(
        record["trials"]
    )
    attempts = record["trials"]["trespass"]["attempts"]
    assert len(attempts) >= 20 and not any(value.startswith("got in") for value in attempts.values())
    assert int(record["trials"]["trespass"]["the owner"]["messages heard of a kernel on TCP"]) > 0
    assert {found["chapter"] for found in record["drive"].values()} >= {1, 3, 8}
    for found in record["drive"].values():
        assert found["finished"] == found["seats"] and not found["wrong"]
        assert 0 < found["anonymous"] < room.FOR_A_SEAT


# ---- the kit --------------------------------------------------------------------------------------------------------


def test_a_kit_installs_what_the_book_pins():
    pinned = kit.pins(ROOT / "requirements.txt", ROOT / "constraints.txt")
    assert all("==" in pin for pin in pinned) and len(set(pinned)) == len(pinned)
    assert {pin.partition("==")[0] for pin in pinned} >= {"torch", "diffusers", "bitsandbytes", "jupyterlab", "myst-nb"}


def started(tmp_path, **about):
    shutil.copy(ROOT / "tools" / "kit_start.py", tmp_path / "start.py")
    (tmp_path / "kit.json").write_text(json.dumps(kit.kind() | about))
    words = [sys.executable, "start.py", "--install"]
    return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("about", [{"platform": "win-amd64"}, {"python": "3.9"}])
def test_a_kit_for_another_machine_says_so_in_one_line(tmp_path, about):
    done = started(tmp_path, **about)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and next(iter(about.values())) in done.stderr
    assert not (tmp_path / "installed").exists()


def test_a_kit_is_not_built_over_somebody_elses_folder(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(kit.KitError, match="empty folder"):
        kit.build(tmp_path, indexes=[], notebooks=ROOT / "notebooks", site=tmp_path)
    with pytest.raises(kit.KitError, match="no notebooks"):
        kit.build(tmp_path / "new", indexes=[], notebooks=tmp_path, site=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


# ---- nbgrader -------------------------------------------------------------------------------------------------------


def test_what_nbgrader_was_tried_with_is_what_there_is():
    said = (TEACHING / "nbgrader" / "tried.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d\d_\w+) \| (\d+) \| (\w+) \| (.+?) \| (.+?) \|$", said, re.MULTILINE)
    exercises = {Path(name).stem: len(tasks(notebook)) for name, notebook in chapters(ROOT / "notebooks").items()}
    assert len(rows) >= 13 and all(exercises[name] == int(count) for name, count, *_ in rows)
    assert all(out == "yes" for _, _, out, _, _ in rows)
    marked = [(count, solved, empty) for _, count, _, solved, empty in rows if solved != "not tried"]
    assert len(marked) >= 3 and all((s, e) == (f"{n} of {n}", f"0 of {n}") for n, s, e in marked)
    pinned = re.search(r"^nbgrader==(\S+)$", (TEACHING / "nbgrader" / "requirements.txt").read_text(), re.MULTILINE)
    assert said.startswith(f"nbgrader {pinned[1]}, ")


def test_a_solution_that_is_left_and_a_stub_that_is_gone_are_found(tmp_path):
    trial = nbgrader_trial
    stub, solution = "def f(x):\n    return None", "def f(x):\n    return 2 * x + 12345"
    mark = {"nbgrader": {"solution": True, "grade_id": "ch01-1-answer"}}

    def written(name, source):
        (tmp_path / name).write_text(json.dumps({"cells": [{"source": source, "metadata": mark}]}))
        return tmp_path / name

    source = written("source", f"{stub}\n\n\n{trial.BEGIN}\n{solution}\n{trial.END}")
    assert trial.handed_out(source, written("a", f"{stub}\n\n\n# YOUR CODE HERE\n{trial.CLEARED}")) == ""
    assert "the stub is not" in trial.handed_out(source, written("b", f"# YOUR CODE HERE\n{trial.CLEARED}"))
    left = written("c", f"{stub}\n    return 2 * x + 12345\n{trial.CLEARED}")
    assert "a line of the solution is left" in trial.handed_out(source, left)
