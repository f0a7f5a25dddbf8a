from __future__ import annotations

import pytest

from vhsbench.harness.geneval.mask2former import Mask2FormerDetector


@pytest.fixture(scope="session")
def detector() -> Mask2FormerDetector:
    """Mask2Former at its true size with random weights, for small pictures."""
    return Mask2FormerDetector("random", scale=(128, 64))
