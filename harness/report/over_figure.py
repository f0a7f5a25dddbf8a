"""The figure of over-optimisation: a verifier's own score and judges over N, where they part, and winners' diversity."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vhsbench.harness.report.drawing import draw_legend, hide, panels
from vhsbench.harness.report.over_optimisation import OWN, as_n
from vhsbench.harness.report.style import SCREEN, USUAL, Looks, Sheet, names_in
from vhsbench.harness.stats.parting import NONE

# greys, as the verifiers have all other colours
_JUDGES = (("#000000", "--", "s"), ("#777777", "-.", "D"), ("#444444", ":", "^"), ("#AAAAAA", "-", "v"))
_WRITTEN = {"s": "\u25a0", "D": "\u25c6", "^": "\u25b2", "v": "\u25bc"}  # these markers among words


def over_optimisation(
    by_n: pd.DataFrame, parting: pd.DataFrame, diversity: pd.DataFrame, title: str,
    looks: Looks = USUAL, sheet: Sheet = SCREEN,
) -> Figure:  # fmt: skip
    """Draw how the mean own score and judges' values of the winners of N change with N, in one pool of candidates.

    by_n (of all N), parting, diversity: as the report's tables; diversity may have no rows or none that are known.
    The band is the 95% interval. A dotted line is where a judge parts from the own score, if the interval ends within
    the pool.
    """
    names, judges = names_in(by_n, looks), list(by_n["judge"].unique())
    heights = [3, 2] if diversity["vendi"].notna().any() else [3]
    down, across = panels(len(names))
    with sheet.styled():
        width = sheet.text if across > 1 else sheet.column
        fig = sheet.figure(width, 0.9 + 0.75 * sum(heights) * down)
        grid = fig.subplots(len(heights) * down, across, sharex=True, sharey="row", squeeze=False,
                            gridspec_kw={"height_ratios": heights * down})  # fmt: skip
        for place, name in enumerate(names):
            row, column = divmod(place, across)
            of_name = grid[len(heights) * row : len(heights) * (row + 1), column]
            top, look = of_name[0], looks[name]
            _measures(top, by_n[by_n["verifier"] == name], judges, look.color)
            _parting(top, parting[parting["verifier"] == name], judges, sheet)
            top.set_title(sheet.wrapped(look.label, width / across))
            for lower in of_name[1:]:
                part = diversity[diversity["verifier"] == name]
                lower.plot(
                    part["best_of_n"], part["vendi"], color=look.color, marker=look.marker, ms=3, lw=1.2
                )
            of_name[-1].set_xlabel("N")
            if column == 0:
                for axes, text in zip(of_name, ("change from one image\n(SD of candidates)", "winners' diversity\n(Vendi score)"), strict=False):  # fmt: skip
                    axes.set_ylabel(text)
        for axes in grid.ravel():
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        hide(grid[-len(heights) :, across - (-len(names) % across) :].ravel())
        draw_legend(fig, grid[0, 0], sheet)
        if title:
            fig.suptitle(title)
    return fig


def _measures(axes: Axes, rows: pd.DataFrame, judges: list[str], color: str) -> None:
    """Draw the change of the own score, whose judge is "", and of the judges' values."""
    for judge in judges:
        part = rows[rows["judge"] == judge].sort_values("best_of_n")
        of_judge, line, marker = _look(judges, judge) if judge else (color, "-", "o")
        name = f"judge {judge}" if judge else "own score (in the verifier's colour)"
        n, marked = part["best_of_n"], np.flatnonzero(np.isin(part["best_of_n"], 2 ** np.arange(31))).tolist()
        axes.fill_between(n, part["change_low"], part["change_high"], color=of_judge, alpha=0.12, lw=0)
        axes.plot(
            n, part["change"], line, color=of_judge, marker=marker, ms=3, lw=1.2, markevery=marked, label=name
        )
    axes.axhline(0, color="#888888", lw=0.6, zorder=0)


def _parting(axes: Axes, rows: pd.DataFrame, judges: list[str], sheet: Sheet) -> None:
    """Say where judges part from the own score, in the panel's upper corner, and draw where that is sure."""
    own = rows[rows["first"] == OWN].to_dict("records")
    for place, row in enumerate(own):
        color, _, marker = _look(judges, row["second"])
        at, low, high = (as_n(row[column]) for column in ("best_of_n", "low", "high"))
        said = f"{_WRITTEN[marker]} parts at N: {at}" + (f" [{low}, {high}]" if low else "")
        axes.annotate(said, (0.03, 1), (0, -2 - 1.3 * sheet.small * place), "axes fraction", "offset points",
                      fontsize=sheet.small, color=color, va="top").set_in_layout(False)  # fmt: skip
        if row["best_of_n"] < NONE and row["high"] < NONE:
            axes.axvline(row["best_of_n"], ymax=0.8, color=color, lw=0.9, ls=":", zorder=0)
    axes.margins(y=0.05 + 0.08 * len(own))


def _look(judges: list[str], judge: str) -> tuple[str, str, str]:
    """Return a judge's colour, line and marker, by its place after the own score."""
    return _JUDGES[(judges.index(judge) - 1) % len(_JUDGES)]
