"""How accuracy grows with what is spent: area over log time, time to an accuracy, share of the oracle's headroom."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from vhsbench.harness.cost.cost_model import CostModel
from vhsbench.harness.cost.turns import interval
from vhsbench.harness.report.verdict import ONE_IMAGE, Contest, widened
from vhsbench.harness.stats.intervals import Floats, Interval, clustered_mean, paired_difference
from vhsbench.harness.stats.paired import family

AREA = ["verifier", "from_ms", "to_ms", "area", "low", "high", "behind", "behind_low", "behind_high", "p_holm"]  # fmt: skip
TIME_TO = ["verifier", "accuracy", "best_of_n", "time_ms", "time_low", "time_high"]
HEADROOM = ["verifier", "best_of_n", "headroom_percent", "low", "high", "seeds_sd"]
_SHARES = np.linspace(0.0, 1.0, 201)  # at which the interval of a share is looked for
_TARGET_STEP = 5.0  # percent


def area_over_log_time(contest: Contest, models: Mapping[str, CostModel]) -> pd.DataFrame:
    """Average the accuracy (percent) over the logarithm of time, from where all verifiers afford one candidate.

    The range ends where the first of them has used up the pool; at each time a verifier takes the largest N within it.
    `behind` is the best verifier's area less this one's, in points, paired by prompt; p_holm is two-sided. The columns
    are AREA; no rows where the range is empty.
    """
    pool = contest.grid.correct.shape[1]
    judged = {v: m for v, m in models.items() if v != ONE_IMAGE and m.per_candidate > 0}
    if not judged:
        return pd.DataFrame(columns=AREA)
    start, end = max(m.predict(1) for m in judged.values()), min(m.predict(pool) for m in judged.values())
    if not 0 < start < end:
        return pd.DataFrame(columns=AREA)
    sides = [_Area.of(contest, v, m, pool, start, end) for v, m in judged.items()]
    ranked = sorted(sides, key=lambda side: -side.rows.mean())
    rows = []
    for side, p in zip(ranked, _p_against_first(contest, [side.rows for side in ranked]), strict=True):
        behind = (math.nan,) * 3 if side is ranked[0] else _behind(contest, ranked[0], side)
        rows.append((side.verifier, start, end, *_mean(contest, side), *behind, p))
    return pd.DataFrame(rows, columns=AREA)


@dataclass(frozen=True)
class _Area:
    """A verifier's areas in 0..1 by row [R], the shares of N [M], and its mean area by resampled turns, in percent."""

    verifier: str
    rows: Floats
    weights: Floats
    draws: Floats | None

    @classmethod
    def of(
        cls, contest: Contest, verifier: str, model: CostModel, pool: int, start: float, end: float
    ) -> _Area:
        weights = _weights(np.array([[model.fixed, model.per_candidate]]), pool, start, end)[0]
        drawn = None if model.draws is None else _weights(model.draws, pool, start, end)
        means = None if drawn is None else np.asarray(100 * drawn @ contest.mean(verifier))
        return cls(verifier, contest.expected(verifier) @ weights, weights, means)


def _mean(contest: Contest, area: _Area) -> tuple[float, float, float]:
    found = clustered_mean(area.rows, prompts=contest.grid.prompts, tasks=contest.grid.tags)
    return _percent(found, area.draws)


def _behind(contest: Contest, first: _Area, other: _Area) -> tuple[float, float, float]:
    a, b = (contest.scores(side.verifier) for side in (first, other))
    same = np.array_equal(a, b) and np.array_equal(first.weights, other.weights)
    grid = contest.grid
    found = paired_difference(
        first.rows, other.rows, largest=0.0 if same else 1.0, prompts=grid.prompts, tasks=grid.tags
    )
    both = None if first.draws is None or other.draws is None else first.draws - other.draws
    return _percent(found, both)


def _percent(found: Interval, draws: Floats | None) -> tuple[float, float, float]:
    mean, low, high = found.percent
    return mean, *widened(mean, low, high, draws)


def _weights(models: Floats, pool: int, start: float, end: float) -> Floats:
    """Return which share of log time from start to end has each N, [B, M], for models [B, 2] of fixed and per candidate."""
    n = np.arange(1, pool + 1)
    times = np.maximum(models[:, :1] + n * models[:, 1:], np.finfo(float).tiny)
    edges = np.log(np.clip(np.c_[times, np.full(len(times), np.inf)], start, end))
    edges[:, 0] = math.log(
        start
    )  # a draw whose first candidate ends after the start has one there all the same
    return np.asarray(np.diff(edges, axis=1) / math.log(end / start))


def _p_against_first(contest: Contest, areas: Sequence[Floats]) -> list[float]:
    _, corrected = family([contest.per_prompt(areas[0] - other) for other in areas[1:]])
    return [math.nan, *map(float, corrected)]


def time_to_accuracy(curves: pd.DataFrame, models: Mapping[str, CostModel]) -> pd.DataFrame:
    """Tabulate the least time (ms) in which each verifier reaches round accuracies (percent), with 95% intervals.

    curves: overall rows of one pool. The interval ends where the accuracy's own limits reach it; an end beyond the pool
    is NaN, and an accuracy that a verifier does not reach has no row. The columns are TIME_TO.
    """
    curves = curves[curves["verifier"].isin([v for v in models if v != ONE_IMAGE])]
    if curves.empty:
        return pd.DataFrame(columns=TIME_TO)
    least, most = curves.loc[curves["n"] == 1, "accuracy"].min(), curves["accuracy"].max()
    targets = (
        np.arange(math.floor(least / _TARGET_STEP) + 1, math.floor(most / _TARGET_STEP) + 1) * _TARGET_STEP
    )
    rows = []
    for target in targets:
        for verifier, curve in curves.groupby("verifier", sort=False):
            model, curve = models[str(verifier)], curve.sort_values("n")
            soonest, n, latest = (_first_n(curve, c, target) for c in ("high", "accuracy", "low"))
            if n is None:
                continue
            low = None if soonest is None else interval(model, soonest) or (model.predict(soonest),) * 2
            high = None if latest is None else interval(model, latest) or (model.predict(latest),) * 2
            ends = (low[0] if low else math.nan, high[1] if high else math.nan)
            rows.append((verifier, float(target), n, model.predict(n), *ends))
    return pd.DataFrame(rows, columns=TIME_TO)


def _first_n(curve: pd.DataFrame, column: str, target: float) -> int | None:
    reached = curve.loc[curve[column] >= target - 1e-9, "n"]
    return int(reached.iloc[0]) if len(reached) else None


def headroom(contest: Contest, rows: pd.DataFrame) -> pd.DataFrame:
    """Tabulate how much of the way from one image to the oracle each verifier goes, in percent, at its N.

    rows: a budget table's of one budget and pool. The interval is Fieller's, by prompt. seeds_sd is the standard
    deviation in points of overall accuracy between seeds, NaN for one seed. The columns are HEADROOM.
    """
    found = []
    for verifier, n in rows[["verifier", "best_of_n"]].itertuples(index=False):
        if verifier == ONE_IMAGE or pd.isna(n):
            continue
        here = contest.expected(verifier)[:, int(n) - 1]
        gained = here - contest.expected(ONE_IMAGE)[:, 0]
        possible = contest.oracle[:, int(n) - 1] - contest.expected(ONE_IMAGE)[:, 0]
        by_seed = contest.by_seed(100 * here)
        spread = math.nan if by_seed is None or by_seed.shape[1] < 2 else float(by_seed.mean(0).std(ddof=1))
        found.append((verifier, int(n), *_share(contest, gained, possible), spread))
    return pd.DataFrame(found, columns=HEADROOM)


def _share(contest: Contest, gained: Floats, possible: Floats) -> tuple[float, float, float]:
    """Return mean(gained) / mean(possible) in percent with the shares at which their difference may be zero."""
    whole = contest.per_prompt(possible).mean()
    if not whole > 0:
        return (math.nan,) * 3
    value = contest.per_prompt(gained).mean() / whole
    gap = paired_difference(
        np.repeat(gained[:, None], len(_SHARES), 1), possible[:, None] * _SHARES, largest=1 + _SHARES,
        prompts=contest.grid.prompts, tasks=contest.grid.tags,
    )  # fmt: skip
    fits = _SHARES[(gap.low <= 0) & (gap.high >= 0)]
    if np.isnan(gap.low).all():
        return 100 * value, math.nan, math.nan
    low, high = (min(value, fits.min()), max(value, fits.max())) if len(fits) else (value, value)
    return 100 * value, 100 * low, 100 * high
