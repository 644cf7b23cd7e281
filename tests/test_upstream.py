"""Every fault that the book reports shows with the pinned versions, and its test notices when it is mended."""

from __future__ import annotations

import re
from importlib.metadata import version
from types import SimpleNamespace

import pytest

from sana_lab.failures.entry import REPOSITORIES
from sana_lab.upstream import page
from sana_lab.upstream.faults import FAULTS, SCRIPTS, TRIED, find
from sana_lab.upstream.runner import run

NAMES = [fault.name for fault in FAULTS]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_there(name):
    shown = run(find(name))
    assert shown.there, shown
    assert shown.printed.endswith("\n"), "a script says what it saw before it ends"


# ---- the same scripts, the fault mended ---------------------------------------------------------------------------


def first_argument_contiguous(owner, name, patch):
    before = getattr(owner, name)
    patch.setattr(owner, name, lambda A, *rest, **more: before(A.contiguous(), *rest, **more))


def transposed_input(patch):
    from bitsandbytes import functional

    first_argument_contiguous(functional, "int8_vectorwise_quant", patch)


def dequantize_blockwise_of_a_view(patch):
    from bitsandbytes import functional

    first_argument_contiguous(functional, "dequantize_blockwise", patch)


def weight_gradient(patch):
    from bitsandbytes import functional

    before = functional.int8_double_quant

    def int8_double_quant(A, **forward):
        rows, columns, *rest = before(A, **forward)
        # so that `.t()` is contiguous, and the codes of the gradient are those that its scales belong to
        return rows if forward else columns, columns.t().contiguous().t(), *rest

    patch.setattr(functional, "int8_double_quant", int8_double_quant)


def codes_left_behind(patch):
    import bitsandbytes
    import torch

    def _apply(self, function, recurse=True):
        torch.nn.Linear._apply(self, function, recurse)
        for name in ("CB", "SCB"):
            if getattr(self.state, name) is not None:
                setattr(self.state, name, function(getattr(self.state, name)))
        return self

    patch.setattr(bitsandbytes.nn.Linear8bitLt, "_apply", _apply, raising=False)


def embedding_loses_its_scales(patch):
    import bitsandbytes
    import torch

    def _apply(self, function, recurse=True):
        torch.nn.Embedding._apply(self, function, recurse)
        if getattr(self.weight, "SCB", None) is not None:
            self.weight.SCB = function(self.weight.SCB)
        return self

    patch.setattr(bitsandbytes.nn.Embedding8bit, "_apply", _apply, raising=False)


def one_over_127_squared(patch):
    import torch

    right = lambda A, rows, columns, *, dtype: (A * rows * columns / 127**2).to(dtype)  # noqa: E731
    patch.setattr(torch.ops.bitsandbytes, "int8_mm_dequant", right)


def load_in_8bit_dropped(patch):
    from diffusers import BitsAndBytesConfig, SanaTransformer2DModel

    before = SanaTransformer2DModel.from_pretrained

    def from_pretrained(folder, load_in_8bit, **more):
        return before(folder, quantization_config=BitsAndBytesConfig(load_in_8bit=load_in_8bit), **more)

    patch.setattr(SanaTransformer2DModel, "from_pretrained", from_pretrained)


def dequantized_cannot_be_loaded(patch):
    from diffusers import SanaTransformer2DModel

    before = SanaTransformer2DModel.dequantize

    def dequantize(self):
        before(self)
        self._internal_dict = type(self._internal_dict)(
            {name: value for name, value in self.config.items() if name != "quantization_config"}
        )

    patch.setattr(SanaTransformer2DModel, "dequantize", dequantize)


def device_list_made_at_import(patch):
    from diffusers.pipelines import pipeline_utils

    patch.setattr(pipeline_utils, "SUPPORTED_DEVICE_MAP", ["balanced", "xpu", "cpu"])


def signatures_must_match(patch):
    from diffusers import PipelineQuantizationConfig

    patch.setattr(PipelineQuantizationConfig, "_validate_init_kwargs_in_backends", lambda *_, **__: None)


def warm_up_on_a_small_card(patch):
    from transformers import modeling_utils

    patch.setattr(modeling_utils, "caching_allocator_warmup", lambda *_, **__: None)


def cuda_refused_where_to_works(patch):
    import transformers

    patch.setattr(transformers.PreTrainedModel, "cuda", lambda self: self.to("cuda"))


def threads_leave_meta(patch):
    import accelerate
    import torch

    patch.setattr(accelerate, "init_empty_weights", lambda: torch.device("meta"))  # its own in every thread


@pytest.mark.parametrize("name", NAMES)
def test_a_mended_library_is_noticed(name, monkeypatch):
    from sana_lab.upstream import runner

    mend = globals()[name]

    class Mended:  # after the virtual GPU is there, which puts functions of its own in their place
        def __init__(self, entered):
            self.entered = entered

        def __enter__(self):
            self.entered.__enter__()
            self.patch = pytest.MonkeyPatch()
            mend(self.patch)

        def __exit__(self, *error):
            self.patch.undo()
            return self.entered.__exit__(*error)

    real = runner.use_accelerator
    monkeypatch.setattr(runner, "use_accelerator", lambda **options: Mended(real(**options)))
    shown = run(find(name))
    assert not shown.there, shown
    assert not shown.raised or name == "device_list_made_at_import", "mended, it goes on to look for a folder"


# ---- page and data ------------------------------------------------------------------------------------------------


def test_every_script_has_its_fault_and_every_fault_its_script():
    assert {path.stem for path in SCRIPTS.glob("*.py")} == set(NAMES)
    assert len(set(NAMES)) == len(NAMES) >= 10
    with pytest.raises(ValueError, match="choose from transposed_input"):
        find("none")


def test_the_versions_are_those_that_are_run():
    assert {library: version(library).partition("+")[0] for library in TRIED} == TRIED


@pytest.mark.parametrize("fault", FAULTS, ids=NAMES)
def test_the_text(fault):
    assert fault.library in REPOSITORIES and fault.library in TRIED
    for text in (fault.effect, fault.cause, fault.expected, fault.remedy, fault.status):
        assert text.endswith(".") and "!" not in text
    assert not fault.title.endswith(".") and len(fault.title) <= 110
    assert "sana_lab" not in fault.script, "one must be able to file it"


@pytest.mark.parametrize("fault", FAULTS, ids=NAMES)
def test_the_line_is_where_it_says(fault):
    """The source says so still: the file exists in the installed version, and the line has to do with the fault."""
    import importlib.util
    from pathlib import Path

    package = Path(importlib.util.find_spec(fault.library).origin).parent
    file, _, place = fault.source.partition(", ")
    lines = (package / file).read_text(encoding="utf-8").splitlines()
    words = {
        "transposed_input": "A.data_ptr()",
        "dequantize_blockwise_of_a_view": "torch.empty_like(A, dtype=dtype)",
        "weight_gradient": "CAt.t()",
        "codes_left_behind": "def to(self",
        "embedding_loses_its_scales": "class Embedding8bit",
        "one_over_127_squared": "6.200124e-05",
        "load_in_8bit_dropped": "unused_kwargs",
        "dequantized_cannot_be_loaded": "def dequantize",
        "device_list_made_at_import": "SUPPORTED_DEVICE_MAP = ",
        "signatures_must_match": "def _validate_init_kwargs_in_backends",
        "warm_up_on_a_small_card": "1.2 * 1024**3",
        "cuda_refused_where_to_works": "def cuda",
        "threads_leave_meta": "finally:",
    }[fault.name]
    number = re.search(r"line (\d+)", place)
    assert words in (lines[int(number[1]) - 1] if number else "\n".join(lines))


def test_the_page_has_every_library_and_every_report(monkeypatch):
    from pathlib import Path

    source = (Path(__file__).parents[1] / "book" / "upstream.md").read_text(encoding="utf-8")
    libraries = [line.split('"')[1] for line in source.splitlines() if line.startswith("faults(")]
    assert libraries == list(dict.fromkeys(fault.library for fault in FAULTS))
    monkeypatch.setattr(page, "run", lambda fault: page_run(fault))
    text = "\n".join(page.faults(library).data for library in libraries)
    for fault in FAULTS:
        assert f"(fault-{fault.name.replace('_', '-')})=" in text and fault.script.rstrip() in text
        assert fault.expected in page.report(fault) and TRIED[fault.library] in page.report(fault)
    assert "[bitsandbytes#1342](https://github.com/bitsandbytes-foundation/bitsandbytes/issues/1342)" in text
    assert "[#1690](https://github.com/bitsandbytes-foundation/bitsandbytes/issues/1690)" in text
    assert page.contents().data.count("| no |") >= 6
    with pytest.raises(ValueError, match="choose from bitsandbytes"):
        page.faults("numpy")


def page_run(fault):
    from sana_lab.upstream.runner import Shown

    return Shown("seen\n", "Error: words", True)


@pytest.mark.parametrize("fault", FAULTS, ids=NAMES)
def test_what_is_known_is_said_once(fault, monkeypatch):
    monkeypatch.setattr(page, "run", lambda fault: SimpleNamespace(there=True, printed="", raised="AssertionError"))
    (known,) = [line for line in page._fault(fault) if line.startswith("*Known:*")]
    assert known.count("Known") == 1
    assert len(re.findall(r"(?:found on|Searched) \d{4}-\d\d-\d\d", known)) == 1


def test_the_page_refuses_a_fault_that_is_gone(monkeypatch):
    from sana_lab.upstream.runner import Shown

    monkeypatch.setattr(page, "run", lambda fault: Shown("", "", False))
    with pytest.raises(RuntimeError, match="transposed_input no longer shows its fault"):
        page.faults("bitsandbytes")
