"""The history as files: history.csv, history.md, and history.html with charts, which opens from disk."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape as html_escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.subplots import make_subplots

from vhsbench.harness.common.atomic import write_output
from vhsbench.harness.common.shown import csv_bytes
from vhsbench.harness.report import tables
from vhsbench.version import __version__

_PANELS = (  # title, column, and what a line has in common: it never joins two devices or two pools
    ("accuracy, %", "accuracy", ("baseline", "pool", "at")),
    ("AUC", "auc", ("baseline", "pool")),
    ("scoring, ms a candidate", "ms", ("baseline", "device")),
)
_SHORT = ("commit", "checkpoint", "pool")  # hashes; twelve digits are enough for readers
_FORMS = {"accuracy": ".2f", "auc": ".4f", "ms": ".2f"}


def shown(rows: pd.DataFrame) -> pd.DataFrame:
    """Lay the rows out for readers, the unknown empty."""
    table = rows.astype(object).where(rows.notna(), "")
    for column in _SHORT:
        table[column] = [str(value)[:12] for value in table[column]]
    for column, form in _FORMS.items():
        table[column] = ["" if value == "" else f"{value:{form}}" for value in table[column]]
    return table


def write(rows: pd.DataFrame, folder: Path) -> None:
    """Write history.csv, history.md and history.html; everything is escaped, and the page loads nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    write_output(folder / "history.csv", csv_bytes(rows))
    write_output(folder / "history.md", tables.markdown(shown(rows)))
    assets = files("vhsbench.harness.report").joinpath("assets")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.from_string(assets.joinpath("history.html.j2").read_text(encoding="utf-8")).render(
        version=__version__,
        chart=Markup(chart(rows).to_html(full_html=False, include_plotlyjs=True)),
        table=Markup(tables.html(shown(rows))),
        css=Markup(assets.joinpath("page.css").read_text(encoding="utf-8")),
    )
    write_output(folder / "history.html", page)


def chart(rows: pd.DataFrame) -> go.Figure:
    """Draw accuracy, AUC and time by date, a line for each baseline, pool and N, or baseline and device."""
    figure = make_subplots(rows=len(_PANELS), cols=1, subplot_titles=[title for title, _, _ in _PANELS])
    for panel, (_, column, common) in enumerate(_PANELS, 1):
        known = rows.dropna(subset=["when", column])
        for key, line in known.groupby(list(common), dropna=False):
            once = line.drop_duplicates(["when", "event", "source", column])
            figure.add_scatter(
                row=panel, col=1, x=list(once["when"]), y=list(once[column]), mode="lines+markers",
                name=_name(common, key), legend=f"legend{panel}" if panel > 1 else "legend",
                text=[_hover(row) for _, row in once.iterrows()], hovertemplate="%{y}<br>%{text}<extra></extra>",
            )  # fmt: skip
    legends = {
        f"legend{panel}" if panel > 1 else "legend": {"y": 1 - (panel - 1) / len(_PANELS), "yanchor": "top"}
        for panel in range(1, len(_PANELS) + 1)
    }
    figure.update_layout(height=330 * len(_PANELS), template="plotly_white", **legends)
    figure.update_xaxes(type="date")
    return figure


def _name(common: Sequence[str], key: tuple[Any, ...]) -> str:
    parts = [str(v)[:8] if c == "pool" else str(v) for c, v in zip(common, key, strict=True) if pd.notna(v)]
    return html_escape(", ".join(parts))


def _hover(row: pd.Series) -> str:
    said = [str(row["when"]), f"{row['event']}: {row['source']}"]
    said += [
        f"{name} {str(row[name])[:12]}" for name in ("verdict", "commit", "device") if pd.notna(row[name])
    ]
    return "<br>".join(html_escape(text) for text in said)
