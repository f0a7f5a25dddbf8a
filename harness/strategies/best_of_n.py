"""Best-of-N: a verifier scores n candidates, and its best is picked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from vhsbench.harness.stats.expected import expected_accuracy
from vhsbench.harness.strategies.base import Contestants, Outcome, Pools, Strategy, best, sizes


@dataclass(frozen=True)
class BestOfN(Strategy):
    largest = True

    verifiers: tuple[str, ...]
    n: int

    @classmethod
    def settings(cls, verifiers: tuple[str, ...], fixed: Mapping[str, float], pools: Pools) -> list[Self]:
        return [cls(verifiers, n) for n in sizes(fixed, pools.size)]

    def expected(self, pools: Pools) -> Outcome:
        (verifier,) = self.verifiers
        by_n = pools.once(
            ("best-of-n", verifier, self.again),
            lambda: expected_accuracy(pools.scores[verifier], pools.verdicts(self.again)),
        )
        return Outcome(by_n[:, self.n - 1])

    def scored(self, drawn: int) -> Mapping[str, int]:
        return {self.verifiers[0]: drawn}

    def pick(self, contestants: Contestants) -> int:
        drawn = range(self.n)
        return best(drawn, contestants.scores(self.verifiers[0], drawn))
