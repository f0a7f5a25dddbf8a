"""A leaderboard of finished runs: one row a submission, ranked by accuracy at one budget among those of one protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.shown import printable
from vhsbench.harness.cost.cost_model import TOLERANCE
from vhsbench.harness.cost.plan import WHAT
from vhsbench.harness.report.derived import Derived, derive
from vhsbench.harness.report.page_candidates import Prompts
from vhsbench.harness.report.recorded import machine, recorded
from vhsbench.harness.report.side_by_side import (
    Budget,
    Pipeline,
    Side,
    afforded,
    compare_sides,
    devices_of,
    labels,
    models_in,
)
from vhsbench.harness.report.verdict import ALPHA, ONE_IMAGE
from vhsbench.harness.stats.curves import OVERALL
from vhsbench.harness.stats.paired import family
from vhsbench.harness.store.keys import PIPELINE, of_pipeline
from vhsbench.harness.store.tables import environments, load_run
from vhsbench.harness.sweep.protocol import Protocol

COUNTED = "TFLOP"  # the unit in which a budget affords the same on every device
DEFAULT_N = 4  # of the costliest submission, whose TFLOP are the budget where none is given
COLUMNS = [
    "protocol", "rank", "rank_last", "run", *PIPELINE, "best_of_n", "pool_limited", "budget", "unit", OVERALL,
    f"{OVERALL}_low", f"{OVERALL}_high", "prompts", "failed", "seeds", "pool", "tflop", "time_ms", "device", "timing", "version",
    "commit", "command",
]  # fmt: skip


class LeaderboardError(VhsbenchError):
    """No run that a leaderboard can be made of; the message is one sentence for a user."""


@dataclass(frozen=True)
class Entry:
    """A finished run, verified, under a label that no other has."""

    label: str
    run: Derived

    @property
    def submissions(self) -> list[Pipeline]:
        """Its pipelines with a verifier."""
        keys = dict.fromkeys(key for models in self.run.models.values() for key in models)
        return [key for key in keys if key[2] != ONE_IMAGE]

    @property
    def device(self) -> str:
        """Whose times its costs are."""
        return devices_of(self.run)

    def recorded(self, *keys: str) -> str:
        """Return what the run's environments say under nested keys, each value once; "" if nothing."""
        return "; ".join(recorded(self.run.run.info, *keys))

    @property
    def machines(self) -> str:
        return "; ".join(dict.fromkeys(map(machine, environments(self.run.run.info))))

    @property
    def about(self) -> dict[str, Any]:
        """Columns that all its rows share."""
        run = self.run
        return {
            "protocol": run.protocol.digest, "run": self.label, "prompts": len(run.run.prompts), "failed": len(run.failed),
            "seeds": " ".join(map(str, run.protocol.seeds)), "device": self.device,
            "timing": "unreliable" if run.unreliable else "reliable", "version": self.recorded("packages", "vhsbench"),
            "commit": self.recorded("git_commit"), "command": self.recorded("command"),
        }  # fmt: skip


@dataclass(frozen=True)
class Board:
    """Submissions that are ranked together: of one protocol at one budget and, unless that counts FLOPs, of one device.

    rows: COLUMNS, the most accurate first. rank is 1 + how many beat a row, and rank_last leaves room below for those that it
    beats: as many others as lie between the two cannot be told apart from it.
    """

    protocol: Protocol
    budget: Budget
    device: str
    rows: pd.DataFrame


@dataclass(frozen=True)
class Leaderboard:
    """Boards; `refused` are runs and submissions that are on none, with the reason of each."""

    entries: list[Entry]
    boards: list[Board]
    refused: list[tuple[str, str]]

    @cached_property
    def rows(self) -> pd.DataFrame:
        """All rows, board after board."""
        parts = [board.rows for board in self.boards]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)


def runs_in(place: Path) -> list[Path]:
    """List the runs in a folder: itself, or all below it. Raises LeaderboardError if there is none."""
    if (place / "run.json").is_file():
        return [place]
    found = sorted(file.parent for file in place.rglob("run.json"))
    if not found:
        raise LeaderboardError(f"{place} is no run and has none below it: there is no run.json.")
    return found


def leaderboard(runs: Mapping[str, Path], budget: Budget | None = None) -> Leaderboard:
    """Verify runs, given by name, and rank their submissions at a budget.

    By default it is, for each protocol, the TFLOP of the best of 4 of its costliest submission. A run that is damaged,
    unfinished or does not say its protocol is refused. Raises LeaderboardError if none is left, or one is named twice.
    """
    found: list[tuple[str, Derived]] = []
    refused: list[tuple[str, str]] = []
    for name, path in runs.items():
        try:
            found.append((name, _verified(path)))
        except VhsbenchError as error:
            refused.append((printable(name), printable(str(error))))
    if not found:
        reasons = "; ".join(f"{name}: {reason.rstrip('.')}" for name, reason in refused)
        raise LeaderboardError(f"there is no finished run to rank: {reasons or 'none was named'}.")
    shown = labels([name for name, _ in found])
    entries = [Entry(label, run) for label, (_, run) in zip(shown, found, strict=True)]
    boards, unpriced = rank(entries, budget)
    return Leaderboard(entries, boards, [*refused, *unpriced])


def rank(entries: Sequence[Entry], budget: Budget | None = None) -> tuple[list[Board], list[tuple[str, str]]]:
    """Rank entries as `leaderboard`; returns the boards, and the submissions without a cost in the budget's unit."""
    boards: list[Board] = []
    unpriced: list[tuple[str, str]] = []
    by_protocol: dict[str, list[Entry]] = {}
    for entry in entries:
        by_protocol.setdefault(entry.run.protocol.digest, []).append(entry)
    for alike in by_protocol.values():
        at = budget or _default_budget(alike)
        unpriced += [
            (f"{entry.label}: {key[2]}", f"the {WHAT[at[1]]} ({at[1]}) of this pipeline is unknown.")
            for entry in alike
            for key in entry.submissions
            if key not in models_in(entry.run, at[1])
        ]
        for device in dict.fromkeys("" if at[1] == COUNTED else entry.device for entry in alike):
            rows = _ranked([entry for entry in alike if device in ("", entry.device)], at)
            if len(rows):
                boards.append(Board(alike[0].run.protocol, at, device, rows))
    return boards, unpriced


def _verified(path: Path) -> Derived:
    """Load a run whose files are those of its run.json; raises VhsbenchError for any other."""
    run = load_run(path)
    if run.notes:
        raise LeaderboardError(run.notes[0])
    derived = derive(run)
    if unknown := derived.protocol.unknown:
        raise LeaderboardError(
            f"it is by an earlier version, which did not record what its protocol needs: {', '.join(unknown)}."
        )
    config = derived.config.model_copy(update={"tolerance": TOLERANCE})  # the same for all
    return replace(derived, config=config)


def _default_budget(entries: Sequence[Entry]) -> Budget:
    counted = [
        model.predict(DEFAULT_N)
        for entry in entries
        for key, model in models_in(entry.run, COUNTED).items()
        if key[2] != ONE_IMAGE
    ]
    return (float(f"{max(counted):.3g}") if counted else 1.0, COUNTED)


def _ranked(entries: Sequence[Entry], budget: Budget) -> pd.DataFrame:
    places = Prompts()
    found: list[tuple[dict[str, Any], Side]] = []
    for entry in entries:
        run, of_prompts = entry.run, places.places(entry.run.run.prompts)
        table = afforded(run, [budget])
        for key in entry.submissions:
            rows = of_pipeline(table, *key)
            if len(rows):
                row = _row(entry, key, budget, rows.iloc[0])
                n = row["best_of_n"]
                found.append((row, Side(run, of_prompts, key, 0 if pd.isna(n) else int(n), budget)))
    # what affords no candidate has no accuracy, and comes last
    found.sort(key=lambda pair: -pair[0][OVERALL] if pair[1].n else 1.0)
    sides = [side for _, side in found if side.n]
    ranks: list[tuple[int | None, int | None]] = [*_ranks(sides)]
    ranks += [(None, None)] * (len(found) - len(sides))
    ends = zip(found, ranks, strict=True)
    whole = [row | {"rank": first, "rank_last": last} for (row, _), (first, last) in ends]
    return pd.DataFrame(whole, columns=COLUMNS).astype(
        dict.fromkeys(("rank", "rank_last", "best_of_n"), "Int64")
    )


def _row(entry: Entry, key: Pipeline, budget: Budget, row: pd.Series) -> dict[str, Any]:
    n = row["best_of_n"]
    costs = {"tflop": models_in(entry.run, COUNTED).get(key), "time_ms": models_in(entry.run, "ms").get(key)}
    counted = entry.run.contests[key[:2]]
    return (
        entry.about
        | dict(zip(PIPELINE, key, strict=True))
        | {c: row[c] for c in ("best_of_n", "pool_limited", OVERALL, f"{OVERALL}_low", f"{OVERALL}_high")}
        | {"budget": budget[0], "unit": budget[1], "prompts": len(counted.prompts), "pool": counted.grid.correct.shape[1]}
        | {c: None if model is None or pd.isna(n) else model.predict(int(n)) for c, model in costs.items()}
    )  # fmt: skip


def _ranks(sides: Sequence[Side]) -> list[tuple[int, int]]:
    """Return the first and last place that each may have, given the most accurate first.

    All pairs are compared, paired by prompt and corrected by Holm's method: one beats another as in a verdict.
    """
    pairs = list(combinations(range(len(sides)), 2))
    gaps = [compare_sides(sides[a], sides[b]) for a, b in pairs]
    tested = iter(family([points for _, points in gaps if points is not None])[1])
    beaten, beats = [0] * len(sides), [0] * len(sides)
    for (a, b), (gap, points) in zip(pairs, gaps, strict=True):
        # where no prompt is shared, nothing is known
        if points is not None and next(tested) < ALPHA and gap["difference_low"] > 0:
            beats[a] += 1
            beaten[b] += 1
    return [(1 + lost, len(sides) - won) for lost, won in zip(beaten, beats, strict=True)]
