import diffusers
import torch
import transformers

from sana_lab.advice.recipe import FOLDER, attempt

LIBRARIES = {"text_encoder": transformers, "transformer": diffusers}


def load(library, part):
    return library.AutoModel.from_pretrained(
        FOLDER, subfolder=part, dtype=torch.bfloat16
    )


found = {
    part: type(load(library, part)).__name__
    for part, library in LIBRARIES.items()
}
print(found)
crossed = [
    attempt(load, transformers, "transformer"),
    attempt(load, diffusers, "text_encoder"),
]
print(
    "the other library's:",
    *(raised.partition(":")[0] or "loads" for raised in crossed),
)
holds = found == {
    "text_encoder": "Gemma2Model",
    "transformer": "SanaTransformer2DModel",
}
