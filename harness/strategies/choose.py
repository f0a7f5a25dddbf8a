"""Choose the settings of a strategy on some prompts and judge them on the others, for budgets of two meanings.

A hard budget holds for every prompt, a mean budget for the average over prompts. What is chosen is always judged on prompts
that had no part in the choice (repeated K-fold by prompt, stratified by task, the same folds for all strategies).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vhsbench.harness.stats.intervals import average_by_prompt
from vhsbench.harness.strategies.base import Floats, Pools, Strategy

Meaning = Literal["hard", "mean"]
FOLDS, REPEATS = 5, 5
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Evaluated:
    """Every setting of a strategy: accuracy [S, P] by prompt, cost of the longest prompt [S], mean cost [S, P]."""

    settings: Sequence[Strategy]
    accuracy: Floats
    hard: Floats
    mean: Floats


def evaluate(
    settings: Sequence[Strategy],
    pools: Pools,
    prompts: NDArray[np.int64],
    cost: Callable[[Strategy, int], float],
) -> Evaluated:
    """Compute what each setting gives and costs. prompts [R]: each row's prompt; cost: by setting and candidates drawn."""
    accuracy, hard, mean = [], [], []
    for setting in settings:
        outcome = setting.expected(pools)
        accuracy.append(average_by_prompt(outcome.accuracy[:, None], prompts)[:, 0])
        if outcome.drawn is None:
            hard.append(cost(setting, setting.n))
            mean.append(np.full(len(accuracy[0]), hard[-1]))
        else:
            each = np.array([cost(setting, n) for n in range(1, setting.n + 1)])
            hard.append(float(each.max()))
            mean.append(average_by_prompt((outcome.drawn @ each)[:, None], prompts)[:, 0])
    return Evaluated(settings, np.stack(accuracy), np.array(hard), np.stack(mean))


@dataclass(frozen=True)
class Held:
    """What prompts that had no part in the choice get: accuracy [P], mean cost [P]; how often each setting was chosen.

    worst: the cost of the longest prompt, of any setting chosen.
    """

    accuracy: Floats
    cost: Floats
    worst: float
    chosen: Counter[Strategy]

    @property
    def usual(self) -> Strategy:
        """The setting chosen most often, the first of several."""
        return self.chosen.most_common(1)[0][0]


def folds(tags: NDArray[np.str_], seed: int = 0) -> NDArray[np.bool_]:
    """Draw which prompts [P] are held out of each choice, [F, P]; each prompt once in every repeat."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(REPEATS):
        of_prompt = np.empty(len(tags), dtype=np.int64)
        start = 0  # the next task goes on where the last one ended, so that folds are of equal size
        for tag in np.unique(tags):
            rows = rng.permutation(np.flatnonzero(tags == tag))
            of_prompt[rows] = (start + np.arange(len(rows))) % FOLDS
            start += len(rows)
        found += [of_prompt == fold for fold in range(FOLDS)]
    return np.array([held for held in found if held.any() and not held.all()])


def choose(found: Evaluated, limit: float, meaning: Meaning, held_out: NDArray[np.bool_]) -> Held | None:
    """Choose within `limit` on the prompts of each fold that are not held out; None if nothing is within it.

    Of settings alike in accuracy the cheaper is taken; of a strategy that only grows, the largest.
    """
    limit = limit * (1 + _ROUNDING)
    rest = (~held_out).astype(float)
    rest /= rest.sum(1, keepdims=True)
    cost = (
        np.repeat(found.hard[:, None], len(rest), 1) if meaning == "hard" else found.mean @ rest.T
    )  # [S, F]
    if not (cost <= limit).any(0).all():
        return None
    value = cost if found.settings[0].largest else found.accuracy @ rest.T
    value = np.where(cost <= limit, value, -np.inf)
    best = value >= value.max(0) - _ROUNDING
    picks = np.where(best, cost, np.inf).argmin(0)
    rows = np.where(held_out.T, picks, -1)  # [P, F]: the setting that judges a prompt in a fold
    accuracy, spent = (_of_picks(values, rows) for values in (found.accuracy, found.mean))
    chosen = Counter({found.settings[s]: int((picks == s).sum()) for s in dict.fromkeys(picks.tolist())})
    return Held(accuracy, spent, float(found.hard[picks].max()), chosen)


def _of_picks(values: Floats, rows: NDArray[np.int64]) -> Floats:
    """Average values [S, P] over the settings [P, F] that judge each prompt; -1 is none."""
    prompts = np.arange(rows.shape[0])[:, None]
    judged = rows >= 0
    return np.asarray(
        np.where(judged, values[np.where(judged, rows, 0), prompts], 0.0).sum(1) / judged.sum(1)
    )
