import tempfile
from pathlib import Path

import torch
from diffusers import SanaTransformer2DModel

from sana_lab.advice.recipe import FOLDER, attempt

size = {}
with tempfile.TemporaryDirectory() as folder:
    SanaTransformer2DModel.from_pretrained(
        FOLDER, subfolder="transformer"
    ).float().save_pretrained(folder)
    missing = attempt(
        SanaTransformer2DModel.from_pretrained,
        folder,
        variant="fp16",
        dtype=torch.float16,
    )
    half = SanaTransformer2DModel.from_pretrained(folder, dtype=torch.float16)
    half.save_pretrained(folder, variant="fp16")
    for file in sorted(Path(folder).glob("*.safetensors")):
        size[file.name.split(".")[1]] = file.stat().st_size
        print(f"{file.name:45} {file.stat().st_size / 2**20:.1f} MiB")
    raised = attempt(
        SanaTransformer2DModel.from_pretrained,
        folder,
        variant="fp16",
        dtype=torch.float16,
    )
print("before there was such a file:", missing.partition(":")[0])
holds = not raised and size["fp16"] < 0.55 * size["safetensors"]
