import torch
from bitsandbytes import functional

one = torch.ones(1)
product = torch.full((1, 1), 127 * 127, dtype=torch.int32)  # 1.0 times 1.0, both rounded to 8 bits
found = torch.ops.bitsandbytes.int8_mm_dequant(product, one, one, dtype=torch.float32).item()
print(f"1 x 1 in {functional.__name__.split('.')[0]} on the CPU: {found:.6f}")
assert abs(found - 1) < 1e-6, "6.200124e-05 is not 1 / 127**2, which is 6.200012e-05"
