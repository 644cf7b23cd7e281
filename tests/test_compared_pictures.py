"""Pictures of two ways held side by side: the measures, their intervals, what is left out, and the sheet."""

import contextlib
import errno
import io
import json
import os
import re
import shutil
import sys
import tempfile
import types

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from sana_lab import cli, commandline, evidence
from sana_lab.checkpoints import PRECISIONS
from sana_lab.compared_pictures import learned, run, ways
from sana_lab.compared_pictures.scores import EQUAL_DB, METRICS, in_words, out_of_reach, scores, summary
from sana_lab.compared_pictures.sheet import TALLEST, contact_sheet
from sana_lab.evidence import journal
from sana_lab.fitting.ways import WAYS


def wave(k, shift=0, height=48, width=64):
    """A picture without random numbers, so that another library's answer can be written down."""
    y, x = np.mgrid[0:height, 0:width]
    colors = [np.sin((x * (c + 1) + y * k + shift) / 9) for c in range(3)]
    return Image.fromarray(((np.stack(colors, -1) + 1) * 127.4).astype(np.uint8))


def halved(picture):
    return Image.fromarray(np.asarray(picture) // 2)


PAIRS = [(wave(1), wave(1, 2)), (wave(2), wave(3)), (wave(1), halved(wave(1)))]
FIRST, SECOND = map(list, zip(*PAIRS, strict=True))
SKIMAGE_PSNR = [22.155082382910113, 5.4242388707425615, 10.290184723721659]
SKIMAGE_SSIM = [0.9082091803081793, -0.14727464101113602, 0.6474390733000573]
PROMPTS = ["a red star", "a blue ring", "a green square"]


# ---- values ------------------------------------------------------------------------------------------------------


def test_psnr_and_ssim_are_what_scikit_image_says():
    found = scores(FIRST, SECOND, metrics=("psnr", "ssim"))
    # skimage.metrics 0.26.0: peak_signal_noise_ratio(a, b), structural_similarity(a, b, channel_axis=2)
    assert found["psnr"]["values"] == pytest.approx(SKIMAGE_PSNR, abs=1e-9)
    assert found["ssim"]["values"] == pytest.approx(SKIMAGE_SSIM, abs=1e-9)
    assert found["psnr"]["equal"] == 0 and found["psnr"]["n"] == 3


def test_equal_pictures_are_the_end_of_each_scale_and_json_can_hold_it():
    found = scores(FIRST, [picture.copy() for picture in FIRST], metrics=("psnr", "ssim"))
    assert found["psnr"]["values"] == [EQUAL_DB] * 3 and found["psnr"]["equal"] == 3
    assert found["ssim"]["values"] == pytest.approx([1, 1, 1])
    assert found["psnr"]["low"] == found["psnr"]["high"] == EQUAL_DB
    json.dumps(found, allow_nan=False)
    one_off = np.zeros((512, 512, 3), np.uint8)
    one_off[0, 0, 0] = 1
    near = scores([Image.new("RGB", (512, 512))], [Image.fromarray(one_off)], metrics=["psnr"])["psnr"]
    assert near["values"] == [EQUAL_DB] and near["equal"] == 0, "beyond the scale, and yet not equal"


@pytest.mark.parametrize("values", [[1.0, 2.0, 4.0], [0.0, 0.0], [-3.0, 5.0, 0.5, 0.25, 7.0]])
def test_interval_of_a_mean_is_scipys(values):
    found = summary(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found["mean"] == pytest.approx(np.mean(values))
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))


def test_one_pair_has_a_mean_and_no_interval():
    found = scores(FIRST[:1], SECOND[:1], metrics=["ssim"])["ssim"]
    assert found["n"] == 1 and found["low"] is None and found["high"] is None
    assert "[" not in in_words("ssim", found) and "1 pair" in in_words("ssim", found)


def test_interval_holds_the_true_mean_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(2.0, 3.0, (1500, 8))
    held = [(s := summary(row))["low"] <= 2.0 <= s["high"] for row in draws]
    assert 0.93 < np.mean(held) < 0.97


def test_gray_and_transparent_pictures_are_compared_as_rgb():
    gray = [picture.convert("L") for picture in FIRST]
    assert scores(gray, gray, metrics=["psnr"])["psnr"]["equal"] == 3
    assert scores([p.convert("RGBA") for p in FIRST], FIRST, metrics=["psnr"])["psnr"]["equal"] == 3


# ---- CLIP, on a small random model of its class ------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A folder as `openai/clip-vit-large-patch14` has it, with few and random weights."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[]).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": len(words), "max_position_embeddings": 12, "bos_token_id": 0, "eos_token_id": 1}
    config = CLIPConfig(
        text_config=sizes | text,
        vision_config=sizes | {"image_size": 32, "patch_size": 8},
        projection_dim=8,
        initializer_factor=20.0,  # or else random features are nearly one
    )
    CLIPModel(config).save_pretrained(folder)
    processor = learned._image_processor()
    processor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_clip_score_is_what_the_model_itself_says(clip):
    from transformers import AutoTokenizer, CLIPModel

    found = scores(FIRST, SECOND, PROMPTS, metrics=["clip"], clip=str(clip))["clip"]
    model, tokenizer = CLIPModel.from_pretrained(clip), AutoTokenizer.from_pretrained(clip)
    processor = learned._image_processor().from_pretrained(clip)
    means = []
    for pictures in (FIRST, SECOND):
        words = tokenizer(PROMPTS, padding=True, truncation=True, max_length=12, return_tensors="pt")
        with torch.inference_mode():
            out = model(**words, pixel_values=processor(images=pictures, return_tensors="pt")["pixel_values"])
            means.append((out.logits_per_image / model.logit_scale.exp()).diagonal() * 100)
    assert found["values"] == pytest.approx((means[1] - means[0]).tolist(), abs=1e-3)
    assert found["first"] == pytest.approx(means[0].mean().item(), abs=1e-3)
    assert max(map(abs, found["values"])) > 0.1, "random features that are all alike test nothing"


def test_clip_takes_prompts_longer_than_it_reads_and_several_batches(clip, monkeypatch):
    once = scores(FIRST, SECOND, ["red star " * 40] * 3, metrics=["clip"], clip=str(clip))["clip"]
    monkeypatch.setattr(learned, "BATCH", 2)
    again = scores(FIRST, SECOND, ["red star " * 40] * 3, metrics=["clip"], clip=str(clip))["clip"]
    assert once["values"] == pytest.approx(again["values"], abs=1e-3)


def test_clip_of_a_damaged_folder_is_left_out_with_the_reason(clip, tmp_path):
    (tmp_path / "config.json").write_text((clip / "config.json").read_text())
    found = scores(FIRST, SECOND, PROMPTS, metrics=["psnr", "clip"], clip=str(tmp_path))
    assert "cannot be loaded" in found["clip"]["left_out"] and found["psnr"]["n"] == 3
    (tmp_path / "config.json").write_text("{")
    assert "left_out" in scores(FIRST, SECOND, PROMPTS, metrics=["clip"], clip=str(tmp_path))["clip"]
    (tmp_path / "config.json").unlink()
    assert "no config.json" in scores(FIRST, SECOND, PROMPTS, metrics=["clip"], clip=str(tmp_path))["clip"]["left_out"]


# ---- LPIPS, with the package's place taken ------------------------------------------------------------------------


class Package(types.ModuleType):
    """What `lpips` 0.1.4 is to us: `LPIPS(net=, verbose=)`, called with two (1, 3, h, w) and `normalize`."""

    class LPIPS:
        def __init__(self, net, verbose):
            assert net == "alex" and verbose is False

        def __call__(self, x, y, normalize):
            assert normalize and x.shape == y.shape and x.shape[:2] == (1, 3)
            assert 0 <= x.min() and 0.5 < x.max() <= 1
            return (x - y).abs().mean().reshape(1, 1, 1, 1)


@pytest.fixture
def package(monkeypatch, tmp_path):
    monkeypatch.setattr(learned, "_packages", lambda: True)
    monkeypatch.setitem(sys.modules, "lpips", Package("lpips"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path


def test_lpips_is_the_packages_and_in_the_order_of_the_pairs(package):
    (package / "checkpoints").mkdir()
    (package / "checkpoints" / "alexnet-owt-7be5be79.pth").touch()
    found = scores(FIRST, SECOND, metrics=["lpips"])["lpips"]
    apart = [np.abs(np.asarray(a, float) - np.asarray(b, float)).mean() / 255 for a, b in PAIRS]
    assert found["values"] == pytest.approx(apart, abs=1e-6)
    small = [wave(1, height=16, width=16)] * 2
    assert "32 pixels" in scores(small, small, metrics=["lpips"])["lpips"]["left_out"]


def test_what_would_be_downloaded_is_said_and_without_a_network_left_out(package, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = learned.downloads(list(METRICS), "nobody/nothing")
    assert len(said) == 2 and "233 MB" in said[0] and "nobody/nothing" in said[1]
    assert learned.downloads(["psnr", "ssim"]) == []
    found = scores(FIRST, SECOND, PROMPTS, clip="nobody/nothing")
    assert list(found) == list(METRICS)
    assert all("HF_HUB_OFFLINE" in found[name]["left_out"] for name in ("lpips", "clip"))
    assert found["psnr"]["n"] == found["ssim"]["n"] == 3, "the others are taken"
    assert "left out" in in_words("clip", found["clip"])


@pytest.mark.parametrize(
    ("answer", "word"), [(OSError("no route"), "no network"), (ValueError("unknown url type"), "no network")]
)
def test_network_that_fails_is_a_reason_and_no_error(package, monkeypatch, answer, word):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    def refuse(request, timeout):
        assert timeout <= 10, "nobody waits long for a measure that is left out"
        raise answer

    monkeypatch.setattr(learned.urllib.request, "urlopen", refuse)
    assert all(word in why for why in out_of_reach(["lpips", "clip"], "nobody/nothing").values())


def test_without_the_package_lpips_names_it(monkeypatch):
    monkeypatch.setattr(learned, "_packages", lambda: False)
    assert "pip install lpips" in out_of_reach(["lpips"])["lpips"]
    assert learned.downloads(["lpips"]) == [], "nothing is fetched for what is not installed"


# ---- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((FIRST, SECOND[:2]), {}, "as many of both"),
        (([], []), {}, "0 pictures"),
        ((FIRST, SECOND, PROMPTS[:1]), {}, "1 prompt for 3 pairs of pictures"),
        ((FIRST, [*SECOND[:2], wave(1, width=32)]), {}, "pair 2 has two sizes, 64 x 48 and 32 x 48"),
        ((FIRST, ["x"] * 3), {}, "pair 0 has a str"),
        ((FIRST, SECOND), {"metrics": ["fid"]}, "'fid' is unknown"),
        ((FIRST, SECOND), {"metrics": []}, "one or more of"),
        ((FIRST, SECOND), {"metrics": "psnr"}, "one or more of"),
        ((FIRST, SECOND), {"metrics": ["clip"]}, "give the prompts"),
    ],
)
def test_bad_input_is_one_line(arguments, options, words):
    with pytest.raises(ValueError, match=words) as caught:
        scores(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_without_prompts_clip_is_not_among_the_measures():
    assert "clip" not in scores(FIRST[:1], SECOND[:1])


# ---- the sheet ---------------------------------------------------------------------------------------------------


def test_sheet_has_a_column_for_each_way_and_the_words_of_each_row():
    colors = {"16-bit": "red", "int8": "lime"}
    columns = {label: [Image.new("RGB", (64, 64), color)] * 3 for label, color in colors.items()}
    sheet = np.asarray(contact_sheet(columns, PROMPTS, side=64))
    for number, color in enumerate([(255, 0, 0), (0, 255, 0)]):
        cell = sheet[:, 8 + 72 * number : 72 + 72 * number]
        assert (cell == color).all(-1).sum() == 3 * 64 * 64, "three pictures, whole and unscaled"
    with_words, without = contact_sheet(columns, PROMPTS), contact_sheet(columns)
    assert with_words.size[0] == without.size[0] and with_words.size[1] > without.size[1]
    dark = (np.asarray(with_words).max(-1) < 120).any(1)
    assert dark.sum() > 20, "there are letters"


def test_sheet_leaves_a_field_where_a_picture_was_not_drawn():
    sheet = contact_sheet({"a": [wave(1), None], "b": [None, None]}, ["one", ""])
    assert sheet.mode == "RGB"


def test_sheet_becomes_smaller_before_it_becomes_too_long_for_programs():
    many = contact_sheet({"a": [wave(1)] * 200, "b": [wave(2)] * 200}, ["a very long prompt " * 50] * 200)
    assert max(many.size) <= TALLEST
    with pytest.raises(ValueError, match="give fewer"):
        contact_sheet({"a": [wave(1)] * 1000})


@pytest.mark.parametrize(
    ("columns", "prompts", "words"),
    [
        ({}, None, "no column"),
        ({"a": []}, None, "a: 0"),
        ({"a": [wave(1)], "b": []}, None, "a: 1, b: 0"),
        ({"a": [wave(1)]}, ["x", "y"], "2 prompts for 1 row of pictures"),
    ],
)
def test_sheet_refuses_in_one_line(columns, prompts, words):
    with pytest.raises(ValueError, match=words):
        contact_sheet(columns, prompts)


def test_sheet_writes_prompts_of_any_script_and_odd_sizes():
    sheet = contact_sheet({"a": [wave(1, height=200, width=33)]}, ["звезда ★ " + "x" * 500])
    assert sheet.size[1] < 1000


# ---- sana-lab compare --------------------------------------------------------------------------------------------

TWO = ["a small red star above a large blue ring on a white background", "a large green circle on a black background"]


def compare(*words):
    """Status of the command, what it printed, what it said."""
    out, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
        status = commandline.run_command(cli.app, "sana-lab", ["compare", *map(str, words)])
    lines = [line for line in said.getvalue().splitlines() if line.startswith("sana-lab: ")]
    return status, out.getvalue(), lines


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    file = tmp_path_factory.mktemp("prompts") / "p.txt"
    file.write_text("\n".join(TWO))
    return file


@pytest.fixture(scope="module")
def compared(tmp_path_factory, file):
    """A whole run on the Shapes model: folder, what was printed, what was said."""
    out = tmp_path_factory.mktemp("compared") / "out"
    status, printed, said = compare(
        "bf16", "fast-weights", "--prompts", file, "--out", out, "--steps", 1, "--pixels", 64, "--virtual"
    )
    assert status == 0, said
    return out, printed, said


def test_compare_draws_both_ways_and_writes_record_sheet_and_page(compared):
    out, printed, said = compared
    names = sorted(path.name for path in (out / "bf16").iterdir())
    assert len(names) == 2 and names == sorted(path.name for path in (out / "fast-weights").iterdir())
    record = evidence.load("compared_pictures", folder=out)
    results = record["results"]
    assert (
        results["prompts"] == TWO
        and results["names"] == names
        and results["settings"]["ways"] == ["bf16", "fast-weights"]
    )
    assert record["command"] == "sana-lab compare bf16 fast-weights --prompts p.txt --steps 1 --pixels 64"
    pictures = [[Image.open(out / way / name) for name in names] for way in ("bf16", "fast-weights")]
    assert results["metrics"]["psnr"] == scores(*pictures, metrics=["psnr"])["psnr"]
    assert 5 < results["metrics"]["psnr"]["mean"] < EQUAL_DB, "the same noise, another precision"
    assert pictures[0][0].info["prompt"] == TWO[0] and pictures[0][1].info["seed"] == "1"
    assert Image.open(out / "contact_sheet.png").size[0] > 2 * 64
    page = (out / "compared.html").read_text()
    assert page.count("data:image/webp") == 4 and TWO[1] in page
    assert not re.search(r'(?:src|href)="(?!data:)', page), "one page, nothing beside it"
    assert "PSNR" in printed and str(out / "compared.html") in printed
    assert [line for line in said if "LPIPS is left out" in line] and "left out" in page


def test_what_is_left_out_is_said_before_anything_is_drawn(file, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(run, "draw", lambda *_: pytest.fail("drawn") if not told else (_ for _ in ()).throw(Stop))
    with pytest.raises(Stop):
        run.between("bf16", "int8", file, out=tmp_path / "o", say=told.append, virtual=True)
    assert any("CLIP score" in line for line in told)


class Stop(Exception):
    """In place of drawing."""


def test_a_finished_run_is_not_drawn_again_and_the_ways_may_change_places(compared, file, monkeypatch):
    out, printed, _ = compared
    monkeypatch.setattr(ways, "load", lambda *_: pytest.fail("loaded"))
    settings = ["--prompts", file, "--out", out, "--steps", 1, "--pixels", 64, "--virtual"]
    assert compare("bf16", "fast-weights", *settings)[1] == printed
    status, swapped, _ = compare("fast-weights", "bf16", *settings)
    assert status == 0 and swapped.splitlines()[1] == printed.splitlines()[1], "PSNR knows no direction"


def test_a_stopped_run_goes_on_with_what_is_missing(compared, file, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(compared[0], out)
    first, second = sorted((out / "bf16").iterdir())
    was = np.asarray(Image.open(second)).copy()
    second.write_bytes(second.read_bytes()[:500])  # cut off
    before = first.stat().st_mtime_ns
    drawn = []
    real = ways.load
    monkeypatch.setattr(ways, "load", lambda name, *rest: drawn.append(name) or real(name, *rest))
    settings = ["--prompts", file, "--out", out, "--steps", 1, "--pixels", 64, "--virtual"]
    assert compare("bf16", "fast-weights", *settings)[0] == 0
    assert drawn == ["bf16"] and first.stat().st_mtime_ns == before
    assert (np.asarray(Image.open(second)) == was).all(), "the same picture, drawn alone"
    status, _, said = compare("bf16", "fast-weights", *settings[:5], 3, *settings[6:])
    assert status == 2 and "steps 1, not 3" in said[-1], said
    (out / "settings.json").unlink()
    assert "tells how it was made" in compare("bf16", "fast-weights", *settings)[2][-1]


def test_ways_that_encode_first_or_keep_weights_on_the_disk(file, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    (tmp_path / "temp").mkdir()
    settings = ["--prompts", file, "--steps", 1, "--pixels", 64, "--virtual", "--metrics", "psnr"]
    out = tmp_path / "out"
    status, _, said = compare("group-offload-disk", "16-bit-drop", *settings, "--out", out)
    assert status == 0, said
    found = evidence.load("compared_pictures", folder=out)["results"]["metrics"]["psnr"]
    # All prompts are encoded at once for the one, each alone for the other: sums of another shape, perhaps.
    assert min(found["values"]) > 30, "another prompt's picture, or one without the encoder's buffers, is at 7 dB"
    assert not list((tmp_path / "temp").iterdir()) and tempfile.tempdir == str(tmp_path / "temp")


def test_two_folders_are_compared_as_they_are(compared, tmp_path):
    out, printed, _ = compared
    place = tmp_path / "again"
    status, again, said = compare(out / "bf16", out / "fast-weights", "--out", place)
    assert status == 0, said
    assert again.splitlines()[1:3] == printed.splitlines()[1:3]
    assert evidence.load("compared_pictures", folder=place)["results"]["prompts"] == TWO, "the pictures tell"


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """Folders of pictures and files of prompts that commands are tried on; none may change them."""
    place = tmp_path_factory.mktemp("refused")
    for name, n in (("a", 3), ("b", 2), ("c", 3), ("d", 3), ("junk", 3), ("cut", 3), ("empty", 0)):
        (place / name).mkdir()
        for i in range(n):
            wave(i, width=48 if (name, i) == ("c", 1) else 64).save(place / name / f"{i}.png")
    (place / "junk" / "1.png").write_text("no picture")
    (place / "cut" / "1.png").write_bytes((place / "a" / "1.png").read_bytes()[:300])
    (place / "none.txt").write_text("# nothing\n\n")
    (place / "one.txt").write_text("a red star\n")
    return place


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["a", "b"], "a has 3 pictures and b 2; only the first has 2.png"),
        (["b", "a"], "only the first has 2.png"),
        (["a", "c"], "pair 1 has two sizes"),
        (["a", "a"], "one folder"),
        (["a", "./a/../a"], "one folder"),
        (["a", "empty"], "empty has no picture"),
        (["a", "junk"], "1.png is no picture"),
        (["a", "cut"], "1.png is a damaged picture"),
        (["a", "nowhere"], "way 'a' is unknown"),
        (["a", "d", "--steps", 3], "--steps says how to draw"),
        (["a", "d", "--prompts", "none.txt"], "there is no prompt in it"),
        (["a", "d", "--prompts", "one.txt"], "1 prompt for 3 pairs"),
        (["a", "d", "--out", "a"], "holds the pictures themselves"),
        (["a", "d", "--out", "one.txt"], "is a file"),
        (["a", "d", "--metrics", "fid"], "'fid' is unknown"),
        (["a", "d", "--metrics", ","], "one name or more"),
        (["a", "d", "--metrics", "clip"], "give the prompts"),
        (["int8", "int9", "--prompts", "one.txt"], "'int9' is unknown"),
        (["int8", "recipe", "--prompts", "one.txt"], "one way, int8"),
        (["int8", "bf16"], "give --prompts FILE"),
        (["int8", "bf16", "--prompts", "none.txt"], "there is no prompt in it"),
        (["int8", "bf16", "--prompts", "nowhere.txt"], "cannot be read"),
        (["int8", "bf16", "--prompts", "one.txt", "--model", "sdxl"], "'sdxl' is unknown"),
        (["int8", "bf16", "--prompts", "one.txt", "--pixels", 100], "multiple of 32"),
        (["int8", "bf16", "--prompts", "one.txt", "--out", "one.txt"], "is a file"),
    ],
)
def test_compare_refuses_in_one_line_and_writes_nothing(refused, monkeypatch, words, says):
    monkeypatch.chdir(refused)
    before = sorted(refused.rglob("*"))
    status, _, said = compare(*words)
    assert status == 2 and says in said[-1], said
    assert sorted(refused.rglob("*")) == before


def test_a_full_disk_is_one_line_and_the_run_goes_on_later(compared, file, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(compared[0], out)
    for name in ("compared.html", "contact_sheet.png", "compared_pictures.json"):
        (out / name).unlink()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    settings = ["--prompts", file, "--out", out, "--steps", 1, "--pixels", 64, "--virtual"]
    for place, function in ((journal, "write_text"), (Image.Image, "save")):
        with monkeypatch.context() as patch:
            patch.setattr(place, function, full)
            status, _, said = compare("bf16", "fast-weights", *settings)
        assert status == 2 and "No space left" in said[-1], said
        assert not list(out.glob("*.partial")) and not list(out.glob(".*.partial"))
    assert compare("bf16", "fast-weights", *settings)[0] == 0


def test_every_way_of_plan_and_every_precision_has_a_name_here():
    assert {*WAYS, *PRECISIONS} <= set(ways.NAMES)
    assert {ways.known(name) for name in ways.SAME} <= set(ways.NAMES)
    assert len({ways.title(name) for name in ways.NAMES}) == len(ways.NAMES)
