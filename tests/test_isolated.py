"""Processes of their own: what becomes of them is told, none outlives who wanted it, one Ctrl+C ends all."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from processes import runs, until

from sana_lab import isolated
from sana_lab.isolated import DIED, DONE, LATE, Ended

FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
SOURCE = str(Path(isolated.__file__).parents[1])


def script(folder, text):
    """A program that finds the package; gives the command that starts it."""
    file = folder / "program.py"
    # A shell's background process ignores Ctrl+C, and so do those that it starts.
    head = f"import signal, sys\nsignal.signal(2, signal.default_int_handler)\nsys.path.insert(0, {SOURCE!r})\n"
    file.write_text(head + textwrap.dedent(text))
    return [sys.executable, str(file)]


def pids(folder, count):
    """Numbers of the processes that have written down theirs, once there are so many."""
    found = until(lambda: len(there := list(folder.glob("pid-*"))) >= count and there)
    return [int(file.name.removeprefix("pid-")) for file in found]


# ---- a fork for each case ----------------------------------------------------------------------------------------


def one(case, **options):
    ((name, ended),) = isolated.run_each([("it", case)], **{"limit": 30} | options)
    assert name == "it"
    return ended


def say():
    print("printed")
    os.write(1, b"by C++ code\n")
    sys.stderr.write("a warning\n")
    os.system("echo by another program")
    return {"value": [1, None]}


def raise_it():
    raise KeyError("of a case")


@FORKS
@pytest.mark.parametrize(
    ("case", "how", "status", "value"),
    [
        (lambda: 42, DONE, 0, 42),
        (raise_it, DIED, 1, None),
        (lambda: object(), DIED, 1, None),
        (lambda: os._exit(3), DIED, 3, None),
        (lambda: sys.exit(0), DIED, 1, None),
        (lambda: os.kill(os.getpid(), 9), DIED, -9, None),
        (lambda: os._exit(isolated.LATE_STATUS), LATE, isolated.LATE_STATUS, None),
    ],
)
def test_what_becomes_of_a_case(case, how, status, value):
    ended = one(case)
    assert (ended.how, ended.status, ended.value) == (how, status, value)


@FORKS
def test_what_a_case_says_is_kept_apart_or_in_its_order(capsys):
    with capsys.disabled():  # pytest's own streams are no files
        ended, raised = one(say), one(raise_it)
    assert set(ended.stdout.split("\n")) == {"printed", "by C++ code", "by another program", ""}
    assert ended.stderr == "a warning\n" and ended.value == {"value": [1, None]}
    assert "KeyError: 'of a case'" in raised.stderr
    assert one(lambda: [os.write(n, b"%d " % n) for n in (1, 2, 1, 2)] and 0, one_file=True).stdout == "1 2 1 2 "


@FORKS
def test_a_case_that_takes_too_long_is_killed_by_the_clock_by_computing_and_by_its_alarm():
    def ring():
        with isolated.alarm(0.3):
            time.sleep(60)

    def compute():
        while True:
            pass

    started = time.monotonic()
    assert one(lambda: time.sleep(60), limit=0.3).how == LATE
    assert one(ring).how == LATE
    assert one(compute, processor=1).how == LATE
    assert one(lambda: time.sleep(1.2), processor=0.4).how == DONE, "waiting is not computing"
    assert time.monotonic() - started < 30


@FORKS
def test_so_many_run_at_a_time(tmp_path):
    def case(name):
        (tmp_path / name).touch()
        until(lambda: (tmp_path / "a").exists() and (tmp_path / "b").exists())
        return name

    cases = [(name, lambda name=name: case(name)) for name in "abc"]
    assert sorted((name, ended.value) for name, ended in isolated.run_each(cases, limit=30, jobs=2)) == [
        (name, name) for name in "abc"
    ]


@FORKS
def test_who_looks_no_further_leaves_no_fork_behind(tmp_path):
    def wait(name):
        (tmp_path / f"pid-{os.getpid()}").touch()
        time.sleep(0 if name == "quick" else 60)

    cases = [(name, lambda name=name: wait(name)) for name in ("quick", "slow", "slow too")]
    going = isolated.run_each(cases, limit=60, jobs=3)
    assert next(going)[0] == "quick"
    found = pids(tmp_path, 3)
    going.close()
    assert not any(map(runs, found))


# ---- workers -----------------------------------------------------------------------------------------------------

WORKER = """
    import os, time
    from sana_lab import isolated

    def run(case):
        open(os.path.join({folder!r}, f"pid-{{os.getpid()}}"), "w").close()
        print("noise")
        if case == "die":
            os._exit(3)
        if case == "wait":
            time.sleep(60)
        return [case, os.getppid()]

    def answers(wanted):
        print("noise on stdout")
        if wanted["fork"] and wanted.get("cannot"):
            raise isolated.CannotFork("not here")
        if wanted.get("lost"):
            print("what went wrong", file=__import__("sys").stderr)
            os._exit(7)
        cases = [(number, lambda case=case: run(case)) for number, case in wanted["cases"]]
        for number, ended in isolated.run_each(cases, limit=wanted["limit"], jobs=wanted["jobs"], fork=wanted["fork"]):
            yield number, ended.value if ended.how == isolated.DONE else ended.how

    isolated.serve(answers)
"""


@FORKS
def test_one_worker_forks_for_all_cases(tmp_path):
    heard = []
    command = script(tmp_path, WORKER.format(folder=str(tmp_path)))
    found = isolated.ask(command, ["a", "die", "wait", "b"], {}, limit=3, jobs=2, heard=heard.append)
    assert [answer if isinstance(answer, str) else answer[0] for answer in found] == ["a", DIED, LATE, "b"]
    assert found[0][1] == found[3][1], "two workers"
    assert len(heard) == 4


@pytest.mark.parametrize("request_", [{"cannot": True}, {}])
def test_where_forking_fails_each_case_gets_an_interpreter(tmp_path, request_):
    command = script(tmp_path, WORKER.format(folder=str(tmp_path)))
    found = isolated.ask(command, ["a", "die", "b"], request_, limit=20, jobs=2, fork=True if request_ else False)
    assert (found[0][0], found[2][0]) == ("a", "b") and found[0][1] == found[2][1] == os.getpid()
    assert found[1].how == DIED and found[1].status == 3


def test_a_worker_that_is_lost_is_told_with_its_last_words(tmp_path):
    command = script(tmp_path, WORKER.format(folder=str(tmp_path)))
    found = isolated.ask(command, ["a", "b"], {"lost": True}, limit=20, fork=True)
    assert [(ended.how, ended.status) for ended in found] == [(DIED, 7)] * 2
    assert "what went wrong" in found[0].stderr


def test_half_an_answer_is_none(tmp_path):
    text = "import os; os.write(1, b'[0, 1]\\n[1, \"ha'); os._exit(9)"
    found = isolated.ask(script(tmp_path, text), ["a", "b"], {}, limit=20, fork=True)
    assert found[0] == 1 and (found[1].how, found[1].status) == (DIED, 9)


def test_a_worker_that_never_ends_is_killed(tmp_path):
    with isolated.Worker(script(tmp_path, "import time; time.sleep(60)"), {}, limit=0.5) as worker:
        assert list(worker) == []
    assert worker.late and worker.status != 0


def test_a_worker_gets_the_environment_that_forks_need(tmp_path):
    text = """
        import os
        from sana_lab import isolated
        isolated.serve(lambda wanted: [[0, {name: os.environ.get(name) for name in [*isolated.ENVIRON, "MORE"]}]])
    """
    (found,) = isolated.ask(script(tmp_path, text), ["case"], {}, limit=20, fork=True, environ={"MORE": "1"})
    assert found == isolated.ENVIRON | {"MORE": "1"}


# ---- none outlives who wanted it ---------------------------------------------------------------------------------

ASKER = """
    from sana_lab import isolated
    isolated.ask([sys.executable, {worker!r}], ["wait", "wait", "wait"], {{}}, limit=60, jobs=2, fork={fork})
"""


@FORKS
@pytest.mark.parametrize("fork", [True, False])
@pytest.mark.parametrize("sign", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_workers_and_their_forks_end_with_who_asked(tmp_path, sign, fork):
    (tmp_path / "worker").mkdir()
    worker = script(tmp_path / "worker", WORKER.format(folder=str(tmp_path)))[1]
    asker = subprocess.Popen(script(tmp_path, ASKER.format(worker=worker, fork=fork)), stderr=subprocess.DEVNULL)
    found = pids(tmp_path, 2)
    asker.send_signal(getattr(signal, sign))
    asker.wait(30)
    until(lambda: not any(map(runs, found)))
    time.sleep(1)
    assert len(list(tmp_path.glob("pid-*"))) == 2, "another was started afterwards"


@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_on_every_system_a_process_ends_with_its_parent(tmp_path, system):
    """The way that other systems than Linux go, too, which works here as well."""
    if sys.platform == "win32" or (system == "linux" and sys.platform != "linux"):
        pytest.skip("another system")
    (tmp_path / "child").mkdir()
    child = script(
        tmp_path / "child",
        f"""
        import os, time
        from sana_lab import isolated
        sys.platform = {system!r}
        isolated.end_with_parent()
        open(os.path.join({str(tmp_path)!r}, f"pid-{{os.getpid()}}"), "w").close()
        time.sleep(60)
        """,
    )
    parent = subprocess.Popen(
        script(tmp_path, f"from sana_lab import isolated; isolated.start({child!r}).wait()"), stderr=subprocess.DEVNULL
    )
    found = pids(tmp_path, 1)
    parent.kill()
    parent.wait()
    until(lambda: not runs(found[0]), 10)


def test_a_process_started_by_hand_asks_for_no_parent(monkeypatch):
    monkeypatch.delenv("SANA_LAB_PARENT", raising=False)
    before = threading.active_count()
    isolated.end_with_parent()
    assert threading.active_count() == before


POOL = """
    import os, time
    from sana_lab import isolated

    def wait(folder):
        open(os.path.join(folder, f"pid-{os.getpid()}"), "w").close()
        time.sleep(60)

    if __name__ == "__main__":
        with isolated.pool(2) as pool:
            list(pool.map(wait, [FOLDER] * 2))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills by signals")
def test_a_pool_ends_with_its_owner(tmp_path):
    owner = subprocess.Popen(script(tmp_path, POOL.replace("FOLDER", repr(str(tmp_path)))), stderr=subprocess.DEVNULL)
    found = pids(tmp_path, 2)
    for pid in found:
        os.kill(pid, signal.SIGINT)
    time.sleep(1)
    assert all(map(runs, found)), "Ctrl+C is for the owner"
    owner.kill()
    owner.wait()
    until(lambda: not any(map(runs, found)), 10)


def test_no_pool_computes_here():
    with isolated.pool(0) as here:
        assert list(here.map(lambda a, b: (a + b, os.getpid()), [1, 2], [3, 4])) == [(4, os.getpid()), (6, os.getpid())]
        failed = here.submit(raise_it)
    with pytest.raises(KeyError, match="of a case"):
        failed.result()


def test_the_garbage_collector_rests_while_libraries_are_imported_and_is_left_as_it_was():
    seen = []
    for collects in (True, False):
        (gc.enable if collects else gc.disable)()
        try:
            assert isolated.preload(lambda: seen.append(gc.isenabled()), gpus=False)
            with pytest.raises(ImportError), isolated.without_collecting():
                raise ImportError("no such library")
            assert gc.isenabled() == collects
        finally:
            gc.enable()
    assert seen == [False, False]


# ---- several at once ---------------------------------------------------------------------------------------------


def sleep(seconds):
    return isolated.start([sys.executable, "-c", f"import time; time.sleep({seconds})"]).wait()


def test_at_once_keeps_the_order():
    assert isolated.at_once(lambda n: (time.sleep(0.2 / n), n)[1], [1, 2, 3], 3) == [1, 2, 3]
    assert isolated.at_once(lambda n: n, [], 3) == []


def test_the_first_error_ends_all_and_begins_no_more():
    begun = []

    def work(seconds):
        begun.append(seconds)
        if not seconds:
            time.sleep(0.5)
            raise OSError("no room")
        return sleep(seconds)

    started = time.monotonic()
    with pytest.raises(OSError, match="no room"):
        isolated.at_once(work, [60, 0, 61, 62], 2)
    assert time.monotonic() - started < 20 and 62 not in begun
    assert sleep(0) == 0, "this thread has no part in it"


def test_ctrl_c_ends_also_what_runs_at_once_inside():
    def interrupt():
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=interrupt).start()
    started = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            isolated.at_once(lambda n: isolated.at_once(sleep, [60, 60, 60], 2), [1, 2], 2)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - started < 20


def test_it_needs_no_library_but_python_s():
    code = "import sys, sana_lab.isolated; print(sorted({'torch', 'numpy', 'psutil', 'tqdm'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_what_became_of_a_case_is_plain():
    assert Ended(DONE, 1) == Ended(how="done", value=1, status=0, stdout="", stderr="")


STARTERS = [
    file.relative_to(Path(SOURCE).parent).as_posix()
    for folder in ("src", "tools")
    for file in sorted(Path(SOURCE).parent.joinpath(folder).rglob("*.py"))
    if "isolated.start(" in file.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("file", STARTERS)
def test_what_is_started_ends_with_its_parent_from_before_it_imports(file):
    """`start` hands the parent's number on; a command of `module` heeds it before its imports, which take seconds."""
    text = Path(SOURCE).parent.joinpath(file).read_text(encoding="utf-8")
    assert '[sys.executable, "-m"' not in text, "take `isolated.module`"
