"""The costs of several runs as one: of one device, and each pipeline's from one run, in as few runs as have them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from vhsbench.harness.cost.sound import sound
from vhsbench.harness.store.keys import PIPELINE, RUN, distinct
from vhsbench.harness.store.tables import Run, StoreError

_Pipeline = tuple[Any, ...]


def combined_costs(runs: Sequence[Run], names: Sequence[str]) -> pd.DataFrame:
    """Select the costs of one device, the first on which every pipeline was measured; times of two never mix.

    Pipelines of one pool come from one run, if one measured all of them: only those were measured side by side. Where
    several runs are needed, the column `run` has their `names`, and each brings its own times of generation. A pipeline
    that was measured on no device keeps the rows that say why. Raises StoreError if there is no such device.
    """
    tried: dict[_Pipeline, int] = {}  # the first run with rows of it
    measured: dict[Any, dict[int, set[_Pipeline]]] = {}  # by device and run
    for i, run in enumerate(runs):
        for pipeline in distinct(run.costs, PIPELINE):
            tried.setdefault(pipeline, i)
        for found in distinct(sound(run.costs).dropna(subset="wall_ms"), [*PIPELINE, "device"]):
            by_run = measured.setdefault(None if pd.isna(found[-1]) else found[-1], {})
            by_run.setdefault(i, set()).add(found[:-1])
    everywhere = {p for by_run in measured.values() for known in by_run.values() for p in known}
    for device, by_run in measured.items() or [(None, {})]:
        if set().union(*by_run.values()) == everywhere:
            chosen = _fewest(by_run) | {p: i for p, i in tried.items() if p not in everywhere}
            return _of(runs, names, chosen, device)
    devices = ", ".join(sorted(map(str, measured)))
    raise StoreError(
        f"the runs cannot be combined: no single device measured the cost of every pipeline (there are {devices})."
    )


def _fewest(by_run: Mapping[int, set[_Pipeline]]) -> dict[_Pipeline, int]:
    """Choose a run for every pipeline: time and again the one that measured most of those left, the first of several."""
    left = set().union(*by_run.values())
    chosen: dict[_Pipeline, int] = {}
    while left:
        best = max(sorted(by_run), key=lambda i: len(by_run[i] & left))
        chosen |= dict.fromkeys(by_run[best] & left, best)
        left -= by_run[best]
    return chosen


def _of(
    runs: Sequence[Run], names: Sequence[str], chosen: Mapping[_Pipeline, int], device: Any
) -> pd.DataFrame:
    """Select the rows of the chosen pipelines that were measured on `device`, or on none."""
    parts = []
    for i, run in enumerate(runs):
        mine = {pipeline for pipeline in chosen if chosen[pipeline] == i}
        mine |= {(*pool, "") for *pool, _ in mine}  # what its verifiers share
        rows = (
            run.costs[pd.MultiIndex.from_frame(run.costs[PIPELINE]).isin(mine)] if mine else run.costs.head(0)
        )
        parts.append(rows[rows["device"].isna() | (rows["device"] == device)].assign(**{RUN: names[i]}))
    whole = pd.concat(parts, ignore_index=True)
    return whole if whole[RUN].nunique() > 1 else whole.drop(columns=RUN)
