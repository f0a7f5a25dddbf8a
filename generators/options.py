"""How a generator is opened: one record of options, and what they come to for a spec."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from vhsbench.generators.checks import check_dtype
from vhsbench.generators.specs import GeneratorSpec


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a generator is opened; an option that is None has the spec's value.

    weights: None for the family's own, "random" (of the true architecture, drawn from `seed`), a
    pipeline folder, or a hub id, whose `revision` is a branch, tag or commit. device "meta" needs
    weights="random". text_encoder_device keeps the text encoders elsewhere, as on "cpu". lora is a
    folder or safetensors file of LoRA weights, or "bundled"; it is merged into the weights of every component
    that it is for, so that it costs nothing. resolution is in pixels, a side.
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
        """The values that are given, else the spec's. Raises GeneratorError for an unknown dtype."""
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
    """The dtype of that name. Raises GeneratorError for another."""
    if isinstance(dtype, torch.dtype):
        return dtype
    check_dtype(dtype)
    found: torch.dtype = getattr(torch, dtype)
    return found
