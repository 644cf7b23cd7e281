"""What chapters 7 to 9 show of the record: numbers of made-up records, and of the one that is stored."""

import re

import pytest

from sana_lab import evidence
from sana_lab.measure import judged, pages, pictures
from sana_lab.measure.goals import as_table, faster, goals, table
from sana_lab.measure.methods import METHODS

GIB = 2**30


def size(pixels=512, batch=1, ms=10.0, **more):
    at = {"pixels": pixels, "batch": batch, "first_s": 1.0, "peak": 7 * GIB}
    return at | {"step_ms": {"median": ms, "q1": 9, "q3": 11}, "picture_s": [ms / 50]} | more


def row(method, ways, checkpoint="600M-512", held=5 * GIB):
    resident = {"text_encoder": 3 * GIB, "vae": GIB, "transformer": GIB, "allocated": held}
    return {
        "checkpoint": checkpoint,
        "method": method,
        "load": {"seconds": 1.0, "peak": held},
        "resident": resident,
    } | {"ways": ways}


@pytest.fixture
def lines():
    kernels = {"started": 1000, "busy_ms": 5.0, "longest": []}
    more = {"started": 1500, "busy_ms": 6.0, "longest": []}
    big = [size(512, 4, 90.0, peak=12 * GIB)]
    refused = {"error": "E", "text": "no Search here"}
    return table(
        [
            row("16-bit", {"eager": [size(ms=40.0, kernels=kernels), *big], "compiled": [size(ms=5.0)]}),
            row("16-bit-offload", {"eager": [size(ms=200.0, peak=4 * GIB), size(512, 4, 300.0, peak=8 * GIB)]}),
            row(
                "int8",
                {
                    "eager": [size(ms=100.0, kernels=more)],
                    "compiled-eager": [size(ms=90.0)],
                    "graph": refused,
                },
            ),
            row("int8-fast", {"fused": [size(ms=4.0)]}),
            row("torchao", {"compiled": [size(ms=1.0)]}),
        ]
    )


def test_a_method_has_the_kind_of_its_weights():
    kinds = {name: pages.kind(name) for name in METHODS}
    assert kinds["16-bit-offload"] == "16 bits" and kinds["nf4-slim"] == "4 bits"
    assert kinds["int8-weights"] == kinds["torchao"] == "8 bits, integers"
    assert set(kinds.values()) <= set(pages.KINDS)
    assert "torchao" not in pages.ours(*pages.KINDS) and "int8" in pages.ours("8 bits, integers")


def test_the_duel_is_best_against_best_and_has_torchao_in_a_column_of_its_own(lines):
    duel = pages.duel_table(lines).loc["600M 512 px × 1"]
    assert duel["best 16 bits (ms)"] == 5.0 and duel["8 bits, integers (ms)"] == 4.0
    assert duel["best 8 ÷ best 16"] == pytest.approx(0.8)
    assert duel["bitsandbytes ÷ best 16"] == pytest.approx(18)
    assert duel["torchao ÷ best 16"] == pytest.approx(0.2)


def test_kernels_are_divided_by_layers(lines):
    found = pages.kernels_table(lines, {"600M-512": 100}).loc["600M-512, 8-bit, the recipe"]
    assert found.tolist() == ["1,500", "5.0", "100.0", "67"]


def test_what_failed_is_said_and_what_was_not_measured_is_a_dash(lines):
    assert pages.failed(lines) == {"600M-512, 8-bit, the recipe, graph": "E: no"}
    shown = pages.ways_table(lines, ("16-bit", "int8"), {"600M-512": 512})
    assert shown.loc[("600M", "16-bit")].tolist() == ["40.0", "–", "–", "5.0"]
    assert shown.loc[("600M", "8-bit, the recipe")].tolist() == ["100.0", "90.0", "–", "–"]
    assert pages.text(None) == pages.text(float("nan")) == "–"


def test_a_card_holds_the_larger_peak_and_the_room(lines):
    cards = pages.cards_table(lines)
    assert cards.loc["16-bit", "600M 512 px"] == "8 (7.0)"
    assert cards.loc["16-bit", "600M 512 px × 4"] == "16 (12.0)"
    assert cards.loc["16-bit, offloaded", "600M 512 px"] == "6 (5.0)"  # loading: more than drawing


def test_the_list_of_cards_names_what_fits(lines):
    outer = pages.cards_widget(lines).children[2]
    small, roomy = outer.children[0].children[0].value, outer.children[0].children[-1].value
    assert "offloaded" in small and "16-bit, eager" not in small and "16-bit, eager" in roomy


@pytest.mark.parametrize("draw", [pictures.busy_figure, pictures.steps_figure, pictures.plane_figure])
def test_a_figure_has_every_method_that_was_measured(lines, draw):
    figure = draw(lines)
    said = " ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))
    assert "16-bit" in said and "8-bit, the recipe" in said and "nf4" not in said


def test_numbers_beside_points_do_not_meet(lines):
    figure = pictures.plane_figure(lines)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for axes in figure.axes for text in axes.texts]
    assert len(boxes) >= 5
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_the_stored_record_has_what_chapters_say():
    lines = pages.measured()
    assert re.fullmatch(r"[A-Z]+\d+|RTX \d+\w*", pages.gpu())
    assert (pages.loaded_table(lines)["measured − predicted (B)"] == 0).all()
    assert "int8 product" in pages.profile_table().index


def test_the_record_has_both_kinds_of_eight_bits_against_the_best_16():
    lines = pages.measured()
    duel = pages.duel_table(lines)
    assert list(duel.columns) == [
        *("best 16 bits (ms)", "8 bits, integers (ms)", "8 bits, floats (ms)", "best 8 ÷ best 16"),
        *("bitsandbytes ÷ best 16", "torchao ÷ best 16"),
    ]
    assert len(duel) == 4 and not duel.isna().any().any()
    assert not pages.making_table(lines).isna().any().any()
    held = faster(lines)
    assert [goal.verdict for goal in held] == ["met", "met", "missed", "missed", "met"]
    assert all(goal.recipe > 1.4 for goal in held), "the recipe is in this record, and slower than 16 bits"


def test_pictures_without_guidance_are_in_the_record():
    table = judged.unguided_table()
    assert list(table.columns) == ["× 1, no guidance", "× 1000, no guidance"]
    assert list(table.index) == list(judged.WAYS.values()) and not table.isna().any().any()
    assert judged.worst("fp8", "bf16") <= 0.5 < judged.worst("fast-kv", "bf16")


def test_every_goal_is_held_against_the_stored_records():
    held = goals(evidence.load("measured")["results"]["rows"], judged.factors())
    assert held and not [goal.name for goal in held if goal.verdict == "not measured"]
    assert set(as_table(held)[""]) <= {"met", "missed"}


def test_the_check_is_judged_by_what_integers_lost(monkeypatch):
    good, bad = "1" * 100, "1" * 90 + "0" * 10
    entries = {
        "1000": {"recipe": good, "fast": bad, "weights": good, "refused": False},
        "1": {"recipe": good, "fast": good, "weights": good, "refused": True},
        "10": {"recipe": good, "refused": True},
    }
    monkeypatch.setattr(evidence, "load", lambda name: {"results": {"factors": entries, "n": 100}})
    table = judged.quality_table()
    assert list(table.columns) == ["× 1", "× 1000"]
    assert table.loc["and is"].tolist() == ["in vain", "missed"]
    assert table.loc["integer products − recipe (points)", "× 1000"].startswith("-10.0")
    assert judged.worst("fast") == 10 and judged.worst("weights") == 0 and judged.worst("fp8") is None
