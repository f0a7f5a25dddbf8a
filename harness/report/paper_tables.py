"""A paper's tables: booktabs with siunitx's columns, as wide as the column or the text has room for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from vhsbench.harness.cost.cost_model import unit_of
from vhsbench.harness.report import tables
from vhsbench.harness.report.comparisons import AccuracyTable
from vhsbench.harness.report.paper_venues import Venue, printed, widest
from vhsbench.harness.report.significance import BEST
from vhsbench.harness.report.style import Looks, label
from vhsbench.harness.report.tables import latex_escape
from vhsbench.harness.stats.curves import OVERALL
from vhsbench.harness.stats.intervals import brackets

_HEADS = {
    "time_ms": "Time", "counting": "Count.", "position": "Pos.", "color_attr": "Attr.", "colors": "Color",
    OVERALL: "Overall", "best_of_n": "N",
}  # fmt: skip
_MOST_ROWS = 48  # of one table, so that it fits a page
_SLACK = 0.97  # of a width that an estimate may fill


@dataclass(frozen=True)
class Column:
    """A column's cells as plain text. Numbers stand at their point; `marks` are BEST or SECOND by row; `ends` intervals."""

    head: str
    cells: Sequence[str]
    number: bool = False
    marks: Mapping[int, int] | None = None
    ends: Sequence[str] = ()

    def width(self, points: float) -> float:
        """Return the width in TeX's points, without the space beside it."""
        if not self.number:
            return max(printed(self.head, points), widest(self.cells, points))
        whole, part = self._format
        own = printed("0" * (whole + part) + ("." if part else ""), points)
        ends = widest(self.ends, points) + 2 if any(self.ends) else 0.0
        return max(printed(self.head, points), max(own, widest(self._odd, points)) + ends)

    @property
    def spec(self) -> str:
        if not self.number:
            return "l"
        whole, part = self._format
        column = f"S[table-format={whole}{f'.{part}' if part else ''}]"
        return column + (r"@{\,}l" if any(self.ends) else "")

    @property
    def heading(self) -> str:
        text = f"${self.head}$" if len(self.head) == 1 else latex_escape(self.head)
        if not self.number:
            return text
        return rf"\multicolumn{{2}}{{c}}{{{text}}}" if any(self.ends) else f"{{{text}}}"

    def cell(self, row: int) -> str:
        """Return the LaTeX of a cell, with its interval."""
        text = latex_escape(self.cells[row])
        if self.number:
            text = self._number(text, (self.marks or {}).get(row, 0))
            return f"{text} & {self.ends[row]}" if any(self.ends) else text
        return text

    def _number(self, text: str, mark: int) -> str:
        if not _is_number(text):
            return f"{{{text}}}"
        if mark == BEST:
            return rf"\bfseries {text}"
        if mark:  # siunitx would not read it: what is lacking of the digits stands before it, unseen
            missing = self._format[0] - len(text.split(".")[0])
            unseen = rf"\hphantom{{{'0' * missing}}}" if missing else ""
            return rf"{{{unseen}\underline{{{text}}}}}"
        return text

    @property
    def _odd(self) -> list[str]:
        return [cell for cell in self.cells if not _is_number(cell)]

    @property
    def _format(self) -> tuple[int, int]:
        """The most characters before and after the point."""
        parts = [cell.partition(".")[::2] for cell in self.cells if _is_number(cell)]
        return max((len(a) for a, _ in parts), default=1), max((len(b) for _, b in parts), default=0)


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).removeprefix("-").isdigit()


@dataclass(frozen=True)
class Setting:
    """How a table is set: the size's command, its points, the space beside columns, which columns keep intervals."""

    command: str = r"\footnotesize"
    points: float = 8
    space: float = 3
    intervals: int = 99


_SETTINGS = (
    Setting(), Setting(space=2), Setting(space=2, intervals=1), Setting(space=2, intervals=0),
    Setting(r"\scriptsize", 7, 2, 1), Setting(r"\scriptsize", 7, 1.5, 0),
)  # fmt: skip


def width(columns: Sequence[Column], setting: Setting) -> float:
    """Estimate the width of a table in TeX's points."""
    return sum(c.width(setting.points) for c in columns) + 2 * setting.space * (len(columns) - 1)


def floats(
    name: str,
    caption: str,
    keys: Sequence[Column],
    values: Sequence[Column],
    starts: Sequence[bool],
    venue: Venue,
) -> str:
    """Write a table as LaTeX's floats: as many as it takes to fit the text's width and a page's height.

    keys: columns that say what a row is, which every part has. starts: rows before which a rule stands.
    """
    parts = _parts(keys, values, venue)
    cuts = _cuts(starts)
    written: list[str] = []
    for part, setting in parts:
        for first, last in cuts:
            number = len(written) + 1
            also = f" (part {number} of {len(parts) * len(cuts)})" if len(parts) * len(cuts) > 1 else ""
            key = f"tab:{name}" + (f"-{number}" if number > 1 else "")
            written.append(_float(key, caption + also, part, starts, (first, last), setting, venue))
    return "\n".join(written)


def _parts(
    keys: Sequence[Column], values: Sequence[Column], venue: Venue
) -> list[tuple[list[Column], Setting]]:
    """Split columns into as few tables as fit, each in the first setting that fits."""
    for setting in _SETTINGS:
        kept = _with_intervals([*keys, *values], setting)
        if width(kept, setting) <= _SLACK * venue.text:
            return [(kept, setting)]
    if len(values) < 2:
        return [([*keys, *values], _SETTINGS[-1])]
    half = (len(values) + 1) // 2
    return [*_parts(keys, values[:half], venue), *_parts(keys, values[half:], venue)]


def _with_intervals(columns: Sequence[Column], setting: Setting) -> list[Column]:
    left, kept = setting.intervals, []
    for column in columns:
        if any(column.ends):
            left -= 1
            column = column if left >= 0 else replace(column, ends=())
        kept.append(column)
    return kept


def _cuts(starts: Sequence[bool]) -> list[tuple[int, int]]:
    """Cut rows into pages, at rules where there are some."""
    cuts, first = [], 0
    while len(starts) - first > _MOST_ROWS:
        rules = [i for i in range(first + 1, first + _MOST_ROWS + 1) if starts[i]]
        last = rules[-1] if rules else first + _MOST_ROWS
        cuts.append((first, last))
        first = last
    return [*cuts, (first, len(starts))]


def _float(
    key: str, caption: str, columns: Sequence[Column], starts: Sequence[bool], rows: tuple[int, int],
    setting: Setting, venue: Venue,
) -> str:  # fmt: skip
    wide = venue.two_columns and width(columns, setting) > _SLACK * venue.column
    kind = "table*" if wide else "table"
    body = [
        (r"\midrule" + "\n" if starts[i] and i > rows[0] else "")
        + " & ".join(c.cell(i) for c in columns)
        + r" \\"
        for i in range(*rows)
    ]
    return "\n".join(
        [
            rf"\begin{{{kind}}}[tbp]", rf"\centering{setting.command}\setlength{{\tabcolsep}}{{{setting.space}pt}}",
            r"\setlength{\belowcaptionskip}{4pt}",
            rf"\caption{{{caption}}}\label{{{key}}}",
            rf"\begin{{tabular}}{{@{{}}{''.join(c.spec for c in columns)}@{{}}}}", r"\toprule",
            " & ".join(c.heading for c in columns) + r" \\", r"\midrule", *body, r"\bottomrule", r"\end{tabular}",
            rf"\end{{{kind}}}", "",
        ]
    )  # fmt: skip


def in_order(table: AccuracyTable, looks: Looks) -> pd.DataFrame:
    """Sort a table's rows by its keys, verifiers in the run's order, after one image without a choice."""
    place = {"none": -1} | {name: i for i, name in enumerate(looks) if name != "none"}
    return table.rows.sort_values(
        table.naming,
        key=lambda c: c.map(place) if c.name == "verifier" else c,
        kind="stable",
        ignore_index=True,
    )


def accuracy_columns(
    table: AccuracyTable, rows: pd.DataFrame, marks: Mapping[str, Mapping[int, int]]
) -> tuple[list[Column], list[Column], list[bool]]:
    """Return the key columns without constant ones, the accuracies, and where budgets begin."""
    budget = next(key for key in table.keys if key.startswith("budget_"))
    starts = list((rows[budget] != rows[budget].shift()) & (rows.index > 0))
    keys = [
        _key_column(rows, key, starts if key == budget else None)
        for key in table.keys
        if rows[key].nunique(dropna=False) > 1 or key == "best_of_n"
    ]
    values = []
    for column in [c for c in tables.columns(table) if c not in table.keys]:
        ends = [brackets(r[f"{column}_low"], r[f"{column}_high"]).strip() for _, r in rows.iterrows()]
        head = _HEADS.get(column) or tables.heading(column, rows).removesuffix(" overall")
        cells = [number(v, 1) for v in rows[column]]
        values.append(
            Column(head, cells, True, marks.get(column), ends if column in tables.WITH_INTERVAL else ())
        )
    return keys, values, starts


def _key_column(rows: pd.DataFrame, key: str, starts: Sequence[bool] | None) -> Column:
    values = rows[key]
    if key.startswith("budget_"):
        unit = unit_of(key)
        said = [f"{v:.4g} {unit}" for v in values]
        return Column("Budget", [s if i == 0 or (starts and starts[i]) else "" for i, s in enumerate(said)])
    if key == "best_of_n":
        beyond = rows["pool_limited"] if "pool_limited" in rows else [False] * len(rows)
        cells = [
            "--" if pd.isna(v) else f"{v}{'+' if b is True else ''}"
            for v, b in zip(values, beyond, strict=True)
        ]
        return Column(_HEADS[key], cells, True)
    if key == "time_ms" or key.startswith("cost_"):
        digits = decimals(values)
        return Column(_HEADS.get(key) or tables.heading(key, rows), [number(v, digits) for v in values], True)
    if key == "verifier":
        return Column("Verifier", [label(str(v)) for v in values])
    return Column(tables.heading(key, rows), [_text(v) for v in values])


def _text(value: Any) -> str:
    if pd.isna(value):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value).replace("_", " ")


def number(value: Any, digits: int) -> str:
    """Write a number with so many decimals; "--" where it is unknown."""
    return "--" if pd.isna(value) else f"{value:.{digits}f}"


def decimals(values: pd.Series) -> int:
    """Return how many decimals the largest of values needs for four digits."""
    largest = float(values.abs().max())
    return 0 if not largest > 0 else min(6, max(0, 3 - math.floor(math.log10(largest))))
