"""What choosing by a verifier does to its own score of the winners and to judges' values of them, as N grows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from vhsbench.harness.config.run import RunConfig
from vhsbench.harness.report.judged import by_task, doubled, valued
from vhsbench.harness.report.style import label
from vhsbench.harness.report.tables import HEADINGS, LaidOut
from vhsbench.harness.stats.curves import Grid
from vhsbench.harness.stats.expected import expected_accuracy
from vhsbench.harness.stats.intervals import Floats, brackets, clustered_mean
from vhsbench.harness.stats.parting import NONE, Drawn
from vhsbench.harness.store.keys import PIPELINE, POOL, distinct, of_pipeline, of_pool
from vhsbench.harness.store.tables import Run

OWN = "own score"
COLUMNS = [*PIPELINE, "best_of_n", "measure", "judge", "value", "low", "high", "change", "change_low", "change_high",
           "prompts"]  # fmt: skip
PARTING = [*PIPELINE, "first", "second", "falls", "best_of_n", "low", "high", "prompts"]


@dataclass(frozen=True)
class _Measure:
    """What is measured of winners: of each candidate [R, M], and expected of the winner of N [P, M].

    judge: "" for the verifier's own score. unit is what tables show a value of 1 as.
    """

    judge: str
    candidates: Floats
    winners: Floats
    unit: float

    @property
    def name(self) -> str:
        return self.judge or OWN


@dataclass(frozen=True)
class OverOptimisation:
    """The measures of all verifiers by N (all of them), and the N at which each two of a verifier part."""

    by_n: pd.DataFrame
    parting: pd.DataFrame

    @property
    def table(self) -> LaidOut:
        """The measures at doubled N; readers see a column for each measure."""
        pools = self.by_n.groupby(PIPELINE)["best_of_n"].transform("max")
        kept = [n in doubled(m) for n, m in zip(self.by_n["best_of_n"], pools, strict=True)]
        rows = self.by_n[kept].reset_index(drop=True)
        cells = rows.assign(
            measure=[_shown(row["judge"]) for _, row in rows.iterrows()],
            cell=[
                format(row["value"], form := ".1f" if row["judge"] else ".3g")
                + brackets(row["low"], row["high"], form)
                for _, row in rows.iterrows()
            ],
        )
        wide = cells.pivot(index=[*PIPELINE, "best_of_n"], columns="measure", values="cell").reset_index()
        wide = wide[[*PIPELINE, "best_of_n", *dict.fromkeys(cells["measure"])]].fillna("")
        return LaidOut(rows, _headed(wide))

    @property
    def parting_table(self) -> LaidOut:
        """The N at which measures part; "none" where they do not."""
        ends = ["best_of_n", "low", "high"]
        rows = self.parting.assign(**{c: [as_n(value) for value in self.parting[c]] for c in ends})
        between = [f" [{a}, {b}]" if a else "" for a, b in zip(rows["low"], rows["high"], strict=True)]
        shown = rows.assign(best_of_n=rows["best_of_n"] + between).drop(columns=["low", "high"])
        return LaidOut(rows, _headed(shown.rename(columns={"best_of_n": "part at N"})))


def over_optimisation(run: Run, config: RunConfig) -> OverOptimisation | None:
    """Measure the winners of every verifier by its own score and by judges; None where no pool has a choice."""
    by_n, parting = [], []
    judges = valued(run, config)
    for generator, steps in sorted(distinct(run.candidates, POOL)):
        grids = {judge: Grid(of_pool(rows, generator, steps)) for judge, rows in judges.items()}
        scores = of_pool(run.scores, generator, steps)
        for verifier in sorted(scores["verifier"].unique()) if grids else ():
            key = {"generator": generator, "steps": steps, "verifier": verifier}
            found = _Winners(grids, of_pipeline(scores, generator, steps, verifier), by_task(config))
            if found.pool > 1:
                by_n += [rows.assign(**key) for rows in found.by_n()]
                parting += [key | row for row in found.parting()]
    if not by_n:
        return None
    return OverOptimisation(
        pd.concat(by_n, ignore_index=True)[COLUMNS], pd.DataFrame(parting, columns=PARTING)
    )


class _Winners:
    """The winners of one verifier in one pool, measured by its score and by judges."""

    def __init__(self, grids: dict[str, Grid], scored: pd.DataFrame, by_task: bool) -> None:
        grid = next(iter(grids.values()))
        scores = grid.of(scored)
        self.pool, self._tags, self._by_task = scores.shape[1], grid.tags_of_prompts, by_task
        of = {"": scores} | {judge: each.correct for judge, each in grids.items()}
        self._measures = [
            _Measure(
                judge, values, grid.by_prompt(expected_accuracy(scores, values)), 100.0 if judge else 1.0
            )
            for judge, values in of.items()
        ]
        counts = pd.Series(self._tags).map(pd.Series(self._tags).value_counts()).to_numpy(float)
        self._drawn = Drawn(1 / counts if by_task else np.ones(len(counts)))

    def by_n(self) -> Iterator[pd.DataFrame]:
        """Yield the rows of each measure."""
        for measure in self._measures:
            least, most = float(measure.candidates.min()), float(measure.candidates.max())
            span = most - least or 1.0
            mean = clustered_mean(
                np.clip((measure.winners - least) / span, 0, 1), tasks=self._tags, by_task=self._by_task
            )
            change, spread = self._drawn.change(measure.winners), float(measure.candidates.std()) or 1.0
            value, low, high = (measure.unit * (least + span * x) for x in (mean.mean, mean.low, mean.high))
            yield pd.DataFrame(
                {"best_of_n": np.arange(1, self.pool + 1), "measure": "judge" if measure.judge else OWN,
                 "judge": measure.judge, "value": value, "low": low, "high": high}
                | dict(zip(("change", "change_low", "change_high"), (x / spread for x in change), strict=True))
                | {"prompts": mean.n}
            )  # fmt: skip

    def parting(self) -> Iterator[dict[str, object]]:
        """Yield where each two measures part."""
        for first, second in combinations(self._measures, 2):
            found = self._drawn.parting(first.winners, second.winners)
            falls = "" if found.falls is None else (first, second)[found.falls].name
            yield {"first": first.name, "second": second.name, "falls": falls, "best_of_n": found.at,
                   "low": found.low, "high": found.high, "prompts": len(self._tags)}  # fmt: skip


def _shown(judge: str) -> str:
    return f"{judge} (%)" if judge else OWN


def as_n(value: float) -> str:
    """Write an N: "none" beyond the pool, "" where it is unknown."""
    if np.isnan(value):
        return ""
    return "none" if value == NONE else f"{value:.0f}"


def _headed(rows: pd.DataFrame) -> pd.DataFrame:
    """Name columns for readers, without the pool where there is one alone."""
    one = len(distinct(rows, POOL)) == 1
    named = rows.assign(verifier=[label(str(v)) for v in rows["verifier"]])
    return named.drop(columns=POOL if one else []).rename(columns=HEADINGS)
