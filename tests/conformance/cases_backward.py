"""Python that the backward pass calls: hooks, functions of one's own, checkpoints. And gradients from elsewhere."""

from __future__ import annotations

import threading

import torch
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from .registry import case, seen


def leaf(*shape, device="cuda", dtype=torch.float32):
    """Ones that want a gradient."""
    return torch.ones(*shape, device=device, dtype=dtype, requires_grad=True)


def note(found):
    """A hook that appends the devices of the tensors it is given."""

    def hook(*values):
        for value in values:
            for tensor in value if isinstance(value, tuple) else (value,):
                if isinstance(tensor, torch.Tensor):
                    found.append(str(tensor.device))

    return hook


class Twice(torch.autograd.Function):
    """Doubles, and makes a tensor on the GPU on the way back."""

    @staticmethod
    def forward(ctx, x):
        """Twice `x`."""
        ctx.save_for_backward(x)
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        """Twice the gradient."""
        (x,) = ctx.saved_tensors
        SEEN.extend([str(gradient.device), str(x.device)])
        return gradient * torch.full(gradient.shape, 2.0, device="cuda")


SEEN: list[str] = []


@case()
def backward_tensor_hook():
    """A hook on a leaf and on a tensor between."""
    x, found = leaf(3), []
    y = 2 * x
    x.register_hook(note(found))
    y.register_hook(note(found))
    y.sum().backward()
    return {"hooks": found, "grad": seen(x.grad)}


@case()
def backward_hook_computes():
    """A hook that replaces the gradient by one made with a new tensor on the GPU."""
    x = leaf(3)
    (2 * x).register_hook(lambda gradient: gradient)
    x.register_hook(lambda gradient: gradient * torch.full((3,), 3.0, device="cuda"))
    x.sum().backward()
    return {"grad": seen(x.grad), "values": x.grad.tolist()}


@case()
def backward_hook_mixes():
    """A hook that multiplies the gradient by a CPU tensor."""
    x = leaf(3)
    x.register_hook(lambda gradient: gradient * torch.ones(3))
    x.sum().backward()
    return seen(x.grad)


@case()
def backward_hook_returns_cpu():
    """A hook that returns a gradient on the CPU."""
    x = leaf(3)
    x.register_hook(lambda gradient: gradient.cpu())
    (x * 2).sum().backward()
    return seen(x.grad)


@case()
def backward_hook_after_accumulation():
    """A hook that runs when the gradient is in its place."""
    x, found = leaf(3), []
    x.register_post_accumulate_grad_hook(lambda tensor: found.extend([str(tensor.device), str(tensor.grad.device)]))
    (2 * x).sum().backward()
    return found


@case()
def backward_module_hooks():
    """Hooks of a module, before its backward pass and after."""
    module, found = torch.nn.Linear(3, 2).cuda(), []
    module.register_full_backward_hook(lambda module, into, out: note(found)(into, out))
    module.register_full_backward_pre_hook(lambda module, out: note(found)(out))
    x = leaf(4, 3)
    module(x).sum().backward()
    return {"hooks": found, "grad": str(x.grad.device), "weight": str(module.weight.grad.device)}


@case()
def backward_node_hooks():
    """Hooks on a node of the graph, before and after it."""
    x, found = leaf(3), []
    y = (2 * x).exp()
    y.grad_fn.register_hook(note(found))
    y.grad_fn.register_prehook(note(found))
    y.sum().backward()
    return found


@case()
def backward_multi_grad_hook():
    """One hook for the gradients of several tensors."""
    x, y, found = leaf(3), leaf(3), []
    torch.autograd.graph.register_multi_grad_hook((x, y), lambda gradients: note(found)(*gradients))
    (x * y).sum().backward()
    return found


@case()
def backward_hook_thread():
    """Whether a hook runs in the thread that called `backward`."""
    x, found, here = leaf(3), [], threading.get_ident()
    x.register_hook(lambda gradient: found.append(threading.get_ident() == here))
    x.sum().backward()
    return found


@case()
def backward_own_function():
    """A function of one's own: its backward sees the GPU and makes a tensor there."""
    x = leaf(3)
    SEEN.clear()
    Twice.apply(x).sum().backward()
    return {"seen": list(SEEN), "grad": seen(x.grad), "values": x.grad.tolist()}


@case()
def backward_own_function_returns_cpu():
    """A function of one's own whose backward returns a gradient on the CPU."""

    class Back(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, gradient):
            return gradient.cpu() * 2

    x = leaf(3)
    Back.apply(x).sum().backward()
    return seen(x.grad)


@case()
def backward_own_function_mixes():
    """A function of one's own whose backward mixes devices in a product."""

    class Mixed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient @ torch.eye(3)

    x = leaf(2, 3)
    Mixed.apply(x).sum().backward()
    return seen(x.grad)


@case()
def backward_own_function_two_outputs():
    """A function with two outputs of which one is used: the other's gradient is zeros, on the GPU."""
    found = []

    class Split(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2, x * 3

        @staticmethod
        def backward(ctx, first, second):
            found.extend([str(first.device), str(second.device)])
            return first * 2 + second * 3

    x = leaf(3)
    Split.apply(x)[0].sum().backward()
    return {"seen": found, "values": x.grad.tolist()}


@case()
def backward_gradient_on_cpu():
    """`y.backward(gradient)` with the gradient on the CPU."""
    x = leaf(3)
    (2 * x).backward(torch.ones(3))
    return seen(x.grad)


@case()
def backward_gradient_scalar_on_cpu():
    """The same with a 0-dim gradient, which is moved."""
    x = leaf(3)
    (2 * x).sum().backward(torch.tensor(2.0))
    return {"grad": seen(x.grad), "values": x.grad.tolist()}


@case()
def backward_grad_outputs_on_cpu():
    """`torch.autograd.grad` with `grad_outputs` on the CPU."""
    x = leaf(3)
    return seen(torch.autograd.grad(2 * x, x, grad_outputs=torch.ones(3))[0])


@case()
def backward_gradient_on_gpu():
    """The other way round: a CPU tensor and a gradient on the GPU."""
    x = leaf(3, device="cpu")
    (2 * x).backward(torch.ones(3, device="cuda"))
    return seen(x.grad)


@case()
def backward_autograd_grad():
    """`torch.autograd.grad`, once and twice."""
    x = leaf(3)
    (first,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    return {"first": seen(first), "second": seen(second), "values": second.tolist()}


@case()
def backward_from_the_cpu():
    """A leaf on the CPU that is used on the GPU: its gradient is on the CPU, the one between on the GPU."""
    x, found = leaf(3, device="cpu"), []
    y = x.to("cuda")
    y.register_hook(note(found))
    x.register_hook(note(found))
    y.retain_grad()
    (y * 2).sum().backward()
    return {"hooks": found, "x": seen(x.grad), "y": seen(y.grad)}


@case()
def backward_to_the_cpu():
    """A leaf on the GPU, and a loss on the CPU."""
    x, found = leaf(3), []
    y = (2 * x).cpu()
    y.register_hook(note(found))
    x.register_hook(note(found))
    y.sum().backward()
    return {"hooks": found, "x": seen(x.grad)}


@case()
def backward_scalar_on_the_cpu():
    """A 0-dim leaf on the CPU, used with a GPU tensor."""
    scale, x = torch.tensor(2.0, requires_grad=True), leaf(3)
    (x * scale).sum().backward()
    return {"scale": seen(scale.grad), "x": seen(x.grad)}


@case()
def backward_checkpoint():
    """A checkpoint without reentrance, in 16 bits."""
    layer = torch.nn.Linear(8, 8, device="cuda", dtype=torch.bfloat16)
    x = leaf(2, 8, dtype=torch.bfloat16)
    checkpoint(layer, x, use_reentrant=False).sum().backward()
    return {"x": seen(x.grad), "weight": seen(layer.weight.grad)}


@case()
def backward_checkpoint_reentrant():
    """A reentrant checkpoint, in 16 bits."""
    layer = torch.nn.Linear(8, 8, device="cuda", dtype=torch.bfloat16)
    x = leaf(2, 8, dtype=torch.bfloat16)
    checkpoint(layer, x, use_reentrant=True).sum().backward()
    return {"x": seen(x.grad), "weight": seen(layer.weight.grad)}


@case()
def backward_checkpoint_random():
    """A checkpoint restores the GPU's random state: the recomputed dropout is the first one."""
    torch.manual_seed(0)
    drop, x = torch.nn.Dropout(0.5), leaf(1000)
    y = checkpoint(drop, x, use_reentrant=False)
    y.sum().backward()
    return {"same mask": torch.equal(y.detach(), x.grad), "device": str(x.grad.device)}


@case()
def backward_checkpoint_sequential():
    """A sequence in two checkpointed pieces."""
    layers = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(4))).cuda().half()
    x = leaf(2, 4, dtype=torch.float16)
    checkpoint_sequential(layers, 2, x, use_reentrant=False).sum().backward()
    return {"x": seen(x.grad), "weights": sorted({str(p.grad.device) for p in layers.parameters()})}


@case()
def backward_checkpoint_mixes():
    """A checkpointed function that meets a CPU tensor only when it is recomputed."""
    calls, x = [], leaf(3)

    def function(x):
        calls.append(1)
        return (x * (torch.ones(3) if len(calls) > 1 else 2)).exp()

    checkpoint(function, x, use_reentrant=False).sum().backward()
    return seen(x.grad)


@case()
def backward_saved_on_cpu():
    """What the forward pass saves kept on the CPU meanwhile."""
    x = leaf(3)
    with torch.autograd.graph.save_on_cpu():
        y = (x * x).exp()
    y.sum().backward()
    return seen(x.grad)


@case()
def backward_saved_tensor_hooks():
    """Hooks that see what is saved and what is fetched."""
    x, found = leaf(3), []

    def pack(tensor):
        found.append(f"saved on {tensor.device}")
        return tensor

    def unpack(tensor):
        found.append(f"fetched on {tensor.device}")
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        y = x * x
    y.sum().backward()
    return found


@case()
def backward_anomaly():
    """With anomaly detection."""
    x = leaf(3)
    with torch.autograd.detect_anomaly(check_nan=True):
        (2 * x).sum().backward()
    return seen(x.grad)


@case()
def backward_step_in_hook():
    """An optimizer that steps in a hook, as soon as a gradient is there."""
    layer = torch.nn.Linear(4, 4).cuda()
    optimizers = {p: torch.optim.AdamW([p]) for p in layer.parameters()}

    def step(parameter):
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in layer.parameters():
        parameter.register_post_accumulate_grad_hook(step)
    layer(torch.ones(2, 4, device="cuda")).sum().backward()
    states = [value for o in optimizers.values() for state in o.state.values() for value in state.values()]
    moments = [value for value in states if value.dim()]
    return {"moments": sorted({str(m.device) for m in moments}), "grads": [p.grad is None for p in layer.parameters()]}


@case()
def backward_functional():
    """The transforms of `torch.func` and `torch.autograd.functional`."""
    x = torch.arange(3.0, device="cuda")

    def cube(x):
        return (x**3).sum()

    return {
        "grad": seen(torch.func.grad(cube)(x)),
        "jacrev": seen(torch.func.jacrev(torch.sin)(x)),
        "jacfwd": seen(torch.func.jacfwd(torch.sin)(x)),
        "hessian": seen(torch.autograd.functional.hessian(cube, x)),
        "vjp": seen(torch.func.vjp(torch.sin, x)[1](x)[0]),
        "vmap of grad": seen(torch.func.vmap(torch.func.grad(cube))(x[:, None])),
    }


@case(gpus=2)
def backward_two_gpus():
    """A graph over two GPUs: every gradient is where its tensor is."""
    x, found = leaf(3), []
    y = x.to("cuda:1")
    y.register_hook(note(found))
    x.register_hook(note(found))
    (y * 2).sum().backward()
    return {"hooks": found, "x": seen(x.grad)}


@case(gpus=2)
def backward_gradient_on_the_other():
    """A gradient on another GPU."""
    x = leaf(3)
    (2 * x).backward(torch.ones(3, device="cuda:1"))
    return seen(x.grad)
