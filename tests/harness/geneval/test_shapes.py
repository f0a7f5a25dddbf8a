"""Nano's detector against the truth, task by task, on cleanly rendered scenes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vhsbench.generators.nano import teacher, world
from vhsbench.harness.common.tasks import TAGS
from vhsbench.harness.geneval.detector import ColorRequest, judge
from vhsbench.harness.geneval.prompts import every
from vhsbench.harness.geneval.shapes import ShapeDetector

SCENES = 200


def picture(scene: world.Scene) -> Image.Image:
    return Image.fromarray((world.render(scene) * 255).round().astype(np.uint8))


@pytest.mark.parametrize("tag", TAGS)
def test_agrees_with_the_truth_on_98_percent_of_clean_scenes(tag):
    rng = np.random.default_rng(TAGS.index(tag))
    of_task = [p for p in every(world.SHAPES) if p["tag"] == tag]
    prompts = [of_task[i] for i in rng.integers(len(of_task), size=SCENES)]
    shape = SCENES, teacher.LATENT_CHANNELS, teacher.LATENT_SIZE, teacher.LATENT_SIZE
    noise = torch.from_numpy(rng.standard_normal(shape).astype(np.float32))
    scenes = teacher.scenes_of(teacher.Orders.of(prompts), teacher.scores(noise)).items()
    right = judge(ShapeDetector(), [picture(s) for s in scenes], prompts)
    assert np.mean([v.correct for v in right]) >= 0.98
    # the same pictures against a prompt for something that is not there
    wrong = [
        {**p, "include": [{"class": next(s for s in world.SHAPES if s not in present), "count": 1}]}
        for p, present in zip(prompts, ({i.shape for i in s} for s in scenes), strict=True)
    ]
    refused = judge(ShapeDetector(), [picture(s) for s in scenes], wrong)
    assert np.mean([not v.correct for v in refused]) >= 0.98


def test_reads_shape_colour_and_place_of_every_object():
    rng = np.random.default_rng(7)
    scenes = [world.random_scene(rng, 3) for _ in range(200)]
    hits = 0
    images = [picture(s) for s in scenes]
    detector = ShapeDetector()
    for scene, image, objects in zip(scenes, images, detector.detect(images), strict=True):
        truth = sorted((i.shape, i.color) for i in scene)
        asked = [ColorRequest(image, name, rows) for name, rows in objects.items()]
        named = detector.name_colors(asked)
        found = sorted((r.name, color) for r, colors in zip(asked, named, strict=True) for color in colors)
        hits += truth == found
    assert hits >= 0.98 * len(scenes)


def test_a_ghost_is_less_certain_than_a_shape():
    solid = world.render((world.Item("star", "red", 32, 32, 8),))
    ghost = solid + 0.6 * (world.BACKGROUND - solid)
    images = [Image.fromarray((p * 255).round().astype(np.uint8)) for p in (solid, ghost)]
    clear, faint = ShapeDetector().detect(images)
    best = max((d.score for rows in faint.values() for d in rows), default=0.0)
    assert clear["star"][0].score > 0.9 > best


def test_an_empty_picture_holds_nothing():
    assert ShapeDetector().detect([picture(())]) == [{}]


def test_another_size_is_refused():
    with pytest.raises(ValueError, match="64x64"):
        ShapeDetector().detect([Image.new("RGB", (32, 32))])
