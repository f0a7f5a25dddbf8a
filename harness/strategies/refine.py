"""Draft and refine: a verifier scores n drafts, and its best is made again from its own noise, with more steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from vhsbench.harness.strategies.base import Pools, sizes
from vhsbench.harness.strategies.best_of_n import BestOfN


@dataclass(frozen=True)
class Refine(BestOfN):
    """Best-of-N of drafts; what it picks is made again."""

    refines: ClassVar[bool] = True
    largest: ClassVar[bool] = False

    steps: int

    @property
    def again(self) -> int:
        return self.steps

    @classmethod
    def settings(cls, verifiers: tuple[str, ...], fixed: Mapping[str, float], pools: Pools) -> list[Self]:
        steps = [int(fixed["steps"])] if "steps" in fixed else sorted(pools.again)
        return [cls(verifiers, n, each) for each in steps for n in sizes(fixed, pools.size)]
