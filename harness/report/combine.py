"""Several runs as one, of more seeds, generators or machines, where they are comparable."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from vhsbench.harness.config.run import GeneratorConfig, kept_config
from vhsbench.harness.cost.sound import sound
from vhsbench.harness.store.keys import PIPELINE, POOL, distinct, of_pipeline, of_pool
from vhsbench.harness.store.tables import Run, StoreError, environments, load_run
from vhsbench.harness.sweep.identity import differences

# settings that change what a number means, and so must be equal in all runs
_SAME = {"pool": "pool", "prompts": "prompts", "tolerance": "tolerance", "budgets": "budgets_by_unit"}
# parts of an identity that must be equal: of candidates of one generator, and of different ones
_MADE_OF, _JUDGED_BY = ("results", "generator", "verifiers", "detector"), ("results", "detector")
_Pipeline = tuple[Any, ...]


def load_runs(paths: Sequence[Path]) -> Run:
    """Load the runs in `paths` as one, at the first path. Raises StoreError if they cannot be combined."""
    if not paths:
        raise StoreError("there is no run to report on; name at least one run directory.")
    if twice := [p for i, p in enumerate(paths) if p.resolve() in [q.resolve() for q in paths[:i]]]:
        raise StoreError(f"{twice[0]} is named twice.")
    runs = [load_run(path) for path in paths]
    first = runs[0]
    if len(runs) == 1:
        return first
    for other in runs[1:]:
        _check(first, other)
    _refuse_overlap(runs)
    candidates = pd.concat([r.candidates for r in runs], ignore_index=True)
    scores = pd.concat([r.scores for r in runs], ignore_index=True)
    _refuse_uneven(candidates, scores)
    notes = tuple(note for r in runs for note in r.notes)
    return Run(first.path, _info(runs), first.prompts, candidates, scores, _costs(runs), notes)


def _check(first: Run, other: Run) -> None:
    refuse = f"{other.path} cannot be combined with {first.path}:"
    if first.prompts != other.prompts:
        raise StoreError(f"{refuse} their prompts differ.")
    mine, its = map(kept_config, (first, other))
    for key, attribute in _SAME.items():
        a, b = getattr(mine, attribute), getattr(its, attribute)
        if a != b:
            raise StoreError(f"{refuse} '{key}' is {_said(a)} in one and {_said(b)} in the other.")
    entries = {e.key: e for e in mine.generators}
    for entry in its.generators:
        if entry.key in entries and entry != entries[entry.key]:
            raise StoreError(f"{refuse} the generator '{entry.key}' has other settings.")
    settings = {v.name: v for v in mine.verifiers}
    for verifier in its.verifiers:
        if verifier.name in settings and verifier.options != settings[verifier.name].options:
            raise StoreError(f"{refuse} the verifier '{verifier.name}' has other settings.")
    if differing := _other_models(first.info, other.info):
        raise StoreError(f"{refuse} {differing}.")


def _other_models(mine: dict[str, Any], its: dict[str, Any]) -> str:
    """Describe the first model that two runs loaded under one name but that differs; "" if none does."""
    for kind, said in (
        ("checkpoints", "the verifier '{}' is another checkpoint"),
        ("generators", "the generator '{}' is of another revision"),
    ):
        known = mine.get(kind, {})
        for name, one in its.get(kind, {}).items():
            if known.get(name, one) != one:
                return said.format(name) + f" ({known[name]} in one and {one} in the other)"
    one, other = (info.get("detector") or {} for info in (mine, its))
    if one and other and one != other:
        key = next(k for k in sorted({*one, *other}) if one.get(k) != other.get(k))
        values = f"{one.get(key, 'unknown')} in one and {other.get(key, 'unknown')} in the other"
        return f"they were judged by different detectors ('{key}' is {values})"
    return _made_otherwise(mine.get("identity", {}), its.get("identity", {}))


def _made_otherwise(mine: dict[str, Any], its: dict[str, Any]) -> str:
    """Describe how the recorded identities of two runs differ; "" if they agree or one has none."""
    for key, inputs in its.get("generators", {}).items():
        for name, known in mine.get("generators", {}).items():
            parts = _MADE_OF if name == key else _JUDGED_BY
            one, other = ({part: made.get(part) for part in parts} for made in (known, inputs))
            if found := differences(one, other):
                return f"they were made of other models: {', '.join(found[:3])}"
    return ""


def _said(value: Any) -> str:
    return str(value.model_dump() if hasattr(value, "model_dump") else value)


def _refuse_overlap(runs: Sequence[Run]) -> None:
    """Refuse runs that hold the same candidates, which would count twice."""
    seen: dict[tuple[Any, ...], Path] = {}
    for run in runs:
        for generator, steps, seed in distinct(run.candidates, [*POOL, "seed"]):
            if (generator, steps, seed) in seen:
                raise StoreError(
                    f"{run.path} cannot be combined with {seen[generator, steps, seed]}: both hold the "
                    f"candidates of '{generator}' ({steps} steps) of seed {seed}."
                )
            seen[generator, steps, seed] = run.path


def _refuse_uneven(candidates: pd.DataFrame, scores: pd.DataFrame) -> None:
    """Refuse a verifier that scored only some of a generator's candidates: it cannot be compared on all."""
    for generator, steps, verifier in distinct(scores, PIPELINE):
        scored = len(of_pipeline(scores, generator, steps, verifier))
        if scored != (judged := len(of_pool(candidates, generator, steps))):
            raise StoreError(
                f"the runs cannot be combined: '{verifier}' scored {scored} of the "
                f"{judged} candidates of '{generator}' ({steps} steps)."
            )


def _costs(runs: Sequence[Run]) -> pd.DataFrame:
    """Select the costs of one device, the first on which every pipeline was measured; times of two never mix.

    A pipeline that was measured on no device keeps the rows that say why.
    """
    tried: dict[_Pipeline, int] = {}  # the first run with rows of it
    measured: dict[Any, dict[_Pipeline, int]] = {}  # by device, the first run that measured it there
    for i, run in enumerate(runs):
        for pipeline in distinct(run.costs, PIPELINE):
            tried.setdefault(pipeline, i)
        for found in distinct(sound(run.costs).dropna(subset="wall_ms"), [*PIPELINE, "device"]):
            known = measured.setdefault(None if pd.isna(found[-1]) else found[-1], {})
            known.setdefault(found[:-1], i)
    everywhere = {pipeline for known in measured.values() for pipeline in known}
    for device, known in measured.items() or [(None, {})]:
        if known.keys() == everywhere:
            chosen = {p: i for p, i in tried.items() if p not in everywhere} | known
            parts = [
                _costs_of(r.costs, {p for p in chosen if chosen[p] == i}, device) for i, r in enumerate(runs)
            ]
            return pd.concat(parts, ignore_index=True)
    devices = ", ".join(sorted(map(str, measured)))
    raise StoreError(
        f"the runs cannot be combined: no single device measured the cost of every pipeline (there are {devices})."
    )


def _costs_of(costs: pd.DataFrame, pipelines: set[_Pipeline], device: Any) -> pd.DataFrame:
    """Select the rows of some pipelines that were measured on `device`, or on none."""
    mine = pd.MultiIndex.from_frame(costs[PIPELINE]).isin(pipelines)
    return costs[mine & (costs["device"].isna() | (costs["device"] == device))]


def _info(runs: Sequence[Run]) -> dict[str, Any]:
    """Merge the records: the first run's, with the generators, verifiers and seeds of all."""
    config = dict(runs[0].info["config"])
    for key, name in (("generators", _key), ("verifiers", lambda v: v["name"])):
        config[key] = list({name(e): e for r in reversed(runs) for e in r.info["config"][key]}.values())
    config["seeds"] = sorted({s for r in runs for s in r.info["config"]["seeds"]})
    merged = {
        k: {name: v for r in reversed(runs) for name, v in r.info.get(k, {}).items()}
        for k in ("checkpoints", "needs", "blocks")
    }
    sources = [
        {
            "path": str(r.path),
            "seeds": r.info["config"]["seeds"],
            "environments": environments(r.info),
            "digests": r.info.get("digests"),
        }
        for r in runs
    ]
    failed = [row for r in runs for row in r.info.get("failed_prompts", [])]
    return runs[0].info | merged | {"config": config, "combined": sources, "failed_prompts": failed}


def _key(entry: dict[str, Any]) -> str:
    return GeneratorConfig.model_validate(entry).key
