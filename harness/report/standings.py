"""The answer first: a verdict for each budget in words and as tables, derived from a run's pools."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from vhsbench.harness.cost.budgets import columns_of
from vhsbench.harness.cost.cost_model import CostModel
from vhsbench.harness.report import scaling
from vhsbench.harness.report.style import label as style_label
from vhsbench.harness.report.style import pool_prefix
from vhsbench.harness.report.verdict import (
    ONE_IMAGE,
    Contest,
    Verdict,
    compare_all,
    contenders,
    decide,
    pair_rows,
)
from vhsbench.harness.stats.curves import OVERALL
from vhsbench.harness.stats.intervals import brackets
from vhsbench.harness.store.keys import POOL, of_pool

Pool = tuple[str, int]
Models = Mapping[tuple[str, int, str], CostModel]
_LEAST_P = 0.0001
KEYS = [*POOL, "budget", "unit"]
_VERDICT = [
    "winners", "decided", "best_of_n", "n_low", "n_high", OVERALL, f"{OVERALL}_low", f"{OVERALL}_high",
    "other", "difference", "difference_low", "difference_high", "p_holm", "more_prompts", "more_seeds", "sentence",
]  # fmt: skip
_COUNTS = ["best_of_n", "n_low", "n_high", "more_prompts", "more_seeds"]


@dataclass(frozen=True)
class Standings:
    """Tables with a row per pool and budget (verdicts, with a sentence), and within it per pair and per verifier.

    `winners` are the pipelines that no other beats, joined by ", "; best_of_n and overall are the first one's, and
    difference (points), p_holm that one's against `other` (verdict.py).
    """

    verdicts: pd.DataFrame
    pairs: pd.DataFrame
    headroom: pd.DataFrame

    @property
    def sentences(self) -> list[str]:
        return [str(sentence) for sentence in self.verdicts["sentence"]]


def standings(
    contests: Mapping[Pool, Contest],
    rows_by_unit: Mapping[str, pd.DataFrame],
    models_by_unit: Mapping[str, Models],
    tolerance: float,
) -> Standings:
    """Decide every budget of every pool. rows_by_unit: budget tables by unit ("ms", "TFLOP", "GB", "J")."""
    verdicts, pairs, rooms = [], [], []
    for unit, budget, pool, rows in _budgets(contests, rows_by_unit):
        contest = contests[pool]
        models = {v: m for (*key, v), m in models_by_unit[unit].items() if tuple(key) == pool}
        ordered = contenders(contest, rows, models, budget, tolerance)
        compared = compare_all(contest, ordered)
        verdict = decide(ordered, compared)
        where: dict[str, Any] = dict(zip(KEYS, (*pool, budget, unit), strict=True))
        row = _row(rows, verdict)
        said = f"{pool_prefix(pool, contests)}{budget:.4g} {unit}: {sentence(verdict, row)}"
        verdicts.append(where | row | {"sentence": said})
        pairs.append(pair_rows(compared).assign(**where))
        rooms.append(scaling.headroom(contest, rows).assign(**where))
    found = pd.DataFrame(verdicts, columns=[*KEYS, *_VERDICT])
    return Standings(found.astype(dict.fromkeys(_COUNTS, "Int64")), _stacked(pairs), _stacked(rooms))


def _budgets(
    contests: Mapping[Pool, Contest], rows_by_unit: Mapping[str, pd.DataFrame]
) -> Iterator[tuple[str, float, Pool, pd.DataFrame]]:
    for unit, rows in rows_by_unit.items():
        column = columns_of(unit)[0]
        for budget in dict.fromkeys(rows[column]):
            for pool in contests:
                here = of_pool(rows[rows[column] == budget], *pool)
                if len(here):
                    yield unit, float(budget), pool, here


def _row(rows: pd.DataFrame, verdict: Verdict | None) -> dict[str, object]:
    if verdict is None:
        return dict.fromkeys(_VERDICT) | {"winners": "", "decided": False}
    best = rows[rows["verifier"] == verdict.winners[0]].iloc[0]
    values = {c: best[c] for c in _VERDICT if c in best.index}
    pair = verdict.against
    against = {} if pair is None else {
        "other": pair.other, "difference": pair.difference, "difference_low": pair.low,
        "difference_high": pair.high, "p_holm": pair.p_holm,
    }  # fmt: skip
    counts = {"more_prompts": verdict.more_prompts, "more_seeds": verdict.more_seeds}
    said = {"winners": ", ".join(verdict.winners), "decided": verdict.decided}
    return dict.fromkeys(_VERDICT) | values | against | counts | said


def label(verifier: str) -> str:
    """Name a pipeline in a sentence."""
    return "one image" if verifier == ONE_IMAGE else style_label(verifier)


def sentence(verdict: Verdict | None, row: Mapping[str, Any]) -> str:
    """Say who wins and how sure that is; `row` is the verdict's in the table."""
    if verdict is None:
        return "no pipeline affords a candidate."
    names = [label(v) for v in verdict.winners]
    accuracy = f"{row[OVERALL]:.1f}%{brackets(row[f'{OVERALL}_low'], row[f'{OVERALL}_high'])}"
    n = f"best of {row['best_of_n']}"
    if not pd.isna(row["n_low"]) and row["n_low"] != row["n_high"]:
        n += f", {row['n_low']} to {row['n_high']}"
    pair = verdict.against
    if pair is None:
        return f"{names[0]} alone affords a candidate ({n}): {accuracy}."
    points = f"{pair.difference:z.1f} points{brackets(pair.low, pair.high)}"
    p = f"p = {pair.p_holm:.2g}" if pair.p_holm >= _LEAST_P else f"p < {_LEAST_P:g}"
    if verdict.decided:
        return f"{names[0]} wins ({n}): {accuracy}, {points} ahead of {label(pair.other)} ({p})."
    several = f"{', '.join(names[:-1])} and {names[-1]}"
    apart = f"{names[0]} {accuracy}, {points} ahead of {label(pair.other)} ({p})"
    return f"{several} cannot be told apart: {apart}.{_more(verdict)}"


def _more(verdict: Verdict) -> str:
    """Say how much more would decide it."""
    found = [
        f"{number:,} more {what}{'s' if number > 1 else ''}"
        for number, what in ((verdict.more_prompts, "prompt"), (verdict.more_seeds, "seed"))
        if number is not None
    ]
    return f" About {' or '.join(found)} would decide it, if that is the difference." if found else ""


def _stacked(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Put tables together, the columns that say where first."""
    whole = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=KEYS)
    return whole[[*KEYS, *(c for c in whole.columns if c not in KEYS)]]


def shown(verdicts: pd.DataFrame, several_pools: bool) -> pd.DataFrame:
    """Lay the verdicts out for readers."""
    rows = []
    for _, row in verdicts.iterrows():
        winners = [label(v) for v in str(row["winners"]).split(", ") if v]
        others = "" if row["decided"] or len(winners) < 2 else " (not told apart)"
        ahead = "" if pd.isna(row["other"]) else f"{row['difference']:.1f}"
        rows.append(
            {
                "Generator": row["generator"], "Steps": row["steps"],
                "Budget": f"{row['budget']:.4g} {row['unit']}", "Winner": ", ".join(winners) + others,
                "Best-of-N": _with(row["best_of_n"], row["n_low"], row["n_high"]),
                "Overall": _percent(row, OVERALL), "Closest": "" if pd.isna(row["other"]) else label(row["other"]),
                "Ahead by": ahead + brackets(row["difference_low"], row["difference_high"]),
                "p (Holm)": "" if pd.isna(row["p_holm"]) else f"{row['p_holm']:.2g}",
                "More prompts": "" if pd.isna(row["more_prompts"]) else f"{row['more_prompts']:,}",
                "More seeds": "" if pd.isna(row["more_seeds"]) else f"{row['more_seeds']:,}",
            }
        )  # fmt: skip
    frame = pd.DataFrame(rows)
    empty = [c for c in ("More prompts", "More seeds") if not frame[c].any()]
    return frame.drop(columns=empty if several_pools else ["Generator", "Steps", *empty])


def _with(n: Any, low: Any, high: Any) -> str:
    if pd.isna(n):
        return ""
    return f"{n}" if pd.isna(low) or low == high else f"{n} [{low}, {high}]"


def _percent(row: pd.Series, column: str) -> str:
    if pd.isna(row[column]):
        return ""
    return f"{row[column]:.1f}{brackets(row[f'{column}_low'], row[f'{column}_high'])}"
