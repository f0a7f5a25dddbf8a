"""The figure of over-optimisation: a verifier's own score and judges over N, where they part, and winners' diversity."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vhsbench.harness.report.over_optimisation import OWN
from vhsbench.harness.report.style import TWO_COLUMNS, USUAL, Looks, figure, styled, wrapped
from vhsbench.harness.stats.parting import NONE

_ACROSS = 4
_JUDGES = (
    ("#000000", "-", "s"), ("#56B4E9", "--", "D"), ("#CC79A7", "-.", "^"), ("#E69F00", ":", "v"),
    ("#999999", "--", "P"), ("#332288", "-.", "X"),
)  # fmt: skip


def over_optimisation(
    by_n: pd.DataFrame, parting: pd.DataFrame, diversity: pd.DataFrame, title: str, looks: Looks = USUAL
) -> Figure:
    """Draw how the mean own score and judges' values of best-of-N change with N, of one pool of candidates.

    by_n, parting, diversity: as the report's tables have them, of all N; diversity may be empty. The band is the 95%
    interval; a dotted line is the N at which a judge parts from the verifier's own score, with its interval above.
    """
    names = sorted(by_n["verifier"].unique())
    across = min(_ACROSS, len(names))
    down, rows = -(-len(names) // across), 2 if diversity["vendi"].notna().any() else 1
    heights = [3, 2][:rows] * down
    with styled():
        fig = figure(min(TWO_COLUMNS, 1.2 + 2.6 * across), 0.9 + 0.68 * sum(heights))
        grid = fig.subplots(rows * down, across, sharex=True, sharey="row", squeeze=False,
                            gridspec_kw={"height_ratios": heights})  # fmt: skip
        for place, name in enumerate(names):
            row, column = divmod(place, across)
            panels = grid[rows * row : rows * (row + 1), column]
            style = looks[str(name)]
            _measures(panels[0], by_n[by_n["verifier"] == name], style.color)
            _lines(panels[0], parting[parting["verifier"] == name], list(by_n["judge"].unique()))
            panels[0].set_title(wrapped(style.label, TWO_COLUMNS / across))
            if rows == 2:
                part = diversity[diversity["verifier"] == name]
                panels[1].plot(
                    part["best_of_n"], part["vendi"], color=style.color, marker="o", ms=2.5, lw=1.2
                )
            if column == 0:
                panels[0].set_ylabel("change from one image\n(SD of candidates)")
                panels[-1].set_ylabel(
                    "change from one image\n(SD of candidates)" if rows == 1 else "Vendi score\nof winners"
                )
            panels[-1].set_xlabel("N")
        for axes in grid.ravel():
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        for column in range(len(names) - across * (down - 1), across):
            for axes in grid[-rows:, column]:
                axes.set_axis_off()
        handles, labels = grid[0, 0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False)
        fig.suptitle(title, fontsize=8.5)
    return fig


def _measures(axes: Axes, rows: pd.DataFrame, color: str) -> None:
    for place, judge in enumerate(rows["judge"].unique()):
        part = rows[rows["judge"] == judge].sort_values("best_of_n")
        of_judge, line, marker = _JUDGES[(place - 1) % len(_JUDGES)]
        look = {"color": of_judge, "ls": line, "marker": marker} if judge else {"color": color, "marker": "o"}
        n = part["best_of_n"]
        axes.fill_between(n, part["change_low"], part["change_high"], color=look["color"], alpha=0.12, lw=0)
        every = np.flatnonzero(np.log2(n) % 1 == 0).tolist()  # marks at doubled N
        axes.plot(
            n, part["change"], lw=1.2, ms=3, markevery=every, label=f"judge {judge}" if judge else OWN, **look
        )
    axes.axhline(0, color="#888888", lw=0.6, zorder=0)


def _lines(axes: Axes, parting: pd.DataFrame, judges: list[str]) -> None:
    """Draw where judges part from the verifier's own score."""
    own = parting[(parting["first"] == OWN) & (parting["best_of_n"] != NONE)]
    for step, (_, row) in enumerate(own.iterrows()):
        color = _JUDGES[(judges.index(row["second"]) - 1) % len(_JUDGES)][0]
        axes.axvline(row["best_of_n"], color=color, lw=0.9, ls=":", zorder=0)
        ends = "" if np.isnan(row["low"]) else f" [{_end(row['low'])}, {_end(row['high'])}]"
        axes.text(0.03, 0.97 - 0.08 * step, f"parts at {row['best_of_n']:.0f}{ends}", color=color, fontsize=6,
                  ha="left", va="top", transform=axes.transAxes)  # fmt: skip


def _end(n: float) -> str:
    return "none" if n == NONE else f"{n:.0f}"
