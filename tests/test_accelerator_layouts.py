"""Results of scripted, traced, nested and sparse computations live on the GPU; what cannot work says so."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from sana_lab import use_accelerator


@pytest.fixture(autouse=True)
def accelerator():
    with use_accelerator(gpus=2, vram="1GiB", virtual=True) as accelerator:
        yield accelerator


def gpu(*shape, index=0):
    return torch.ones(*shape, device=f"cuda:{index}")


@torch.jit.script
def branching(x: torch.Tensor, w: torch.Tensor):
    y = x @ w
    if bool(y.sum() > 0):
        y = y + torch.zeros(4, device=x.device)
    return y, {"total": y.sum()}


@pytest.mark.parametrize("index", [0, 1])
def test_scripted_functions_follow_their_inputs(index):
    for _ in range(3):  # the interpreter optimizes from the second call on
        y, more = branching(gpu(2, 4, index=index), gpu(4, 4, index=index))
        assert str(y.device) == str(more["total"].device) == f"cuda:{index}"
    assert branching(torch.ones(2, 4), torch.ones(4, 4))[0].device.type == "cpu"


def test_scripted_functions_refuse_what_cuda_refuses():
    for x, w in ((gpu(2, 4), torch.ones(4, 4)), (gpu(2, 4), gpu(4, 4, index=1))):
        with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device, but got mat2 is on"):
            branching(x, w)


def test_traced_modules_run_in_half_precision_and_in_a_larger_model():
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 2)).cuda().half()
    traced = torch.jit.trace(net, gpu(1, 3, 8, 8).half())
    found = torch.nn.Sequential(traced, torch.nn.Linear(2, 2).cuda().half())(gpu(5, 3, 8, 8).half())
    assert found.is_cuda and found.dtype == torch.float16 and found.shape == (5, 2)
    assert torch.equal(traced(gpu(2, 3, 8, 8).half()), net(gpu(2, 3, 8, 8).half()))


def test_results_of_scripts_count_as_memory():
    before = torch.cuda.memory_allocated()
    y, _ = branching(gpu(1024, 4), gpu(4, 4))
    assert torch.cuda.memory_allocated() - before >= y.nbytes
    del y, _
    assert torch.cuda.memory_allocated() == before


def test_nested_tensors_go_to_the_other_gpu_and_back():
    x = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)], device="cuda:1")
    assert str(x.device) == str((x * 2).device) == str(x.to_padded_tensor(0).device) == "cuda:1"
    assert x.cpu().device.type == "cpu"
    jagged = torch.nested.nested_tensor([gpu(2, 3), gpu(1, 3)], layout=torch.jagged)
    assert jagged.is_cuda and (jagged * 2).is_cuda and jagged.sum().is_cuda


def test_sparse_tensors_keep_their_device_through_views_and_copies():
    x = torch.eye(3, device="cuda:1").to_sparse()
    for found in (x.t(), x.transpose(0, 1), x.clone(), x.detach(), x.coalesce(), -x, x.half(), x.to_sparse_csr()):
        assert str(found.device) == "cuda:1", found
    assert x.to("cuda:0").is_cuda and x.cpu().device.type == "cpu"
    with pytest.raises(RuntimeError, match="same device"):
        torch.sparse.mm(x, gpu(3, 3))


def test_sparse_tensors_count_as_memory():
    before = torch.cuda.memory_allocated()
    x = torch.sparse_coo_tensor(torch.tensor([[0, 1]]), torch.ones(2), (1000,), device="cuda")
    assert torch.cuda.memory_allocated() - before == 1024
    del x
    assert torch.cuda.memory_allocated() == before


# ---- what cannot work


def test_export_is_refused_for_modules_on_the_gpu():
    with pytest.raises(RuntimeError, match="torch.export.export needs a real GPU"):
        torch.export.export(torch.nn.Linear(4, 4).cuda(), (gpu(1, 4),))
    with pytest.raises(RuntimeError, match="needs a real GPU"):
        torch.export.export(torch.nn.ReLU(), (gpu(1, 4),))


@pytest.mark.parametrize(
    "call",
    [
        lambda: torch.cuda.cudart(),
        lambda: torch.cuda.memory._record_memory_history(),
        lambda: torch.cuda.profiler.start(),
        lambda: torch.cuda.nvtx.range_push("here"),
        lambda: torch.cuda.caching_allocator_alloc(512),
        lambda: torch.cuda.set_sync_debug_mode("error"),
    ],
)
def test_what_needs_the_runtime_says_so(call):
    with pytest.raises(RuntimeError, match="needs a real GPU: on the virtual GPU there is no"):
        call()


def test_the_profiler_says_one_line():
    code = """
from sana_lab import use_accelerator
use_accelerator(virtual=True)
import torch
from torch.profiler import ProfilerActivity, profile
with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
    torch.ones(4, 4, device="cuda") @ torch.ones(4, 4, device="cuda")
assert "aten::mm" in {event.key for event in found.key_averages()}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "no kernels to profile" in done.stderr and len(done.stderr.splitlines()) < 8


@torch.jit.script
def with_cpu(x: torch.Tensor):
    return x.cpu() + 1


@torch.jit.script
def with_to_cpu(x: torch.Tensor):
    return x.to("cpu") * x.to(torch.float64)


class Caller(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Sequential(Mover())

    def forward(self, x: torch.Tensor):
        return self.inner(x)


class Mover(torch.nn.Module):
    def forward(self, x: torch.Tensor):
        return x.to(torch.device("cpu"))


def test_a_script_that_moves_to_the_cpu_is_refused():
    for script in (with_cpu, with_to_cpu, torch.jit.script(Caller())):
        with pytest.raises(RuntimeError, match="TorchScript on the virtual GPU cannot move a tensor by itself"):
            script(gpu(3))
        assert script(torch.ones(3)).device.type == "cpu"


def sparse(index=None):
    return torch.eye(3).to_sparse() if index is None else torch.eye(3, device=f"cuda:{index}").to_sparse()


ADDMM, MADE = "SparseCUDA__addmm", "SparseCUDA___sparse_coo_tensor_with_dims_and_tensors"


@pytest.mark.parametrize(
    ("call", "argument", "device", "others", "kernel"),
    [
        (lambda: torch.sparse.mm(sparse(0), torch.ones(3, 2)), "mat1", "cuda:0", "cpu", ADDMM),
        (lambda: torch.sparse.mm(sparse(), gpu(3, 2)), "mat1", "cpu", "cuda:0", ADDMM),
        (lambda: torch.sparse.mm(sparse(0), gpu(3, 2, index=1)), "mat1", "cuda:0", "cuda:1", ADDMM),
        (lambda: sparse(0) @ torch.ones(3, 2), "mat2", "cpu", "cuda:0", "SparseCUDA__mm"),
        (lambda: torch.addmm(torch.ones(3, 2), sparse(0), gpu(3, 2)), "mat1", "cuda:0", "cpu", ADDMM),
        (lambda: torch.sparse.mm(sparse(0), sparse()), "other", "cpu", "cuda:0", "SparseCUDA___sparse_sparse_matmul"),
        (lambda: sparse(0).mv(torch.ones(3)), "vec", "cpu", "cuda:0", "SparseCUDA__mv"),
        (lambda: torch.smm(sparse(0), torch.ones(3, 2)), "mat1", "cuda:0", "cpu", "SparseCUDA_out_sspaddmm"),
        (lambda: torch.sparse_coo_tensor(gpu(1, 2).long(), torch.ones(2)), "values", "cpu", "cuda:0", MADE),
        (lambda: torch.sparse_coo_tensor(torch.ones(1, 2).long(), gpu(2), (3,)), "values", "cuda:0", "cpu", MADE),
        (lambda: torch.nested.as_nested_tensor([torch.ones(1, 3), gpu(2, 3)]), "tensors", "cuda:0", "cpu", "CUDA_cat"),
        (lambda: torch.nested.nested_tensor([gpu(2, 3), torch.ones(1, 3)]), "tensors", "cpu", "cuda:0", "CUDA_cat"),
        (lambda: torch.nested.nested_tensor([gpu(2), gpu(1, index=1)]), "tensors", "cuda:1", "cuda:0", "CUDA_cat"),
    ],
)
def test_sparse_and_nested_tensors_of_several_devices(call, argument, device, others, kernel):
    words = f"got {argument} is on {device}, different from other tensors on {others} .*wrapper_{kernel}\\)"
    with pytest.raises(RuntimeError, match=words):
        call()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: sparse() + sparse(0), "add: expected 'self' to be CUDA, but got CPU"),
        (lambda: sparse(0).add_(sparse()), "add: expected 'other' to be CUDA, but got CPU"),
        (lambda: sparse(0) - sparse(), "add: expected 'other' to be CUDA, but got CPU"),
        (lambda: sparse(0) * sparse(), "mul: expected 'other' to be CUDA, but got CPU"),
        (lambda: gpu(3, 3) + sparse(), "add: expected 'other' to be a CUDA tensor, but got a CPU tensor"),
        (lambda: torch.ones(3, 3) + sparse(0), "add: expected 'self' to be a CUDA tensor, but got a CPU tensor"),
    ],
)
def test_sums_of_sparse_tensors_look_at_each(call, words):
    with pytest.raises(RuntimeError, match=f"^{words}$"):
        call()
