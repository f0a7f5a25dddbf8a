"""Whether measured times can be trusted: what speaks against it, each in a few words with its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from vhsbench.harness.cost import budgets, percentiles
from vhsbench.harness.cost.cost_model import CostError, CostModel
from vhsbench.harness.cost.load import LOADED_PERCENT
from vhsbench.harness.cost.sound import OK, sound
from vhsbench.harness.cost.turns import FEWEST, GOOD, Turns, fit_turns, interval
from vhsbench.harness.inference.route import ROUTES
from vhsbench.harness.store.keys import session, sessions

MOST_PERCENT = 5.0  # of T(N): against whole runs, and of its interval
_DRIFT_PERCENT = 10.0  # of a stage against the others, while they were measured
_SMALL = 0.05  # of a candidate's time: stages below it may drift


def in_one_line(reasons: Sequence[str]) -> str:
    """Return the reasons as one line for a reader; "" for none."""
    more = f"; and {len(reasons) - 2} more" if len(reasons) > 2 else ""
    return f"timing unreliable: {'; '.join(reasons[:2])}{more}." if reasons else ""


def unreliable(costs: pd.DataFrame, needs: Mapping[str, str | None]) -> list[str]:
    """Return what speaks against the times of the plain pipelines; empty if nothing does.

    needs: what each verifier reads. A pipeline that has no times is not of unreliable ones.
    """
    plain = costs[(costs["variant"] == "") & (costs["batch"] == 1)]
    reasons = _load(plain)
    for here in sessions(plain):
        generator, turns = here["generator"].iloc[0], fit_turns(sound(here))
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
            reasons += _uncertain(model, name)
            reasons += _against_whole_runs(here, verifier, model, name)
            if turns is not None:
                reasons += _drift(turns, verifier, reads, model, name)
                reasons += _halves(turns, verifier, name) if reads == "hidden" else []
    return list(dict.fromkeys(reasons))


def _load(costs: pd.DataFrame) -> list[str]:
    """Report other processes that were at work in most turns, so that even a good turn may be slowed by them."""
    if "others_percent" not in costs:
        return []
    turns = costs.drop_duplicates([*session(costs), "verifier", "visit"]).dropna(subset=["others_percent"])
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
        [f"T(N) of {name} is {error:+z.0f}% off the whole runs of N = {n}"]
        if abs(error) > MOST_PERCENT
        else []
    )


def _uncertain(model: CostModel, name: str) -> list[str]:
    """Report an interval of a candidate's time that is wider than T(N) may be off."""
    if (ends := interval(model, 1)) is None:
        return []
    time_ms = model.predict(1)
    off = 100 * max(ends[1] - time_ms, time_ms - ends[0]) / time_ms
    return [f"T(1) of {name} is known only to ±{off:.0f}%"] if off > MOST_PERCENT else []


def _drift(turns: Turns, verifier: str, reads: str | None, model: CostModel, name: str) -> list[str]:
    """Report a stage of some weight that became slower or faster than the others did while they were measured."""
    for stage in (*ROUTES[reads].fixed, *ROUTES[reads].per_candidate):
        here = turns.calls.get((verifier, stage, 1))
        if here is None or turns.typical_ms((verifier, stage, 1)) < _SMALL * model.predict(1):
            continue
        moved = 100 * percentiles.drift(list(np.exp(here[np.isfinite(here)])))
        if abs(moved) > _DRIFT_PERCENT:
            way = "slower" if moved > 0 else "faster"
            return [
                f"{stage} of {name} became {abs(moved):.0f}% {way} than other stages while it was measured"
            ]
    return []


def _halves(turns: Turns, verifier: str, name: str) -> list[str]:
    """Report a head that takes longer than the whole forward, or a head and tail that take less together."""
    keys = [(verifier, "head", 1), (verifier, "tail", 1), ("", "denoise", 1)]
    if any(key not in turns.calls for key in keys):
        return []
    head, tail, whole = (turns.typical_ms(key) for key in keys)
    part, both = 100 * (head / whole - 1), 100 * ((head + tail) / whole - 1)
    if part > MOST_PERCENT:
        return [f"the head of {name} took {part:.0f}% more time than the whole forward that it is part of"]
    if both < -MOST_PERCENT:
        return [f"head and tail of {name} took {-both:.0f}% less time than the whole forward that they are"]
    return []
