"""What a verifier is: it names the features it needs and scores a batch of them in one forward."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from vhsbench.generators.protocol import Block, blocks_of

if TYPE_CHECKING:
    import torch
    from torch import nn

    from vhsbench.generators.protocol import Generator

Needs = Literal["hidden", "latents", "images"]


def _no_score() -> torch.Tensor:
    raise TypeError("Scores needs 'score'.")


@dataclass(frozen=True)
class Scores:
    """Floating-point tensors of shape [B]: `Scores(score=...)`, with probabilities where the verifier has them.

    score is any finite number, the higher the better. p_yes and p_no are None for a verifier that gives no yes or no.
    Of an LLM they are softmax over the whole vocabulary, not renormalised, and score is the paper's A.4: +p_yes
    where the most likely token is "yes", else -p_no.
    """

    p_yes: torch.Tensor | None = None
    p_no: torch.Tensor | None = None
    score: torch.Tensor = field(default_factory=_no_score)


@dataclass(frozen=True)
class QuestionTokens:
    """How many text tokens a question has before the image and after it.

    `guessed` are the parts of the prompt whose tokens were not counted but guessed.
    """

    before: int
    after: int
    guessed: tuple[str, ...] = ()


@dataclass(frozen=True)
class VerifierInfo:
    """What `vhsbench list verifiers` shows; None is unknown."""

    name: str
    needs: Needs
    block: Block | None  # the DiT block whose output VHS reads, 0-based
    parameters: int | None = None  # connector and LLM, and CLIP where there is one
    tokens: int | None = None  # visual tokens
    feature_width: int | None = None
    generator: str = ""
    source: str = ""


@runtime_checkable
class Verifier(Protocol):
    """What scores candidates. Another package's may leave out what VerifierDefaults has."""

    name: str  # in rows and errors; a run sets an entry's label here
    needs: Needs
    block: Block | None  # of hidden states
    checkpoint_sha256: str
    threshold: float | None  # the value (see below) from which on an image is right; None where none is

    @property
    def device(self) -> torch.device:
        """Where it computes: what it reads is brought there."""
        ...

    def prepare(self, prompts: Iterable[Mapping[str, Any]]) -> None:
        """Take note of what prompts, by their metadata, have beside their "prompt", such as "questions".

        Called before their candidates are scored. Raises a VhsbenchError for what it cannot read.
        """
        ...

    def score(self, prompts: Sequence[str], features: Any) -> Scores:
        """Score a batch of features: [B, T, D] hidden states, [B, C, H, W] latents, or a list of B PIL images."""
        ...

    def check_host(self, generator: Generator) -> None:
        """Raise a ValueError, one sentence, if this verifier cannot read what `generator` makes."""
        ...

    def info(self) -> VerifierInfo: ...

    def modules(self) -> Mapping[str, nn.Module]:
        """Return what stays loaded, by name; `llm` is a causal LM of transformers, which speed-ups change."""
        ...

    def parts(self, prompts: Sequence[str], features: Any) -> Mapping[str, Callable[[], object]]:
        """Return the parts of `score` by name, in their order, each ready to be called on this batch and timed."""
        ...

    def question_tokens(self, prompt: str) -> QuestionTokens | None:
        """Return the length of the question about this prompt; None where there is no such question."""
        ...

    def value(self, score: torch.Tensor) -> torch.Tensor | None:
        """Map scores [B] to values from 0 to 1 by a fixed map that never falls; None where a score has no bounds known.

        By its values it can be a judge, too: they are averaged over prompts.
        """
        ...


class VerifierDefaults:
    """What a verifier need not say. One that leaves a member out gets it from here when it is created."""

    name: str
    needs: Needs
    block: Block | None = None
    checkpoint_sha256 = ""
    threshold: float | None = None

    @cached_property
    def device(self) -> torch.device:
        """The CPU."""
        import torch

        return torch.device("cpu")

    def prepare(self, prompts: Iterable[Mapping[str, Any]]) -> None:
        """Read the text of prompts alone."""

    def check_host(self, generator: Generator) -> None:
        """Accept any generator."""

    def info(self) -> VerifierInfo:
        """Return the little that is known of any verifier."""
        return VerifierInfo(self.name, self.needs, self.block)

    def modules(self) -> Mapping[str, nn.Module]:
        """Return no modules: none can be counted or changed."""
        return {}

    def parts(self, prompts: Sequence[str], features: Any) -> Mapping[str, Callable[[], object]]:
        """Return no parts: `score` is timed as a whole."""
        return {}

    def question_tokens(self, prompt: str) -> QuestionTokens | None:
        """Return None: there is no such question."""
        return None

    def value(self, score: torch.Tensor) -> torch.Tensor | None:
        """Return None: what its scores mean is unknown."""
        return None


def blocks_read(verifiers: Iterable[Verifier]) -> list[Block]:
    """List the blocks whose hidden states the verifiers need, each once, the earliest first."""
    return sorted({v.block for v in verifiers if v.block is not None}, key=blocks_of)
