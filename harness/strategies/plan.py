"""The N that a budget affords a strategy, from the stages of a finished run."""

from __future__ import annotations

from pathlib import Path

from vhsbench.harness.cost.budgets import COLUMN
from vhsbench.harness.cost.cost_model import CostError, CostModel
from vhsbench.harness.cost.plan import Priced
from vhsbench.harness.cost.stage_costs import StageCosts
from vhsbench.harness.store.keys import POOL, distinct
from vhsbench.harness.store.tables import load_costs
from vhsbench.harness.strategies.prices import Prices, costs_for, needs_in_run
from vhsbench.harness.strategies.registry import StrategyError, Template

_FAR = 1000  # candidates, of a pool that a plan is not limited by


def priced(path: Path, template: Template, tolerance: float) -> list[Priced]:
    """Price a strategy of which all but `n` is given, on every pool of a run that measured its verifiers.

    Its cost is linear in n from k on, and below k it is taken to keep all; a plan is for the longest prompt, so that a
    stop rule costs what best-of-N does.
    Raises StoreError for what is no run, StrategyError for a parameter that is not given or a pool without its verifiers.
    """
    costs, info = load_costs(path)
    least = int(template.fixed.get("k", 1))
    found = []
    for generator, steps in distinct(costs, POOL):
        needs = needs_in_run(info, generator, steps, template.verifiers)
        if needs is None:
            continue
        one, two = (template.at(n) for n in (max(least, 1), _FAR))
        models, basis = {}, {}
        for unit in COLUMN:
            try:
                prices = Prices(needs, StageCosts(costs_for(template.kind, costs, generator, steps), unit))
                few, many = (prices.cost(s, s.n) for s in (one, two))
            except CostError:
                continue
            each = (many - few) / (two.n - one.n)
            models[unit] = CostModel(few - one.n * each, each)
            basis[unit] = "counted" if unit == "TFLOP" else "measured stages, added up"
        found.append(Priced(generator, steps, template.text, "", models, basis, tolerance=tolerance))
    if not found:
        raise StrategyError(f"{path} measured no generator with all verifiers of '{template.text}'.")
    return found
