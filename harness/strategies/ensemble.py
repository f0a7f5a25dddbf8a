"""An ensemble: candidates are ranked by the first verifier's score plus `weight` times the second's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from vhsbench.harness.stats.expected import expected_accuracy
from vhsbench.harness.strategies.base import Contestants, Outcome, Pools, Strategy, best, sizes

_SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)  # of the second verifier, to choose from, each score in its own spread


@dataclass(frozen=True)
class Ensemble(Strategy):
    between: ClassVar[str] = "+"

    verifiers: tuple[str, ...]
    n: int
    weight: float

    @classmethod
    def settings(cls, verifiers: tuple[str, ...], fixed: Mapping[str, float], pools: Pools) -> list[Self]:
        first, second = (max(float(pools.scores[v].std()), np.finfo(float).tiny) for v in verifiers)
        weights = [fixed["weight"]] if "weight" in fixed else [s / (1 - s) * first / second for s in _SHARES]
        return [cls(verifiers, n, weight) for n in sizes(fixed, pools.size) for weight in weights]

    def expected(self, pools: Pools) -> Outcome:
        first, second = (pools.scores[v] for v in self.verifiers)
        by_n = pools.once(
            ("ensemble", *self.verifiers, self.weight),
            lambda: expected_accuracy(first + self.weight * second, pools.correct),
        )
        return Outcome(by_n[:, self.n - 1])

    def scored(self, drawn: int) -> Mapping[str, int]:
        return dict.fromkeys(self.verifiers, drawn)

    def pick(self, contestants: Contestants) -> int:
        drawn = range(self.n)
        first, second = (np.asarray(contestants.scores(v, drawn)) for v in self.verifiers)
        return best(drawn, (first + self.weight * second).tolist())
