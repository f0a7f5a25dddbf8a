"""leaderboard.html and leaderboard.csv: the page opens from disk, runs no script and loads nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from vhsbench.harness.common.atomic import write_output
from vhsbench.harness.common.shown import csv_bytes
from vhsbench.harness.report.leaderboard import Board, Entry, Leaderboard
from vhsbench.harness.report.page_file import render
from vhsbench.harness.report.style import label
from vhsbench.harness.report.tables import records
from vhsbench.harness.stats.curves import OVERALL
from vhsbench.harness.stats.intervals import brackets

_COMMIT, _DAY = 12, 10  # how much of a hash and of a time is enough for readers
_MAY_BE_ONCE = ("Generator", "Prompts", "Device")


def write(found: Leaderboard, folder: Path) -> None:
    """Write both files; everything is escaped."""
    folder.mkdir(parents=True, exist_ok=True)
    write_output(folder / "leaderboard.csv", csv_bytes(found.rows))
    page = render(
        "leaderboard.html.j2", (), {},
        boards=[_board(board) for board in found.boards], refused=found.refused,
        entries=[_entry(entry) for entry in found.entries],
    )  # fmt: skip
    write_output(folder / "leaderboard.html", page)


def summary(found: Leaderboard) -> dict[str, Any]:
    """Return the leaderboard for JSON."""
    return {
        "boards": [
            {
                "protocol": board.protocol.record, "budget": board.budget[0], "unit": board.budget[1],
                "device": board.device or None, "rows": records(board.rows),
            }
            for board in found.boards
        ],
        "refused": [{"run": name, "reason": reason} for name, reason in found.refused],
    }  # fmt: skip


def place(row: pd.Series) -> str:
    """Write a row's place: "2", "2-4" where others cannot be told apart, "" where the budget affords no candidate."""
    if pd.isna(row["rank"]):
        return ""
    return f"{row['rank']}" if row["rank"] == row["rank_last"] else f"{row['rank']}-{row['rank_last']}"


def shown(row: pd.Series) -> dict[str, str]:
    """Lay a row out for readers."""
    n = row["best_of_n"]
    return {
        "Rank": place(row),
        "Verifier": label(row["verifier"]),
        "Overall % [95%]": ""
        if pd.isna(n)
        else f"{row[OVERALL]:.1f}{brackets(row[f'{OVERALL}_low'], row[f'{OVERALL}_high'])}",
        "N": "below one" if pd.isna(n) else f"{n}{'+' * bool(row['pool_limited'])}",
        "Run": row["run"],
        "Generator": row["generator"] + (f", {row['steps']} steps" if row["steps"] > 1 else ""),
        "Prompts": f"{row['prompts']}" + (f" ({row['failed']} failed)" if row["failed"] else ""),
        "TFLOP": _number(row["tflop"]),
        "Time (ms)": _number(row["time_ms"]) + ("?" if row["timing"] == "unreliable" else ""),
        "Device": row["device"],
        "Commit": "; ".join(text[:_COMMIT] for text in row["commit"].split("; ")) or f"version {row['version']}",
        "Command": row["command"] or "not recorded",
    }  # fmt: skip


def _number(value: float | None) -> str:
    return "" if value is None or pd.isna(value) else f"{value:.4g}"


def about(board: Board) -> list[tuple[str, str]]:
    """List what all rows of a board share."""
    amount, unit = board.budget
    protocol = board.protocol
    return [
        ("budget", f"{amount:.4g} {unit}" + (f" on {board.device}" if board.device else "")),
        *((name, protocol.words(name)) for name in ("seeds", "detector", "precision", "versions")),
        ("prompts' digest", protocol.words("prompts")),
    ]


def _board(board: Board) -> dict[str, Any]:
    """Lay a board out: what is the same in all rows is said once, above them."""
    rows = [shown(row) for _, row in board.rows.iterrows()]
    once = [head for head in _MAY_BE_ONCE if len({row[head] for row in rows}) == 1]
    facts = [*about(board), *((head.lower(), rows[0][head]) for head in once)]
    heads = [head for head in rows[0] if head not in once]
    return {"digest": board.protocol.digest, "facts": facts, "heads": heads, "rows": rows}


def _entry(entry: Entry) -> dict[str, Any]:
    run = entry.run
    facts = [
        ("protocol", run.protocol.digest),
        ("submissions", str(len(entry.submissions))),
        ("machines", entry.machines or "unknown"),
        ("finished", str(run.run.info.get("finished", "unknown"))[:_DAY]),
        ("times", entry.about["timing"]),
    ]
    config = yaml.safe_dump(run.run.info["config"], sort_keys=False, allow_unicode=True)
    command = entry.about["command"] or "its command line was not recorded"
    return {"label": entry.label, "facts": facts, "command": command, "config": config}
