"""Accuracy curves and winners: pure functions of the measured candidates and scores."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.tasks import in_order
from vhsbench.harness.stats.expected import expected_accuracy, oracle, random_choice
from vhsbench.harness.stats.intervals import Interval, auc_interval, average_by_prompt, clustered_mean
from vhsbench.harness.store.keys import CANDIDATE, DRAW, IN_POOL, PIPELINE, POOL, SCORE, distinct, of_pool

OVERALL, GENEVAL_OVERALL = "overall", "geneval_overall"
ORACLE, RANDOM = "oracle", "random"

Floats = NDArray[np.float64]


def accuracy_curves(candidates: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Compute the accuracy in percent of best-of-N for every N, pipeline and task, with 95% intervals.

    Returns columns generator, steps, verifier (also "oracle" and "random"), tag (a task, "overall": the mean
    over prompts as in the paper, "geneval_overall": the mean of the task means), n, accuracy, low, high,
    n_prompts. Seeds of a prompt are averaged; intervals are clustered by prompt.
    Raises DerivationError for no candidates or pools of different sizes, ValueError for a candidate without a score.
    """
    if candidates.empty:
        raise DerivationError("there are no candidates to derive an accuracy from.")
    frames = []
    for generator, steps in sorted(distinct(candidates, POOL)):
        grid = Grid(of_pool(candidates, generator, steps))
        mine = of_pool(scores, generator, steps)
        expected = {RANDOM: random_choice(grid.correct), ORACLE: oracle(grid.correct)}
        for verifier, rows in mine.groupby("verifier", sort=True):
            expected[str(verifier)] = expected_accuracy(grid.of(rows), grid.correct)
        for verifier, values in expected.items():
            frame = grid.summary(values)
            frames.append(frame.assign(generator=generator, steps=steps, verifier=verifier))
    columns = [*PIPELINE, "tag", "n", "accuracy", "low", "high", "n_prompts"]
    return pd.concat(frames, ignore_index=True)[columns]


def tasks_of(curves: pd.DataFrame) -> list[str]:
    """Return the tasks that accuracy curves are of, without the overalls, in the order of tables."""
    return in_order(t for t in curves["tag"].unique() if t not in (OVERALL, GENEVAL_OVERALL))


class DerivationError(VhsbenchError):
    """Tables from which no accuracy can be derived; the message is one sentence for a user."""


class Grid:
    """The candidates of one pool as a grid [R, M]: a row for each prompt and seed, a column for each candidate.

    prompts and tags [R] are each row's prompt and task; correct is [R, M].
    """

    def __init__(self, pool: pd.DataFrame) -> None:
        """Arrange the candidates. Raises DerivationError if rows have different numbers of them."""
        ordered = pool.sort_values(IN_POOL)
        self._keys = pd.MultiIndex.from_frame(ordered[IN_POOL])
        draws = ordered.groupby(DRAW, sort=True)
        sizes = draws.size()
        if sizes.nunique() != 1:
            raise DerivationError(
                f"the pools are of different sizes ({sizes.min()} to {sizes.max()}): the run is not whole."
            )
        self._size = int(sizes.iloc[0])
        self.correct = self._by_row(ordered["correct"])
        self.tags = draws["tag"].first().to_numpy()
        self.prompts = sizes.index.get_level_values("prompt_id").to_numpy()

    def of(self, scores: pd.DataFrame) -> Floats:
        """Arrange one verifier's scores as [R, M], NaN for a candidate without a score."""
        return self._by_row(scores.set_index(IN_POOL)["score"].reindex(self._keys))

    def made_again(self, candidates: pd.DataFrame) -> Floats | None:
        """Arrange another pool's verdicts of the same prompts, seeds and indices as [R, M]; None if it lacks some."""
        found = self._by_row(candidates.set_index(IN_POOL)["correct"].astype(float).reindex(self._keys))
        return None if np.isnan(found).any() else found

    def by_prompt(self, values: Floats) -> Floats:
        """Average the rows [R, M] of each prompt, its seeds: [P, M], in sorted order of prompts."""
        return average_by_prompt(values, self.prompts)

    @property
    def tags_of_prompts(self) -> NDArray[np.object_]:
        """The task [P] of each prompt, in sorted order of prompts."""
        return np.asarray(self.tags[np.unique(self.prompts, return_index=True)[1]])

    def _by_row(self, values: pd.Series) -> Floats:
        return values.to_numpy(float).reshape(-1, self._size)

    def summary(self, values: Floats) -> pd.DataFrame:
        """Average expectations [R, M] into rows of tag, n, accuracy, low, high, n_prompts."""
        per_prompt, tags = self.by_prompt(values), self.tags_of_prompts
        found = {t: clustered_mean(per_prompt[tags == t]) for t in in_order(tags)}
        found[OVERALL] = clustered_mean(per_prompt, tasks=tags)
        found[GENEVAL_OVERALL] = clustered_mean(per_prompt, tasks=tags, by_task=True)
        return pd.concat([_rows(tag, value) for tag, value in found.items()], ignore_index=True)


def _rows(tag: str, value: Interval) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "tag": tag,
            "n": np.arange(1, len(value.mean) + 1),
            "accuracy": 100 * value.mean,
            "low": 100 * value.low,
            "high": 100 * value.high,
            "n_prompts": value.n,
        }
    )


def separation(candidates: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Compute every verifier's AUC over all candidates, with its 95% interval by prompt.

    Returns columns generator, steps, verifier, auc, low, high, n (candidates), right.
    """
    joined = scores.merge(candidates, on=CANDIDATE, validate="many_to_one")
    rows = []
    for key, part in joined.groupby(PIPELINE, sort=True):
        found = auc_interval(part["score"], part["correct"], part["prompt_id"])
        ends = (found.mean[0], found.low[0], found.high[0])
        rows.append((*key, *ends, len(part), int(part["correct"].sum())))
    return pd.DataFrame(rows, columns=[*PIPELINE, "auc", "low", "high", "n", "right"])


def winners(candidates: pd.DataFrame, scores: pd.DataFrame, n: int) -> pd.DataFrame:
    """Select each verifier's pick among a prompt's first n candidates: the first of the highest score."""
    first = scores[scores["index"] < n].sort_values(SCORE, ignore_index=True)
    best = first.loc[first.groupby([*PIPELINE, *DRAW], sort=True)["score"].idxmax()]
    return best.merge(candidates, on=CANDIDATE, validate="many_to_one")
