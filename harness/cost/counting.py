"""A pipeline's cost counted from its architecture, on `meta`: no weights, no memory, seconds.

Nano, which is bundled and small, is counted on the CPU as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from vhsbench.harness.cost.cost_model import CostModel
from vhsbench.harness.cost.stages import FIXED, PARTS, PER_CANDIDATE, question_tokens
from vhsbench.harness.geneval.nano_prompts import nano_prompts
from vhsbench.harness.geneval.prompts import official

if TYPE_CHECKING:
    from vhsbench.generators.protocol import Generator
    from vhsbench.harness.cost.flops import Cost
    from vhsbench.harness.cost.roofline import Device
    from vhsbench.verifiers.mllm import QuestionTokens
    from vhsbench.verifiers.protocol import Verifier


def usual_prompt(generator: str) -> str:
    """What the bundled runs of a generator measure costs with, their first prompt: nano's own, else GenEval's."""
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
        """An estimate from the device's data sheet, not a measurement."""
        return self._model(lambda cost: device.bound_ms(cost.tflop, cost.moved_gb))

    def paid(self, stage: str) -> str:
        return "per candidate" if stage in (*PER_CANDIDATE[self.needs], *PARTS) else "fixed"

    def rows(self, n: int) -> list[dict[str, Any]]:
        """One row a stage, in the order they run; the stage score by its parts where it has them."""
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
        return CostModel(
            sum(of(self.stages[s]) for s in FIXED[self.needs]),
            sum(of(self.stages[s]) for s in PER_CANDIDATE[self.needs]),
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
        # what a verifier computes after denoising does not depend on its steps, and need not be counted again
        inside = judge if judge is not None and judge.needs == "hidden" else None
        one = _stages(_with_steps(built, 1), judge, prompt)
        two = _stages(_with_steps(built, 2), inside, prompt)
        found = {k: one[k].plus(two[k].less(one[k]), wanted - 1) if k in two else one[k] for k in one}
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
    """Every stage in the order it runs, each fed what the one before returned."""
    from vhsbench.harness.cost.flops import count

    found: dict[str, Cost] = {}

    def run(stage: str, call: Callable[[], Any]) -> Any:
        kept: list[Any] = []
        found[stage] = count(lambda: kept.append(call()))
        return kept[0] if kept else None

    cond = run("encode", lambda: generator.encode([prompt]))
    noise = run("noise", lambda: generator.noise([0]))
    if verifier is not None and verifier.needs == "hidden":
        hidden = run("head", lambda: generator.head(cond, noise, verifier.block or 0))
        found |= _score(verifier, prompt, hidden.features)
        latents = run("tail", lambda: generator.tail(hidden))
        run("decode", lambda: generator.decode(latents))
        return found
    latents = run("denoise", lambda: generator.denoise(cond, noise))
    if verifier is not None and verifier.needs == "latents":
        found |= _score(verifier, prompt, latents)
    run("decode", lambda: generator.decode(latents))
    if verifier is not None and verifier.needs == "images":
        from PIL import Image

        # there are no pixels on meta: blank ones of the same size
        side = generator.info().resolution
        found |= _score(verifier, prompt, [Image.new("RGB", (side, side))])
    return found


def _score(verifier: Verifier, prompt: str, reads: Any) -> dict[str, Cost]:
    """The stage score, and its parts if the verifier names them: `tokens` (CLIP), `model.connector`, the rest."""
    from vhsbench.harness.cost.flops import count

    score = count(lambda: verifier.score([prompt], reads))
    tokens, model = getattr(verifier, "tokens", None), getattr(verifier, "model", None)
    connector = getattr(model, "connector", None)
    if tokens is None or connector is None:
        return {"score": score}
    visual: list[Any] = []
    clip = count(lambda: visual.append(tokens(reads)))
    projected = count(lambda: connector(visual[0].to(next(connector.parameters()))))
    parts = {"clip": clip} if verifier.needs == "images" else {}
    return {"score": score} | parts | {"connector": projected, "llm": score.less(clip).less(projected)}
