"""A Sana small enough to make anew: many modules load, save and break one."""

import torch


def build_folder(folder, pipeline="SanaPipeline", variant=None, sample_size=16, **transformer_options):
    """A Sana of some 200,000 random weights that the pipeline's default call accepts."""
    import diffusers
    from transformers import Gemma2Config, Gemma2Model

    from sana_lab.shapes.model import build_scheduler
    from sana_lab.shapes.tokenizer import build_tokenizer

    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    text_encoder = Gemma2Model(
        Gemma2Config(
            vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=1, head_dim=32,
        )
    )  # fmt: skip
    transformer = diffusers.SanaTransformer2DModel(
        in_channels=8, out_channels=8, num_layers=2, num_attention_heads=2, attention_head_dim=32,
        num_cross_attention_heads=2, cross_attention_head_dim=32, cross_attention_dim=64, caption_channels=64,
        sample_size=sample_size, patch_size=1, **transformer_options,
    )  # fmt: skip
    vae = diffusers.AutoencoderDC(
        latent_channels=8, attention_head_dim=8,
        encoder_block_types=("ResBlock",) * 6, decoder_block_types=("ResBlock",) * 6,
        encoder_block_out_channels=(8,) * 6, decoder_block_out_channels=(8,) * 6,
        encoder_layers_per_block=(1,) * 6, decoder_layers_per_block=(1,) * 6,
        encoder_qkv_multiscales=((),) * 6, decoder_qkv_multiscales=((),) * 6,
        upsample_block_type="interpolate", downsample_block_type="conv", scaling_factor=1.0,
    )  # fmt: skip
    scheduler = build_scheduler() if pipeline == "SanaPipeline" else diffusers.SCMScheduler()
    parts = (tokenizer, text_encoder, vae, transformer, scheduler)
    getattr(diffusers, pipeline)(*parts).to(torch.bfloat16).save_pretrained(folder, variant=variant)
    return folder
