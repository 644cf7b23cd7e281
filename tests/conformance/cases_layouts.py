"""Tensors that are not plain, and functions that run outside Python: nested, sparse, scripted, traced."""

from __future__ import annotations

import torch

from .registry import case, seen


def gpu(*shape):
    """Ones on the GPU."""
    return torch.ones(*shape, device="cuda")


class Net(torch.nn.Module):
    """A linear layer with a branch."""

    def __init__(self):
        """Of four numbers to four."""
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x):
        """Through the layer, and something new on the way."""
        y = self.linear(x) + torch.ones(4, device=x.device)
        if y.sum() > 1000:
            y = y * 2
        return y.relu()


@case()
def nested_made():
    """A nested tensor of GPU tensors."""
    x = torch.nested.nested_tensor([gpu(2, 3), gpu(1, 3)])
    y = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)], device="cuda")
    return {"from parts": str(x.device), "device": str(y.device), "cuda": y.is_cuda, "part": seen(x.unbind()[1])}


@case()
def nested_computed():
    """Sums, products, padding, moving."""
    x = torch.nested.nested_tensor([gpu(2, 3), gpu(1, 3)])
    return {
        "sum": str((x + x).device),
        "linear": str(torch.nn.functional.linear(x, gpu(4, 3)).device),
        "padded": seen(x.to_padded_tensor(0.0)),
        "moved": str(x.cpu().device),
        "moved there": str(x.cpu().cuda().device),
    }


@case()
def nested_jagged():
    """The newer layout."""
    x = torch.nested.nested_tensor([gpu(2, 3), gpu(1, 3)], layout=torch.jagged)
    return {
        "device": str(x.device),
        "values": seen(x.values()),
        "offsets": str(x.offsets().device),
        "product": str((x @ gpu(3, 4)).device),
        "padded": seen(torch.nested.to_padded_tensor(x, 0.0)),
        "moved": str(x.to("cpu").device),
    }


@case()
def nested_mixed():
    """Parts on two devices."""
    return str(torch.nested.as_nested_tensor([gpu(2, 3), torch.ones(1, 3)]).device)


@case()
def nested_mixed_sum():
    """A nested tensor on the GPU plus one on the CPU."""
    parts = [torch.ones(2, 3), torch.ones(1, 3)]
    return str((torch.nested.nested_tensor(parts, device="cuda") + torch.nested.nested_tensor(parts)).device)


@case()
def sparse_made():
    """Sparse tensors, from a dense one and from indices, in two layouts."""
    x = torch.eye(3, device="cuda")
    indices = torch.tensor([[0, 1], [1, 2]], device="cuda")
    made = torch.sparse_coo_tensor(indices, gpu(2), (3, 3))
    asked = torch.sparse_coo_tensor([[0, 1], [1, 2]], [1.0, 2.0], (3, 3), device="cuda")
    return {
        "coo": str(x.to_sparse().device),
        "csr": str(x.to_sparse_csr().device),
        "made": str(made.device),
        "asked": str(asked.device),
        "cuda": asked.is_cuda,
        "values": seen(x.to_sparse().coalesce().values()),
        "indices": str(x.to_sparse().coalesce().indices().device),
        "crow": str(x.to_sparse_csr().crow_indices().device),
    }


@case()
def sparse_computed():
    """Products, sums, back to dense, moving."""
    x = torch.eye(3, device="cuda").to_sparse()
    return {
        "mm": seen(torch.sparse.mm(x, gpu(3, 2))),
        "@": seen(x @ gpu(3, 2)),
        "sum": str((x + x).device),
        "dense": seen(x.to_dense()),
        "total": seen(torch.sparse.sum(x)),
        "scaled": str((x * 2).device),
        "moved": str(x.cpu().device),
        "moved there": str(x.cpu().to("cuda").device),
        "transposed": str(x.t().device),
    }


@case()
def sparse_csr_computed():
    """The compressed layout."""
    x = torch.eye(3, device="cuda").to_sparse_csr()
    return {"@": seen(x @ gpu(3, 2)), "dense": seen(x.to_dense()), "moved": str(x.cpu().device)}


@case()
def sparse_mixed():
    """A sparse matrix on the GPU times a dense one on the CPU."""
    return seen(torch.sparse.mm(torch.eye(3, device="cuda").to_sparse(), torch.ones(3, 2)))


@case()
def sparse_mixed_sum():
    """A sparse tensor on the GPU plus one on the CPU."""
    return str((torch.eye(3, device="cuda").to_sparse() + torch.eye(3).to_sparse()).device)


@case()
def sparse_made_mixed():
    """Indices on the CPU, values on the GPU."""
    return str(torch.sparse_coo_tensor(torch.tensor([[0, 1], [1, 2]]), gpu(2), (3, 3)).device)


@case()
def sparse_gradient():
    """The sparse gradient of an embedding."""
    table = torch.nn.Embedding(5, 3, sparse=True).cuda()
    table(torch.tensor([1, 1, 4], device="cuda")).sum().backward()
    gradient = table.weight.grad
    return {"device": str(gradient.device), "sparse": gradient.is_sparse, "dense": seen(gradient.to_dense())}


@case()
def scripted_module():
    """A scripted module."""
    net = torch.jit.script(Net().cuda())
    return {"result": seen(net(gpu(2, 4))), "weight": str(net.linear.weight.device)}


@case()
def scripted_function():
    """A scripted function that makes tensors of its own and returns several."""

    @torch.jit.script
    def function(x: torch.Tensor, n: int):
        total = torch.zeros(4, device=x.device)
        for i in range(n):
            total = total + x * i
        return total, [x.sum(), total.mean()]

    total, parts = function(gpu(4), 3)
    return {"total": seen(total), "parts": [seen(part) for part in parts], "values": total.tolist()}


@case()
def scripted_made_on_cuda():
    """A scripted function that names the device."""

    @torch.jit.script
    def function(n: int):
        return torch.ones(n, device="cuda") * 2

    return seen(function(3))


@case()
def scripted_moves():
    """A scripted function that moves a tensor to the GPU and back."""

    @torch.jit.script
    def function(x: torch.Tensor):
        y = x.to("cuda") + 1
        return y, y.cpu()

    there, back = function(torch.ones(3))
    return {"there": seen(there), "back": seen(back)}


@case()
def scripted_input_on_cpu():
    """A scripted module on the GPU with its input on the CPU."""
    return seen(torch.jit.script(torch.nn.Sequential(torch.nn.Linear(4, 4)).cuda())(torch.ones(2, 4)))


@case()
def scripted_backward():
    """Gradients through a scripted module."""
    net = torch.jit.script(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh()).cuda())
    x = gpu(2, 4).requires_grad_()
    net(x).sum().backward()
    return {"x": seen(x.grad), "weights": sorted({str(p.grad.device) for p in net.parameters()})}


@case()
def traced_module():
    """A traced module."""
    net = torch.jit.trace(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()).cuda(), gpu(1, 4))
    return {"result": seen(net(gpu(3, 4))), "half": seen(net.half()(gpu(3, 4).half()))}


@case()
def traced_function():
    """A traced function that makes a tensor on the GPU."""

    def function(x):
        return x + torch.arange(4, device="cuda")

    traced = torch.jit.trace(function, gpu(4))
    return {"result": seen(traced(gpu(4))), "values": traced(gpu(4)).tolist()}


@case()
def traced_moved_to_cpu():
    """A traced module is moved to the CPU and called there."""
    net = torch.jit.trace(torch.nn.Sequential(torch.nn.Linear(4, 4)).cuda(), gpu(1, 4))
    return {"result": seen(net.cpu()(torch.ones(3, 4))), "back": seen(net.cuda()(gpu(3, 4)))}


@case()
def frozen_module():
    """A scripted module with its weights frozen into it, saved and loaded."""
    import io

    net = torch.jit.freeze(torch.jit.script(torch.nn.Sequential(torch.nn.Linear(4, 4)).cuda().eval()))
    file = io.BytesIO()
    torch.jit.save(net, file)
    file.seek(0)
    loaded = torch.jit.load(file, map_location="cuda")
    return {"frozen": seen(net(gpu(2, 4))), "loaded": seen(loaded(gpu(2, 4)))}
