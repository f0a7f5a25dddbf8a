"""What a strategy is: its settings, its exact expectation on pools, how many candidates it scores, and its own code."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
T = TypeVar("T")
DRAWS = 200  # orders of each pool, for a strategy without a formula


class Contestants(Protocol):
    """The candidates of one prompt while a strategy runs: they are made as far as it asks for, and no further."""

    def scores(self, verifier: str, candidates: Sequence[int]) -> Sequence[float]:
        """Return a verifier's scores of candidates (0 is the first seed's), made as far as it reads them."""
        ...


@dataclass(frozen=True)
class Pools:
    """Pools of candidates, one a row (a prompt and seed): scores [R, M] by verifier, and verdicts [R, M].

    again: the verdicts [R, M] of the same candidates, made again from their noise, by the number of steps.
    """

    scores: Mapping[str, Floats]
    correct: Floats
    again: Mapping[int, Floats] = field(default_factory=dict)
    _kept: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def size(self) -> int:
        """How many candidates a pool has."""
        return int(self.correct.shape[1])

    def verdicts(self, again: int | None) -> Floats:
        """Return the verdicts [R, M] of candidates as they are, or made again with so many steps."""
        return self.correct if again is None else self.again[again]

    def once(self, key: Any, compute: Callable[[], T]) -> T:
        """Compute what many settings share the first time only."""
        if key not in self._kept:
            self._kept[key] = compute()
        found: T = self._kept[key]
        return found


@dataclass(frozen=True)
class Outcome:
    """accuracy: [R] in 0..1, of the pick; drawn: [R, L], the probability that 1..L candidates are drawn, None if always n."""

    accuracy: Floats
    drawn: Floats | None = None


class Strategy(ABC):
    """A way to spend a budget, with every parameter fixed: a frozen dataclass of `verifiers` and the parameters.

    Its first parameter is `n`, the most candidates it draws.
    """

    between: ClassVar[str] = ""  # what stands between its verifiers in text, such as ">"; "": it has one
    refines: ClassVar[bool] = False  # whether its winner is made again, with more steps
    largest: ClassVar[bool] = False  # of the settings that a budget affords the largest is taken, none chosen

    verifiers: tuple[str, ...]
    n: int

    @property
    def again(self) -> int | None:
        """With how many steps the winner is made again from its own noise; None: it is finished from where it is."""
        return None

    @classmethod
    @abstractmethod
    def settings(cls, verifiers: tuple[str, ...], fixed: Mapping[str, float], pools: Pools) -> list[Self]:
        """List what there is to choose from: every setting that has the `fixed` parameters, within the pools' size."""

    def expected(self, pools: Pools) -> Outcome:
        """Compute what it picks from random draws of the pools: here by drawing (DRAWS orders, of fixed seeds); exactly if it can."""
        orders = pools.once("orders", lambda: _orders(*pools.correct.shape))
        right, drawn = np.zeros(len(pools.correct)), np.zeros((len(pools.correct), self.n))
        correct = pools.verdicts(self.again)
        for row, of_row in enumerate(orders):
            for order in of_row:
                seen = _Drawn(pools, row, order)
                right[row] += correct[row, order[self.pick(seen)]]
                drawn[row, max(seen.count, 1) - 1] += 1
        return Outcome(right / DRAWS, drawn / DRAWS)

    @abstractmethod
    def scored(self, drawn: int) -> Mapping[str, int]:
        """Return how many candidates each verifier scores where `drawn` are drawn."""

    @abstractmethod
    def pick(self, contestants: Contestants) -> int:
        """Run it: return the candidate that it picks."""

    @classmethod
    def parameters(cls) -> dict[str, type]:
        """Return its parameters by name, `int` or `float`."""
        kinds = {"int": int, "float": float}
        return {f.name: kinds[str(f.type)] for f in fields(cls) if f.name != "verifiers"}  # type: ignore[arg-type]

    @property
    def values(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in self.parameters()}


class _Drawn:
    """The candidates of a pool in one order, scored already."""

    def __init__(self, pools: Pools, row: int, order: NDArray[np.int64]) -> None:
        self._pools, self._row, self._order = pools, row, order
        self.count = 0  # of candidates drawn

    def scores(self, verifier: str, candidates: Sequence[int]) -> Sequence[float]:
        self.count = max(self.count, *(i + 1 for i in candidates), 0)
        return [float(s) for s in self._pools.scores[verifier][self._row, self._order[list(candidates)]]]


def _orders(rows: int, size: int) -> NDArray[np.int64]:
    rng = np.random.default_rng(0)
    return rng.permuted(np.tile(np.arange(size), (rows, DRAWS, 1)), axis=2)


def best(candidates: Sequence[int], scores: Sequence[float]) -> int:
    """Return the candidate of the highest score, the first of several."""
    return candidates[int(np.argmax(scores))]


def sizes(fixed: Mapping[str, float], most: int, name: str = "n") -> Sequence[int]:
    """Return the values of a count: the fixed one, or 1 to `most`."""
    return [int(fixed[name])] if name in fixed else range(1, most + 1)
