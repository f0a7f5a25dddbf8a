"""Text from elsewhere made safe to show in a terminal, a table or a figure; errors on one line; CSV and Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

# a cell that begins with one of these is a formula to a spreadsheet
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_GUARD = "'"
_CELLS = 10_000
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Escape control characters, such as ESC to \x1b and a line feed to \n; the result is one line.

    Marks that change the direction of writing and halves of surrogate pairs are escaped too.
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def printable_lines(text: str) -> str:
    """Escape as `printable` does, but keep line feeds and tabs."""
    kept = re.split("([\n\t])", text)
    return "".join(part if part in ("\n", "\t") else printable(part) for part in kept)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, printable and without its period; without a message, its kind."""
    said = (str(error).strip().splitlines() or [""])[0].rstrip(". ")
    return printable(said) or type(error).__name__


def one_line(error: BaseException) -> str:
    """Return an error's kind and first line, such as "ValueError: no such prompt"."""
    kind, said = type(error).__name__, first_line(error)
    return kind if said == kind else f"{kind}: {said}"


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Lay out a table whose cells are Markdown already."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def csv_cell(text: str) -> str:
    """Escape control characters, and guard text that a spreadsheet would take for a formula; see `from_csv_cell`."""
    text = printable(text)
    # what looks guarded already is guarded too, so that every text is read back as it was
    return _GUARD + text if text.lstrip(_GUARD).startswith(_FORMULA) else text


def csv_bytes(frame: pd.DataFrame) -> bytes:
    """Encode a table as CSV in UTF-8, its texts as `csv_cell` writes them."""
    from pandas.api.types import is_numeric_dtype

    cell = lru_cache(_CELLS)(csv_cell)  # long tables repeat few texts
    shown = frame.copy()
    for name, column in frame.items():
        if not is_numeric_dtype(column):
            shown[name] = column.map(lambda value: cell(value) if isinstance(value, str) else value)
    return shown.to_csv(index=False, lineterminator="\n").encode()


def from_csv_cell(cell: str) -> str:
    """Return the text of a cell that `csv_cell` guarded."""
    return cell[1:] if cell.startswith(_GUARD) and cell.lstrip(_GUARD).startswith(_FORMULA) else cell
