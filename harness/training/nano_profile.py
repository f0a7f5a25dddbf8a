"""The rule by which nano's generator is chosen, which knows nothing of verifiers: SANA-Sprint's published profile."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vhsbench import generators
from vhsbench.generators.nano.training import Lessons
from vhsbench.harness.common.atomic import write_atomic
from vhsbench.harness.common.tasks import TAGS
from vhsbench.harness.geneval.nano_prompts import PROMPT_SEED, balanced, nano_prompts
from vhsbench.harness.geneval.prompts import Metadata
from vhsbench.harness.geneval.shapes import ShapeDetector
from vhsbench.harness.training.collection import Collector, Part
from vhsbench.harness.training.sources import label_samples

# one image, in percent: the paper's SANA-Sprint, and 71.6 overall
PROFILE: Mapping[str, float] = {
    "single_object": 99, "two_object": 88, "counting": 56, "colors": 88, "position": 54, "color_attr": 48,
}  # fmt: skip
WITHIN = 8.0  # points that a task may lie from the profile
ORACLE = 95.0  # percent of prompts with a right candidate among POOL
POOL = 16
_ROOT = 1_000_009  # of noise that neither runs nor training data use
_ATTENTION, _DOUBT, _MOST_DOUBT = 1.0, 0.8, 1.5
_AHEAD = 3  # looks: the averaged weights answer some looks late to what they are taught
_SHARE = (0.08, 0.4)


@dataclass(frozen=True)
class Look:
    """What a generator can do at a step, in percent, and how it is taught from there on."""

    step: int
    correct: Mapping[str, float]  # by task
    oracle: float
    lessons: Lessons

    @property
    def furthest(self) -> float:
        """The distance from the profile of the task that is furthest from it, in points."""
        return max(abs(self.correct[tag] - PROFILE[tag]) for tag in TAGS)

    @property
    def rank(self) -> tuple[bool, float]:
        """What is smaller for a better generator: enough is possible, then the distance."""
        return self.oracle < ORACLE, self.furthest


class Teaching:
    """Steers a training towards the profile, look by look, and remembers the looks in a file.

    What counts is where a task will be some looks ahead if it goes on as since the last look. A task that will be below its
    target gets a larger share of the samples; one above gets less, and a teacher in more doubt.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        self.looks = [_read(line) for line in lines]

    def lessons(self, step: int) -> Lessons:
        """Return how a step is taught: as the last look before it says."""
        before = [look.lessons for look in self.looks if look.step <= step]
        return before[-1] if before else Lessons.even(len(TAGS))

    def look(self, step: int, correct: Mapping[str, float], oracle: float) -> Look:
        """Add what was seen at a step; looks of that step or later, by a training that was killed, are forgotten."""
        self.looks = [look for look in self.looks if look.step < step]
        before = self.looks[-1].correct if self.looks else correct
        ahead = {tag: correct[tag] + _AHEAD * (correct[tag] - before[tag]) for tag in TAGS}
        found = Look(step, dict(correct), oracle, _next(self.lessons(step), ahead))
        self.looks.append(found)
        lines = "".join(json.dumps(asdict(look)) + "\n" for look in self.looks)
        write_atomic(self._file, lines.encode())
        return found

    @property
    def best(self) -> Look:
        """The look nearest to the profile."""
        return min(self.looks, key=lambda look: look.rank)


def _next(now: Lessons, expected: Mapping[str, float]) -> Lessons:
    above = np.array([min(max(expected[tag], 0), 100) - PROFILE[tag] for tag in TAGS]) / 100
    doubts = np.clip(np.array(now.doubts) + _DOUBT * above, 0, _MOST_DOUBT)
    shares = np.clip(np.array(now.shares) * np.exp(-_ATTENTION * above), *_SHARE)
    shares = np.clip(shares / shares.sum(), *_SHARE)
    return Lessons(tuple((shares / shares.sum()).tolist()), tuple(doubts.tolist()))


def _read(line: str) -> Look:
    row = json.loads(line)
    lessons = Lessons(*(tuple(row["lessons"][k]) for k in ("shares", "doubts")))
    return Look(int(row["step"]), row["correct"], float(row["oracle"]), lessons)


def looked_at(count: int) -> list[Metadata]:
    """Choose prompts, as many of each task, none of them an evaluation prompt."""
    prompts = nano_prompts()
    known = [*prompts["validation"], *prompts["train"]]
    order = np.random.default_rng(PROMPT_SEED).permutation(len(known))
    return balanced([known[i] for i in order], count)


def verdicts(
    folder: Path, prompts: Sequence[Metadata], device: str, pool: int = POOL, root: int = _ROOT
) -> NDArray[np.bool_]:
    """Make `pool` candidates of each prompt by the generator in `folder`, and judge them: [P, pool]."""
    collector = Collector(
        generators.create("nano", weights=folder, device=device), (), detector=ShapeDetector(), batch_size=128
    )
    part = Part("quality", "labels", label_samples(prompts, pool), root, described=False)
    rows = [row["correct"] for made in collector.batches(part) for row in made.rows]
    return np.array(rows, dtype=bool).reshape(-1, pool)


def profile_of(correct: NDArray[np.bool_], prompts: Sequence[Metadata]) -> tuple[dict[str, float], float]:
    """Return the share of right candidates by task, and of prompts that have one, both in percent."""
    tags = np.array([p["tag"] for p in prompts])
    by_task = {tag: 100 * float(correct[tags == tag].mean()) for tag in TAGS}
    return by_task, 100 * float(correct.any(1).mean())
