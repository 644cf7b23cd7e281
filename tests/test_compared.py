"""Two outcomes of a case beside one another, and reasons for what differs."""

import pytest

from sana_lab.evidence.compared import unexplained, verdict, why
from sana_lab.versions import matrix

ERROR = {"raises": "RuntimeError", "words": "a b", "message": "a b (when checking x)"}


@pytest.mark.parametrize(
    ("virtual", "found"),
    [
        (ERROR, "same"),
        ({**ERROR, "message": "a b (when checking y)"}, "same"),
        ({**ERROR, "raises": "TypeError"}, "error"),
        ({**ERROR, "words": "a c"}, "error"),
        ({"returns": None}, "kind"),
    ],
)
def test_errors(virtual, found):
    assert verdict(ERROR, virtual) == verdict(virtual, ERROR) == found


def test_values():
    assert verdict({"returns": {"bytes": 512}}, {"returns": {"bytes": 512}}) == "same"
    assert verdict({"returns": {"bytes": 512}}, {"returns": {"bytes": 1024}}) == "value"


def test_a_difference_needs_a_reason_and_a_reason_a_difference():
    reasons = {"map-cuda": "one", ".*conv.*": "two"}
    assert [why(reasons, name) for name in ("map-cuda", "conv2d", "map-cuda-2", "add")] == ["one", "two", "", ""]
    assert unexplained(["map-cuda", "conv2d"], reasons) == []
    lines = unexplained(["conv2d", "add"], reasons)
    assert lines[0].startswith("add differs") and lines[1].startswith("'map-cuda' is a reason") and len(lines) == 2


def test_probes_are_compared_by_the_same_rule():
    runs, raises = {"kind": "runs", "value": "x"}, {"kind": "raises", "error": "TypeError", "words": "w" * 40}
    assert matrix.same(runs, dict(runs)) and not matrix.same(runs, {**runs, "value": "y"})
    assert not matrix.same(runs, {**runs, "warns": "w"})
    assert matrix.same({**runs, "warns": "v"}, {**runs, "warns": "w"})
    assert matrix.same(raises, {**raises, "words": "w" * 40 + " and a tail"}) and not matrix.same(raises, runs)
    assert not matrix.same(raises, {**raises, "words": "v" * 40})
    assert matrix.same({"kind": "hangs", "words": "3 s"}, {"kind": "hangs", "words": "4 s"})
    assert not matrix.same({"kind": "hangs", "words": ""}, {"kind": "dies", "words": ""})
