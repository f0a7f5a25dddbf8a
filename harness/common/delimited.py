"""Read foreign CSV and TSV files: named columns, each row with its line, and bounds as for other text."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from vhsbench.harness.common.files import ReadError
from vhsbench.harness.common.registry import nearest
from vhsbench.harness.common.text import read_text


def read_rows(file: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Read (line number of its end, row) of a file whose first line names its columns; other columns are kept too.

    A name that ends in .tsv has tabs and no quotes, as spreadsheets export it; others are CSV. Blank lines are
    skipped. Raises ReadError for a missing column and a row of another width, with the line.
    """
    tabs = file.suffix.lower() == ".tsv"
    stream = io.StringIO(read_text(file), newline="")
    reader = (
        csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        if tabs
        else csv.reader(stream, strict=True)
    )
    try:
        names = next(reader, [])
        for column in columns:
            if column not in names:
                raise ReadError(f"{file}, line 1: no column '{column}'; {nearest(column, names)}")
        found = []
        for cells in reader:
            if any(cell.strip() for cell in cells):
                if len(cells) != len(names):
                    raise ReadError(
                        f"{file}, line {reader.line_num}: {len(cells)} cells, but the first line names {len(names)} columns."
                    )
                found.append((reader.line_num, dict(zip(names, cells, strict=True))))
        return found
    except csv.Error as error:
        kind = "TSV" if tabs else "CSV"
        raise ReadError(f"{file}, line {reader.line_num}: not {kind}: {error}.") from None
