"""How a candidate comes to be, stage by stage, and where on its way a verifier reads it: one route a kind of features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vhsbench.generators.protocol import HiddenStates

if TYPE_CHECKING:
    from vhsbench.generators.protocol import Block, Conditioning, Generator
    from vhsbench.verifiers.protocol import Verifier

ENCODE, SCORE = "encode", "score"  # once for the prompt; the verifier's own
HALVES = ("head", "tail")  # of a forward, on both sides of the block that is read

_Run = Callable[["Generator", "Conditioning", Any, Any], Any]
# What each stage of a generator makes of what the one before it returned, the first one of the seeds.
STAGES: Mapping[str, _Run] = {
    "noise": lambda generator, cond, block, seeds: generator.noise(seeds),
    "head": lambda generator, cond, block, noise: generator.head(cond, noise, block),
    "advance": lambda generator, cond, block, hidden: generator.advance(hidden, block),
    "denoise": lambda generator, cond, block, noise: generator.denoise(cond, noise),
    "tail": lambda generator, cond, block, hidden: generator.tail(hidden),
    "decode": lambda generator, cond, block, latents: generator.decode(latents),
}


def advance_from(verifier: str) -> str:
    """Name the stage that goes on from where another verifier of the run read hidden states, in tables of costs."""
    return f"advance:{verifier}"


def denoise_with(steps: int) -> str:
    """Name the stage that makes a candidate's latents from its noise with more steps than its pool's, likewise."""
    return f"denoise:{steps}"


@dataclass(frozen=True)
class Route:
    """The stages from seeds to images by name, in the order they run, with `score` where the verifier reads.

    Every candidate goes as far as `score`, the winner alone goes on. Between two stages a batch is a state: what
    the last one returned, which is HiddenStates, latents [B, C, h, w] or a list of B images.
    """

    stages: tuple[str, ...]
    block: Block | None = None  # that `head` stops after

    @property
    def per_candidate(self) -> tuple[str, ...]:
        """The stages that every candidate pays."""
        return self.stages[: self._turn]

    @property
    def fixed(self) -> tuple[str, ...]:
        """The stages that are paid once, however many candidates there are."""
        return (ENCODE, *self.stages[self._turn :])

    @property
    def _turn(self) -> int:
        return self.stages.index(SCORE) + 1 if SCORE in self.stages else len(self.stages)

    def start(self, generator: Generator, cond: Conditioning, seeds: Sequence[int]) -> Any:
        """Run a batch of candidates up to where the verifier reads; to images, if there is no verifier."""
        return self._run(self.per_candidate, generator, cond, seeds)

    def reads(self, state: Any) -> Any:
        """Return what a verifier takes of that state: see Verifier.score."""
        return state.features if isinstance(state, HiddenStates) else state

    def finish(self, generator: Generator, cond: Conditioning, state: Any, row: int) -> Any:
        """Return the image of one candidate of a batch, in a list. `cond` is of its prompt alone."""
        state = state.select([row]) if isinstance(state, HiddenStates) else state[row : row + 1]
        return self._run(self.stages[self._turn :], generator, cond, state)

    def _run(self, stages: Sequence[str], generator: Generator, cond: Conditioning, state: Any) -> Any:
        for stage in stages:
            if stage != SCORE:
                state = STAGES[stage](generator, cond, self.block, state)
        return state


# By what the verifier needs; None is one image without a choice.
ROUTES: Mapping[str | None, Route] = {
    "hidden": Route(("noise", "head", SCORE, "tail", "decode")),
    "latents": Route(("noise", "denoise", SCORE, "decode")),
    "images": Route(("noise", "denoise", "decode", SCORE)),
    None: Route(("noise", "denoise", "decode")),
}


def route_of(verifier: Verifier | None) -> Route:
    """Return the route on which this verifier chooses."""
    if verifier is None:
        return ROUTES[None]
    return replace(ROUTES[verifier.needs], block=verifier.block)
