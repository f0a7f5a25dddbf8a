"""Means over all units, of which a random sample within strata is labelled, with 95% intervals by prompt."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vhsbench.harness.stats.intervals import LEVEL, Floats, Seen

FEWEST = 2  # labels of a stratum, unless it has a single unit: with one, its variance is unknown


@dataclass(frozen=True)
class Estimate:
    """A value and the ends of its 95% interval; all NaN where it is unknown."""

    value: float
    low: float
    high: float


UNKNOWN = Estimate(np.nan, np.nan, np.nan)


@dataclass(frozen=True)
class Sample:
    """U units: each one's stratum and prompt, and whether it is labelled, all [U].

    The labelled units of a stratum are a simple random sample of it, so that each was drawn with probability n / N,
    of the n labelled of its N units.
    """

    strata: NDArray[Any]
    prompts: NDArray[Any]
    labelled: NDArray[np.bool_]

    @cached_property
    def stratum(self) -> NDArray[np.intp]:
        """The number of each unit's stratum [U], from 0."""
        return np.unique(self.strata, return_inverse=True)[1]

    @cached_property
    def prompt(self) -> NDArray[np.intp]:
        """The number of each unit's prompt [U], from 0."""
        return np.unique(self.prompts, return_inverse=True)[1]

    @cached_property
    def sizes(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The units and the labelled units of each stratum, [H] each."""
        return np.bincount(self.stratum), np.bincount(self.stratum, self.labelled).astype(np.intp)

    def wanting(self, weights: Floats) -> int:
        """Count the labels to come before an estimate of units with `weights` [U] is known.

        Every stratum in which a unit has a weight needs FEWEST labels, or one of each unit.
        """
        units, labels = self.sizes
        needed = np.minimum(units, FEWEST)[np.bincount(self.stratum, weights != 0) > 0]
        return int(np.maximum(needed - labels[np.bincount(self.stratum, weights != 0) > 0], 0).sum())

    @cached_property
    def inverse(self) -> Floats:
        """The inverse of the probability of being labelled [U]; infinite in a stratum without labels."""
        units, labels = self.sizes
        with np.errstate(divide="ignore"):
            return np.asarray((units / labels)[self.stratum])

    def spread(self, known: Floats) -> Floats:
        """Estimate for every unit [U] what is known of the labelled: the total is estimated without bias.

        An unlabelled unit has its stratum's mean. The deviation of a labelled one stands for as many units as it was
        drawn from, so that the variance over prompts includes that of the sample.
        """
        _, labels = self.sizes
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = np.bincount(self.stratum, np.where(self.labelled, known, 0.0)) / labels
            lost = np.sqrt(labels / (labels - 1))[self.stratum]  # deviations are from the sample's own mean
            weight = 1 + np.where(self.inverse > 1, (self.inverse - 1) * lost, 0.0)
            own = np.where(self.labelled, (known - mean[self.stratum]) * weight, 0.0)
        return np.asarray(np.where(labels == 0, 0.0, mean)[self.stratum] + own)

    def interval(
        self, values: Floats, weights: Floats, unseen: tuple[float, float], level: float = LEVEL
    ) -> Estimate:
        """Compute the mean over prompts of the sum of a prompt's values [U], as `spread` estimates them.

        The interval is that of the mean over prompts, with one label more, unseen, that puts the mean at either of
        `unseen` and weighs as much as the labels of units with `weights` [U] do: see `vhsbench.harness.stats.intervals`.
        NaN for a single prompt, and its interval where there is no label.
        """
        sums = np.bincount(self.prompt, values)
        drawn = np.abs(weights) * np.where(self.labelled, self.inverse, 0.0)
        by_prompt = np.bincount(self.prompt, drawn)
        if len(sums) < 2 or not by_prompt.any():
            return Estimate(float(sums.mean()), np.nan, np.nan)
        effective = by_prompt.sum() ** 2 / np.sum(by_prompt**2)
        mean = np.array([sums.mean()])
        variance = np.array([sums.var(ddof=1) / len(sums)])
        seen = Seen(mean, variance, effective, sums.min(keepdims=True), sums.max(keepdims=True))
        low, high = seen.limits(*unseen, (1 - level) / 2)
        return Estimate(float(mean[0]), float(low[0]), float(high[0]))
