"""Exact expectation of a stop rule: candidates are drawn one after another, and the first score >= tau wins.

After N draws without one, the best of them wins. With m of M candidates that pass, none of k draws passes with probability
C(M-m, k) / C(M, k).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vhsbench.harness.stats.expected import expected_accuracy, ranked, win_probabilities

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Stopped:
    """accuracy: [P], of the pick; draws: [P, N], the probability that 1..N candidates are drawn."""

    accuracy: Floats
    draws: Floats

    @property
    def mean_draws(self) -> Floats:
        """The expected number of candidates, [P]."""
        return np.asarray(self.draws @ np.arange(1, self.draws.shape[1] + 1))


class StopRule:
    """The stop rules of a verifier on pools: scores and verdicts [P, M]. Raises ValueError as `expected_accuracy` does."""

    def __init__(self, scores: ArrayLike, correct: ArrayLike) -> None:
        s, c = (np.atleast_2d(np.asarray(x, dtype=np.float64)) for x in (scores, correct))
        expected_accuracy(s, c)  # checks shapes and values
        self._scores, self._hits = ranked(s, c)
        pools, size = s.shape
        self._passing = np.zeros((pools, size + 1))  # mean verdict of the first m
        self._passing[:, 1:] = np.cumsum(self._hits, axis=1) / np.arange(1, size + 1)

    def stop(self, tau: float, n: int) -> Stopped:
        """Compute what a threshold and at most n candidates give."""
        pools, size = self._scores.shape
        passing = (self._scores >= tau).sum(1)
        k = np.arange(n)
        ratios = np.clip(size - passing[:, None] - k, 0, None) / (size - k)
        none = np.cumprod(np.c_[np.ones(pools), ratios], axis=1)  # [P, n + 1], by the number of draws so far
        draws = -np.diff(none, axis=1)
        draws[:, -1] += none[:, -1]
        found = (1 - none[:, -1]) * self._passing[np.arange(pools), passing]
        for m in np.unique(passing[none[:, -1] > 0]):  # then at least n fail
            rows = passing == m
            found[rows] += none[rows, -1] * (self._hits[rows, m:] @ win_probabilities(size - m)[:, n - 1])
        return Stopped(found, draws)
