"""Nano's prompts by split, and the choice of a few of them. Light to import."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from vhsbench.generators.nano.world import COLORS, SHAPES
from vhsbench.harness.common.tasks import TAGS
from vhsbench.harness.geneval.prompts import Metadata, chain, split

PROMPT_SEED = 0  # of the split into training, validation and evaluation prompts
HELD_OUT_PER_TASK = 64
SPLITS = ("train", "validation", "evaluation")


def nano_prompts() -> dict[str, list[Metadata]]:
    """Return nano's prompts by split: train, validation, evaluation."""
    parts = split(SHAPES, HELD_OUT_PER_TASK, PROMPT_SEED)
    return dict(zip(SPLITS, parts, strict=True))


def three_objects() -> list[Metadata]:
    """Return the prompts of nano's second suite: 64 chains of three objects, each of its own shape and colour.

    "a photo of a red circle above a blue square left of a green star": every shape stands in the middle once for each
    pair of a vertical and a horizontal relation, in both orders; the first eight prompts have all shapes and all pairs.
    Two horizontal relations would be a word more than nano's text encoder reads.
    """
    rng = np.random.default_rng(PROMPT_SEED)
    pairs = list(itertools.product(("above", "below"), ("left of", "right of")))
    pairs += [(across, down) for down, across in pairs]
    prompts = []
    for block, place in itertools.product(range(len(pairs)), range(len(SHAPES))):
        middle, relations = SHAPES[place], pairs[(place + block) % len(pairs)]
        a, b = rng.choice([shape for shape in SHAPES if shape != middle], size=2, replace=False)
        shades = rng.choice(COLORS, size=3, replace=False)
        objects = [(str(shape), str(shade)) for shape, shade in zip((a, middle, b), shades, strict=True)]
        prompts.append(chain("three_objects", objects, relations))
    return prompts


def balanced(prompts: Sequence[Metadata], count: int) -> list[Metadata]:
    """Choose `count` prompts: the six tasks alternate, and each task's prompts come in order."""
    by_task = [[p for p in prompts if p["tag"] == tag] for tag in TAGS]
    by_task = [p for p in by_task if p]
    k = len(by_task)
    return [by_task[i % k][(i // k) % len(by_task[i % k])] for i in range(count)]


def as_evaluated(prompts: Sequence[Metadata], count: int) -> list[Metadata]:
    """Choose `count` prompts: tasks are drawn by their shares of the evaluation prompts, each task's prompts in order."""
    tags = [p["tag"] for p in nano_prompts()["evaluation"]]
    by_task = {tag: itertools.cycle([p for p in prompts if p["tag"] == tag]) for tag in TAGS}
    drawn = np.random.default_rng(PROMPT_SEED).choice(tags, size=count)
    return [next(by_task[tag]) for tag in drawn]
