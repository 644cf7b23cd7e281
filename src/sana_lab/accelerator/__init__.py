"""The virtual GPU: CUDA's devices, rules and memory on a machine that has none, with the arithmetic on the CPU.

Start with `use_accelerator()`. How it works: `memory` knows where every storage lives, `ledger` answers it for tensors,
`mode` sees every PyTorch call, `handlers` and `mismatch` hold the rules, `cuda_api` answers for `torch.cuda`, `patches`
puts it all in place. `conformance` shows how it compares with a real one.
"""

from __future__ import annotations

from .conformance import conformance_table
from .devices import on_real_gpu
from .session import Accelerator, use_accelerator

__all__ = ["Accelerator", "conformance_table", "on_real_gpu", "use_accelerator"]
