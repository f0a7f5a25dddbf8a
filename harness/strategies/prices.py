"""What strategies of some verifiers cost on one pool, in one unit: the calls of stages that they make, added up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vhsbench.generators.protocol import blocks_of, read_block
from vhsbench.harness.cost.rounds import cell_name
from vhsbench.harness.cost.stage_costs import StageCosts
from vhsbench.harness.strategies.base import Floats, Strategy
from vhsbench.harness.strategies.path import calls


@dataclass(frozen=True)
class Prices:
    """needs: what each verifier reads, those of hidden states in the order of their blocks."""

    needs: Mapping[str, str]
    stages: StageCosts

    def cost(self, strategy: Strategy, drawn: int) -> float:
        """Return the cost where so many candidates are drawn. Raises CostError for a stage that was not measured."""
        return self.stages.cost(calls(self.needs, strategy.scored(drawn)))

    def draws(self, strategy: Strategy, drawn: int) -> Floats | None:
        """Return the same as resampled turns give it, [DRAWS]; None where nothing was resampled. Raises as `cost`."""
        return self.stages.draws(calls(self.needs, strategy.scored(drawn)))


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
