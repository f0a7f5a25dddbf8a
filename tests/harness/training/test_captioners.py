from __future__ import annotations

import numpy as np
from PIL import Image

from vhsbench.generators.nano.world import caption, random_scene, render
from vhsbench.harness.geneval.shapes import ShapeDetector
from vhsbench.harness.training.captioners import SceneCaptioner


def test_the_scene_captioner_says_what_is_there():
    rng = np.random.default_rng(3)
    scenes = [random_scene(rng, n) for n in (0, 1, 2, 3, 4) for _ in range(6)]
    images = [Image.fromarray((255 * render(s)).round().astype(np.uint8)) for s in scenes]
    found = SceneCaptioner().caption(images)
    assert found == [caption(s) for s in scenes]
    assert found[0] == "nothing"
    assert SceneCaptioner().caption(images, ShapeDetector().detect(images)) == found
