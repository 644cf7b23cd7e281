"""Allocated bytes: rounding, views, giving back, peaks. Products are left out: cuBLAS keeps a workspace of its own."""

from __future__ import annotations

import torch

from .registry import Meter, case


@case()
def bytes_rounding():
    """Blocks are multiples of 512 bytes; nothing takes nothing."""
    found = {}
    for elements in (0, 1, 128, 129, 1000, 100_000):
        meter = Meter()
        x = torch.empty(elements, device="cuda")
        found[str(elements)] = meter.read()
        del x
    return found


@case()
def bytes_of_types():
    """One byte, two bytes, four bytes, eight bytes an element."""
    found = {}
    for dtype in (torch.int8, torch.float16, torch.float32, torch.float64):
        meter = Meter()
        x = torch.zeros(1024, dtype=dtype, device="cuda")
        found[str(dtype)] = meter.read()
        del x
    return found


@case()
def bytes_given_back():
    """Deleting gives bytes back, also of one of several."""
    meter = Meter()
    a, b = torch.empty(1000, device="cuda"), torch.empty(2000, device="cuda")
    both = meter.read()
    del a
    one = meter.read()
    del b
    return {"both": both, "one": one, "none": meter.read()}


@case()
def bytes_of_views():
    """A view takes nothing, and keeps its storage alive."""
    meter = Meter()
    x = torch.empty(4096, device="cuda")
    view = x[10:20].view(2, 5)
    with_view = meter.read()
    del x
    kept = meter.read()
    del view
    return {"with view": with_view, "kept": kept, "none": meter.read()}


@case()
def bytes_of_slice_copy():
    """A copy of a slice has a storage of its own."""
    x = torch.empty(4096, device="cuda")
    meter = Meter()
    part = x[:100].clone()
    return {"bytes": meter.read(), "elements": part.numel()}


@case()
def bytes_moving():
    """Moving to the GPU takes bytes there, moving away gives them back."""
    meter = Meter()
    x = torch.ones(1000).to("cuda")
    there = meter.read()
    x = x.cpu()
    return {"there": there, "back": meter.read(), "device": str(x.device)}


@case()
def bytes_casting():
    """A cast makes a second tensor."""
    meter = Meter()
    x = torch.ones(10_000, device="cuda")
    y = x.half()
    both = meter.read()
    x = None
    return {"both": both, "half": meter.read(), "dtype": str(y.dtype)}


@case()
def bytes_expanded():
    """An expanded tensor takes the bytes of one element until it is made contiguous."""
    meter = Meter()
    x = torch.ones(1, device="cuda").expand(10_000)
    expanded = meter.read()
    y = x.contiguous()
    return {"expanded": expanded, "contiguous": meter.read(), "elements": y.numel()}


@case()
def bytes_of_module():
    """A module takes the sum of its parameters, each rounded."""
    meter = Meter()
    m = torch.nn.Linear(100, 50)
    on_cpu = meter.read()
    m.to("cuda")
    on_gpu = meter.read()
    m.half()
    half = meter.read()
    m.to("cpu")
    return {"on cpu": on_cpu, "on gpu": on_gpu, "half": half, "away": meter.read()}


@case()
def bytes_of_gradients():
    """Gradients take as much as their parameters."""
    p = torch.nn.Parameter(torch.ones(1000, device="cuda"))
    meter = Meter()
    (p * 2).sum().backward()
    with_grad = p.grad is not None
    grad = meter.read()
    p.grad = None
    return {"has": with_grad, "with": grad, "without": meter.read()}


@case()
def peak_of_operation():
    """The peak holds inputs and output of an operation, not only what stays."""
    x = torch.ones(1000, device="cuda")
    start = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    (x + x).sum().item()
    return {"peak": torch.cuda.max_memory_allocated() - start >= 4096, "now": torch.cuda.memory_allocated() - start}


@case()
def peak_exact():
    """The peak of one elementwise operation, to the byte."""
    x = torch.ones(1000, device="cuda")
    start = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    y = x + x
    del y
    return {"peak": torch.cuda.max_memory_allocated() - start, "now": torch.cuda.memory_allocated() - start}


@case()
def peak_of_chain():
    """`(x * 2 + 1)` holds one intermediate result."""
    x = torch.ones(1000, device="cuda")
    start = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    y = x * 2 + 1
    peak = torch.cuda.max_memory_allocated() - start
    return {"peak": peak, "now": torch.cuda.memory_allocated() - start, "y": len(y)}


@case()
def peak_in_place():
    """In place, nothing more is held."""
    x = torch.ones(1000, device="cuda")
    start = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    x.mul_(2).add_(1)
    return {"peak": torch.cuda.max_memory_allocated() - start, "now": torch.cuda.memory_allocated() - start}


@case()
def peak_reset():
    """`reset_peak_memory_stats` starts from what is held now."""
    x = torch.ones(100_000, device="cuda")
    del x
    before = torch.cuda.max_memory_allocated() > torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return {"before": before, "after": torch.cuda.max_memory_allocated() == torch.cuda.memory_allocated()}


@case()
def reserved():
    """Reserved memory is at least what is allocated, in steps of 2 MiB, and goes back when the cache is emptied."""
    x = torch.ones(1000, device="cuda")
    held = torch.cuda.memory_reserved()
    found = {"at least": held >= torch.cuda.memory_allocated(), "step": held % 2**21, "held": held}
    del x
    kept = torch.cuda.memory_reserved()
    torch.cuda.empty_cache()
    return {**found, "kept": kept, "emptied": torch.cuda.memory_reserved()}


@case()
def statistics():
    """`memory_stats` and the functions of `torch.cuda` agree."""
    x = torch.ones(1000, device="cuda")
    stats = torch.cuda.memory_stats()
    return {
        "current": stats["allocated_bytes.all.current"] == torch.cuda.memory_allocated(),
        "peak": stats["allocated_bytes.all.peak"] == torch.cuda.max_memory_allocated(),
        "held": stats["allocated_bytes.all.current"],
        "elements": len(x),
    }


@case()
def bytes_of_large_block():
    """Above 1 MiB a block may keep a remainder of up to 1 MiB that the allocator does not split off."""
    meter = Meter()
    x = torch.empty(23 * 2**19, dtype=torch.uint8, device="cuda")  # 11.5 MiB
    return {"bytes": meter.read(), "elements": x.numel()}
