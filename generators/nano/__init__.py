"""Nano: a trained one-step SANA-Sprint of miniature size, bundled with the package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vhsbench.generators.sana import SanaSprint

WEIGHTS = Path(__file__).parent / "weights"
LORA = Path(__file__).parent / "lora"  # moves it to another style of picture


def create(**options: Any) -> SanaSprint:
    """The bundled nano generator, or the one in the pipeline folder `weights`."""
    from vhsbench.generators.sana import nano

    return nano(**options)
