"""A batch of finished candidates, as the detector and every verifier read it; what is no number is refused here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from vhsbench.generators.noise import candidate_seed
from vhsbench.generators.protocol import HiddenStates, NotFiniteError, block_name
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.shown import printable
from vhsbench.harness.inference.route import ROUTES
from vhsbench.verifiers.checks import Marks, Name, marks

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from vhsbench.generators.protocol import Block, Conditioning, Generator
    from vhsbench.verifiers.protocol import Needs, Verifier

_SHOWN = 60  # characters of a prompt
_ODD = "are NaN or infinite: no picture can be made of them; a dtype of wider range (bfloat16, float32) may help."


class CandidateError(VhsbenchError):
    """What a generator made of a candidate is no picture; names generator, prompt, seed and candidate."""


@dataclass(frozen=True)
class Rows:
    """Which candidates a batch is of: prompt id, root seed and index of each, and its prompt's text."""

    generator: str  # as tables have it
    prompts: Sequence[str]
    keys: Sequence[tuple[int, int, int]]

    def seeds(self) -> list[int]:
        """Return the seed of each candidate's noise."""
        return [candidate_seed(seed, prompt_id, index) for prompt_id, seed, index in self.keys]

    def name(self, row: int) -> str:
        """Return a candidate in words, for errors."""
        prompt_id, seed, index = self.keys[row]
        return candidate(self.generator, self.prompts[row], seed, index, prompt_id)


@dataclass(frozen=True)
class Candidates:
    """B finished candidates: the states that their routes have in common (see Route), by kind and block."""

    rows: Rows
    states: Mapping[tuple[Needs, Block | None], Any]

    @cached_property
    def images(self) -> Sequence[Image.Image]:
        """The pictures as PIL images, from the device if they are there."""
        return list(self.states["images", None])

    def first(self, rows: int) -> Candidates:
        """Return the first candidates of the batch."""
        kept = replace(self.rows, prompts=self.rows.prompts[:rows], keys=self.rows.keys[:rows])
        return Candidates(kept, {key: _first(state, rows) for key, state in self.states.items()})

    def read(self, needs: Needs, block: Block | None = None) -> Any:
        """Return what a verifier takes: see Verifier.score. Raises KeyError for hidden states that were not kept."""
        return ROUTES[needs].reads(self.states[needs, block])

    def scored_by(self, verifier: Verifier) -> Marks:
        """Return p_yes, p_no and score of each candidate, on the CPU.

        Raises ScoresError, and what the verifier does.
        """
        prompts = list(self.rows.prompts)
        scores = verifier.score(prompts, self.read(verifier.needs, verifier.block))
        return marks(verifier, scores, len(prompts), self.rows.name)


def _first(state: Any, rows: int) -> Any:
    return state.select(range(rows)) if isinstance(state, HiddenStates) else state[:rows]


def candidate(generator: str, prompt: str, seed: int, index: int, prompt_id: int | None = None) -> str:
    text = printable(prompt[:_SHOWN]) + ("..." if len(prompt) > _SHOWN else "")
    which = f"prompt {prompt_id} ('{text}')" if prompt_id is not None else f"the prompt '{text}'"
    return f"candidate {index} of {which}, seed {seed}, by generator '{generator}'"


def encoded(encode: Callable[[list[str]], Conditioning], prompts: Sequence[str]) -> Conditioning:
    """Return a row a prompt, with the text encoder's work for each distinct one alone."""
    distinct = list(dict.fromkeys(prompts))
    return encode(distinct).select([distinct.index(p) for p in prompts])


def generate(generator: Generator, cond: Conditioning, rows: Rows, blocks: Iterable[Block]) -> Candidates:
    """Carry every candidate to its image, keeping the hidden states of `blocks` (verifiers.protocol.blocks_read).

    Raises CandidateError for one whose hidden states, latents or pixels are NaN or infinite.
    """
    states: dict[tuple[Needs, Block | None], Any] = {}
    sound: dict[str, torch.Tensor] = {}
    try:
        for needs, block, state in in_turn(generator, cond, rows, blocks):
            states[needs, block] = state
            if needs != "images":
                # queued on the device and read when decoding has waited for it anyway: no wait of its own
                sound[in_words(needs, block)] = finite_rows(ROUTES[needs].reads(state))
    except CandidateError:
        _refuse(sound, rows)  # to blame for pixels made of them
        raise
    _refuse(sound, rows)
    return Candidates(rows, states)


def in_turn(
    generator: Generator, cond: Conditioning, rows: Rows, blocks: Iterable[Block]
) -> Iterator[tuple[Needs, Block | None, Any]]:
    """Yield a batch's states as they are made, by kind and block: hidden states of each block, latents, images.

    Nothing is made that is not asked for. Raises CandidateError for pixels that are NaN.
    """
    noise = generator.noise(rows.seeds())
    first: HiddenStates | None = None
    for block in blocks:
        hidden = generator.head(cond, noise, block)
        first = first or hidden
        yield "hidden", block, hidden
    latents = generator.denoise(cond, noise) if first is None else generator.tail(first)
    yield "latents", None, latents
    yield "images", None, _decoded(generator, latents, rows)


def in_words(needs: Needs, block: Block | None) -> str:
    """Return a state in words, for errors."""
    return needs if block is None else f"{needs} states of block {block_name(block)}"


def _decoded(generator: Generator, latents: torch.Tensor, rows: Rows) -> Sequence[Image.Image]:
    from vhsbench.generators.pictures import Pictures

    try:
        images = generator.decode(latents)
        if isinstance(images, Pictures):  # stay on the device, where a verifier may read them
            images.check()
        else:
            images = list(images)
    except NotFiniteError as error:
        raise CandidateError(f"the pixels of {rows.name(error.rows[0])} {_ODD}") from error
    if len(images) != len(rows.keys):
        raise CandidateError(
            f"generator '{generator.name}' decoded {len(images)} image(s) of {len(rows.keys)} candidates, "
            f"the first of them {rows.name(0)}."
        )
    return images


def finite_rows(values: torch.Tensor) -> torch.Tensor:
    """Return which rows [B] of a tensor [B, ...] hold finite numbers alone, on their device and without a copy."""
    if not values.numel():
        return values.new_ones(len(values)).bool()
    least, most = values.flatten(1).aminmax(dim=1)  # NaN passes through both
    return least.isfinite() & most.isfinite()


def refuse_rows(what: str, sound: torch.Tensor, name: Name) -> None:
    """Raise CandidateError for the first row of [B] that is not sound."""
    each = sound.tolist()
    if not all(each):
        raise CandidateError(f"the {what} of {name(each.index(False))} {_ODD}")


def _refuse(sound: Mapping[str, torch.Tensor], rows: Rows) -> None:
    for what, each in sound.items():
        refuse_rows(what, each, rows.name)
