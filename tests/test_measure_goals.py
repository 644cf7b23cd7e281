"""The goals of chapters 7 and 8 against made-up records: met, missed, and not measured."""

import math

import pytest

from sana_lab.measure.goals import COLUMNS, Goal, as_table, depthwise, goals, points_lost, table, value
from sana_lab.measure.methods import METHODS, WAYS

GIB = 2**30


def size(pixels=512, batch=1, ms=10.0, **more):
    return {
        "pixels": pixels,
        "batch": batch,
        "first_s": 1.0,
        "peak": GIB,
        "step_ms": {"median": ms, "q1": 9, "q3": 11},
    } | more


def row(checkpoint, method, resident, transformer, ways=None, peak=1.0):
    held = {"text_encoder": 10, "vae": 1, "transformer": transformer, "allocated": resident}
    return {
        "checkpoint": checkpoint,
        "method": method,
        "load": {"seconds": 1.0, "peak": peak * resident},
        "resident": held,
        "ways": ways or {},
    }


def record(fast_ms=3.0, best_ms=30.0, slim=50, peak=1.1):
    """A record that meets every goal, unless told otherwise."""
    graph = [size(1024, 1, 25.0, picture_s=[1.0]), size(1024, 4, 25.0)]
    large = {"eager": [size(1024, 1, 30.0, picture_s=[2.0]), size(1024, 4, 30.0)], "graph": graph}
    fused = [size(1024, 1, 18.0, picture_s=[0.7]), size(1024, 4, 17.0)]
    return [
        row("600M-512", "16-bit", 100, 100, {"eager": [size(ms=30.0)], "graph": [size(ms=5.0), size(batch=4)]}),
        row("600M-512", "int8", 67, 75, {"eager": [size(ms=90.0)], "graph": {"error": "E", "text": "no capture"}}),
        row("600M-512", "int8-slim", slim, slim, {"eager": [size(ms=95.0)]}, peak),
        row("600M-512", "int8-fast", slim, slim, {"fused": [size(ms=fast_ms), size(batch=4, ms=8.0)]}, peak),
        row("1600M-1024", "16-bit", 100, 100, large),
        row(
            "1600M-1024",
            "16-bit-fused",
            100,
            100,
            {"fused": [size(1024, 1, best_ms, picture_s=[best_ms / 25]), size(1024, 4, best_ms)]},
        ),
        row("1600M-1024", "int8-fast", 50, 50, {"fused": fused}),
    ]


def verdicts(rows, factors=None):
    return [goal.verdict for goal in goals(rows, factors)]


GOOD = {"1": dict.fromkeys(("bf16", "recipe", "fast", "weights", "fp8"), "1111" * 50) | {"refused": False}}


def test_all_met():
    assert verdicts(record(), GOOD) == ["met"] * 13
    reached = [goal.reached for goal in goals(record(), GOOD)]
    assert reached == pytest.approx([0.5, 0.5, 0.5, 0.1, 0.68, 0.72, 0.6, 0.8, 0.7, 0, 0, 0, 1.1])
    assert [goal.recipe for goal in goals(record(), GOOD)][:4] == pytest.approx([0.67, 0.75, None, 3.0])
    assert goals(record())[6].recipe == pytest.approx(90 / 5)


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({"slim": 57}, [0, 1]),
        ({"fast_ms": 9.1}, [3, 6]),
        ({"fast_ms": 4.8}, [6]),
        ({"best_ms": 20.0}, [4, 5]),
        ({"best_ms": 22.0}, [4]),
        ({"best_ms": 17.0}, [4, 5, 8]),
        ({"peak": 1.2}, [12]),
    ],
)
def test_each_goal_can_be_missed(changed, missed):
    said = verdicts(record(**changed), GOOD)
    assert [i for i, verdict in enumerate(said) if verdict == "missed"] == missed
    assert said.count("met") == 13 - len(missed)


def test_the_best_16_bit_way_is_the_yardstick():
    """Leaving out the fused 16-bit pipeline would flatter the ratio."""
    flattered = [r for r in record(best_ms=16.0) if r["method"] != "16-bit-fused"]
    assert goals(flattered)[5].reached == pytest.approx(18 / 25)
    assert goals(record(best_ms=16.0))[5].reached == pytest.approx(18 / 16)


@pytest.mark.parametrize("gone", ["16-bit", "int8-fast"])
def test_what_is_missing_is_said(gone):
    rows = [r for r in record() if r["method"] != gone]
    assert verdicts(rows)[3] == "not measured"
    assert verdicts([])[:12] == ["not measured"] * 12
    assert as_table(goals([]))["reached"].eq("–").all()


def test_quality_counts_where_it_is_not_refused():
    spoiled = {"recipe": "1" * 100, "fast": "0" * 100}
    allowed, refused = {"100": spoiled | {"refused": False}}, {"100": spoiled | {"refused": True}}
    assert verdicts([], GOOD | refused)[9] == "met"
    assert verdicts([], GOOD | allowed)[9] == "missed"
    assert verdicts([], refused)[9] == "not measured"
    assert goals([], GOOD | allowed)[9].reached == 100
    for refuses in (True, False):  # nothing refuses where the weights alone are in 8 bits
        lost = {"recipe": "1" * 100, "fast": "1" * 100, "weights": "1" * 98 + "00", "refused": refuses}
        assert goals([], GOOD | {"100": lost})[10].reached == 2


def test_a_picture_that_was_not_drawn_alone_is_not_timed():
    rows = [r | {"alone": r["method"] == "16-bit"} for r in record()]
    assert [goal.verdict for goal in goals(rows)][7:9] == ["met", "not measured"]
    clocked = row("600M-512", "fp8", 1, 1, {"fused": [size(clocks=[1320, 3201]), size(batch=4, clocks=None)]})
    assert table([clocked]).clock_mhz.fillna(0).tolist() == [1320, 0]


def test_fp8_is_held_against_16_bits_and_not_against_the_recipe():
    lost = {"bf16": "1" * 200, "recipe": "0" * 200, "fp8": "1" * 198 + "00", "refused": True}
    assert goals([], {"1000": lost})[11].reached == 1 and verdicts([], {"1000": lost})[11] == "missed"
    assert verdicts([], {"1000": lost | {"fp8": "1" * 199 + "0"}})[11] == "met"


def test_the_faster_of_two_8_bit_steps_counts():
    other = [row("600M-512", "int8-weights", 50, 50, {"fused": [size(ms=2.0)]})]
    assert goals(record() + other)[3].reached == pytest.approx(2 / 30)
    assert goals(record(fast_ms=1.0) + other)[3].reached == pytest.approx(1 / 30)


def test_points_lost_are_of_pairs():
    assert points_lost({"recipe": "1101", "fast": "1001"}) == 25
    assert points_lost({"recipe": "0001", "fast": "1001"}) == -25
    assert points_lost({"recipe": "11", "slim": "10"}, "slim") == 50
    for entry in ({"recipe": "11", "fast": "1"}, {"recipe": "", "fast": ""}):
        with pytest.raises(ValueError, match="not pairs"):
            points_lost(entry)


def test_the_table_has_a_line_each_and_what_failed():
    measured = table(record())
    assert tuple(measured.columns) == COLUMNS
    assert len(measured) == 16
    failed = measured[measured.error.notna()]
    assert failed[["method", "way", "error"]].values.tolist() == [["int8", "graph", "E: no capture"]]
    assert failed.step_ms.isna().all() and failed.resident.eq(67).all()
    assert value(measured, "step_ms", "600M-512", "int8") == 90
    assert value(measured, "step_ms", "600M-512", ["16-bit", "int8-fast"], pixels=512) == 3
    assert value(measured, "step_ms", "600M-512", "16-bit", "compiled") is None
    assert value(measured, "step_ms", "no", "16-bit") is None


def test_the_table_takes_partial_rows():
    dead = {"checkpoint": "a", "method": "int8", "error": "OutOfMemoryError", "text": "no room"}
    bare = {"checkpoint": "a", "method": "16-bit", "load": {"seconds": None, "peak": 5}, "resident": {"allocated": 5}}
    whole = row("a", "nf4", 5, 5, {"eager": [size(picture_s=[3.0, 1.0, 2.0], kernels={"started": 7, "busy_ms": 2.0})]})
    measured = table([dead, bare, whole])
    assert measured.error.tolist()[0] == "OutOfMemoryError: no room" and measured.error[1:].isna().all()
    assert math.isnan(measured.load_s[1]) and measured.resident[1] == 5
    assert measured.loc[2, ["picture_s", "started", "busy_ms"]].tolist() == [2, 7, 2]
    assert table([]).empty


def test_a_goal_at_its_limit_is_met():
    assert Goal("a", None, 1.1, 1.1).verdict == "met"
    assert Goal("a", None, 1.1, 1.1001).verdict == "missed"


def test_methods_and_ways_that_goals_name_exist():
    from sana_lab.measure import goals as module

    assert {*module.EIGHT_BIT, *module.SIXTEEN_BIT, *module.SLIM, "int8"} <= set(METHODS)
    assert {"eager", "fused"} <= set(WAYS)


def test_the_kernel_alone_is_held_against_a_copy_at_its_worst_size():
    rows = [{"silu": silu, "ms": ms, "copy_ms": 2.0} for silu, ms in ((False, 1.0), (False, 3.0), (True, 4.2))]
    alone, with_silu = depthwise(rows)
    assert alone.reached == pytest.approx(1.5) and alone.verdict == "met"
    assert with_silu.reached == pytest.approx(2.1) and with_silu.verdict == "missed"
    assert [goal.verdict for goal in depthwise(rows[:2])] == ["met", "not measured"]
    assert goals([], None, rows)[-2:] == [alone, with_silu] and len(goals([], None, rows)) == len(goals([])) + 2
