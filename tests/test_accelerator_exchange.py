"""Tensors that leave PyTorch's hands: DLPack, functionalization, memory shared between processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.multiprocessing import reductions

from sana_lab import use_accelerator


@pytest.fixture(autouse=True)
def accelerator():
    with use_accelerator(gpus=2, vram="1GiB", virtual=True) as accelerator:
        yield accelerator


def test_dlpack_brings_a_tensor_back_where_it_was():
    x = torch.arange(6.0, device="cuda:1").view(2, 3)
    before = torch.cuda.memory_allocated(1)
    for exchange in (torch.from_dlpack, torch.utils.dlpack.from_dlpack):
        y = exchange(x.t())
        assert y.device == x.device and y.shape == (3, 2) and y is not x
        y[0, 0] += 1
        assert torch.cuda.memory_allocated(1) == before
    assert x[0, 0] == 2
    assert tuple(map(int, x.__dlpack_device__())) == (2, 1) and tuple(map(int, x.cpu().__dlpack_device__())) == (1, 0)
    with pytest.raises(BufferError, match="require gradient"):
        torch.from_dlpack(x.requires_grad_())


def test_dlpack_of_the_cpu_is_left_alone():
    assert torch.from_dlpack(np.ones(3)).device.type == "cpu"
    assert np.from_dlpack(torch.ones(3)).tolist() == [1, 1, 1]
    assert torch.from_dlpack(torch.utils.dlpack.to_dlpack(torch.ones(2))).tolist() == [1, 1]


@pytest.mark.parametrize("take", [np.from_dlpack, lambda x: torch.utils.dlpack.to_dlpack(x), torch.Tensor.__dlpack__])
def test_no_other_library_takes_gpu_memory_for_the_cpus(take):
    with pytest.raises(BufferError, match="no CUDA memory to share: move the tensor with .cpu"):
        take(torch.ones(3, device="cuda"))


def test_a_functionalized_function_stays_on_its_gpu():
    def function(x, y=None):
        x.add_(1)
        return x.view(-1) * 2 + torch.ones(1, device=x.device), str(x.device)

    x = torch.ones(3, device="cuda:1")
    for options in ({}, {"remove": "mutations_and_views"}):
        result, place = torch.func.functionalize(function, **options)(x)
        assert place == "cuda:1" and result.device == torch.device("cuda:1")
    assert x.tolist() == [3, 3, 3] and result.tolist() == [7, 7, 7]
    with pytest.raises(RuntimeError, match="cuda:0 and cpu"):
        torch.func.functionalize(lambda a: a + torch.ones(3))(torch.ones(3, device="cuda"))
    result, place = torch.func.functionalize(function)(torch.ones(2))
    assert place == "cpu" and result.tolist() == [5, 5]


def test_gpu_memory_is_shared_with_no_other_process():
    with pytest.raises(RuntimeError, match="Sharing a GPU tensor with another process needs a real GPU"):
        reductions.reduce_tensor(torch.ones(3, device="cuda"))
    assert reductions.reduce_tensor(torch.ones(3))
