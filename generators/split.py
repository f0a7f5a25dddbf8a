"""Stop a diffusers pipeline after one DiT block, and continue it later, with no copy of its forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from vhsbench.generators.protocol import GeneratorError

Tensors = tuple[torch.Tensor, ...]


class _Stopped(Exception):
    """Ends a forward early."""


class _Resume(nn.Module):
    """Stands in for the blocks already run: returns what the last of them returned."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, *_: Any, **__: Any) -> Any:
        return self.output


class BlockSplit:
    """Splits the last of a pipeline's forwards of `model` between any two of its blocks.

    The blocks are those of the ModuleLists named in `block_lists`, in the order the forward runs them.
    A block returns one tensor, or a tuple of `streams` of them, the image's last; a block that ends a
    stream (SD3's last block ends the text's) returns None for it, which is not stored.
    """

    def __init__(self, model: nn.Module, block_lists: Sequence[str], streams: int = 1) -> None:
        self._model = model
        self._names = tuple(block_lists)
        self._streams = streams

    def __len__(self) -> int:
        return sum(len(blocks) for blocks in self._lists())

    def head(
        self, blocks: Sequence[int], run: Callable[[], object], forwards: int = 1
    ) -> tuple[list[Tensors], Tensors]:
        """Call `run` up to the end of the last of `blocks` (0-based, ascending) of its last forward.

        `forwards` is how often `run` calls the model. Returns each block's output and the outputs of the
        forwards before the last. Raises GeneratorError if there is no such block.
        """
        modules = [m for part in self._lists() for m in part]
        if list(blocks) != sorted(set(blocks)):
            raise GeneratorError(f"blocks are given in ascending order, each once, not {tuple(blocks)}.")
        for block in blocks:
            if not 0 <= block < len(modules):
                raise GeneratorError(
                    f"block {block} is out of range: the DiT has blocks 0 to {len(modules) - 1}."
                )
        outputs: list[torch.Tensor] = []
        read: list[Tensors] = []

        def record(_module: nn.Module, _args: Any, output: tuple[torch.Tensor, ...]) -> None:
            outputs.append(output[0])

        def after_block(_module: nn.Module, _args: Any, output: Any) -> None:
            if len(outputs) == forwards - 1:
                streams = output if isinstance(output, tuple) else (output,)
                read.append(tuple(s for s in streams if s is not None))
                if len(read) == len(blocks):
                    raise _Stopped

        hooks = [self._model.register_forward_hook(record)]
        hooks += [modules[block].register_forward_hook(after_block) for block in blocks]
        try:
            run()
        except _Stopped:
            return read, tuple(outputs)
        finally:
            for hook in hooks:
                hook.remove()
        raise RuntimeError("the pipeline ended without running the block it should stop at.")

    @contextmanager
    def resumed(self, block: int, streams: Tensors, outputs: Tensors = ()) -> Iterator[None]:
        """Let the model's first forwards return `outputs` without computing, and the next one continue from `streams`.

        That one skips blocks 0..block.
        """
        originals = self._lists()
        ended = (None,) * (self._streams - len(streams))
        resume = _Resume((*ended, *streams) if self._streams > 1 else streams[0])
        skip = block + 1
        for name, blocks in zip(self._names, originals, strict=True):
            rest = list(blocks)[min(skip, len(blocks)) :]
            if 0 < skip <= len(blocks):
                rest.insert(0, resume)
            skip = max(skip - len(blocks), 0)
            setattr(self._model, name, nn.ModuleList(rest))
        try:
            with _replayed(self._model, outputs):
                yield
        finally:
            for name, blocks in zip(self._names, originals, strict=True):
                setattr(self._model, name, blocks)

    def _lists(self) -> list[nn.ModuleList]:
        return [getattr(self._model, name) for name in self._names]


@contextmanager
def _replayed(model: nn.Module, outputs: Tensors) -> Iterator[None]:
    """Let the model's next forwards return `outputs`, one each; later ones compute again."""
    if not outputs:
        yield
        return
    left, forward = list(outputs), model.forward

    def replay(*args: Any, **kwargs: Any) -> Any:
        return (left.pop(0),) if left else forward(*args, **kwargs)

    model.forward = replay
    try:
        yield
    finally:
        del model.forward
