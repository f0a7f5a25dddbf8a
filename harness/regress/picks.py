"""The picks of two verifiers among the same candidates, and those that changed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vhsbench.harness.regress.points import OperatingPoint
from vhsbench.harness.regress.scores import Floats, LabeledCandidates


@dataclass(frozen=True)
class ChangedPick:
    """A prompt and seed for which the best of the first N differs; indices are of candidates."""

    row: int  # of the pools
    prompt_id: int
    seed: int
    tag: str
    prompt: str
    baseline_index: int
    candidate_index: int
    baseline_correct: bool
    candidate_correct: bool
    baseline_score: float
    candidate_score: float


def picks(a: Floats, b: Floats, point: OperatingPoint) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the best of the first N of every row [R], by the baseline's scores and by the candidate's."""
    return a[:, : point.n_baseline].argmax(1), b[:, : point.n_candidate].argmax(1)


def changed_picks(
    candidates: LabeledCandidates, a: Floats, b: Floats, point: OperatingPoint
) -> list[ChangedPick]:
    """List differing picks among the first N: turned wrong first, turned right last, each by the new pick's score."""
    first, second = picks(a, b, point)
    tags = candidates.tags
    changed = [
        ChangedPick(
            int(r), int(candidates.prompt_id[r]), int(candidates.seed[r]), str(tags[r]),
            str(candidates.prompts[candidates.prompt_id[r]]["prompt"]), int(first[r]), int(second[r]),
            bool(candidates.correct[r, first[r]]), bool(candidates.correct[r, second[r]]),
            float(a[r, first[r]]), float(b[r, second[r]]),
        )
        for r in np.flatnonzero(first != second)
    ]  # fmt: skip
    return sorted(
        changed,
        key=lambda c: (c.candidate_correct, not c.baseline_correct, -c.candidate_score, c.row),
    )
