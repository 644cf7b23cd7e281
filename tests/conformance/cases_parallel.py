"""One batch over all GPUs: `DataParallel` and the functions below it."""

from __future__ import annotations

import torch
from torch.nn.parallel import comm, data_parallel, gather, parallel_apply, replicate, scatter

from .registry import case, places, seen


def batch(rows=4, device="cuda"):
    """Numbers, (rows, 4)."""
    return torch.arange(4.0 * rows, device=device).view(rows, 4)


@case()
def parallel_module():
    """`DataParallel` on one GPU."""
    model = torch.nn.DataParallel(torch.nn.Linear(4, 2).cuda())
    return {"result": seen(model(batch())), "from the CPU": seen(model(batch(device="cpu"))), "ids": model.device_ids}


@case()
def parallel_module_on_cpu():
    """`DataParallel` around a module that stayed on the CPU."""
    return seen(torch.nn.DataParallel(torch.nn.Linear(4, 2))(batch()))


@case()
def parallel_functions():
    """Scatter, broadcast and gather with one GPU."""
    (part,) = comm.scatter(batch(), [0])
    (copy,) = comm.broadcast(batch(device="cpu"), [0])
    whole = comm.gather([part, part], 0, "cpu")
    return {"scatter": seen(part), "broadcast": seen(copy), "gather": seen(whole)}


@case()
def parallel_gather_cpu_tensor():
    """Gather takes GPU tensors only."""
    return seen(comm.gather([torch.ones(2)], 0, 0))


@case()
def parallel_no_such_gpu():
    """Scatter to a GPU that is not there."""
    return [seen(part) for part in comm.scatter(batch(), [0, 7])]


@case(gpus=2)
def parallel_module_two():
    """`DataParallel` over two GPUs: halves of the batch, the result on the first, gradients too."""
    where = []

    class Noting(torch.nn.Linear):
        def forward(self, x):
            where.append(f"{x.device} {self.weight.device} {list(x.shape)}")
            return super().forward(x)

    model = torch.nn.DataParallel(Noting(4, 2).cuda())
    x = batch(5).requires_grad_()
    y = model(x)
    y.sum().backward()
    weight = model.module.weight
    return {"where": sorted(where), "result": seen(y), "x": seen(x.grad), "weight": seen(weight.grad)}


@case(gpus=2)
def parallel_values_two():
    """The result and the gradients are those of one GPU."""
    torch.manual_seed(0)
    plain = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).cuda()
    model = torch.nn.DataParallel(plain)
    x = batch() / 16
    expected, found = plain(x), model(x)
    wanted = torch.autograd.grad(expected.sum(), list(plain.parameters()))
    got = torch.autograd.grad(found.sum(), list(plain.parameters()))
    return {
        "result": torch.allclose(expected, found, atol=1e-5),
        "gradients": all(torch.allclose(a, b, atol=1e-4) for a, b in zip(wanted, got, strict=True)),
    }


@case(gpus=2)
def parallel_half_two():
    """In 16 bits under `torch.no_grad`, with buffers, and the result on the second GPU."""
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).cuda().half().eval()
    model = torch.nn.DataParallel(net, output_device=1)
    with torch.no_grad():
        return seen(model(torch.ones(4, 3, 8, 8, device="cuda", dtype=torch.float16)))


@case(gpus=2)
def parallel_module_on_the_other():
    """The module on the second GPU, the first asked for."""
    return seen(torch.nn.DataParallel(torch.nn.Linear(4, 2).to("cuda:1"))(batch()))


@case(gpus=2)
def parallel_error_two():
    """An error inside one replica comes back as it is, with where it was."""

    class Failing(torch.nn.Module):
        def forward(self, x):
            return x + torch.ones(4, device="cuda:0")

    return seen(torch.nn.DataParallel(Failing().cuda())(batch()))


@case(gpus=2)
def parallel_functions_two():
    """Scatter in halves and by sizes, broadcast, coalesced too, gather to both and to the CPU, sums."""
    halves = comm.scatter(batch(5), [0, 1])
    sizes = comm.scatter(batch(5, "cpu"), [1, 0], chunk_sizes=[1, 4])
    columns = comm.scatter(batch(), ["cuda:0", "cuda:1"], dim=1)
    copies = comm.broadcast(batch(), (0, 1))
    coalesced = comm.broadcast_coalesced([batch(), batch(2).half()], [0, 1])
    return {
        "halves": [seen(part) for part in halves],
        "sizes": [seen(part) for part in sizes],
        "columns": [seen(part) for part in columns],
        "copies": [seen(copy) for copy in copies],
        "the same": copies[0].data_ptr() == copies[0].data_ptr(),
        "coalesced": [[seen(tensor) for tensor in on] for on in coalesced],
        "gather": seen(comm.gather(halves, 0, 1)),
        "to the CPU": seen(comm.gather(halves, 0, "cpu")),
        "sum": seen(comm.reduce_add(copies, 1)),
        "values": comm.reduce_add(copies, 0).tolist(),
    }


@case(gpus=2)
def parallel_out_two():
    """Results written into tensors that are there already."""
    parts = [torch.empty(2, 4, device=f"cuda:{i}") for i in (0, 1)]
    comm.scatter(batch(), out=parts)
    copies = [torch.empty(4, 4, device=f"cuda:{i}") for i in (0, 1)]
    comm.broadcast(batch(), out=copies)
    whole = torch.empty(4, 4, device="cuda:1")
    comm.gather(parts, out=whole)
    return {"parts": parts[1].tolist(), "copies": seen(copies[1]), "equal": torch.equal(whole.cpu(), batch().cpu())}


@case(gpus=2)
def parallel_pieces_two():
    """The pieces of `DataParallel`, called by hand: nested inputs, replicas, results in dictionaries."""
    module = torch.nn.Linear(4, 2).cuda()
    replicas = replicate(module, [0, 1])
    inputs = scatter({"x": batch(), "more": [batch(device="cpu"), 3]}, [0, 1])
    outputs = parallel_apply(replicas, [i["x"] for i in inputs], devices=[0, 1])
    joined = gather([{"y": y} for y in outputs], 1)
    return {
        "replicas": [str(replica.weight.device) for replica in replicas],
        "leaf": [replica.weight.is_leaf for replica in replicas],
        "inputs": [seen(i["more"][0]) for i in inputs],
        "numbers": [i["more"][1] for i in inputs],
        "outputs": [seen(y) for y in outputs],
        "joined": seen(joined["y"]),
        "module": places(module),
    }


@case(gpus=2)
def parallel_function_two():
    """`data_parallel` without a class around it, inputs on the CPU, one row for two GPUs."""
    module = torch.nn.Linear(4, 2).cuda()
    return {
        "both": seen(data_parallel(module, batch(device="cpu"), [0, 1])),
        "one row": seen(data_parallel(module, batch(1), [0, 1])),
        "current": torch.cuda.current_device(),
    }
