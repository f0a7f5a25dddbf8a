"""The teacher that nano's generator learns: a fixed rule from (noise, prompt) to a scene.

One-step models are distilled from a slow teacher. Nano's teacher is a rule instead of a network: it
projects the noise on nine smooth windows, one per grid cell, and reads from those scores which
cells are taken, free colours, offsets and sizes. Where two scores nearly tie, the student's picture
is a blend, so candidates of a prompt differ in correctness by their noise, as best-of-N needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vhsbench.generators.nano.world import (
    COLORS,
    GRID,
    JITTER,
    RADIUS,
    Item,
    Scene,
    cell_center,
)

LATENT_SIZE = 8
LATENT_CHANNELS = 16
_SIGMA = 0.9  # width of a window, in latent cells
_FIRST, _SECOND, _RADIUS, _X, _Y, _COLOR = 0, 1, 2, 3, 4, 5  # the channels that the teacher reads

Metadata = Mapping[str, Any]


@cache
def windows() -> NDArray[np.float32]:
    """Return one Gaussian of unit norm over the latent plane per grid cell, [9, 64]."""
    axis = np.arange(LATENT_SIZE) + 0.5
    centers = (np.arange(GRID) + 0.5) * LATENT_SIZE / GRID
    bumps = np.exp(-((axis[None] - centers[:, None]) ** 2) / (2 * _SIGMA**2))
    planes = np.einsum("iy,jx->ijyx", bumps, bumps).reshape(GRID * GRID, -1)
    return np.asarray(planes / np.linalg.norm(planes, axis=1, keepdims=True), dtype=np.float32)


def scores(noise: NDArray[np.float32]) -> NDArray[np.float32]:
    """Project noise [B, 16, 8, 8] on the windows: scores [B, 16, 9]."""
    flat = noise.reshape(*noise.shape[:2], -1)
    return np.asarray(flat @ windows().T, dtype=np.float32)


_STEP = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}


@cache
def partner_cells(relation: str) -> tuple[int | None, ...]:
    """Return, for each cell, the neighbour to which it stands in `relation`; None at the grid's edge."""
    dx, dy = _STEP[relation]
    partners: list[int | None] = []
    for cell in range(GRID * GRID):
        x, y = cell % GRID - dx, cell // GRID - dy
        partners.append(y * GRID + x if 0 <= x < GRID and 0 <= y < GRID else None)
    return tuple(partners)


def _objects(metadata: Metadata) -> tuple[list[tuple[str, str | None]], str | None]:
    """Return (class, colour or None) in the order of the prompt, and the relation of the first to the second."""
    clauses = list(metadata["include"])
    relation = next((c["position"][0] for c in clauses if "position" in c), None)
    if relation is not None:
        clauses.reverse()  # GenEval names the reference object first
    return [(c["class"], c.get("color")) for c in clauses for _ in range(c["count"])], relation


def _cells(score: NDArray[np.float32], count: int, same: bool, relation: str | None) -> list[int]:
    """Choose the grid cells of the objects by the noise's scores [16, 9]."""
    if same:
        return [int(c) for c in np.argsort(-score[_FIRST], kind="stable")[:count]]
    if relation is not None:
        partners = partner_cells(relation)
        allowed = np.array([p is not None for p in partners])
        first = int(np.argmax(np.where(allowed, score[_FIRST], -np.inf)))
        return [first, int(partners[first] or 0)]
    first = int(np.argmax(score[_FIRST]))
    other = np.arange(GRID * GRID) != first
    return [first, int(np.argmax(np.where(other, score[_SECOND], -np.inf)))]


def scene_of(metadata: Metadata, score: NDArray[np.float32]) -> Scene:
    """Return the scene that the teacher draws for a prompt's GenEval metadata and window scores [16, 9]."""
    objects, relation = _objects(metadata)
    same = len({name for name, _ in objects}) == 1 and relation is None and len(metadata["include"]) == 1
    items = []
    for (shape, color), cell in zip(objects, _cells(score, len(objects), same, relation), strict=True):
        at = score[:, cell]
        x, y = cell_center(cell)
        radius = (RADIUS[0] + RADIUS[1]) / 2 + (RADIUS[1] - RADIUS[0]) / 2 * float(np.tanh(at[_RADIUS]))
        items.append(
            Item(
                shape,
                color or COLORS[int(np.argmax(at[_COLOR : _COLOR + len(COLORS)]))],
                x + JITTER * float(np.tanh(at[_X])),
                y + JITTER * float(np.tanh(at[_Y])),
                radius,
            )
        )
    return tuple(items)
