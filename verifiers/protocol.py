"""What a verifier is: it names the features it needs and scores a batch of them in one forward."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from vhsbench.generators.protocol import Block, blocks_of

if TYPE_CHECKING:
    import torch

    from vhsbench.generators.protocol import Generator

Needs = Literal["hidden", "latents", "images"]


@dataclass(frozen=True)
class Scores:
    """Float32 tensors of shape [B].

    p_yes and p_no are softmax over the whole vocabulary, not renormalised; score is the paper's
    A.4: +p_yes where the most likely token is "yes", else -p_no.
    """

    p_yes: torch.Tensor
    p_no: torch.Tensor
    score: torch.Tensor


@dataclass(frozen=True)
class VerifierInfo:
    """What `vhsbench list verifiers` shows."""

    name: str
    needs: Needs
    block: Block | None  # the DiT block whose output VHS reads, 0-based
    parameters: int  # connector and LLM, and CLIP where there is one
    tokens: int  # visual tokens
    feature_width: int
    generator: str
    source: str


@runtime_checkable
class Verifier(Protocol):
    name: str
    needs: Needs
    block: Block | None
    checkpoint_sha256: str

    def score(self, prompts: Sequence[str], features: Any) -> Scores:
        """features: [B, T, D] hidden states, [B, C, H, W] latents, or a list of B PIL images."""
        ...

    def check_host(self, generator: Generator) -> None:
        """Raise a ValueError, one sentence, if this verifier cannot read what `generator` makes."""
        ...

    def info(self) -> VerifierInfo: ...


def blocks_read(verifiers: Iterable[Verifier]) -> list[Block]:
    """Whose hidden states the verifiers need, each once, the earliest first."""
    return sorted({v.block for v in verifiers if v.block is not None}, key=blocks_of)
