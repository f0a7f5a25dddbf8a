"""What a sweep would do, without doing it: its cells, N by budget, GPU hours and disk."""

from __future__ import annotations

from typing import Any

from vhsbench import generators
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.config.entries import GeneratorConfig, VerifierConfig
from vhsbench.harness.config.run import RunConfig
from vhsbench.harness.cost.cost_model import CostModel
from vhsbench.harness.store.keys import of_pipeline
from vhsbench.harness.sweep.disk import candidates as count
from vhsbench.harness.sweep.disk import run_gb
from vhsbench.harness.sweep.run import load_prompts
from vhsbench.results.readers import a100_timings, published_rows


def dry_run(config: RunConfig) -> dict[str, Any]:
    """Tabulate cells (generator, verifier) with N by budget and GPU hours on an A100, and totals.

    Times are published or bounded by what was published, never measured: `basis` says which. Unknown is
    None. Hours count every pipeline's whole time per candidate, so they are an upper bound for generation
    and scoring; verdicts and the measurement of costs come on top.
    """
    prompts = len(load_prompts(config))
    cells = [
        _cell(config, entry, verifier, prompts)
        for entry in config.generators
        for verifier in (*config.verifiers_of(entry),) or (None,)
    ]
    hours = [cell["gpu_hours"] for cell in cells]
    return {
        "name": config.name,
        "prompts": prompts,
        "seeds": config.seeds,
        "device": config.device,
        "budgets_ms": config.budgets_by_unit.get("ms"),
        "budgets": [f"{v:g}{unit}" for unit, values in config.budgets_by_unit.items() for v in values],
        "cells": cells,
        "candidates": sum(count(config, entry, prompts) for entry in config.generators),
        "gpu_hours": None if None in hours else round(sum(hours), 1),
        "disk_gb": round(run_gb(config, prompts), 2),
    }


def _cell(
    config: RunConfig, entry: GeneratorConfig, verifier: VerifierConfig | None, prompts: int
) -> dict[str, Any]:
    steps = generators.steps_of(entry.name, entry.options)
    kind = verifier.name if verifier else "none"
    model, basis = _model(entry.name, steps, kind)
    candidates = count(config, entry, prompts)
    hours = None if model is None else round(candidates * model.per_candidate / 3.6e6, 2)
    return {
        "generator": entry.shown,
        "steps": steps,
        "verifier": verifier.shown if verifier else "none",
        "pool": config.pool_of(entry),
        "candidates": candidates,
        "n_by_budget": _n_by_budget(config, entry.name, steps, kind, model),
        "gpu_hours": hours,
        "basis": basis,
    }


def _n_by_budget(
    config: RunConfig, generator: str, steps: int, verifier: str, time: CostModel | None
) -> dict[str, int | None]:
    """Find N by budget: a time as its ms, others with their unit. Memory and energy are known only where measured."""
    given = config.budgets_by_unit
    models = {"ms": time, "TFLOP": _tflop(generator, steps, verifier) if "TFLOP" in given else None}
    return {
        f"{budget:g}" if unit == "ms" else f"{budget:g}{unit}": _affordable(
            models.get(unit), budget, config, verifier
        )
        for unit, budgets in given.items()
        for budget in budgets
    }


def _tflop(generator: str, steps: int, verifier: str) -> CostModel | None:
    """Count FLOPs from the architecture, without weights; None where that cannot be done."""
    from vhsbench.harness.cost.counting import count_pipeline

    try:
        return count_pipeline(generator, None if verifier == "none" else verifier, steps).tflop
    except VhsbenchError:
        return None


def _affordable(model: CostModel | None, budget: float, config: RunConfig, verifier: str) -> int | None:
    if model is None:
        return None
    n = model.largest_n(budget, config.tolerance)
    # without a verifier there is nothing to choose by
    return min(n, 1) if n is not None and verifier == "none" else n


def _model(generator: str, steps: int, verifier: str) -> tuple[CostModel | None, str]:
    """Return T(N) in ms as published for an A100, else the bound that a published best-of-N within its budget sets."""
    same = of_pipeline(a100_timings(), generator, steps, verifier)
    if len(same):
        row = same.iloc[0]
        return CostModel(1e3 * row["fixed_s"], 1e3 * row["per_candidate_s"]), f"published: {row['source']}"
    bounds = []
    for name in ("table1", "table6"):
        rows = of_pipeline(published_rows(name), generator, steps, verifier)
        bounds += [(row["budget_ms"] / row["best_of_n"], row["place"]) for _, row in rows.iterrows()]
    if not bounds:
        return None, "unknown"
    per_candidate, place = min(bounds)
    return CostModel(0.0, float(per_candidate)), f"at most, by the published budget of {place}"
