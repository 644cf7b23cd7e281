"""What PyTorch checks on the host: indices, hooks, checkpoints, the arguments of `torch.cuda`."""

from __future__ import annotations

from .gpu import FAMILY
from .mismatch import FAMILY as MISMATCH

entry = FAMILY.failure(
    id="index-out-of-range",
    title="An index or a count is out of range, and the host noticed before the GPU did",
    error="IndexError|RuntimeError",
    pattern=r"index \d+ is out of bounds for dimension \d+ with size \d+|repeats can not be negative|"
    r"bincount only supports 1-d non-negative",
    messages={
        "torch 2.11.0": "IndexError: index 9 is out of bounds for dimension 0 with size 4",
        "torch 2.11.0, counts": "RuntimeError: repeats can not be negative",
        "torch 2.11.0, bins": "RuntimeError: bincount only supports 1-d non-negative integral inputs.",
    },
    cause="A plain number as an index, and the arguments of a few functions, are looked at on the host. An index that "
    "is a tensor on the GPU is not: out of range it ends in `device-side assert triggered`, and CUDA is lost.",
    references=["pytorch 2.11.0: aten/src/ATen/TensorIndexing.h", "pytorch 2.11.0: aten/src/ATen/native/Repeat.cpp"],
)


@entry.reproduce
def _():
    import torch

    rows = torch.ones(4, 8, device="cuda")
    rows.repeat_interleave(torch.tensor([1, -1, 1, 1], device="cuda"), dim=0)


@entry.fix("Look at the largest index before it is used.")
def _():
    import torch

    rows, index = torch.ones(4, 8), torch.tensor([0, 3])
    assert int(index.max()) < len(rows)
    rows[index]


entry = MISMATCH.failure(
    id="hook-changes-the-device",
    title="A hook on a tensor returns a gradient of another device or type",
    error="RuntimeError",
    pattern=r"hook '.{0,80}' has changed the (?:type|size) of value",
    messages={
        "torch 2.11.0": "RuntimeError: hook 'to_cpu' has changed the type of value (was torch.cuda.FloatTensor got "
        "torch.FloatTensor)",
    },
    cause="What a hook returns takes the gradient's place, so it has to be on the same device and of the same type. "
    "Return `gradient.to(...)` of what you looked at, or nothing.",
    references=["pytorch 2.11.0: torch/csrc/autograd/python_hook.cpp"],
)


@entry.reproduce
def _():
    import torch

    x = torch.ones(3, device="cuda", requires_grad=True)
    x.register_hook(lambda gradient: gradient.cpu())
    x.sum().backward()


@entry.fix("Return a gradient that is like the one that came.")
def _():
    import torch

    x = torch.ones(3, requires_grad=True)
    x.register_hook(lambda gradient: (gradient.cpu() * 2).to(gradient))
    x.sum().backward()


entry = MISMATCH.failure(
    id="checkpoint-recomputed-elsewhere",
    title="Gradient checkpointing computes again and gets another device, type or shape",
    error="CheckpointError",
    pattern=r"torch\.utils\.checkpoint: Recomputed values for the following tensors have different metadata",
    messages={
        "torch 2.11.0": "CheckpointError: torch.utils.checkpoint: Recomputed values for the following tensors have "
        "different metadata than during the forward pass.",
    },
    cause="The function runs twice, and the second time something around it had changed: a tensor that it closes over "
    "was moved in between, autocast was on the first time alone, or a random choice was made anew. The lines below the "
    "message name the saved and the recomputed device, type and shape.",
    references=["pytorch 2.11.0: torch/utils/checkpoint.py"],
)


@entry.reproduce
def _():
    import torch
    from torch.utils.checkpoint import checkpoint

    calls, x = [], torch.ones(3, device="cuda", requires_grad=True)

    def function(x):
        calls.append(1)
        return (x * (torch.ones(3) if len(calls) > 1 else 2)).exp()

    checkpoint(function, x, use_reentrant=False).sum().backward()


@entry.fix("Move tensors before the checkpoint, and pass them in instead of closing over them.")
def _():
    import torch
    from torch.utils.checkpoint import checkpoint

    x, scale = torch.ones(3, requires_grad=True), torch.ones(3)
    checkpoint(lambda x, scale: x * scale, x, scale, use_reentrant=False).sum().backward()


entry = MISMATCH.failure(
    id="sparse-on-two-devices",
    title="A sparse tensor is added to one of another device",
    error="RuntimeError",
    pattern=r"\w+: expected '\w+' to be CUDA(?: tensor)?, but got",
    messages={"torch 2.11.0": "RuntimeError: add: expected 'other' to be CUDA, but got CPU"},
    cause="Kernels for sparse tensors look at their operands themselves, in words of their own. Move one of them.",
    references=["pytorch 2.11.0: aten/src/ATen/native/sparse/cuda/SparseCUDATensorMath.cu"],
)


@entry.reproduce
def _():
    import torch

    torch.eye(3, device="cuda").to_sparse() + torch.eye(3).to_sparse()


@entry.fix("Bring both operands to one device.")
def _():
    import torch

    a, b = torch.eye(3).to_sparse(), torch.eye(3).to_sparse()
    a + b.to(a.device)


entry = FAMILY.failure(
    id="memory-statistics-missing",
    title="`torch.cuda.memory_stats()` has no such key yet",
    error="KeyError",
    pattern=r"'(?:allocated|requested|active|reserved|inactive_split)_bytes[\w.]{0,40}'",
    messages={"torch 2.11.0": "KeyError: 'requested_bytes.all.current'"},
    cause="Until the process has used a GPU there are no statistics, and the dictionary is empty. "
    "`torch.cuda.memory_allocated()` answers 0 in that case; ask with `.get(key, 0)`, or use the GPU first.",
    references=["pytorch 2.11.0: torch/cuda/memory.py, memory_stats"],
    gpus=0,
)


@entry.reproduce
def _():
    import torch

    torch.cuda.memory_stats()["requested_bytes.all.current"]


@entry.fix("Ask with a default, or with the function of that name.")
def _():
    import torch

    torch.cuda.memory_stats().get("requested_bytes.all.current", 0) if torch.cuda.is_available() else 0


entry = MISMATCH.failure(
    id="data-parallel-elsewhere",
    title="`DataParallel` wants the module on the first of its GPUs",
    error="RuntimeError",
    pattern=r"module must have its parameters and buffers on device .{0,40} \(device_ids\[0\]\) but found one",
    gpus=2,
    messages={
        "torch 2.11.0": "RuntimeError: module must have its parameters and buffers on device cuda:0 (device_ids[0]) "
        "but found one of them on device: cuda:1",
    },
    cause="It copies the module from the first GPU of its list to the others at each call. Move the module there, or "
    "put the GPU where it is first into `device_ids`.",
    references=["pytorch 2.11.0: torch/nn/parallel/data_parallel.py"],
)


@entry.reproduce
def _():
    import torch

    module = torch.nn.DataParallel(torch.nn.Linear(4, 4).to("cuda:1"), device_ids=[0, 1])
    module(torch.ones(2, 4, device="cuda:0"))


@entry.fix("Move the module to the first GPU of the list before it is wrapped.")
def _():
    import torch

    module = torch.nn.Linear(4, 4).to("cuda:0")
    torch.nn.DataParallel(module, device_ids=[0, 1])


entry = MISMATCH.failure(
    id="functions-own-words-on-devices",
    section="two-devices-words",
    title="A function says in words of its own that its tensors are on two devices",
    chinese=["设备不匹配"],
    error="RuntimeError",
    pattern=r"[Ee]xpected the output and input tensors to be on the same device"
    r"|argument \w+: expected a CUDA device but found"
    r"|expects all tensors to have the same device"
    r"|to be on the same device, but (?:found b on|got devices)"
    r"|Expected tensor to have \w+ Device(?:Type)?, but got tensor with"
    r"|must (?:all )?be on the same device(?: as the input tensor| but |\. Input 0 is on)"
    r"|tensors should have same device type, but got"
    r"|Expected (?:self\.device\(\) == out\.device\(\)|data\.get_device\(\) == \w{0,20}_value\.get_device\(\))"
    r"|legacy constructor expects device type: \w+ but device type"
    r"|All tensors must be on devices\[0\]"
    r"|Expected all (?:in|out)put tensors to be CUDA tensors, but",
    messages={"torch 2.13.0": "RuntimeError: meshgrid expects all tensors to have the same device"},
    cause="Most operators share one sentence for operands on two devices. These look by themselves, before they call "
    "any, and each says it differently: name the function's arguments, and ask each for its `.device`.",
    references=["pytorch 2.13.0: aten/src/ATen/native/TensorShape.cpp"],
)


@entry.reproduce
def _():
    import torch

    torch.meshgrid(torch.ones(2), torch.ones(2, device="cuda"), indexing="ij")


@entry.fix("Make or move all of them to one device.")
def _():
    import torch

    torch.meshgrid(torch.ones(2, device="cuda"), torch.ones(2, device="cuda"), indexing="ij")


entry = FAMILY.failure(
    id="scatter-or-gather-refused",
    title="Scattering to GPUs, or gathering from them, with tensors or sizes that do not fit",
    error="RuntimeError",
    pattern=r"Expected at least one (?:output )?(?:device|tensor) to (?:scatter to|gather from)"
    r"|Total size for output tensors along scatter dim"
    r"|given chunk sizes don't sum up to the tensor's size"
    r"|Expected non-negative device index, but got"
    r"|Expected all output tensors to have same shape as the source tensor"
    r"|Expected all input tensors to have the same number of dimensions, but tensor at index",
    messages={"torch 2.13.0": "RuntimeError: Expected at least one tensor to gather from"},
    cause="`torch.nn.parallel.comm`, with which `DataParallel` hands a batch out and takes the results back, looks at "
    "number, sizes and shapes first. An empty list of GPUs or of results is the usual reason: nothing was left of a "
    "batch, or no GPU is visible.",
    references=["pytorch 2.13.0: torch/csrc/cuda/comm.cpp"],
)


@entry.reproduce
def _():
    import torch

    torch.nn.parallel.comm.gather([], destination=0)


@entry.fix("Gather only where there is something to gather, or leave `DataParallel` out on one GPU.")
def _():
    import torch

    torch.nn.parallel.comm.gather([torch.ones(1, 2, device="cuda")], destination=0)


entry = FAMILY.failure(
    id="export-of-a-tensor-with-gradient",
    title="`Can't export tensors that require gradient`",
    error="BufferError|RuntimeError",
    pattern=r"Can't export tensors that require gradient",
    gpus=0,
    messages={"torch 2.13.0": "BufferError: Can't export tensors that require gradient, use tensor.detach()"},
    cause="DLPack, by which another library takes over a tensor's memory, knows no gradients, so PyTorch gives none "
    "away that asks for one. Weights do, unless they were loaded for inference.",
    references=["pytorch 2.13.0: torch/_tensor.py, __dlpack__"],
)


@entry.reproduce
def _():
    import torch

    torch.ones(2, requires_grad=True).__dlpack__()


@entry.fix("Give away what `detach()` returns, which shares the memory.")
def _():
    import torch

    torch.ones(2, requires_grad=True).detach().__dlpack__()


entry = FAMILY.failure(
    id="cuda-argument-refused",
    title="A call of `torch.cuda` is given a number, a type or a tensor that it does not take",
    error="ValueError|TypeError|AssertionError",
    pattern=r"Invalid type for fraction argument|Invalid fraction value: |Invalid (?!device id)[\w ]{1,20} id\b|"
    r"is only implemented on CPU tensors|invalid type: '",
    messages={
        "torch 2.11.0": "ValueError: Invalid fraction value: 2.0. Allowed range: 0~1",
        "torch 2.11.0, another type": "TypeError: Invalid type for fraction argument, must be `float`",
        "torch 2.11.0, a peer": "AssertionError: Invalid peer device id",
        "torch 2.11.0, on a GPU": "TypeError: apply_ is only implemented on CPU tensors",
        "torch 2.11.0, an old type": "ValueError: invalid type: 'torch.cuda.GiraffeTensor'",
    },
    cause="The share of memory is a `float` from 0 to 1, a card's number is below `torch.cuda.device_count()`, and "
    "`apply_` and `map_` run Python for each number, which a GPU cannot.",
    references=["pytorch 2.11.0: torch/cuda/memory.py, set_per_process_memory_fraction"],
)


@entry.reproduce
def _():
    import torch

    torch.cuda.set_per_process_memory_fraction(2.0)


@entry.fix("Give a float from 0 to 1, and the number of a card that is there.")
def _():
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(0.5, torch.cuda.device_count() - 1)
