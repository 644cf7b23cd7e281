"""The evaluation: distances against references, and runs that stop, go on, and share their work."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from small_sana import build_folder

from sana_lab import checkpoints, evidence, use_accelerator
from sana_lab.evaluate import cli, conditions, runner, statistics
from sana_lab.evaluate.distance import psnr, ssim
from sana_lab.evaluate.runner import Plan, Run
from sana_lab.shapes import render, sample_scenes
from sana_lab.shapes.manifest import write_manifest
from sana_lab.shapes.rendering import encode_scenes, render_codes
from sana_lab.shapes.scoring import ALL_RIGHT

REAL_DRAW = runner.draw
SMALL = dict(n=2, conditions=("w2", "other-noise"), objects=(1,), steps=1, chunk=1, sweep=0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A pipeline of some 200,000 random weights."""
    return build_folder(tmp_path_factory.mktemp("model") / "pipeline")


def small(scene):
    """The true picture as uint8, as large as the reader looks, (128, 128, 3)."""
    return ((render_codes(encode_scenes([scene]), pixels=128)[0].permute(1, 2, 0) + 1) * 127.5).round().byte()


def quick_draw(pipe, scenes, seeds, *, steps, guidance):
    """Drawings that depend on weights, scene and seed as real ones do but take no time."""
    weight = pipe.transformer.proj_out.weight.double().sum().item() + pipe.text_encoder.norm.weight.sum().item()
    pictures = []
    for scene, seed in zip(scenes, seeds, strict=True):
        drawn = small(scene)
        noise = torch.randn(drawn.shape, generator=torch.Generator().manual_seed(seed)) * (20 + weight % 7)
        pictures.append((drawn + noise).clamp(0, 255).to(torch.uint8))
    return torch.stack(pictures)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(runner, "draw", quick_draw)


@pytest.fixture
def gpu():
    with use_accelerator(virtual=True):
        yield


def results(out):
    return evidence.load(statistics.RECORD, folder=out)["results"]


# ---- distances ---------------------------------------------------------------------------------------------------


def reference_ssim(a, b):
    """Wang et al. 2004, equation 13, with scipy's filter over the whole picture and the borders cut off."""
    a, b = a.astype(float), b.astype(float)

    def mean(x):
        return ndimage.uniform_filter(x, (7, 7, 1))

    mx, my = mean(a), mean(b)
    vx, vy, cov = (49 / 48 * (mean(p * q) - mean(p) * mean(q)) for p, q in ((a, a), (b, b), (a, b)))
    c1, c2 = 2.55**2, 7.65**2
    full = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return full[3:-3, 3:-3].mean()


@pytest.mark.parametrize("seed", range(5))
def test_distances_equal_references(seed):
    rng = np.random.default_rng(seed)
    a = np.asarray(render(sample_scenes(5, 2, 0)[seed]).resize((64, 48))).copy()
    b = (a + rng.normal(0, 3 * 4**seed, a.shape)).clip(0, 255).astype(np.uint8)
    ta, tb = torch.from_numpy(a), torch.from_numpy(b)
    error = ((a.astype(float) - b) ** 2).mean()
    assert psnr(ta, tb) == pytest.approx(10 * math.log10(255**2 / error))
    assert ssim(ta, tb) == pytest.approx(reference_ssim(a, b), abs=1e-9)
    assert ssim(tb, ta) == pytest.approx(ssim(ta, tb), abs=1e-12)
    assert psnr(ta, ta) == math.inf and ssim(ta, ta) == pytest.approx(1)


def test_distances_refuse_what_they_cannot_compare():
    a = torch.zeros(8, 8, 3, dtype=torch.uint8)
    for measure in (psnr, ssim):
        with pytest.raises(TypeError, match="uint8"):
            measure(a, a.float())
        with pytest.raises(ValueError, match="one size"):
            measure(a, a[:7])
    with pytest.raises(ValueError, match="from 7 pixels up"):
        ssim(a[:6], a[:6])


# ---- conditions --------------------------------------------------------------------------------------------------


def test_simulated_bits_round_what_bitsandbytes_replaces(model, gpu):
    from bitsandbytes.nn import Linear8bitLt

    eight = conditions.load(model, conditions.CONDITIONS["int8"], "cuda")
    plain = conditions.load(model, conditions.CONDITIONS["bf16"], "cuda")
    three = conditions.load(model, conditions.CONDITIONS["w3"], "cuda")
    for component in conditions.COMPONENTS:
        replaced = {n for n, m in getattr(eight, component).named_modules() if isinstance(m, Linear8bitLt)}
        before, after = getattr(plain, component).state_dict(), getattr(three, component).state_dict()
        changed = {name.removesuffix(".weight") for name in before if not torch.equal(before[name], after[name])}
        assert replaced and changed == replaced
        assert all(len(after[f"{name}.weight"][0].unique()) <= 7 for name in replaced)


def test_simulated_bits_round_the_kinds_of_layers_that_are_named(model, gpu):
    """What a ladder rounds is what its title says, in both components, and no embedding, norm, bias or autoencoder."""
    kinds = {"w3": ("Linear",), "c3": ("Conv2d",), "wc3": ("Linear", "Conv2d")}
    plain = conditions.load(model, conditions.CONDITIONS["bf16"], "cuda")
    layers = [layer for layer in conditions.layers(plain) if layer.weights > 32]  # a small weight may be on the grid
    for name, wanted in kinds.items():
        condition = conditions.CONDITIONS[name]
        assert condition.title == f"3-bit {' and '.join(wanted)}, simulated"
        pipe = conditions.load(model, condition, "cuda")
        for component in (*conditions.COMPONENTS, "vae"):
            before, after = getattr(plain, component).state_dict(), getattr(pipe, component).state_dict()
            changed = {key for key in before if not torch.equal(before[key], after[key])}
            named = {f"{x.name}.weight" for x in layers if x.component == component and x.kind in wanted}
            assert named <= changed, (name, component)
            assert all(key in named or before[key].numel() <= 32 for key in changed), (name, component)
            assert all(len(channel.unique()) <= 7 for key in named for channel in after[key].flatten(1))


@pytest.mark.parametrize("name", ["int8-t0", "int8-transformer", "int8-encoder"])
def test_parts_and_threshold_of_int8(model, gpu, name):
    from bitsandbytes.nn import Linear8bitLt

    condition = conditions.CONDITIONS[name]
    pipe = conditions.load(model, condition, "cuda")
    for component in conditions.COMPONENTS:
        layers = [m for m in getattr(pipe, component).modules() if isinstance(m, Linear8bitLt)]
        assert bool(layers) == (component in condition.components)
        assert {m.state.threshold for m in layers} <= {condition.threshold}
        assert not getattr(pipe, component).training


def test_slim_keeps_another_threshold_and_the_parts(model, gpu):
    from sana_lab import slim

    condition = conditions.Condition("int8, slim, threshold 0", "int8", threshold=0.0, slim=True)
    pipe = conditions.load(model, condition, "cuda")
    pointwise = [m for m in pipe.transformer.modules() if isinstance(m, slim.Pointwise8bit)]
    assert pointwise and {m.state.threshold for m in pointwise} == {0.0}
    assert isinstance(pipe.text_encoder.get_input_embeddings(), slim.ScaledEmbedding8bit)
    encoder_alone = conditions.Condition("int8, slim encoder", "int8", ("text_encoder",), slim=True)
    pipe = conditions.load(model, encoder_alone, "cuda")
    assert not any(isinstance(m, slim.Pointwise8bit) for m in pipe.transformer.modules())
    assert isinstance(pipe.text_encoder.get_input_embeddings(), slim.ScaledEmbedding8bit)


def test_one_layer_is_rounded_and_restored(model, gpu):
    pipe = conditions.load(model, conditions.CONDITIONS["bf16"], "cuda")
    layers = conditions.layers(pipe)
    assert {layer.kind for layer in layers} == {"Linear", "Conv2d"} and len({layer.path for layer in layers}) > 20
    layer = next(layer for layer in layers if layer.kind == "Conv2d")
    before = {k: v.clone() for k, v in pipe.transformer.state_dict().items()}
    with pytest.raises(KeyError), conditions.one_layer_quantized(pipe, layer, 2) as sqnr:
        changed = [k for k, v in pipe.transformer.state_dict().items() if not torch.equal(v, before[k])]
        assert changed == [f"{layer.name}.weight"] and 0 < sqnr < 20
        raise KeyError
    assert all(torch.equal(v, before[k]) for k, v in pipe.transformer.state_dict().items())


@pytest.fixture(scope="module")
def recorded_once(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("recorded")
    with pytest.MonkeyPatch.context() as patch, use_accelerator(virtual=True):
        patch.setattr(runner, "draw", quick_draw)
        Run(Plan(str(model), **SMALL), out, "cuda").go(progress=False)
    return out / f"{statistics.RECORD}.json"


@pytest.fixture
def finished(recorded_once, tmp_path):
    """The folder of a run of `SMALL` that came to its end: parts, settings and the record."""
    return shutil.copytree(recorded_once.parent, tmp_path / "finished")


# ---- the run -----------------------------------------------------------------------------------------------------


def test_one_process_or_three_give_the_same_record(model, gpu, tmp_path, monkeypatch):
    layers = conditions.layers
    monkeypatch.setattr(conditions, "layers", lambda pipe: layers(pipe)[-2:])
    plan = Plan(str(model), **{**SMALL, "n": 3, "n_of": (("w2", 5),), "chunk": 2, "sweep": 2, "objects": (1, 2)})
    one = Run(plan, tmp_path / "one", "cuda").go(progress=False)
    written = [Run(plan, tmp_path / "three", "cuda", rank=r, world=3).go(progress=False) for r in (2, 0, 1)]
    assert one is not None and written[:2] == [None, None] and written[2] is not None
    assert results(tmp_path / "one") == results(tmp_path / "three")
    found = results(tmp_path / "one")
    assert found["conditions"]["w2"]["objects"]["2"]["n"] == found["conditions"]["bf16"]["objects"]["2"]["n"] == 5
    assert found["conditions"]["other-noise"]["objects"]["1"]["n"] == 3
    assert [layer["name"] for layer in found["sweep"]["layers"]] == [layer.name for layer in Run(
        plan, tmp_path / "one", "cuda").layers]  # fmt: skip


def test_a_stopped_run_goes_on_and_ends_as_one_that_was_not(model, gpu, tmp_path, finished, monkeypatch):
    plan = Plan(str(model), **SMALL)
    draw, drawn = runner.draw, []

    def stopping(*args, **options):
        drawn.append(1)
        if len(drawn) == 4:
            raise KeyboardInterrupt
        return draw(*args, **options)

    monkeypatch.setattr(runner, "draw", stopping)
    with pytest.raises(KeyboardInterrupt):
        Run(plan, tmp_path / "cut", "cuda").go(progress=False)
    kept = {path.name: path.read_bytes() for path in (tmp_path / "cut" / "parts").iterdir()}
    assert len(kept) >= 2 and not (tmp_path / "cut" / f"{statistics.RECORD}.json").exists()
    next(iter((tmp_path / "cut" / "parts").iterdir())).write_text("{", encoding="utf-8")  # a damaged chunk, too
    Run(plan, tmp_path / "cut", "cuda").go(progress=False)
    assert results(tmp_path / "cut") == results(finished)


def test_more_scenes_and_conditions_keep_what_is_there(model, gpu, finished):
    before = {p.name: p.stat().st_mtime_ns for p in (finished / "parts").iterdir()}
    Run(Plan(str(model), **{**SMALL, "n": 3, "conditions": ("w2", "w3", "other-noise")}), finished, "cuda").go(False)
    after = {p.name: p.stat().st_mtime_ns for p in (finished / "parts").iterdir()}
    assert before.items() <= after.items() and len(after) == 12


def test_a_record_has_the_name_that_is_asked(model, gpu, tmp_path):
    plan = Plan(str(model), **SMALL, record="another")
    assert Run(plan, tmp_path, "cuda").go(progress=False) == tmp_path / "another.json"
    record = evidence.load("another", folder=tmp_path)
    assert record["command"].endswith("--record another") and "--record" not in runner.command(
        Plan(str(model), **SMALL)
    )
    assert Run(Plan(str(model), **SMALL), tmp_path, "cuda").go(progress=False).stem == statistics.RECORD
    assert results(tmp_path) == record["results"]
    assert statistics.load_evaluation("another", model=model, folder=tmp_path).record == record


def test_reading_in_other_processes_changes_nothing(model, gpu, tmp_path):
    plan = Plan(str(model), **{**SMALL, "conditions": ("w2",)})
    Run(plan, tmp_path / "here", "cuda").go(progress=False)
    Run(plan, tmp_path / "there", "cuda", readers=1).go(progress=False)
    assert results(tmp_path / "here") == results(tmp_path / "there")


def test_outcomes_in_the_record_are_those_of_the_pictures(model, gpu, tmp_path):
    plan = Plan(str(model), **{**SMALL, "n": 4, "conditions": ("w2", "other-noise")})
    Run(plan, tmp_path, "cuda").go(progress=False)
    record = statistics.load_evaluation(model=model, folder=tmp_path)
    scenes = statistics.paired_scenes(4, 1)
    pipe = conditions.load(model, conditions.CONDITIONS["w2"], "cuda")
    pictures = [runner.draw(pipe, [s], [i], steps=1, guidance=4.5)[0] for i, s in enumerate(scenes)]
    rights = statistics.adherence([Image.fromarray(p.numpy()) for p in pictures], scenes)
    assert (record.outcomes("w2", 1).right[ALL_RIGHT] == rights.right).all()
    assert record.outcomes("bf16", 1).psnr.tolist() == [math.inf] * 4
    assert record.outcomes("other-noise").ssim.max() < 0.9
    same = record.compare("bf16", "w2", attribute="color")
    assert same.n == 4
    with pytest.raises(ValueError, match="no condition 'int8' in this record; it has bf16"):
        record.outcomes("int8")
    with pytest.raises(ValueError, match="no scenes with 2 objects in this record; it has 1"):
        record.outcomes("w2", 2)
    with pytest.raises(ValueError, match="no attribute 'taste'"):
        record.compare("bf16", "w2", attribute="taste")


def test_pictures_are_those_that_the_pipeline_makes_by_default(model, gpu):
    pipe = conditions.load(model, conditions.CONDITIONS["bf16"], "cuda")
    scenes = statistics.paired_scenes(1, 2)
    drawn = REAL_DRAW(pipe, scenes, [5], steps=1, guidance=4.5)
    generator = torch.Generator("cpu").manual_seed(5)
    options = dict(num_inference_steps=1, guidance_scale=4.5, height=512, width=512, generator=[generator])
    picture = pipe([str(statistics.caption(scenes[0]))], **options).images[0]
    assert (drawn[0].cpu().numpy() == np.asarray(picture)).all()


def test_examples_are_different_scenes_each_at_its_best_place():
    found = [("far", 1, 0, "w3", 2, 7), ("far", 2, 0, "w4", 2, 7), ("far", 3, 0, "w3", 1, 7), ("far", 4, 0, "w3", 2, 8)]
    assert runner._different(found) == [found[0], found[2], found[3]]


def test_pictures_are_read_as_large_ones_are():
    for scene in sample_scenes(4, 2, 0):
        picture = torch.from_numpy(np.asarray(render(scene)).copy())
        assert (np.asarray(runner.small_picture(picture)) == np.asarray(render(scene).reduce(4))).all()


# ---- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"n": 0}, "n = 0 scenes"),
        ({"n": 1001}, "n = 1001 scenes"),
        ({"conditions": ("int7",)}, "condition 'int7' is unknown: choose from bf16"),
        ({"n_of": (("int9", 5),)}, "condition 'int9' is unknown"),
        ({"n_of": (("int8", 0),)}, "n = 0 scenes for 'int8'"),
        ({"objects": ()}, "give 1, 2 or both"),
        ({"objects": (3,)}, "give 1, 2 or both"),
        ({"objects": (1, 1)}, "give 1, 2 or both"),
        ({"steps": 0}, "steps = 0"),
        ({"chunk": 0}, "chunk = 0"),
        ({"sweep": -1}, "sweep = -1"),
        ({"sweep_bits": 1}, "sweep bits 1"),
        ({"guidance": math.nan}, "guidance = nan"),
        ({"record": "Not a.name"}, "is not a record's name"),
    ],
)
def test_bad_plans_are_refused(given, said):
    with pytest.raises(ValueError, match=said):
        Plan(**given)


def test_a_folder_of_another_run_is_refused(model, tmp_path):
    Run(Plan(str(model), **SMALL), tmp_path, "cuda")
    with pytest.raises(ValueError, match="holds a run with steps 1, not 2: give another --out"):
        Run(Plan(str(model), **{**SMALL, "steps": 2}), tmp_path, "cuda")
    other = shutil.copytree(model, tmp_path / "other")
    (other / "transformer" / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="holds a run with weights"):
        Run(Plan(str(other), **SMALL), tmp_path, "cuda")
    for text in ("{", "[]", "null", "3", '"text"'):
        (tmp_path / "settings.json").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=r"settings.json is damaged \(.*give another --out") as refused:
            Run(Plan(str(model), **SMALL), tmp_path, "cuda")
        assert "\n" not in str(refused.value)


def test_results_without_their_settings_are_refused(model, finished):
    (finished / "settings.json").unlink()
    with pytest.raises(ValueError, match="is there without settings.json"):
        Run(Plan(str(model), **SMALL), finished, "cuda")


@pytest.mark.parametrize(
    "text", ["[1]", "3", "null", '{"i": 0}', '{"i": 0, "right": [true], "psnr": 1.0, "ssim": 1}', "[" * 9999, '"i"']
)
def test_a_part_that_is_json_but_not_ours_is_drawn_again(model, gpu, finished, text):
    first = results(finished)
    part = sorted((finished / "parts").iterdir())[0]
    whole = part.read_bytes()
    part.write_text(text + "\n", encoding="utf-8")
    Run(Plan(str(model), **SMALL), finished, "cuda").go(progress=False)
    assert results(finished) == first
    assert part.read_bytes() == whole


def on_a_real_gpu(monkeypatch):
    """Let the command see one; gives what `use_accelerator` was asked."""
    import sana_lab

    asked = []

    def use(**options):
        asked.append(options)
        return SimpleNamespace(virtual=False)

    monkeypatch.setattr(sana_lab, "use_accelerator", use, raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    return asked


def test_which_gpu_is_left_to_use_accelerator(tmp_path, monkeypatch):
    """Which heeds SANA_LAB_VIRTUAL=1, as for every command."""
    asked = on_a_real_gpu(monkeypatch)
    monkeypatch.setattr(Run, "go", lambda self, progress: None)
    for options in ([], ["--virtual"]):
        assert cli.main(["--out", str(tmp_path), *options]) == 0
    assert [options["virtual"] for options in asked] == [None, True]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-n", "0"], "--n 0: give a whole number from 1 to 1,000"),
        (["--conditions", "bf16,int7"], "condition 'int7' is unknown"),
        (["--model", "nowhere"], "model 'nowhere' is unknown: choose from shapes, 600M-512"),
        (["--out", "file/below"], "cannot be written"),
    ],
)
def test_bad_input_is_one_line(model, tmp_path, monkeypatch, capsys, options, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("", encoding="utf-8")
    usual = {"--out": "out", "--model": str(model)} | dict(zip(options[::2], options[1::2], strict=True))
    on_a_real_gpu(monkeypatch)  # no virtual GPU that would outlive this test
    assert cli.main([word for pair in usual.items() for word in pair]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and said in err


def test_accelerate_that_starts_one_process_of_two_is_noticed(tmp_path, monkeypatch, capsys):
    on_a_real_gpu(monkeypatch)
    monkeypatch.setattr(Run, "go", lambda self, progress: None)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    for address, warnings in ((None, 0), ("127.0.0.1", 1)):
        if address:
            monkeypatch.setenv("MASTER_ADDR", address)
        assert cli.main(["--out", str(tmp_path)]) == 0
        assert capsys.readouterr().err.count("add --multi_gpu") == warnings


def test_the_books_command_passes_everything_on(tmp_path, monkeypatch, capsys):
    from sana_lab import cli as book

    monkeypatch.setattr(sys, "argv", ["sana-lab", "evaluate", "--out", str(tmp_path), "-n", "0"])
    with pytest.raises(SystemExit) as stop:
        book.main()
    assert stop.value.code == 2 and capsys.readouterr().err.startswith("sana-lab: --n 0: give")
    monkeypatch.setattr(sys, "argv", ["sana-lab", "evaluate", "--help"])
    with pytest.raises(SystemExit) as stop:
        book.main()
    assert not stop.value.code and "accelerate launch" in capsys.readouterr().out


@pytest.fixture
def recorded(recorded_once, tmp_path):
    shutil.copy(recorded_once, tmp_path)
    return tmp_path


def another_reader(results):
    """A picture in the record that was read otherwise than today."""
    picture = render(statistics.paired_scenes(1, 1)[0]).reduce(4)
    shown = {"bf16": {"webp": statistics.pack_picture(picture), "right": [1, 1, 1, 1, 1, 1, 0]}}
    results["examples"] = [{"i": 0, "objects": 1, "pictures": shown}]


def test_a_record_is_read_where_it_belongs(recorded, model):
    assert list(statistics.load_evaluation(model=model, folder=recorded).conditions) == ["bf16", "other-noise", "w2"]
    path = recorded / f"{statistics.RECORD}.json"
    record = json.loads(path.read_text())
    another_reader(record["results"])
    record["results"]["examples"][0]["pictures"]["bf16"]["right"][-1] = 1  # as today's reader reads it
    path.write_text(json.dumps(record))
    assert statistics.load_evaluation(model=model, folder=recorded).record == record


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r["settings"].update(format=0), "has format 0"),
        (lambda r: r["settings"].update(scenes="0"), "is of other scenes"),
        (lambda r: r["settings"].update(weights="0"), "is of weights 0, the model here has"),
        (another_reader, "of another reader"),
    ],
)
def test_a_record_of_other_code_or_weights_is_refused(recorded, model, change, said):
    path = recorded / f"{statistics.RECORD}.json"
    record = json.loads(path.read_text())
    change(record["results"])
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=f"{said}.*record it again: sana-lab evaluate"):
        statistics.load_evaluation(model=model, folder=recorded)


def test_the_shapes_model_is_checked(tmp_path, monkeypatch, model):
    copy = shutil.copytree(model, tmp_path / "shapes")
    write_manifest(copy)
    (copy / "vae" / "config.json").unlink()
    monkeypatch.setattr(checkpoints, "SHAPES_FOLDER", copy)
    with pytest.raises(OSError, match="is missing"):
        Run(Plan("shapes", **SMALL), tmp_path / "out", "cuda")


def test_it_needs_none_of_the_books_own_libraries():
    code = (
        "import sys\n"
        "for name in ('pandas', 'matplotlib', 'IPython', 'ipywidgets', 'packaging.specifiers'): "
        "sys.modules[name] = None\n"
        "import sana_lab.evaluate.cli as cli\n"
        "cli.draw = lambda plan, *options: print(plan.objects, plan.n_of)\n"
        "cli.main(['--out', 'y', '--objects', '2', '--n-of', 'int8=7'])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "(2,) (('int8', 7),)", run.stderr


# ---- the record in the package -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [statistics.RECORD, "evaluation_convolutions"])
def test_the_record_of_the_package_agrees_with_itself(name):
    evaluation = statistics.load_evaluation(name)
    path = evidence.FOLDER / f"{name}.json"
    assert path.stat().st_size < 300_000
    for name in evaluation.conditions:
        for objects in evaluation.settings["objects"]:
            entry = evaluation.record["results"]["conditions"][name]["objects"][str(objects)]
            outcomes = evaluation.outcomes(name, objects)
            for attribute, rate in outcomes.rates.items():
                low, high = rate.interval
                kept = entry["rates"][attribute]
                assert (kept["right"], kept["low"], kept["high"]) == (rate.right, round(low, 4), round(high, 4))
            table = evaluation.compare("bf16", name, objects)
            kept = entry["paired"]
            assert (kept["only_reference"], kept["only_this"]) == (table.only_first, table.only_second)
            assert kept["p"] == pytest.approx(table.p, rel=1e-3)


def test_both_records_are_of_the_same_scenes_weights_and_settings():
    one, other = (statistics.load_evaluation(name) for name in (statistics.RECORD, "evaluation_convolutions"))
    assert one.settings == other.settings
    for objects in one.settings["objects"]:  # other GPUs, and the same pictures but for the last digits
        for name in ("bf16", "w3"):
            first, second = one.outcomes(name, objects), other.outcomes(name, objects)
            assert (first.right[ALL_RIGHT][: second.n] != second.right[ALL_RIGHT]).sum() <= 2
