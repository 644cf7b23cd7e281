"""What stays on the GPU when an 8-bit model leaves it: the virtual GPU, step by step, against a real one's record."""

from __future__ import annotations

import json

import pytest

from sana_lab import evidence, use_accelerator
from sana_lab.measure import left_behind
from sana_lab.measure.left_behind import FIRST, RECORD, ROWS, STEPS, on_a_card, outcome, steps_table, verdict

REAL = evidence.load(RECORD)["results"]
NOT_COMPARED = {
    "peak": "workspaces of CUDA's libraries count in it",
    "next use of CUDA": "after an illegal memory access a process is lost on a real GPU and goes on on a virtual one",
}


@pytest.fixture(scope="module", autouse=True)
def virtual():
    with use_accelerator(virtual=True):
        yield


@pytest.mark.parametrize("title", STEPS)
def test_a_step_leaves_on_the_virtual_gpu_what_it_left_on_the_real_one(title):
    found = STEPS[title]()
    assert found.keys() == REAL["steps"][title].keys()
    for key in found.keys() - NOT_COMPARED.keys():
        assert found[key] == REAL["steps"][title][key], key


def test_what_is_not_compared_is_there():
    keys = {key for found in REAL["steps"].values() for key in found}
    assert NOT_COMPARED.keys() <= keys


def test_codes_stay_until_each_layer_is_moved():
    moved = {title: found["bytes"] for title, found in REAL["steps"].items() if "weight" in found}
    codes = moved['loaded, .to("cpu")']
    assert 0 < codes < moved["loaded"]
    assert moved['loaded, .to("cpu"), .to("cuda")'] >= moved["loaded"] + 0.9 * codes  # the codes are there twice
    assert moved['called, .to("cpu"), each 8-bit layer .to("cpu")'] < 0.01 * codes
    assert REAL["steps"]['called, .to("cpu"), .to("cuda")']["same output"] is True


def test_the_table_has_the_steps_that_count_bytes():
    table = steps_table()
    assert list(table.index) == [title for title in STEPS if "weight" in REAL["steps"][title]]
    assert table.loc['called, .to("cpu")', "weights are on"] == "cpu"
    assert table.loc['called, .to("cpu")', "codes and scales are on"] == "cuda:0"


@pytest.mark.parametrize("checkpoint", left_behind.CHECKPOINTS)
def test_every_row_of_real_size_was_measured(checkpoint):
    rows = REAL["real size"][checkpoint]
    assert [(row["bits"], row["way"], row["card (GiB)"]) for row in rows] == list(ROWS)
    assert all("out of memory" in row or row["held"].keys() == FIRST.keys() for row in rows)


@pytest.mark.parametrize(("bits", "way"), [(8, "model offload"), (16, "model offload"), (8, "all on the GPU")])
def test_a_row_says_what_is_held_as_each_network_is_called(bits, way):
    found = on_a_card(left_behind.SHAPES_FOLDER, bits, way, None)
    assert found["held"].keys() == FIRST.keys()
    assert max(found["held"].values()) <= found["peak"]
    if way == "model offload":
        assert found["held"]["text_encoder"] < found["held"]["transformer"]


def test_a_row_says_what_was_done_when_memory_ran_out():
    with use_accelerator(vram="18MiB", virtual=True):
        found = on_a_card(left_behind.SHAPES_FOLDER, 8, "all on the GPU", None)
    assert found["out of memory"] == "loading vae"
    assert verdict(found) == "out of memory, loading vae"


def test_outcomes_are_one_line():
    def raises():
        raise ValueError("one\ntwo")

    assert outcome(raises) == "ValueError: one"
    assert outcome(int) == "returns"


def test_a_step_that_breaks_its_process_is_recorded(monkeypatch, tmp_path):
    """The last words of the process stand where the result would."""
    found = left_behind.apart("--step", "no such step", virtual=True)
    assert "there is no step 'no such step'" in found["failed"]
    monkeypatch.setattr(left_behind, "apart", lambda *arguments, virtual: {"step": arguments[1], "virtual": virtual})
    results = left_behind.record(tmp_path, virtual=True)
    assert results["steps"] == {title: {"step": title, "virtual": True} for title in STEPS}
    assert json.loads((tmp_path / f"{RECORD}.json").read_text())["results"] == results
