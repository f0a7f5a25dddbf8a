"""Nano's trained verifiers and the LLM that they began with, bundled with the package."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
EARLY = "vhs-early"  # the folder of a second VHS, which reads an earlier block
