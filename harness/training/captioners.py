"""Captioners, which describe images for alignment: the protocol, nano's true scene, and the configured one."""

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
    """Describes images in one sentence each."""

    name: str

    def caption(self, images: Sequence[Image.Image], seen: Sequence[Objects] | None = None) -> list[str]:
        """Describe images; `seen` is what the detector found in each, if it has already run."""
        ...


class SceneCaptioner:
    """Nano's captioner: says what the shape detector sees, in the world's words."""

    name = "scene"

    def caption(self, images: Sequence[Image.Image], seen: Sequence[Objects] | None = None) -> list[str]:
        """See Captioner. Runs the detector only if `seen` is None."""
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
    """Open the captioner of a configuration. Raises ConfigError for unknown options."""
    if config.name == "scene":
        if config.options:
            raise ConfigError("data.captioner 'scene' has no options.")
        return SceneCaptioner()
    return open_gemma(config.options, device, "data.captioner.options")
