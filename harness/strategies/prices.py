"""What strategies of some verifiers cost on one pool, in one unit: the calls of stages that they make, added up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from vhsbench.generators.protocol import blocks_of, read_block
from vhsbench.harness.cost.rounds import cell_name
from vhsbench.harness.cost.stage_costs import StageCosts
from vhsbench.harness.inference.route import denoise_with
from vhsbench.harness.store.keys import of_pool
from vhsbench.harness.strategies.base import Floats, Strategy
from vhsbench.harness.strategies.path import calls


@dataclass(frozen=True)
class Prices:
    """needs: what each verifier reads, those of hidden states in the order of their blocks."""

    needs: Mapping[str, str]
    stages: StageCosts

    def cost(self, strategy: Strategy, drawn: int) -> float:
        """Return the cost where so many candidates are drawn. Raises CostError for a stage that was not measured."""
        return self.stages.cost(calls(self.needs, strategy.scored(drawn), strategy.again))

    def draws(self, strategy: Strategy, drawn: int) -> Floats | None:
        """Return the same as resampled turns give it, [DRAWS]; None where nothing was resampled. Raises as `cost`."""
        return self.stages.draws(calls(self.needs, strategy.scored(drawn), strategy.again))


def costs_for(kind: type[Strategy], costs: pd.DataFrame, generator: str, steps: int) -> pd.DataFrame:
    """Select the costs that strategies of a kind have on a pool: its own, and denoising with more steps if they refine."""
    here = of_pool(costs, generator, steps)
    if not kind.refines:  # further rows would move the fit of turns
        return here
    more = costs[(costs["generator"] == generator) & (costs["steps"] > steps)]
    more = more[(more["stage"] == "denoise") & (more["verifier"] == "")]
    renamed = more.assign(stage=more["steps"].map(denoise_with), steps=steps)
    return pd.concat([here, renamed], ignore_index=True)


def in_order(needs: Mapping[str, str], blocks: Mapping[str, Any]) -> dict[str, str]:
    """Order what verifiers read by the (last) block of hidden states. blocks: as run.json has them."""

    def depth(verifier: str) -> tuple[int, str]:
        block = read_block(blocks.get(verifier))
        return (-1 if block is None else blocks_of(block)[-1], verifier)

    return {v: needs[v] for v in sorted(needs, key=depth)}


def needs_in_run(
    info: Mapping[str, Any], generator: str, steps: int, verifiers: Sequence[str]
) -> dict[str, str] | None:
    """Look up in run.json what verifiers read, in order; None if it did not measure all of them on this pool."""
    cells = info.get("cells", {})
    needs = {v: cells.get(cell_name(generator, steps, v, ""), {}).get("needs") for v in verifiers}
    return None if None in needs.values() else in_order(needs, info.get("blocks", {}))
