import torch
from bitsandbytes.nn import Linear8bitLt
from diffusers import BitsAndBytesConfig, SanaTransformer2DModel

from sana_lab.advice.recipe import FOLDER


def left_in_16_bits(name):
    model = SanaTransformer2DModel.from_pretrained(
        FOLDER,
        subfolder="transformer",
        quantization_config=BitsAndBytesConfig(
            load_in_8bit=True, llm_int8_skip_modules=[name]
        ),
        dtype=torch.bfloat16,
    )
    linear = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear)
    }
    left = [
        name
        for name, layer in linear.items()
        if not isinstance(layer, Linear8bitLt)
    ]
    print(f"{name}: {left} of {len(linear)} layers are left in 16 bits")
    return left


holds = left_in_16_bits("proj_out") == ["proj_out"]
left_in_16_bits("projection_out")  # no layer has this name
