"""Many scenes at once, as tensors: how training pictures are drawn on any device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from vhsbench.generators.nano.world import (
    BACKGROUND,
    CELL,
    COLORS,
    GRID,
    JITTER,
    PALETTE,
    RADIUS,
    SHAPES,
    SIZE,
    TEMPLATE_SIZE,
    TEMPLATE_SPAN,
    TEMPLATE_STEP,
    Item,
    Scene,
    signed_distance,
)


@dataclass(frozen=True)
class Scenes:
    """B scenes of at most K objects, as tensors on one device: what batches are drawn from.

    kinds and colors [B, K] are indices of SHAPES and COLORS; x, y, radius [B, K] are in pixels; `present` [B, K] says
    which of the K places hold an object.
    """

    kinds: torch.Tensor
    colors: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    radius: torch.Tensor
    present: torch.Tensor

    def __len__(self) -> int:
        return len(self.kinds)

    def items(self) -> list[Scene]:
        """Return the scenes one by one, in the order of their places."""
        columns = (self.kinds, self.colors, self.x, self.y, self.radius, self.present)
        rows = zip(*(c.tolist() for c in columns), strict=True)
        return [
            tuple(
                Item(SHAPES[k], COLORS[c], x, y, r)
                for k, c, x, y, r, there in zip(*row, strict=True)
                if there
            )
            for row in rows
        ]


@cache
def _tables(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return every shape's signed distance [S, 512, 512] and the palette [C, 3], on a device."""
    distances = torch.from_numpy(np.stack([signed_distance(shape) for shape in SHAPES]))
    return distances.to(device), torch.tensor([PALETTE[c] for c in COLORS], device=device)


def draw(scenes: Scenes, faded: float = 0.0) -> torch.Tensor:
    """Draw all scenes at once, as `render` does one: RGB [B, 3, 64, 64] in 0..1, on the scenes' device.

    `faded` is the share of the background in each colour.
    """
    distances, palette = _tables(scenes.x.device)
    pixels = torch.arange(SIZE, device=scenes.x.device) + 0.5
    picture = torch.full((len(scenes), 3, SIZE, SIZE), BACKGROUND, device=scenes.x.device)
    for k in range(scenes.kinds.shape[1]):
        radius = scenes.radius[:, k, None]
        column, row = (
            (((pixels - center[:, k, None]) / radius + TEMPLATE_SPAN) / TEMPLATE_STEP)
            .long()
            .clamp(0, TEMPLATE_SIZE - 1)
            for center in (scenes.x, scenes.y)
        )
        distance = distances[scenes.kinds[:, k, None, None], row[:, :, None], column[:, None, :]]
        mask = (0.5 - distance * radius[..., None]).clamp(0, 1) * scenes.present[:, k, None, None]
        color = palette[scenes.colors[:, k]][..., None, None]
        picture += (1 - faded) * mask[:, None] * (color - picture)
    return picture


def random_scenes(rng: np.random.Generator, counts: NDArray[np.int64], device: str = "cpu") -> Scenes:
    """Draw scenes of counts [B] objects (at most nine) of random shapes and colours, in different cells."""
    shape = len(counts), max(1, int(counts.max(initial=0)))
    cells = rng.random((shape[0], GRID * GRID)).argsort(1)[:, : shape[1]]
    at = np.stack([cells % GRID, cells // GRID])
    x, y = (at + 0.5) * CELL + rng.uniform(-JITTER, JITTER, at.shape)
    return Scenes(
        kinds=torch.from_numpy(rng.integers(len(SHAPES), size=shape)).to(device),
        colors=torch.from_numpy(rng.integers(len(COLORS), size=shape)).to(device),
        x=torch.from_numpy(x.astype(np.float32)).to(device),
        y=torch.from_numpy(y.astype(np.float32)).to(device),
        radius=torch.from_numpy(rng.uniform(*RADIUS, shape).astype(np.float32)).to(device),
        present=torch.from_numpy(np.arange(shape[1]) < counts[:, None]).to(device),
    )
