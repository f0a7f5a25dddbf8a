"""Whose times a report's budgets go by: the run's own, another run's, or the published ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

import pandas as pd

from vhsbench.harness.config.run import RunConfig, counterpart, recorded_config
from vhsbench.harness.cost import budgets as budgeting
from vhsbench.harness.cost.cost_model import CostError, CostModel
from vhsbench.harness.cost.plan import PAPER, WHAT, Priced, from_device
from vhsbench.harness.cost.rounds import cell_name
from vhsbench.harness.cost.sound import sound
from vhsbench.harness.report.comparisons import CLIP, Pipeline
from vhsbench.harness.store.keys import CELL, PIPELINE, POOL, RUN, distinct, measured_with, of_pool
from vhsbench.harness.store.tables import Run, StoreError, load_costs

Models = dict[Pipeline, CostModel]
COLUMNS = budgeting.COLUMN | {"GB": "memory_gb"}
_ALWAYS = ("ms", "TFLOP")
_MOST_NAMED = 3  # runs


@dataclass(frozen=True)
class Clock:
    """Cost models of a run's pipelines, and the rows that they were fitted to.

    models: by column ("wall_ms", "tflop", "energy_j", "memory_gb") and pipeline. unmeasured: why a pipeline has none in
    a unit that was asked for; lacking: in any unit, by unit. costs: sound rows, of named speed-ups too; empty where only
    models were published. cells: run.json's about them, by name. label: whose times these are, "" for the
    run's own, all measured side by side.
    """

    models: dict[str, Models]
    unmeasured: list[str]
    costs: pd.DataFrame
    cells: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    label: str = ""
    lacking: Mapping[str, list[str]] = field(default_factory=dict)


def read_clock(run: Run, config: RunConfig, needs: Mapping[str, str | None], source: str = "") -> Clock:
    """Read the cost models of a run's pipelines from `source`: "" for its own costs, "a100-paper", or another run.

    needs: what each verifier reads. In another source, a pipeline is found by its generator's registered name, its
    steps and its verifier's `counterpart`. Raises StoreError for a source that has no time of any pipeline, or is no finished run.
    """
    wanted = _pipelines(run)
    units = list(dict.fromkeys((*_ALWAYS, *config.budgets_by_unit)))
    if not source:
        clock = _fitted(wanted, sound(run.costs), needs, units)
        if not clock.models["wall_ms"]:
            raise StoreError(
                f"the run in {run.path} has no pipeline with a measured time: {clock.unmeasured[0]}"
            )
        parts = run.info.get("combined") or [run.info]
        cells = {k: cell for part in parts for k, cell in part.get("cells", {}).items()}
        return replace(clock, cells=cells, label=_of_several(run.costs))
    if source == PAPER:
        return _published(wanted, config, run.costs, units)
    return _of_run(source, wanted, config, needs, units)


def _of_several(costs: pd.DataFrame) -> str:
    """Say that times are of several runs; "" where one run measured all pipelines."""
    if RUN not in costs:
        return ""
    names = list(dict.fromkeys(costs[RUN]))
    listed = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) <= _MOST_NAMED else f"{len(names)} runs"
    return f"of {listed}, not measured side by side"


def _pipelines(run: Run) -> list[Pipeline]:
    """List each pool's pipelines, plain generation first."""
    return [
        (generator, steps, verifier)
        for generator, steps in distinct(run.candidates, POOL)
        for verifier in ("none", *sorted(of_pool(run.scores, generator, steps)["verifier"].unique()))
    ]


def _fitted(
    wanted: list[Pipeline], costs: pd.DataFrame, needs: Mapping[str, str | None], units: Sequence[str]
) -> Clock:
    """Fit cost models to the rows of plain pipelines, and say why some have none."""
    models: dict[str, Models] = {column: {} for column in COLUMNS.values()}
    unmeasured, lacking = [], {unit: list[str]() for unit in COLUMNS}
    plain = costs[costs["variant"] == ""]
    for generator, steps, verifier in wanted:
        name, reads = ("", None) if verifier == "none" else (verifier, needs[verifier])
        here = measured_with(plain, generator, steps, name)
        for unit, column in COLUMNS.items():
            try:
                models[column][generator, steps, verifier] = budgeting.fit_unit(here, name, reads, unit)
            except CostError as error:
                lacking[unit].append(f"{generator} ({steps} steps): {error}")
                unmeasured += lacking[unit][-1:] if unit in units else []
    return Clock(models, unmeasured, costs, lacking=lacking)


def _of_run(
    source: str,
    wanted: list[Pipeline],
    config: RunConfig,
    needs: Mapping[str, str | None],
    units: Sequence[str],
) -> Clock:
    """Fit the cost models to the costs of another run, whose pipelines take the names that this run shows."""
    costs, info = load_costs(source)
    # a benchmark of costs names generators and verifiers as registered
    there = recorded_config(info, source) if "generators" in (info["config"] or ()) else None
    entries = there.generators if there else []
    theirs = {e.shown: e.name for e in sorted(entries, key=lambda entry: bool(entry.moved))}
    theirs |= {g: g for g in costs["generator"].unique() if g not in theirs}
    plain = costs[(costs["variant"] == "") & (costs["batch"] == 1)]
    has = {(theirs[g], s, v or "none") for g, s, v in distinct(plain, PIPELINE)}
    known, lacking = _sorted_out(wanted, config, has, there.kinds if there else {}, source)
    parts, cells = [costs.head(0)], {}
    for generator, steps in dict.fromkeys((g, s) for g, s, _ in known):
        registered = _names(config)[generator]
        same = [g for g in theirs if theirs[g] == registered and len(of_pool(costs, g, steps))]
        other = generator if generator in same else same[0]
        here = {v: its for (g, s, v), (*_, its) in known.items() if (g, s) == (generator, steps)}
        rows, was = _renamed(of_pool(costs, other, steps), here)
        parts.append(rows.assign(generator=generator))
        for _, _, verifier, variant in distinct(rows, CELL):
            name = cell_name(other, steps, was.get(verifier, verifier), variant)
            cells[cell_name(generator, steps, verifier, variant)] = info.get("cells", {}).get(name, {})
    clock = _fitted(list(known), sound(pd.concat(parts, ignore_index=True)), needs, units)
    if not clock.models["wall_ms"]:
        raise StoreError(f"{source} has no time of a pipeline of this run: {clock.unmeasured[0]}")
    devices = " and ".join(sorted({str(d) for d in clock.costs["device"].dropna()})) or "an unknown device"
    label = f"of {PurePosixPath(source.rstrip('/')).name}, measured on {devices}"
    return replace(clock, unmeasured=lacking + clock.unmeasured, cells=cells, label=label)


def _renamed(rows: pd.DataFrame, counterparts: Mapping[str, str]) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return a pool's rows with each verifier of `counterparts`' values under its key, and those that changed names."""
    was = {label: its for label, its in counterparts.items() if label != its}
    taken = {*was, *was.values()} - {label for label in counterparts if label not in was}
    parts = [rows[~rows["verifier"].isin(taken)]]
    parts += [rows[rows["verifier"] == its].assign(verifier=label) for label, its in was.items()]
    return pd.concat(parts).sort_index(kind="stable"), was


def _published(wanted: list[Pipeline], config: RunConfig, costs: pd.DataFrame, units: Sequence[str]) -> Clock:
    """Take the published times; FLOPs are counted from the architecture."""
    times = {_key(p): p for p in from_device(PAPER, ["ms"])}
    known, lacking = _sorted_out(wanted, config, set(times), {}, PAPER)
    generators = sorted({generator for generator, *_ in known.values()})
    priced = {_key(p): p for p in from_device(PAPER, _ALWAYS, generators)}
    models = {
        COLUMNS[unit]: {pipeline: priced[its].models[unit] for pipeline, its in known.items()}
        for unit in _ALWAYS
    }
    never = {u: [f"{PAPER} has no {WHAT[u]} of any pipeline."] for u in COLUMNS if u not in _ALWAYS}
    lacking += [reason for unit in units for reason in never.get(unit, [])]
    label = next(iter(times.values())).basis["ms"]
    return Clock(models, lacking, costs.head(0), label=label, lacking=never)


def _key(priced: Priced) -> Pipeline:
    return priced.generator, priced.steps, priced.verifier


def _names(config: RunConfig) -> dict[str, str]:
    return {entry.shown: entry.name for entry in config.generators}


def _sorted_out(
    wanted: list[Pipeline],
    config: RunConfig,
    has: set[Pipeline],
    their_kinds: Mapping[str, str],
    source: str,
) -> tuple[dict[Pipeline, Pipeline], list[str]]:
    """Map a run's pipelines to those that a source has, with generators as registered; and say which it lacks.

    their_kinds: of the source's verifiers by label; others are named by their kind. Raises StoreError, naming what
    there is, if it has none.
    """
    names, known = _names(config), dict[Pipeline, Pipeline]()
    for generator, steps, verifier in wanted:
        pool = (names[generator], steps)
        there = {v: their_kinds.get(v, v) for g, s, v in sorted(has) if (g, s) == pool}
        found = counterpart(verifier, config.kinds.get(verifier, verifier), there)
        if found is not None:
            known[generator, steps, verifier] = (*pool, found)
    if not known:
        asked = _listed({(names[g], s, v) for g, s, v in wanted})
        raise StoreError(f"{source} has no time of {asked}; it has {_listed(has) or 'none'}.")
    lacking = [
        f"{g} ({s} steps) with {'no verifier' if v == 'none' else v}: {source} has no time of it."
        for g, s, v in wanted
        if (g, s, v) not in known
    ]
    return known, lacking


def _listed(pipelines: set[Pipeline]) -> str:
    """Name pipelines as "sana-sprint (1 step: none, vhs)"."""
    pools: dict[tuple[str, int], list[str]] = {}
    for generator, steps, verifier in sorted(pipelines):
        pools.setdefault((generator, steps), []).append(verifier)
    return ", ".join(f"{g} ({s} step{'s' if s > 1 else ''}: {', '.join(v)})" for (g, s), v in pools.items())


def as_unmoved(models: Models, config: RunConfig) -> Models:
    """Price a generator that a LoRA moved like the same one unmoved.

    A measured difference is noise, and would give a verifier another N, which is not drift.
    """
    of = {entry.shown: entry for entry in config.generators}
    unmoved = {entry.name: entry.shown for entry in config.generators if not entry.moved}
    pairs = {key: (unmoved.get(of[key[0]].name, ""), *key[1:]) for key in models if of[key[0]].moved}
    return {key: models[plain] for key, plain in pairs.items() if plain in models}


def default_budgets(models: Models, config: RunConfig) -> list[float]:
    """Take CLIP's T(2), T(4), T(6), as in the paper; without CLIP, the slowest pipeline's."""
    pool = {k: m for k, m in models.items() if config.kinds.get(k[2]) == CLIP} or models
    return budgeting.default_budgets(max(pool.values(), key=lambda m: m.predict(4)), config.tolerance)
