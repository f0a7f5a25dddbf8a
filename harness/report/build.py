"""From a finished run to its tables and figures: everything here is derived, nothing is measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from harness import budgets as budgeting
from harness.budgets import CostModel
from harness.config import RunConfig
from harness.derive import GENEVAL_OVERALL, OVERALL, accuracy_curves, no_scoring, separation, winners
from harness.report import figures, style, tables
from harness.report.costs import cost_table
from harness.stages import FIXED, PER_CANDIDATE
from harness.store import Run, StoreError, load_run
from harness.sweep import gallery_prompts, image_file

MARGIN_N = 4  # the N at which verifiers are compared with random selection
_REFERENCE = "mllm-clip"  # whose T(2), T(4), T(6) are the default budgets


def build(path: Path) -> dict[str, Any]:
    """Write tables/ and figures/ of the run in `path`; returns a summary fit for JSON."""
    run = load_run(path)
    config = RunConfig.model_validate(run.info["config"])
    for folder in ("tables", "figures"):
        (path / folder).mkdir(exist_ok=True)
    unscored = [v.name for v in config.verifiers if v.without_scoring]
    curves = accuracy_curves(run.candidates, run.scores, config.bootstrap, unscored)
    needs = run.info["needs"]
    models: dict[tuple[str, int, str], CostModel | None] = {}
    all_costs, run = run.costs, replace(run, costs=run.costs[run.costs["variant"] == ""])
    checks = []
    for generator, steps in run.candidates[["generator", "steps"]].drop_duplicates().itertuples(index=False):
        costs = run.costs[(run.costs["generator"] == generator) & (run.costs["steps"] == steps)]
        mine = _models(costs, needs, "wall_ms")
        models |= {(generator, steps, name): model for name, model in mine.items()}
        models |= {(generator, steps, no_scoring(name)): mine[name] for name in unscored}
        for name, model in mine.items():
            if model is None:
                continue
            rows = budgeting.check(costs, "" if name == "none" else name, model)
            checks.append(rows.assign(generator=generator, steps=steps, verifier=name))
    budgets = config.budgets_ms or _default_budgets(models)
    budget_rows = budgeting.budget_table(curves, models, budgets, config.tolerance)
    latency = pd.concat(checks, ignore_index=True)
    auc = separation(run.candidates, run.scores)
    tables.write_budgets(budget_rows, path / "tables" / "budgets")
    tables.write_table(latency, path / "tables" / "latency")
    tables.write_table(cost_table(all_costs), path / "tables" / "costs")
    tables.write_table(auc, path / "tables" / "auc")
    curves.to_csv(path / "tables" / "curves.csv", index=False)
    _figures(run, config, curves, models, needs, budgets)
    return _summary(run, budget_rows, latency, auc, curves)


def _models(costs: pd.DataFrame, needs: dict[str, Any], column: str) -> dict[str, CostModel | None]:
    """By verifier ("none" without); None where the cell has no times, having run out of memory or time."""
    pipelines = {"none": ("", None)} | {name: (name, reads) for name, reads in needs.items()}
    return {
        name: budgeting.fit(costs, verifier, reads, column)
        if budgeting.is_measured(costs, verifier, reads, column)
        else None
        for name, (verifier, reads) in pipelines.items()
    }


def _default_budgets(models: dict[tuple[str, int, str], CostModel | None]) -> list[float]:
    """CLIP's T(2), T(4), T(6), as in the paper; without CLIP, the dearest pipeline's."""
    known = {key: model for key, model in models.items() if model}
    pool = {k: m for k, m in known.items() if k[2] == _REFERENCE} or known
    if not pool:
        raise StoreError("no pipeline of this run was measured; its costs say why in 'status' and 'note'.")
    return budgeting.default_budgets(max(pool.values(), key=lambda m: m.predict(4)))


def _figures(
    run: Run,
    config: RunConfig,
    curves: pd.DataFrame,
    models: dict[tuple[str, int, str], CostModel | None],
    needs: dict[str, Any],
    budgets: list[float],
) -> None:
    for generator in run.candidates["generator"].unique():
        mine = curves[curves["generator"] == generator]
        costs = run.costs[run.costs["generator"] == generator]
        suffix = "" if run.candidates["generator"].nunique() == 1 else f"_{generator}"
        about = f"{generator}: {len(run.prompts)} prompts, pool of {config.pool}"

        def save(name: str, fig: Figure, data: pd.DataFrame, suffix: str = suffix) -> None:
            style.save(fig, run.path / "figures" / f"{name}{suffix}", data)

        priced = {name: reads for name, reads in needs.items() if budgeting.is_measured(costs, name, reads)}
        verified = figures.overall(mine[mine["verifier"].isin(priced)])
        for name, unit, points in _cost_points(verified, costs, priced):
            marks = budgets if name == "time" else []
            fig = figures.accuracy_over_cost(points, unit, about, marks)
            save(f"accuracy_over_{name}", fig, points)
        save("accuracy_by_n", figures.accuracy_by_n(mine, about), mine)
        stages = _breakdown(costs, priced)
        save("latency_breakdown", figures.latency_breakdown(stages, f"{generator}, one candidate"), stages)
        if needs:
            keys = ["generator", "steps", "prompt_id", "seed", "index"]
            scores = run.scores.merge(run.candidates, on=keys)
            scores = scores.loc[scores["generator"] == generator, ["verifier", "score", "correct"]]
            save("score_distributions", figures.score_distributions(scores, about), scores)
            _gallery(run, config, generator, save)


def _gallery(run: Run, config: RunConfig, generator: str, save: Any) -> None:
    n = min(MARGIN_N, config.pool)
    shown = gallery_prompts(run.prompts, config.gallery_prompts)
    picks = winners(run.candidates, run.scores, n)
    picks = picks[(picks["generator"] == generator) & (picks["seed"] == config.seeds[0])]
    picks = picks[picks["prompt_id"].isin(shown)]
    if picks.empty:
        return
    picks = picks.assign(prompt=[run.prompts[i]["prompt"] for i in picks["prompt_id"]])

    def image_of(prompt_id: int, index: int) -> Image.Image:
        return Image.open(image_file(run.path, generator, prompt_id, index))

    fig = figures.gallery(picks, image_of, f"best of {n} by each verifier, judged by GenEval's rules")
    columns = ["prompt_id", "prompt", "verifier", "index", "score", "correct"]
    save("gallery", fig, picks[columns])


def _cost_points(
    verified: pd.DataFrame, costs: pd.DataFrame, needs: dict[str, Any]
) -> list[tuple[str, str, pd.DataFrame]]:
    """(name, unit, points) of accuracy over time, GFLOP or TFLOP, and memory."""
    columns = ["verifier", "n", "cost", "accuracy", "low", "high"]

    def modelled(column: str, factor: float) -> pd.DataFrame:
        model = {name: budgeting.fit(costs, name, reads, column) for name, reads in needs.items()}
        pairs = zip(verified["verifier"], verified["n"], strict=True)
        return verified.assign(cost=[factor * model[v].predict(n) for v, n in pairs])[columns]

    if not needs:
        return []
    flop = modelled("tflop", 1.0)
    small = flop["cost"].max() < 0.1
    flop["cost"] *= 1000 if small else 1
    on_gpu = costs["peak_vram_gb"].notna().any()
    memory = costs[costs["stage"] == budgeting.END_TO_END]
    peak = memory.groupby(["verifier", "n"])["peak_vram_gb" if on_gpu else "peak_rss_gb"].max()
    measured = verified.merge(peak.rename("cost").reset_index(), on=["verifier", "n"])[columns]
    kind = "peak VRAM (GB)" if on_gpu else "peak resident memory of the process (GB)"
    return [
        ("time", "wall-clock of best-of-N (ms)", modelled("wall_ms", 1.0)),
        ("tflop", f"{'GFLOP' if small else 'TFLOP'} of best-of-N", flop),
        ("memory", kind, measured),
    ]


def _breakdown(costs: pd.DataFrame, needs: dict[str, Any]) -> pd.DataFrame:
    median = costs[costs["batch"] == 1].groupby(["verifier", "stage"])["wall_ms"].median()
    rows = [
        (name, part, stage, median[name, stage])
        for name, reads in needs.items()
        for part, stages in (
            ("per candidate", PER_CANDIDATE[reads]),
            ("fixed", FIXED[reads]),
        )
        for stage in stages
    ]
    return pd.DataFrame(rows, columns=["verifier", "part", "stage", "wall_ms"])


def _summary(
    run: Run, budgets: pd.DataFrame, latency: pd.DataFrame, auc: pd.DataFrame, curves: pd.DataFrame
) -> dict[str, Any]:
    at = curves[(curves["n"] == MARGIN_N) & (curves["tag"] == OVERALL)]
    keep = ["generator", "verifier", "n", "accuracy", "low", "high"]
    if budgets.empty:
        raise StoreError(f"the run in {run.path} has no pipeline to compare.")
    return {
        "run": str(run.path),
        "prompts": len(run.prompts),
        "pool": run.info["config"]["pool"],
        "seeds": run.info["config"]["seeds"],
        "budgets": _records(budgets),
        "latency": _records(latency),
        "auc": _records(auc),
        "at_n": _records(at[keep]),
        "overall_columns": [OVERALL, GENEVAL_OVERALL],
    }


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain Python, None where unknown."""
    objects = frame.astype(object).where(frame.notna(), None)
    return [
        {str(k): v.item() if hasattr(v, "item") else v for k, v in row.items()}
        for row in objects.to_dict("records")
    ]
