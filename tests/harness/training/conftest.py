from __future__ import annotations

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "full_size_training.py"


@pytest.fixture(scope="session")
def tiny_gemma(tmp_path_factory):
    """A Gemma 3 folder of random weights, a few hundred kilobytes, with a byte-level processor."""
    benchmark = runpy.run_path(str(SCRIPT))
    folder = tmp_path_factory.mktemp("gemma")
    benchmark["make_gemma"](folder, benchmark["TINY"])
    return folder
