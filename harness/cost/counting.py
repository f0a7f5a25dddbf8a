"""A pipeline's cost counted from its architecture, on `meta`: no weights, no memory, seconds.

Nano, which is bundled and small, is counted on the CPU as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from vhsbench.harness.cost.cost_model import CostModel
from vhsbench.harness.cost.stages import each_stage, question_tokens
from vhsbench.harness.geneval.nano_prompts import nano_prompts
from vhsbench.harness.geneval.prompts import official
from vhsbench.harness.inference.route import ROUTES

if TYPE_CHECKING:
    from vhsbench.generators.protocol import Generator
    from vhsbench.harness.cost.flops import Cost
    from vhsbench.harness.cost.roofline import Device
    from vhsbench.verifiers.protocol import QuestionTokens, Verifier


def usual_prompt(generator: str) -> str:
    """Return the prompt of the bundled runs' costs: the first of nano's own prompts for nano, else GenEval's first."""
    prompts = nano_prompts()["evaluation"] if generator == "nano" else official()
    return str(prompts[0]["prompt"])


@dataclass(frozen=True)
class Counted:
    """What every stage of a pipeline computes, once, for one prompt; `question` is None without a text of that kind."""

    generator: str
    steps: int
    verifier: str | None
    needs: str | None
    prompt: str
    question: QuestionTokens | None
    stages: dict[str, Cost]

    @property
    def tflop(self) -> CostModel:
        """Exact: FLOPs do not depend on the device."""
        return self._model(lambda cost: cost.tflop)

    def bound_ms(self, device: Device) -> CostModel:
        """Estimate times from the device's data sheet, without measuring."""
        return self._model(lambda cost: device.bound_ms(cost.tflop, cost.moved_gb))

    def paid(self, stage: str) -> str:
        return "fixed" if stage in ROUTES[self.needs].fixed else "per candidate"

    def rows(self, n: int) -> list[dict[str, Any]]:
        """Return one row a stage, in the order they run; the stage score by its parts where it has them."""
        return [
            {
                "stage": stage, "parameters": cost.parameters, "tflop": cost.tflop, "paid": self.paid(stage),
                "total_tflop": cost.tflop * (n if self.paid(stage) == "per candidate" else 1),
                "weights_gb": cost.weight_bytes / 1e9, "activations_gb": cost.activation_bytes / 1e9,
                "uncounted_operators": sorted(cost.uncounted),
            }
            for stage, cost in self.stages.items()
            if not (stage == "score" and "llm" in self.stages)
        ]  # fmt: skip

    def _model(self, of: Callable[[Cost], float]) -> CostModel:
        route = ROUTES[self.needs]
        return CostModel(
            sum(of(self.stages[s]) for s in route.fixed), sum(of(self.stages[s]) for s in route.per_candidate)
        )


def count_pipeline(
    generator: str, verifier: str | None, steps: int | None = None, prompt: str | None = None
) -> Counted:
    """Build both and count every stage once, by default for `usual_prompt`. Raises RegistryError for an unknown name.

    Steps beyond the second cost what the second does: more than two are counted from one and two.
    """
    from vhsbench import verifiers

    judge: Any = None
    if verifier is not None:
        options = {} if generator == "nano" else {"checkpoint": "random", "device": "meta"}
        judge = verifiers.create(verifier, generator=generator, **options)
    built = _generator(generator, steps)
    prompt = usual_prompt(generator) if prompt is None else prompt
    wanted = built.steps
    if wanted <= 2:
        found = _stages(built, judge, prompt)
    else:
        one, two = (_stages(_with_steps(built, steps), judge, prompt) for steps in (1, 2))
        found = {k: one[k].plus(two[k].less(one[k]), wanted - 1) for k in one}
        built.steps = wanted
    needs = judge.needs if judge else None
    return Counted(generator, built.steps, verifier, needs, prompt, question_tokens(judge, prompt), found)


@cache
def _generator(name: str, steps: int | None) -> Generator:
    from vhsbench import generators

    options: dict[str, Any] = {} if name == "nano" else {"weights": "random", "device": "meta"}
    if steps is not None:
        options["steps"] = steps
    return generators.create(name, **options)


def _with_steps(generator: Generator, steps: int) -> Generator:
    generator.steps = steps
    return generator


def _stages(generator: Generator, verifier: Verifier | None, prompt: str) -> dict[str, Cost]:
    """Count every stage in the order it runs, and the parts of the stage score."""
    from PIL import Image

    from vhsbench.harness.cost.flops import count

    found: dict[str, Cost] = {}

    def do(stage: str, call: Callable[[], Any]) -> Any:
        kept: list[Any] = []
        found[stage] = count(lambda: kept.append(call()))
        if stage == "decode":  # there are no pixels on meta: blank ones of the same size
            side = generator.info().resolution
            return [Image.new("RGB", (side, side))]
        return kept[0] if kept else None

    each_stage(generator, verifier, prompt, do)
    return found
