"""Nano's prompts by split, and the choice of a few of them. Light to import."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from vhsbench.generators.nano.world import SHAPES
from vhsbench.harness.common.tasks import TAGS
from vhsbench.harness.geneval.prompts import Metadata, split

PROMPT_SEED = 0  # of the split into training, validation and evaluation prompts
HELD_OUT_PER_TASK = 64


def nano_prompts() -> dict[str, list[Metadata]]:
    """Return nano's prompts by split: train, validation, evaluation."""
    parts = split(SHAPES, HELD_OUT_PER_TASK, PROMPT_SEED)
    return dict(zip(("train", "validation", "evaluation"), parts, strict=True))


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
