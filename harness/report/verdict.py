"""Which pipeline wins at a budget, and how sure that is: all pairs, paired by prompt, corrected by Holm's method.

A pipeline beats another where the corrected p-value is below 0.05 and the 95% interval of their difference, of prompts
and of both N, leaves out zero. The winner is the one that no other beats; where several are left, they cannot be
told apart. docs/methods.md has the formulas.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from itertools import combinations

import numpy as np
import pandas as pd

from vhsbench.harness.cost.cost_model import CostModel
from vhsbench.harness.cost.turns import draws_of_n, quantiles
from vhsbench.harness.stats.curves import Grid
from vhsbench.harness.stats.expected import expected_accuracy, largest_difference, oracle, random_choice
from vhsbench.harness.stats.intervals import Floats, average_by_prompt, paired_difference
from vhsbench.harness.stats.paired import (
    family,
    prompts_needed,
    seeds_needed,
    standard_error,
)
from vhsbench.harness.store.keys import POOL, distinct, of_pipeline, of_pool
from vhsbench.harness.store.tables import Run

ALPHA = 0.05
_MOST = 100_000  # prompts or seeds that anyone would add to tell two pipelines apart
ONE_IMAGE = "none"  # the pipeline without a verifier


class Contest:
    """The pipelines of one pool of candidates: exact best-of-N accuracies of the same prompts."""

    def __init__(self, run: Run, generator: str, steps: int) -> None:
        self.run, self.generator, self.steps = run, generator, steps
        self.grid = Grid(of_pool(run.candidates, generator, steps))
        self.prompts = np.unique(self.grid.prompts)
        self.tags = self.grid.tags[np.unique(self.grid.prompts, return_index=True)[1]]
        self._scores: dict[str, Floats] = {}
        self._expected: dict[str, Floats] = {}
        self._means: dict[str, Floats] = {}

    def has(self, verifier: str) -> bool:
        """Return whether a verifier scored this pool."""
        return not of_pipeline(self.run.scores, self.generator, self.steps, verifier).empty

    def scores(self, verifier: str) -> Floats:
        """Return the scores [R, M]; those of one image are all the same."""
        if verifier not in self._scores:
            rows = of_pipeline(self.run.scores, self.generator, self.steps, verifier)
            one = np.zeros(self.grid.correct.shape)
            self._scores[verifier] = one if verifier == ONE_IMAGE else self.grid.of(rows)
        return self._scores[verifier]

    def expected(self, verifier: str) -> Floats:
        """Return the accuracy in 0..1 of best-of-N, [R, M]: a row per prompt and seed, a column per N."""
        if verifier not in self._expected:
            correct = self.grid.correct
            one = verifier == ONE_IMAGE
            self._expected[verifier] = (
                random_choice(correct) if one else expected_accuracy(self.scores(verifier), correct)
            )
        return self._expected[verifier]

    @cached_property
    def oracle(self) -> Floats:
        """Return the accuracy of the best possible verifier, as `expected`."""
        return oracle(self.grid.correct)

    @cached_property
    def made_again(self) -> dict[int, Floats]:
        """Return the verdicts [R, M] of the same candidates with more steps, by steps, where the run has them all."""
        pools = [steps for name, steps in distinct(self.run.candidates, POOL) if name == self.generator]
        found = {
            steps: self.grid.made_again(of_pool(self.run.candidates, self.generator, steps))
            for steps in sorted(pools)
            if steps > self.steps
        }
        return {steps: verdicts for steps, verdicts in found.items() if verdicts is not None}

    def per_prompt(self, rows: Floats) -> Floats:
        """Average rows [R] over a prompt's seeds, [P]."""
        return average_by_prompt(rows[:, None], self.grid.prompts)[:, 0]

    def mean(self, verifier: str) -> Floats:
        """Return the overall accuracy in 0..1 by N, [M]."""
        if verifier not in self._means:
            self._means[verifier] = average_by_prompt(self.expected(verifier), self.grid.prompts).mean(0)
        return self._means[verifier]

    def by_seed(self, rows: Floats) -> Floats | None:
        """Arrange rows [R] as [P, S], S seeds of a prompt; None if not all prompts have as many."""
        _, counts = np.unique(self.grid.prompts, return_counts=True)
        if len(set(counts)) > 1:
            return None
        return rows[np.argsort(self.grid.prompts, kind="stable")].reshape(-1, int(counts[0]))


@dataclass(frozen=True)
class Contender:
    """A pipeline at a budget: its N, and N as resampled turns of measuring give it, [DRAWS], if they were resampled."""

    verifier: str
    n: int
    draws: Floats | None = None


@dataclass(frozen=True)
class Pair:
    """The better pipeline's accuracy less the other's, in points.

    low, high: 95%, of prompts and of both N. p: two-sided, of prompts; p_holm: corrected for all pairs at the budget.
    beats: whether both say so. more_prompts, more_seeds: how many more would show a difference of this size with
    80% power where it is not shown; None if unknown, or if no number below 100,000 is enough.
    """

    better: str
    other: str
    best_of_n: int
    other_n: int
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    beats: bool
    more_prompts: int | None
    more_seeds: int | None


def contenders(
    contest: Contest,
    rows: pd.DataFrame,
    models: Mapping[str, CostModel | None],
    budget: float,
    tolerance: float,
) -> list[Contender]:
    """List who takes part, the most accurate first: the rows of a budget table that afford a candidate."""
    found = []
    for verifier, n in rows[["verifier", "best_of_n"]].itertuples(index=False):
        if pd.isna(n):
            continue
        model = None if verifier == ONE_IMAGE else models.get(verifier)
        drawn = None if model is None else draws_of_n(model, budget, tolerance)
        most = contest.grid.correct.shape[1]
        found.append(Contender(verifier, int(n), None if drawn is None else np.clip(drawn, 1, most)))
    return sorted(found, key=lambda one: -contest.mean(one.verifier)[one.n - 1])


def compare_all(contest: Contest, ordered: Sequence[Contender], seed: int = 0) -> list[Pair]:
    """Compare all pairs of contenders, given the most accurate first."""
    pairs = list(combinations(ordered, 2))
    if not pairs:
        return []
    both = zip(
        pairs, *family([contest.per_prompt(_difference(contest, *pair)) for pair in pairs], seed), strict=True
    )
    return [
        _pair(contest, *pair, float(alone), float(corrected), len(pairs)) for pair, alone, corrected in both
    ]


def _difference(contest: Contest, a: Contender, b: Contender) -> Floats:
    return np.asarray(contest.expected(a.verifier)[:, a.n - 1] - contest.expected(b.verifier)[:, b.n - 1])


def _pair(contest: Contest, a: Contender, b: Contender, p: float, p_holm: float, number: int) -> Pair:
    """Compare two contenders; `number` pairs are compared in all."""
    grid = contest.grid
    mean, low, high = _interval(contest, a, b)
    beats = p_holm < ALPHA and low > 0
    found = Pair(a.verifier, b.verifier, a.n, b.n, mean, low, high, p, p_holm, beats, None, None)
    if beats:
        return found
    points, level = 100 * _difference(contest, a, b), ALPHA / 2 / number
    error = standard_error(contest.per_prompt(points), contest.tags)
    by_seed = contest.by_seed(points)
    prompts = prompts_needed(len(contest.prompts), error, mean, level)
    seeds = None if by_seed is None else seeds_needed(by_seed, error, mean, level)
    return replace(
        found,
        more_prompts=_more(prompts, len(contest.prompts)),
        more_seeds=_more(seeds, len(grid.prompts) // len(contest.prompts)),
    )


def _more(needed: int | None, there: int) -> int | None:
    """Return how many more are needed; None where nobody would draw so many."""
    return None if needed is None or needed > _MOST else max(1, needed - there)


def _interval(contest: Contest, a: Contender, b: Contender) -> tuple[float, float, float]:
    """Return a's accuracy less b's in points with its 95% interval, of prompts and of both N."""
    first, second = (contest.expected(one.verifier)[:, one.n - 1] for one in (a, b))
    largest = largest_difference(contest.scores(a.verifier), contest.scores(b.verifier), a.n, b.n)
    grid = contest.grid
    gap = paired_difference(first, second, prompts=grid.prompts, tasks=grid.tags, largest=largest)
    mean, low, high = gap.percent
    return mean, *widened(mean, low, high, _by_draws(contest, a, b))


def _by_draws(contest: Contest, a: Contender, b: Contender) -> Floats | None:
    """Return the difference in points where only N varies, both of the same turns; None where none does."""
    if a.draws is None and b.draws is None:
        return None
    sides = [
        contest.mean(one.verifier)[(one.n if one.draws is None else one.draws.astype(int)) - 1]
        for one in (a, b)
    ]
    return np.asarray(100 * (sides[0] - sides[1]))


def widened(value: float, low: float, high: float, draws: Floats | None) -> tuple[float, float]:
    """Add, squared, the spread of draws to an interval around a value."""
    if draws is None or math.isnan(low):
        return low, high
    least, most = quantiles(draws)
    below, above = max(0.0, value - least), max(0.0, most - value)
    return value - math.hypot(value - low, below), value + math.hypot(high - value, above)


@dataclass(frozen=True)
class Verdict:
    """Who wins at a budget.

    winners: the pipelines that no other beats, the most accurate first. `against`: the first of them and the closest
    that it beats or, where several are left, cannot be told from; None for a pipeline alone. more_prompts, more_seeds:
    how many more would tell the first from all others that are left, by the power analysis.
    """

    winners: list[str]
    against: Pair | None
    more_prompts: int | None
    more_seeds: int | None

    @property
    def decided(self) -> bool:
        return len(self.winners) == 1


def decide(ordered: Sequence[Contender], pairs: Sequence[Pair]) -> Verdict | None:
    """Name the winners among contenders, given the most accurate first; None if there are none."""
    if not ordered:
        return None
    beaten = {pair.other for pair in pairs if pair.beats}
    winners = [one.verifier for one in ordered if one.verifier not in beaten]
    of_best = [pair for pair in pairs if pair.better == winners[0]]
    left = [pair for pair in of_best if pair.other in winners]
    closest = min(left or of_best, key=lambda pair: pair.difference, default=None)
    return Verdict(
        winners, closest, _most([p.more_prompts for p in left]), _most([p.more_seeds for p in left])
    )


def _most(numbers: Sequence[int | None]) -> int | None:
    """Return the largest number; None if there is none, or one is unknown."""
    known = [n for n in numbers if n is not None]
    return max(known) if known and len(known) == len(numbers) else None


def pair_rows(pairs: Sequence[Pair]) -> pd.DataFrame:
    frame = pd.DataFrame([asdict(pair) for pair in pairs], columns=[f.name for f in fields(Pair)])
    return frame.astype({"more_prompts": "Int64", "more_seeds": "Int64"})
