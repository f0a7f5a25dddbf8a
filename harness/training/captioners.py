"""Who describes images for alignment: what a captioner is, nano's true scene, and the choice by configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from vhsbench.generators.nano.world import CELL, Item, Scene, caption
from vhsbench.harness.config.yaml_files import ConfigError
from vhsbench.harness.geneval.rules import THRESHOLD, Objects
from vhsbench.harness.geneval.shapes import ShapeDetection, ShapeDetector
from vhsbench.harness.training.gemma import open_gemma

if TYPE_CHECKING:
    from PIL import Image

    from vhsbench.harness.training.data_config import CaptionerConfig

_MOST = 5  # objects that a description names


class Captioner(Protocol):
    """Describes images, a sentence each."""

    name: str

    def caption(self, images: Sequence[Image.Image], seen: Sequence[Objects] | None = None) -> list[str]:
        """`seen` is what the detector found in each image, where it has already looked."""
        ...


class SceneCaptioner:
    """Nano's: what the shape detector sees, in the world's words."""

    name = "scene"

    def caption(self, images: Sequence[Image.Image], seen: Sequence[Objects] | None = None) -> list[str]:
        """See Captioner. Detects only where `seen` is None."""
        return [caption(_scene(objects)) for objects in seen or ShapeDetector().detect(images)]


def _scene(objects: Objects) -> Scene:
    cells: dict[tuple[int, int], Item] = {}
    for shape, rows in objects.items():
        for d in rows:
            if d.score > THRESHOLD and isinstance(d, ShapeDetection):
                x, y = (d.box[0] + d.box[2]) / 2, (d.box[1] + d.box[3]) / 2
                cells[int(x // CELL), int(y // CELL)] = Item(shape, d.color, x, y, 0.0)
    return tuple(cells.values())[:_MOST]


def open_captioner(config: CaptionerConfig, device: str) -> Captioner:
    """The captioner of a configuration. Raises ConfigError for options that it does not have."""
    if config.name == "scene":
        if config.options:
            raise ConfigError("data.captioner 'scene' has no options.")
        return SceneCaptioner()
    return open_gemma(config.options, device, "data.captioner.options")
