"""Nano's prompts by split, and the choice of a few of them. Light to import."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from vhsbench.generators.nano.world import OPENINGS, SHAPES
from vhsbench.harness.common.tasks import TAGS
from vhsbench.harness.geneval.prompts import Metadata, every, split

PROMPT_SEED = 0  # of the split into training, validation and evaluation prompts
HELD_OUT_PER_TASK = 64
_TAUGHT_PER_TASK = 2048


def nano_prompts() -> dict[str, list[Metadata]]:
    """Return nano's prompts by split: train, validation, evaluation.

    What a prompt asks to see is in one split alone, whatever its words. A task with few pictures, such as one of
    the eight shapes, asks for each in several words (see `worded`).
    """
    train, validation, evaluation = split(SHAPES, HELD_OUT_PER_TASK, PROMPT_SEED)
    return {
        "train": worded(train, _TAUGHT_PER_TASK),
        "validation": worded(validation, HELD_OUT_PER_TASK),
        "evaluation": worded(evaluation, HELD_OUT_PER_TASK, HELD_OUT_PER_TASK),
    }


def taught_prompts() -> list[Metadata]:
    """Return the prompts that the generator learns: all pictures, in words enough."""
    return worded(every(SHAPES), _TAUGHT_PER_TASK)


def worded(prompts: Sequence[Metadata], least: int, most: int | None = None) -> list[Metadata]:
    """Say each task's prompts in as many words as give `least` of them, at most all of OPENINGS; keep the first `most`.

    "a photo of" becomes "a drawing of", "an icon of" and so on; each prompt's first words differ from its
    neighbours', and a task's prompts all come once before any comes again.
    """
    found: list[Metadata] = []
    for tag in TAGS:
        task = [p for p in prompts if p["tag"] == tag]
        times = min(len(OPENINGS), -(-least // max(1, len(task))))
        said = [
            _opened(p, OPENINGS[(i + k) % len(OPENINGS)]) for k in range(times) for i, p in enumerate(task)
        ]
        found += said[:most]
    return found


def _opened(prompt: Metadata, opening: str) -> Metadata:
    article = "an" if opening[0] in "aeiou" else "a"
    return {**prompt, "prompt": prompt["prompt"].replace("a photo of", f"{article} {opening} of", 1)}


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
