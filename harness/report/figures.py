"""Figures of derived data: each function takes a DataFrame and returns a Figure for `style.save`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from scipy.interpolate import PchipInterpolator

from vhsbench.harness.cost.cost_model import CostModel
from vhsbench.harness.report.comparisons import Saving
from vhsbench.harness.report.drawing import draw_budgets, draw_legend, draw_ns, hide, panels
from vhsbench.harness.report.style import (
    SCREEN,
    STAGE_COLORS,
    USUAL,
    Looks,
    Sheet,
    label,
    names_in,
    spare_look,
    task_names,
)
from vhsbench.harness.stats.curves import OVERALL, tasks_of
from vhsbench.harness.stats.intervals import Floats


def accuracy_over_cost(
    points: pd.DataFrame,
    unit: str,
    title: str,
    budgets: Sequence[float] = (),
    looks: Looks = USUAL,
    sheet: Sheet = SCREEN,
) -> Figure:
    """Draw the paper's Fig. 5: overall accuracy (%) over the cost of best-of-N.

    points: verifier, n, cost, accuracy, low, high. The band is the 95% interval; numbers are N; budgets are in ms.
    """
    with sheet.styled():
        fig = sheet.figure(sheet.column, 2.6)
        axes = fig.subplots()
        numbered = []
        for verifier in names_in(points, looks):
            style, rows = looks[verifier], points[points["verifier"] == verifier].sort_values("n")
            axes.fill_between(rows["cost"], rows["low"], rows["high"], color=style.color, alpha=0.12, lw=0)
            axes.plot(rows["cost"], rows["accuracy"], color=style.color, marker=style.marker,
                      ms=3, lw=1.3, label=style.label)  # fmt: skip
            few = rows[rows["n"].isin([4, rows["n"].max()])]
            numbered += [(row["n"], row["cost"], row["accuracy"], style.color) for _, row in few.iterrows()]
        axes.set(xlabel=unit, ylabel="overall accuracy (%)")
        draw_budgets(fig, axes, budgets, title, sheet)
        draw_legend(fig, axes, sheet)
        draw_ns(fig, axes, numbered, sheet)
    return fig


def strategies(
    points: pd.DataFrame, title: str, budgets: Sequence[float] = (), sheet: Sheet = SCREEN
) -> Figure:
    """Draw the accuracy (%) of strategies over a hard budget in ms, and the n that was chosen.

    points: strategy, budget, n, accuracy. Best-of-N is solid.
    """
    names = list(points.groupby("strategy")["accuracy"].max().sort_values(ascending=False).index)
    with sheet.styled():
        fig = sheet.figure(sheet.text, 5.0)
        upper, lower = fig.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        for i, name in enumerate(names):
            part = points[points["strategy"] == name].sort_values("budget")
            plain, style = name.startswith("best-of-n:"), spare_look(name, i)
            look_of = {
                "color": style.color, "lw": 1.6 if plain else 1.0, "ms": 2.5,
                "ls": "-" if plain else ("--", "-.", ":")[i % 3], "marker": style.marker,
            }  # fmt: skip
            upper.plot(part["budget"], part["accuracy"], label=name, **look_of)
            lower.plot(part["budget"], part["n"], **look_of)
        lower.set_xscale("log")
        lower.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        lower.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        lower.xaxis.set_minor_formatter(NullFormatter())
        lower.set_yscale("log", base=2)
        lower.yaxis.set_major_formatter(lambda x, _: f"{x:g}")
        upper.set(ylabel="overall accuracy (%), held-out prompts")
        lower.set(xlabel="time that no prompt may pass (ms)", ylabel="n chosen most often")
        draw_budgets(fig, upper, budgets, title, sheet)
        draw_budgets(fig, lower, budgets, "", sheet, named=False)
        draw_legend(fig, upper, sheet)
    return fig


def accuracy_by_n(curves: pd.DataFrame, title: str, looks: Looks = USUAL, sheet: Sheet = SCREEN) -> Figure:
    """Draw accuracy over N by task. curves: verifier, tag, n, accuracy, low, high, n_prompts.

    Markers stand at powers of two.
    """
    with sheet.styled():
        names = task_names(tasks_of(curves))
        across = min(3, len(names))
        down = -(-len(names) // across)
        fig = sheet.figure(sheet.text, 2.0 * down)
        grid = fig.subplots(down, across, sharex=True, squeeze=False).ravel()
        hide(grid[len(names) :])
        grid = grid[: len(names)]
        for axes, (tag, name) in zip(grid, names.items(), strict=True):
            here = curves[curves["tag"] == tag]
            for verifier in names_in(here, looks):
                style, rows = looks[verifier], here[here["verifier"] == verifier].sort_values("n")
                marked = np.flatnonzero(np.isin(rows["n"], 2 ** np.arange(31))).tolist()
                axes.plot(
                    rows["n"], rows["accuracy"], style.line, color=style.color, marker=style.marker, ms=3,
                    markevery=marked, lw=1.2, label=style.label,
                )  # fmt: skip
                axes.fill_between(rows["n"], rows["low"], rows["high"], color=style.color, alpha=0.1, lw=0)
            count = f" ({here['n_prompts'].iloc[0]} prompts)" if len(here) else ""
            axes.set_title(sheet.wrapped(name + count, sheet.text / across))
            axes.set_ylim(top=min(axes.get_ylim()[1], 101))
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        for axes in grid[-across:]:
            axes.set_xlabel("N")
        for axes in grid[::across]:
            axes.set_ylabel("accuracy (%)")
        draw_legend(fig, grid[0], sheet, 5)
        if title:
            fig.suptitle(title)
    return fig


SCORE_BINS = 40  # of 5% of the paper's range, as in its Fig. 6


def score_range(scores: pd.Series) -> tuple[float, float]:
    """Return the ends of an axis of scores: the paper's -1 and 1, or those of scores that lie beyond."""
    low, high = float(scores.min()), float(scores.max())
    if low >= -1 and high <= 1:
        return -1.0, 1.0
    return (low, high) if low < high else (low - 1, high + 1)


def score_distributions(
    scores: pd.DataFrame, title: str, looks: Looks = USUAL, sheet: Sheet = SCREEN
) -> Figure:
    """Draw the paper's Fig. 6: the share of candidates by score in 5% bins, density, and box plots above.

    scores: verifier, score, correct. A verifier's axis is `score_range` of its scores.
    """
    names = names_in(scores, looks)
    with sheet.styled():
        down, across = panels(len(names))
        fig = sheet.figure(sheet.text, 2.8 * down)
        # a verifier's two panels stand above each other, with an axis of their own
        grid = fig.subplots(2 * down, across, sharey="row", squeeze=False,
                            gridspec_kw={"height_ratios": [1, 4] * down})  # fmt: skip
        for place, name in enumerate(names):
            part, style = scores[scores["verifier"] == name], looks[name]
            bins = np.linspace(*score_range(part["score"]), SCORE_BINS + 1)
            row, column = divmod(place, across)
            box, bars = grid[2 * row : 2 * row + 2, column]
            box.sharex(bars)
            box.tick_params(labelbottom=False)
            box.boxplot(part["score"], orientation="horizontal", widths=0.6, showfliers=False,
                        patch_artist=True, boxprops={"facecolor": style.color, "alpha": 0.35},
                        medianprops={"color": "black"})  # fmt: skip
            box.set_yticks([])
            box.set_title(sheet.wrapped(f"{style.label} (n = {len(part)})", sheet.text / across))
            split = [part.loc[part["correct"] == value, "score"] for value in (False, True)]
            weights = [np.full(len(s), 100 / len(part)) for s in split]
            bars.hist(split, bins=list(bins), weights=weights, stacked=True, label=["wrong by GenEval", "right (in the verifier's colour)"],
                      color=["#BBBBBB", style.color])  # fmt: skip
            if part["score"].nunique() > 2:
                x = np.linspace(bins[0], bins[-1], 20 * SCORE_BINS + 1)
                bars.plot(x, _density(part["score"], bins, x), color="black", lw=0.9, label="density")
            bars.set_xlabel("score")
            if column == 0:
                bars.set_ylabel("candidates (%)")
        hide(grid[-2:, across - (-len(names) % across) :].ravel())
        draw_legend(fig, grid[1, 0], sheet)
        if title:
            fig.suptitle(title)
    return fig


def _density(scores: pd.Series, bins: Floats, x: Floats) -> Floats:
    """Return a smooth density at x, in percent per bin, whose area over every bin is the bar's.

    It is the slope of a monotone curve through the cumulative shares, mirrored at both ends so that none leaks out.
    """
    share = 100 * np.histogram(scores, bins)[0] / len(scores)
    width = bins[1] - bins[0]
    mirrored = np.concatenate([[0.0], share[:1], share, share[-1:]]).cumsum()
    edges = np.concatenate([bins[:1] - width, bins, bins[-1:] + width])
    return np.asarray(width * PchipInterpolator(edges, mirrored).derivative()(x))


def latency_breakdown(
    stages: pd.DataFrame, title: str, looks: Looks = USUAL, sheet: Sheet = SCREEN
) -> Figure:
    """Draw the time of each stage. stages: verifier, part ("per candidate" or "fixed"), stage, wall_ms."""
    names = names_in(stages, looks)
    parts = ("per candidate", "fixed")
    with sheet.styled():
        fig = sheet.figure(sheet.column, 0.9 + 0.5 * len(names))
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
        axes.grid(axis="y", visible=False)
        axes.set(xlabel="wall-clock (ms)", title=title)
        draw_legend(fig, axes, sheet, 4)
    return fig


def overall(curves: pd.DataFrame) -> pd.DataFrame:
    """Select the rows of the prompt-weighted overall, the paper's."""
    return curves[curves["tag"] == OVERALL]


def teaser(
    points: pd.DataFrame,
    saving: Saving,
    title: str,
    looks: Looks = USUAL,
    sheet: Sheet = SCREEN,
) -> Figure:
    """Draw the paper's first figure: accuracy over time, and an arrow for the time that VHS saves at equal accuracy.

    points: verifier, n, cost (ms), accuracy, low, high.
    """
    with sheet.styled():
        fig = sheet.figure(sheet.column, 2.6)
        axes = fig.subplots()
        for verifier in names_in(points, looks):
            style, rows = looks[verifier], points[points["verifier"] == verifier].sort_values("n")
            axes.plot(rows["cost"], rows["accuracy"], color=style.color, marker=style.marker, ms=3,
                      lw=1.6, label=style.label)  # fmt: skip
        arrow = {"arrowstyle": "-|>", "color": "black", "lw": 1.1, "shrinkA": 0, "shrinkB": 0}
        axes.annotate(
            "", (saving.fast_ms, saving.accuracy), (saving.slow_ms, saving.accuracy), arrowprops=arrow
        )
        # said in the title, where no curve can cross it
        title = sheet.wrapped(f"{title}: {saving}", sheet.column) if title else ""
        axes.set(xlabel="wall-clock of best-of-N (ms)", ylabel="overall accuracy (%)", title=title)
        draw_legend(fig, axes, sheet)
    return fig


def n_per_budget(
    models: Mapping[str, CostModel],
    pool: int,
    budgets: Sequence[float],
    tolerance: float,
    title: str,
    looks: Looks = USUAL,
    sheet: Sheet = SCREEN,
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
    with sheet.styled():
        fig = sheet.figure(sheet.column, 2.6)
        axes = fig.subplots()
        for verifier in names_in(data, looks):
            style, part = looks[verifier], data[data["verifier"] == verifier]
            axes.step(
                part["budget_ms"], part["n"], where="post", color=style.color, lw=1.3, label=style.label
            )
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel=f"budget (ms; up to {100 * tolerance:g}% above it)", ylabel="N", ylim=(0, pool + 1))
        draw_budgets(fig, axes, budgets, title, sheet)
        draw_legend(fig, axes, sheet)
    return fig, data


def reliability(bins: pd.DataFrame, title: str, looks: Looks = USUAL, sheet: Sheet = SCREEN) -> Figure:
    """Draw the share of right candidates over P(yes).

    bins: verifier, low, high, confidence, right, share_low, share_high, n, ece (equal in all rows of a verifier).
    """
    names = names_in(bins, looks)
    with sheet.styled():
        down, across = panels(len(names))
        fig = sheet.figure(sheet.text, (0.5 + sheet.text / max(across, 3)) * down)
        grid = fig.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
        hide(grid[len(names) :])
        for axes, name in zip(grid, names, strict=False):
            part, style = bins[(bins["verifier"] == name) & (bins["n"] > 0)], looks[name]
            axes.plot([0, 1], [0, 1], color="#888888", ls="--", lw=0.8)
            error = [part["right"] - part["share_low"], part["share_high"] - part["right"]]
            axes.errorbar(part["confidence"], part["right"], yerr=error, color=style.color,
                          marker=style.marker, ms=4, lw=1.2, elinewidth=0.8, capsize=2)  # fmt: skip
            axes.bar(part["low"], part["n"] / part["n"].sum(), width=part["high"] - part["low"],
                     align="edge", color=style.color, alpha=0.2)  # fmt: skip
            axes.set_title(
                sheet.wrapped(f"{style.label} (ECE {part['ece'].iloc[0]:.3f})", sheet.text / across)
            )
            axes.set(xlabel="P(yes)", xlim=(0, 1), ylim=(0, 1.02), aspect="equal")
        for axes in grid[::across]:
            axes.set_ylabel("share right by GenEval\n(bars: share of candidates)")
        if title:
            fig.suptitle(title)
    return fig
