"""95% intervals by a bootstrap that draws prompts, not images; and the area under the ROC curve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from verifiers.metrics import auc as auc

Floats = NDArray[np.float64]

LEVEL = 0.95
REPLICATES = 1000


@dataclass(frozen=True)
class Interval:
    """A mean and its percentile interval, each [K]; n is the number of prompts.

    The interval of a single prompt is NaN: one prompt says nothing of how prompts vary.
    """

    mean: Floats
    low: Floats
    high: Floats
    n: int


def cluster_bootstrap(
    values: ArrayLike,
    prompts: ArrayLike | None = None,
    tasks: ArrayLike | None = None,
    by_task: bool = False,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Interval:
    """Mean of values [R] or [R, K] over prompts, with its 95% interval.

    prompts [R] names each row's prompt (rows of one prompt, its seeds, are averaged first; without it
    every row is a prompt); tasks [R] its task, within which prompts are redrawn. `by_task` takes the
    mean of the tasks' means (GenEval's overall) in place of the mean over prompts (the paper's).
    Raises ValueError for no values, one that is not a number, or labels of another length.
    """
    v = np.asarray(values, dtype=np.float64)
    v = v[:, None] if v.ndim == 1 else v
    ids = np.arange(len(v)) if prompts is None else np.asarray(prompts)
    strata = np.zeros(len(v)) if tasks is None else np.asarray(tasks)
    if v.ndim != 2 or v.size == 0 or np.isnan(v).any():
        raise ValueError(f"values {v.shape} must be [R] or [R, K], not empty, all numbers.")
    if not len(v) == len(ids) == len(strata):
        raise ValueError(f"{len(v)} values have {len(ids)} prompts and {len(strata)} tasks.")
    first = np.unique(ids, return_index=True)[1]
    v, strata = average_by_prompt(v, ids), strata[first]
    weights = bootstrap_weights(strata, replicates, seed)
    parts = task_mean(v, strata, weights) if by_task else prompt_mean(v, weights)
    return interval(*parts, len(v))


def paired_difference(a: ArrayLike, b: ArrayLike, **how: Any) -> Interval:
    """a - b of two verifiers on the same rows: narrower than two intervals, as hard prompts cancel.

    `how` goes to cluster_bootstrap. Raises ValueError if the shapes differ.
    """
    if np.shape(a) != np.shape(b):
        raise ValueError(f"a pair needs the same rows: {np.shape(a)} and {np.shape(b)}.")
    return cluster_bootstrap(np.subtract(a, b, dtype=np.float64), **how)


def average_by_prompt(values: Floats, prompts: ArrayLike) -> Floats:
    """[P, K]: mean of the rows [R, K] of each prompt, in sorted order of prompts."""
    ids, prompt = np.unique(np.asarray(prompts), return_inverse=True)
    total = np.zeros((len(ids), values.shape[1]))
    np.add.at(total, prompt, values)
    return np.asarray(total / np.bincount(prompt)[:, None])


def bootstrap_weights(strata: ArrayLike, replicates: int = REPLICATES, seed: int = 0) -> Floats:
    """[replicates, P]: how often each prompt is drawn; each stratum (task) is redrawn at its own size."""
    _, labels, sizes = np.unique(np.asarray(strata), return_inverse=True, return_counts=True)
    # a task's only prompt cannot be redrawn within it: such prompts form one stratum together
    labels = np.where(sizes[labels] == 1, -1, labels)
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
    """The percentile interval from bootstrap replicates [R, K] of a mean [K] over n prompts."""
    if n < 2:
        return Interval(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan), n)
    low, high = np.quantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return Interval(mean, low, high, n)
