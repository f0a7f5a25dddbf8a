"""The samples of a stage, in an order that depends only on the seed and the step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from vhsbench.harness.common.processes import end_with_parent

Rows = Sequence[dict[str, Any]]
Tokens = Callable[[torch.Tensor], torch.Tensor]


class Samples(Protocol):
    """Features with the facts of each: prompt, caption, correct."""

    @property
    def rows(self) -> Rows: ...

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, Rows]: ...


class MemorySamples:
    """Samples whose features are all in memory."""

    def __init__(self, features: torch.Tensor, rows: Rows) -> None:
        if len(features) != len(rows):
            raise ValueError(f"{len(features)} features do not fit {len(rows)} rows.")
        self.features, self.rows = features, rows

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, Rows]:
        return self.features[list(indices)], [self.rows[i] for i in indices]


@torch.no_grad()
def precomputed(samples: Samples, tokens: Tokens, batch: int = 256) -> MemorySamples:
    """Encode all samples once: visual tokens [S, T, C] in float16."""
    parts = []
    for start in range(0, len(samples), batch):
        features = samples.batch(range(start, min(start + batch, len(samples))))[0]
        parts.append(tokens(features).half().cpu())
    return MemorySamples(torch.cat(parts), samples.rows)


class Order:
    """Batches of indices: one shuffled pass over the samples after another."""

    def __init__(self, samples: int, batch: int, key: tuple[int, ...]) -> None:
        self.samples, self.size, self._key = samples, batch, key
        self._epoch = lru_cache(maxsize=2)(self._shuffled)

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng((*self._key, epoch)).permutation(self.samples)

    def batch(self, step: int) -> list[int]:
        """Return the whole batch of a step, over all processes."""
        places = range(step * self.size, (step + 1) * self.size)
        return [int(self._epoch(p // self.samples)[p % self.samples]) for p in places]


def share(indices: Sequence[int], process: int, processes: int, micro_batch: int) -> list[list[int]]:
    """Return one process's part of a batch, cut into micro-batches; every process gets the same number."""
    part = indices[process * len(indices) // processes : (process + 1) * len(indices) // processes]
    return [list(part[i : i + micro_batch]) for i in range(0, len(part), micro_batch)]


class _Features(Dataset[torch.Tensor]):
    """Batches of features by their place in a list of index lists."""

    def __init__(self, samples: Samples, parts: Callable[[int], list[int]], count: int) -> None:
        self._samples, self._parts, self._count = samples, parts, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: int) -> torch.Tensor:
        return self._samples.batch(self._parts(i))[0]


def feature_batches(
    samples: Samples, parts: Callable[[int], list[int]], first: int, count: int, workers: int, pin: bool
) -> Iterator[torch.Tensor]:
    """Yield features of parts(first), ..., parts(count - 1); `workers` processes read ahead, in order."""
    return iter(
        DataLoader(
            _Features(samples, parts, count), batch_size=None, sampler=range(first, count),
            num_workers=workers, pin_memory=pin, worker_init_fn=_begin,
        )
    )  # fmt: skip


def _begin(worker: int) -> None:
    end_with_parent()
