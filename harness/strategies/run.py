"""Run any strategy on a generator and verifiers: candidates are made as far as they are asked for, the winner to its image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from vhsbench.generators.protocol import HiddenStates, blocks_of
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.inference.candidates import candidate
from vhsbench.harness.inference.route import ROUTES, STAGES
from vhsbench.harness.strategies.path import Leg, path
from vhsbench.verifiers.checks import check_form, check_values

if TYPE_CHECKING:
    from PIL import Image

    from vhsbench.generators.protocol import Generator
    from vhsbench.harness.strategies.base import Strategy
    from vhsbench.verifiers.protocol import Verifier


@dataclass(frozen=True)
class Picked:
    """The winner: its image and index among the seeds; scores by verifier and candidate; how many were scored."""

    image: Image.Image
    index: int
    scores: Mapping[str, Mapping[int, float]]

    @property
    def scored(self) -> dict[str, int]:
        return {verifier: len(found) for verifier, found in self.scores.items()}


def run(
    strategy: Strategy,
    generator: Generator,
    verifiers: Mapping[str, Verifier],
    prompt: str,
    seeds: Sequence[int],
    batch: int = 1,
) -> Picked:
    """Run a strategy on one prompt, `batch` candidates at a time.

    `verifiers` are by the names that the strategy has. Raises a VhsbenchError for fewer seeds than it may draw, a verifier that
    cannot read what the generator makes, or scores that are none.
    """
    if len(seeds) < strategy.n:
        raise VhsbenchError(
            f"the strategy draws up to {strategy.n} candidates, but there are {len(seeds)} seeds."
        )
    if strategy.again is not None and strategy.again <= generator.steps:
        raise VhsbenchError(
            f"the winner is made again with {strategy.again} step(s), but drafts have {generator.steps} already; give more steps."
        )
    finer = None if strategy.again is None else generator.with_steps(strategy.again)
    field = Field(generator, {v: verifiers[v] for v in strategy.verifiers}, prompt, seeds, batch)
    index = strategy.pick(field)
    image = field.image(index) if finer is None else field.made_again(finer, index)
    return Picked(image, index, field.scored)


class Field:
    """The candidates of one prompt and how far each has been made (see base.Contestants)."""

    def __init__(
        self,
        generator: Generator,
        verifiers: Mapping[str, Verifier],
        prompt: str,
        seeds: Sequence[int],
        batch: int,
    ) -> None:
        for verifier in verifiers.values():
            verifier.check_host(generator)
        self._generator, self._prompt, self._seeds, self._batch = generator, prompt, seeds, batch
        self._verifiers = dict(sorted(verifiers.items(), key=lambda item: _depth(item[1])))
        self._cond = generator.encode([prompt])
        self._legs = path({name: v.needs for name, v in self._verifiers.items()})
        self._states: dict[
            int, dict[int, Any]
        ] = {}  # by candidate and number of legs done, each a batch of one
        self.scored: dict[str, dict[int, float]] = {name: {} for name in verifiers}

    def scores(self, verifier: str, candidates: Sequence[int]) -> list[float]:
        """See base.Contestants."""
        known = self.scored[verifier]
        new = [i for i in dict.fromkeys(candidates) if i not in known]
        parts = [new[start : start + self._batch] for start in range(0, len(new), self._batch)]
        if made := [self._score(verifier, part) for part in parts]:
            values = torch.cat(made).float().cpu().numpy()  # waits for the device once, as best_of_n does
            check_values(
                self._verifiers[verifier],
                values,
                lambda i: candidate(self._generator.name, self._prompt, self._seeds[new[i]], new[i]),
            )
            known |= dict(zip(new, map(float, values), strict=True))
        return [known[i] for i in candidates]

    def image(self, index: int) -> Image.Image:
        """Return a candidate's image, made as far as it is not yet."""
        found: Image.Image = self._carried([index], len(self._legs))[0]
        return found

    def made_again(self, generator: Generator, index: int) -> Image.Image:
        """Return a candidate's image as another generator makes it from the same noise and prompt."""
        latents = generator.denoise(self._cond, generator.noise([self._seeds[index]]))
        return generator.decode(latents)[0]

    def _score(self, name: str, part: Sequence[int]) -> torch.Tensor:
        verifier = self._verifiers[name]
        done = next(i for i, leg in enumerate(self._legs, 1) if name in leg.readers)
        read = ROUTES[verifier.needs].reads(self._carried(part, done))
        return check_form(verifier, verifier.score([self._prompt] * len(part), read), len(part)).score

    def _carried(self, part: Sequence[int], done: int) -> Any:
        """Return a batch of candidates after `done` legs, carried on from as far as all of them are."""
        for i in part:
            self._states.setdefault(i, {0: None})
        first = max(set.intersection(*({k for k in self._states[i] if k <= done} for i in part)))
        state = _joined([self._states[i][first] for i in part]) if first else [self._seeds[i] for i in part]
        cond = self._cond.select([0] * len(part))
        for number in range(first, done):
            leg = self._legs[number]
            state = STAGES[leg.stage.partition(":")[0]](self._generator, cond, self._block(leg), state)
            if leg.readers or number + 1 == done:
                for row, i in enumerate(part):
                    self._states[i][number + 1] = _row(state, row)
        return state

    def _block(self, leg: Leg) -> Any:
        return self._verifiers[leg.owner].block if leg.owner else None


def _depth(verifier: Verifier) -> int:
    return blocks_of(verifier.block)[-1] if verifier.block is not None else -1


def _row(state: Any, row: int) -> Any:
    return state.select([row]) if isinstance(state, HiddenStates) else state[row : row + 1]


def _joined(states: Sequence[Any]) -> Any:
    """Put batches of one together."""
    first = states[0]
    if len(states) == 1:
        return first
    if isinstance(first, HiddenStates):
        return _joined_hidden(states)
    return (
        torch.cat(list(states))
        if isinstance(first, torch.Tensor)
        else [one for state in states for one in state]
    )


def _joined_hidden(states: Sequence[HiddenStates]) -> HiddenStates:
    first = states[0]
    many = [torch.cat(parts) for parts in zip(*(s.streams for s in states), strict=True)]
    outputs = [torch.cat(parts) for parts in zip(*(s.step_outputs for s in states), strict=True)]
    means = [s.mean for s in states if s.mean is not None]
    return replace(
        first, streams=tuple(many), step_outputs=tuple(outputs), noise=torch.cat([s.noise for s in states]),
        cond=first.cond.select([0] * len(states)), mean=torch.cat(means) if means else None,
    )  # fmt: skip
