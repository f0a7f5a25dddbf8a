"""Validate: loss, AUC, accuracy and calibration over a whole validation set, whatever the number of processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vhsbench.verifiers.metrics import yes_no_metrics
from vhsbench.verifiers.training.losses import focal_losses, weighted_mean
from vhsbench.verifiers.training.objectives import YesNo
from vhsbench.verifiers.training.stage import Stage, ask


@torch.no_grad()
def validate(model: nn.Module, stage: Stage, accelerator: Any, micro_batch: int) -> dict[str, float]:
    """Return loss, auc, accuracy and ece over the stage's validation samples."""
    samples, objective = stage.validation, stage.objective
    assert samples is not None
    assert isinstance(objective, YesNo)
    wide = micro_batch * accelerator.num_processes
    parts = []
    for start in range(0, len(samples), wide):
        # every process runs the same number of forwards; surplus samples are dropped below
        mine = [
            (start + accelerator.process_index * micro_batch + i) % len(samples) for i in range(micro_batch)
        ]
        features, rows = samples.batch(mine)
        logits, texts = ask(model, stage, rows, features, accelerator.device)
        losses = focal_losses(logits, texts.target, objective.gamma)
        found = torch.cat([losses, texts.weight, objective.probabilities(logits)], 1)
        parts.append(accelerator.gather(found).cpu())
    losses, weights, p_yes, p_no = torch.cat(parts)[: len(samples)].double().unbind(1)
    correct = [bool(row["correct"]) for row in samples.rows]
    return {"loss": weighted_mean(losses, weights).item()} | yes_no_metrics(
        p_yes.numpy(), p_no.numpy(), correct
    )
