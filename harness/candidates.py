"""A batch of finished candidates, as the detector and every verifier read it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from generators.protocol import Block, Conditioning, Generator, HiddenStates
    from verifiers.protocol import Verifier


@dataclass(frozen=True)
class Candidates:
    """B candidates: hidden states by block, latents [B, C, h, w] and images."""

    prompts: tuple[str, ...]
    hidden: Mapping[Block, HiddenStates]
    latents: torch.Tensor
    images: Sequence[Image.Image]

    def read_by(self, verifier: Verifier) -> Any:
        """What `verifier.score` takes of them."""
        if verifier.needs == "images":
            return self.images
        if verifier.needs == "latents":
            return self.latents
        assert verifier.block is not None
        return self.hidden[verifier.block].features


def encoded(encode: Callable[[list[str]], Conditioning], prompts: Sequence[str]) -> Conditioning:
    """A row a prompt, with the text encoder's work for each distinct one alone."""
    distinct = list(dict.fromkeys(prompts))
    return encode(distinct).select([distinct.index(p) for p in prompts])


def generate(
    generator: Generator, cond: Conditioning, noise: torch.Tensor, blocks: Iterable[Block]
) -> Candidates:
    """Every candidate to its image, keeping the hidden states of `blocks` (verifiers.protocol.blocks_read)."""
    hidden = {block: generator.head(cond, noise, block) for block in blocks}
    first = next(iter(hidden.values()), None)
    latents = generator.denoise(cond, noise) if first is None else generator.tail(first)
    return Candidates(cond.prompts, hidden, latents, generator.decode(latents))
