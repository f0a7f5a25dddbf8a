"""Tables as CSV, Markdown, LaTeX and HTML: the best in bold, the second underlined, the unknown empty."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape as html_escape
from pathlib import Path
from typing import Any

import pandas as pd

from vhsbench.harness.common.atomic import write_output
from vhsbench.harness.common.shown import csv_bytes, markdown_table, printable
from vhsbench.harness.report.comparisons import TIMES, AccuracyTable
from vhsbench.harness.report.published import DIFFERENCE
from vhsbench.harness.report.style import label, mean_of_tasks, task_name
from vhsbench.harness.stats.curves import GENEVAL_OVERALL, OVERALL
from vhsbench.harness.stats.intervals import brackets

HEADINGS = {
    "source": "Source", "budget_ms": "Budget (ms)", "drift": "LoRA", "generator": "Generator",
    "steps": "Steps", "verifier": "Verifier", "scoring": "Scoring", "best_of_n": "Best-of-N",
    "time_ms": "Time (ms)", "single_object": "Single", "two_object": "Two", "counting": "Counting",
    "colors": "Colors", "position": "Position", "color_attr": "Attribution", OVERALL: "Overall",
    "delta": "VHS - CLIP", "change": "Change", TIMES: "Times",
    "budget_tflop": "Budget (TFLOP)", "cost_tflop": "TFLOP", "budget_gb": "Budget (GB)", "cost_gb": "Memory (GB)",
    "budget_j": "Budget (J)", "cost_j": "Energy (J)",
}  # fmt: skip
_ENDS = {"best_of_n": ("n_low", "n_high"), "time_ms": ("time_low", "time_high")}
POINTS = ("delta", "change")  # differences of accuracies
BELOW_ONE = "below one candidate"
WITH_INTERVAL = (OVERALL, GENEVAL_OVERALL, *POINTS)
_LATEX_ESCAPES = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


def latex_escape(text: str) -> str:
    return "".join(_LATEX_ESCAPES.get(c, c) for c in text)


@dataclass(frozen=True)
class _Format:
    """How a kind of file escapes cells, marks the best and second best, lays out a table, and says its protocol."""

    suffix: str
    escape: Callable[[str], str]
    best: str
    second: str
    render: Callable[[list[str], list[list[str]], list[bool]], str]
    protocol: str

    def mark(self, text: str, place: int) -> str:
        return (self.best, self.second)[place - 1] % text if place else text


@dataclass(frozen=True)
class LaidOut:
    """A table of all columns, and what of it readers see."""

    rows: pd.DataFrame
    shown: pd.DataFrame


Table = AccuracyTable | LaidOut | pd.DataFrame


def write(table: Table, stem: Path, protocol: str = "") -> None:
    """Write a table as stem.csv (all columns), stem.md, stem.tex (booktabs) and stem.html.

    protocol: the digest of the run's, a column of the CSV and a line below the others.
    """
    rows = table if isinstance(table, pd.DataFrame) else table.rows
    write_output(stem.with_name(f"{stem.name}.csv"), csv_bytes(with_protocol(rows, protocol)))
    for kind in (_MARKDOWN, _LATEX, _HTML):
        said = kind.protocol % protocol if protocol else ""
        write_output(stem.with_name(f"{stem.name}{kind.suffix}"), _rendered(table, kind) + said)


def with_protocol(rows: pd.DataFrame, protocol: str) -> pd.DataFrame:
    """Add the column `protocol`, unless that is ""."""
    return rows.assign(protocol=protocol) if protocol else rows


def markdown(table: Table) -> str:
    """Render a table as Markdown, with everything escaped."""
    return _rendered(table, _MARKDOWN)


def html(table: Table) -> str:
    """Render a table as an HTML fragment, with everything escaped."""
    return _rendered(table, _HTML)


def _rendered(table: Table, kind: _Format) -> str:
    if isinstance(table, AccuracyTable):
        return _accuracies(table, kind)
    return _plain(table.shown if isinstance(table, LaidOut) else table, kind)


def places(values: pd.Series) -> dict[int, int]:
    """Map rows to 1 for the best values and 2 for the second best, as printed (one decimal)."""
    rounded = values.astype(float).round(1)
    ranked = sorted(set(rounded.dropna()), reverse=True)[:2]
    return {i: ranked.index(v) + 1 for i, v in rounded.items() if v in ranked}  # type: ignore[misc]


def columns(table: AccuracyTable) -> list[str]:
    """List the columns of a table's rows that are shown, in order."""
    return [*table.keys, *accuracies(table.rows), *(c for c in POINTS if c in table.rows)]


def accuracies(rows: pd.DataFrame) -> list[str]:
    """List the columns of tasks and overalls: those with an interval beside them, under their own name."""
    return [c for c in map(str, rows) if f"{c}_low" in rows and c not in POINTS]


def heading(column: str, rows: pd.DataFrame) -> str:
    """Return what readers see above a column of rows."""
    if column == GENEVAL_OVERALL:
        return mean_of_tasks(map(str, rows))
    return HEADINGS.get(column) or task_name(column)


def _plain(frame: pd.DataFrame, kind: _Format) -> str:
    heads = [kind.escape(str(c)) for c in frame.columns]
    cells = [[kind.escape(_text(v)) for v in row] for row in frame.itertuples(index=False)]
    return kind.render(heads, cells, [False] * len(cells))


def _accuracies(table: AccuracyTable, kind: _Format) -> str:
    rows = table.rows.reset_index(drop=True)
    shown = columns(table)
    tasks = accuracies(rows)
    place = {c: _places(rows, c, table.groups) for c in tasks}
    cells = []
    for i, row in rows.iterrows():
        at = int(str(i))
        cells.append([_cell(row, c, place.get(c), at, kind) for c in shown])
    heads = [kind.escape(heading(c, rows)) for c in shown]
    # a rule where a budget begins
    budget = next(rows[c] for c in table.keys if c.startswith("budget_"))
    starts = list((budget != budget.shift()) & (rows.index > 0))
    return kind.render(heads, cells, starts)


def _places(rows: pd.DataFrame, column: str, groups: Sequence[str]) -> dict[int, int]:
    if "source" in rows:
        rows = rows[rows["source"] != DIFFERENCE]
    parts = rows.groupby(list(groups), dropna=False)
    # the only row of a group is not the best of anything
    return {k: v for _, part in parts if len(part) > 1 for k, v in places(part[column]).items()}


def _cell(row: pd.Series, column: str, places: dict[int, int] | None, at: int, kind: _Format) -> str:
    """Write a cell; `places` are the ranks of an accuracy's rows."""
    value = row[column]
    if pd.isna(value):
        return BELOW_ONE if column == "best_of_n" and row.get("below_one") is True else ""
    if places is not None or column in POINTS:
        signed = column in POINTS or row.get("source") == DIFFERENCE
        text = kind.mark(f"{value:+z.1f}" if signed else f"{value:z.1f}", (places or {}).get(at, 0))
        ends = (row.get(f"{column}_low"), row.get(f"{column}_high"))
        return text + (brackets(*ends) if column in WITH_INTERVAL else "")
    if column == "verifier":
        return kind.escape(label(str(value)))
    if column == "scoring":
        return kind.escape(str(value).replace("_", " "))
    limited = column == "best_of_n" and row.get("pool_limited") is True
    return kind.escape(_text(value) + ("+" if limited else "") + _ends(row, column))


def _ends(row: pd.Series, column: str) -> str:
    """Format the interval of a time or of N; "" where it is unknown or a single value."""
    if column not in _ENDS:
        return ""
    low, high = (row.get(name) for name in _ENDS[column])
    if low is None or pd.isna(low) or low == high:
        return ""
    return f" [{_text(low)}, {_text(high)}]"


def _text(value: object) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else printable(str(value))


def _markdown(heads: list[str], rows: list[list[str]], starts: list[bool]) -> str:
    return markdown_table(heads, rows)


def _latex(heads: list[str], rows: list[list[str]], starts: list[bool]) -> str:
    body = "".join(
        ("\\midrule\n" if start else "") + f"{' & '.join(row)} \\\\\n"
        for row, start in zip(rows, starts, strict=True)
    )
    return (
        f"\\begin{{tabular}}{{{'l' * len(heads)}}}\n\\toprule\n{' & '.join(heads)} \\\\\n\\midrule\n"
        f"{body}\\bottomrule\n\\end{{tabular}}\n"
    )


def _html(heads: list[str], rows: list[list[str]], starts: list[bool]) -> str:
    head = "".join(f'<th scope="col">{h}</th>' for h in heads)
    body = "".join(
        f"<tr{' class=start' if start else ''}>{''.join(f'<td>{c}</td>' for c in row)}</tr>\n"
        for row, start in zip(rows, starts, strict=True)
    )
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n"


def markdown_escape(text: str) -> str:
    """Escape a text for a cell or line of Markdown."""
    # Markdown passes HTML through
    return html_escape(text, quote=False).replace("|", r"\|")


_MARKDOWN = _Format(".md", markdown_escape, "**%s**", "<u>%s</u>", _markdown, "\nProtocol: `%s`\n")
_LATEX = _Format(".tex", latex_escape, r"\textbf{%s}", r"\underline{%s}", _latex, "%% protocol %s\n")
_HTML = _Format(
    ".html", html_escape, "<strong>%s</strong>", "<u>%s</u>", _html, "<p>Protocol: <code>%s</code></p>\n"
)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Convert rows to plain Python, None where unknown."""
    objects = frame.astype(object).where(frame.notna(), None)
    return [
        {str(k): v.item() if hasattr(v, "item") else v for k, v in row.items()}
        for row in objects.to_dict("records")
    ]
