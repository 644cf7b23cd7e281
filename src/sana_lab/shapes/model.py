"""The parts of the Shapes model: the classes of `Sana_600M_512px`, a sixtieth of its size.

Geometry (512 px, a 32-fold autoencoder with 32 channels, 16 x 16 latents) and call are those of the Hub checkpoint.
What differs is depth and width, and a position embedding: 28 layers of 3 x 3 convolutions can carry the position in
from the padding at the border, 8 cannot. `interpolation_scale=1.0` is the embedding that the 2K checkpoint has.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .tokenizer import build_tokenizer

if TYPE_CHECKING:
    from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaTransformer2DModel
    from transformers import Gemma2Model

CHANNELS = (16, 32, 64, 64, 128, 128)
BLOCKS = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
SCALES = ((), (), (), (5,), (5,), (5,))
TEXT_WIDTH = 128


def build_autoencoder() -> AutoencoderDC:
    """DC-AE f32c32 with 16 to 128 channels instead of 128 to 1024: 2.4 M parameters."""
    from diffusers import AutoencoderDC

    return AutoencoderDC(
        latent_channels=32,
        attention_head_dim=32,
        encoder_block_types=BLOCKS,
        decoder_block_types=BLOCKS,
        encoder_block_out_channels=CHANNELS,
        decoder_block_out_channels=CHANNELS,
        encoder_layers_per_block=(1, 1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 2, 2, 2),
        encoder_qkv_multiscales=SCALES,
        decoder_qkv_multiscales=SCALES,
        upsample_block_type="interpolate",
        downsample_block_type="conv",
        scaling_factor=1.0,
    )


def build_transformer() -> SanaTransformer2DModel:
    """Eight blocks of width 256 where the 600M checkpoint has 28 of 1152: 8.9 M parameters."""
    from diffusers import SanaTransformer2DModel

    return SanaTransformer2DModel(
        in_channels=32,
        out_channels=32,
        num_layers=8,
        num_attention_heads=8,
        attention_head_dim=32,
        num_cross_attention_heads=4,
        cross_attention_head_dim=64,
        cross_attention_dim=256,
        caption_channels=TEXT_WIDTH,
        sample_size=16,
        patch_size=1,
        interpolation_scale=1.0,
    )


def build_text_encoder(vocab_size: int) -> Gemma2Model:
    """Four layers of Gemma 2, width 128: 0.8 M parameters."""
    from transformers import Gemma2Config, Gemma2Model

    config = Gemma2Config(
        vocab_size=vocab_size,
        hidden_size=TEXT_WIDTH,
        num_hidden_layers=4,
        intermediate_size=384,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        query_pre_attn_scalar=32,
        attn_implementation="eager",  # soft capping of the attention needs it
        use_cache=False,
    )
    return Gemma2Model(config)


def build_scheduler() -> DPMSolverMultistepScheduler:
    """The flow-matching DPM-Solver++ of the Hub checkpoints, `flow_shift` 3."""
    from diffusers import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def assemble(
    folder: str | Path,
    autoencoder: AutoencoderDC,
    transformer: SanaTransformer2DModel,
    text_encoder: Gemma2Model,
    dtype: torch.dtype = torch.bfloat16,
) -> Path:
    """Write a pipeline folder in diffusers' format, so that `SanaPipeline.from_pretrained(folder)` reads it."""
    from diffusers import SanaPipeline

    for model in (autoencoder, transformer, text_encoder):
        torch.nn.Module.to(model, dtype)  # not diffusers' own `to`, which warns of modules that none of these has
    pipe = SanaPipeline(
        tokenizer=build_tokenizer(),
        text_encoder=text_encoder,
        vae=autoencoder,
        transformer=transformer,
        scheduler=build_scheduler(),
    )
    pipe.save_pretrained(folder, safe_serialization=True)
    return Path(folder)
