"""Prediction-powered inference (PPI++): a mean of true labels, few of them known, with a prediction of every one.

The predictions' mean is known; labels correct it. With predictions f of all units, labels Y of a random sample, and
lambda in 0 to 1,

    mean = lambda * mean(f over all) + mean(Y - lambda * f over the sample, by inverse probability of being drawn).

It is right on average whatever lambda and however bad the predictions. Lambda is the one of least variance: near 1 for
predictions that are almost always right, and 0, the classical estimate, for useless ones (Angelopoulos, Duchi and Zrnic,
"PPI++: Efficient Prediction-Powered Inference", 2023). There, sample and other units are apart: with n labels and N other
units, its lambda is N / (n + N) of this one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vhsbench.harness.stats.intervals import Floats
from vhsbench.harness.stats.stratified import UNKNOWN, Estimate, Sample


@dataclass(frozen=True)
class Powered:
    """An estimate, the lambda that it was made with, and its labels of units that count: how many there are."""

    estimate: Estimate
    tuning: float
    labels: int


def powered_mean(sample: Sample, weights: Floats, predicted: Floats, labels: Floats) -> Powered:
    """Estimate the mean over prompts of the sum of weights [U] times true labels [U], with a 95% interval.

    Weights are known, as are the predicted labels [U]; of `labels` [U], those of the sample's labelled units are.
    Labels lie in 0 to 1; a weight below zero is one side of a difference. Unknown, with NaN, where a stratum lacks labels.
    """
    counted = int((sample.labelled & (weights != 0)).sum())
    if sample.wanting(weights) or np.isnan(predicted[weights != 0]).any():
        return Powered(UNKNOWN, np.nan, counted)
    truths = weights * np.where(sample.labelled, labels, 0.0)
    guesses = np.where(weights != 0, weights * predicted, 0.0)
    tuning = power(sample, truths, guesses)
    values = tuning * guesses + sample.spread(truths - tuning * guesses)
    prompts = sample.prompt.max() + 1
    mean, guessed = values.sum() / prompts, guesses.sum() / prompts
    mass = np.abs(weights).sum() / prompts
    rest = mean - tuning * guessed  # of a label less its part of the prediction, on average
    below, above = _worst(weights, tuning)
    unseen = (mean + mass * below - rest, mean + mass * above - rest)
    found = sample.interval(values, weights, unseen)
    least, most = -float((weights < 0).any()), float((weights > 0).any())
    ends = np.clip([found.low, found.high], least, most)
    return Powered(Estimate(found.value, float(ends[0]), float(ends[1])), tuning, counted)


def power(sample: Sample, truths: Floats, guesses: Floats) -> float:
    """Compute the lambda of least variance, in 0 to 1, of truths [U], known where labelled, and guesses [U].

    It is the covariance of both over the variance of the guesses, within strata, each by its part in the variance of
    the estimate. 0 where predictions do not matter: all units are labelled, or all guesses of a stratum are equal.
    """
    units, labels = sample.sizes
    above = below = 0.0
    for h in np.flatnonzero((labels > 1) & (labels < units)):
        mine = sample.stratum == h
        drawn = mine & sample.labelled
        part = units[h] ** 2 * (1 / labels[h] - 1 / units[h])
        above += part * np.cov(truths[drawn], guesses[drawn])[0, 1]
        below += part * guesses[mine].var(ddof=1)
    return float(np.clip(above / below, 0.0, 1.0)) if below > 0 else 0.0


def _worst(weights: Floats, tuning: float) -> tuple[float, float]:
    """Return the least and most that a label less lambda times its prediction can be, by the sign of its weight."""
    plus, minus = bool((weights > 0).any()), bool((weights < 0).any())
    below = min(-tuning if plus else 0.0, -1.0 if minus else 0.0)
    return below, max(1.0 if plus else 0.0, tuning if minus else 0.0)
