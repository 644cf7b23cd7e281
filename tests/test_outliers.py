"""Planting outliers changes no function, and the record of what they do to pictures is whole."""

from __future__ import annotations

import ast
import copy
import math
from pathlib import Path

import pytest
import torch
from commands import given
from transformers import AutoModel

from sana_lab import evidence, int8, outliers
from sana_lab.outliers import CHANNEL, WAYS
from sana_lab.planted import READERS, plant_in_encoder_
from sana_lab.shapes.untrained import untrained_shapes

PACKAGE = Path(outliers.__file__).parent


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
    planted = plant_in_encoder_(copy.deepcopy(encoder), channels, factor)
    assert int8.sqnr_db(output(encoder), output(planted)) > 90


@pytest.mark.parametrize("name", ["layers.0.self_attn.q_proj", "layers.3.self_attn.v_proj", "layers.2.mlp.up_proj"])
def test_every_reader_meets_the_outlier_and_nothing_else_changes(encoder, name):
    planted = plant_in_encoder_(copy.deepcopy(encoder), [3, 90], 50)
    ratio = read_by(planted, name) / read_by(encoder, name)
    others = [c for c in range(128) if c not in (3, 90)]
    assert torch.allclose(ratio[:, [3, 90]], torch.tensor(50.0), rtol=1e-2)
    assert torch.allclose(ratio[:, others].median(), torch.tensor(1.0), rtol=1e-3)


def test_in_bfloat16_only_rounding_differs(encoder):
    rough = copy.deepcopy(encoder).bfloat16()
    planted = plant_in_encoder_(copy.deepcopy(rough), [CHANNEL], 64)
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
        plant_in_encoder_(model, channels, factor)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), encoder.parameters(), strict=True))


def test_other_models_and_integers_are_refused(encoder):
    with pytest.raises(TypeError, match="Gemma 2's norms"):
        plant_in_encoder_(torch.nn.Linear(4, 4), [0], 2)
    quantized = copy.deepcopy(encoder)
    linear = quantized.layers[1].mlp.up_proj
    linear.weight = torch.nn.Parameter(linear.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(TypeError, match="quantize afterwards"):
        plant_in_encoder_(quantized, [0], 2)
    assert torch.equal(quantized.layers[0].input_layernorm.weight, encoder.layers[0].input_layernorm.weight)


@pytest.mark.parametrize(("number", "name"), [("4.47.1", "torch_dtype"), ("4.57.3", "torch_dtype"), ("5.0.0", "dtype")])
@pytest.mark.parametrize("threshold", [None, 6.0])
def test_the_type_of_weights_has_the_name_that_this_transformers_knows(monkeypatch, number, name, threshold):
    """4.47 to 4.53 raise TypeError at `dtype`: record `version_matrix`, probe encoder-dtype."""
    import transformers

    given = []
    monkeypatch.setattr(transformers, "__version__", number)
    monkeypatch.setattr(
        transformers.AutoModel, "from_pretrained", lambda _, **options: given.append(options) or encoder
    )
    monkeypatch.setattr(outliers, "contiguous_inputs_", lambda model: model)
    encoder = torch.nn.Linear(2, 2)
    outliers.load_encoder("somewhere", threshold, "cpu")
    assert given[0][name] == torch.bfloat16 and len(given[0].keys() & {"dtype", "torch_dtype"}) == 1


SPELLED_FOR_TODAY = (
    "advice", "failures/families", "upstream", "fitting/ways.py", "evaluate/guidance_off.py", "measure/left_behind.py",
    "measure/torchao_float8.py", "versions/probes.py",
)  # fmt: skip
"""Lines that a reader is shown, and what makes records with the versions that are pinned; of probes, what they ask."""


def test_what_loads_for_users_asks_how_the_type_is_called():
    bare = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "").endswith("from_pretrained"):
                if {"dtype", "torch_dtype"} & {keyword.arg for keyword in node.keywords}:
                    bare.add(path.relative_to(PACKAGE).as_posix())
    assert [file for file in sorted(bare) if not file.startswith(SPELLED_FOR_TODAY)] == []
    assert all(any(file.startswith(known) for file in bare) for known in SPELLED_FOR_TODAY)


@pytest.mark.parametrize("threshold", [-1, math.nan, math.inf])
def test_a_bad_threshold_is_refused_before_loading(threshold):
    with pytest.raises(ValueError, match="threshold"):
        outliers.load_encoder("nowhere", threshold)


@pytest.mark.parametrize(
    "arguments",
    [
        ["-n", "0"],
        ["--steps", "0"],
        ["--batch", "-1"],
        ["--model", "nowhere"],
        ["--factors", "0"],
        ["--factors", "inf"],
    ],
)
def test_a_bad_command_line_is_one_clear_line(arguments, capsys):
    assert outliers.main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("python -m sana_lab.outliers: ") and said.count("\n") == 1 and arguments[-1] in said


@pytest.fixture
def drawn(monkeypatch):
    """No drawing: a picture that is right for every other scene. Collects how many scenes each call was to draw."""
    from sana_lab import render

    calls = []

    def draw(pipe, scenes, *, steps, seed, batch):
        calls.append(len(scenes))
        for start in range(0, len(scenes), batch):
            yield [render(scenes[i - i % 2]) for i in range(start, min(start + batch, len(scenes)))]

    monkeypatch.setattr(outliers, "draw", draw)
    monkeypatch.setattr(outliers.isolated, "readers", lambda: 0)
    return calls


def test_a_small_record_has_every_way_and_size(tmp_path, drawn):
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


def stop_after(monkeypatch, calls, n):
    """Make the run end as by Ctrl+C once so many ways are drawn."""
    draw = outliers.draw

    def stopping(*args, **kwargs):
        if len(calls) == n:
            raise KeyboardInterrupt
        yield from draw(*args, **kwargs)

    monkeypatch.setattr(outliers, "draw", stopping)


def untimed(folder):
    """The record's results without what differs from run to run."""
    results = evidence.load(outliers.RECORD, folder=folder)["results"]
    cells = {w: {f: dict(c, seconds=0) for f, c in cells.items()} for w, cells in results["ways"].items()}
    return dict(results, ways=cells, seconds=0)


def test_a_stopped_run_goes_on_where_it_stood(tmp_path, drawn, monkeypatch):
    arguments = {"model": untrained_shapes(), "factors": (1, 64)}
    outliers.record(2, folder=tmp_path / "whole", **arguments)
    drawn.clear()
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        stop_after(patched, drawn, 4)
        outliers.record(2, folder=tmp_path / "stopped", **arguments)
    assert [path.name for path in (tmp_path / "stopped").iterdir()] == ["outlier_adherence.partial"]
    outliers.record(2, folder=tmp_path / "stopped", **arguments)
    assert len(drawn) == 6, "what was finished is not drawn again, what was not is"
    assert untimed(tmp_path / "stopped") == untimed(tmp_path / "whole")
    assert [path.name for path in (tmp_path / "stopped").iterdir()] == ["outlier_adherence.json"]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"n": 3}, "-n 2 "),
        ({"batch": 7}, "--batch 50"),
        ({"factors": (1, 32)}, "--factors 1 64"),
        ({"seed": 1}, "--seed 0"),
        ({"versions": {"torch": "1.0"}}, "versions torch "),
    ],
)
def test_what_another_run_left_is_refused_and_kept(tmp_path, monkeypatch, other, said):
    def stopped(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(outliers, "measure", stopped)
    arguments = {"n": 2, "model": untrained_shapes(), "factors": (1, 64), "folder": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        outliers.record(**arguments)
    left = (tmp_path / "outlier_adherence.partial").read_text()
    if versions := other.pop("versions", None):
        monkeypatch.setattr(evidence, "installed_versions", lambda: versions)
    with pytest.raises(ValueError, match="holds a run with") as refused:
        outliers.record(**arguments | other)
    assert said in str(refused.value) and "delete it" in str(refused.value) and "\n" not in str(refused.value)
    assert (tmp_path / "outlier_adherence.partial").read_text() == left


def test_a_damaged_file_and_a_folder_that_is_none_are_told_before_drawing(tmp_path, drawn):
    for text in ('{"settings": {', "[]", '{"found": {}}', '{"settings": {}, "found": {"16 bits": {"1": "1010"}}}'):
        (tmp_path / "outlier_adherence.partial").write_text(text)
        with pytest.raises(ValueError, match=r"outlier_adherence.partial is damaged \(.*delete it"):
            outliers.record(2, model=untrained_shapes(), folder=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="--out FOLDER"):
        outliers.record(2, model=untrained_shapes(), folder=tmp_path / "file")
    assert not drawn


def test_the_recorded_command_asks_for_what_was_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(outliers, "measure", lambda *args, **kwargs: {})
    outliers.record(3, model=untrained_shapes(), batch=2, steps=4, factors=(1, 33.5), seed=9, folder=tmp_path)
    found = evidence.load(outliers.RECORD, folder=tmp_path)
    asked = given(outliers.record_command, found["command"].split()[3:])
    expected = {"n": 3, "batch": 2, "steps": 4, "seed": 9, "factors": [1, 33.5]}
    assert {name: asked[name] for name in expected} == expected


def test_the_stored_record_is_whole():
    record = evidence.load(outliers.RECORD)
    results, asked = record["results"], given(outliers.record_command, record["command"].split()[3:])
    factors = {f"{factor:g}" for factor in asked["factors"]}
    assert results["n"] == asked["n"] >= 40 and results["steps"] == asked["steps"]
    assert {"100", "1000"} <= factors, "chapter 3 speaks of these"
    for way in WAYS:
        assert set(results["ways"][way]) == factors
        assert all(len(cell["right"]) == results["n"] for cell in results["ways"][way].values())
