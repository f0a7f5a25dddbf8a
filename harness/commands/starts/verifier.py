"""A verifier of your own. Then `pip install -e .`, `vhsbench check my-verifier`, and its name in a run's `verifiers`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from vhsbench.verifiers.protocol import Scores, VerifierDefaults


class MyVerifier(VerifierDefaults):
    """Prefers red pictures where the prompt says red, and others where it does not."""

    name = "my-verifier"
    needs = "images"  # or "latents", or "hidden" with `block`, the DiT's block that it reads

    def score(self, prompts: Sequence[str], features: Any) -> Scores:
        """Return a score for each candidate, the best the highest; p_yes and p_no too, if it has them."""
        red = torch.tensor([np.asarray(image, dtype=np.float32)[..., 0].mean() / 255 for image in features])
        wanted = torch.tensor([1.0 if "red" in prompt.split() else -1.0 for prompt in prompts])
        return Scores(score=wanted * red)


def create(checkpoint: str | None = None, device: str = "cpu", generator: str | None = None) -> MyVerifier:
    """Make it; what else it takes comes from the configuration's `options`."""
    return MyVerifier()
