"""Lines of plain PyTorch whose outcome on a GPU the table of operators does not tell: `D` is the device.

They stand beside `op_db` in the record of `operators`: modules, lists of mixed devices, writing through indices,
`torch.func`, other layouts, autograd's own checks, products that CUDA has in few types, and words.
"""

from __future__ import annotations

LINES: dict[str, str] = {}
"""Name -> code that leaves its value in `result`."""


def _add(text: str) -> None:
    """`name: expression` or `name: statement; ...; result = expression`, one a line."""
    for line in text.strip().splitlines():
        name, _, code = line.strip().partition(": ")
        if name and code:
            LINES[name] = code if "result = " in code or "result=" in code else f"result = {code}"


_add("""
lstm: result = nn.LSTM(4, 3).to(D)(torch.ones(2, 1, 4, device=D))
lstm_layers_both_ways: result = nn.LSTM(4, 3, num_layers=2, bidirectional=True, batch_first=True, device=D)(torch.ones(2, 5, 4, device=D))
gru: result = nn.GRU(4, 3).to(D)(torch.ones(2, 1, 4, device=D))
gru_half: result = nn.GRU(4, 3).to(D).half()(torch.ones(2, 1, 4, device=D).half())
rnn_relu: result = nn.RNN(4, 3, nonlinearity='relu', device=D)(torch.ones(2, 1, 4, device=D))
lstm_cell: result = nn.LSTMCell(4, 3, device=D)(torch.ones(2, 4, device=D))
gru_cell_cpu_input: result = nn.GRUCell(4, 3, device=D)(torch.ones(2, 4))
lstm_cpu_input: result = nn.LSTM(4, 3).to(D)(torch.ones(2, 1, 4))
lstm_cpu_weights: result = nn.LSTM(4, 3)(torch.ones(2, 1, 4, device=D))
lstm_cpu_state: result = nn.LSTM(4, 3).to(D)(torch.ones(2, 1, 4, device=D), (torch.zeros(1, 1, 3), torch.zeros(1, 1, 3)))
gru_cpu_state: result = nn.GRU(4, 3).to(D)(torch.ones(2, 1, 4, device=D), torch.zeros(1, 1, 3))
lstm_flatten: m = nn.LSTM(4, 3).to(D); m.flatten_parameters(); result = [p for p in m.parameters()]
lstm_backward: m = nn.LSTM(4, 3).to(D); m(torch.ones(2, 1, 4, device=D))[0].sum().backward(); result = [p.grad for p in m.parameters()]
lstm_projection: result = nn.LSTM(4, 3, proj_size=2, device=D)(torch.ones(2, 1, 4, device=D))
lstm_packed: p = nn.utils.rnn.pack_padded_sequence(torch.ones(3, 2, 4, device=D), [3, 2]); result = nn.LSTM(4, 3).to(D)(p)[0].data
packed_cuda_lengths: result = nn.utils.rnn.pack_padded_sequence(torch.ones(3, 2, 4, device=D), torch.tensor([3, 2], device=D)).data
packed_to_cpu: result = nn.utils.rnn.pack_padded_sequence(torch.ones(3, 2, 4, device=D), [3, 2]).cpu().data
packed_to_gpu: result = nn.utils.rnn.pack_padded_sequence(torch.ones(3, 2, 4), [3, 2]).to(D).data
packed_round_trip: result = nn.utils.rnn.pad_packed_sequence(nn.utils.rnn.pack_padded_sequence(torch.ones(3, 2, 4, device=D), [3, 2]))
packed_sequence_gpu: result = nn.utils.rnn.pack_sequence([torch.ones(3, device=D), torch.ones(2, device=D)]).data
pad_sequence_gpu: result = nn.utils.rnn.pad_sequence([torch.ones(3, device=D), torch.ones(2, device=D)])
pad_sequence_cpu_second: result = nn.utils.rnn.pad_sequence([torch.ones(3, device=D), torch.ones(2)])
pad_sequence_cpu_first: result = nn.utils.rnn.pad_sequence([torch.ones(3), torch.ones(2, device=D)], batch_first=True)
unpad_sequence_gpu: result = nn.utils.rnn.unpad_sequence(torch.ones(3, 2, device=D), torch.tensor([3, 2]))
unpad_sequence_gpu_lengths: result = nn.utils.rnn.unpad_sequence(torch.ones(3, 2, device=D), torch.tensor([3, 2], device=D))
foreach_add_mixed_items: result = torch._foreach_add([torch.ones(2, device=D), torch.ones(2)], 1)
foreach_add_mixed_pairs: result = torch._foreach_add([torch.ones(2, device=D), torch.ones(2)], [torch.ones(2, device=D), torch.ones(2)])
foreach_add_crossed: result = torch._foreach_add([torch.ones(2, device=D), torch.ones(2)], [torch.ones(2), torch.ones(2, device=D)])
foreach_mul_inplace_mixed: x = [torch.ones(2, device=D), torch.ones(2)]; torch._foreach_mul_(x, 2); result = x
foreach_norm_mixed: result = torch._foreach_norm([torch.ones(2, device=D), torch.ones(2)])
foreach_sqrt_mixed: result = torch._foreach_sqrt([torch.ones(2), torch.ones(2, device=D)])
foreach_zero_mixed: x = [torch.ones(2, device=D), torch.ones(2)]; torch._foreach_zero_(x); result = x
foreach_copy_across: x = [torch.ones(2, device=D), torch.ones(2)]; torch._foreach_copy_(x, [torch.ones(2), torch.ones(2, device=D)]); result = x
foreach_lerp_mixed: result = torch._foreach_lerp([torch.ones(2, device=D), torch.ones(2)], [torch.ones(2, device=D), torch.ones(2)], 0.5)
foreach_addcmul_mixed: a = [torch.ones(2, device=D), torch.ones(2)]; result = torch._foreach_addcmul(a, a, a, value=2)
foreach_add_cpu_scalar_tensor: result = torch._foreach_add([torch.ones(2, device=D)], torch.tensor(2.0))
foreach_mul_gpu_scalar_tensor: result = torch._foreach_mul([torch.ones(2)], torch.tensor(2.0, device=D))
foreach_max_mixed: result = torch._foreach_maximum([torch.ones(2, device=D), torch.ones(2)], 0.0)
clip_grad_mixed: ps = [nn.Parameter(torch.ones(2, device=D)), nn.Parameter(torch.ones(2))]; [setattr(p, 'grad', torch.ones_like(p)) for p in ps]; result = nn.utils.clip_grad_norm_(ps, 1.0)
clip_grad_value_mixed: ps = [nn.Parameter(torch.ones(2, device=D)), nn.Parameter(torch.ones(2))]; [setattr(p, 'grad', torch.ones_like(p)) for p in ps]; nn.utils.clip_grad_value_(ps, 0.5); result = [p.grad for p in ps]
adam_mixed: ps = [nn.Parameter(torch.ones(2, device=D)), nn.Parameter(torch.ones(2))]; o = torch.optim.Adam(ps); [setattr(p, 'grad', torch.ones_like(p)) for p in ps]; o.step(); result = [o.state[p]['exp_avg'] for p in ps]
adam_step_device: p = nn.Parameter(torch.ones(2, device=D)); o = torch.optim.AdamW([p]); p.grad = torch.ones_like(p); o.step(); result = [o.state[p]['step'], o.state[p]['exp_avg']]
adam_fused_cpu_grad: p = nn.Parameter(torch.ones(2, device=D)); p.grad = torch.ones(2); result = p.grad
sgd_fused: p = nn.Parameter(torch.ones(2, device=D)); o = torch.optim.SGD([p], lr=0.1, fused=True); p.grad = torch.ones_like(p); o.step(); result = p
parameters_to_vector_mixed: result = nn.utils.parameters_to_vector([torch.ones(2, device=D), torch.ones(2)])
vector_to_parameters_cpu: p = nn.Parameter(torch.ones(2, device=D)); nn.utils.vector_to_parameters(torch.zeros(2), [p]); result = p
vmap_gpu: result = torch.vmap(torch.add)(torch.ones(3, 2, device=D), torch.ones(3, 2, device=D))
vmap_mixed_add: result = torch.vmap(torch.add)(torch.ones(3, 2, device=D), torch.ones(3, 2))
vmap_mixed_mul_scalars: result = torch.vmap(torch.mul)(torch.ones(3, device=D), torch.ones(3))
vmap_mixed_mm: result = torch.vmap(torch.mm)(torch.ones(3, 2, 2, device=D), torch.ones(3, 2, 2))
vmap_mixed_dot: result = torch.vmap(torch.dot)(torch.ones(3, 2), torch.ones(3, 2, device=D))
vmap_unbatched_cpu: result = torch.vmap(torch.add, in_dims=(0, None))(torch.ones(3, 2, device=D), torch.ones(2))
vmap_unbatched_cpu_scalar: result = torch.vmap(torch.add, in_dims=(0, None))(torch.ones(3, 2, device=D), torch.tensor(1.0))
vmap_closure_cpu: w = torch.ones(2); result = torch.vmap(lambda x: x @ w)(torch.ones(3, 2, device=D))
vmap_where_mixed: result = torch.vmap(torch.where)(torch.ones(3, 2, device=D) > 0, torch.ones(3, 2), torch.ones(3, 2))
vmap_cat_mixed: result = torch.vmap(lambda a, b: torch.cat([a, b]))(torch.ones(3, 2, device=D), torch.ones(3, 2))
func_grad_gpu: result = torch.func.grad(lambda x: (x * x).sum())(torch.ones(3, device=D))
func_grad_mixed: w = torch.ones(3); result = torch.func.grad(lambda x: (x * w).sum())(torch.ones(3, device=D))
func_jacrev_gpu: result = torch.func.jacrev(torch.sin)(torch.ones(3, device=D))
func_jvp_mixed: result = torch.func.jvp(torch.sin, (torch.ones(3, device=D),), (torch.ones(3),))
func_vjp_cpu_cotangent: out, f = torch.func.vjp(torch.sin, torch.ones(3, device=D)); result = f(torch.ones(3))
functional_call_mixed: m = nn.Linear(2, 2, device=D); result = torch.func.functional_call(m, {'weight': torch.ones(2, 2)}, (torch.ones(1, 2, device=D),))
map_gpu: result = torch.ones(2, device=D).map_(torch.ones(2, device=D), lambda a, b: a + b)
map_mixed: result = torch.ones(2).map_(torch.ones(2, device=D), lambda a, b: a + b)
map_gpu_cpu: result = torch.ones(2, device=D).map_(torch.ones(2), lambda a, b: a + b)
map2_gpu: x = torch.ones(2, device=D); result = x.map2_(x, x, lambda a, b, c: a)
apply_gpu: result = torch.ones(2, device=D).apply_(lambda a: a + 1)
apply_gpu_int: result = torch.ones(2, dtype=torch.int64, device=D).apply_(lambda a: a + 1)
sparse_to: result = torch.eye(2).to_sparse().to(D)
sparse_from_gpu: result = torch.eye(2, device=D).to_sparse()
sparse_csr_from_gpu: result = torch.eye(2, device=D).to_sparse_csr()
sparse_coo_device: result = torch.sparse_coo_tensor(torch.tensor([[0, 1], [1, 0]]), torch.ones(2), (2, 2), device=D)
sparse_coo_gpu_parts: result = torch.sparse_coo_tensor(torch.tensor([[0, 1], [1, 0]], device=D), torch.ones(2, device=D), (2, 2))
sparse_coo_mixed_parts: result = torch.sparse_coo_tensor(torch.tensor([[0, 1], [1, 0]]), torch.ones(2, device=D), (2, 2))
sparse_coo_mixed_indices: result = torch.sparse_coo_tensor(torch.tensor([[0, 1], [1, 0]], device=D), torch.ones(2), (2, 2))
sparse_indices: s = torch.eye(2, device=D).to_sparse(); result = [s.indices(), s.values(), s.coalesce()]
sparse_dense: result = torch.eye(2, device=D).to_sparse().to_dense()
sparse_mm: result = torch.sparse.mm(torch.eye(2, device=D).to_sparse(), torch.ones(2, 2, device=D))
sparse_mm_mixed: result = torch.sparse.mm(torch.eye(2, device=D).to_sparse(), torch.ones(2, 2))
sparse_mm_cpu_sparse: result = torch.sparse.mm(torch.eye(2).to_sparse(), torch.ones(2, 2, device=D))
sparse_matmul_mixed: result = torch.eye(2, device=D).to_sparse() @ torch.ones(2, 2)
sparse_csr_mm: result = torch.eye(2, device=D).to_sparse_csr() @ torch.ones(2, 2, device=D)
sparse_csr_mm_mixed: result = torch.eye(2, device=D).to_sparse_csr() @ torch.ones(2, 2)
sparse_add_mixed: result = torch.eye(2, device=D).to_sparse() + torch.eye(2).to_sparse()
sparse_add_dense_mixed: result = torch.ones(2, 2) + torch.eye(2, device=D).to_sparse()
sparse_mul: result = torch.eye(2, device=D).to_sparse() * 2
sparse_mul_mixed: result = torch.eye(2, device=D).to_sparse() * torch.eye(2).to_sparse()
sparse_sum: result = torch.sparse.sum(torch.eye(2, device=D).to_sparse(), 0)
sparse_transpose: result = torch.eye(2, device=D).to_sparse().t()
sparse_cat: s = torch.eye(2, device=D).to_sparse(); result = torch.cat([s, s])
sparse_cat_mixed: result = torch.cat([torch.eye(2, device=D).to_sparse(), torch.eye(2).to_sparse()])
sparse_softmax: result = torch.sparse.softmax(torch.eye(2, device=D).to_sparse(), 1)
sparse_cpu: result = torch.eye(2, device=D).to_sparse().cpu()
sparse_csr_crow: result = torch.eye(2, device=D).to_sparse_csr().crow_indices()
sparse_embedding_grad: e = nn.Embedding(3, 2, sparse=True, device=D); e(torch.tensor([1], device=D)).sum().backward(); result = e.weight.grad
sparse_mask: s = torch.eye(2, device=D).to_sparse(); result = torch.ones(2, 2, device=D).sparse_mask(s)
sparse_mask_mixed: s = torch.eye(2).to_sparse(); result = torch.ones(2, 2, device=D).sparse_mask(s)
nested_of_gpu: result = torch.nested.nested_tensor([torch.ones(2, device=D), torch.ones(3, device=D)])
nested_device: result = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], device=D)
nested_mixed: result = torch.nested.nested_tensor([torch.ones(2, device=D), torch.ones(3)])
nested_as_mixed: result = torch.nested.as_nested_tensor([torch.ones(2, device=D), torch.ones(3)])
nested_padded: n = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], device=D); result = torch.nested.to_padded_tensor(n, 0.0)
nested_unbind: n = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], device=D); result = n.unbind()
nested_to: result = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]).to(D)
nested_cpu: result = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], device=D).cpu()
nested_add: n = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], device=D); result = n + n
nested_add_mixed: n = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]); result = n + n.to(D)
nested_linear: n = torch.nested.nested_tensor([torch.ones(2, 4), torch.ones(3, 4)], device=D); result = nn.Linear(4, 2, device=D)(n)
nested_jagged: n = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged, device=D); result = [n.values(), n.offsets()]
""")

_add("""
write_gpu_index: x = torch.zeros(4); x[torch.tensor([0, 1], device=D)] = 1; result = x
write_gpu_index_gpu_value: x = torch.zeros(4); x[torch.tensor([0, 1], device=D)] = torch.ones(2, device=D); result = x
write_gpu_index_gpu_scalar: x = torch.zeros(4); x[torch.tensor([0, 1], device=D)] = torch.tensor(1.0, device=D); result = x
write_gpu_index_cpu_value: x = torch.zeros(4); x[torch.tensor([0, 1], device=D)] = torch.ones(2); result = x
write_gpu_mask: x = torch.zeros(4); x[torch.tensor([True, False, True, False], device=D)] = 1; result = x
write_cpu_mask_to_gpu: x = torch.zeros(4, device=D); x[torch.tensor([True, False, True, False])] = 1; result = x
write_cpu_mask_cpu_values: x = torch.zeros(4, device=D); x[torch.tensor([True, False, True, False])] = torch.ones(2); result = x
write_cpu_index_cpu_values: x = torch.zeros(4, device=D); x[torch.tensor([0, 1])] = torch.ones(2); result = x
write_slice_cpu_values: x = torch.zeros(4, device=D); x[:2] = torch.ones(2); result = x
write_slice_gpu_values: x = torch.zeros(4); x[:2] = torch.ones(2, device=D); result = x
write_two_indices_mixed: x = torch.zeros(4, 4, device=D); x[torch.tensor([0, 1]), torch.tensor([0, 1], device=D)] = 1; result = x
write_two_indices_cpu_tensor: x = torch.zeros(4, 4); x[torch.tensor([0, 1]), torch.tensor([0, 1], device=D)] = 1; result = x
index_put_gpu_index: result = torch.zeros(4).index_put_((torch.tensor([0, 1], device=D),), torch.tensor(1.0))
index_put_accumulate_gpu_index: result = torch.zeros(4).index_put_((torch.tensor([0, 1], device=D),), torch.ones(2), accumulate=True)
index_put_cpu_index: result = torch.zeros(4, device=D).index_put((torch.tensor([0, 1]),), torch.ones(2, device=D))
index_put_cpu_values: result = torch.zeros(4, device=D).index_put((torch.tensor([0, 1], device=D),), torch.ones(2))
read_gpu_index: result = torch.zeros(4)[torch.tensor([0, 1], device=D)]
read_gpu_mask: result = torch.zeros(2)[torch.tensor([True, False], device=D)]
read_cpu_index: result = torch.zeros(4, device=D)[torch.tensor([0, 1])]
read_cpu_mask: result = torch.zeros(2, device=D)[torch.tensor([True, False])]
read_mixed_indices: result = torch.zeros(4, 4, device=D)[torch.tensor([0, 1]), torch.tensor([0, 1], device=D)]
read_gpu_scalar_index: result = torch.zeros(4)[torch.tensor(1, device=D)]
read_slice_gpu_bound: result = torch.zeros(4)[: torch.tensor(2, device=D)]
gather_cpu_index: result = torch.ones(2, 2, device=D).gather(1, torch.zeros(2, 2, dtype=torch.int64))
scatter_cpu_index: result = torch.ones(2, 2, device=D).scatter(1, torch.zeros(2, 2, dtype=torch.int64), 1.0)
scatter_add_cpu_source: result = torch.ones(2, 2, device=D).scatter_add(1, torch.zeros(2, 2, dtype=torch.int64, device=D), torch.ones(2, 2))
index_select_cpu_index: result = torch.ones(2, 2, device=D).index_select(0, torch.tensor([0]))
index_add_cpu_source: result = torch.ones(2, device=D).index_add(0, torch.tensor([0], device=D), torch.ones(1))
index_copy_cpu_index: result = torch.ones(2, device=D).index_copy(0, torch.tensor([0]), torch.ones(1, device=D))
index_fill_cpu_index: result = torch.ones(2, device=D).index_fill(0, torch.tensor([0]), 3.0)
take_cpu_index: result = torch.ones(2, device=D).take(torch.tensor([0]))
take_along_dim_cpu_index: result = torch.take_along_dim(torch.ones(2, 2, device=D), torch.zeros(2, 2, dtype=torch.int64), 1)
put_cpu_source: result = torch.ones(2, device=D).put(torch.tensor([0], device=D), torch.ones(1))
masked_select_cpu_mask: result = torch.ones(2, device=D).masked_select(torch.tensor([True, False]))
masked_scatter_cpu_source: result = torch.ones(2, device=D).masked_scatter(torch.tensor([True, False], device=D), torch.ones(2))
repeat_interleave_cpu: result = torch.ones(2, device=D).repeat_interleave(torch.tensor([1, 2]))
embedding_bag_cpu_offsets: result = F.embedding_bag(torch.tensor([0, 1], device=D), torch.ones(3, 2, device=D), torch.tensor([0]))
bincount_cpu_weights: result = torch.bincount(torch.tensor([0, 1], device=D), torch.ones(2))
bucketize_cpu_edges: result = torch.bucketize(torch.ones(2, device=D), torch.arange(3.0))
searchsorted_cpu_values: result = torch.searchsorted(torch.arange(3.0, device=D), torch.ones(2))
isin_cpu_elements: result = torch.isin(torch.arange(3, device=D), torch.arange(2))
grid_sample_cpu_grid: result = F.grid_sample(torch.ones(1, 1, 2, 2, device=D), torch.zeros(1, 1, 1, 2))
backward_cpu_gradient: x = torch.ones(2, device=D, requires_grad=True); (x * 2).backward(torch.ones(2)); result = x.grad
backward_cpu_scalar_gradient: x = torch.ones(2, device=D, requires_grad=True); (x * 2).sum().backward(torch.tensor(1.0)); result = x.grad
backward_gpu_gradient_of_cpu: x = torch.ones(2, requires_grad=True); (x * 2).backward(torch.ones(2, device=D)); result = x.grad
grad_cpu_outputs: x = torch.ones(2, device=D, requires_grad=True); result = torch.autograd.grad(x * 2, x, torch.ones(2))
grad_gpu: x = torch.ones(2, device=D, requires_grad=True); result = torch.autograd.grad((x * 2).sum(), x)
grad_two_inputs: x = torch.ones(2, device=D, requires_grad=True); y = torch.ones(2, requires_grad=True); result = torch.autograd.grad((x * 2).sum().cpu() + y.sum(), (x, y))
backward_across: x = torch.ones(2, requires_grad=True); (x.to(D) * 2).sum().backward(); result = x.grad
custom_backward_cpu: exec("class F1(torch.autograd.Function):\\n  forward=staticmethod(lambda ctx,x: x*2)\\n  backward=staticmethod(lambda ctx,g: torch.ones(2))", globals()); x = torch.ones(2, device=D, requires_grad=True); F1.apply(x).sum().backward(); result = x.grad
hook_returns_cpu: x = torch.ones(2, device=D, requires_grad=True); x.register_hook(lambda g: g.cpu()); (x * 2).sum().backward(); result = x.grad
hook_returns_cpu_inside: x = torch.ones(2, device=D, requires_grad=True); y = x * 2; y.register_hook(lambda g: torch.ones(2)); (y * 3).sum().backward(); result = x.grad
set_grad_cpu: x = torch.ones(2, device=D); x.grad = torch.ones(2); result = x.grad
checkpoint_gpu: import torch.utils.checkpoint as c; x = torch.ones(2, device=D, requires_grad=True); c.checkpoint(torch.sin, x, use_reentrant=False).sum().backward(); result = x.grad
gradcheck_gpu: result = torch.autograd.gradcheck(torch.sin, torch.ones(2, dtype=torch.float64, device=D, requires_grad=True))
set_data_cpu: x = torch.ones(2, device=D); x.data = torch.ones(2); result = x
mm_int64: x = torch.ones(2, 2, dtype=torch.int64, device=D); result = x @ x
mm_int32: x = torch.ones(2, 2, dtype=torch.int32, device=D); result = torch.mm(x, x)
mm_int8: x = torch.ones(2, 2, dtype=torch.int8, device=D); result = torch.mm(x, x)
mm_uint8: x = torch.ones(2, 2, dtype=torch.uint8, device=D); result = torch.mm(x, x)
mm_bool: x = torch.ones(2, 2, dtype=torch.bool, device=D); result = torch.mm(x, x)
mm_float8: x = torch.ones(16, 16, device=D).to(torch.float8_e4m3fn); result = x @ x
bmm_int64: x = torch.ones(2, 2, 2, dtype=torch.int64, device=D); result = torch.bmm(x, x)
baddbmm_int64: x = torch.ones(2, 2, 2, dtype=torch.int64, device=D); result = torch.baddbmm(x, x, x)
mv_int64: x = torch.ones(2, 2, dtype=torch.int64, device=D); result = x @ x[0]
dot_int64: x = torch.ones(2, dtype=torch.int64, device=D); result = torch.dot(x, x)
dot_bfloat16: x = torch.ones(2, dtype=torch.bfloat16, device=D); result = torch.dot(x, x)
vdot_int32: x = torch.ones(2, dtype=torch.int32, device=D); result = torch.vdot(x, x)
matmul_3d_int64: x = torch.ones(2, 2, 2, dtype=torch.int64, device=D); result = torch.matmul(x, x)
matmul_3d_2d_int8: x = torch.ones(2, 2, 2, dtype=torch.int8, device=D); result = torch.matmul(x, x[0])
einsum_int64: x = torch.ones(2, 2, dtype=torch.int64, device=D); result = torch.einsum('ij,jk->ik', x, x)
tensordot_int64: x = torch.ones(2, 2, dtype=torch.int64, device=D); result = torch.tensordot(x, x, 1)
linear_int64: x = torch.ones(2, 2, dtype=torch.int64, device=D); result = F.linear(x, x)
linear_int64_bias: x = torch.ones(2, 2, dtype=torch.int64, device=D); result = F.linear(x, x, x[0])
linear_float8: x = torch.ones(16, 16, device=D).to(torch.float8_e4m3fn); result = F.linear(x, x)
addmm_int32: x = torch.ones(2, 2, dtype=torch.int32, device=D); result = torch.addmm(x, x, x)
addmv_int64: x = torch.ones(2, 2, dtype=torch.int64, device=D); result = torch.addmv(x[0], x, x[0])
addr_int64: x = torch.ones(2, 2, dtype=torch.int64, device=D); result = torch.addr(x, x[0], x[0])
outer_int64: x = torch.ones(2, dtype=torch.int64, device=D); result = torch.outer(x, x)
chain_int64: x = torch.ones(2, 2, dtype=torch.int64, device=D); result = torch.linalg.multi_dot([x, x, x])
matrix_power_int64: x = torch.ones(2, 2, dtype=torch.int64, device=D); result = torch.linalg.matrix_power(x, 3)
cov_int64: result = torch.cov(torch.ones(2, 2, dtype=torch.int64, device=D))
cdist_int64: x = torch.ones(2, 2, dtype=torch.int64, device=D); result = torch.cdist(x, x)
mm_mixed_types: result = torch.ones(2, 2, device=D) @ torch.ones(2, 2, dtype=torch.float16, device=D)
mm_mixed_types_double: result = torch.mm(torch.ones(2, 2, device=D), torch.ones(2, 2, dtype=torch.float64, device=D))
bmm_mixed_types: result = torch.bmm(torch.ones(2, 2, 2, device=D), torch.ones(2, 2, 2, dtype=torch.float16, device=D))
linear_mixed_types: result = F.linear(torch.ones(2, 2, device=D), torch.ones(2, 2, dtype=torch.bfloat16, device=D))
int_mm_16: result = torch._int_mm(torch.ones(16, 16, dtype=torch.int8, device=D), torch.ones(16, 16, dtype=torch.int8, device=D))
int_mm_17: result = torch._int_mm(torch.ones(17, 16, dtype=torch.int8, device=D), torch.ones(16, 16, dtype=torch.int8, device=D))
int_mm_32: result = torch._int_mm(torch.ones(32, 16, dtype=torch.int8, device=D), torch.ones(16, 16, dtype=torch.int8, device=D))
int_mm_odd_k: result = torch._int_mm(torch.ones(32, 12, dtype=torch.int8, device=D), torch.ones(12, 16, dtype=torch.int8, device=D))
int_mm_odd_n: result = torch._int_mm(torch.ones(32, 16, dtype=torch.int8, device=D), torch.ones(16, 12, dtype=torch.int8, device=D))
int_mm_float: result = torch._int_mm(torch.ones(32, 16, device=D), torch.ones(16, 16, device=D))
int_mm_3d: result = torch._int_mm(torch.ones(1, 32, 16, dtype=torch.int8, device=D), torch.ones(16, 16, dtype=torch.int8, device=D))
int_mm_cpu_second: result = torch._int_mm(torch.ones(32, 16, dtype=torch.int8, device=D), torch.ones(16, 16, dtype=torch.int8))
scaled_mm: x = torch.ones(16, 16, device=D).to(torch.float8_e4m3fn); s = torch.tensor(1.0, device=D); result = torch._scaled_mm(x, x.t(), s, s, out_dtype=torch.bfloat16)
scaled_mm_row_major: x = torch.ones(16, 16, device=D).to(torch.float8_e4m3fn); s = torch.tensor(1.0, device=D); result = torch._scaled_mm(x, x, s, s, out_dtype=torch.bfloat16)
scaled_mm_cpu_scale: x = torch.ones(16, 16, device=D).to(torch.float8_e4m3fn); s = torch.tensor(1.0); result = torch._scaled_mm(x, x.t(), s, s, out_dtype=torch.bfloat16)
conv1d_int64: result = F.conv1d(torch.ones(1, 1, 4, dtype=torch.int64, device=D), torch.ones(1, 1, 2, dtype=torch.int64, device=D))
conv2d_int32: result = F.conv2d(torch.ones(1, 1, 4, 4, dtype=torch.int32, device=D), torch.ones(1, 1, 2, 2, dtype=torch.int32, device=D))
conv2d_int8: result = F.conv2d(torch.ones(1, 1, 4, 4, dtype=torch.int8, device=D), torch.ones(1, 1, 2, 2, dtype=torch.int8, device=D))
conv2d_bool: result = F.conv2d(torch.ones(1, 1, 4, 4, dtype=torch.bool, device=D), torch.ones(1, 1, 2, 2, dtype=torch.bool, device=D))
conv2d_complex: result = F.conv2d(torch.ones(1, 1, 4, 4, dtype=torch.complex64, device=D), torch.ones(1, 1, 2, 2, dtype=torch.complex64, device=D))
conv3d_int64: result = F.conv3d(torch.ones(1, 1, 4, 4, 4, dtype=torch.int64, device=D), torch.ones(1, 1, 2, 2, 2, dtype=torch.int64, device=D))
conv_transpose2d_int64: result = F.conv_transpose2d(torch.ones(1, 1, 4, 4, dtype=torch.int64, device=D), torch.ones(1, 1, 2, 2, dtype=torch.int64, device=D))
conv2d_float8: result = F.conv2d(torch.ones(1, 1, 4, 4, device=D).to(torch.float8_e4m3fn), torch.ones(1, 1, 2, 2, device=D).to(torch.float8_e4m3fn))
conv2d_double: result = F.conv2d(torch.ones(1, 1, 4, 4, dtype=torch.float64, device=D), torch.ones(1, 1, 2, 2, dtype=torch.float64, device=D))
conv2d_depthwise_int: result = F.conv2d(torch.ones(1, 2, 4, 4, dtype=torch.int64, device=D), torch.ones(2, 1, 2, 2, dtype=torch.int64, device=D), groups=2)
conv2d_dilated_int: result = F.conv2d(torch.ones(1, 1, 6, 6, dtype=torch.int64, device=D), torch.ones(1, 1, 2, 2, dtype=torch.int64, device=D), dilation=2)
conv2d_channels: result = F.conv2d(torch.ones(1, 3, 4, 4, device=D), torch.ones(1, 2, 2, 2, device=D))
""")

_add("""
histc_int64: result = torch.histc(torch.arange(4, device=D), bins=4)
histc_uint8: result = torch.histc(torch.arange(4, dtype=torch.uint8, device=D), bins=4)
histc_float: result = torch.histc(torch.arange(4.0, device=D), bins=4)
histc_half: result = torch.histc(torch.arange(4.0, device=D).half(), bins=4)
histogram_float: result = torch.histogram(torch.arange(4.0, device=D), 4)
histogramdd_float: result = torch.histogramdd(torch.ones(4, 2, device=D), [2, 2])
bincount_float_input: result = torch.bincount(torch.arange(3.0, device=D))
bincount_int: result = torch.bincount(torch.arange(3, device=D))
bincount_bool_weights: result = torch.bincount(torch.arange(3, device=D), torch.ones(3, dtype=torch.int64, device=D))
quantile_half: result = torch.quantile(torch.arange(4.0, device=D).half(), 0.5)
quantile_int: result = torch.quantile(torch.arange(4, device=D), 0.5)
quantile_cpu_q: result = torch.quantile(torch.arange(4.0, device=D), torch.tensor([0.5, 0.9]))
quantile_cpu_scalar_q: result = torch.quantile(torch.arange(4.0, device=D), torch.tensor(0.5))
quantile_gpu_q: result = torch.quantile(torch.arange(4.0), torch.tensor([0.5], device=D))
nanquantile_cpu_q: result = torch.nanquantile(torch.arange(4.0, device=D), torch.tensor([0.5]))
median_bool: result = torch.ones(4, dtype=torch.bool, device=D).median()
median_complex: result = torch.ones(4, dtype=torch.complex64, device=D).median()
mode_float: result = torch.ones(4, device=D).mode()
kthvalue_bool: result = torch.ones(4, dtype=torch.bool, device=D).kthvalue(1)
sort_complex: result = torch.ones(4, dtype=torch.complex64, device=D).sort()
sort_bool: result = torch.ones(4, dtype=torch.bool, device=D).sort()
topk_bool: result = torch.ones(4, dtype=torch.bool, device=D).topk(2)
argmax_bool: result = torch.ones(4, dtype=torch.bool, device=D).argmax()
cumsum_bool: result = torch.ones(4, dtype=torch.bool, device=D).cumsum(0)
cummax_half: result = torch.ones(4, device=D).half().cummax(0)
logcumsumexp_half: result = torch.ones(4, device=D).half().logcumsumexp(0)
sqrt_float8: result = torch.ones(4, device=D).to(torch.float8_e4m3fn).sqrt()
add_float8: x = torch.ones(4, device=D).to(torch.float8_e4m3fn); result = x + x
sum_float8: result = torch.ones(4, device=D).to(torch.float8_e4m3fn).sum()
max_float8: result = torch.ones(4, device=D).to(torch.float8_e4m3fn).max()
cat_float8: x = torch.ones(4, device=D).to(torch.float8_e4m3fn); result = torch.cat([x, x])
abs_float8: result = torch.ones(4, device=D).to(torch.float8_e4m3fn).abs()
equal_float8: x = torch.ones(4, device=D).to(torch.float8_e4m3fn); result = torch.equal(x, x)
index_float8: result = torch.ones(4, device=D).to(torch.float8_e5m2)[torch.tensor([0, 1], device=D)]
rand_float8: result = torch.rand(4, dtype=torch.float8_e4m3fn, device=D)
arange_float8: result = torch.arange(4, dtype=torch.float8_e4m3fn, device=D)
add_uint16: x = torch.ones(4, dtype=torch.uint16, device=D); result = x + x
mul_uint32: x = torch.ones(4, dtype=torch.uint32, device=D); result = x * x
sum_uint16: result = torch.ones(4, dtype=torch.uint16, device=D).sum()
neg_bool: result = -torch.ones(2, dtype=torch.bool, device=D)
sub_bool: x = torch.ones(2, dtype=torch.bool, device=D); result = x - x
softmax_int: result = torch.softmax(torch.ones(2, dtype=torch.int64, device=D), 0)
softmax_bool: result = torch.softmax(torch.ones(2, dtype=torch.bool, device=D), 0)
gelu_int: result = F.gelu(torch.ones(2, dtype=torch.int64, device=D))
relu_bool: result = F.relu(torch.ones(2, dtype=torch.bool, device=D))
silu_int: result = F.silu(torch.ones(2, dtype=torch.int64, device=D))
dropout_int: result = F.dropout(torch.ones(2, dtype=torch.int64, device=D))
layer_norm_int: result = F.layer_norm(torch.ones(2, 2, dtype=torch.int64, device=D), (2,))
layer_norm_half_float: result = F.layer_norm(torch.ones(2, 2, device=D).half(), (2,), torch.ones(2, device=D))
group_norm_half_float: result = F.group_norm(torch.ones(2, 2, device=D).half(), 1, torch.ones(2, device=D))
batch_norm_half_float: result = F.batch_norm(torch.ones(2, 2, device=D).half(), torch.zeros(2, device=D), torch.ones(2, device=D))
rms_norm_half_float: result = F.rms_norm(torch.ones(2, 2, device=D).half(), (2,), torch.ones(2, device=D))
attention_int: x = torch.ones(1, 1, 2, 4, dtype=torch.int64, device=D); result = F.scaled_dot_product_attention(x, x, x)
attention_mixed_types: x = torch.ones(1, 1, 2, 4, device=D); result = F.scaled_dot_product_attention(x, x.half(), x)
attention_cpu_mask: x = torch.ones(1, 1, 2, 4, device=D); result = F.scaled_dot_product_attention(x, x, x, attn_mask=torch.ones(2, 2))
attention_half_mask: x = torch.ones(1, 1, 2, 4, device=D); result = F.scaled_dot_product_attention(x, x, x, attn_mask=torch.ones(2, 2, device=D).half())
cross_entropy_int_logits: result = F.cross_entropy(torch.ones(2, 3, dtype=torch.int64, device=D), torch.tensor([0, 1], device=D))
cross_entropy_int32_target: result = F.cross_entropy(torch.ones(2, 3, device=D), torch.tensor([0, 1], dtype=torch.int32, device=D))
embedding_float_index: result = F.embedding(torch.ones(2, device=D), torch.ones(3, 2, device=D))
embedding_int8_index: result = F.embedding(torch.ones(2, dtype=torch.int8, device=D), torch.ones(3, 2, device=D))
one_hot_int32: result = F.one_hot(torch.tensor([0, 1], dtype=torch.int32, device=D), 3)
one_hot_gpu: result = F.one_hot(torch.tensor([0, 1], device=D), 3)
gather_int32_index: result = torch.ones(2, 2, device=D).gather(1, torch.zeros(2, 2, dtype=torch.int32, device=D))
scatter_mixed_types: result = torch.ones(2, 2, device=D).scatter(1, torch.zeros(2, 2, dtype=torch.int64, device=D), torch.ones(2, 2, device=D).half())
upsample_linear_4d: result = F.interpolate(torch.ones(1, 1, 2, 2, device=D), scale_factor=2, mode='linear')
upsample_bilinear_int: result = F.interpolate(torch.ones(1, 1, 2, 2, dtype=torch.int64, device=D), scale_factor=2, mode='bilinear')
upsample_nearest_int: result = F.interpolate(torch.ones(1, 1, 2, 2, dtype=torch.int64, device=D), scale_factor=2, mode='nearest')
upsample_nearest_uint8: result = F.interpolate(torch.ones(1, 1, 2, 2, dtype=torch.uint8, device=D), scale_factor=2, mode='nearest')
upsample_bicubic_bool: result = F.interpolate(torch.ones(1, 1, 2, 2, dtype=torch.bool, device=D), scale_factor=2, mode='bicubic')
upsample_zero: result = F.interpolate(torch.ones(1, 1, 2, 2, device=D), size=(0, 2), mode='bilinear')
upsample_antialias: result = F.interpolate(torch.ones(1, 1, 4, 4, device=D), size=(2, 2), mode='bilinear', antialias=True)
upsample_antialias_uint8: result = F.interpolate(torch.ones(1, 3, 4, 4, dtype=torch.uint8, device=D), size=(2, 2), mode='bilinear', antialias=True)
upsample_bilinear_uint8: result = F.interpolate(torch.ones(1, 3, 4, 4, dtype=torch.uint8, device=D), size=(2, 2), mode='bilinear')
upsample_area_int: result = F.interpolate(torch.ones(1, 1, 4, 4, dtype=torch.int64, device=D), size=(2, 2), mode='area')
upsample_trilinear_int: result = F.interpolate(torch.ones(1, 1, 2, 2, 2, dtype=torch.int32, device=D), scale_factor=2, mode='trilinear')
max_pool_int: result = F.max_pool2d(torch.ones(1, 1, 4, 4, dtype=torch.int64, device=D), 2)
avg_pool_int: result = F.avg_pool2d(torch.ones(1, 1, 4, 4, dtype=torch.int64, device=D), 2)
adaptive_pool_int: result = F.adaptive_avg_pool2d(torch.ones(1, 1, 4, 4, dtype=torch.int64, device=D), 2)
pad_reflect_int: result = F.pad(torch.ones(1, 4, dtype=torch.int64, device=D), (1, 1), mode='reflect')
pad_circular_int: result = F.pad(torch.ones(1, 1, 4, dtype=torch.int64, device=D), (1, 1), mode='circular')
unfold_int: result = F.unfold(torch.ones(1, 1, 4, 4, dtype=torch.int64, device=D), 2)
fft_half: result = torch.fft.fft(torch.ones(8, device=D).half())
fft_half_odd: result = torch.fft.fft(torch.ones(6, device=D).half())
fft_bfloat16: result = torch.fft.fft(torch.ones(8, device=D).bfloat16())
rfft_half: result = torch.fft.rfft(torch.ones(8, device=D).half())
rfft_half_odd: result = torch.fft.rfft(torch.ones(6, device=D).half())
irfft_half: result = torch.fft.irfft(torch.ones(5, device=D, dtype=torch.complex32))
fft2_half_odd: result = torch.fft.fft2(torch.ones(6, 6, device=D).half())
fft_int: result = torch.fft.fft(torch.ones(6, dtype=torch.int64, device=D))
fft_complex: result = torch.fft.fft(torch.ones(6, dtype=torch.complex64, device=D))
fft_float8: result = torch.fft.fft(torch.ones(8, device=D).to(torch.float8_e4m3fn))
fft_out_cpu: result = torch.fft.fft(torch.ones(6, device=D), out=torch.empty(6, dtype=torch.complex64))
stft_cpu_window: result = torch.stft(torch.ones(64, device=D), 16, window=torch.ones(16), return_complex=True)
stft_gpu: result = torch.stft(torch.ones(64, device=D), 16, window=torch.ones(16, device=D), return_complex=True)
istft_cpu_window: result = torch.istft(torch.ones(9, 17, dtype=torch.complex64, device=D), 16, window=torch.ones(16))
inverse_singular: result = torch.linalg.inv(torch.zeros(2, 2, device=D))
inverse_half: result = torch.linalg.inv(torch.eye(2, device=D).half())
cholesky_not_positive: result = torch.linalg.cholesky(-torch.eye(2, device=D))
solve_singular: result = torch.linalg.solve(torch.zeros(2, 2, device=D), torch.ones(2, device=D))
solve_cpu_right: result = torch.linalg.solve(torch.eye(2, device=D), torch.ones(2))
svd_half: result = torch.linalg.svd(torch.eye(2, device=D).half())
qr_int: result = torch.linalg.qr(torch.eye(2, dtype=torch.int64, device=D))
eig_gpu: result = torch.linalg.eig(torch.eye(2, device=D))
eigh_nan: result = torch.linalg.eigh(torch.full((2, 2), float('nan'), device=D))
lstsq_gels: result = torch.linalg.lstsq(torch.ones(3, 2, device=D), torch.ones(3, 1, device=D)).solution
lstsq_gelsd: result = torch.linalg.lstsq(torch.ones(3, 2, device=D), torch.ones(3, 1, device=D), driver='gelsd').solution
det_int: result = torch.linalg.det(torch.eye(2, dtype=torch.int64, device=D))
norm_int: result = torch.linalg.norm(torch.ones(2, dtype=torch.int64, device=D))
device_name_missing: result = torch.cuda.get_device_name(9)
device_name_wrong: result = torch.cuda.get_device_name('cpu')
device_name_index: result = type(torch.cuda.get_device_name(0)).__name__
capability_missing: result = torch.cuda.get_device_capability(9)
properties_missing: result = torch.cuda.get_device_properties(9)
set_device_missing: result = torch.cuda.set_device(9)
tensor_on_missing: result = torch.ones(1, device='cuda:9')
move_to_missing: result = torch.ones(1).cuda(9)
memory_allocated_missing: result = torch.cuda.memory_allocated(9)
mem_get_info_missing: result = torch.cuda.mem_get_info(9)
memory_stats_keys: result = sorted(torch.cuda.memory_stats()) if D != 'cpu' else None
memory_stats_nested_keys: result = sorted(torch.cuda.memory_stats_as_nested_dict()) if D != 'cpu' else None
from_numpy_gpu: import numpy; result = torch.from_numpy(numpy.ones(2)).to(D)
numpy_of_gpu: result = torch.ones(2, device=D).numpy()
numpy_array_of_gpu: import numpy; result = numpy.asarray(torch.ones(2, device=D)).shape
numpy_function_of_gpu: import numpy; result = numpy.sin(torch.ones(2, device=D)).shape
list_of_gpu_scalars: result = torch.tensor([torch.tensor(1.0, device=D), 2.0])
stack_mixed: result = torch.stack([torch.ones(2, device=D), torch.ones(2)])
cat_mixed: result = torch.cat([torch.ones(2, device=D), torch.ones(2)])
cat_cpu_first_empty: result = torch.cat([torch.empty(0), torch.ones(2, device=D)])
where_cpu_scalar: result = torch.where(torch.ones(2, device=D) > 0, torch.tensor(1.0), torch.ones(2, device=D))
where_cpu_condition: result = torch.where(torch.ones(2) > 0, torch.ones(2, device=D), torch.ones(2, device=D))
where_all_scalars_cpu_condition: result = torch.where(torch.tensor(True), torch.ones(2, device=D), torch.ones(2, device=D))
lerp_cpu_weight: result = torch.lerp(torch.ones(2, device=D), torch.ones(2, device=D), torch.tensor(0.5))
clamp_cpu_bound: result = torch.ones(2, device=D).clamp(min=torch.tensor(0.0))
addcmul_cpu_scalar: x = torch.ones(2, device=D); result = torch.addcmul(x, x, torch.tensor(2.0))
pow_cpu_scalar_base: result = torch.pow(torch.tensor(2.0), torch.ones(2, device=D))
add_into_cpu_scalar: result = torch.tensor(1.0).add_(torch.tensor(1.0, device=D))
add_into_cpu: result = torch.ones(2).add_(torch.ones(2, device=D))
equal_mixed: result = torch.equal(torch.ones(2, device=D), torch.ones(2))
allclose_mixed: result = torch.allclose(torch.ones(2, device=D), torch.ones(2))
comparison_mixed: result = torch.ones(2, device=D) == torch.ones(2)
assert_close_mixed: result = torch.testing.assert_close(torch.ones(2, device=D), torch.ones(2))
maximum_cpu_scalar: result = torch.maximum(torch.ones(2, device=D), torch.tensor(0.0))
bernoulli_cpu_probabilities: result = torch.ones(2, device=D).bernoulli_(torch.ones(2) / 2)
normal_mixed: result = torch.normal(torch.zeros(2, device=D), torch.ones(2))
normal_float_mean: result = torch.normal(0.0, torch.ones(2, device=D))
cross_mixed: result = torch.cross(torch.ones(3, device=D), torch.ones(3), dim=0)
kron_mixed: result = torch.kron(torch.ones(2, device=D), torch.ones(2))
cartesian_mixed: result = torch.cartesian_prod(torch.ones(2, device=D), torch.ones(2))
block_diag_mixed: result = torch.block_diag(torch.ones(2, device=D), torch.ones(2))
meshgrid_mixed: result = torch.meshgrid(torch.ones(2, device=D), torch.ones(2), indexing='ij')
broadcast_mixed: result = torch.broadcast_tensors(torch.ones(2, device=D), torch.ones(1))
bilinear_cpu_weight: result = F.bilinear(torch.ones(2, 2, device=D), torch.ones(2, 2, device=D), torch.ones(1, 2, 2))
embedding_cpu_index: result = F.embedding(torch.tensor([0]), torch.ones(3, 2, device=D))
embedding_gpu_index: result = F.embedding(torch.tensor([0], device=D), torch.ones(3, 2))
batch_norm_cpu_stats: result = F.batch_norm(torch.ones(2, 2, device=D), torch.zeros(2), torch.ones(2))
mse_mixed: result = F.mse_loss(torch.ones(2, device=D), torch.ones(2))
l1_mixed: result = F.l1_loss(torch.ones(2), torch.ones(2, device=D))
bce_logits_cpu_weight: x = torch.ones(2, device=D); result = F.binary_cross_entropy_with_logits(x, x, pos_weight=torch.ones(2))
cosine_mixed: result = F.cosine_similarity(torch.ones(2, 2, device=D), torch.ones(2, 2))
pairwise_mixed: result = F.pairwise_distance(torch.ones(2, 2, device=D), torch.ones(2, 2))
kl_mixed: result = F.kl_div(torch.ones(2, device=D), torch.ones(2), reduction='sum')
ctc_cpu_targets: result = F.ctc_loss(torch.ones(4, 1, 3, device=D).log_softmax(2), torch.tensor([[1, 2]]), torch.tensor([4]), torch.tensor([2]))
multihead_gpu: m = nn.MultiheadAttention(4, 2, device=D); x = torch.ones(3, 1, 4, device=D); result = m(x, x, x)
multihead_cpu_key: m = nn.MultiheadAttention(4, 2, device=D); x = torch.ones(3, 1, 4, device=D); result = m(x, x.cpu(), x.cpu())
transformer_layer_gpu: result = nn.TransformerEncoderLayer(4, 2, 8, device=D).eval()(torch.ones(3, 1, 4, device=D))
transformer_layer_cpu_mask: result = nn.TransformerEncoderLayer(4, 2, 8, device=D)(torch.ones(3, 1, 4, device=D), torch.zeros(3, 3))
""")
