"""A pipeline's cost counted from its architecture, on `meta`: no weights, no memory, seconds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from harness.budgets import CostModel
from harness.stages import FIXED, PARTS, PER_CANDIDATE, stages

if TYPE_CHECKING:
    from generators.protocol import Generator
    from harness.flops import Cost
    from harness.roofline import Device

PROMPT = "a photo of a red heart above a blue square"


@dataclass(frozen=True)
class Counted:
    """What every stage of a pipeline computes, once."""

    generator: str
    steps: int
    verifier: str | None
    needs: str | None
    stages: dict[str, Cost]

    @property
    def tflop(self) -> CostModel:
        """Exact: FLOPs do not depend on the device."""
        return self._model({name: cost.tflop for name, cost in self.stages.items()})

    def bound_ms(self, device: Device) -> CostModel:
        """An estimate from the device's data sheet, not a measurement."""
        return self._model(
            {
                name: device.bound_ms(cost.tflop, (cost.weight_bytes + cost.activation_bytes) / 1e9)
                for name, cost in self.stages.items()
            }
        )

    def paid(self, stage: str) -> str:
        return "per candidate" if stage in (*PER_CANDIDATE[self.needs], *PARTS) else "fixed"

    def rows(self, n: int) -> list[dict[str, Any]]:
        """One row a stage in the order they run; the stage score by its parts where it has them."""
        order = ("encode", "noise", "head", "denoise", *(("decode",) if self.needs == "images" else ()))
        order += ("score", *PARTS, "tail", "decode")
        found = []
        for stage in dict.fromkeys(order):
            cost = self.stages.get(stage)
            if cost is None or (stage == "score" and "llm" in self.stages):
                continue
            times = n if self.paid(stage) == "per candidate" else 1
            found.append(
                {
                    "stage": stage, "parameters": cost.parameters, "tflop": cost.tflop,
                    "paid": self.paid(stage), "total_tflop": times * cost.tflop,
                    "weights_gb": cost.weight_bytes / 1e9, "activations_gb": cost.activation_bytes / 1e9,
                    "uncounted_operators": sorted(cost.uncounted),
                }
            )  # fmt: skip
        return found

    def _model(self, by_stage: dict[str, float]) -> CostModel:
        return CostModel(
            sum(by_stage[s] for s in FIXED[self.needs]), sum(by_stage[s] for s in PER_CANDIDATE[self.needs])
        )


def count_pipeline(generator: str, verifier: str | None, steps: int | None = None) -> Counted:
    """Build both on `meta` and count every stage once. Raises RegistryError for an unknown name."""
    import verifiers
    from harness.flops import count

    built = _generator(generator, steps)
    judge = None
    if verifier is not None:
        options = {} if generator == "nano" else {"generator": generator, "checkpoint": "random"}
        judge = verifiers.create(verifier, device="meta", **options)
    calls = stages(built, judge, PROMPT)
    return Counted(
        generator, built.steps, verifier, judge.needs if judge else None,
        {name: count(call) for name, call in calls.items()},
    )  # fmt: skip


@cache
def _generator(name: str, steps: int | None) -> Generator:
    import generators

    options: dict[str, Any] = {} if name == "nano" else {"weights": "random"}
    if steps is not None:
        options["steps"] = steps
    return generators.create(name, device="meta", **options)
