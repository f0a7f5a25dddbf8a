"""All numbers of a report, derived from a run; nothing is measured and nothing is drawn here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd

from vhsbench.harness.common.shown import printable
from vhsbench.harness.config.run import RunConfig, kept_config
from vhsbench.harness.cost import budgets as budgeting
from vhsbench.harness.cost.cost_model import CostError, CostModel
from vhsbench.harness.cost.sound import left_out, sound
from vhsbench.harness.cost.stages import FIXED, PER_CANDIDATE
from vhsbench.harness.report import comparisons
from vhsbench.harness.report.comparisons import AccuracyTable, Pipeline
from vhsbench.harness.report.costs import cost_table
from vhsbench.harness.stats.curves import accuracy_curves, separation
from vhsbench.harness.stats.intervals import missed_share
from vhsbench.harness.store.keys import POOL, distinct, of_pool
from vhsbench.harness.store.tables import Run, StoreError
from vhsbench.harness.sweep.kept_images import Pictures

Models = dict[Pipeline, CostModel]
_REFERENCE = "mllm-clip"  # whose T(2), T(4), T(6) are the default budgets


@dataclass(frozen=True)
class Derived:
    """A run and what follows from it; of its costs, the sound rows alone.

    models: cost models by column ("wall_ms", "tflop") and pipeline; unmeasured: why others have none;
    left_out: how many rows of costs do not count, and why; latency: T(N) against whole runs; costs: every
    stage; tables: the paper's comparisons; failed: the pools that no table counts, with their prompts and
    reasons; notes: sentences on what is not as it should be.
    """

    run: Run
    config: RunConfig
    needs: dict[str, str | None]
    curves: pd.DataFrame
    models: dict[str, Models]
    unmeasured: list[str]
    left_out: str
    budgets: list[float]
    budget_rows: pd.DataFrame
    latency: pd.DataFrame
    costs: pd.DataFrame
    auc: pd.DataFrame
    headline: pd.DataFrame
    tables: list[AccuracyTable]
    failed: pd.DataFrame
    pictures: Pictures

    @property
    def notes(self) -> list[str]:
        return [*self.run.notes, *self.pictures.notes(), *self._about_intervals()]

    @cached_property  # every row of the page asks
    def pools(self) -> list[tuple[str, int]]:
        """The (generator, steps) of the run's pools of candidates."""
        return distinct(self.run.candidates, POOL)

    def _about_intervals(self) -> list[str]:
        """What the tables' intervals leave out."""
        found = []
        if lone := list(dict.fromkeys(self.curves.loc[self.curves["n_prompts"] == 1, "tag"])):
            found.append(f"no interval of {', '.join(lone)}: one prompt says nothing of how prompts vary.")
        if any("delta" in table.rows for table in self.tables):
            n = int(self.curves["n_prompts"].max())
            found.append(
                f"{n} prompts may hold none of a kind that is {100 * missed_share(n):.1f}% of all; where verifiers "
                "differ on that kind alone, no interval of a difference shows it."
            )
        return found

    @property
    def names(self) -> dict[str, str]:
        """Generators as shown -> as registered."""
        return {entry.shown: entry.name for entry in self.config.generators}

    def models_of(self, generator: str, steps: int, column: str = "wall_ms") -> dict[str, CostModel]:
        """Cost models of one pool by verifier, without "none"."""
        found = self.models[column].items()
        return {v: model for (g, s, v), model in found if (g, s) == (generator, steps) and v != "none"}

    def costs_of(self, generator: str, steps: int) -> pd.DataFrame:
        """The measured cost rows of one pool."""
        return of_pool(self.run.costs, generator, steps)

    def breakdown(self, generator: str, steps: int) -> pd.DataFrame:
        """Median time of what each candidate and what the winner alone pays: verifier, part, stage, wall_ms."""
        costs = self.costs_of(generator, steps)
        median = costs[costs["batch"] == 1].groupby(["verifier", "stage"])["wall_ms"].median()
        rows = [
            (verifier, part, stage, median[verifier, stage])
            for verifier in self.models_of(generator, steps)
            for part, stages in (
                ("per candidate", PER_CANDIDATE[self.needs[verifier]]),
                ("fixed", FIXED[self.needs[verifier]]),
            )
            for stage in stages
        ]
        return pd.DataFrame(rows, columns=["verifier", "part", "stage", "wall_ms"])


def derive(run: Run) -> Derived:
    """Derive everything. Raises StoreError if no pipeline of the run has a cost, or all prompts failed."""
    run = _shown(run)
    config = kept_config(run)
    failed = failed_prompts(run)
    if run.candidates.empty:
        reason = failed["reason"].iloc[0] if len(failed) else "it has no rows"
        raise StoreError(f"the run in {run.path} has no candidates to report on: {reason.rstrip('.')}.")
    all_costs = sound(run.costs)
    # named speed-ups are no part of the paper's comparison
    run = replace(run, costs=all_costs[all_costs["variant"] == ""])
    curves = accuracy_curves(run.candidates, run.scores)
    needs = _needs(run, config)
    models: dict[str, Models] = {"wall_ms": {}, "tflop": {}}
    unmeasured: list[str] = []
    for generator, steps in distinct(run.candidates, POOL):
        here = of_pool(run.costs, generator, steps)
        judged = of_pool(run.scores, generator, steps)
        for verifier in ("none", *sorted(judged["verifier"].unique())):
            for column, found in models.items():
                name, reads = ("", None) if verifier == "none" else (verifier, needs[verifier])
                try:
                    found[generator, steps, verifier] = budgeting.fit(here, name, reads, column)
                except CostError as error:
                    unmeasured.append(f"{generator} ({steps} steps): {error}")
    times = models["wall_ms"]
    if not times:
        raise StoreError(f"the run in {run.path} has no pipeline with a measured time: {unmeasured[0]}")
    priced = times | _as_unmoved(times, config)
    budgets = config.budgets_ms or _default_budgets(priced, config.tolerance)
    rows = budgeting.budget_table(curves, priced, budgets, config.tolerance)
    return Derived(
        run, config, needs, curves, models, unmeasured, left_out(all_costs), budgets, rows,
        latency=_latency(run.costs, times), costs=cost_table(all_costs),
        auc=separation(run.candidates, run.scores),
        headline=_headlines(run.costs, models, rows),
        tables=_tables(run, config, curves, times, budgets, rows), failed=failed, pictures=Pictures(run),
    )  # fmt: skip


def _shown(run: Run) -> Run:
    """The run with its texts as they are shown: control characters escaped."""
    prompts = [{**p, "prompt": printable(p["prompt"])} for p in run.prompts]
    reasons = run.candidates["reason"].map(printable)
    return replace(run, prompts=prompts, candidates=run.candidates.assign(reason=reasons))


def failed_prompts(run: Run) -> pd.DataFrame:
    """The pools that failed: generator, seed, prompt_id, prompt, reason. Raises StoreError if run.json is damaged."""
    prompts = dict(enumerate(run.prompts))
    try:
        rows = [
            (str(f["generator"]), int(f["seed"]), int(f["prompt_id"]),
             prompts[int(f["prompt_id"])]["prompt"], printable(str(f["reason"])))
            for f in run.info.get("failed_prompts", [])
        ]  # fmt: skip
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise StoreError(
            f"{run.path}/run.json is damaged: failed_prompts names none of its prompts."
        ) from error
    return pd.DataFrame(rows, columns=["generator", "seed", "prompt_id", "prompt", "reason"])


def _as_unmoved(models: Models, config: RunConfig) -> Models:
    """A generator that a LoRA moved has the cost of the same one unmoved: what it was measured to differ by
    is noise, which would give one verifier another N, and so no drift."""
    of = {entry.shown: entry for entry in config.generators}
    unmoved = {entry.name: entry.shown for entry in config.generators if not entry.moved}
    pairs = {key: (unmoved.get(of[key[0]].name, ""), *key[1:]) for key in models if of[key[0]].moved}
    return {key: models[plain] for key, plain in pairs.items() if plain in models}


def _needs(run: Run, config: RunConfig) -> dict[str, str | None]:
    """What each verifier reads, as the run recorded. Raises StoreError if it did not."""
    recorded = run.info.get("needs", {})
    if missing := [v.name for v in config.verifiers if v.name not in recorded]:
        raise StoreError(f"the run in {run.path} does not say what '{missing[0]}' reads; run it again.")
    return {v.name: recorded[v.name] for v in config.verifiers}


def _default_budgets(models: Models, tolerance: float) -> list[float]:
    """CLIP's T(2), T(4), T(6), as in the paper; without CLIP, the dearest pipeline's."""
    pool = {k: m for k, m in models.items() if k[2] == _REFERENCE} or models
    return budgeting.default_budgets(max(pool.values(), key=lambda m: m.predict(4)), tolerance)


def _latency(costs: pd.DataFrame, models: Models) -> pd.DataFrame:
    checks = []
    for (generator, steps, verifier), model in models.items():
        here = of_pool(costs, generator, steps)
        rows = budgeting.check(here, "" if verifier == "none" else verifier, model)
        checks.append(rows.assign(generator=generator, steps=steps, verifier=verifier))
    return pd.concat(checks, ignore_index=True)


def _headlines(costs: pd.DataFrame, models: Mapping[str, Models], rows: pd.DataFrame) -> pd.DataFrame:
    times = models["wall_ms"]
    both = [
        (g, s) for g, s, v in times if v == comparisons.VHS and (g, s, comparisons.CLIP) in times
    ]  # fmt: skip
    frames = [comparisons.headline(g, s, models, rows, _peak_vram(costs, g, s)) for g, s in both]
    columns = [*POOL, "key", "about", "unit", "measured"]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def _peak_vram(costs: pd.DataFrame, generator: str, steps: int) -> dict[str, float]:
    """Peak VRAM (GB) of whole best-of-N runs, by verifier; empty where none was measured."""
    here = of_pool(costs, generator, steps)
    peaks = here[here["stage"] == budgeting.END_TO_END].groupby("verifier")["peak_vram_gb"].max()
    return {str(verifier): float(peak) for verifier, peak in peaks.dropna().items()}


def _tables(
    run: Run, config: RunConfig, curves: pd.DataFrame, times: Models, budgets: list[float], rows: pd.DataFrame
) -> list[AccuracyTable]:
    moved = [e.shown for e in config.generators if e.moved]
    drifting = {e.name for e in config.generators if e.moved or e.drift is not None}
    drifts = {e.shown: e.moved for e in config.generators if e.name in drifting}
    settled = rows[~rows["generator"].isin(moved)].reset_index(drop=True)
    still = {key: model for key, model in times.items() if key[0] not in moved}
    found: list[Any] = [
        comparisons.main_comparison(settled),
        comparisons.other_generators(settled),
        comparisons.scoring_ablation(run.candidates, run.scores, curves, still, budgets, config.tolerance),
        comparisons.drift(rows, drifts, run.candidates, run.scores),
    ]
    return [table for table in found if table is not None]


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain Python, None where unknown."""
    objects = frame.astype(object).where(frame.notna(), None)
    return [
        {str(k): v.item() if hasattr(v, "item") else v for k, v in row.items()}
        for row in objects.to_dict("records")
    ]
