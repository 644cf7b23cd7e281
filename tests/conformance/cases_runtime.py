"""What `torch.cuda` itself answers: limits, counters, streams, types, cards that are not there."""

from __future__ import annotations

import torch

from .registry import case, outcome_of, seen

MIB = 2**20


def short(function):
    """Type of what `function` raises with its first line, or what it returns."""
    found = outcome_of(function)
    return f"{found['raises']}: {found['words']}" if "raises" in found else found["returns"]


@case()
def fraction_limits():
    """A tenth of the card: what is more does not fit; the whole card again: it does."""
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(0.1)
    said = {"fraction": torch.cuda.get_per_process_memory_fraction(), "total": torch.cuda.mem_get_info()[1] == total}
    try:
        torch.empty(total // 5, dtype=torch.uint8, device="cuda")
        said["a fifth"] = "fits"
    except torch.cuda.OutOfMemoryError as error:
        said["a fifth"] = type(error).__name__
        said["says allowed"] = " allowed; " in str(error)
    torch.cuda.set_per_process_memory_fraction(1.0)
    said["then"] = seen(torch.empty(total // 5, dtype=torch.uint8, device="cuda"))["device"]
    return said


@case()
def fraction_zero():
    """Nothing is allowed."""
    torch.cuda.set_per_process_memory_fraction(0.0)
    return short(lambda: seen(torch.empty(1, device="cuda")))


@case()
def fraction_refused():
    """Too much, too little, no number, no GPU."""
    return {
        "2.0": short(lambda: torch.cuda.set_per_process_memory_fraction(2.0)),
        "-0.5": short(lambda: torch.cuda.set_per_process_memory_fraction(-0.5)),
        "1": short(lambda: torch.cuda.set_per_process_memory_fraction(1)),
        "'half'": short(lambda: torch.cuda.set_per_process_memory_fraction("half")),
        "cpu": short(lambda: torch.cuda.set_per_process_memory_fraction(0.5, "cpu")),
        "none given": torch.cuda.get_per_process_memory_fraction(),
    }


@case()
def fraction_below_use():
    """Less than what is in use already: what is there stays, more does not fit."""
    x = torch.empty(64 * MIB, dtype=torch.uint8, device="cuda")
    torch.cuda.set_per_process_memory_fraction(16 * MIB / torch.cuda.mem_get_info()[1])
    return {"there": seen(x), "more": short(lambda: seen(torch.empty(64 * MIB, device="cuda")))}


@case(gpus=2)
def fraction_of_one_gpu():
    """Each GPU has its own."""
    torch.cuda.set_per_process_memory_fraction(0.25, 1)
    return [torch.cuda.get_per_process_memory_fraction(device) for device in (0, "cuda:1")]


@case()
def stats_keys():
    """The names of all counters."""
    torch.ones(1, device="cuda")
    return sorted(torch.cuda.memory_stats())


@case()
def stats_values():
    """Counters of what was asked for, of blocks, and of allocations, by pool."""
    before = torch.cuda.memory_stats()
    x, y = torch.empty(100, device="cuda"), torch.empty(3 * MIB, dtype=torch.uint8, device="cuda")
    del x
    after = torch.cuda.memory_stats()
    names = [
        f"{what}.{pool}.{count}"
        for what in ("requested_bytes", "allocated_bytes", "active_bytes", "allocation", "active")
        for pool in ("all", "small_pool", "large_pool")
        for count in ("current", "allocated", "freed")
    ]
    del y
    return {name: after[name] - before[name] for name in names}


@case()
def stats_reset():
    """What is counted from the start can start again."""
    x = torch.empty(100, device="cuda")
    del x
    torch.cuda.reset_accumulated_memory_stats()
    torch.cuda.reset_peak_memory_stats()
    stats = torch.cuda.memory_stats()
    names = ("allocation.all.allocated", "allocation.all.freed", "allocated_bytes.all.allocated")
    return {name: stats[name] for name in (*names, "allocated_bytes.all.peak", "num_ooms")}


@case()
def stats_out_of_memory():
    """Failed allocations are counted."""
    try:
        torch.empty(10**13, device="cuda")
    except torch.cuda.OutOfMemoryError:
        pass
    return torch.cuda.memory_stats()["num_ooms"]


@case()
def stats_nested():
    """The same as a nested dictionary, and as a page."""
    nested = torch.cuda.memory.memory_stats_as_nested_dict()
    page = torch.cuda.memory_summary()
    return {
        "names": sorted(nested),
        "in one": sorted(nested["allocated_bytes"]["all"]),
        "lines": [line.split("|")[1].strip() for line in page.splitlines() if line.count("|") > 5],
        "width": len(page.splitlines()[0]),
    }


@case()
def memory_snapshot():
    """The snapshot of memory: names, and the sum of its blocks."""
    x = torch.ones(1000, device="cuda")
    found = torch.cuda.memory_snapshot()
    blocks = [block for segment in found for block in segment["blocks"]]
    held = sum(block["size"] for block in blocks if block["state"] == "active_allocated")
    return {
        "device": found[0]["device"],
        "segment": sorted(set(found[0]) - {"registration_counter"}),
        "block": sorted(blocks[0]),
        "pools": sorted({segment["segment_type"] for segment in found}),
        "held": held == torch.cuda.memory_allocated(),
        "reserved": sum(segment["total_size"] for segment in found) == torch.cuda.memory_reserved(),
        "asked": sorted({b["requested_size"] for b in blocks if b["state"] == "active_allocated"}),
        "x": x.numel(),
    }


@case()
def memory_of_no_gpu():
    """Counters of a card that is not there."""
    return {
        "allocated": short(lambda: torch.cuda.memory_allocated(7)),
        "stats": short(lambda: sorted(torch.cuda.memory_stats(7))[:1]),
        "info": short(lambda: torch.cuda.mem_get_info(7)),
        "reset": short(lambda: torch.cuda.reset_peak_memory_stats(7)),
        "fraction": short(lambda: torch.cuda.set_per_process_memory_fraction(0.5, 7)),
    }


@case()
def no_such_card():
    """Questions about a card that is not there."""
    return {
        "name": short(lambda: torch.cuda.get_device_name(7)),
        "name of cuda:7": short(lambda: torch.cuda.get_device_name("cuda:7")),
        "properties": short(lambda: torch.cuda.get_device_properties(7)),
        "capability": short(lambda: torch.cuda.get_device_capability(7)),
        "peer": short(lambda: torch.cuda.can_device_access_peer(0, 7)),
        "set": short(lambda: torch.cuda.set_device(7)),
        "name of the CPU": short(lambda: torch.cuda.get_device_name("cpu")),
        "synchronize": short(lambda: torch.cuda.synchronize(7)),
        "stream": short(lambda: str(torch.cuda.current_stream(7).device)),
        "empty": short(lambda: torch.empty(1, device="cuda:7")),
    }


@case()
def negative_cards():
    """A negative index."""

    def enter(index):
        with torch.cuda.device(index):
            return torch.cuda.current_device()

    return {
        "name": short(lambda: torch.cuda.get_device_name(-1)),
        "set": short(lambda: torch.cuda.set_device(-1)),
        "block": short(lambda: enter(-1)),
        "properties": short(lambda: torch.cuda.get_device_properties(-1)),
        "device": short(lambda: str(torch.device("cuda", -1))),
    }


@case()
def card_properties():
    """What the properties of a card are called."""
    found = torch.cuda.get_device_properties(0)
    names = ("name", "major", "minor", "total_memory", "multi_processor_count", "warp_size", "uuid", "L2_cache_size")
    return {
        "there": [name for name in names if hasattr(found, name)],
        "type": type(found).__name__,
        "memory": found.total_memory == torch.cuda.mem_get_info()[1],
        "capability": [found.major, found.minor],
        "name": found.name == torch.cuda.get_device_name(),
        "starts": repr(found).startswith("_CudaDeviceProperties(name='"),
    }


@case()
def streams():
    """Which stream is current, within a block and after `set_stream`."""
    default, own = torch.cuda.current_stream(), torch.cuda.Stream()
    with torch.cuda.stream(own):
        inside = torch.cuda.current_stream() == own
    torch.cuda.set_stream(own)
    found = {
        "default": default == torch.cuda.default_stream(),
        "zero": default.cuda_stream,
        "own is another": own != default,
        "inside": inside,
        "set": torch.cuda.current_stream() == own,
        "still default": torch.cuda.default_stream() == default,
    }
    torch.cuda.set_stream(default)
    return {**found, "back": torch.cuda.current_stream() == default, "none": short(lambda: torch.cuda.set_stream(None))}


@case(gpus=2)
def streams_two():
    """A stream of the other GPU: its block makes that GPU current."""
    other = torch.cuda.Stream(1)
    with torch.cuda.stream(other):
        inside = [torch.cuda.current_device(), str(torch.ones(1, device="cuda").device)]
    return {"inside": inside, "after": torch.cuda.current_device(), "stream": str(other.device)}


@case()
def collecting():
    """Functions that return nothing."""
    return [torch.cuda.ipc_collect(), torch.cuda.empty_cache(), torch.cuda.synchronize(), torch.cuda.init()]


@case()
def types_made():
    """Tensors by their old type names."""
    return {
        "list": seen(torch.cuda.FloatTensor([1.0, 2.0])),
        "shape": seen(torch.cuda.HalfTensor(2, 3)),
        "size": seen(torch.cuda.LongTensor(torch.Size([4]))),
        "empty": seen(torch.cuda.IntTensor()),
        "bytes": seen(torch.cuda.ByteTensor([1, 2])),
        "bfloat16": seen(torch.cuda.BFloat16Tensor([1.5])),
        "bool": seen(torch.cuda.BoolTensor([True])),
        "same": seen(torch.cuda.FloatTensor(torch.ones(2, device="cuda"))),
        "values": torch.cuda.DoubleTensor([[1, 2], [3, 4]]).tolist(),
        "new": seen(torch.ones(2, device="cuda").new(2, 2)),
        "new of a list": seen(torch.ones(2, device="cuda").new([1.0, 2.0])),
        "new_tensor": seen(torch.ones(2, device="cuda").new_tensor([1, 2])),
    }


@case()
def types_asked():
    """`isinstance` with the old type names, and what they say of themselves."""
    x, half = torch.ones(2, device="cuda"), torch.ones(2, device="cuda").half()
    return {
        "float": isinstance(x, torch.cuda.FloatTensor),
        "half": isinstance(half, torch.cuda.HalfTensor),
        "not half": isinstance(x, torch.cuda.HalfTensor),
        "not on the CPU": isinstance(torch.ones(2), torch.cuda.FloatTensor),
        "not of the CPU": isinstance(x, torch.FloatTensor),
        "parameter": isinstance(torch.nn.Parameter(x), torch.cuda.FloatTensor),
        "no tensor": isinstance(1.0, torch.cuda.FloatTensor),
        "type": x.type(),
        "name": torch.cuda.FloatTensor.__name__,
        "module": torch.cuda.FloatTensor.__module__,
        "dtype": str(torch.cuda.HalfTensor.dtype),
        "is_cuda": [torch.cuda.FloatTensor.is_cuda, torch.FloatTensor.is_cuda],
    }


@case()
def types_converted():
    """`tensor.type(...)` with a type, its name, a dtype."""
    x = torch.ones(2)
    return {
        "type": seen(x.type(torch.cuda.FloatTensor)),
        "name": seen(x.type("torch.cuda.HalfTensor")),
        "back": seen(x.cuda().type(torch.FloatTensor)),
        "dtype": seen(x.cuda().type(torch.float64)),
        "int": seen(x.cuda().type(torch.cuda.LongTensor)),
        "module": str(next(torch.nn.Linear(2, 2).type(torch.cuda.HalfTensor).parameters()).dtype),
        "none": short(lambda: x.type("torch.cuda.GiraffeTensor")),
    }


@case()
def types_refused():
    """The old constructors with a tensor from the CPU, of another type, for another device."""
    return {
        "CPU tensor": short(lambda: seen(torch.cuda.FloatTensor(torch.ones(2))))[:60],
        "other type": short(lambda: seen(torch.cuda.FloatTensor(torch.ones(2, device="cuda").half())))[:60],
        "device": short(lambda: seen(torch.cuda.FloatTensor([1.0], device="cpu"))),
        "word": short(lambda: seen(torch.cuda.FloatTensor("two")))[:40],
    }


@case()
def types_default():
    """`set_default_tensor_type`, and back."""
    torch.set_default_tensor_type(torch.cuda.HalfTensor)
    found = {
        "zeros": seen(torch.zeros(2)),
        "tensor": seen(torch.tensor([1.0])),
        "integers": seen(torch.arange(2)),
        "asked": seen(torch.zeros(2, device="cpu")),
        "layer": seen(torch.nn.Linear(2, 2).weight),
    }
    torch.set_default_tensor_type("torch.FloatTensor")
    return {**found, "after": seen(torch.zeros(2)), "a word": short(lambda: torch.set_default_tensor_type("two"))[:40]}


@case()
def types_default_base():
    """`torch.Tensor(2)` follows `set_default_tensor_type` too."""
    torch.set_default_tensor_type("torch.cuda.FloatTensor")
    made = seen(torch.Tensor(2))
    torch.set_default_tensor_type("torch.FloatTensor")
    return made


@case()
def types_storage():
    """Storages: where they are, and what they are called."""
    x = torch.ones(3, device="cuda")
    return {
        "untyped": str(x.untyped_storage().device),
        "cuda": x.untyped_storage().is_cuda,
        "typed": str(x.storage().device),
        "moved": str(x.untyped_storage().cpu().device),
        "moved there": str(torch.ones(3).untyped_storage().cuda().device),
        "typed there": str(torch.ones(3).storage().cuda().device),
        "bytes": x.untyped_storage().nbytes(),
    }
