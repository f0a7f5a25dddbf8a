"""Nano: a trained one-step SANA-Sprint of miniature size, bundled with the package."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
LORA = Path(__file__).parent / "lora"  # gives its pictures another style
