"""Stable Diffusion 3.5 Large Turbo: blocks of two streams; the last one ends the text's."""

from __future__ import annotations

import torch

from vhsbench.generators.loading import factory
from vhsbench.generators.pipeline import StagedPipeline


class Sd3Turbo(StagedPipeline):
    streams = 2

    @property
    def guided(self) -> bool:
        return self.guidance_scale > 1

    def embeddings(self, prompts: list[str], device: torch.device) -> dict[str, torch.Tensor | None]:
        embeds, negative_embeds, pooled, negative_pooled = self.pipeline.encode_prompt(
            prompts, None, None, device=device, do_classifier_free_guidance=self.guided
        )
        return {
            "prompt_embeds": embeds,
            "pooled_prompt_embeds": pooled,
            "negative_prompt_embeds": negative_embeds,
            "negative_pooled_prompt_embeds": negative_pooled,
        }


sd3_5_turbo = factory("sd3.5-turbo", Sd3Turbo)
