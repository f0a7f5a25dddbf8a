"""95% intervals by prompt that hold for few prompts and at 0 and 100%: of means, differences, shares and AUCs.

All use one limit: the mean of the observed prompts varies by chance, and one more, unobserved prompt takes a random
weight, Beta(1, n), at the worst possible value. For prompts that are right or wrong this is the interval of Clopper
and Pearson; docs/methods.md derives it and shows how often it covers the truth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, ndtri, stdtrit

from vhsbench.verifiers.metrics import auc as auc

Floats = NDArray[np.float64]
Number = float | Floats

LEVEL = 0.95
MIN_TASK = 4  # prompts of a task; with fewer, its own variance is too uncertain to use
_ROUNDING = 1e-9  # of the largest value


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its interval, each [K]; n is the number of prompts.

    The interval of a single prompt is NaN: one prompt says nothing about how prompts vary.
    """

    mean: Floats
    low: Floats
    high: Floats
    n: int

    @property
    def percent(self) -> tuple[float, float, float]:
        """The mean and its ends in percent, of a single value."""
        return 100 * float(self.mean[0]), 100 * float(self.low[0]), 100 * float(self.high[0])


class Grouping(TypedDict, total=False):
    """How rows are grouped before a mean is taken, and the level of its interval.

    prompts [R]: each row's prompt; the rows (seeds) of a prompt are averaged first. By default every row is a prompt.
    tasks [R]: each row's task; the variance is that of prompts within tasks.
    by_task: take the mean of the tasks' means (GenEval's overall), not the mean over prompts (the paper's).
    level: 0.95 by default.
    """

    prompts: ArrayLike
    tasks: ArrayLike
    by_task: bool
    level: float


def clustered_mean(values: ArrayLike, most: float = 1.0, **grouping: Unpack[Grouping]) -> Interval:
    """Average values [R] or [R, K] in 0..most over prompts, with an interval.

    Raises ValueError for no values, one that is not a number or out of range, or labels of another length.
    """
    sample = _Sample.of(values, **grouping)
    sample.check_range(0.0, most)
    return sample.interval(0.0, most)


def paired_difference(
    a: ArrayLike, b: ArrayLike, largest: ArrayLike = 1.0, **grouping: Unpack[Grouping]
) -> Interval:
    """Average a - b, two verifiers on the same rows; the interval is narrow, as hard prompts cancel.

    `largest`, a number or [K], is how much two values can differ (vhsbench.harness.stats.expected.largest_difference).
    An unobserved prompt is taken to differ as much as the prompts that do differ may on average: by `largest` where
    there are few of them. Raises ValueError as `clustered_mean` does, and if shapes differ.
    """
    if np.shape(a) != np.shape(b):
        raise ValueError(f"a pair needs the same rows: {np.shape(a)} and {np.shape(b)}.")
    sample = _Sample.of(np.subtract(a, b, dtype=np.float64), **grouping)
    far = np.broadcast_to(np.asarray(largest, dtype=np.float64), sample.values.shape[1:])
    sample.check_range(-far, far)
    unseen = _typical_size(np.abs(sample.values), far, sample.tail)
    return sample.interval(-unseen, unseen)


def pooled_share(right: ArrayLike, prompts: ArrayLike, level: float = LEVEL) -> Interval:
    """Compute the share of right rows [R], of equal weight, whose prompts have different numbers of rows.

    The interval of a single prompt is NaN. Raises ValueError for no rows or labels of another length.
    """
    v = _columns(right)
    ids, prompt, rows = np.unique(_labels(prompts, len(v)), return_inverse=True, return_counts=True)
    mean = v.mean(0)
    if len(ids) < 2:
        return _unknown(mean, len(ids))
    shares, weights = average_by_prompt(v, prompt), rows / rows.sum()
    n = 1 / float(np.sum(weights**2))  # prompts of equal weight with as much information
    seen = Seen(mean, _variance_of_all(shares, weights, mean, n), n, shares.min(0), shares.max(0))
    return Interval(mean, *seen.limits(0.0, 1.0, (1 - level) / 2), len(ids))


def auc_interval(scores: ArrayLike, correct: ArrayLike, prompts: ArrayLike, level: float = LEVEL) -> Interval:
    """Compute the area under the ROC curve of rows [R], clustered by prompt.

    The value of a right row is the share of wrong rows below it, that of a wrong row the share of right rows above
    it; the deviations of a prompt's rows are summed. NaN where one class is empty, or for a single prompt.
    """
    s, right = np.asarray(scores, dtype=np.float64), np.asarray(correct, dtype=bool)
    ids, prompt = np.unique(_labels(prompts, len(s)), return_inverse=True)
    mean = np.array([auc(s, right)])
    if len(ids) < 2 or np.isnan(mean[0]):
        return _unknown(mean, len(ids))
    _, value = np.unique(s, return_inverse=True)
    rights, wrongs = np.bincount(value, right), np.bincount(value, ~right)
    wrong_below = (np.cumsum(wrongs) - wrongs / 2)[value] / wrongs.sum()
    right_above = 1 - (np.cumsum(rights) - rights / 2)[value] / rights.sum()
    weight = np.where(right, 1 / rights.sum(), 1 / wrongs.sum())
    apart = np.bincount(prompt, weight * (np.where(right, wrong_below, right_above) - mean[0]))
    # half the prompts of equal weight: a misranked one counts twice, by its right and its wrong rows
    n = 2 / float(np.sum(np.bincount(prompt, weight) ** 2))
    spread = np.array([np.sum(apart**2) * len(ids) / (len(ids) - 1)])
    spread = np.minimum(spread, mean * (1 - mean) / (n + 1))
    seen = Seen(mean, spread, n, np.zeros(1), np.ones(1))
    return Interval(mean, *seen.limits(0.0, 1.0, (1 - level) / 2), len(ids))


def average_by_prompt(values: Floats, prompts: ArrayLike) -> Floats:
    """Average the rows [R, K] of each prompt: [P, K], in sorted order of prompts."""
    ids, prompt = np.unique(np.asarray(prompts), return_inverse=True)
    total = np.zeros((len(ids), values.shape[1]))
    np.add.at(total, prompt, values)
    return np.asarray(total / np.bincount(prompt)[:, None])


def brackets(low: float | None, high: float | None, form: str = ".1f") -> str:
    """Format an interval as " [low, high]", or as "" where it is unknown (None or NaN)."""
    if low is None or high is None or np.isnan(low) or np.isnan(high):
        return ""
    unsigned = form.replace(".", "z.", 1)  # what is rounded to zero has no sign
    return f" [{low:{unsigned}}, {high:{unsigned}}]"


def missed_share(prompts: int, level: float = LEVEL) -> float:
    """Compute the largest share of all prompts that a sample may well miss: the upper limit of 0 of n."""
    return 1.0 - ((1 - level) / 2) ** (1 / prompts)


def _columns(values: ArrayLike) -> Floats:
    v = np.asarray(values, dtype=np.float64)
    v = v[:, None] if v.ndim == 1 else v
    if v.ndim != 2 or v.size == 0 or np.isnan(v).any():
        raise ValueError(f"values {v.shape} must be [R] or [R, K], not empty, all numbers.")
    return v


def _labels(prompts: ArrayLike, rows: int) -> NDArray[Any]:
    labels = np.asarray(prompts)
    if len(labels) != rows:
        raise ValueError(f"{rows} values have {len(labels)} prompts.")
    return labels


def _unknown(mean: Floats, n: int) -> Interval:
    return Interval(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan), n)


@dataclass(frozen=True)
class _Sample:
    """Values [P, K] of prompts and their tasks [P]; an interval leaves out `tail` on either side."""

    values: Floats
    tasks: NDArray[Any]
    by_task: bool
    tail: float

    @classmethod
    def of(cls, values: ArrayLike, **grouping: Unpack[Grouping]) -> _Sample:
        """Average rows by prompt. Raises ValueError for no values, a NaN, or labels of another length."""
        v = _columns(values)
        ids = np.asarray(grouping.get("prompts", np.arange(len(v))))
        tasks = np.asarray(grouping.get("tasks", np.zeros(len(v))))
        if not len(v) == len(ids) == len(tasks):
            raise ValueError(f"{len(v)} values have {len(ids)} prompts and {len(tasks)} tasks.")
        of_prompt = tasks[np.unique(ids, return_index=True)[1]]
        tail = (1 - grouping.get("level", LEVEL)) / 2
        return cls(average_by_prompt(v, ids), of_prompt, grouping.get("by_task", False), tail)

    def check_range(self, least: Number, most: Number) -> None:
        """Raise ValueError for a value outside least..most, each a number or [K]."""
        slack = _ROUNDING * np.maximum(1.0, np.abs(most))
        if (self.values < least - slack).any() or (self.values > most + slack).any():
            raise ValueError(f"values must lie between {np.min(least):g} and {np.max(most):g}.")

    def interval(self, low: Number, high: Number) -> Interval:
        """Compute the mean's interval where an unobserved prompt's value lies between low and high."""
        values = self.values
        tasks = [np.flatnonzero(self.tasks == label) for label in np.unique(self.tasks)]
        means = [values[rows].mean(0) for rows in tasks]
        mean = np.mean(means, axis=0) if self.by_task else values.mean(0)
        if len(values) < 2:
            return _unknown(mean, len(values))
        weights = np.full(len(values), 1 / len(values))
        if self.by_task:
            for rows in tasks:
                weights[rows] = 1 / (len(tasks) * len(rows))
        variance = _variance(values, weights, mean, tasks, self.tail)
        seen = Seen(mean, variance, 1 / weights.max(), values.min(0), values.max(0))
        return Interval(mean, *seen.limits(low, high, self.tail), len(values))


def _variance(
    values: Floats, weights: Floats, mean: Floats, tasks: list[NDArray[np.intp]], tail: float
) -> Floats:
    """Estimate the variance of the weighted mean of values [P, K]: the smaller of that within tasks and that over all.

    The variance within tasks is uncertain and so widened by Student's t; it is not used where a task has fewer than
    MIN_TASK prompts. The variance over all prompts includes the differences between tasks, and so is large enough.
    """
    together = _variance_of_all(values, weights, mean, 1 / weights.max())
    if len(tasks) == 1 or min(map(len, tasks)) < MIN_TASK:
        return together
    within = np.zeros_like(together)
    for rows in tasks:
        within += weights[rows[0]] ** 2 * len(rows) * values[rows].var(0, ddof=1)
    widening = (stdtrit(len(values) - len(tasks), tail) / ndtri(tail)) ** 2
    return np.asarray(np.minimum(together, within * widening))


def _variance_of_all(values: Floats, weights: Floats, mean: Floats, n: float) -> Floats:
    """Compute the variance of the weighted mean of values [P, K] where their weights and one more are random."""
    return np.asarray((weights**2) @ (values - mean) ** 2 * n / (n + 1))


def _typical_size(sizes: Floats, largest: Floats, tail: float) -> Floats:
    """Bound the mean size [K] of differences of sizes [P, K] among the prompts that differ."""
    differs = sizes > _ROUNDING * largest
    count = np.maximum(differs.sum(0), 1)
    mean = np.where(differs, sizes, 0.0).sum(0) / count
    spread = np.where(differs, (sizes - mean) ** 2, 0.0).sum(0) / count / (count + 1)
    least = np.minimum(np.where(differs, sizes, np.inf).min(0), mean)
    _, most = Seen(mean, spread, count, least, np.maximum(sizes.max(0), mean)).limits(0.0, largest, tail)
    return np.where(differs.any(0), np.minimum(most, largest), largest)


@dataclass(frozen=True)
class Seen:
    """The observed prompts, each [K]: their mean and its variance, their number (by weight), the extremes."""

    mean: Floats
    variance: Floats
    n: Number
    least: Floats
    most: Floats

    def limits(self, low: Number, high: Number, tail: float) -> tuple[Floats, Floats]:
        """Compute both limits, one mirroring the other, where an unobserved prompt's value lies between low and high."""
        mirrored = Seen(-self.mean, self.variance, self.n, -self.most, -self.least)
        return self._lower(np.asarray(low), tail), -mirrored._lower(-np.asarray(high), tail)

    def _lower(self, unseen: Floats, tail: float) -> Floats:
        """Compute the quantile `tail` of (1 - w) M + w unseen, with M of this mean and variance and w of Beta(1, n).

        Its distribution is approximated by the beta distribution of its mean and variance between the smallest value
        (or unseen, if smaller) and the largest: exact where values are 0 or 1, and where all are equal.
        """
        bottom = np.minimum(unseen, self.least)
        span = self.most - bottom
        scale = np.where(span > 0, span, 1.0)
        gap = np.clip((self.mean - unseen) / scale, 0.0, None)
        center = np.clip((unseen - bottom) / scale + gap * self.n / (self.n + 1), 0.0, 1.0)
        spread = (self.variance / scale**2 + (gap / (self.n + 1)) ** 2) * self.n / (self.n + 2)
        with np.errstate(divide="ignore", invalid="ignore"):
            total = center * (1 - center) / spread - 1
            limit = bottom + scale * betaincinv(center * total, (1 - center) * total, tail)
        known = (gap > _ROUNDING) & (span > 0)
        return np.asarray(np.where(known, np.minimum(limit, self.mean), self.mean))
