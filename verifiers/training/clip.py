"""Train a small CLIP contrastively on pictures and captions, for verifiers that read pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from vhsbench.generators.training import Progress, fit, muon_and_adamw

if TYPE_CHECKING:
    from open_clip import CLIP

Batch = Callable[[int], tuple[torch.Tensor, torch.Tensor]]


def train_clip(
    config: dict[str, Any],
    batch: Batch,
    *,
    device: str = "cpu",
    steps: int,
    seed: int,
    state_file: Path,
    report: Callable[[Progress], None],
) -> tuple[CLIP, float]:
    """Train by CLIP's symmetric contrastive loss. batch(step) returns pixels [B, 3, S, S] and token ids [B, L]."""
    from open_clip import CLIP

    torch.manual_seed(seed)
    model = CLIP(**config).to(device)

    def loss(step: int) -> torch.Tensor:
        pixels, tokens = (t.to(device) for t in batch(step))
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            image, text, scale = model(pixels, tokens)[:3]
        logits = scale.float() * image.float() @ text.float().T
        target = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    seconds = fit(
        "clip", [model], loss, muon_and_adamw([model], 1e-3, 1e-3), steps, state_file, report=report
    )
    return model, seconds
