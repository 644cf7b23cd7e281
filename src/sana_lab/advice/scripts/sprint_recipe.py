import torch

from sana_lab.advice.recipe import recipe

layer = (
    recipe(device_map="balanced").transformer.transformer_blocks[0].attn1.to_q
)
straight = torch.randn(1, 64, 256, device="cuda", dtype=torch.float16)
view = (
    straight.transpose(1, 2).contiguous().transpose(1, 2)
)  # the same numbers, as Sana's attention lays them out
wrong = {}
with torch.no_grad():
    exact = layer(straight).float()
    for pictures in (2, 1):
        found = layer(view.repeat(2, 1, 1) if pictures == 2 else view)[
            :1
        ].float()
        wrong[pictures] = ((found - exact).norm() / exact.norm()).item()
        print(
            f"batch of {pictures}: error {wrong[pictures]:.1f} times the output"
        )
facts = {"wrong": f"{wrong[1]:.1f}"}
holds = wrong[1] < 0.1
