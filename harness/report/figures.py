"""Figures from derived data: each takes a DataFrame and returns a Figure that `style.save` writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import gaussian_kde

from harness.derive import OVERALL
from harness.geneval.rules import TAGS
from harness.report.style import COLUMN, TWO_COLUMNS, figure, look, styled

if TYPE_CHECKING:
    from PIL import Image

_STAGES = ("encode", "noise", "head", "denoise", "tail", "decode", "score")
_STAGE_COLORS = dict(
    zip(_STAGES, ("#999999", "#DDDDDD", "#E69F00", "#F0E442", "#CC79A7", "#56B4E9", "#009E73"), strict=True)
)
_TASK_NAMES = dict(zip(TAGS, ("single object", "two objects", "counting", "colors", "position",
                              "color attribution"), strict=True))  # fmt: skip


def accuracy_over_cost(points: pd.DataFrame, unit: str, title: str, budgets: Sequence[float] = ()) -> Figure:
    """The paper's Fig. 5: overall accuracy (%) over what best-of-N costs.

    points: verifier, n, cost, accuracy, low, high. The band is the 95% interval; numbers are N.
    """
    with styled():  # type: ignore[attr-defined]
        fig = figure(COLUMN * 1.35, 2.9)
        axes = fig.subplots()
        for verifier, part in points.groupby("verifier", sort=True):
            style, rows = look(str(verifier)), part.sort_values("n")
            axes.fill_between(rows["cost"], rows["low"], rows["high"], color=style.color, alpha=0.12, lw=0)
            axes.plot(rows["cost"], rows["accuracy"], color=style.color, marker=style.marker,
                      ms=3, lw=1.3, label=style.label)  # fmt: skip
            for _, row in rows[rows["n"].isin([1, 4, rows["n"].max()])].iterrows():
                axes.annotate(f"{row['n']:.0f}", (row["cost"], row["accuracy"]), color=style.color,
                              textcoords="offset points", xytext=(0, 4), ha="center", fontsize=6)  # fmt: skip
        for budget in budgets:
            axes.axvline(budget, color="#888888", lw=0.6, ls="--", zorder=0)
        axes.set(xlabel=unit, ylabel="overall accuracy (%)", title=title)
        fig.legend(loc="outside lower center", ncols=3, frameon=False)
    return fig


def accuracy_by_n(curves: pd.DataFrame, title: str) -> Figure:
    """Accuracy over N by task. curves: verifier, tag, n, accuracy, low, high."""
    with styled():  # type: ignore[attr-defined]
        fig = figure(TWO_COLUMNS, 4.0)
        panels = fig.subplots(2, 3, sharex=True).ravel()
        for axes, tag in zip(panels, TAGS, strict=True):
            for verifier, part in curves[curves["tag"] == tag].groupby("verifier", sort=True):
                style, rows = look(str(verifier)), part.sort_values("n")
                axes.plot(
                    rows["n"], rows["accuracy"], style.line, color=style.color, lw=1.2, label=style.label
                )
                axes.fill_between(rows["n"], rows["low"], rows["high"], color=style.color, alpha=0.1, lw=0)
            prompts = curves.loc[curves["tag"] == tag, "n_prompts"]
            count = f" ({prompts.iloc[0]} prompts)" if len(prompts) else ""
            axes.set_title(_TASK_NAMES[tag] + count)
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        for axes in panels[3:]:
            axes.set_xlabel("N")
        for axes in panels[::3]:
            axes.set_ylabel("accuracy (%)")
        handles, labels = panels[0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
        fig.suptitle(title, fontsize=8.5)
    return fig


def score_distributions(scores: pd.DataFrame, title: str) -> Figure:
    """The paper's Fig. 6: share of candidates by score in 5% bins, density, and box plots above.

    scores: verifier, score (in -1..1), correct.
    """
    names = sorted(scores["verifier"].unique())
    bins = np.linspace(-1, 1, 41)
    with styled():  # type: ignore[attr-defined]
        fig = figure(TWO_COLUMNS, 2.8)
        grid = fig.subplots(2, len(names), sharex=True, sharey="row", squeeze=False,
                            gridspec_kw={"height_ratios": [1, 4]})  # fmt: skip
        for column, name in enumerate(names):
            part, style = scores[scores["verifier"] == name], look(name)
            box, bars = grid[:, column]
            box.boxplot(part["score"], orientation="horizontal", widths=0.6, showfliers=False,
                        patch_artist=True, boxprops={"facecolor": style.color, "alpha": 0.35},
                        medianprops={"color": "black"})  # fmt: skip
            box.set_yticks([])
            box.set_title(f"{style.label} (n = {len(part)})")
            split = [part.loc[part["correct"] == value, "score"] for value in (False, True)]
            weights = [np.full(len(s), 100 / len(part)) for s in split]
            bars.hist(split, bins=list(bins), weights=weights, stacked=True, label=["wrong by GenEval", "right (in the verifier's colour)"],
                      color=["#BBBBBB", style.color])  # fmt: skip
            if part["score"].nunique() > 2:
                x = np.linspace(-1, 1, 200)
                bars.plot(x, gaussian_kde(part["score"])(x) * 5, color="black", lw=0.9, label="density")
            bars.set_xlabel("score")
        grid[1, 0].set_ylabel("candidates (%)")
        handles, labels = grid[1, 0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
        fig.suptitle(title, fontsize=8.5)
    return fig


def latency_breakdown(stages: pd.DataFrame, title: str) -> Figure:
    """Where the time goes. stages: verifier, part ("per candidate" or "fixed"), stage, wall_ms."""
    names = sorted(stages["verifier"].unique())
    parts = ("per candidate", "fixed")
    with styled():  # type: ignore[attr-defined]
        fig = figure(COLUMN * 1.35, 0.9 + 0.5 * len(names))
        axes = fig.subplots()
        labels = [f"{look(n).label}, {p}" for n in names for p in parts]
        for row, (name, part) in enumerate((n, p) for n in names for p in parts):
            chosen = stages[(stages["verifier"] == name) & (stages["part"] == part)]
            left = 0.0
            for stage in (s for s in _STAGES if s in set(chosen["stage"])):
                width = float(chosen.loc[chosen["stage"] == stage, "wall_ms"].sum())
                axes.barh(row, width, left=left, color=_STAGE_COLORS[stage], edgecolor="white", lw=0.4)
                left += width
        used = [s for s in _STAGES if s in set(stages["stage"])]
        for stage in used:
            axes.barh(0, 0, color=_STAGE_COLORS[stage], label=stage)
        axes.set_yticks(range(len(labels)), labels)
        axes.invert_yaxis()
        axes.set(xlabel="wall-clock (ms, median)", title=title)
        fig.legend(loc="outside lower center", ncols=4, frameon=False)
    return fig


def gallery(winners: pd.DataFrame, image_of: Callable[[int, int], Image.Image], title: str) -> Figure:
    """The paper's Fig. 9: each verifier's pick by prompt, marked right or wrong by GenEval.

    winners: prompt_id, prompt, verifier, index, score, correct; image_of(prompt_id, index).
    """
    prompts = winners.drop_duplicates("prompt_id")[["prompt_id", "prompt"]]
    names = sorted(winners["verifier"].unique())
    with styled():  # type: ignore[attr-defined]
        fig = figure(2.2 + 1.0 * len(names), 0.4 + 1.12 * len(prompts))
        grid = fig.subplots(len(prompts), len(names), squeeze=False)
        for row, (prompt_id, prompt) in enumerate(prompts.itertuples(index=False)):
            for column, name in enumerate(names):
                axes = grid[row, column]
                pick = winners[(winners["prompt_id"] == prompt_id) & (winners["verifier"] == name)].iloc[0]
                axes.imshow(image_of(int(prompt_id), int(pick["index"])), interpolation="nearest")
                axes.set(xticks=[], yticks=[])
                axes.grid(False)
                mark, color = ("\u2713", "#009E73") if pick["correct"] else ("\u2717", "#D55E00")
                axes.set_xlabel(f"{mark} {pick['score']:+.2f}", color=color, labelpad=1)
                for spine in axes.spines.values():
                    spine.set(visible=True, color=color, linewidth=1.5)
                if row == 0:
                    axes.set_title(look(name).label)
            grid[row, 0].set_ylabel(_wrapped(prompt), rotation=0, ha="right", va="center", labelpad=6)
        fig.suptitle(title, fontsize=8.5)
    return fig


def _wrapped(prompt: str, width: int = 22) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(prompt, width))


def overall(curves: pd.DataFrame) -> pd.DataFrame:
    """The rows of the prompt-weighted overall, as the paper's."""
    return curves[curves["tag"] == OVERALL]
