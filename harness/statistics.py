"""95% intervals by a bootstrap that draws prompts, not images; and the area under the ROC curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]

LEVEL = 0.95
REPLICATES = 1000


@dataclass(frozen=True)
class Interval:
    """A mean and its percentile interval, each [K]; n is the number of prompts."""

    mean: Floats
    low: Floats
    high: Floats
    n: int


def bootstrap_weights(strata: ArrayLike, replicates: int = REPLICATES, seed: int = 0) -> Floats:
    """[replicates, P]: how often each prompt is drawn; each stratum (task) is redrawn at its own size."""
    labels = np.asarray(strata)
    rng = np.random.default_rng(seed)
    weights = np.zeros((replicates, len(labels)))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        weights[:, rows] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), replicates)
    return weights


def prompt_mean(values: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Mean over prompts of values [P, K], and its bootstrap replicates [R, K]."""
    return values.mean(0), weights @ values / len(values)


def task_mean(values: Floats, strata: ArrayLike, weights: Floats) -> tuple[Floats, Floats]:
    """GenEval's overall: the mean of the tasks' means, and its bootstrap replicates [R, K]."""
    labels = np.asarray(strata)
    tasks = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    parts = [prompt_mean(values[rows], weights[:, rows]) for rows in tasks]
    return np.mean([p[0] for p in parts], axis=0), np.mean([p[1] for p in parts], axis=0)


def interval(mean: Floats, replicates: Floats, n: int) -> Interval:
    low, high = np.quantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return Interval(mean, low, high, n)


def auc(scores: ArrayLike, correct: ArrayLike) -> float:
    """Probability that a right candidate scores above a wrong one, ties half; NaN if one class is empty."""
    s, c = np.asarray(scores, dtype=float), np.asarray(correct, dtype=bool)
    right, wrong = int(c.sum()), int((~c).sum())
    if not right or not wrong:
        return float("nan")
    ranks = rankdata(s)
    return float((ranks[c].sum() - right * (right + 1) / 2) / (right * wrong))
