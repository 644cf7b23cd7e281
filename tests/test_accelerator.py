"""Entering and leaving the virtual GPU: what changes, what comes back, what is refused."""

from __future__ import annotations

import concurrent.futures
import os
import subprocess
import sys
import threading
import types

import accelerate
import accelerate.utils.imports
import diffusers.pipelines.pipeline_utils
import diffusers.utils.torch_utils
import pytest
import torch
import transformers.utils.import_utils
from torch.overrides import _len_torch_function_stack
from torch.utils._device import DeviceContext

from sana_lab import use_accelerator
from sana_lab.accelerator import session

WATCHED = {
    owner.__name__: owner
    for owner in (
        torch, torch.cuda, torch.cuda.memory, torch.cuda.random, torch.cuda.streams, torch.cuda.graphs,
        torch.accelerator, torch.Tensor, torch.nn.Module, torch.nn.Parameter, torch.UntypedStorage, torch.TypedStorage,
        torch._C, torch.random, torch.autograd, torch.overrides, DeviceContext, threading, threading.Thread,
        concurrent.futures, concurrent.futures.ThreadPoolExecutor, accelerate, accelerate.utils.imports, diffusers,
        diffusers.utils.torch_utils, diffusers.pipelines.pipeline_utils, transformers.utils.import_utils,
        torch.autograd.graph, torch.autograd.graph.saved_tensors_hooks, torch.autograd.Function,
        torch.autograd.function.BackwardCFunction, torch.autograd.profiler.profile, torch.jit, torch.jit.ScriptFunction,
        torch._C.ScriptMethod, torch._C._nested, torch.export, torch.cuda.nccl, torch.cuda.nvtx, torch.cuda.profiler,
        torch.nn.parallel._functions,
    )
}  # fmt: skip


def everything():
    """Each attribute of each watched module and class, and what the libraries answer."""
    found = {f"{name}.{key}": value for name, owner in WATCHED.items() for key, value in vars(owner).items()}
    found = {key: value for key, value in found.items() if not key.endswith(".__warningregistry__")}  # Python's own
    pipelines = diffusers.pipelines.pipeline_utils
    answers = {
        "function modes": _len_torch_function_stack(),
        "available": torch.cuda.is_available(),
        "accelerator": torch.accelerator.is_available(),
        "diffusers": diffusers.utils.torch_utils.get_device(),
        "strategies": pipelines.SUPPORTED_DEVICE_MAP,
        "accelerate": accelerate.utils.imports.is_cuda_available(),
        "transformers": transformers.utils.import_utils.is_torch_cuda_available(),
        "default": torch.get_default_device(),
        "dtype": torch.get_default_dtype(),
    }
    return found, answers


def use_it():
    """A little of everything that might leave a trace."""
    x = torch.ones(4, device="cuda")
    torch.manual_seed(0)
    torch.randn(2, device="cuda", generator=torch.Generator("cuda"))
    module = torch.nn.Linear(4, 2).cuda()
    module(x).sum().backward()
    torch.cuda.empty_cache()
    with pytest.raises(RuntimeError, match="same device"):
        x + torch.ones(4)
    torch.jit.trace(module, x)(x)
    torch.nn.DataParallel(module)(x[None])
    torch.nested.nested_tensor([x, x])
    torch.cuda.FloatTensor([1.0])
    torch.set_default_tensor_type(torch.cuda.HalfTensor)
    torch.cuda.set_per_process_memory_fraction(0.5)
    torch.cuda.set_stream(torch.cuda.Stream())
    thread = threading.Thread(target=lambda: x * 2)
    thread.start()
    thread.join()
    repr(x)


@pytest.fixture(autouse=True)
def nothing_left_behind():
    assert session._active is None
    yield
    if session._active is not None:
        session._active.leave()


def same(before, after):
    (found, answers), (found_after, answers_after) = before, after
    changed = {key for key in found.keys() | found_after.keys() if found.get(key) is not found_after.get(key)}
    changed -= {"diffusers.pipelines.pipeline_utils.SUPPORTED_DEVICE_MAP"}  # a new list; its content is an answer
    return sorted(changed) + [key for key in answers if answers[key] != answers_after[key]]


def test_leaving_restores_everything():
    before = everything()
    with use_accelerator(gpus=2, vram="1GiB", virtual=True):
        inside = everything()
        use_it()
    assert same(before, everything()) == []
    changed = same(before, inside)  # the check itself sees what is there to be seen
    assert len(changed) > 60
    assert {"torch.Generator", "torch.cuda.device_count", "Thread.start", "available", "diffusers"} <= set(changed)


def test_leaving_restores_everything_after_an_error():
    before = everything()
    with pytest.raises(ZeroDivisionError), use_accelerator(virtual=True):
        use_it()
        raise ZeroDivisionError
    assert same(before, everything()) == []


def test_leave_restores_everything_and_may_be_repeated():
    before = everything()
    accelerator = use_accelerator(virtual=True)
    use_it()
    accelerator.leave()
    accelerator.leave()
    assert same(before, everything()) == []
    assert not accelerator.active and "left" in repr(accelerator)


def test_an_error_while_entering_leaves_nothing(monkeypatch):
    before = everything()

    def broken(*args):
        raise KeyError("broken")

    with monkeypatch.context() as patch:
        patch.setattr("sana_lab.accelerator.patches._threads", broken)
        with pytest.raises(KeyError):
            use_accelerator(virtual=True)
    assert same(before, everything()) == []
    with use_accelerator(virtual=True):
        assert torch.ones(1, device="cuda").is_cuda


def test_tensors_become_cpu_tensors_when_left():
    with use_accelerator(virtual=True):
        x = torch.ones(2, device="cuda")
    assert x.device == torch.device("cpu")
    assert (x + torch.ones(2)).tolist() == [2, 2]
    with use_accelerator(virtual=True):
        assert x.device == torch.device("cpu")


def test_leaving_keeps_other_function_modes():
    """Whether they were entered before or after."""
    seen = []

    class Counting(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with Counting():
        accelerator = use_accelerator(virtual=True)
        with Counting():
            accelerator.leave()
            assert _len_torch_function_stack() == 2
            torch.ones(1)
    assert len(seen) >= 2 and _len_torch_function_stack() == 0


# ---- twice, and with other numbers


def test_twice_is_harmless():
    first = use_accelerator(gpus=2, vram="1GiB", virtual=True)
    x = torch.ones(2, device="cuda:1")
    stack = _len_torch_function_stack()
    assert use_accelerator(gpus=2, vram="1GiB", virtual=True) is first
    assert use_accelerator(gpus=2, vram="1GiB") is first
    assert _len_torch_function_stack() == stack
    assert str(x.device) == "cuda:1"
    first.leave()
    assert not torch.cuda.is_available() and _len_torch_function_stack() == 0


def test_a_block_inside_goes_back_to_what_was():
    outer = use_accelerator(gpus=1, vram="1GiB", virtual=True)
    x = torch.ones(2, device="cuda")
    with use_accelerator(gpus=3, vram="2GiB", virtual=True):
        assert torch.cuda.device_count() == 3
        assert torch.cuda.get_device_properties(2).total_memory == 2 * 2**30
        with use_accelerator(gpus=2, vram="2GiB", virtual=True):
            assert torch.cuda.device_count() == 2
        assert torch.cuda.device_count() == 3
    assert torch.cuda.device_count() == 1 and outer.vram == 2**30 and outer.active
    assert str(x.device) == "cuda:0"
    outer.leave()
    assert not torch.cuda.is_available()


def test_the_same_object_as_a_block_again():
    accelerator = use_accelerator(virtual=True)
    accelerator.leave()
    with accelerator:
        assert torch.cuda.is_available()
    assert not torch.cuda.is_available()


def test_other_numbers_while_in_use():
    use_accelerator(gpus=1, vram="1MiB", virtual=True)
    x = torch.ones(1000, device="cuda")
    accelerator = use_accelerator(gpus=2, vram="2MiB", virtual=True)
    assert (accelerator.gpus, accelerator.vram, torch.cuda.device_count()) == (2, 2 * 2**20, 2)
    assert torch.cuda.memory_allocated() == 4096 and str(x.device) == "cuda:0"
    with pytest.raises(RuntimeError, match="GPU 0 holds 4 KiB, .* has no room for"):
        use_accelerator(gpus=2, vram=4095, virtual=True)
    y = torch.ones(1, device="cuda:1")
    with pytest.raises(RuntimeError, match="GPU 1 holds 512 bytes"):
        use_accelerator(gpus=1, vram="2MiB", virtual=True)
    assert torch.cuda.device_count() == 2 and str(y.device) == "cuda:1"
    del y
    assert use_accelerator(gpus=1, vram="2MiB", virtual=True).gpus == 1


def test_a_refused_change_leaves_blocks_in_order():
    """The block that could not be entered must not decide where the one around it returns to."""
    with use_accelerator(gpus=1, vram="1MiB", virtual=True):
        x = torch.ones(1000, device="cuda")
        with pytest.raises(RuntimeError, match="no room"), use_accelerator(vram=100, virtual=True):
            pass
        with use_accelerator(gpus=1, vram="2MiB", virtual=True):
            pass
        assert torch.cuda.get_device_properties(0).total_memory == 2**20 and len(x) == 1000
    assert not torch.cuda.is_available()


def test_a_refused_change_leaves_the_next_block_alone():
    """Defect of old: after a change that was refused, a plain `with` no longer left."""
    accelerator = use_accelerator(vram="1MiB", virtual=True)
    x = torch.ones(1000, device="cuda")
    with pytest.raises(RuntimeError, match="no room"):
        use_accelerator(vram=100, virtual=True)
    with accelerator:
        assert x.is_cuda
    assert not torch.cuda.is_available()


# ---- refused


@pytest.mark.parametrize("vram", ["lots", "", "GiB", "-1GiB", "16 giraffes", 0, -5, 1.5, None, True, "0GiB", b"1GiB"])
def test_no_sensible_memory(vram):
    with pytest.raises(ValueError, match=r"vram=.*'16GiB', '800MB' or a number of bytes"):
        use_accelerator(vram=vram, virtual=True)
    assert not torch.cuda.is_available()


@pytest.mark.parametrize(
    ("vram", "expected"),
    [("16GiB", 2**34), ("800MB", 8 * 10**8), ("1.5 gib", 3 * 2**29), ("512", 512), (" 2 KiB ", 2048), (1000, 1000)],
)
def test_amounts_of_memory(vram, expected):
    with use_accelerator(vram=vram, virtual=True) as accelerator:
        assert accelerator.vram == torch.cuda.mem_get_info()[1] == expected


@pytest.mark.parametrize("gpus", [0, -1, "2", 1.0, None, True])
def test_no_sensible_number_of_gpus(gpus):
    with pytest.raises(ValueError, match=r"gpus=.*the number of GPUs, 1 or more"):
        use_accelerator(gpus=gpus, virtual=True)


def test_real_where_there_is_none():
    with pytest.raises(RuntimeError, match=r"machine with 0 GPUs: .*virtual=True"):
        use_accelerator(virtual=False)


def test_real_while_virtual():
    use_accelerator(virtual=True)
    with pytest.raises(RuntimeError, match=r"call \.leave\(\)"):
        use_accelerator(virtual=False)


@pytest.fixture
def one_real_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Real GPU")
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda index: types.SimpleNamespace(total_memory=80 * 2**30)
    )


def test_a_real_gpu_is_preferred(one_real_gpu):
    before = everything()
    accelerator = use_accelerator()
    assert (accelerator.virtual, accelerator.name, accelerator.vram) == (False, "Real GPU", 80 * 2**30)
    assert repr(accelerator) == "Real GPU: 1 × 80 GiB" and accelerator.active
    with accelerator:
        pass
    accelerator.leave()
    assert same(before, everything()) == []


def test_more_gpus_than_there_are(one_real_gpu):
    message = r"use_accelerator\(gpus=2\) on a machine with 1 GPU: .*use_accelerator\(gpus=2, virtual=True\)"
    with pytest.raises(RuntimeError, match=message):
        use_accelerator(gpus=2)
    with use_accelerator(gpus=2, virtual=True) as accelerator:
        assert accelerator.virtual and torch.cuda.device_count() == 2
    assert torch.cuda.device_count() == 1


@pytest.fixture
def real_gpus(monkeypatch):
    """Three real GPUs as CUDA shows them: it reads the variable when it starts, and never again."""
    state = types.SimpleNamespace(started=None)

    def visible():
        names = os.environ.get("CUDA_VISIBLE_DEVICES")
        return ["0", "1", "2"] if names is None else [name for name in names.split(",") if name]

    def start(*args):
        state.started = state.started or visible()
        return types.SimpleNamespace(total_memory=80 * 2**30)

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(state.started or visible()))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(start()))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: state.started is not None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", start)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Real GPU")
    return state


@pytest.mark.parametrize(
    ("before", "gpus", "seen"),
    [
        (None, 1, ["0"]),
        (None, 2, ["0", "1"]),
        (None, 3, ["0", "1", "2"]),
        ("2,0", 1, ["2"]),
        ("GPU-a1,GPU-b2,GPU-c3", 2, ["GPU-a1", "GPU-b2"]),
        ("1", 1, ["1"]),
    ],
)
def test_a_process_sees_the_real_gpus_that_it_asked_for(real_gpus, monkeypatch, before, gpus, seen):
    if before is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
    accelerator = use_accelerator(gpus=gpus)
    assert real_gpus.started == seen and torch.cuda.device_count() == gpus
    again = use_accelerator(gpus=gpus)
    assert torch.cuda.device_count() == gpus
    with pytest.raises(RuntimeError, match=f"machine with {gpus} GPU"):
        use_accelerator(gpus=gpus + 1)
    for left in (again, accelerator):
        left.leave()
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == before


def test_gpus_are_hidden_for_children_until_the_end_of_the_block(real_gpus):
    with use_accelerator():
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
        with pytest.raises(RuntimeError, match="more are hidden since CUDA started"):
            use_accelerator(gpus=2)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_nothing_is_hidden_once_cuda_has_started(real_gpus):
    torch.cuda.is_available()
    assert not use_accelerator().virtual
    assert torch.cuda.device_count() == 3 and "CUDA_VISIBLE_DEVICES" not in os.environ


def test_nothing_is_hidden_from_a_launchers_processes(real_gpus, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    use_accelerator()
    assert torch.cuda.device_count() == 3 and "CUDA_VISIBLE_DEVICES" not in os.environ


def test_what_somebody_else_has_set_since_is_kept(real_gpus, monkeypatch):
    accelerator = use_accelerator()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    accelerator.leave()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1,2"


def test_virtual_gpus_hide_no_real_ones(real_gpus):
    with use_accelerator(virtual=True):
        assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert real_gpus.started is None


def test_the_environment_can_ask_for_virtual(one_real_gpu, monkeypatch):
    monkeypatch.setenv("SANA_LAB_VIRTUAL", "1")
    with use_accelerator() as accelerator:
        assert accelerator.virtual
    assert not use_accelerator(virtual=False).virtual


def test_what_it_prints():
    with use_accelerator(gpus=2, vram="800MB", virtual=True) as accelerator:
        assert repr(accelerator) == "Virtual GPU: 2 × 762.9 MiB, arithmetic on the CPU"
        assert repr(accelerator) in accelerator._repr_html_()


def test_what_needs_kernels_is_refused():
    with use_accelerator(virtual=True):
        with pytest.raises(RuntimeError, match="torch.compile needs a real GPU"):
            torch.compile(torch.nn.Linear(2, 2))
        with pytest.raises(RuntimeError, match="CUDA graphs need a real GPU"):
            torch.cuda.CUDAGraph()


def test_importing_changes_nothing():
    """Neither torch nor anything in it, nor does it print."""
    code = """
import torch, threading
before = {(o.__name__, k): v for o in (torch, torch.cuda, torch.Tensor, threading.Thread) for k, v in vars(o).items()}
import sana_lab, sana_lab.accelerator
after = {(o.__name__, k): v for o in (torch, torch.cuda, torch.Tensor, threading.Thread) for k, v in vars(o).items()}
assert all(after[key] is value for key, value in before.items())
assert not torch.cuda.is_available()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
