"""How well P(yes) tells right from wrong: loss aside, AUC, accuracy and calibration."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS = 10


def auc(scores: ArrayLike, correct: ArrayLike) -> float:
    """Compute the probability that a right candidate outscores a wrong one, ties half; NaN if one class is empty."""
    from scipy.stats import rankdata

    right = np.asarray(correct, dtype=bool)
    positives, negatives = int(right.sum()), int((~right).sum())
    if not positives or not negatives:
        return float("nan")
    above = rankdata(np.asarray(scores, dtype=float))[right].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def auc_within(scores: ArrayLike, correct: ArrayLike, prompts: ArrayLike) -> float:
    """Compute the AUC over pairs of candidates of the same prompt; NaN if no prompt has a right and a wrong one.

    A pooled AUC also rewards knowing which prompts are easy, which does not help to choose among one prompt's candidates.
    """
    s, right = np.asarray(scores, dtype=float), np.asarray(correct, dtype=bool)
    labels = np.asarray(prompts)
    won, pairs = 0.0, 0
    for label in np.unique(labels):
        mine = labels == label
        count = int(right[mine].sum()) * int((~right[mine]).sum())
        if count:
            won, pairs = won + count * auc(s[mine], right[mine]), pairs + count
    return won / pairs if pairs else float("nan")


def calibration_error(probability: ArrayLike, correct: ArrayLike, bins: int = BINS) -> float:
    """Compute the expected calibration error: |accuracy - confidence| over equal bins of P(yes), weighted by size."""
    p, right = np.asarray(probability, dtype=float), np.asarray(correct, dtype=float)
    index = np.minimum((p * bins).astype(int), bins - 1)
    gaps = np.bincount(index, right - p, minlength=bins)
    return float(np.abs(gaps).sum() / len(p))


def yes_no_metrics(
    p_yes: NDArray[np.floating], p_no: NDArray[np.floating], correct: ArrayLike
) -> dict[str, float]:
    """Return auc, accuracy and ece of P(yes) / (P(yes) + P(no)), all shares of 1."""
    p = np.asarray(p_yes, dtype=float) / (np.asarray(p_yes, dtype=float) + np.asarray(p_no, dtype=float))
    right = np.asarray(correct, dtype=bool)
    return {
        "auc": auc(p, right),
        "accuracy": float(((p > 0.5) == right).mean()),
        "ece": calibration_error(p, right),
    }
