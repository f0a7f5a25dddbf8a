"""Venues whose papers figures and tables are made for: widths in TeX's points, and a sheet with their type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from vhsbench.harness.report.style import Sheet, fonts

INCH = 72.27  # points of TeX
TYPE = 8  # points, of all text in figures and tables
_CAPTION = 1.4  # inches of a page below a figure, also for a legend of more rows
_FONT = "STIXGeneral"  # as wide as Times, and always there
_SIZES = (
    "font.size", "axes.titlesize", "figure.titlesize", "axes.labelsize", "legend.fontsize", "xtick.labelsize",
    "ytick.labelsize",
)  # fmt: skip


@dataclass(frozen=True)
class Venue:
    """A venue's page in points of TeX; a column is as wide as the text where there is one. All of them print in Times."""

    name: str
    column: float
    text: float
    height: float
    paper: str = "letterpaper"

    @property
    def two_columns(self) -> bool:
        return self.column < self.text

    @property
    def sheet(self) -> Sheet:
        """What figures for this venue are drawn on: its widths, Times and 8 pt throughout."""
        settings = {"font.family": [_FONT, *fonts()], "axes.unicode_minus": True}
        return Sheet(
            column=self.column / INCH, text=self.text / INCH, tallest=self.height / INCH - _CAPTION, letter=0.054, small=TYPE, tiny=TYPE,
            settings=settings | dict.fromkeys(_SIZES, TYPE),
        )  # fmt: skip


VENUES = {
    venue.name: venue
    for venue in (
        Venue("cvpr", 3.28125 * INCH, 6.875 * INCH, 8.875 * INCH),
        Venue("neurips", 5.5 * INCH, 5.5 * INCH, 9.0 * INCH),
        Venue("iclr", 5.5 * INCH, 5.5 * INCH, 9.0 * INCH),
        Venue("acl", 7.7 / 2.54 * INCH, 16.0 / 2.54 * INCH, 24.7 / 2.54 * INCH, "a4paper"),
    )
}


@lru_cache(maxsize=4096)
def printed(text: str, points: float) -> float:
    """Return the width in TeX's points of a text printed in bold Times."""
    if not text.strip():
        return 0.0
    font = FontProperties(family=_FONT, weight="bold")
    return float(TextPath((0, 0), text, size=points, prop=font).get_extents().width) * INCH / 72


def widest(texts: Sequence[str], points: float) -> float:
    """Return the width of the widest of texts."""
    return max((printed(text, points) for text in texts), default=0.0)
