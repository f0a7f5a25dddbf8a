"""How far two raters agree on right and wrong: Cohen's kappa, raw agreement and confusion, with 95% intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vhsbench.harness.stats.stratified import UNKNOWN, Estimate, Sample

_CELLS = [(True, True), (True, False), (False, True), (False, False)]
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Agreement:
    """Agreement and kappa over all units, estimated from the sample; the four counts are of labelled units on which both decided."""

    agreement: Estimate
    kappa: Estimate
    both_right: int
    first_right: int  # alone
    second_right: int  # alone
    both_wrong: int

    @property
    def n(self) -> int:
        """The number of units that are counted."""
        return self.both_right + self.first_right + self.second_right + self.both_wrong


def agreement(
    sample: Sample, first: NDArray[np.bool_], second: NDArray[np.bool_], decided: NDArray[np.bool_]
) -> Agreement:
    """Compare two raters' verdicts [U] on the labelled units that are `decided` [U]: on which both have a verdict.

    Strata count by their size. Kappa is unknown where chance alone would make both agree always: all verdicts of both
    are equal. Both are unknown where a stratum lacks labels, or nothing is decided.
    """
    decided = decided & sample.labelled
    cells = [int((decided & a & b).sum()) for a in (first, ~first) for b in (second, ~second)]
    if sample.wanting(np.ones(len(decided))) or not decided.any():
        return Agreement(UNKNOWN, UNKNOWN, *cells)
    whole = float(sample.spread(decided.astype(float)).sum())
    same, p, q = (
        float(sample.spread((decided & v).astype(float)).sum()) / whole
        for v in (first == second, first, second)
    )
    equal = _centred(sample, decided, {(a, b): (a == b) - same for a, b in _CELLS}, first, second, same)
    by_chance = p * q + (1 - p) * (1 - q)
    kappa = UNKNOWN
    if 1 - by_chance > _ROUNDING:
        pulls = {  # the derivative of kappa by the share of a cell
            (a, b): (
                ((a == b) - same) * (1 - by_chance)
                - ((2 * q - 1) * (a - p) + (2 * p - 1) * (b - q)) * (1 - same)
            )
            / (1 - by_chance) ** 2
            for a, b in _CELLS
        }
        value = (same - by_chance) / (1 - by_chance)
        kappa = _centred(sample, decided, pulls, first, second, value)
    return Agreement(_within(equal, 0.0), _within(kappa, -1.0), *cells)


def _centred(
    sample: Sample,
    decided: NDArray[np.bool_],
    pulls: Mapping[tuple[bool, bool], float],
    first: NDArray[np.bool_],
    second: NDArray[np.bool_],
    value: float,
) -> Estimate:
    """Put an interval around a value that each decided unit moves by the pull of its cell, whose mean is zero."""
    cells = [decided & (first == a) & (second == b) for a, b in pulls]
    each = sample.spread(np.select(cells, list(pulls.values()), 0.0))
    mean = sample.spread(decided.astype(float)).sum() / (sample.prompt.max() + 1)
    extremes = (min(pulls.values()), max(pulls.values()))
    found = sample.interval(each / mean, decided.astype(float), extremes)
    return Estimate(value, value + found.low - found.value, value + found.high - found.value)


def _within(found: Estimate, least: float) -> Estimate:
    """Cut the interval off where no value can be: below `least`, and above 1."""
    low, high = np.clip([found.low, found.high], least, 1.0)
    return Estimate(found.value, float(low), float(high))
