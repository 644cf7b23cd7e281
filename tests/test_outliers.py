"""Planting outliers changes no function, and the record of what they do to pictures is whole."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from transformers import AutoModel

from sana_lab import evidence, int8, outliers
from sana_lab.outliers import CHANNEL, READERS, WAYS, plant_outliers_
from sana_lab.shapes.untrained import untrained_shapes


@pytest.fixture(scope="module")
def encoder():
    """The small Gemma 2, in float32, its norms made uneven: fresh ones have weight 0, where much goes unnoticed."""
    model = AutoModel.from_pretrained(untrained_shapes() / "text_encoder", dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in model.layers:
            for norm in READERS:
                layer.get_submodule(norm).weight.copy_(0.3 * torch.randn(128, generator=generator))
    return model


def output(model):
    tokens = torch.randint(5, 60, (3, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(tokens)[0]


def read_by(model, name):
    """What the linear layer `name` is given."""
    seen = []
    hook = model.get_submodule(name).register_forward_pre_hook(lambda layer, args: seen.append(args[0]))
    output(model)
    hook.remove()
    return seen[0].flatten(0, 1)


@pytest.mark.parametrize("factor", [0.01, 1, 4, 33.3, 100])
@pytest.mark.parametrize("channels", [[CHANNEL], [0, 64, 127]])
def test_planting_keeps_the_function_in_float32(encoder, factor, channels):
    planted = plant_outliers_(copy.deepcopy(encoder), channels, factor)
    assert int8.sqnr_db(output(encoder), output(planted)) > 90


@pytest.mark.parametrize("name", ["layers.0.self_attn.q_proj", "layers.3.self_attn.v_proj", "layers.2.mlp.up_proj"])
def test_every_reader_meets_the_outlier_and_nothing_else_changes(encoder, name):
    planted = plant_outliers_(copy.deepcopy(encoder), [3, 90], 50)
    ratio = read_by(planted, name) / read_by(encoder, name)
    others = [c for c in range(128) if c not in (3, 90)]
    assert torch.allclose(ratio[:, [3, 90]], torch.tensor(50.0), rtol=1e-2)
    assert torch.allclose(ratio[:, others].median(), torch.tensor(1.0), rtol=1e-3)


def test_in_bfloat16_only_rounding_differs(encoder):
    rough = copy.deepcopy(encoder).bfloat16()
    planted = plant_outliers_(copy.deepcopy(rough), [CHANNEL], 64)
    exact = output(encoder)
    without, with_outlier = (int8.sqnr_db(exact, output(model)) for model in (rough, planted))
    assert abs(without - with_outlier) < 3


def test_a_plain_norm_would_need_another_weight(encoder):
    """The check on the check: forgetting Gemma's 1 + weight does change the function."""
    wrong = copy.deepcopy(encoder)
    with torch.no_grad():
        for layer in wrong.layers:
            for norm, readers in READERS.items():
                layer.get_submodule(norm).weight[CHANNEL] *= 50
                for reader in readers:
                    layer.get_submodule(reader).weight[:, CHANNEL] /= 50
    assert int8.sqnr_db(output(encoder), output(wrong)) < 60


@pytest.mark.parametrize(
    ("channels", "factor", "said"),
    [
        ([], 10, "at least one"),
        ([3, 3], 10, "each once"),
        ([128], 10, "channels 0 to 127"),
        ([-1], 10, "channels 0 to 127"),
        ([1.5], 10, "do not exist"),
        ([1], 0, "above 0"),
        ([1], math.inf, "finite"),
        ([1], math.nan, "finite"),
    ],
)
def test_bad_arguments_are_refused_and_change_nothing(encoder, channels, factor, said):
    model = copy.deepcopy(encoder)
    with pytest.raises(ValueError, match=said):
        plant_outliers_(model, channels, factor)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), encoder.parameters(), strict=True))


def test_other_models_and_integers_are_refused(encoder):
    with pytest.raises(TypeError, match="Gemma 2's norms"):
        plant_outliers_(torch.nn.Linear(4, 4), [0], 2)
    quantized = copy.deepcopy(encoder)
    linear = quantized.layers[1].mlp.up_proj
    linear.weight = torch.nn.Parameter(linear.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(TypeError, match="quantize afterwards"):
        plant_outliers_(quantized, [0], 2)
    assert torch.equal(quantized.layers[0].input_layernorm.weight, encoder.layers[0].input_layernorm.weight)


@pytest.mark.parametrize("threshold", [-1, math.nan, math.inf])
def test_a_bad_threshold_is_refused_before_loading(threshold):
    with pytest.raises(ValueError, match="threshold"):
        outliers.load_encoder("nowhere", threshold)


@pytest.mark.parametrize("arguments", [["-n", "0"], ["--steps", "0"], ["--batch", "-1"], ["--model", "nowhere"]])
def test_a_bad_command_line_is_one_clear_line(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        outliers.main(arguments)
    assert stopped.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_a_small_record_has_every_way_and_size(tmp_path, monkeypatch):
    """Everything but the drawing, which is replaced by a picture that is right for every other scene."""
    from sana_lab import render

    def drawn(pipe, scenes, *, steps, seed, batch):
        for start in range(0, len(scenes), batch):
            yield [render(scenes[i - i % 2]) for i in range(start, min(start + batch, len(scenes)))]

    monkeypatch.setattr(outliers, "draw", drawn)
    monkeypatch.setattr(outliers, "_cores", lambda: 1)
    outliers.record(4, model=untrained_shapes(), batch=3, factors=(1, 64), folder=tmp_path)
    found = evidence.load(outliers.RECORD, folder=tmp_path)
    results = found["results"]
    assert results["n"] == 4 and "-n 4" in found["command"]
    assert set(results["ways"]) == set(WAYS)
    for cells in results["ways"].values():
        assert {factor: cell["right"] for factor, cell in cells.items()} == {"1": "1010", "64": "1010"}
    db = {way: {factor: cell["encoder_db"] for factor, cell in cells.items()} for way, cells in results["ways"].items()}
    assert abs(db["16 bits"]["1"] - db["16 bits"]["64"]) < 3
    assert db["8 bits, plain"]["64"] < db["8 bits, split"]["64"] - 3 < db["16 bits"]["64"] - 3


def test_the_stored_record_is_whole():
    record = evidence.load(outliers.RECORD)
    results, factors = record["results"], record["command"].partition("--factors ")[2].split()
    assert results["n"] >= 40 and len(factors) >= 2
    for way in WAYS:
        assert set(results["ways"][way]) == set(factors)
        assert all(len(cell["right"]) == results["n"] for cell in results["ways"][way].values())
