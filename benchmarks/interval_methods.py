"""Intervals that benchmarks/coverage.py compares: the one the project had, and others that were considered."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtr, ndtri, stdtrit

Floats = NDArray[np.float64]
Ends = tuple[Floats, Floats]
Method = Callable[
    [Floats, Floats, NDArray[np.int64]], Ends
]  # values [P, T], weights [P], tasks [P] -> ends [T]

TAIL = 0.025
REPLICATES = 1000


def drawn(tasks: NDArray[np.int64]) -> Floats:
    """Return how often each prompt is drawn, [REPLICATES, P], tasks at their own size; tasks of one prompt as one."""
    return _drawn(tuple(tasks.tolist()))


@functools.lru_cache(maxsize=2)
def _drawn(tasks: tuple[int, ...], seed: int = 0) -> Floats:
    _, labels, sizes = np.unique(tasks, return_inverse=True, return_counts=True)
    labels = np.where(sizes[labels] == 1, -1, labels)
    rng = np.random.default_rng(seed)
    times = np.zeros((REPLICATES, len(labels)))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        times[:, rows] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), REPLICATES)
    return times


def percentile(values: Floats, weights: Floats, tasks: NDArray[np.int64]) -> Ends:
    """Return the percentiles of a bootstrap that redraws prompts within their task, as this project once did."""
    low, high = np.quantile((drawn(tasks) * weights) @ values, [TAIL, 1 - TAIL], axis=0)
    return low, high


def bca(values: Floats, weights: Floats, tasks: NDArray[np.int64]) -> Ends:
    """Return the ends of the same bootstrap, corrected for bias and acceleration."""
    mean = weights @ values
    means = np.sort((drawn(tasks) * weights) @ values, axis=0)
    below = ((means < mean - 1e-12).sum(0) + (means <= mean + 1e-12).sum(0)) / (2 * REPLICATES)
    bias = ndtri(np.clip(below, 1 / REPLICATES, 1 - 1 / REPLICATES))
    apart = (values - mean) * weights[:, None]
    squares = (apart**2).sum(0)
    skew = np.divide((apart**3).sum(0), 6 * squares**1.5, out=np.zeros_like(mean), where=squares > 1e-18)
    ends = []
    for tail in (TAIL, 1 - TAIL):
        moved = bias + ndtri(tail)
        rank = (ndtr(bias + moved / (1 - skew * moved)) * REPLICATES).astype(int)
        ends.append(means[np.clip(rank, 0, REPLICATES - 1), np.arange(means.shape[1])])
    return ends[0], ends[1]


def bootstrap_t(values: Floats, weights: Floats, tasks: NDArray[np.int64]) -> Ends:
    """Bootstrap of the mean over its standard error, redrawn within tasks."""
    tasks = _estimable(tasks)
    times = drawn(tasks)
    means, mean = (times * weights) @ values, weights @ values
    squares = np.zeros_like(means)
    for rows in (np.flatnonzero(tasks == t) for t in np.unique(tasks)):
        n, part = len(rows), times[:, rows]
        spread = part @ values[rows] ** 2 - (part @ values[rows]) ** 2 / n
        squares += weights[rows[0]] ** 2 * n / (n - 1) * spread
    error = np.sqrt(_variance(values, weights, tasks))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.nan_to_num((means - mean) / np.sqrt(np.maximum(squares, 0)), posinf=0, neginf=0)
    low, high = np.quantile(t, [TAIL, 1 - TAIL], axis=0)
    return np.clip(mean - high * error, 0, 1), np.clip(mean - low * error, 0, 1)


def wilson(values: Floats, weights: Floats, tasks: NDArray[np.int64]) -> Ends:
    """Return Wilson's ends with the effective number of prompts and Student's t.

    The number itself is taken where all are equal.
    """
    tasks, mean = _estimable(tasks), weights @ values
    t = float(stdtrit(len(values) - len(np.unique(tasks)), 1 - TAIL))
    k = t * t / _effective(values, weights, tasks)
    center = (mean + k / 2) / (1 + k)
    half = np.sqrt(k * mean * (1 - mean) + k * k / 4) / (1 + k)
    return center - half, center + half


def korn_graubard(values: Floats, weights: Floats, tasks: NDArray[np.int64]) -> Ends:
    """Return Clopper and Pearson's ends with the effective number of prompts, corrected for degrees of freedom."""
    tasks, mean = _estimable(tasks), weights @ values
    free = len(values) - len(np.unique(tasks))
    n = _effective(values, weights, tasks)
    n = n * (stdtrit(len(values) - 1, TAIL) / stdtrit(free, TAIL)) ** 2
    right = mean * n
    with np.errstate(invalid="ignore"):
        low = np.where(mean > 1e-12, betaincinv(right, n - right + 1, TAIL), 0)
        high = np.where(mean < 1 - 1e-12, betaincinv(right + 1, n - right, 1 - TAIL), 1)
    return np.nan_to_num(low), np.nan_to_num(high, nan=1)


def _estimable(tasks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the tasks, or all as one where one has a single prompt."""
    return tasks if np.unique(tasks, return_counts=True)[1].min() > 1 else np.zeros_like(tasks)


def _variance(values: Floats, weights: Floats, tasks: NDArray[np.int64]) -> Floats:
    """Return the variance of the weighted mean, within tasks."""
    found = np.zeros(values.shape[1])
    for rows in (np.flatnonzero(tasks == t) for t in np.unique(tasks)):
        found += weights[rows[0]] ** 2 * len(rows) * values[rows].var(0, ddof=1)
    return found


def _effective(values: Floats, weights: Floats, tasks: NDArray[np.int64]) -> Floats:
    """Return the number of right-or-wrong prompts of the same variance; that of the prompts where there is none."""
    mean, variance = weights @ values, _variance(values, weights, tasks)
    n = np.divide(mean * (1 - mean), variance, out=np.full_like(mean, len(values)), where=variance > 1e-15)
    return np.clip(n, 1e-3, 16 * len(values))


CANDIDATES: dict[str, Method] = {
    "percentile bootstrap (old)": percentile, "BCa bootstrap": bca, "bootstrap-t": bootstrap_t,
    "Wilson, design effect": wilson, "Clopper-Pearson, design effect": korn_graubard,
}  # fmt: skip
