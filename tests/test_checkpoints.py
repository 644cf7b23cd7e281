"""One table of checkpoints: each of its names in every command, and what `resolve` makes of names and folders."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_sana import build_folder
from typer.testing import CliRunner

from sana_lab import (
    accounting,
    checkpoints,
    cli,
    digests,
    libraries,
    load_sana,
    random_checkpoint,
    slim,
    use_accelerator,
)
from sana_lab.checkpoints import CHECKPOINTS, Source, resolve
from sana_lab.evaluate import conditions
from sana_lab.evaluate import runner as evaluate
from sana_lab.generate import many
from sana_lab.measure import runner as measure
from sana_lab.planted import copy_with_outliers
from sana_lab.shapes import SHAPES_FOLDER
from sana_lab.versions import doctor, sizes

OLDER = ("1.5-1.6B-1024", "1.5-4.8B-1024", "sprint-0.6B-1024", "sprint-1.6B-1024")
EVERY = (*CHECKPOINTS, *OLDER, *(c.repo for c in CHECKPOINTS.values()))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return build_folder(tmp_path_factory.mktemp("model") / "0123abc")


@pytest.fixture
def hub(model, monkeypatch):
    """The Hub, where every repository holds the small pipeline; what was asked for."""
    import diffusers

    asked = []

    def download(cls, name, **options):
        asked.append(name)
        return str(model)

    monkeypatch.setattr(diffusers.DiffusionPipeline, "download", classmethod(download))
    return asked


@pytest.fixture
def no_hub(monkeypatch):
    """The Hub out of reach; what was asked for."""
    import diffusers

    asked = []

    def download(cls, name, **options):
        asked.append(name)
        raise OSError("no network")

    monkeypatch.setattr(diffusers.DiffusionPipeline, "download", classmethod(download))
    return asked


# ---- each name in every command


@pytest.mark.parametrize("name", EVERY)
def test_every_spelling_is_one_checkpoint(name):
    found = resolve(name)
    assert found.checkpoint is CHECKPOINTS[found.name] and str(found) == name
    assert name in (found.name, found.checkpoint.repo, f"{found.name}-1024")
    assert found == resolve(found) and resolve(found) is found


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_name_says_what_it_lacks_without_network(name, no_hub, tmp_path, monkeypatch):
    wanted = f"{name} is {CHECKPOINTS[name].repo} on the Hugging Face Hub, .*hf download"
    for call in (
        lambda: load_sana(name, "bf16", "cpu"),
        lambda: many._settings(name, "bf16", None, 4.5, None, 1),
        lambda: evaluate.settings(evaluate.Plan(name)),
        lambda: measure.jobs_for(name),
    ):
        with pytest.raises(OSError, match=wanted):
            call()
    assert no_hub == [CHECKPOINTS[name].repo] * 4
    monkeypatch.chdir(tmp_path)
    for command in (["generate", "a red star", "--virtual", "--model", name], ["measure", name]):
        result = CliRunner().invoke(cli.app, command)
        assert isinstance(result.exception, OSError) and "on the Hugging Face Hub" in str(result.exception), command
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_name_is_counted_made_and_judged_without_the_hub(name, no_hub, tmp_path, monkeypatch):
    whole = accounting.predict(name, "int8", granule=512)
    assert sizes.recorded(name, "int8") == sum(whole.values())
    assert slim.predict(name, "int8")["text_encoder"] < whole["text_encoder"]
    assert whole == accounting.predict(CHECKPOINTS[name].repo, "int8", granule=512)
    monkeypatch.setattr(doctor, "look", lambda need: doctor.Seen({}, need=need))
    report = str(doctor.doctor(CHECKPOINTS[name].repo))
    assert f"memory: {name} in int8 holds" in report
    made = {}

    def stop(folder, needed, source):
        made[source.name] = needed
        raise OSError("far enough")

    monkeypatch.setattr(random_checkpoint, "_check_room", stop)
    result = CliRunner().invoke(cli.app, ["make-random", name, str(tmp_path / "made")])
    assert str(result.exception) == "far enough" and made == {name: sum(accounting.predict(name).values())}
    assert no_hub == []


@pytest.mark.parametrize("name", [*CHECKPOINTS, *OLDER])
def test_every_name_is_known_by_its_commit(name, hub):
    found = many._settings(name, "int8", None, 4, None, 8)
    assert (found["model"], found["weights"], found["steps"], found["size"]) == (resolve(name).name, "0123abc", 20, 512)
    assert evaluate.settings(evaluate.Plan(name))["weights"] == "0123abc"
    assert measure.jobs_for(name, ["int8"])[0].name == f"{resolve(name).name}--int8"


def test_one_source_is_downloaded_once(hub):
    source = resolve("1.5-4.8B")
    assert load_sana(source, "bf16", "cpu").transformer.dtype == torch.bfloat16
    many._settings(source, "bf16", None, 4.5, None, 1)
    measure.jobs_for(source, ["16-bit"])
    assert hub == [CHECKPOINTS["1.5-4.8B"].repo]


def test_the_table_of_chapter_4_has_each_transformer_once():
    assert set(CHECKPOINTS) - set(accounting.CHECKPOINTS) == {"1600M-1024-bf16"}
    assert CHECKPOINTS["1600M-1024-bf16"].like == "1600M-1024"
    assert all(CHECKPOINTS[name].like == name for name in accounting.CHECKPOINTS)


@pytest.mark.parametrize("wrong", ["600m", "", "1.5-1.6B-512", "600M-512-1024", "shapes2", 7, None])
def test_an_unknown_name_is_one_line_with_all_names_everywhere(wrong, tmp_path):
    for call in (
        lambda: load_sana(wrong, "bf16"),
        lambda: accounting.predict(wrong),
        lambda: slim.savings(wrong),
        lambda: random_checkpoint.make(wrong, tmp_path / "made"),
        lambda: doctor.doctor(wrong),
        lambda: many._settings(wrong, "bf16", None, 4.5, None, 1),
        lambda: evaluate.settings(evaluate.Plan(wrong)),
    ):
        with pytest.raises(ValueError, match="is unknown: choose from shapes, 600M-512, .* give a folder.$") as said:
            call()
        assert all(name in str(said.value) for name in CHECKPOINTS) and "\n" not in str(said.value)
    assert not any(tmp_path.iterdir())


# ---- folders


def test_a_folder_and_its_source_are_the_same_everywhere(model):
    source = resolve(model)
    assert (source.name, source.side, source.steps, source.variant, source.trained) == ("0123abc", 512, 20, None, None)
    assert source.pipeline_class.__name__ == "SanaPipeline"
    assert accounting.predict(source) == accounting.predict(model) == accounting.predict(str(model))
    assert slim.predict(source) == slim.predict(model)
    assert sizes.recorded(source, "bf16") == sum(accounting.predict(model, granule=512).values())
    assert many._settings(source, "bf16", None, 4.5, None, 1) == many._settings(str(model), "bf16", None, 4.5, None, 1)


def test_a_source_is_made_again_and_planted_in(model, tmp_path):
    made = random_checkpoint.make(resolve(model), tmp_path / "made")
    assert json.loads((made / random_checkpoint.NAME).read_text())["checkpoint"] == "0123abc"
    planted = copy_with_outliers(resolve("shapes"), tmp_path / "planted", 10.0)
    assert resolve(planted).pipeline_class is resolve("shapes").pipeline_class
    assert resolve(planted).digest != resolve("shapes").digest


def test_parts_of_16_bit_files_keep_the_type_they_were_trained_in(tmp_path):
    """No plain files stand beside them."""
    source = resolve(build_folder(tmp_path / "fp16", variant="fp16"))
    assert not (source.folder / "transformer" / "diffusion_pytorch_model.safetensors").exists()
    with use_accelerator(virtual=True), pytest.warns(UserWarning, match="trained in fp16"):
        pipe = conditions.load(source, conditions.CONDITIONS["int8-transformer"], "cuda")
    assert type(pipe.transformer.proj_out).__name__ == "Linear8bitLt" and pipe.transformer.dtype == torch.float16


def test_shapes_by_its_name():
    source = resolve("shapes")
    assert (source.name, source.folder, source.checkpoint) == ("shapes", SHAPES_FOLDER, None)
    assert source.digest == resolve(SHAPES_FOLDER).digest == resolve(str(SHAPES_FOLDER)).digest
    assert accounting.predict("shapes") == accounting.predict(SHAPES_FOLDER)


def test_a_path_is_a_folder_also_where_it_is_called_like_a_checkpoint(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(model, tmp_path / "600M-512")
    assert resolve(folder.relative_to(tmp_path)).checkpoint is None and resolve("600M-512").checkpoint is not None


def test_the_type_of_16_bit_files_is_the_trained_one(tmp_path):
    source = resolve(build_folder(tmp_path / "fp16", variant="fp16"))
    assert source.variant == source.trained == "fp16"


def test_a_source_is_resolved_without_torch():
    program = (
        "import sys\n"
        "from sana_lab import checkpoints\n"
        "assert checkpoints.resolve('1.5-4.8B').trained == 'bf16' and checkpoints.resolve('shapes').name == 'shapes'\n"
        "print([m for m in ('torch', 'diffusers', 'transformers') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_a_source_does_not_change_under_those_who_hold_it():
    with pytest.raises(AttributeError):
        resolve("shapes").model = "600M-512"
    assert Source("shapes") == resolve("shapes") != resolve("600M-512")


def test_damaged_configurations_are_named(model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "copy")
    for text in ("{", "[]", "{}", '{"sample_size": null}'):
        (folder / "transformer" / "config.json").write_text(text)
        with pytest.raises(OSError, match="files are missing or damaged .* get the folder again"):
            _ = resolve(folder).side


# ---- the hash


def test_a_digest_follows_every_weight_and_configuration_and_nothing_else(model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "copy")
    before = digests.weights_digest(folder)
    assert before == digests.weights_digest(str(model)) == resolve(folder).digest
    (folder / "note.json").write_text("{}")
    (folder / "out").mkdir()
    (folder / "out" / "found.json").write_text("{}")
    assert digests.weights_digest(folder, folder / "out") == before != digests.weights_digest(folder)
    for name in ("transformer/config.json", "vae/diffusion_pytorch_model.safetensors"):
        content = bytearray((folder / name).read_bytes())
        content[-2] ^= 1
        (folder / name).write_bytes(content)
        after = digests.weights_digest(folder, folder / "out")
        assert after != before, name
        before = after


def test_a_file_is_read_again_when_it_may_be_another(tmp_path, monkeypatch):
    file, reads = tmp_path / "file", []

    @digests.once_a_file
    def text(path):
        reads.append(path)
        return path.read_text()

    def now(content):
        before = len(reads)
        assert text(file) == text(file) == content
        return len(reads) - before

    file.write_text("one")
    assert now("one") == 2  # it is so young that a change now would not show in its times
    monkeypatch.setattr(digests, "SETTLED", -60.0)
    assert [now("one"), now("one")] == [1, 0]
    file.write_text("three")
    assert [now("three"), now("three")] == [1, 0]
    times = file.stat()
    file.write_text("seven")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns + 1000))
    assert [now("seven"), now("seven")] == [1, 0]
    (tmp_path / "other").write_text("eight")  # as long, and with the very times, but another file
    os.utime(tmp_path / "other", ns=(times.st_atime_ns, times.st_mtime_ns + 1000))
    os.replace(tmp_path / "other", file)
    assert [now("eight"), now("eight")] == [1, 0]
    monkeypatch.chdir(tmp_path)
    assert text(Path("file")) == "eight" and len(reads) == 6
    file.unlink()
    with pytest.raises(FileNotFoundError, match="'.*file'"):
        text(file)


def test_of_a_large_file_its_ends_blocks_and_size_count(tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "WHOLE", 1000)
    monkeypatch.setattr(digests, "BLOCK", 8)
    (tmp_path / "vae").mkdir()
    file = tmp_path / "vae" / "x.safetensors"

    def digest(content):
        file.write_bytes(content)
        return digests.weights_digest(tmp_path)

    plain = bytearray(5000)
    seen = {digest(plain), digest(bytes(5001)), digest(b"\1" + plain[1:]), digest(plain[:-1] + b"\1")}
    assert len(seen) == 4
    plain[(5000 - 8) * 31 // 63] = 1  # where a block in the middle begins
    assert digest(plain) not in seen


def test_records_of_the_shapes_model_name_this_digest():
    from sana_lab import evidence

    settings = evidence.load("evaluation_shapes")["results"]["settings"]
    assert settings["weights"] == digests.weights_digest(SHAPES_FOLDER)


def test_a_folder_without_weights_has_no_digest(tmp_path):
    with pytest.raises(ValueError, match="holds no weights .*: give the folder of a pipeline"):
        _ = resolve(tmp_path).digest


# ---- the libraries


def test_a_library_without_the_switch_of_its_bars_loads_all_the_same(monkeypatch):
    import diffusers.utils.logging
    import transformers.utils.logging

    assert hasattr(diffusers.utils.logging, libraries.SWITCH) and hasattr(transformers.utils.logging, libraries.SWITCH)
    monkeypatch.delattr(diffusers.utils.logging, libraries.SWITCH)
    with libraries.quiet():
        assert not getattr(transformers.utils.logging, libraries.SWITCH)
        assert not hasattr(diffusers.utils.logging, libraries.SWITCH)
    assert getattr(transformers.utils.logging, libraries.SWITCH)
    assert not hasattr(diffusers.utils.logging, libraries.SWITCH)


def test_precisions_are_listed_once():
    assert set(libraries.DTYPES) < set(checkpoints.PRECISIONS) == {*libraries.DTYPES, "int8", "fp8", "nf4"}
    assert json.dumps(checkpoints.PRECISIONS) == json.dumps(accounting.PRECISIONS)
