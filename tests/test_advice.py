"""Every verdict on the page of advice follows from a check, and every check can come out otherwise."""

from __future__ import annotations

import re
from collections import Counter
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest

from sana_lab import evidence
from sana_lab.advice import page, records, runner
from sana_lab.advice.entry import SCRIPTS, VERDICTS, Advice, Once, Source
from sana_lab.advice.rows import ADVICE, GROUPS, find
from sana_lab.advice.runner import Found, check, judge

ROOT = Path(__file__).parent.parent
CHECKED = [advice.id for advice in ADVICE if advice.check]
SCRIPTED = [advice.id for advice in ADVICE if advice.check == "script"]
OPPOSITE = {"confirmed": "corrected", "corrected": "confirmed", "outdated": "confirmed"}


@pytest.mark.parametrize("id", CHECKED)
def test_verdict_follows(id):
    advice = find(id)
    found = check(advice)
    assert judge(advice, found) == advice.verdict
    assert "{" not in re.sub(r"\{ref\}", "", advice.text.format(**found.facts))
    assert set(found.facts) >= advice.fields
    assert found.record or found.printed or id == "error-handling"


# ---- the same checks, in a world in which the advice fares otherwise ---------------------------------------------


def predict(**sizes):
    def world(patch):
        from sana_lab import accounting

        patch.setattr(accounting, "predict", lambda name, precision: sizes[precision])

    return world


def keeps_float32(patch):
    from bitsandbytes.nn import Int8Params

    def _quantize(self, device):
        self.SCB = self.data.abs().amax(1)
        self.data = self.CB = (self.data / self.SCB[:, None] * 127).round().char().to(device)
        return self

    patch.setattr(Int8Params, "_quantize", _quantize)


def one_class(patch):
    import diffusers
    import transformers

    patch.setattr(diffusers, "BitsAndBytesConfig", transformers.BitsAndBytesConfig)


def another_auto_model(patch):
    import transformers

    patch.setattr(transformers, "AutoModel", transformers.AutoModelForCausalLM)


def clamped(patch):
    from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm

    before = Gemma2RMSNorm.forward
    patch.setattr(Gemma2RMSNorm, "forward", lambda self, x: before(self, x).nan_to_num(0).clamp(-1000, 1000))


def can_be_cast(patch):
    from transformers import PreTrainedModel

    patch.setattr(PreTrainedModel, "to", lambda self, *_, **__: self)


def variant_in_float32(patch):
    from diffusers import SanaTransformer2DModel

    before = SanaTransformer2DModel.save_pretrained

    def save_pretrained(self, folder, variant=None):
        return before(self.float(), folder, variant=variant)

    patch.setattr(SanaTransformer2DModel, "save_pretrained", save_pretrained)


def not_deprecated(patch):
    from diffusers.pipelines import pipeline_utils

    patch.setattr(pipeline_utils, "_resolve_dtype", lambda dtype, torch_dtype: dtype or torch_dtype)


def skips_nothing(patch):
    import diffusers

    before = diffusers.BitsAndBytesConfig
    patch.setattr(diffusers, "BitsAndBytesConfig", lambda load_in_8bit, **_: before(load_in_8bit=load_in_8bit))


def six_is_off(patch):
    from bitsandbytes import nn

    before = nn.Linear8bitLt
    patch.setattr(nn, "Linear8bitLt", lambda *a, threshold, **k: before(*a, threshold=threshold % 6, **k))


def without_a_map(patch):
    from sana_lab.advice import recipe

    before = recipe.recipe
    patch.setattr(recipe, "recipe", lambda **_: before())


def moves(patch):
    from diffusers import DiffusionPipeline

    patch.setattr(DiffusionPipeline, "to", lambda self, *_: self)


def knows_auto(patch):
    from diffusers import SanaPipeline

    before = SanaPipeline.from_pretrained
    patch.setattr(SanaPipeline, "from_pretrained", lambda *a, device_map, **k: before(*a, **k))


def knows_balanced_alone(patch):
    from diffusers import SanaPipeline

    before = SanaPipeline.from_pretrained

    def from_pretrained(*arguments, device_map, **options):
        if device_map != "balanced":
            raise NotImplementedError(f"{device_map} not supported")
        return before(*arguments, device_map=device_map, **options)

    patch.setattr(SanaPipeline, "from_pretrained", from_pretrained)


def only_forgets(patch):
    from diffusers import DiffusionPipeline

    patch.setattr(DiffusionPipeline, "reset_device_map", lambda self: setattr(self, "hf_device_map", None))


def but_not_to_the_cpu(before):
    def to(self, *arguments, **options):
        if "cpu" in arguments:
            raise ValueError("`.to` is not supported")
        return before(self, *arguments, **options)

    return to


def refuses_to_move(patch):
    from diffusers import ModelMixin
    from transformers import PreTrainedModel

    for owner in (ModelMixin, PreTrainedModel):
        patch.setattr(owner, "to", but_not_to_the_cpu(owner.to))


def map_is_true(patch):
    from diffusers import BitsAndBytesConfig, PipelineQuantizationConfig, SanaPipeline

    from sana_lab.advice import recipe

    both = {"transformer": BitsAndBytesConfig(load_in_8bit=True)}
    quantization = PipelineQuantizationConfig(quant_mapping=both)

    def loaded(**options):
        return SanaPipeline.from_pretrained(
            recipe.FOLDER, quantization_config=quantization, dtype=recipe.torch.bfloat16, **options
        )

    patch.setattr(recipe, "recipe", loaded)


def mixes(patch):
    from diffusers import DiffusionPipeline

    patch.setattr(DiffusionPipeline, "enable_model_cpu_offload", lambda self: None)


def codes_go_along(patch):
    import bitsandbytes
    import torch

    def _apply(self, function, recurse=True):
        weight = self.weight
        kept = weight.CB, weight.SCB
        torch.nn.Linear._apply(self, function, recurse)
        if kept[0] is not None:
            self.weight.CB, self.weight.SCB = self.weight.data, function(kept[1])
        for name in ("CB", "SCB"):
            if getattr(self.state, name) is not None:
                setattr(self.state, name, function(getattr(self.state, name)))
        return self

    patch.setattr(bitsandbytes.nn.Linear8bitLt, "_apply", _apply, raising=False)


def contiguous(patch):
    from bitsandbytes import functional

    before = functional.int8_vectorwise_quant
    patch.setattr(functional, "int8_vectorwise_quant", lambda A, *rest, **more: before(A.contiguous(), *rest, **more))


def no_tiles(patch):
    from diffusers import AutoencoderDC

    patch.setattr(AutoencoderDC, "enable_tiling", lambda self, *_: None)


def half_a_footprint(patch):
    from diffusers import ModelMixin

    before = ModelMixin.get_memory_footprint
    patch.setattr(ModelMixin, "get_memory_footprint", lambda self: before(self) // 2)


def not_released(patch):
    import diffusers

    patch.delitem(diffusers._class_to_module, "SanaPipeline")
    patch.delattr(diffusers, "SanaPipeline", raising=False)


def recipe_is_fast(patch):
    before = records.value
    patch.setattr(
        records, "value", lambda *a, methods, **k: 1.0 if methods == "int8" else before(*a, methods=methods, **k)
    )


def peaks_are_high(patch):
    patch.setattr(records, "value", lambda *_: 2e10)


def split_is_useless(patch):
    record = deepcopy(evidence.load("outlier_adherence"))
    ways = record["results"]["ways"]
    ways["8 bits, split"] = ways["8 bits, plain"]
    patch.setattr(records, "load", lambda name: record)


def newest_is_bad(patch):
    patch.setattr(records, "BOOK", "2024-12")


def all_raise(patch):
    loud = tuple(failure for failure in records.catalogue() if failure.shows == "error")
    patch.setattr(records, "catalogue", lambda: loud)


WORLDS = {
    "halves-the-memory": predict(bf16={"all": 100}, int8={"all": 50}),
    "four-bits-a-quarter": predict(bf16={"all": 100}, nf4={"all": 26}),
    "transformer-first": predict(
        bf16={"text_encoder": 100, "transformer": 100}, int8={"text_encoder": 90, "transformer": 50}
    ),
    "from-float32": keeps_float32,
    "compute-cost": recipe_is_fast,
    "outliers-apart": split_is_useless,
    "card-sizes": peaks_are_high,
    "own-config-class": one_class,
    "two-auto-models": another_auto_model,
    "all-in-float16": clamped,
    "cast-afterwards": can_be_cast,
    "variant-fp16": variant_in_float32,
    "torch-dtype-spelling": not_deprecated,
    "skip-proj-out": skips_nothing,
    "threshold-of-six": six_is_off,
    "balanced-and-nothing-else": without_a_map,
    "to-after-map": moves,
    "map-auto": knows_auto,
    "map-only-balanced": knows_balanced_alone,
    "reset-the-map": only_forgets,
    "cannot-be-moved": refuses_to_move,
    "read-the-map": map_is_true,
    "one-strategy": mixes,
    "offload-8-bits": codes_go_along,
    "sprint-recipe": contiguous,
    "tiled-decoding": no_tiles,
    "footprint": half_a_footprint,
    "error-handling": all_raise,
    "newest-together": newest_is_bad,
    "install-from-git": not_released,
}


def test_every_check_has_a_world_in_which_it_comes_out_otherwise():
    assert set(WORLDS) == set(CHECKED)


@pytest.mark.parametrize("id", CHECKED)
def test_check_can_fail(id, monkeypatch):
    WORLDS[id](monkeypatch)
    advice = find(id)
    found = check(advice)
    assert found.holds != (advice.verdict == "confirmed")
    with pytest.raises(ValueError, match=f"the row says '{advice.verdict}', the check says"):
        judge(advice, found)


# ---- verdicts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", CHECKED)
def test_wrong_verdict_is_refused(id):
    advice = find(id)
    found = Found(advice.verdict == "confirmed", dict.fromkeys(advice.fields, 0))
    wrong = OPPOSITE[advice.verdict]
    with pytest.raises(ValueError, match=f"the row says '{wrong}', the check says '(?!{wrong})"):
        judge(replace(advice, verdict=wrong, once=None), found)
    with pytest.raises(ValueError, match="the row says '.*', the check says 'not checked'"):
        judge(advice, None)


def test_outdated_wants_a_stack_on_which_it_was_otherwise():
    advice = find("cannot-be-moved")
    assert judge(advice, Found(False)) == "outdated"
    with pytest.raises(ValueError, match="the check says 'corrected'"):
        judge(replace(advice, once=Once("move-encoder", "2026-10")), Found(False))
    with pytest.raises(ValueError, match="wants `once`"):
        replace(advice, once=None)


def test_all_verdicts_are_given():
    assert set(Counter(advice.verdict for advice in ADVICE)) == set(VERDICTS)


@pytest.mark.parametrize("holds", [None, 1, "yes"])
def test_check_must_say_whether_it_holds(holds, monkeypatch):
    monkeypatch.setattr(runner, "_script", lambda advice: Found(holds))
    with pytest.raises(ValueError, match="True or False"):
        check(find("own-config-class"))


def test_check_must_fill_the_text(monkeypatch):
    monkeypatch.setattr(runner, "_script", lambda advice: Found(True))
    with pytest.raises(ValueError, match="does not say best, worst"):
        check(find("halves-the-memory"))


# ---- rows ----------------------------------------------------------------------------------------------------------

COMMIT = "0" * 40
ROW = Advice("own-config-class", "Says", (Source("a/b", COMMIT, "c.md", "d"),), "confirmed", "Text.", "`dtype`")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": "Own class"}, "small letters"),
        ({"id": "nobody-wrote-it"}, "there is no script"),
        ({"verdict": "true"}, "choose from"),
        ({"verdict": "not checked"}, "has no check"),
        ({"check": ""}, "has no check"),
        ({"check": "guess"}, "neither"),
        ({"verdict": "outdated"}, "wants `once`"),
        ({"sources": ()}, "nobody says it"),
        ({"text": ""}, "wanted"),
        ({"section": ""}, "wanted"),
        ({"text": "It takes 3.1 times as long."}, "loose number"),
        ({"text": "In 8 bits 67 % are left."}, "loose number"),
    ],
)
def test_row_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        replace(ROW, **change)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"commit": "58eb52c"}, "the commit in 40 digits, not '58eb52c'"),
        ({"commit": "main"}, "the commit in 40 digits, not 'main'"),
        ({"path": ""}, "give owner/name, a path and a place"),
        ({"repository": "Sana"}, "give owner/name, a path and a place"),
    ],
)
def test_source_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        replace(ROW.sources[0], **change)


def test_ids_are_unique_and_no_script_lies_idle():
    ids = [advice.id for advice in ADVICE]
    assert len(set(ids)) == len(ids)
    assert {path.stem.replace("_", "-") for path in SCRIPTS.glob("*.py")} == set(SCRIPTED)
    assert set(records.RECORDS) == set(CHECKED) - set(SCRIPTED)


def test_the_article_alone_says_little():
    assert [advice.id for advice in ADVICE if not advice.sources] == ["error-handling"]


def test_find_names_the_choices():
    with pytest.raises(ValueError, match="choose from halves-the-memory"):
        find("nothing")


# ---- page ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", [advice.id for advice in ADVICE])
def test_link_leads_into_the_book(id):
    assert page.link_to(find(id).section, ROOT)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("no such heading", "is no label, and the heading of 0 places"),
        ("failure-that-nobody-knows", "there is no failure 'that-nobody-knows'"),
        ("Exercises", "is no label, and the heading of 1[0-9] places"),
        ("device-map-left-behind", "is no label, and the heading of 0 places"),
    ],
)
def test_link_into_nothing_is_refused(section, words):
    with pytest.raises(ValueError, match=words):
        page.link_to(section, ROOT)


def test_slug_is_the_anchor_that_myst_gives():
    from mdit_py_plugins.anchors.index import slugify

    for heading in (advice.section for advice in ADVICE):
        assert page._slug(heading) == slugify(heading)


def test_page_has_every_group():
    text = (ROOT / "book" / "advice.md").read_text(encoding="utf-8")
    assert re.findall(r'^advice\("(.*)"\)$', text, re.MULTILINE) == list(GROUPS)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == list(GROUPS)
    assert all(f"[{advice.says}](#advice-{advice.id})" in page.contents().data for advice in ADVICE)


def test_page_refuses_a_group_that_is_not_there():
    with pytest.raises(ValueError, match="choose from"):
        page.advice("Rumors", ROOT)


def test_wrong_verdict_stops_the_page(monkeypatch):
    wrong = replace(find("compute-cost"), verdict="confirmed")
    monkeypatch.setitem(page.GROUPS, "Versions", (wrong,))
    with pytest.raises(ValueError, match="the row says 'confirmed', the check says 'corrected'"):
        page.advice("Versions", ROOT)
