"""Nano: a trained one-step SANA-Sprint of miniature size, bundled with the package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from generators.sana import SanaSprint


def create(**options: Any) -> SanaSprint:
    """The bundled nano generator, or the one in the pipeline folder `weights`."""
    from generators.sana import nano

    return nano(**options)
