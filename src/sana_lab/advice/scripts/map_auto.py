import torch
from diffusers import SanaPipeline, SanaTransformer2DModel

from sana_lab.advice.recipe import FOLDER, attempt

raised = {
    "pipeline": attempt(
        SanaPipeline.from_pretrained,
        FOLDER,
        dtype=torch.bfloat16,
        device_map="auto",
    ),
    "model": attempt(
        SanaTransformer2DModel.from_pretrained,
        FOLDER,
        subfolder="transformer",
        dtype=torch.bfloat16,
        device_map="auto",
    ),
}
for what, said in raised.items():
    print(f"{what:8} {said or 'loads'}")
holds = not raised["pipeline"]
