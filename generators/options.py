"""The options of a generator, as one record, and the settings that they give with a spec."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from vhsbench.generators.checks import check_dtype
from vhsbench.generators.specs import GeneratorSpec


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to open a generator; an option that is None takes the spec's value.

    weights: None for the family's own, "random" (the true architecture, drawn from `seed`), a
    pipeline folder, or a hub id with a `revision` (branch, tag or commit). device "meta" needs
    weights="random". text_encoder_device keeps the text encoders elsewhere, for example on "cpu". lora is a
    folder or safetensors file of LoRA weights, or "bundled"; it is merged into every component that it
    is for, so that it costs no time. resolution is in pixels, a side.
    """

    weights: str | Path | None = None
    device: str = "cpu"
    dtype: str | torch.dtype | None = None
    steps: int | None = None
    resolution: int | None = None
    guidance_scale: float | None = None
    revision: str | None = None
    lora: str | Path | None = None
    lora_strength: float = 1.0
    text_encoder_device: str | None = None
    seed: int = 0

    @property
    def text_device(self) -> str:
        """Where the text encoders run."""
        return self.text_encoder_device or self.device

    def settings(self, spec: GeneratorSpec) -> Settings:
        """Return the given values, else the spec's. Raises GeneratorError for an unknown dtype."""
        return Settings(
            dtype=as_dtype(self.dtype or spec.dtype),
            steps=spec.steps if self.steps is None else self.steps,
            resolution=spec.resolution if self.resolution is None else self.resolution,
            guidance_scale=spec.guidance_scale if self.guidance_scale is None else self.guidance_scale,
        )


@dataclass(frozen=True)
class Settings:
    """What a generator computes with."""

    dtype: torch.dtype
    steps: int
    resolution: int  # pixels, a side
    guidance_scale: float


def as_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """Return the dtype of that name. Raises GeneratorError for an unknown name."""
    if isinstance(dtype, torch.dtype):
        return dtype
    check_dtype(dtype)
    found: torch.dtype = getattr(torch, dtype)
    return found
