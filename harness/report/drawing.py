"""Parts of figures: legends, budgets, numbers beside points, and grids of panels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vhsbench.harness.report.style import Sheet
from vhsbench.harness.stats.intervals import Floats

_GREY = "#666666"
_ACROSS = 4  # panels of verifiers beside each other
_HANDLE, _ROW = 0.35, 0.16  # inches of a legend: what stands before the words, a row
_DIGIT, _BETWEEN = 0.64, 0.05  # the width of a digit to its height; inches between labels
_LEGEND = {"handlelength": 1.6, "handletextpad": 0.5, "columnspacing": 1.2}
_ROWS = 2  # of a legend, for which a figure has room
_AXES = 0.55  # inches of a figure's width that are beside its axes
_NEAR = (7.0, 10.0, 13.0, 17.0)  # points from a point to its number's middle
_AROUND = (90, 270, 45, 135, 315, 225, 0, 180)  # degrees at which it may stand, the first that is free

Number = tuple[float, float, float, str]  # N, x, y, colour


def panels(verifiers: int) -> tuple[int, int]:
    """Return the rows and columns of a panel a verifier."""
    across = min(verifiers, _ACROSS)
    return -(-verifiers // across), across


def hide(unused: Iterable[Axes]) -> None:
    """Show nothing of panels that are left over."""
    for axes in unused:
        axes.set_axis_off()


def draw_legend(fig: Figure, axes: Axes, sheet: Sheet, most: int = 3) -> None:
    """Draw the legend of all axes below the figure, in at most so many columns, or as its longest entry leaves room for."""
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        entry = _HANDLE + sheet.letter * max(map(len, labels))
        columns = min(most, max(1, int(fig.get_figwidth() / entry)))
        rows = -(-len(labels) // columns)
        fig.set_figheight(fig.get_figheight() + _ROW * max(0, rows - _ROWS))
        fig.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, **_LEGEND)


def draw_budgets(
    fig: Figure, axes: Axes, budgets: Sequence[float], title: str, sheet: Sheet, named: bool = True
) -> None:
    """Draw a line at each time budget with its number above, upright where they would touch, and the title above these."""
    shown = list(dict.fromkeys(budgets))
    for budget in shown:
        line = axes.axvline(budget, color=_GREY, lw=0.6, ls="--", zorder=0)
        if named and budget == shown[0]:
            line.set_label("budget (ms)")
    if shown and named:
        texts = [f"{budget:g}" for budget in shown]
        top = axes.secondary_xaxis("top")
        top.spines["top"].set_visible(False)
        upright = _narrowest(fig, axes, shown) < _DIGIT * sheet.small / 72 * max(map(len, texts)) + _BETWEEN
        top.set_xticks(shown, texts, rotation=90 if upright else 0)
        top.tick_params(length=0, pad=1, labelsize=sheet.small, labelcolor=_GREY)
        top.minorticks_off()
    if title:
        axes.set_title(title)


def _narrowest(fig: Figure, axes: Axes, at: Sequence[float]) -> float:
    """Return the smallest distance in inches between places on the x axis, before the figure is laid out."""
    scaled = axes.transScale.transform([(x, 1.0) for x in sorted(at)])[:, 0]
    low, high = axes.transScale.transform([(x, 1.0) for x in axes.get_xlim()])[:, 0]
    width = fig.get_figwidth() - _AXES
    return float(np.diff(scaled).min() / (high - low) * width) if len(at) > 1 else math.inf


def draw_ns(fig: Figure, axes: Axes, numbers: Sequence[Number], sheet: Sheet) -> None:
    """Write N beside points, where it stands neither in a line nor in another number."""
    if (engine := fig.get_layout_engine()) is not None:
        engine.execute(fig)  # so that places in the figure are known
    points = 72 / fig.dpi
    inside = np.array(axes.get_window_extent().extents) * points
    taken = _along(axes) * points
    for n, x, y, color in numbers:
        text = f"{n:.0f}"
        half = np.array([0.31 * len(text), 0.42]) * sheet.small + 1
        middle = axes.transData.transform((x, y)) * points
        by_x, by_y = offset = min(_offsets(), key=lambda by: _hidden(middle + by, half, taken, inside))
        axes.annotate(
            text, (x, y), color=color, textcoords="offset points", xytext=(by_x, by_y), ha="center", va="center",
            fontsize=sheet.small, path_effects=[patheffects.withStroke(linewidth=1, foreground="white")],
        ).set_in_layout(False)  # fmt: skip
        own = np.stack(np.meshgrid(*([-1, 0, 1],) * 2), -1).reshape(-1, 2) * half + middle + offset
        taken = np.concatenate([taken, own])


def _offsets() -> list[Floats]:
    return [
        r * np.array([math.cos(math.radians(a)), math.sin(math.radians(a))]) for r in _NEAR for a in _AROUND
    ]


def _hidden(middle: Floats, half: Floats, taken: Floats, inside: Floats) -> float:
    """Count what a box of that middle and half size covers; one that leaves the axes is the last choice."""
    out = (middle - half < inside[:2]).any() or (middle + half > inside[2:] + 8).any()
    return float((np.abs(taken - middle) <= half).all(1).sum() + 1000 * out)


def _along(axes: Axes) -> Floats:
    """Return places along all lines, a pixel or so apart, in pixels, [K, 2]."""
    parts = [np.empty((0, 2))]
    for line in axes.lines:
        at = line.get_transform().transform(line.get_xydata())
        steps = np.arange(0, max(len(at) - 1, 0) + 1e-9, 1 / 64)
        parts.append(np.stack([np.interp(steps, np.arange(len(at)), at[:, i]) for i in (0, 1)], 1))
    return np.concatenate(parts)
