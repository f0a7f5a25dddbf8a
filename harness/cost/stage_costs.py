"""What one call of each stage costs in one pool of candidates, with its uncertainty; costs of any sum of calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from vhsbench.harness.cost.budgets import COLUMN, END_TO_END
from vhsbench.harness.cost.cost_model import CostError
from vhsbench.harness.cost.sound import sound
from vhsbench.harness.cost.turns import DRAWS, Floats, Turns, fit_turns

Call = tuple[
    tuple[str, ...], str
]  # whose call of a stage it is, the first of them that was measured; and the stage


class StageCosts:
    """Typical costs of stages from the sequential rows of one pool, in "ms", "TFLOP" or "J".

    Times are those of a good turn, as in T(N) (cost/turns.py); all else is the median. Raises CostError for another unit.
    """

    def __init__(self, costs: pd.DataFrame, unit: str) -> None:
        if unit not in COLUMN:
            raise CostError(f"stages have no cost in {unit}; they have one in {', '.join(COLUMN)}.")
        rows = sound(costs[(costs["batch"] == 1) & (costs["variant"] == "")])
        self.unit = unit
        stages = rows[rows["stage"] != END_TO_END]
        medians = stages.groupby(["verifier", "stage"], as_index=False)[COLUMN[unit]].median().dropna()
        self._values = {(str(v), str(s)): float(x) for v, s, x in medians.itertuples(index=False)}
        self._turns: Turns | None = fit_turns(rows) if unit == "ms" else None  # of whole runs too, as T(N)
        self._typical = {
            (v, s): value if self._turns is None else self._turns.typical_ms((v, s, 1))
            for (v, s), value in self._values.items()
        }
        self._drawn: dict[tuple[str, str], Floats] = {}

    def cost(self, calls: Mapping[Call, float]) -> float:
        """Add up calls. Raises CostError for one that was not measured."""
        return sum(count * self._typical[self._measured(*call)] for call, count in calls.items() if count)

    def whole_ms(self, verifier: str, n: int) -> float:
        """Return the typical time of whole runs, to hold a sum of stages against. Raises CostError where there are none."""
        key = (verifier, END_TO_END, n)
        if self._turns is None or key not in self._turns.calls:
            raise CostError(f"no whole runs of '{verifier}' were measured in turns.")
        return self._turns.typical_ms(key)

    def draws(self, calls: Mapping[Call, float]) -> Floats | None:
        """Add up calls as resampled turns give them, [DRAWS]; None where nothing was resampled. Raises as `cost`."""
        if self._turns is None:
            return None
        known = [(count, self._draws(self._measured(*call))) for call, count in calls.items() if count]
        return sum((count * drawn for count, drawn in known), np.zeros(DRAWS))

    def _measured(self, owners: Sequence[str], stage: str) -> tuple[str, str]:
        for owner in (*owners, ""):
            if (owner, stage) in self._values:
                return owner, stage
        whose = f" of '{owners[0]}'" if owners and owners[0] else ""
        raise CostError(f"no cost in {self.unit} was measured for the stage '{stage}'{whose}.")

    def _draws(self, key: tuple[str, str]) -> Floats:
        if key not in self._drawn:
            assert self._turns is not None
            self._drawn[key] = self._turns.draws_ms((*key, 1))
        return self._drawn[key]
