"""SANA-Sprint in stages, around diffusers' SanaSprintPipeline. The nano world is of this family."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from generators.noise import gaussian
from generators.protocol import Conditioning, GeneratorInfo, HiddenStates
from generators.split import BlockSplit

if TYPE_CHECKING:
    from diffusers import SanaSprintPipeline
    from PIL import Image


def load_pipeline(folder: Path, dtype: torch.dtype = torch.float32) -> SanaSprintPipeline:
    """The pipeline saved in `folder`, from safetensors only, without reaching for a hub."""
    from diffusers import SanaSprintPipeline
    from diffusers.utils import logging

    # the folder's tokenizer is a plain fast tokenizer; diffusers warns that it is not Gemma's class
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        pipeline = SanaSprintPipeline.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True
        )
    finally:
        logging.set_verbosity(verbosity)
    pipeline.set_progress_bar_config(disable=True)
    for module in (pipeline.text_encoder, pipeline.transformer, pipeline.vae):
        module.requires_grad_(False)
    return pipeline


class SanaSprint:
    """A SANA-Sprint pipeline behind the stage protocol (the paper's main generator, one step)."""

    def __init__(
        self,
        name: str,
        pipeline: SanaSprintPipeline,
        *,
        resolution: int,
        max_sequence_length: int,
        guidance_scale: float = 1.0,
        complex_human_instruction: list[str] | None = None,
        source: str = "",
        licence: str = "",
    ) -> None:
        self.name = name
        self.steps = 1
        self.pipeline = pipeline
        self.resolution = resolution
        self.guidance_scale = guidance_scale
        self._encode = partial(
            pipeline.encode_prompt,
            max_sequence_length=max_sequence_length,
            complex_human_instruction=complex_human_instruction,
        )
        self._split = BlockSplit(pipeline.transformer, ["transformer_blocks"])
        self._source, self._licence = source, licence

    @property
    def blocks(self) -> int:
        return len(self._split)

    @property
    def device(self) -> torch.device:
        return torch.device(self.pipeline.device)

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        embeds, mask = self._encode(list(prompts), device=self.device)
        return Conditioning(tuple(prompts), {"prompt_embeds": embeds, "prompt_attention_mask": mask})

    def noise(self, seeds: Sequence[int]) -> torch.Tensor:
        side = self.resolution // self.pipeline.vae_scale_factor
        channels = self.pipeline.transformer.config.in_channels
        return gaussian(seeds, (channels, side, side)).to(self.device)

    def head(self, cond: Conditioning, noise: torch.Tensor, block: int) -> HiddenStates:
        streams = self._split.head(block, lambda: self.denoise(cond, noise))
        return HiddenStates(block, streams, noise, cond)

    def tail(self, hidden: HiddenStates) -> torch.Tensor:
        with self._split.resumed(hidden.block, hidden.streams):
            return self.denoise(hidden.cond, hidden.noise)

    @torch.inference_mode()
    def denoise(self, cond: Conditioning, noise: torch.Tensor) -> torch.Tensor:
        tensors: dict[str, Any] = dict(cond.tensors)
        latents: torch.Tensor = self.pipeline(
            **tensors,
            latents=noise,
            num_inference_steps=self.steps,
            intermediate_timesteps=None,
            guidance_scale=self.guidance_scale,
            height=self.resolution,
            width=self.resolution,
            use_resolution_binning=False,
            output_type="latent",
            return_dict=False,
        )[0]
        return latents

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> list[Image.Image]:
        vae = self.pipeline.vae
        pixels = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]
        images: list[Image.Image] = self.pipeline.image_processor.postprocess(pixels, output_type="pil")
        return images

    def info(self) -> GeneratorInfo:
        transformer = self.pipeline.transformer
        config = transformer.config
        side = self.resolution // self.pipeline.vae_scale_factor // config.patch_size
        return GeneratorInfo(
            name=self.name,
            family="SANA-Sprint",
            parameters=sum(p.numel() for p in transformer.parameters()),
            blocks=self.blocks,
            tokens=side * side,
            hidden_width=config.num_attention_heads * config.attention_head_dim,
            resolution=self.resolution,
            steps=self.steps,
            licence=self._licence,
            source=self._source,
        )
