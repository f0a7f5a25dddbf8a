"""Runs side by side: every pipeline at every budget, and its difference from the first run's, paired by prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.shown import printable
from vhsbench.harness.common.tasks import columns as task_columns
from vhsbench.harness.cost import budgets as budgeting
from vhsbench.harness.cost.plan import WHAT
from vhsbench.harness.cost.turns import draws_of_n
from vhsbench.harness.report.clock import COLUMNS, Models
from vhsbench.harness.report.derived import Derived
from vhsbench.harness.report.page_candidates import Prompts
from vhsbench.harness.report.verdict import ONE_IMAGE, Contest, widened
from vhsbench.harness.stats.curves import GENEVAL_OVERALL, OVERALL, tasks_of
from vhsbench.harness.stats.expected import largest_difference
from vhsbench.harness.stats.intervals import Floats, paired_difference
from vhsbench.harness.stats.paired import family
from vhsbench.harness.store.keys import PIPELINE, of_pipeline

Pipeline = tuple[str, int, str]
Budget = tuple[float, str]  # the amount and its unit: ms, TFLOP, GB or J
SAME_CANDIDATES, SAME_PROMPTS, UNPAIRED = "same candidates", "same prompts", "not paired"
_FLAGS = ["pool_limited", "below_one"]
_COUNTS = ["best_of_n", "n_low", "n_high", "prompts"]
_BEFORE = [
    "budget", "unit", *PIPELINE, "run", "best_of_n", "n_low", "n_high", "pool_limited", "below_one", "cost", "cost_low", "cost_high",
    OVERALL, f"{OVERALL}_low", f"{OVERALL}_high", GENEVAL_OVERALL,
]  # fmt: skip
_AFTER = [
    "difference", "difference_low", "difference_high", "p", "p_holm", "paired", "prompts", "protocol",
]  # fmt: skip


class SideBySideError(VhsbenchError):
    """Runs that cannot be compared; the message is one sentence for a user."""


@dataclass(frozen=True)
class SideBySide:
    """Several runs, each with a label of its own, at the same budgets."""

    labels: list[str]
    runs: list[Derived]
    budgets: list[Budget]

    @cached_property
    def rows(self) -> pd.DataFrame:
        """A row per budget, pipeline and run: what it affords, and its difference in points from the first run's.

        The first run's pipeline is followed by those of the others that are compared with it. Accuracies are in
        percent. p: two-sided, of prompts; p_holm: corrected for all rows. paired: whether both runs have the
        same candidates, or the same prompts alone (`prompts` of them in common), or none; then there is no p.
        """
        tables = [afforded(run, self.budgets) for run in self.runs]
        partners = [_partners(self.runs[0], other) for other in self.runs[1:]]
        found: list[dict[str, Any]] = []
        by_prompt: list[tuple[int, Floats]] = []
        for budget in self.budgets:
            for first in _pipelines(self.runs[0]):
                found.append(self._row(tables, budget, 0, first))
                base = found[-1]
                for i, matched in enumerate(partners, 1):
                    if (partner := matched.get(first)) is None:
                        continue
                    row = self._row(tables, budget, i, partner)
                    if (points := self._difference(row, base, i)) is not None:
                        by_prompt.append((len(found), points))
                    found.append(row)
            for i, matched in enumerate(partners, 1):
                lone = [p for p in _pipelines(self.runs[i]) if p not in matched.values()]
                found += [self._row(tables, budget, i, pipeline) for pipeline in lone]
        _test(found, by_prompt)
        tasks = task_columns(task for run in self.runs for task in tasks_of(run.curves))
        columns = [*_BEFORE, *tasks, *_AFTER]
        rows = pd.DataFrame(found, columns=columns)
        numbers = [
            c for c in columns if c not in ("unit", *PIPELINE, "run", "paired", "protocol", *_FLAGS, *_COUNTS)
        ]
        kinds = dict.fromkeys(_COUNTS, "Int64") | dict.fromkeys(_FLAGS, "boolean")
        return rows.astype(kinds | dict.fromkeys(numbers, "float64"))

    def _row(
        self, tables: Sequence[pd.DataFrame], budget: Budget, run: int, pipeline: Pipeline
    ) -> dict[str, Any]:
        table = tables[run]
        here = of_pipeline(table, *pipeline)
        here = here[(here["budget"] == budget[0]) & (here["unit"] == budget[1])]
        keys = dict(zip(("budget", "unit", *PIPELINE), (*budget, *pipeline), strict=True))
        values = {} if here.empty else {str(k): v for k, v in here.iloc[0].items()}
        return values | keys | {"run": self.labels[run], "protocol": self.runs[run].protocol.digest}

    def _difference(self, row: dict[str, Any], base: dict[str, Any], run: int) -> Floats | None:
        """Add the difference from the first run's row; return it by prompt, in points, [P], where prompts are shared."""
        side, first = self._side(row, run), self._side(base, 0)
        if side is None or first is None:
            return None
        found, points = compare_sides(side, first)
        row |= found
        return points

    def _side(self, row: dict[str, Any], run: int) -> Side | None:
        n = row.get("best_of_n")
        if n is None or pd.isna(n):
            return None
        pipeline, budget = (row["generator"], row["steps"], row["verifier"]), (row["budget"], row["unit"])
        return Side(self.runs[run], self._prompts[run], pipeline, int(n), budget)

    @cached_property
    def _prompts(self) -> list[list[int]]:
        """Each run's prompts as places in a list of all: the same where task and text agree."""
        places = Prompts()
        return [places.places(run.run.prompts) for run in self.runs]

    @property
    def protocols(self) -> list[str]:
        """Sentences on runs of other protocols than the first's: in which parts they differ."""
        first, named = self.runs[0].protocol, self.labels[0]
        return [
            f"{name} is of another protocol than {named}, {run.protocol.digest} and not {first.digest}: {apart}; accuracies of "
            "different protocols do not mean the same."
            for name, run in zip(self.labels[1:], self.runs[1:], strict=True)
            if (apart := run.protocol.beside(first))
        ]

    @property
    def notes(self) -> list[str]:
        """Sentences on what the comparison rests on."""
        rows = self.rows
        found = [
            f"no run has the {WHAT[unit]} ({unit}) of a pipeline: budgets in {unit} say nothing."
            for unit in dict.fromkeys(unit for _, unit in self.budgets)
            if not any(models_in(run, unit) for run in self.runs)
        ]
        for name in self.labels[1:]:
            mine = rows[(rows["run"] == name) & (rows["paired"] == SAME_PROMPTS)]
            shared = int(mine["prompts"].max()) if len(mine) else 0
            sizes = {
                len(set(places)) for places in (self._prompts[0], self._prompts[self.labels.index(name)])
            }
            if (rows.loc[rows["run"] == name, "paired"] == UNPAIRED).any():
                found.append(
                    f"{name} and {self.labels[0]} have no prompt in common: their differences are not paired."
                )
            elif shared and sizes != {shared}:
                found.append(
                    f"{name} and {self.labels[0]} share {shared} prompts: their differences are of these."
                )
        devices = {name: devices_of(run) for name, run in zip(self.labels, self.runs, strict=True)}
        if len(set(devices.values())) > 1:
            said = "; ".join(f"{name}: {device}" for name, device in devices.items())
            found.append(f"times were measured on different machines: {said}.")
        return found


def side_by_side(runs: Sequence[Derived], names: Sequence[str], budgets: Sequence[Budget] = ()) -> SideBySide:
    """Put runs, given their folders or URLs, side by side at `budgets`, by default the first run's.

    Raises SideBySideError for fewer than two runs, or one named twice.
    """
    if len(runs) < 2:
        raise SideBySideError("there is nothing to compare with; name two runs or more.")
    given = runs[0].config.budgets_by_unit
    own = [(b, "ms") for b in runs[0].budgets] + [(b, u) for u in given if u != "ms" for b in given[u]]
    return SideBySide(labels(names), list(runs), list(budgets) or own)


def labels(names: Sequence[str]) -> list[str]:
    """Name runs by the last parts of their folders or URLs, as many as tell them apart.

    Raises SideBySideError for one run twice.
    """
    whole = [name.rstrip("/") if "://" in name else Path(name).resolve().as_posix() for name in names]
    if twice := [name for i, name in enumerate(whole) if name in whole[:i]]:
        raise SideBySideError(f"{twice[0]} is named twice; name two different runs.")
    found = whole
    for parts in range(max(name.count("/") for name in whole) + 1, 0, -1):
        shorter = ["/".join(name.split("/")[-parts:]) for name in whole]
        if len(set(shorter)) < len(shorter):
            break
        found = shorter
    return [printable(name.lstrip("/")) for name in found]


def _pipelines(run: Derived) -> list[Pipeline]:
    """List the pipelines with a cost, in any unit."""
    return list(dict.fromkeys(key for models in run.models.values() for key in models))


def _partners(first: Derived, other: Derived) -> dict[Pipeline, Pipeline]:
    """Map the first run's pipelines to those of another that are compared with them.

    These are of the same generator, steps and verifier's label. Where each run has one pool, its generator may be another;
    where one verifier of a pool, or of a kind in it, is left on either side, these two are compared.
    """
    mine, its = _pipelines(first), _pipelines(other)
    pools = {pool: pool for pool in first.pools}
    if len(first.pools) == len(other.pools) == 1:
        pools = {first.pools[0]: other.pools[0]}
    found: dict[Pipeline, Pipeline] = {}
    for pool, theirs in pools.items():
        left = [v for *key, v in mine if tuple(key) == pool]
        right = [v for *key, v in its if tuple(key) == theirs]
        pairs = [(v, v) for v in left if v in right]
        pairs += _left_over(
            first, [v for v in left if v not in right], other, [v for v in right if v not in left]
        )
        found |= {(*pool, a): (*theirs, b) for a, b in pairs}
    return found


def _left_over(
    first: Derived, mine: Sequence[str], other: Derived, its: Sequence[str]
) -> list[tuple[str, str]]:
    """Pair verifiers of different labels: the only ones left, else the only ones left of a kind."""
    if len(mine) == len(its) == 1:
        return [(mine[0], its[0])]
    kinds = [[run.config.kinds.get(v) for v in left] for run, left in ((first, mine), (other, its))]
    alone = [kind for kind in kinds[0] if [kinds[0].count(kind), kinds[1].count(kind)] == [1, 1]]
    return [(mine[kinds[0].index(kind)], its[kinds[1].index(kind)]) for kind in alone]


def models_in(run: Derived, unit: str) -> Models:
    return run.priced if unit == "ms" else run.models.get(COLUMNS[unit], {})


def afforded(run: Derived, budgets: Sequence[Budget]) -> pd.DataFrame:
    """Lay out what each budget affords, with the same columns in every unit."""
    parts = []
    for unit in dict.fromkeys(unit for _, unit in budgets):
        if known := models_in(run, unit):
            amounts = [amount for amount, of in budgets if of == unit]
            rows = budgeting.budget_table(run.curves, known, amounts, run.config.tolerance, unit)
            budget, cost = budgeting.columns_of(unit)
            names = {budget: "budget", cost: "cost", "time_low": "cost_low", "time_high": "cost_high"}
            parts.append(rows.rename(columns=names).assign(unit=unit))
    empty = pd.DataFrame(columns=["budget", "unit", *PIPELINE])
    return pd.concat(parts, ignore_index=True) if parts else empty


@dataclass(frozen=True)
class Side:
    """A run's pipeline at an N that a budget affords; places: of each of the run's prompts among those of all runs."""

    run: Derived
    places: Sequence[int]
    pipeline: Pipeline
    n: int
    budget: Budget

    @property
    def contest(self) -> Contest:
        return self.run.contests[self.pipeline[:2]]

    def by_prompt(self) -> Floats:
        """Return the accuracy in 0..1 of each prompt, [P]."""
        return self.contest.per_prompt(self.contest.expected(self.pipeline[2])[:, self.n - 1])

    def over_n(self) -> Floats:
        """Return the overall accuracy in percent as N varies with the turns of measuring; of one N, if none was drawn."""
        mean = 100 * self.contest.mean(self.pipeline[2])
        ns = np.array([float(self.n)])
        if self.pipeline[2] != ONE_IMAGE:
            model = models_in(self.run, self.budget[1])[self.pipeline]
            drawn = draws_of_n(model, self.budget[0], self.run.config.tolerance)
            ns = ns if drawn is None else np.clip(drawn, 1, len(mean))
        return np.asarray(mean[ns.astype(int) - 1])


def compare_sides(side: Side, base: Side) -> tuple[dict[str, Any], Floats | None]:
    """Compare a side with the first run's: columns of a row, and the difference by shared prompt in points, [P]."""
    mine, its = (
        {one.places[prompt]: i for i, prompt in enumerate(one.contest.prompts)} for one in (side, base)
    )
    shared = [place for place in mine if place in its]
    if not shared:
        return _unpaired(side, base), None
    a, b = side.by_prompt()[[mine[p] for p in shared]], base.by_prompt()[[its[p] for p in shared]]
    tags = side.contest.tags[[mine[p] for p in shared]]
    same = _same_candidates(side.contest, base.contest) and mine == its
    largest = 1.0
    if same:
        scores = [one.contest.scores(one.pipeline[2]) for one in (side, base)]
        largest = largest_difference(scores[0], scores[1], side.n, base.n)
    gap = paired_difference(a, b, tasks=tags, largest=largest)
    mean, low, high = gap.percent
    low, high = widened(mean, low, high, _over_n(side, base))
    row = {
        "difference": mean, "difference_low": low, "difference_high": high,
        "paired": SAME_CANDIDATES if same else SAME_PROMPTS, "prompts": len(shared),
    }  # fmt: skip
    return row, 100 * (a - b)


def _same_candidates(a: Contest, b: Contest) -> bool:
    """Return whether two pools are of the same generator, prompts and seeds, with the same verdicts."""
    keys = (a.generator, a.steps) == (b.generator, b.steps)
    return (
        keys
        and a.grid.correct.shape == b.grid.correct.shape
        and bool((a.grid.correct == b.grid.correct).all())
    )


def _over_n(side: Side, base: Side) -> Floats:
    """Return the difference in points as both N vary, each with its own run's turns."""
    a, b = side.over_n(), base.over_n()
    size = max(len(a), len(b))
    return np.resize(a, size) - np.resize(b, size)


def _unpaired(side: Side, base: Side) -> dict[str, Any]:
    """Subtract accuracies of different prompts; the interval adds, squared, both intervals' ends."""
    ends = []
    for one in (side, base):
        here = of_pipeline(
            one.run.curves, *one.pipeline[:2], "random" if one.pipeline[2] == ONE_IMAGE else one.pipeline[2]
        )
        at = here[(here["tag"] == OVERALL) & (here["n"] == one.n)].iloc[0]
        ends.append((float(at["accuracy"]), float(at["low"]), float(at["high"])))
    (a, a_low, a_high), (b, b_low, b_high) = ends
    mean = a - b
    low, high = mean - math.hypot(a - a_low, b_high - b), mean + math.hypot(a_high - a, b - b_low)
    low, high = widened(mean, low, high, _over_n(side, base))
    return {
        "difference": mean,
        "difference_low": low,
        "difference_high": high,
        "paired": UNPAIRED,
        "prompts": 0,
    }


def _test(rows: Sequence[dict[str, Any]], by_prompt: Sequence[tuple[int, Floats]]) -> None:
    """Add p and p_holm to the rows with a difference by prompt."""
    if not by_prompt:
        return
    tested = family([points for _, points in by_prompt])
    for (place, _), alone, corrected in zip(by_prompt, *tested, strict=True):
        rows[place].update(p=float(alone), p_holm=float(corrected))


def devices_of(run: Derived) -> str:
    if run.times:
        return run.clock.label
    return " and ".join(sorted({str(d) for d in run.run.costs["device"].dropna()})) or "an unknown device"
