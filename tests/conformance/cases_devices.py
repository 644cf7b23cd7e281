"""Where tensors live: moving, making, views, modules, contexts, saving and loading."""

from __future__ import annotations

import copy
import io
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from .registry import case, seen


@case()
def is_available():
    """CUDA is there, with one device, current."""
    return {
        "available": torch.cuda.is_available(),
        "count": torch.cuda.device_count(),
        "current": torch.cuda.current_device(),
        "accelerator": str(torch.accelerator.current_accelerator()),
        "module": torch.get_device_module("cuda").__name__,
        "bf16": torch.cuda.is_bf16_supported(),
    }


@case()
def properties():
    """Names and properties have the types that libraries expect."""
    found = torch.cuda.get_device_properties(0)
    free, total = torch.cuda.mem_get_info(0)
    return {
        "name": isinstance(torch.cuda.get_device_name(0), str) and found.name == torch.cuda.get_device_name(0),
        "capability": list(torch.cuda.get_device_capability(0)) == [found.major, found.minor],
        "memory": 0 < free <= total,
        "total": found.total_memory == total,
        "processors": found.multi_processor_count > 0,
    }


@case()
def to_cuda():
    """`.to("cuda")` names the device with its index."""
    x = torch.ones(2, 3).to("cuda")
    return {**seen(x), "is_cuda": x.is_cuda, "index": x.get_device(), "type": x.type(), "is_cpu": x.is_cpu}


@case()
def to_forms():
    """All spellings of moving."""
    x = torch.ones(2, 3)
    y = x.to(0)
    return {
        "index": seen(y),
        "device": seen(x.to(torch.device("cuda"))),
        "device and dtype": seen(x.to("cuda", torch.float16)),
        "keyword": seen(x.to(device="cuda:0", dtype=torch.bfloat16)),
        "other": seen(x.to(y.half())),
        "cuda()": seen(x.cuda()),
        "cuda(0)": seen(x.cuda(0)),
        "cpu()": seen(y.cpu()),
        "dtype": seen(y.to(torch.int8)),
        "half()": seen(y.half()),
        "type_as": seen(x.type_as(y)),
        "type(str)": seen(x.type("torch.cuda.HalfTensor")),
    }


@case()
def to_same_device():
    """Moving to where it is gives the tensor itself; `copy=True` does not."""
    x = torch.ones(2, device="cuda")
    return {"same": x.to("cuda") is x, "cuda": x.cuda() is x, "copy": x.to("cuda", copy=True) is x, "cpu": x.cpu() is x}


@case()
def factories():
    """Factories with `device=`."""
    x = torch.ones(3, device="cuda")
    return {
        "zeros": seen(torch.zeros(2, device="cuda")),
        "full": seen(torch.full((2,), 7, device=0)),
        "arange": seen(torch.arange(4, device="cuda:0")),
        "tensor": seen(torch.tensor([1.0, 2.0], device="cuda")),
        "as_tensor": seen(torch.as_tensor([1, 2], device="cuda")),
        "zeros_like": seen(torch.zeros_like(x)),
        "empty_like to cpu": seen(torch.empty_like(x, device="cpu")),
        "new_zeros": seen(x.new_zeros(2, 2)),
        "new_tensor": seen(x.new_tensor([1, 2])),
        "randn": seen(torch.randn(2, 2, device="cuda")),
        "linspace": seen(torch.linspace(0, 1, 5, device="cuda")),
        "eye": seen(torch.eye(2, device="cuda")),
        "randperm": seen(torch.randperm(4, device="cuda")),
        "tensor of tensor": seen(x.clone().detach()),
    }


@case()
def results_stay():
    """The result of an operation is where its inputs are."""
    x = torch.ones(4, 4, device="cuda")
    parts = torch.split(x, 2)
    return {
        "sum": seen(x.sum()),
        "compare": seen(x > 0),
        "max": [seen(t) for t in x.max(dim=0)],
        "parts": [seen(t) for t in parts],
        "index": seen(x[0]),
        "nonzero": seen(x.nonzero()),
        "einsum": seen(torch.einsum("ij,kj->ik", x, x)),
        "item": x.sum().item(),
        "list": x[0].tolist(),
    }


@case()
def views():
    """Views, `.data` and `.detach()` share the storage and so the device."""
    x = torch.zeros(2, 6, device="cuda")
    view = x.view(3, 4)
    view[0, 0] = 1
    x.data[1, 1] = 2
    return {"view": seen(view), "data": seen(x.data), "t": seen(x.T), "detach": seen(x.detach()), "sum": x.sum().item()}


@case()
def data_setter():
    """`parameter.data = tensor` moves the parameter."""
    p = torch.nn.Parameter(torch.zeros(2))
    before = str(p.device)
    p.data = torch.ones(2, device="cuda")
    return {"before": before, "after": seen(p), "kind": type(p).__name__}


@case()
def module_to():
    """`Module.to` keeps the parameter objects and moves buffers too."""
    m = torch.nn.BatchNorm1d(3)
    weight = m.weight
    m.to("cuda")
    return {
        "same object": m.weight is weight,
        "devices": sorted({str(t.device) for t in [*m.parameters(), *m.buffers()]}),
        "back": str(m.cpu().weight.device),
    }


@case()
def module_to_dtype():
    """`Module.to(device, dtype)` casts floating parameters only."""
    m = torch.nn.BatchNorm1d(3).to("cuda", torch.float16)
    return {name: seen(t) for name, t in m.state_dict().items()}


@case()
def register_buffer():
    """A buffer registered after `.cuda()` stays on the CPU."""
    m = torch.nn.Linear(2, 2).cuda()
    m.register_buffer("late", torch.zeros(2))
    return {"weight": str(m.weight.device), "late": str(m.late.device)}


@case()
def load_state_dict():
    """Loading a CPU state dict copies into the GPU's parameters."""
    m = torch.nn.Linear(2, 2).cuda()
    m.load_state_dict({"weight": torch.ones(2, 2), "bias": torch.zeros(2)})
    return {"device": str(m.weight.device), "sum": m.weight.sum().item()}


@case()
def load_state_dict_assign():
    """`assign=True` takes the CPU tensors themselves."""
    m = torch.nn.Linear(2, 2).cuda()
    m.load_state_dict({"weight": torch.ones(2, 2), "bias": torch.zeros(2)}, assign=True)
    return {"device": str(m.weight.device)}


@case()
def meta_to_cuda():
    """A meta tensor has nothing to move."""
    return seen(torch.empty(2, device="meta").to("cuda"))


@case()
def to_empty():
    """`Module.to_empty` gives meta parameters a place."""
    with torch.device("meta"):
        m = torch.nn.Linear(2, 2)
    return seen(m.to_empty(device="cuda").weight)


@case()
def device_context():
    """`with torch.device("cuda")` and `set_default_device`."""
    with torch.device("cuda"):
        made = torch.zeros(2), torch.nn.Linear(2, 2).weight, torch.tensor([1.0]), torch.arange(2)
        inside = [seen(tensor) for tensor in made]
        explicit = seen(torch.zeros(2, device="cpu"))
    after = seen(torch.zeros(2))
    torch.set_default_device("cuda")
    default = seen(torch.zeros(2))
    torch.set_default_device(None)
    return {"inside": inside, "explicit": explicit, "after": after, "default": default, "reset": seen(torch.zeros(2))}


@case()
def device_of_index():
    """`torch.device(0)` is a GPU."""
    return {"device": str(torch.device(0)), "equal": torch.device("cuda", 0) == torch.zeros(1, device="cuda").device}


@case()
def deepcopy_keeps_device():
    """`copy.deepcopy` of tensors, parameters and modules."""
    x = torch.ones(2, device="cuda")
    m = copy.deepcopy(torch.nn.Linear(2, 2).cuda())
    return {"tensor": seen(copy.deepcopy(x)), "parameter": seen(m.weight), "kind": type(m.weight).__name__}


@case()
def pickle_keeps_device():
    """`pickle` of a GPU tensor."""
    return seen(pickle.loads(pickle.dumps(torch.ones(2, device="cuda"))))


@case()
def save_and_load():
    """`torch.save` remembers the device; `map_location` changes it."""
    file = io.BytesIO()
    torch.save({"gpu": torch.ones(2, device="cuda"), "cpu": torch.ones(2)}, file)

    def load(**kwargs):
        file.seek(0)
        return {name: str(t.device) for name, t in torch.load(file, **kwargs).items()}

    return {"plain": load(), "cpu": load(map_location="cpu"), "cuda": load(map_location="cuda")}


@case()
def safetensors_device():
    """safetensors loads straight to a device."""
    import pathlib
    import tempfile

    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "x.safetensors"
        save_file({"x": torch.ones(2, 3)}, path)
        found = {"file": seen(load_file(path, device="cuda")["x"])}
        for device in ("cuda:0", 0):
            with safe_open(path, framework="pt", device=device) as file:
                found[f"open {device}"] = seen(file.get_tensor("x"))
                found[f"slice {device}"] = seen(file.get_slice("x")[0:1])
    return found


@case()
def printing():
    """A printed tensor names its device."""
    x = torch.tensor([1.0, 2.0], device="cuda")
    return {"repr": repr(x), "format": f"{x}", "scalar": f"{x[0]:.2f}", "parameter": repr(torch.nn.Parameter(x))}


@case()
def to_numpy():
    """A GPU tensor is no array."""
    return {"array": torch.ones(2, device="cuda").numpy().tolist()}


@case()
def asarray():
    """`numpy.asarray` of a GPU tensor."""
    import numpy

    return {"array": numpy.asarray(torch.ones(2, device="cuda")).tolist()}


@case()
def from_numpy():
    """From an array to a GPU, and back by way of the CPU."""
    import numpy

    x = torch.from_numpy(numpy.ones(2)).to("cuda")
    return {**seen(x), "back": x.cpu().numpy().tolist()}


@case()
def invalid_ordinal():
    """A GPU that is not there."""
    return seen(torch.zeros(1, device="cuda:9"))


@case()
def invalid_properties():
    """Properties of a GPU that is not there."""
    return {"name": torch.cuda.get_device_properties(9).name}


@case()
def pinned():
    """Pinned memory says so; a GPU tensor cannot be pinned."""
    x = torch.ones(2)
    return {"pinned": x.pin_memory().is_pinned(), "plain": x.is_pinned(), "device": str(x.pin_memory().device)}


@case()
def pin_cuda_tensor():
    """A GPU tensor cannot be pinned."""
    return seen(torch.ones(2, device="cuda").pin_memory())


@case()
def gradients():
    """Gradients are where the parameters are."""
    m = torch.nn.Linear(2, 1).cuda()
    m(torch.ones(1, 2, device="cuda")).sum().backward()
    grad = torch.autograd.grad(m(torch.ones(1, 2, device="cuda")).sum(), m.weight)[0]
    return {"weight": seen(m.weight.grad), "grad": seen(grad)}


@case()
def gradients_across():
    """A gradient finds its way back through `.to`."""
    x = torch.ones(2, requires_grad=True)
    (x.to("cuda") * 2).sum().backward()
    return seen(x.grad)


@case()
def gradient_on_wrong_device():
    """A gradient must be where its tensor is."""
    p = torch.nn.Parameter(torch.ones(2, device="cuda"))
    p.grad = torch.ones(2)
    return seen(p.grad)


@case()
def generator_on_cuda():
    """A CUDA generator draws on CUDA, and repeats when seeded alike."""
    g = torch.Generator(device="cuda").manual_seed(1)
    a = torch.randn(3, device="cuda", generator=g)
    b = torch.randn(3, device="cuda", generator=g.manual_seed(1))
    return {"device": str(g.device), "draw": seen(a), "repeats": torch.equal(a, b), "seed": g.initial_seed()}


@case()
def generator_for_cpu_tensor():
    """A CUDA generator does not draw on the CPU."""
    return seen(torch.randn(3, generator=torch.Generator(device="cuda")))


@case()
def generator_for_cuda_tensor():
    """A CPU generator does not draw on CUDA."""
    return seen(torch.randn(3, device="cuda", generator=torch.Generator()))


@case()
def generator_in_place():
    """The same for `normal_`."""
    return seen(torch.zeros(3, device="cuda").normal_(generator=torch.Generator()))


@case()
def seeds():
    """`manual_seed` seeds the GPU; a draw on the GPU leaves the CPU's generator alone."""
    torch.manual_seed(3)
    first, cpu_first = torch.randn(2, device="cuda"), torch.randn(2)
    torch.manual_seed(3)
    cpu_again = torch.randn(2)
    torch.manual_seed(3)
    again = torch.randn(2, device="cuda")
    like = torch.randn_like(again)
    return {"gpu": torch.equal(first, again), "cpu": torch.equal(cpu_first, cpu_again), "like": seen(like)}


@case()
def rng_state():
    """The state of the GPU's generator can be kept and put back."""
    state = torch.cuda.get_rng_state()
    a = torch.rand(2, device="cuda")
    torch.cuda.set_rng_state(state)
    return {"repeats": torch.equal(a, torch.rand(2, device="cuda")), "state": str(state.device)}


@case()
def autocast():
    """Autocast: products in half precision, softmax and norms in float32."""
    a, b = torch.ones(2, 2, device="cuda"), torch.ones(2, 2, device="cuda").half()
    with torch.autocast("cuda"):
        found = {
            "matmul": str((a @ a).dtype),
            "linear": str(torch.nn.functional.linear(a, a).dtype),
            "softmax": str(torch.softmax(b, 0).dtype),
            "layer_norm": str(torch.nn.functional.layer_norm(b, (2,)).dtype),
            "add": str((a + b).dtype),
            "exp": str(b.exp().dtype),
            "sum": str(b.sum().dtype),
            "cat": str(torch.cat([a, b]).dtype),
            "enabled": torch.is_autocast_enabled("cuda"),
            "cpu": str((torch.ones(2, 2) @ torch.ones(2, 2)).dtype),
        }
    with torch.autocast("cuda", dtype=torch.bfloat16):
        found["bfloat16"] = str((a @ a).dtype)
    return found


@case()
def threads():
    """New threads see the same devices, and start with device 0."""
    found = {}

    def work():
        found["thread"] = seen(torch.ones(2, device="cuda") + 1)
        found["current"] = torch.cuda.current_device()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    with ThreadPoolExecutor(2) as pool:
        found["pool"] = [str(d) for d in pool.map(lambda i: torch.full((i + 1,), i).cuda().device, range(3))]
    return found


@case()
def streams_and_events():
    """Streams and events exist and agree that the work is done after a synchronize."""
    stream = torch.cuda.Stream()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    with torch.cuda.stream(stream):
        start.record()
        x = torch.ones(2, device="cuda") * 2
        end.record()
    torch.cuda.current_stream().wait_stream(stream)
    x.record_stream(torch.cuda.current_stream())
    torch.cuda.synchronize()
    return {"sum": x.sum().item(), "query": stream.query(), "time": start.elapsed_time(end) >= 0, "event": end.query()}


@case()
def optimizer_state():
    """An optimizer's state is where its parameters are."""
    m = torch.nn.Linear(2, 1).cuda()
    optimizer = torch.optim.AdamW(m.parameters())
    m(torch.ones(1, 2, device="cuda")).sum().backward()
    optimizer.step()
    return {name: str(t.device) for name, t in optimizer.state[m.weight].items()}
