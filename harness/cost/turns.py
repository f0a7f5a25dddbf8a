"""What calls typically take, from turns of measuring that others slowed more or less.

The time of a call in a turn, the lower quartile of its repeats there, is taken as a time of its own multiplied by how slow
that turn was for every call alike: log(ms) = call + turn, fitted by medians (Tukey's median polish), so that neither
a slow minute nor an outlier moves one pipeline against another. Times are those of a good turn, the lower quartile.
Turns are resampled for intervals, the same ones for all pipelines: what varies between turns enters every interval.
Pipelines that read the same block share the times of its head and tail, which are measured in each of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm, t

from vhsbench.harness.cost.cost_model import CostModel

Floats = NDArray[np.float64]
Key = tuple[str, str, int]  # verifier, stage, n

LEVEL = 0.95
DRAWS = 2000
FEWEST = 3  # turns, below which there is nothing to fit
GOOD = 0.25
_POLISH = 10


@dataclass(frozen=True)
class Turns:
    """Times of calls by turn. calls: log ms of each call in each turn [V], less the turn's own; NaN without a time."""

    calls: Mapping[Key, Floats]
    turns: Floats  # [V]: how slow each turn was, as log of a factor

    def typical_ms(self, key: Key) -> float:
        return float(np.exp(np.nanmedian(self.calls[key]) + np.nanquantile(self.turns, GOOD)))

    def draws_ms(self, key: Key) -> Floats:
        """Return the same by resampled turns, [DRAWS], spread as widely as so few turns call for."""
        weights = _weights(len(self.turns))
        here = self.calls[key]
        count = max(2, int(np.isfinite(here).sum()))
        level = (1 + LEVEL) / 2
        wider = t.ppf(level, count - 1) / norm.ppf(level) * np.sqrt(count / (count - 1))
        drawn = _quantiles(here, weights, 0.5) + _quantiles(self.turns, weights, GOOD)
        middle = np.log(self.typical_ms(key))
        return np.asarray(np.exp(middle + wider * (np.where(np.isnan(drawn), middle, drawn) - middle)))


def fit_turns(rows: pd.DataFrame) -> Turns | None:
    """Fit the sound rows of a generator's pipelines; None for fewer than three turns, or rows that know of none."""
    if "visit" not in rows:
        return None
    rows = rows[rows["visit"].notna() & rows["wall_ms"].notna()]
    times = rows.groupby(["verifier", "stage", "n", "visit"])["wall_ms"].quantile(GOOD).unstack("visit")
    if len(times.columns) < FEWEST:
        return None
    known = pd.DataFrame(np.log(times.to_numpy(float)), times.index, times.columns)
    logs = _shared(known, rows).to_numpy()
    call, turn = np.nanmedian(logs, axis=1), np.zeros(logs.shape[1])
    for _ in range(_POLISH):
        turn = np.nanmedian(logs - call[:, None], axis=0)
        call = np.nanmedian(logs - turn, axis=1)
    return Turns(dict(zip(times.index, logs - turn, strict=True)), turn)


def _shared(logs: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Give pipelines that read the same block one time of its head and tail in each turn, the mean of theirs: the calls are the same."""
    if "block" not in rows:
        return logs
    halves = rows.dropna(subset=["block"])[["verifier", "stage", "n", "block"]].drop_duplicates()
    for _, alike in halves.groupby(["stage", "n", "block"]):
        keys = pd.MultiIndex.from_frame(alike[["verifier", "stage", "n"]])
        logs.loc[keys] = logs.loc[keys].mean().to_numpy()
    return logs


def interval(model: CostModel, n: float) -> tuple[float, float] | None:
    """Return the 95% interval of T(n); None where nothing was resampled."""
    return None if model.draws is None else quantiles(model.draws[:, 0] + n * model.draws[:, 1])


def draws_of_n(model: CostModel, budget: float, tolerance: float) -> Floats | None:
    """Return the N of a budget as resampled turns give them, 0 for none, [DRAWS]; None where nothing was resampled.

    Those of one run's models are of the same turns.
    """
    if model.draws is None:
        return None
    each = np.maximum(model.draws[:, 1], np.finfo(float).tiny)
    return np.maximum(np.floor((budget * (1 + tolerance) - model.draws[:, 0]) / each + 1e-9), 0)


def range_of_n(model: CostModel, budget: float, tolerance: float) -> tuple[int, int] | None:
    """Return the N of a budget at both ends of a 95% interval, 0 for none; None where nothing was resampled."""
    if (n := draws_of_n(model, budget, tolerance)) is None:
        return None
    low, high = np.quantile(n, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="inverted_cdf")
    return int(low), int(high)


def ratio_interval(a: CostModel, b: CostModel) -> tuple[float, float] | None:
    """Return the 95% interval of a's time for a candidate over b's, paired by turn."""
    if a.draws is None or b.draws is None:
        return None
    return quantiles(a.draws[:, 1] / b.draws[:, 1])


def quantiles(values: Floats) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def draw_model(turns: Turns, fixed: Sequence[Key], per_candidate: Sequence[Key]) -> Floats:
    """Return the fixed and per-candidate cost as resampled turns give them, [DRAWS, 2]."""
    return np.stack(
        [sum((turns.draws_ms(k) for k in part), np.zeros(DRAWS)) for part in (fixed, per_candidate)], 1
    )


@cache
def _weights(turns: int) -> NDArray[np.int64]:
    """Draw turns: how often each turn is in each draw, [DRAWS, turns]."""
    draws = np.random.default_rng(0).multinomial(turns, np.full(turns, 1 / turns), size=DRAWS)
    draws.setflags(write=False)  # the cache hands out this very array
    return draws


def _quantiles(values: Floats, weights: NDArray[np.int64], share: float) -> Floats:
    """Return a quantile of values in each draw of turns, [DRAWS]; NaN where none of them has a value."""
    order = np.argsort(values, kind="stable")[: int(np.isfinite(values).sum())]
    ordered, total = values[order], np.cumsum(weights[:, order], axis=1)
    wanted = share * (total[:, -1:] - 1)  # as numpy's linear quantile of the repeated values
    below = np.argmax(total > np.floor(wanted), axis=1)
    above = np.argmax(total > np.ceil(wanted), axis=1)
    rest = (wanted - np.floor(wanted))[:, 0]
    found = (1 - rest) * ordered[below] + rest * ordered[above]
    return np.where(total[:, -1] > 0, found, np.nan)
