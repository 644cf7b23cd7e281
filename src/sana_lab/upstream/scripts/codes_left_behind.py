import bitsandbytes
import torch

layer = bitsandbytes.nn.Linear8bitLt(64, 64, has_fp16_weights=False)
model = torch.nn.Sequential(layer).to("cuda").eval()
model(torch.ones(1, 64, dtype=torch.float16, device="cuda"))
model.to("cpu")
print(f"the weight is on {layer.weight.device}, the codes it computes with are on {layer.state.CB.device}")
assert layer.state.CB.device == layer.weight.device, "moving the model moved half of the layer"
