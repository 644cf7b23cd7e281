"""PyTorch's own table of operators: a seeded sample of it on the virtual GPU against a real GPU's record."""

import importlib
import json
import random
import sys

import pytest
import torch

from sana_lab import evidence, use_accelerator
from sana_lab.accelerator import agreement, kernel_checks, kernel_table, kernels

SEED, GROUPS = 12, 110
"""Of the sample: so many operators in one type each, about four cases of each."""


@pytest.fixture(scope="module")
def cases():
    sys.path.insert(0, "tests")
    try:
        found = importlib.import_module("conformance.operator_cases")
        found.prepare()
        yield found
    finally:
        sys.path.remove("tests")


@pytest.fixture(scope="module")
def real():
    return evidence.load(agreement.REAL)


def same_here(cases, case, entry, whole):
    """Whether this PyTorch does on the processor what the record's did: else the case says nothing of the GPU."""
    on_cpu = whole.get("cpu") if whole else None
    if on_cpu is None:
        return entry["gpu"].get("raises") != "NotRun"
    recorded = cases.as_cpu(whole["gpu"]) if on_cpu == "same" else on_cpu
    here = cases.outcome(case, "cpu")
    return here == recorded and not any(word in here.get("words", "").lower() for word in cases.ASSERTS)


def sample(cases, real):
    """Cases of the sample that say the same on the processor, with their outcomes on the virtual GPU."""
    results, virtual, chosen = real["results"], {}, []
    names = sorted({"/".join(name.split("/")[:2]) for name in results})
    wanted = set(random.Random(SEED).sample(names, GROUPS))
    for group in cases.groups():
        if group.name in wanted:
            chosen += [case for case in cases.cases(group) if case.name in results]
    comparable = []
    for case in chosen:
        entry, whole = results[case.name], results.get(case.name.rpartition("/")[0] + "/gpu", results[case.name])
        twin = next((other for other in chosen if other.name == case.name.rpartition("/")[0] + "/gpu"), case)
        if same_here(cases, twin, entry, whole):
            comparable.append(case)
    with use_accelerator(virtual=True):
        for case in comparable:
            virtual[case.name] = {"gpu": cases.outcome(case, "cuda")}
    return virtual


def test_a_sample_agrees_with_a_real_gpu(cases, real):
    virtual = sample(cases, real)
    found = agreement.compare(real["results"], virtual)
    differ = {name: what for name, what in found.verdicts.items() if what != "same"}
    assert found.cases >= 200
    assert found.shares["same kind"] >= 0.98, differ
    assert found.shares["same error"] >= 0.95, differ
    assert found.accepted == 0, differ
    # what differs and is not known to
    known = evidence.load(agreement.COMPARED)["results"]["differences"]
    assert len(set(differ) - set(known)) <= 0.02 * found.cases, set(differ) - set(known)


REFUSED = {"raises": "RuntimeError", "words": "Expected all tensors to be on the same device, but found at least two"}


@pytest.mark.parametrize(
    ("virtual", "expected"),
    [
        (REFUSED, "same"),
        ({"returns": "cuda:0 float32 [2]"}, "kind"),
        ({**REFUSED, "raises": "TypeError"}, "error"),
        ({**REFUSED, "words": "something else"}, "error"),
        ({"raises": "TimeLimit", "words": "45 seconds"}, "skipped"),
    ],
)
def test_a_wrong_outcome_is_seen(virtual, expected):
    assert agreement.verdict(REFUSED, virtual) == expected


def test_wrong_values_are_seen():
    right = {"returns": ["cuda:0 float32 [2]"]}
    assert agreement.verdict(right, right) == "same"
    for wrong in ("cpu float32 [2]", "cuda:0 float16 [2]", "cuda:0 float32 [3]"):
        assert agreement.verdict(right, {"returns": [wrong]}) == "value"


def test_accepting_what_cuda_refuses_counts():
    name = "add/float32/0/call/cpu:1"
    found = agreement.compare({name: {"gpu": REFUSED}}, {name: {"gpu": {"returns": "cuda:0 float32 [2]"}}})
    assert (found.refused, found.accepted, found.same_kind) == (1, 1, 0)
    assert agreement.compare({name: {"gpu": REFUSED}}, {name: {"gpu": REFUSED}}).accepted == 0


def test_the_table_of_kernels_is_the_records(real):
    assert kernels.FILE.read_text(encoding="utf-8") == kernel_table.text_of(real)


def test_the_comparison_reaches_its_goals(real):
    record = evidence.load(agreement.COMPARED)
    assert record["versions"]["torch"] == real["versions"]["torch"]
    for half, counts in record["results"]["figures"]["now"].items():
        found = agreement.Agreement(**counts, verdicts={})
        assert found.cases >= 5000 or half != "all"
        assert found.shares["same kind"] >= 0.98
        assert found.shares["same error"] >= 0.95
        assert found.accepted == 0
    differences = record["results"]["differences"]
    assert set(differences) <= set(real["results"])
    assert agreement.differences_table().drop(columns="reason").to_numpy().sum() == len(differences)


def test_the_table_of_types_has_every_operator(real):
    table = agreement.kernels_table()
    assert table.loc["nn.functional.max_pool2d", "int32"] == "no"
    assert table.loc["mm", "int64"] == "some"  # without elements it returns
    assert table.loc["mm", "float32"] == "yes"
    assert table.loc["histc", "int64"] == "yes"
    assert len(table) > 500


# ---- neighbours that the table of operators has not ------------------------------------------------------------------


def refusal(call):
    with pytest.raises((RuntimeError, TypeError, AssertionError)) as caught:
        call()
    return f"{type(caught.value).__name__}: {caught.value}"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (
            "torch.ones(3, 2, dtype=torch.int64, device=D) @ torch.ones(2, dtype=torch.int64, device=D)",
            "addmv_impl_cuda",
        ),
        ("torch.nn.functional.linear(torch.ones(2, 3, 2).int().to(D), torch.ones(2, 2).int().to(D))", "addmm_cuda"),
        ("torch.ones(4, 4, dtype=torch.int32, device=D).matrix_power(3)", "addmm_cuda"),
        ("torch._int_mm(torch.ones(16, 8).char().to(D), torch.ones(8, 8).char().to(D))", "greater than 16, but got 16"),
        ("torch.fft.rfft(torch.ones(12, device=D).half())", "powers of two"),
        ("torch.histogram(torch.ones(4, device=D), 3)", "aten::histogram.bin_ct"),
        (
            "torch.nn.functional.layer_norm(torch.ones(2, 4, device=D).half(), (4,), torch.ones(4, device=D))",
            "Half but",
        ),
        ("torch.ones(3, device=D).tensor_split(torch.tensor([1], device=D))", "to be on cpu"),
        ("torch.ones(3, device=D).map_(torch.ones(3, device=D), lambda a, b: a)", "only implemented on CPU"),
        ("torch.nn.LSTM(4, 3).to(D)(torch.ones(2, 1, 4))", "found input tensor at cpu and parameter tensor at cuda:0"),
        ("torch.stack([torch.ones(2), torch.ones(2)], out=torch.ones(2, 2, device=D))", "tensors is on cpu"),
        ("torch.meshgrid(torch.ones(2, device=D), torch.ones(3), indexing='ij')", "the same device"),
    ],
)
def test_refused_as_cuda_does(code, words):
    with use_accelerator(virtual=True):
        assert words in refusal(lambda: eval(code, {"torch": torch, "D": "cuda"}))


@pytest.mark.parametrize(
    ("code", "described"),
    [
        ("torch.histc(torch.tensor([1, 2, 2], device=D), bins=3)", ("cuda:0", "int64", [1, 0, 2])),
        ("torch.ones(2, dtype=torch.bool, device=D).abs()", ("cuda:0", "bool", [True, True])),
        ("torch.fft.hfft(torch.ones(3, device=D).half())", ("cuda:0", "float16", [4, 0, 0, 0])),
        ("torch.empty(0, 2, dtype=torch.int64, device=D) @ torch.ones(2, 2).long().to(D)", ("cuda:0", "int64", [])),
        ("torch.nn.functional.unfold(torch.ones(1, 1, 2, 2, device=D), 2).sum(0).T", ("cuda:0", "float32", [[1] * 4])),
        ("torch.ones(2, 2, device=D).bfloat16().trace()[None]", ("cuda:0", "bfloat16", [2])),
        ("torch.arange(3)[torch.tensor(1, device=D)][None]", ("cpu", "int64", [1])),
    ],
)
def test_computed_as_cuda_does(code, described):
    with use_accelerator(virtual=True):
        result = eval(code, {"torch": torch, "D": "cuda"})
        assert (str(result.device), str(result.dtype)[6:], result.tolist()) == described


def test_writing_to_a_cpu_tensor_takes_an_index_from_anywhere():
    with use_accelerator(virtual=True):
        x = torch.zeros(3)
        x[torch.tensor([0, 2], device="cuda")] = 1
        assert x.tolist() == [1, 0, 1]
        assert x.device.type == "cpu"


def test_checks_name_types_that_exist():
    assert all(isinstance(dtype, torch.dtype) for types, _ in kernel_checks.CHECKS.values() for dtype in types)
    assert json.loads(kernels.FILE.read_text(encoding="utf-8")).keys() == {"record", "words", "refused", "computed"}
