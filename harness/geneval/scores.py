"""GenEval's scores from result rows: by task, two overalls, each with its 95% interval, and why images fail."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from vhsbench.harness.common.tasks import TAGS
from vhsbench.harness.stats.intervals import clustered_mean

# pattern of a reason's line -> what failed; the first match counts
FAILURES = {
    r"expected .* found .*; and ": "wrong colour",
    r"no target for .* to be ": "no target",
    r"expected .* target, found .* target$": "wrong position",
    r"expected .*>=\d+, found \d+$": "too few objects",
    r"expected .*<\d+, found \d+$": "too many objects",
}


@dataclass(frozen=True)
class GenEvalScore:
    """A share of correct images in 0..1 with its 95% interval (NaN for a single prompt)."""

    mean: float
    low: float
    high: float
    prompts: int
    images: int


@dataclass(frozen=True)
class GenEvalScores:
    """tasks by tag; prompt_weighted is the overall of the VHS paper, task_mean that of GenEval.

    failures counts, by tag, the images that fail for a kind of reason; one image can fail for several.
    """

    tasks: dict[str, GenEvalScore]
    prompt_weighted: GenEvalScore
    task_mean: GenEvalScore
    failures: dict[str, dict[str, int]]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def scores(rows: Sequence[Mapping[str, Any]]) -> GenEvalScores:
    """Compute all scores of rows with tag, metadata (of the prompt), correct and reason. Raises ValueError for no rows.

    A prompt's images (its seeds) are averaged first: intervals are by prompt.
    """
    if not rows:
        raise ValueError("no results, so no scores.")
    correct = np.array([bool(row["correct"]) for row in rows], dtype=np.float64)
    prompts = np.array([row["metadata"] for row in rows])
    tags = np.array([row["tag"] for row in rows])

    def score(chosen: Any, by_task: bool = False) -> GenEvalScore:
        found = clustered_mean(correct[chosen], prompts=prompts[chosen], tasks=tags[chosen], by_task=by_task)
        ends = (float(found.mean[0]), float(found.low[0]), float(found.high[0]))
        return GenEvalScore(*ends, found.n, int(np.size(correct[chosen])))

    everything = slice(None)
    present = sorted(set(tags.tolist()), key=lambda t: (TAGS.index(t) if t in TAGS else len(TAGS), t))
    return GenEvalScores(
        {tag: score(tags == tag) for tag in present},
        score(everything),
        score(everything, by_task=True),
        {
            tag: _failures([row["reason"] for row in rows if row["tag"] == tag and not row["correct"]])
            for tag in present
        },
    )


def failure(line: str) -> str:
    """Return what failed, by one line of a reason."""
    return next((kind for pattern, kind in FAILURES.items() if re.match(pattern, line)), "other")


def _failures(reasons: Sequence[str]) -> dict[str, int]:
    counts = Counter(kind for reason in reasons for kind in {failure(line) for line in reason.split("\n")})
    return {kind: counts[kind] for kind in [*FAILURES.values(), "other"] if counts[kind]}


def official_summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write what GenEval's summary script prints for these rows. Tasks are in order of first appearance."""
    table = pd.DataFrame({key: [row[key] for row in rows] for key in ("tag", "metadata", "correct")})
    right = table["correct"].astype(bool)
    by_tag = right.groupby(table["tag"], sort=False)
    lines = [
        "Summary",
        "=======",
        f"Total images: {len(table)}",
        f"Total prompts: {table['metadata'].nunique()}",
        f"% correct images: {right.mean():.2%}",
        f"% correct prompts: {right.groupby(table['metadata']).any().mean():.2%}",
        "",
        "Task breakdown",
        "==============",
        *(f"{tag:<16} = {part.mean():.2%} ({part.sum()} / {len(part)})" for tag, part in by_tag),
        "",
        f"Overall score (avg. over tasks): {by_tag.mean().mean():.5f}",
    ]
    return "\n".join(lines)
