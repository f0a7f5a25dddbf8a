"""Small pipelines of the real classes, saved as a user would have them in a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers

from vhsbench.generators.nano.models import word_tokenizer

WORDS = ["a", "photo", "of", "red", "blue", "circle", "square", "two", "stars"]


def _tokenizer(length: int) -> Any:
    tokenizer = word_tokenizer(WORDS, ["<pad>", "<unk>", "<bos>"])
    tokenizer.model_max_length = length
    return tokenizer


def _t5(width: int = 32) -> Any:
    return transformers.T5EncoderModel(
        transformers.T5Config(vocab_size=16, d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    )


def _clip(width: int, projected: bool) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=16, hidden_size=width, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=12, projection_dim=width, bos_token_id=0, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    return (transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel)(config)


def _gemma() -> Any:
    return transformers.Gemma2Model(
        transformers.Gemma2Config(
            vocab_size=16,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            query_pre_attn_scalar=8,
            max_position_embeddings=1024,
            pad_token_id=0,
            bos_token_id=2,
            eos_token_id=None,
        )
    )


def _kl(channels: int, **options: Any) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2, layers_per_block=1, norm_num_groups=4,
        latent_channels=channels, **options,
    )  # fmt: skip


def _sana(pipeline: Any, scheduler: Any, guidance_embeds: bool) -> Any:
    vae = diffusers.AutoencoderDC(
        latent_channels=4, attention_head_dim=4, encoder_block_types=["ResBlock", "EfficientViTBlock"],
        decoder_block_types=["ResBlock", "EfficientViTBlock"], encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8), encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)),
        upsample_block_type="interpolate", downsample_block_type="conv", scaling_factor=0.41407,
    )  # fmt: skip
    transformer = diffusers.SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=3,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=16,
        sample_size=8, guidance_embeds=guidance_embeds, qk_norm="rms_norm_across_heads",
    )  # fmt: skip
    return pipeline(_tokenizer(1024), _gemma(), vae, transformer, scheduler)


def _sana_sprint() -> Any:
    return _sana(diffusers.SanaSprintPipeline, diffusers.SCMScheduler(), guidance_embeds=True)


def _sana_1_5() -> Any:
    scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    return _sana(diffusers.SanaPipeline, scheduler, guidance_embeds=False)


def _pixart() -> Any:
    transformer = diffusers.PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=3,
        cross_attention_dim=16, caption_channels=32, sample_size=8, patch_size=2,
    )  # fmt: skip
    return diffusers.PixArtAlphaPipeline(
        _tokenizer(120), _t5(), _kl(4, scaling_factor=0.18215), transformer,
        diffusers.DDPMScheduler(clip_sample=False, beta_schedule="linear"),
    )  # fmt: skip


def _flux() -> Any:
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=16, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    vae = _kl(4, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False)
    return diffusers.FluxPipeline(
        diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0), vae, _clip(16, False), _tokenizer(12),
        _t5(), _tokenizer(256), transformer,
    )  # fmt: skip


def _sd3() -> Any:
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=3, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=32,
        pos_embed_max_size=16, qk_norm="rms_norm",
    )  # fmt: skip
    vae = _kl(4, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False)
    return diffusers.StableDiffusion3Pipeline(
        transformer, diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), vae, _clip(16, True), _tokenizer(12),
        _clip(16, True), _tokenizer(12), _t5(), _tokenizer(256),
    )  # fmt: skip


SMALL: dict[str, Callable[[], Any]] = {
    "sana-sprint": _sana_sprint,
    "sana-1.5": _sana_1_5,
    "pixart-alpha-dmd": _pixart,
    "flux-schnell": _flux,
    "sd3.5-turbo": _sd3,
}


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a small pipeline of the named family, built once."""
    root = tmp_path_factory.mktemp("small")

    def folder(name: str) -> Path:
        if not (root / name).exists():
            torch.manual_seed(7)
            SMALL[name]().save_pretrained(root / name)
        return root / name

    return folder
