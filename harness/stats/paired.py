"""Paired tests clustered by prompt, corrections for multiple tests, and what a pool can detect."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest, norm, rankdata

from vhsbench.harness.stats.intervals import auc

Floats = NDArray[np.float64]

POWER = 0.8
PERMUTATIONS = 9999
_PERMUTATIONS_EACH = (
    50  # of a family: more than 2 / 0.05, as the smallest two-sided p-value is 2 / (permutations + 1)
)
ROUNDING = 1e-9  # two sums of the same accuracies in another order differ by less: no difference


def sign_flip(differences: ArrayLike, permutations: int = PERMUTATIONS, seed: int = 0) -> Floats:
    """Compute one-sided p-values [K] that the mean of differences [P, K] (a row per prompt) is not below zero.

    If two verifiers are exchangeable, exchanging them on a prompt changes only the sign of its difference.
    The given signs count as one of the permutations, so p is never zero and the test is never anti-conservative.
    """
    return _sign_flips(differences, permutations, seed)[0]


def _sign_flips(differences: ArrayLike, permutations: int, seed: int) -> tuple[Floats, Floats]:
    """Return the one-sided p-values [K] of `sign_flip` for these differences, and for their opposites."""
    d = np.asarray(differences, dtype=np.float64)
    d = np.where(np.abs(d) < ROUNDING, 0.0, d)
    observed = d.sum(0)
    rng = np.random.default_rng(seed)
    below, above = np.ones(d.shape[1]), np.ones(d.shape[1])
    slack = 1e-9 * np.abs(d).sum(0)  # the same numbers summed in another order count as equal
    for start in range(0, permutations, 1000):
        signs = rng.integers(0, 2, (min(1000, permutations - start), len(d)), np.int8)
        sums = (2.0 * signs - 1.0) @ d
        below += (sums <= observed + slack).sum(0)
        above += (sums >= observed - slack).sum(0)
    return below / (permutations + 1), above / (permutations + 1)


def least_p(prompts: int, permutations: int) -> float:
    """Return the smallest p-value that `sign_flip` is expected to give, however large the loss."""
    return max(0.5**prompts, 1 / (permutations + 1))


def holm(p: ArrayLike) -> Floats:
    """Adjust the p-values of a family by Holm's method; rejecting those up to alpha keeps the family's error at alpha."""
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    steps = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def mcnemar(baseline: ArrayLike, candidate: ArrayLike) -> tuple[int, int, float]:
    """Compare the verdicts of picks, [P] or [P, S] (S seeds of a prompt): (lost, won, two-sided exact p).

    A prompt is lost if fewer of its picks are right than the baseline's. With one seed this is
    McNemar's exact test; with more it is the sign test over prompts, as seeds are not independent.
    """
    change = np.asarray(candidate, dtype=np.int64) - np.asarray(baseline, dtype=np.int64)
    change = change.reshape(len(change), -1).sum(1)
    lost, won = int((change < 0).sum()), int((change > 0).sum())
    p = float(binomtest(lost, lost + won).pvalue) if lost + won else 1.0
    return lost, won, p


def auc_permutation(
    baseline: ArrayLike, candidate: ArrayLike, correct: ArrayLike, permutations: int = 1999, seed: int = 0
) -> tuple[float, float, float]:
    """Compare AUCs of rows [P, C], a row per prompt: (baseline's, candidate's, one-sided p that it is not below).

    All candidates of a prompt exchange their verifiers together. Ranks stand for scores, so verifiers
    of different scales can be exchanged. NaN where one class is empty.
    """
    c = np.asarray(correct, dtype=bool)
    a, b = (rankdata(np.asarray(s, dtype=np.float64)).reshape(c.shape) for s in (baseline, candidate))
    auc_a, auc_b = auc(a.ravel(), c.ravel()), auc(b.ravel(), c.ravel())
    if math.isnan(auc_a):
        return auc_a, auc_b, math.nan
    rng = np.random.default_rng(seed)
    as_low, chunk = 1, max(1, 1_000_000 // c.size)
    for start in range(0, permutations, chunk):
        swap = rng.integers(0, 2, (min(chunk, permutations - start), len(c), 1), np.int8).astype(bool)
        moved = _aucs(np.where(swap, a, b), c) - _aucs(np.where(swap, b, a), c)
        as_low += int((moved <= auc_b - auc_a + 1e-12).sum())
    return auc_a, auc_b, as_low / (permutations + 1)


def _aucs(scores: Floats, correct: NDArray[np.bool_]) -> Floats:
    """Compute the AUCs [B] of scores [B, P, C] for the same verdicts [P, C]."""
    right = correct.ravel()
    ranks = rankdata(scores.reshape(len(scores), -1), axis=1)[:, right].sum(1)
    n = int(right.sum())
    return np.asarray((ranks - n * (n + 1) / 2) / (n * (right.size - n)))


def standard_error(values: ArrayLike, strata: ArrayLike) -> float:
    """Estimate the standard error of the mean of values [P], drawn within strata (tasks); NaN if each is alone in its own."""
    v, labels = np.asarray(values, dtype=np.float64), np.asarray(strata)
    variance, used = 0.0, False
    for label in np.unique(labels):
        part = v[labels == label]
        if len(part) > 1:
            variance, used = variance + len(part) * float(part.var(ddof=1)), True
    return math.sqrt(variance) / len(v) if used else math.nan


def detectable(error: float, alpha: float) -> float:
    """Compute the difference that is detected with 80% power at one-sided level alpha, given its standard error."""
    return float((norm.isf(alpha) + norm.ppf(POWER)) * error)


def prompts_needed(prompts: int, error: float, margin: float, alpha: float) -> int | None:
    """Compute how many such prompts detect a difference of `margin` with 80% power; None if unknown."""
    if not error > ROUNDING or not margin > ROUNDING:
        return None
    return math.ceil(prompts * (detectable(error, alpha) / margin) ** 2)


def sign_flip_two_sided(differences: ArrayLike, permutations: int = PERMUTATIONS, seed: int = 0) -> Floats:
    """Compute two-sided p-values [K] that the mean of differences [P, K] is zero: twice the smaller one-sided."""
    lower, upper = _sign_flips(differences, permutations, seed)
    return np.asarray(np.minimum(1.0, 2 * np.minimum(lower, upper)))


def family(differences: Sequence[ArrayLike], seed: int = 0) -> tuple[Floats, Floats]:
    """Test that the means of differences, each [P] by prompt, are zero: two-sided p-values, and these corrected for all.

    A large family gets more permutations, or no p-value could be below 0.05 once it is corrected by Holm's method.
    """
    rows = [np.asarray(one, dtype=np.float64) for one in differences]
    permutations = max(PERMUTATIONS, _PERMUTATIONS_EACH * len(rows))
    p = np.ones(len(rows))
    for size in {len(one) for one in rows}:
        places = [i for i, one in enumerate(rows) if len(one) == size]
        p[places] = sign_flip_two_sided(np.stack([rows[i] for i in places], 1), permutations, seed)
    return p, holm(p)


def seeds_needed(by_seed: ArrayLike, error: float, margin: float, alpha: float) -> int | None:
    """Compute how many seeds a prompt detect a difference of `margin` with 80% power, with the same prompts.

    by_seed: differences [P, S], S seeds of a prompt; error: the standard error of their mean. None if unknown (one
    seed) or if no number of seeds is enough, as prompts vary too.
    """
    d = np.asarray(by_seed, dtype=np.float64)
    prompts, seeds = d.shape
    if seeds < 2 or not error > ROUNDING or not margin > ROUNDING:
        return None
    of_seeds = float(d.var(axis=1, ddof=1).mean()) / prompts  # the part of error^2 that one seed a prompt has
    wanted = (error * margin / detectable(error, alpha)) ** 2
    left = wanted - (error**2 - of_seeds / seeds)
    return math.ceil(of_seeds / left) if left > 0 else None
