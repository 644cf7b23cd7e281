import torch
from diffusers import AutoencoderDC

from sana_lab.advice.recipe import FOLDER

vae = AutoencoderDC.from_pretrained(
    FOLDER, subfolder="vae", dtype=torch.bfloat16
).to("cuda")
latents = torch.randn(
    1, 32, 8, 8, generator=torch.Generator().manual_seed(0)
).to("cuda", torch.bfloat16)
peak, facts = {}, {"least": vae.tile_sample_min_height}
for way in ("whole", "in tiles"):
    if way == "in tiles":
        # for a picture of 256 pixels; without numbers, tiles begin above "least"
        vae.enable_tiling(128, 128, 96, 96)
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    with torch.no_grad():
        vae.decode(latents)
    peak[way] = (torch.cuda.max_memory_allocated() - held) / 2**20
    print(f"decoding {way}: {peak[way]:.0f} MiB")
facts["left"] = f"{100 * peak['in tiles'] / peak['whole']:.0f}"
holds = peak["in tiles"] < 0.7 * peak["whole"]
