"""captions.csv, which `vhsbench captions` writes into a run: an aligned verifier's captions of its winners."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd

from vhsbench.harness.common.atomic import write_output
from vhsbench.harness.common.files import LARGE, read_errors_as
from vhsbench.harness.common.shown import csv_bytes, first_line
from vhsbench.harness.common.text import read_text
from vhsbench.harness.store.keys import CANDIDATE
from vhsbench.harness.store.tables import StoreError

FILE = "captions.csv"  # in a run's folder
COLUMNS = [*CANDIDATE, "tag", "prompt", "verifier", "score", "correct", "caption", "checkpoint"]


def write_captions(run: Path, rows: pd.DataFrame) -> None:
    """Write rows of COLUMNS into a run."""
    write_output(run / FILE, csv_bytes(rows))


def read_captions(run: Path) -> pd.DataFrame | None:
    """Read the rows from a run; None if it has none. Raises StoreError if the file is damaged."""
    file = run / FILE
    if not file.exists():
        return None
    with read_errors_as(StoreError):
        text = read_text(file, LARGE)
    try:
        return pd.read_csv(io.StringIO(text), keep_default_na=False)
    except ValueError as error:  # of which pandas' parser errors are
        raise StoreError(f"{file} is not a table of captions: {first_line(error)}.") from error
