"""Noise keyed by candidate: the same whatever the batch size, order, resume point or worker."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def candidate_seed(root_seed: int, prompt_id: int, index: int) -> int:
    """Return the 63-bit seed of one candidate; index i is the same candidate in every best-of-N."""
    words = np.random.SeedSequence((root_seed, prompt_id, index)).generate_state(2, np.uint32)
    return (int(words[0]) << 31 | int(words[1]) >> 1) & (2**63 - 1)


def gaussian(seeds: Sequence[int], shape: Sequence[int]) -> torch.Tensor:
    """Draw standard normal noise [B, *shape], float32 on the CPU; row i depends on seeds[i] alone."""
    import torch

    return torch.stack([torch.randn(*shape, generator=torch.Generator("cpu").manual_seed(s)) for s in seeds])


def step_generators(noise: torch.Tensor) -> list[torch.Generator]:
    """Make the generators of the noise that a stochastic sampler adds after its first step, one per candidate.

    Row i's generator is seeded by a hash of its z_T `noise[i]`: a function of the candidate's seed, the
    same for head, tail and any batch, with nothing to store.
    """
    import torch

    rows = noise.float().cpu().numpy()
    digests = [hashlib.sha256(np.ascontiguousarray(row).tobytes()).digest() for row in rows]
    return [torch.Generator("cpu").manual_seed(int.from_bytes(d[:8], "little") >> 1) for d in digests]
