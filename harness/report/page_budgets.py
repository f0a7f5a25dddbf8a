"""What the page's script needs of budgets: every pipeline's costs and accuracies by N, and the units of budgets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vhsbench.harness.cost.plan import WHAT
from vhsbench.harness.report.charts import DASHES, SYMBOLS, pipeline_name, rounded, timed
from vhsbench.harness.report.clock import COLUMNS
from vhsbench.harness.report.derived import Derived
from vhsbench.harness.store.keys import of_pipeline

_TITLES = {
    "ms": "wall-clock of best-of-N", "TFLOP": "FLOPs of best-of-N", "GB": "peak memory", "J": "energy of best-of-N"
}  # fmt: skip
_SMALLER = {
    "TFLOP": ("GFLOP", 1e3),
    "GB": ("MB", 1e3),
    "J": ("mJ", 1e3),
}  # shown where all costs are below 0.1


def pipelines(derived: Derived, run: str = "", first_pool: int = 0) -> list[dict[str, Any]]:
    """Collect each pipeline's name, pool (its place on the page), look, cost by unit, and accuracies by task and N.

    run: put before the names, where the page has several runs; first_pool: the place of the run's first pool.
    """
    models = derived.models
    known = dict.fromkeys(key for column in COLUMNS.values() for key in models.get(column, {}))
    found = []
    for generator, steps, verifier in known:
        if verifier == "none":
            continue
        style, place = derived.looks[verifier], first_pool + derived.pools.index((generator, steps))
        here = of_pipeline(derived.curves, generator, steps, verifier).sort_values("n")
        costs = {
            unit: {"fixed": model.fixed, "each": model.per_candidate}
            for unit, column in COLUMNS.items()
            if (model := models.get(column, {}).get((generator, steps, verifier)))
        }
        tasks = {
            str(tag): {k: [rounded(v) for v in part[k]] for k in ("accuracy", "low", "high")}
            for tag, part in here.groupby("tag")
        }
        found.append(
            {
                "name": run + pipeline_name(derived, generator, steps, verifier), "pool": place,
                "verifier": verifier, "color": style.color, "dash": DASHES[place % len(DASHES)],
                "symbol": SYMBOLS.get(style.marker, "circle"), "costs": costs, "tasks": tasks,
                "tolerance": derived.config.tolerance,
            }
        )  # fmt: skip
    return found


def units(lines: Sequence[dict[str, Any]], *runs: Derived) -> list[dict[str, Any]]:
    """Describe each unit of budgets, and scale the costs of `lines` to the unit that is shown.

    A unit in which no pipeline of `runs` has a cost says why instead of having a range; such units are the last.
    """
    found: list[dict[str, Any]] = []
    for unit in COLUMNS:
        what = WHAT[unit]
        costs = [(line["costs"][unit], _size(line)) for line in lines if unit in line["costs"]]
        if not costs:
            reasons = [reason for run in runs for reason in run.clock.lacking.get(unit, [])]
            named = [r for r in reasons if any(f"'{line['verifier']}'" in r for line in lines)]
            why = (named or reasons or ["none was measured."])[0]
            found.append({"id": unit, "name": unit, "what": what, "unknown": why})
            continue
        name, scale = unit, 1.0
        if unit in _SMALLER and max(cost["fixed"] + n * cost["each"] for cost, n in costs) < 0.1:
            name, scale = _SMALLER[unit]
        for cost, _ in costs:
            cost.update({key: scale * value for key, value in cost.items()})
        asked = runs[0].budgets if unit == "ms" else runs[0].config.budgets_by_unit.get(unit, [])
        times = "" if unit == "TFLOP" else runs[0].times  # FLOPs are counted, on whatever device
        found.append(
            {"id": unit, "name": name, "what": what, "unknown": "", "title": timed(f"{_TITLES[unit]} ({name})", times)}
            | _range(costs, [scale * budget for budget in asked])
        )  # fmt: skip
    return sorted(found, key=lambda unit: bool(unit["unknown"]))


def _range(costs: Sequence[tuple[dict[str, float], int]], asked: Sequence[float]) -> dict[str, float]:
    """Compute the slider's range: from below the cheapest single candidate to the most expensive whole pool."""
    low = min(cost["fixed"] + cost["each"] for cost, _ in costs)
    high = max(cost["fixed"] + n * cost["each"] for cost, n in costs)
    # without a budget of the configuration: two candidates of the most expensive
    start = asked[0] if asked else max(cost["fixed"] + 2 * cost["each"] for cost, _ in costs)
    step = float(f"{max(high - low, high / 10) / 400:.1g}")  # one pipeline of one candidate has one time
    first, last = int(0.9 * low / step), int(high / step) + 1
    return {"low": first * step, "high": last * step, "step": step, "start": float(f"{start:.4g}")}


def _size(line: dict[str, Any]) -> int:
    return len(line["tasks"]["overall"]["accuracy"])
