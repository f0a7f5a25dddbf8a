"""Stop a diffusers pipeline after one DiT block, and continue it later, with no copy of its forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class _Stopped(Exception):
    """Carries a block's output out of a forward that goes no further."""

    def __init__(self, streams: tuple[torch.Tensor, ...]) -> None:
        self.streams = streams


class _Resume(nn.Module):
    """Stands for the blocks already run: returns what the last of them returned."""

    def __init__(self, streams: tuple[torch.Tensor, ...]) -> None:
        super().__init__()
        self.streams = streams

    def forward(self, *_: Any, **__: Any) -> Any:
        return self.streams if len(self.streams) > 1 else self.streams[0]


class BlockSplit:
    """Splits the forward of `model` between any two of its blocks.

    The blocks are those of the ModuleLists named in `block_lists`, in the order the forward runs them.
    """

    def __init__(self, model: nn.Module, block_lists: Sequence[str]) -> None:
        self._model = model
        self._names = tuple(block_lists)

    def __len__(self) -> int:
        return sum(len(blocks) for blocks in self._lists())

    def head(self, block: int, run: Callable[[], object]) -> tuple[torch.Tensor, ...]:
        """Call `run`, which calls the model, up to the end of `block` (0-based); what it returned."""
        if not 0 <= block < len(self):
            raise ValueError(f"block {block} is out of range: the DiT has blocks 0 to {len(self) - 1}.")
        module = [m for blocks in self._lists() for m in blocks][block]

        def stop(_module: nn.Module, _args: Any, output: Any) -> None:
            raise _Stopped(output if isinstance(output, tuple) else (output,))

        handle = module.register_forward_hook(stop)
        try:
            run()
        except _Stopped as stopped:
            return stopped.streams
        finally:
            handle.remove()
        raise RuntimeError("the pipeline ended without running the block it should stop at.")

    @contextmanager
    def resumed(self, block: int, streams: tuple[torch.Tensor, ...]) -> Iterator[None]:
        """Within this context the model's forward skips blocks 0..block and continues from `streams`."""
        originals = self._lists()
        skip = block + 1
        for name, blocks in zip(self._names, originals, strict=True):
            rest = list(blocks)[min(skip, len(blocks)) :]
            if 0 < skip <= len(blocks):
                rest.insert(0, _Resume(streams))
            skip = max(skip - len(blocks), 0)
            setattr(self._model, name, nn.ModuleList(rest))
        try:
            yield
        finally:
            for name, blocks in zip(self._names, originals, strict=True):
                setattr(self._model, name, blocks)

    def _lists(self) -> list[nn.ModuleList]:
        return [getattr(self._model, name) for name in self._names]
