"""compare.html: several runs on one page of the report's parts, and the same comparison as a table for readers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from vhsbench.harness.report import charts, page_budgets, page_candidates, page_file, tables
from vhsbench.harness.report.page import facts, warnings
from vhsbench.harness.report.page_candidates import PAGE_MB, Album, Pool
from vhsbench.harness.report.side_by_side import SideBySide
from vhsbench.harness.report.style import label
from vhsbench.harness.stats.curves import OVERALL
from vhsbench.harness.stats.intervals import brackets
from vhsbench.harness.store.keys import PIPELINE, POOL, distinct

_TABLE = "table-compare"


def write_tables(found: SideBySide, folder: Path) -> None:
    """Write compare.csv with all columns, and what readers see of it as Markdown, LaTeX and HTML."""
    folder.mkdir(parents=True, exist_ok=True)
    common = {run.protocol.digest for run in found.runs}
    table = tables.LaidOut(found.rows, shown(found.rows))
    tables.write(table, folder / "compare", common.pop() if len(common) == 1 else "")


def shown(rows: pd.DataFrame) -> pd.DataFrame:
    """Lay the rows out for readers: intervals in brackets, the unknown empty."""
    several = len(distinct(rows, POOL)) > 1
    protocols = rows["protocol"].nunique() > 1
    return pd.DataFrame(
        [
            {
                "Budget": f"{row['budget']:.4g} {row['unit']}", "Pipeline": _pipeline(row, several), "Run": row["run"],
                "N": _n(row),
                "Cost": "" if pd.isna(row["cost"]) else f"{row['cost']:.4g}",
                "Overall %": _number(row, OVERALL, ".1f"),
                "Difference": _number(row, "difference", "+.1f"),
                "p (Holm)": "" if pd.isna(row["p_holm"]) else f"{row['p_holm']:.2g}",
                "Paired": "" if pd.isna(row["paired"]) else row["paired"],
                **({"Protocol": row["protocol"]} if protocols else {}),
            }
            for _, row in rows.iterrows()
        ]
    )  # fmt: skip


def _n(row: pd.Series) -> str:
    if pd.isna(row["best_of_n"]):
        return "" if pd.isna(row["below_one"]) else tables.BELOW_ONE
    ends = (row["n_low"], row["n_high"])
    several = pd.notna(ends[0]) and ends[0] != ends[1]
    return f"{row['best_of_n']}{'+' * bool(row['pool_limited'])}{brackets(*ends, 'd') if several else ''}"


def _pipeline(row: pd.Series, several: bool) -> str:
    steps = f", {row['steps']} steps" if row["steps"] > 1 else ""
    return (f"{row['generator']}{steps}: " if several else "") + label(str(row["verifier"]))


def _number(row: pd.Series, column: str, form: str) -> str:
    if pd.isna(row[column]):
        return ""
    return f"{row[column]:{form}}{brackets(row[f'{column}_low'], row[f'{column}_high'], form)}"


def summary(found: SideBySide) -> dict[str, Any]:
    """Return the comparison for JSON."""
    runs = zip(found.labels, found.runs, strict=True)
    first = found.runs[0].protocol
    return {
        "runs": [
            {
                "run": name, "path": str(run.run.path), "prompts": len(run.run.prompts), "pool": run.config.pool,
                "seeds": run.config.seeds, "protocol": run.protocol.record, "differs_in": run.protocol.differs_in(first), "warnings": [text for _, text in warnings(run)],
            }
            for name, run in runs
        ],
        "budgets": [{"budget": amount, "unit": unit} for amount, unit in found.budgets],
        "rows": tables.records(found.rows),
        "notes": found.notes,
        "protocols": found.protocols,
    }  # fmt: skip


def write_page(found: SideBySide, file: Path, limit_mb: float = PAGE_MB) -> None:
    """Write the page, of at most `limit_mb`; like report.html it escapes everything and loads nothing."""
    prompts = page_candidates.Prompts()
    pools: list[Pool] = []
    lines: list[dict[str, Any]] = []
    places: dict[tuple[Any, ...], int] = {}
    for name, run in zip(found.labels, found.runs, strict=True):
        places |= {(name, *pool): len(pools) + i for i, pool in enumerate(run.pools)}
        lines += page_budgets.pipelines(run, f"{name}: ", len(pools))
        pools += page_candidates.pools(run, prompts, f"{name}: ", limit_mb / len(found.runs))
    by_n, by_task = charts.accuracy_by_n_of(lines)
    times = "; ".join(dict.fromkeys(run.times for run in found.runs if run.times))
    data = {
        "prompts": prompts.shown,
        "pipelines": lines,
        "units": page_budgets.units(lines, *found.runs),
        "byTask": by_task,
        "figures": {
            name: json.loads(figure.to_json())
            for name, figure in (("over-time", charts.accuracy_over_time(lines, times)), ("by-n", by_n))
        },
        "links": {_TABLE: _links(found.rows, places)},
    }
    tolerances = {run.config.tolerance for run in found.runs}
    fixed = {
        "title": " and ".join(found.labels),
        "runs": [(name, facts(run)) for name, run in zip(found.labels, found.runs, strict=True)],
        "table": {"id": _TABLE, "html": Markup(tables.html(shown(found.rows)))},
        "first": found.labels[0],
        "times": times,
        "within": f"{100 * tolerances.pop():g}%" if len(tolerances) == 1 else "its run's tolerance",
        "tasks": charts.curve_names(by_task),
    }

    def context(album: Album) -> dict[str, Any]:
        return fixed | {
            "warnings": [(False, note) for note in (*found.protocols, *found.notes)]
            + [
                (alarm, f"{name}: {text}")
                for name, run in zip(found.labels, found.runs, strict=True)
                for alarm, text in warnings(run)
            ],
            "about_pictures": page_candidates.about_pictures(album, pools, limit_mb),
            "kept_pictures": album.kept,
        }

    page_file.write(file, "compare.html.j2", data, pools, limit_mb, context)


def _links(rows: pd.DataFrame, places: dict[tuple[Any, ...], int]) -> dict[str, Any]:
    """Put the candidates of a row behind its accuracy, as `page._links`."""
    columns = list(shown(rows).columns)
    found = [
        [places[row["run"], row["generator"], row["steps"]], row["verifier"], int(row["best_of_n"])]
        if row["verifier"] != "none" and pd.notna(row["best_of_n"])
        else None
        for _, row in rows[["run", *PIPELINE, "best_of_n"]].iterrows()
    ]
    return {"columns": [OVERALL if c == "Overall %" else None for c in columns], "rows": found}
