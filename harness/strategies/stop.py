"""A stop rule: candidates are drawn one after another; the first score of at least tau is picked, after n the best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from vhsbench.harness.stats.stop_rule import StopRule
from vhsbench.harness.strategies.base import Contestants, Outcome, Pools, Strategy, best, sizes

_THRESHOLDS = 40  # to choose from: quantiles of the scores


@dataclass(frozen=True)
class Stop(Strategy):
    verifiers: tuple[str, ...]
    n: int
    tau: float

    @classmethod
    def settings(cls, verifiers: tuple[str, ...], fixed: Mapping[str, float], pools: Pools) -> list[Self]:
        shares = (np.arange(_THRESHOLDS) + 0.5) / _THRESHOLDS
        tied = np.unique(np.quantile(pools.scores[verifiers[0]], shares, method="higher"))
        thresholds = [fixed["tau"]] if "tau" in fixed else tied.tolist()
        return [cls(verifiers, n, tau) for n in sizes(fixed, pools.size) for tau in thresholds]

    def expected(self, pools: Pools) -> Outcome:
        (verifier,) = self.verifiers
        rule = pools.once(("stop", verifier), lambda: StopRule(pools.scores[verifier], pools.correct))
        found = rule.stop(self.tau, self.n)
        return Outcome(found.accuracy, found.draws)

    def scored(self, drawn: int) -> Mapping[str, int]:
        return {self.verifiers[0]: drawn}

    def pick(self, contestants: Contestants) -> int:
        scores: list[float] = []
        for candidate in range(self.n):
            scores.extend(contestants.scores(self.verifiers[0], [candidate]))
            if scores[-1] >= self.tau:
                return candidate
        return best(range(self.n), scores)
