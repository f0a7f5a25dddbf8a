"""A cache of prompt embeddings: a prompt is encoded once for all its candidates and seeds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vhsbench.generators.protocol import Conditioning

if TYPE_CHECKING:
    import torch

    from vhsbench.generators.protocol import Generator


class PromptCache:
    """The embeddings of one generator, by prompt.

    Each prompt is encoded alone, so that its embedding does not depend on the other prompts of a batch. They stay
    in the CPU's memory; beyond `capacity` prompts the least recently used is dropped. `generator.encode`
    itself never caches, so that its cost can be measured.
    """

    def __init__(self, generator: Generator, capacity: int = 1024) -> None:
        self._generator = generator
        self._capacity = capacity
        self._kept: OrderedDict[str, Conditioning] = OrderedDict()

    def __contains__(self, prompt: object) -> bool:
        return prompt in self._kept

    def __len__(self) -> int:
        return len(self._kept)

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Encode as `generator.encode` does, but only prompts not seen before."""
        import torch

        found = [self._one(prompt) for prompt in prompts]
        device = self._generator.device
        names = found[0].tensors if found else {}
        tensors = {n: torch.cat(_as_long([f.tensors[n] for f in found])).to(device) for n in names}
        return Conditioning(tuple(prompts), tensors)

    def _one(self, prompt: str) -> Conditioning:
        if prompt not in self._kept:
            cond = self._generator.encode([prompt])
            self._kept[prompt] = Conditioning(cond.prompts, {k: v.cpu() for k, v in cond.tensors.items()})
            if len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
        self._kept.move_to_end(prompt)
        return self._kept[prompt]


def _as_long(texts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Pad tensors [1, L, ...] of texts without padding with zeros, which masks them, to the longest."""
    longest = max(text.shape[1] for text in texts)
    return [text if text.shape[1] == longest else _padded(text, longest) for text in texts]


def _padded(text: torch.Tensor, length: int) -> torch.Tensor:
    from torch.nn.functional import pad

    return pad(text, (*[0, 0] * (text.dim() - 2), 0, length - text.shape[1]))
