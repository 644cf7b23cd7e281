import tempfile

import torch
from diffusers import BitsAndBytesConfig, SanaTransformer2DModel

small = {"in_channels": 4, "out_channels": 4, "num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8}
small |= {"num_cross_attention_heads": 2, "cross_attention_head_dim": 8, "cross_attention_dim": 16}
with tempfile.TemporaryDirectory() as folder:
    SanaTransformer2DModel(**small, caption_channels=16, sample_size=8).save_pretrained(folder)
    model = SanaTransformer2DModel.from_pretrained(
        folder, quantization_config=BitsAndBytesConfig(load_in_8bit=True), dtype=torch.bfloat16
    )
    model.dequantize()
    print("after dequantize():", model.transformer_blocks[0].attn1.to_q.weight.dtype)
    model.save_pretrained(folder)
    SanaTransformer2DModel.from_pretrained(folder, dtype=torch.bfloat16)
