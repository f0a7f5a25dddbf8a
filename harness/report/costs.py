"""The table of costs: a summary of the repeats of every stage and run, with memory, energy and status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from vhsbench.harness.cost.budgets import END_TO_END
from vhsbench.harness.cost.percentiles import summary
from vhsbench.harness.cost.roofline import measured_on
from vhsbench.harness.cost.rounds import cell_name
from vhsbench.harness.cost.sound import sound
from vhsbench.harness.store.keys import CELL, COST, session

_ONCE = ["phases_percent", "tflop", "moved_gb", "peak_vram_gb", "peak_reserved_gb", "nvml_gb", "peak_rss_gb",
         "energy_j", "device"]  # fmt: skip
_WORST = ("oom", "timeout", "tainted", "ok")
FIRST_USE = ("load_s", "first_request_s", "compile_s", "compile_batches_s")


def with_first_use(table: pd.DataFrame, cells: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Add what a first request pays, in seconds, to the rows of best-of-1; `cells` are run.json's, by name.

    load_s: models built; first_request_s: the first candidate after that; compile_s: a variant applied, and its
    first candidate; compile_batches_s: its first batch of each size. None of it is in T(N).
    """
    whole = (table["stage"] == END_TO_END) & (table["n"] == 1) & (table["batch"] == 1)
    names = [cell_name(*key) for key in table[CELL].itertuples(index=False, name=None)]
    for column in FIRST_USE:
        found = [cells.get(name, {}).get("first_use", {}).get(column) for name in names]
        table[column] = pd.Series(found, index=table.index, dtype=float).where(whole)
    return table


def cost_table(costs: pd.DataFrame) -> pd.DataFrame:
    """Summarize each stage or run in a row.

    It has the median with its 95% interval, percentiles if there are enough repeats, FLOPs, memory, energy, the
    worst status of the repeats, and how many were tainted and so left out; of several runs as one, the run.
    """
    columns = list(dict.fromkeys([*COST, *session(costs)]))
    rows = [
        dict(zip(columns, key, strict=True)) | _row(repeats)
        for key, repeats in sound(costs).groupby(columns, sort=True)
    ]
    return pd.DataFrame(rows)


def _row(repeats: pd.DataFrame) -> dict[str, Any]:
    statuses = set(repeats["status"])
    first = {name: _known(repeats[name]) for name in _ONCE}
    row = summary(repeats["wall_ms"].tolist()) | {"event_median_ms": repeats["event_ms"].median()} | first
    row |= _bound(row)
    return row | {
        "status": next(s for s in _WORST if s in statuses),
        "tainted": int((repeats["status"] == "tainted").sum()),
        "note": "; ".join(dict.fromkeys(note for note in repeats["note"] if note)),
    }


def _known(values: pd.Series) -> Any:
    """Return the first known value, or None."""
    known = values.dropna()
    return known.iloc[0] if len(known) else None


def _bound(row: dict[str, Any]) -> dict[str, float | None]:
    """Compute the device's roofline and the median relative to it; None for a device without a data sheet."""
    sheet = measured_on(row["device"]) if row["device"] else None
    if sheet is None or row["tflop"] is None or row["moved_gb"] is None:
        return {"bound_ms": None, "measured_to_bound": None}
    bound = sheet.bound_ms(row["tflop"], row["moved_gb"])
    median = row["median_ms"]
    return {"bound_ms": bound, "measured_to_bound": median / bound if median and bound else None}
