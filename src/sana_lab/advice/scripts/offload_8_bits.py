import gc

import torch
from diffusers import SanaPipeline

from sana_lab.advice.recipe import FOLDER, SMALL, recipe
from sana_lab.evidence import load


def peak(pipe):
    torch.cuda.reset_peak_memory_stats()
    pipe.set_progress_bar_config(disable=True)
    pipe("a small red star", **SMALL)
    at_rest, most = (
        torch.cuda.memory_allocated() / 2**20,
        torch.cuda.max_memory_allocated() / 2**20,
    )
    print(f"peak {most:.1f} MiB, at rest {at_rest:.1f}")
    return most


print("16 bits, offloaded: ", end="")
pipe = SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16)
pipe.enable_model_cpu_offload()
sixteen = peak(pipe)
del pipe
gc.collect()
print(" 8 bits, offloaded: ", end="")
pipe = recipe()
pipe.to("cuda")
pipe.enable_model_cpu_offload()
eight = peak(pipe)

on_a_real_gpu = [
    row
    for row in load("left_behind")["results"]["real size"]["600M-512"]
    if row["card (GiB)"] is None
]
real = {
    (row["bits"], row["way"]): f"{row['peak'] / 2**30:.1f}"
    for row in on_a_real_gpu
}
facts = {
    "eight": real[8, "model offload"],
    "sixteen": real[16, "model offload"],
    "kept": real[8, "all on the GPU"],
}
holds = eight < 0.9 * sixteen
