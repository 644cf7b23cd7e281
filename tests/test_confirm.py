"""`sana-lab confirm`: one run on a tiny model looked at from all sides, and every way in which it can be stopped."""

from __future__ import annotations

import dataclasses
import errno
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from processes import start_by_fork
from safetensors.torch import load_file, save_file

from sana_lab import cli, commandline, evidence, use_accelerator
from sana_lab.checkpoints import CHECKPOINTS, resolve
from sana_lab.confirm import claims, files, kept, runner, watched, worker
from sana_lab.confirm import record as records
from sana_lab.confirm.page import page
from sana_lab.confirm.plan import WAYS, Plan, part_three
from sana_lab.evidence import contributed, journal
from sana_lab.failures.outcome import Outcome
from sana_lab.random_checkpoint import make
from sana_lab.shapes.tiny import tiny_sana

PROMPTS = ("a small red star", "a large blue ring <b>")


class Here:
    """`isolated.Worker` without a process: imports take longer than all that these tests do."""

    status, late, words = 0, False, ""
    begun: list[str] = []

    def __init__(self, command, request, *, environ=None, limit=None):
        self.request = json.loads(json.dumps(request))

    def __enter__(self):
        self.begun.append(self.request["step"])
        return self

    def __exit__(self, *exc):
        pass

    def __iter__(self):
        return iter(json.loads(json.dumps(answer)) for answer in worker.answers(self.request))


@pytest.fixture
def here(monkeypatch):
    """Steps run in this process; the list of those that were begun."""
    monkeypatch.setattr(runner.isolated, "Worker", Here)
    Here.begun = []
    yield Here.begun
    use_accelerator(virtual=True).leave()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_sana(tmp_path_factory.mktemp("tiny") / "tiny")


def plan(**more):
    return Plan(**{"prompts": PROMPTS, "gpu": "virtual", "steps": 1, "pixels": 64} | more)


@pytest.fixture(scope="module")
def done(tiny, tmp_path_factory):
    """A whole run: its folder and its record."""
    out = tmp_path_factory.mktemp("done") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner.isolated, "Worker", Here)
        record = runner.confirm(tiny, out, plan(), progress=False, command="sana-lab confirm FOLDER --virtual")
        use_accelerator(virtual=True).leave()
    return out, record


def state(record, id):
    return next(one.state for one in record.verdicts if one.id == id)


def refused(*arguments):
    """What the command says in one line when it refuses."""
    import contextlib
    import io

    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        status = commandline.run_command(cli.app, "sana-lab", ["confirm", *map(str, arguments)])
    assert status == 2 and said.getvalue().count("\n") == 1, said.getvalue()
    return said.getvalue()


# ---- a whole run -------------------------------------------------------------------------------------------------


def test_every_way_holds_the_bytes_that_were_predicted(done):
    ways = done[1].results["ways"]
    assert list(ways) == list(WAYS) and not [name for name, way in ways.items() if "failed" in way]
    for name, way in ways.items():
        if name != "fast":  # whose queries, keys and values are one tensor, which takes one rounding less
            assert way["held"] == done[1].results["files"]["predicted"][name], name
        assert way["load"]["peak"] >= way["allocated"] > 0 and way["load"]["seconds"] is None
        assert way["pictures"]["drawn"] == 2 and {"encode", "steps", "decode"} <= set(way["stages"])
    assert sum(ways["slim"]["held"].values()) < sum(ways["recipe"]["held"].values())


def test_every_claim_has_a_verdict_with_a_reason(done):
    verdicts = done[1].verdicts
    assert [one.id for one in verdicts] == [one.id for one in sorted(claims.CLAIMS, key=lambda one: one.chapter)]
    assert len({one.id for one in verdicts}) == len(verdicts) >= 30
    assert all(one.why and one.state in contributed.STATES for one in verdicts)
    for id in ("bytes-16-bit", "bytes-recipe", "bytes-slim", "bytes-fp8", "weights-are-whole", "guard-finds-nothing"):
        assert state(done[1], id) == claims.HOLDS, id
    assert state(done[1], "recipe-reaches-linear-alone") == claims.HOLDS
    assert state(done[1], "nonsense-without-guidance") == claims.HOLDS  # the virtual GPU reads memory as CUDA does
    for id in ("recipe-is-slower", "shapes-transformer", "text-encoder-overflows-in-float16", "draws-as-asked"):
        assert state(done[1], id) == claims.NOT_CHECKED, id


def test_the_record_is_whole_and_names_no_folder(done, tiny):
    out, record = done
    text = (out / "confirmed.json").read_text()
    assert str(tiny) not in text and str(out) not in text and str(Path.home()) + "/" not in text
    assert records.load(out).record == record.record == contributed.load(out / "confirmed.json")
    assert re.fullmatch(r"tiny: of \d+ claims \d+ hold, \d+ do not hold, \d+ could not be checked", str(record))
    assert set(record.ways.index) == set(WAYS) and len(record.claims) == len(record.verdicts)


def test_the_page_needs_nothing_from_outside(done):
    out, record = done
    text = (out / "confirmed.html").read_text()
    assert text == page(record, out)
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", text) and "@import" not in text and "url(" not in text
    assert text.count("data:image/webp;base64,") == len(WAYS) * 2 + 3
    assert "<b>" not in re.sub(r"<b class[^>]*>", "", text) and "a large blue ring &lt;b&gt;" in text
    assert all(f'id="{one.id}"' in text for one in record.verdicts)
    import base64

    inside = re.search(r'href="data:application/json;base64,([^"]+)"', text)[1]
    assert json.loads(base64.b64decode(inside)) == record.record


def test_pictures_of_one_prompt_are_paired(done):
    out, record = done
    assert set(record.results["pairs"]) == set(WAYS) - {"16-bit"}
    assert record.results["off"].keys() == {"recipe", "guard"}
    assert record.results["off"]["guard"] > record.results["off"]["recipe"] + 6
    assert len(list((out / "pictures").rglob("*.png"))) == len(WAYS) * 2 + 3
    assert not list(out.rglob("*.partial"))


def test_the_same_command_again_runs_nothing_and_another_setting_is_refused(done, here, tiny):
    out, record = done
    again = runner.confirm(tiny, out, plan(), progress=False, command="sana-lab confirm FOLDER --virtual")
    assert here == [] and again.results == record.results
    with pytest.raises(ValueError, match="steps 1, not 2"):
        runner.confirm(tiny, out, plan(steps=2), progress=False)
    with pytest.raises(ValueError, match="prompts"):
        runner.confirm(tiny, out, plan(prompts=PROMPTS[:1]), progress=False)
    assert here == []


def test_a_stopped_run_goes_on(here, tiny, tmp_path, monkeypatch):
    some = plan(ways=("16-bit", "slim"), prompts=PROMPTS[:1])
    from sana_lab.confirm import ways

    def stop(source, prompts):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(ways.LOADERS, "slim", stop)
        with pytest.raises(KeyboardInterrupt):
            runner.confirm(tiny, tmp_path / "out", some, progress=False)
    assert here == ["files", "16-bit", "slim"] and not (tmp_path / "out/confirmed.json").exists()
    here.clear()
    record = runner.confirm(tiny, tmp_path / "out", some, progress=False)
    assert here == ["slim"] and set(record.results["ways"]) == {"16-bit", "slim"}
    here.clear()  # more ways may be asked for later; what is there is not run again
    record = runner.confirm(
        tiny, tmp_path / "out", plan(ways=("16-bit", "slim", "fp8"), prompts=PROMPTS[:1]), progress=False
    )
    assert here == ["fp8"] and len(record.results["ways"]) == 3


def test_a_way_that_fails_is_a_finding_and_the_others_go_on(here, tiny, tmp_path, monkeypatch):
    from sana_lab.confirm import ways

    def no_room(source, prompts):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setitem(ways.LOADERS, "16-bit", no_room)
    said = []
    some = plan(ways=("16-bit", "guard"), prompts=PROMPTS[:1])
    record = runner.confirm(tiny, tmp_path / "out", some, progress=False, say=said.append)
    failed = record.results["ways"]["16-bit"]["failed"]
    assert failed["error"] == "OutOfMemoryError" and failed["known"] == "cuda-out-of-memory" and len(said) == 1
    assert state(record, "bytes-16-bit") == claims.NOT_CHECKED and state(record, "guard-finds-nothing") == claims.HOLDS
    assert "OutOfMemoryError" in (tmp_path / "out/confirmed.html").read_text()


def test_without_a_gpu_bytes_are_computed_and_nothing_is_loaded(here, tiny, tmp_path):
    record = runner.confirm(tiny, tmp_path / "out", plan(gpu="none"), progress=False)
    assert here == ["files"]
    assert state(record, "weights-are-whole") == claims.HOLDS and state(record, "bytes-slim") == claims.NOT_CHECKED
    assert "no GPU" in next(one.why for one in record.verdicts if one.id == "bytes-slim")
    assert record.ways["predicted"].min() > 0 and "not loaded" in (tmp_path / "out/confirmed.html").read_text()


# ---- checkpoints of all kinds ------------------------------------------------------------------------------------


def narrow(tiny, name, folder):
    """Configurations of a released checkpoint's kind, as narrow as the tiny model: its class, norms, embeddings."""
    shutil.copytree(tiny, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    file = folder / "transformer/config.json"
    own = CHECKPOINTS[name].transformer
    kept = {key: own[key] for key in ("qk_norm", "guidance_embeds", "interpolation_scale") if key in own}
    file.write_text(json.dumps({**json.loads(file.read_text()), "num_layers": 2, **kept}))
    return folder


@pytest.mark.parametrize("name", ["600M-512", "1.5-4.8B", "sprint-0.6B"])
def test_random_checkpoints_of_every_kind(name, here, tiny, tmp_path):
    configs = narrow(tiny, name, tmp_path / "configs")
    made = make(configs, tmp_path / "random", dtype=CHECKPOINTS[name].trained, device="cpu")
    sprint = name.startswith("sprint")
    ways = ("16-bit", "recipe", "guard") + ("fast",) * (name in ("600M-512", "sprint-0.6B"))
    some = plan(ways=ways, prompts=PROMPTS[:1], steps=None if sprint else 1)
    record = runner.confirm(made, tmp_path / "out", some, progress=False)
    found = record.results["files"]
    assert found["random"] and record.results["model"]["random"]
    assert found["class"] == ("SanaSprintPipeline" if sprint else "SanaPipeline")
    assert found["trained"] == ("fp16" if name == "600M-512" else None)
    assert not [way for way in record.results["ways"].values() if "failed" in way], record.results["ways"]
    assert state(record, "class-fits-transformer") == claims.HOLDS
    assert state(record, "bytes-recipe") == claims.HOLDS and state(record, "every-way-draws") == claims.NOT_CHECKED
    assert state(record, "sprint-needs-the-guard" if sprint else "nonsense-without-guidance") == claims.HOLDS


def test_released_geometries_are_known_by_their_configurations(tiny, tmp_path):
    for name, checkpoint in CHECKPOINTS.items():
        folder = tmp_path / name
        (folder / "transformer").mkdir(parents=True)
        (folder / "transformer/config.json").write_text(json.dumps({"in_channels": 32, **checkpoint.transformer}))
        assert files.like(resolve(folder)) == checkpoint.like
    assert files.like(resolve(tiny)) is None


def test_a_folder_of_a_released_size_has_its_layers_shapes_and_bytes(tmp_path, monkeypatch):
    from sana_lab import accounting, slim

    built = accounting.build("sprint-0.6B")
    for name, model in built.items():
        save = getattr(model, "save_config", None) or model.config.save_pretrained
        save(tmp_path / "model" / name)
    index = {"_class_name": "SanaSprintPipeline"}
    (tmp_path / "model/model_index.json").write_text(json.dumps(index))
    monkeypatch.setattr(files, "_part", lambda *_: {"dtypes": {"BF16": 1}, "files": 1, "tensors": 1})
    found = files.look(resolve(tmp_path / "model"))
    assert found["like"] == "sprint-0.6B" and found["layers"] == {"transformer": 28, "text_encoder": 26}
    assert found["shapes"] == {"text_encoder": True, "transformer": True, "vae": True} and found["guidance_embeds"]
    assert found["predicted"]["recipe"] == slim.predict("sprint-0.6B", "int8", False, granule=files.GRANULE)
    given = findings(files=found, released=None)
    for id in ("shapes-transformer", "shapes-text-encoder", "shapes-vae", "half-is-linear", "class-fits-transformer"):
        one = next(one for one in claims.CLAIMS if one.id == id)
        assert one.look(given)[0], id
    given["files"]["shapes"]["vae"] = False
    assert look("shapes-vae", files=found)[0] is False


def test_shards_and_variants_are_read_and_have_plain_names_for_others(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "sharded")
    part = folder / "transformer"
    whole = part / "diffusion_pytorch_model.safetensors"
    tensors, names = load_file(whole), {}
    whole.unlink()
    for number, keys in enumerate((list(tensors)[::2], list(tensors)[1::2]), 1):
        shard = f"diffusion_pytorch_model.fp16-0000{number}-of-00002.safetensors"
        save_file({key: tensors[key].half() for key in keys}, part / shard, {"format": "pt"})
        names |= dict.fromkeys(keys, shard)
    index = {"metadata": {"total_size": 1}, "weight_map": names}
    (part / "diffusion_pytorch_model.safetensors.index.fp16.json").write_text(json.dumps(index))
    for name in ("text_encoder/model", "vae/diffusion_pytorch_model"):
        (folder / f"{name}.safetensors").rename(folder / f"{name}.fp16.safetensors")
    found = files.look(resolve(folder))
    assert found["variant"] == found["trained"] == "fp16" and found["parts"]["transformer"]["files"] == 2
    assert set(found["parts"]["transformer"]["dtypes"]) == {"F16"} and not found["parts"]["vae"]["plain"]
    plain = files.plain_names(folder, tmp_path / "links")
    from diffusers import SanaTransformer2DModel

    model = SanaTransformer2DModel.from_pretrained(plain, subfolder="transformer")
    assert model.state_dict().keys() == tensors.keys()
    assert (plain / "vae/diffusion_pytorch_model.safetensors").is_file()
    assert files.plain_names(tiny, tmp_path / "other") == tiny


# ---- what is refused ---------------------------------------------------------------------------------------------


def test_a_name_that_is_none(tmp_path):
    assert "model 'nope' is unknown" in refused("nope", "--out", tmp_path / "out")
    assert "way 'quick' is unknown" in refused("shapes", "--way", "quick", "--out", tmp_path / "out", "--virtual")
    assert "there is no failure" in refused("shapes", "--failures", "x-y", "--out", tmp_path / "out", "--virtual")
    assert not (tmp_path / "out").exists()


def test_what_is_no_folder_no_prompt_and_no_place(tiny, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    assert "is unknown" in refused(tmp_path / "file", "--out", tmp_path / "out", "--virtual")
    assert "--out" in refused(tiny, "--out", tmp_path / "file", "--virtual", "--failures", "none")
    assert "file" in refused(tiny, "--prompts", tmp_path / "file", "--out", tmp_path / "out", "--virtual")
    assert "metric 'beauty' is unknown" in refused(tiny, "--metric", "beauty", "--out", tmp_path / "out", "--virtual")
    assert "vram='much'" in refused(tiny, "--vram", "much", "--out", tmp_path / "out", "--virtual")
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_quantized_already(here, tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "quantized")
    file = folder / "transformer/config.json"
    config = json.loads(file.read_text()) | {"quantization_config": {"quant_method": "bitsandbytes"}}
    file.write_text(json.dumps(config))
    assert "is quantized already" in refused(folder, "--out", tmp_path / "out", "--virtual", "--failures", "none")


def test_a_place_inside_of_the_model_does_not_count_as_weights(here, tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "model")
    some = plan(ways=("slim",), prompts=PROMPTS[:1])
    runner.confirm(folder, folder / "out", some, progress=False)
    left = folder / "out/pictures/slim/.00.png.1-2.partial"
    left.touch()  # by a run that was killed
    runner.confirm(folder, folder / "out", some, progress=False)
    assert here == ["files", "slim"] and not left.exists()


def test_a_process_that_died_is_tried_again(tiny, tmp_path, monkeypatch):
    class Dies(Here):
        status = -9

        def __iter__(self):
            return super().__iter__() if self.request["step"] == "files" else iter(())

    some = plan(ways=("slim",), prompts=PROMPTS[:1])
    monkeypatch.setattr(runner.isolated, "Worker", Dies)
    record = runner.confirm(tiny, tmp_path / "out", some, progress=False)
    assert record.results["ways"]["slim"]["failed"]["error"] == "ProcessDied"
    monkeypatch.setattr(runner.isolated, "Worker", Here)
    try:
        record = runner.confirm(tiny, tmp_path / "out", some, progress=False, apart=False)
    finally:
        use_accelerator(virtual=True).leave()
    assert "held" in record.results["ways"]["slim"]


def test_no_network(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    said = refused("600M-512", "--out", tmp_path / "out", "--virtual")
    assert "connect to a network" in said and not (tmp_path / "out").exists()


def test_a_folder_of_another_pipeline(tiny, tmp_path):
    other = shutil.copytree(tiny, tmp_path / "other")
    index = json.loads((other / "model_index.json").read_text())
    (other / "model_index.json").write_text(json.dumps({**index, "_class_name": "FluxPipeline"}))
    said = refused(other, "--out", tmp_path / "out", "--virtual")
    assert "holds a FluxPipeline, not a SanaPipeline" in said and not (tmp_path / "out").exists()
    (other / "model_index.json").unlink()
    assert "it has no model_index.json" in refused(other, "--out", tmp_path / "out", "--virtual")


def test_a_damaged_download(here, tiny, tmp_path):
    for number, harm in enumerate((cut, pointer, lost, infinite)):
        folder = shutil.copytree(tiny, tmp_path / f"model{number}")
        harm(folder)
        said = refused(folder, "--out", tmp_path / f"out{number}", "--virtual", "--failures", "none")
        assert "files are missing or damaged" in said and "get it again" in said, said
        assert not (tmp_path / f"out{number}" / "confirmed.json").exists()


def cut(folder):
    file = folder / "vae/diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def pointer(folder):
    (folder / "text_encoder/model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid x\n")


def lost(folder):
    (folder / "transformer/diffusion_pytorch_model.safetensors").unlink()


def infinite(folder):
    file = folder / "transformer/diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["proj_out.weight"][0, 0] = float("inf")
    save_file(tensors, file, {"format": "pt"})


def test_a_full_disk(here, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(runner.shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10, 10, 2**20))
    said = refused(tiny, "--out", tmp_path / "out", "--virtual", "--failures", "none")
    assert "1 MB are free there: give another --out" in said and not (tmp_path / "out").exists()
    monkeypatch.undo()
    monkeypatch.setattr(runner.isolated, "Worker", Here)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(worker, "save", full)
        with pytest.raises(OSError, match="the disk is full: make room, and the same command goes on"):
            runner.confirm(tiny, tmp_path / "out", plan(ways=("16-bit",)), progress=False)
    assert kept.found_in(tmp_path / "out", "16-bit") is None and kept.found_in(tmp_path / "out", "files")


# ---- failures ----------------------------------------------------------------------------------------------------


def test_failures_of_part_three_are_reproduced_on_the_readers_own_folder(here, tiny, tmp_path, monkeypatch):
    ids = part_three(1)
    assert len(ids) >= 20 and set(ids) < set(part_three(2))
    from sana_lab.failures import runner as failures

    asked = {}

    def run_many(cases, *, folder, done, **options):
        asked.update(folder=folder, ids=[id for id, _ in cases])
        for id, _ in cases:
            words = "It seems like you have activated a device mapping strategy on the pipeline so calling `.to()`"
            error = dict(error="ValueError", kinds=("ValueError", "Exception"), message=words)
            done(Outcome(id, **error) if id == ids[0] else Outcome(id))

    some = ("pipeline-to-with-device-map", "8bit-text-encoder-cuda")
    ids = some
    monkeypatch.setattr(failures, "run_many", run_many)
    record = runner.confirm(tiny, tmp_path / "out", plan(ways=("slim",), failures=some), progress=False)
    assert asked == {"folder": tiny, "ids": list(some)}
    found = record.results["failures"]
    assert found[some[1]]["state"] == kept.DOES_NOT and state(record, "failures-happen") == claims.FAILS
    assert "ran to its end" in found[some[1]]["words"]


def test_a_reproduction_sees_as_many_real_gpus_as_it_wants_and_no_more(here, tiny, tmp_path, monkeypatch):
    """One about a machine without a GPU showed nothing on an H200, which it saw."""
    from sana_lab.failures import runner as failures

    shown = {}

    def run_many(cases, *, visible, done, **options):
        shown.update({id: visible for id, _ in cases})
        for id, _ in cases:
            done(Outcome(id))

    two = next(id for id in part_three(2) if id not in part_three(1))
    some = ("offload-without-gpu", "device-map-without-gpu", "pipeline-device-map-auto", two)
    monkeypatch.setattr(failures, "run_many", run_many)
    monkeypatch.setattr(runner.machine, "entries", lambda: ["GPU-a", "GPU-b", "GPU-c"])
    real = dataclasses.replace(plan(failures=some), gpu="real")
    (tmp_path / kept.STEPS).mkdir()
    runner._failures(runner.resolve(tiny), real, tmp_path, 1, lambda: None)
    assert [shown[id] for id in some] == ["", "", "GPU-a", "GPU-a,GPU-b"]
    virtual = dataclasses.replace(real, gpu="virtual")
    for file in (tmp_path / kept.STEPS).iterdir():
        file.unlink()
    runner._failures(runner.resolve(tiny), virtual, tmp_path, 1, lambda: None)
    assert set(shown.values()) == {None}


def test_a_reproduction_takes_the_folder_that_it_is_given(tiny, monkeypatch):
    from sana_lab.failures.runner import run_many

    start_by_fork(monkeypatch)
    (outcome,) = run_many([("pipeline-device-map-auto", None)], virtual=True, folder=tiny)
    assert runner.came_of(outcome)["state"] == kept.HAPPENS


# ---- parts -------------------------------------------------------------------------------------------------------


def test_the_largest_activation_and_where_it_is():
    model = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Flatten(), torch.nn.Linear(4, 4))
    with watched.largest({"x": model}) as tops:
        model(torch.tensor([[1.0, -70000.0, 0.0, 3.0]]))
    assert tops["x"]["largest"] >= 70000 and tops["x"]["finite"] and tops["x"]["dtype"] == "float32"
    with watched.largest({"x": model, "never": torch.nn.Linear(1, 1)}) as tops:
        model(torch.tensor([[float("nan"), 0, 0, 0]]))
    assert tops["x"] == {"largest": None, "finite": False, "module": "0", "dtype": "float32"} and "never" not in tops
    assert not any(module._forward_hooks for module in model.modules())


def test_outliers_are_values_of_six_and_more():
    import bitsandbytes

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.q_proj = bitsandbytes.nn.Linear8bitLt(64, 64, bias=False, has_fp16_weights=False)

        def forward(self, hidden):
            return self.q_proj(hidden)

    model = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([Block(), Block()])})
    with use_accelerator(virtual=True):
        model = model.to("cuda")
        hidden = torch.zeros(1, 3, 64, device="cuda", dtype=torch.bfloat16)
        hidden[0, 1, 5], hidden[0, 2, 6] = 6.0, -5.9
        with watched.outliers({"text_encoder": model}) as counts:
            model["layers"][0](hidden)
            model["layers"][1](hidden * 0.5)
    kind = counts["text_encoder"]["q_proj"]
    assert kind == {"layers": 2, "with_outliers": 1, "columns": round(1 / 64, 4), "largest": 6.0}


def findings(**more):
    base = {
        "files": {"class": "SanaPipeline", "random": False, "like": "600M-512", "trained": "fp16", "side": 512},
        "ways": {}, "failures": {}, "pairs": {}, "off": {}, "gpu": "real", "released": "600M-512", "pixels": 512,
    }  # fmt: skip
    return base | more


def look(id, **more):
    one = next(one for one in claims.CLAIMS if one.id == id)
    return one.look(findings(**more))


def test_claims_can_fail():
    """Each with a finding that contradicts it."""
    gemma = {"layers": 26, "with_outliers": 3, "columns": 0.01, "largest": 40.0}
    guard = {"guard": {"outliers": {"text_encoder": {"q_proj": gemma}}}}
    assert look("no-outliers-behind-norms", ways=guard)[0] is False
    top = {"largest": 70000.0, "finite": True, "module": "m", "dtype": "bfloat16"}
    wide = {"16-bit": {"activations": {"transformer": top, "text_encoder": top | {"largest": 100.0}, "vae": top}}}
    assert look("transformer-within-float16", ways=wide)[0] is False
    assert look("text-encoder-overflows-in-float16", ways=wide)[0] is False
    assert look("autoencoder-overflows-in-float16", ways=wide)[0] is True
    off = {name: {"without_guidance": {"wrong": ""}} for name in ("16-bit", "recipe", "guard")}
    assert look("nonsense-without-guidance", ways=off, off={"recipe": 30.0, "guard": 31.0})[0] is False
    assert look("nonsense-without-guidance", ways=off, off={"recipe": 9.0, "guard": 31.0})[0] is True
    drawn = {"files": findings()["files"] | {"random": True}}  # random attention may say nothing; it may not contradict
    assert look("nonsense-without-guidance", ways=off, off={"recipe": 9.0, "guard": 31.0}, **drawn)[0] is True
    with pytest.raises(claims.NotChecked, match="weights are random.*36.0 dB.*40.0 dB"):
        look("nonsense-without-guidance", ways=off, off={"recipe": 36.0, "guard": 40.0}, **drawn)
    seconds = {name: {"pictures": {"seconds": s}} for name, s in (("16-bit", 2.0), ("recipe", 1.0), ("fast", 3.0))}
    assert look("recipe-is-slower", ways=seconds)[0] is False and look("fast-is-faster", ways=seconds)[0] is False
    stages = {stage: {"rest": size} for stage, size in (("encode", 9), ("steps", 2), ("decode", 3))}
    assert look("decoding-takes-the-most", ways={"guard": {"stages": stages}})[0] is False
    with pytest.raises(claims.NotChecked, match="smaller than the model's own"):
        look("decoding-takes-the-most", ways={"guard": {"stages": stages}}, pixels=256)
    held = {"16-bit": {"held": {"vae": 100}}, "recipe": {"held": {"vae": 60}}}
    assert look("recipe-saves-less-than-half", ways=held)[0] is False
    assert look("failures-happen", failures={"a-b": {"state": kept.DOES_NOT}})[0] is False


# ---- records from other machines ---------------------------------------------------------------------------------


def test_contributed_records_are_held_to_the_format(done, tmp_path):
    out, record = done
    assert contributed.load_all(tmp_path / "none") == {} and contributed.load_all().keys() == set()
    shutil.copy(out / "confirmed.json", tmp_path / "tiny-virtual.json")
    table = records.contributed_table(tmp_path)
    assert list(table.columns) == ["tiny-virtual"] and table.loc["bytes-slim", "tiny-virtual"] == "holds"
    good = json.loads((out / "confirmed.json").read_text())
    bad = {
        "claims[0].state is 'maybe', not one of": lambda r: r["claims"][0].update(state="maybe"),
        "format is '2', not one of 1": lambda r: r.update(format=2),
        "settings.gpu is 'mine'": lambda r: r["settings"].update(gpu="mine"),
        "ways.slim held.vae is '-1', not a number of bytes": lambda r: r["ways"]["slim"]["held"].update(vae=-1),
        "pairs.slim is 'very near', not a number": lambda r: r["pairs"].update(slim="very near"),
        "results has no claims": lambda r: r.pop("claims"),
    }
    for words, harm in bad.items():
        changed = json.loads(json.dumps(good))
        harm(changed["results"])
        (tmp_path / "tiny-virtual.json").write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=r"record 'tiny-virtual' is damaged") as error:
            contributed.load_all(tmp_path)
        assert words in str(error.value)
    with pytest.raises(ValueError, match="is no record"):
        contributed.load(tmp_path / "x.html")


def test_the_page_shows_contributed_records_or_says_that_there_is_none(done, tmp_path):
    from sana_lab.confirm.contributions import NONE, shown

    assert NONE in shown(tmp_path).data
    shutil.copy(done[0] / "confirmed.json", tmp_path / "tiny-virtual.json")
    assert "tiny-virtual" in shown(tmp_path).data and "guard-finds-nothing" in shown(tmp_path).data


def test_what_the_package_holds_is_read():
    for name, found in contributed.load_all().items():
        assert found["results"]["settings"]["gpu"] != "virtual", f"{name}: the virtual GPU is no other machine"
    assert (contributed.FOLDER / "README.md").is_file() and "contributed" not in evidence.names()
    assert journal.complaint({}, contributed.SHAPE)
