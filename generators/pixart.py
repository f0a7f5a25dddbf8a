"""PixArt-alpha-DMD: one step at timestep 400, without guidance."""

from __future__ import annotations

from typing import Any

import torch

from vhsbench.generators.loading import factory
from vhsbench.generators.pipeline import StagedPipeline
from vhsbench.generators.protocol import GeneratorError
from vhsbench.generators.specs import GeneratorSpec

_TIMESTEP = 400


class PixArtDmd(StagedPipeline):
    def __init__(self, spec: GeneratorSpec, pipeline: Any, *, guidance_scale: float, **options: Any) -> None:
        if guidance_scale > 1:
            raise GeneratorError(
                f"{spec.name} is distilled without guidance: guidance_scale is at most 1, not {guidance_scale:g}."
            )
        super().__init__(spec, pipeline, guidance_scale=guidance_scale, **options)

    def embeddings(self, prompts: list[str], device: torch.device) -> dict[str, torch.Tensor | None]:
        embeds, mask, _, _ = self.pipeline.encode_prompt(
            prompts, do_classifier_free_guidance=False, device=device, max_sequence_length=120
        )
        return {"prompt_embeds": embeds, "prompt_attention_mask": mask}

    def settings(self, noise: torch.Tensor) -> dict[str, Any]:
        return {"timesteps": [_TIMESTEP], "negative_prompt": None, "use_resolution_binning": False}

    def pack(self, latents: torch.Tensor) -> torch.Tensor:
        return latents.to(self.pipeline.transformer.dtype)


pixart_alpha_dmd = factory("pixart-alpha-dmd", PixArtDmd)
