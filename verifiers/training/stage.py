"""One stage of a training, and the forward that training and validation share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from vhsbench.verifiers.training.objectives import Objective, Texts
from vhsbench.verifiers.training.recipe import StageRecipe
from vhsbench.verifiers.training.samples import Rows, Samples, Tokens


@dataclass
class Stage:
    """One stage: its samples, objective and steps."""

    name: str
    recipe: StageRecipe
    objective: Objective
    samples: Samples
    tokens: Tokens
    seed: tuple[int, ...]
    validation: Samples | None = None
    validate_every: int = 1


def ask(
    model: nn.Module, stage: Stage, rows: Rows, features: torch.Tensor, device: torch.device
) -> tuple[torch.Tensor, Texts]:
    """Compute logits [B, P, V] of a batch; also return its texts on `device`."""
    visual = stage.tokens(features.to(device, non_blocking=True)).float()
    texts = stage.objective.texts(rows, visual.shape[1]).to(device)
    return model(texts.before, visual, texts.after, texts.at), texts
