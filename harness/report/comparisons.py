"""The paper's comparisons, derived from a run: scoring, other generators, drift, and the headline numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from vhsbench.harness.cost import budgets as budgeting
from vhsbench.harness.cost.cost_model import CostModel
from vhsbench.harness.cost.uncertainty import ratio_interval
from vhsbench.harness.stats.curves import OVERALL, Grid, accuracy_curves
from vhsbench.harness.stats.expected import expected_accuracy, largest_difference
from vhsbench.harness.stats.intervals import Floats, Interval, paired_difference
from vhsbench.harness.store.keys import PIPELINE, POOL, distinct, of_pipeline, of_pool
from vhsbench.harness.store.tables import Run

Pipeline = tuple[str, int, str]  # generator as shown in tables, steps, verifier or "none"
VHS, CLIP = "vhs", "mllm-clip"  # compared by the paper's headline numbers
TOKEN_PROBABILITY, NO_SCORING = "token_probability", "none"


@dataclass(frozen=True)
class AccuracyTable:
    """Accuracies by task with intervals, ready for layout.

    rows have `keys`, the tasks and both overalls with `_low` and `_high`; the best and second best are marked
    among rows that agree in `groups`; `published` names the paper's table of the same layout.
    """

    name: str
    title: str
    rows: pd.DataFrame
    keys: tuple[str, ...]
    groups: tuple[str, ...]
    published: str


def main_comparison(budget_rows: pd.DataFrame) -> AccuracyTable:
    """Lay out the paper's Table 1: every pipeline at every budget."""
    keys = ("budget_ms", *PIPELINE, "best_of_n", "time_ms")
    return AccuracyTable(
        "budgets", "Accuracy (%) by time budget", budget_rows, keys, ("budget_ms",), "table1"
    )


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
    """Derive the paper's Table 5: the highest score against any candidate judged yes. None without verifiers."""
    judged = {key: model for key, model in models.items() if key[2] != "none"}
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


def drift(budget_rows: pd.DataFrame, drifts: Mapping[str, float], run: Run) -> AccuracyTable | None:
    """Derive the paper's Table 7: accuracy under drift of the generator's weights. None without drift.

    drifts: generator -> share of a LoRA epoch. delta is VHS less MLLM w/ CLIP, paired by prompt.
    """
    rows = budget_rows[budget_rows["generator"].isin(drifts) & (budget_rows["verifier"] != "none")]
    if rows.empty:
        return None
    rows = rows.assign(drift=rows["generator"].map(drifts))
    rows = rows.sort_values(["budget_ms", "drift", "verifier"], ignore_index=True)
    found = [_delta(row, rows, run) for _, row in rows.iterrows()]
    rows[["delta", "delta_low", "delta_high"]] = found
    keys = ("budget_ms", "drift", "generator", "verifier", "best_of_n")
    title = "Accuracy (%) under drift of the generator (LoRA: share of its epoch, or its strength)"
    return AccuracyTable("drift", title, rows, keys, ("budget_ms", "drift"), "table7")


def _delta(row: pd.Series, rows: pd.DataFrame, run: Run) -> list[float]:
    """Compute VHS's gain in points with its interval; NaN in other verifiers' rows, and where one has no N."""
    pool = (row["generator"], row["steps"])
    clip = of_pipeline(rows[rows["budget_ms"] == row["budget_ms"]], *pool, CLIP)
    if row["verifier"] != VHS or clip.empty or pd.isna(row["best_of_n"]) or clip["best_of_n"].isna().any():
        return [math.nan] * 3
    ns = {VHS: int(row["best_of_n"]), CLIP: int(clip["best_of_n"].iloc[0])}
    gain = paired_gain(run, pool, ns)
    return [100 * float(v[0]) for v in (gain.mean, gain.low, gain.high)]


def paired_gain(run: Run, pool: tuple[str, int], ns: Mapping[str, int]) -> Interval:
    """Compute the overall accuracy of the first verifier in `ns` (name -> N) less the second's, paired by prompt."""
    grid = Grid(of_pool(run.candidates, *pool))
    (a, n_a), (b, n_b) = ((grid.of(of_pipeline(run.scores, *pool, name)), n) for name, n in ns.items())
    first, second = (expected_accuracy(s, grid.correct)[:, n - 1] for s, n in ((a, n_a), (b, n_b)))
    apart = largest_difference(a, b, n_a, n_b)
    return paired_difference(first, second, prompts=grid.prompts, tasks=grid.tags, largest=apart)


def headline(
    generator: str,
    steps: int,
    models: Mapping[str, Mapping[Pipeline, CostModel]],
    budget_rows: pd.DataFrame,
    peak_gb: Mapping[str, float],
) -> pd.DataFrame:
    """VHS against MLLM w/ CLIP, as the paper's headline: key, about, unit, measured, low and high (NaN if unknown).

    The interval of the time is of ratios paired by turn of measuring.

    models: cost models by column (wall_ms, tflop); peak_gb: VRAM by verifier at the largest N measured.
    """
    pair = [(generator, steps, verifier) for verifier in (VHS, CLIP)]

    def change(column: str) -> float:
        vhs, clip = (models[column].get(p) for p in pair)
        return math.nan if vhs is None or clip is None else percent(vhs.per_candidate, clip.per_candidate)

    here = of_pool(budget_rows, generator, steps)
    first = here[here["budget_ms"] == here["budget_ms"].min()].set_index("verifier")[OVERALL]
    gain = first.get(VHS, math.nan) - first.get(CLIP, math.nan)
    at = f"at {here['budget_ms'].min():.4g} ms" if len(here) else ""
    rows = [
        ("time_per_candidate", "time of a candidate", "percent", change("wall_ms")),
        ("tflop_per_candidate", "FLOPs of a candidate", "percent", change("tflop")),
        ("peak_vram", "peak VRAM", "percent",
         percent(peak_gb.get(VHS, math.nan), peak_gb.get(CLIP, math.nan))),
        ("overall_gain", f"overall accuracy {at}".strip(), "points", gain),
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["key", "about", "unit", "measured"])
    vhs, clip = (models["wall_ms"].get(p) for p in pair)
    ratio = (ratio_interval(vhs, clip) if vhs and clip else None) or (math.nan, math.nan)
    frame.loc[frame["key"] == "time_per_candidate", ["low", "high"]] = [100 * (end - 1) for end in ratio]
    frame.insert(0, "generator", generator)
    frame.insert(1, "steps", steps)
    return frame


def percent(new: float, old: float) -> float:
    """Compute by how many percent `new` exceeds `old`; NaN where one is unknown."""
    return 100 * (new / old - 1) if np.isfinite([new, old]).all() and old > 0 else math.nan


def time_saving(curves: pd.DataFrame, models: Mapping[str, CostModel]) -> tuple[float, float, float] | None:
    """Compute (accuracy, ms of MLLM w/ CLIP, ms of VHS) at the highest accuracy that both reach.

    curves: overall rows of one generator. None if one of the two is missing.
    """
    if not {VHS, CLIP} <= models.keys():
        return None
    by_n = {verifier: _by_n(curves, verifier) for verifier in (VHS, CLIP)}
    if not all(len(accuracy) for accuracy in by_n.values()):
        return None
    reached = min(accuracy.max() for accuracy in by_n.values())
    clip, vhs = (models[v].predict(int(np.argmax(by_n[v] >= reached)) + 1) for v in (CLIP, VHS))
    return float(reached), clip, vhs


def _by_n(curves: pd.DataFrame, verifier: str) -> Floats:
    return np.asarray(curves[curves["verifier"] == verifier].sort_values("n")["accuracy"], dtype=float)
