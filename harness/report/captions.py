"""Captions after alignment, under the pictures that they are of (the paper's Fig. 7)."""

from __future__ import annotations

import io
import textwrap
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from vhsbench.harness.common.files import LARGE, read_errors_as
from vhsbench.harness.common.text import read_text
from vhsbench.harness.report.gallery import Picture, draw, headed
from vhsbench.harness.report.style import TWO_COLUMNS, figure, label, styled
from vhsbench.harness.store.tables import StoreError

FILE = "captions.csv"  # in a run's folder
_COLUMNS, _SHOWN = 4, 12


def read_captions(run: Path) -> pd.DataFrame | None:
    """What `vhsbench captions` wrote into a run; None if it has not. Raises StoreError."""
    file = run / FILE
    if not file.exists():
        return None
    with read_errors_as(StoreError):
        text = read_text(file, LARGE)
    try:
        return pd.read_csv(io.StringIO(text), keep_default_na=False)
    except ValueError as error:  # pandas' errors of parsing are
        raise StoreError(f"{file} is no table of captions: {str(error).strip()}.") from error


def captions_figure(rows: pd.DataFrame, picture: Picture) -> Figure:
    """Winners with their prompt above and the caption of the aligned model below; at most twelve.

    rows: a candidate's columns, prompt, verifier, caption.
    """
    rows = rows.head(_SHOWN)
    down = -(-len(rows) // _COLUMNS)
    with styled():  # type: ignore[attr-defined]
        fig = figure(TWO_COLUMNS, 0.4 + 2.35 * down)
        grid = fig.subplots(down, _COLUMNS, squeeze=False).ravel()
        for axes in grid[len(rows) :]:
            axes.set_axis_off()
        for axes, (_, row) in zip(grid, rows.iterrows(), strict=False):
            draw(axes, picture(row))
            axes.spines[:].set_visible(False)
            axes.set_title(_wrapped(row["prompt"], 30, 2), fontsize=6.5, style="italic")
            said = row["caption"] or "(no words)"
            axes.set_xlabel(_wrapped(said, 34, 5), fontsize=6, labelpad=2)
        headed(
            fig,
            f"{label(rows['verifier'].iloc[0])} after alignment: its caption of its pick for the prompt above",
        )
    return fig


def _wrapped(text: str, width: int, lines: int) -> str:
    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder=" …"))
