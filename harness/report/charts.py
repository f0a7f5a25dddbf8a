"""The page's interactive charts (plotly), with a value to read at every point."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape as html_escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from vhsbench.harness.common.tasks import TAGS, in_order
from vhsbench.harness.report.calibration import reliability
from vhsbench.harness.report.derived import Derived
from vhsbench.harness.report.figures import SCORE_BINS, score_range
from vhsbench.harness.report.style import STAGE_COLORS, label, names_in, pool_title, task_name
from vhsbench.harness.stats.curves import GENEVAL_OVERALL, OVERALL
from vhsbench.harness.stats.intervals import brackets
from vhsbench.harness.store.keys import PIPELINE

DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
SYMBOLS = {"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down",
            "P": "cross", "X": "x", "<": "triangle-left", ">": "triangle-right", "*": "star", "p": "pentagon",
            "h": "hexagon", "d": "diamond-tall", "8": "octagon", "H": "hexagon2", "x": "x-thin-open"}  # fmt: skip


def accuracy_over_time(lines: Sequence[dict[str, Any]], times: str = "") -> go.Figure:
    """Plot overall accuracy over the time of best-of-N; the last trace marks the slider's budget."""
    fig = _figure(timed("wall-clock of best-of-N (ms)", times), "overall accuracy (%)")
    for line in lines:
        overall = line["tasks"][OVERALL]
        ns = list(range(1, len(overall["accuracy"]) + 1))
        cost = line["costs"].get("ms")
        at = [cost["fixed"] + n * cost["each"] for n in ns] if cost else []
        bounds = [[n, brackets(*ends)] for n, *ends in zip(ns, overall["low"], overall["high"], strict=True)]
        fig.add_scatter(
            x=at, y=overall["accuracy"], customdata=bounds, name=html_escape(line["name"]), mode="lines+markers",
            line={"color": line["color"], "dash": line["dash"], "width": 2},
            marker={"symbol": line["symbol"], "size": 6},
            hovertemplate="N = %{customdata[0]}: %{y:.1f}%%{customdata[1]} in %{x:.0f} ms"
            "<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    fig.add_scatter(
        x=[], y=[], name="at this budget", mode="markers", hoverinfo="skip",
        marker={"symbol": "circle-open", "size": 14, "color": "#000000", "line": {"width": 2}},
    )  # fmt: skip
    return fig


def accuracy_by_n(derived: Derived, tag: str = OVERALL) -> tuple[go.Figure, dict[str, list[list[float]]]]:
    """Plot accuracy over N for one task; also return the values of all tasks by trace, to switch between."""
    fig = _figure("N", "accuracy (%)", log_x=True)
    values: dict[str, list[list[Any]]] = {str(t): [] for t in derived.curves["tag"].unique()}
    place = {name: i for i, name in enumerate(derived.looks)}
    lines: list[tuple[Any, pd.DataFrame]] = list(derived.curves.groupby(PIPELINE))
    for keys, part in sorted(lines, key=lambda line: (*line[0][:2], place[line[0][2]])):
        generator, steps, verifier = keys
        style = derived.looks[verifier]
        dash = {"--": "dash", ":": "dot"}.get(style.line, "solid")
        ns = sorted(part["n"].unique())
        for name, rows in values.items():
            chosen = part[part["tag"] == name].sort_values("n")
            rows.append([rounded(v) for v in chosen["accuracy"]])
        fig.add_scatter(
            x=[int(n) for n in ns], y=values[tag][-1], mode="lines+markers",
            name=html_escape(pipeline_name(derived, generator, steps, verifier)),
            line={"color": style.color, "dash": dash},
            marker={"size": 5, "symbol": SYMBOLS.get(style.marker, "circle")},
            hovertemplate="N = %{x}: %{y:.1f}%<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    return fig, values


def accuracy_by_n_of(lines: Sequence[dict[str, Any]]) -> tuple[go.Figure, dict[str, list[list[float]]]]:
    """Plot the accuracy over N of the page's pipelines (of several runs), as `accuracy_by_n` does."""
    fig = _figure("N", "accuracy (%)", log_x=True)
    tags = dict.fromkeys(tag for line in lines for tag in line["tasks"])
    values = {tag: [line["tasks"].get(tag, {"accuracy": []})["accuracy"] for line in lines] for tag in tags}
    for line, accuracies in zip(lines, values[OVERALL], strict=True):
        fig.add_scatter(
            x=list(range(1, len(accuracies) + 1)), y=accuracies, mode="lines+markers", name=html_escape(line["name"]),
            line={"color": line["color"], "dash": line["dash"]}, marker={"symbol": line["symbol"], "size": 5},
            hovertemplate="N = %{x}: %{y:.1f}%<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    return fig, values


def score_histograms(derived: Derived) -> go.Figure:
    """Plot the share of candidates by score in 40 bins, over all pools; each range of scores has an axis of its own."""
    fig = _figure("score", "candidates (%)")
    axes: dict[tuple[float, float], str] = {}
    for verifier in names_in(derived.run.scores, derived.looks):
        part = derived.run.scores[derived.run.scores["verifier"] == verifier]
        style, ends = derived.looks[verifier], score_range(part["score"])
        axis = axes.setdefault(ends, f"x{len(axes) + 1}" if axes else "x")
        bins = np.linspace(*ends, SCORE_BINS + 1)
        share = 100 * np.histogram(part["score"], bins)[0] / len(part)
        fig.add_bar(
            x=[round(float(c), 4) for c in (bins[:-1] + bins[1:]) / 2], y=[rounded(v) for v in share],
            xaxis=axis, yaxis=axis.replace("x", "y"), name=html_escape(style.label), marker={"color": style.color},
            hovertemplate=f"%{{y:.1f}}% within {(bins[1] - bins[0]) / 2:.3g} of %{{x:.3f}}"
            "<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    fig.update_layout(bargap=0.05)
    if len(axes) > 1:
        fig.update_layout(grid={"rows": len(axes), "columns": 1, "pattern": "independent", "ygap": 0.3})
        fig.update_layout(height=420 * len(axes) * 0.7)
        fig.update_xaxes(title="score").update_yaxes(title="candidates (%)")
    return fig


def reliability_chart(derived: Derived) -> go.Figure | None:
    """Plot the share of right candidates over P(yes), over all pools; None where no verifier gives it."""
    fig = _figure("P(yes)", "right by GenEval (%)")
    fig.add_scatter(x=[0, 1], y=[0, 100], mode="lines", line={"color": "#888888", "dash": "dash"},
                    name="perfect", hoverinfo="skip")  # fmt: skip
    bins = reliability(derived.run.candidates, derived.run.scores)
    if bins.empty:
        return None
    for verifier in names_in(bins, derived.looks):
        part, style = bins[(bins["verifier"] == verifier) & (bins["n"] > 0)], derived.looks[verifier]
        fig.add_scatter(
            x=[rounded(v, 4) for v in part["confidence"]], y=[rounded(100 * v) for v in part["right"]],
            customdata=[int(n) for n in part["n"]], mode="lines+markers", name=html_escape(style.label),
            line={"color": style.color}, marker={"symbol": SYMBOLS.get(style.marker, "circle")},
            hovertemplate="P(yes) = %{x:.2f}: %{y:.1f}% right (n = %{customdata})"
            "<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    return fig


def stage_times(derived: Derived) -> go.Figure:
    """Plot the median time of every stage, of each candidate and of the winner alone."""
    fig = _figure(timed("wall-clock (ms)", derived.times), "")
    parts = [derived.breakdown(g, s).assign(generator=g, steps=s) for g, s in derived.pools]
    costs = pd.concat(parts, ignore_index=True)
    order_of_rows = [_row_name(derived, row) for _, row in costs.iterrows()]
    for stage, color in STAGE_COLORS.items():
        rows = costs[costs["stage"] == stage]
        if rows.empty:
            continue
        names = [_row_name(derived, row) for _, row in rows.iterrows()]
        fig.add_bar(
            x=[rounded(v, 4) for v in rows["wall_ms"]], y=names, name=stage, orientation="h",
            marker={"color": color}, hovertemplate="%{x:.2f} ms<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    order = {"categoryorder": "array", "categoryarray": list(dict.fromkeys(order_of_rows))}
    fig.update_layout(barmode="stack", yaxis={"autorange": "reversed", "automargin": True} | order)
    return fig


def _row_name(derived: Derived, row: pd.Series) -> str:
    name = pipeline_name(derived, row["generator"], row["steps"], row["verifier"])
    return html_escape(f"{name}, {row['part']}")


def curve_names(tags: Iterable[str]) -> dict[str, str]:
    """Map each tag of accuracy curves to its displayed name, the overalls first, tasks in the order of tables."""
    tasks = in_order(t for t in tags if t not in (OVERALL, GENEVAL_OVERALL))
    of_tasks = "GenEval overall (mean of tasks)" if set(tasks) & set(TAGS) else "mean of tasks"
    overalls = {OVERALL: "overall (mean over prompts)", GENEVAL_OVERALL: of_tasks}
    return overalls | {t: task_name(t) for t in tasks}


def pipeline_name(derived: Derived, generator: str, steps: int, verifier: str) -> str:
    """Name a pipeline for readers: by its verifier alone if there is one pool."""
    if len(derived.pools) == 1:
        return label(verifier)
    return f"{pool_title((generator, steps), derived.pools)}: {label(verifier)}"


def timed(title: str, times: str) -> str:
    """Add whose times these are, if they are not the run's own."""
    return f"{title}; {html_escape(times)}" if times else title


def _figure(x: str, y: str, log_x: bool = False) -> go.Figure:
    powers = [2**k for k in range(12)]
    axis = {"type": "log", "tickmode": "array", "tickvals": powers} if log_x else {}
    return go.Figure(
        layout={
            "template": "plotly_white", "font": {"family": "system-ui, sans-serif", "size": 13},
            "margin": {"l": 60, "r": 15, "t": 35, "b": 50}, "height": 420,
            "legend": {"orientation": "h", "y": -0.22, "yanchor": "top"},
            "xaxis": {"title": {"text": x}} | axis, "yaxis": {"title": {"text": y}},
        }
    )  # fmt: skip


def rounded(value: Any, digits: int = 3) -> float | None:
    """Round for the page; None where unknown (one prompt has no interval)."""
    return None if pd.isna(value) else round(float(value), digits)
