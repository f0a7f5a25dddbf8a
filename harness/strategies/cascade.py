"""A cascade: the first verifier scores n candidates, its best k go to the second, and the second's best is picked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from vhsbench.harness.stats.cascade import cascade_accuracy
from vhsbench.harness.strategies.base import Contestants, Outcome, Pools, Strategy, best, sizes


@dataclass(frozen=True)
class Cascade(Strategy):
    between: ClassVar[str] = ">"

    verifiers: tuple[str, ...]
    n: int
    k: int

    @classmethod
    def settings(cls, verifiers: tuple[str, ...], fixed: Mapping[str, float], pools: Pools) -> list[Self]:
        return [
            cls(verifiers, n, k)
            for n in sizes(fixed, pools.size)
            for k in sizes(fixed, n, "k")
            if k <= n  # k = 1: the first verifier alone decides, but the second is not paid for it
        ]

    def expected(self, pools: Pools) -> Outcome:
        first, second = (pools.scores[v] for v in self.verifiers)
        table = pools.once(
            ("cascade", *self.verifiers), lambda: cascade_accuracy(first, second, pools.correct)
        )
        return Outcome(table[:, self.n - 1, self.k - 1])

    def scored(self, drawn: int) -> Mapping[str, int]:
        first, second = self.verifiers
        return {first: drawn, second: self.k if self.k > 1 else 0}

    def pick(self, contestants: Contestants) -> int:
        first, second = self.verifiers
        scores = np.asarray(contestants.scores(first, range(self.n)))
        kept = [int(i) for i in np.argsort(-scores, kind="stable")[: self.k]]
        return kept[0] if self.k == 1 else best(kept, contestants.scores(second, kept))
