"""A Sana far smaller than the Shapes model, with random weights: for tests of what happens around a picture."""

from __future__ import annotations

from pathlib import Path

import torch

from .model import TEXT_WIDTH, assemble, build_tokenizer


def tiny_sana(folder: str | Path, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """Write the pipeline in diffusers' folder format: one block, a picture of 32 pixels in hundredths of a second.

    Args:
        folder: where to write.
        seed: of the weights.
        dtype: of the weights.

    Chapter 13.
    """
    from diffusers import AutoencoderDC, SanaTransformer2DModel
    from transformers import Gemma2Config, Gemma2Model

    channels = (4, 8, 8, 16, 16, 32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        autoencoder = AutoencoderDC(
            latent_channels=32, attention_head_dim=8, encoder_block_types=("ResBlock",) * 6,
            decoder_block_types=("ResBlock",) * 6, encoder_block_out_channels=channels,
            decoder_block_out_channels=channels, encoder_layers_per_block=(1,) * 6, decoder_layers_per_block=(1,) * 6,
            encoder_qkv_multiscales=((),) * 6, decoder_qkv_multiscales=((),) * 6, upsample_block_type="interpolate",
            downsample_block_type="conv", scaling_factor=1.0,
        )  # fmt: skip
        transformer = SanaTransformer2DModel(
            in_channels=32, out_channels=32, num_layers=1, num_attention_heads=2, attention_head_dim=32,
            num_cross_attention_heads=2, cross_attention_head_dim=32, cross_attention_dim=64,
            caption_channels=TEXT_WIDTH, sample_size=1, patch_size=1, interpolation_scale=1.0,
        )  # fmt: skip
        encoder = Gemma2Model(
            Gemma2Config(
                vocab_size=len(build_tokenizer()), hidden_size=TEXT_WIDTH, num_hidden_layers=1, intermediate_size=64,
                num_attention_heads=2, num_key_value_heads=1, head_dim=32, query_pre_attn_scalar=32,
                attn_implementation="eager", use_cache=False,
            )
        )  # fmt: skip
    return assemble(folder, autoencoder, transformer, encoder, dtype)
