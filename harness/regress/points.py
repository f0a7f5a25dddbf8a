"""The N at which two verifiers are compared: the same for both, or what one budget affords each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.config.run import counterpart, recorded_config
from vhsbench.harness.cost import plan
from vhsbench.harness.cost.cost_model import parse_budget
from vhsbench.harness.cost.plan import Priced
from vhsbench.harness.regress.gate_config import GateConfig
from vhsbench.harness.store.folder import Folder
from vhsbench.harness.store.tables import read_info


class PointError(VhsbenchError):
    """A budget that gives no N; the message is one sentence for a user."""


@dataclass(frozen=True)
class OperatingPoint:
    """The N of either side, and the budget that gave them ("" where the gate names N itself)."""

    n_baseline: int
    n_candidate: int
    budget: str = ""

    @property
    def shown(self) -> str:
        """As "N = 4", or "550ms (N = 4 against 2)"."""
        same = self.n_baseline == self.n_candidate
        ns = f"N = {self.n_baseline}" + ("" if same else f" against {self.n_candidate}")
        return f"{self.budget} ({ns})" if self.budget else ns


def same_n(gate: GateConfig) -> list[OperatingPoint]:
    """Return the gate's own N's."""
    return [OperatingPoint(n, n) for n in gate.best_of_n]


def points(
    gate: GateConfig,
    kinds: tuple[str, str],
    generator: str,
    steps: int,
    labels: tuple[str, str] | None = None,
) -> list[OperatingPoint]:
    """List the gate's N's, then its budgets with the N that each affords the two verifiers.

    kinds: of baseline and candidate, such as "vhs"; labels: their names in a run, by default their kinds. Raises
    PointError for a budget that gives one of them no N, and for costs that are missing or do not have them.
    """
    if not gate.budgets or gate.costs is None:
        return same_n(gate)
    priced, their_kinds = _priced(gate.costs, gate.budgets, generator)
    sides = [
        _of(priced, label, kind, their_kinds, generator, steps, gate.costs)
        for label, kind in zip(labels or kinds, kinds, strict=True)
    ]
    found = same_n(gate)
    for budget in gate.budgets:
        first, second = (_affords(side, budget, gate.tolerance) for side in sides)
        found.append(OperatingPoint(first, second, budget))
    return found


def _priced(costs: str, budgets: Sequence[str], generator: str) -> tuple[list[Priced], Mapping[str, str]]:
    """Return the pipelines of a run or device, and the kinds of those verifiers whose label is another."""
    if (Path(costs) / "run.json").is_file():
        info = read_info(Folder(costs)) or {}
        return plan.from_run(Path(costs)), recorded_kinds(info, costs)
    if "/" in costs or Path(costs).exists():
        raise PointError(f"the gate's 'costs' names the run '{costs}', but there is no finished run there.")
    return plan.from_device(costs, [parse_budget(text)[1] for text in budgets], [generator]), {}


def recorded_kinds(info: Mapping[str, Any], costs: str) -> Mapping[str, str]:
    """Return the kinds of a run's verifiers by label; none for a benchmark of costs, which has no labels."""
    return recorded_config(info, costs).kinds if "generators" in (info.get("config") or ()) else {}


def _of(
    priced: Sequence[Priced],
    label: str,
    kind: str,
    their_kinds: Mapping[str, str],
    generator: str,
    steps: int,
    costs: str,
) -> Priced:
    """Return the costs of a verifier as the paper runs it, without a named speed-up."""
    here = [p for p in priced if (p.generator, p.steps) == (generator, steps)]
    plain = {p.verifier: p for p in here if p.variant == ""}
    found = counterpart(label, kind, {v: their_kinds.get(v, v) for v in plain})
    if found is None:
        known = ", ".join(sorted({p.verifier for p in here}))
        raise PointError(
            f"the costs of {costs} have no '{label}' on '{generator}' ({steps} steps); they have {known or 'none'}."
        )
    return plain[found]


def _affords(priced: Priced, budget: str, tolerance: float | None) -> int:
    (row,) = plan.plan([priced], [budget], tolerance)
    if row["n"] is None:
        raise PointError(
            f"the gate's budget of {budget} gives '{priced.verifier}' no N: {row['note'] or row['answer']}."
        )
    return int(row["n"])
