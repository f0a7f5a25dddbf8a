"""How sure measured times are: turns of measuring resampled, so that what varies between turns enters every interval."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm, t

from vhsbench.harness.cost.cost_model import CostModel

Floats = NDArray[np.float64]

LEVEL = 0.95
DRAWS = 2000
_FEWEST = 3  # turns, below which there is no interval


def draw_models(
    rows: pd.DataFrame, column: str, fixed: Mapping[str, float], per_candidate: Mapping[str, float]
) -> Floats | None:
    """[DRAWS, 2]: fixed and per-candidate cost by resampled turns; None for fewer than three turns.

    rows: sound rows with `stage`, `visit` and `column`; `fixed` and `per_candidate`: the medians of the stages
    that each is the sum of. All pipelines of a run are drawn with the same turns.
    """
    rows = rows[rows["visit"].notna() & rows[column].notna()]
    turns = int(rows["visit"].max()) + 1 if len(rows) else 0
    here = rows.groupby("stage")["visit"].nunique()
    fewest = int(here.reindex([*fixed, *per_candidate]).fillna(0).min())
    if fewest < _FEWEST:
        return None
    weights = _weights(turns)
    wider = float(
        t.ppf((1 + LEVEL) / 2, fewest - 1) / norm.ppf((1 + LEVEL) / 2) * np.sqrt(fewest / (fewest - 1))
    )
    drawn = np.zeros((DRAWS, 2))
    for part, medians in enumerate((fixed, per_candidate)):
        for stage, median in medians.items():
            of_stage = rows[rows["stage"] == stage]
            found = _medians(of_stage[column].to_numpy(float), of_stage["visit"].to_numpy(int), weights)
            drawn[:, part] += median + wider * (np.where(np.isnan(found), median, found) - median)
    return drawn


def interval(model: CostModel, n: float) -> tuple[float, float] | None:
    """95% interval of T(n); None where nothing was resampled."""
    return None if model.draws is None else quantiles(model.draws[:, 0] + n * model.draws[:, 1])


def range_of_n(model: CostModel, budget: float, tolerance: float) -> tuple[int, int] | None:
    """The N that a budget affords at both ends of a 95% interval, 0 for none; None where nothing was resampled."""
    if model.draws is None:
        return None
    each = np.maximum(model.draws[:, 1], np.finfo(float).tiny)
    n = np.maximum(np.floor((budget * (1 + tolerance) - model.draws[:, 0]) / each + 1e-9), 0)
    low, high = np.quantile(n, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="inverted_cdf")
    return int(low), int(high)


def ratio_interval(a: CostModel, b: CostModel) -> tuple[float, float] | None:
    """95% interval of a's time for a candidate over b's, paired by turn."""
    if a.draws is None or b.draws is None:
        return None
    return quantiles(a.draws[:, 1] / b.draws[:, 1])


def quantiles(values: Floats) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


@cache
def _weights(turns: int) -> NDArray[np.int64]:
    """[DRAWS, turns]: how often each turn is in each draw."""
    draws = np.random.default_rng(0).multinomial(turns, np.full(turns, 1 / turns), size=DRAWS)
    draws.setflags(write=False)  # the cache hands out this very array
    return draws


def _medians(values: Floats, turns: NDArray[np.int_], weights: NDArray[np.int64]) -> Floats:
    """[DRAWS]: the median of values in each draw of turns; NaN where none of them has a value."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    total = np.cumsum(weights[:, turns[order]], axis=1)
    half = total[:, -1:] / 2
    lower = np.argmax(total >= half, axis=1)
    upper = np.argmax(total > half, axis=1)  # another where half of the values lie below it
    medians = (ordered[lower] + ordered[upper]) / 2
    return np.where(total[:, -1] > 0, medians, np.nan)
