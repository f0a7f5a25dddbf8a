"""Which rows of a table are best and second best beyond doubt: differences paired by prompt, for every column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import pandas as pd

from vhsbench.harness.report.comparisons import NO_SCORING, AccuracyTable, judged_yes_scores
from vhsbench.harness.report.derived import Derived
from vhsbench.harness.report.verdict import ALPHA, Contest
from vhsbench.harness.stats.curves import GENEVAL_OVERALL, OVERALL
from vhsbench.harness.stats.paired import family
from vhsbench.harness.store.keys import POOL

BEST, SECOND = 1, 2


@dataclass(frozen=True)
class Side:
    """A row's accuracy in 0..1 by prompt, with each prompt's task."""

    accuracy: pd.Series
    tags: pd.Series

    def of(self, column: str) -> pd.Series:
        """Return what a column averages: all prompts, one task's, or all so weighted that tasks count alike."""
        if column == OVERALL:
            return self.accuracy
        if column != GENEVAL_OVERALL:
            return self.accuracy[self.tags == column]
        tasks = self.tags.value_counts()
        return self.accuracy * (len(self.tags) / len(tasks) / self.tags.map(tasks))


def marks(derived: Derived, table: AccuracyTable, columns: Sequence[str]) -> dict[str, dict[int, int]]:
    """Map each column's rows to BEST or SECOND, by the rows' places, among rows that agree in the table's groups.

    BEST is better than all others, SECOND, where there is a best one, than all others but that: by sign flips, two-sided, with Holm's correction for
    all pairs of the group and column, and for the overall accuracy of a verdict's pairs also by its interval.
    """
    rows = table.rows.reset_index(drop=True)
    contests: dict[tuple[tuple[str, int], bool], Contest] = {}
    sides = {
        int(str(i)): _side(derived, row, contests)
        for i, row in rows.iterrows()
        if not pd.isna(row["best_of_n"])
    }
    undecided = _undecided(derived, table)
    found: dict[str, dict[int, int]] = {column: {} for column in columns}
    for _, group in rows.groupby(list(table.groups), dropna=False):
        here = [int(i) for i in group.index if int(i) in sides]
        for column in columns:
            beats = _beats({i: sides[i].of(column) for i in here})
            if column == OVERALL:
                beats -= {(a, b) for a, b in beats if _key(rows, a, b, table) in undecided}
            found[column] |= _ranks(here, beats)
    return found


def _side(derived: Derived, row: pd.Series, contests: dict[tuple[tuple[str, int], bool], Contest]) -> Side:
    pool, unscored = (row["generator"], row["steps"]), row.get("scoring") == NO_SCORING
    if (pool, unscored) not in contests:
        run = derived.run
        contests[pool, unscored] = (
            Contest(replace(run, scores=judged_yes_scores(run.scores)), *pool)
            if unscored
            else derived.contests[pool]
        )
    contest = contests[pool, unscored]
    accuracy = contest.per_prompt(contest.expected(row["verifier"])[:, int(row["best_of_n"]) - 1])
    return Side(pd.Series(accuracy, contest.prompts), pd.Series(contest.tags, contest.prompts))


def _beats(values: Mapping[int, pd.Series]) -> set[tuple[int, int]]:
    """Return the pairs of rows of which the first is better beyond doubt."""
    pairs = list(combinations(values, 2))
    gaps = [(values[a] - values[b]).dropna() for a, b in pairs]
    if not pairs or any(gap.empty for gap in gaps):
        return set()
    found = zip(pairs, gaps, family([gap.to_numpy(float) for gap in gaps])[1], strict=True)
    return {pair if gap.mean() > 0 else pair[::-1] for pair, gap, p in found if p < ALPHA}


def _ranks(rows: Sequence[int], beats: set[tuple[int, int]]) -> dict[int, int]:
    """Rank the row that beats all others, and the one that beats all but that; the only row is not the best of anything."""
    wins = {row: sum(a == row for a, _ in beats) for row in rows}
    best = [row for row, won in wins.items() if len(rows) > 1 and won == len(rows) - 1]
    second = [row for row, won in wins.items() if best and len(rows) > 2 and won == len(rows) - 2]
    return dict.fromkeys(best, BEST) | dict.fromkeys(second, SECOND)


def _key(rows: pd.DataFrame, a: int, b: int, table: AccuracyTable) -> tuple[object, ...]:
    where = [tuple(rows.loc[i, POOL]) for i in (a, b)]
    budget = next(c for c in table.keys if c.startswith("budget_"))
    return (
        (*where[0], rows.loc[a, budget], frozenset(rows.loc[[a, b], "verifier"]))
        if where[0] == where[1]
        else ()
    )


def _undecided(derived: Derived, table: AccuracyTable) -> set[tuple[object, ...]]:
    """Return the pairs that the verdict cannot tell apart, whose N are uncertain, too; the scoring table has other ones."""
    if "scoring" in table.keys:
        return set()
    unit = next(c for c in table.keys if c.startswith("budget_")).removeprefix("budget_")
    pairs = derived.standings.pairs
    if pairs.empty:
        return set()
    pairs = pairs[(pairs["unit"].str.lower() == unit) & ~pairs["beats"].astype(bool)]
    return {
        (row["generator"], row["steps"], row["budget"], frozenset((row["better"], row["other"])))
        for _, row in pairs.iterrows()
    }
