r"""results.tex: every number of a report under a name, so that a paper's text cites what was measured: \result{NAME}."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from vhsbench.harness.report.derived import Derived
from vhsbench.harness.report.tables import latex_escape
from vhsbench.harness.stats.curves import OVERALL
from vhsbench.harness.store.keys import PIPELINE, POOL

_HEAD = r"""% Numbers of a run of vhsbench: \result{NAME} prints one; a name that is not here is an error.
\newcommand{\result}[1]{\ifcsname vhsbench@#1\endcsname\csname vhsbench@#1\endcsname
  \else\PackageError{vhsbench}{There is no result '#1'}{All names are in results.tex.}\fi}
\newcommand{\defineresult}[2]{\expandafter\newcommand\csname vhsbench@#1\endcsname{#2}}
"""
_LEAST_P = 0.0001
_MEASURED = re.compile("ms|time|cost|tflop|gb|from|to_ms")  # columns of four digits, others have one decimal
# of a table's numbers
_DECIMALS = {
    "auc": 3,
    "over_optimisation": 3,
    "judged": 2,
    "diversity": 2,
    "people_agreement": 2,
    "parting": 0,
}


def results(derived: Derived) -> str:
    """Write results.tex."""
    found = {"prompts": str(len(derived.run.prompts)), "pool": str(derived.config.pool)}
    found |= {"seeds": str(len(derived.config.seeds)), "tolerance": f"{100 * derived.config.tolerance:g}"}
    found |= {"protocol": derived.protocol.digest}
    for table, frame, ids in _tables(derived):
        found |= _of_table(table, frame, ids, len(derived.pools) > 1)
    lines = [rf"\defineresult{{{name}}}{{{value}}}" for name, value in found.items()]
    return _HEAD + "\n".join(lines) + "\n"


def _tables(derived: Derived) -> Iterator[tuple[str, pd.DataFrame, list[str]]]:
    """Yield the name of each table, its rows, and the columns that say what a row is, in the order of names."""
    for table in derived.tables:
        yield table.name, table.rows, table.naming
    at_budget = [*POOL, "budget", "unit"]
    yield "verdict", derived.standings.verdicts, at_budget
    yield "pairs", derived.standings.pairs, [*at_budget, "better", "other"]
    yield "headroom", derived.standings.headroom, [*at_budget, "verifier"]
    yield "area", derived.area, [*POOL, "verifier"]
    yield "time_to_accuracy", derived.time_to_accuracy, [*POOL, "verifier", "accuracy"]
    yield "headline", derived.headline, [*POOL, "key"]
    yield "auc", derived.auc, [*POOL, "verifier"]
    yield "curves", derived.curves, [*PIPELINE, "tag", "n"]
    yield "latency", derived.latency, [*PIPELINE, "n"]
    yield "costs", derived.costs, [*PIPELINE, "stage", "n", "batch", "variant"]
    yield "judged", derived.judged, [*PIPELINE, "judge", "best_of_n"]
    yield "diversity", derived.diversity, [*PIPELINE, "best_of_n"]
    strategies, pairs = derived.strategies
    yield "strategies", strategies, [*at_budget, "meaning", "strategy"]
    yield "strategy_pairs", pairs, [*at_budget, "meaning", "better", "other"]
    if (over := derived.over_optimisation) is not None:
        yield "over_optimisation", over.table.rows, [*PIPELINE, "best_of_n", "measure", "judge"]
        yield "parting", over.parting, [*PIPELINE, "first", "second"]
    if (people := derived.people) is not None:
        yield "people", people.accuracy_table.rows, [*PIPELINE, "best_of_n", "judge"]
        yield "people_agreement", people.agreement_table.rows, ["first", "second", "task"]


def _of_table(table: str, frame: pd.DataFrame, ids: list[str], several_pools: bool) -> dict[str, str]:
    """Name a table's numbers: the table, what the row is of, and the column."""
    shown = [c for c in ids if several_pools or c not in POOL]
    found: dict[str, str] = {}
    for _, row in frame.iterrows():
        for column in frame.columns:
            value = row[column]
            if column in ids or column in POOL or isinstance(value, bool | np.bool_ | str) or pd.isna(value):
                continue
            if np.isinf(value):
                continue
            name = name_of(table, *(row[c] for c in shown), column)
            found.setdefault(name, _written(table, str(column), value))
    return found


def name_of(*parts: Any) -> str:
    """Join parts to a result's name; what TeX would not read as a letter becomes a hyphen."""
    texts = (f"{part:g}" if isinstance(part, float) else str(part) for part in parts)
    return "/".join(re.sub(r"[^\w.+:@>,=-]", "-", text, flags=re.ASCII) for text in texts if text)


def _written(table: str, column: str, value: Any) -> str:
    if isinstance(value, int) or (hasattr(value, "dtype") and value.dtype.kind in "iu"):
        return f"{value}"
    if column in ("p", "p_holm"):
        return rf"\ensuremath{{<}}{_LEAST_P:f}".rstrip("0") if value < _LEAST_P else f"{value:.2g}"
    if table in _DECIMALS:
        text = f"{value:.{_DECIMALS[table]}f}"
    else:
        text = f"{value:.4g}" if _MEASURED.search(column) else f"{value:.1f}"
    return rf"\ensuremath{{-}}{text[1:]}" if text.startswith("-") else text


def sentences(derived: Derived, names: Mapping[str, str]) -> list[str]:
    r"""Say in LaTeX who leads at each budget of time, with \result for every number. names: of verifiers, for readers."""
    verdicts, several = derived.standings.verdicts, len(derived.pools) > 1
    found = []
    for _, row in verdicts[verdicts["unit"] == "ms"].iterrows():
        if not row["winners"] or pd.isna(row["other"]):
            continue
        pool = [row["generator"], row["steps"]] if several else []

        def result(column: str, where: tuple[Any, ...] = (*pool, row["budget"], row["unit"])) -> str:
            return rf"\result{{{name_of('verdict', *where, column)}}}"

        ends = f" [{result('difference_low')}, {result('difference_high')}]"
        first = latex_escape(names[str(row["winners"]).split(", ")[0]])
        of = f", {latex_escape(str(row['generator']))}" if several else ""
        leads = "wins" if row["decided"] else "leads, but cannot be told apart from all others,"
        found.append(
            f"At {row['budget']:g}\\,ms{of}, {first} {leads} with best of {result('best_of_n')}: {result(OVERALL)}\\%, "
            f"{result('difference')} points{'' if pd.isna(row['difference_low']) else ends} ahead of "
            f"{latex_escape(names[row['other']])}."
        )
    return found
