"""Exact expectation of best-of-N over all N-subsets of a pool, in place of a single draw.

With the pool ranked by score, the candidate of rank r (1 is best) wins an N-subset of M with
probability C(M-r, N-1) / C(M, N). Candidates of equal score share their ranks' probability.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@lru_cache(maxsize=16)
def win_probabilities(m: int) -> Floats:
    """Tabulate as [M, M] the probability that rank r (row r-1) wins a random N-subset (column N-1)."""
    table = np.zeros((m, m))
    for n in range(1, m + 1):
        p = n / m  # rank 1 wins whenever it is in the subset
        for rank in range(1, m - n + 2):
            table[rank - 1, n - 1] = p
            # C(M-r-1, N-1) / C(M-r, N-1), a ratio of neighbours, so that nothing overflows
            p *= (m - rank - n + 1) / (m - rank) if m > rank else 0.0
    table.setflags(write=False)  # the cache returns this same array to every caller
    return table


def expected_accuracy(scores: ArrayLike, correct: ArrayLike) -> Floats:
    """Compute the probability that the highest-scored of N random candidates is correct, for N = 1..M.

    Where `correct` holds values, such as a judge's or the scores themselves, it is the winner's expected value.
    scores and correct are [M] or [P, M] (P pools); the result is [M] or [P, M].
    Raises ValueError for a NaN score or verdict, an infinite score, or an empty pool.
    """
    s, c = _pools(scores, correct)
    result = ranked(s, c)[1] @ win_probabilities(s.shape[1])
    return result if np.ndim(scores) == 2 else result[0]


def chances(scores: ArrayLike) -> Floats:
    """Compute the probability [M, N] that each of M candidates wins a random N-subset by its score, for N = 1..M."""
    s = np.asarray(scores, dtype=np.float64)
    return expected_accuracy(np.tile(s, (len(s), 1)), np.eye(len(s)))


def ranked(scores: Floats, correct: Floats) -> tuple[Floats, Floats]:
    """Sort pools [P, M] by score, the highest first; candidates of equal score share the mean of their verdicts."""
    order = np.argsort(-scores, axis=1, kind="stable")
    by_score, hits = (np.take_along_axis(x, order, axis=1) for x in (scores, correct))
    return by_score, _share_ties(by_score, hits)


def _share_ties(by_score: Floats, hits: Floats) -> Floats:
    """Replace each verdict by the mean over the candidates of equal score (rows are ranked by score)."""
    starts = np.ones(by_score.shape, dtype=bool)
    starts[:, 1:] = by_score[:, 1:] != by_score[:, :-1]
    group = np.cumsum(starts.ravel()) - 1  # runs over all rows, so no group spans two pools
    mean = np.bincount(group, hits.ravel()) / np.bincount(group)
    return np.asarray(mean[group].reshape(by_score.shape))


def oracle(correct: ArrayLike) -> Floats:
    """Compute the accuracy of the best possible verifier, which is right if any of the N candidates is."""
    return expected_accuracy(np.asarray(correct, dtype=float), correct)


def random_choice(correct: ArrayLike) -> Floats:
    """Compute the accuracy without a verifier: that of a random candidate, whatever N."""
    return expected_accuracy(np.zeros(np.shape(correct)), correct)


def largest_difference(a: ArrayLike, b: ArrayLike, n_a: int, n_b: int) -> float:
    """Bound, over all verdicts, the difference between best-of-n_a by scores a and best-of-n_b by scores b.

    a and b are [P, M]. The bound is 0 where both always pick the same: the same N, and the same scores or N = 1.
    """
    if n_a == n_b and (n_a == 1 or np.array_equal(a, b)):
        return 0.0
    table = win_probabilities(np.shape(a)[-1])
    # by the number of right candidates, 0..M: all of them ranked first, or all ranked last
    best_a, best_b = (np.concatenate([[0.0], np.cumsum(table[:, n - 1])]) for n in (n_a, n_b))
    worst_a, worst_b = 1 - best_a[::-1], 1 - best_b[::-1]
    return min(1.0, float(np.maximum(best_b - worst_a, best_a - worst_b).max()))


def _pools(scores: ArrayLike, correct: ArrayLike) -> tuple[Floats, Floats]:
    s = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    c = np.atleast_2d(np.asarray(correct, dtype=np.float64))
    if s.shape != c.shape or s.ndim != 2 or s.shape[1] == 0:
        raise ValueError(
            f"scores {s.shape} and verdicts {c.shape} must have the same shape and not be empty."
        )
    if not np.isfinite(s).all():
        raise ValueError("a score is not a number (NaN) or infinite; every candidate needs a finite one.")
    if np.isnan(c).any():
        raise ValueError("a verdict is not a number (NaN); every candidate needs a verdict.")
    return s, c
