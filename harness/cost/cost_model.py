"""Cost of best-of-N as fixed + N x per-candidate, and budgets as text; light, for the command line."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vhsbench.harness.common.errors import VhsbenchError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# The paper's N at 550/1100/1650 ms are the largest with T(N) <= 1.05 x budget. The default of a configuration
# and of a plan from no run; all else takes the tolerance of its run.
TOLERANCE = 0.05
_UNITS = {"ms": ("ms", 1.0), "s": ("ms", 1e3), "tflop": ("TFLOP", 1.0), "gflop": ("TFLOP", 1e-3),
          "gb": ("GB", 1.0), "mb": ("GB", 1e-3), "j": ("J", 1.0)}  # fmt: skip


def unit_of(column: str) -> str:
    """Return the unit of a column of budgets: "TFLOP" of "budget_tflop"."""
    return _UNITS[column.removeprefix("budget_")][0]


class CostError(VhsbenchError):
    """Costs or a budget that cannot be compared; the message is one sentence for a user."""


@dataclass(frozen=True)
class CostModel:
    """Cost of best-of-N in ms or TFLOP: fixed + n x per_candidate.

    draws: [B, 2], both numbers as resampled turns of measuring give them (cost/turns.py); None where
    there is nothing to resample. Models of one run are drawn together, so that a ratio is of paired draws.
    """

    fixed: float
    per_candidate: float
    draws: NDArray[np.float64] | None = field(default=None, compare=False, repr=False)

    def predict(self, n: float) -> float:
        return self.fixed + n * self.per_candidate

    def largest_n(self, budget: float, tolerance: float) -> int | None:
        """Return the largest N within (1 + tolerance) x budget; None if not even one candidate fits.

        Raises CostError where there is no such number: a candidate that costs nothing, or NaN.
        """
        if not (self.per_candidate > 0 and math.isfinite(self.fixed) and math.isfinite(budget)):
            raise CostError(f"no largest N for a budget of {budget} under {self}.")
        limit = budget * (1 + tolerance)
        # a candidate that fits exactly must not be lost to rounding
        n = math.floor((limit - self.fixed) / self.per_candidate + 1e-9)
        return n if n >= 1 else None


def parse_budget(text: str) -> tuple[float, str]:
    """Parse "550ms", "0.55 s", "3TFLOP", "24GB" or "40J" as (value, unit), in ms, TFLOP, GB or J.

    Raises CostError for another unit, none, or a number that is not above zero.
    """
    match = re.fullmatch(r"\s*(\d+\.?\d*(?:e[+-]?\d+)?|\.\d+)\s*([a-z]+)\s*", text, re.IGNORECASE)
    unit, factor = _UNITS.get(match[2].lower(), ("", 0.0)) if match else ("", 0.0)
    value = float(match[1]) * factor if match else 0.0
    if not 0 < value < math.inf:
        raise CostError(f"'{text}' is no budget; write a number and ms, s, GFLOP, TFLOP, MB, GB or J.")
    return value, unit
