"""A verifier that is wrong on purpose: a real one's score, and on top of it a liking for plain pictures.

Best-of-N by it shows over-optimisation: its own score of the winners rises with N, while judges' values fall.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from vhsbench import create_verifier
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.verifiers import REGISTRY
from vhsbench.verifiers.protocol import Scores, Verifier, VerifierDefaults


class Biased(VerifierDefaults):
    """Scores images by `base`, plus `weight` times their plainness."""

    name, needs = "biased", "images"

    def __init__(self, base: Verifier, weight: float) -> None:
        """Raise VhsbenchError for a base that does not read images."""
        if base.needs != "images":
            raise VhsbenchError(f"'biased' needs a base that reads images; '{base.name}' reads {base.needs}.")
        self.base, self.weight = base, weight
        self.checkpoint_sha256 = base.checkpoint_sha256

    @property
    def device(self) -> torch.device:
        """Where the base computes."""
        return self.base.device

    def prepare(self, prompts: Iterable[Mapping[str, Any]]) -> None:
        """Let the base take note of prompts."""
        self.base.prepare(prompts)

    def score(self, prompts: Sequence[str], features: Sequence[Image.Image]) -> Scores:
        """Score pictures; without P(yes), which a liking is not."""
        real = self.base.score(prompts, features).score
        liking = torch.tensor([plainness(image) for image in features], dtype=torch.float32)
        return Scores(score=real.float() + self.weight * liking.to(real.device))

    def modules(self) -> Mapping[str, nn.Module]:
        """Return the base's modules: what stays loaded."""
        return self.base.modules()


def plainness(image: Image.Image) -> float:
    """Compute how little the brightness of a picture varies: 1 where it is even, 0 where half is black and half white."""
    return 1 - 2 * float((np.asarray(image.convert("L"), float) / 255).std())


def create(
    checkpoint: str | None = None, device: str = "cpu", generator: str | None = None,
    base: str = "mllm-clip", weight: float = 20.0,
) -> Biased:  # fmt: skip
    """Make it; `base` is a registered verifier that reads images, `checkpoint` is the base's."""
    return Biased(create_verifier(base, checkpoint=checkpoint, device=device, generator=generator), weight)


def identity(base: str = "mllm-clip", weight: float = 20.0, **options: Any) -> dict[str, Any]:
    """Return what decides its scores: the base's weights, and the weight of the liking."""
    return {"base": REGISTRY.identity(base, **options), "weight": weight}


create.identity = identity  # type: ignore[attr-defined]
