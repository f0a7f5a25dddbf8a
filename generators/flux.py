"""FLUX.1-schnell: 19 blocks of two streams, then 38 that join them; latents packed two by two."""

from __future__ import annotations

from typing import Any

import torch

from vhsbench.generators.loading import factory
from vhsbench.generators.pipeline import StagedPipeline


class FluxSchnell(StagedPipeline):
    block_lists = ("transformer_blocks", "single_transformer_blocks")
    streams = 2

    def embeddings(self, prompts: list[str], device: torch.device) -> dict[str, torch.Tensor | None]:
        embeds, pooled, _ = self.pipeline.encode_prompt(prompts, device=device, max_sequence_length=256)
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def settings(self, noise: torch.Tensor) -> dict[str, Any]:
        return {"max_sequence_length": 256}

    def pack(self, latents: torch.Tensor) -> torch.Tensor:
        packed: torch.Tensor = self.pipeline._pack_latents(latents, *latents.shape)
        return packed

    def unpack(self, latents: torch.Tensor) -> torch.Tensor:
        unpacked: torch.Tensor = self.pipeline._unpack_latents(
            latents, self.resolution, self.resolution, self.pipeline.vae_scale_factor
        )
        return unpacked

    @property
    def _token_pixels(self) -> int:
        return 2 * super()._token_pixels  # packing, not the DiT's patch, joins 2 x 2 latents


flux_schnell = factory("flux-schnell", FluxSchnell)
