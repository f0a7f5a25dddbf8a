"""Whether measured times can be trusted: what speaks against it, each in a few words with its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from vhsbench.harness.cost import budgets, percentiles
from vhsbench.harness.cost.cost_model import CostError, CostModel
from vhsbench.harness.cost.load import LOADED_PERCENT
from vhsbench.harness.cost.sound import OK, sound
from vhsbench.harness.cost.turns import FEWEST, GOOD
from vhsbench.harness.inference.route import ROUTES
from vhsbench.harness.store.keys import POOL, distinct, of_pool

MOST_PERCENT = 5.0  # of T(N) against whole runs, and of a stage over time
_SMALL = 0.05  # of a candidate's time: stages below it may drift


def in_one_line(reasons: Sequence[str]) -> str:
    """The reasons as one line for a reader; "" for none."""
    more = f"; and {len(reasons) - 2} more" if len(reasons) > 2 else ""
    return f"timing unreliable: {'; '.join(reasons[:2])}{more}." if reasons else ""


def unreliable(costs: pd.DataFrame, needs: Mapping[str, str | None]) -> list[str]:
    """What speaks against the times of the plain pipelines; empty if nothing does.

    needs: what each verifier reads. A pipeline that has no times is not of unreliable ones.
    """
    plain = costs[(costs["variant"] == "") & (costs["batch"] == 1)]
    reasons = _load(plain)
    for generator, steps in distinct(plain, POOL):
        here = of_pool(plain, generator, steps)
        for verifier in dict.fromkeys(here["verifier"]):
            reads = needs.get(verifier) if verifier else None
            if verifier and reads is None:
                continue
            try:
                model = budgets.fit(here, verifier, reads)
            except CostError:
                continue
            name = f"{generator} with {verifier or 'no verifier'}"
            reasons += _spoilt(here, verifier, name)
            reasons += _against_whole_runs(here, verifier, model, name)
            reasons += _drift(here, verifier, reads, model, name)
            if reads == "hidden":
                reasons += _halves(here, verifier, name)
    return list(dict.fromkeys(reasons))


def _load(costs: pd.DataFrame) -> list[str]:
    """Other processes that were at work in most turns, so that even a good turn may be slowed by them."""
    if "others_percent" not in costs:
        return []
    turns = costs.drop_duplicates([*POOL, "verifier", "visit"]).dropna(subset=["others_percent"])
    loaded = turns[turns["others_percent"] > LOADED_PERCENT]
    if len(loaded) <= (1 - GOOD) * len(turns):
        return []
    return [
        f"others took {loaded['others_percent'].median():.0f}% of the processors (median) in "
        f"{len(loaded)} of {len(turns)} turns"
    ]


def _spoilt(costs: pd.DataFrame, verifier: str, name: str) -> list[str]:
    own = costs[(costs["verifier"] == verifier) & costs["status"].isin([OK, "tainted"])]
    for stage, rows in own.groupby("stage"):
        count = int((rows["status"] == OK).sum())
        if count < min(FEWEST, len(rows)):
            return [f"only {count} of {len(rows)} times of {stage} count, {name}"]
    return []


def _against_whole_runs(costs: pd.DataFrame, verifier: str, model: CostModel, name: str) -> list[str]:
    checks = budgets.check(costs, verifier, model).dropna(subset=["error_percent"])
    off = [(float(row["error_percent"]), int(row["n"])) for _, row in checks.iterrows()]
    error, n = max(off, key=lambda each: abs(each[0]), default=(0.0, 0))
    return (
        [f"T(N) of {name} is {error:+.0f}% off the whole runs of N = {n}"]
        if abs(error) > MOST_PERCENT
        else []
    )


def _drift(costs: pd.DataFrame, verifier: str, reads: str | None, model: CostModel, name: str) -> list[str]:
    """Stages of some weight whose later half differs from the earlier."""
    own = sound(costs[costs["verifier"] == verifier])
    for stage in (*ROUTES[reads].fixed, *ROUTES[reads].per_candidate):
        walls = own.loc[own["stage"] == stage, "wall_ms"].dropna()
        moved = 100 * percentiles.drift(walls.tolist())
        if abs(moved) > MOST_PERCENT and walls.median() > _SMALL * model.predict(1):
            way = "slower" if moved > 0 else "faster"
            return [f"{stage} of {name} became {abs(moved):.0f}% {way} while it was measured"]
    return []


def _halves(costs: pd.DataFrame, verifier: str, name: str) -> list[str]:
    """Head and tail together are the whole forward, which was measured without this verifier."""
    found = sound(costs)
    median = {
        stage: found.loc[(found["verifier"] == of) & (found["stage"] == stage), "wall_ms"].median()
        for of, stage in ((verifier, "head"), (verifier, "tail"), ("", "denoise"))
    }
    off = 100 * ((median["head"] + median["tail"]) / median["denoise"] - 1)
    if not np.isfinite(off) or abs(off) <= MOST_PERCENT:
        return []
    way = "more" if off > 0 else "less"
    return [f"head and tail of {name} took {abs(off):.0f}% {way} time than the whole forward that they are"]
