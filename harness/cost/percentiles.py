"""What repeats of a time say: median with its interval, percentiles above their sample floors, drift."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import binom

CONFIDENCE = 0.99  # MLPerf LoadGen's, for percentiles
DRIFT = 0.05  # medians of the two halves further apart than this are reported as unstable
MEDIAN_CONFIDENCE = 0.95


@functools.cache
def sample_floor(percentile: float) -> int:
    """Return the fewest samples for a percentile, as MLPerf LoadGen's: 64 for 90, 130 for 95, 662 for 99.

    With these, no more than one sample above the true percentile has a chance of at most 1%.
    """
    above = 1 - percentile / 100
    n = 2
    while binom.cdf(1, n, above) > 1 - CONFIDENCE:
        n += 1
    return n


def percentile(values: Sequence[float], wanted: float) -> float | None:
    """Return the percentile (nearest rank); None below its sample floor."""
    if len(values) < sample_floor(wanted):
        return None
    return float(np.percentile(values, wanted, method="inverted_cdf"))


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95% interval of the median from order statistics, no distribution assumed; None below 6 samples."""
    below = int(binom.ppf((1 - MEDIAN_CONFIDENCE) / 2, len(values), 0.5))
    if below < 1:
        return None
    ordered = np.sort(values)
    return float(ordered[below - 1]), float(ordered[-below])


def drift(values: Sequence[float]) -> float:
    """Return the median of the later half over that of the earlier, less 1; 0 below 8 samples."""
    if len(values) < 8:
        return 0.0
    half = len(values) // 2
    return float(np.median(values[half:]) / np.median(values[:half]) - 1)


def summary(values: Sequence[float]) -> dict[str, float | int | None]:
    """Return everything above of times in ms, by column name; no values leave all but the count empty."""
    known = [float(v) for v in values if not math.isnan(v)]
    low, high = (median_interval(known) or (None, None)) if known else (None, None)
    return {
        "median_ms": float(np.median(known)) if known else None,
        "low_ms": low,
        "high_ms": high,
        "min_ms": min(known, default=None),
        "max_ms": max(known, default=None),
        **{f"p{p}_ms": percentile(known, p) for p in (90, 95, 99)},
        "repeats": len(known),
    }
