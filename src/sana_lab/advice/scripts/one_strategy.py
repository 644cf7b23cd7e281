import torch
from diffusers import SanaPipeline

from sana_lab.advice.recipe import FOLDER, attempt


def load(**options):
    return SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16, **options)


mapped, layers = load(device_map="balanced"), load()
layers.enable_sequential_cpu_offload()
raised = {
    "map, then offload": attempt(mapped.enable_model_cpu_offload),
    "map, then .to()": attempt(mapped.to, "cuda"),
    "layer by layer, then .to()": attempt(layers.to, "cuda"),
}
for mixture, said in raised.items():
    print(f"{mixture}: {said[:70] or 'accepted'}…")
holds = all(raised.values())
