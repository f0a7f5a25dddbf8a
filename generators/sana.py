"""SANA-Sprint (the paper's main generator; nano is of this family) and SANA-1.5, its multi-step baseline."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from vhsbench.generators.loading import factory
from vhsbench.generators.noise import step_generators
from vhsbench.generators.pipeline import StagedPipeline

_INTERMEDIATE_TIMESTEP = 1.3  # of two-step generation, SANA-Sprint's own default


def _instruction(pipeline: Any) -> list[str]:
    """Return the "complex human instruction" that the pipeline's call puts before every prompt."""
    default = inspect.signature(type(pipeline).__call__).parameters["complex_human_instruction"].default
    return list(default)


class SanaSprint(StagedPipeline):
    """SANA-Sprint, at the default guidance 1.0; steps after the first add noise keyed by the candidate."""

    prompt_tokens = 300
    instructed = True

    def embeddings(self, prompts: list[str], device: torch.device) -> dict[str, torch.Tensor | None]:
        embeds, mask = self.pipeline.encode_prompt(
            prompts,
            device=device,
            max_sequence_length=self.prompt_tokens,
            complex_human_instruction=_instruction(self.pipeline) if self.instructed else None,
        )
        return {"prompt_embeds": embeds, "prompt_attention_mask": mask}

    def settings(self, noise: torch.Tensor) -> dict[str, Any]:
        keyed = self.steps > 1 and not noise.is_meta
        return {
            "intermediate_timesteps": _INTERMEDIATE_TIMESTEP if self.steps == 2 else None,
            "generator": step_generators(noise) if keyed else None,
            "use_resolution_binning": False,
        }


class NanoSprint(SanaSprint):
    """The bundled miniature, which knows short prompts and no instruction."""

    prompt_tokens = 16
    instructed = False


class Sana(StagedPipeline):
    """SANA-1.5 with classifier-free guidance: the features are the conditional half's."""

    @property
    def guided(self) -> bool:
        return self.guidance_scale > 1

    def embeddings(self, prompts: list[str], device: torch.device) -> dict[str, torch.Tensor | None]:
        embeds, mask, negative_embeds, negative_mask = self.pipeline.encode_prompt(
            prompts,
            self.guided,
            device=device,
            max_sequence_length=300,
            complex_human_instruction=_instruction(self.pipeline),
        )
        found = {"prompt_embeds": embeds, "prompt_attention_mask": mask}
        if self.guided:
            found |= {
                "negative_prompt_embeds": negative_embeds,
                "negative_prompt_attention_mask": negative_mask,
            }
        return found

    def settings(self, noise: torch.Tensor) -> dict[str, Any]:
        return {"negative_prompt": None, "use_resolution_binning": False}


nano = factory("nano", NanoSprint)
sana_sprint = factory("sana-sprint", SanaSprint)
sana_1_5 = factory("sana-1.5", Sana)
