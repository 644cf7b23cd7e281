import bitsandbytes
import torch

torch.manual_seed(0)
plain = torch.nn.Linear(640, 256)
layer = bitsandbytes.nn.Linear8bitLt(640, 256, has_fp16_weights=False, threshold=6.0)
layer.load_state_dict(plain.state_dict())
layer.to("cuda").eval()


def decibels(x):
    with torch.no_grad():
        exact, found = plain(x.float().cpu()), layer(x).float().cpu()
    return 10 * (exact.square().sum() / (found - exact).square().sum()).log10().item()


view = torch.randn(1, 640, 192).half().to("cuda").transpose(1, 2)
print(f"contiguous {decibels(view.contiguous()):.0f} dB, transposed view {decibels(view):.0f} dB")
assert decibels(view) > 30, "the same numbers in another order of memory give another result"
