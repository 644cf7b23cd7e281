"""The virtual GPU belongs to the process: threads see it, and child processes may have one of their own."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest
import torch

from sana_lab import use_accelerator


@pytest.fixture
def gpu():
    with use_accelerator(gpus=2, vram="64MiB", virtual=True) as accelerator:
        yield accelerator


def work():
    """What a thread sees."""
    x = torch.ones(2, device="cuda") + 1
    try:
        x + torch.ones(2)
    except RuntimeError as error:
        return str(x.device), torch.cuda.current_device(), str(error)[:30]


SEEN = ("cuda:0", 0, "Expected all tensors to be on ")


def test_thread_with_a_target(gpu):
    seen = []
    thread = threading.Thread(target=lambda: seen.append(work()))
    thread.start()
    thread.join()
    assert seen == [SEEN]


def test_thread_that_overrides_run(gpu):
    class Mine(threading.Thread):
        def run(self):
            self.seen = work()
            super().run()

    thread = Mine()
    thread.start()
    thread.join()
    assert thread.seen == SEEN


def test_timer(gpu):
    seen = []
    timer = threading.Timer(0.0, lambda: seen.append(work()))
    timer.start()
    timer.join()
    assert seen == [SEEN]


def test_pool(gpu):
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda i: work(), range(9))) == [SEEN] * 9


def test_thread_in_a_thread(gpu):
    def outer():
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(work).result()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(outer).result() == SEEN


def test_each_thread_has_its_current_device(gpu):
    def second():
        torch.cuda.set_device(1)
        return str(torch.ones(1, device="cuda").device)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(second).result() == "cuda:1"
    assert torch.cuda.current_device() == 0 and str(torch.ones(1, device="cuda").device) == "cuda:0"


def test_an_error_in_a_thread_comes_out(gpu):
    with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match="same device"):
        pool.submit(lambda: torch.ones(2, device="cuda") + torch.ones(2)).result()


def test_backward_in_a_thread(gpu):
    def train():
        module = torch.nn.Linear(2, 1).cuda()
        module(torch.ones(1, 2, device="cuda")).sum().backward()
        return str(module.weight.grad.device)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(train).result() == "cuda:0"


def test_a_thread_that_outlives_the_gpu():
    """Afterwards it computes on the CPU like everybody else, and no GPU comes back."""
    go, seen = threading.Event(), []

    def wait():
        x = torch.ones(2, device="cuda")
        seen.append(str(x.device))
        ready.set()
        go.wait(20)
        seen.append(str((x + torch.ones(2)).device))

    ready = threading.Event()
    with use_accelerator(virtual=True):
        thread = threading.Thread(target=wait)
        thread.start()
        assert ready.wait(20)
    go.set()
    thread.join()
    assert seen == ["cuda:0", "cpu"]


def test_a_thread_started_later_knows_nothing():
    with use_accelerator(virtual=True):
        thread = threading.Thread(target=lambda: seen.append(torch.ones(2).device.type))
        seen = []
    thread.start()
    thread.join()
    assert seen == ["cpu"] and threading.Thread.start is threading.Thread.__dict__["start"]


def test_entering_in_a_thread_serves_later_threads():
    """A server may call `use_accelerator()` in a worker thread; whoever starts afterwards sees the GPU."""
    made = []
    thread = threading.Thread(target=lambda: made.append(use_accelerator(virtual=True)))
    thread.start()
    thread.join()
    try:
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(work).result() == SEEN
    finally:
        made[0].leave()
    assert not torch.cuda.is_available()


# ---- processes


def in_child(accelerator=True):
    """Runs in a child process."""
    if accelerator:
        use_accelerator(gpus=2, vram="1GiB", virtual=True)
    x = torch.ones(2, device="cuda:1") * 2
    return str(x.device), torch.cuda.memory_allocated(1)


def test_spawned_processes_that_call_it(gpu):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(in_child).result(timeout=120) == ("cuda:1", 512)
    assert torch.cuda.memory_allocated(1) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_forked_processes_have_a_copy(gpu):
    """With and without calling it again; what the child allocates is not the parent's."""
    x = torch.ones(100, device="cuda:0")
    for again in (True, False):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                device, nbytes = in_child(again)
                os.write(write, f"{device} {nbytes} {x.device} {torch.cuda.memory_allocated(0)}".encode())
            finally:
                os._exit(0)
        os.close(write)
        os.waitpid(pid, 0)
        assert os.read(read, 1000) == b"cuda:1 512 cuda:0 512"
        os.close(read)
    assert torch.cuda.memory_allocated(1) == 0


def test_a_fresh_interpreter_with_the_environment_variable():
    code = "from sana_lab import use_accelerator; print(use_accelerator(vram='1GiB'))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "SANA_LAB_VIRTUAL": "1"}, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.stdout == "Virtual GPU: 1 × 1 GiB, arithmetic on the CPU\n" and not done.stderr


def test_data_loader_with_workers(gpu):
    """Batches arrive from worker processes on the CPU, pinned, and move to the GPU."""
    data = torch.utils.data.TensorDataset(torch.arange(8.0))
    loader = torch.utils.data.DataLoader(data, batch_size=4, num_workers=1, pin_memory=True)
    batches = [batch for (batch,) in loader]
    assert [batch.device.type for batch in batches] == ["cpu", "cpu"] and batches[0].is_pinned()
    assert [batch.to("cuda").sum().item() for batch in batches] == [6, 22]
