"""Nano's models: the SANA-Sprint classes of diffusers and transformers at miniature size, untrained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from vhsbench.generators.nano.teacher import LATENT_CHANNELS, LATENT_SIZE
from vhsbench.generators.nano.world import COLORS, NUMBERS, OPENINGS, SHAPES, plural

if TYPE_CHECKING:
    from diffusers import AutoencoderDC, SanaSprintPipeline
    from transformers import PreTrainedTokenizerFast

PROMPT_TOKENS = 16  # the longest prompt has 12 words, and <bos>
PROMPT_WORDS = (
    *["a", "an", "photo", "of", "and", "left", "right", "above", "below"],
    *SHAPES,
    *map(plural, SHAPES),
    *COLORS,
    *NUMBERS,
    *OPENINGS,
)


def word_tokenizer(words: Sequence[str], special: Sequence[str]) -> PreTrainedTokenizerFast:
    """Make a tokenizer with one id per word, split at white space; special[0] pads, special[1] is for unknown words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {w: i for i, w in enumerate(dict.fromkeys([*special, *words]))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=special[1]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=special[0], unk_token=special[1])
    tokenizer.add_special_tokens({"additional_special_tokens": list(special[2:])})
    return tokenizer


def _prompt_tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers.processors import TemplateProcessing

    tokenizer = word_tokenizer(PROMPT_WORDS, ["<pad>", "<unk>", "<bos>"])
    tokenizer.bos_token = "<bos>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.convert_tokens_to_ids("<bos>"))]
    )
    return tokenizer


def build_autoencoder(channels: int = LATENT_CHANNELS) -> AutoencoderDC:
    """Build an autoencoder: 8x smaller, 4 channels (48 to 1).

    Its decoder has about the share of a candidate's FLOPs that DC-AE's has at full size, and nearly that of its time on a CPU:
    many thin blocks at full resolution.
    """
    from diffusers import AutoencoderDC

    return AutoencoderDC(
        latent_channels=channels,
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_block_out_channels=(16, 32, 64, 64),
        decoder_block_out_channels=(8, 16, 32, 64),
        encoder_layers_per_block=(1, 1, 1, 1),
        decoder_layers_per_block=(30, 4, 1, 1),
        encoder_qkv_multiscales=((),) * 4,
        decoder_qkv_multiscales=((),) * 4,
        upsample_block_type="interpolate",
        downsample_block_type="conv",
    )


def build_pipeline(vae: AutoencoderDC, seed: int) -> SanaSprintPipeline:
    """Build a SanaSprintPipeline with an untrained DiT and text encoder around `vae`."""
    from diffusers import SanaSprintPipeline, SanaTransformer2DModel, SCMScheduler
    from transformers import Gemma2Config, Gemma2Model

    torch.manual_seed(seed)
    tokenizer = _prompt_tokenizer()
    text_encoder = Gemma2Model(
        Gemma2Config(
            vocab_size=len(tokenizer),
            hidden_size=96,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            head_dim=24,
            query_pre_attn_scalar=24,
            max_position_embeddings=64,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=None,
        )
    )
    transformer = SanaTransformer2DModel(
        in_channels=vae.config.latent_channels,
        out_channels=vae.config.latent_channels,
        num_attention_heads=4,
        attention_head_dim=32,
        num_layers=8,
        num_cross_attention_heads=4,
        cross_attention_head_dim=32,
        cross_attention_dim=128,
        caption_channels=96,
        mlp_ratio=2.0,
        sample_size=LATENT_SIZE,
        interpolation_scale=1,  # gives the DiT positions, which a few 3x3 convolutions cannot infer
        guidance_embeds=True,
        qk_norm="rms_norm_across_heads",
    )
    torch.nn.init.zeros_(transformer.proj_out.weight)
    scheduler = SCMScheduler(prediction_type="trigflow", sigma_data=0.5)
    pipeline = SanaSprintPipeline(tokenizer, text_encoder, vae, transformer, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
