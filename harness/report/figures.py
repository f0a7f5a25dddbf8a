"""Figures of derived data: each function takes a DataFrame and returns a Figure for `style.save`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import gaussian_kde

from vhsbench.harness.cost.cost_model import CostModel
from vhsbench.harness.report.comparisons import VHS
from vhsbench.harness.report.style import (
    COLUMN,
    STAGE_COLORS,
    TWO_COLUMNS,
    USUAL,
    Looks,
    figure,
    label,
    styled,
    task_names,
    wrapped,
)
from vhsbench.harness.stats.curves import OVERALL, tasks_of
from vhsbench.harness.stats.intervals import Floats


def accuracy_over_cost(
    points: pd.DataFrame, unit: str, title: str, budgets: Sequence[float] = (), looks: Looks = USUAL
) -> Figure:
    """Draw the paper's Fig. 5: overall accuracy (%) over the cost of best-of-N.

    points: verifier, n, cost, accuracy, low, high. The band is the 95% interval; numbers are N.
    """
    with styled():
        fig = figure(COLUMN * 1.35, 2.9)
        axes = fig.subplots()
        for verifier, part in points.groupby("verifier", sort=True):
            style, rows = looks[str(verifier)], part.sort_values("n")
            axes.fill_between(rows["cost"], rows["low"], rows["high"], color=style.color, alpha=0.12, lw=0)
            axes.plot(rows["cost"], rows["accuracy"], color=style.color, marker=style.marker,
                      ms=3, lw=1.3, label=style.label)  # fmt: skip
            for _, row in rows[rows["n"].isin([4, rows["n"].max()])].iterrows():
                axes.annotate(f"{row['n']:.0f}", (row["cost"], row["accuracy"]), color=style.color,
                              textcoords="offset points", xytext=(0, 4), ha="center", fontsize=6)  # fmt: skip
        for budget in budgets:
            axes.axvline(budget, color="#888888", lw=0.6, ls="--", zorder=0)
        axes.set(xlabel=unit, ylabel="overall accuracy (%)", title=title)
        _legend(fig, axes)
    return fig


def strategies(points: pd.DataFrame, title: str, budgets: Sequence[float] = ()) -> Figure:
    """Draw the accuracy (%) of strategies over a hard budget in ms, and the n that was chosen.

    points: strategy, budget, n, accuracy. Best-of-N is solid.
    """
    names = list(points.groupby("strategy")["accuracy"].max().sort_values(ascending=False).index)
    with styled():
        fig = figure(TWO_COLUMNS, 5.0)
        upper, lower = fig.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        for i, name in enumerate(names):
            part = points[points["strategy"] == name].sort_values("budget")
            plain = name.startswith("best-of-n:")
            look_of = {
                "color": matplotlib.colormaps["tab10"](i % 10), "lw": 1.6 if plain else 1.0, "ms": 2.5,
                "ls": "-" if plain else ("--", "-.", ":")[i % 3], "marker": "osD^vPX*<>"[i % 10],
            }  # fmt: skip
            upper.plot(part["budget"], part["accuracy"], label=name, **look_of)
            lower.plot(part["budget"], part["n"], **look_of)
        for axes in (upper, lower):
            for budget in budgets:
                axes.axvline(budget, color="#888888", lw=0.6, ls="--", zorder=0)
        lower.set_xscale("log")
        for formatter in (lower.xaxis.set_major_formatter, lower.xaxis.set_minor_formatter):
            formatter(lambda x, _: f"{x:g}")
        lower.set_yscale("log", base=2)
        lower.yaxis.set_major_formatter(lambda x, _: f"{x:g}")
        upper.set(ylabel="overall accuracy (%), held-out prompts", title=title)
        lower.set(xlabel="time that no prompt may pass (ms)", ylabel="n chosen most often")
        fig.legend(loc="outside right upper", frameon=False)
    return fig


def accuracy_by_n(curves: pd.DataFrame, title: str, looks: Looks = USUAL) -> Figure:
    """Draw accuracy over N by task. curves: verifier, tag, n, accuracy, low, high, n_prompts."""
    with styled():
        names = task_names(tasks_of(curves))
        across = min(3, len(names))
        down = -(-len(names) // across)
        fig = figure(TWO_COLUMNS, 2.0 * down)
        panels = fig.subplots(down, across, sharex=True, squeeze=False).ravel()
        for axes in panels[len(names) :]:
            axes.set_axis_off()
        panels = panels[: len(names)]
        for axes, (tag, name) in zip(panels, names.items(), strict=True):
            for verifier, part in curves[curves["tag"] == tag].groupby("verifier", sort=True):
                style, rows = looks[str(verifier)], part.sort_values("n")
                axes.plot(
                    rows["n"], rows["accuracy"], style.line, color=style.color, lw=1.2, label=style.label
                )
                axes.fill_between(rows["n"], rows["low"], rows["high"], color=style.color, alpha=0.1, lw=0)
            prompts = curves.loc[curves["tag"] == tag, "n_prompts"]
            count = f" ({prompts.iloc[0]} prompts)" if len(prompts) else ""
            axes.set_title(name + count)
            axes.set_ylim(top=min(axes.get_ylim()[1], 101))
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        for axes in panels[-across:]:
            axes.set_xlabel("N")
        for axes in panels[::across]:
            axes.set_ylabel("accuracy (%)")
        _legend(fig, panels[0], 5)
        fig.suptitle(title, fontsize=8.5)
    return fig


_DENSITY_BINS = 1000
SCORE_BINS = 40  # of 5% of the paper's range, as in its Fig. 6


def score_range(scores: pd.Series) -> tuple[float, float]:
    """Return the ends of an axis of scores: the paper's -1 and 1, or those of scores that lie beyond."""
    low, high = float(scores.min()), float(scores.max())
    if low >= -1 and high <= 1:
        return -1.0, 1.0
    return (low, high) if low < high else (low - 1, high + 1)


def score_distributions(scores: pd.DataFrame, title: str, looks: Looks = USUAL) -> Figure:
    """Draw the paper's Fig. 6: the share of candidates by score in 5% bins, density, and box plots above.

    scores: verifier, score, correct. A verifier's axis is `score_range` of its scores.
    """
    names = sorted(scores["verifier"].unique())
    with styled():
        down, across = _panels(len(names))
        fig = figure(TWO_COLUMNS, 2.8 * down)
        # a verifier's two panels stand above each other, with an axis of their own
        grid = fig.subplots(2 * down, across, sharey="row", squeeze=False,
                            gridspec_kw={"height_ratios": [1, 4] * down})  # fmt: skip
        for place, name in enumerate(names):
            part, style = scores[scores["verifier"] == name], looks[name]
            low, high = score_range(part["score"])
            bins = np.linspace(low, high, SCORE_BINS + 1)
            row, column = divmod(place, across)
            box, bars = grid[2 * row : 2 * row + 2, column]
            box.sharex(bars)
            box.tick_params(labelbottom=False)
            box.boxplot(part["score"], orientation="horizontal", widths=0.6, showfliers=False,
                        patch_artist=True, boxprops={"facecolor": style.color, "alpha": 0.35},
                        medianprops={"color": "black"})  # fmt: skip
            box.set_yticks([])
            box.set_title(wrapped(f"{style.label} (n = {len(part)})", TWO_COLUMNS / across))
            split = [part.loc[part["correct"] == value, "score"] for value in (False, True)]
            weights = [np.full(len(s), 100 / len(part)) for s in split]
            bars.hist(split, bins=list(bins), weights=weights, stacked=True, label=["wrong by GenEval", "right (in the verifier's colour)"],
                      color=["#BBBBBB", style.color])  # fmt: skip
            if part["score"].nunique() > 2:
                x = np.linspace(-1, 1, 200)
                unit = 2 * (part["score"].to_numpy(float) - low) / (high - low) - 1
                bars.plot((low + high) / 2 + (high - low) / 2 * x, 5 * _density(unit, x),
                          color="black", lw=0.9, label="density")  # fmt: skip
            bars.set_xlabel("score")
            if column == 0:
                bars.set_ylabel("candidates (%)")
        _hide(grid[-2:, across - (-len(names) % across) :].ravel())
        _legend(fig, grid[1, 0])
        fig.suptitle(title, fontsize=8.5)
    return fig


def _density(scores: Floats, x: Floats) -> Floats:
    """Smooth the density on [-1, 1], mirrored at the ends so that none leaks out.

    Scores are first counted in bins of a thirtieth of the kernel's width, so that time does not grow with their number.
    """
    counts, edges = np.histogram(scores, bins=_DENSITY_BINS, range=(-1, 1))
    middles = (edges[:-1] + edges[1:]) / 2
    kept = counts > 0
    at, weights = middles[kept], np.tile(counts[kept], 3)
    mirrored = np.concatenate([at, 2 - at, -2 - at])
    return np.asarray(3 * gaussian_kde(mirrored, bw_method=0.05, weights=weights)(x))


def latency_breakdown(stages: pd.DataFrame, title: str) -> Figure:
    """Draw the time of each stage. stages: verifier, part ("per candidate" or "fixed"), stage, wall_ms."""
    names = sorted(stages["verifier"].unique())
    parts = ("per candidate", "fixed")
    with styled():
        fig = figure(COLUMN * 1.35, 0.9 + 0.5 * len(names))
        axes = fig.subplots()
        labels = [f"{label(n)}, {p}" for n in names for p in parts]
        for row, (name, part) in enumerate((n, p) for n in names for p in parts):
            chosen = stages[(stages["verifier"] == name) & (stages["part"] == part)]
            left = 0.0
            for stage in (s for s in STAGE_COLORS if s in set(chosen["stage"])):
                width = float(chosen.loc[chosen["stage"] == stage, "wall_ms"].sum())
                axes.barh(row, width, left=left, color=STAGE_COLORS[stage], edgecolor="white", lw=0.4)
                left += width
        used = [s for s in STAGE_COLORS if s in set(stages["stage"])]
        for stage in used:
            axes.barh(0, 0, color=STAGE_COLORS[stage], label=stage)
        axes.set_yticks(range(len(labels)), labels)
        axes.invert_yaxis()
        axes.set(xlabel="wall-clock (ms)", title=title)
        _legend(fig, axes, 4)
    return fig


_ACROSS = 4  # panels of verifiers beside each other


def _panels(verifiers: int) -> tuple[int, int]:
    """Return the rows and columns of a panel a verifier."""
    across = min(verifiers, _ACROSS)
    return -(-verifiers // across), across


def _hide(panels: Iterable[Axes]) -> None:
    for axes in panels:
        axes.set_axis_off()


_LETTER, _HANDLE, _ROW = (
    0.052,
    0.35,
    0.16,
)  # inches of a legend: a letter, what stands before the words, a row
_ROWS = 2  # of a legend, for which a figure has room


def _legend(fig: Figure, axes: Axes, most: int = 3) -> None:
    """Draw the legend of all axes below the figure, in at most so many columns, or as its longest entry leaves room for."""
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        entry = _HANDLE + _LETTER * max(map(len, labels))
        columns = min(most, max(1, int(fig.get_figwidth() / entry)))
        rows = -(-len(labels) // columns)
        fig.set_figheight(fig.get_figheight() + _ROW * max(0, rows - _ROWS))
        fig.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def overall(curves: pd.DataFrame) -> pd.DataFrame:
    """Select the rows of the prompt-weighted overall, the paper's."""
    return curves[curves["tag"] == OVERALL]


def teaser(
    points: pd.DataFrame,
    saving: tuple[float, float, float] | None,
    title: str,
    looks: Looks = USUAL,
    fast_name: str = VHS,
) -> Figure:
    """Draw the paper's first figure: accuracy over time, and the time that VHS saves at equal accuracy.

    points: verifier, n, cost (ms), accuracy, low, high; saving: accuracy, ms of MLLM w/ CLIP, ms of VHS, which
    `fast_name` is the label of.
    """
    with styled():
        fig = figure(COLUMN, 2.6)
        axes = fig.subplots()
        for verifier, part in points.groupby("verifier", sort=True):
            style, rows = looks[str(verifier)], part.sort_values("n")
            axes.plot(rows["cost"], rows["accuracy"], color=style.color, marker=style.marker, ms=3,
                      lw=1.6, label=style.label)  # fmt: skip
        if saving is not None:
            accuracy, slow, fast = saving
            arrow = {"arrowstyle": "-|>", "color": "black", "lw": 1.1, "shrinkA": 0, "shrinkB": 0}
            axes.annotate("", (fast, accuracy), (slow, accuracy), arrowprops=arrow)
            more = "less" if fast < slow else "more"
            # in the title, where no curve can cross it
            title = f"{title}: {label(fast_name)} takes {abs(100 * (fast / slow - 1)):.0f}% {more} time for {accuracy:.1f}%"
        axes.set(
            xlabel="wall-clock of best-of-N (ms)", ylabel="overall accuracy (%)", title=wrapped(title, COLUMN)
        )
        _legend(fig, axes)
    return fig


def n_per_budget(
    models: Mapping[str, CostModel],
    pool: int,
    budgets: Sequence[float],
    tolerance: float,
    title: str,
    looks: Looks = USUAL,
) -> tuple[Figure, pd.DataFrame]:
    """Draw how many candidates a budget affords; also return the data: verifier, budget_ms, n."""
    longest = max(m.predict(pool) for m in models.values())
    grid = np.unique([*np.linspace(0, longest, 200)[1:], *budgets])
    rows = [
        (verifier, float(budget), model.largest_n(float(budget), tolerance) or 0)
        for verifier, model in models.items()
        for budget in grid
    ]
    data = pd.DataFrame(rows, columns=["verifier", "budget_ms", "n"])
    data["n"] = data["n"].clip(upper=pool)
    with styled():
        fig = figure(COLUMN * 1.35, 2.7)
        axes = fig.subplots()
        for verifier, part in data.groupby("verifier", sort=True):
            style = looks[str(verifier)]
            axes.step(
                part["budget_ms"], part["n"], where="post", color=style.color, lw=1.3, label=style.label
            )
        for budget in budgets:
            axes.axvline(budget, color="#888888", lw=0.6, ls="--", zorder=0)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        above = f"budget (ms; up to {100 * tolerance:g}% above it)"
        axes.set(xlabel=above, ylabel="N", ylim=(0, pool + 1), title=title)
        _legend(fig, axes)
    return fig, data


def reliability(bins: pd.DataFrame, title: str, looks: Looks = USUAL) -> Figure:
    """Draw the share of right candidates over P(yes).

    bins: verifier, low, high, confidence, right, share_low, share_high, n, ece (equal in all rows of a verifier).
    """
    names = sorted(bins["verifier"].unique())
    with styled():
        down, across = _panels(len(names))
        fig = figure(TWO_COLUMNS, 2.9 * down)
        grid = fig.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
        _hide(grid[len(names) :])
        for axes, name in zip(grid, names, strict=False):
            part, style = bins[(bins["verifier"] == name) & (bins["n"] > 0)], looks[name]
            axes.plot([0, 1], [0, 1], color="#888888", ls="--", lw=0.8)
            error = [part["right"] - part["share_low"], part["share_high"] - part["right"]]
            axes.errorbar(part["confidence"], part["right"], yerr=error, color=style.color,
                          marker=style.marker, ms=4, lw=1.2, elinewidth=0.8, capsize=2)  # fmt: skip
            axes.bar(part["low"], part["n"] / part["n"].sum(), width=part["high"] - part["low"],
                     align="edge", color=style.color, alpha=0.2)  # fmt: skip
            axes.set_title(wrapped(f"{style.label} (ECE {part['ece'].iloc[0]:.3f})", TWO_COLUMNS / across))
            axes.set(xlabel="P(yes)", xlim=(0, 1), ylim=(0, 1.02), aspect="equal")
        for axes in grid[::across]:
            axes.set_ylabel("share right by GenEval\n(bars: share of candidates)")
        fig.suptitle(title, fontsize=8.5)
    return fig
