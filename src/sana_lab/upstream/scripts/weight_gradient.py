import bitsandbytes
import torch

torch.manual_seed(0)
layer = bitsandbytes.nn.Linear8bitLt(640, 256, bias=False, has_fp16_weights=True).to("cuda").half()
x, grad = torch.randn(192, 640).half(), torch.randn(192, 256).half()
layer(x.to("cuda")).backward(grad.to("cuda"))

exact, found = grad.float().T @ x.float(), layer.weight.grad.float().cpu()
decibels = 10 * (exact.square().sum() / (found - exact).square().sum()).log10().item()
print(f"gradient of the weight: {decibels:.0f} dB")
assert decibels > 20, "the gradient of a 16-bit weight has nothing to do with its inputs"
