import tempfile

import torch
from diffusers import SanaTransformer2DModel

small = {"in_channels": 4, "out_channels": 4, "num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8}
small |= {"num_cross_attention_heads": 2, "cross_attention_head_dim": 8, "cross_attention_dim": 16}
with tempfile.TemporaryDirectory() as folder:
    SanaTransformer2DModel(**small, caption_channels=16, sample_size=8).save_pretrained(folder)
    model = SanaTransformer2DModel.from_pretrained(folder, load_in_8bit=True)
layer = model.transformer_blocks[0].attn1.to_q
print(f"{type(layer).__name__} in {layer.weight.dtype} on {layer.weight.device}")
assert layer.weight.dtype == torch.int8, "the argument was dropped without a word"
