"""Which numbers of the table of costs count: those measured while nothing spoiled the round, and those counted."""

from __future__ import annotations

import pandas as pd

OK = "ok"
_MEASURED = ("wall_ms", "event_ms", "phases_percent", "peak_vram_gb", "peak_reserved_gb", "nvml_gb",
             "peak_rss_gb", "energy_j")  # fmt: skip


def sound(costs: pd.DataFrame) -> pd.DataFrame:
    """Return the same rows; what was measured in one whose status is not "ok" is unknown, NaN.

    FLOPs and bytes are counted, and stay. Every median, fit and table is made of these.
    """
    measured = [column for column in _MEASURED if column in costs]
    ok = costs["status"] == OK
    if ok.all() and costs[measured].dtypes.eq("float64").all():
        return costs  # as most are, in each of the many fits of a report
    # an empty column of a Parquet file may be of objects
    return costs.assign(**costs[measured].astype(float).where(ok))


def left_out(costs: pd.DataFrame) -> str:
    """Return how many rows do not count and why, as "3 of 15 rows tainted (thermal slowdown)"; "" if all do."""
    lost = costs[costs["status"] != OK]
    return "; ".join(
        f"{len(rows)} of {len(costs)} rows {status}{_why(rows)}"
        for status, rows in lost.groupby("status", sort=True)
    )


def _why(rows: pd.DataFrame) -> str:
    notes = list(dict.fromkeys(note for note in rows["note"] if note))
    more = f" and {len(notes) - 1} other notes" if len(notes) > 1 else ""
    return f" ({notes[0]}{more})" if notes else ""
