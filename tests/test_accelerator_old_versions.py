"""What the virtual GPU needs on old versions, as far as it can be tried on today's.

bitsandbytes before 0.46: the stand-ins for its C functions, against today's kernels and PyTorch's integer product.
PyTorch before 2.8: the words of a device mismatch. Before 2.7: the abstract classes of streams and events.
transformers 4.53 to 4.57 makes attention masks through `torch.vmap`, whose wrapped tensors have no storage.
"""

import abc
import ctypes
import sys
import types

import bitsandbytes.functional as F
import pytest
import torch

from sana_lab import use_accelerator
from sana_lab.accelerator import cuda_api, words
from sana_lab.accelerator.old_bitsandbytes import Kernels, needed

C = Kernels(types.SimpleNamespace(other="answered by the library"))


def pointer(tensor):
    return ctypes.c_void_p(tensor.data_ptr()) if tensor is not None else None


def number(value):
    return ctypes.c_float(value) if isinstance(value, float) else ctypes.c_int32(value)


def quantize(x, threshold=0.0):
    codes, absmax = torch.empty(x.shape, dtype=torch.int8), torch.empty(x.shape[0])
    C.cint8_vector_quant(pointer(x), pointer(codes), pointer(absmax), number(threshold), *map(number, x.shape), None)
    return codes, absmax


def draws():
    generator = torch.Generator().manual_seed(0)
    for i in range(60):
        rows, columns = (int(torch.randint(1, 40, (), generator=generator)) for _ in range(2))
        scale = 10.0 ** (i % 7 - 4)
        yield (torch.randn(rows, columns, generator=generator) * scale).half()


def test_codes_and_scales_are_those_of_today_s_kernel():
    for x in draws():
        codes, absmax = quantize(x)
        expected, scales, _ = F.int8_vectorwise_quant(x)
        assert torch.equal(absmax, scales)
        assert (codes.int() - expected.int()).abs().max() <= 1  # ties may fall either way: the products round apart
        assert (codes != expected).float().mean() < 0.01


def test_a_row_of_zeros_stays_zero():
    codes, absmax = quantize(torch.zeros(3, 8).half())
    assert not codes.any() and not absmax.any()


def test_outliers_neither_count_nor_stay():
    x = torch.tensor([[1.0, -2.0, 7.0, 0.5]]).half()
    codes, absmax = quantize(x, 6.0)
    assert absmax.tolist() == [2.0] and codes.tolist() == [[64, -127, 0, 32]]
    expected, scales, _ = F.int8_vectorwise_quant(x.clone(), threshold=6.0)
    assert torch.equal(codes, expected) and torch.equal(absmax, scales)


@pytest.mark.parametrize(("rows", "inner", "outputs"), [(1, 4, 1), (5, 64, 128), (3, 4096, 8)])
def test_the_product_is_exact(rows, inner, outputs):
    generator = torch.Generator().manual_seed(rows)
    x = torch.randint(-127, 128, (rows, inner), generator=generator, dtype=torch.int8)
    w = torch.randint(-127, 128, (outputs, inner), generator=generator, dtype=torch.int8)
    sums = torch.empty(rows, outputs, dtype=torch.int32)
    sizes = map(number, (inner, rows, outputs))
    assert C.cigemmlt_32(None, *sizes, pointer(w), pointer(x), pointer(sums), None, None, None, None, None) == 0
    assert torch.equal(sums, (x.long() @ w.long().T).int())


@pytest.mark.parametrize("with_bias", [False, True])
def test_sums_become_what_today_s_kernel_makes_of_them(with_bias):
    generator = torch.Generator().manual_seed(1)
    sums = torch.randint(-(10**5), 10**5, (6, 16), generator=generator, dtype=torch.int32)
    rows, columns = torch.rand(6, generator=generator), torch.rand(16, generator=generator)
    bias = torch.randn(16, generator=generator).half() if with_bias else None
    out = torch.empty(6, 16, dtype=torch.float16)
    C.cdequant_mm_int32_fp16(*map(pointer, (sums, rows, columns, out, bias)), number(6), number(16), None)
    expected = F.int8_mm_dequant(sums, rows, columns, bias=bias)
    assert (out.float() - expected.float()).abs().max() <= 2 * 2**-11 * expected.abs().max()


def test_everything_else_is_asked_of_the_library():
    assert C.other == "answered by the library" and C.get_context()
    with pytest.raises(AttributeError, match="missing"):
        C.missing  # noqa: B018


def test_only_an_old_bitsandbytes_is_touched(monkeypatch):
    assert needed() is None  # the installed one has kernels for the CPU
    library = object()
    old = types.SimpleNamespace(lib=library, int8_vectorwise_quant=None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", old)
    monkeypatch.delitem(sys.modules, "bitsandbytes.backends", raising=False)
    assert needed() is old
    with use_accelerator(virtual=True):
        assert isinstance(old.lib, Kernels)
    assert old.lib is library


def test_a_checked_argument_is_described_in_the_words_of_the_version(monkeypatch):
    where = torch.device("cpu"), torch.device("cuda", 0), "_index_select"
    monkeypatch.setattr(words, "OLDER_WORDS", True)
    assert str(words.wrong_argument("index", *where)) == (  # torch 2.5.1: diffusers issue 10500
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
        "(when checking argument for argument index in method wrapper_CUDA__index_select)"
    )
    monkeypatch.setattr(words, "OLDER_WORDS", False)
    assert "but got index is on cpu, different from other tensors on cuda:0" in str(
        words.wrong_argument("index", *where)
    )


def test_streams_and_events_pass_for_the_abstract_classes_of_old_versions(monkeypatch):
    bases = types.SimpleNamespace(_StreamBase=abc.ABCMeta("S", (), {}), _EventBase=abc.ABCMeta("E", (), {}))
    assert not issubclass(cuda_api.Stream, bases._StreamBase)
    monkeypatch.setitem(sys.modules, "torch._streambase", bases)
    cuda_api._register_bases()
    assert issubclass(cuda_api.Stream, bases._StreamBase) and issubclass(cuda_api.Event, bases._EventBase)
    monkeypatch.setitem(sys.modules, "torch._streambase", None)
    cuda_api._register_bases()  # nothing to register with, and no error


def test_what_vmap_makes_of_gpu_tensors_is_on_the_gpu():
    def causal(query, key):
        return (key <= query) & keep[key]

    def masks(index):
        inner = torch.vmap(causal, in_dims=(None, 0))
        return torch.vmap(inner, in_dims=(0, None))(index, index)

    keep = torch.tensor([True, False, True, True])
    expected = masks(torch.arange(4))
    with use_accelerator(virtual=True):
        keep = keep.cuda()
        found = masks(torch.arange(4, device="cuda"))
        assert found.device.type == "cuda" and keep.device.type == "cuda"
        assert torch.equal(found.cpu(), expected)
        assert torch.vmap(lambda x: x * 2 + torch.ones(3, device="cuda"))(torch.zeros(2, 3, device="cuda")).is_cuda
