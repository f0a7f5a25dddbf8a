"""Nano: a trained one-step SANA-Sprint of miniature size, bundled with the package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from generators.nano.world import SIZE

if TYPE_CHECKING:
    from generators.sana import SanaSprint

WEIGHTS = Path(__file__).parent / "weights"


def create(device: str = "cpu", weights: str | Path | None = None) -> SanaSprint:
    """The bundled nano generator, or the one in the pipeline folder `weights`."""
    from generators.nano.models import PROMPT_TOKENS
    from generators.sana import SanaSprint, load_pipeline

    pipeline = load_pipeline(Path(weights) if weights else WEIGHTS)
    return SanaSprint(
        "nano",
        pipeline.to(device),
        resolution=SIZE,
        max_sequence_length=PROMPT_TOKENS,
        source=str(weights) if weights else "bundled",
        licence="MIT",
    )
