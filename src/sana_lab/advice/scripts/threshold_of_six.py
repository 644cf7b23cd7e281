import torch
from bitsandbytes.nn import Linear8bitLt

torch.manual_seed(0)
plain = torch.nn.Linear(512, 256, bias=False)
x = torch.randn(64, 512)
x[:, 7] *= 1000  # one outlier channel
plain.weight.data[:, 7] /= 1000
kept = {}
for threshold in (0.0, 2.0, 4.0, 6.0, 10.0, 20.0):
    layer = Linear8bitLt(
        512, 256, bias=False, has_fp16_weights=False, threshold=threshold
    )
    layer.load_state_dict(plain.state_dict())
    layer.to("cuda").eval()
    with torch.no_grad():
        exact, found = plain(x), layer(x.half().to("cuda")).float().cpu()
    kept[threshold] = (
        10
        * (exact.square().sum() / (found - exact).square().sum()).log10().item()
    )
    print(f"threshold {threshold:4.0f}: {kept[threshold]:3.0f} dB")
facts = {"off": f"{kept[0.0]:.0f}", "six": f"{kept[6.0]:.0f}"}
holds = kept[6.0] > max(kept.values()) - 1
