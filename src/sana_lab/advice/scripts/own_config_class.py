import diffusers
import torch
import transformers

from sana_lab.advice.recipe import FOLDER, attempt

MODELS = {
    "text_encoder": transformers.AutoModel,
    "transformer": diffusers.SanaTransformer2DModel,
}
raised = {}
for part, model in MODELS.items():
    for library in (transformers, diffusers):
        config = library.BitsAndBytesConfig(load_in_8bit=True)
        options = {
            "subfolder": part,
            "dtype": torch.bfloat16,
            "quantization_config": config,
        }
        raised[part, library] = attempt(
            model.from_pretrained, FOLDER, **options
        )
        print(
            f"{part:12} with {library.__name__}' class: {raised[part, library][:60] or 'loads'}"
        )
right = [raised["text_encoder", transformers], raised["transformer", diffusers]]
holds = not any(right) and bool(raised["text_encoder", diffusers])
