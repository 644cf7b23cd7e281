"""A tiny random Sana pipeline in a folder, and short ways to load, place and run it."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import torch

from .registry import places, seen

FOLDER = os.environ.get("SANA_TINY_FOLDER", "")
"""Where the runner built the pipeline."""


def build(folder: str | pathlib.Path) -> None:
    """Write a pipeline of about 200,000 random weights, with the classes of the real checkpoints."""
    from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel
    from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

    torch.manual_seed(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "▁", *letters, *(f"▁{letter}" for letter in letters)]
    vocab = {word: i for i, word in enumerate(words)}
    config = Gemma2Config(
        vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=32,
    )  # fmt: skip
    transformer = SanaTransformer2DModel(
        patch_size=1, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=4,
        num_cross_attention_heads=4, cross_attention_head_dim=16, cross_attention_dim=64, caption_channels=64,
        sample_size=16,
    )  # fmt: skip
    vae = AutoencoderDC(
        in_channels=3, latent_channels=4, attention_head_dim=8,
        encoder_block_types=("ResBlock", "ResBlock"), decoder_block_types=("ResBlock", "ResBlock"),
        encoder_block_out_channels=(8, 16), decoder_block_out_channels=(8, 16),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), ()), decoder_qkv_multiscales=((), ()),
        downsample_block_type="Conv", upsample_block_type="interpolate",
        decoder_norm_types="rms_norm", decoder_act_fns="silu", scaling_factor=0.41407,
    )  # fmt: skip
    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    tokenizer = GemmaTokenizer(vocab=vocab, merges=[])
    parts = (tokenizer, Gemma2Model(config).eval(), vae.eval(), transformer.eval(), scheduler)
    SanaPipeline(*parts).save_pretrained(folder)


def quantized() -> dict[str, Any]:
    """Text encoder and transformer in 8 bits, as the official recipe loads them."""
    from diffusers import BitsAndBytesConfig as DiffusersConfig
    from diffusers import SanaTransformer2DModel
    from transformers import AutoModel
    from transformers import BitsAndBytesConfig as TransformersConfig

    return {
        "text_encoder": AutoModel.from_pretrained(
            FOLDER, subfolder="text_encoder", dtype=torch.bfloat16,
            quantization_config=TransformersConfig(load_in_8bit=True),
        ),
        "transformer": SanaTransformer2DModel.from_pretrained(
            FOLDER, subfolder="transformer", torch_dtype=torch.bfloat16,
            quantization_config=DiffusersConfig(load_in_8bit=True),
        ),
    }  # fmt: skip


def pipeline(**kwargs: Any) -> Any:
    """The pipeline in bfloat16."""
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, torch_dtype=torch.bfloat16, **kwargs)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pipeline_8bit(**kwargs: Any) -> Any:
    """The pipeline by the official 8-bit recipe."""
    return pipeline(**quantized(), **kwargs)


def placed(pipe: Any) -> dict[str, list[str]]:
    """The devices of each component."""
    return {name: places(getattr(pipe, name)) for name in ("text_encoder", "transformer", "vae")}


def draw(pipe: Any) -> dict[str, Any]:
    """Two steps at 32 pixels; where the picture ends up, and whether it is one."""
    picture = pipe(
        "a b c", height=32, width=32, num_inference_steps=2, use_resolution_binning=False,
        complex_human_instruction=None, max_sequence_length=16, output_type="pt",
        generator=torch.Generator().manual_seed(0),
    ).images  # fmt: skip
    return {**seen(picture), "finite": bool(torch.isfinite(picture).all())}


def transformer_inputs(device: str, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Arguments for one call of the transformer."""
    g = torch.Generator().manual_seed(0)
    return {
        "hidden_states": torch.randn(1, 4, 8, 8, generator=g).to(device, dtype),
        "encoder_hidden_states": torch.randn(1, 5, 64, generator=g).to(device, dtype),
        "timestep": torch.tensor([500], device=device),
    }
