"""The paper's comparisons, derived from a run: scoring, other generators, drift, and the headline numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vhsbench.harness.cost import budgets as budgeting
from vhsbench.harness.cost.cost_model import CostModel
from vhsbench.harness.cost.turns import interval, ratio_interval
from vhsbench.harness.report.calibration import answered
from vhsbench.harness.report.style import label
from vhsbench.harness.stats.curves import OVERALL, Grid, accuracy_curves
from vhsbench.harness.stats.expected import expected_accuracy, largest_difference
from vhsbench.harness.stats.intervals import Floats, Interval, paired_difference
from vhsbench.harness.store.keys import PIPELINE, POOL, distinct, of_pipeline, of_pool
from vhsbench.harness.store.tables import Run

Pipeline = tuple[str, int, str]  # generator as shown in tables, steps, verifier or "none"
VHS, CLIP = "vhs", "mllm-clip"  # kinds, compared by the paper's headline numbers
TOKEN_PROBABILITY, NO_SCORING = "token_probability", "none"
TIMES = "times"  # the column that says whose times a row has, where they are not the run's own


def rivals(kinds: Mapping[str, str], known: Iterable[str]) -> list[tuple[str, str]]:
    """Pair every VHS of the `known` labels with every MLLM w/ CLIP, as the paper compares them."""
    vhs, clip = ([label for label in known if kinds.get(label) == kind] for kind in (VHS, CLIP))
    return [(a, b) for a in vhs for b in clip]


@dataclass(frozen=True)
class AccuracyTable:
    """Accuracies by task with intervals, ready for layout.

    rows have `keys`, the tasks and both overalls with `_low` and `_high`; the best and second best are marked
    among rows that agree in `groups`; `published` names the paper's table of the same layout, "" if
    there is none.
    """

    name: str
    title: str
    rows: pd.DataFrame
    keys: tuple[str, ...]
    groups: tuple[str, ...]
    published: str

    @property
    def naming(self) -> list[str]:
        """The keys that say which row it is; the others say how many candidates it affords, what they cost and whose times."""
        told = ("best_of_n", TIMES)
        return [key for key in self.keys if key not in told and not key.startswith(("time_", "cost_"))]


def main_comparison(budget_rows: pd.DataFrame, unit: str = "ms") -> AccuracyTable:
    """Lay out the paper's Table 1, every pipeline at every budget; also for budgets in another unit than time."""
    budget, cost = budgeting.columns_of(unit)
    keys = (budget, *PIPELINE, "best_of_n", cost)
    if unit == "ms":
        return AccuracyTable("budgets", "Accuracy (%) by time budget", budget_rows, keys, (budget,), "table1")
    title = f"Accuracy (%) by budget in {unit}"
    return AccuracyTable(f"budgets_{unit.lower()}", title, budget_rows, keys, (budget,), "")


def other_generators(budget_rows: pd.DataFrame) -> AccuracyTable | None:
    """Lay out the paper's Table 6: several generators at one budget. None for a single generator."""
    rows = budget_rows[budget_rows["verifier"] != "none"].reset_index(drop=True)
    if len(distinct(rows, POOL)) < 2:
        return None
    keys = ("budget_ms", *PIPELINE, "best_of_n", "time_ms")
    title = "Accuracy (%) of other generators at the same time budget"
    return AccuracyTable("generators", title, rows, keys, ("budget_ms",), "table6")


def scoring_ablation(
    run: Run,
    curves: pd.DataFrame,
    models: Mapping[Pipeline, CostModel],
    budgets: Sequence[float],
    tolerance: float,
) -> AccuracyTable | None:
    """Derive the paper's Table 5: the highest score against any candidate judged yes.

    None without verifiers that give P(yes): others judge no candidate.
    """
    judges = distinct(answered(run.scores), PIPELINE)
    judged = {key: model for key, model in models.items() if key in judges}
    if not judged:
        return None
    unscored = accuracy_curves(run.candidates, judged_yes_scores(run.scores))
    parts = [
        budgeting.budget_table(source, judged, budgets, tolerance).assign(scoring=scoring)
        for scoring, source in ((NO_SCORING, unscored), (TOKEN_PROBABILITY, curves))
    ]
    order = ["budget_ms", *PIPELINE, "scoring"]
    rows = pd.concat(parts).sort_values(order, ignore_index=True)
    keys = ("budget_ms", *PIPELINE, "scoring", "best_of_n")
    title = "Accuracy (%) with token probability and with no scoring"
    return AccuracyTable("scoring", title, rows, keys, ("budget_ms",), "table5")


def judged_yes_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Reduce scores to verdicts, the paper's "no scoring" (Table 5, B.2): all candidates judged yes tie."""
    return scores.assign(score=(scores["score"] > 0).astype(float))


def drift(
    budget_rows: pd.DataFrame, drifts: Mapping[str, float], run: Run, kinds: Mapping[str, str]
) -> AccuracyTable | None:
    """Derive the paper's Table 7: accuracy under drift of the generator's weights. None without drift.

    drifts: generator -> share of a LoRA epoch; kinds: of verifiers, by label. delta is VHS less MLLM w/ CLIP, paired
    by prompt; change is delta less that of the least moved generator, paired likewise, at the same N. Both are empty
    where there are several of the latter, and change where the N differ.
    """
    rows = budget_rows[budget_rows["generator"].isin(drifts) & (budget_rows["verifier"] != "none")]
    if rows.empty:
        return None
    rows = rows.assign(drift=rows["generator"].map(drifts))
    rows = rows.sort_values(["budget_ms", "drift", "verifier"], ignore_index=True)
    found = [_delta(row, rows, run, kinds) for _, row in rows.iterrows()]
    rows[["delta", "delta_low", "delta_high", "change", "change_low", "change_high"]] = found
    keys = ("budget_ms", "drift", "generator", "verifier", "best_of_n")
    title = "Accuracy (%) under drift of the generator (LoRA: share of its epoch, or its strength)"
    return AccuracyTable("drift", title, rows, keys, ("budget_ms", "drift"), "table7")


def _delta(row: pd.Series, rows: pd.DataFrame, run: Run, kinds: Mapping[str, str]) -> list[float]:
    """Compute a VHS's gain in points and its change by drift, with intervals; NaN where one is unknown."""
    here = rows[rows["budget_ms"] == row["budget_ms"]]
    ns = _afforded(row, here, kinds)
    if ns is None:
        return [math.nan] * 6
    lead = Lead.of(run, (row["generator"], row["steps"]), ns)
    first = here[here["verifier"] == row["verifier"]].iloc[0]
    if row["drift"] == first["drift"] or _afforded(first, here, kinds) != ns:
        return [*lead.interval().percent, *[math.nan] * 3]
    unmoved = Lead.of(run, (first["generator"], first["steps"]), ns)
    return [*lead.interval().percent, *lead.change(unmoved).percent]


def _afforded(row: pd.Series, here: pd.DataFrame, kinds: Mapping[str, str]) -> dict[str, int] | None:
    """Return the N of a VHS and of the only MLLM w/ CLIP at this row's budget; None if there is no such pair."""
    afforded = of_pool(here, row["generator"], row["steps"]).set_index("verifier")["best_of_n"].dropna()
    pairs = [pair for pair in rivals(kinds, afforded.index) if pair[0] == row["verifier"]]
    return {name: int(afforded[name]) for name in pairs[0]} if len(pairs) == 1 else None


@dataclass(frozen=True)
class Lead:
    """By how much one verifier is ahead of another, a row per prompt and seed [R], in shares of 1."""

    values: Floats
    prompts: NDArray[Any]
    tags: NDArray[Any]
    largest: float  # that a row can be

    @staticmethod
    def of(run: Run, pool: tuple[str, int], ns: Mapping[str, int]) -> Lead:
        """Compare the first verifier in `ns` (name -> N) with the second, on a pool."""
        grid = Grid(of_pool(run.candidates, *pool))
        (a, n_a), (b, n_b) = ((grid.of(of_pipeline(run.scores, *pool, name)), n) for name, n in ns.items())
        first, second = (expected_accuracy(s, grid.correct)[:, n - 1] for s, n in ((a, n_a), (b, n_b)))
        return Lead(first - second, grid.prompts, grid.tags, largest_difference(a, b, n_a, n_b))

    def interval(self) -> Interval:
        """Average it over prompts."""
        return self._against(np.zeros_like(self.values), self.largest)

    def change(self, before: Lead) -> Interval:
        """Average how far it has moved from `before`, paired by prompt; the prompts must be the same."""
        return self._against(before.values, self.largest + before.largest)

    def _against(self, values: Floats, largest: float) -> Interval:
        return paired_difference(self.values, values, prompts=self.prompts, tasks=self.tags, largest=largest)


def paired_gain(run: Run, pool: tuple[str, int], ns: Mapping[str, int]) -> Interval:
    """Compute the overall accuracy of the first verifier in `ns` (name -> N) less the second's, paired by prompt."""
    return Lead.of(run, pool, ns).interval()


def headline(
    generator: str,
    steps: int,
    models: Mapping[str, Mapping[Pipeline, CostModel]],
    budget_rows: pd.DataFrame,
    peak_gb: Mapping[str, float],
    pair: tuple[str, str] = (VHS, CLIP),
) -> pd.DataFrame:
    """Compare VHS with MLLM w/ CLIP as the paper's headline does: time, FLOPs, VRAM, and accuracy at the smallest budget.

    models: cost models by column (wall_ms, tflop); peak_gb: VRAM by verifier at the largest N measured; pair: the labels
    of the two, which `about` names where they are not their kinds'. Returns generator, steps, key, about, unit, measured, low, high (NaN if unknown); only the time has an interval, of ratios
    paired by turn of measuring.
    """
    times, flops = ([models[c].get((generator, steps, v)) for v in pair] for c in ("wall_ms", "tflop"))
    here = of_pool(budget_rows, generator, steps)
    smallest = here["budget_ms"].min()
    first = here[here["budget_ms"] == smallest].set_index("verifier")[OVERALL]
    at = f" at {smallest:.4g} ms" if len(here) else ""
    who = "" if pair == (VHS, CLIP) else f", {label(pair[0])} against {label(pair[1])}"
    vram, gain = ([of.get(v, math.nan) for v in pair] for of in (peak_gb, first))
    none = (math.nan, math.nan)
    rows = [
        ("time_per_candidate", "time of a candidate", "percent", _change(*times), *_change_interval(*times)),
        ("tflop_per_candidate", "FLOPs of a candidate", "percent", _change(*flops), *none),
        ("peak_vram", "peak VRAM", "percent", percent(*vram), *none),
        ("overall_gain", f"overall accuracy{at}", "points", gain[0] - gain[1], *none),
    ]
    frame = pd.DataFrame(rows, columns=["key", "about", "unit", "measured", "low", "high"])
    frame["about"] += who
    frame.insert(0, "generator", generator)
    frame.insert(1, "steps", steps)
    return frame


def _change(new: CostModel | None, old: CostModel | None) -> float:
    """Compute by how many percent a candidate of `new` costs more than one of `old`; NaN where one is unknown."""
    return math.nan if new is None or old is None else percent(new.per_candidate, old.per_candidate)


def _change_interval(new: CostModel | None, old: CostModel | None) -> tuple[float, float]:
    ends = ratio_interval(new, old) if new and old else None
    return (math.nan, math.nan) if ends is None else (100 * (ends[0] - 1), 100 * (ends[1] - 1))


def percent(new: float, old: float) -> float:
    """Compute by how many percent `new` exceeds `old`; NaN where one is unknown."""
    return 100 * (new / old - 1) if np.isfinite([new, old]).all() and old > 0 else math.nan


@dataclass(frozen=True)
class Saving:
    """The time in ms in which VHS and MLLM w/ CLIP, or what has their place, reach an accuracy (percent)."""

    fast: str
    slow: str
    accuracy: float
    fast_ms: float
    slow_ms: float
    holds: bool

    def __str__(self) -> str:
        less = 100 * (1 - self.fast_ms / self.slow_ms)
        return f"{label(self.fast)} takes {less:.0f}% less time for {self.accuracy:.1f}%"


def time_saving(
    curves: pd.DataFrame, models: Mapping[str, CostModel], pair: tuple[str, str] = (VHS, CLIP)
) -> Saving | None:
    """Compare the times of VHS and MLLM w/ CLIP at the highest accuracy that both reach.

    curves: overall rows of one generator; pair: the labels of VHS and MLLM w/ CLIP. It `holds` if VHS takes less, with
    95% intervals of both times, where known, apart. None if one of the two is missing.
    """
    if not {*pair} <= models.keys():
        return None
    by_n = {verifier: _by_n(curves, verifier) for verifier in pair}
    if not all(len(accuracy) for accuracy in by_n.values()):
        return None
    reached = min(accuracy.max() for accuracy in by_n.values())
    ns = {v: int(np.argmax(by_n[v] >= reached)) + 1 for v in pair}
    fast, slow = (models[v].predict(ns[v]) for v in pair)
    ends = [interval(models[v], ns[v]) or (models[v].predict(ns[v]),) * 2 for v in pair]
    return Saving(*pair, float(reached), fast, slow, ends[0][1] < ends[1][0])


def _by_n(curves: pd.DataFrame, verifier: str) -> Floats:
    return np.asarray(curves[curves["verifier"] == verifier].sort_values("n")["accuracy"], dtype=float)
