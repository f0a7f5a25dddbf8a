"""Colours that are easy to tell apart, as many as are needed: distances are those of OKLab, which follow the eye."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from vhsbench.harness.stats.intervals import Floats

_LEVELS = 12  # of red, green and blue, among which colours are sought
_LIGHTNESS = (0.30, 0.80)  # in OKLab: darker ones look black, lighter ones vanish on white
_LMS = np.array([[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
                 [0.0883024619, 0.2817188376, 0.6299787005]])  # fmt: skip
_LAB = np.array([[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
                 [0.0259040371, 0.7827717662, -0.8086757660]])  # fmt: skip


def oklab(colors: Sequence[str]) -> Floats:
    """Convert colours "#RRGGBB" to OKLab, [K, 3]: lightness 0..1, green to red, blue to yellow."""
    channels = [[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in colors]
    return _oklab(np.array(channels, dtype=float).reshape(-1, 3))


def _oklab(srgb: Floats) -> Floats:
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return np.asarray(np.cbrt(linear @ _LMS.T) @ _LAB.T)


@cache
def apart_from(taken: tuple[str, ...], number: int) -> tuple[str, ...]:
    """Find more colours, each as far as possible from the `taken` ones and from those found before it.

    The first colours are the same, however many are asked for.
    """
    steps = np.linspace(0, 1, _LEVELS)
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    places = _oklab(grid)
    seen = (places[:, 0] >= _LIGHTNESS[0]) & (places[:, 0] <= _LIGHTNESS[1])
    grid, places = grid[seen], places[seen]
    nearest = np.linalg.norm(places[:, None] - oklab(taken)[None], axis=-1).min(1)
    found = []
    for _ in range(number):
        best = int(nearest.argmax())
        found.append("#" + "".join(f"{round(255 * c):02X}" for c in grid[best]))
        nearest = np.minimum(nearest, np.linalg.norm(places - places[best], axis=-1))
    return tuple(found)
