"""Nano's detector: coloured shapes on grey, found by segmentation and matched to templates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from vhsbench.generators.nano.world import BACKGROUND, COLORS, PALETTE, SHAPES, SIZE, shape_mask
from vhsbench.harness.geneval.detector import ColorRequest, DetectorError
from vhsbench.harness.geneval.rules import Detection, Objects

if TYPE_CHECKING:
    from PIL import Image

Array = NDArray[np.float32]

WINDOW = 24  # side of the square around a component that is matched, pixels
MIN_AREA = 28  # pixels; smaller components are specks
_FOREGROUND = 0.25  # RGB distance from the background
_RADII = np.arange(5.5, 9.6, 0.4)
_SHIFTS = tuple(np.linspace(-1, 1, 7))
_MISMATCH_COST = 1.6  # confidence lost per unit of template mismatch
_CLEAR, _FAINT_COST = 0.42, 2.5  # RGB distance from the background with full contrast; cost below it


@dataclass(frozen=True)
class ShapeDetection(Detection):
    """A detection that knows its colour, the nearest of the palette."""

    color: str = ""


@cache
def _templates() -> tuple[Array, NDArray[np.int64]]:
    """Draw coverages [K, WINDOW * WINDOW] of every shape, size and sub-pixel shift; also return shape indices [K]."""
    bank, kinds = [], []
    for kind, shape in enumerate(SHAPES):
        for radius in _RADII:
            rows, columns = np.nonzero(shape_mask(shape, SIZE / 2, SIZE / 2, radius) > 0.5)
            # the window is centred on the bounding box, not on the shape's centre
            x = SIZE - (columns.min() + columns.max() + 1) / 2
            y = SIZE - (rows.min() + rows.max() + 1) / 2
            for dx in _SHIFTS:
                for dy in _SHIFTS:
                    mask = shape_mask(shape, x + dx, y + dy, radius)
                    start = (SIZE - WINDOW) // 2
                    bank.append(mask[start : start + WINDOW, start : start + WINDOW].ravel())
                    kinds.append(kind)
    return np.stack(bank).astype(np.float32), np.array(kinds)


_RGB = np.array([PALETTE[c] for c in COLORS], dtype=np.float32)


@dataclass(frozen=True)
class _Component:
    image: int
    box: tuple[float, float, float, float]
    rgb: Array
    coverage: Array


class ShapeDetector:
    """Reads class, colour and box; the score is how well a template fits and how clearly it stands out."""

    name = "shapes"
    classes: Sequence[str] = SHAPES

    def __init__(self) -> None:
        _templates()  # as others load weights: not in the first shard

    def info(self) -> dict[str, Any]:
        return {"name": self.name}

    def name_colors(self, requests: Sequence[ColorRequest]) -> list[list[str]]:
        """See Detector.name_colors; detection has already read them."""
        return [[d.color for d in r.detections if isinstance(d, ShapeDetection)] for r in requests]

    def detect(self, images: Sequence[Image.Image]) -> list[Objects]:
        """See Detector.detect. Images are 64x64 RGB; raises ValueError for another size."""
        found = [
            component
            for index, image in enumerate(images)
            for component in _components(index, _pixels(image))
        ]
        objects: list[dict[str, list[Detection]]] = [{} for _ in images]
        if found:
            for component, shape, score, color in zip(found, *_match(found), strict=True):
                objects[component.image].setdefault(shape, []).append(
                    ShapeDetection(component.box, score, None, color)
                )
        return list(objects)


def _pixels(image: Image.Image) -> Array:
    if image.size != (SIZE, SIZE):
        raise DetectorError(f"the shape detector reads {SIZE}x{SIZE} images, not {image.size}.")
    return np.asarray(image.convert("RGB"), dtype=np.float32) / np.float32(255)


def _components(index: int, pixels: Array) -> list[_Component]:
    """Find the connected foreground regions of one picture, of at least MIN_AREA pixels."""
    difference = pixels - BACKGROUND
    distance = np.sqrt(np.einsum("yxc,yxc->yx", difference, difference))
    labels, _ = ndimage.label(distance > _FOREGROUND)
    components = []
    for label, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        mask = labels[rows, columns] == label
        if mask.sum() < MIN_AREA:
            continue
        inside, far = difference[rows, columns][mask], distance[rows, columns][mask]
        tint = np.median(inside[far >= np.quantile(far, 0.5)], axis=0)
        # by distance, not direction: an object of two tints is still an object
        coverage = np.clip(distance / np.sqrt(tint @ tint), 0, 1)
        coverage *= ndimage.binary_dilation(labels == label)
        center_y, center_x = (rows.start + rows.stop) // 2, (columns.start + columns.stop) // 2
        half = WINDOW // 2
        window = np.pad(coverage, half)[center_y : center_y + WINDOW, center_x : center_x + WINDOW]
        box = (columns.start, rows.start, columns.stop, rows.stop)
        components.append(_Component(index, box, tint + BACKGROUND, window.ravel()))
    return components


def _match(found: Sequence[_Component]) -> tuple[list[str], list[float], list[str]]:
    """Match each component to a template: shape, confidence and colour."""
    bank, kinds = _templates()
    coverage = np.stack([c.coverage for c in found])
    energy = np.square(coverage).sum(1)[:, None] + np.square(bank).sum(1)[None]
    mismatch = 1 - 2 * (coverage @ bank.T) / energy
    best = mismatch.argmin(1)
    rgb = np.stack([c.rgb for c in found])
    distances = np.linalg.norm(rgb[:, None] - _RGB[None], axis=-1)
    faint = np.maximum(_CLEAR - np.linalg.norm(rgb - BACKGROUND, axis=1), 0)
    lowest = mismatch[np.arange(len(found)), best]
    scores = np.clip(1 - _MISMATCH_COST * lowest - _FAINT_COST * faint, 0, 1)
    return (
        [SHAPES[k] for k in kinds[best]],
        [float(s) for s in scores],
        [COLORS[i] for i in distances.argmin(1)],
    )
