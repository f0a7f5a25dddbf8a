"""The nano world: 64x64 pictures of coloured shapes on grey, one object per cell of a 3x3 grid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

Array = NDArray[np.float32]

SIZE = 64
BACKGROUND = 0.6
GRID = 3
CELL = SIZE / GRID
RADIUS = (6.5, 8.4)  # pixels
JITTER = 1.2  # pixels between an object's centre and its cell's, at most

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "diamond", "heart")
PALETTE: dict[str, tuple[float, float, float]] = {
    "red": (0.88, 0.10, 0.12),
    "orange": (1.00, 0.52, 0.05),
    "yellow": (1.00, 0.90, 0.10),
    "green": (0.10, 0.62, 0.20),
    "blue": (0.12, 0.28, 0.92),
    "purple": (0.52, 0.12, 0.72),
    "pink": (1.00, 0.56, 0.78),
    "brown": (0.46, 0.26, 0.10),
    "black": (0.04, 0.04, 0.04),
    "white": (1.00, 1.00, 1.00),
}
COLORS = tuple(PALETTE)
# what a prompt calls the picture; GenEval's own is the first
OPENINGS = (
    "photo", "picture", "image", "drawing", "painting", "sketch", "print", "icon",
    "poster", "cartoon", "rendering", "snapshot", "view", "scene", "diagram", "illustration",
)  # fmt: skip
NUMBERS = ("zero", "one", "two", "three", "four", "five")
PLACES = tuple(
    "center" if (row, column) == (1, 1) else f"{vertical} {horizontal}"
    for row, vertical in enumerate(("top", "middle", "bottom"))
    for column, horizontal in enumerate(("left", "center", "right"))
)


@dataclass(frozen=True)
class Item:
    """One object: centre and radius in pixels, x to the right, y down."""

    shape: str
    color: str
    x: float
    y: float
    radius: float


Scene = tuple[Item, ...]


def cell_center(cell: int) -> tuple[float, float]:
    """Return the centre (x, y) in pixels of grid cell 0..8, row by row."""
    return (cell % GRID + 0.5) * CELL, (cell // GRID + 0.5) * CELL


def _outline(shape: str) -> list[tuple[float, float]]:
    """Return the corner points of a shape of radius 1 around the origin, y down."""
    turns = {
        "square": (4, 45.0, 1.12),
        "triangle": (3, -90.0, 1.15),
        "diamond": (4, 0.0, 1.08),
    }
    if shape in turns:
        corners, start, radius = turns[shape]
        angles = np.deg2rad(start + 360.0 / corners * np.arange(corners))
        stretch = 0.72 if shape == "diamond" else 1.0
        return [(float(stretch * radius * np.cos(a)), float(radius * np.sin(a))) for a in angles]
    if shape == "star":
        angles = np.deg2rad(-90.0 + 36.0 * np.arange(10))
        radii = np.where(np.arange(10) % 2 == 0, 1.12, 0.5)
        return [(float(r * np.cos(a)), float(r * np.sin(a))) for r, a in zip(radii, angles, strict=True)]
    if shape == "cross":
        w, r = 0.34, 1.0
        return [(-w, -r), (w, -r), (w, -w), (r, -w), (r, w), (w, w),
                (w, r), (-w, r), (-w, w), (-r, w), (-r, -w), (-w, -w)]  # fmt: skip
    if shape == "heart":
        t = np.linspace(0.0, 2.0 * np.pi, 200, endpoint=False)
        x = 16 * np.sin(t) ** 3
        y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
        return [(float(a), float(b)) for a, b in zip(x / 16.0, (y + 2.5) / 15.0, strict=True)]
    raise ValueError(f"unknown shape '{shape}'; known: {', '.join(SHAPES)}.")


TEMPLATE_SIZE, TEMPLATE_SPAN = 512, 1.5  # template resolution, and half its width in radii
TEMPLATE_STEP = 2 * TEMPLATE_SPAN / TEMPLATE_SIZE


@cache
def signed_distance(shape: str) -> Array:
    """Return the signed distance in radii (negative inside) over [-1.5, 1.5] squared, [512, 512]."""
    picture = Image.new("1", (TEMPLATE_SIZE, TEMPLATE_SIZE))
    draw = ImageDraw.Draw(picture)

    def pixels(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        return [((x + TEMPLATE_SPAN) / TEMPLATE_STEP, (y + TEMPLATE_SPAN) / TEMPLATE_STEP) for x, y in points]

    if shape in ("circle", "ring"):
        draw.ellipse([*pixels([(-1, -1)])[0], *pixels([(1, 1)])[0]], fill=1)
        if shape == "ring":
            draw.ellipse([*pixels([(-0.52, -0.52)])[0], *pixels([(0.52, 0.52)])[0]], fill=0)
    else:
        draw.polygon(pixels(_outline(shape)), fill=1)
    inside = np.asarray(picture, dtype=bool)
    distance = ndimage.distance_transform_edt(~inside) - ndimage.distance_transform_edt(inside)
    return np.asarray(distance * TEMPLATE_STEP, dtype=np.float32)


def shape_mask(shape: str, x: float, y: float, radius: float) -> Array:
    """Return the coverage of a shape in 0..1, anti-aliased, [64, 64]; x, y, radius in pixels."""
    mask = np.zeros((SIZE, SIZE), dtype=np.float32)
    reach = int(np.ceil(radius * 1.4))
    left, top = max(int(x) - reach, 0), max(int(y) - reach, 0)
    right, bottom = min(int(x) + reach + 1, SIZE), min(int(y) + reach + 1, SIZE)
    columns = ((np.arange(left, right) + 0.5 - x) / radius + TEMPLATE_SPAN) / TEMPLATE_STEP
    rows = ((np.arange(top, bottom) + 0.5 - y) / radius + TEMPLATE_SPAN) / TEMPLATE_STEP
    column_index = np.clip(columns.astype(int), 0, TEMPLATE_SIZE - 1)
    row_index = np.clip(rows.astype(int), 0, TEMPLATE_SIZE - 1)
    distance = signed_distance(shape)[np.ix_(row_index, column_index)]
    mask[top:bottom, left:right] = np.clip(0.5 - distance * radius, 0.0, 1.0)
    return mask


def render(scene: Scene) -> Array:
    """Draw a scene: RGB [64, 64, 3] in 0..1."""
    picture = np.full((SIZE, SIZE, 3), BACKGROUND, dtype=np.float32)
    for item in scene:
        mask = shape_mask(item.shape, item.x, item.y, item.radius)[..., None]
        picture += mask * (np.asarray(PALETTE[item.color], dtype=np.float32) - picture)
    return picture


def random_scene(rng: np.random.Generator, n: int) -> Scene:
    """Draw n objects of random shape and colour in n different cells."""
    items = []
    for cell in rng.choice(GRID * GRID, size=n, replace=False):
        shape = SHAPES[rng.integers(len(SHAPES))]
        color = COLORS[rng.integers(len(COLORS))]
        x, y = (c + JITTER * rng.uniform(-1, 1) for c in cell_center(cell))
        items.append(Item(shape, color, x, y, rng.uniform(*RADIUS)))
    return tuple(items)


def caption(scene: Scene) -> str:
    """Describe a scene truly: how many objects, then each with colour, shape and place, row by row."""
    if not scene:
        return "nothing"
    cells = {min(int(i.y // CELL), 2) * GRID + min(int(i.x // CELL), 2): i for i in scene}
    parts = [f"a {i.color} {i.shape} at {PLACES[cell]}" for cell, i in sorted(cells.items())]
    kinds = Counter(i.shape for i in scene)
    counts = [f"{NUMBERS[kinds[s]]} {plural(s) if kinds[s] > 1 else s}" for s in SHAPES if kinds[s]]
    return f"{' and '.join(counts)} : {' and '.join(parts)}"


def plural(shape: str) -> str:
    """Form GenEval's plural: a name ending in s takes "es", else "s"."""
    return shape + ("es" if shape.endswith("s") else "s")
