import torch
from diffusers import SanaPipeline

from sana_lab.advice.recipe import FOLDER, attempt

refused = {}
for strategy in ("balanced", "cuda", "cpu"):
    options = {"dtype": torch.bfloat16, "device_map": strategy}
    refused[strategy] = attempt(SanaPipeline.from_pretrained, FOLDER, **options)
    print(f"{strategy}: {refused[strategy] or 'loads'}")
holds = not refused["balanced"] and all(
    refused[strategy] for strategy in ("cuda", "cpu")
)
