"""What happens when tensors on two devices meet, one operator family at a time."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .registry import case, seen


def cpu(*shape):
    """Ones on the CPU."""
    return torch.ones(*shape)


def gpu(*shape):
    """Ones on the GPU."""
    return torch.ones(*shape, device="cuda")


@case()
def mix_add():
    """Elementwise, GPU first."""
    return seen(gpu(2) + cpu(2))


@case()
def mix_add_reversed():
    """Elementwise, CPU first: the message still names CUDA first."""
    return seen(cpu(2) + gpu(2))


@case()
def mix_compare():
    """Comparison."""
    return seen(gpu(2) > cpu(2))


@case()
def mix_scalar():
    """A 0-dim CPU tensor goes with a GPU tensor."""
    one = torch.tensor(1.0)
    return {"right": seen(gpu(2) + one), "left": seen(one * gpu(2)), "compare": seen(gpu(2) > one)}


@case()
def mix_scalar_on_gpu():
    """A 0-dim GPU tensor does not go with a CPU tensor."""
    return seen(cpu(2) + torch.tensor(1.0, device="cuda"))


@case()
def mix_two_scalars():
    """Two 0-dim tensors: the result is on the GPU."""
    return seen(torch.tensor(1.0) + torch.tensor(1.0, device="cuda"))


@case()
def mix_in_place():
    """`gpu += cpu`."""
    x = gpu(2)
    x += cpu(2)
    return seen(x)


@case()
def mix_in_place_on_cpu():
    """`cpu += gpu`."""
    x = cpu(2)
    x += gpu(2)
    return seen(x)


@case()
def mix_in_place_scalar():
    """A 0-dim CPU tensor cannot take a GPU tensor in place."""
    return seen(torch.tensor(1.0).add_(torch.tensor(1.0, device="cuda")))


@case()
def mix_copy():
    """`copy_` crosses devices."""
    a, b = gpu(2).copy_(cpu(2) * 2), cpu(2).copy_(gpu(2) * 3)
    return {"to gpu": [seen(a), a.tolist()], "to cpu": [seen(b), b.tolist()]}


@case()
def mix_addcmul():
    """Three operands."""
    return seen(torch.addcmul(gpu(2), gpu(2), cpu(2)))


@case()
def mix_lerp():
    """`lerp`, as schedulers use it."""
    return seen(torch.lerp(gpu(2), cpu(2), 0.5))


@case()
def mix_clamp():
    """`clamp` with tensors as limits."""
    return seen(torch.clamp(gpu(2), min=cpu(2)))


@case()
def mix_mm():
    """`mm`."""
    return seen(torch.mm(gpu(2, 2), cpu(2, 2)))


@case()
def mix_matmul_reversed():
    """`@`, CPU first."""
    return seen(cpu(2, 2) @ gpu(2, 2))


@case()
def mix_matmul_vector():
    """Matrix times vector."""
    return seen(gpu(2, 2) @ cpu(2))


@case()
def mix_dot():
    """Vector times vector."""
    return seen(gpu(2) @ cpu(2))


@case()
def mix_bmm():
    """Batched matrices."""
    return seen(torch.bmm(gpu(1, 2, 2), cpu(1, 2, 2)))


@case()
def mix_matmul_batched():
    """Batched `matmul` of a batch and one matrix."""
    return seen(torch.matmul(gpu(3, 2, 2), cpu(2, 2)))


@case()
def mix_matmul_four_dims():
    """`matmul` as attention uses it."""
    return seen(torch.matmul(gpu(1, 3, 2, 2), cpu(1, 3, 2, 2)))


@case()
def mix_addmm():
    """`addmm`, bias elsewhere."""
    return seen(torch.addmm(cpu(2), gpu(2, 2), gpu(2, 2)))


@case()
def mix_baddbmm():
    """`baddbmm`."""
    return seen(torch.baddbmm(gpu(1, 2, 2), gpu(1, 2, 2), cpu(1, 2, 2)))


@case()
def mix_einsum():
    """`einsum`."""
    return seen(torch.einsum("ij,jk->ik", gpu(2, 2), cpu(2, 2)))


@case()
def mix_linear_input():
    """A Linear on the GPU gets a CPU input."""
    return seen(torch.nn.Linear(2, 2).cuda()(cpu(1, 2)))


@case()
def mix_linear_weight():
    """A Linear on the CPU gets a GPU input."""
    return seen(torch.nn.Linear(2, 2)(gpu(1, 2)))


@case()
def mix_linear_weight_3d():
    """The same with a sequence."""
    return seen(torch.nn.Linear(2, 2)(gpu(1, 3, 2)))


@case()
def mix_linear_no_bias():
    """The same without a bias."""
    return seen(torch.nn.Linear(2, 2, bias=False)(gpu(1, 2)))


@case()
def mix_linear_bias():
    """Only the bias is elsewhere."""
    return seen(F.linear(gpu(1, 2), gpu(2, 2), cpu(2)))


@case()
def mix_conv_weight():
    """A convolution on the CPU gets a GPU input."""
    return seen(torch.nn.Conv2d(2, 2, 1)(gpu(1, 2, 4, 4)))


@case()
def mix_conv_weight_half():
    """The same in half precision."""
    return seen(torch.nn.Conv2d(2, 2, 1).half()(gpu(1, 2, 4, 4).half()))


@case()
def mix_conv_input():
    """A convolution on the GPU gets a CPU input."""
    return seen(torch.nn.Conv2d(2, 2, 1).cuda()(cpu(1, 2, 4, 4)))


@case()
def mix_conv_bias():
    """Only the bias is elsewhere."""
    return seen(F.conv2d(gpu(1, 2, 4, 4), gpu(2, 2, 1, 1), cpu(2)))


@case()
def mix_conv1d():
    """One dimension."""
    return seen(torch.nn.Conv1d(2, 2, 1)(gpu(1, 2, 4)))


@case()
def mix_conv_transpose():
    """Transposed."""
    return seen(torch.nn.ConvTranspose2d(2, 2, 1)(gpu(1, 2, 4, 4)))


@case()
def mix_conv_types():
    """Two floating types on one device are refused in the same words."""
    return seen(torch.nn.Conv2d(2, 2, 1).cuda()(gpu(1, 2, 4, 4).half()))


@case()
def mix_linear_types():
    """Two floating types in a product."""
    return seen(gpu(2, 2) @ gpu(2, 2).half())


@case()
def mix_embedding():
    """An embedding on the GPU gets CPU ids."""
    return seen(torch.nn.Embedding(4, 2).cuda()(torch.tensor([1])))


@case()
def mix_embedding_weight():
    """An embedding on the CPU gets GPU ids."""
    return seen(torch.nn.Embedding(4, 2)(torch.tensor([1], device="cuda")))


@case()
def mix_layer_norm():
    """LayerNorm."""
    return seen(torch.nn.LayerNorm(2)(gpu(1, 2)))


@case()
def mix_group_norm():
    """GroupNorm."""
    return seen(torch.nn.GroupNorm(1, 2)(gpu(1, 2, 4)))


@case()
def mix_rms_norm():
    """RMSNorm."""
    return seen(torch.nn.RMSNorm(2)(gpu(1, 2)))


@case()
def mix_batch_norm():
    """BatchNorm."""
    return seen(torch.nn.BatchNorm2d(2).eval()(gpu(1, 2, 4, 4)))


@case()
def mix_attention():
    """Scaled dot-product attention."""
    return seen(F.scaled_dot_product_attention(gpu(1, 1, 2, 8), cpu(1, 1, 2, 8), cpu(1, 1, 2, 8)))


@case()
def mix_attention_mask():
    """An attention mask on the CPU."""
    q = gpu(1, 1, 2, 8)
    return seen(F.scaled_dot_product_attention(q, q, q, attn_mask=torch.zeros(2, 2)))


@case()
def mix_cat():
    """`cat`."""
    return seen(torch.cat([gpu(2), cpu(2)]))


@case()
def mix_cat_reversed():
    """`cat`, CPU first."""
    return seen(torch.cat([cpu(2), gpu(2)]))


@case()
def mix_stack():
    """`stack`."""
    return seen(torch.stack([gpu(2), cpu(2)]))


@case()
def mix_where():
    """`where`, one branch elsewhere."""
    return seen(torch.where(gpu(2) > 0, gpu(2), cpu(2)))


@case()
def mix_where_condition():
    """`where`, the condition elsewhere."""
    return seen(torch.where(cpu(2) > 0, gpu(2), gpu(2)))


@case()
def mix_where_scalar():
    """`where` with a 0-dim CPU tensor."""
    return seen(torch.where(gpu(2) > 0, gpu(2), torch.tensor(0.0)))


@case()
def mix_index():
    """A CPU index into a GPU tensor is allowed."""
    x = gpu(3, 2)
    return {"index": seen(x[torch.tensor([0, 2])]), "mask": seen(x[torch.tensor([True, False, True])])}


@case()
def mix_index_cpu_tensor():
    """A GPU index into a CPU tensor is not."""
    return seen(cpu(3)[torch.tensor([0], device="cuda")])


@case()
def mix_set_slice():
    """`gpu[0:1] = cpu` copies."""
    x = gpu(3)
    x[0:2] = cpu(2) * 5
    return {**seen(x), "values": x.tolist()}


@case()
def mix_set_by_index():
    """`gpu[index] = cpu` with an index tensor."""
    x = gpu(3)
    x[torch.tensor([0, 1], device="cuda")] = cpu(2) * 5
    return {**seen(x), "values": x.tolist()}


@case()
def mix_set_mask_scalar():
    """`gpu[mask] = 0-dim CPU tensor`."""
    x = gpu(3)
    x[torch.tensor([True, False, True], device="cuda")] = torch.tensor(5.0)
    return {**seen(x), "values": x.tolist()}


@case()
def mix_index_select():
    """`index_select`."""
    return seen(torch.index_select(gpu(3, 2), 0, torch.tensor([0])))


@case()
def mix_gather():
    """`gather`."""
    return seen(gpu(3, 2).gather(0, torch.tensor([[0, 1]])))


@case()
def mix_scatter():
    """`scatter_` with a source elsewhere."""
    return seen(gpu(3).scatter_(0, torch.tensor([0], device="cuda"), cpu(1)))


@case()
def mix_index_add():
    """`index_add_`."""
    return seen(gpu(3).index_add_(0, torch.tensor([0], device="cuda"), cpu(1)))


@case()
def mix_masked_fill():
    """`masked_fill` with a mask elsewhere."""
    return seen(gpu(3).masked_fill(torch.tensor([True, False, True]), 0.0))


@case()
def mix_masked_select():
    """`masked_select`."""
    return seen(torch.masked_select(gpu(3), torch.tensor([True, False, True])))


@case()
def mix_equal():
    """`torch.equal`."""
    return {"equal": torch.equal(gpu(2), cpu(2))}


@case()
def mix_allclose():
    """`torch.allclose`."""
    return {"close": torch.allclose(gpu(2), cpu(2))}


@case()
def mix_cross_entropy():
    """A loss whose target is elsewhere."""
    return seen(F.cross_entropy(gpu(2, 3), torch.tensor([0, 1])))


@case()
def mix_mse():
    """An elementwise loss."""
    return seen(F.mse_loss(gpu(2), cpu(2)))


@case()
def mix_prelu():
    """An activation with a parameter."""
    return seen(torch.nn.PReLU()(gpu(2)))


@case()
def mix_out():
    """`out=` elsewhere."""
    return seen(torch.add(gpu(2), gpu(2), out=cpu(2)))


@case()
def mix_shape_only():
    """Functions that look only at a shape do not mind."""
    return {"view_as": seen(gpu(4).view_as(cpu(2, 2))), "expand_as": seen(cpu(1).expand_as(gpu(3)))}


@case()
def out_of_memory():
    """A petabyte."""
    return seen(torch.empty(2**50, dtype=torch.uint8, device="cuda"))


@case()
def out_of_memory_by_move():
    """An operation whose result does not fit: memory in use is unchanged afterwards."""
    x = torch.ones(1, device="cuda")
    before = torch.cuda.memory_allocated()
    try:
        x.expand(2**48).contiguous()
    except torch.cuda.OutOfMemoryError as error:
        kind = type(error).__name__
    return {"kind": kind, "unchanged": torch.cuda.memory_allocated() == before}
