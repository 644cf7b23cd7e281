import warnings

import torch
from diffusers import SanaPipeline

from sana_lab.advice.recipe import FOLDER
from sana_lab.versions.matrix import matrix

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    pipe = SanaPipeline.from_pretrained(FOLDER, torch_dtype=torch.bfloat16)
said = [str(one.message) for one in caught if "torch_dtype" in str(one.message)]
print("loaded in", pipe.transformer.dtype)
print(said[0] if said else "no remark")

ignored = [
    names
    for names, _, outcome in matrix().row("pipeline-dtype")
    if outcome.startswith("transformer float32")
]
facts = {
    "last": max(name for names in ignored for name in names if "+" not in name)
}
holds = pipe.transformer.dtype == torch.bfloat16 and not said
