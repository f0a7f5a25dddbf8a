"""The losses of A.3: cross entropy and focal loss (eq. 4) of tokens, with class weights."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from vhsbench.harness.common.errors import VhsbenchError

IGNORED = -100


class LabelError(VhsbenchError):
    """Labels from which nothing can be learnt; the message is one sentence for a user."""


def class_weights(correct: torch.Tensor) -> tuple[float, float]:
    """Return the weights of "no" and "yes": each is the other class's share, as A.3's 0.63 and 0.37."""
    share = correct.float().mean().item()
    if share in (0.0, 1.0):
        raise LabelError("the labels are all of one class; a verifier needs right and wrong candidates.")
    return share, 1.0 - share


def focal_losses(logits: torch.Tensor, target: torch.Tensor, gamma: float = 0.0) -> torch.Tensor:
    """Compute -(1 - p_t)^gamma log p_t of each token, p_t a softmax over the whole vocabulary (eq. 4 without alpha).

    logits [..., V], target [...]; 0 where the target is IGNORED. gamma 0 is cross entropy.
    """
    flat = logits.float().flatten(0, -2)
    losses = F.cross_entropy(flat, target.flatten(), reduction="none", ignore_index=IGNORED)
    if gamma:
        # 1 - p_t, exact near p_t = 1; above 0, because its gradient is infinite at 0 if gamma < 1
        losses = losses * (-torch.expm1(-losses)).clamp_min(1e-12) ** gamma
    return losses.view(target.shape)


def weighted_mean(losses: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Divide by the sum of the weights, so that only the ratio of the classes' weights counts."""
    return (weights * losses).sum() / weights.sum()
