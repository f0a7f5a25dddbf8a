"""T(N) = fixed + N x per-candidate, from the sound rows of measured stages; and the N that a budget affords."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from vhsbench.harness.common.tasks import columns
from vhsbench.harness.cost.cost_model import CostError, CostModel
from vhsbench.harness.cost.sound import OK, left_out, sound
from vhsbench.harness.cost.turns import Key, Turns, draw_model, fit_turns, interval, range_of_n
from vhsbench.harness.inference.route import ROUTES
from vhsbench.harness.stats.curves import GENEVAL_OVERALL, OVERALL, tasks_of
from vhsbench.harness.store.keys import POOL, distinct, of_pipeline

END_TO_END = "end_to_end"
COLUMN = {"ms": "wall_ms", "TFLOP": "tflop", "J": "energy_j"}  # of stages; memory is of whole runs
_ROUNDING_GB = 1e-3  # an allocator's blocks, not what a candidate keeps


class UnmeasuredError(CostError):
    """A cost of which no row counts. `why`: how many rows were left out, "" where there never was a number."""

    def __init__(self, message: str, why: str) -> None:
        super().__init__(f"{message}: {why}." if why else f"{message}.")
        self.why = why


def fit(
    costs: pd.DataFrame,
    verifier: str,
    needs: str | None,
    column: str = "wall_ms",
    variant: str = "",
    statistic: str = "median",
) -> CostModel:
    """Fit the cost model of one pipeline to its sequential stage rows (batch 1).

    costs: rows of one generator, whose own the pipeline shares where it has no rows of a stage. Times are those of a
    good turn (cost/turns.py), or medians for costs of earlier versions, which were not measured in turns;
    statistic "min" shows what a host that others slow down at times can do. Raises CostError for costs of more than
    one generator, UnmeasuredError for a stage without a row that counts.
    """
    rows = _with_shared(costs, verifier, variant, needs)
    fixed, each = _medians(rows, verifier, needs, column, statistic)
    turns = _turns(costs, variant) if (column, statistic) == ("wall_ms", "median") else None
    if turns is None:
        return CostModel(sum(fixed.values()), sum(each.values()))
    keys = [[_key(rows, verifier, stage) for stage in part] for part in (fixed, each)]
    once, per = (sum(turns.typical_ms(key) for key in part) for part in keys)
    return CostModel(once, per, draw_model(turns, *keys))


def breakdown(
    costs: pd.DataFrame, verifier: str, needs: str | None, variant: str = ""
) -> dict[str, dict[str, float]]:
    """Return the ms of the stages of one pipeline, by "per candidate" and "fixed"; arguments and errors as of `fit`."""
    rows = _with_shared(costs, verifier, variant, needs)
    fixed, each = _medians(rows, verifier, needs, "wall_ms", "median")
    if turns := _turns(costs, variant):
        fixed, each = ({s: turns.typical_ms(_key(rows, verifier, s)) for s in part} for part in (fixed, each))
    return {"per candidate": each, "fixed": fixed}


def _turns(costs: pd.DataFrame, variant: str) -> Turns | None:
    here = costs[(costs["batch"] == 1) & (costs["variant"] == variant)]
    return fit_turns(sound(here))


def _key(rows: pd.DataFrame, verifier: str, stage: str) -> Key:
    """Return whose times of a stage are a pipeline's: its own, or its generator's."""
    return (verifier if ((rows["stage"] == stage) & (rows["verifier"] == verifier)).any() else "", stage, 1)


def _medians(
    rows: pd.DataFrame, verifier: str, needs: str | None, column: str, statistic: str
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the medians of the stages that the winner pays, and of those that each candidate does."""
    if len(distinct(rows, POOL)) > 1:
        raise CostError(f"the costs of verifier '{verifier}' are of more than one generator.")
    medians = rows[rows["stage"] != END_TO_END].groupby("stage")[column].agg(statistic).dropna()
    missing = sorted(_wanted(needs) - set(medians.index))
    if missing:
        lost = rows[rows["stage"].isin(missing)]
        lost = rows if lost.empty else lost  # a cell that failed has rows of whole runs alone
        raise UnmeasuredError(
            f"no {column} was measured for {', '.join(missing)} of verifier '{verifier}'",
            left_out(lost[~lost["stage"].isin(lost.loc[lost["status"] == OK, "stage"])]),
        )
    route = ROUTES[needs]
    fixed, each = ({s: float(medians[s]) for s in part} for part in (route.fixed, route.per_candidate))
    return fixed, each


def _wanted(needs: str | None) -> set[str]:
    return {*ROUTES[needs].fixed, *ROUTES[needs].per_candidate}


def is_measured(
    costs: pd.DataFrame, verifier: str, needs: str | None, column: str = "wall_ms", variant: str = ""
) -> bool:
    """Return whether `fit` has all the stages it needs: not so for a cell that ran out of memory or time."""
    rows = _with_shared(costs, verifier, variant, needs)
    return _wanted(needs) <= set(rows.loc[rows[column].notna(), "stage"])


def fit_memory(costs: pd.DataFrame, verifier: str, column: str, variant: str = "") -> CostModel:
    """Fit peak memory in GB over N, the least line above every measured end-to-end run (batch 1).

    Where memory does not grow, by a megabyte over all measured N, per_candidate is 0 and any N fits if those do.
    Raises CostError if nothing was measured.
    """
    rows = _sequential(costs, verifier, variant)
    peaks = rows[rows["stage"] == END_TO_END].groupby("n")[column].max().dropna()
    if peaks.empty:
        raise CostError(f"no {column} was measured for verifier '{verifier}'.")
    n, gb = peaks.index.to_numpy(dtype=float), peaks.to_numpy(dtype=float)
    slope = float(np.polyfit(n, gb, 1)[0]) if len(n) > 1 else 0.0
    if slope * np.ptp(n) < _ROUNDING_GB:
        slope = 0.0
    return CostModel(float((gb - slope * n).max()), slope)


def memory_column(costs: pd.DataFrame, verifier: str, variant: str = "") -> str | None:
    """Find what memory over N was measured as: "peak_vram_gb", else "peak_rss_gb"; None if neither was.

    One N says nothing of how memory grows, but without a verifier there is no other.
    """
    rows = _sequential(costs, verifier, variant)
    whole = rows[rows["stage"] == END_TO_END]
    for column in ("peak_vram_gb", "peak_rss_gb"):
        if whole.loc[whole[column].notna(), "n"].nunique() >= (2 if verifier else 1):
            return column
    return None


def fit_unit(
    costs: pd.DataFrame, verifier: str, needs: str | None, unit: str, variant: str = ""
) -> CostModel:
    """Fit the cost model of one pipeline in "ms", "TFLOP", "J" or "GB"; arguments and errors as of `fit`."""
    if unit != "GB":
        model = fit(costs, verifier, needs, COLUMN[unit], variant)
        if unit == "J" and model.per_candidate <= 0:
            raise UnmeasuredError(f"no energy above idle was measured for verifier '{verifier}'", "")
        return model
    if (column := memory_column(costs, verifier, variant)) is not None:
        return fit_memory(costs, verifier, column, variant)
    rows = _sequential(costs, verifier, variant)
    whole = rows[rows["stage"] == END_TO_END]
    raise UnmeasuredError(
        f"no memory over N was measured for verifier '{verifier}'",
        "" if (whole["status"] == OK).any() else left_out(whole),
    )


def check(
    costs: pd.DataFrame, verifier: str, model: CostModel, variant: str = "", statistic: str = "median"
) -> pd.DataFrame:
    """Compare the model with measured end-to-end runs: verifier, n, measured_ms, predicted_ms, error_percent.

    Of an N whose runs were all spoiled or failed, what was measured is NaN.
    """
    rows = _sequential(costs, verifier, variant)
    measured = rows[rows["stage"] == END_TO_END].groupby("n")["wall_ms"].agg(statistic)
    turns = _turns(costs, variant) if statistic == "median" else None
    if turns is not None:
        typical = {n: turns.typical_ms((verifier, END_TO_END, n)) for n in measured.dropna().index}
        measured = pd.Series(typical, index=measured.index, dtype=float)
    frame = pd.DataFrame({"n": measured.index, "measured_ms": measured.to_numpy()})
    frame.insert(0, "verifier", verifier)
    frame["predicted_ms"] = [model.predict(n) for n in frame["n"]]
    frame["error_percent"] = 100 * (frame["predicted_ms"] / frame["measured_ms"] - 1)
    return frame


def _sequential(costs: pd.DataFrame, verifier: str, variant: str) -> pd.DataFrame:
    """Return the sound rows of one pipeline with one candidate at a time, the paper's way."""
    rows = costs[(costs["verifier"] == verifier) & (costs["batch"] == 1)]
    return sound(rows[rows["variant"] == variant])


def _with_shared(costs: pd.DataFrame, verifier: str, variant: str, needs: str | None) -> pd.DataFrame:
    """Return the rows of a pipeline, and its generator's of the stages of T(N) that it has none of."""
    own = _sequential(costs, verifier, variant)
    shared = _sequential(costs, "", variant)
    return pd.concat([own, shared[shared["stage"].isin(_wanted(needs) - set(own["stage"]))]])


def default_budgets(model: CostModel, tolerance: float, ns: Sequence[int] = (2, 4, 6)) -> list[float]:
    """Time budgets at which the pipeline of `model` gets exactly `ns` (CLIP's 2, 4, 6 in the paper)."""
    return [_readable_budget(model, n, tolerance) for n in ns]


def _readable_budget(model: CostModel, n: int, tolerance: float) -> float:
    """Round T(n) to two digits, or to as many as it takes for the largest N to be n."""
    # where the fixed cost is large, the tolerance at T(n) affords more than n: then aim lower
    between = model.predict(n + 0.5) / (1 + tolerance)
    for digits in range(2, 16):
        for aim in (model.predict(n), between):
            rounded = float(f"{aim:.{digits}g}")
            if model.largest_n(rounded, tolerance) == n:
                return rounded
    return between


def budget_table(
    curves: pd.DataFrame,
    models: Mapping[tuple[str, int, str], CostModel | None],
    budgets: Sequence[float],
    tolerance: float,
    unit: str = "ms",
) -> pd.DataFrame:
    """Make Table 1 for these pipelines: the N that each budget affords, and its accuracies in percent.

    Budgets and models are in `unit`, and named by it: `budget_ms` and `time_ms`, or `budget_tflop` and `cost_tflop`.
    Times and N have 95% intervals (`time_low`, `n_low` ...) where turns of measuring were resampled, and those of
    accuracies are of both kinds, prompts and N.

    A budget below one candidate leaves best_of_n and all accuracies empty and is marked in `below_one`; a
    pipeline without a model (its measuring ran out of memory or time) leaves them empty too. An N beyond
    the pool is cut to it and marked in `pool_limited`. Verifier "none" is one image without a choice.
    Raises CostError for a pipeline that no curve is of.
    """
    rows = []
    for budget in budgets:
        for (generator, steps, verifier), model in models.items():
            judge = "random" if verifier == "none" else verifier
            curve = of_pipeline(curves, generator, steps, judge)
            if curve.empty:
                raise CostError(f"no accuracy of {generator} ({steps} steps) with '{verifier}'.")
            pool = int(curve["n"].max())
            affordable = _affordable(model, budget, tolerance, unit) if model else None
            if verifier == "none" and affordable is not None:
                affordable = 1
            n = None if affordable is None else int(min(affordable, pool))
            most = 1 if verifier == "none" else pool
            n_low, n_high = _n_range(model, n, budget, tolerance, most)
            low, high = (interval(model, n) if model and n is not None else None) or (None, None)
            row: dict[str, object] = {
                "budget_ms": budget, "generator": generator, "steps": steps, "verifier": verifier,
                "best_of_n": n, "n_low": n_low, "n_high": n_high,
                "time_ms": model.predict(n) if model and n is not None else None,
                "time_low": low, "time_high": high,
                "pool_limited": affordable is not None and affordable > pool,
                "below_one": model is not None and affordable is None,
            }  # fmt: skip
            rows.append(row | _accuracies(curve, n, n_low, n_high))
    frame = pd.DataFrame(rows)
    integers = ["best_of_n", "n_low", "n_high"]
    frame[integers] = frame[integers].astype("Int64")
    frame[["time_low", "time_high"]] = frame[["time_low", "time_high"]].astype(float)
    if unit == "ms":
        return frame
    costs = {f"time_{end}": f"cost_{end}" for end in ("low", "high")}
    return frame.rename(columns=dict(zip(("budget_ms", "time_ms"), columns_of(unit), strict=True)) | costs)


def columns_of(unit: str) -> tuple[str, str]:
    """Name the columns of a budget table that hold the budget and what N candidates cost."""
    return ("budget_ms", "time_ms") if unit == "ms" else (f"budget_{unit.lower()}", f"cost_{unit.lower()}")


def _affordable(model: CostModel, budget: float, tolerance: float, unit: str) -> float | None:
    """Find the largest N: infinite if memory, which alone may not grow, fits at all."""
    if unit == "GB" and model.per_candidate == 0:
        return math.inf if model.fixed <= budget * (1 + tolerance) * (1 + 1e-12) else None
    return model.largest_n(budget, tolerance)


def _n_range(
    model: CostModel | None, n: int | None, budget: float, tolerance: float, most: int
) -> tuple[int | None, int | None]:
    """Return the interval of N, within 0 (no candidate) and the pool."""
    if model is None or n is None or (found := range_of_n(model, budget, tolerance)) is None:
        return None, None
    return min(found[0], n, most), min(max(found[1], n), most)


def _accuracies(
    curve: pd.DataFrame, n: int | None, n_low: int | None = None, n_high: int | None = None
) -> dict[str, float]:
    """Return accuracies at N by column.

    Their intervals add, squared, what prompts vary and what other N within its own interval vary.
    """
    at = curve[curve["n"] == n].set_index("tag")
    within = (
        (curve["n"] == n) if n_low is None or n_high is None else curve["n"].between(max(1, n_low), n_high)
    )
    others = curve[within]
    least, most = (getattr(others.groupby("tag")["accuracy"], which)() for which in ("min", "max"))
    found = {}
    for tag in (*columns(tasks_of(curve)), OVERALL, GENEVAL_OVERALL):
        value, low, high = (float(at[column].get(tag, math.nan)) for column in ("accuracy", "low", "high"))
        found[tag] = value
        below, above = value - float(least.get(tag, math.nan)), float(most.get(tag, math.nan)) - value
        found[f"{tag}_low"] = max(0.0, value - math.hypot(value - low, below)) if below else low
        found[f"{tag}_high"] = min(100.0, value + math.hypot(high - value, above)) if above else high
    return found
