"""Kernels that take an address read memory as it lies, on the virtual GPU as on a real one."""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import inspect
import logging
import os
import pathlib
import re

import bitsandbytes
import bitsandbytes.functional
import numpy as np
import pytest
import torch

from sana_lab import evidence, use_accelerator
from sana_lab.accelerator.conformance import raw_memory_table
from sana_lab.accelerator.old_bitsandbytes import Kernels
from sana_lab.accelerator.raw_memory import ARGUMENTS, as_it_lies, write

from . import audit_kernels, layouts, layouts_ours
from .layouts import PROBES, Probe, decibels, numbers

RECORD = "raw_memory"
PINNED = bitsandbytes.__version__ == "0.50.2"
LAYOUTS = ("transposed", "rows", "columns", "steps", "offset", "odd offset", "expanded")


@pytest.fixture(scope="module", autouse=True)
def quiet():
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


@pytest.fixture(scope="module")
def measured():
    """Every probe in every layout, on the virtual GPU."""
    return audit_kernels.virtual(list(PROBES))


def right_everywhere(row):
    """Of views: what is contiguous and begins at an odd address is another matter."""
    return all(audit_kernels.right(row, layout) for layout in row if "offset" not in layout)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_the_audit_goes_on_behind_a_layout_that_ends_its_process(monkeypatch, tmp_path):
    """On a real GPU each probe has a process; one that dies loses the layout it was at, and no other."""
    tried = {"contiguous": lambda: 99.0, "odd offset": lambda: os.kill(os.getpid(), 9), "rows": lambda: 40.0}

    class Dying:
        layouts = tuple(tried)
        there = staticmethod(lambda: True)
        decibels = staticmethod(lambda layout: tried[layout]())

    class Missing(Dying):
        there = staticmethod(lambda: {}["no such kernel"])

    monkeypatch.setattr(layouts, "PROBES", {"dying": Dying, "missing": Missing})
    options = argparse.Namespace(jobs=2, out=tmp_path / "record.json")
    assert audit_kernels.real(["dying", "missing"], options) == {
        "dying": {"contiguous": 99.0, "odd offset": "ProcessDied: exit status -9", "rows": 40.0},
        "missing": {"error": "KeyError: 'no such kernel'"},
    }
    assert not list(tmp_path.iterdir()), "what it kept meanwhile"


# ---- memory ------------------------------------------------------------------------------------------------------


def any_view(draw):
    """Some view of some storage: transposed, sliced, expanded, in any order and any number of dimensions."""
    generator = np.random.default_rng(draw)
    tensor = torch.arange(int(generator.integers(1, 400)), dtype=torch.float32)
    tensor = tensor[int(generator.integers(0, len(tensor))) :]
    for width in (7, 4, 3):
        if tensor.ndim < 3 and tensor.shape[0] % width == 0:
            tensor = tensor.unflatten(0, (-1, width))
    for _ in range(3):
        match int(generator.integers(0, 4)):
            case 0:
                tensor = tensor.permute(*generator.permutation(tensor.ndim).tolist())
            case 1 if tensor.shape[0] > 1:
                tensor = tensor[:: int(generator.integers(1, 4))]
            case 2 if tensor.shape[-1] > 1:
                tensor = tensor[..., int(generator.integers(0, tensor.shape[-1])) :]
            case 3:
                tensor = tensor[:1].expand(int(generator.integers(1, 5)), *tensor.shape[1:])
    return tensor


def at_the_address(tensor):
    """What the processor finds where the tensor begins, as many numbers as it has; zeros past the storage's end."""
    left = tensor.untyped_storage().nbytes() // 4 - tensor.storage_offset()
    there = (ctypes.c_float * min(left, tensor.numel())).from_address(tensor.data_ptr())
    return np.concatenate([np.array(there, dtype=np.float32), np.zeros(max(0, tensor.numel() - left), np.float32)])


def test_a_kernel_reads_what_follows_the_first_number():
    views = [any_view(draw) for draw in range(800)]
    for view in views:
        read = as_it_lies(view)
        assert read.is_contiguous() and read.shape == view.shape
        assert np.array_equal(read.flatten().numpy(), at_the_address(view))
    assert sum(not view.is_contiguous() for view in views) > 100
    past = [view for view in views if view.untyped_storage().nbytes() // 4 - view.storage_offset() < view.numel()]
    assert len(past) > 10, "some must reach past the end of their storage"


def test_a_kernel_writes_where_it_reads():
    for draw in range(200):
        view = any_view(draw).clone(memory_format=torch.preserve_format) if draw % 2 else any_view(draw)
        values = torch.arange(view.numel(), dtype=torch.float32) + 1000
        write(view, values)
        found = as_it_lies(view).flatten()
        there = min(view.numel(), view.untyped_storage().nbytes() // 4 - view.storage_offset())
        assert torch.equal(found[:there], values[:there])


def test_reading_makes_no_copy_where_none_is_needed():
    tensor = numbers(6, 8)
    for contiguous in (tensor, tensor[2:5], tensor.view(2, 24), tensor[3:4].t().t()):
        assert as_it_lies(contiguous) is contiguous
    assert as_it_lies(None) is None


# ---- the transposed input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.0, 6.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("rows", "inner", "outputs"), [(192, 640, 256), (33, 64, 40), (256, 128, 8), (7, 32, 12)])
def test_an_8_bit_layer_reads_a_transposed_input_as_if_it_were_not(threshold, dtype, rows, inner, outputs):
    x, weight = numbers(rows, inner, dtype=dtype), numbers(outputs, inner, seed=1)
    exact = x.double() @ weight.double().T
    with use_accelerator(virtual=True):
        layer = layouts.linear_8bit(weight, threshold)
        straight, turned = x.cuda(), x.t().contiguous().cuda().t()
        assert torch.equal(straight.cpu(), turned.cpu()), "the numbers are the same"
        assert decibels(exact, layer(straight)) > 30
        assert decibels(exact, layer(turned)) < 3
        assert torch.equal(layer(turned), layer(turned.unsqueeze(0))[0])
        assert torch.equal(layer(straight), layer(torch.stack([straight, straight]).contiguous())[0])
        both = torch.stack([turned.t(), turned.t()]).transpose(1, 2)
        assert not both.is_contiguous() and torch.equal(layer(straight), layer(both)[1])
        assert torch.equal(layer(straight), layer(turned.contiguous()))


def test_in_decibels_as_recorded():
    """The figures that an H200 gave, in the same lines."""
    with use_accelerator(virtual=True):
        for threshold in (0, 6):
            name = f"Linear8bitLt at threshold {threshold}, float16"
            assert PROBES[f"{name}, x"].decibels("contiguous") == 39.4
            assert PROBES[f"{name}, x"].decibels("transposed") == -3.0
            assert PROBES[f"{name}, a leading dimension of 1, x"].decibels("transposed") == -3.0
            assert PROBES[f"{name}, a leading dimension of 2, x"].decibels("transposed") == 39.4


@pytest.mark.parametrize("threshold", [0.0, 6.0])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_codes_are_those_that_a_kernel_makes_of_the_address(layout, threshold):
    """Beside the C function's stand-in for old versions, which works on addresses alone."""
    for draw in range(12):
        rows, inner = (int(n) for n in np.random.default_rng(draw).integers(2, 40, 2))
        values = numbers(rows, inner, seed=draw)
        values[torch.rand(rows, inner, generator=torch.Generator().manual_seed(draw)) < 0.02] *= 9
        with use_accelerator(virtual=True):
            view = layouts.laid(values.half(), layout)
            codes, absmax, columns = bitsandbytes.functional.int8_vectorwise_quant(view, threshold)
            right, largest = torch.empty(rows, inner, dtype=torch.int8), torch.empty(rows)
            pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (view, right, largest))
            sizes = (ctypes.c_float(threshold), ctypes.c_int32(rows), ctypes.c_int32(inner))
            Kernels.cint8_vector_quant(*pointers, *sizes, None)
            assert torch.equal(absmax.cpu(), largest)
            if threshold:
                outliers = (view.cpu().abs() >= threshold).any(dim=0).nonzero().view(-1)
                assert torch.equal(columns.cpu(), outliers), "PyTorch finds the columns, by strides"
                right[:, outliers] = 0
            assert (codes.cpu() != right).float().mean() < 0.01, "but for numbers halfway between two codes"
            assert (codes.cpu().int() - right.int()).abs().max() <= 1


def test_three_dimensions_keep_their_shape():
    with use_accelerator(virtual=True):
        values = numbers(2, 5, 16, dtype=torch.float16).cuda()
        codes, absmax, _ = bitsandbytes.functional.int8_vectorwise_quant(values)
        flat, flat_absmax, _ = bitsandbytes.functional.int8_vectorwise_quant(values.view(10, 16))
        assert codes.shape == (2, 5, 16) and absmax.shape == (10,)
        assert torch.equal(codes.view(10, 16), flat) and torch.equal(absmax, flat_absmax)


def test_a_row_that_ends_with_its_storage():
    """What lies behind reads as zeros, and the first row stays right."""
    row = numbers(1, 32, dtype=torch.float16)
    with use_accelerator(virtual=True):
        codes, absmax, _ = bitsandbytes.functional.int8_vectorwise_quant(row.cuda().expand(4, 32))
        alone, largest, _ = bitsandbytes.functional.int8_vectorwise_quant(row.cuda())
        assert torch.equal(codes[:1], alone) and not codes[1:].any()
        assert absmax.tolist() == [*largest.tolist(), 0, 0, 0]


def test_without_a_gpu_nothing_changes():
    x = numbers(33, 64, dtype=torch.float16)
    turned = x.t().contiguous().t()

    def codes():
        return bitsandbytes.functional.int8_vectorwise_quant(turned.clone(memory_format=torch.preserve_format))[0]

    outside = codes()
    with use_accelerator(virtual=True):
        assert torch.equal(codes(), outside), "tensors on the processor"
    assert torch.equal(codes(), outside)
    assert torch.equal(outside, bitsandbytes.functional.int8_vectorwise_quant(x.clone())[0])


def test_no_memory_is_taken_for_what_is_read():
    with use_accelerator(virtual=True):
        view = layouts.laid(numbers(64, 512, dtype=torch.float16), "transposed")
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        kept = bitsandbytes.functional.int8_vectorwise_quant(view)
        assert torch.cuda.max_memory_allocated() - before == 64 * 512 + 512
        assert kept[0].device.type == "cuda"


# ---- the table ---------------------------------------------------------------------------------------------------


def probes_of(argument):
    return [p for p in PROBES.values() if re.split(r",| at | in | of | with ", p.kernel)[0] == argument.kernel
            and p.argument == argument.name and "width 30" not in p.kernel]  # fmt: skip


@pytest.mark.skipif(not PINNED, reason="the table is that of bitsandbytes 0.50.2")
@pytest.mark.parametrize("argument", ARGUMENTS, ids=lambda a: f"{a.kernel}-{a.name}")
def test_the_table_says_what_the_virtual_gpu_does(argument, measured):
    probes = probes_of(argument)
    assert probes, "no probe tries it"
    if argument.safe:
        assert all(right_everywhere(measured[probe.name]) for probe in probes)
    else:
        assert any(not right_everywhere(measured[probe.name]) for probe in probes)


OWN = {
    241, 242,  # codes and scales of int8_vectorwise_quant, just made
    325, 326, 327, 375, 413, 414, 415, 485, 885, 891,  # copies and results, just made
    199, 890,  # the result of int8_mm_dequant; one number
    1099, 1100, 1101, 1191, 1192, 1200, 1201, 1202, 1203,  # what an optimizer makes for itself
}  # fmt: skip
"""Lines of bitsandbytes 0.50.2, backends/cuda/ops.py, with addresses of tensors that no caller gave."""


@pytest.mark.skipif(not PINNED, reason="the table is that of bitsandbytes 0.50.2")
def test_every_address_in_the_source_is_in_the_table():
    folder = pathlib.Path(inspect.getfile(bitsandbytes)).parent
    lines = (folder / "backends/cuda/ops.py").read_text().splitlines()
    taken = {number for number, line in enumerate(lines, 1) if re.search(r"data_ptr\(\)|get_ptr\(\w", line)}
    listed = {int(a.place.split(":")[1]) for a in ARGUMENTS if a.place.startswith("backends/cuda")}
    assert taken - listed == OWN
    for argument in ARGUMENTS:
        file, line = argument.place.split(":")
        text = (folder / file).read_text().splitlines()[int(line) - 1]
        assert re.search(r"data_ptr|get_ptr|contiguous\(\)|empty_like|ops\.bitsandbytes|stats\.view", text), argument


def test_the_page_shows_the_table():
    table = raw_memory_table()
    assert len(table) == len(ARGUMENTS)
    assert set(table["a view is"]) == {"read right", "read wrong"}
    assert (table["a view is"] == "read right").sum() == sum(a.safe for a in ARGUMENTS)


def test_ours_take_every_view(measured):
    for name in layouts_ours.OURS:
        assert right_everywhere(measured[name]), name


# ---- other kernels, other versions ---------------------------------------------------------------------------------


def test_transposed_codes_come_back_scrambled():
    """The result of `dequantize_blockwise` takes the strides of its argument, and is written row by row."""
    values = numbers(16, 64)
    with use_accelerator(virtual=True):
        codes, state = bitsandbytes.functional.quantize_blockwise(values.cuda(), blocksize=64)
        back = bitsandbytes.functional.dequantize_blockwise(codes, state)
        turned = bitsandbytes.functional.dequantize_blockwise(codes.t().contiguous().t(), state)
        assert decibels(values, back) > 35 > 3 > decibels(values, turned)
        assert torch.equal(as_it_lies(turned), back), "the right numbers in the wrong places"


def test_results_land_where_the_caller_says():
    """With `out=`, which bitsandbytes' kernels for processors lack: contiguous right, a slice by address."""
    packed, shape = torch.arange(128, dtype=torch.uint8).view(-1, 1), (4, 64)
    with use_accelerator(virtual=True):
        absmax, wide = torch.ones(4, device="cuda"), torch.zeros(4, 128, device="cuda")
        right = torch.ops.bitsandbytes.dequantize_4bit.default(packed.cuda(), absmax, 64, "nf4", shape, torch.float32)
        out = torch.zeros(shape, device="cuda")
        torch.ops.bitsandbytes.dequantize_4bit.out(packed.cuda(), absmax, 64, "nf4", shape, torch.float32, out=out)
        assert torch.equal(out, right)
        torch.ops.bitsandbytes.dequantize_4bit.out(
            packed.cuda(), absmax, 64, "nf4", shape, torch.float32, out=wide[:, :64]
        )
        assert torch.equal(wide.flatten()[:256], right.flatten()) and not wide.flatten()[256:].any()


def test_an_update_by_address_reaches_the_wrong_parameters():
    with use_accelerator(virtual=True):
        wide = torch.zeros(4, 16, device="cuda")
        gradient, state = torch.ones(4, 8, device="cuda"), torch.zeros(4, 8, device="cuda")
        bitsandbytes.functional.optimizer_update_32bit(
            "lion", gradient, wide[:, :8], state, 0.9, 0.0, 1, 0.1, beta2=0.99
        )
        assert wide.flatten()[:32].ne(0).all() and not wide.flatten()[32:].any()


def test_before_0_49_the_4_bit_kernels_copied_nothing(monkeypatch):
    values = numbers(24, 64, dtype=torch.float16)
    with use_accelerator(virtual=True):
        turned = values.t().contiguous().cuda().t()
        right, _ = torch.ops.bitsandbytes.quantize_4bit.default(values.cuda(), 64, "nf4", torch.uint8)
        lying, _ = torch.ops.bitsandbytes.quantize_4bit.default(as_it_lies(turned), 64, "nf4", torch.uint8)
        new, _ = torch.ops.bitsandbytes.quantize_4bit.default(turned, 64, "nf4", torch.uint8)
        monkeypatch.setattr(bitsandbytes, "__version__", "0.48.2")
        old, _ = torch.ops.bitsandbytes.quantize_4bit.default(turned, 64, "nf4", torch.uint8)
    assert torch.equal(new, right) and torch.equal(old, lying) and not torch.equal(old, right)


def test_an_odd_address_is_refused_where_cuda_refuses_it(measured):
    """As on an H200: 16 bytes for the 4-bit products, 4 for cuBLASLt; one that is a multiple is taken."""
    for name in ("gemv_4bit, A", "gemv_4bit, B", "gemm_4bit, 3 rows, A", "Linear4bit, float16, 3 rows, x"):
        assert "misaligned address" in measured[name]["odd offset"]
    for name in ("int8_linear_matmul, A", "int8_scaled_mm, B", "int8_mixed_scaled_mm, CA"):
        assert "cublasLt ran into an error!" in measured[name]["odd offset"]
    for name in ("gemv_4bit, A", "int8_linear_matmul, A", "Linear4bit, float16, 3 rows, x"):
        assert audit_kernels.right(measured[name], "offset")
    for name in ("int8_vectorwise_quant, A", "Linear4bit, float16, 192 rows, x", "quantize_4bit, A"):
        assert audit_kernels.right(measured[name], "odd offset")


def test_the_gradient_of_a_16_bit_weight_is_lost_whatever_the_layout(measured):
    """bitsandbytes hands the kernel `CAt.t()`, a view, by its address (0.50.2, autograd/_functions.py)."""
    for which, kept in (("input", True), ("weight", False)):
        row = measured[f"gradient of the {which}, Linear8bitLt with a weight in 16 bits, grad"]
        assert all((value > 30) == kept and (value < 0) != kept for value in row.values()), row


def test_a_step_with_two_inputs_has_the_same_gradient_as_its_codes_give():
    """Inside `backward`, codes of the gradient are made on the GPU: of rows right, of columns by PyTorch."""
    gradient = numbers(24, 32, dtype=torch.float16)
    with use_accelerator(virtual=True):
        codes, turned, rows, columns, _ = bitsandbytes.functional.int8_double_quant(gradient.cuda())
        assert {tensor.device.type for tensor in (codes, turned, rows, columns)} == {"cuda"}
        assert decibels(gradient, codes.float() * rows.unsqueeze(1) / 127) > 35
        assert decibels(gradient, turned.float() * columns / 127) > 35
        layer = bitsandbytes.nn.Linear8bitLt(64, 32, bias=True, has_fp16_weights=True).cuda().half()
        x = numbers(2, 12, 64, dtype=torch.float16).cuda().requires_grad_()
        layer(x).backward(gradient.view(2, 12, 32).cuda())
        assert x.grad.is_cuda and layer.weight.grad.is_cuda and layer.bias.grad.is_cuda
        weight = layer.weight.detach().cpu().double()
        assert decibels((gradient.double() @ weight).view(2, 12, 64), x.grad) > 30


# ---- the audit ---------------------------------------------------------------------------------------------------


def fake(run, layouts=("contiguous", "rows", "columns")):
    return Probe("fake", "x", layouts, lambda: {"x": torch.ones(2, 2)}, run, lambda given: given["x"])


def test_a_kernel_that_ends_its_process_takes_no_other_layout_with_it(monkeypatch):
    tried = []

    def decibels_of(self, layout):
        tried.append(layout)
        if layout == "rows":
            os._exit(139)
        if layout == "columns":
            raise RuntimeError("CUDA error: misaligned address\nmore")
        return 40.0

    monkeypatch.setattr(Probe, "decibels", decibels_of)
    monkeypatch.setitem(PROBES, "fake, x", fake(None, ("contiguous", "rows", "columns", "steps")))
    found = audit_kernels.real(["fake, x"], argparse.Namespace(jobs=1, out=None))
    assert found == {
        "fake, x": {
            "contiguous": 40.0,
            "rows": "ProcessDied: exit status 139",
            "columns": "RuntimeError: CUDA error: misaligned address more",
            "steps": 40.0,
        }
    }


def test_the_comparison_notices():
    one = {"k": {"contiguous": 40.0, "rows": -3.0, "columns": 40.0}}
    assert audit_kernels.differences(one, one) == []
    assert audit_kernels.differences(one, {"k": {"contiguous": 43.0, "rows": -3.4, "columns": 42.0}}) == []
    for wrong in ({"rows": 39.0}, {"rows": 3.0}, {"columns": 5.0}, {"columns": "RuntimeError: no"}):
        assert audit_kernels.differences(one, {"k": {**one["k"], **wrong}}), wrong


def test_the_virtual_gpu_does_what_the_record_says(measured):
    if RECORD not in evidence.names():
        pytest.skip(f"no real GPU has run it yet: {audit_kernels.COMMAND}")
    record = evidence.load(RECORD)
    version = importlib.metadata.version("bitsandbytes")
    assert version in record["results"]
    assert audit_kernels.differences(measured, record["results"][version]) == []
