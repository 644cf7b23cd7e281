"""What `torch.cuda` answers: limits, counters, streams, types; several GPUs at once; indices out of range."""

from __future__ import annotations

import collections
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch.nn.parallel import comm

from sana_lab import use_accelerator
from sana_lab.accelerator import mismatch, schemas
from sana_lab.accelerator.cuda_api import WARM_UP_REST
from sana_lab.accelerator.handlers import Handlers, by_name, passing

MIB = 2**20


@pytest.fixture(autouse=True)
def accelerator():
    with use_accelerator(gpus=2, vram="1GiB", virtual=True) as accelerator:
        yield accelerator


def test_the_fraction_limits_moving_computing_and_drawing():
    torch.cuda.set_per_process_memory_fraction(16 * MIB / 2**30)
    x = torch.ones(2 * MIB, device="cuda")
    for ask in (lambda: x.double(), lambda: torch.ones(3 * MIB).cuda(), lambda: torch.randn(3 * MIB, device="cuda")):
        with pytest.raises(torch.cuda.OutOfMemoryError, match="16.00 MiB allowed; Of the allocated memory 8.00 MiB"):
            ask()
    assert torch.ones(3 * MIB, device="cuda:1").is_cuda  # the other GPU has its own limit
    torch.cuda.set_per_process_memory_fraction(1.0)
    assert x.double().is_cuda and torch.cuda.memory_stats()["num_ooms"] == 3


def test_the_fraction_stays_when_the_card_changes(accelerator):
    torch.cuda.set_per_process_memory_fraction(0.5)
    use_accelerator(gpus=2, vram="3GiB", virtual=True)
    assert torch.cuda.get_per_process_memory_fraction() == 0.5
    with pytest.raises(torch.cuda.OutOfMemoryError, match="1.50 GiB allowed"):
        torch.empty(2**31, dtype=torch.uint8, device="cuda")


def test_counters_agree_with_each_other_and_with_the_snapshot():
    kept = [torch.empty(n, dtype=torch.uint8, device="cuda") for n in (1, 5000, MIB, 3 * MIB, 12 * MIB)]
    kept.pop(1)
    stats, nested = torch.cuda.memory_stats(), torch.cuda.memory.memory_stats_as_nested_dict()
    assert stats["allocated_bytes.all.current"] == torch.cuda.memory_allocated()
    assert stats["allocated_bytes.all.peak"] == torch.cuda.max_memory_allocated()
    assert stats["reserved_bytes.all.current"] == torch.cuda.memory_reserved()
    assert stats["allocation.all.current"] == 4 and stats["allocation.all.freed"] == 1
    for name in ("allocation", "allocated_bytes", "requested_bytes"):
        small, large, both = (nested[name][pool] for pool in ("small_pool", "large_pool", "all"))
        for count in ("current", "allocated", "freed"):
            assert small[count] + large[count] == both[count], (name, count)
            assert both["allocated"] - both["freed"] == both["current"]
    segments = torch.cuda.memory_snapshot()
    assert sum(segment["allocated_size"] for segment in segments) == torch.cuda.memory_allocated()
    assert sum(segment["requested_size"] for segment in segments) == sum(x.nbytes for x in kept)
    assert all(sum(block["size"] for block in segment["blocks"]) == segment["total_size"] for segment in segments)
    assert "CUDA OOMs: 0" in torch.cuda.memory_summary(abbreviated=True)


def test_the_first_allocation_that_grows_in_place_is_counted_once():
    x = torch.empty(100, device="cuda")
    x.resize_(1000)
    stats = torch.cuda.memory_stats()
    assert stats["allocation.all.current"] == 1 and stats["requested_bytes.all.current"] == 4000
    del x
    assert torch.cuda.memory_stats()["requested_bytes.all.current"] == 0


def test_small_cards_tell_transformers_that_nothing_is_left_to_warm_up():
    def caching_allocator_warmup():
        return torch.cuda.mem_get_info(0)

    assert caching_allocator_warmup()[1] == WARM_UP_REST >= 1.2 * 1024**3
    assert torch.cuda.mem_get_info(0)[1] == 2**30


def test_streams_are_told_apart():
    default, own = torch.cuda.current_stream(), torch.cuda.Stream()
    with torch.cuda.stream(own):
        with torch.cuda.Stream(1) as inner:
            assert torch.cuda.current_stream() == inner and torch.cuda.current_device() == 1
        assert torch.cuda.current_stream() == own and torch.cuda.current_device() == 0
    assert torch.cuda.current_stream() == default == torch.cuda.default_stream() != own
    assert len({default, own, torch.cuda.Stream()}) == 3


def test_old_type_names():
    assert torch.cuda.LongTensor([[1, 2]]).tolist() == [[1, 2]]
    assert isinstance(torch.cuda.FloatTensor(2), torch.cuda.FloatTensor)
    assert not isinstance(torch.ones(1, device="cuda").to_sparse(), torch.cuda.FloatTensor)
    with torch.cuda.device(1):
        assert str(torch.cuda.HalfTensor(3).device) == "cuda:1"
    with pytest.raises(torch.cuda.OutOfMemoryError, match=r"Tried to allocate 2\.00 GiB"):
        torch.cuda.FloatTensor(2**29)


# ---- several GPUs


def test_data_parallel_is_the_same_as_one_gpu():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).cuda()
    x = torch.randn(7, 4)
    plain = net(x.cuda())
    spread = torch.nn.DataParallel(net)(x)
    assert spread.is_cuda and torch.allclose(plain, spread)
    wanted = torch.autograd.grad(plain.sum(), net.parameters())
    spread.sum().backward()
    for parameter, gradient in zip(net.parameters(), wanted, strict=True):
        assert str(parameter.grad.device) == "cuda:0" and torch.allclose(parameter.grad, gradient, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: comm.scatter(x, [0, 1], chunk_sizes=[1, 1]), "given chunk sizes don't sum up to the tensor's size"),
        (lambda x: comm.scatter(x, [0, 5]), "invalid device ordinal"),
        (lambda x: comm.gather([x.cpu()]), "tensor at index 0 has device cpu"),
        (lambda x: comm.broadcast(x, out=[torch.empty(4)]), "output tensor at index 0 has device 'cpu'"),
        (lambda x: comm.broadcast_coalesced([x.to("cuda:1")], [0, 1]), r"All tensors must be on devices\[0\]: 0"),
        (lambda x: comm.reduce_add([x, x.cpu()]), "input 1 is on CPU"),
    ],
)
def test_what_does_not_scatter_or_gather(call, message):
    with pytest.raises((RuntimeError, AssertionError), match=message):
        call(torch.ones(4, device="cuda"))


# ---- indices and values out of range


@pytest.mark.parametrize(
    "call",
    [
        lambda x, i: F.embedding(i, x),
        lambda x, i: x[:, i],
        lambda x, i: x[..., i.tolist()],
        lambda x, i: x.index_put((i,), torch.ones(4, device="cuda")),
        lambda x, i: torch.index_select(x, 1, i),
        lambda x, i: x.scatter_reduce(0, i[:, None], x, "sum"),
        lambda x, i: F.cross_entropy(x[:1], i),
        lambda x, i: F.one_hot(i, 5),
    ],
)
def test_a_kernel_finds_indices_out_of_range(call):
    x = torch.ones(4, 4, device="cuda")
    with pytest.raises(torch.AcceleratorError, match="CUDA error: device-side assert triggered\nSearch for"):
        call(x, torch.tensor([9], device="cuda"))
    with pytest.raises((IndexError, RuntimeError)) as on_cpu:
        call(x.cpu(), torch.tensor([9])) if "index_put" not in str(call.__code__.co_names) else x.cpu()[9]
    assert "assert" not in str(on_cpu.value)


def test_what_the_host_finds_is_an_error_as_on_the_cpu():
    x = torch.ones(4, 4, device="cuda")
    for call in (lambda: x[9], lambda: x[1, 9], lambda: x.select(0, 9), lambda: x.sum(dim=5)):
        with pytest.raises(IndexError, match="out of (range|bounds)"):
            call()


# ---- inside


def test_free_functions_reach_the_rules():
    """A name in FREE that has a handler of its own would never be asked for."""
    table = by_name(Handlers.__new__(Handlers))
    assert {name for name in mismatch.FREE if table.get(name, passing) is not passing or name in table} == set()


def test_the_table_of_operators_is_there(monkeypatch):
    assert len(schemas.operators()) > 1000
    import torchgen

    monkeypatch.setattr(torchgen, "__file__", "/nowhere/torchgen/__init__.py")
    schemas.operators.cache_clear()
    schemas._entries.cache_clear()
    with pytest.warns(UserWarning, match="table of operators cannot be read"):
        assert schemas.operators() == {}
    monkeypatch.undo()
    schemas.operators.cache_clear()
    schemas._entries.cache_clear()
    assert schemas.operators()


def test_named_tuples_pass_autocast_and_16_bit_products():
    Pair = collections.namedtuple("Pair", "a b")
    pair = Pair(torch.ones(2, 2, device="cuda"), torch.ones(2, 2, device="cuda").half())
    with torch.autocast("cuda"):
        assert torch.cat(pair).dtype == torch.float32
    half = Pair(*(torch.ones(2, 2, device="cuda", dtype=torch.bfloat16) for _ in range(2)))
    assert torch.chain_matmul(*half).dtype == torch.linalg.multi_dot(half).dtype == torch.bfloat16


def test_threads_are_freed_without_the_collector():
    import gc
    import threading

    gc.disable()
    try:
        thread = threading.Thread(target=lambda: torch.ones(1, device="cuda"))
        thread.start()
        thread.join()
        gone = weakref.ref(thread)
        del thread
        assert gone() is None
    finally:
        gc.enable()


# ---- before the first use, and cards that are not there ------------------------------------------------------------

TOUCHES = {
    "a tensor": lambda: torch.ones(1, device="cuda"),
    "a move": lambda: torch.ones(1).cuda(1),
    "a question": lambda: torch.cuda.get_device_name(),
    "the current card": torch.cuda.current_device,
    "free memory": torch.cuda.mem_get_info,
    "a stream": torch.cuda.current_stream,
    "init": torch.cuda.init,
    "waiting": torch.cuda.synchronize,
    "a limit": lambda: torch.cuda.set_per_process_memory_fraction(0.5, 1),
}


@pytest.mark.parametrize("how", TOUCHES)
def test_counters_are_empty_until_a_gpu_is_touched(how):
    for _ in range(2):  # asking for counters touches none
        assert not torch.cuda.is_initialized()
        assert torch.cuda.memory_stats() == torch.cuda.memory.memory_stats_as_nested_dict() == {}
        assert torch.cuda.is_available() and torch.cuda.device_count() == 2
        assert torch.cuda.max_memory_allocated() == torch.cuda.memory_reserved(7) == 0
        assert torch.cuda.memory_allocated("cuda:9") == 0
        torch.cuda.empty_cache()
    getattr(torch.cuda, TOUCHES[how].__name__, TOUCHES[how])()
    assert torch.cuda.is_initialized() and "allocation.all.current" in torch.cuda.memory_stats()
    for ask in (torch.cuda.memory_allocated, torch.cuda.max_memory_reserved, torch.cuda.memory_stats):
        with pytest.raises(RuntimeError, match="^Invalid device argument \x07: did you call init"):
            ask(7)


def test_counters_start_again_on_a_gpu_that_was_touched():
    for reset in (torch.cuda.reset_peak_memory_stats, torch.cuda.reset_accumulated_memory_stats):
        with pytest.raises(RuntimeError, match="^Invalid device argument \x01: did you call init"):
            reset(1)
    torch.cuda.reset_peak_memory_stats()  # asks for the current one
    torch.cuda.reset_peak_memory_stats(1)


@pytest.mark.parametrize("ask", [torch.cuda.get_per_process_memory_fraction, None])
def test_shares_of_a_card_that_is_not_there(ask):
    with pytest.raises(RuntimeError, match="^Allocator not initialized for device \x02: did you call init"):
        if ask is None:
            torch.cuda.set_per_process_memory_fraction(0.5, 2)
        else:
            torch.cuda.get_per_process_memory_fraction("cuda:2")


@pytest.mark.parametrize("name", ["current_stream", "default_stream"])
@pytest.mark.parametrize("index", [2, 7, -2])
def test_streams_of_a_card_that_is_not_there(name, index):
    with pytest.raises(RuntimeError, match=rf"^Device index value {index} is out of index range \[0, 2\)"):
        getattr(torch.cuda, name)(index)
    assert getattr(torch.cuda, name)(-1).device.index == 0


@pytest.mark.skipif(not hasattr(torch, "Event"), reason="since PyTorch 2.5")
def test_streams_and_events_of_any_device():
    """`torch.Stream` and `torch.Event`: of the GPU unless told otherwise."""
    for made in (torch.Stream("cuda:1"), torch.Stream(device="cuda:1"), torch.Stream(1)):
        assert made.device == torch.device("cuda:1") and isinstance(made, torch.Stream)
        assert repr(made).startswith("torch.Stream device_type=cuda, device_index=1")
    with torch.Stream("cuda:1") as stream:
        assert torch.cuda.current_device() == 1 and torch.cuda.current_stream() == stream
    first, second = torch.Event(enable_timing=True), torch.Event("cuda", enable_timing=True)
    first.record()
    second.record(stream)
    assert first.elapsed_time(second) >= 0 and second.query() and first.device.type == "cuda"
    assert isinstance(first, torch.Event) and isinstance(torch.cuda.Event(), torch.Event)
    assert isinstance(torch.cuda.Stream(), torch.Stream) and not isinstance(1, torch.Stream)
    assert issubclass(torch.cuda.Stream, torch.Stream)


# ---- the old types -------------------------------------------------------------------------------------------------


def test_an_old_type_of_the_cpu_has_no_tensors_of_a_gpu():
    for kind in ("FloatTensor", "HalfTensor", "LongTensor", "BoolTensor"):
        here, there = getattr(torch, kind), getattr(torch.cuda, kind)
        x = torch.zeros(2, dtype=here.dtype)
        assert isinstance(x, here) and not isinstance(x, there)
        assert isinstance(x.cuda(), there) and not isinstance(x.cuda(), here)
        assert isinstance(here([1, 0]), here) and here([1, 0]).device.type == "cpu" and not here.is_cuda
    x = torch.eye(2).to_sparse()
    assert isinstance(x, torch.sparse.FloatTensor) and not isinstance(x, torch.FloatTensor)
    assert isinstance(x.cuda(), torch.cuda.sparse.FloatTensor) and not isinstance(x.cuda(), torch.sparse.FloatTensor)


def test_old_constructors_say_what_they_were_given():
    device = {"on the CPU": torch.ones(2), "half": torch.ones(2, device="cuda:1").half()}
    expected = r"^expected TensorOptions\(dtype=float, device=cuda, .* \(got TensorOptions\(dtype={}, device={}, "
    for given, dtype, place in (("on the CPU", "float", "cpu"), ("half", "c10::Half", "cuda:1")):
        with pytest.raises(TypeError, match=expected.format(dtype, place)):
            torch.cuda.FloatTensor(device[given])
    with pytest.raises(TypeError, match=r"^expected TensorOptions\(dtype=long int, device=cpu, .* \(got .*=cuda:0"):
        torch.LongTensor(torch.ones(2, device="cuda", dtype=torch.int64))
    assert torch.LongTensor(torch.ones(2, dtype=torch.int64)).tolist() == [1, 1]
    for name in ("torch.cuda.GiraffeTensor", "torch.GiraffeTensor", "cuda"):
        with pytest.raises(ValueError, match=f"^invalid type: '{name}'$"):
            torch.ones(2).type(name)


def test_the_default_type_is_set_by_type_and_by_name():
    for kind in (torch.cuda.HalfTensor, "torch.cuda.HalfTensor"):
        torch.set_default_tensor_type(kind)
        assert torch.zeros(2).is_cuda and torch.zeros(2).dtype == torch.float16
        torch.set_default_tensor_type(torch.FloatTensor if kind is torch.cuda.HalfTensor else "torch.FloatTensor")
        assert torch.zeros(2).device.type == "cpu" and torch.get_default_dtype() == torch.float32


# ---- what a kernel asserts and what the host finds -----------------------------------------------------------------


@pytest.mark.parametrize("rows", [torch.zeros(2), torch.zeros(3, 4), torch.tensor([[1.0, 1], [0, 0]])])
def test_rows_without_any_probability(rows):
    with pytest.raises(RuntimeError, match="device-side assert triggered"):
        torch.multinomial(rows.cuda(), 1)
    with pytest.raises(RuntimeError, match="sum of probabilities <= 0"):
        torch.multinomial(rows, 1)


@pytest.mark.parametrize("options", [{}, {"dim": 0}])
def test_negative_counts_are_found_by_the_host(options):
    x, counts = torch.ones(2, 2, device="cuda"), torch.tensor([2, -1], device="cuda")
    with pytest.raises(RuntimeError, match="^repeats can not be negative"):
        torch.repeat_interleave(x[0] if not options else x, counts, **options)
    with pytest.raises(RuntimeError, match="^repeats can not be negative"):
        torch.repeat_interleave(counts)
