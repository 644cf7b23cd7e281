"""From pictures to rates and p-values, by hand and against scipy; and a small record, written and read back."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats as scipy_stats

from sana_lab import evidence
from sana_lab.evaluate import statistics
from sana_lab.evaluate.statistics import NAMES, Outcomes, Paired
from sana_lab.shapes import caption, render, sample_scenes
from sana_lab.shapes.scoring import ALL_RIGHT, ATTRIBUTES, Rate

# ---- pairs -------------------------------------------------------------------------------------------------------


def test_mcnemar_is_the_binomial_tail_summed_by_hand():
    for b in range(8):
        for c in range(8):
            paired = Paired(3, b, c, 2)
            n = b + c
            tail = sum(math.comb(n, k) for k in range(min(b, c) + 1)) / 2**n
            assert paired.p == pytest.approx(min(1.0, 2 * tail)), (b, c)
            assert paired.n == 5 + n and paired.difference == (c - b) / paired.n
            low, high = paired.interval
            assert -1 <= low <= paired.difference <= high <= 1


def test_the_paired_interval_is_that_of_bonett_and_price():
    """By their formula: one more in each discordant cell, two more in all."""
    for both, only_first, only_second, neither in itertools.product((0, 3, 50), repeat=4):
        if n := both + only_first + only_second + neither:
            p12, p21 = (only_first + 1) / (n + 2), (only_second + 1) / (n + 2)
            error = ((p12 + p21 - (p12 - p21) ** 2) / (n + 2)) ** 0.5
            z = scipy_stats.norm.ppf(0.975)
            expected = max(-1, p21 - p12 - z * error), min(1, p21 - p12 + z * error)
            assert Paired(both, only_first, only_second, neither).interval == pytest.approx(expected, abs=1e-12)


def test_the_interval_ends_where_differences_do():
    assert Paired(0, 1, 0, 0).interval[0] == -1 and Paired(0, 0, 1, 0).interval[1] == 1
    low, high = Paired(0, 1, 0, 0).interval
    assert (-high, -low) == Paired(0, 0, 1, 0).interval


def test_the_paired_interval_holds_the_truth_95_times_in_100():
    rng = np.random.default_rng(0)
    for only_first, only_second in ((0.04, 0.02), (0.10, 0.02), (0.005, 0.005)):
        probabilities = [0.8, only_first, only_second, 0.2 - only_first - only_second]
        held = 0
        for table in rng.multinomial(500, probabilities, size=2000):
            low, high = Paired(*map(int, table)).interval
            held += low <= only_second - only_first <= high
        assert 0.935 < held / 2000 < 0.999, (only_first, only_second, held / 2000)


def test_compare_counts_cells():
    a, b = [1, 1, 1, 0, 0, 0, 0], [1, 0, 0, 1, 0, 0, 0]
    assert statistics.compare(a, b) == Paired(1, 2, 1, 3)
    assert statistics.compare([2, 0], [4, 1]) == Paired(1, 0, 1, 0), "truth, not bits"
    for wrong, told in (([], "(0,) and (0,)"), ([1], "(1,) and (7,)"), ([[1] * 7], "(1, 7) and (7,)")):
        with pytest.raises(ValueError) as refused:
            statistics.compare(wrong, b if wrong else [])
        assert str(refused.value) == f"give two lists of one length, not of shapes {told}"
    with pytest.raises(ValueError, match="one length"):
        statistics.compare([[1, 0]], [[1, 0]])


def test_wilson_agrees_with_scipy():
    for right, n in ((0, 10), (500, 500), (487, 500), (3, 7)):
        expected = scipy_stats.binomtest(right, n).proportion_ci(method="wilson")
        assert Rate(right, n).interval == pytest.approx((expected.low, expected.high))


# ---- every picture in little space -------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 7, 8, 9, 500])
def test_packing_loses_no_outcome(n):
    rng = np.random.default_rng(n)
    outcomes = rng.random(n) < 0.8
    back = statistics.unpack(statistics.pack(outcomes), n)
    assert back.dtype == bool and back.shape == (n,) and (back == outcomes).all()
    ratios = [*rng.uniform(5, 60, n), math.inf, 80.0]
    back = statistics.unpack_psnr(statistics.pack_psnr(ratios))
    assert np.abs(back[:n] - ratios[:n]).max() <= 0.125 and back[n] == math.inf and back[n + 1] == 63.5


def test_packed_by_hand():
    assert statistics.pack([1, 0, 0, 0, 2, 0, 0, 0, True]) == "8880"
    assert statistics.pack_psnr([0.0, 0.25, 10.0, 63.75, math.inf]) == "AAEo/v8="  # 0, 1, 40, 254, 255
    assert statistics.pack_psnr([5, 20]) == "FFA="
    assert statistics.unpack_psnr("AAEo/v8=").tolist() == [0, 0.25, 10, 63.5, math.inf]
    assert statistics.pack_psnr([-3.0]) == "AA==", "a byte has no sign"


def test_packed_pictures_are_read_as_they_were():
    picture = render(sample_scenes(1, 2, 3)[0]).reduce(4)
    packed = statistics.pack_picture(picture)
    assert (np.asarray(statistics.unpack_picture(packed)) == np.asarray(picture)).all()
    assert statistics.unpack_picture(packed).mode == "RGB"


# ---- scenes ------------------------------------------------------------------------------------------------------


def test_scene_i_does_not_depend_on_how_many_there_are():
    for objects in (1, 2):
        every = statistics.paired_scenes(1000, objects)
        assert len(every) == 1000 and every == statistics.paired_scenes(1000, objects, 0)
        assert every != statistics.paired_scenes(1000, objects, 1)
        for n in (1, 7, 999):
            assert statistics.paired_scenes(n, objects) == every[:n]
        assert all(scene.held_out for scene in every[:50])


@pytest.mark.parametrize("n", [0, -1, 1001, True, 2.0, "3", None])
def test_so_many_scenes_there_are_not(n):
    with pytest.raises(ValueError) as refused:
        statistics.paired_scenes(n, 1)
    assert str(refused.value) == f"n must be a whole number from 1 to 1000 scenes, not {n!r}"


def test_the_digest_is_of_all_captions():
    captions = [caption(scene) for objects in (1, 2) for scene in statistics.paired_scenes(1000, objects, 3)]
    assert statistics.scenes_digest(3) == hashlib.sha256("\n".join(captions).encode()).hexdigest()[:16]
    assert statistics.scenes_digest(4) != statistics.scenes_digest(3)


def test_rights_are_those_of_one_picture_in_the_order_of_names():
    scene = statistics.paired_scenes(1, 1)[0]
    asked = dataclasses.replace(scene, where="left" if scene.where != "left" else "right")
    assert statistics.rights(render(scene), scene) == [1] * 7
    assert dict(zip(NAMES, statistics.rights(render(scene), asked), strict=True)) == {
        **dict.fromkeys(ATTRIBUTES, 1), "where": 0, ALL_RIGHT: 0
    }  # fmt: skip


# ---- the record --------------------------------------------------------------------------------------------------


def rightness(**rows):
    """All attributes right but those that are given; "all right" follows."""
    n = len(next(iter(rows.values())))
    right = {name: np.array(rows.get(name, [1] * n), dtype=bool) for name in ATTRIBUTES}
    return right | {ALL_RIGHT: np.logical_and.reduce(list(right.values()))}


REFERENCE = rightness(shape=[1, 1, 1, 0, 1], where=[1, 1, 0, 0, 1])  # all right: 1 1 0 0 1
THIS = rightness(shape=[1, 0, 1], color=[0, 0, 1])  # all right: 0 0 1


def test_a_summary_by_hand():
    found = statistics.summarize(THIS, REFERENCE, [20.123, math.inf, 30.4567], [0.5, 1.0, 0.81239])
    low, high = Rate(2, 3).interval
    assert found["rates"]["shape"] == {"right": 2, "rate": 0.6667, "low": round(low, 4), "high": round(high, 4)}
    assert list(found["rates"]) == list(found["outcomes"]) == list(NAMES)
    low, high = Paired(0, 2, 1, 0).interval
    assert found["paired"] == {
        "both": 0, "only_reference": 2, "only_this": 1, "neither": 0, "p": 1.0, "difference": -0.3333,
        "low": round(low, 4), "high": round(high, 4),
    }  # fmt: skip
    assert (found["n"], found["psnr_median"], found["ssim_median"]) == (3, 30.46, 0.812)
    assert found["outcomes"]["shape"] == "a0" and found["psnr"] == statistics.pack_psnr([20.123, math.inf, 30.4567])
    assert found["ssim"] == "ZMii"  # 100, 200, 162 steps of 0.005
    equal = statistics.summarize(THIS, REFERENCE, [math.inf] * 3, [1.0] * 3)
    assert equal["psnr_median"] == 99, "a number stands for infinity, which JSON does not have"
    twenty = [rightness(shape=row) for row in ([1] * 9 + [0] * 11, [0] * 4 + [1] * 15 + [0])]
    paired = statistics.summarize(*twenty, [1.0] * 20, [1.0] * 20)["paired"]
    low, high = Paired(5, 10, 4, 1).interval
    assert (paired["low"], paired["high"]) == (round(low, 4), round(high, 4)) != (round(low, 5), round(high, 5))
    assert round(low, 4) != round(low, 5) and round(high, 4) != round(high, 5), "else this tests nothing"
    skewed = {ALL_RIGHT: [0] * 11}, {ALL_RIGHT: [1] * 11}
    every = [rightness(shape=[1] * 11) | side for side in skewed]
    assert statistics.summarize(*every, [1.0] * 11, [1.0] * 11)["paired"]["p"] == 0.0009766, "four digits"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A record of two conditions; of the second, there are fewer scenes of one object, and none of two."""
    scene = statistics.paired_scenes(3, 1, 5)[2]
    shown = {"webp": statistics.pack_picture(render(scene).reduce(4)), "right": [1] * 7}
    both = statistics.summarize(REFERENCE, REFERENCE, [math.inf] * 5, [1.0] * 5)
    two = statistics.summarize(THIS, THIS, [11.0, 12.0, 13.0], [0.1, 0.2, 0.3])
    this = statistics.summarize(THIS, REFERENCE, [20.0, 30.0, 40.0], [0.5, 0.6, 0.7])
    settings = {"format": 1, "scenes": statistics.scenes_digest(5), "seed": 5, "weights": "weights of w",
                "objects": [1, 2]}  # fmt: skip
    results = {
        "settings": settings,
        "conditions": {
            "bf16": {"title": "in 16 bits", "objects": {"1": both, "2": two}},
            "w2": {"title": "in 2 bits", "objects": {"1": this}},
        },
        "sweep": {"bits": 2},
        "examples": [{"i": 2, "objects": 1, "pictures": {"bf16": shown, "w2": dict(shown)}}],
    }
    given = {"what": "a test", "command": "sana-lab evaluate", "versions": {}, "when": "2026-01-01"}
    folder = tmp_path_factory.mktemp("records")
    evidence.save("small", results=results, machine={"device": "none", "count": 1}, folder=folder, **given)
    return folder / "small.json"


@pytest.fixture
def folder(written, tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "resolve", lambda model: SimpleNamespace(digest=f"weights of {model}"))
    shutil.copy(written, tmp_path)
    return tmp_path


def evaluation(folder):
    return statistics.load_evaluation("small", model="w", folder=folder)


def test_a_record_is_unpacked(folder):
    found = evaluation(folder)
    assert found.conditions == {"bf16": "in 16 bits", "w2": "in 2 bits"} and found.sweep == {"bits": 2}
    assert found.settings["seed"] == 5 and found.record["what"] == "a test"
    one, every = found.outcomes("bf16", 1), found.outcomes("bf16")
    assert one.n == 5 and every.n == 8 and one.psnr.tolist() == [math.inf] * 5
    assert every.psnr.tolist() == [math.inf] * 5 + [11, 12, 13]
    assert every.ssim == pytest.approx([1.0] * 5 + [0.1, 0.2, 0.3])
    assert list(every.right) == list(NAMES)
    for name in NAMES:
        assert one.right[name].tolist() == REFERENCE[name].tolist()
        assert every.right[name].tolist() == [*REFERENCE[name], *THIS[name]]
        assert every.rates[name] == Rate(int(REFERENCE[name].sum() + THIS[name].sum()), 8)
    assert found.outcomes("w2").right["shape"].tolist() == [True, False, True]


def test_a_record_compares_what_both_drew(folder):
    found = evaluation(folder)
    assert found.compare("bf16", "w2", 1) == Paired(0, 2, 1, 0)
    assert found.compare("w2", "bf16", 1, "color") == Paired(1, 0, 2, 0)
    assert found.compare("bf16", "bf16") == Paired(4, 0, 0, 4), "of one and of two objects"


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda e: e.outcomes("w3"), "no condition 'w3' in this record; it has bf16, w2"),
        (lambda e: e.outcomes("w2", 2), "no scenes with 2 objects in this record; it has 1"),
        (lambda e: e.outcomes("bf16", 3), "no scenes with 3 objects in this record; it has 1, 2"),
        (lambda e: e.compare("bf16", "w2"), "no scenes with 2 objects in this record; it has 1"),
        (lambda e: e.compare("bf16", "w2", 1, "taste"), f"no attribute 'taste'; there are {', '.join(NAMES)}"),
    ],
)
def test_what_a_record_does_not_have(folder, ask, said):
    with pytest.raises(ValueError) as refused:
        ask(evaluation(folder))
    assert str(refused.value) == said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r["settings"].update(format=0), "has format 0, this code reads 1"),
        (lambda r: r.pop("settings"), "has format None, this code reads 1"),
        (lambda r: r["settings"].update(scenes="0"), "is of other scenes than this code draws"),
        (lambda r: r["settings"].update(seed=6), "is of other scenes than this code draws"),
        (lambda r: r["settings"].update(weights="0"), "is of weights 0, the model here has weights of w"),
        (lambda r: r["examples"][0]["pictures"]["w2"].update(right=[1] * 6 + [0]),
         "is of another reader: its pictures read otherwise now"),
        (lambda r: r["examples"][0].update(i=1), "is of another reader: its pictures read otherwise now"),
        (lambda r: r["examples"][0].update(objects=2), "is of another reader: its pictures read otherwise now"),
    ],
)  # fmt: skip
def test_a_record_of_another_time_is_refused(folder, change, said):
    path = folder / "small.json"
    record = json.loads(path.read_text())
    change(record["results"])
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError) as refused:
        evaluation(folder)
    assert str(refused.value) == f"record 'small' {said}; record it again: sana-lab evaluate"


def test_a_record_of_something_else_has_no_format(folder):
    path = folder / "small.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"results": []}))
    with pytest.raises(ValueError, match="has format None"):
        evaluation(folder)


def test_what_is_counted_cannot_be_changed():
    for counted, name in ((Paired(1, 2, 3, 4), "both"), (Outcomes({}, np.zeros(2), np.zeros(2)), "psnr")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(counted, name, 0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        statistics.Evaluation({}).record = {}
    assert len({statistics.Evaluation({}), statistics.Evaluation({})}) == 2, "each its own, as a record has no hash"
