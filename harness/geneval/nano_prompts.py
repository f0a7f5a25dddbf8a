"""Nano's prompts by split, and the choice of a few of them. Light to import."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from vhsbench.generators.nano.world import COLORS, OPENINGS, SHAPES
from vhsbench.harness.common.tasks import TAGS
from vhsbench.harness.geneval.prompts import Metadata, chain, coloured_count, every, split
from vhsbench.harness.geneval.rules import RELATIONS

PROMPT_SEED = 0  # of the split into training, validation and evaluation prompts
HELD_OUT_PER_TASK = 64
SPLITS = ("train", "validation", "evaluation")
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


def composed_prompts() -> list[Metadata]:
    """Return the 88 prompts of nano's second suite, which put together what GenEval's tasks ask for one by one.

    Tasks: count_color ("three red rings"), place_color ("a red star above a blue ring") and three_placed ("a red star
    above a blue ring left of a green cross").
    """
    rng = np.random.default_rng(PROMPT_SEED)

    def objects(first: str, others: int) -> list[tuple[str, str]]:
        """Draw other shapes, and a colour for each, none twice."""
        drawn = rng.choice([shape for shape in SHAPES if shape != first], size=others, replace=False)
        shades = rng.choice(COLORS, size=others + 1, replace=False)
        return [(str(shape), str(shade)) for shape, shade in zip((first, *drawn), shades, strict=True)]

    prompts = [
        coloured_count("count_color", *objects(shape, 0)[0], count) for count in (2, 3, 4) for shape in SHAPES
    ]
    for block, (place, shape) in itertools.product(range(len(RELATIONS)), enumerate(SHAPES)):
        prompts.append(chain("place_color", objects(shape, 1), [RELATIONS[(place + block) % len(RELATIONS)]]))
    # a vertical and a horizontal one: two horizontal ones are a word more than nano's text encoder reads
    pairs = list(itertools.product(("above", "below"), ("left of", "right of")))
    pairs += [(across, down) for down, across in pairs]
    for block, (place, shape) in itertools.product(range(len(pairs) // 2), enumerate(SHAPES)):
        middle, a, b = objects(shape, 2)
        prompts.append(chain("three_placed", [a, middle, b], pairs[(place + block) % len(pairs)]))
    return prompts


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
