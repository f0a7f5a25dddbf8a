"""Where two measures of the same winners part as N grows, and how their means change, with intervals by prompt.

A measure falls from its peak: the last N at which its mean is the highest. Two part at the earlier of their peaks.
Intervals are those of a bootstrap that draws prompts, the same ones for all measures and N.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vhsbench.harness.stats.intervals import LEVEL, Floats

NONE = np.inf  # the N of measures that do not part within the pool

_DRAWS = 2000
_ROUNDING = 1e-9  # of the largest value


@dataclass(frozen=True)
class Parting:
    """The N at which two measures part and its interval; NONE where they do not, NaN where it is unknown.

    falls: the place, 0 or 1, of the one that peaks there; None where they do not part.
    """

    at: float
    low: float
    high: float
    falls: int | None


class Drawn:
    """Means over prompts of a measure by N, as observed and in bootstrap draws of the prompts."""

    def __init__(self, weights: Sequence[float] | Floats, draws: int = _DRAWS, seed: int = 0) -> None:
        """Draw prompts that count by their weights [P]; one prompt cannot be drawn, and has no intervals."""
        self._weights = np.asarray(weights, dtype=np.float64)
        count = len(self._weights)
        times = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), draws)
        drawn = times * self._weights
        self._shares = drawn / drawn.sum(1, keepdims=True)

    def mean(self, values: Floats) -> Floats:
        """Average values [P, M] over prompts: [M]."""
        return np.asarray(self._weights @ values / self._weights.sum())

    def change(self, values: Floats) -> tuple[Floats, Floats, Floats]:
        """Return how the mean of values [P, M] differs from that at N = 1, and the ends of its interval, each [M]."""
        differences = values - values[:, :1]
        return (self.mean(differences), *self._ends(self._shares @ differences))

    def parting(self, first: Floats, second: Floats) -> Parting:
        """Find the N at which two measures [P, M] part."""
        sizes = [float(np.abs(values).max()) for values in (first, second)]
        a, b = (_peak(self.mean(v), size) for v, size in zip((first, second), sizes, strict=True))
        drawn = [_peak(self._shares @ v, size) for v, size in zip((first, second), sizes, strict=True)]
        beyond = first.shape[1] + 1  # stands for NONE, as infinity has no neighbours to interpolate with
        parted = np.where(drawn[0] == drawn[1], beyond, np.minimum(*drawn)).astype(float)
        low, high = (NONE if end >= beyond else float(end) for end in self._ends(parted))
        if a == b:
            return Parting(NONE, low, high, None)
        return Parting(float(min(a, b)), low, high, 0 if a < b else 1)

    def _ends(self, drawn: Floats) -> tuple[Floats, Floats]:
        """Return the limits of draws [B, ...]: observed values, the outer ones."""
        tail = (1 - LEVEL) / 2
        if len(self._weights) < 2:
            return np.full(drawn.shape[1:], np.nan), np.full(drawn.shape[1:], np.nan)
        low = np.quantile(drawn, tail, axis=0, method="lower")
        return np.asarray(low), np.asarray(np.quantile(drawn, 1 - tail, axis=0, method="higher"))


def _peak(means: Floats, size: float) -> NDArray[np.intp]:
    """Return the last N at which means [..., M] are the highest, but for rounding of values of that size."""
    high = means >= means.max(-1, keepdims=True) - _ROUNDING * size
    return np.asarray(means.shape[-1] - np.argmax(high[..., ::-1], axis=-1))
