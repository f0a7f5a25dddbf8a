"""The statistics that normalise hidden states (A.2), streamed over a subset that need not fit into memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from vhsbench.verifiers.training.shards import ShardError

if TYPE_CHECKING:
    from vhsbench.verifiers.training.shards import ShardDataset

_VALUES_AT_A_TIME = 1 << 24  # 128 MB of float64


class Moments:
    """Mean and population variance [D] of vectors that come in parts, in float64.

    Parts are merged as Chan, Golub and LeVeque do: without a difference of two large sums, so the variance
    stays exact if the mean is large compared with the spread.
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self.mean = torch.zeros(width, dtype=torch.float64)
        self._squares = torch.zeros(width, dtype=torch.float64)  # summed squared distances from the mean

    def add(self, vectors: torch.Tensor) -> None:
        """Add vectors [..., D] of any floating dtype."""
        part = vectors.reshape(-1, vectors.shape[-1]).double()
        if not len(part):
            return
        mean = part.mean(0)
        squares = (part - mean).square().sum(0)
        total = self.count + len(part)
        apart = mean - self.mean
        self._squares += squares + apart.square() * (self.count * len(part) / total)
        self.mean += apart * (len(part) / total)
        self.count = total

    @property
    def variance(self) -> torch.Tensor:
        """The variance [D]. Raises ValueError before any vector was added."""
        if not self.count:
            raise ValueError("there are no features to take statistics of.")
        return self._squares / self.count


def feature_moments(
    dataset: ShardDataset, samples: int = 50_000, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute mean and variance [D] float32 over the tokens of `samples` drawn samples (all, if there are fewer).

    The paper's A.2 takes 50k of the alignment set. A sample's features are [T, D]. Raises ShardError for
    statistics that are not finite.
    """
    tokens, width = dataset.card.feature_shape
    rows = np.arange(len(dataset))
    if samples < len(rows):
        # in their order on disk, which is read once
        rows = np.sort(np.random.default_rng(seed).choice(rows, samples, replace=False))
    moments = Moments(width)
    size = max(1, _VALUES_AT_A_TIME // (tokens * width))
    for start in range(0, len(rows), size):
        moments.add(dataset.batch(rows[start : start + size].tolist())[0])
    mean, variance = moments.mean.float(), moments.variance.float()
    if not (torch.isfinite(mean).all() and torch.isfinite(variance).all()):
        raise ShardError(
            f"{dataset.folder}: some features are not finite; collect them in bfloat16 or float32."
        )
    return mean, variance
