import torch
from bitsandbytes.nn import Linear8bitLt

numbers = torch.tensor([[127.0, 2.5004]])  # the largest makes the step 1
layer = Linear8bitLt(2, 1, bias=False, has_fp16_weights=False)
layer.load_state_dict({"weight": numbers})  # float32
layer.to("cuda")
code = layer.weight.data[0, 1].item()
rounded = {
    dtype: numbers[0, 1].to(dtype).round().item()
    for dtype in (torch.float32, torch.float16)
}
print("2.5004 rounded:", rounded, "code:", code)
holds = code == round(numbers[0, 1].item())
