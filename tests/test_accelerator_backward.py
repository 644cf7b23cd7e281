"""Python that the backward pass calls sees the GPU; gradients belong where their tensors are."""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from sana_lab import use_accelerator


@pytest.fixture(autouse=True)
def accelerator():
    with use_accelerator(gpus=2, vram="1GiB", virtual=True) as accelerator:
        yield accelerator


def leaf(*shape, **kwargs):
    return torch.ones(*shape, device="cuda", requires_grad=True, **kwargs)


def test_a_hook_may_mix_with_scalars_but_not_with_tensors_of_the_cpu():
    x = leaf(3)
    x.register_hook(lambda gradient: gradient * torch.tensor(2.0))
    (3 * x).sum().backward()
    assert x.grad.tolist() == [6, 6, 6] and x.grad.is_cuda
    y = leaf(3)
    y.register_hook(lambda gradient: gradient + torch.ones(3))
    with pytest.raises(RuntimeError, match="cuda:0 and cpu"):
        y.sum().backward()


def test_a_hook_that_takes_itself_away_and_one_that_returns_nothing():
    x, seen = leaf(3), []
    handle = x.register_hook(lambda gradient: seen.append(gradient.device.type))
    x.sum().backward()
    handle.remove()
    x.sum().backward()
    assert seen == ["cuda"] and x.grad.tolist() == [2, 2, 2]


def test_hooks_on_a_view_and_on_a_tensor_changed_in_place():
    x, seen = leaf(4), []
    y = (x * 2).view(2, 2)
    y.register_hook(lambda gradient: seen.append(str(gradient.device)))
    z = y.clone().mul_(3)
    z.register_hook(lambda gradient: seen.append(str(gradient.device)))
    z.sum().backward()
    assert seen == ["cuda:0", "cuda:0"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpoint_has_the_gradients_of_the_plain_function(dtype, reentrant):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU(), torch.nn.LayerNorm(8)).to("cuda", dtype)
    x = torch.randn(4, 8, device="cuda", dtype=dtype, requires_grad=True)
    (plain,) = torch.autograd.grad((net(x) ** 2).sum(), x)
    (checkpoint(net, x, use_reentrant=reentrant) ** 2).sum().backward()
    assert x.grad.is_cuda and x.grad.dtype == dtype and torch.equal(x.grad, plain)
    assert all(parameter.grad.is_cuda for parameter in net.parameters())


def test_a_checkpoint_under_autocast_computes_again_under_autocast():
    net = torch.nn.Linear(8, 8).cuda()
    x, seen = leaf(2, 8), []

    def function(x):
        seen.append((torch.is_autocast_enabled("cuda"), x.device.type))
        return net(x)  # computed again only as far as something saved is missing

    with torch.autocast("cuda", torch.bfloat16):
        y = checkpoint(function, x, use_reentrant=False)
    y.float().sum().backward()
    assert seen == [(True, "cuda")] * 2 and net.weight.grad.is_cuda


def test_a_gradient_from_the_cpu_is_refused_in_both_doors():
    x = leaf(3)
    with pytest.raises(RuntimeError, match="^invalid gradient at index 0 - expected device cuda:0 but got cpu"):
        (2 * x).backward(torch.ones(3))
    with pytest.raises(RuntimeError, match="invalid gradient at index 1 - expected device cuda:0 but got cuda:1"):
        torch.autograd.backward([2 * x, 3 * x], [torch.ones(3, device="cuda"), torch.ones(3, device="cuda:1")])
    assert x.grad is None


def test_what_crosses_devices_comes_back_to_its_own():
    """Copies within the graph, in place too, and a scalar of the CPU."""
    x = torch.ones(3, requires_grad=True)
    scale = torch.tensor(2.0, requires_grad=True)
    y = torch.zeros(3, device="cuda").copy_(x) * scale
    z = y.to("cuda:1")
    z.retain_grad()
    (z * 3).cpu().sum().backward()
    assert str(z.grad.device) == "cuda:1"
    assert x.grad.device.type == scale.grad.device.type == "cpu"
    assert x.grad.tolist() == [6, 6, 6] and scale.grad.item() == 9


def test_own_functions_keep_their_signature_and_their_errors():
    class Scale(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, factor, unused=None):
            ctx.factor = factor
            return x * factor

        @staticmethod
        def backward(ctx, gradient):
            assert gradient.is_cuda
            return gradient * ctx.factor, None, None

    class Broken(Scale):
        @staticmethod
        def backward(ctx, gradient):
            raise KeyError("mine")

    x = leaf(3)
    Scale.apply(x, 2.0).sum().backward()
    assert x.grad.tolist() == [2, 2, 2]
    with pytest.raises(KeyError, match="mine"):
        Broken.apply(x, 2.0).sum().backward()
    assert Scale.apply(torch.ones(2), 2.0).tolist() == [2, 2]


def test_gradients_count_as_memory_while_backward_runs():
    """And are given back."""
    x = leaf(2**18)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    y = (x * 2).exp()
    y.sum().backward()
    del y
    x.grad = None
    assert torch.cuda.max_memory_allocated() - before >= 3 * 2**20
    assert torch.cuda.memory_allocated() == before


def test_backward_after_leaving_works_on_the_cpu(accelerator):
    x = leaf(3)
    x.register_hook(lambda gradient: gradient * 2)
    y = (x * 2).sum()
    accelerator.leave()
    y.backward()
    assert x.grad.tolist() == [4, 4, 4] and x.grad.device.type == "cpu"


SAVING = {
    "exp": lambda x: x.exp(),
    "tanh": lambda x: torch.tanh(x),
    "softmax": lambda x: x.softmax(-1),
    "layer_norm": lambda x: torch.nn.functional.layer_norm(x, (4,)),
    "max": lambda x: x.max(dim=0).values,
    "product in 16 bits": lambda x: torch.nn.functional.linear(x.half(), torch.ones(3, 4, device="cuda").half()),
    "with a number of the CPU": lambda x: x * torch.tensor(2.0) + x.sigmoid(),
}


@pytest.mark.parametrize("what", SAVING)
def test_what_is_saved_is_on_the_gpu_already(what):
    """A hook sees a result before the call that makes it has come back."""
    x, seen = torch.randn(2, 4, device="cuda", requires_grad=True), []
    alone = torch.ones(2, requires_grad=True)

    def pack(tensor):
        seen.append(str(tensor.device))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = SAVING[what](x)
        packed, seen = seen, []
        z = alone.exp()
    assert packed and set(packed) <= ({"cuda:0", "cpu"} if "number" in what else {"cuda:0"}) and "cuda:0" in packed
    assert seen == ["cpu"]
    (y.float().sum()).backward()
    z.sum().backward()
    assert x.grad.is_cuda and not alone.grad.is_cuda


def test_results_saved_on_the_cpu_come_back():
    """`save_on_cpu` keeps a result that was just made on the second GPU, and brings it back there."""
    x = torch.ones(3, device="cuda:1", requires_grad=True)
    with torch.autograd.graph.save_on_cpu():
        y = x.exp().tanh()
    y.sum().backward()
    assert x.grad.device == torch.device("cuda:1")
