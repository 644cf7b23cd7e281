import torch
from diffusers import BitsAndBytesConfig, SanaTransformer2DModel

from sana_lab.advice.recipe import FOLDER

held = torch.cuda.memory_allocated()
model = SanaTransformer2DModel.from_pretrained(
    FOLDER,
    subfolder="transformer",
    quantization_config=BitsAndBytesConfig(load_in_8bit=True),
    dtype=torch.bfloat16,
)
loaded, footprint = (
    torch.cuda.memory_allocated() - held,
    model.get_memory_footprint(),
)
model.to("cpu")
stayed = torch.cuda.memory_allocated() - held
for what, number in (
    ("footprint", footprint),
    ("on the GPU", loaded),
    ('after .to("cpu")', stayed),
):
    print(f"{what:17} {number / 2**20:6.2f} MiB")
print(f"footprint, on the CPU: {model.get_memory_footprint() / 2**20:.2f} MiB")
facts = {"stayed": f"{100 * stayed / loaded:.0f}"}
holds = abs(footprint - loaded) < 0.02 * loaded
