"""Strategies in the gate: the same one with the baseline's verifier and with the candidate's, at equal budgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vhsbench.harness.config.run import counterpart
from vhsbench.harness.cost.cost_model import CostError, parse_budget
from vhsbench.harness.cost.plan import tolerance_of
from vhsbench.harness.cost.stage_costs import StageCosts
from vhsbench.harness.regress.gate_config import GateConfig
from vhsbench.harness.regress.points import PointError, recorded_kinds
from vhsbench.harness.regress.scores import Floats, LabeledCandidates
from vhsbench.harness.regress.sources import Source
from vhsbench.harness.store.tables import load_costs
from vhsbench.harness.strategies.base import Pools
from vhsbench.harness.strategies.choose import Held, choose, evaluate, folds
from vhsbench.harness.strategies.prices import Prices, costs_for, needs_in_run
from vhsbench.harness.strategies.registry import Template, parse, written


@dataclass(frozen=True)
class Duel:
    """A strategy at a budget, baseline and candidate: accuracy in percent by prompt [P], of settings that others chose.

    n, settings: those that either side chose most often. same: whether both sides scored alike.
    """

    strategy: str
    budget: str
    n: tuple[int, int]
    settings: tuple[str, str]
    accuracy: tuple[Floats, Floats]
    same: bool


@dataclass(frozen=True)
class Shared:
    """A strategy of the gate: of the verifier `tested` either side has its own, the others are the same for both."""

    template: Template
    tested: str

    @property
    def others(self) -> list[str]:
        return [v for v in self.template.verifiers if v != self.tested]


def shared(gate: GateConfig, sides: tuple[Source, Source]) -> list[Shared]:
    """List the gate's strategies. Raises PointError for one that does not name the verifier that both sides are."""
    found = []
    for template in map(parse, gate.strategies):
        tested = [{v for v in template.verifiers if v in (side.verifier, side.kind)} for side in sides]
        if tested[0] != tested[1] or len(tested[0]) != 1:
            raise PointError(
                f"the gate's strategy '{template.text}' must name the one verifier that both sides are, but the baseline "
                f"is '{sides[0].verifier}' and the candidate '{sides[1].verifier}'."
            )
        found.append(Shared(template, *tested[0]))
    return found


def duels(
    gate: GateConfig,
    strategies: Sequence[Shared],
    candidates: LabeledCandidates,
    scores: tuple[Floats, Floats],
    others: Callable[[str], Floats],
    pool: tuple[str, int],
) -> list[Duel]:
    """Compare every strategy at every budget of the gate.

    scores: [R, M] of baseline and candidate; others: those of another verifier; pool: generator and steps. Raises
    PointError for a budget that affords no setting and for costs without a verifier or stage, StrategyError for a pool
    too small.
    """
    found = []
    for each in strategies:
        arena = _Arena(gate, each.template, candidates, pool)
        rest = {v: others(v) for v in each.others}
        for budget in gate.budgets:
            a, b = (arena.held({each.tested: mine} | rest, budget) for mine in scores)
            found.append(Duel(
                each.template.text, budget, (a.usual.n, b.usual.n), (arena.text(a), arena.text(b)),
                (100 * a.accuracy, 100 * b.accuracy), np.array_equal(*scores),
            ))  # fmt: skip
    return found


class _Arena:
    """A strategy on the gate's candidates, at the costs of a run where its verifiers may have other labels."""

    def __init__(
        self, gate: GateConfig, template: Template, candidates: LabeledCandidates, pool: tuple[str, int]
    ) -> None:
        where = str(gate.costs)
        costs, info = load_costs(where)
        self._gate, self._template, self._candidates = gate, template, candidates
        self._costs, self._tolerance = costs_for(template.kind, costs, *pool), tolerance_of(Path(where), info)
        kinds = recorded_kinds(info, where)
        measured = {v: kinds.get(v, v) for v in self._costs["verifier"].unique()}
        self._labels = {v: counterpart(v, v, measured) or v for v in template.verifiers}
        needs = needs_in_run(info, *pool, list(self._labels.values()))
        if needs is None:
            raise PointError(
                f"the costs of {where} lack a verifier of '{template.text}' on '{pool[0]}' ({pool[1]} steps)."
            )
        self._needs = needs

    def held(self, scores: Mapping[str, Floats], budget: str) -> Held:
        """Return what a side gets at a budget. scores: [R, M] by verifier."""
        value, unit = parse_budget(budget)
        pools = Pools({self._labels[v]: s for v, s in scores.items()}, self._candidates.correct.astype(float))
        template = replace(self._template, verifiers=tuple(self._labels[v] for v in self._template.verifiers))
        _, first = np.unique(self._candidates.prompt_id, return_index=True)
        settings = template.settings(pools)
        try:
            prices = Prices(self._needs, StageCosts(self._costs, unit))
            found = evaluate(settings, pools, self._candidates.prompt_id, prices.cost)
        except CostError as error:
            raise PointError(
                f"the costs of {self._gate.costs} do not price '{template.text}': {error}"
            ) from error
        given = self._gate.tolerance
        limit = value * (1 + (self._tolerance if given is None else given))
        held = choose(found, limit, self._gate.meaning, folds(self._candidates.tags[first]))
        if held is None:
            raise PointError(f"the gate's budget of {budget} affords no '{self._template.text}'.")
        return held

    def text(self, held: Held) -> str:
        """Write the setting that was chosen most often, with the verifiers as the gate names them."""
        t = self._template
        return written(t.name, t.kind, t.verifiers, held.usual.values)
