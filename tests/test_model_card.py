"""The numbers in the model card's prose, held to the record of the training run and to the files."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from sana_lab import evidence
from sana_lab.shapes import SHAPES_FOLDER

CARD = (SHAPES_FOLDER.parent / "MODEL_CARD.md").read_text(encoding="utf-8")
RUN = evidence.load("shapes_training")
RESULTS = RUN["results"]


def said(pattern):
    """The number that the card gives in the one place that fits."""
    (number,) = re.findall(pattern, CARD)
    return float(number.replace(",", ""))


def test_pictures_seen_and_encoded():
    plan, devices = RESULTS["plan"], RUN["machine"]["count"]
    step = plan["transformer_batch"] * devices
    assert said(r"per step of ([\d,]+) pictures") == step
    assert said(r"saw ([\d.]+) million pictures") == round(step * plan["transformer_steps"] / 1e6, 1)
    assert said(r"from ([\d,]+) encoded ones") == plan["bank"] * devices


def test_time_of_a_step():
    second = [line for line in RESULTS["log"] if line["stage"] == "transformer" and line["step"] >= 2000]
    first, last = second[0], second[-1]
    assert said(r"at (\d+) ms per step") == pytest.approx(
        1000 * (last["time"] - first["time"]) / (last["step"] - first["step"]), abs=1
    )


def test_minutes_of_both_pieces():
    assert "nineteen minutes" in CARD
    last = max(line["time"] for line in RESULTS["log"] if line["stage"] == "autoencoder")
    first = min(line["time"] for line in RESULTS["log"] if line["stage"] == "transformer")
    assert round((first - last) / 60) == 3 and "about three lie between the two" in CARD
    assert round(sum(piece["minutes"] for piece in RESULTS["pieces"])) == 19


def test_the_command_is_the_one_recorded_and_gives_the_recorded_plan():
    shown = shlex.split(re.search(r"torchrun.*?\n\n", CARD, re.DOTALL).group().replace("\\\n", " "))
    assert shown == shlex.split(RUN["command"])
    options = dict(zip(shown[-4::2], shown[-3::2], strict=True))
    assert {name: int(value) for name, value in options.items()} == {
        "--autoencoder-steps": RESULTS["plan"]["autoencoder_steps"],
        "--transformer-steps": RESULTS["plan"]["transformer_steps"],
    }


def test_size_of_the_files():
    files = json.loads((SHAPES_FOLDER / "manifest.json").read_text(encoding="utf-8"))["files"]
    weights = sum((SHAPES_FOLDER / name).stat().st_size for name in files if name.endswith(".safetensors"))
    assert said(r"(\d+) MiB of safetensors") == round(weights / 2**20)
    assert weights <= 32 * 2**20
