"""What accepted baselines and comparisons left behind, by date: accuracy, AUC and time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.files import read_errors_as
from vhsbench.harness.common.text import read_json_lines, read_json_object
from vhsbench.harness.regress.baselines import LOG
from vhsbench.harness.stats.curves import OVERALL

REGRESSION = "regression.json"
COLUMNS = (
    "when", "event", "baseline", "source", "verdict", "commit", "checkpoint", "pool", "at", "accuracy", "auc",
    "device", "ms",
)  # fmt: skip
_LIMIT = 1 << 26  # bytes of a regression.json, whose changed picks may be many


class HistoryError(VhsbenchError):
    """Records that cannot be read; the message is one sentence for a user."""


def history(places: Sequence[Path]) -> pd.DataFrame:
    """Collect every regression.json and log of baselines in these files and folders: a row for each N, oldest first.

    accuracy: overall best-of-N in percent; auc: overall; ms: of scoring a candidate, on `device`. An accepted
    checkpoint's accuracy and AUC are those that a comparison here measured, on the pool that it was accepted with;
    times stay with the comparison that measured them. What is unknown is None. Raises HistoryError.
    """
    found = [_parsed(file) for file in _files(places, REGRESSION)]
    measured: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for regression in found:
        for side in ("baseline", "candidate"):
            key = regression["inputs"][side], regression["inputs"]["pool"]
            measured[key] = [_values(regression, side, row) for row in regression["overall"]]
    rows = [
        _compared(regression) | _values(regression, "candidate", row)
        for regression in found
        for row in regression["overall"]
    ]
    for log in _files(places, LOG):
        for entry in _entries(log):
            accepted = _accepted(entry)
            key = accepted["checkpoint"], accepted["pool"]
            rows += [accepted | values for values in measured.get(key, [{}])]
    table = pd.DataFrame(rows, columns=list(COLUMNS)).drop_duplicates()
    return table.sort_values("when", kind="stable", na_position="first", ignore_index=True)


def _files(places: Sequence[Path], name: str) -> list[Path]:
    for place in places:
        if not place.exists():
            raise HistoryError(f"there is no {place}.")
    found = {
        file.resolve(): file
        for place in places
        for file in (sorted(place.rglob(name)) if place.is_dir() else [place] * (place.name == name))
    }
    return list(found.values())


def _parsed(file: Path) -> dict[str, Any]:
    """Read a regression.json; an older one has no date and no commit."""
    with read_errors_as(HistoryError):
        read = read_json_object(file, _LIMIT)
    try:
        comparison, speed = read["comparison"], read["speed"] or {}
        return {
            "when": _when(read.get("when")),
            "commit": read.get("commit"),
            "verdict": str(read["verdict"]),
            "inputs": {key: str(read["inputs"][key]) for key in ("baseline", "candidate", "pool")},
            "baseline": str(comparison["baseline"]),
            "candidate": str(comparison["candidate"]),
            "overall": [
                {
                    "baseline": float(row["baseline"]),
                    "candidate": float(row["candidate"]),
                    "n": int(row["n"]),
                    "n_candidate": int(row.get("n_candidate") or row["n"]),
                    "budget": f"{row.get('strategy', '')} {row.get('budget', '')}".strip(),
                }
                for row in comparison["differences"]
                if row["tag"] == OVERALL
            ],
            "auc": {
                side: next(_number(row[side]) for row in comparison["separation"] if row["tag"] == OVERALL)
                for side in ("baseline", "candidate")
            },
            "device": speed.get("device"),
            "ms": _number(speed.get("candidate_ms")),
        }
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise HistoryError(f"{file} is no comparison of `vhsbench regress --out`: {error!r}.") from None


def _when(text: str | None) -> str | None:
    return None if not text else datetime.fromisoformat(text).astimezone(UTC).isoformat()


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)


def _values(regression: dict[str, Any], side: str, row: dict[str, Any]) -> dict[str, Any]:
    """Return what a side reached at one N, or at a budget that affords it this N."""
    n = row["n" if side == "baseline" else "n_candidate"]
    at = f"{row['budget']} N={n}".strip()
    return {"at": at, "accuracy": row[side], "auc": regression["auc"][side]}


def _compared(regression: dict[str, Any]) -> dict[str, Any]:
    inputs = regression["inputs"]
    return {
        "event": "compared", "source": regression["candidate"], "checkpoint": inputs["candidate"],
        "pool": inputs["pool"],
    } | {key: regression[key] for key in ("when", "baseline", "verdict", "commit", "device", "ms")}  # fmt: skip


def _entries(log: Path) -> list[dict[str, Any]]:
    with read_errors_as(HistoryError):
        return [entry for _, entry in read_json_lines(log)]


def _accepted(entry: dict[str, Any]) -> dict[str, Any]:
    try:
        return {
            "when": _when(entry["when"]), "event": "accepted", "baseline": str(entry["name"]),
            "source": str(entry["source"]), "commit": entry.get("commit"),
            "checkpoint": entry.get("checkpoint_sha256"), "pool": entry.get("pool_sha256"),
        }  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise HistoryError(f"a line of the log of baselines is damaged: {error!r}.") from None
