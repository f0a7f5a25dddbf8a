"""Draft and refine: a verifier scores n drafts, and its best is made again from its own noise, with more steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from vhsbench.harness.stats.expected import expected_accuracy
from vhsbench.harness.strategies.base import Contestants, Outcome, Pools, Strategy, best, sizes


@dataclass(frozen=True)
class Refine(Strategy):
    refines: ClassVar[bool] = True

    verifiers: tuple[str, ...]
    n: int
    steps: int

    @property
    def again(self) -> int:
        return self.steps

    @classmethod
    def settings(cls, verifiers: tuple[str, ...], fixed: Mapping[str, float], pools: Pools) -> list[Self]:
        steps = [int(fixed["steps"])] if "steps" in fixed else sorted(pools.again)
        return [cls(verifiers, n, each) for each in steps for n in sizes(fixed, pools.size)]

    def expected(self, pools: Pools) -> Outcome:
        (verifier,) = self.verifiers
        by_n = pools.once(
            ("refine", verifier, self.steps),
            lambda: expected_accuracy(pools.scores[verifier], pools.again[self.steps]),
        )
        return Outcome(by_n[:, self.n - 1])

    def scored(self, drawn: int) -> Mapping[str, int]:
        return {self.verifiers[0]: drawn}

    def pick(self, contestants: Contestants) -> int:
        drawn = range(self.n)
        return best(drawn, contestants.scores(self.verifiers[0], drawn))
