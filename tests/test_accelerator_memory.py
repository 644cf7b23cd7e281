"""Bytes on a virtual GPU: counted by storage, given back when freed, and finite."""

from __future__ import annotations

import copy
import gc
import random
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from sana_lab import use_accelerator
from sana_lab.accelerator.memory import block_size

MIB = 2**20


@pytest.fixture(autouse=True)
def gpu():
    with use_accelerator(gpus=2, vram="64MiB", virtual=True) as accelerator:
        yield accelerator


def held(device=0):
    return torch.cuda.memory_allocated(device)


def rounded(nbytes):
    return (nbytes + 511) // 512 * 512


@pytest.mark.parametrize("seed", range(8))
def test_random_lives(seed):
    """Tensors, views and copies come and go on two GPUs; the counts are those of a list of what is alive."""
    draw = random.Random(seed)
    alive: list[tuple[torch.Tensor, int, int]] = []  # tensor, device, identity of its storage
    sizes: dict[int, tuple[int, int]] = {}  # identity of a storage -> device, bytes
    peaks, fresh = [0, 0], 0

    def add(tensor, device, storage):
        alive.append((tensor, device, storage))

    for _ in range(300):
        action = draw.choice(["new", "new", "view", "drop", "drop", "copy", "move", "cast", "in place"])
        if action == "new" or not alive:
            device, elements = draw.randrange(2), draw.randrange(0, 3000)
            fresh += 1
            sizes[fresh] = device, rounded(4 * elements)
            add(torch.zeros(elements, device=device), device, fresh)
        else:
            at = draw.randrange(len(alive))
            tensor, device, storage = alive[at]
            if action == "drop":
                del alive[at], tensor
            elif action == "view":
                add(draw.choice([tensor.data, tensor.detach(), tensor[1:], tensor.view(-1), tensor.expand(2, -1)[0]]),
                    device, storage)  # fmt: skip
            elif action == "in place":
                tensor.add_(1).mul_(2)
            else:
                fresh += 1
                if action == "copy":
                    new, to = tensor.clone(), device
                elif action == "move":
                    to = 1 - device
                    new = tensor.to(f"cuda:{to}")
                else:
                    to = device
                    new = tensor.to(torch.float16 if tensor.dtype != torch.float16 else torch.float32)
                sizes[fresh] = to, rounded(new.numel() * new.element_size())
                add(new, to, fresh)
                del new
            tensor = None
        living = {storage for _, _, storage in alive}
        for device in (0, 1):
            expected = sum(size for key, (where, size) in sizes.items() if where == device and key in living)
            assert held(device) == expected
            peaks[device] = max(peaks[device], expected)
    assert [torch.cuda.max_memory_allocated(device) for device in (0, 1)] == peaks
    alive.clear()
    assert held(0) == held(1) == 0


def test_blocks():
    """A multiple of 512 between the request and, from 10 MiB on, 1 MiB more."""
    draw = random.Random(0)
    edges = [0, 1, 511, 512, 513, 10 * MIB - 1, 10 * MIB, 10 * MIB + 1]
    for request in edges + [draw.randrange(80 * MIB) for _ in range(2000)]:
        block = block_size(request)
        assert block % 512 == 0 and request <= block <= request + MIB + 511
        assert request >= 10 * MIB or block == rounded(request)


def test_views_share():
    x = torch.zeros(1000, device="cuda")
    views = [x.data, x.detach(), x[5:], x.view(10, 100).T, torch.nn.Parameter(x), x.unsqueeze(0).expand(7, -1)]
    assert held() == 4096
    del x
    assert held() == 4096
    views.clear()
    assert held() == 0


def test_deleting_in_any_order_and_by_the_collector():
    class Node:
        pass

    a, b = Node(), Node()
    a.other, b.other, a.tensor = b, a, torch.zeros(1000, device="cuda")
    del a, b
    gc.collect()
    assert held() == 0


def test_a_graph_holds_what_it_needs():
    """Backward needs the input of a product: it lives until the graph is gone."""
    weight = torch.ones(256, 256, device="cuda", requires_grad=True)
    each = 256 * 256 * 4
    y = (weight * torch.ones(256, 256, device="cuda")).sum()
    assert held() == 2 * each + 512
    y.backward()
    assert held() == 2 * each + 512  # the saved factor went, the gradient came
    del y
    assert held() == 2 * each
    weight.grad = None
    assert held() == each


def test_gradients_of_a_training_step_are_counted():
    """Also those of `torch.autograd.backward`, of a parameter used twice, and not those of a frozen one."""
    for backward in (torch.Tensor.backward, torch.autograd.backward):
        shared, frozen = torch.nn.Linear(64, 64, bias=False).cuda(), torch.nn.Linear(64, 64, bias=False).cuda()
        frozen.requires_grad_(False)
        x = torch.ones(1, 64, device="cuda")
        before = held()
        loss = shared(frozen(shared(x))).sum()
        backward(loss)
        del loss
        assert held() - before == 64 * 64 * 4
        del shared, frozen, x
        assert held() == 0


def test_peak_and_reset():
    x = torch.zeros(10_000, device="cuda")
    y = x + 1
    del y
    assert torch.cuda.max_memory_allocated() == 2 * rounded(40_000) and held() == rounded(40_000)
    torch.cuda.reset_peak_memory_stats()
    assert torch.cuda.max_memory_allocated() == held() == rounded(40_000)
    assert torch.cuda.memory_stats()["allocated_bytes.all.peak"] == rounded(40_000)
    assert torch.cuda.max_memory_allocated(1) == 0
    del x
    assert torch.cuda.max_memory_allocated() == rounded(40_000) and held() == 0


def test_free_and_reserved_and_total():
    x = torch.zeros(3 * MIB, dtype=torch.uint8, device="cuda")
    assert torch.cuda.memory_reserved() == 4 * MIB
    assert torch.cuda.mem_get_info() == (60 * MIB, 64 * MIB)
    assert torch.accelerator.memory_allocated() == held() == 3 * MIB
    del x
    assert torch.cuda.memory_reserved() == 4 * MIB
    torch.cuda.empty_cache()
    assert torch.cuda.mem_get_info() == (64 * MIB, 64 * MIB)


def test_full_to_the_last_byte():
    x = torch.empty(64 * MIB, dtype=torch.uint8, device="cuda")
    with pytest.raises(
        torch.cuda.OutOfMemoryError, match=r"Tried to allocate 2\.00 MiB\. GPU 0 has .* 0 bytes is free"
    ):
        torch.empty(1, device="cuda")
    assert torch.empty(1, device="cuda:1").is_cuda
    del x
    assert torch.empty(1, device="cuda").is_cuda


OUT = {
    "factory": lambda: torch.empty(65 * MIB, dtype=torch.uint8, device="cuda"),
    "far more than the host has": lambda: torch.zeros(2**55, device="cuda"),
    "randn": lambda: torch.randn(65 * MIB // 4, device="cuda"),
    "like": lambda: torch.zeros_like(torch.empty(1).expand(65 * MIB), dtype=torch.uint8, device="cuda"),
    "move": lambda: torch.empty(65 * MIB, dtype=torch.uint8).to("cuda"),
    "cuda()": lambda: torch.empty(65 * MIB, dtype=torch.uint8).cuda(),
    "result": lambda: torch.ones(1, device="cuda").expand(65 * MIB // 4) * 2,
    "cast": lambda: torch.ones(1, dtype=torch.uint8, device="cuda").expand(33 * MIB).to(torch.float16),
    "module": lambda: torch.nn.Linear(4096, 4160).to("cuda"),
    "tensor": lambda: torch.as_tensor(torch.empty(65 * MIB, dtype=torch.uint8), device="cuda"),
}


@pytest.mark.parametrize("how", OUT)
def test_out_of_memory(how):
    keep = torch.ones(1000, device="cuda")
    before = held()
    with pytest.raises(torch.cuda.OutOfMemoryError, match="^CUDA out of memory. Tried to allocate ") as caught:
        OUT[how]()
    assert type(caught.value) is torch.OutOfMemoryError and isinstance(caught.value, RuntimeError)
    text = str(caught.value)
    assert "GPU 0 has a total capacity of 64.00 MiB of which 62.00 MiB is free." in text
    assert re.search(r"Of the allocated memory \d+\.\d\d [KM]iB is allocated by PyTorch", text)
    caught = None
    gc.collect()
    assert held() == before and keep.sum() == 1000


def test_a_module_that_does_not_fit_is_left_between():
    """As on a real GPU: what was moved before memory ran out stays there, all else stays on the CPU."""
    module = torch.nn.Sequential(*(torch.nn.Linear(2048, 2048, bias=False) for _ in range(5)))  # 16 MiB each
    with pytest.raises(
        torch.cuda.OutOfMemoryError, match=r"Tried to allocate 16\.00 MiB\. .* of which 0 bytes is free"
    ):
        module.to("cuda")
    devices = [layer.weight.device.type for layer in module]
    assert devices == ["cuda"] * devices.count("cuda") + ["cpu"] * devices.count("cpu")
    assert 3 <= devices.count("cuda") <= 4
    module.to("cpu")
    gc.collect()
    assert held() == 0


def test_the_host_keeps_no_copy():
    """Moving a module away and dropping it gives everything back."""
    module = torch.nn.Linear(100, 100).cuda()
    twin = copy.deepcopy(module)
    assert held() == 2 * (rounded(40_000) + 512)
    del module
    twin.cpu()
    assert held() == 0


def test_resized_storage_is_counted_anew():
    x = torch.zeros(1000, device="cuda")
    x.untyped_storage().resize_(0)
    assert held() == 0
    x.untyped_storage().resize_(8000)
    assert held() == rounded(8000)
    y = torch.zeros(2, device="cuda")
    y.resize_(1000)
    assert held() == rounded(8000) + 4096
    del x, y
    assert held() == 0


def test_setting_data_lets_go():
    parameter = torch.nn.Parameter(torch.zeros(1000, device="cuda"))
    parameter.data = torch.zeros(10, device="cuda")
    assert held() == 512
    parameter.data = torch.zeros(10)
    assert held() == 0


def test_freed_in_another_thread():
    box = [torch.zeros(1000, device="cuda")]
    thread = threading.Thread(target=box.clear)
    thread.start()
    thread.join()
    assert held() == 0


def test_threads_count_right():
    """No byte is lost when many threads allocate and free at once."""

    def work(seed):
        draw = random.Random(seed)
        kept = [torch.zeros(draw.randrange(1, 500), device="cuda") for _ in range(100)]
        draw.shuffle(kept)
        return kept[:10]

    with ThreadPoolExecutor(8) as pool:
        kept = [tensor for tensors in pool.map(work, range(16)) for tensor in tensors]
    assert held() == sum(rounded(4 * len(tensor)) for tensor in kept)
    kept.clear()
    assert held() == 0


@pytest.mark.parametrize(
    ("asked", "told"),
    [(1, "2.00 MiB"), (MIB, "2.00 MiB"), (MIB + 1, "20.00 MiB"), (10 * MIB - 512, "20.00 MiB"), (10 * MIB, "10.00 MiB"),
     (10 * MIB + 1, "12.00 MiB"), (33 * MIB, "34.00 MiB")],
)  # fmt: skip
def test_an_error_tells_the_segment_that_was_asked_for(asked, told):
    """CUDA's allocator asks the driver for whole segments, and says how large the one was that it did not get."""
    torch.cuda.set_per_process_memory_fraction(0.0)
    with pytest.raises(torch.cuda.OutOfMemoryError, match=f"Tried to allocate {told}[.] GPU 0"):
        torch.empty(asked, dtype=torch.uint8, device="cuda")


def test_what_ran_out_of_memory_is_free_at_once():
    """An exception that was dealt with keeps no tensor alive until the next collection of circles."""

    def fill():
        held = []
        try:
            while True:
                held.append(torch.empty(8 << 20, dtype=torch.uint8, device="cuda"))
        except torch.cuda.OutOfMemoryError:
            return len(held)

    def product(x):
        try:
            return x @ x[:3]
        except RuntimeError:
            return None

    gc.collect()
    gc.disable()
    try:
        with use_accelerator(vram="64MiB", virtual=True):
            assert fill() == 8
            assert torch.cuda.memory_allocated() == 0
            product(torch.empty(1000, 1000, device="cuda"))
            assert torch.cuda.memory_allocated() == 0
    finally:
        gc.enable()
