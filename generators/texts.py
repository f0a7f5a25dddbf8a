"""Encoded texts without the padding behind them, which attention masks: for the variant `fast`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch

from vhsbench.generators.protocol import Conditioning

if TYPE_CHECKING:
    from vhsbench.generators.pipeline import StagedPipeline

Encode = Callable[[Sequence[str]], Conditioning]
_MULTIPLE = 16  # of tokens: kernels of attention want such lengths, and code is compiled for few of them
_MASK = "attention_mask"
_PROMPT = "a photo"


def without_padding(generator: StagedPipeline) -> None:
    """Cut the padding of encoded prompts to the longest one's length, if the generator masks padding; change it in place.

    Results stay the same up to rounding. Prompts encoded by themselves may differ in length then. Lengths are read off
    what the tokenizer returns, so that nothing waits for the device. A generator whose masks are not its tokenizer's stays
    as it is.
    """
    encode: Encode = generator.encode
    changed: Any = generator
    if not hasattr(generator.pipeline, "tokenizer"):
        return
    cond, recorded = _recorded(generator, encode, [_PROMPT])
    masks = [mask.cpu().bool() for name, mask in cond.tensors.items() if name.endswith(_MASK)]
    widths = {mask.shape[1] for mask in masks}
    if len(widths) != 1:
        return
    width = widths.pop()
    same = [[torch.equal(_selected(one, width), mask) for one in recorded] for mask in masks]
    if not all(any(row) for row in same):
        return
    places = [row.index(True) for row in same]

    one_at_a_time = Lock()  # the recorder stands in the pipeline meanwhile

    def short(prompts: Sequence[str]) -> Conditioning:
        with one_at_a_time:
            cond, recorded = _recorded(generator, encode, prompts)
        attended = torch.cat([_selected(recorded[i], width) for i in places]).any(0)
        longest = int(attended.nonzero().max()) + 1
        length = -(-longest // _MULTIPLE) * _MULTIPLE
        tensors = {
            n: each[:, :length] if each.shape[1] == width else each for n, each in cond.tensors.items()
        }
        return Conditioning(cond.prompts, tensors)

    changed.encode = short


class _Recorder:
    """Stands for a tokenizer, and keeps the masks that it returns."""

    def __init__(self, tokenizer: Any) -> None:
        self.__dict__.update(tokenizer=tokenizer, masks=[])

    def __call__(self, *args: Any, **options: Any) -> Any:
        found = self.tokenizer(*args, **options)
        if (mask := getattr(found, _MASK, None)) is not None:
            self.masks.append(torch.as_tensor(mask).bool())
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.tokenizer, name, value)


def _recorded(
    generator: StagedPipeline, encode: Encode, prompts: Sequence[str]
) -> tuple[Conditioning, list[torch.Tensor]]:
    """Encode prompts; also return the tokenizer's masks, on the CPU."""
    pipeline = generator.pipeline
    tokenizer = pipeline.tokenizer
    recorder = _Recorder(tokenizer)
    # past diffusers, which would change its configuration
    object.__setattr__(pipeline, "tokenizer", recorder)
    try:
        return encode(prompts), recorder.masks
    finally:
        object.__setattr__(pipeline, "tokenizer", tokenizer)


def _selected(mask: torch.Tensor, width: int) -> torch.Tensor:
    """Return what a pipeline keeps of a mask: all, or the first token and the last ones, as SANA does behind its instruction."""
    return mask if mask.shape[1] <= width else torch.cat([mask[:, :1], mask[:, 1 - width :]], dim=1)
