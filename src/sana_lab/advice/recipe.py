"""What the scripts of `scripts/` share: the published recipe, on the Shapes model."""

import torch
from diffusers import BitsAndBytesConfig as DiffusersBitsAndBytesConfig
from diffusers import SanaPipeline, SanaTransformer2DModel
from transformers import AutoModel, BitsAndBytesConfig

from sana_lab import SHAPES_FOLDER

FOLDER = str(SHAPES_FOLDER)  # a Sana pipeline; a name on the Hub does as well
SMALL = {
    "num_inference_steps": 1,
    "height": 64,
    "width": 64,
    "use_resolution_binning": False,
}  # quick, not pretty


def recipe(**options):
    """Text encoder and transformer in 8 bits, handed to the pipeline."""
    text_encoder = AutoModel.from_pretrained(
        FOLDER,
        subfolder="text_encoder",
        quantization_config=BitsAndBytesConfig(load_in_8bit=True),
        dtype=torch.bfloat16,
    )
    transformer = SanaTransformer2DModel.from_pretrained(
        FOLDER,
        subfolder="transformer",
        quantization_config=DiffusersBitsAndBytesConfig(load_in_8bit=True),
        dtype=torch.bfloat16,
    )
    parts = {"text_encoder": text_encoder, "transformer": transformer}
    pipe = SanaPipeline.from_pretrained(
        FOLDER, **parts, dtype=torch.bfloat16, **options
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def attempt(call, *arguments, **options):
    """What a call raises, in one line; `""` if it returns."""
    try:
        call(*arguments, **options)
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return ""


def places(pipe):
    """Where the weights of each model are."""
    models = {
        name: part
        for name, part in pipe.components.items()
        if isinstance(part, torch.nn.Module)
    }
    return {
        name: " ".join(sorted({str(p.device) for p in part.parameters()}))
        for name, part in models.items()
    }
